//! The platform's counters of one function, from its `/metrics`. Owns which of them are read.

use std::collections::BTreeMap;

use qscale_common::name::FunctionId;
use qscale_common::time::Timestamp;

/// The counters at one time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters {
    /// Start of the reading.
    pub began: Timestamp,
    /// End of the reading.
    pub at: Timestamp,
    /// CPU time of each replica, seconds.
    pub cpu: BTreeMap<String, f64>,
    /// Memory used by each replica, bytes.
    pub memory: BTreeMap<String, f64>,
    /// Starts that reached readiness.
    pub startups: f64,
    /// Total time of these starts, seconds.
    pub startup_seconds: f64,
}

impl Counters {
    /// CPU time of all present replicas, seconds.
    pub fn cpu_seconds(&self) -> f64 {
        self.cpu.values().sum()
    }

    /// Largest memory of a replica, bytes.
    pub fn most_memory(&self) -> f64 {
        self.memory.values().copied().fold(0.0, f64::max)
    }
}

/// Reads the counters of `function` in Prometheus' text format.
pub fn counters(text: &str, function: &FunctionId) -> Counters {
    let mut counters = Counters::default();
    let ours = format!("namespace=\"{}\",function=\"{}\"", function.namespace, function.name);
    for line in text.lines().filter(|line| line.contains(&ours)) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let Some((name, labels)) = series.split_once('{') else { continue };
        let Ok(value) = value.parse::<f64>() else { continue };
        let pod = || labels.split_once("pod=\"").and_then(|(_, rest)| rest.split('"').next()).unwrap_or_default().to_owned();
        match name {
            "container_cpu_usage_seconds_total" => drop(counters.cpu.insert(pod(), value)),
            "container_memory_working_set_bytes" => drop(counters.memory.insert(pod(), value)),
            "qscale_replica_startup_seconds_count" => counters.startups = value,
            "qscale_replica_startup_seconds_sum" => counters.startup_seconds = value,
            _ => {}
        }
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_other_functions_are_ignored() {
        let text = "# HELP x\n\
            container_cpu_usage_seconds_total{namespace=\"default\",function=\"f\",pod=\"f-0\",container=\"user-container\"} 1.5\n\
            container_cpu_usage_seconds_total{namespace=\"default\",function=\"f\",pod=\"f-1\",container=\"user-container\"} 0.25\n\
            container_cpu_usage_seconds_total{namespace=\"default\",function=\"ff\",pod=\"ff-0\",container=\"user-container\"} 9\n\
            container_memory_working_set_bytes{namespace=\"default\",function=\"f\",pod=\"f-0\",container=\"user-container\"} 4096\n\
            qscale_replica_startup_seconds_sum{namespace=\"default\",function=\"f\"} 0.75\n\
            qscale_replica_startup_seconds_count{namespace=\"default\",function=\"f\"} 2\n";
        let counters = counters(text, &"default/f".parse().expect("a function"));
        assert_eq!((counters.cpu_seconds(), counters.most_memory()), (1.75, 4096.0));
        assert_eq!((counters.startups, counters.startup_seconds), (2.0, 0.75));
    }
}
