//! A source over HTTP and its limits.

use std::net::SocketAddr;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use qscale_collector::reading::Reading;
use qscale_collector::source::exposition::ExpositionConfig;
use qscale_collector::source::{ObservedWorkloads, Source, SourceConfig, SourceError};
use qscale_common::time::{Span, Timestamp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROTOBUF: &str = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
/// A sample of 2023-11-14, with its time in seconds.
const TIMED: &str = "qscale_gateway_requests_total{namespace=\"a\",function=\"b\"} 5 1700000000.5\n# EOF\n";

async fn serve() -> SocketAddr {
    let ballast = || format!("# {}\nqscale_gateway_requests_total{{namespace=\"a\",function=\"b\"}} 1\n", "x".repeat(1 << 20));
    let router = Router::new()
        .route("/good", get(async || "qscale_gateway_requests_total{namespace=\"a\",function=\"b\"} 1\nbad\n"))
        .route("/unterminated", get(async || "# HELP x y\nqscale_gateway_requests_total{namespace=\"a\",function=\"b\"} 123"))
        .route("/openmetrics", get(async || ([(header::CONTENT_TYPE, OPEN_METRICS)], TIMED)))
        .route("/prometheus", get(async || ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], TIMED)))
        .route("/page", get(async || ([(header::CONTENT_TYPE, "text/html")], "<html>\n<p>Sign in</p>\n</html>\n")))
        .route("/endless", get(async || ([(header::CONTENT_TYPE, OPEN_METRICS)], TIMED.replace("# EOF\n", ""))))
        .route("/compressed", get(async || ([(header::CONTENT_ENCODING, "gzip")], TIMED)))
        .route("/binary", get(async || ([(header::CONTENT_TYPE, PROTOBUF)], TIMED)))
        .route("/moved", get(async || (StatusCode::FOUND, [(header::LOCATION, "/metrics")])))
        .route("/closed", get(async || StatusCode::UNAUTHORIZED))
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
    Source::open(&SourceConfig::Exposition(config)).expect("a URL").read(&ObservedWorkloads::default()).await
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

/// Number of requests that arrived, and the time at which it was read.
fn arrived(reading: &Reading) -> Option<(u64, Timestamp)> {
    let ingress = reading.functions.get("a/b")?.ingress.as_ref()?;
    Some((ingress.arrived.sum(), ingress.at))
}

#[tokio::test]
async fn the_content_type_decides_what_times_mean() {
    let address = serve().await;
    let read = async |path| read(address, path, Span::seconds(60)).await.expect("it is read");
    assert_eq!(arrived(&read("/openmetrics").await), Some((5, Timestamp(1_700_000_000_500))));
    let prometheus = read("/prometheus").await;
    assert_eq!((arrived(&prometheus), prometheus.unreadable), (None, true), "times are whole milliseconds");
}

#[tokio::test]
async fn a_page_is_no_exposition() {
    let address = serve().await;
    assert!(read(address, "/page", Span::seconds(60)).await.expect("it is read").unreadable);
    assert!(!read(address, "/good", Span::seconds(60)).await.expect("it is read").unreadable);
}

#[tokio::test]
async fn the_last_line_counts_if_it_is_known_to_be_whole() {
    let address = serve().await;
    let reading = read(address, "/unterminated", Span::seconds(60)).await.expect("it is read");
    assert_eq!(arrived(&reading).map(|(arrived, _)| arrived), Some(123));

    // A body that ends with its connection may lack the rest of the number.
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = [0; 1024];
        assert!(stream.read(&mut request).await.expect("a request") > 0);
        let body = "qscale_gateway_requests_total{namespace=\"a\",function=\"b\"} 123";
        stream.write_all(format!("HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\n{body}").as_bytes()).await.expect("it is written");
    });
    assert_eq!(read(address, "/metrics", Span::seconds(60)).await.err(), Some(SourceError::Truncated));
}

#[tokio::test]
async fn an_answer_that_is_no_text_names_the_remedy() {
    let address = serve().await;
    let error = async |path| read(address, path, Span::seconds(60)).await.err();
    assert_eq!(error("/endless").await, Some(SourceError::Truncated));
    assert_eq!(error("/compressed").await, Some(SourceError::Encoded("gzip".into())));
    assert_eq!(error("/binary").await, Some(SourceError::Binary(PROTOBUF.into())));
    assert_eq!(error("/moved").await, Some(SourceError::Redirected { status: 302, location: "/metrics".into() }));
    assert_eq!(error("/closed").await, Some(SourceError::Unauthorized(401)));
}
