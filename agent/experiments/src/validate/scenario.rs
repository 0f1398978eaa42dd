//! Scenarios: loads and allocations. Owns how rates follow from a profile, so that a scenario means the same for every function; pure.

use std::time::Duration;

use qscale_common::time::Span;
use qscale_common::units::{Allocation, Replicas};
use qscale_sim::FunctionProfile;

/// Names of the scenarios.
pub const NAMES: [&str; 8] = ["light", "knee-250m", "knee-350m", "knee-500m", "over-350m", "replicas", "step", "zero"];

/// Memory of a replica, MiB.
const MEMORY_MIB: u32 = 512;
/// Highest rate, requests/s: gateway and load generator share the cores with the function.
const MOST: f64 = 250.0;
/// Highest rate of the scenario that starts from zero replicas, requests/s: it is about starts.
const MOST_FROM_ZERO: f64 = 15.0;

/// Allocation between scenarios.
pub const RESTING: Allocation = Allocation {
    replicas: Replicas(1),
    cpu_millicores: qscale_common::units::Millicores(1000),
    memory_mib: qscale_common::units::Mebibytes(MEMORY_MIB),
};

/// A load on a sequence of allocations.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// Initial allocation.
    pub allocation: Allocation,
    /// The load generator's pattern.
    pub rate: String,
    /// Later allocations, by time since the start.
    pub changes: Vec<(Duration, Allocation)>,
    /// Timeout of the gateway; `None` for that of the function file.
    pub timeout: Option<Span>,
}

impl Scenario {
    /// Replicas and CPU limit in short form.
    pub fn limits(&self) -> String {
        let replicas: Vec<String> = std::iter::once(self.allocation)
            .chain(self.changes.iter().map(|change| change.1))
            .map(|at| at.replicas.0.to_string())
            .collect();
        let mut replicas = replicas;
        replicas.dedup();
        format!("{}x{}", replicas.join("→"), self.allocation.cpu_millicores)
    }
}

/// All scenarios of a function, each of `length`.
pub fn all(profile: &FunctionProfile, length: Duration) -> Vec<Scenario> {
    let rate = |replicas: u32, limit: u32, share: f64| (capacity(profile, limit) * f64::from(replicas) * share).min(MOST);
    let constant = |name, replicas: u32, limit: u32, share: f64| Scenario {
        name,
        allocation: Allocation::new(replicas, limit, MEMORY_MIB),
        rate: format!("constant:{:.3}", rate(replicas, limit, share)),
        changes: Vec::new(),
        timeout: None,
    };
    let third = length / 3;
    let part = |share: u32| length * share / 4;
    let none = Allocation::new(0, 500, MEMORY_MIB);
    vec![
        constant(NAMES[0], 1, 1000, 0.2),
        constant(NAMES[1], 1, 250, 0.8),
        constant(NAMES[2], 1, 350, 0.8),
        constant(NAMES[3], 1, 500, 0.8),
        // With a queue of at most two seconds the run settles, and timeouts occur.
        Scenario { timeout: Some(Span::seconds(2)), ..constant(NAMES[4], 1, 350, 1.3) },
        constant(NAMES[5], 3, 250, 0.75),
        Scenario {
            rate: format!("step:{:.3}@0s,{:.3}@{}ms", rate(1, 350, 0.6), rate(3, 350, 0.6), third.as_millis()),
            changes: vec![(third, Allocation::new(3, 350, MEMORY_MIB))],
            ..constant(NAMES[6], 1, 350, 0.6)
        },
        Scenario {
            allocation: none,
            rate: format!("constant:{:.3}", rate(1, 500, 0.4).min(MOST_FROM_ZERO)),
            changes: (1..4).map(|share| (part(share), none)).collect(),
            ..constant(NAMES[7], 0, 500, 0.4)
        },
    ]
}

/// Capacity of a replica with this CPU limit, requests/s: bounded by CPU and by workers.
fn capacity(profile: &FunctionProfile, limit: u32) -> f64 {
    let (cpu, waiting) = (profile.cpu.mean().seconds().max(1e-6), profile.waiting.mean().seconds());
    let cores = (f64::from(limit) / 1000.0).min(f64::from(profile.parallelism));
    let by_cpu = cores / cpu;
    if profile.workers == 0 { by_cpu } else { by_cpu.min(f64::from(profile.workers) / (cpu / cores.min(1.0)).max(cpu + waiting)) }
}

#[cfg(test)]
mod tests {
    use qscale_common::workload::Pattern;
    use qscale_sim::{Distribution, Nanos};

    use super::*;

    #[test]
    fn every_scenario_has_a_valid_load() {
        for cpu_ms in [0, 1, 5, 500] {
            let profile = FunctionProfile::simple("f", Distribution::constant(Nanos::millis(cpu_ms)));
            let scenarios = all(&profile, Duration::from_secs(6));
            assert_eq!(scenarios.iter().map(|scenario| scenario.name).collect::<Vec<_>>(), NAMES);
            for scenario in scenarios {
                scenario.rate.parse::<Pattern>().unwrap_or_else(|error| panic!("{}: {error}", scenario.rate));
                assert!(scenario.changes.iter().all(|change| change.0 < Duration::from_secs(6)));
            }
        }
    }

    #[test]
    fn rates_are_shares_of_the_capacity() {
        let profile = FunctionProfile::simple("f", Distribution::constant(Nanos::millis(5)));
        let scenarios = all(&profile, Duration::from_secs(6));
        assert_eq!(scenarios[1].rate, "constant:40.000");
        assert_eq!((scenarios[5].rate.as_str(), scenarios[5].limits()), ("constant:112.500", "3x250m".to_owned()));
        assert_eq!(scenarios[6].limits(), "1→3x350m");
        // A function that waits most of the time is bounded by its single worker.
        let waits = FunctionProfile { waiting: Distribution::constant(Nanos::millis(95)), ..profile };
        assert_eq!(all(&waits, Duration::from_secs(6))[3].rate, "constant:8.000");
    }
}
