//! A reading: the measurements of a source at one time. Owns the form that all sources share; must not know how it was read.

use std::collections::{BTreeMap, HashMap};

use qscale_common::contract::Headroom;
use qscale_common::scrape::{FunctionScrape, Scrape};

use crate::metric::{Impossible, Metric, ReplicaMetric};

/// The measurements of one source at one time. Every measurement carries the time at which it was taken, which may be
/// long before it was read.
#[derive(Debug, Default)]
pub struct Reading {
    /// Measurements of which the source knows the workload, by workload, written `namespace/name`.
    pub functions: HashMap<String, FunctionScrape>,
    /// Scrapes of replicas of which the source does not know the workload, by replica, written `namespace/replica`.
    /// Another source may know it.
    pub unowned: Vec<(String, Scrape)>,
    /// Capacity of the nodes minus the desired allocations of the source's functions; absent if the source does not know its nodes.
    pub headroom: Option<Headroom>,
    /// Limits of the largest node that the source knows.
    pub node: NodeLimits,
    /// Number of samples used.
    pub samples: u64,
    /// Number of samples that could not be decoded.
    pub malformed: u64,
    /// Whether most samples could not be decoded.
    pub unreadable: bool,
    /// Values that cannot be true, by metric. They are absent from the measurements.
    pub dropped: Dropped,
}

/// Values that cannot be true, by metric.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dropped(BTreeMap<Metric, DroppedValues>);

/// Values of one metric that cannot be true.
#[derive(Debug, Clone, PartialEq)]
pub struct DroppedValues {
    /// Number of values.
    pub count: u64,
    /// Function or replica of the first one, such as `default/fib-1`.
    pub of: String,
    /// Why the first one cannot be true.
    pub why: Impossible,
}

impl Dropped {
    /// Adds a value of `metric` that was measured of `of`.
    pub fn add(&mut self, metric: Metric, of: impl FnOnce() -> String, why: Impossible) {
        match self.0.get_mut(&metric) {
            Some(values) => values.count += 1,
            None => drop(self.0.insert(metric, DroppedValues { count: 1, of: of(), why })),
        }
    }

    /// Adds the values of another part of the same reading.
    pub fn extend(&mut self, other: Self) {
        for (metric, values) in other.0 {
            match self.0.get_mut(&metric) {
                Some(own) => own.count += values.count,
                None => drop(self.0.insert(metric, values)),
            }
        }
    }

    /// The values by metric.
    pub fn iter(&self) -> impl Iterator<Item = (Metric, &DroppedValues)> {
        self.0.iter().map(|(metric, values)| (*metric, values))
    }
}

/// Limits of a node, which bound the use of a replica; absent if unknown.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct NodeLimits {
    /// Cores.
    pub cores: Option<f64>,
    /// Memory, bytes.
    pub memory_bytes: Option<f64>,
}

impl NodeLimits {
    /// The larger of both, part by part.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        let larger = |one: Option<f64>, other: Option<f64>| one.into_iter().chain(other).reduce(f64::max);
        Self { cores: larger(self.cores, other.cores), memory_bytes: larger(self.memory_bytes, other.memory_bytes) }
    }
}

impl Reading {
    /// Drops the working sets beyond the memory of the largest node of any source, and notes its cores for the CPU time of replicas.
    pub fn limit(&mut self, node: NodeLimits) {
        const METRIC: Metric = Metric::Replica(ReplicaMetric::WorkingSet);
        let Self { functions, unowned, dropped, .. } = self;
        for (workload, function) in functions {
            function.node_cores = node.cores;
            for scrape in &mut function.replicas {
                if let Some(why) = drop_memory(scrape, node) {
                    dropped.add(METRIC, || format!("{workload}, replica {}", scrape.replica), why);
                }
            }
        }
        for (path, scrape) in unowned {
            if let Some(why) = drop_memory(scrape, node) {
                dropped.add(METRIC, || path.clone(), why);
            }
        }
    }
}

/// Drops a working set beyond the memory of `node`, and returns why.
fn drop_memory(scrape: &mut Scrape, node: NodeLimits) -> Option<Impossible> {
    let number = scrape.working_set_bytes? as f64;
    let node = node.memory_bytes.filter(|most| number > *most)?;
    scrape.working_set_bytes = None;
    Some(Impossible::BeyondNode { number, node })
}
