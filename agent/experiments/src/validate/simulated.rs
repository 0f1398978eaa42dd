//! A scenario in the simulator: the recorded arrivals and allocations. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use qscale_common::platform::FunctionSpec;
use qscale_common::time::Timestamp;
use qscale_sim::cpu::PERIOD;
use qscale_sim::{Function, FunctionProfile, Gateway, Nanos, ScrapeBuffer};

use super::real::MeasuredRun;
use super::scenario::Scenario;

/// Number of seeds; results are medians. Demands and the phase of the CPU period are random in both worlds.
const SEEDS: u64 = 20;
/// Fractional part of the golden ratio: its multiples are spread evenly over a period.
const GOLDEN: f64 = 0.618_033_988_749_895;

/// Result of a run, or medians of several.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SimulatedRun {
    /// Latency of successful requests at p50, p95 and p99, milliseconds.
    pub latency_ms: [f64; 3],
    /// Share of successful requests.
    pub completed: f64,
    /// CPU time of the function, seconds.
    pub cpu_seconds: f64,
}

/// Simulates the requests of `real`.
pub fn run(profile: &FunctionProfile, spec: &FunctionSpec, scenario: &Scenario, real: &MeasuredRun) -> SimulatedRun {
    let mut gateway = Gateway::from(spec);
    gateway.timeout = scenario.timeout.unwrap_or(gateway.timeout);
    let profile = Arc::new(profile.clone());
    let runs: Vec<SimulatedRun> = (0..SEEDS).map(|seed| one(&profile, gateway, scenario, real, seed)).collect();
    let median = |of: &dyn Fn(&SimulatedRun) -> f64| {
        let mut all: Vec<f64> = runs.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    SimulatedRun {
        latency_ms: [0, 1, 2].map(|index| median(&|run| run.latency_ms[index])),
        completed: median(&|run| run.completed),
        cpu_seconds: median(&|run| run.cpu_seconds),
    }
}

fn one(profile: &Arc<FunctionProfile>, gateway: Gateway, scenario: &Scenario, real: &MeasuredRun, seed: u64) -> SimulatedRun {
    let mut function = Function::new(Arc::clone(profile), gateway, seed, 0);
    function.warm(scenario.allocation, Nanos::ZERO);
    // The phase of the CPU period at the start of the load is unknown.
    let start = Nanos(((seed as f64 * GOLDEN).fract() * PERIOD.0 as f64) as u64);
    let at = |since: Duration| start + Nanos::from(since);
    let (mut changes, mut cpu) = (real.changes.iter().peekable(), BTreeMap::new());
    for request in &real.sent {
        while let Some((when, allocation)) = changes.next_if(|(when, _)| *when <= request.due) {
            read_cpu(&mut function, at(*when), &mut cpu);
            function.allocate(*allocation, at(*when));
        }
        function.arrive(at(request.due));
    }
    let last = real.sent.last().map_or(Duration::ZERO, |request| request.due);
    let end = at(last + gateway.timeout.0 + Duration::from_secs(1));
    let totals = function.totals(end).clone();
    read_cpu(&mut function, end, &mut cpu);
    let quantile = |share| totals.latency.quantile(share, 0).map_or(f64::NAN, |latency| latency.seconds() * 1000.0);
    SimulatedRun {
        latency_ms: [0.5, 0.95, 0.99].map(quantile),
        completed: totals.completed as f64 / totals.arrived.max(1) as f64,
        cpu_seconds: cpu.values().sum(),
    }
}

fn read_cpu(function: &mut Function, now: Nanos, cpu: &mut BTreeMap<String, f64>) {
    let mut reading = ScrapeBuffer::default();
    function.scrape(now, Timestamp(0), &mut reading);
    for replica in reading.scrape.replicas {
        cpu.insert(replica.replica, replica.cpu.map_or(0.0, |cpu| cpu.usage_us() as f64 / 1e6));
    }
}

#[cfg(test)]
mod tests {
    use qscale_common::document::Format;
    use qscale_common::units::Allocation;
    use qscale_sim::Distribution;

    use super::super::machine::OtherLoad;
    use super::super::scenario;
    use super::*;
    use crate::profile::testbed::TimedRequest;

    fn simulated(changes: Vec<(Duration, Allocation)>, allocation: Allocation) -> SimulatedRun {
        let profile = FunctionProfile::simple("f", Distribution::constant(Nanos::millis(10)));
        let spec = FunctionSpec::parse("name = \"f\"\ncommand = [\"x\"]\nconcurrency = 1\ntimeout = \"1s\"", Format::Toml).expect("valid");
        let scenario = Scenario { allocation, changes: Vec::new(), ..scenario::all(&profile, Duration::from_secs(6)).remove(0) };
        let sent = (0..100).map(|number| TimedRequest { due: Duration::from_millis(number * 20), answered: None }).collect();
        let real = MeasuredRun { void: None, sent, changes, cpu_seconds: 0.0, others: OtherLoad::default() };
        run(&profile, &spec, &scenario, &real)
    }

    #[test]
    fn recorded_arrivals_and_allocations_are_replayed() {
        let alone = simulated(Vec::new(), Allocation::new(1, 1000, 128));
        assert!((alone.latency_ms[2] - 10.0).abs() < 0.4 && (alone.cpu_seconds - 1.0).abs() < 1e-9 && alone.completed == 1.0, "{alone:?}");
        // A tenth of a core handles a fifth of the load; requests time out after a second.
        let less = simulated(Vec::new(), Allocation::new(1, 100, 128));
        assert!(less.completed < 0.4 && less.latency_ms[2] > 500.0, "{less:?}");
        let more = (Duration::from_millis(200), Allocation::new(1, 1000, 128));
        let later = simulated(vec![more], Allocation::new(1, 100, 128));
        assert!(later.completed > less.completed && later.latency_ms[0] < less.latency_ms[0], "{later:?}");
        // CPU of removed replicas still counts.
        let gone = simulated(vec![(Duration::from_millis(1010), Allocation::new(0, 1000, 128))], Allocation::new(1, 1000, 128));
        assert!((gone.cpu_seconds - 1.0).abs() < 0.02, "{gone:?}");
    }
}
