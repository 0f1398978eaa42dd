//! What becomes of Actions.

use super::*;

#[test]
fn an_action_is_applied_and_told_of() {
    let mut rig = Rig::new();
    rig.tick_wanting(6);
    assert_eq!(rig.has(), Allocation::new(6, 500, 256));
    rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
    let last = rig.last();
    assert_eq!((last.before, last.allowed), (Some(Allocation::new(4, 500, 256)), Some(Allocation::new(6, 500, 256))));
    assert_eq!((last.tick, last.attempts, last.provenance.configuration.as_str(), last.actuator.as_str()), (Tick(1), 1, "m", "a"));
}

#[test]
fn the_guard_changes_what_goes_too_far() {
    let mut rig = Rig::new();
    rig.tick_wanting(50);
    assert_eq!(rig.has().replicas.0, 8);
    rig.expect(Effect::Changed, DecisionSource::Agent, &[GuardRule::Bounds, GuardRule::StepLimit]);
}

#[test]
fn what_is_in_force_needs_no_attempt() {
    let mut rig = Rig::new();
    rig.tick_wanting(4);
    rig.expect(Effect::Unchanged, DecisionSource::Agent, &[]);
    assert!(rig.orders.is_empty());
}

#[test]
fn an_action_counts_once() {
    let mut rig = Rig::new();
    let state_id = rig.state();
    rig.action("agent", state_id, 5);
    rig.action("agent", state_id, 6);
    rig.expect(Effect::Refused, DecisionSource::Agent, &[GuardRule::WrongTick]);
    assert_eq!(rig.has().replicas.0, 5);
}

#[test]
fn an_action_may_be_one_state_late_but_not_two() {
    let mut rig = Rig::new();
    let (first, second) = (rig.state(), rig.state());
    rig.state();
    rig.action("agent", first, 5);
    rig.expect(Effect::Refused, DecisionSource::Agent, &[GuardRule::WrongTick]);
    rig.action("agent", second, 5);
    rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
}

#[test]
fn an_answer_to_an_older_state_than_was_answered_is_refused() {
    let mut rig = Rig::new();
    let (first, second) = (rig.state(), rig.state());
    rig.action("agent", second, 5);
    rig.action("agent", first, 6);
    rig.expect(Effect::Refused, DecisionSource::Agent, &[GuardRule::WrongTick]);
}

#[test]
fn a_void_action_is_refused() {
    let mut rig = Rig::new();
    let state_id = rig.state();
    let action = rig.make_action("agent", state_id, 6);
    rig.now = action.expires_at_ms;
    rig.core.action(action, None, rig.now);
    rig.settle();
    rig.expect(Effect::Refused, DecisionSource::Agent, &[GuardRule::Expired]);
}

#[test]
fn an_action_that_overtakes_its_state_waits_for_it() {
    let mut rig = Rig::new();
    let state_id = rig.state();
    let next = StateId { tick: state_id.tick.next(), ..state_id };
    rig.action("agent", next, 6);
    assert!(rig.outcomes.is_empty());
    rig.state();
    rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
}

#[test]
fn an_action_whose_state_never_comes_is_refused() {
    let mut rig = Rig::new();
    let state_id = rig.state();
    rig.action("agent", StateId { tick: state_id.tick.next(), ..state_id }, 6);
    rig.pass(Duration::from_secs(2));
    rig.expect(Effect::Refused, DecisionSource::Agent, &[GuardRule::WrongTick]);
    rig.action("agent", StateId { tick: Tick(state_id.tick.0 + 9), ..state_id }, 6);
    rig.expect(Effect::Refused, DecisionSource::Agent, &[GuardRule::WrongTick]);
    rig.action("agent", StateId { epoch: Epoch(0), ..state_id }, 6);
    rig.expect(Effect::Refused, DecisionSource::Agent, &[GuardRule::WrongTick]);
}

#[test]
fn an_action_for_a_function_without_policy_is_refused() {
    let mut rig = Rig::new();
    let mut action = rig.make_action("agent", StateId { epoch: Epoch(1), tick: Tick(1) }, 6);
    action.function = name("unknown");
    rig.core.action(action, None, rig.now);
    rig.settle();
    rig.expect(Effect::Refused, DecisionSource::Shadow, &[]);
    assert!(rig.last().reason.contains("no ScalingPolicy"));
}

#[test]
fn a_shadow_is_judged_and_recorded() {
    let mut rig = Rig::new();
    let state_id = rig.state();
    rig.action("other", state_id, 50);
    rig.expect(Effect::Recorded, DecisionSource::Shadow, &[GuardRule::Bounds, GuardRule::StepLimit, GuardRule::NotNamed]);
    assert_eq!(rig.last().allowed, Some(Allocation::new(8, 500, 256)));
    assert_eq!(rig.has().replicas.0, 4);
    rig.action("agent", state_id, 5);
    rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
}

#[test]
fn swapping_the_named_agent_takes_effect_at_once() {
    let mut rig = Rig::new();
    rig.tick_wanting(5);
    rig.policy.agent = name("other");
    rig.apply_policy();
    let state_id = rig.state();
    rig.action("agent", state_id, 9);
    rig.expect(Effect::Recorded, DecisionSource::Shadow, &[GuardRule::NotNamed]);
    rig.action("other", state_id, 6);
    rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
}

#[test]
fn recommend_records_what_would_be_applied() {
    let mut rig = Rig::new();
    rig.policy.mode = Mode::Recommend;
    rig.apply_policy();
    rig.tick_wanting(6);
    rig.expect(Effect::Recorded, DecisionSource::Agent, &[GuardRule::Mode]);
    assert_eq!((rig.last().allowed, rig.has().replicas.0), (Some(Allocation::new(6, 500, 256)), 4));
}

#[test]
fn a_follower_writes_nothing_and_says_nothing_but_stays_warm() {
    let mut rig = Rig::following();
    rig.tick_wanting(6);
    assert!(rig.orders.is_empty() && rig.outcomes.is_empty());
    let state_id = rig.state();
    rig.core.lead(Lead::Leading(2), rig.now);
    rig.settle();
    rig.action("agent", state_id, 6);
    rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
    assert_eq!(rig.orders[0].lease, 2);
}

#[test]
fn a_platform_that_is_away_is_tried_again_and_told_of_once() {
    let mut rig = Rig::new();
    rig.platform.reachable = false;
    rig.tick_wanting(6);
    rig.expect(Effect::Failed, DecisionSource::Agent, &[]);
    rig.pass(Duration::from_secs(3));
    assert!((2..10).contains(&rig.orders.len()), "{} attempts within three seconds", rig.orders.len());
    assert_eq!(rig.outcomes.len(), 1);
    rig.platform.reachable = true;
    rig.pass(Duration::from_secs(4));
    rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
    assert_eq!(rig.last().attempts as usize, rig.orders.len());
    assert_eq!(rig.has().replicas.0, 6);
}

#[test]
fn a_newer_decision_ends_the_attempts_at_the_older() {
    let mut rig = Rig::new();
    rig.platform.reachable = false;
    rig.tick_wanting(6);
    rig.tick_wanting(4);
    rig.expect(Effect::Unchanged, DecisionSource::Agent, &[]);
    rig.platform.reachable = true;
    rig.pass(Duration::from_secs(4));
    assert_eq!(rig.has().replicas.0, 4);
}

#[test]
fn a_void_action_is_not_tried_again() {
    let mut rig = Rig::new();
    rig.platform.reachable = false;
    rig.tick_wanting(6);
    rig.pass(Duration::from_millis(2 * TICK_MS));
    rig.platform.reachable = true;
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.has().replicas.0, 4);
}

#[test]
fn while_an_attempt_is_under_way_the_newest_decision_waits() {
    let mut rig = Rig::new();
    rig.platform.answers = false;
    for replicas in [5, 6, 7] {
        rig.tick_wanting(replicas);
    }
    assert_eq!(rig.orders.len(), 1);
    rig.expect(Effect::Failed, DecisionSource::Agent, &[]);
    assert!(rig.last().reason.contains("newer"));
    rig.answer_pending();
    assert_eq!(rig.orders.iter().map(|order| order.allocation.replicas.0).collect::<Vec<_>>(), [5, 7]);
    rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
}

#[test]
fn an_older_lease_steps_down_and_says_nothing() {
    let mut rig = Rig::new();
    rig.platform.highest_lease = 9;
    rig.tick_wanting(6);
    assert!(rig.stepped_down && rig.outcomes.is_empty());
    rig.tick_wanting(6);
    assert_eq!(rig.orders.len(), 1);
}

#[test]
fn the_answer_to_an_attempt_of_an_earlier_lead_is_ignored() {
    let mut rig = Rig::new();
    rig.platform.answers = false;
    rig.tick_wanting(6);
    rig.core.lead(Lead::Following, rig.now);
    rig.answer_pending();
    assert!(rig.outcomes.is_empty());
}

#[test]
fn a_missing_workload_is_an_outcome() {
    let mut rig = Rig::new();
    rig.platform.workloads.clear();
    rig.list();
    assert_eq!(rig.core.missing(), 1);
    rig.policy.guard.max_age = None;
    let state_id = rig.state();
    rig.action("agent", state_id, 6);
    assert!(matches!(rig.last().effect, Effect::Held | Effect::Failed));
    assert!(rig.orders.is_empty());
}

#[test]
fn an_agent_without_bounds_of_its_own_cannot_flap_beyond_the_budget() {
    let mut rig = Rig::new();
    rig.policy.guard.changes_per_hour = NonZeroU32::new(6).expect("not zero");
    rig.policy.guard.reversals_per_hour = 3;
    rig.apply_policy();
    for round in 0..50 {
        rig.tick_wanting(if round % 2 == 0 { 8 } else { 1 });
    }
    assert!(rig.orders.len() <= 6, "{} changes", rig.orders.len());
    assert!(rig.outcomes.iter().any(|outcome| outcome.guard.iter().any(|note| note.rule == GuardRule::ReversalBudget)));
}

#[test]
fn a_takeover_does_not_refill_budgets() {
    let mut rig = Rig::new();
    rig.policy.guard.changes_per_hour = NonZeroU32::new(2).expect("not zero");
    rig.apply_policy();
    rig.tick_wanting(5);
    rig.tick_wanting(6);
    rig.core.flush(rig.now);
    rig.settle();
    let mut heir = Rig { records: rig.records.clone(), platform: rig.platform, now: rig.now, ..Rig::following() };
    heir.policy = rig.policy.clone();
    heir.apply_policy();
    heir.core.records(&heir.records, heir.now);
    heir.core.lead(Lead::Leading(2), heir.now);
    heir.settle();
    heir.tick_wanting(7);
    heir.expect(Effect::Held, DecisionSource::Agent, &[GuardRule::ActionBudget]);
}

#[test]
fn budgets_are_stored_now_and_then_not_with_every_change() {
    let mut rig = Rig::new();
    rig.tick_wanting(5);
    rig.pass(Duration::from_secs(2));
    let key = Record::Budget(Default::default()).key(&id());
    let first = rig.records.get(&key).cloned().expect("stored");
    rig.tick_wanting(6);
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.records.get(&key), Some(&first));
    rig.pass(Duration::from_secs(10));
    assert_ne!(rig.records.get(&key), Some(&first));
}
