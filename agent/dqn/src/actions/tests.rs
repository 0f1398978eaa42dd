use qscale_common::contract::{State, Usage};
use qscale_common::policy::Range;
use qscale_policies::History;

use super::*;
use crate::fixtures;

fn candidates(set: ActionSet, scope: Scope, state: &State) -> ActionCandidates {
    let mut candidates = ActionCandidates::default();
    Actions::new(set, scope).decode(&FeatureContext::update(state, &mut History::default(), 200.0), &mut candidates);
    candidates
}

#[track_caller]
fn named(set: ActionSet, scope: Scope, state: &State, name: &str) -> Result<Allocation, MaskReason> {
    let index = Actions::new(set, scope).names().iter().position(|other| other == name).expect("a choice of that name");
    candidates(set, scope, state).entry(index)
}

#[track_caller]
fn check(set: ActionSet, state: &State, name: &str, expected: &str) {
    let found = named(set, Scope::Joint, state, name).map(|allocation| allocation.to_string());
    assert_eq!(found.as_deref().map_err(|_| "masked"), Ok(expected), "{name}: {found:?}");
}

#[test]
fn headroom_offers_multiples_of_the_demand() {
    // 1.3 cores asked for by 2 replicas of 500m.
    let state = fixtures::busy(1.3);
    for (name, expected) in [
        ("keep", "2 x 500m 256Mi"),
        ("demand x1.1", "2 x 729m 256Mi"),
        ("demand x2", "3 x 882m 256Mi"),
        ("replicas -1", "1 x 500m 256Mi"),
        ("replicas x2", "4 x 500m 256Mi"),
    ] {
        check(ActionSet::Headroom, &state, name, expected);
    }
    // Beyond what is allowed stands once, at the bound.
    let state = fixtures::busy(9.0);
    check(ActionSet::Headroom, &state, "demand x1.1", "10 x 1000m 256Mi");
    assert!(matches!(named(ActionSet::Headroom, Scope::Joint, &state, "demand x2"), Err(MaskReason::Same(_))));
}

#[test]
fn without_the_mask_a_duplicate_has_the_allocation_that_it_repeats() {
    let state = fixtures::busy(9.0);
    let found = candidates(ActionSet::Headroom, Scope::Joint, &state);
    let index =
        |name: &str| Actions::new(ActionSet::Headroom, Scope::Joint).names().iter().position(|other| other == name).expect("a choice");
    assert_eq!(found.unmasked(index("demand x2")), found.entry(index("demand x1.1")).ok());
    assert_eq!(found.unmasked(index("replicas +1")), found.entry(index("replicas +1")).ok());
    assert_eq!((found.unmasked(1000), candidates(ActionSet::Headroom, Scope::Joint, &fixtures::state()).unmasked(10)), (None, None));
}

#[test]
fn without_demand_only_steps_are_allowed_and_without_allocation_nothing() {
    let state = fixtures::state();
    let headroom = candidates(ActionSet::Headroom, Scope::Joint, &state);
    assert_eq!(headroom.mask().count(), 4);
    assert_eq!(headroom.entry(10), Err(MaskReason::NoDemand));
    let unknown = State { allocation: None, ..state };
    assert_eq!(candidates(ActionSet::Headroom, Scope::Joint, &unknown).mask(), Mask(0));
    assert_eq!(candidates(ActionSet::Step, Scope::Joint, &unknown).mask(), Mask(0));
}

#[test]
fn steps_start_from_the_current_allocation() {
    let state = fixtures::state();
    for (name, expected) in [
        ("replicas -1", "1 x 500m 256Mi"),
        ("replicas +2", "4 x 500m 256Mi"),
        ("replicas x1.5", "3 x 500m 256Mi"),
        ("cpu x0.8", "2 x 400m 256Mi"),
        ("memory x1.25", "2 x 500m 320Mi"),
        ("replicas -1, cpu x1.25", "1 x 625m 256Mi"),
    ] {
        let found = named(ActionSet::Step, Scope::Joint, &state, name);
        match name {
            // Three replicas are named by one more already.
            "replicas x1.5" => assert!(matches!(found, Err(MaskReason::Same(2))), "{found:?}"),
            _ => check(ActionSet::Step, &state, name, expected),
        }
    }
    let state = State { allocation: Some(Allocation::new(1, 100, 64)), ..state };
    for name in ["replicas -1", "cpu x0.8", "memory x0.8"] {
        assert!(matches!(named(ActionSet::Step, Scope::Joint, &state, name), Err(MaskReason::Same(0))), "{name} below the bounds");
    }
}

#[test]
fn scopes_keep_the_other_parts() {
    let state = fixtures::busy(1.3);
    for set in [ActionSet::Headroom, ActionSet::Step] {
        let current = state.allocation.expect("known");
        let count = Actions::new(set, Scope::Joint).count();
        for (scope, least) in [(Scope::Horizontal, 3), (Scope::Vertical, 3), (Scope::Joint, 8)] {
            let candidates = candidates(set, scope, &state);
            assert!(candidates.mask().count() >= least, "{set} {scope}: {}", candidates.mask().count());
            for allocation in (0..count).filter_map(|index| candidates.entry(index).ok()) {
                let horizontal = allocation.replicas != current.replicas;
                let vertical = (allocation.cpu_millicores, allocation.memory_mib) != (current.cpu_millicores, current.memory_mib);
                assert!(!(scope == Scope::Horizontal && vertical || scope == Scope::Vertical && horizontal), "{set} {scope}: {allocation}");
            }
        }
    }
}

#[test]
fn memory_follows_the_working_set_and_rises_after_an_oom_kill() {
    let mut state = fixtures::busy(1.3);
    let keep = |state: &State| named(ActionSet::Headroom, Scope::Joint, state, "keep").expect("keeping is always allowed").memory_mib;
    let mut used = |mib: f64| {
        state.windows.long.memory_mib = Some(Usage { mean: mib, max: mib });
        keep(&state)
    };
    assert_eq!([used(60.0), used(150.0), used(240.0)], [Mebibytes(90), Mebibytes(256), Mebibytes(360)]);
    state.windows.tick.oom_kills = 1;
    assert_eq!(keep(&state), Mebibytes(384));
    state.windows.long.oom_kills = 1;
    (state.windows.tick.oom_kills, state.windows.long.memory_mib) = (0, Some(Usage { mean: 60.0, max: 60.0 }));
    assert_eq!(keep(&state), Mebibytes(256), "memory is not reduced after a recent OOM kill");
    assert_eq!(named(ActionSet::Step, Scope::Joint, &state, "keep").map(|kept| kept.memory_mib), Ok(Mebibytes(256)));
}

#[test]
fn scales_to_zero_without_load_if_the_bounds_allow_it() {
    let mut state = fixtures::busy(1.0);
    state.windows.tick.rate_rps = Some(0.0);
    check(ActionSet::Headroom, &state, "demand x0.9", "1 x 500m 256Mi");
    state.bounds.replicas = Range::new(Replicas(0), Replicas(10)).expect("ordered");
    check(ActionSet::Headroom, &state, "demand x0.9", "0 x 500m 256Mi");
}

#[test]
fn observed_gaps_decide_whether_an_idle_replica_is_kept() {
    let mut state = fixtures::busy(1.0);
    state.bounds.replicas = Range::new(Replicas(0), Replicas(10)).expect("ordered");
    // A request in one minute of ten, for two hours; then nothing for four minutes.
    let mut history = History::default();
    for minute in 0..=124 {
        state.tick = qscale_common::time::Tick(12 * minute);
        let rate = if minute % 10 == 0 { 0.1 } else { 0.0 };
        (state.windows.tick.rate_rps, state.windows.tick.completed_rps) = (Some(rate), Some(rate));
        history.add(&state);
    }
    let candidates = |violation_cost: f64, scope: Scope| {
        let mut candidates = ActionCandidates::default();
        Actions::new(ActionSet::Headroom, scope).decode(&FeatureContext::new(&state, history.summary(), violation_cost), &mut candidates);
        candidates
    };
    let replicas = |candidates: &ActionCandidates| -> Vec<u32> {
        candidates.mask().allowed().filter_map(|at| candidates.entry(at).ok()).map(|a| a.replicas.0).collect()
    };
    let seldom = candidates(20.0, Scope::Joint);
    assert_eq!((seldom.entry(0), replicas(&seldom)), (Err(MaskReason::WouldKeepIdle), vec![0]));
    let often = candidates(20_000.0, Scope::Joint);
    assert!(replicas(&often).iter().all(|count| *count > 0), "{often:?}");
    assert!(often.entry(0).is_ok() && (0..20).any(|at| often.entry(at).is_ok_and(|named| named.replicas.0 == 1)), "{often:?}");
    assert!(candidates(20.0, Scope::Vertical).entry(0).is_ok(), "replicas are not its to change");
}

#[test]
fn every_set_fits_a_mask_and_parses_from_its_name() {
    for set in [ActionSet::Headroom, ActionSet::Step] {
        assert!(Actions::new(set, Scope::Joint).count() <= Mask::CAPACITY);
        assert_eq!(set.to_string().parse(), Ok(set));
    }
    assert_eq!("sideways".parse::<Scope>(), Err("scope = \"sideways\", must be one of horizontal vertical joint".to_owned()));
}

#[test]
fn the_best_action_is_never_masked_and_never_nan() {
    assert_eq!(Mask(0b110).best(&[9.0, 1.0, 2.0]), Some(2));
    assert_eq!(Mask(0b111).best(&[f32::NAN, -5.0, f32::NAN]), Some(1));
    assert_eq!(Mask(0b111).best(&[3.0, 3.0, 3.0]), Some(0));
    assert_eq!((Mask(0).best(&[1.0]), Mask::all(64).count()), (None, 64));
}

#[test]
fn the_grid_is_the_product_of_all_steps_with_the_last_branch_fastest() {
    let state = fixtures::state();
    for (name, expected) in [
        ("replicas +1", "3 x 500m 256Mi"),
        ("keep, cpu x0.8", "2 x 400m 256Mi"),
        ("replicas -1, cpu x1.25, memory x0.8", "1 x 625m 205Mi"),
        ("replicas x2, memory x1.25", "4 x 500m 320Mi"),
    ] {
        check(ActionSet::Grid, &state, name, expected);
    }
    // Half as many more of two replicas are one more.
    assert_eq!(named(ActionSet::Grid, Scope::Joint, &state, "replicas x1.5"), Err(MaskReason::Same(24)));
    let grid = Actions::new(ActionSet::Grid, Scope::Joint);
    assert_eq!(grid.count(), BRANCHES.iter().product::<usize>());
    for (index, name) in grid.names().iter().enumerate() {
        let [replicas, cpu, memory] = [index / (BRANCHES[1] * BRANCHES[2]), index / BRANCHES[2] % BRANCHES[1], index % BRANCHES[2]];
        assert!(name.starts_with(&GRID_REPLICAS[replicas].to_string()), "{index} {name}");
        assert_eq!(name.contains("cpu"), cpu > 0, "{index} {name}");
        assert_eq!(name.contains("memory"), memory > 0, "{index} {name}");
    }
    // Replicas alone: one choice for each of their steps.
    let horizontal = candidates(ActionSet::Grid, Scope::Horizontal, &state).mask();
    assert!(horizontal.allowed().all(|index| index % (BRANCHES[1] * BRANCHES[2]) == 0), "{horizontal:?}");
    assert_eq!(candidates(ActionSet::Grid, Scope::Vertical, &state).mask().0 >> (BRANCHES[1] * BRANCHES[2]), 0);
}
