//! Outcomes of Actions.

use qscale_common::policy::{Range, ResizeFactor};
use qscale_common::units::Millicores;

use super::*;

#[test]
fn an_action_is_applied_and_has_an_outcome() {
    let mut rig = Rig::new();
    rig.tick_wanting(6);
    assert_eq!(rig.has(), Allocation::new(6, 500, 256));
    rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
    let last = rig.last();
    assert_eq!((last.before, last.allowed), (Some(Allocation::new(4, 500, 256)), Some(Allocation::new(6, 500, 256))));
    assert_eq!((last.tick, last.attempts, last.provenance.configuration.as_str(), last.actuator.as_str()), (Tick(1), 1, "m", "a"));
}

#[test]
fn the_guard_limits_a_large_step() {
    let mut rig = Rig::new();
    rig.tick_wanting(50);
    assert_eq!(rig.has().replicas.0, 8);
    rig.expect(Effect::Changed, DecisionSource::Agent, &[GuardRule::Bounds, GuardRule::StepLimit]);
}

#[test]
fn a_part_that_the_platform_cannot_apply_does_not_block_the_others() {
    let mut rig = Rig::new();
    rig.platform.least_cpu = Millicores(100);
    rig.policy.bounds.cpu_millicores = Range::new(Millicores(1), Millicores(1000)).expect("a range");
    rig.policy.guard.resize_factor = ResizeFactor::try_from(1000.0).expect("a factor");
    rig.policy.guard.changes_per_hour = NonZeroU32::new(3).expect("not zero");
    rig.apply_policy();
    let wanting = |rig: &mut Rig, replicas: u32| {
        let state_id = rig.state();
        let action = rig.make_action("agent", state_id, replicas);
        rig.core.on_action(Action { allocation: Allocation::new(replicas, 1, 256), ..action }, None, rig.now);
        rig.settle();
    };
    wanting(&mut rig, 6);
    assert_eq!(rig.has(), Allocation::new(6, 100, 256));
    rig.expect(Effect::Changed, DecisionSource::Agent, &[GuardRule::Bounds]);
    assert_eq!(rig.last().allowed, Some(rig.has()));
    assert!(rig.last().guard[0].detail.contains("CPU 1m becomes 100m"), "{:?}", rig.last());
    for _ in 0..5 {
        wanting(&mut rig, 6);
        rig.expect(Effect::Unchanged, DecisionSource::Agent, &[GuardRule::Bounds]);
    }
    wanting(&mut rig, 7);
    assert_eq!(rig.has().replicas.0, 7, "what changes nothing is not charged to the budget");
}

#[test]
fn the_current_allocation_needs_no_request() {
    let mut rig = Rig::new();
    rig.tick_wanting(4);
    rig.expect(Effect::Unchanged, DecisionSource::Agent, &[]);
    assert!(rig.orders.is_empty());
}

#[test]
fn a_state_is_answered_once() {
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
fn an_answer_to_a_state_older_than_the_last_answered_is_refused() {
    let mut rig = Rig::new();
    let (first, second) = (rig.state(), rig.state());
    rig.action("agent", second, 5);
    rig.action("agent", first, 6);
    rig.expect(Effect::Refused, DecisionSource::Agent, &[GuardRule::WrongTick]);
}

#[test]
fn an_expired_action_is_refused() {
    let mut rig = Rig::new();
    let state_id = rig.state();
    let action = rig.make_action("agent", state_id, 6);
    rig.now = action.expires_at_ms;
    rig.core.on_action(action, None, rig.now);
    rig.settle();
    rig.expect(Effect::Refused, DecisionSource::Agent, &[GuardRule::Expired]);
}

#[test]
fn an_action_that_overtakes_its_state_waits() {
    let mut rig = Rig::new();
    let state_id = rig.state();
    let next = StateId { tick: state_id.tick.next(), ..state_id };
    rig.action("agent", next, 6);
    assert!(rig.outcomes.is_empty());
    rig.state();
    rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
}

#[test]
fn an_action_without_its_state_is_refused() {
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
    rig.core.on_action(action, None, rig.now);
    rig.settle();
    rig.expect(Effect::Refused, DecisionSource::Shadow, &[]);
}

#[test]
fn a_shadow_decision_is_evaluated_and_recorded() {
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
fn a_new_agent_in_the_policy_takes_effect_immediately() {
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
fn recommend_mode_records_what_would_be_applied() {
    let mut rig = Rig::new();
    rig.policy.mode = Mode::Recommend;
    rig.apply_policy();
    rig.tick_wanting(6);
    rig.expect(Effect::Recorded, DecisionSource::Agent, &[GuardRule::Mode]);
    assert_eq!((rig.last().allowed, rig.has().replicas.0), (Some(Allocation::new(6, 500, 256)), 4));
}

#[test]
fn a_follower_sends_and_publishes_nothing_but_keeps_its_state() {
    let mut rig = Rig::following();
    rig.tick_wanting(6);
    assert!(rig.orders.is_empty() && rig.outcomes.is_empty());
    let state_id = rig.state();
    rig.core.set_lead(Lead::Leading(2), rig.now);
    rig.settle();
    rig.action("agent", state_id, 6);
    rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
    assert_eq!(rig.orders[0].lease, 2);
}

#[test]
fn an_unavailable_platform_is_retried_and_reported_once() {
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
fn a_newer_decision_ends_the_retries_of_an_older_one() {
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
fn an_expired_action_is_not_retried() {
    let mut rig = Rig::new();
    rig.platform.reachable = false;
    rig.tick_wanting(6);
    rig.pass(Duration::from_millis(2 * TICK_MS));
    rig.platform.reachable = true;
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.has().replicas.0, 4);
}

#[test]
fn an_action_that_expires_behind_a_request_in_flight_is_not_applied() {
    let mut rig = Rig::new();
    rig.platform.answers = false;
    rig.tick_wanting(5);
    rig.tick_wanting(6);
    rig.pass(Duration::from_millis(2 * TICK_MS));
    rig.answer_pending();
    assert_eq!(rig.orders.iter().map(|order| order.allocation.replicas.0).collect::<Vec<_>>(), [5]);
    rig.expect(Effect::Failed, DecisionSource::Agent, &[]);
    assert_eq!((rig.last().tick, rig.last().requested.replicas.0), (Tick(2), 6));
}

#[test]
fn while_a_request_is_in_flight_the_newest_decision_waits() {
    let mut rig = Rig::new();
    rig.platform.answers = false;
    for replicas in [5, 6, 7] {
        rig.tick_wanting(replicas);
    }
    assert_eq!(rig.orders.len(), 1);
    rig.expect(Effect::Failed, DecisionSource::Agent, &[]);
    assert_eq!((rig.last().tick, rig.last().requested.replicas.0), (Tick(2), 6));
    rig.answer_pending();
    assert_eq!(rig.orders.iter().map(|order| order.allocation.replicas.0).collect::<Vec<_>>(), [5, 7]);
    rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
}

#[test]
fn a_refused_lease_steps_down_without_an_outcome() {
    let mut rig = Rig::new();
    rig.platform.highest_lease = 9;
    rig.tick_wanting(6);
    assert!(rig.stepped_down && rig.outcomes.is_empty());
    rig.tick_wanting(6);
    assert_eq!(rig.orders.len(), 1);
}

#[test]
fn the_answer_to_a_request_of_an_earlier_lead_is_ignored() {
    let mut rig = Rig::new();
    rig.platform.answers = false;
    rig.tick_wanting(6);
    rig.core.set_lead(Lead::Following, rig.now);
    rig.answer_pending();
    assert!(rig.outcomes.is_empty());
}

#[test]
fn a_list_that_was_requested_before_a_change_does_not_undo_it() {
    let mut rig = Rig::new();
    let old = WorkloadStatus { id: workload_id(&id()), desired: rig.has(), vertical: true };
    let asked = rig.now;
    rig.tick_wanting(6);
    rig.core.on_listed(std::slice::from_ref(&old), asked, rig.now);
    rig.settle();
    assert_eq!(rig.orders.len(), 1, "no repair");
    // Nor while the request is in flight.
    rig.platform.answers = false;
    rig.tick_wanting(7);
    rig.core.on_listed(&[old], rig.now, rig.now);
    rig.answer_pending();
    rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
    assert_eq!(rig.last().before.map(|before| before.replicas.0), Some(6));
}

#[test]
fn a_missing_workload_is_reported() {
    let mut rig = Rig::new();
    rig.platform.workloads.clear();
    rig.list();
    assert_eq!(rig.core.missing(), 1);
    let state_id = rig.state();
    rig.action("agent", state_id, 6);
    rig.expect(Effect::Failed, DecisionSource::Agent, &[]);
    assert_eq!(rig.last().reason, BackendError::NotFound(id()).to_string());
    rig.control(control::ALL, true, None);
    rig.tick_wanting(6);
    rig.expect(Effect::Held, DecisionSource::Agent, &[GuardRule::Freeze]);
    assert!(rig.orders.is_empty());
}

#[test]
fn an_agent_cannot_flap_beyond_the_budget() {
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
    let mut successor = rig.successor();
    successor.policy = rig.policy.clone();
    successor.apply_policy();
    successor.take_over();
    successor.settle();
    successor.tick_wanting(7);
    successor.expect(Effect::Held, DecisionSource::Agent, &[GuardRule::ActionBudget]);
}

#[test]
fn budgets_are_stored_at_intervals() {
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

#[test]
fn functions_of_another_backend_are_left_alone() {
    let mut rig = Rig::new();
    rig.tick_wanting(6);
    let (orders, outcomes) = (rig.orders.len(), rig.outcomes.len());
    rig.core.settings.kinds.clear();
    rig.apply_policy();
    rig.tick_wanting(8);
    rig.control(control::ALL, false, Some(rig.now));
    rig.pass(Duration::from_secs(60));
    assert_eq!((rig.core.governed(), rig.orders.len()), (0, orders + 1), "only what this backend changed is restored");
    assert!(rig.outcomes[outcomes..].iter().all(|outcome| outcome.source == DecisionSource::Operator), "{:?}", rig.outcomes);
}

#[test]
fn records_of_another_backend_are_not_read() {
    let mut rig = Rig::new();
    rig.tick_wanting(6);
    let mut other = Rig { records: rig.records.clone(), now: rig.now, ..Rig::following() };
    other.core.settings.kinds.clear();
    other.core = Core::new(other.core.settings.clone());
    other.core.set_records(&other.records, other.now);
    other.core.set_lead(Lead::Leading(2), other.now);
    other.control(control::ALL, false, Some(rig.now));
    other.pass(Duration::from_secs(60));
    assert!(other.orders.is_empty() && other.outcomes.is_empty());
}

#[test]
fn a_flood_of_refused_actions_does_not_become_a_flood_of_outcomes() {
    let mut rig = Rig::new();
    let old = rig.state();
    rig.state();
    rig.state();
    let outcomes = |rig: &mut Rig, agent: &str, count: usize| {
        let before = rig.outcomes.len();
        (0..count).for_each(|_| rig.action(agent, old, 5));
        rig.outcomes.len() - before
    };
    assert_eq!(outcomes(&mut rig, "flood", 100), REPORTED_REFUSALS as usize);
    assert_eq!(outcomes(&mut rig, "other", 1), 1, "each agent has its own share");
    assert_eq!(rig.core.take_unreported(), 100 - u64::from(REPORTED_REFUSALS));
    rig.state();
    assert_eq!(outcomes(&mut rig, "flood", 1), 1, "the share is per State");
    rig.core.set_policies(&BTreeMap::new(), rig.now);
    assert_eq!(outcomes(&mut rig, "flood", 100), REPORTED_UNKNOWN as usize);
}
