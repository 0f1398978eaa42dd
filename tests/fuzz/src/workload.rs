//! Load patterns and traces.

use std::time::Duration;

use qscale_common::workload::trace::{Azure2019, GeneratedInputs, Keep, Trace, read_azure2019, read_azure2021, read_endpoints};
use qscale_common::workload::{Arrivals, Demand, Gaps, Iat, Pattern, Scale, WorkloadRng};
use rand::SeedableRng as _;

/// Most arrivals that are taken of one workload.
const MAX_ARRIVALS: usize = 200;
/// Line between the files of a trace.
const NEXT_FILE: &str = "\n# next file\n";

/// One pattern a line: one that is accepted reads back, its rate stays below its peak, and time does not run backwards.
pub fn patterns(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for pattern in text.lines().take(20).filter_map(|line| line.parse::<Pattern>().ok()) {
        assert_eq!(pattern.to_string().parse::<Pattern>().expect("written"), pattern);
        let peak = pattern.peak().per_second();
        for second in [0.0, 0.1, 1.0, 59.9, 3_600.0, 1e6, 1e9] {
            let rate = pattern.rate_at(Duration::from_secs_f64(second)).per_second();
            assert!((0.0..=peak * (1.0 + 1e-9)).contains(&rate), "{pattern}: {rate}/s at {second} s, the peak is {peak}/s");
            if let (Some(near), Some(far)) = (pattern.advance(second, 1.0), pattern.advance(second, 2.0)) {
                assert!(second <= near && near <= far, "{pattern}: from {second} s to {near} s and {far} s");
            }
        }
        for gaps in [Gaps::Poisson, Gaps::Constant, Gaps::Uniform] {
            let demand = Demand::Fixed { duration_ms: 1, memory_mib: 1 };
            let until = Duration::from_secs(600);
            check(Arrivals::single(pattern.clone(), gaps, until, demand, &mut WorkloadRng::seed_from_u64(1)), 1, until);
        }
    }
}

/// A line with the kind of a trace, then its files: the invocations of one that is accepted are in order and belong to its functions.
pub fn traces(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (kind, files) = text.split_once('\n').unwrap_or((&text, ""));
    let files: Vec<&[u8]> = files.split(NEXT_FILE).map(str::as_bytes).collect();
    let keep = Keep { functions: 50, ..Keep::default() };
    let trace = match (kind, &files[..]) {
        ("azure2019", [invocations, durations, rest @ ..]) => {
            let files = Azure2019 { invocations: *invocations, durations: *durations, memory: rest.first().copied(), memory_mib: 128 };
            read_azure2019(["invocations", "durations", "memory"], files, keep).ok().map(|(trace, _)| Trace::Minutes(trace))
        }
        ("azure2021", [rows, ..]) => read_azure2021("rows", *rows, keep).ok().map(|(trace, _)| Trace::Rows(trace)),
        ("generated", files) => {
            let mut inputs = GeneratedInputs::default();
            let read = files.iter().all(|file| inputs.add("iat0.json", *file).is_ok());
            if read { inputs.finish(keep).ok().map(Trace::Rows) } else { None }
        }
        ("endpoints", [list, ..]) => {
            let endpoints = read_endpoints("endpoints.json", &String::from_utf8_lossy(list)).unwrap_or_default();
            assert!(endpoints.iter().all(|endpoint| !endpoint.hostname.is_empty()));
            None
        }
        _ => None,
    };
    if let Some(trace) = trace {
        play(&trace);
    }
}

fn play(trace: &Trace) {
    let minutes = trace.active_minutes();
    assert_eq!(minutes.is_some(), trace.invocations(0, u32::MAX) > 0);
    assert!(minutes.is_none_or(|(first, last)| first <= last && last < trace.minutes()));
    let functions = u32::try_from(trace.functions()).expect("the number that is kept");
    let until = Duration::from_secs(3_600);
    let mut rng = WorkloadRng::seed_from_u64(1);
    for scale in [Scale::default(), Scale { time: 60.0, rate: 0.5 }] {
        match trace {
            Trace::Minutes(trace) => {
                for iat in [Iat::Conditioned, Iat::ExponentialShift, Iat::Equidistant] {
                    check(Arrivals::minutes(trace, iat, scale, until, &mut rng), functions, until);
                }
            }
            Trace::Rows(trace) => check(Arrivals::rows(trace, 128, scale, until, rng.clone()), functions, until),
        }
    }
}

fn check(arrivals: Arrivals, functions: u32, until: Duration) {
    let mut last = Duration::ZERO;
    for arrival in arrivals.take(MAX_ARRIVALS) {
        assert!(last <= arrival.at && arrival.at < until, "{arrival:?} after {last:?}");
        assert!(arrival.function < functions, "{arrival:?} of {functions} functions");
        last = arrival.at;
    }
}
