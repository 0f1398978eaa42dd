//! Names of the metrics that a platform exposes and a collector reads by default. Owns no value.

/// CPU time of a container, seconds.
pub const CPU_SECONDS: &str = "container_cpu_usage_seconds_total";
/// CFS periods of a container.
pub const CPU_PERIODS: &str = "container_cpu_cfs_periods_total";
/// CFS periods in which a container was throttled.
pub const CPU_THROTTLED_PERIODS: &str = "container_cpu_cfs_throttled_periods_total";
/// Working set of a container, bytes.
pub const WORKING_SET_BYTES: &str = "container_memory_working_set_bytes";
/// Kills of a container because it ran out of memory.
pub const OOM_EVENTS: &str = "container_oom_events_total";
/// Restarts of a container.
pub const RESTARTS: &str = "kube_pod_container_status_restarts_total";
/// Start of a container, seconds since 1970.
pub const START_TIME: &str = "container_start_time_seconds";
/// Requests in flight at a replica.
pub const IN_FLIGHT: &str = "kn_revision_request_concurrency";
/// Histogram of the duration of requests, seconds.
pub const DURATION: &str = "kn_serving_invocation_duration_seconds";
/// Requests queued before the replicas.
pub const QUEUED: &str = "kn_serving_queue_depth";
/// Requests that arrived.
pub const ARRIVED: &str = "qscale_gateway_requests_total";
/// Desired replicas.
pub const DESIRED: &str = "kn_revision_pods_desired";
/// Replicas that take requests.
pub const READY: &str = "kn_revision_pods_count";
/// Replicas that are starting.
pub const PENDING: &str = "kn_revision_pods_pending_count";
/// Desired CPU of each replica, millicores.
pub const DESIRED_CPU_MILLICORES: &str = "qscale_desired_cpu_millicores";
/// Desired memory of each replica, bytes.
pub const DESIRED_MEMORY_BYTES: &str = "qscale_desired_memory_bytes";
/// Kills of replicas that ran out of memory, past replicas included.
pub const OOM_KILLS: &str = "qscale_oom_kills_total";
/// Crashes of replicas, past replicas included.
pub const CRASHES: &str = "qscale_crashes_total";
/// Histogram of the start-up time of replicas, seconds.
pub const STARTUP: &str = "qscale_replica_startup_seconds";
/// Cores of a node.
pub const NODE_CORES: &str = "machine_cpu_cores";
/// Memory of a node, bytes.
pub const NODE_MEMORY_BYTES: &str = "machine_memory_bytes";
