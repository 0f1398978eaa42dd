//! Requests as pods count them, from their own metrics endpoints. Owns which pods have one, the requests, their limits, and the names of well-known metrics.

use std::sync::Arc;

use http::Uri;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use memchr::memmem;
use qscale_common::policy::PodEndpoint;
use qscale_common::runtime::clock;
use qscale_common::runtime::http::HttpClient;
use qscale_common::runtime::kubernetes::{is_alive, knative, scaled};
use qscale_common::time::Timestamp;

use super::super::exposition::syntax::ExpositionText;
use super::super::exposition::{self, ExpositionReader, RequestMetrics};
use super::super::{ObservedWorkloads, SourceError};
use super::KubernetesConfig;
use super::sweep::Sweep;
use crate::reading::Reading;

/// Annotations of a pod that name its endpoint, as Prometheus's example for Kubernetes reads them.
const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";
const SCHEME: &str = "prometheus.io/scheme";
/// Largest answer of a pod that is read, bytes. All answers that are read at once must fit into memory.
const MAX_BODY: usize = 4 << 20;
/// Endings of histograms in milliseconds.
const MILLISECONDS: [&str; 2] = ["_milliseconds", "_ms"];
/// Labels with the HTTP status of a response, in common libraries.
const HTTP_STATUSES: [&str; 5] = ["http_response_status_code", "response_code", "status_code", "code", "status"];
/// Labels with its gRPC status.
const GRPC_STATUS: &str = "rpc_grpc_status_code";
const GO_GRPC_STATUS: &str = "grpc_code";

/// Well-known metrics of requests, the more specific first: those of Knative's queue-proxy, OpenTelemetry's conventions for HTTP and RPC servers,
/// Micrometer, go-grpc-middleware, and a name that many libraries use.
const KNOWN: [RequestMetrics<'_>; 8] = [
    known("kn_serving_invocation_duration_seconds", 1.0, Some("kn_revision_request_concurrency"), GRPC_STATUS),
    known("revision_request_latencies", 0.001, None, GRPC_STATUS),
    known("http_server_request_duration_seconds", 1.0, Some("http_server_active_requests"), GRPC_STATUS),
    known("rpc_server_call_duration_seconds", 1.0, None, GRPC_STATUS),
    known("rpc_server_duration_milliseconds", 0.001, None, GRPC_STATUS),
    known("http_server_requests_seconds", 1.0, None, GRPC_STATUS),
    known("grpc_server_handling_seconds", 1.0, None, GO_GRPC_STATUS),
    known("http_request_duration_seconds", 1.0, Some("http_requests_in_flight"), GRPC_STATUS),
];

const fn known<'a>(duration: &'a str, unit_seconds: f64, in_flight: Option<&'a str>, grpc_status: &'a str) -> RequestMetrics<'a> {
    RequestMetrics { duration, unit_seconds, in_flight, http_statuses: &HTTP_STATUSES, grpc_status }
}

/// Reads the endpoints of pods.
pub(super) struct Endpoints {
    reader: Arc<EndpointReader>,
    sweep: Sweep<Reading>,
}

/// Reads one endpoint.
struct EndpointReader {
    client: HttpClient,
    known: Vec<(&'static str, ExpositionReader)>,
}

/// An endpoint, and the metric that it is asked for.
struct Target {
    uri: Uri,
    namespace: String,
    pod: String,
    duration: Option<String>,
}

impl Endpoints {
    pub(super) fn new(config: &KubernetesConfig) -> Self {
        let reader = |metrics: &RequestMetrics<'static>| (metrics.duration, ExpositionReader::of_requests(metrics));
        let reader = EndpointReader { client: HttpClient::new(config.timeout.0), known: KNOWN.iter().map(reader).collect() };
        Self { reader: Arc::new(reader), sweep: Sweep::new("metrics of pods", config) }
    }

    /// The requests of the pods of all observed workloads that have an endpoint. A pod that cannot be read is left out.
    pub(super) async fn read(&mut self, pods: &[Arc<Pod>], observed: &ObservedWorkloads) -> Vec<Reading> {
        let targets = pods.iter().filter_map(|pod| target(pod, observed)).map(|target| {
            let (name, reader) = (format!("{}/{}", target.namespace, target.pod), Arc::clone(&self.reader));
            (name, async move { reader.read(&target).await })
        });
        self.sweep.read(targets).await
    }
}

impl EndpointReader {
    async fn read(&self, target: &Target) -> Result<Reading, SourceError> {
        let requested_at = clock::now();
        let response = exposition::fetch(&self.client, target.uri.clone(), MAX_BODY).await?;
        let text = exposition::text(&response)?;
        let named = target.duration.as_deref().map(|duration| vec![(duration, reader_of(duration))]);
        requests(named.as_ref().unwrap_or(&self.known), text, target, requested_at)
    }
}

/// The requests in `text`: those of the first of `readers` that finds a histogram of their durations. Without one nothing is known of them, whatever else
/// is shown.
fn requests(
    readers: &[(&str, ExpositionReader)],
    text: ExpositionText<'_>,
    target: &Target,
    at: Timestamp,
) -> Result<Reading, SourceError> {
    // The name may be in a comment, or be a part of another name; without it, the text need not be read.
    let may_be_shown = |duration: &str| memmem::find(text.body, duration.as_bytes()).is_some();
    let mut readings = readers
        .iter()
        .filter(|(duration, _)| may_be_shown(duration))
        .filter_map(|(_, reader)| reader.read_replica(text, (&target.namespace, &target.pod), at));
    let reading = readings.next().ok_or(SourceError::NoRequests)?;
    if reading.unreadable {
        return Err(SourceError::Unreadable { malformed: reading.malformed, samples: reading.samples });
    }
    Ok(reading)
}

/// A reader of a histogram that a policy names.
fn reader_of(duration: &str) -> ExpositionReader {
    let known = KNOWN.iter().find(|known| known.duration == duration);
    let milliseconds = MILLISECONDS.iter().any(|ending| duration.ends_with(ending));
    let named = RequestMetrics {
        duration,
        unit_seconds: if milliseconds { 0.001 } else { 1.0 },
        in_flight: None,
        http_statuses: &HTTP_STATUSES,
        grpc_status: GRPC_STATUS,
    };
    ExpositionReader::of_requests(known.unwrap_or(&named))
}

/// The endpoint of a pod, if its workload is observed and it has one.
fn target(pod: &Pod, observed: &ObservedWorkloads) -> Option<Target> {
    if !is_alive(pod) {
        return None;
    }
    let endpoint = observed.get(&scaled::owner(pod)?.name.to_string())?.endpoint.as_ref();
    let address = pod.status.as_ref()?.pod_ip.as_deref()?;
    let namespace = pod.metadata.namespace.clone()?;
    let uri = uri(pod, endpoint, address)?;
    Some(Target { uri, namespace, pod: pod.name_any(), duration: endpoint.and_then(|endpoint| endpoint.duration.clone()) })
}

fn uri(pod: &Pod, endpoint: Option<&PodEndpoint>, address: &str) -> Option<Uri> {
    let annotation = |name: &str| pod.annotations().get(name).map(String::as_str);
    let (port, path) = match endpoint {
        Some(endpoint) => (endpoint.port, endpoint.path.as_str()),
        None if annotation(SCRAPE).is_none() && knative::service(&pod.metadata).is_some() => knative::METRICS,
        None => {
            let http = annotation(SCHEME).is_none_or(|scheme| scheme == "http");
            if annotation(SCRAPE) != Some("true") || !http {
                return None;
            }
            (annotation(PORT)?.parse().ok()?, annotation(PATH).unwrap_or("/metrics"))
        }
    };
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!("http://{host}:{port}{slash}{path}").parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(annotations: Value, endpoint: Option<Value>, address: &str, expected: Option<&str>) {
        let pod = json!({ "metadata": { "name": "fib-1", "annotations": annotations } });
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let endpoint = endpoint.map(|endpoint| serde_json::from_value(endpoint).expect("an endpoint"));
        assert_eq!(uri(&pod, endpoint.as_ref(), address).map(|uri| uri.to_string()).as_deref(), expected);
    }

    #[test]
    fn an_endpoint_is_named_by_the_policy_or_else_by_annotations() {
        let annotated = |port: &str| json!({ SCRAPE: "true", PORT: port });
        check(annotated("9090"), None, "10.0.0.1", Some("http://10.0.0.1:9090/metrics"));
        check(annotated("9090"), None, "fd00::1", Some("http://[fd00::1]:9090/metrics"));
        check(
            annotated("9090"),
            Some(json!({ "port": 8080, "path": "/stats?format=prometheus" })),
            "10.0.0.1",
            Some("http://10.0.0.1:8080/stats?format=prometheus"),
        );
        check(json!({}), Some(json!({ "port": 8080 })), "10.0.0.1", Some("http://10.0.0.1:8080/metrics"));
        check(json!({ SCRAPE: "true", PORT: "9090", PATH: "m" }), None, "10.0.0.1", Some("http://10.0.0.1:9090/m"));
        for none in
            [json!({}), annotated("http"), json!({ SCRAPE: "false", PORT: "1" }), json!({ SCRAPE: "true", PORT: "1", SCHEME: "https" })]
        {
            check(none, None, "10.0.0.1", None);
        }
    }

    #[test]
    fn the_proxy_of_a_knative_service_is_an_endpoint() {
        let of = |annotations: Value| {
            let metadata = json!({ "name": "fib-1", "labels": { knative::SERVICE: "fib" }, "annotations": annotations });
            let pod: Pod = serde_json::from_value(json!({ "metadata": metadata })).expect("a pod");
            uri(&pod, None, "10.0.0.1").map(|uri| uri.to_string())
        };
        assert_eq!(of(json!({})).as_deref(), Some("http://10.0.0.1:9091/metrics"));
        assert_eq!(of(json!({ SCRAPE: "true", PORT: "8080" })).as_deref(), Some("http://10.0.0.1:8080/metrics"));
        assert_eq!(of(json!({ SCRAPE: "false" })), None);
    }

    /// Completed requests and requests in flight that a pod shows, which is asked for `duration`.
    #[track_caller]
    fn check_requests(text: &str, duration: Option<&str>, expected: Result<(u64, Option<f64>), SourceError>) {
        let target = Target { uri: Uri::default(), namespace: "a".into(), pod: "fib-1".into(), duration: duration.map(str::to_owned) };
        let readers: Vec<_> = match &target.duration {
            Some(duration) => vec![(duration.as_str(), reader_of(duration))],
            None => KNOWN.iter().map(|metrics| (metrics.duration, ExpositionReader::of_requests(metrics))).collect(),
        };
        let reading = requests(&readers, ExpositionText::new(text.as_bytes()), &target, Timestamp(1_700_000_000_000));
        let shown = reading.map(|reading| {
            let [(_, scrape)] = &reading.unowned[..] else { panic!("{reading:?}") };
            (scrape.requests.expect("read").completed, scrape.in_flight)
        });
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn the_histogram_is_the_first_known_one_that_has_samples() {
        const OURS: &str = "http_request_duration_seconds_count 7\nhttp_requests_in_flight 2\n";
        let ours = Ok((7, Some(2.0)));
        check_requests(OURS, None, ours.clone());
        let comment = "# HELP other Unlike http_server_request_duration_seconds, of the proxy.\nother 3\n";
        check_requests(&(comment.to_owned() + OURS), None, ours.clone());
        let longer = "caddy_http_server_request_duration_seconds_count 3\nhttp_server_requests_seconds_max 3\n";
        check_requests(&(longer.to_owned() + OURS), None, ours.clone());
        check_requests(&(OURS.to_owned() + "http_server_request_duration_seconds_count 5\n"), None, Ok((5, None)));
        for none in [longer, comment, "caddy_http_request_duration_seconds_count 3\nhttp_requests_in_flight 2\n"] {
            check_requests(none, None, Err(SourceError::NoRequests));
        }
    }

    #[test]
    fn requests_in_flight_alone_say_nothing_of_answered_ones() {
        let in_flight = "# HELP http_request_duration_seconds Duration.\nhttp_requests_in_flight 2\n";
        check_requests(in_flight, None, Err(SourceError::NoRequests));
        check_requests(in_flight, Some("http_request_duration_seconds"), Err(SourceError::NoRequests));
        let text = "latency_ms_bucket{le=\"+Inf\"} 4\nhttp_requests_in_flight 2\n";
        check_requests(text, Some("latency_ms"), Ok((4, None)));
    }

    #[test]
    fn an_address_in_a_path_is_not_followed() {
        check(json!({ SCRAPE: "true", PORT: "1", PATH: "@example.com/" }), None, "10.0.0.1", Some("http://10.0.0.1:1/@example.com/"));
        check(json!({ SCRAPE: "true", PORT: "1@example.com" }), None, "10.0.0.1", None);
    }
}
