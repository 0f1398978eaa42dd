use qscale_common::contract::{State, Usage};
use qscale_common::policy::Range;
use qscale_policies::History;

use super::*;
use crate::sample;

fn menu(set: ActionSet, scope: Scope, state: &State) -> Menu {
    let mut menu = Menu::default();
    Actions::new(set, scope).decode(&Sight::take(state, &mut History::default(), 200.0), &mut menu);
    menu
}

#[track_caller]
fn named(set: ActionSet, scope: Scope, state: &State, name: &str) -> Result<Allocation, Masked> {
    let index = Actions::new(set, scope).names().iter().position(|other| other == name).expect("a choice of that name");
    menu(set, scope, state).entry(index)
}

#[track_caller]
fn check(set: ActionSet, state: &State, name: &str, expected: &str) {
    let found = named(set, Scope::Joint, state, name).map(|allocation| allocation.to_string());
    assert_eq!(found.as_deref().map_err(|_| "masked"), Ok(expected), "{name}: {found:?}");
}

#[test]
fn headroom_names_multiples_of_the_demand() {
    // 1.3 cores asked for by 2 replicas of 500m.
    let state = sample::busy(1.3);
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
    let state = sample::busy(9.0);
    check(ActionSet::Headroom, &state, "demand x1.1", "10 x 1000m 256Mi");
    assert!(matches!(named(ActionSet::Headroom, Scope::Joint, &state, "demand x2"), Err(Masked::Same(_))));
}

#[test]
fn without_a_demand_only_steps_can_be_taken_and_without_an_allocation_nothing() {
    let state = sample::state();
    let headroom = menu(ActionSet::Headroom, Scope::Joint, &state);
    assert_eq!(headroom.mask().count(), 4);
    assert_eq!(headroom.entry(10), Err(Masked::NoDemand));
    let unknown = State { allocation: None, ..state };
    assert_eq!(menu(ActionSet::Headroom, Scope::Joint, &unknown).mask(), Mask(0));
    assert_eq!(menu(ActionSet::Step, Scope::Joint, &unknown).mask(), Mask(0));
}

#[test]
fn steps_lead_from_what_is_in_force() {
    let state = sample::state();
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
            "replicas x1.5" => assert!(matches!(found, Err(Masked::Same(2))), "{found:?}"),
            _ => check(ActionSet::Step, &state, name, expected),
        }
    }
    let state = State { allocation: Some(Allocation::new(1, 100, 64)), ..state };
    for name in ["replicas -1", "cpu x0.8", "memory x0.8"] {
        assert!(matches!(named(ActionSet::Step, Scope::Joint, &state, name), Err(Masked::Same(0))), "{name} below the bounds");
    }
}

#[test]
fn scopes_keep_what_is_not_theirs() {
    let state = sample::busy(1.3);
    for set in [ActionSet::Headroom, ActionSet::Step] {
        let current = state.allocation.expect("known");
        let count = Actions::new(set, Scope::Joint).count();
        for (scope, least) in [(Scope::Horizontal, 3), (Scope::Vertical, 3), (Scope::Joint, 8)] {
            let menu = menu(set, scope, &state);
            assert!(menu.mask().count() >= least, "{set} {scope}: {}", menu.mask().count());
            for allocation in (0..count).filter_map(|index| menu.entry(index).ok()) {
                let horizontal = allocation.replicas != current.replicas;
                let vertical = (allocation.cpu_millicores, allocation.memory_mib) != (current.cpu_millicores, current.memory_mib);
                assert!(!(scope == Scope::Horizontal && vertical || scope == Scope::Vertical && horizontal), "{set} {scope}: {allocation}");
            }
        }
    }
}

#[test]
fn memory_follows_the_working_set_with_a_margin_and_a_kill_raises_it() {
    let mut state = sample::busy(1.3);
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
    assert_eq!(keep(&state), Mebibytes(256), "what was killed lately is not shrunk again");
    assert_eq!(named(ActionSet::Step, Scope::Joint, &state, "keep").map(|kept| kept.memory_mib), Ok(Mebibytes(256)));
}

#[test]
fn no_load_needs_no_replica_where_the_bounds_allow_none() {
    let mut state = sample::busy(1.0);
    state.windows.tick.rate_rps = Some(0.0);
    check(ActionSet::Headroom, &state, "demand x0.9", "1 x 500m 256Mi");
    state.bounds.replicas = Range::new(Replicas(0), Replicas(10)).expect("ordered");
    check(ActionSet::Headroom, &state, "demand x0.9", "0 x 500m 256Mi");
}

#[test]
fn whether_one_replica_stays_while_nothing_comes_is_told_by_the_gaps_that_were_seen() {
    let mut state = sample::busy(1.0);
    state.bounds.replicas = Range::new(Replicas(0), Replicas(10)).expect("ordered");
    // A request in one minute of ten, for two hours; then nothing for four minutes.
    let mut history = History::default();
    for minute in 0..=124 {
        state.tick = qscale_common::time::Tick(12 * minute);
        let rate = if minute % 10 == 0 { 0.1 } else { 0.0 };
        (state.windows.tick.rate_rps, state.windows.tick.completed_rps) = (Some(rate), Some(rate));
        history.see(&state);
    }
    let menu = |caution: f64, scope: Scope| {
        let mut menu = Menu::default();
        Actions::new(ActionSet::Headroom, scope).decode(&Sight::new(&state, history.told(), caution), &mut menu);
        menu
    };
    let replicas = |menu: &Menu| -> Vec<u32> { menu.mask().allowed().filter_map(|at| menu.entry(at).ok()).map(|a| a.replicas.0).collect() };
    let seldom = menu(20.0, Scope::Joint);
    assert_eq!((seldom.entry(0), replicas(&seldom)), (Err(Masked::Idle), vec![0]));
    let often = menu(20_000.0, Scope::Joint);
    assert!(replicas(&often).iter().all(|count| *count > 0), "{often:?}");
    assert!(often.entry(0).is_ok() && (0..20).any(|at| often.entry(at).is_ok_and(|named| named.replicas.0 == 1)), "{often:?}");
    assert!(menu(20.0, Scope::Vertical).entry(0).is_ok(), "replicas are not its to change");
}

#[test]
fn every_set_fits_a_mask_and_is_read_by_its_name() {
    for set in [ActionSet::Headroom, ActionSet::Step] {
        assert!(Actions::new(set, Scope::Joint).count() <= Mask::CAPACITY);
        assert_eq!(set.to_string().parse(), Ok(set));
    }
    assert_eq!("sideways".parse::<Scope>(), Err("scope = \"sideways\", must be one of horizontal vertical joint".to_owned()));
}

#[test]
fn the_best_is_never_masked_and_a_value_that_is_no_number_is_never_the_best() {
    assert_eq!(Mask(0b110).best(&[9.0, 1.0, 2.0]), Some(2));
    assert_eq!(Mask(0b111).best(&[f32::NAN, -5.0, f32::NAN]), Some(1));
    assert_eq!(Mask(0b111).best(&[3.0, 3.0, 3.0]), Some(0));
    assert_eq!((Mask(0).best(&[1.0]), Mask::all(64).count()), (None, 64));
}

#[test]
fn the_grid_is_each_step_with_each_and_its_last_branch_changes_fastest() {
    let state = sample::state();
    for (name, expected) in [
        ("replicas +1", "3 x 500m 256Mi"),
        ("keep, cpu x0.8", "2 x 400m 256Mi"),
        ("replicas -1, cpu x1.25, memory x0.8", "1 x 625m 205Mi"),
        ("replicas x2, memory x1.25", "4 x 500m 320Mi"),
    ] {
        check(ActionSet::Grid, &state, name, expected);
    }
    // Half as many more of two replicas are one more.
    assert_eq!(named(ActionSet::Grid, Scope::Joint, &state, "replicas x1.5"), Err(Masked::Same(24)));
    let grid = Actions::new(ActionSet::Grid, Scope::Joint);
    assert_eq!(grid.count(), BRANCHES.iter().product::<usize>());
    for (index, name) in grid.names().iter().enumerate() {
        let [replicas, cpu, memory] = [index / (BRANCHES[1] * BRANCHES[2]), index / BRANCHES[2] % BRANCHES[1], index % BRANCHES[2]];
        assert!(name.starts_with(&GRID_REPLICAS[replicas].to_string()), "{index} {name}");
        assert_eq!(name.contains("cpu"), cpu > 0, "{index} {name}");
        assert_eq!(name.contains("memory"), memory > 0, "{index} {name}");
    }
    // Replicas alone: one choice for each of their steps.
    let horizontal = menu(ActionSet::Grid, Scope::Horizontal, &state).mask();
    assert!(horizontal.allowed().all(|index| index % (BRANCHES[1] * BRANCHES[2]) == 0), "{horizontal:?}");
    assert_eq!(menu(ActionSet::Grid, Scope::Vertical, &state).mask().0 >> (BRANCHES[1] * BRANCHES[2]), 0);
}
