//! The conformance cases of the original's `horizontal_test` on windows and rates.

use proptest::prelude::*;

use super::super::behavior::*;
use super::super::*;

const NOW: Timestamp = Timestamp(1_000_000_000);

fn minutes_ago(minutes: f64) -> Timestamp {
    NOW.minus(Duration::from_secs_f64(minutes * 60.0))
}

fn pods(value: u32, seconds: u64) -> RatePolicy {
    RatePolicy { kind: RateKind::Pods, value, period: Span::seconds(seconds) }
}

fn percent(value: u32, seconds: u64) -> RatePolicy {
    RatePolicy { kind: RateKind::Percent, value, period: Span::seconds(seconds) }
}

fn rules(select_policy: Select, policies: &[RatePolicy]) -> Rules {
    Rules { stabilization_window: Span::seconds(300), select_policy, policies: policies.into(), tolerance: None }
}

fn up(policies: &[RatePolicy]) -> Behavior {
    Behavior { scale_up: rules(Select::Max, policies), ..Behavior::default() }
}

fn down(policies: &[RatePolicy]) -> Behavior {
    Behavior { scale_down: rules(Select::Max, policies), ..Behavior::default() }
}

/// Events, newest first, ten seconds apart; the first half a minute ago.
fn events(counts: &[u32]) -> Vec<(Timestamp, u32)> {
    counts.iter().zip(1..).map(|(count, index)| (NOW.minus(Duration::from_secs(20 + 10 * index)), *count)).collect()
}

#[test]
fn scaling_with_rules() {
    struct Case(&'static str, Behavior, History, u32, u32, u32);
    let none = History::default;
    let (grown, shrunk) =
        (|counts: &[u32]| History::of(&[], &events(counts), &[]), |counts: &[u32]| History::of(&[], &[], &events(counts)));
    let disabled = |up_is: bool| {
        let off = rules(Select::Disabled, &[percent(100, 15)]);
        if up_is { Behavior { scale_up: off, ..Behavior::default() } } else { Behavior { scale_down: off, ..Behavior::default() } }
    };
    let least = Behavior {
        scale_up: rules(Select::Min, &[pods(5, 60), percent(100, 60)]),
        scale_down: rules(Select::Min, &[pods(5, 60), percent(50, 60)]),
    };
    let cases = [
        Case("default behavior, up", Behavior::default(), none(), 10, 50, 20),
        Case("default behavior, up from few", Behavior::default(), none(), 1, 50, 5),
        Case("default behavior, down", Behavior::default(), none(), 10, 5, 5),
        Case("100 pods or 100 %", up(&[pods(100, 60), percent(100, 60)]), none(), 10, 500, 110),
        Case("150 pods with events", up(&[pods(150, 120)]), grown(&[1, 5, 9]), 100, 500, 235),
        Case("200 % with events", up(&[percent(200, 120)]), grown(&[1, 5, 9]), 100, 500, 255),
        Case("events before the period do not count", up(&[pods(150, 25)]), grown(&[1, 5, 9]), 100, 500, 250),
        Case("more than the policy was added already", up(&[pods(10, 120)]), grown(&[1, 5, 9]), 100, 500, 100),
        Case("10 % down with events", down(&[percent(10, 120)]), shrunk(&[10, 10, 10]), 100, 0, 100),
        Case("20 pods down", down(&[pods(20, 60)]), none(), 100, 2, 80),
        Case("20 % down", down(&[percent(20, 60)]), none(), 100, 2, 80),
        Case("percent down cuts the fraction", down(&[percent(10, 60)]), none(), 5, 1, 4),
        Case("percent up rounds up", up(&[percent(10, 60)]), none(), 5, 10, 6),
        Case("down with events of either direction", down(&[pods(30, 120)]), History::of(&[], &events(&[4]), &events(&[10])), 100, 0, 76),
        Case("up disabled", disabled(true), none(), 10, 50, 10),
        Case("down disabled", disabled(false), none(), 10, 5, 10),
        Case("least change up", least.clone(), none(), 10, 50, 15),
        Case("least change down", least, none(), 8, 0, 4),
    ];
    for Case(name, behavior, history, current, desired, expected) in cases {
        let got = behavior.limit(&history, current, desired, Limits { min: 0, max: 1000 }, NOW);
        assert_eq!(got, expected, "{name}");
    }
}

#[test]
fn rules_keep_to_the_limits() {
    let limits = Limits { min: 3, max: 12 };
    assert_eq!(Behavior::default().limit(&History::default(), 10, 50, limits, NOW), 12);
    assert_eq!(Behavior::default().limit(&History::default(), 10, 1, limits, NOW), 3);
}

#[test]
fn convert_desired_replicas_with_rules() {
    let check = |current, desired, min, max, expected| assert_eq!(convert(current, desired, Limits { min, max }), expected);
    check(3, 1000, 1, 2000, 6);
    check(1, 1000, 1, 2000, 4);
    check(3, 2, 1, 1, 1);
    check(3, 5, 1, 4, 4);
    check(10, 1, 3, 20, 3);
    check(u32::MAX, 7, 1, 20, 7);
}

#[test]
fn normalize_desired_replicas() {
    let check = |name: &str, recommendations: &[(f64, u32)], desired, expected| {
        let entries: Vec<_> = recommendations.iter().map(|(ago, replicas)| (minutes_ago(*ago), *replicas)).collect();
        let mut history = History::of(&entries, &[], &[]);
        let limits = Limits { min: 0, max: 100 };
        assert_eq!(normalize(&mut history, 100, desired, Duration::from_secs(300), limits, NOW), expected, "{name}");
    };
    check("empty", &[], 5, 5);
    check("stabilized", &[(2.0, 4), (1.0, 5)], 3, 5);
    check("no use since it rises", &[(2.0, 4), (1.0, 5)], 6, 6);
    check("old recommendations do not count", &[(10.0, 9), (1.0, 5)], 3, 5);
    check("all are old", &[(10.0, 9), (9.0, 7)], 3, 3);
}

#[test]
fn normalize_desired_replicas_with_behavior() {
    let check = |name: &str, recommendations: &[(f64, u32)], windows: (u64, u64), current, desired, expected| {
        let entries: Vec<_> = recommendations.iter().map(|(ago, replicas)| (minutes_ago(*ago), *replicas)).collect();
        let mut history = History::of(&entries, &[], &[]);
        let mut behavior = up(&[pods(1000, 15)]);
        behavior.scale_up.stabilization_window = Span::seconds(windows.0);
        behavior.scale_down.stabilization_window = Span::seconds(windows.1);
        assert_eq!(behavior.normalize(&mut history, current, desired, Limits { min: 0, max: 1000 }, NOW), expected, "{name}");
    };
    check("empty, up", &[], (300, 300), 10, 20, 20);
    check("empty, down", &[], (300, 300), 10, 5, 5);
    check("held up by what was recommended", &[(100.0, 2), (3.0, 3)], (300, 300), 2, 1, 2);
    check("the lowest of the window goes up", &[(2.0, 4), (1.0, 6)], (300, 300), 2, 9, 4);
    check("the highest of the window goes down", &[(2.0, 4), (1.0, 6)], (300, 300), 9, 2, 6);
    check("no window up", &[(2.0, 4), (1.0, 6)], (0, 300), 2, 9, 9);
    check("no window down", &[(2.0, 4), (1.0, 6)], (300, 0), 9, 2, 2);
}

#[test]
fn what_is_remembered_is_what_the_metrics_asked_for() {
    let behavior = Behavior::default();
    let mut history = History::default();
    let limits = Limits { min: 1, max: 100 };
    assert_eq!(behavior.normalize(&mut history, 10, 50, limits, NOW), 20);
    let later = NOW.plus(Duration::from_secs(15));
    assert_eq!(behavior.normalize(&mut history, 20, 3, limits, later), 20, "the 50 of before hold it");
    let later = NOW.plus(Duration::from_secs(300));
    assert_eq!(behavior.normalize(&mut history, 20, 3, limits, later), 3);
}

/// What was asked for within 300 s before sync `index` of every 15 s, it included; what is exactly so old counts where `inclusive`.
fn recent(desired: &[u32], index: usize, inclusive: bool) -> impl Iterator<Item = u32> {
    let syncs = if inclusive { 20 } else { 19 };
    desired[index.saturating_sub(syncs)..=index].iter().copied()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stabilization_holds_without_behavior(desired in proptest::collection::vec(0..60u32, 1..80)) {
        let (mut history, mut current, limits) = (History::default(), 5, Limits { min: 1, max: 40 });
        for index in 0..desired.len() {
            let now = NOW.plus(Duration::from_secs(15 * index as u64));
            let got = normalize(&mut history, current, desired[index], Duration::from_secs(300), limits, now);
            let highest = recent(&desired, index, true).max().expect("the last");
            prop_assert_eq!(got, convert(current, highest, limits));
            current = got;
        }
    }

    #[test]
    fn stabilization_and_rates_hold_with_behavior(desired in proptest::collection::vec(0..60u32, 1..80)) {
        let (mut history, mut current, limits) = (History::default(), 5, Limits { min: 1, max: 40 });
        for index in 0..desired.len() {
            let now = NOW.plus(Duration::from_secs(15 * index as u64));
            let got = Behavior::default().normalize(&mut history, current, desired[index], limits, now);
            Behavior::default().record(&mut history, current, got, now);
            let highest = recent(&desired, index, false).max().expect("the last");
            prop_assert!(got >= current || got >= highest, "goes down below what was asked for lately");
            prop_assert!(got <= (2 * current).max(current + 4) && (limits.min..=limits.max).contains(&got));
            current = got;
        }
    }
}
