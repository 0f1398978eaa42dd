use qscale_common::contract::{ReplicaCounts, Usage};
use qscale_common::time::Tick;
use qscale_common::units::Replicas;

use super::histogram::*;
use super::recommender::*;
use super::updater::*;
use super::*;
use crate::sample;

const NOW: Timestamp = Timestamp(1_234_567_890_000);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MIB: i64 = 1 << 20;

#[test]
fn exponential_histogram_options() {
    let buckets = Buckets::exponential(500.0, 40.0, 1.5);
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
    let buckets = Buckets::linear(5.0, 0.3);
    assert_eq!(buckets.count(), 18);
    assert_eq!((buckets.find(0.0), buckets.find(0.29), buckets.find(1.0), buckets.find(100.0)), (0, 0, 3, 17));
}

#[test]
fn percentiles() {
    let (buckets, mut histogram) = (Buckets::linear(10.0, 1.0), Histogram::default());
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
    assert_eq!(Histogram::default().percentile(&buckets, 0.5), 0.0, "empty");
    let mut beyond = Histogram::default();
    beyond.add(&buckets, HOUR, 1e6, 1.0, NOW);
    assert_eq!(beyond.percentile(&buckets, 0.5), 10.0, "the last bucket has no end");
    beyond.subtract(&buckets, HOUR, 1e6, 1.0, NOW);
    assert!(beyond.is_empty());
}

#[test]
fn decaying_histogram_percentiles() {
    let (buckets, mut histogram) = (Buckets::linear(10.0, 1.0), Histogram::default());
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
    let (buckets, mut histogram) = (Buckets::linear(10.0, 1.0), Histogram::default());
    histogram.add(&buckets, HOUR, 2.0, 1000.0, NOW);
    histogram.add(&buckets, HOUR, 1.0, 1.0, NOW.plus(HOUR * 20));
    assert_eq!(histogram.percentile(&buckets, 0.999), 2.0);
    assert_eq!(histogram.percentile(&buckets, 1.0), 3.0);
}

#[test]
fn decaying_histogram_outlives_its_exponent() {
    let (buckets, mut histogram) = (Buckets::linear(10.0, 1.0), Histogram::default());
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
        aggregate.add_cpu(&Recommender::default(), 1.0, NOW.plus(2 * MINUTE * index));
    }
    assert!((aggregate.confidence() - 0.00625).abs() < 1e-12);
    let estimate = 314.0 * confidence_factor(0.1, 2.0, aggregate.confidence());
    assert!((estimate - 90_746.0).abs() < 1e-6, "{estimate}");
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
    aggregate.add_cpu(&Recommender::default(), 1.0, NOW);
    let buckets = cpu_buckets();
    let base = (buckets.start(buckets.find(1.0) + 1) * 1000.0) as i64;
    let recommended = aggregate.recommend(&Recommender::default(), 1);
    assert_eq!(recommended.target.cpu_millicores, base + (base as f64 * 0.15) as i64);
    assert_eq!(recommended.lower.cpu_millicores, 25);
    assert_eq!(recommended.upper.cpu_millicores, i64::MAX, "without history anything may be needed");
}

#[test]
fn record_oom() {
    let need = |requested: i64, peak: i64| oom_need(&Recommender::default(), requested, peak);
    assert_eq!(need(1000 * MIB, 0), 1200 * MIB);
    assert_eq!(need(MIB, 0), 101 * MIB);
    assert_eq!(need(1000 * MIB, 3000 * MIB), 3600 * MIB);
    assert_eq!(need(500 * MIB, 0), 600 * MIB);
    assert_eq!(need(i64::MAX, 0), i64::MAX);
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

mod priority_processor {
    use super::*;

    fn cpu(target: i64, lower: i64, upper: i64) -> Recommendation {
        let of = |cpu_millicores| Amounts { cpu_millicores, memory_bytes: 0 };
        Recommendation { target: of(target), lower: of(lower), upper: of(upper) }
    }

    #[track_caller]
    fn check(request: i64, recommendation: Recommendation, outside: bool, scale_up: bool, diff: f64) {
        let requests = Amounts { cpu_millicores: request, memory_bytes: 0 };
        let priority = Priority::of(requests, &recommendation, [true, false]);
        assert_eq!((priority.outside, priority.scale_up), (outside, scale_up));
        assert!((priority.diff - diff).abs() < 1e-9, "{}", priority.diff);
    }

    #[test]
    fn update_priority() {
        check(4000, cpu(10_000, 6000, 14_000), true, true, 1.5);
        check(4000, cpu(2000, 1000, 3000), true, false, 0.5);
        check(4000, cpu(5000, 1000, 6000), false, true, 0.25);
        check(10, cpu(900, 10, 1000), false, true, 89.0);
        check(0, cpu(4000, 0, 5000), false, true, 4000.0);
        let both = Recommendation {
            target: Amounts { cpu_millicores: 2000, memory_bytes: 300 },
            lower: Amounts { cpu_millicores: 1000, memory_bytes: 200 },
            upper: Amounts { cpu_millicores: 9000, memory_bytes: 900 },
        };
        let requests = Amounts { cpu_millicores: 4000, memory_bytes: 200 };
        assert_eq!(Priority::of(requests, &both, [true, true]), Priority { outside: false, scale_up: true, diff: 1.0 });
        assert_eq!(Priority::of(requests, &both, [false, true]).diff, 0.5);
    }

    #[test]
    fn update_conditions() {
        let (updater, inside) = (Updater::default(), Priority { outside: false, scale_up: true, diff: 0.2 });
        assert!(updater.eligible(&Priority { outside: true, ..inside }, MINUTE, None), "outside of the range at once");
        assert!(!updater.eligible(&inside, 11 * HOUR, None), "within the range not before its time");
        assert!(updater.eligible(&inside, 12 * HOUR, None), "long-lived");
        assert!(!updater.eligible(&Priority { diff: 0.09, ..inside }, 48 * HOUR, None), "a change that does not matter");
        assert!(updater.eligible(&inside, MINUTE, Some(9 * MINUTE)), "killed for memory soon after its start");
        assert!(!updater.eligible(&inside, MINUTE, Some(11 * MINUTE)), "killed for memory long after its start");
        assert!(!updater.eligible(&Priority { diff: 0.0, ..inside }, MINUTE, Some(MINUTE)), "killed, and nothing to change");
    }

    #[test]
    fn eviction_tolerance() {
        assert!(Updater::tolerates(4, 0, 4, 0.5) && Updater::tolerates(4, 1, 4, 0.5) && !Updater::tolerates(4, 2, 4, 0.5));
        assert!(Updater::tolerates(5, 1, 5, 0.5) && !Updater::tolerates(5, 2, 5, 0.5));
        assert!(!Updater::tolerates(2, 1, 2, 0.5) && Updater::tolerates(2, 0, 2, 0.5));
    }
}

fn at(minute: u64, allocation: Allocation, cpu: Option<f64>, memory: f64) -> State {
    let mut state = State { allocation: Some(allocation), ..sample::state() };
    (state.tick, state.tick_length_ms) = (Tick(28_000_000 + minute), 60_000);
    let all = allocation.replicas;
    state.replicas = Some(ReplicaCounts { desired: all, ready: all, pending: Replicas(0), reporting: all });
    state.windows.tick.cpu_millicores = cpu.map(|mean| Usage { mean, max: mean });
    state.windows.tick.memory_mib = Some(Usage { mean: memory, max: memory });
    state
}

fn run(policy: &Vpa, mut allocation: Allocation, load: impl Fn(u64) -> (Option<f64>, f64), minutes: u64) -> Vec<Allocation> {
    let mut memory = Memory::None;
    let played = (0..minutes).map(|minute| {
        let (cpu, held) = load(minute);
        let decision = policy.decide(&at(minute, allocation, cpu, held), &mut memory, Timestamp(0), &mut sample::rng());
        allocation = decision.wanted().unwrap_or(allocation);
        allocation
    });
    played.collect()
}

#[test]
fn resizes_what_has_too_little_soon_and_what_has_too_much_late() {
    // A replica that needs 400m of 200m: the lower bound passes the request within a few minutes, the upper one falls below it after days only.
    let short = run(&Vpa::default(), Allocation::new(2, 200, 256), |_| (Some(400.0), 100.0), 30);
    let first = short.iter().position(|allocation| allocation.cpu_millicores.0 > 400).expect("raised");
    assert!(first < 15, "{first}");
    let ample = run(&Vpa::default(), Allocation::new(2, 1000, 256), |_| (Some(100.0), 100.0), 600);
    assert!(ample[60].cpu_millicores.0 == 1000);
    assert!(ample.last().expect("some").cpu_millicores.0 < 200, "{:?}", ample.last());
}

#[test]
fn one_replica_alone_is_not_touched() {
    let kept = Allocation::new(1, 200, 256);
    assert!(run(&Vpa::default(), kept, |_| (Some(400.0), 100.0), 60).iter().all(|allocation| *allocation == kept));
    let one = Vpa { min_replicas: 1, ..Vpa::default() };
    assert_ne!(run(&one, kept, |_| (Some(400.0), 100.0), 60).last(), Some(&kept));
}

#[test]
fn controls_only_what_it_is_told() {
    let from = Allocation::new(2, 200, 64);
    let last = |controlled| *run(&Vpa { controlled, ..Vpa::default() }, from, |_| (Some(400.0), 60.0), 60).last().expect("some");
    let (cpu, memory) = (last(Controlled::Cpu), last(Controlled::Memory));
    assert!(cpu.cpu_millicores.0 > 400 && cpu.memory_mib.0 == 64, "{cpu}");
    assert!(memory.cpu_millicores.0 == 200 && memory.memory_mib.0 == 250, "{memory}");
}

#[test]
fn a_kill_for_memory_raises_the_memory_at_once() {
    let (mut memory, allocation) = (Memory::None, Allocation::new(2, 200, 400));
    let decide = |state: &State, memory: &mut Memory| Vpa::default().decide(state, memory, Timestamp(0), &mut sample::rng());
    for minute in 0..5 {
        assert_eq!(decide(&at(minute, allocation, Some(150.0), 300.0), &mut memory).wanted(), None);
    }
    let mut killed = at(5, allocation, Some(150.0), 300.0);
    killed.windows.tick.oom_kills = 1;
    let wanted = decide(&killed, &mut memory).wanted().expect("more memory");
    assert!(wanted.memory_mib.0 >= 500, "{wanted}");
}

#[test]
fn holds_where_nothing_was_measured() {
    let kept = Allocation::new(2, 200, 256);
    assert!(run(&Vpa::default(), kept, |_| (None, 0.0), 60).iter().all(|allocation| *allocation == kept));
}
