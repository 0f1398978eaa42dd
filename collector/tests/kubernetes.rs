//! The source for Kubernetes against a real control plane with simulated nodes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use qscale_collector::reading::Reading;
use qscale_collector::source::kubernetes::{KubernetesConfig, UsageSource};
use qscale_collector::source::{ObservedWorkloads, Source, SourceConfig, SourceError};
use qscale_common::policy::{MetricsSource, PodEndpoint};
use qscale_common::scrape::{FunctionScrape, PlatformReplicas};
use qscale_common::time::Span;
use qscale_common::units::{Allocation, Replicas};
use qscale_tests::{Cluster, Folder, Program, eventually, eventually_async, free_port, process};

/// A source with the published rights of the collector, and no others.
fn source(cluster: &Cluster) -> Source {
    source_of(cluster, UsageSource::Kubelets)
}

fn source_of(cluster: &Cluster, usage: UsageSource) -> Source {
    let kubeconfig = Some(cluster.service_account("collector"));
    let config = KubernetesConfig { kubeconfig, usage, insecure_kubelets: true, timeout: Span::seconds(20), ..KubernetesConfig::default() };
    Source::open(&SourceConfig::Kubernetes(config)).expect("valid")
}

/// The workload `default/fib`, whose policy names `endpoint`.
fn observed(endpoint: Option<PodEndpoint>) -> ObservedWorkloads {
    [("default/fib".to_owned(), MetricsSource { endpoint, ..MetricsSource::default() })].into()
}

/// Reads until `accept` returns a value of a reading.
async fn until<T>(source: &mut Source, what: &str, accept: impl Fn(&Reading) -> Option<T>) -> T {
    until_of(source, &observed(None), what, accept).await
}

async fn until_of<T>(source: &mut Source, observed: &ObservedWorkloads, what: &str, accept: impl Fn(&Reading) -> Option<T>) -> T {
    let source = &tokio::sync::Mutex::new(source);
    let accept = &accept;
    eventually_async(what, async || {
        let reading = source.lock().await.read(observed).await.ok()?;
        accept(&reading)
    })
    .await
}

fn counts(function: &FunctionScrape) -> Option<PlatformReplicas> {
    function.platform?.replicas
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workloads_and_pods_are_measured_and_growth_of_cpu_is_that_of_the_pods() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.apply(&Cluster::deployment(2, "300m"));
    let mut source = source(&cluster);
    let ready = PlatformReplicas { desired: Replicas(2), ready: Replicas(2), pending: Replicas(0) };
    let first = until(&mut source, "two measured replicas", |reading| {
        let fib = reading.functions.get("default/fib")?;
        let measured = fib.replicas.iter().all(|replica| replica.cpu.is_some() && replica.working_set_bytes == Some(96 << 20));
        (counts(fib) == Some(ready) && measured).then(|| fib.clone())
    })
    .await;
    let platform = first.platform.expect("read");
    assert_eq!(platform.allocation, Some(Allocation::new(2, 500, 256)));
    assert_eq!(platform.startups.map(|(number, _)| number), Some(2));
    assert!(first.replicas.iter().all(|replica| replica.restarts.as_ref().is_some_and(|restarts| restarts.sum() == 0)));

    // 300m for as long as the clock of the simulated kubelet says.
    let grown = until(&mut source, "CPU time to grow", |reading| {
        let later =
            reading.functions.get("default/fib")?.replicas.iter().find(|replica| replica.replica == first.replicas[0].replica)?.clone();
        let (before, after) = (first.replicas[0].cpu.as_ref()?.usage_us(), later.cpu.as_ref()?.usage_us());
        (after > before + 100_000).then_some(())
    });
    grown.await;

    cluster.kubectl(&["scale", "deployment", "fib", "--replicas=5"]);
    until(&mut source, "the new replicas", |reading| {
        let fib = reading.functions.get("default/fib")?;
        (counts(fib)?.ready == Replicas(5) && fib.platform?.startups?.0 == 5).then_some(())
    })
    .await;
    let reading = source.read(&observed(None)).await.expect("read");
    let headroom = reading.headroom.expect("the nodes are known");
    assert_eq!((headroom.cpu_millicores.0, reading.node.cores), (2 * 32_000 - 5 * 500, Some(32.0)));

    // The objects are followed across a restart of the API server.
    cluster.restart_api_server();
    cluster.kubectl(&["delete", "deployment", "fib"]);
    until(&mut source, "the workload to be gone", |reading| (!reading.functions.contains_key("default/fib")).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cpu_and_memory_come_from_the_resource_metrics_api_where_it_is_chosen() {
    let Some(cluster) = Cluster::start() else { return };
    let Some(_server) = cluster.start_metrics() else { return };
    cluster.apply(&Cluster::deployment(1, "300m"));
    let mut source = source_of(&cluster, UsageSource::MetricsApi);
    let usage = |reading: &Reading| {
        let fib = reading.functions.get("default/fib")?;
        fib.replicas.iter().find_map(|replica| Some((replica.cpu.as_ref()?.usage_us(), replica.at, replica.working_set_bytes)))
    };
    // Without the right to read it, everything else is measured.
    until(&mut source, "a ready pod", |reading| (counts(reading.functions.get("default/fib")?)?.ready == Replicas(1)).then_some(())).await;
    assert_eq!(source.read(&observed(None)).await.ok().as_ref().and_then(usage), None);
    cluster.kubectl(&["create", "clusterrole", "usage", "--verb=list", "--resource=pods.metrics.k8s.io"]);
    cluster.kubectl(&["create", "clusterrolebinding", "usage", "--clusterrole=usage", "--serviceaccount=qscale-system:qscale-collector"]);
    let (first, at, memory) = until(&mut source, "the first window", usage).await;
    assert_eq!((first, memory), (0, Some(96 << 20)));
    let (used, later, _) = until(&mut source, "another window", |reading| usage(reading).filter(|(_, later, _)| *later > at)).await;
    let cores = used as f64 / 1e6 / later.since(at).as_secs_f64();
    assert!((0.1..0.9).contains(&cores), "{cores} cores, the pod uses 0.3");
}

/// The function `fibonacci` as a process, with its log in `folder`, its port, and as many requests that it has answered.
fn function(requests: u32, folder: &Folder) -> (Program, u16) {
    let port = free_port();
    let log = folder.path().join(format!("function-{port}.log"));
    let program = Program::start(&process::binary("qscale-function"), ["fibonacci".into(), format!("--port={port}")], &log);
    let ask = || {
        let mut connection = TcpStream::connect(("127.0.0.1", port)).ok()?;
        write!(connection, "GET /?n=3 HTTP/1.1\r\nhost: f\r\nconnection: close\r\n\r\n").ok()?;
        let mut reply = String::new();
        connection.read_to_string(&mut reply).ok()?;
        reply.starts_with("HTTP/1.1 200").then_some(())
    };
    eventually("the function to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
    (0..requests).for_each(|_| ask().expect("it answers"));
    (program, port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_observed_workloads_show_their_requests() {
    let Some(cluster) = Cluster::start() else { return };
    let folder = Folder::new("functions");
    let ((_program, port), (_idle, idle)) = (function(7, &folder), function(0, &folder));
    // A pod in the network of its node has the node's address, which is that of this machine.
    let mut deployment = Cluster::deployment(1, "300m");
    deployment["spec"]["template"]["spec"]["hostNetwork"] = true.into();
    cluster.apply(&deployment);
    let mut source = source(&cluster);
    let requests = |reading: &Reading| {
        let fib = reading.functions.get("default/fib").filter(|fib| counts(fib).is_some_and(|counts| counts.ready == Replicas(1)))?;
        Some(fib.replicas.iter().find_map(|replica| Some((replica.requests?, replica.in_flight))))
    };
    let endpoint = |port| Some(PodEndpoint { port, path: "/metrics".into(), duration: None });
    let (counted, in_flight) = until_of(&mut source, &observed(endpoint(port)), "requests of the pod", |reading| requests(reading)?).await;
    assert_eq!((counted.completed, counted.failed, in_flight), (7, 0, Some(0.0)));
    assert_eq!(counted.latency.map(|buckets| buckets.iter().sum()), Some(7u64));

    let (counted, _) = until_of(&mut source, &observed(endpoint(idle)), "a pod without requests", |reading| requests(reading)?).await;
    assert_eq!((counted.completed, counted.failed), (0, 0), "it shows zeros");

    // Without an endpoint, with one that does not listen, or where nobody asks, everything else is measured.
    for unread in [observed(None), observed(endpoint(1)), ObservedWorkloads::default()] {
        let found = until_of(&mut source, &unread, "a ready pod", |reading| requests(reading)).await;
        assert_eq!(found, None, "{unread:?}");
    }
    deployment["spec"]["template"]["metadata"]["annotations"]["prometheus.io/scrape"] = "true".into();
    deployment["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"] = port.to_string().into();
    cluster.apply(&deployment);
    let (counted, _) = until(&mut source, "requests of the annotated pod", |reading| requests(reading)?).await;
    assert_eq!(counted.completed, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_rights_or_cluster_the_reason_is_named() {
    let config = KubernetesConfig { kubeconfig: Some("/proc/none/kubeconfig".into()), ..KubernetesConfig::default() };
    let mut missing = Source::open(&SourceConfig::Kubernetes(config)).expect("valid");
    let error = missing.read(&observed(None)).await.expect_err("no such file").to_string();
    assert!(error.contains("/proc/none/kubeconfig"), "{error}");
    let Some(cluster) = Cluster::start() else { return };
    let kubeconfig = Some(cluster.kubeconfig_of("nobody", "no-such-token"));
    let config = KubernetesConfig { kubeconfig, ..KubernetesConfig::default() };
    let unknown = tokio::sync::Mutex::new(Source::open(&SourceConfig::Kubernetes(config)).expect("valid"));
    let unknown = &unknown;
    eventually_async("the refusal", async || {
        let SourceError::Connection(error) = unknown.lock().await.read(&observed(None)).await.err()? else { return None };
        error.contains("Unauthorized").then_some(())
    })
    .await;
}
