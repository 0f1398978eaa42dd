//! Every preset against a real Prometheus server, with samples of the past hour of each exporter. Skipped without the
//! program.

use std::fmt::Write as _;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use qscale_assess::history::HistoryMetric;
use qscale_assess::prometheus::{HistoryGrid, PrometheusServer};
use qscale_assess::queries::{PRESETS, QueryParameters, QuerySet};
use qscale_common::runtime::clock;
use qscale_common::runtime::http::serve;
use qscale_common::time::{Span, Timestamp};
use qscale_tests::eventually_async;
use qscale_tests::prometheus::PrometheusProgram;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Distance of samples, and length of the history.
const SAMPLE_S: u64 = 15;
const LENGTH_S: u64 = 3600;
/// Arrivals of each workload, requests/s.
const RATE: f64 = 10.0;

/// Samples of one series: its value after a number of seconds.
fn series(text: &mut String, begin: u64, name: &str, labels: &str, value: impl Fn(f64) -> f64) {
    for second in (0..=LENGTH_S).step_by(SAMPLE_S as usize) {
        writeln!(text, "{name}{{{labels}}} {} {}", value(second as f64), begin + second * 1000).expect("a text grows");
    }
}

/// Requests of which half take up to 50 ms and half up to 100 ms, 60 ms on average; one in a hundred fails. The counter is reset after half an hour.
fn requests(text: &mut String, begin: u64, name: &str, labels: &str, status: (&str, &str, &str), unit: f64) {
    let count = |rate: f64| move |second: f64| rate * if second < 1800.0 { second } else { second - 1800.0 };
    for (code, share) in [(status.1, 0.99), (status.2, 0.01)] {
        let labels = format!("{labels},{}=\"{code}\"", status.0);
        series(text, begin, &format!("{name}_count"), &labels, count(RATE * share));
        series(text, begin, &format!("{name}_sum"), &labels, count(RATE * share * 0.06 * unit));
        for (bound, below) in [("0.05", 0.5), ("0.1", 1.0), ("+Inf", 1.0)] {
            let bound = bound
                .parse::<f64>()
                .ok()
                .filter(|bound| bound.is_finite())
                .map_or_else(|| bound.to_owned(), |bound| (bound * unit).to_string());
            series(text, begin, &format!("{name}_bucket"), &format!("{labels},le=\"{bound}\""), count(RATE * share * below));
        }
    }
}

/// Two pods of a Deployment: cAdvisor and kube-state-metrics.
fn pods(text: &mut String, begin: u64, deployment: &str) {
    series(text, begin, "kube_deployment_status_replicas", &format!("namespace=\"shop\",deployment=\"{deployment}\""), |_| 2.0);
    for pod in ["7c5d8f9b6d-x2x4z", "7c5d8f9b6d-abcde"] {
        let pod = format!("namespace=\"shop\",pod=\"{deployment}-{pod}\"");
        let container = format!("{pod},container=\"app\"");
        series(text, begin, "container_cpu_usage_seconds_total", &container, |second| 0.1 * second);
        series(text, begin, "container_cpu_cfs_periods_total", &container, |second| 10.0 * second);
        series(text, begin, "container_cpu_cfs_throttled_periods_total", &container, |second| second);
        series(text, begin, "container_memory_working_set_bytes", &container, |_| 50.0 * 1048576.0);
        for (resource, limit, request) in [("cpu", 0.5, 0.25), ("memory", 134217728.0, 67108864.0)] {
            let resource = format!("{container},resource=\"{resource}\"");
            series(text, begin, "kube_pod_container_resource_limits", &resource, |_| limit);
            series(text, begin, "kube_pod_container_resource_requests", &resource, |_| request);
        }
        series(text, begin, "kube_pod_start_time", &pod, |_| 1_700_000_000.0);
        series(text, begin, "kube_pod_status_ready_time", &pod, |_| 1_700_000_004.0);
    }
}

/// A function of Qscale's own platform.
fn function(text: &mut String, begin: u64) {
    let labels = "namespace=\"shop\",function=\"qscale\"";
    series(text, begin, "qscale_gateway_requests_total", labels, |second| RATE * second);
    requests(text, begin, "kn_serving_invocation_duration_seconds", labels, ("http_response_status_code", "200", "503"), 1.0);
    for pod in ["a", "b"] {
        let labels = format!("{labels},pod=\"{pod}\",container=\"user-container\"");
        series(text, begin, "container_cpu_usage_seconds_total", &labels, |second| 0.1 * second);
        series(text, begin, "container_cpu_cfs_periods_total", &labels, |second| 10.0 * second);
        series(text, begin, "container_cpu_cfs_throttled_periods_total", &labels, |second| second);
        series(text, begin, "container_memory_working_set_bytes", &labels, |_| 50.0 * 1048576.0);
    }
    for (name, value) in [
        ("kn_revision_pods_desired", 2.0),
        ("qscale_desired_cpu_millicores", 500.0),
        ("qscale_desired_memory_bytes", 134217728.0),
        ("qscale_replica_startup_seconds_sum", 8.0),
        ("qscale_replica_startup_seconds_count", 2.0),
    ] {
        series(text, begin, name, labels, |_| value);
    }
}

fn exposition(begin: u64) -> String {
    let mut text = String::new();
    function(&mut text, begin);
    let istio = "reporter=\"destination\",destination_workload_namespace=\"shop\",destination_workload=\"istio\"";
    requests(&mut text, begin, "istio_request_duration_milliseconds", istio, ("response_code", "200", "503"), 1000.0);
    let linkerd = "direction=\"inbound\",namespace=\"shop\",deployment=\"linkerd\"";
    requests(&mut text, begin, "response_latency_ms", linkerd, ("status_code", "200", "500"), 1000.0);
    let knative = "k8s_namespace_name=\"shop\",kn_revision_name=\"knative\"";
    requests(&mut text, begin, "kn_serving_invocation_duration_seconds", knative, ("http_response_status_code", "200", "502"), 1.0);
    let nginx = "exported_namespace=\"shop\",exported_service=\"nginx\"";
    requests(&mut text, begin, "nginx_ingress_controller_request_duration_seconds", nginx, ("status", "200", "504"), 1.0);
    ["istio", "linkerd", "knative-deployment", "nginx"].iter().for_each(|deployment| pods(&mut text, begin, deployment));
    text
}

#[tokio::test]
async fn every_preset_reads_its_exporters_from_a_real_server() {
    let end = clock::now().0 / 60_000 * 60_000 - 60_000;
    let begin = end - LENGTH_S * 1000;
    let text = exposition(begin);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let target = listener.local_addr().expect("bound");
    tokio::spawn(serve(listener, Router::new().route("/metrics", get(async move || text)), CancellationToken::new()));

    let Some(program) = PrometheusProgram::start(&target.to_string()) else { return };
    let server = PrometheusServer::new(&program.url, None).expect("valid");
    let step = Duration::from_secs(60);
    let grid = HistoryGrid { begin: Timestamp(begin), step, steps: (LENGTH_S / 60) as usize };
    let parameters = QueryParameters { window: Span(step), percentile: 0.95, namespaces: "shop" };
    // The server shows a scrape while it still stores the rest of it. With all of it the first preset is chosen.
    let preset = async || server.find_preset(&parameters, &grid).await.ok().flatten().filter(|found| *found == "qscale");
    eventually_async("the preset qscale", preset).await;
    for preset in PRESETS {
        let queries = QuerySet::preset(preset.name).expect("bundled");
        let collected = server.histories(&queries, &parameters, &grid, |_| ()).await.expect("readable");
        let history = collected.histories.iter().find(|history| history.workload.name.as_str() == preset.name);
        let history = history.unwrap_or_else(|| panic!("{}: {collected:?}", preset.name));
        assert_eq!(history.workload.namespace.as_str(), "shop");
        for (metric, expected) in [
            (HistoryMetric::ArrivalsRps, RATE),
            (HistoryMetric::FailedShare, 0.01),
            (HistoryMetric::MeanMs, 60.0),
            (HistoryMetric::MedianMs, 50.0),
            (HistoryMetric::ObjectiveMs, 95.0),
            (HistoryMetric::CpuCores, 0.2),
            (HistoryMetric::ThrottledShare, 0.1),
            (HistoryMetric::MemoryMib, 50.0),
            (HistoryMetric::Replicas, 2.0),
            (HistoryMetric::CpuLimitMillicores, 500.0),
            (HistoryMetric::MemoryLimitMib, 128.0),
            (HistoryMetric::StartupS, 4.0),
        ] {
            let measured = history.median(metric).unwrap_or_else(|| panic!("{}: {metric} is missing", preset.name));
            assert!((measured / expected - 1.0).abs() < 0.01, "{}: {metric} = {measured}, expected {expected}", preset.name);
            // A reset of a counter is neither a negative nor a huge rate.
            let extremes = history.values(metric).fold((f64::INFINITY, 0.0_f64), |found, value| (found.0.min(value), found.1.max(value)));
            assert!(extremes.0 >= 0.4 * expected && extremes.1 <= 1.5 * expected, "{}: {metric} is {extremes:?}", preset.name);
            assert!(history.values(metric).count() >= 58, "{}: {metric} has gaps", preset.name);
        }
        if preset.name != "qscale" {
            assert_eq!(history.median(HistoryMetric::CpuRequestMillicores), Some(250.0), "{}", preset.name);
        }
    }
}
