mod sums;

use proptest::prelude::*;
use qscale_common::contract::Headroom;
use qscale_common::hash::fnv1a;
use qscale_common::scrape::{
    Count, CpuCounters, CpuPeriods, FunctionScrape, IngressReading, LATENCY_BOUNDS_MS, LATENCY_BUCKETS, Parts, PlatformReading,
    PlatformReplicas, RequestCounters, Scrape,
};
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};

use super::super::syntax::ExpositionFormat;
use super::*;

const AT: Timestamp = Timestamp(1_700_000_000_000);

fn read(body: &str) -> Reading {
    read_with(&ExpositionConfig::default(), body)
}

fn read_with(config: &ExpositionConfig, body: &str) -> Reading {
    ExpositionReader::new(config).read(ExpositionText::new(body.as_bytes()), AT)
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
        allocation: Some(Allocation::new(3, 500, 256)),
        replicas: Some(PlatformReplicas { desired: Replicas(3), ready: Replicas(2), pending: Replicas(1) }),
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
    let platform = function(&reading).platform.expect("replicas were read");
    assert_eq!((platform.allocation, platform.replicas.map(|replicas| replicas.ready)), (None, Some(Replicas(2))));
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
    let of = fnv1a(*b"user-container");
    let expected = Scrape {
        requests: Some(RequestCounters::default()),
        in_flight: Some(3.0),
        cpu: Some(Parts::One(CpuCounters {
            usage_us: 12_345_679,
            periods: Some(CpuPeriods { runnable: 400, throttled: 40 }),
            of,
            started: None,
        })),
        working_set_bytes: Some(64 << 20),
        restarts: Some(Parts::One(Count { of, value: 2 })),
        oom_kills: Some(Parts::One(Count { of, value: 1 })),
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
    assert_eq!(requests.latency, Some(good.map(|count| 3 * count)));
    let count = |value| Parts::One(Count { of: fnv1a(*b""), value });
    assert_eq!(scrape.ingress, Some(IngressReading { at: AT, arrived: count(120), failed: count(9), queued: 5.0 }));
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
    let body = [line("a", "0.001", "5"), line("a", "0.002", "9"), line("b", "0.002", "7"), line("b", "x", "1"), line("b", "0.003", "9")];
    let reading = read(&(body.concat() + &count("a") + &count("b")));
    let latency =
        |place: usize| function(&reading).replicas[place].requests.and_then(|requests| requests.latency).expect("requests were read");
    assert_eq!(latency(0)[..4], [5, 4, 0, 0]);
    // Without its first bound, what lies below the second is taken to lie evenly.
    assert_eq!(latency(1)[..4], [4, 3, 2, 0]);
    assert_eq!(reading.malformed, 1);
}

#[test]
fn cadvisor_is_read_by_container_and_without_the_function() {
    let rows = r#"
container_cpu_usage_seconds_total{namespace="default",pod="fib-1",container="",image=""} 99 1699999999000
container_cpu_usage_seconds_total{namespace="default",pod="fib-1",container="POD",image="pause"} 9 1699999999000
container_cpu_usage_seconds_total{namespace="default",pod="fib-1",container="user-container",image="x"} 2 1699999999500
container_cpu_usage_seconds_total{namespace="default",pod="fib-1",container="queue-proxy",image="y"} 1 1699999999000
container_cpu_usage_seconds_total{id="/"} 500 1699999999000
"#;
    let reading = read(rows);
    assert!(reading.functions.is_empty());
    let [(path, scrape)] = &reading.unowned[..] else { panic!("{:?}", reading.unowned) };
    assert_eq!(path, "default/fib-1");
    assert_eq!(cpu_us(scrape), Some(3_000_000));
    assert_eq!(scrape.at, Timestamp(1_699_999_999_500), "the samples say when they were taken");
    assert_eq!(scrape.requests, None);

    let config = ExpositionConfig { containers: vec!["user-container".into()], ..ExpositionConfig::default() };
    let reading = read_with(&config, rows);
    assert_eq!(cpu_us(&reading.unowned[0].1), Some(2_000_000));
}

#[test]
fn every_measurement_keeps_its_own_time() {
    let rows = r#"
container_cpu_usage_seconds_total{namespace="default",pod="fib-1",container="a"} 2 1699999999000
container_memory_working_set_bytes{namespace="default",pod="fib-1",container="a"} 100 1699999998000
kube_pod_container_status_restarts_total{namespace="default",pod="fib-1",container="a"} 3
"#;
    let reading = read(rows);
    let measured =
        |(path, scrape): &(String, Scrape)| (path.clone(), scrape.at.0, scrape.cpu.is_some(), scrape.working_set_bytes, restarts(scrape));
    let path = "default/fib-1".to_owned();
    let expected = [(path.clone(), 1_699_999_999_000, true, None, 3), (path, 1_699_999_998_000, false, Some(100), 3)];
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
    assert_eq!(function(&reading).ingress.as_ref().map(|ingress| ingress.at), Some(AT));
}

#[test]
fn configured_names_are_read() {
    let mut config = ExpositionConfig::default();
    config.labels.function = "service_name".into();
    config.metrics.arrived = "activator_request_count".into();
    config.metrics.queued = String::new();
    let body = "activator_request_count{namespace=\"default\",service_name=\"fib\",code=\"200\"} 3\nactivator_request_count{namespace=\"default\",service_name=\"fib\",code=\"500\"} 4\n";
    let reading = read_with(&config, body);
    let ingress = function(&reading).ingress.as_ref().expect("arrivals were read");
    assert_eq!(ingress.arrived.sum(), 7);
    assert!(ingress.queued.is_nan(), "the queue was not read");
}

#[test]
fn numbers_that_cannot_be_true_are_absent_and_counted() {
    let body = "qscale_gateway_requests_total{namespace=\"default\",function=\"fib\"} NaN\n\
        container_cpu_usage_seconds_total{namespace=\"default\",function=\"fib\",pod=\"a\"} 18446744073.709551449\n\
        kn_revision_request_concurrency{namespace=\"default\",function=\"fib\",pod=\"b\"} -3\n\
        container_memory_working_set_bytes{namespace=\"default\",function=\"fib\",pod=\"c\"} +Inf\n\
        container_memory_working_set_bytes{namespace=\"default\",function=\"fib\",pod=\"d\"} 18446744073709547520\n\
        container_memory_working_set_bytes{namespace=\"\u{ff}\",function=\"fib\",pod=\"c\"} 1\n\
        garbage\n";
    let reading = read(body);
    let scrape = function(&reading);
    assert_eq!((&scrape.ingress, scrape.platform, reading.malformed), (&None, None, 1));
    let nothing = |replica: &Scrape| (replica.cpu.is_none(), replica.in_flight, replica.working_set_bytes) == (true, None, None);
    assert!(scrape.replicas.len() == 4 && scrape.replicas.iter().all(nothing), "{scrape:?}");
    let dropped: Vec<_> = reading.dropped.iter().map(|(metric, values)| (metric.label(), values.count, values.of.as_str())).collect();
    let expected =
        [("arrived", 1, "default/fib"), ("cpu_seconds", 1, "default/a"), ("working_set", 2, "default/c"), ("in_flight", 1, "default/b")];
    assert_eq!(dropped, expected);
}

/// Allocation and replicas of the platform if `metric` has `value`.
#[track_caller]
fn platform_with(metric: &str, value: &str) -> (Option<Allocation>, Option<PlatformReplicas>) {
    let line = |line: &str| {
        if line.starts_with(metric) { format!("{}{value}", &line[..line.rfind(' ').expect("a value") + 1]) } else { line.to_owned() }
    };
    let reading = read(&PLATFORM.lines().map(line).collect::<Vec<_>>().join("\n"));
    let platform = function(&reading).platform;
    (platform.and_then(|platform| platform.allocation), platform.and_then(|platform| platform.replicas))
}

#[test]
fn only_the_part_that_cannot_be_true_is_absent() {
    let (allocation, replicas) = platform_with("nothing", "");
    assert!(allocation.is_some() && replicas.is_some());
    for value in ["+Inf", "NaN", "-1", "4294967295", "2147483647", "1e7", "9223372036854771712"] {
        assert_eq!(platform_with("kn_revision_pods_desired", value), (None, None), "{value}");
        assert_eq!(platform_with("kn_revision_pods_count", value), (allocation, None), "{value}");
        assert_eq!(platform_with("kn_revision_pods_pending_count", value), (allocation, None), "{value}: not zero");
        assert_eq!(platform_with("qscale_desired_cpu_millicores", value), (None, replicas), "{value}");
    }
    for value in ["+Inf", "NaN", "-1", "0", "9223372036854771712", "18446744073709551615"] {
        assert_eq!(platform_with("qscale_desired_memory_bytes", value), (None, replicas), "{value}");
    }
}

#[test]
fn a_sum_beyond_what_can_be_is_absent() {
    let parts = |value: &str| {
        ["a", "b"]
            .map(|part| format!("kn_revision_pods_count{{namespace=\"default\",function=\"fib\",revision=\"{part}\"}} {value}\n"))
            .concat()
    };
    let ready = |value: &str| {
        let reading = read(&(PLATFORM.replace("kn_revision_pods_count{", "other{") + &parts(value)));
        (
            function(&reading).platform.and_then(|platform| platform.replicas).map(|replicas| replicas.ready.0),
            reading.dropped.iter().count(),
        )
    };
    assert_eq!(ready("500000"), (Some(1_000_000), 0));
    assert_eq!(ready("500001"), (None, 1));
}

#[test]
fn room_on_the_nodes_is_unknown_where_an_allocation_or_a_node_is() {
    let headroom = |from: &str, to: &str| {
        let reading = read(&PLATFORM.replace(from, to));
        (reading.headroom.is_some(), reading.node.cores, reading.node.memory_bytes)
    };
    assert_eq!(headroom("", ""), (true, Some(4.0), Some(1_073_741_824.0)));
    assert_eq!(headroom("} 268435456", "} +Inf"), (false, Some(4.0), Some(1_073_741_824.0)));
    assert_eq!(headroom("machine_cpu_cores 4", "machine_cpu_cores -1"), (false, None, Some(1_073_741_824.0)));
    let two = "machine_cpu_cores{node=\"a\"} 4\nmachine_cpu_cores{node=\"b\"} 16";
    assert_eq!(headroom("machine_cpu_cores 4", two).1, Some(16.0), "a replica runs on one node");
}

/// CPU time of all containers, microseconds.
fn cpu_us(scrape: &Scrape) -> Option<u64> {
    scrape.cpu.as_ref().map(Parts::usage_us)
}

fn restarts(scrape: &Scrape) -> u64 {
    scrape.restarts.as_ref().map_or(0, Parts::sum)
}

/// CPU, microseconds, working set and restarts of the only replica, which has no function.
#[track_caller]
fn usage(rows: &str) -> (Option<u64>, Option<u64>, u64) {
    usage_with(&ExpositionConfig::default(), rows)
}

#[track_caller]
fn usage_with(config: &ExpositionConfig, rows: &str) -> (Option<u64>, Option<u64>, u64) {
    let reading = read_with(config, rows);
    let [(_, scrape)] = &reading.unowned[..] else { panic!("{:?}", reading.unowned) };
    (cpu_us(scrape), scrape.working_set_bytes, restarts(scrape))
}

/// CPU, microseconds, of the Scrape that shows it.
fn usage_of_last(rows: &str) -> Option<u64> {
    read(rows).unowned.iter().find_map(|(_, scrape)| cpu_us(scrape))
}

fn container(metric: &str, labels: &str, value: &str) -> String {
    format!("{metric}{{namespace=\"default\",pod=\"p\",{labels}}} {value}\n")
}

const CPU: &str = "container_cpu_usage_seconds_total";
const MEMORY: &str = "container_memory_working_set_bytes";
const START: &str = "container_start_time_seconds";

#[test]
fn of_the_containers_of_one_name_the_one_that_started_last_counts() {
    let both = |old: &str, new: &str| {
        [container(CPU, old, "500"), container(CPU, new, "1"), container(MEMORY, old, "7000"), container(MEMORY, new, "1000")].concat()
    };
    let (old, new) = ("container=\"u\",id=\"/a\"", "container=\"u\",id=\"/b\"");
    let start = |labels: &str, at: &str| container(START, labels, at);
    let started = [both(old, new), start(old, "1600000000"), start(new, "1600000100")].concat();
    assert_eq!(usage(&started), (Some(1_000_000), Some(1000), 0));
    // The memory of the container that started last is not shown yet; that of the other one is not its own.
    let without_memory = started.replace(&container(MEMORY, new, "1000"), "");
    assert_eq!(usage(&without_memory), (Some(1_000_000), None, 0));
    // Two exporters show the start of one container to different precision.
    let by_two = [container(CPU, old, "5"), container(MEMORY, new, "10"), start(old, "1600000000"), start(new, "1600000000.9")].concat();
    assert_eq!(usage(&by_two), (Some(5_000_000), Some(10), 0));
    // The runtime's name ends with the number of attempts.
    let attempt = |labels: &str, name: &str| format!("{labels},name=\"{name}\"");
    let numbered = both(&attempt(old, "k8s_u_p_default_1_9"), &attempt(new, "k8s_u_p_default_1_10"));
    assert_eq!(usage(&numbered), (Some(1_000_000), Some(1000), 0));
    // A container that stopped keeps the time of its last sample.
    let stopped = both(old, new).replace("} 1\n", "} 1 1699999999000\n").replace("} 500\n", "} 500 1699999900000\n");
    assert_eq!(usage_of_last(&stopped), Some(1_000_000));
    // Otherwise the larger counter, and the memory of the same container.
    assert_eq!(usage(&both(old, new)), (Some(500_000_000), Some(7000), 0));
    // The container that counts has no memory that can be true; that of the other one is not its own.
    let impossible =
        [started.replace("} 1000\n", "} +Inf\n"), container("kube_pod_container_status_restarts_total", "container=\"u\",uid=\"1\"", "1")]
            .concat();
    assert_eq!(usage(&impossible), (Some(1_000_000), None, 1));
    // Containers of different names add up.
    let sidecar =
        [started, container(CPU, "container=\"proxy\",id=\"/c\"", "2"), container(MEMORY, "container=\"proxy\",id=\"/c\"", "10")].concat();
    assert_eq!(usage(&sidecar), (Some(3_000_000), Some(1010), 0));
}

#[test]
fn the_sum_over_a_pod_counts_only_where_no_container_is_shown() {
    for sum in ["id=\"/p\"", "container=\"\",id=\"/p\""] {
        let pod = [container(CPU, sum, "9"), container(MEMORY, sum, "900")].concat();
        assert_eq!(usage(&pod), (Some(9_000_000), Some(900), 0), "{sum}");
        let with_container = [pod.clone(), container(CPU, "container=\"u\"", "5")].concat();
        assert_eq!(usage(&with_container), (Some(5_000_000), Some(900), 0), "{sum}: the memory is shown of the pod alone");
        let with_network = [pod.clone(), container(CPU, "container=\"POD\"", "1")].concat();
        assert_eq!(usage(&with_network).0, Some(9_000_000), "{sum}");
        let config = ExpositionConfig { containers: vec!["u".into()], ..ExpositionConfig::default() };
        let with_other = [pod.clone(), container(CPU, "container=\"proxy\"", "1"), container(MEMORY, "container=\"u\"", "7")].concat();
        assert_eq!(usage_with(&config, &with_other), (None, Some(7), 0), "{sum}: the other container is a part of the sum");
        let twice = [pod, container(CPU, &sum.replace("/p", "/q"), "9")].concat();
        assert_eq!(usage(&twice).0, Some(9_000_000), "{sum}: two hierarchies");
        let network = "container=\"\",id=\"/network\",name=\"k8s_POD_p\"";
        let with_unnamed = [container(CPU, sum, "9"), container(CPU, network, "1"), container(START, network, "1600000000")].concat();
        assert_eq!(usage(&with_unnamed).0, Some(9_000_000), "{sum}: a part of it that has no name");
    }
}

#[test]
fn a_label_set_counts_once() {
    let repeated = [container(CPU, "container=\"u\",cpu=\"0\"", "2"), container(CPU, "cpu=\"0\",container=\"u\"", "2")].concat();
    assert_eq!(usage(&repeated).0, Some(2_000_000));
    let parts = [container(CPU, "container=\"u\",cpu=\"0\"", "2"), container(CPU, "container=\"u\",cpu=\"1\"", "3")].concat();
    assert_eq!(usage(&parts).0, Some(5_000_000), "of each CPU");
    let federated =
        [container(CPU, "container=\"u\",prometheus_replica=\"a\"", "2"), container(CPU, "container=\"u\",prometheus_replica=\"b\"", "2")]
            .concat();
    assert_eq!(usage(&federated).0, Some(2_000_000));
    let labels = |more: &str| container(CPU, &format!("container=\"u\",id=\"/a\"{more}"), "2");
    for more in
        [",image=\"\"", ",job=\"cadvisor\"", ",instance=\"10.0.0.1:4194\",job=\"cadvisor\"", ",metrics_path=\"/metrics\",node=\"a\""]
    {
        assert_eq!(usage(&[labels(""), labels(more)].concat()).0, Some(2_000_000), "{more}");
    }
    let sums = ["", "container=\"\""].map(|empty| container(CPU, empty, "2")).concat();
    assert_eq!(usage(&sums).0, Some(2_000_000), "an empty label equals a missing one");

    let counts = [5, 6, 7];
    let twice = durations("fib-1", "http_response_status_code=\"200\"", &counts).repeat(2);
    let interleaved: String = {
        let lines: Vec<&str> = twice.lines().collect();
        lines.iter().zip(&lines).flat_map(|(one, other)| [*one, "\n", *other, "\n"]).collect()
    };
    for body in [twice, interleaved] {
        let requests = function(&read(&body)).replicas[0].requests.expect("requests were read");
        assert_eq!((requests.completed, requests.latency.map(|latency| latency[..3].to_vec())), (18, Some(counts.to_vec())));
    }

    let reading = read(&PLATFORM.repeat(2));
    assert_eq!(function(&reading).platform, function(&read(PLATFORM)).platform);
    assert_eq!((reading.headroom, reading.samples), (read(PLATFORM).headroom, 11));
    let endpoints = |metric: &str| {
        let line = |instance: &str| {
            format!("{metric}{{namespace=\"default\",function=\"fib\",pod=\"{instance}\",job=\"{instance}\",instance=\"{instance}\"}} 4\n")
        };
        read(&[PLATFORM.replace(&format!("{metric}{{"), "other{"), line("a"), line("b")].concat())
    };
    let desired = function(&endpoints("kn_revision_pods_desired")).platform.and_then(|platform| platform.allocation);
    assert_eq!(desired.map(|allocation| allocation.replicas), Some(Replicas(4)), "what is said of the function is the same everywhere");
    let arrived = function(&endpoints("qscale_gateway_requests_total")).ingress.as_ref().map(|ingress| ingress.arrived.sum());
    assert_eq!(arrived, Some(8), "each gateway counts its own requests");
}

#[test]
fn a_sum_of_other_containers_or_gateways_has_another_fingerprint() {
    let of = |rows: &[String]| {
        let reading = read(&rows.concat());
        reading.unowned[0].1.cpu.as_ref().expect("CPU was read").iter().map(|part| part.of).collect::<Vec<_>>()
    };
    let (user, proxy) = (container(CPU, "container=\"u\",id=\"/a\"", "5"), container(CPU, "container=\"proxy\"", "5"));
    let restarted = container(CPU, "container=\"u\",id=\"/b\"", "7");
    assert_eq!(of(&[user.clone(), proxy.clone()]), of(&[proxy.clone(), user.clone(), restarted]), "the same names");
    assert_ne!(of(&[user.clone(), proxy]), of(&[user]));
    let gateways = |names: &[&str]| {
        let line = |name: &&str| {
            ["200", "500"]
                .map(|code| {
                    format!("qscale_gateway_requests_total{{namespace=\"default\",function=\"fib\",pod=\"{name}\",code=\"{code}\"}} 4\n")
                })
                .concat()
        };
        function(&read(&names.iter().map(line).collect::<String>()))
            .ingress
            .as_ref()
            .expect("arrivals were read")
            .arrived
            .iter()
            .map(|count| count.of)
            .collect::<Vec<_>>()
    };
    assert_eq!(gateways(&["a", "b"]), gateways(&["b", "a"]));
    assert_ne!(gateways(&["a", "b"]), gateways(&["a"]));
    assert_ne!(gateways(&["a", "b"]), gateways(&["a", "c"]));
}

#[test]
fn a_sum_that_lacks_a_part_is_absent() {
    let good = durations("fib-1", "http_response_status_code=\"200\"", &[5, 6, 7]);
    for (missing, malformed) in [("NaN", 0), ("-1", 0), ("1e30", 0), ("12x", 1)] {
        let failed = durations("fib-1", "http_response_status_code=\"500\"", &[]).replace("\"} 0\n", &format!("\"}} {missing}\n"));
        let reading = read(&[good.clone(), failed].concat());
        assert_eq!(function(&reading).replicas[0].requests, None, "{missing}");
        assert_eq!(reading.malformed, malformed, "{missing}");
        let bucket = read(&good.replace("le=\"0.002\"} 11\n", &format!("le=\"0.002\"}} {missing}\n")));
        let requests = function(&bucket).replicas[0].requests.expect("their number is known");
        assert_eq!((requests.completed, requests.latency), (18, None), "{missing}");
        let container = [container(CPU, "container=\"u\"", "5"), container(CPU, "container=\"v\"", missing)].concat();
        assert_eq!(usage(&container).0, None, "{missing}");
    }
    let in_flight = "kn_revision_request_concurrency{namespace=\"default\",function=\"fib\",pod=\"fib-1\"} 1\n";
    let without_count: String = good.split_inclusive('\n').filter(|line| !line.contains("_count{")).chain([in_flight]).collect();
    assert_eq!(function(&read(&without_count)).replicas[0].requests, None, "unknown, not zero");
}

#[test]
fn the_start_of_a_replica_is_that_of_its_oldest_container() {
    let started = |rows: &str| read(rows).unowned[0].1.started;
    let last_started = |rows: &str| read(rows).unowned[0].1.last_started;
    let at = |labels: &str, start: &str| [container(CPU, labels, "1"), container(START, labels, start)].concat();
    assert_eq!(started(&at("container=\"u\"", "1.69999999e9")), Some(Timestamp(1_699_999_990_000)));
    let two = [at("container=\"u\"", "1699999990.5"), at("container=\"v\"", "1699999980")].concat();
    assert_eq!((started(&two), last_started(&two)), (Some(Timestamp(1_699_999_980_000)), Some(Timestamp(1_699_999_990_500))));
    let one_unknown = [at("container=\"u\"", "1699999990"), container(CPU, "container=\"v\"", "1")].concat();
    assert_eq!(started(&one_unknown), None);
    assert_eq!(started(&at("container=\"u\"", "1700000010")), Some(AT), "clocks differ a little");
    for impossible in ["0", "-1", "1800000000", "NaN", "1.7e18"] {
        assert_eq!(started(&at("container=\"u\"", impossible)), None, "{impossible}");
    }
}

#[test]
fn a_sample_with_an_impossible_time_is_dropped() {
    for seconds in ["1700000000", "0", "-5"] {
        let reading = read(&format!("qscale_gateway_requests_total{{namespace=\"default\",function=\"fib\"}} 120 {seconds}\n"));
        assert_eq!(function(&reading).ingress, None, "{seconds}");
        assert_eq!(reading.dropped.iter().count(), 1);
    }
}

#[test]
fn the_format_decides_the_unit_of_times() {
    let body = b"qscale_gateway_requests_total{namespace=\"default\",function=\"fib\"} 120 1699999999.75\n# EOF\n";
    let read =
        |format| ExpositionReader::new(&ExpositionConfig::default()).read(ExpositionText { format, ..ExpositionText::new(body) }, AT);
    let reading = read(ExpositionFormat::OpenMetrics);
    let ingress = function(&reading).ingress.as_ref().expect("arrivals were read");
    assert_eq!((ingress.arrived.sum(), ingress.at), (120, Timestamp(1_699_999_999_750)));
    let other = read(ExpositionFormat::Prometheus);
    assert_eq!((other.malformed, other.unreadable), (1, true));
}

#[test]
fn a_text_of_which_most_lines_are_no_samples_is_unreadable() {
    for body in [
        "<html>\n<body>not here</body>\n</html>\n",
        "{\"status\":\"success\",\"data\":[]}",
        "Not found\n",
        "\u{1f}\u{8b}\u{8}",
        "a,b\n1,2\n",
    ] {
        assert!(read(body).unreadable, "{body}");
    }
    let mixed =
        "up{job=\"x\"} 1\nqscale_gateway_requests_total{namespace=\"default\",function=\"fib\"} 3\nqscale_gateway_requests_total{ 4\n";
    for body in ["", "# HELP up x\n# HELP up x\n# TYPE up gauge\n", "up 1\nprocess_cpu_seconds_total 3 1700000000000\n", PLATFORM, mixed] {
        assert!(!read(body).unreadable, "{body}");
    }
}

#[test]
fn a_pod_may_have_any_number_of_containers() {
    let row = |index: u32| container(CPU, &format!("container=\"u-{index}\",id=\"/{}\"", index * 7919 % 50_000), "1");
    let rows: String = (0..50_000).chain(0..50_000).map(row).collect();
    assert_eq!(usage(&rows).0, Some(50_000_000_000));
}

/// Requests of the first replica: completed, failed, and whether their latencies are known.
fn requests_of(rows: &str) -> Option<(u64, u64, bool)> {
    let requests = function(&read(rows)).replicas.first()?.requests?;
    Some((requests.completed, requests.failed, requests.latency.is_some()))
}

#[test]
fn a_line_that_does_not_say_whose_it_is_is_missing_in_all_that_it_may_show() {
    let lines =
        |metric: &str| ["a", "b"].map(|pod| format!("{metric}{{namespace=\"default\",function=\"fib\",pod=\"{pod}\"}} 5\n")).concat();
    let all = lines(CPU) + &lines(MEMORY) + &lines("kn_revision_request_concurrency");
    let known = |more: &str| {
        let reading = read(&(all.clone() + more));
        let of = |scrape: &Scrape| [scrape.cpu.is_some(), scrape.working_set_bytes.is_some(), scrape.in_flight.is_some()];
        let mut known: Vec<_> = function(&reading).replicas.iter().map(|scrape| (scrape.replica.clone(), of(scrape))).collect();
        known.sort();
        known.into_iter().map(|(_, known)| known).collect::<Vec<_>>()
    };
    let every = [true; 3];
    assert_eq!(known(""), [every, every]);
    // The line says of which pod it is, but not of which container.
    let of_pod = format!("{CPU}{{namespace=\"default\",pod=\"a\",container=\"user 7\n");
    assert_eq!(known(&of_pod), [[false, true, true], every]);
    let of_none = format!("{MEMORY}{{namespace=\"default\",container=\"user\",pod=\"a 7\n");
    assert_eq!(known(&of_none), [[true, false, true]; 2]);
    assert_eq!(known("other{namespace=\"default\",container=\"user\",pod=\"a 7\n"), [every, every]);

    let function_of = |line: &str| {
        let reading = read(&(PLATFORM.to_owned() + "qscale_gateway_requests_total{namespace=\"default\",function=\"fib\"} 8\n" + line));
        let FunctionScrape { platform, ingress, .. } = function(&reading);
        (platform.and_then(|platform| platform.allocation).is_some(), platform.is_some(), ingress.is_some())
    };
    assert_eq!(function_of(""), (true, true, true));
    assert_eq!(function_of("qscale_gateway_requests_total{code=\"200 8\n"), (true, true, false));
    assert_eq!(function_of("qscale_gateway_requests_total{namespace=\"default\",function=\"fib\",code=\"200 8\n"), (true, true, false));
    assert_eq!(function_of("qscale_desired_cpu_millicores{namespace=\"default\",function=\"x 8\n"), (false, true, true));
    assert_eq!(function_of("kn_serving_invocation_duration_seconds_count{pod=\"gateway\",code=\"x 8\n"), (true, true, false));
}

#[test]
fn requests_of_a_histogram_without_a_count_are_those_of_its_last_bucket() {
    let line = |status: &str, bound: &str, count: &str| {
        format!(
            "kn_serving_invocation_duration_seconds_bucket{{namespace=\"default\",function=\"fib\",pod=\"a\",http_response_status_code=\"{status}\",le=\"{bound}\"}} {count}\n"
        )
    };
    let good = [line("200", "0.1", "5"), line("200", "+Inf", "9")].concat();
    let bad = [line("500", "0.1", "1"), line("500", "+Inf", "3")].concat();
    assert_eq!(requests_of(&(good.clone() + &bad)), Some((9, 3, true)));
    assert_eq!(requests_of(&(line("200", "0.1", "NaN") + &good)), Some((9, 0, false)));
    assert_eq!(requests_of(&line("200", "0.1", "5")), None);
    assert_eq!(requests_of(&(good.clone() + &bad.replace(" 3\n", " NaN\n"))), None);
    // One bound may be written in several ways.
    let twice = [line("200", "0.1", "5"), line("200", "0.10", "5"), line("200", "1e-1", "5"), line("200", "+Inf", "9")].concat();
    let latency = |rows: &str| function(&read(rows)).replicas[0].requests.and_then(|requests| requests.latency);
    assert_eq!(latency(&twice), latency(&good));
}

#[test]
fn memory_of_zero_is_that_of_a_container_that_does_not_run() {
    let of = |labels: &str, value: &str| container(MEMORY, labels, value);
    let pod = of("container=\"\"", "900");
    for (rows, expected) in [
        (of("container=\"u\"", "0"), None),
        (of("container=\"u\"", "0") + &pod, Some(900)),
        (of("container=\"init\"", "0") + &of("container=\"u\"", "70"), Some(70)),
        (of("container=\"init\"", "0") + &of("container=\"u\"", "70") + &pod, Some(70)),
        (of("container=\"u\"", "-1") + &pod, Some(900)),
        (of("container=\"v\"", "-1") + &of("container=\"u\"", "70") + &pod, None),
        (of("container=\"u\"", "0") + &of("container=\"\"", "0"), None),
    ] {
        assert_eq!(usage(&rows).1, expected, "{rows}");
    }
    let dropped = |rows: &str| read(rows).dropped.iter().map(|(_, values)| values.why.to_string()).collect::<Vec<_>>();
    assert_eq!(dropped(&of("container=\"u\"", "0")), ["value 0, must be 1 to 70368744177664"]);
    assert_eq!(dropped(&(of("container=\"u\"", "0") + &pod)), Vec::<String>::new());
}

#[test]
fn an_empty_label_equals_a_missing_one() {
    let rows = "container_cpu_usage_seconds_total{namespace=\"default\",function=\"\",pod=\"fib-1\"} 2\n\
        kn_revision_request_concurrency{namespace=\"default\",function=\"fib\",pod=\"fib-1\"} 1\n\
        kn_revision_request_concurrency{namespace=\"default\",function=\"fib\",pod=\"\"} 1\n\
        qscale_gateway_requests_total{namespace=\"default\",function=\"\"} 1\n\
        qscale_gateway_requests_total{namespace=\"\",function=\"fib\"} 1\n";
    let reading = read(rows);
    assert_eq!((reading.functions.len(), reading.unowned.len()), (1, 0));
    let replicas = &function(&reading).replicas;
    assert_eq!((replicas.len(), replicas[0].cpu.is_some()), (1, true));
}

#[test]
fn of_several_samples_of_a_series_the_newest_counts() {
    let line = |value: u32, at: &str| format!("qscale_gateway_requests_total{{namespace=\"default\",function=\"fib\"}} {value}{at}\n");
    let (old, new, now) = (" 1699999990000", " 1699999999000", "");
    for (rows, expected) in [
        (line(1, old) + &line(2, new), (2, 1_699_999_999_000)),
        (line(2, new) + &line(1, old), (2, 1_699_999_999_000)),
        (line(1, old) + &line(3, now) + &line(2, new), (3, AT.0)),
        (line(1, now) + &line(2, now), (1, AT.0)),
    ] {
        let reading = read(&rows);
        let ingress = function(&reading).ingress.as_ref().expect("arrivals were read");
        assert_eq!((ingress.arrived.sum(), ingress.at.0), expected, "{rows}");
    }
    let bucket = |bound: &str, count: u32, at: &str| {
        format!(
            "kn_serving_invocation_duration_seconds_bucket{{namespace=\"default\",function=\"fib\",pod=\"a\",le=\"{bound}\"}} {count}{at}\n"
        )
    };
    let points = [bucket("0.1", 1, old), bucket("0.1", 3, new), bucket("+Inf", 2, old), bucket("+Inf", 7, new)].concat();
    assert_eq!(requests_of(&points), Some((7, 0, true)));
}

#[test]
fn an_old_time_ages_only_its_own_kind() {
    let old = AT.0 - 120_000;
    let body = PLATFORM.replace("fib\"} 3\nkn", &format!("fib\"}} 3 {old}\nkn"));
    let reading = read(&(body + "qscale_gateway_requests_total{namespace=\"default\",function=\"fib\"} 8\n"));
    let FunctionScrape { platform, ingress, .. } = function(&reading);
    assert_eq!((platform.map(|platform| platform.at.0), ingress.as_ref().map(|ingress| ingress.at)), (Some(old), Some(AT)));
    // Of the parts of one sum, one without a time was taken now.
    let two = [container(CPU, "container=\"u\"", "5"), container(CPU, "container=\"v\"", "5 1699999990000")].concat();
    assert_eq!(read(&two).unowned[0].1.at, AT);
}

#[test]
fn a_target_that_several_jobs_read_counts_once() {
    let jobs = [",job=\"a\",metrics_path=\"metrics\"", ",job=\"b\",service=\"s\",endpoint=\"http\",metrics_path=\"cadvisor\""];
    let rows = |metric: &str, labels: &str, value: &str| jobs.map(|job| format!("{metric}{{{labels}{job}}} {value}\n")).concat();
    let nodes = ["10.0.0.1:10250", "10.0.0.2:10250"].map(|instance| {
        let labels = format!("instance=\"{instance}\"");
        rows("machine_cpu_cores", &labels, "4") + &rows("machine_memory_bytes", &labels, "536870912")
    });
    let platform = PLATFORM.replace("machine_", "other_") + &nodes.concat();
    assert_eq!(read(&platform).headroom, Some(Headroom { cpu_millicores: Millicores(6500), memory_mib: Mebibytes(256) }));

    let of = "namespace=\"default\",function=\"fib\"";
    let at = |instance: &str| format!("{of},pod=\"a\",instance=\"{instance}\"");
    let count = "kn_serving_invocation_duration_seconds_count";
    assert_eq!(requests_of(&(rows(count, &at("1"), "5") + &rows(count, &at("2"), "5"))).map(|requests| requests.0), Some(10));
    let gateway = |instance: &str| rows("qscale_gateway_requests_total", &format!("{of},instance=\"{instance}\""), "7");
    let reading = read(&(gateway("1") + &gateway("2")));
    assert_eq!(function(&reading).ingress.as_ref().map(|ingress| ingress.arrived.sum()), Some(14));
    // A label that is configured to name the function is no label of a target.
    let mut config = ExpositionConfig::default();
    config.labels.function = "service".into();
    let services =
        ["x", "y"].map(|service| format!("kn_revision_pods_desired{{namespace=\"default\",service=\"{service}\"}} 1\n")).concat();
    assert_eq!(read_with(&config, &services).functions.len(), 2);
}

#[test]
fn cpu_time_of_all_processors_is_not_added_to_its_parts() {
    let of = |processor: &str, value: &str| container(CPU, &format!("container=\"u\",cpu=\"{processor}\""), value);
    let (parts, total) = (of("cpu00", "2") + &of("cpu01", "3"), of("total", "5.5"));
    for (rows, expected) in [(parts.clone(), 5_000_000), (parts.clone() + &total, 5_500_000), (total + &parts, 5_500_000)] {
        assert_eq!(usage(&rows).0, Some(expected), "{rows}");
    }
}

#[test]
fn more_throttled_periods_than_periods_are_absent() {
    let rows = |throttled: &str| {
        let labels = "container=\"u\"";
        [
            container(CPU, labels, "5"),
            container("container_cpu_cfs_periods_total", labels, "40"),
            container("container_cpu_cfs_throttled_periods_total", labels, throttled),
        ]
        .concat()
    };
    let periods = |throttled: &str| read(&rows(throttled)).unowned[0].1.cpu.as_ref().and_then(|cpu| cpu[0].periods);
    assert_eq!(periods("40"), Some(CpuPeriods { runnable: 40, throttled: 40 }));
    assert_eq!(periods("41"), None);
}

#[test]
fn names_in_quotes_are_read() {
    let quoted: String =
        PLATFORM.lines().filter(|line| line.contains('{')).map(|line| format!("{{\"{}\n", line.replacen('{', "\",", 1))).collect();
    assert_eq!(function(&read(&quoted)).platform, function(&read(PLATFORM)).platform);
    assert_eq!(usage(&container(CPU, "\"k8s.node.name\"=\"n1\",container=\"u\"", "5")).0, Some(5_000_000));
    let mut config = ExpositionConfig::default();
    config.labels.replica = "k8s.pod.name".into();
    let row = format!("{{\"{CPU}\",namespace=\"default\",\"k8s.pod.name\"=\"p\"}} 5\n");
    assert_eq!(usage_with(&config, &row).0, Some(5_000_000));
}

#[test]
fn malformed_lines_of_other_metrics_do_not_make_a_text_unreadable() {
    let garbage = "9bad{} 1\n".repeat(40);
    let reading = read(&(PLATFORM.to_owned() + &garbage));
    assert_eq!((reading.unreadable, reading.malformed, reading.samples), (false, 40, 11));
    assert!(read(&garbage).unreadable);
    let in_use = "kn_revision_pods_desired{ 1\n".repeat(12);
    assert!(read(&(PLATFORM.to_owned() + &in_use)).unreadable);
}

proptest! {
    #[test]
    fn any_numbers_and_names_are_accepted(
        rows in prop::collection::vec((0usize..24, "[a-b\"\\\\]{0,2}", "[a-b]{0,1}|gateway", any::<f64>(), prop::option::of(any::<i64>())), 0..60),
    ) {
        let mut names: Vec<Vec<u8>> = ExpositionReader::new(&ExpositionConfig::default()).metrics.keys().map(|name| name.to_vec()).collect();
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

const REQUESTS: RequestMetrics<'_> = RequestMetrics {
    duration: "latency",
    unit_seconds: 0.001,
    in_flight: Some("busy"),
    http_statuses: &["response_code", "code"],
    grpc_status: "grpc_code",
};

/// Reading of what the replica `a/fib-1` shows of itself.
fn shown(body: &str) -> Scrape {
    let reading = ExpositionReader::of_requests(&REQUESTS).read_replica(ExpositionText::new(body.as_bytes()), ("a", "fib-1"), AT);
    let reading = reading.expect("it shows durations");
    assert!(reading.functions.is_empty());
    let [(path, scrape)] = &reading.unowned[..] else { panic!("{reading:?}") };
    assert_eq!(path, "a/fib-1");
    scrape.clone()
}

#[test]
fn a_replica_shows_only_its_own_requests_whatever_it_says() {
    let scrape = shown(
        "latency_count{namespace=\"b\",pod=\"other\",function=\"theirs\",container=\"POD\"} 5\n\
         latency_count{code=\"200\",endpoint=\"/x\"} 3\nlatency_count{code=\"200\",endpoint=\"/y\"} 4\n\
         latency_count{code=\"503\"} 2\nlatency_count{grpc_code=\"Unavailable\"} 1\nbusy{job=\"one\"} 2\nbusy{job=\"two\"} 1\n\
         container_cpu_usage_seconds_total{namespace=\"b\",pod=\"other\"} 9\nqscale_gateway_requests_total{namespace=\"b\",function=\"f\"} 9\n",
    );
    let requests = scrape.requests.expect("read");
    assert_eq!((requests.completed, requests.failed, scrape.in_flight, scrape.cpu), (12, 3, Some(3.0), None));
}

#[test]
fn durations_in_milliseconds_are_those_in_seconds() {
    let scrape = shown("latency_bucket{le=\"50\"} 6\nlatency_bucket{le=\"100\"} 10\nlatency_bucket{le=\"+Inf\"} 10\nlatency_count 10\n");
    let latency = scrape.requests.and_then(|requests| requests.latency).expect("read");
    let up_to_100_ms: u64 = latency[..12].iter().sum();
    assert_eq!((LATENCY_BOUNDS_MS[11], up_to_100_ms, latency.iter().sum::<u64>()), (100.0, 10, 10));
}
