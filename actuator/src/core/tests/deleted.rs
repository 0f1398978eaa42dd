//! Restores before the policy object of a function is deleted.

use super::*;

fn delete_policy(rig: &mut Rig) {
    rig.core.set_policies(&BTreeMap::new(), rig.now);
    rig.settle();
}

fn release(rig: &mut Rig) {
    rig.core.release(&id(), rig.now);
    rig.settle();
}

fn baseline(rig: &Rig) -> Option<Allocation> {
    rig.records.get(&Record::baseline_key(&id())).map(|entry| match &entry.1 {
        Record::Baseline(store::Baseline { allocation, .. }) => *allocation,
        other => panic!("{other:?}"),
    })
}

#[test]
fn the_original_allocation_is_restored_and_the_next_policy_begins_with_its_own() {
    let mut rig = Rig::new();
    rig.tick_wanting(6);
    delete_policy(&mut rig);
    release(&mut rig);
    let original = Allocation::new(4, 500, 256);
    assert_eq!((rig.has(), rig.released.as_slice()), (original, [Ok(Some(original))].as_slice()));
    rig.expect(Effect::Applied, DecisionSource::Operator, &[]);
    assert_eq!(baseline(&rig), None);

    rig.platform.workloads.insert(id(), Allocation::new(2, 500, 256));
    rig.apply_policy();
    rig.list();
    rig.tick_wanting(3);
    assert_eq!(baseline(&rig), Some(Allocation::new(2, 500, 256)));
}

#[test]
fn a_function_that_was_never_changed_has_nothing_to_restore() {
    let mut rig = Rig::new();
    delete_policy(&mut rig);
    release(&mut rig);
    release(&mut rig);
    assert_eq!((rig.released.as_slice(), rig.orders.len()), ([Ok(None), Ok(None)].as_slice(), 0));
}

#[test]
fn a_repeated_request_has_one_answer_after_the_platform_has_answered() {
    let mut rig = Rig::new();
    rig.tick_wanting(6);
    delete_policy(&mut rig);
    rig.platform.reachable = false;
    release(&mut rig);
    rig.pass(Duration::from_secs(3));
    release(&mut rig);
    assert!(rig.released.is_empty());
    rig.platform.reachable = true;
    rig.pass(Duration::from_secs(10));
    assert_eq!(rig.released, [Ok(Some(Allocation::new(4, 500, 256)))]);
}

#[test]
fn a_workload_that_is_gone_ends_the_restore() {
    let mut rig = Rig::new();
    rig.tick_wanting(6);
    delete_policy(&mut rig);
    rig.platform.workloads.clear();
    release(&mut rig);
    assert!(matches!(rig.released.as_slice(), [Err(reason)] if reason.contains("no workload")), "{:?}", rig.released);
    assert_eq!(baseline(&rig), None);
}

#[test]
fn only_the_leader_restores_and_the_next_one_knows_what() {
    let mut rig = Rig::new();
    rig.tick_wanting(6);
    delete_policy(&mut rig);
    let mut successor = rig.successor();
    delete_policy(&mut successor);
    release(&mut successor);
    assert!(successor.released.is_empty() && successor.orders.is_empty());
    successor.take_over();
    release(&mut successor);
    assert_eq!(successor.released, [Ok(Some(Allocation::new(4, 500, 256)))]);
}

#[test]
fn a_follower_forgets_the_baseline_that_the_leader_deletes() {
    let mut rig = Rig::new();
    rig.tick_wanting(6);
    let mut follower = Rig::following();
    follower.core.set_records(&rig.records, follower.now);
    delete_policy(&mut rig);
    delete_policy(&mut follower);
    release(&mut rig);
    follower.core.set_records(&rig.records, follower.now);
    follower.core.set_lead(Lead::Leading(2), follower.now);
    follower.settle();
    release(&mut follower);
    assert_eq!(follower.released, [Ok(None)]);
}

#[test]
fn a_change_under_a_new_policy_waits_for_the_deletion_of_the_baseline() {
    let mut rig = Rig::new();
    rig.tick_wanting(6);
    delete_policy(&mut rig);
    rig.core.release(&id(), rig.now);
    // All but the deletion is answered.
    let mut deletions = 0;
    loop {
        let commands = rig.core.take_commands();
        if commands.is_empty() {
            break;
        }
        for command in commands {
            if matches!(command, CoreCommand::Forget(_)) { deletions += 1 } else { rig.execute(command) }
        }
    }
    assert_eq!(deletions, 1);
    rig.apply_policy();
    rig.list();
    let orders = rig.orders.len();
    rig.tick_wanting(5);
    assert_eq!(rig.orders.len(), orders, "nothing is changed before the baseline is stored");
    rig.core.on_forgotten(&id(), false, rig.now);
    rig.pass(Duration::from_secs(2));
    assert_eq!((rig.has().replicas.0, baseline(&rig)), (5, Some(Allocation::new(4, 500, 256))));
}
