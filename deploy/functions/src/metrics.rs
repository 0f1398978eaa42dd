//! Requests of a function as it counts them itself, by OpenTelemetry's names, in OpenMetrics. Owns what counts as a request.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Media type of OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Upper bounds of the durations, seconds.
const BOUNDS: [f64; 27] = [
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5,
    10.0, 15.0, 20.0, 30.0,
];

/// Statuses of a response.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    http_response_status_code: u16,
    /// Of a gRPC method that failed.
    rpc_grpc_status_code: Option<String>,
}

/// Counters of the requests of a function.
#[derive(Debug)]
struct RequestMetrics {
    registry: Registry,
    durations: Family<StatusLabels, Histogram, fn() -> Histogram>,
    in_flight: Gauge<i64, AtomicI64>,
}

/// Counts the requests to the routes of `function`, and shows them at `/metrics`.
pub fn counted(function: Router) -> Router {
    let durations = Family::new_with_constructor(histogram as fn() -> Histogram);
    let (mut registry, in_flight) = (Registry::default(), Gauge::default());
    registry.register("http_server_request_duration_seconds", "Duration of requests", durations.clone());
    registry.register("http_server_active_requests", "Requests in flight", in_flight.clone());
    // Shown as zero before the first request: a reader cannot know what is not there.
    drop(durations.get_or_create(&StatusLabels { http_response_status_code: StatusCode::OK.as_u16(), rpc_grpc_status_code: None }));
    let metrics = Arc::new(RequestMetrics { registry, durations, in_flight });
    function
        .layer(middleware::from_fn_with_state(Arc::clone(&metrics), count))
        .route("/metrics", get(move || async move { show(&metrics) }))
}

fn histogram() -> Histogram {
    Histogram::new(BOUNDS)
}

/// A request in flight; one whose client goes away ends, too.
struct RequestInFlight<'a>(&'a Gauge<i64, AtomicI64>);

impl Drop for RequestInFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[expect(clippy::disallowed_methods, reason = "durations of requests are measured")]
async fn count(State(metrics): State<Arc<RequestMetrics>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    metrics.in_flight.inc();
    let in_flight = RequestInFlight(&metrics.in_flight);
    let response = next.run(request).await;
    // A failed method has no message, so its status is in the head.
    let grpc = response.headers().get("grpc-status").and_then(|status| status.to_str().ok()).map(str::to_owned);
    let labels = StatusLabels { http_response_status_code: response.status().as_u16(), rpc_grpc_status_code: grpc };
    metrics.durations.get_or_create(&labels).observe(began.elapsed().as_secs_f64());
    drop(in_flight);
    response
}

fn show(metrics: &RequestMetrics) -> Response {
    let mut text = String::new();
    match text::encode(&mut text, &metrics.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
