//! The source for a Prometheus server: against a real one, and its failures.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::{get, post};
use qscale_collector::reading::Reading;
use qscale_collector::source::prometheus::PrometheusConfig;
use qscale_collector::source::{ObservedWorkloads, Source, SourceConfig, SourceError};
use qscale_common::policy::MetricsSource;
use qscale_common::runtime::clock;
use qscale_common::time::Span;
use qscale_tests::prometheus::PrometheusProgram;
use qscale_tests::{Folder, eventually_async};
use tokio::net::TcpListener;

/// Serves `router` and returns its address.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn read(config: PrometheusConfig) -> Result<Reading, SourceError> {
    let config = SourceConfig::Prometheus(config);
    config.check().expect("valid");
    let observed: ObservedWorkloads = [("shop/cart".to_owned(), MetricsSource::default())].into();
    Source::open(&config).expect("a URL").read(&observed).await
}

/// Metrics of the sidecars of two pods after `requests` requests to each, of which a tenth failed; half of the others took up to 50 ms, the rest up to 100 ms.
fn sidecars(requests: u64) -> String {
    let mut text = String::new();
    for (namespace, pod) in [("shop", "cart-1"), ("shop", "cart-2"), ("bank", "pay-1")] {
        for (code, share) in [("200", 9), ("503", 1)] {
            let workload = pod.split('-').next().expect("a name");
            let labels = format!(
                "reporter=\"destination\",destination_workload=\"{workload}\",destination_workload_namespace=\"{namespace}\",pod=\"{pod}\",response_code=\"{code}\""
            );
            let count = requests * share / 10;
            let name = "istio_request_duration_milliseconds";
            for (bound, below) in [("50", count / 2), ("100", count), ("+Inf", count)] {
                writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}").expect("a text grows");
            }
            writeln!(text, "{name}_sum{{{labels}}} 1\n{name}_count{{{labels}}} {count}").expect("a text grows");
        }
    }
    text
}

#[tokio::test]
async fn requests_of_a_mesh_are_read_from_a_real_server() {
    let requests = Arc::new(AtomicU64::new(100));
    let shown = Arc::clone(&requests);
    let target = serve(Router::new().route("/metrics", get(async move || sidecars(shown.load(Ordering::Relaxed))))).await;
    let Some(program) = PrometheusProgram::start(&target) else { return };

    let config = PrometheusConfig { url: program.url.clone(), timeout: Span::seconds(10), ..PrometheusConfig::default() };
    for expected in [100, 200] {
        requests.store(expected, Ordering::Relaxed);
        let reading = eventually_async("the samples", async || {
            let reading = read(config.clone()).await.ok()?;
            let replicas = &reading.functions.get("shop/cart")?.replicas;
            let all = |replica: &qscale_common::scrape::Scrape| replica.requests.map(|requests| requests.completed + requests.failed);
            (replicas.len() == 2 && replicas.iter().all(|replica| all(replica) == Some(expected))).then_some(reading)
        })
        .await;
        assert_eq!((reading.functions.len(), reading.malformed), (1, 0), "namespaces without observed workloads are not read");
        for replica in &reading.functions["shop/cart"].replicas {
            let requests = replica.requests.expect("read");
            assert_eq!((requests.completed, requests.failed), (expected * 9 / 10, expected / 10));
            let latency = requests.latency.expect("buckets");
            assert_eq!((latency[..10].iter().sum::<u64>(), latency[..12].iter().sum::<u64>()), (expected * 9 / 20, expected * 9 / 10));
            assert!(replica.at <= clock::now(), "{replica:?}");
        }
    }

    let mut query = config.query().expect("bundled");
    query.query = "istio_request_duration_milliseconds_count{[$window]".into();
    let refused = read(PrometheusConfig { requests: Some(query.clone()), ..config.clone() }).await.err();
    assert!(matches!(&refused, Some(SourceError::Query { status: 400, message }) if message.contains("parse error")), "{refused:?}");
    query.query = "up # [$window]".into();
    let refused = read(PrometheusConfig { requests: Some(query), ..config.clone() }).await.err();
    assert!(matches!(&refused, Some(SourceError::NotPrometheus(error)) if error.contains("vector")), "{refused:?}");
    let large = PrometheusConfig { url: format!("{}/elsewhere", program.url), ..config };
    assert_eq!(read(large).await.err(), Some(SourceError::Status(404)));
}

#[tokio::test]
async fn every_failure_has_its_own_error() {
    const EMPTY: &str = r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;
    let with_token = async |headers: HeaderMap| match headers.get(header::AUTHORIZATION) {
        Some(token) if token == "Bearer secret" => (StatusCode::OK, EMPTY),
        _ => (StatusCode::UNAUTHORIZED, ""),
    };
    let path = |server: &str| format!("/{server}/api/v1/query");
    let address = serve(
        Router::new()
            .route(&path("token"), post(with_token))
            .route(&path("page"), post(async || "<html>"))
            .route(&path("busy"), post(async || (StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"error","error":"query timed out"}"#)))
            .route(&path("large"), post(async || " ".repeat(2 << 20)))
            .route(&path("silent"), post(async || std::future::pending::<()>().await)),
    )
    .await;
    let config = |path: &str| PrometheusConfig { url: format!("http://{address}/{path}"), max_body_mib: 1, ..PrometheusConfig::default() };
    let folder = Folder::new("token");
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "secret\n").expect("written");
    let reading = read(PrometheusConfig { token_file: Some(token_file), ..config("token") }).await.expect("accepted");
    assert_eq!((reading.samples, reading.unreadable), (0, false));
    assert_eq!(read(config("token/")).await.err(), Some(SourceError::TokenRefused(401)));
    let absent = read(PrometheusConfig { token_file: Some(folder.path().join("absent")), ..config("token") }).await.err();
    assert!(matches!(&absent, Some(SourceError::Token { path, .. }) if path.ends_with("absent")), "{absent:?}");
    assert!(matches!(read(config("page")).await.err(), Some(SourceError::NotPrometheus(_))));
    assert_eq!(read(config("busy")).await.err(), Some(SourceError::Query { status: 503, message: "query timed out".into() }));
    assert_eq!(read(config("large")).await.err(), Some(SourceError::TooLarge));
    assert_eq!(read(PrometheusConfig { timeout: Span::millis(50), ..config("silent") }).await.err(), Some(SourceError::Timeout));
}
