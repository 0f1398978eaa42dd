use qscale_common::scrape::{RequestCounters, Scrape};
use serde_json::{Value, json};

use super::super::PrometheusConfig;
use super::*;

const AT: Timestamp = Timestamp(1_700_000_000_000);

/// One series with a sample of `age_s` before [`AT`].
fn series(name: &str, labels: &Value, age_s: f64, number: &str) -> Value {
    let mut labels = labels.clone();
    labels["__name__"] = json!(name);
    json!({ "metric": labels, "values": [[AT.0 as f64 / 1000.0 - age_s - 15.0, "0"], [AT.0 as f64 / 1000.0 - age_s, number]] })
}

#[track_caller]
fn read(preset: &str, series: Vec<Value>) -> Reading {
    let config = PrometheusConfig { preset: preset.to_owned(), ..PrometheusConfig::default() };
    let body = json!({ "status": "success", "data": { "resultType": "matrix", "result": series } }).to_string();
    PrometheusReader::new(config.query().expect("bundled")).read(body.as_bytes(), AT).expect("readable")
}

fn counts(scrape: &Scrape) -> (u64, u64) {
    let RequestCounters { completed, failed, .. } = scrape.requests.expect("read");
    (completed, failed)
}

/// Labels that a sidecar of Istio gives requests of the pod.
fn istio(pod: &str, code: &str) -> Value {
    json!({ "destination_workload": "cart", "destination_workload_namespace": "shop", "pod": pod, "response_code": code })
}

fn bucket(pod: &str, bound: &str, number: &str) -> Value {
    let mut labels = istio(pod, "200");
    labels["le"] = json!(bound);
    series("istio_request_duration_milliseconds_bucket", &labels, 5.0, number)
}

const COUNT: &str = "istio_request_duration_milliseconds_count";

#[test]
fn series_of_sidecars_are_measurements_of_their_replicas_with_their_own_age() {
    let all = vec![
        series(COUNT, &istio("cart-1", "200"), 5.0, "80"),
        series(COUNT, &istio("cart-1", "503"), 5.0, "3"),
        series(COUNT, &istio("cart-2", "200"), 9.5, "7"),
        bucket("cart-1", "50", "40"),
        bucket("cart-1", "100", "80"),
        bucket("cart-1", "+Inf", "80"),
    ];
    let reading = read("istio", all);
    let mut replicas = reading.functions["shop/cart"].replicas.clone();
    replicas.sort_by(|one, other| one.replica.cmp(&other.replica));
    let [first, second] = &replicas[..] else { panic!("{replicas:?}") };
    assert_eq!((first.replica.as_str(), first.at, counts(first)), ("cart-1", Timestamp(AT.0 - 5_000), (80, 3)));
    assert_eq!((second.replica.as_str(), second.at, counts(second)), ("cart-2", Timestamp(AT.0 - 9_500), (7, 0)));
    let latency = first.requests.and_then(|requests| requests.latency).expect("buckets");
    assert_eq!((latency[..10].iter().sum::<u64>(), latency[..12].iter().sum::<u64>()), (40, 80), "milliseconds");
    assert_eq!((reading.samples, reading.malformed, reading.unreadable), (6, 0, false));
}

#[test]
fn a_series_that_ended_does_not_count_beside_newer_ones_of_its_replica() {
    let reading =
        read("istio", vec![series(COUNT, &istio("cart-1", "200"), 5.0, "2"), series(COUNT, &istio("cart-1", "503"), 65.0, "900")]);
    assert_eq!(counts(&reading.functions["shop/cart"].replicas[0]), (2, 0));
}

#[test]
fn a_bad_series_affects_no_other_replica() {
    for number in ["NaN", "+Inf", "-1", "1e300", "much"] {
        let reading =
            read("istio", vec![series(COUNT, &istio("cart-1", "200"), 5.0, number), series(COUNT, &istio("cart-2", "200"), 5.0, "7")]);
        let of = |pod: &str| reading.functions["shop/cart"].replicas.iter().find(|replica| replica.replica == pod).cloned();
        assert_eq!(of("cart-2").as_ref().map(counts), Some((7, 0)), "{number}");
        assert!(of("cart-1").is_none_or(|replica| replica.requests.is_none()), "{number}");
    }
    let unnamed = json!({ "pod": "cart-1" });
    let good = || series(COUNT, &istio("cart-2", "200"), 5.0, "7");
    let reading = read("istio", vec![good(), series(COUNT, &unnamed, 5.0, "1"), series("other", &unnamed, 5.0, "1")]);
    assert_eq!((reading.samples, reading.malformed, reading.functions.len()), (1, 1, 1));
    let reading = read("istio", vec![good(), bucket("cart-2", "much", "1"), series("x_bucket", &istio("cart-2", "200"), 5.0, "1")]);
    assert_eq!((reading.samples, reading.malformed), (1, 2));
}

#[test]
fn replicas_without_a_workload_are_left_to_another_source() {
    let labels = json!({ "namespace": "shop", "pod": "cart-1", "http_response_status_code": "200" });
    let reading = read("knative", vec![series("kn_serving_invocation_duration_seconds_count", &labels, 1.0, "4")]);
    assert_eq!(reading.unowned.iter().map(|(path, scrape)| (path.as_str(), counts(scrape))).collect::<Vec<_>>(), [("shop/cart-1", (4, 0))]);
}

#[test]
fn a_shared_proxy_is_a_replica_of_each_workload_behind_it() {
    let labels = |service: &str, status: &str| json!({ "exported_namespace": "shop", "exported_service": service, "controller_pod": "nginx-1", "status": status });
    let count = |service: &str, status: &str, number: &str| {
        series("nginx_ingress_controller_request_duration_seconds_count", &labels(service, status), 2.0, number)
    };
    let reading = read("nginx", vec![count("cart", "200", "5"), count("cart", "499", "1"), count("pay", "200", "9")]);
    for (workload, expected) in [("cart", (5, 1)), ("pay", (9, 0))] {
        let [replica] = &reading.functions[&format!("shop/{workload}")].replicas[..] else { panic!("{reading:?}") };
        assert_eq!((replica.replica.as_str(), counts(replica)), (format!("nginx-1 for {workload}").as_str(), expected));
    }
}
