//! A source over HTTP and its limits.

use std::net::SocketAddr;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use qscale_collector::reading::Reading;
use qscale_collector::source::exposition::ExpositionConfig;
use qscale_collector::source::{Source, SourceConfig, SourceError};
use qscale_common::time::Span;

async fn serve() -> SocketAddr {
    let ballast = || format!("# {}\nqscale_gateway_requests_total{{namespace=\"a\",function=\"b\"}} 1\n", "x".repeat(1 << 20));
    let router = Router::new()
        .route("/good", get(async || "qscale_gateway_requests_total{namespace=\"a\",function=\"b\"} 1\nbad\n"))
        .route("/broken", get(async || StatusCode::SERVICE_UNAVAILABLE))
        .route("/large", get(async move || ballast()))
        .route("/silent", get(async || std::future::pending::<()>().await));
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn read(address: SocketAddr, path: &str, timeout: Span) -> Result<Reading, SourceError> {
    let config = ExpositionConfig { url: format!("http://{address}{path}"), timeout, max_body_mib: 1, ..ExpositionConfig::default() };
    Source::open(&SourceConfig::Exposition(config)).expect("a URL").read().await
}

#[tokio::test]
async fn every_failure_has_its_own_error() {
    let address = serve().await;
    let long = Span::seconds(60);
    let good = read(address, "/good", long).await.expect("it is read");
    assert_eq!((good.functions.len(), good.samples, good.malformed), (1, 1, 1));
    assert_eq!(read(address, "/broken", long).await.err(), Some(SourceError::Status(503)));
    assert_eq!(read(address, "/elsewhere", long).await.err(), Some(SourceError::Status(404)));
    assert_eq!(read(address, "/large", long).await.err(), Some(SourceError::TooLarge));
    assert_eq!(read(address, "/silent", Span::millis(50)).await.err(), Some(SourceError::Timeout));
    let unused =
        std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).and_then(|listener| listener.local_addr()).expect("a free port");
    let error = read(unused, "/good", long).await.err();
    assert!(matches!(&error, Some(SourceError::Connection(cause)) if cause.contains("refused")), "{error:?}");
}
