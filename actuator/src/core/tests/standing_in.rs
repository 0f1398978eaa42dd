//! What the actuator does by itself: fallback, freeze, restore, repair.

use super::*;
use qscale_common::policy::{FallbackRule, Range};
use qscale_common::units::Replicas;

fn restored(rig: &Rig) -> Option<Timestamp> {
    let key = Record::Restored(Timestamp(0)).key(&id());
    rig.records.get(&key).map(|entry| match &entry.1 {
        Record::Restored(request) => *request,
        other => panic!("{other:?}"),
    })
}

fn original(rig: &Rig) -> Option<Allocation> {
    rig.records.values().find_map(|entry| match &entry.1 {
        Record::Original(store::Original { allocation, .. }) => Some(*allocation),
        Record::Budget(_) | Record::Restored(_) => None,
    })
}

#[test]
fn the_fallback_acts_when_the_agent_leaves_so_many_states_unanswered() {
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
fn refused_actions_and_shadows_do_not_break_the_silence() {
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
fn the_fallback_decides_once_on_a_state_also_where_no_more_come() {
    let mut rig = Rig::new();
    rig.state_using(400.0);
    rig.pass(Duration::from_secs(300));
    assert_eq!(rig.orders.len(), 1);
    rig.expect(Effect::Applied, DecisionSource::Fallback, &[]);
    assert_eq!(rig.has().replicas.0, 5);
}

#[test]
fn the_fallback_takes_nothing_away_on_a_state_that_went_stale() {
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
fn cut_off_from_the_bus_the_fallback_only_gives() {
    for (cpu, replicas) in [(400.0, 5), (10.0, 4)] {
        let mut rig = Rig::new();
        rig.tick_wanting(5);
        rig.tick_wanting(4);
        rig.state_using(cpu);
        rig.core.lead(Lead::Cut(1), rig.now);
        rig.pass(Duration::from_secs(60));
        assert_eq!(rig.has().replicas.0, replicas);
        if replicas == 4 {
            rig.expect(Effect::Held, DecisionSource::Fallback, &[GuardRule::Disconnected]);
        }
    }
}

#[test]
fn the_hold_rule_keeps_what_is_in_force() {
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
fn a_freeze_ends_the_attempts_that_are_still_made() {
    let mut rig = Rig::new();
    rig.platform.reachable = false;
    rig.tick_wanting(6);
    rig.control(control::ALL, true, None);
    rig.platform.reachable = true;
    rig.pass(Duration::from_secs(5));
    assert_eq!(rig.has().replicas.0, 4);
}

#[test]
fn the_allocation_before_the_first_change_is_stored_and_never_again() {
    let mut rig = Rig::new();
    rig.tick_wanting(5);
    assert_eq!(original(&rig), Some(Allocation::new(4, 500, 256)));
    rig.tick_wanting(6);
    assert_eq!(original(&rig), Some(Allocation::new(4, 500, 256)));
}

#[test]
fn nothing_is_applied_before_the_original_is_stored() {
    let mut rig = Rig::new();
    let state_id = rig.state();
    let action = rig.make_action("agent", state_id, 6);
    rig.core.action(action, None, rig.now);
    let commands = rig.core.take();
    let [Command::Store(function, record @ Record::Original(_))] = commands.as_slice() else { panic!("{commands:?}") };
    rig.core.stored(function, record.clone(), None, rig.now);
    rig.settle();
    rig.expect(Effect::Failed, DecisionSource::Agent, &[]);
    assert!(rig.orders.is_empty());
    rig.pass(Duration::from_secs(1));
    rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
}

#[test]
fn restore_brings_back_what_was_before_also_while_frozen_and_beyond_steps() {
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
fn a_restore_is_carried_out_once() {
    let mut rig = Rig::new();
    rig.tick_wanting(6);
    rig.control(control::ALL, false, Some(rig.now));
    rig.tick_wanting(7);
    rig.control(control::ALL, false, Some(restored(&rig).expect("carried out")));
    rig.pass(Duration::from_secs(5));
    assert_eq!(rig.has().replicas.0, 7);
    let mut heir = Rig { records: rig.records.clone(), platform: rig.platform, now: rig.now, tick: rig.tick, ..Rig::following() };
    heir.core.records(&heir.records, heir.now);
    heir.core.controls(&rig.controls, heir.now);
    heir.core.lead(Lead::Leading(2), heir.now);
    heir.pass(Duration::from_secs(5));
    assert_eq!(heir.has().replicas.0, 7);
}

#[test]
fn a_restore_does_not_trust_what_was_last_known_of_the_platform() {
    let mut rig = Rig::new();
    rig.tick_wanting(5);
    rig.tick_wanting(4);
    // A person scales it, and restores it before anything was seen of that.
    rig.platform.workloads.insert(id(), Allocation::new(7, 500, 256));
    let request = rig.now;
    rig.control(control::ALL, true, Some(request));
    assert_eq!(rig.has().replicas.0, 4);
    assert_eq!(restored(&rig), Some(request));
}

#[test]
fn a_restore_is_tried_until_the_platform_takes_it() {
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
fn a_function_whose_policy_is_gone_can_still_be_restored() {
    let mut rig = Rig::new();
    rig.tick_wanting(6);
    rig.core.policies(&BTreeMap::new(), rig.now);
    rig.control(control::ALL, true, Some(rig.now));
    rig.pass(Duration::from_secs(2));
    assert_eq!(rig.has().replicas.0, 4);
}

#[test]
fn restoring_what_was_never_changed_says_so() {
    let mut rig = Rig::new();
    rig.state();
    rig.control(control::ALL, true, Some(rig.now));
    rig.expect(Effect::Unchanged, DecisionSource::Operator, &[]);
    rig.pass(Duration::from_secs(5));
    assert_eq!(rig.outcomes.len(), 1);
}

#[test]
fn what_the_platform_lost_is_applied_again_in_one_go() {
    let mut rig = Rig::new();
    rig.tick_wanting(8);
    rig.platform.workloads.insert(id(), Allocation::new(1, 500, 256));
    rig.now = rig.now.plus(Duration::from_secs(1));
    rig.list();
    assert_eq!(rig.has().replicas.0, 8);
    rig.expect(Effect::Applied, DecisionSource::Agent, &[]);
    let told = rig.outcomes.len();
    rig.list();
    assert_eq!(rig.outcomes.len(), told);
}

#[test]
fn a_function_that_woke_from_zero_is_left_awake() {
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
fn new_bounds_take_effect_without_any_agent() {
    let mut rig = Rig::new();
    rig.state();
    rig.policy.bounds.replicas = Range::new(Replicas(1), Replicas(2)).expect("ordered");
    rig.apply_policy();
    assert_eq!(rig.has().replicas.0, 2);
    rig.expect(Effect::Changed, DecisionSource::Operator, &[GuardRule::Bounds]);
}

#[test]
fn nothing_is_repaired_unless_active() {
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
    assert_eq!(rig.has().replicas.0, 10, "into bounds, not back to what was decided before");
}
