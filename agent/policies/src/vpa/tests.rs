use qscale_common::contract::{ReplicaCounts, Usage};
use qscale_common::time::Tick;

use super::histogram::*;
use super::recommender::*;
use super::updater::*;
use super::*;
use crate::fixtures;

const NOW: Timestamp = Timestamp(1_234_567_890_000);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MIB: i64 = 1 << 20;

#[test]
fn exponential_histogram_options() {
    let buckets = HistogramBuckets::exponential(500.0, 40.0, 1.5);
    assert_eq!(buckets.count(), 6);
    for (bucket, start) in [0.0, 40.0, 100.0, 190.0, 325.0, 527.5].into_iter().enumerate() {
        assert_eq!(buckets.start(bucket), start, "bucket {bucket}");
    }
    let finds = [(-1.0, 0), (0.0, 0), (39.99, 0), (40.0, 1), (99.99, 1), (100.0, 2), (189.99, 2), (190.0, 3), (900.0, 5), (1e9, 5)];
    for (value, bucket) in finds {
        assert_eq!(buckets.find(value), bucket, "{value}");
    }
    assert_eq!((cpu_buckets().count(), memory_buckets().count()), (176, 176));
}

#[test]
fn linear_histogram_options() {
    let buckets = HistogramBuckets::linear(5.0, 0.3);
    assert_eq!(buckets.count(), 18);
    assert_eq!((buckets.find(-1.0), buckets.find(0.0), buckets.find(0.29), buckets.find(1.3), buckets.find(100.0)), (0, 0, 0, 4, 17));
    assert!(buckets.start(0) == 0.0 && (buckets.start(17) - 5.1).abs() < 1e-12);
}

#[test]
fn percentiles() {
    let (buckets, mut histogram) = (HistogramBuckets::linear(10.0, 1.0), DecayingHistogram::default());
    for value in 1..=4 {
        histogram.add(&buckets, HOUR, f64::from(value), f64::from(value), NOW);
    }
    let expected = [
        (0.0, 2.0),
        (0.1, 2.0),
        (0.2, 3.0),
        (0.3, 3.0),
        (0.4, 4.0),
        (0.5, 4.0),
        (0.6, 4.0),
        (0.7, 5.0),
        (0.8, 5.0),
        (0.9, 5.0),
        (1.0, 5.0),
    ];
    for (percentile, end) in expected {
        assert_eq!(histogram.percentile(&buckets, percentile), end, "p{percentile}");
    }
    assert_eq!(DecayingHistogram::default().percentile(&buckets, 0.5), 0.0, "empty");
    let mut beyond = DecayingHistogram::default();
    beyond.add(&buckets, HOUR, 1e6, 1.0, NOW);
    assert_eq!(beyond.percentile(&buckets, 0.5), 10.0, "the last bucket has no end");
    beyond.subtract(&buckets, HOUR, 1e6, 1.0, NOW);
    assert!(beyond.is_empty());
}

#[test]
fn decaying_histogram_percentiles() {
    let (buckets, mut histogram) = (HistogramBuckets::linear(10.0, 1.0), DecayingHistogram::default());
    for value in 1..=4u32 {
        histogram.add(&buckets, HOUR, f64::from(value), f64::from(value), NOW.plus(HOUR * value));
    }
    let expected =
        [(0.0, 2.0), (0.02, 2.0), (0.03, 3.0), (0.1, 3.0), (0.11, 4.0), (0.34, 4.0), (0.35, 5.0), (0.5, 5.0), (0.75, 5.0), (1.0, 5.0)];
    for (percentile, end) in expected {
        assert_eq!(histogram.percentile(&buckets, percentile), end, "p{percentile}");
    }
}

#[test]
fn decaying_histogram_simple_decay() {
    let (buckets, mut histogram) = (HistogramBuckets::linear(10.0, 1.0), DecayingHistogram::default());
    histogram.add(&buckets, HOUR, 2.0, 1000.0, NOW);
    histogram.add(&buckets, HOUR, 1.0, 1.0, NOW.plus(HOUR * 20));
    assert_eq!(histogram.percentile(&buckets, 0.999), 2.0);
    assert_eq!(histogram.percentile(&buckets, 1.0), 3.0);
}

#[test]
fn percentile_out_of_bounds() {
    let (buckets, mut histogram) = (HistogramBuckets::linear(1.0, 0.1), DecayingHistogram::default());
    histogram.add(&buckets, HOUR, 0.1, 0.1, NOW);
    histogram.add(&buckets, HOUR, 0.2, 0.2, NOW);
    let close = |got: f64, expected: f64| assert!((got - expected).abs() < 1e-12, "{got}, not {expected}");
    close(histogram.percentile(&buckets, -0.1), 0.2);
    close(histogram.percentile(&buckets, 1.1), 0.3);
    histogram.add(&buckets, HOUR, 0.0, 0.1, NOW);
    histogram.add(&buckets, HOUR, 1.0, 0.2, NOW);
    close(histogram.percentile(&buckets, -0.1), 0.1);
    close(histogram.percentile(&buckets, 1.1), 1.0);
}

#[test]
fn empty_histogram() {
    const EPSILON: f64 = DecayingHistogram::EPSILON;
    let (buckets, mut histogram) = (HistogramBuckets::linear(1.0, 0.1), DecayingHistogram::default());
    assert!(histogram.is_empty());
    histogram.add(&buckets, HOUR, 0.1, EPSILON * 2.5, Timestamp(0));
    assert!(!histogram.is_empty());
    histogram.subtract(&buckets, HOUR, 0.1, EPSILON, Timestamp(0));
    assert!(!histogram.is_empty());
    histogram.subtract(&buckets, HOUR, 0.1, EPSILON, Timestamp(0));
    assert!(histogram.is_empty());
    histogram.add(&buckets, HOUR, 9.9, EPSILON * 3.0, Timestamp(0));
    histogram.add(&buckets, HOUR, 0.1, EPSILON * 0.3, Timestamp(0));
    assert!(!histogram.is_empty(), "what weighs next to nothing does not empty it");
    histogram.add(&buckets, HOUR, 999.9, EPSILON * 0.3, Timestamp(0));
    assert!(!histogram.is_empty());
}

#[test]
fn longterm_decay() {
    let (buckets, mut histogram) = (HistogramBuckets::linear(10.0, 1.0), DecayingHistogram::default());
    histogram.add(&buckets, HOUR, 2.0, 1.0, NOW);
    histogram.add(&buckets, HOUR, 1.0, 1.0, NOW.plus(HOUR * 101));
    assert_eq!(histogram.percentile(&buckets, 1.0), 2.0);
}

#[test]
fn decaying_histogram_outlives_its_exponent() {
    let (buckets, mut histogram) = (HistogramBuckets::linear(10.0, 1.0), DecayingHistogram::default());
    for (value, hours) in [(1.0, 0), (2.0, 1000), (3.0, 1001)] {
        histogram.add(&buckets, HOUR, value, 1.0, NOW.plus(HOUR * hours));
    }
    assert_eq!(histogram.percentile(&buckets, 0.0), 3.0, "what is a thousand half-lives old weighs nothing");
    assert_eq!(histogram.percentile(&buckets, 0.34), 4.0);
}

#[test]
fn confidence_multiplier() {
    let mut aggregate = Aggregate::default();
    for index in 1..=9u32 {
        aggregate.add_cpu(&Recommender::default(), [1.0], NOW.plus(2 * MINUTE * index));
    }
    let of = |interval| aggregate.confidence(interval);
    assert!((of(DAY) - 0.00625).abs() < 1e-12);
    assert_eq!(scaled(3140, confidence_factor(0.1, 2.0, of(DAY))), 907_460);
    assert_eq!(scaled(3_140_000_000, confidence_factor(0.1, 2.0, of(DAY))), 907_460_000_000);
    // With an interval of the test's own of 18 min.
    assert!((of(18 * MINUTE) - 0.5).abs() < 1e-12);
    assert_eq!(scaled(3140, confidence_factor(0.1, 2.0, of(18 * MINUTE))), 4521);
    assert_eq!(scaled(3_140_000_000, confidence_factor(0.1, 2.0, of(18 * MINUTE))), 4_521_600_000);
}

#[test]
fn confidence_multiplier_no_history() {
    let none = Aggregate::default().confidence(DAY);
    assert_eq!(scaled(3140, confidence_factor(1.0, 1.0, none)), 100_000_000_000_000, "the most that there is");
    assert_eq!(scaled(3140, confidence_factor(0.1, 2.0, none)), 100_000_000_000_000);
    assert_eq!(scaled(3140, confidence_factor(1.0, -1.0, none)), 0);
}

#[test]
fn percentile_estimator() {
    let (recommender, mut aggregate) =
        (Recommender { cpu_percentile: 0.2, memory_percentile: 0.5, margin: 0.0, ..Recommender::default() }, Aggregate::default());
    aggregate.add_cpu(&recommender, [1.0, 2.0, 3.0], NOW);
    for (days, bytes) in [(0, 1e9), (2, 2e9), (4, 3e9)] {
        aggregate.add_memory(&Recommender { half_life: DAY * 10_000, ..recommender }, bytes as i64, NOW.plus(DAY * days));
    }
    let Amounts { cpu_millicores, memory_bytes } = aggregate.recommend(&recommender, 1).target;
    assert!((cpu_millicores as f64 / 1000.0 - 1.0).abs() < 0.05, "{cpu_millicores}");
    assert!((memory_bytes as f64 / 2e9 - 1.0).abs() < 0.05, "{memory_bytes}");
}

#[test]
fn margin_estimator() {
    assert_eq!((3140 + scaled(3140, 0.1), 3_140_000_000 + scaled(3_140_000_000, 0.1)), (3454, 3_454_000_000));
}

#[test]
fn aggregate_container_usage_samples() {
    let (recommender, mut aggregate) = (Recommender::default(), Aggregate::default());
    let at = |halves: u32| NOW.plus(DAY / 2 * halves);
    assert!(aggregate.add_cpu(&recommender, [3.1], at(0)) && aggregate.add_memory(&recommender, 5, at(0)));
    assert!(aggregate.add_cpu(&recommender, [6.2], at(1)) && aggregate.add_memory(&recommender, 10, at(1)));
    assert!(aggregate.add_cpu(&recommender, [1.57], at(2)) && aggregate.add_memory(&recommender, 2, at(2)));
    assert!(!aggregate.add_cpu(&recommender, [1.0], at(2)), "out of order");
    assert!(!aggregate.add_cpu(&recommender, [-1.0], at(4)), "negative CPU");
    assert!(!aggregate.add_memory(&recommender, -1000, at(4)), "negative memory");
}

#[test]
fn confidence_of_the_bounds() {
    let check = |days: f64, upper: f64, lower: f64| {
        assert!((confidence_factor(1.0, 1.0, days) - upper).abs() < 1e-9 && (confidence_factor(0.001, -2.0, days) - lower).abs() < 1e-3);
    };
    check(1.0, 2.0, 0.998);
    check(1.0 / 1440.0, 1441.0, 0.168);
    assert_eq!(confidence_factor(0.001, -2.0, 0.0), 0.0, "without history the lower bound is nothing");
}

#[test]
fn min_resources_split_across_containers() {
    let target = |containers| Aggregate::default().recommend(&Recommender::default(), containers).target;
    assert_eq!(target(1), Amounts { cpu_millicores: 25, memory_bytes: 250 * MIB });
    assert_eq!(target(2), Amounts { cpu_millicores: 12, memory_bytes: 125 * MIB });
}

#[test]
fn margin_is_added_in_whole_amounts() {
    let mut aggregate = Aggregate::default();
    aggregate.add_cpu(&Recommender::default(), [1.0], NOW);
    let buckets = cpu_buckets();
    let base = (buckets.start(buckets.find(1.0) + 1) * 1000.0) as i64;
    let recommended = aggregate.recommend(&Recommender::default(), 1);
    assert_eq!(recommended.target.cpu_millicores, base + (base as f64 * 0.15) as i64);
    assert_eq!(recommended.lower.cpu_millicores, 25);
    assert_eq!(recommended.upper.cpu_millicores, 100_000_000_000_000, "without history anything may be needed");
}

#[test]
fn record_oom() {
    let need = |requested: i64, peak: i64| oom_need(&Recommender::default(), requested, peak);
    assert_eq!(need(1000 * MIB, 0), 1200 * MIB);
    assert_eq!(need(MIB, 0), 101 * MIB);
    assert_eq!(need(1000 * MIB, 3000 * MIB), 3600 * MIB);
    assert_eq!(need(500 * MIB, 0), 600 * MIB);
    assert_eq!(need(i64::MAX, 0), i64::MAX, "no sum wraps");
}

#[test]
fn one_peak_of_memory_counts_in_each_window() {
    let (recommender, buckets) = (Recommender::default(), memory_buckets());
    let end = |bytes: i64| buckets.start(buckets.find(bytes as f64) + 1) as i64;
    let mut aggregate = Aggregate::default();
    let upper = |aggregate: &Aggregate| {
        let all = Recommender { memory_percentile: 1.0, margin: 0.0, min_memory_bytes: 0, ..Recommender::default() };
        aggregate.recommend(&all, 1).target.memory_bytes
    };
    for (hours, mib, expected) in [(0, 100, 100), (1, 50, 100), (2, 300, 300), (3, 200, 300), (25, 50, 300)] {
        aggregate.add_memory(&recommender, mib * MIB, NOW.plus(HOUR * hours));
        assert_eq!(upper(&aggregate), end(expected * MIB), "after {hours} h");
    }
    aggregate.add_oom(&recommender, 1000 * MIB, NOW.plus(HOUR * 26));
    assert_eq!(upper(&aggregate), end(1200 * MIB));
    aggregate.add_oom(&recommender, 2000 * MIB, NOW.minus(DAY * 3));
    assert_eq!(upper(&aggregate), end(1200 * MIB), "a kill of long ago is passed over");
}

mod record_oom_cases {
    use super::*;

    /// The one peak that there is, and whether the last record was taken in.
    fn peak(aggregate: &Aggregate) -> i64 {
        let all = Recommender { memory_percentile: 1.0, margin: 0.0, min_memory_bytes: 0, ..Recommender::default() };
        aggregate.recommend(&all, 1).target.memory_bytes
    }

    fn end(mib: i64) -> i64 {
        let buckets = memory_buckets();
        buckets.start(buckets.find((mib * MIB) as f64) + 1) as i64
    }

    fn oom(aggregate: &mut Aggregate, mib: i64, at: Timestamp) -> bool {
        aggregate.add_oom(&Recommender::default(), mib * MIB, at)
    }

    fn used(mib: i64, at: Timestamp) -> Aggregate {
        let mut aggregate = Aggregate::default();
        assert!(aggregate.add_memory(&Recommender::default(), mib * MIB, at));
        aggregate
    }

    #[test]
    fn dont_run_away() {
        let mut aggregate = Aggregate::default();
        for (request, expected) in [(1000, 1200), (999, 1200), (999, 1200), (2000, 2400)] {
            assert!(oom(&mut aggregate, request, NOW));
            assert_eq!(peak(&aggregate), end(expected));
        }
    }

    #[test]
    fn maxed_with_known_sample() {
        let mut aggregate = used(3000, NOW);
        assert!(oom(&mut aggregate, 1000, NOW));
        assert_eq!(peak(&aggregate), end(3600));
    }

    #[test]
    fn discards_old_sample() {
        let mut aggregate = used(1000, NOW);
        assert!(!oom(&mut aggregate, 1000, NOW.minus(HOUR * 30)));
        assert_eq!(peak(&aggregate), end(1000));
        let hourly = Recommender { memory_window: HOUR, ..Recommender::default() };
        let mut aggregate = Aggregate::default();
        aggregate.add_memory(&hourly, 1000 * MIB, NOW);
        assert!(!aggregate.add_oom(&hourly, 1000 * MIB, NOW.minus(HOUR * 2)), "with an interval of its own");
    }

    #[test]
    fn in_new_window() {
        let mut aggregate = used(2000, NOW);
        assert!(oom(&mut aggregate, 2000, NOW.plus(DAY * 2)));
        assert_eq!(peak(&aggregate), end(2400));
    }

    #[test]
    fn fresh_oom_near_window_boundary_is_not_discarded() {
        let mut aggregate = used(100, NOW);
        assert!(aggregate.add_memory(&Recommender::default(), 2000 * MIB, NOW.plus(DAY)));
        assert!(oom(&mut aggregate, 1000, NOW.plus(DAY).minus(Duration::from_secs(1))));
        assert_eq!(peak(&aggregate), end(2400));
    }
}

mod priority_processor {
    use super::*;

    const ANY: i64 = i64::MAX;
    const MB: i64 = 1_000_000;

    /// A container with its requests (millicores, bytes), target and bounds.
    fn container(request: (i64, i64), target: (i64, i64), lower: (i64, i64), upper: (i64, i64)) -> (Amounts, Recommendation) {
        let of = |(cpu_millicores, memory_bytes)| Amounts { cpu_millicores, memory_bytes };
        (of(request), Recommendation { target: of(target), lower: of(lower), upper: of(upper) })
    }

    /// One without bounds.
    fn free(request: (i64, i64), target: (i64, i64)) -> (Amounts, Recommendation) {
        container(request, target, (0, 0), (ANY, ANY))
    }

    #[track_caller]
    fn check(name: &str, containers: &[(Amounts, Recommendation)], outside: bool, diff: f64) {
        let priority = Priority::of(containers, [true, true]);
        assert_eq!(priority.outside, outside, "{name}");
        assert!((priority.diff - diff).abs() < 1e-9, "{name}: {}", priority.diff);
    }

    #[test]
    fn get_update_priority() {
        let cpu = |request, target| free((request, 0), (target, 0));
        check("simple scale up", &[cpu(2000, 10_000)], false, 4.0);
        check("simple scale down", &[cpu(4000, 2000)], false, 0.5);
        check("no resource diff", &[cpu(2000, 2000)], false, 0.0);
        check("scale up on milliquanitites", &[cpu(10, 900)], false, 89.0);
        let outside = container((4000, 0), (10_000, 0), (6000, 0), (14_000, ANY));
        check("scale up outside recommended range", &[outside], true, 1.5);
        let outside = container((8000, 0), (2000, 0), (1000, 0), (3000, ANY));
        check("scale down outside recommended range", &[outside], true, 0.75);
        check("multiple resources, both scale up", &[free((3000, 10 * MB), (6000, 20 * MB))], false, 2.0);
        check("multiple resources, only one scale up", &[free((4000, 10 * MB), (2000, 20 * MB))], false, 1.5);
        check("multiple resources, both scale down", &[free((4000, 20 * MB), (2000, 10 * MB))], false, 1.0);
        let outside = container((4000, 20 * MB), (2000, 10 * MB), (1000, 5 * MB), (3000, 30 * MB));
        check("multiple resources, one outside recommended range", &[outside], true, 1.0);
        check("multiple containers, both scale up", &[cpu(1000, 4000), cpu(2000, 8000)], false, 3.0);
        check("multiple containers, both scale down", &[cpu(3000, 1000), cpu(7000, 2000)], false, 0.7);
        let below = container((2000, 0), (8000, 0), (3000, 0), (10_000, ANY));
        check("multiple containers, both scale up, one outside range", &[cpu(1000, 4000), below], true, 3.0);
        let two = [free((6000, 10 * MB), (8000, 20 * MB)), free((4000, 30 * MB), (7000, 30 * MB))];
        check("multiple containers, multiple resources", &two, false, 0.75);
        check("no recommendation for container", &[], false, 0.0);
        assert_eq!(Priority::of(&[free((4000, 10 * MB), (2000, 20 * MB))], [false, true]).diff, 1.0, "a resource that is not controlled");
    }

    #[test]
    fn update_of_pods() {
        let updater = Updater { min_change: 0.5, ..Updater::default() };
        let check = |name: &str, updater: Updater, priority: (bool, f64), age: Duration, oom_after: Option<Duration>, expected| {
            let (outside, diff) = priority;
            assert_eq!(updater.eligible(&Priority { outside, diff }, age, oom_after), expected, "{name}");
        };
        check("TestUpdateNotRequired", Updater::default(), (false, 0.0), 24 * HOUR, None, false);
        check("TestUpdateLonglivedPods 1", updater, (false, 0.25), 13 * HOUR, None, false);
        check("TestUpdateLonglivedPods 2", updater, (false, 4.0), 13 * HOUR, None, true);
        check("TestUpdateLonglivedPods 3", updater, (true, 0.25), 13 * HOUR, None, true);
        check("TestUpdateShortlivedPods 1", updater, (false, 0.25), 11 * HOUR, None, false);
        check("TestUpdateShortlivedPods 2", updater, (false, 0.0), 11 * HOUR, None, false);
        check("TestUpdateShortlivedPods 3", updater, (true, 0.9), 11 * HOUR, None, true);
        check("TestUpdatePodWithQuickOOM", updater, (false, 0.25), 11 * HOUR, Some(2 * MINUTE), true);
        check("TestDontUpdatePodWithQuickOOMNoResourceChange", Updater::default(), (false, 0.0), 11 * HOUR, Some(2 * MINUTE), false);
        check("TestDontUpdatePodWithOOMAfterLongRun", updater, (false, 0.0), 11 * HOUR, Some(57 * MINUTE), false);
        check("killed, the same again, outside of its range", updater, (true, 0.0), 11 * HOUR, Some(2 * MINUTE), false);
    }

    #[test]
    fn update_conditions() {
        let (updater, inside) = (Updater::default(), Priority { outside: false, diff: 0.2 });
        assert!(updater.eligible(&Priority { outside: true, ..inside }, MINUTE, None), "outside of the range at once");
        assert!(!updater.eligible(&inside, 11 * HOUR, None), "within the range not before its time");
        assert!(updater.eligible(&inside, 12 * HOUR, None), "long-lived");
        assert!(!updater.eligible(&Priority { diff: 0.09, ..inside }, 48 * HOUR, None), "a change that does not matter");
        assert!(updater.eligible(&inside, MINUTE, Some(9 * MINUTE)), "OOM-killed soon after its start");
        assert!(!updater.eligible(&inside, MINUTE, Some(11 * MINUTE)), "OOM-killed long after its start");
        assert!(!updater.eligible(&Priority { diff: 0.0, ..inside }, MINUTE, Some(MINUTE)), "killed, and nothing to change");
    }
}

fn at(minute: u64, allocation: Allocation, cpu: Option<f64>, memory: f64) -> State {
    let mut state = State { allocation: Some(allocation), ..fixtures::state() };
    (state.tick, state.tick_length_ms) = (Tick(28_000_000 + minute), 60_000);
    let all = allocation.replicas;
    state.replicas = Some(ReplicaCounts::all(all));
    state.windows.tick.cpu_millicores = cpu.map(|mean| Usage { mean, max: mean });
    state.windows.tick.memory_mib = Some(Usage { mean: memory, max: memory });
    state
}

fn run(policy: &Vpa, mut allocation: Allocation, load: impl Fn(u64) -> (Option<f64>, f64), minutes: u64) -> Vec<Allocation> {
    let mut memory = Memory::default();
    let played = (0..minutes).map(|minute| {
        let (cpu, held) = load(minute);
        let decision = policy.decide(&at(minute, allocation, cpu, held), &mut memory, Timestamp(0), &mut fixtures::rng());
        allocation = decision.wanted().unwrap_or(allocation);
        allocation
    });
    played.collect()
}

#[test]
fn resizes_up_soon_and_down_late() {
    // A replica that needs 400m of 200m: the lower bound passes the request within a few minutes, the upper one falls
    // below it after days only.
    let short = run(&Vpa::default(), Allocation::new(2, 200, 256), |_| (Some(400.0), 100.0), 30);
    let first = short.iter().position(|allocation| allocation.cpu_millicores.0 > 400).expect("raised");
    assert!(first < 15, "{first}");
    let ample = run(&Vpa::default(), Allocation::new(2, 1000, 256), |_| (Some(100.0), 100.0), 600);
    assert!(ample[60].cpu_millicores.0 == 1000);
    assert!(ample.last().expect("some").cpu_millicores.0 < 200, "{:?}", ample.last());
}

#[test]
fn learns_from_states_that_come_more_often_than_it_decides() {
    let (mut memory, mut allocation) = (Memory::default(), Allocation::new(2, 200, 256));
    let mut raised = None;
    for step in 0..12 * 30 {
        let mut state = at(0, allocation, Some(400.0), 100.0);
        (state.tick, state.tick_length_ms) = (Tick(336_000_000 + step), 5_000);
        let decision = Vpa::default().decide(&state, &mut memory, Timestamp(0), &mut fixtures::rng());
        allocation = decision.wanted().unwrap_or(allocation);
        if allocation.cpu_millicores.0 > 400 {
            raised.get_or_insert(step / 12);
        }
    }
    let minute = raised.expect("raised");
    assert!(minute < 15, "minute {minute}");
}

#[test]
fn one_replica_alone_is_not_touched() {
    let kept = Allocation::new(1, 200, 256);
    assert!(run(&Vpa::default(), kept, |_| (Some(400.0), 100.0), 60).iter().all(|allocation| *allocation == kept));
    let one = Vpa { min_replicas: 1, ..Vpa::default() };
    assert_ne!(run(&one, kept, |_| (Some(400.0), 100.0), 60).last(), Some(&kept));
}

#[test]
fn changes_only_controlled_resources() {
    let from = Allocation::new(2, 200, 64);
    let last = |controlled| *run(&Vpa { controlled, ..Vpa::default() }, from, |_| (Some(400.0), 60.0), 60).last().expect("some");
    let (cpu, memory) = (last(Controlled::Cpu), last(Controlled::Memory));
    assert!(cpu.cpu_millicores.0 > 400 && cpu.memory_mib.0 == 64, "{cpu}");
    assert!(memory.cpu_millicores.0 == 200 && memory.memory_mib.0 == 250, "{memory}");
}

#[test]
fn an_out_of_memory_kill_raises_memory_at_once() {
    let (mut memory, allocation) = (Memory::default(), Allocation::new(2, 200, 400));
    let decide = |state: &State, memory: &mut Memory| Vpa::default().decide(state, memory, Timestamp(0), &mut fixtures::rng());
    for minute in 0..5 {
        assert_eq!(decide(&at(minute, allocation, Some(150.0), 300.0), &mut memory).wanted(), None);
    }
    let mut killed = at(5, allocation, Some(150.0), 300.0);
    killed.windows.tick.oom_kills = 1;
    let wanted = decide(&killed, &mut memory).wanted().expect("more memory");
    assert!(wanted.memory_mib.0 >= 500, "{wanted}");
}

#[test]
fn the_mode_controls_the_application() {
    let from = Allocation::new(2, 200, 256);
    let changes = |update_mode| {
        let played = run(&Vpa { update_mode, ..Vpa::default() }, from, |minute| (Some(400.0 + minute as f64 * 5.0), 100.0), 120);
        played.windows(2).filter(|pair| pair[0] != pair[1]).count() + usize::from(played[0] != from)
    };
    assert_eq!((changes(UpdateMode::Off), changes(UpdateMode::Initial)), (0, 1));
    assert!(changes(UpdateMode::Auto) > 1);
}

#[test]
fn holds_where_nothing_was_measured() {
    let kept = Allocation::new(2, 200, 256);
    assert!(run(&Vpa::default(), kept, |_| (None, 0.0), 60).iter().all(|allocation| *allocation == kept));
}

#[test]
fn a_resource_without_measurements_keeps_its_request() {
    let policy = Vpa { min_replicas: 1, interval: Span::seconds(60), min_memory_mib: Mebibytes(100), ..Vpa::default() };
    let cpu_only = run(&policy, Allocation::new(1, 200, 256), |_| (Some(400.0), 0.0), 60);
    assert!(cpu_only.iter().all(|allocation| allocation.memory_mib.0 == 256), "{cpu_only:?}");
    assert!(cpu_only.last().expect("some").cpu_millicores.0 > 400, "{cpu_only:?}");
    let memory_only = run(&policy, Allocation::new(1, 150, 64), |_| (None, 200.0), 60);
    assert_eq!(memory_only.last().map(|allocation| (allocation.cpu_millicores.0, allocation.memory_mib.0 > 200)), Some((150, true)));
    let cpu = Vpa { controlled: Controlled::Cpu, ..policy };
    let mut memory = Memory::default();
    let held = cpu.decide(&at(0, Allocation::new(1, 10, 64), None, 200.0), &mut memory, Timestamp(0), &mut fixtures::rng());
    assert_eq!(held, Decision::hold(HoldReason::NoMeasurement, "no CPU measurement yet"));
}

#[test]
fn an_out_of_memory_kill_raises_memory_without_measurements_of_cpu() {
    let (mut memory, allocation) = (Memory::default(), Allocation::new(2, 200, 400));
    let mut killed = at(0, allocation, None, 390.0);
    killed.windows.tick.oom_kills = 3;
    let decision = Vpa::default().decide(&killed, &mut memory, Timestamp(0), &mut fixtures::rng());
    let wanted = decision.wanted().expect("more memory");
    assert!(wanted.memory_mib.0 >= 500 && wanted.cpu_millicores.0 == 200, "{wanted}");
}
