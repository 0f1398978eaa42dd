//! Metrics of a platform in Prometheus' text format, with the names of Knative's queue-proxy, cAdvisor and kube-state-metrics. Owns the
//! names; must not measure anything.

use std::time::Duration;

use super::text::{MetricKind, TextBuffer, labels};
use super::{ReplicaState, metric_names};
use crate::name::FunctionId;
use crate::scrape::LATENCY_BOUNDS_MS;
use crate::time::Timestamp;
use crate::units::{Allocation, Mebibytes, Millicores};

/// Label `pod` of requests that never reached a replica.
const GATEWAY: &str = "gateway";
/// Length of a CPU period: the kernel's default, and Kubernetes'.
pub const CPU_PERIOD: Duration = Duration::from_millis(100);
/// Bound of an additional bucket beyond those of the contract, milliseconds: a minute, twice the default timeout.
pub const LAST_BOUND_MS: f64 = 60_000.0;
/// Buckets of a duration, including the unbounded one.
pub const BUCKETS: usize = LATENCY_BOUNDS_MS.len() + 2;

/// Snapshot of a function, so that all its metrics agree.
#[derive(Debug, Clone)]
pub struct FunctionView {
    /// The function.
    pub id: FunctionId,
    /// Desired allocation.
    pub desired: Allocation,
    /// Its counters.
    pub counted: FunctionCounters,
    /// Queued requests.
    pub queued: u64,
    /// Its replicas.
    pub replicas: Vec<ReplicaView>,
    /// Requests that never reached a replica.
    pub at_gateway: Vec<Series>,
}

/// Counters of a function since the platform started; they outlive its replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FunctionCounters {
    /// Requests that arrived.
    pub arrived: u64,
    /// OOM-killed replicas.
    pub oom_kills: u64,
    /// Replicas that exited by themselves otherwise.
    pub crashes: u64,
    /// Starts that became ready.
    pub startups: u64,
    /// Total time from start to readiness.
    pub startup_time: Duration,
}

/// Snapshot of a replica.
#[derive(Debug, Clone)]
pub struct ReplicaView {
    /// Its name.
    pub id: String,
    /// Its lifecycle state.
    pub state: ReplicaState,
    /// Its use of resources; absent if unknown.
    pub usage: Option<ResourceUsage>,
    /// Whether CPU and memory are limited, so that periods and kills are counted.
    pub limited: bool,
    /// Current CPU limit.
    pub cpu: Option<Millicores>,
    /// Current memory limit.
    pub memory: Option<Mebibytes>,
    /// Start of its counters of CPU and memory, which go on over restarts where those are limited.
    pub started: Option<Timestamp>,
    /// Restarts.
    pub restarts: u64,
    /// Requests in flight.
    pub in_flight: u32,
    /// Completed requests.
    pub requests: Vec<Series>,
}

/// Resource use of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ResourceUsage {
    /// CPU time, seconds.
    pub cpu_seconds: f64,
    /// Periods in which it could run.
    pub periods: u64,
    /// Periods in which it reached its quota.
    pub throttled_periods: u64,
    /// Throttled time, seconds.
    pub throttled_seconds: f64,
    /// Memory that cannot be reclaimed easily: usage without inactive file pages, bytes.
    pub working_set: u64,
    /// OOM-killed processes in it.
    pub oom_kills: u64,
}

/// Result of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestResult {
    /// HTTP status; 499 if the client disconnected first.
    pub http: u16,
    /// gRPC status, 0 to 16, of a gRPC request.
    pub grpc: Option<u8>,
}

/// Durations of the requests with one result.
#[derive(Debug, Clone)]
pub struct Series {
    /// The result.
    pub ending: RequestResult,
    /// Requests in each bucket, not cumulative.
    pub counts: [u64; BUCKETS],
    /// Sum of their durations, seconds.
    pub sum: f64,
}

/// Snapshot of the machine; unknown values are omitted.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct NodeView {
    /// CPUs that the platform may use.
    pub cpu_cores: Option<f64>,
    /// Its memory, bytes.
    pub memory_bytes: Option<f64>,
    /// Available memory, bytes.
    pub available_bytes: Option<f64>,
    /// Total idle time of its CPUs, seconds.
    pub idle_seconds: Option<f64>,
}

/// Upper bounds of the buckets but the last, seconds.
pub fn bounds() -> impl Iterator<Item = f64> {
    LATENCY_BOUNDS_MS.into_iter().chain([LAST_BOUND_MS]).map(|bound| bound / 1_000.0)
}

/// Renders everything as text.
#[must_use]
pub fn render(functions: &[FunctionView], node: NodeView) -> String {
    let mut text = TextBuffer::default();
    let labelled: Vec<Labelled<'_>> = functions.iter().map(Labelled::new).collect();
    of_functions(&mut text, &labelled);
    of_replicas(&mut text, &labelled);
    of_requests(&mut text, &labelled);
    of_node(&mut text, node);
    text.finish()
}

/// A function with its labels, written once.
struct Labelled<'a> {
    view: &'a FunctionView,
    labels: String,
    replicas: Vec<LabelledReplica<'a>>,
}

struct LabelledReplica<'a> {
    view: &'a ReplicaView,
    /// Namespace, function and pod.
    pod: String,
    /// The same, and the container.
    container: String,
}

impl<'a> Labelled<'a> {
    fn new(view: &'a FunctionView) -> Self {
        let (namespace, name) = (view.id.namespace.as_str(), view.id.name.as_str());
        let replicas = view.replicas.iter().map(|replica| {
            let pod = labels(&[("namespace", namespace), ("function", name), ("pod", &replica.id)]);
            let container = format!("{pod},container=\"user-container\"");
            LabelledReplica { view: replica, pod, container }
        });
        Self { labels: labels(&[("namespace", namespace), ("function", name)]), replicas: replicas.collect(), view }
    }
}

fn of_functions(text: &mut TextBuffer, functions: &[Labelled<'_>]) {
    let mut family = |name: &str, kind: MetricKind, help: &str, value: &dyn Fn(&FunctionView) -> f64| {
        text.family(name, kind, help);
        for function in functions {
            text.sample(name, &function.labels, value(function.view));
        }
    };
    let count =
        |view: &FunctionView, wanted: fn(ReplicaState) -> bool| view.replicas.iter().filter(|replica| wanted(replica.state)).count() as f64;
    family(metric_names::ARRIVED, MetricKind::Counter, "Requests that arrived at the gateway.", &|view| view.counted.arrived as f64);
    family(metric_names::QUEUED, MetricKind::Gauge, "Requests that wait for a replica.", &|view| view.queued as f64);
    family(metric_names::DESIRED, MetricKind::Gauge, "Desired replicas.", &|view| f64::from(view.desired.replicas.0));
    family(metric_names::READY, MetricKind::Gauge, "Replicas that are ready.", &|view| count(view, |state| state == ReplicaState::Ready));
    family(metric_names::PENDING, MetricKind::Gauge, "Replicas that are starting or wait for a restart.", &|view| {
        count(view, |state| matches!(state, ReplicaState::Starting | ReplicaState::BackOff))
    });
    family("kn_revision_pods_terminating_count", MetricKind::Gauge, "Replicas that finish their requests before they stop.", &|view| {
        count(view, |state| state == ReplicaState::Draining)
    });
    family(metric_names::DESIRED_CPU_MILLICORES, MetricKind::Gauge, "Desired CPU of each replica, thousandths of a core.", &|view| {
        f64::from(view.desired.cpu_millicores.0)
    });
    family(metric_names::DESIRED_MEMORY_BYTES, MetricKind::Gauge, "Desired memory of each replica.", &|view| {
        view.desired.memory_mib.bytes() as f64
    });
    family(metric_names::OOM_KILLS, MetricKind::Counter, "OOM kills of replicas, those that are gone included.", &|view| {
        view.counted.oom_kills as f64
    });
    family(
        metric_names::CRASHES,
        MetricKind::Counter,
        "Replicas that ended by themselves otherwise, those that are gone included.",
        &|view| view.counted.crashes as f64,
    );
    startups(text, functions);
}

fn startups(text: &mut TextBuffer, functions: &[Labelled<'_>]) {
    const NAME: &str = metric_names::STARTUP;
    text.family(NAME, MetricKind::Histogram, "Time from the start of a replica's process to its readiness.");
    for Labelled { view, labels, .. } in functions {
        text.sample(&format!("{NAME}_bucket"), &format!("{labels},le=\"+Inf\""), view.counted.startups as f64);
        text.sample(&format!("{NAME}_sum"), labels, view.counted.startup_time.as_secs_f64());
        text.sample(&format!("{NAME}_count"), labels, view.counted.startups as f64);
    }
}

fn of_replicas(text: &mut TextBuffer, functions: &[Labelled<'_>]) {
    let mut family = |name: &str, kind: MetricKind, help: &str, value: &dyn Fn(&ReplicaView) -> Option<f64>| {
        text.family(name, kind, help);
        let of_container = name.starts_with("container_") || name.starts_with("kube_pod_container");
        for replica in functions.iter().flat_map(|function| &function.replicas) {
            if let Some(value) = value(replica.view) {
                text.sample(name, if of_container { &replica.container } else { &replica.pod }, value);
            }
        }
    };
    family(metric_names::CPU_SECONDS, MetricKind::Counter, "CPU time used.", &|replica| Some(replica.usage?.cpu_seconds));
    family(metric_names::CPU_PERIODS, MetricKind::Counter, "CPU periods in which the replica could run.", &|replica| {
        replica.usage.filter(|_| replica.limited).map(|usage| usage.periods as f64)
    });
    family(metric_names::CPU_THROTTLED_PERIODS, MetricKind::Counter, "CPU periods in which the replica reached its quota.", &|replica| {
        replica.usage.filter(|_| replica.limited).map(|usage| usage.throttled_periods as f64)
    });
    family("container_cpu_cfs_throttled_seconds_total", MetricKind::Counter, "Time for which the replica was held back.", &|replica| {
        replica.usage.filter(|_| replica.limited).map(|usage| usage.throttled_seconds)
    });
    family(metric_names::WORKING_SET_BYTES, MetricKind::Gauge, "Memory in use, without inactive file pages.", &|replica| {
        Some(replica.usage?.working_set as f64)
    });
    family(metric_names::OOM_EVENTS, MetricKind::Counter, "OOM-killed processes of the replica.", &|replica| {
        replica.usage.filter(|_| replica.limited).map(|usage| usage.oom_kills as f64)
    });
    family("container_spec_cpu_quota", MetricKind::Gauge, "Current CPU quota, microseconds per period.", &|replica| {
        Some(f64::from(replica.cpu?.0) * CPU_PERIOD.as_micros() as f64 / 1_000.0)
    });
    family("container_spec_cpu_period", MetricKind::Gauge, "CPU period, microseconds.", &|replica| {
        replica.cpu.map(|_| CPU_PERIOD.as_micros() as f64)
    });
    family(
        "container_spec_memory_limit_bytes",
        MetricKind::Gauge,
        "Current memory limit.",
        &|replica| Some(replica.memory?.bytes() as f64),
    );
    family(
        metric_names::START_TIME,
        MetricKind::Gauge,
        "When the replica was started, unix time. Restarts under limits do not change it.",
        &|replica| Some(replica.started?.0 as f64 / 1_000.0),
    );
    family(metric_names::RESTARTS, MetricKind::Counter, "Times the replica was restarted.", &|replica| Some(replica.restarts as f64));
    family("kube_pod_status_ready", MetricKind::Gauge, "1 while the replica takes requests, else 0.", &|replica| {
        Some(f64::from(u8::from(replica.state == ReplicaState::Ready)))
    });
    family(metric_names::IN_FLIGHT, MetricKind::Gauge, "Requests that the replica is working on.", &|replica| {
        Some(f64::from(replica.in_flight))
    });
}

fn of_requests(text: &mut TextBuffer, functions: &[Labelled<'_>]) {
    const NAME: &str = metric_names::DURATION;
    text.family(NAME, MetricKind::Histogram, "Time from a request's arrival at the gateway to the last byte of its reply.");
    let bounds: Vec<String> = bounds().map(|bound| bound.to_string()).collect();
    for function in functions {
        for replica in &function.replicas {
            replica.view.requests.iter().for_each(|series| durations(text, NAME, &replica.pod, series, &bounds));
        }
        let gateway = format!("{},pod=\"{GATEWAY}\"", function.labels);
        function.view.at_gateway.iter().for_each(|series| durations(text, NAME, &gateway, series, &bounds));
    }
}

fn durations(text: &mut TextBuffer, name: &str, pod: &str, series: &Series, bounds: &[String]) {
    let grpc = series.ending.grpc.map_or_else(String::new, |status| format!(",rpc_grpc_status_code=\"{status}\""));
    let labels = format!("{pod},http_response_status_code=\"{}\"{grpc}", series.ending.http);
    let bucket = format!("{name}_bucket");
    let mut below = 0;
    for (count, bound) in series.counts.iter().zip(bounds.iter().map(String::as_str).chain(["+Inf"])) {
        below += count;
        text.bucket(&bucket, &labels, bound, below);
    }
    text.sample(&format!("{name}_sum"), &labels, series.sum);
    text.sample(&format!("{name}_count"), &labels, below as f64);
}

fn of_node(text: &mut TextBuffer, node: NodeView) {
    let mut gauge = |name: &str, kind: MetricKind, help: &str, labels: &str, value: Option<f64>| {
        if let Some(value) = value {
            text.family(name, kind, help);
            text.sample(name, labels, value);
        }
    };
    gauge(metric_names::NODE_CORES, MetricKind::Gauge, "CPUs that the platform may use.", "", node.cpu_cores);
    gauge(metric_names::NODE_MEMORY_BYTES, MetricKind::Gauge, "Memory of the machine.", "", node.memory_bytes);
    gauge("node_memory_MemAvailable_bytes", MetricKind::Gauge, "Memory that new processes could have.", "", node.available_bytes);
    gauge("node_cpu_seconds_total", MetricKind::Counter, "Time that CPUs were idle.", "mode=\"idle\"", node.idle_seconds);
}
