use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode as Status;
use axum::routing::post;
use qscale_common::runtime::http::serve;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::queries::QuerySet;

/// Answers each request by `answer`, which gets the decoded form.
async fn server(
    answer: impl Fn(&BTreeMap<String, String>) -> (Status, String) + Send + Sync + 'static,
) -> (PrometheusServer, CancellationToken) {
    let answer = Arc::new(answer);
    let handler = move |body: String| {
        let answer = Arc::clone(&answer);
        async move {
            let form = body.split('&').filter_map(|pair| pair.split_once('='));
            let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
            answer(&form.map(|(name, value)| (name.to_owned(), decoded(value))).collect())
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/x/", listener.local_addr().expect("bound"));
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, Router::new().route("/x/api/v1/query_range", post(handler)), stop.clone()));
    (PrometheusServer::new(&url, Some("secret".to_owned())).expect("valid"), stop)
}

fn matrix(series: &[(&str, Vec<(f64, &str)>)]) -> (Status, String) {
    let one = |(labels, values): &(&str, Vec<(f64, &str)>)| {
        let values: Vec<String> = values.iter().map(|(at, value)| format!("[{at},\"{value}\"]")).collect();
        format!("{{\"metric\":{labels},\"values\":[{}]}}", values.join(","))
    };
    let all: Vec<String> = series.iter().map(one).collect();
    (Status::OK, format!("{{\"status\":\"success\",\"data\":{{\"resultType\":\"matrix\",\"result\":[{}]}}}}", all.join(",")))
}

const GRID: HistoryGrid = HistoryGrid { begin: Timestamp(600_000), step: Duration::from_secs(60), steps: 4 };
const PARAMETERS: QueryParameters<'_> = QueryParameters { window: Span::seconds(60), percentile: 0.95, namespaces: ".*" };

fn queries(text: &str) -> QuerySet {
    QuerySet::parse(text, qscale_common::document::Format::Toml).expect("valid")
}

#[tokio::test]
async fn rates_at_an_instant_belong_to_the_step_before_and_gaps_stay() {
    let (server, _stop) = server(|form| match form["query"].as_str() {
        "a" => matrix(&[
            ("{\"workload\":\"fib\",\"namespace\":\"shop\"}", vec![(660.0, "1"), (720.0, "NaN"), (840.0, "4"), (99_999.0, "9")]),
            ("{\"workload\":\"Bad Name\"}", vec![(660.0, "1")]),
            ("{}", vec![(660.0, "1")]),
        ]),
        // A counter that was reset gives no negative rate; a wrong query may.
        "c" => matrix(&[
            ("{\"workload\":\"fib\",\"namespace\":\"shop\"}", vec![(660.0, "-1"), (720.0, "2")]),
            ("{\"workload\":\"other\"}", vec![(660.0, "1")]),
        ]),
        _ => matrix(&[]),
    })
    .await;
    let set = queries("[queries]\narrivals_rps = 'a'\ncpu_cores = 'c'\nreplicas = 'r'\n");
    let found = server.histories(&set, &PARAMETERS, &GRID, |_| ()).await.expect("valid replies");
    let [history] = found.histories.as_slice() else { panic!("{found:?}") };
    assert_eq!(history.workload.to_string(), "shop/fib");
    let values = |metric| history.steps.iter().map(|step| step.get(metric)).collect::<Vec<_>>();
    assert_eq!(values(HistoryMetric::ArrivalsRps), [Some(1.0), None, None, Some(4.0)]);
    assert_eq!(values(HistoryMetric::CpuCores), [None, Some(2.0), None, None]);
    assert_eq!(found.remarks.len(), 2, "{:?}", found.remarks);
    let replicas = found.missing.iter().find(|missing| missing.metric == HistoryMetric::Replicas).expect("named");
    assert_eq!((replicas.query.as_deref(), replicas.workloads.len()), (Some("r"), 0));
    assert!(found.missing.iter().any(|missing| missing.metric == HistoryMetric::StartupS && missing.query.is_none()));
}

#[tokio::test]
async fn long_periods_are_read_in_parts_and_parts_that_are_too_large_are_halved() {
    let asked: Arc<Mutex<Vec<u64>>> = Arc::default();
    let noted = Arc::clone(&asked);
    let (server, _stop) = server(move |form| {
        let number = |name: &str| form[name].parse::<f64>().expect("a number");
        let points = ((number("end") - number("start")) / number("step")).round() as u64 + 1;
        noted.lock().expect("no panic").push(points);
        if points > 600 {
            return (
                Status::UNPROCESSABLE_ENTITY,
                "{\"status\":\"error\",\"error\":\"query processing would load too many samples into memory\"}".to_owned(),
            );
        }
        let at = |place: u64| number("start") + place as f64 * number("step");
        matrix(&[("{\"workload\":\"fib\"}", (0..points).map(|place| (at(place), "1")).collect())])
    })
    .await;
    let grid = HistoryGrid { steps: 2_500, ..GRID };
    let found = server.histories(&queries("[queries]\narrivals_rps = 'a'\n"), &PARAMETERS, &grid, |_| ()).await.expect("valid replies");
    assert_eq!(found.histories[0].values(HistoryMetric::ArrivalsRps).count(), 2_500);
    assert_eq!(*asked.lock().expect("no panic"), [2_000, 1_000, 500, 500, 500, 500, 500]);
}

#[tokio::test]
async fn errors_name_server_query_and_reason() {
    let (server, stop) = server(|form| match form["query"].as_str() {
        "none" => matrix(&[]),
        "wrong" => (Status::BAD_REQUEST, "{\"status\":\"error\",\"error\":\"parse error: unexpected end\"}".to_owned()),
        "scalar" => (Status::OK, "{\"status\":\"success\",\"data\":{\"resultType\":\"scalar\",\"result\":[1,\"2\"]}}".to_owned()),
        _ => (Status::BAD_GATEWAY, "<html>\u{1b}[31mproxy</html>".to_owned()),
    })
    .await;
    let error = async |query: &str| {
        let set = queries(&format!("[queries]\narrivals_rps = '{query}'\n"));
        format!("{:#}", server.histories(&set, &PARAMETERS, &GRID, |_| ()).await.expect_err("refused"))
    };
    assert!(error("none").await.contains("arrivals_rps is missing, so that no load can be simulated: no result of none"));
    assert!(error("wrong").await.contains("wrong: status 400: parse error: unexpected end"), "{}", error("wrong").await);
    assert!(error("scalar").await.contains("must be matrix"));
    let proxy = error("proxy").await;
    assert!(proxy.contains("status 502") && !proxy.contains('\u{1b}'), "{proxy}");
    stop.cancel();
    let gone = PrometheusServer::new("http://127.0.0.1:1", None).expect("valid");
    let error = gone.histories(&queries("[queries]\narrivals_rps = 'a'\n"), &PARAMETERS, &GRID, |_| ()).await.expect_err("nobody listens");
    assert!(format!("{error:#}").contains("http://127.0.0.1:1"), "{error:#}");
    for url in ["ftp://a", "a:9090", "http://", ""] {
        assert!(PrometheusServer::new(url, None).is_err(), "{url}");
    }
}

#[tokio::test]
async fn the_preset_is_found_by_its_arrivals() {
    let (server, _stop) = server(|form| {
        let istio = form["query"].contains("istio_request_duration");
        matrix(&[("{\"workload\":\"fib\"}", vec![(660.0, if istio { "3" } else { "0" })])])
    })
    .await;
    assert_eq!(server.find_preset(&PARAMETERS, &GRID).await, Ok(Some("istio")));
}
