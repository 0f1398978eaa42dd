use proptest::prelude::*;
use qscale_common::contract::Headroom;
use qscale_common::hash::fnv1a;
use qscale_common::scrape::{
    CpuCounters, CpuPeriods, FunctionScrape, IngressReading, LATENCY_BOUNDS_MS, LATENCY_BUCKETS, PlatformReading, PlatformReplicas,
    RequestCounters, Scrape,
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
    let expected = Scrape {
        requests: Some(RequestCounters::default()),
        in_flight: Some(3.0),
        cpu: Some(CpuCounters {
            usage_us: 12_345_679,
            periods: Some(CpuPeriods { runnable: 400, throttled: 40 }),
            of: fnv1a(*b"user-container"),
        }),
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
    assert_eq!(scrape.ingress, Some(IngressReading { at: AT, arrived: 120, failed: 9, queued: 5.0, of: fnv1a(*b"/") }));
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
    let latency = |place: usize| function(&reading).replicas[place].requests.expect("requests were read").latency;
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
    assert_eq!(scrape.cpu.map(|cpu| cpu.usage_us), Some(3_000_000));
    assert_eq!(scrape.at, Timestamp(1_699_999_999_500), "the samples say when they were taken");
    assert_eq!(scrape.requests, None);

    let config = ExpositionConfig { containers: vec!["user-container".into()], ..ExpositionConfig::default() };
    let reading = read_with(&config, rows);
    assert_eq!(reading.unowned[0].1.cpu.map(|cpu| cpu.usage_us), Some(2_000_000));
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
        |(path, scrape): &(String, Scrape)| (path.clone(), scrape.at.0, scrape.cpu.is_some(), scrape.working_set_bytes, scrape.restarts);
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
    assert_eq!(function(&reading).ingress.map(|ingress| ingress.at), Some(AT));
}

#[test]
fn configured_names_are_read() {
    let mut config = ExpositionConfig::default();
    config.labels.function = "service_name".into();
    config.metrics.arrived = "activator_request_count".into();
    config.metrics.queued = String::new();
    let body = "activator_request_count{namespace=\"default\",service_name=\"fib\",code=\"200\"} 3\nactivator_request_count{namespace=\"default\",service_name=\"fib\",code=\"500\"} 4\n";
    let reading = read_with(&config, body);
    let ingress = function(&reading).ingress.expect("arrivals were read");
    assert_eq!(ingress.arrived, 7);
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
    assert_eq!((scrape.ingress, scrape.platform, reading.malformed), (None, None, 1));
    let nothing = |replica: &Scrape| (replica.cpu, replica.in_flight, replica.working_set_bytes) == (None, None, None);
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

/// CPU, microseconds, working set and restarts of the only replica, which has no function.
#[track_caller]
fn usage(rows: &str) -> (Option<u64>, Option<u64>, u64) {
    usage_with(&ExpositionConfig::default(), rows)
}

#[track_caller]
fn usage_with(config: &ExpositionConfig, rows: &str) -> (Option<u64>, Option<u64>, u64) {
    let reading = read_with(config, rows);
    let [(_, scrape)] = &reading.unowned[..] else { panic!("{:?}", reading.unowned) };
    (scrape.cpu.map(|cpu| cpu.usage_us), scrape.working_set_bytes, scrape.restarts)
}

/// CPU, microseconds, of the Scrape that shows it.
fn usage_of_last(rows: &str) -> Option<u64> {
    read(rows).unowned.iter().find_map(|(_, scrape)| scrape.cpu.map(|cpu| cpu.usage_us))
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
        assert_eq!((requests.completed, &requests.latency[..3]), (18, &counts[..]));
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
    let arrived = function(&endpoints("qscale_gateway_requests_total")).ingress.map(|ingress| ingress.arrived);
    assert_eq!(arrived, Some(8), "each gateway counts its own requests");
}

#[test]
fn a_sum_of_other_containers_or_gateways_has_another_fingerprint() {
    let of = |rows: &[String]| read(&rows.concat()).unowned[0].1.cpu.expect("CPU was read").of;
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
        function(&read(&names.iter().map(line).collect::<String>())).ingress.expect("arrivals were read").of
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
        assert_eq!(function(&bucket).replicas[0].requests, None, "{missing}");
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
    let at = |labels: &str, start: &str| [container(CPU, labels, "1"), container(START, labels, start)].concat();
    assert_eq!(started(&at("container=\"u\"", "1.69999999e9")), Some(Timestamp(1_699_999_990_000)));
    let two = [at("container=\"u\"", "1699999990.5"), at("container=\"v\"", "1699999980")].concat();
    assert_eq!(started(&two), Some(Timestamp(1_699_999_980_000)));
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
    let ingress = function(&read(ExpositionFormat::OpenMetrics)).ingress.expect("arrivals were read");
    assert_eq!((ingress.arrived, ingress.at), (120, Timestamp(1_699_999_999_750)));
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
