//! Invariants of any decision, for any request, measurements and configuration.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::contract::{Ages, Epoch, Usage, Window, Windows};
use crate::name::FunctionId;
use crate::policy::{Bounds, Range, ResizeFactor};
use crate::time::Tick;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const HOUR_MS: u64 = 3_600_000;

/// Everything that a case borrows.
#[derive(Debug, Clone)]
struct Scene {
    wanted: Allocation,
    current: Allocation,
    policy: ScalingPolicy,
    state: Option<State>,
    vertical: bool,
    budget: Budget,
}

impl Scene {
    fn case(&self) -> GuardInput<'_> {
        GuardInput {
            wanted: self.wanted,
            current: Some(self.current),
            kind: DecisionKind::Named,
            policy: &self.policy,
            state: self.state.as_ref(),
            frozen: None,
            vertical: self.vertical,
            budget: &self.budget,
            now: NOW,
        }
    }

    /// A function of four replicas that is seen well, within wide limits.
    fn calm() -> Self {
        let policy = Self::calm_policy();
        let current = Allocation::new(4, 500, 256);
        Self {
            wanted: current,
            current,
            state: Some(state(&policy, Some(0), 0, Some(100.0))),
            policy,
            vertical: true,
            budget: Budget::default(),
        }
    }

    fn calm_policy() -> ScalingPolicy {
        let mut policy = ScalingPolicy::new("fib".parse::<FunctionId>().expect("a name"));
        policy.mode = Mode::Active;
        policy
    }

    /// Current allocation after the verdict.
    fn after(&self) -> Allocation {
        match evaluate(&self.case()) {
            Verdict::Apply { allocation, .. } => allocation,
            Verdict::Unchanged | Verdict::Hold { .. } | Verdict::Record { .. } => self.current,
        }
    }

    fn bounded_current(&self) -> Allocation {
        within_bounds(&self.case(), self.current)
    }
}

fn state(policy: &ScalingPolicy, age_ms: Option<u64>, delay_ms: u64, working_set: Option<f64>) -> State {
    let window = Window { memory_mib: working_set.map(|max| Usage { mean: max, max }), ..Window::default() };
    State {
        epoch: Epoch(1),
        tick: Tick(1),
        observed_at_ms: Timestamp(NOW.0 - delay_ms),
        age: Ages { requests_ms: age_ms, cpu_ms: age_ms, memory_ms: age_ms, replicas_ms: age_ms },
        windows: Windows { long: window, ..Windows::default() },
        ..State::unmeasured(policy)
    }
}

fn range<T: Copy + Ord + std::fmt::Display + std::fmt::Debug>(
    least: u32,
    most: u32,
    unit: fn(u32) -> T,
) -> impl Strategy<Value = Range<T>> {
    (least..=most, least..=most).prop_map(move |(a, b)| Range::new(unit(a.min(b)), unit(a.max(b))).expect("ordered"))
}

fn bounds() -> impl Strategy<Value = Bounds> {
    (range(0, 40, Replicas), range(1, 4000, Millicores), range(1, 4096, Mebibytes))
        .prop_map(|(replicas, cpu_millicores, memory_mib)| Bounds { replicas, cpu_millicores, memory_mib })
}

fn allocation() -> impl Strategy<Value = Allocation> {
    let ordinary = (0u32..60, 0u32..5000, 0u32..5000);
    let any = (any::<u32>(), any::<u32>(), any::<u32>());
    prop_oneof![9 => ordinary, 1 => any].prop_map(|(replicas, cpu, memory)| Allocation::new(replicas, cpu, memory))
}

fn policy() -> impl Strategy<Value = ScalingPolicy> {
    (bounds(), 1u32..8, 1u32..8, 1.0f64..4.0, 1u32..6, 0u32..4, any::<bool>()).prop_map(
        |(bounds, up, down, factor, changes, reversals, up_only)| {
            let mut policy = Scene::calm_policy();
            policy.bounds = bounds;
            policy.guard.replicas_up = NonZeroU32::new(up).expect("at least 1");
            policy.guard.replicas_down = NonZeroU32::new(down).expect("at least 1");
            policy.guard.resize_factor = ResizeFactor::try_from(factor).expect("at least 1");
            policy.guard.changes_per_hour = NonZeroU32::new(changes).expect("at least 1");
            policy.guard.reversals_per_hour = reversals;
            policy.scale_up_only = up_only;
            policy
        },
    )
}

fn budget() -> impl Strategy<Value = Budget> {
    prop::collection::vec((any::<bool>(), 0u64..2 * HOUR_MS), 0..8).prop_map(|mut changes| {
        changes.sort_by_key(|(_, before)| std::cmp::Reverse(*before));
        let mut budget = Budget::default();
        for (up, before) in changes {
            budget.charge(if up { Direction::Up } else { Direction::Down }, Timestamp(NOW.0 - before));
        }
        budget
    })
}

fn scene() -> impl Strategy<Value = Scene> {
    let seen = (prop::option::weighted(0.9, 0u64..200_000), 0u64..200_000, prop::option::weighted(0.9, 0.0f64..5000.0), any::<bool>());
    let fresh = (Just(Some(1_000)), 0u64..2_000, prop::option::weighted(0.9, 0.0f64..5000.0), Just(true));
    (allocation(), allocation(), policy(), prop_oneof![seen, fresh], any::<bool>(), budget()).prop_map(
        |(wanted, current, policy, (age, delay, working_set, seen), vertical, budget)| {
            let state = seen.then(|| state(&policy, age, delay, working_set));
            Scene { wanted, current, policy, state, vertical, budget }
        },
    )
}

fn parts(allocation: Allocation) -> [u32; 3] {
    [allocation.replicas.0, allocation.cpu_millicores.0, allocation.memory_mib.0]
}

/// Whether no part of `after` is below that of `before`.
fn nothing_taken(before: Allocation, after: Allocation) -> bool {
    parts(before).into_iter().zip(parts(after)).all(|(before, after)| after >= before)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn ends_within_bounds(scene in scene()) {
        let after = scene.after();
        prop_assert_eq!(within_bounds(&scene.case(), after), after);
    }

    #[test]
    fn evaluates_equal_inputs_equally(scene in scene()) {
        prop_assert_eq!(evaluate(&scene.case()), evaluate(&scene.clone().case()));
    }

    #[test]
    fn changes_nothing_once_its_verdict_is_applied(scene in scene()) {
        let after = scene.after();
        let again = Scene { wanted: after, current: after, ..scene };
        prop_assert_eq!(evaluate(&again.case()), Verdict::Unchanged);
    }

    #[test]
    fn an_apply_always_changes_something(scene in scene()) {
        if let Verdict::Apply { allocation, notes, .. } = evaluate(&scene.case()) {
            prop_assert_ne!(allocation, scene.current);
            prop_assert_eq!(notes.is_empty(), allocation == scene.wanted, "a change of the decision has its reason");
        }
    }

    #[test]
    fn a_hold_has_a_reason(scene in scene()) {
        if let Verdict::Hold { notes } = evaluate(&scene.case()) {
            prop_assert!(!notes.is_empty());
        }
    }

    #[test]
    fn takes_nothing_away_on_old_measurements(mut scene in scene(), age in 15_001u64..400_000) {
        scene.state = Some(state(&scene.policy, Some(age), 0, Some(10.0)));
        prop_assert!(nothing_taken(scene.bounded_current(), scene.after()));
    }

    #[test]
    fn changes_only_what_is_out_of_bounds_without_measurements(mut scene in scene(), age in 150_001u64..400_000, absent in any::<bool>()) {
        scene.state = (!absent).then(|| state(&scene.policy, Some(0), age, Some(10.0)));
        prop_assert_eq!(scene.after(), scene.bounded_current());
    }

    #[test]
    fn scale_up_only_takes_nothing_away(mut scene in scene()) {
        scene.policy.scale_up_only = true;
        prop_assert!(nothing_taken(scene.bounded_current(), scene.after()));
    }

    #[test]
    fn never_lowers_memory_below_the_working_set(mut scene in scene(), working_set in 0.0f64..5000.0) {
        scene.state = Some(state(&scene.policy, Some(0), 0, Some(working_set)));
        let needed = working_set * scene.policy.guard.working_set_margin.get();
        let (bounded_current, after) = (scene.bounded_current(), scene.after());
        prop_assert!(f64::from(after.memory_mib.0) >= needed || after.memory_mib >= bounded_current.memory_mib);
    }

    #[test]
    fn never_lowers_memory_after_a_kill_for_memory(mut scene in scene()) {
        let mut killed = state(&scene.policy, Some(0), 0, Some(1.0));
        killed.windows.long.oom_kills = 1;
        scene.state = Some(killed);
        prop_assert!(scene.after().memory_mib >= scene.bounded_current().memory_mib);
    }

    #[test]
    fn goes_one_step_unless_bounds_demand_more(scene in scene()) {
        let (from, to, guard) = (scene.current, scene.after(), &scene.policy.guard);
        let bounds = &scene.policy.bounds;
        let demanded = |part: u32, least: u32, most: u32| part == least || part == most;
        let up = from.replicas.0.saturating_add(guard.replicas_up.get());
        let down = from.replicas.0.saturating_sub(guard.replicas_down.get());
        prop_assert!((down..=up).contains(&to.replicas.0) || demanded(to.replicas.0, bounds.replicas.min().0, bounds.replicas.max().0));
        let factor = guard.resize_factor.get();
        let within = |from: u32, to: u32| {
            let (from, to) = (f64::from(from), f64::from(to));
            to <= (from * factor).max(from + 1.0) && to >= (from / factor).min(from - 1.0)
        };
        let (cpu, memory) = (&bounds.cpu_millicores, &bounds.memory_mib);
        prop_assert!(within(from.cpu_millicores.0, to.cpu_millicores.0) || demanded(to.cpu_millicores.0, cpu.min().0, cpu.max().0));
        prop_assert!(within(from.memory_mib.0, to.memory_mib.0) || demanded(to.memory_mib.0, memory.min().0, memory.max().0));
    }

    #[test]
    fn a_platform_that_cannot_resize_is_not_asked_to(mut scene in scene()) {
        scene.vertical = false;
        let after = scene.after();
        prop_assert_eq!(after, Allocation { replicas: after.replicas, ..scene.current });
    }

    #[test]
    fn frozen_or_paused_changes_nothing(mut scene in scene(), which in 0..3) {
        scene.policy.paused = which == 0;
        let frozen = match which { 0 => None, 1 => Some(Frozen::Function), _ => Some(Frozen::All) };
        let verdict = evaluate(&GuardInput { frozen, ..scene.case() });
        let hold = matches!(verdict, Verdict::Hold { .. });
        prop_assert!(hold, "{:?}", verdict);
    }

    #[test]
    fn a_shadow_and_a_recommendation_are_recorded_as_they_would_be_applied(mut scene in scene(), shadow in any::<bool>()) {
        let applied = match evaluate(&scene.case()) {
            Verdict::Apply { allocation, .. } => Some(allocation),
            Verdict::Unchanged => Some(scene.wanted),
            Verdict::Hold { .. } | Verdict::Record { .. } => None,
        };
        if !shadow {
            scene.policy.mode = Mode::Recommend;
        }
        let kind = if shadow { DecisionKind::Shadow } else { DecisionKind::Named };
        let verdict = evaluate(&GuardInput { kind, ..scene.case() });
        let recorded = matches!(&verdict, Verdict::Record { allowed, .. } if *allowed == applied);
        prop_assert!(recorded, "{:?} instead of {:?}", verdict, applied);
    }

    #[test]
    fn budgets_hold_in_every_hour(
        policy in policy(),
        steps in prop::collection::vec((allocation(), 0u64..HOUR_MS / 4), 1..80),
    ) {
        let mut scene = Scene { policy, budget: Budget::default(), ..Scene::calm() };
        scene.current = scene.policy.bounds.clamp(scene.current);
        let mut now = NOW;
        let mut charged: Vec<(Timestamp, Direction)> = Vec::new();
        for (wanted, pause) in steps {
            now = Timestamp(now.0 + pause);
            scene.wanted = wanted;
            scene.state = scene.state.map(|state| State { observed_at_ms: now, ..state });
            if let Verdict::Apply { allocation, charge: Some(direction), .. } = evaluate(&GuardInput { now, ..scene.case() }) {
                scene.budget.charge(direction, now);
                scene.current = allocation;
                charged.push((now, direction));
            }
            let recent: Vec<_> = charged.iter().filter(|(at, _)| now.0 - at.0 <= HOUR_MS).collect();
            prop_assert!(recent.len() <= scene.policy.guard.changes_per_hour.get() as usize);
            let reversals = recent.windows(2).filter(|pair| pair[0].1 != pair[1].1).count();
            prop_assert!(reversals <= scene.policy.guard.reversals_per_hour as usize);
        }
    }

    #[test]
    fn the_reversal_budget_refuses_no_step_up(steps in prop::collection::vec((any::<bool>(), 0u64..HOUR_MS / 3), 1..80), limit in 0u32..4) {
        let mut rails = Scene::calm_policy().guard;
        rails.reversals_per_hour = limit;
        rails.changes_per_hour = NonZeroU32::MAX;
        let (mut budget, mut now) = (Budget::default(), NOW);
        for (up, pause) in steps {
            now = Timestamp(now.0 + pause);
            let direction = if up { Direction::Up } else { Direction::Down };
            let refusal = budget.refusal(direction, &rails, now);
            prop_assert!(!up || refusal.is_none(), "{:?}", refusal);
            if refusal.is_none() {
                budget.charge(direction, now);
            }
        }
    }

    #[test]
    fn a_budget_stays_small_and_survives_being_stored(changes in prop::collection::vec((any::<bool>(), any::<u64>()), 0..200)) {
        let mut budget = Budget::default();
        for (up, at) in changes {
            budget.charge(if up { Direction::Up } else { Direction::Down }, Timestamp(at % (10 * HOUR_MS)));
        }
        let stored = serde_json::to_string(&budget).expect("serialises");
        prop_assert!(stored.len() < 2_000);
        prop_assert_eq!(serde_json::from_str::<Budget>(&stored).expect("reads"), budget);
    }
}

#[track_caller]
fn check(scene: &Scene, expected: Allocation, rules: &[GuardRule]) {
    let verdict = evaluate(&scene.case());
    let (after, notes) = match verdict {
        Verdict::Apply { allocation, notes, .. } => (allocation, notes),
        Verdict::Hold { notes } => (scene.current, notes),
        Verdict::Unchanged => (scene.current, Vec::new()),
        Verdict::Record { allowed, .. } => panic!("recorded {allowed:?}"),
    };
    assert_eq!(after, expected, "{notes:?}");
    assert_eq!(notes.iter().map(|note| note.rule).collect::<Vec<_>>(), rules, "{notes:?}");
}

#[test]
fn applies_a_decision_that_no_rule_forbids() {
    let scene = Scene { wanted: Allocation::new(6, 750, 200), ..Scene::calm() };
    check(&scene, scene.wanted, &[]);
}

#[test]
fn says_which_part_was_changed_and_to_what() {
    let scene = Scene { wanted: Allocation::new(50, 500, 256), ..Scene::calm() };
    let Verdict::Apply { allocation, notes, charge } = evaluate(&scene.case()) else { panic!("not applied") };
    assert_eq!((allocation, charge), (Allocation::new(8, 500, 256), Some(Direction::Up)));
    let details: Vec<&str> = notes.iter().map(|note| note.detail.as_str()).collect();
    assert_eq!(details, ["replicas 50 becomes 10, allowed are 1 to 10", "replicas 10 becomes 8, allowed are steps of +4 and -4 from 4"]);
}

#[test]
fn lowers_memory_to_the_working_set_and_its_margin() {
    let mut scene = Scene { wanted: Allocation::new(4, 500, 128), ..Scene::calm() };
    scene.state = Some(state(&scene.policy, Some(0), 0, Some(150.0)));
    check(&scene, Allocation::new(4, 500, 165), &[GuardRule::WorkingSet]);
}

#[test]
fn scales_up_but_not_down_on_stale_data() {
    let mut scene = Scene { wanted: Allocation::new(2, 750, 256), ..Scene::calm() };
    scene.state = Some(state(&scene.policy, Some(0), 20_000, Some(100.0)));
    check(&scene, Allocation::new(4, 750, 256), &[GuardRule::StaleState]);
}

#[test]
fn one_stale_kind_of_measurement_is_enough_to_forbid_scaling_down() {
    let mut scene = Scene { wanted: Allocation::new(2, 500, 256), ..Scene::calm() };
    let mut state = state(&scene.policy, Some(0), 0, Some(100.0));
    state.age.cpu_ms = Some(16_000);
    scene.state = Some(state);
    check(&scene, scene.current, &[GuardRule::StaleState]);
}

#[test]
fn starts_from_zero_though_use_was_not_measured_for_hours() {
    let mut scene = Scene { current: Allocation::new(0, 500, 256), wanted: Allocation::new(2, 500, 256), ..Scene::calm() };
    let mut state = state(&scene.policy, Some(0), 0, None);
    state.age.cpu_ms = Some(HOUR_MS);
    state.age.memory_ms = None;
    scene.state = Some(state);
    scene.policy.bounds.replicas = Range::new(Replicas(0), Replicas(10)).expect("ordered");
    check(&scene, scene.wanted, &[]);
}

#[test]
fn a_repair_goes_the_whole_way_at_once_and_costs_nothing() {
    let mut scene = Scene { current: Allocation::new(1, 500, 256), wanted: Allocation::new(10, 500, 256), ..Scene::calm() };
    scene.policy.guard.changes_per_hour = NonZeroU32::MIN;
    scene.budget.charge(Direction::Up, NOW);
    let verdict = evaluate(&GuardInput { kind: DecisionKind::Repair, ..scene.case() });
    assert_eq!(verdict, Verdict::Apply { allocation: scene.wanted, notes: Vec::new(), charge: None });
}

#[test]
fn a_repair_without_any_measurement_only_gives() {
    let mut scene = Scene { state: None, current: Allocation::new(1, 500, 256), wanted: Allocation::new(8, 500, 128), ..Scene::calm() };
    scene.policy.guard.replicas_up = NonZeroU32::MIN;
    let Verdict::Apply { allocation, .. } = evaluate(&GuardInput { kind: DecisionKind::Repair, ..scene.case() }) else {
        panic!("not applied")
    };
    assert_eq!(allocation, Allocation::new(8, 500, 256));
}

#[test]
fn spent_budgets_do_not_keep_the_current_allocation_outside_bounds() {
    let mut scene = Scene { current: Allocation::new(30, 500, 256), wanted: Allocation::new(2, 500, 256), ..Scene::calm() };
    scene.policy.guard.changes_per_hour = NonZeroU32::MIN;
    scene.budget.charge(Direction::Up, NOW);
    check(&scene, Allocation::new(10, 500, 256), &[GuardRule::StepLimit]);
}

#[test]
fn the_last_change_of_an_hour_is_kept_for_a_step_up() {
    let mut scene = Scene { wanted: Allocation::new(3, 500, 256), ..Scene::calm() };
    scene.policy.guard.changes_per_hour = NonZeroU32::new(2).expect("not zero");
    scene.budget.charge(Direction::Down, NOW);
    check(&scene, scene.current, &[GuardRule::ActionBudget]);
    scene.wanted = Allocation::new(5, 500, 256);
    check(&scene, scene.wanted, &[]);
}

#[test]
fn a_budget_is_free_again_after_an_hour() {
    let mut budget = Budget::default();
    budget.charge(Direction::Up, NOW);
    assert_eq!(budget.spent(Timestamp(NOW.0 + HOUR_MS)), (1, 0));
    assert_eq!(budget.spent(Timestamp(NOW.0 + HOUR_MS + 60_000)), (0, 0));
}

#[test]
fn holds_while_the_current_allocation_is_unknown() {
    let scene = Scene::calm();
    let verdict = evaluate(&GuardInput { current: None, ..scene.case() });
    assert!(matches!(verdict, Verdict::Hold { notes } if notes[0].rule == GuardRule::StaleState));
}

#[test]
fn observe_records_without_judging() {
    let mut scene = Scene { wanted: Allocation::new(50, 500, 256), ..Scene::calm() };
    scene.policy.mode = Mode::Observe;
    assert!(matches!(evaluate(&scene.case()), Verdict::Record { allowed: None, .. }));
}
