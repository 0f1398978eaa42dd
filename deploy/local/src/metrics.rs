//! What the platform shows at `/metrics`, in Prometheus' text format with the names of Knative's queue-proxy, cAdvisor and kube-state-metrics.
//! Owns the names; reads cgroups and `/proc` when it is asked, so that nothing is read for nobody.

use std::sync::Arc;

use qscale_common::platform::ReplicaState;

use self::text::{Kind, Text, labels};
use crate::cgroup::{CPU_PERIOD, Usage};
use crate::function::Function;
use crate::latency::{Series, bounds};
use crate::platform::Platform;
use crate::replica::{Reading, Replica};

mod proc;
mod text;

/// Label `pod` of requests that never reached a replica.
const GATEWAY: &str = "gateway";

/// Everything, as text. Blocks while files are read.
#[must_use]
pub fn render(platform: &Platform) -> String {
    let functions: Vec<View> = view(platform);
    let mut text = Text::default();
    of_functions(&mut text, &functions);
    of_replicas(&mut text, &functions);
    of_requests(&mut text, &functions);
    of_node(&mut text);
    text.finish()
}

/// A function at one instant, so that all its metrics agree.
struct View {
    function: Arc<Function>,
    labels: String,
    replicas: Vec<ReplicaView>,
}

struct ReplicaView {
    replica: Arc<Replica>,
    /// Namespace, function and pod.
    pod: String,
    /// The same, and the container.
    container: String,
    reading: Reading,
    usage: Option<Usage>,
}

fn view(platform: &Platform) -> Vec<View> {
    let functions = platform.functions.all();
    let groups = if platform.host.cgroups.is_none() { proc::groups() } else { proc::Groups::default() };
    let view_of = |function: Arc<Function>| {
        let (namespace, name) = (function.id.namespace.as_str(), function.id.name.as_str());
        let replicas = function.replicas().into_iter().map(|replica| {
            let reading = replica.reading();
            let usage = match &reading.cgroup {
                Some(cgroup) => cgroup.usage().ok(),
                None => reading.pid.and_then(|pid| groups.get(&pid).copied()),
            };
            let pod = labels(&[("namespace", namespace), ("function", name), ("pod", &replica.id)]);
            let container = format!("{pod},container=\"user-container\"");
            ReplicaView { replica, pod, container, reading, usage }
        });
        View { labels: labels(&[("namespace", namespace), ("function", name)]), replicas: replicas.collect(), function }
    };
    functions.into_iter().map(view_of).collect()
}

fn of_functions(text: &mut Text, functions: &[View]) {
    let mut family = |name: &str, kind: Kind, help: &str, value: &dyn Fn(&View) -> f64| {
        text.family(name, kind, help);
        for view in functions {
            text.sample(name, &view.labels, value(view));
        }
    };
    let desired = |view: &View| view.function.desired();
    let count =
        |view: &View, wanted: fn(ReplicaState) -> bool| view.replicas.iter().filter(|replica| wanted(replica.reading.phase)).count() as f64;
    family("qscale_gateway_requests_total", Kind::Counter, "Requests that arrived at the gateway.", &|view| {
        view.function.counted().arrived as f64
    });
    family("kn_serving_queue_depth", Kind::Gauge, "Requests that wait for a replica.", &|view| view.function.admission.queued() as f64);
    family("kn_revision_pods_desired", Kind::Gauge, "Replicas that the function shall have.", &|view| f64::from(desired(view).replicas.0));
    family("kn_revision_pods_count", Kind::Gauge, "Replicas that are ready.", &|view| count(view, |phase| phase == ReplicaState::Ready));
    family("kn_revision_pods_pending_count", Kind::Gauge, "Replicas that are starting or wait for a restart.", &|view| {
        count(view, |phase| matches!(phase, ReplicaState::Starting | ReplicaState::BackOff))
    });
    family("kn_revision_pods_terminating_count", Kind::Gauge, "Replicas that finish their requests before they stop.", &|view| {
        count(view, |phase| phase == ReplicaState::Draining)
    });
    family("qscale_desired_cpu_millicores", Kind::Gauge, "CPU that each replica shall have, thousandths of a core.", &|view| {
        f64::from(desired(view).cpu_millicores.0)
    });
    family("qscale_desired_memory_bytes", Kind::Gauge, "Memory that each replica shall have.", &|view| {
        desired(view).memory_mib.bytes() as f64
    });
    family("qscale_oom_kills_total", Kind::Counter, "Replicas killed for memory, those that are gone included.", &|view| {
        view.function.counted().oom_kills as f64
    });
    family("qscale_crashes_total", Kind::Counter, "Replicas that ended by themselves otherwise, those that are gone included.", &|view| {
        view.function.counted().crashes as f64
    });
    startups(text, functions);
}

fn startups(text: &mut Text, functions: &[View]) {
    const NAME: &str = "qscale_replica_startup_seconds";
    text.family(NAME, Kind::Histogram, "Time from the start of a replica's process to its readiness.");
    for view in functions {
        let counted = view.function.counted();
        text.sample(&format!("{NAME}_bucket"), &format!("{},le=\"+Inf\"", view.labels), counted.startups as f64);
        text.sample(&format!("{NAME}_sum"), &view.labels, counted.startup_time.as_secs_f64());
        text.sample(&format!("{NAME}_count"), &view.labels, counted.startups as f64);
    }
}

fn of_replicas(text: &mut Text, functions: &[View]) {
    let mut family = |name: &str, kind: Kind, help: &str, value: &dyn Fn(&ReplicaView) -> Option<f64>| {
        text.family(name, kind, help);
        for replica in functions.iter().flat_map(|view| &view.replicas) {
            if let Some(value) = value(replica) {
                let labels = if name.starts_with("container_") || name.starts_with("kube_pod_container") {
                    &replica.container
                } else {
                    &replica.pod
                };
                text.sample(name, labels, value);
            }
        }
    };
    let limited = |replica: &ReplicaView| replica.reading.cgroup.is_some();
    family("container_cpu_usage_seconds_total", Kind::Counter, "CPU time used.", &|replica| Some(replica.usage?.cpu_seconds));
    family("container_cpu_cfs_periods_total", Kind::Counter, "CPU periods in which the replica could run.", &|replica| {
        replica.usage.filter(|_| limited(replica)).map(|usage| usage.periods as f64)
    });
    family("container_cpu_cfs_throttled_periods_total", Kind::Counter, "CPU periods in which the replica reached its quota.", &|replica| {
        replica.usage.filter(|_| limited(replica)).map(|usage| usage.throttled_periods as f64)
    });
    family("container_cpu_cfs_throttled_seconds_total", Kind::Counter, "Time for which the replica was held back.", &|replica| {
        replica.usage.filter(|_| limited(replica)).map(|usage| usage.throttled_seconds)
    });
    family("container_memory_working_set_bytes", Kind::Gauge, "Memory in use, without inactive file pages.", &|replica| {
        Some(replica.usage?.working_set as f64)
    });
    family("container_oom_events_total", Kind::Counter, "Processes of the replica that were killed for memory.", &|replica| {
        replica.usage.filter(|_| limited(replica)).map(|usage| usage.oom_kills as f64)
    });
    family("container_spec_cpu_quota", Kind::Gauge, "CPU quota in force, microseconds a period.", &|replica| {
        Some(f64::from(replica.reading.cpu?.0) * CPU_PERIOD.as_micros() as f64 / 1_000.0)
    });
    family("container_spec_cpu_period", Kind::Gauge, "CPU period, microseconds.", &|replica| {
        replica.reading.cpu.map(|_| CPU_PERIOD.as_micros() as f64)
    });
    family("container_spec_memory_limit_bytes", Kind::Gauge, "Memory limit in force.", &|replica| {
        Some(replica.reading.memory?.bytes() as f64)
    });
    family("container_start_time_seconds", Kind::Gauge, "When the replica's process was started, unix time.", &|replica| {
        Some(replica.reading.started?.0 as f64 / 1_000.0)
    });
    family("kube_pod_container_status_restarts_total", Kind::Counter, "Times the replica was restarted.", &|replica| {
        Some(replica.reading.restarts as f64)
    });
    family("kube_pod_status_ready", Kind::Gauge, "1 while the replica takes requests, else 0.", &|replica| {
        Some(f64::from(u8::from(replica.reading.phase == ReplicaState::Ready)))
    });
    family("kn_revision_request_concurrency", Kind::Gauge, "Requests that the replica is working on.", &|replica| {
        Some(f64::from(replica.replica.load()))
    });
}

fn of_requests(text: &mut Text, functions: &[View]) {
    const NAME: &str = "kn_serving_invocation_duration_seconds";
    text.family(NAME, Kind::Histogram, "Time from a request's arrival at the gateway to the last byte of its reply.");
    let bounds: Vec<String> = bounds().map(|bound| bound.to_string()).collect();
    for view in functions {
        for replica in &view.replicas {
            replica.replica.latency.series().iter().for_each(|series| durations(text, NAME, &replica.pod, series, &bounds));
        }
        let gateway = format!("{},pod=\"{GATEWAY}\"", view.labels);
        view.function.gateway_latency.series().iter().for_each(|series| durations(text, NAME, &gateway, series, &bounds));
    }
}

fn durations(text: &mut Text, name: &str, pod: &str, series: &Series, bounds: &[String]) {
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

fn of_node(text: &mut Text) {
    let mut gauge = |name: &str, kind: Kind, help: &str, labels: &str, value: Option<f64>| {
        if let Some(value) = value {
            text.family(name, kind, help);
            text.sample(name, labels, value);
        }
    };
    let cores = std::thread::available_parallelism().ok().map(|cores| cores.get() as f64);
    gauge("machine_cpu_cores", Kind::Gauge, "CPUs that the platform may use.", "", cores);
    gauge("machine_memory_bytes", Kind::Gauge, "Memory of the machine.", "", proc::memory("MemTotal:"));
    gauge("node_memory_MemAvailable_bytes", Kind::Gauge, "Memory that new processes could have.", "", proc::memory("MemAvailable:"));
    gauge("node_cpu_seconds_total", Kind::Counter, "Time that CPUs were idle.", "mode=\"idle\"", proc::idle_seconds());
}
