//! The metrics that sources read. Owns the one table of them: configuration key, default name, meaning, and the range of values that can be true.

mod check;

use std::collections::HashMap;
use std::ops::RangeInclusive;

use qscale_common::platform::metric_names;
use qscale_common::time::Timestamp;
use qscale_common::units::{Mebibytes, Millicores, Replicas};
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use self::check::EARLIEST;
pub use self::check::Impossible;

/// Largest counter that a float counts exactly, well below the largest numbers of 64 bits.
const MAX_COUNT: f64 = 1e15;
/// Largest number of events such as restarts.
const MAX_EVENTS: f64 = 1e9;
/// Largest CPU time, seconds: 127 years of one core, and less than half of 2^63 ns, at which a counter in nanoseconds wraps.
const MAX_CPU_SECONDS: f64 = 4e9;
/// Largest memory of a node, bytes: 1 PiB.
const MAX_NODE_BYTES: f64 = (1u64 << 50) as f64;
/// Largest number of cores of a node: the most that Linux supports.
const MAX_NODE_CORES: f64 = 8192.0;

/// Declares the metrics of each subject. A row is a configuration key with its default name, and the metrics that are read under that name, each with
/// the suffix that an exposition adds, if any, and the range of its values.
macro_rules! metric_table {
    ($($(#[$subject_doc:meta])* $subject:ident($metrics:ident) {
        $($key:ident = $default:expr => $($(#[$doc:meta])* $metric:ident $($suffix:literal)? in $range:expr),+;)*
    })*) => {
        $(
            $(#[$subject_doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, IntoStaticStr)]
            #[strum(serialize_all = "snake_case")]
            pub enum $metrics { $($($(#[$doc])* $metric,)+)* }

            impl $metrics {
                /// Number of metrics.
                pub const COUNT: usize = [$($(Self::$metric,)+)*].len();

                /// Values that can be true.
                #[must_use]
                pub fn range(self) -> RangeInclusive<f64> {
                    match self { $($(Self::$metric => $range,)+)* }
                }
            }
        )*

        /// Names of the metrics of a source; a metric with an empty name is not read. The defaults are those of Knative's queue-proxy and activator, cAdvisor
        /// and kube-state-metrics, and the local platform's own where those have none.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct MetricNames {
            $($(
                #[doc = concat!("Name of the metric that is read as ", $("`", stringify!($metric), "` ",)+ "in the exposition.")]
                pub $key: String,
            )*)*
        }

        impl Default for MetricNames {
            fn default() -> Self {
                Self { $($($key: $default.into(),)*)* }
            }
        }

        impl MetricNames {
            /// The metrics by their names in an exposition.
            #[must_use]
            pub fn table(&self) -> HashMap<Box<[u8]>, Metric> {
                let rows = [$($($((&self.$key, concat!("", $($suffix)?), Metric::$subject($metrics::$metric)),)+)*)*];
                let named = rows.into_iter().filter(|(name, ..)| !name.is_empty());
                named.map(|(name, suffix, metric)| (format!("{name}{suffix}").into_bytes().into(), metric)).collect()
            }
        }
    };
}

metric_table! {
    /// Metrics of a replica.
    Replica(ReplicaMetric) {
        cpu_seconds = metric_names::CPU_SECONDS =>
            /// CPU time of a container, seconds.
            CpuSeconds in 0.0..=MAX_CPU_SECONDS;
        cpu_periods = metric_names::CPU_PERIODS =>
            /// CFS periods of a container.
            CpuPeriods in 0.0..=MAX_COUNT;
        cpu_throttled_periods = metric_names::CPU_THROTTLED_PERIODS =>
            /// CFS periods in which a container was throttled.
            CpuThrottledPeriods in 0.0..=MAX_COUNT;
        working_set_bytes = metric_names::WORKING_SET_BYTES =>
            /// Working set of a container, bytes. A process has one.
            WorkingSet in 1.0..=Mebibytes::MAX.bytes() as f64;
        oom_events = metric_names::OOM_EVENTS =>
            /// Kills of a container because it ran out of memory.
            OomEvents in 0.0..=MAX_EVENTS;
        restarts = metric_names::RESTARTS =>
            /// Restarts of a container.
            Restarts in 0.0..=MAX_EVENTS;
        start_time_seconds = metric_names::START_TIME =>
            /// Start of a container, seconds since 1970.
            StartTime in EARLIEST.0 as f64 / 1000.0..=Timestamp::LAST.0 as f64 / 1000.0;
        in_flight = metric_names::IN_FLIGHT =>
            /// Requests in flight at a replica.
            InFlight in 0.0..=1e7;
        duration = metric_names::DURATION =>
            /// Requests of at most a duration.
            DurationBucket "_bucket" in 0.0..=MAX_COUNT,
            /// Requests of any duration.
            DurationCount "_count" in 0.0..=MAX_COUNT;
    }
    /// Metrics of a function.
    Function(FunctionMetric) {
        queued = metric_names::QUEUED =>
            /// Requests queued before the replicas.
            Queued in 0.0..=1e9;
        arrived = metric_names::ARRIVED =>
            /// Requests that arrived.
            Arrived in 0.0..=MAX_COUNT;
        desired = metric_names::DESIRED =>
            /// Desired replicas.
            Desired in 0.0..=f64::from(Replicas::MAX.0);
        ready = metric_names::READY =>
            /// Replicas that take requests.
            Ready in 0.0..=f64::from(Replicas::MAX.0);
        pending = metric_names::PENDING =>
            /// Replicas that are starting.
            Pending in 0.0..=f64::from(Replicas::MAX.0);
        desired_cpu_millicores = metric_names::DESIRED_CPU_MILLICORES =>
            /// Desired CPU of each replica, millicores.
            DesiredCpu in 1.0..=f64::from(Millicores::MAX.0);
        desired_memory_bytes = metric_names::DESIRED_MEMORY_BYTES =>
            /// Desired memory of each replica, bytes.
            DesiredMemory in 1.0..=Mebibytes::MAX.bytes() as f64;
        oom_kills = metric_names::OOM_KILLS =>
            /// Kills of replicas that ran out of memory, past replicas included.
            OomKills in 0.0..=MAX_EVENTS;
        crashes = metric_names::CRASHES =>
            /// Crashes of replicas, past replicas included.
            Crashes in 0.0..=MAX_EVENTS;
        startup = metric_names::STARTUP =>
            /// Sum of the start-up times of replicas, seconds.
            StartupSum "_sum" in 0.0..=MAX_CPU_SECONDS,
            /// Starts of replicas.
            StartupCount "_count" in 0.0..=MAX_EVENTS;
    }
    /// Metrics of a node.
    Node(NodeMetric) {
        node_cores = metric_names::NODE_CORES =>
            /// Cores of a node.
            Cores in 0.001..=MAX_NODE_CORES;
        node_memory_bytes = metric_names::NODE_MEMORY_BYTES =>
            /// Memory of a node, bytes.
            Memory in 1.0..=MAX_NODE_BYTES;
    }
}

impl FunctionMetric {
    /// Whether every endpoint that shows it describes the whole function, so that several must not be summed.
    #[must_use]
    pub fn describes_whole_function(self) -> bool {
        match self {
            Self::Desired | Self::Ready | Self::Pending | Self::DesiredCpu | Self::DesiredMemory => true,
            Self::Queued | Self::Arrived | Self::OomKills | Self::Crashes | Self::StartupSum | Self::StartupCount => false,
        }
    }
}

impl ReplicaMetric {
    /// Whether it is measured of each container, and not of a replica as a whole.
    #[must_use]
    pub fn is_of_container(self) -> bool {
        match self {
            Self::CpuSeconds
            | Self::CpuPeriods
            | Self::CpuThrottledPeriods
            | Self::WorkingSet
            | Self::OomEvents
            | Self::Restarts
            | Self::StartTime => true,
            Self::InFlight | Self::DurationBucket | Self::DurationCount => false,
        }
    }
}

/// A metric that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// Of a function.
    Function(FunctionMetric),
    /// Of a replica.
    Replica(ReplicaMetric),
    /// Of a node.
    Node(NodeMetric),
}

impl Metric {
    /// Name in metrics of the collector and in logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Function(metric) => metric.into(),
            Self::Replica(metric) => metric.into(),
            Self::Node(metric) => match metric {
                NodeMetric::Cores => "node_cores",
                NodeMetric::Memory => "node_memory",
            },
        }
    }

    /// Values that can be true.
    #[must_use]
    pub fn range(self) -> RangeInclusive<f64> {
        match self {
            Self::Function(metric) => metric.range(),
            Self::Replica(metric) => metric.range(),
            Self::Node(metric) => metric.range(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_name_of_its_own_by_default() {
        let table = MetricNames::default().table();
        assert_eq!(table.len(), ReplicaMetric::COUNT + FunctionMetric::COUNT + NodeMetric::COUNT);
        assert_eq!(table.get(&b"qscale_replica_startup_seconds_sum"[..]), Some(&Metric::Function(FunctionMetric::StartupSum)));
    }

    #[test]
    fn a_metric_with_an_empty_name_is_not_read() {
        let names = MetricNames { duration: String::new(), ..MetricNames::default() };
        let table = names.table();
        assert!(
            !table.values().any(|metric| matches!(metric, Metric::Replica(ReplicaMetric::DurationBucket | ReplicaMetric::DurationCount)))
        );
        assert_eq!(table.len(), MetricNames::default().table().len() - 2);
    }

    #[test]
    fn every_metric_has_a_label_of_its_own() {
        let replica = [ReplicaMetric::CpuSeconds, ReplicaMetric::OomEvents].map(Metric::Replica);
        let function = [FunctionMetric::OomKills, FunctionMetric::DesiredMemory].map(Metric::Function);
        let labels: Vec<_> = replica.into_iter().chain(function).chain([Metric::Node(NodeMetric::Memory)]).map(Metric::label).collect();
        assert_eq!(labels, ["cpu_seconds", "oom_events", "oom_kills", "desired_memory", "node_memory"]);
    }
}
