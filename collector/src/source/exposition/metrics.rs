//! The metrics that are read. Owns the one table of them: configuration key, default name and meaning.

use std::collections::HashMap;

use qscale_common::platform::metric_names;
use serde::{Deserialize, Serialize};

use crate::metric::{FunctionMetric, Metric, NodeMetric, ReplicaMetric};

/// Declares a struct of names that a user may configure, with their defaults.
macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($(#[$field_doc:meta])* $field:ident = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $type {
            $($(#[$field_doc])* pub $field: String,)*
        }

        impl Default for $type {
            fn default() -> Self {
                Self { $($field: $default.into(),)* }
            }
        }
    };
}

names! {
    /// Names of the labels of a source.
    LabelNames {
        /// Namespace of the function.
        namespace = "namespace",
        /// Name of the workload. A sample without it belongs to the workload of its replica, if another sample names that.
        function = "function",
        /// Name of the replica.
        replica = "pod",
        /// Name of a container within the replica; empty or missing where a sample is the sum over a pod.
        container = "container",
        /// Cgroup of a container.
        container_id = "id",
        /// Name of a container in its runtime.
        runtime_name = "name",
        /// HTTP status of a response: a number, or a class such as `5xx` or `5`.
        http_status = "http_response_status_code",
        /// gRPC status of a response: a number, or a name such as `NOT_FOUND`.
        grpc_status = "rpc_grpc_status_code",
    }
}

/// Declares the configuration keys with their default names, and for each key the metrics that are read under that
/// name, with a suffix where the exposition adds one.
macro_rules! metric_table {
    ($($subject:ident($metrics:ident) {
        $($(#[$doc:meta])* $key:ident = $default:expr => $($metric:ident $($suffix:literal)?),+;)*
    })*) => {
        names! {
            /// Names of the metrics of a source; a metric with an empty name is not read. The defaults are those of
            /// Knative's queue-proxy and activator, cAdvisor and kube-state-metrics, and the local platform's own where
            /// those have none.
            MetricNames { $($($(#[$doc])* $key = $default,)*)* }
        }

        impl MetricNames {
            /// The metrics by their names in the exposition.
            pub(super) fn table(&self) -> HashMap<Box<[u8]>, Metric> {
                let rows = [$($($((&self.$key, concat!("", $($suffix)?), Metric::$subject($metrics::$metric)),)+)*)*];
                let named = rows.into_iter().filter(|(name, ..)| !name.is_empty());
                named.map(|(name, suffix, metric)| (format!("{name}{suffix}").into_bytes().into(), metric)).collect()
            }
        }
    };
}

metric_table! {
    Replica(ReplicaMetric) {
        /// CPU time of a container, seconds.
        cpu_seconds = metric_names::CPU_SECONDS => CpuSeconds;
        /// CFS periods of a container.
        cpu_periods = metric_names::CPU_PERIODS => CpuPeriods;
        /// CFS periods in which a container was throttled.
        cpu_throttled_periods = metric_names::CPU_THROTTLED_PERIODS => CpuThrottledPeriods;
        /// Working set of a container, bytes.
        working_set_bytes = metric_names::WORKING_SET_BYTES => WorkingSet;
        /// Kills of a container because it ran out of memory.
        oom_events = metric_names::OOM_EVENTS => OomEvents;
        /// Restarts of a container.
        restarts = metric_names::RESTARTS => Restarts;
        /// Start of a container, seconds since 1970.
        start_time_seconds = metric_names::START_TIME => StartTime;
        /// Requests in flight at a replica.
        in_flight = metric_names::IN_FLIGHT => InFlight;
        /// Histogram of the duration of requests, seconds.
        duration = metric_names::DURATION => DurationBucket "_bucket", DurationCount "_count";
    }
    Function(FunctionMetric) {
        /// Requests queued before the replicas.
        queued = metric_names::QUEUED => Queued;
        /// Requests that arrived.
        arrived = metric_names::ARRIVED => Arrived;
        /// Desired replicas.
        desired = metric_names::DESIRED => Desired;
        /// Replicas that take requests.
        ready = metric_names::READY => Ready;
        /// Replicas that are starting.
        pending = metric_names::PENDING => Pending;
        /// Desired CPU of each replica, millicores.
        desired_cpu_millicores = metric_names::DESIRED_CPU_MILLICORES => DesiredCpu;
        /// Desired memory of each replica, bytes.
        desired_memory_bytes = metric_names::DESIRED_MEMORY_BYTES => DesiredMemory;
        /// Kills of replicas that ran out of memory, past replicas included.
        oom_kills = metric_names::OOM_KILLS => OomKills;
        /// Crashes of replicas, past replicas included.
        crashes = metric_names::CRASHES => Crashes;
        /// Histogram or summary of the start-up time of replicas, seconds.
        startup = metric_names::STARTUP => StartupSum "_sum", StartupCount "_count";
    }
    Node(NodeMetric) {
        /// Cores of a node.
        node_cores = metric_names::NODE_CORES => Cores;
        /// Memory of a node, bytes.
        node_memory_bytes = metric_names::NODE_MEMORY_BYTES => Memory;
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
}
