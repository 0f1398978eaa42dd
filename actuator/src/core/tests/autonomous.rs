//! Decisions of the actuator itself: fallback, freeze, restore, repair.

use super::*;
use qscale_common::policy::{FallbackRule, Range};
use qscale_common::units::Replicas;

#[test]
fn of_two_policies_for_one_workload_one_acts() {
    let mut rig = Rig::new();
    let other: FunctionId = "a-second".parse().expect("a name");
    let mut second = ScalingPolicy { name: other.name.clone(), ..rig.policy.clone() };
    second.workload.name = Some(id().name);
    second.bounds.replicas = Range::new(Replicas(6), Replicas(9)).expect("ordered");
    let both = BTreeMap::from([(id().tokens(), Arc::new(rig.policy.clone())), (other.tokens(), Arc::new(second))]);
    rig.core.set_policies(&both, rig.now);
    rig.settle();
    assert_eq!(rig.platform.workloads[&id()].replicas, Replicas(4), "the bounds of the other policy change nothing");
    // Without the first, the second acts.
    let alone = both.into_iter().filter(|(key, _)| *key == other.tokens()).collect();
    rig.core.set_policies(&alone, rig.now);
    rig.settle();
    assert_eq!(rig.platform.workloads[&id()].replicas, Replicas(6));
}

fn restored(rig: &Rig) -> Option<Timestamp> {
    let key = Record::Restored(Timestamp(0)).key(&id());
    rig.records.get(&key).map(|entry| match &entry.1 {
        Record::Restored(request) => *request,
        other => panic!("{other:?}"),
    })
}

fn baseline(rig: &Rig) -> Option<Allocation> {
    rig.records.values().find_map(|entry| match &entry.1 {
        Record::Baseline(store::Baseline { allocation, .. }) => Some(*allocation),
        Record::Budget(_) | Record::Restored(_) => None,
    })
}

#[test]
fn the_fallback_decides_after_the_configured_number_of_unanswered_states() {
    let mut rig = Rig::new();
    for _ in 0..3 {
        rig.state_using(400.0);
    }
    assert!(rig.orders.is_empty());
    rig.state_using(400.0);
    rig.expect(Effect::Applied, DecisionSource::Fallback, &[]);
    assert_eq!((rig.has().replicas.0, rig.last().agent.as_str(), rig.core.silent()), (5, "threshold", 1));
    rig.state_using(400.0);
    assert_eq!(rig.has().replicas.0, 6);
}

#[test]
fn the_agent_takes_over_again_with_its_next_action() {
    let mut rig = Rig::new();
    for _ in 0..4 {
        rig.state_using(400.0);
    }
    rig.tick_wanting(7);
    rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
    assert_eq!(rig.core.silent(), 0);
    let before = rig.orders.len();
    for _ in 0..3 {
        rig.state_using(400.0);
    }
    assert_eq!(rig.orders.len(), before);
}

#[test]
fn refused_and_shadow_actions_do_not_end_the_silence() {
    let mut rig = Rig::new();
    let first = rig.state_using(400.0);
    for _ in 0..3 {
        rig.state_using(400.0);
        rig.action("agent", StateId { tick: Tick(first.tick.0 + 100), ..first }, 9);
        let state_id = StateId { tick: Tick(rig.tick), ..first };
        rig.action("other", state_id, 9);
    }
    assert!(rig.outcomes.iter().any(|outcome| outcome.source == DecisionSource::Fallback));
}

#[test]
fn the_fallback_decides_once_per_state_even_if_no_more_arrive() {
    let mut rig = Rig::new();
    rig.state_using(400.0);
    rig.pass(Duration::from_secs(300));
    assert_eq!(rig.orders.len(), 1);
    rig.expect(Effect::Applied, DecisionSource::Fallback, &[]);
    assert_eq!(rig.has().replicas.0, 5);
}

#[test]
fn the_fallback_does_not_scale_down_on_a_stale_state() {
    let mut rig = Rig::new();
    rig.state_using(10.0);
    rig.pass(Duration::from_secs(300));
    rig.expect(Effect::Held, DecisionSource::Fallback, &[GuardRule::StaleState]);
    assert_eq!(rig.has().replicas.0, 4);
}

#[test]
fn a_state_that_the_agent_answered_is_not_decided_on_again() {
    let mut rig = Rig::new();
    let state_id = rig.state_using(400.0);
    rig.action("agent", state_id, 4);
    rig.pass(Duration::from_secs(300));
    assert!(rig.orders.is_empty());
}

#[test]
fn while_disconnected_the_fallback_only_increases() {
    for (cpu, replicas) in [(400.0, 5), (10.0, 4)] {
        let mut rig = Rig::new();
        // The fallback decides before the State is too old to scale down.
        rig.policy.fallback.after_ticks = NonZeroU32::MIN;
        rig.apply_policy();
        rig.tick_wanting(5);
        rig.tick_wanting(4);
        rig.state_using(cpu);
        rig.core.set_lead(Lead::Disconnected(1), rig.now);
        rig.pass(Duration::from_secs(60));
        assert_eq!(rig.has().replicas.0, replicas);
        if replicas == 4 {
            rig.expect(Effect::Held, DecisionSource::Fallback, &[GuardRule::Disconnected]);
        }
    }
}

#[test]
fn the_stored_budget_does_not_replace_that_of_a_disconnected_actuator() {
    let mut rig = Rig::new();
    rig.policy.guard.changes_per_hour = NonZeroU32::new(3).expect("not zero");
    rig.apply_policy();
    rig.tick_wanting(5);
    rig.pass(Duration::from_secs(1));
    let stored = rig.records.clone();
    rig.core.set_lead(Lead::Disconnected(1), rig.now);
    for _ in 0..5 {
        rig.state_using(400.0);
    }
    assert_eq!(rig.has().replicas.0, 7, "two more of three changes");
    rig.core.set_records(&stored, rig.now);
    rig.core.set_lead(Lead::Leading(1), rig.now);
    rig.tick_wanting(8);
    rig.expect(Effect::Held, DecisionSource::Agent, &[GuardRule::ActionBudget]);
}

#[test]
fn while_disconnected_the_fallback_increases_although_actions_still_arrive() {
    let mut rig = Rig::new();
    rig.tick_wanting(4);
    rig.core.set_lead(Lead::Disconnected(1), rig.now);
    for _ in 0..5 {
        let state_id = rig.state_using(400.0);
        rig.action("agent", state_id, 3);
    }
    assert!(rig.has().replicas.0 > 4, "{:?}", rig.last());
    rig.core.set_lead(Lead::Leading(1), rig.now);
    rig.tick_wanting(7);
    rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
    assert_eq!(rig.core.silent(), 0, "the agent decides again");
}

#[test]
fn the_hold_rule_keeps_the_current_allocation() {
    let mut rig = Rig::new();
    rig.policy.fallback.rule = FallbackRule::Hold;
    rig.apply_policy();
    for _ in 0..10 {
        rig.state_using(400.0);
    }
    assert!(rig.orders.is_empty() && rig.outcomes.is_empty());
    assert_eq!(rig.core.silent(), 1);
}

#[test]
fn nothing_is_changed_while_frozen() {
    for key in [control::ALL.to_owned(), Control::key(&id())] {
        let mut rig = Rig::new();
        rig.control(&key, true, None);
        rig.tick_wanting(6);
        rig.expect(Effect::Held, DecisionSource::Agent, &[GuardRule::Freeze]);
        for _ in 0..10 {
            rig.state_using(400.0);
        }
        rig.platform.workloads.insert(id(), Allocation::new(9, 500, 256));
        rig.list();
        assert!(rig.orders.is_empty());
        rig.control(&key, false, None);
        rig.tick_wanting(8);
        rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
    }
}

#[test]
fn a_freeze_that_arrives_before_the_policy_applies() {
    let mut rig = Rig::new();
    rig.core.set_policies(&BTreeMap::new(), rig.now);
    rig.control(&Control::key(&id()), true, None);
    rig.apply_policy();
    rig.tick_wanting(6);
    rig.expect(Effect::Held, DecisionSource::Agent, &[GuardRule::Freeze]);
}

#[test]
fn a_restore_that_arrives_before_the_records_is_executed() {
    let mut rig = Rig::new();
    rig.tick_wanting(6);
    let mut successor = Rig { core: Core::new(settings()), ..rig.successor() };
    successor.control(&Control::key(&id()), false, Some(successor.now));
    successor.take_over();
    successor.pass(Duration::from_secs(2));
    assert_eq!(successor.has().replicas.0, 4);
}

#[test]
fn a_budget_is_stored_after_its_policy_was_deleted() {
    let mut rig = Rig::new();
    rig.tick_wanting(5);
    rig.pass(Duration::from_secs(2));
    rig.tick_wanting(6);
    let key = Record::Budget(Default::default()).key(&id());
    let before = rig.records.get(&key).cloned().expect("stored");
    rig.core.set_policies(&BTreeMap::new(), rig.now);
    rig.pass(Duration::from_secs(11));
    assert_ne!(rig.records.get(&key), Some(&before));
}

#[test]
fn a_freeze_ends_retries() {
    let mut rig = Rig::new();
    rig.platform.reachable = false;
    rig.tick_wanting(6);
    rig.control(control::ALL, true, None);
    rig.platform.reachable = true;
    rig.pass(Duration::from_secs(5));
    assert_eq!(rig.has().replicas.0, 4);
}

#[test]
fn the_baseline_is_stored_once() {
    let mut rig = Rig::new();
    rig.tick_wanting(5);
    assert_eq!(baseline(&rig), Some(Allocation::new(4, 500, 256)));
    rig.tick_wanting(6);
    assert_eq!(baseline(&rig), Some(Allocation::new(4, 500, 256)));
}

#[test]
fn nothing_is_applied_before_the_baseline_is_stored() {
    let (mut rig, function, record) = storing_the_baseline();
    rig.core.on_stored(&function, record, None, rig.now);
    rig.settle();
    rig.expect(Effect::Failed, DecisionSource::Agent, &[]);
    assert!(rig.orders.is_empty());
    rig.pass(Duration::from_secs(1));
    rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
}

/// A core that stores the baseline before it applies an Action for 6 replicas.
fn storing_the_baseline() -> (Rig, FunctionId, Record) {
    let mut rig = Rig::new();
    let state_id = rig.state();
    let action = rig.make_action("agent", state_id, 6);
    rig.core.on_action(action, None, rig.now);
    let commands = rig.core.take_commands();
    let [CoreCommand::Store(function, record @ Record::Baseline(_))] = commands.as_slice() else { panic!("{commands:?}") };
    (rig, function.clone(), record.clone())
}

#[test]
fn a_freeze_that_arrives_before_the_baseline_is_stored_is_obeyed() {
    let (mut rig, function, record) = storing_the_baseline();
    rig.control(control::ALL, true, None);
    rig.core.on_stored(&function, record.clone(), Some(record), rig.now);
    rig.settle();
    rig.expect(Effect::Held, DecisionSource::Agent, &[GuardRule::Freeze]);
    assert!(rig.orders.is_empty());
}

#[test]
fn an_action_that_expires_before_the_baseline_is_stored_fails() {
    let (mut rig, function, record) = storing_the_baseline();
    rig.now = rig.now.plus(Duration::from_millis(2 * TICK_MS));
    rig.core.on_stored(&function, record.clone(), Some(record), rig.now);
    rig.settle();
    rig.expect(Effect::Failed, DecisionSource::Agent, &[]);
    assert!(rig.orders.is_empty());
}

#[test]
fn of_the_decisions_made_before_the_baseline_is_stored_the_newest_counts() {
    let (mut rig, function, record) = storing_the_baseline();
    rig.tick_wanting(7);
    rig.core.on_stored(&function, record.clone(), Some(record), rig.now);
    rig.settle();
    let effects: Vec<Effect> = rig.outcomes.iter().map(|outcome| outcome.effect).collect();
    assert_eq!((effects, rig.has().replicas.0), (vec![Effect::Failed, Effect::Applied], 7));
}

#[test]
fn a_clock_that_is_set_back_puts_off_neither_reports_nor_retries_nor_budgets() {
    const HOUR: Duration = Duration::from_secs(3600);
    let mut rig = Rig::new();
    rig.now = rig.now.plus(HOUR);
    rig.tick_wanting(6);
    rig.now = rig.now.minus(HOUR);
    rig.platform.workloads.insert(id(), Allocation::new(2, 500, 256));
    rig.list();
    assert_eq!(rig.has().replicas.0, 6, "the lost allocation is applied again");

    rig.platform.reachable = false;
    rig.now = rig.now.plus(HOUR);
    rig.tick_wanting(8);
    rig.now = rig.now.minus(HOUR);
    rig.control(control::ALL, false, Some(rig.now));
    rig.platform.reachable = true;
    rig.pass(Duration::from_secs(12));
    assert_eq!(rig.has().replicas.0, 4, "restored");
    let budget = |rig: &Rig| rig.records.get(&Record::Budget(Default::default()).key(&id())).cloned();
    let before = budget(&rig);
    rig.control(control::ALL, false, None);
    rig.tick_wanting(5);
    rig.pass(Duration::from_secs(2));
    assert_ne!(budget(&rig), before, "the budget is stored");
}

#[test]
fn the_repair_of_a_restored_allocation_respects_the_bounds() {
    let mut rig = Rig::new();
    rig.tick_wanting(8);
    rig.policy.bounds.replicas = Range::new(Replicas(6), Replicas(10)).expect("ordered");
    rig.apply_policy();
    rig.control(&Control::key(&id()), false, Some(rig.now));
    assert_eq!(rig.has().replicas.0, 4, "a restore ignores them");
    rig.pass(Duration::from_secs(1));
    rig.platform.workloads.insert(id(), Allocation::new(5, 500, 256));
    rig.list();
    assert_eq!(rig.has().replicas.0, 6);
}

#[test]
fn a_restore_ignores_freezes_and_step_limits() {
    let mut rig = Rig::new();
    rig.tick_wanting(8);
    rig.tick_wanting(10);
    let request = rig.now;
    rig.control(control::ALL, true, Some(request));
    assert_eq!(rig.has(), Allocation::new(4, 500, 256));
    rig.expect(Effect::Applied, DecisionSource::Operator, &[]);
    assert_eq!(restored(&rig), Some(request));
}

#[test]
fn a_restore_is_executed_once() {
    let mut rig = Rig::new();
    rig.tick_wanting(6);
    rig.control(control::ALL, false, Some(rig.now));
    rig.tick_wanting(7);
    rig.control(control::ALL, false, Some(restored(&rig).expect("carried out")));
    rig.pass(Duration::from_secs(5));
    assert_eq!(rig.has().replicas.0, 7);
    let mut successor = rig.successor();
    successor.core.set_controls(&rig.controls, successor.now);
    successor.take_over();
    successor.pass(Duration::from_secs(5));
    assert_eq!(successor.has().replicas.0, 7);
}

#[test]
fn a_restore_is_sent_even_if_the_allocation_seems_right() {
    let mut rig = Rig::new();
    rig.tick_wanting(5);
    rig.tick_wanting(4);
    // An operator scales it, and restores it before the actuator sees the change.
    rig.platform.workloads.insert(id(), Allocation::new(7, 500, 256));
    let request = rig.now;
    rig.control(control::ALL, true, Some(request));
    assert_eq!(rig.has().replicas.0, 4);
    assert_eq!(restored(&rig), Some(request));
}

#[test]
fn a_restore_is_retried_until_it_succeeds() {
    let mut rig = Rig::new();
    rig.tick_wanting(6);
    rig.platform.reachable = false;
    rig.control(control::ALL, true, Some(rig.now));
    rig.expect(Effect::Failed, DecisionSource::Operator, &[]);
    rig.tick_wanting(7);
    rig.expect(Effect::Held, DecisionSource::Agent, &[GuardRule::RestoreInProgress]);
    assert_eq!(restored(&rig), None);
    rig.platform.reachable = true;
    rig.pass(Duration::from_secs(10));
    assert_eq!(rig.has().replicas.0, 4);
}

#[test]
fn a_restore_ends_when_its_request_is_lost() {
    let mut rig = Rig::new();
    rig.tick_wanting(6);
    rig.platform.reachable = false;
    rig.control(control::ALL, true, Some(rig.now));
    rig.expect(Effect::Failed, DecisionSource::Operator, &[]);
    let orders = rig.orders.len();
    // The controls were lost, and everything is frozen until an operator has checked.
    rig.control(control::ALL, true, None);
    rig.platform.reachable = true;
    rig.pass(Duration::from_secs(30));
    assert_eq!((rig.orders.len(), restored(&rig)), (orders, None));
}

#[test]
fn a_function_without_policy_can_be_restored() {
    let mut rig = Rig::new();
    rig.tick_wanting(6);
    rig.core.set_policies(&BTreeMap::new(), rig.now);
    rig.control(control::ALL, true, Some(rig.now));
    rig.pass(Duration::from_secs(2));
    assert_eq!(rig.has().replicas.0, 4);
}

#[test]
fn restoring_an_unchanged_function_is_reported() {
    let mut rig = Rig::new();
    rig.state();
    rig.control(control::ALL, true, Some(rig.now));
    rig.expect(Effect::Unchanged, DecisionSource::Operator, &[]);
    rig.pass(Duration::from_secs(5));
    assert_eq!(rig.outcomes.len(), 1);
}

#[test]
fn a_lost_allocation_is_applied_again_in_one_step() {
    let mut rig = Rig::new();
    rig.tick_wanting(8);
    rig.platform.workloads.insert(id(), Allocation::new(1, 500, 256));
    rig.now = rig.now.plus(Duration::from_secs(1));
    rig.list();
    assert_eq!(rig.has().replicas.0, 8);
    rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
    let published = rig.outcomes.len();
    rig.list();
    assert_eq!(rig.outcomes.len(), published);
}

#[test]
fn a_function_that_started_from_zero_is_kept() {
    let mut rig = Rig::new();
    rig.policy.bounds.replicas = Range::new(Replicas(0), Replicas(10)).expect("ordered");
    rig.apply_policy();
    rig.tick_wanting(0);
    assert_eq!(rig.has().replicas.0, 0);
    rig.platform.workloads.insert(id(), Allocation::new(1, 500, 256));
    rig.now = rig.now.plus(Duration::from_secs(1));
    rig.list();
    assert_eq!(rig.has().replicas.0, 1);
}

#[test]
fn new_bounds_take_effect_without_an_agent() {
    let mut rig = Rig::new();
    rig.state();
    rig.policy.bounds.replicas = Range::new(Replicas(1), Replicas(2)).expect("ordered");
    rig.apply_policy();
    assert_eq!(rig.has().replicas.0, 2);
    rig.expect(Effect::Changed, DecisionSource::Operator, &[GuardRule::Bounds]);
}

#[test]
fn nothing_is_repaired_outside_active_mode() {
    let mut rig = Rig::new();
    rig.tick_wanting(6);
    rig.policy.mode = Mode::Recommend;
    rig.apply_policy();
    rig.platform.workloads.insert(id(), Allocation::new(40, 500, 256));
    rig.now = rig.now.plus(Duration::from_secs(1));
    rig.list();
    assert_eq!(rig.has().replicas.0, 40);
    rig.policy.mode = Mode::Active;
    rig.apply_policy();
    assert_eq!(rig.has().replicas.0, 10, "into bounds, not back to the earlier decision");
}

#[test]
fn the_platform_is_listed_at_every_interval_and_sooner_after_a_failure() {
    let mut rig = Rig::new();
    rig.tick_wanting(6);
    rig.core.settings.reconcile = Duration::from_secs(10);
    rig.list();
    rig.core.list_at = rig.now;
    rig.platform.workloads.insert(id(), Allocation::new(1, 500, 256));
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.has().replicas.0, 6);
    rig.platform.reachable = false;
    rig.platform.workloads.insert(id(), Allocation::new(1, 500, 256));
    rig.pass(Duration::from_secs(11));
    assert_eq!(rig.has().replicas.0, 1);
    rig.platform.reachable = true;
    rig.pass(Duration::from_secs(3));
    assert_eq!(rig.has().replicas.0, 6);
}
