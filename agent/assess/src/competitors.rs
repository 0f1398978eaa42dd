//! The policies that are compared, each rule with the settings among which it is tuned. Owns the grids, which follow the size of a replica and its demand.

use qscale_common::policy::ScalingPolicy;
use qscale_dqn::registry::DQN;
use qscale_evaluate::suite::CompetitorEntry;
use serde_json::{Value, json};

use crate::calibration::Calibration;

/// Targets of CPU utilization, percent.
const UTILIZATIONS: [u32; 5] = [30, 45, 60, 70, 80];
/// Requests in flight of a replica.
const CONCURRENCIES: [f64; 6] = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0];
/// Most numbers of replicas among which the fixed one is chosen.
const FIXED: u32 = 8;

/// Every rule and the learned policy, with defaults that fit the workload and settings for tuning.
#[must_use]
pub fn competitors(calibration: &Calibration, policy: &ScalingPolicy) -> Vec<CompetitorEntry> {
    let entry = |name: &str, params: Value, grid: Value| CompetitorEntry { params, grid, ..CompetitorEntry::plain(name) };
    let plain = |name: &str, grid: Value| entry(name, json!({}), grid);
    let size = calibration.size;
    let millicores = |share: f64| (f64::from(size.cpu.0) * share).round().max(1.0) as u32;
    let threshold = |name: &str| {
        let targets = [0.3, 0.45, 0.6, 0.75].map(millicores);
        let grid = json!({ "cpu_millicores": targets, "down_below": [0.5, 0.8] });
        entry(name, json!({ "cpu_millicores": millicores(0.5), "memory_mib": size.memory }), grid)
    };
    let peak = |name: &str| plain(name, json!({ "window": ["5m", "15m", "1h"], "margin": [1.15, 1.3, 1.6] }));
    let autopilot =
        |name: &str| plain(name, json!({ "half_life": ["60s", "300s"], "cpu_percentile": [0.9, 1.0], "margin": [0.15, 0.5, 1.0] }));
    // Requests a second of a replica at full use.
    let capacity = size.cpu.cores() / calibration.demand.cpu_s.max(1e-6);
    let rate = |share: f64| (capacity * share).clamp(0.001, 1e6);
    let rates = [0.2, 0.35, 0.65].map(rate);
    let bounds = policy.bounds.replicas;
    let (least, most) = (bounds.min().0.max(1), bounds.max().0.max(1));
    let replicas: Vec<u32> = {
        let mut all: Vec<u32> = (0..FIXED).map(|place| least + (most - least) * place / (FIXED - 1)).collect();
        all.dedup();
        all
    };
    vec![
        plain(DQN, json!({})),
        plain("static", json!({ "replicas": replicas })),
        threshold("threshold"),
        threshold("threshold-vertical"),
        threshold("threshold-both"),
        plain("hpa", json!({ "cpu_utilization": UTILIZATIONS, "downscale_stabilization": ["60s", "300s"] })),
        plain(
            "hpa-behavior",
            json!({ "cpu_utilization": UTILIZATIONS, "behavior": { "scale_down": { "stabilization_window": ["60s", "300s"] } } }),
        ),
        plain("vpa", json!({ "margin": [0.15, 0.5, 1.0], "lifetime": ["5m", "12h"], "cpu_percentile": [0.9, 0.99] })),
        plain("hpa-vpa", json!({ "hpa": { "cpu_utilization": UTILIZATIONS } })),
        plain("kpa", json!({ "target": CONCURRENCIES, "stable_window": ["30s", "60s"] })),
        plain("keda", json!({ "threshold": CONCURRENCIES })),
        plain("holt-winters", json!({ "hpa": { "cpu_utilization": [45, 60, 75] } })),
        plain("phpa-linear", json!({ "hpa": { "cpu_utilization": [45, 60, 75] } })),
        entry("openfaas", json!({ "rate_rps": rate(0.5), "max_replicas": most.min(1000) }), json!({ "rate_rps": rates })),
        plain("keep-alive-fixed", json!({ "keep_alive": ["1m", "10m"] })),
        plain("keep-alive-histogram", json!({})),
        plain("target-tracking", json!({ "cpu_utilization": UTILIZATIONS })),
        peak("peak"),
        peak("peak-vertical"),
        peak("peak-both"),
        autopilot("autopilot"),
        autopilot("autopilot-vertical"),
        autopilot("autopilot-both"),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use qscale_common::units::{Mebibytes, Millicores};
    use qscale_dqn::registry;
    use qscale_rl::device::cpu;

    use super::*;
    use crate::calibration::{CalibratedDemand, DemandSpread};
    use crate::replay::ReplicaSize;

    #[test]
    fn every_registered_policy_competes_with_valid_settings() {
        let demand =
            CalibratedDemand { cpu_s: 0.01, waiting_s: 0.0, sigma: 0.1, startup_s: 1.0, workers: 0, parallelism: 1, memory_mib: 50 };
        let size = ReplicaSize { cpu: Millicores(5), memory: Mebibytes(64), request_share: 1.0 };
        let spread = DemandSpread { cpu: 0.1, waiting: 0.1, startup: 0.1 };
        let calibration = Calibration { demand, size, spread, assumptions: Vec::new() };
        let entries = competitors(&calibration, &ScalingPolicy::new("f".parse().expect("valid")));
        for entry in &entries {
            for setting in entry.settings().expect("a grid") {
                let made = registry::by_name(&entry.policy, &setting, None, &cpu());
                made.unwrap_or_else(|error| panic!("{}: {error}", entry.policy));
            }
        }
        let competing: BTreeSet<&str> = entries.iter().map(|entry| entry.policy.as_str()).collect();
        let missing: Vec<&str> = registry::names().filter(|name| !competing.contains(name)).collect();
        assert!(missing.iter().all(|name| name.starts_with("dqn")), "{missing:?}");
    }
}
