use proptest::prelude::*;
use qscale_common::contract::Headroom;
use qscale_common::scrape::{
    CpuCounters, FunctionScrape, IngressReading, LATENCY_BOUNDS_MS, LATENCY_BUCKETS, PlatformReading, RequestCounters, Scrape,
};
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};

use super::*;

const AT: Timestamp = Timestamp(1_000_000);

fn read(body: &str) -> Reading {
    Reader::new(&ExpositionConfig::default()).read(body.as_bytes(), AT)
}

#[track_caller]
fn function(reading: &Reading) -> &FunctionScrape {
    reading.functions.get("default/fib").expect("the function is shown")
}

const PLATFORM: &str = r#"
# TYPE kn_revision_pods_desired gauge
kn_revision_pods_desired{namespace="default",function="fib"} 3
kn_revision_pods_count{namespace="default",function="fib"} 2
kn_revision_pods_pending_count{namespace="default",function="fib"} 1
qscale_desired_cpu_millicores{namespace="default",function="fib"} 500
qscale_desired_memory_bytes{namespace="default",function="fib"} 268435456
qscale_crashes_total{namespace="default",function="fib"} 4
qscale_oom_kills_total{namespace="default",function="fib"} 2
qscale_replica_startup_seconds_sum{namespace="default",function="fib"} 1.5
qscale_replica_startup_seconds_count{namespace="default",function="fib"} 3
machine_cpu_cores 4
machine_memory_bytes 1.073741824e+09
"#;

#[test]
fn platform_metrics_give_allocation_replicas_and_headroom() {
    let reading = read(PLATFORM);
    let platform = function(&reading).platform.expect("the platform was read");
    let expected = PlatformReading {
        at: AT,
        allocation: Allocation::new(3, 500, 256),
        ready: Replicas(2),
        pending: Replicas(1),
        crashes: Some(4),
        oom_kills: Some(2),
        startups: Some((3, 1500)),
    };
    assert_eq!(platform, expected);
    assert_eq!(reading.headroom, Some(Headroom { cpu_millicores: Millicores(2500), memory_mib: Mebibytes(256) }));
    assert_eq!((reading.samples, reading.malformed), (11, 0));
}

#[test]
fn an_incomplete_allocation_is_absent() {
    let reading = read(&PLATFORM.replace("qscale_desired_cpu_millicores", "something_else"));
    assert_eq!(function(&reading).platform, None);
}

#[test]
fn a_replica_is_read_from_its_rows() {
    let rows = r#"
container_cpu_usage_seconds_total{namespace="default",function="fib",pod="fib-1",container="user-container"} 12.3456789
container_cpu_cfs_periods_total{namespace="default",function="fib",pod="fib-1",container="user-container"} 400
container_cpu_cfs_throttled_periods_total{namespace="default",function="fib",pod="fib-1",container="user-container"} 40
container_memory_working_set_bytes{namespace="default",function="fib",pod="fib-1",container="user-container"} 6.7108864e+07
container_oom_events_total{namespace="default",function="fib",pod="fib-1",container="user-container"} 1
kube_pod_container_status_restarts_total{namespace="default",function="fib",pod="fib-1",container="user-container"} 2
kn_revision_request_concurrency{namespace="default",function="fib",pod="fib-1"} 3
"#;
    let expected = Scrape {
        requests: Some(RequestCounters::default()),
        in_flight: Some(3.0),
        cpu: Some(CpuCounters { usage_us: 12_345_679, periods: 400, throttled_periods: 40 }),
        working_set_bytes: Some(64 << 20),
        restarts: 2,
        oom_kills: 1,
        ..Scrape::new("fib-1", AT)
    };
    assert_eq!(function(&read(rows)).replicas, [expected]);
}

fn durations(pod: &str, statuses: &str, counts: &[u64]) -> String {
    let labels = format!("namespace=\"default\",function=\"fib\",pod=\"{pod}\",{statuses}");
    let bounds = LATENCY_BOUNDS_MS.map(|bound| (bound / 1000.0).to_string()).into_iter().chain(["+Inf".to_owned()]);
    let mut below = 0;
    let mut text = String::new();
    for (count, bound) in counts.iter().zip(bounds) {
        below += count;
        text += &format!("kn_serving_invocation_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {below}\n");
    }
    text + &format!(
        "kn_serving_invocation_duration_seconds_sum{{{labels}}} 1.5\nkn_serving_invocation_duration_seconds_count{{{labels}}} {below}\n"
    )
}

#[test]
fn requests_are_counted_by_outcome() {
    let mut good = [0; LATENCY_BUCKETS];
    (good[4], good[11], good[LATENCY_BUCKETS - 1]) = (7, 20, 1);
    let mut bad = [0; LATENCY_BUCKETS];
    bad[5] = 9;
    let body = [
        durations("fib-1", "http_response_status_code=\"200\"", &good),
        durations("fib-1", "http_response_status_code=\"200\",rpc_grpc_status_code=\"0\"", &good),
        durations("fib-1", "http_response_status_code=\"404\"", &good),
        durations("fib-1", "http_response_status_code=\"200\",rpc_grpc_status_code=\"14\"", &bad),
        durations("fib-1", "http_response_status_code=\"500\"", &bad),
        durations("gateway", "http_response_status_code=\"503\"", &bad),
        durations("gateway", "http_response_status_code=\"404\"", &good),
        "qscale_gateway_requests_total{namespace=\"default\",function=\"fib\"} 120\n".into(),
        "kn_serving_queue_depth{namespace=\"default\",function=\"fib\"} 5\n".into(),
    ];
    let reading = read(&body.concat());
    let scrape = function(&reading);
    let requests = scrape.replicas[0].requests.expect("requests were read");
    assert_eq!((requests.completed, requests.failed), (3 * 28, 18));
    assert_eq!(requests.latency, good.map(|count| 3 * count));
    assert_eq!(scrape.ingress, Some(IngressReading { at: AT, arrived: 120, failed: 9, queued: 5.0 }));
    assert_eq!(scrape.replicas.len(), 1, "the gateway is no replica");
}

#[test]
fn buckets_of_different_series_are_kept_apart() {
    let line = |pod: &str, bound: &str, count: &str| {
        format!(
            "kn_serving_invocation_duration_seconds_bucket{{namespace=\"default\",function=\"fib\",pod=\"{pod}\",le=\"{bound}\"}} {count}\n"
        )
    };
    let count =
        |pod: &str| format!("kn_serving_invocation_duration_seconds_count{{namespace=\"default\",function=\"fib\",pod=\"{pod}\"}} 9\n");
    let body = [
        line("a", "0.001", "5"),
        line("a", "0.002", "9"),
        line("b", "0.001", "NaN"),
        line("b", "0.002", "7"),
        line("b", "x", "1"),
        line("b", "0.003", "9"),
    ];
    let reading = read(&(body.concat() + &count("a") + &count("b")));
    let latency = |place: usize| function(&reading).replicas[place].requests.expect("requests were read").latency;
    assert_eq!(latency(0)[..4], [5, 4, 0, 0]);
    // Without its first bound, what lies below the second is taken to lie evenly.
    assert_eq!(latency(1)[..4], [4, 3, 2, 0]);
    assert_eq!(reading.malformed, 1);
}

#[test]
fn cadvisor_is_read_by_container_and_without_the_function() {
    let rows = r#"
container_cpu_usage_seconds_total{namespace="default",pod="fib-1",container="",image=""} 99 900000
container_cpu_usage_seconds_total{namespace="default",pod="fib-1",container="POD",image="pause"} 9 900000
container_cpu_usage_seconds_total{namespace="default",pod="fib-1",container="user-container",image="x"} 2 900500
container_cpu_usage_seconds_total{namespace="default",pod="fib-1",container="queue-proxy",image="y"} 1 900000
container_cpu_usage_seconds_total{id="/"} 500 900000
"#;
    let reading = read(rows);
    assert!(reading.functions.is_empty());
    let [(path, scrape)] = &reading.unowned[..] else { panic!("{:?}", reading.unowned) };
    assert_eq!(path, "default/fib-1");
    assert_eq!(scrape.cpu.map(|cpu| cpu.usage_us), Some(3_000_000));
    assert_eq!(scrape.at, Timestamp(900_500), "the samples say when they were taken");
    assert_eq!(scrape.requests, None);

    let config = ExpositionConfig { containers: vec!["user-container".into()], ..ExpositionConfig::default() };
    let reading = Reader::new(&config).read(rows.as_bytes(), AT);
    assert_eq!(reading.unowned[0].1.cpu.map(|cpu| cpu.usage_us), Some(2_000_000));
}

#[test]
fn every_measurement_keeps_its_own_time() {
    let rows = r#"
container_cpu_usage_seconds_total{namespace="default",pod="fib-1",container="a"} 2 900000
container_memory_working_set_bytes{namespace="default",pod="fib-1",container="a"} 100 800000
kube_pod_container_status_restarts_total{namespace="default",pod="fib-1",container="a"} 3
"#;
    let reading = read(rows);
    let measured =
        |(path, scrape): &(String, Scrape)| (path.clone(), scrape.at.0, scrape.cpu.is_some(), scrape.working_set_bytes, scrape.restarts);
    let path = "default/fib-1".to_owned();
    let expected = [(path.clone(), 900_000, true, None, 3), (path, 800_000, false, Some(100), 3)];
    assert_eq!(reading.unowned.iter().map(measured).collect::<Vec<_>>(), expected);
}

#[test]
fn any_row_may_name_the_function_of_a_replica() {
    let rows = "container_cpu_usage_seconds_total{namespace=\"default\",pod=\"fib-1\"} 2\nkn_revision_request_concurrency{namespace=\"default\",function=\"fib\",pod=\"fib-1\"} 1\n";
    let reading = read(rows);
    assert!(reading.unowned.is_empty());
    assert!(function(&reading).replicas[0].cpu.is_some());
}

#[test]
fn a_sample_from_the_future_counts_as_current() {
    let reading = read("qscale_gateway_requests_total{namespace=\"default\",function=\"fib\"} 120 99999999999999\n");
    assert_eq!(function(&reading).ingress.map(|ingress| ingress.at), Some(AT));
}

#[test]
fn configured_names_are_read() {
    let mut config = ExpositionConfig::default();
    config.labels.function = "service_name".into();
    config.metrics.arrived = "activator_request_count".into();
    config.metrics.queued = String::new();
    let body = "activator_request_count{namespace=\"default\",service_name=\"fib\",code=\"200\"} 3\nactivator_request_count{namespace=\"default\",service_name=\"fib\",code=\"500\"} 4\n";
    let reading = Reader::new(&config).read(body.as_bytes(), AT);
    let ingress = function(&reading).ingress.expect("arrivals were read");
    assert_eq!(ingress.arrived, 7);
    assert!(ingress.queued.is_nan(), "the queue was not read");
}

#[test]
fn odd_numbers_are_not_measurements() {
    let body = "qscale_gateway_requests_total{namespace=\"default\",function=\"fib\"} NaN\n\
        container_cpu_usage_seconds_total{namespace=\"default\",function=\"fib\",pod=\"a\"} NaN\n\
        kn_revision_request_concurrency{namespace=\"default\",function=\"fib\",pod=\"b\"} -3\n\
        container_memory_working_set_bytes{namespace=\"default\",function=\"fib\",pod=\"c\"} +Inf\n\
        container_memory_working_set_bytes{namespace=\"\u{ff}\",function=\"fib\",pod=\"c\"} 1\n\
        garbage\n";
    let reading = read(body);
    assert_eq!(function(&reading).ingress, None);
    assert_eq!(function(&reading).replicas.len(), 2);
    assert_eq!(reading.malformed, 1);
}

proptest! {
    #[test]
    fn any_numbers_and_names_are_accepted(
        rows in prop::collection::vec((0usize..24, "[a-b\"\\\\]{0,2}", "[a-b]{0,1}|gateway", any::<f64>(), prop::option::of(any::<i64>())), 0..60),
    ) {
        let mut names: Vec<Vec<u8>> = Reader::new(&ExpositionConfig::default()).metrics.keys().map(|name| name.to_vec()).collect();
        names.sort();
        let body: String = rows
            .iter()
            .filter_map(|(name, function, pod, number, at)| {
                let name = std::str::from_utf8(names.get(*name)?).ok()?;
                let at = at.map(|at| at.to_string()).unwrap_or_default();
                Some(format!("{name}{{namespace=\"default\",function=\"{function}\",pod=\"{pod}\",le=\"{number}\"}} {number} {at}\n"))
            })
            .collect();
        let reading = read(&body);
        prop_assert!(reading.functions.len() <= rows.len());
    }
}
