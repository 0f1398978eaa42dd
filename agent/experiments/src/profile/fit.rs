//! Fits a profile to measurements. Owns the conclusions and the remarks on their limits; pure.

use std::sync::Arc;
use std::time::Duration;

use qscale_common::time::Span;
use qscale_common::units::{Allocation, Mebibytes};
use qscale_sim::profile::{MemoryProfile, Startup};
use qscale_sim::{Distribution, Function, FunctionProfile, Gateway, Nanos};

use super::measure::{BURSTS, Measurements};

/// Percentiles of a distribution with many samples, and with few.
const PERCENTILES: [f64; 10] = [0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 100.0];
const COARSE: [f64; 3] = [0.0, 50.0, 100.0];
/// With fewer samples than this, only coarse percentiles are used.
const FEW: usize = 20;
/// CPU of an idle replica above which a remark is made, cores: a simulated replica uses none.
const IDLE_CORES: f64 = 0.01;
/// A more complex concurrency model must be closer to the measurements than a simpler one by this factor.
const COMPLEXITY_FACTOR: f64 = 0.8;
/// Simulated replicas per concurrency model.
const TRIALS: u64 = 20;

/// The profile, with remarks on its limits.
pub fn profile(name: &str, day: &str, measured: &Measurements) -> (FunctionProfile, Vec<String>) {
    let mut remarks = Vec::new();
    let starts = |of: fn(&(Duration, Duration)) -> Duration| empirical(measured.starts.iter().map(of).collect());
    let (cpu, waiting) = request(measured, &mut remarks);
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let a_request = (measured.burst_memory - measured.idle_memory).max(0.0) / f64::from(BURSTS[1]) / 1024.0;
    let profile = FunctionProfile {
        name: name.to_owned(),
        source: source(day, measured),
        cpu,
        waiting,
        startup: Startup { cpu: starts(|start| start.1), waiting: starts(|start| start.0.saturating_sub(start.1)) },
        workers: 1,
        parallelism: 1,
        memory: MemoryProfile {
            base_mib: Mebibytes((mib(measured.idle_memory).ceil() as u32).max(1)),
            request_kib: a_request.round() as u32,
        },
    };
    if measured.idle_cores > IDLE_CORES {
        let millicores = measured.idle_cores * 1000.0;
        remarks.push(format!("an idle replica uses {millicores:.0}m of CPU, which the simulator does not model"));
    }
    if measured.others.is_disturbing() {
        remarks.push(format!(
            "other processes used {:.1} cores during the measurement: waiting and startup times are too long, and the concurrency may be wrong; measure \
             again on an idle machine",
            measured.others.cores + measured.others.steal
        ));
    }
    (with_concurrency(profile, measured, &mut remarks), remarks)
}

fn source(day: &str, measured: &Measurements) -> String {
    let overhead = measured.overhead.map_or_else(String::new, |overhead| {
        format!("; waiting includes the overhead of load generator and gateway, {} us per request", overhead.as_micros())
    });
    format!(
        "measured on the local platform on {day}: {} sequential requests, {} starts{overhead}",
        measured.requests.len(),
        measured.starts.len()
    )
}

/// CPU time and waiting time of a request.
fn request(measured: &Measurements, remarks: &mut Vec<String>) -> (Distribution, Distribution) {
    let cpu: Vec<Duration> = measured.requests.iter().map(|request| request.1).collect();
    if measured.exact && !cpu.is_empty() {
        return (empirical(cpu), empirical(measured.requests.iter().map(|request| request.0.saturating_sub(request.1)).collect()));
    }
    remarks.push(if measured.exact {
        "no request had CPU readings of its own; only the mean CPU time is known".to_owned()
    } else {
        "cgroups are not writable, so CPU time has a resolution of 10 ms: only its mean is known, and no limit can be tested".to_owned()
    });
    let waiting = measured.requests.iter().map(|request| request.0.saturating_sub(measured.mean_cpu)).collect();
    (Distribution::constant(measured.mean_cpu.into()), empirical(waiting))
}

/// A distribution with the percentiles and the mean of `samples`.
fn empirical(mut samples: Vec<Duration>) -> Distribution {
    samples.sort_unstable();
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return Distribution::ZERO };
    if first == last {
        return Distribution::constant((*first).into());
    }
    let at = |percentile: f64| {
        let place = percentile / 100.0 * (samples.len() - 1) as f64;
        let (low, high) = (samples[place.floor() as usize].as_secs_f64(), samples[place.ceil() as usize].as_secs_f64());
        low + (high - low) * place.fract()
    };
    let percentiles = if samples.len() < FEW { COARSE.as_slice() } else { PERCENTILES.as_slice() };
    let scaled = |scale: f64| {
        let points = percentiles.iter().map(|percentile| (*percentile, Nanos::from_seconds(at(*percentile) * scale)));
        Distribution::percentiles(points).expect("percentiles rise, and so do those of sorted samples")
    };
    let mean = samples.iter().map(Duration::as_secs_f64).sum::<f64>() / samples.len() as f64;
    // Linear interpolation between percentiles changes the mean; scaling restores it.
    scaled(mean / scaled(1.0).mean().seconds().max(f64::MIN_POSITIVE))
}

/// Adds the number of concurrent requests and of cores with which the simulator reproduces the measured bursts best.
fn with_concurrency(profile: FunctionProfile, measured: &Measurements, remarks: &mut Vec<String>) -> FunctionProfile {
    if measured.bursts.iter().all(Vec::is_empty) {
        remarks.push("no burst was answered completely; assuming one request at a time".to_owned());
        return profile;
    }
    let cores = 1..=measured.cores.min(BURSTS[1]);
    // The simplest first; 0 means no limit.
    let models = (1..BURSTS[1]).chain([0]).flat_map(|workers| cores.clone().map(move |parallelism| (workers, parallelism)));
    let models = models.filter(|(workers, parallelism)| *workers == 0 || parallelism <= workers);
    let mut best = (f64::INFINITY, profile.clone());
    for (workers, parallelism) in models {
        let candidate = FunctionProfile { workers, parallelism, ..profile.clone() };
        let distance = distance(&candidate, measured);
        if distance < best.0 * COMPLEXITY_FACTOR {
            best = (distance, candidate);
        }
    }
    if best.1.parallelism == measured.cores && measured.cores > 1 {
        remarks.push(format!("the function uses all {} cores of this machine, and may use more on a larger one", measured.cores));
    }
    best.1
}

/// Distance of simulated from measured bursts: mean absolute log ratio of latencies, over positions in a burst.
fn distance(profile: &FunctionProfile, measured: &Measurements) -> f64 {
    let (mut sum, mut places) = (0.0, 0);
    for bursts in measured.bursts.iter().filter(|bursts| !bursts.is_empty()) {
        let real = by_place(bursts.iter().map(|burst| burst.iter().map(|request| request.1.as_secs_f64()).collect()).collect());
        let simulated = by_place((0..TRIALS).map(|trial| simulated(profile, measured.cores, &bursts[0], trial)).collect());
        for (real, simulated) in real.iter().zip(&simulated) {
            sum += (simulated / real).ln().abs();
            places += 1;
        }
    }
    sum / f64::from(places.max(1))
}

/// Lower quartile of the latencies by position in a burst: disturbances make latencies
/// longer, never shorter.
fn by_place(mut bursts: Vec<Vec<f64>>) -> Vec<f64> {
    bursts.iter_mut().for_each(|burst| burst.sort_by(f64::total_cmp));
    let places = bursts.iter().map(Vec::len).min().unwrap_or(0);
    let quartile = |place: usize| {
        let mut all: Vec<f64> = bursts.iter().map(|burst| burst[place]).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 4]
    };
    (0..places).map(quartile).collect()
}

/// Latencies of a burst in the simulator, seconds.
fn simulated(profile: &FunctionProfile, cores: u32, burst: &[(Duration, Duration)], seed: u64) -> Vec<f64> {
    let gateway = Gateway { concurrency: 0, queue: 0, timeout: Span::seconds(3600) };
    let mut function = Function::new(Arc::new(profile.clone()), gateway, seed, 0);
    function.warm(Allocation::new(1, cores * 1000, 1024), Nanos::ZERO);
    burst.iter().for_each(|(due, _)| function.arrive((*due).into()));
    let totals = function.totals(Nanos::millis(3_600_000));
    let count = burst.len();
    (0..count).filter_map(|place| totals.latency.quantile((place as f64 + 0.5) / count as f64, 0)).map(Nanos::seconds).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::machine::OtherLoad;

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    /// Measurements of a function that computes for 10 ms and waits for 1 ms, with this concurrency.
    fn measured(workers: u32, parallelism: u32) -> Measurements {
        let constant = |ms| Distribution::constant(Nanos::millis(ms));
        let truth = FunctionProfile { workers, parallelism, waiting: constant(1), ..FunctionProfile::simple("f", constant(10)) };
        let burst = |size: u32| {
            let due: Vec<_> = (0..size).map(|number| (us(u64::from(number) * 125), Duration::ZERO)).collect();
            let latencies = simulated(&truth, 2, &due, 1);
            due.iter().zip(latencies).map(|(request, latency)| (request.0, Duration::from_secs_f64(latency))).collect::<Vec<_>>()
        };
        Measurements {
            exact: true,
            cores: 2,
            starts: vec![(us(700_000), us(500_000)), (us(800_000), us(500_000))],
            idle_cores: 0.0,
            idle_memory: 10.5 * 1024.0 * 1024.0,
            burst_memory: 12.5 * 1024.0 * 1024.0,
            requests: (0..100).map(|number| (us(11_000 + number), us(10_000))).collect(),
            mean_cpu: us(10_000),
            bursts: BURSTS.map(|size| vec![burst(size)]).into(),
            others: OtherLoad::default(),
            overhead: Some(us(900)),
        }
    }

    #[track_caller]
    fn check(workers: u32, parallelism: u32) {
        let (profile, _) = profile("f", "2026-01-01", &measured(workers, parallelism));
        assert_eq!((profile.workers, profile.parallelism), (workers, parallelism));
    }

    #[test]
    fn the_way_of_working_is_found_from_bursts() {
        check(1, 1);
        check(2, 1);
        check(2, 2);
        check(0, 1);
        check(0, 2);
    }

    #[test]
    fn figures_are_those_that_were_measured() {
        let (profile, remarks) = profile("f", "2026-01-01", &measured(1, 1));
        let seconds = |of: &Distribution| of.mean().seconds();
        assert!((seconds(&profile.cpu) - 0.010).abs() < 1e-6 && (seconds(&profile.waiting) - 0.001_049_5).abs() < 1e-6, "{profile:?}");
        assert!((seconds(&profile.startup.cpu) - 0.5).abs() < 1e-6 && (seconds(&profile.startup.waiting) - 0.25).abs() < 1e-6);
        assert_eq!((profile.memory.base_mib.0, profile.memory.request_kib), (11, 256));
        assert!(remarks.is_empty() && profile.source.contains("900 us"), "{remarks:?} {}", profile.source);
    }

    #[test]
    fn what_could_not_be_measured_is_said() {
        let others = OtherLoad { cores: 1.5, steal: 0.0 };
        let without = Measurements { exact: false, idle_cores: 0.05, bursts: Vec::new(), others, ..measured(1, 1) };
        let (profile, remarks) = profile("f", "2026-01-01", &without);
        assert_eq!(profile.cpu, Distribution::constant(Nanos::millis(10)));
        assert!(
            remarks.len() == 4 && remarks[2].contains("1.5 cores") && remarks[0].contains("cgroups") && remarks[1].contains("50m"),
            "{remarks:?}"
        );
    }
}
