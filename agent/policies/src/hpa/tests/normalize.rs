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

fn rules(select_policy: Select, policies: &[RatePolicy]) -> ScalingRules {
    ScalingRules { stabilization_window: Span::seconds(300), select_policy, policies: policies.into(), tolerance: None }
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
    struct Case(&'static str, Behavior, ScalingHistory, u32, u32, u32);
    let none = ScalingHistory::default;
    let (grown, shrunk) =
        (|counts: &[u32]| ScalingHistory::of(&[], &events(counts), &[]), |counts: &[u32]| ScalingHistory::of(&[], &[], &events(counts)));
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
        Case(
            "down with events of either direction",
            down(&[pods(30, 120)]),
            ScalingHistory::of(&[], &events(&[4]), &events(&[10])),
            100,
            0,
            76,
        ),
        Case("up disabled", disabled(true), none(), 10, 50, 10),
        Case("down disabled", disabled(false), none(), 10, 5, 10),
        Case("least change up", least.clone(), none(), 10, 50, 15),
        Case("least change down", least, none(), 8, 0, 4),
    ];
    for Case(name, behavior, history, current, desired, expected) in cases {
        let got = behavior.limit(&history, current, desired, ReplicaBounds { min: 0, max: 1000 }, NOW);
        assert_eq!(got, expected, "{name}");
    }
}

/// Rules as in the upstream tests: a limit in pods and one in percent, each with its period; a limit of zero is absent.
fn made((pods_a_period, period): (u32, u64), (share, share_period): (u32, u64), window: u64) -> ScalingRules {
    let policies = [(pods_a_period, pods(pods_a_period, period)), (share, percent(share, share_period))];
    ScalingRules {
        stabilization_window: Span::seconds(window),
        policies: policies.into_iter().filter_map(|(value, policy)| (value > 0).then_some(policy)).collect(),
        ..rules(Select::Max, &[])
    }
}

/// Events in the middle of equal parts of `seconds`, oldest first.
fn uniform(counts: &[u32], seconds: u64) -> Vec<(Timestamp, u32)> {
    let part = seconds as f64 / counts.len() as f64;
    let at = |index: usize| NOW.minus(Duration::from_secs((seconds as f64 - part * (index as f64 + 0.5)) as u64));
    counts.iter().enumerate().map(|(index, count)| (at(index), *count)).collect()
}

#[test]
fn test_scaling_with_rules() {
    /// Name, rules up and down where they are not the default's, events up and down, least, most, current, desired, expected.
    struct Case(&'static str, [Option<ScalingRules>; 2], Events, (u32, u32), (u32, u32), u32);
    type Events = [&'static [u32]; 2];
    let (up, down) = (|rules: ScalingRules| [Some(rules), None], |rules: ScalingRules| [None, Some(rules)]);
    let (none, grown, shrunk): (Events, Events, Events) = ([&[], &[]], [&[1, 5, 9], &[]], [&[], &[1, 5, 9]]);
    let wide = (1, 1000);
    let cases = [
        Case("prenormalized desired replicas within range", [None, None], none, (3, 8), (5, 7), 7),
        Case("prenormalized desired replicas < minReplicas", [None, None], none, (2, 8), (3, 1), 2),
        Case("prenormalized within range when minReplicas is 0", [None, None], none, (0, 10), (1, 0), 0),
        Case("maxReplicas is the limit because maxReplicas < scaleUpLimit", [None, None], none, (1, 10), (20, 1000), 10),
        Case("desired replica count is more than the maximum", [None, None], none, (100, 150), (100, 1000), 150),
        Case("scaleUpLimit is the limit with user policies", up(made((0, 0), (1, 60), 0)), none, (1, 2000), (3, 1000), 4),
        Case("scaleDownLimit is the limit with user policies", down(made((20, 60), (0, 0), 0)), none, (3, 2000), (1000, 3), 980),
        Case("scaleUp with default behavior", [None, None], none, wide, (10, 50), 20),
        Case("scaleUp with pods policy larger than percent", up(made((100, 60), (100, 60), 0)), none, wide, (10, 500), 110),
        Case("scaleUp with percent policy larger than pods", up(made((2, 60), (100, 60), 0)), none, wide, (10, 500), 20),
        Case("scaleUp with large pod policy", up(made((100, 60), (0, 0), 0)), none, wide, (10, 50), 50),
        Case("scaleUp with large percent policy", up(made((10_000, 60), (0, 0), 0)), none, wide, (10, 50), 50),
        Case("scaleUp with pod policy limitation", up(made((30, 60), (0, 0), 0)), none, wide, (10, 50), 40),
        Case("scaleUp with percent policy limitation", up(made((0, 0), (200, 60), 0)), none, wide, (10, 50), 30),
        Case("scaleDown with percent policy larger than pod", down(made((20, 60), (1, 60), 300)), none, wide, (100, 2), 80),
        Case("scaleDown with pod policy larger than percent", down(made((2, 60), (1, 60), 300)), none, wide, (100, 2), 98),
        Case("scaleDown with MinReplicas and large pod policy", down(made((100, 60), (0, 0), 300)), none, wide, (10, 0), 1),
        Case("scaleDown with MinReplicas and large percent policy", down(made((0, 0), (100, 60), 300)), none, (5, 1000), (10, 2), 5),
        Case("scaleDown with pod policy limitation", down(made((5, 60), (0, 0), 300)), none, wide, (10, 2), 5),
        Case("scaleDown with percent policy limitation", down(made((0, 0), (50, 60), 300)), none, wide, (10, 5), 5),
        Case("scaleUp, MaxReplicas, large pod policy, events", up(made((300, 60), (0, 0), 0)), grown, (1, 200), (100, 500), 200),
        Case("scaleUp, MaxReplicas, large percent policy, events", up(made((0, 0), (10_000, 60), 0)), grown, (1, 200), (100, 500), 200),
        Case("scaleUp with a lot of recent scale up events", up(made((5, 120), (0, 0), 0)), grown, wide, (100, 500), 100),
        Case("scaleUp with pod policy and previous events", up(made((150, 120), (0, 0), 0)), grown, wide, (100, 500), 235),
        Case("scaleUp with percent policy and previous events", up(made((0, 0), (200, 120), 0)), grown, wide, (100, 500), 255),
        Case("scaleDown with default policy and previous events", [None, None], shrunk, wide, (10, 5), 5),
        Case("scaleDown, MinReplicas=nil, large pod policy, events", down(made((115, 120), (0, 0), 300)), shrunk, wide, (100, 0), 1),
        Case("scaleDown, MinReplicas, large pod policy, events", down(made((130, 120), (0, 0), 300)), shrunk, (5, 1000), (100, 0), 5),
        Case("scaleDown, MinReplicas, large percent policy, events", down(made((0, 0), (100, 120), 300)), shrunk, (5, 1000), (100, 2), 5),
        Case("scaleDown with pod policy limitation and events", down(made((5, 120), (0, 0), 300)), shrunk, wide, (100, 2), 100),
        Case(
            "scaleDown with percent policy limitation and events",
            down(made((0, 0), (50, 120), 300)),
            [&[], &[2, 4, 6]],
            wide,
            (100, 0),
            56,
        ),
        Case(
            "previous events preventing further scale down",
            down(made((0, 0), (10, 120), 300)),
            [&[], &[10, 10, 10]],
            wide,
            (100, 0),
            100,
        ),
        Case(
            "previous events still allowing more scale down",
            down(made((0, 0), (1000, 120), 300)),
            [&[], &[10, 10, 10]],
            wide,
            (10, 5),
            5,
        ),
        Case("events for one behavior for up", up(made((1000, 60), (0, 0), 0)), [&[8, 12, 9, 11], &[]], wide, (100, 200), 200),
        Case("events, two policies for up", up(made((1000, 120), (100, 60), 0)), [&[8, 12, 9, 11], &[]], wide, (100, 200), 200),
        Case("events outdated, two policies for up", up(made((1000, 30), (100, 60), 0)), [&[8, 12, 9, 11], &[]], wide, (100, 200), 200),
        Case("events for one behavior for down", down(made((1000, 60), (0, 0), 300)), [&[], &[8, 12, 9, 11]], wide, (100, 5), 5),
        Case("events, two policies for down", down(made((1000, 120), (100, 60), 300)), [&[], &[8, 12, 9, 11]], wide, (100, 5), 5),
        Case("events outdated, two policies for down", down(made((1000, 30), (100, 60), 300)), [&[], &[8, 12, 9, 11]], wide, (100, 5), 5),
    ];
    for Case(name, [up, down], [ups, downs], (min, max), (current, desired), expected) in cases {
        let default = Behavior::default();
        let behavior = Behavior { scale_up: up.unwrap_or(default.scale_up), scale_down: down.unwrap_or(default.scale_down) };
        let history = ScalingHistory::of(&[], &uniform(ups, 120), &uniform(downs, 120));
        assert_eq!(behavior.limit(&history, current, desired, ReplicaBounds { min, max }, NOW), expected, "{name}");
    }
}

#[test]
fn limits_of_rate_with_the_least_change() {
    let least = rules(Select::Min, &[pods(2, 60), percent(50, 60)]);
    let behavior = Behavior { scale_up: least.clone(), scale_down: least };
    let limit = |current, desired| behavior.limit(&ScalingHistory::default(), current, desired, ReplicaBounds { min: 0, max: 1000 }, NOW);
    assert_eq!(limit(1, 1000), 2, "TestCalculateScaleUpLimitWithScalingRules");
    assert_eq!(limit(5, 0), 3, "TestCalculateScaleDownLimitWithBehaviors");
}

#[test]
fn test_store_scale_events() {
    /// Name, events before by age, rules, change within 60 s before, changes within the rules' longest period after five more were stored.
    struct Case(&'static str, &'static [(u32, u64)], ScalingRules, i64, u32);
    let two = || made((10, 60), (100, 60), 0);
    let cases = [
        Case("empty entries with two-policy-behavior", &[], two(), 0, 5),
        Case("one outdated entry to be replaced with behavior", &[(7, 61)], two(), 0, 5),
        Case("one actual entry to be not touched with behavior", &[(7, 58)], two(), 7, 12),
        Case("two entries, one of them to be replaced", &[(7, 61), (6, 59)], made((10, 60), (0, 0), 0), 6, 11),
        Case("policies with different periods", &[(8, 29), (6, 59), (7, 61), (9, 61)], made((10, 60), (100, 30), 0), 14, 19),
        Case("two entries, both actual", &[(7, 58), (6, 59)], made((10, 120), (100, 30), 0), 13, 18),
    ];
    for Case(name, before, rules, change, after) in cases {
        let events: Vec<_> = before.iter().map(|(count, ago)| (NOW.minus(Duration::from_secs(*ago)), *count)).collect();
        let longest = rules.policies.iter().map(|policy| policy.period).max().expect("some").0.as_secs();
        let behavior = Behavior { scale_up: rules.clone(), scale_down: rules };
        for grows in [true, false] {
            let mut history = if grows { ScalingHistory::of(&[], &events, &[]) } else { ScalingHistory::of(&[], &[], &events) };
            let sign = if grows { -1 } else { 1 };
            let changed = |history: &ScalingHistory, seconds| sign * history.changed_within(Duration::from_secs(seconds), NOW);
            assert_eq!(changed(&history, 60), change, "{name}");
            behavior.record(&mut history, 10, if grows { 15 } else { 5 }, NOW);
            assert_eq!(changed(&history, longest), i64::from(after), "{name}");
        }
    }
}

#[test]
fn test_normalize_desired_replicas() {
    let check = |name: &str, recommendations: &[(f64, u32)], desired, expected, length| {
        let entries: Vec<_> = recommendations.iter().map(|(ago, replicas)| (minutes_ago(*ago), *replicas)).collect();
        let mut history = ScalingHistory::of(&entries, &[], &[]);
        let got = normalize(&mut history, 100, desired, Duration::from_secs(300), ReplicaBounds { min: 0, max: 100 }, NOW);
        assert_eq!(got, expected, "{name}");
        assert!(history.recommended() <= length, "{name}");
    };
    check("empty log", &[], 5, 5, 1);
    check("stabilize", &[(2.0, 4), (1.0, 5)], 3, 5, 3);
    check("no stabilize", &[(2.0, 1), (1.0, 2)], 3, 3, 3);
    check("no stabilize - old recommendations", &[(10.0, 10), (9.0, 9)], 3, 3, 2);
    check("stabilize - old recommendations", &[(10.0, 10), (1.0, 4), (2.0, 5), (9.0, 9)], 3, 5, 4);
}

#[test]
fn test_normalize_desired_replicas_with_behavior() {
    let check = |name: &str, recommendations: &[(f64, u32)], current, desired, (up, down): (u64, u64), expected| {
        let entries: Vec<_> = recommendations.iter().map(|(ago, replicas)| (minutes_ago(*ago), *replicas)).collect();
        let free = |window| ScalingRules {
            stabilization_window: Span::seconds(window),
            ..rules(Select::Max, &[pods(1000, 15), percent(100, 15)])
        };
        let behavior = Behavior { scale_up: free(up), scale_down: free(down) };
        let got =
            behavior.normalize(&mut ScalingHistory::of(&entries, &[], &[]), current, desired, ReplicaBounds { min: 0, max: 1000 }, NOW);
        assert_eq!(got, expected, "{name}");
    };
    let two: &[(f64, u32)] = &[(2.0, 4), (1.0, 5)];
    check("empty recommendations for scaling down", &[], 100, 5, (0, 0), 5);
    check("simple scale down stabilization", two, 100, 3, (0, 180), 5);
    check("simple scale up stabilization", two, 1, 7, (300, 0), 4);
    check("no scale down stabilization", &[(2.0, 1), (1.0, 2)], 100, 3, (300, 0), 3);
    check("no scale up stabilization", two, 1, 3, (0, 300), 3);
    check("no scale down stabilization, old ones", &[(10.0, 10), (9.0, 9)], 100, 3, (0, 0), 3);
    check("no scale up stabilization, old ones", &[(10.0, 10), (9.0, 9)], 1, 100, (0, 0), 100);
    let four: &[(f64, u32)] = &[(10.0, 10), (1.0, 4), (2.0, 5), (9.0, 9)];
    check("scale down stabilization, some obsolete", four, 100, 3, (0, 180), 5);
    let four: &[(f64, u32)] = &[(100.0, 10), (1.0, 6), (2.0, 5), (3.0, 9)];
    check("scale up stabilization, some obsolete", four, 1, 100, (300, 0), 5);
}

#[test]
fn test_convert_desired_replicas_with_rules() {
    let cases = [
        ("within range", 5, 7, (3, 8), 7),
        ("desired < minReplicas", 3, 1, (2, 8), 2),
        ("desired zeroed within range", 1, 0, (0, 10), 0),
        ("maxReplicas < scaleUpLimit", 20, 1000, (1, 10), 10),
        ("scaleUpLimit < maxReplicas", 3, 1000, (1, 2000), 6),
    ];
    for (name, current, desired, (min, max), expected) in cases {
        assert_eq!(convert(current, desired, ReplicaBounds { min, max }), expected, "{name}");
    }
}

#[test]
fn rules_keep_to_the_limits() {
    let limits = ReplicaBounds { min: 3, max: 12 };
    assert_eq!(Behavior::default().limit(&ScalingHistory::default(), 10, 50, limits, NOW), 12);
    assert_eq!(Behavior::default().limit(&ScalingHistory::default(), 10, 1, limits, NOW), 3);
}

#[test]
fn convert_desired_replicas_with_rules() {
    let check = |current, desired, min, max, expected| assert_eq!(convert(current, desired, ReplicaBounds { min, max }), expected);
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
        let mut history = ScalingHistory::of(&entries, &[], &[]);
        let limits = ReplicaBounds { min: 0, max: 100 };
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
        let mut history = ScalingHistory::of(&entries, &[], &[]);
        let mut behavior = up(&[pods(1000, 15)]);
        behavior.scale_up.stabilization_window = Span::seconds(windows.0);
        behavior.scale_down.stabilization_window = Span::seconds(windows.1);
        assert_eq!(behavior.normalize(&mut history, current, desired, ReplicaBounds { min: 0, max: 1000 }, NOW), expected, "{name}");
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
fn the_history_records_the_unlimited_recommendation() {
    let behavior = Behavior::default();
    let mut history = ScalingHistory::default();
    let limits = ReplicaBounds { min: 1, max: 100 };
    assert_eq!(behavior.normalize(&mut history, 10, 50, limits, NOW), 20);
    let later = NOW.plus(Duration::from_secs(15));
    assert_eq!(behavior.normalize(&mut history, 20, 3, limits, later), 20, "the 50 of before hold it");
    let later = NOW.plus(Duration::from_secs(300));
    assert_eq!(behavior.normalize(&mut history, 20, 3, limits, later), 3);
}

/// Recommendations within 300 s before sync `index` of every 15 s; `inclusive` counts one that is exactly 300 s old.
fn recent(desired: &[u32], index: usize, inclusive: bool) -> impl Iterator<Item = u32> {
    let syncs = if inclusive { 20 } else { 19 };
    desired[index.saturating_sub(syncs)..=index].iter().copied()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stabilization_holds_without_behavior(desired in proptest::collection::vec(0..60u32, 1..80)) {
        let (mut history, mut current, limits) = (ScalingHistory::default(), 5, ReplicaBounds { min: 1, max: 40 });
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
        let (mut history, mut current, limits) = (ScalingHistory::default(), 5, ReplicaBounds { min: 1, max: 40 });
        for index in 0..desired.len() {
            let now = NOW.plus(Duration::from_secs(15 * index as u64));
            let got = Behavior::default().normalize(&mut history, current, desired[index], limits, now);
            Behavior::default().record(&mut history, current, got, now);
            let highest = recent(&desired, index, false).max().expect("the last");
            prop_assert!(got >= current || got >= highest, "below the recommendations of the window");
            prop_assert!(got <= (2 * current).max(current + 4) && (limits.min..=limits.max).contains(&got));
            current = got;
        }
    }
}
