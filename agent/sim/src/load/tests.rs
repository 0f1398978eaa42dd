use qscale_common::time::Span;
use qscale_common::units::Allocation;
use qscale_common::workload::trace::{Keep, TraceFunction, read_azure2021};
use qscale_common::workload::{Demand as TraceDemand, DurationQuantiles, MinuteCount};

use super::*;
use crate::distribution::Distribution;
use crate::profile::{FunctionProfile, Gateway};
use crate::rng::{Purpose, stream};

fn rng() -> WorkloadRng {
    stream(3, 0, Purpose::Arrivals)
}

fn minutes() -> Arc<MinuteTrace> {
    let duration = DurationQuantiles::new([10, 10, 20, 40, 80, 200, 400]).expect("rising");
    let demand = TraceDemand::QuantilesOfDuration { duration, memory_mib: 128 };
    let function = |counts: &[(u32, u32)]| TraceFunction {
        hash: "f".to_owned(),
        counts: counts.iter().map(|(bin, count)| MinuteCount { bin: *bin, count: *count }).collect(),
        demand,
    };
    Arc::new(MinuteTrace { functions: vec![function(&[(0, 100), (2, 50)]), function(&[(2, 30)])], minutes: 3 })
}

fn load(scale: Scale) -> SimulatedLoad {
    SimulatedLoad::Trace { trace: minutes(), iat: Iat::Exponential, scale, cpu_share: 0.75 }
}

/// A function of one replica that works on all requests at once.
fn function() -> Function {
    let profile = FunctionProfile { workers: 0, parallelism: 1000, ..FunctionProfile::simple("f", Distribution::ZERO) };
    let gateway = Gateway { concurrency: 0, queue: 0, timeout: Span::seconds(60) };
    let mut function = Function::new(Arc::new(profile), gateway, 1, 0);
    function.warm(Allocation::new(1, 1_000_000, 1024), Nanos::ZERO);
    function
}

#[test]
fn a_trace_arrives_as_the_load_generator_sends_it() {
    for scale in [Scale::default(), Scale { time: 10.0, rate: 2.5 }] {
        let mut source = load(scale).source(rng());
        let mut rng = rng();
        let sent: Vec<_> = Arrivals::minutes(&minutes(), Iat::Exponential, scale, FOREVER, &mut rng).collect();
        assert!(sent.len() >= 180);
        for arrival in sent {
            let duration = Nanos::millis(u64::from(arrival.duration_ms));
            let cpu = Nanos(duration.0 / 4 * 3);
            assert_eq!(source.take(), Some((Nanos::from(arrival.at), Some(RequestDemand { cpu, waiting: duration - cpu }))));
        }
        assert_eq!(source.take(), None);
    }
}

#[test]
fn as_many_arrive_in_each_minute_as_the_trace_counts_and_none_after_it() {
    let (mut function, mut source) = (function(), load(Scale::default()).source(rng()));
    let mut arrived = Vec::new();
    for minute in 1..=5 {
        source.feed(&mut function, Nanos::millis(minute * 60_000));
        arrived.push(function.totals(Nanos::millis(minute * 60_000)).arrived);
    }
    assert_eq!(arrived, [100, 100, 180, 180, 180]);
    let totals = function.totals(Nanos::millis(400_000));
    assert_eq!(totals.completed, 180);
    // Where nothing stands in its way, a request takes as long as the trace says.
    let shortest = totals.latency.quantile(0.001, 0).expect("some").seconds();
    let median = totals.latency.quantile(0.5, 0).expect("some").seconds();
    assert!((0.009..0.021).contains(&shortest) && (0.025..0.08).contains(&median), "{shortest} {median}");
}

#[test]
fn single_invocations_arrive_when_they_began_and_last_as_long_as_they_did() {
    let csv = "app,func,end_timestamp,duration\na,f,2.5,0.5\na,f,1.25,0.25\na,g,7.0,2.0\n";
    let trace = Arc::new(read_azure2021("rows.csv", csv.as_bytes(), Keep::default()).expect("well formed").0);
    let load = SimulatedLoad::Rows { trace, scale: Scale::default(), cpu_share: 0.0 };
    let mut source = load.source(rng());
    let taken: Vec<_> = std::iter::from_fn(|| source.take()).collect();
    let row = |at, ms| (Nanos::millis(at), Some(RequestDemand { cpu: Nanos::ZERO, waiting: Nanos::millis(ms) }));
    assert_eq!(taken, [row(1000, 250), row(2000, 500), row(5000, 2000)]);

    let (mut function, mut source) = (function(), load.source(rng()));
    source.feed(&mut function, Nanos::millis(100_000));
    let totals = function.totals(Nanos::millis(100_000));
    assert_eq!((totals.completed, totals.latency_sum), (3, Nanos::millis(2750)));
}

#[test]
fn a_reset_load_equals_a_new_one() {
    let pattern = SimulatedLoad::Pattern { pattern: "bursty:5..100/30s/3s".parse().expect("a pattern"), gaps: Gaps::Poisson };
    for load in [pattern, load(Scale::default())] {
        let take = |source: &mut LoadSource| (0..500).map(|_| source.take()).collect::<Vec<_>>();
        let mut source = load.source(stream(9, 0, Purpose::Arrivals));
        assert_ne!(take(&mut source), take(&mut load.source(rng())));
        load.reset(&mut source, rng());
        assert_eq!(take(&mut source), take(&mut load.source(rng())));
    }
}

#[test]
fn recorded_counts_arrive_uniformly_within_their_intervals() {
    let load = SimulatedLoad::Counts { counts: vec![1000.0, 0.0, 0.5, 4000.0].into(), interval: Duration::from_secs(10) };
    let mut source = load.source(rng());
    let arrivals: Vec<f64> = std::iter::from_fn(|| source.take()).map(|(at, demand)| (at.seconds(), demand)).map(|(at, _)| at).collect();
    assert!(arrivals.windows(2).all(|pair| pair[0] <= pair[1]), "in order");
    let within = |begin: f64, end: f64| arrivals.iter().filter(|at| (begin..end).contains(*at)).count();
    assert_eq!((within(0.0, 10.0), within(10.0, 20.0), within(30.0, 40.0)), (1000, 0, 4000));
    assert!(within(20.0, 30.0) <= 1 && arrivals.len() == 5000 + within(20.0, 30.0));
    // Four standard deviations of a binomial distribution.
    for (begin, expected) in [(0.0, 100.0), (9.0, 100.0), (30.0, 400.0), (35.0, 400.0)] {
        let found = within(begin, begin + 1.0) as f64;
        assert!((found - expected).abs() < 4.0 * f64::sqrt(expected), "{found} in the second from {begin} s");
    }
    let again: Vec<f64> = {
        load.reset(&mut source, rng());
        std::iter::from_fn(|| source.take()).map(|(at, _)| at.seconds()).collect()
    };
    assert_eq!(arrivals, again);
    assert_eq!([5, 15, 35, 45].map(|second| load.rate_at(Duration::from_secs(second))), [Some(100.0), Some(0.0), Some(400.0), Some(0.0)]);
}
