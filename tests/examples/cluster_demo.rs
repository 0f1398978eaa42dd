//! Qscale, installed by its chart, beside the HorizontalPodAutoscaler: the same function and the same load, in real pods of one cluster, from the clients' view:
//! `make cluster-demo`. Owns the experiment and its summary.
//!
//! Arguments: the load pattern and the duration of the load, such as `step:2@0s,10@60s 4m`.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use qscale_common::load::LoadSummary;
use qscale_common::policy::Prices;
use qscale_common::quantity;
use qscale_common::runtime::clock;
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use qscale_tests::process::binary;
use qscale_tests::{Cluster, RealNode, repository, signals, within};
use serde_json::{Value, json};

const LOAD: &str = "step:2@0s,9@60s,3@180s";
const DURATION: &str = "5m";
/// The request: some 30 ms of CPU in a build of the profile `dev`.
const PATH: &str = "--path=/?n=80000";
/// Objective of the policy in `deploy/cluster/fibonacci.yaml`.
const OBJECTIVE_MS: f64 = 500.0;
const NAMES: [&str; 2] = ["hpa", "qscale"];
/// Interval at which pods are counted.
const SAMPLE: Duration = Duration::from_secs(1);

fn main() {
    signals::catch();
    let mut arguments = std::env::args().skip(1);
    let load = arguments.next().unwrap_or_else(|| LOAD.into());
    let duration = arguments.next().unwrap_or_else(|| DURATION.into());
    let Some(cluster) = Cluster::start_without_nodes() else { std::process::exit(1) };
    let node = RealNode::start(&cluster).unwrap_or_else(|obstacle| {
        eprintln!("error: {obstacle}");
        std::process::exit(1);
    });
    node.import("qscale-function:dev", &[binary("qscale-function")]);
    let Some(_metrics) = cluster.start_metrics() else { std::process::exit(1) };
    println!("[1/4] cluster with real pods and metrics-server");
    if let Err(error) = node.install_chart(&[]) {
        // Ends its pods.
        drop(node);
        eprintln!("error: {error}");
        std::process::exit(1);
    }
    println!("[2/4] the chart of Qscale is installed, and its pods are ready");

    deploy(&cluster);
    within(Duration::from_secs(120), "Qscale to act", || {
        let status = cluster.get(&["scp", "qscale"])["status"].clone();
        let acting =
            status["conditions"].as_array()?.iter().any(|condition| condition["type"] == "Acting" && condition["status"] == "True");
        (acting && status["measured"]["requestsPerSecond"].is_string()).then_some(())
    });
    println!("[3/4] Qscale acts on one function, the HorizontalPodAutoscaler on the other");

    println!("[4/4] load {load} for {duration} on the Service of each\n");
    println!("{:>6}  {:<32}  {:<32}", "time", "HorizontalPodAutoscaler", "Qscale");
    let began = clock::instant();
    let mut clients = NAMES.map(|name| client(&cluster, name, &load, &duration));
    let mut spent = NAMES.map(|_| Spent::default());
    let mut shown = 0;
    while clients.iter_mut().any(|client| client.try_wait().is_ok_and(|status| status.is_none())) {
        let pods = NAMES.map(|name| pods(&cluster, name));
        let passed = clock::since(began);
        for (spent, pods) in spent.iter_mut().zip(&pods) {
            spent.add(pods, passed);
        }
        if passed.as_secs() / 10 >= shown {
            shown = passed.as_secs() / 10 + 1;
            println!("{:>5}s  {:<32}  {:<32}", passed.as_secs(), text(&pods[0]), text(&pods[1]));
        }
        if signals::arrived() {
            clients.iter_mut().for_each(|client| drop(client.kill()));
            println!("stopping");
            return;
        }
        std::thread::sleep(SAMPLE);
    }
    let results = clients.map(summary);
    print_summary(&results, &spent);
    println!("\n{}", cluster.kubectl(&["get", "scalingpolicies,hpa"]));
    println!("{}", cluster.kubectl(&["get", "events", "--field-selector=involvedObject.kind=ScalingPolicy", "--sort-by=.lastTimestamp"]));
    drop(node);
}

/// The function of `deploy/cluster/fibonacci.yaml` twice, one with its policy, one with a HorizontalPodAutoscaler of the same bounds.
fn deploy(cluster: &Cluster) {
    let manifest = repository().join("deploy/cluster/fibonacci.yaml");
    let printed = cluster.kubectl(&["create", "--dry-run=client", "--output=json", "--filename", &manifest.display().to_string()]);
    let objects: Vec<Value> =
        serde_json::Deserializer::from_str(&printed).into_iter().map(|object| object.expect("kubectl prints JSON")).collect();
    for name in NAMES {
        for object in &objects {
            let mut object = object.clone();
            object["metadata"]["name"] = name.into();
            match object["kind"].as_str() {
                Some("Deployment") => {
                    object["spec"]["selector"]["matchLabels"]["app"] = name.into();
                    object["spec"]["template"]["metadata"]["labels"]["app"] = name.into();
                }
                Some("Service") => object["spec"]["selector"]["app"] = name.into(),
                _ if name == "hpa" => continue,
                _ => {}
            }
            cluster.apply(&object);
        }
    }
    let metric =
        json!({ "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 70 } } });
    let target = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "hpa" });
    let spec = json!({ "scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 4, "metrics": [metric] });
    let metadata = json!({ "name": "hpa", "namespace": "default" });
    cluster.apply(&json!({ "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata, "spec": spec }));
    for name in NAMES {
        cluster.kubectl(&["rollout", "status", "deployment", name, "--timeout=60s"]);
    }
}

fn client(cluster: &Cluster, name: &str, load: &str, duration: &str) -> Child {
    let address = cluster.get(&["service", name])["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let mut command = Command::new(binary("qscale-loadgen"));
    command.args(["run", "--protocol=http", "--json", "--quiet", "--no-real-time", "--max-lag=1s", PATH]);
    command
        .args([&format!("--function={name}"), &format!("--target={address}:8080"), &format!("--rate={load}"), &format!("--for={duration}")])
        .stdout(Stdio::piped());
    command.spawn().expect("the load generator runs")
}

fn summary(client: Child) -> LoadSummary {
    let output = client.wait_with_output().expect("the load generator ends");
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("the load generator printed {text}: {error}"))
}

/// Size of each pod that is not ending, by name.
fn pods(cluster: &Cluster, name: &str) -> BTreeMap<String, Allocation> {
    let list = cluster.get(&["pods", "--selector", &format!("app={name}")]);
    let size = |pod: &Value| {
        let container = &pod["spec"]["containers"][0];
        let amount = |resource: &str| quantity::positive(container["resources"]["requests"][resource].as_str()?);
        let cpu = Millicores((amount("cpu")? * 1000.0).round() as u32);
        Some(Allocation { replicas: Replicas(1), cpu_millicores: cpu, memory_mib: Mebibytes::from_bytes(amount("memory")? as u64) })
    };
    let alive = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    let named = |pod: &Value| Some((pod["metadata"]["name"].as_str()?.to_owned(), size(pod)?));
    list["items"].as_array().into_iter().flatten().filter(alive).filter_map(named).collect()
}

fn text(pods: &BTreeMap<String, Allocation>) -> String {
    let sizes: Vec<_> = pods.values().map(|size| (size.cpu_millicores, size.memory_mib)).collect();
    match sizes.first() {
        Some((cpu, memory)) if sizes.iter().all(|size| size == &sizes[0]) => format!("{} × {cpu}, {memory}", sizes.len()),
        Some(_) => format!("{} of different sizes", sizes.len()),
        None => "none".into(),
    }
}

/// Sums over time of what a function was given.
#[derive(Debug, Default)]
struct Spent {
    seconds: f64,
    cost: f64,
    replica_seconds: f64,
    core_seconds: f64,
    changes: u32,
    last: Option<(Duration, Vec<Allocation>)>,
}

impl Spent {
    fn add(&mut self, pods: &BTreeMap<String, Allocation>, at: Duration) {
        let sizes: Vec<Allocation> = pods.values().copied().collect();
        if let Some((before, last)) = &self.last {
            let seconds = (at - *before).as_secs_f64();
            let prices = Prices::default();
            self.seconds += seconds;
            self.replica_seconds += seconds * last.len() as f64;
            self.core_seconds += seconds * last.iter().map(|size| size.total_cores()).sum::<f64>();
            self.cost += seconds / 3600.0 * last.iter().map(|size| prices.per_hour(*size)).sum::<f64>();
            self.changes += u32::from(*last != sizes);
        }
        self.last = Some((at, sizes));
    }
}

fn print_summary(results: &[LoadSummary; 2], spent: &[Spent; 2]) {
    println!("\n{:<38} {:>24} {:>12}", "", "HorizontalPodAutoscaler", "Qscale");
    let row = |name: &str, values: [String; 2]| println!("{name:<38} {:>24} {:>12}", values[0], values[1]);
    let of_load = |value: fn(&LoadSummary) -> String| results.each_ref().map(value);
    let latency = |result: &LoadSummary, value: fn(&qscale_common::load::LatencySummary) -> f64| {
        result.total.latency_ms.as_ref().map_or_else(|| "-".into(), |latency| format!("{:.0} ms", value(latency)))
    };
    row("requests", of_load(|result| result.total.due.to_string()));
    row("failed or unanswered", of_load(|result| (result.total.due - result.total.succeeded).to_string()));
    row("median latency", results.each_ref().map(|result| latency(result, |latency| latency.p50)));
    row(&format!("95th percentile (objective {OBJECTIVE_MS} ms)"), results.each_ref().map(|result| latency(result, |latency| latency.p95)));
    row("99th percentile", results.each_ref().map(|result| latency(result, |latency| latency.p99)));
    let of_pods = |value: &dyn Fn(&Spent) -> String| spent.each_ref().map(value);
    row("mean replicas", of_pods(&|spent| format!("{:.2}", spent.replica_seconds / spent.seconds)));
    row("mean requested cores", of_pods(&|spent| format!("{:.3}", spent.core_seconds / spent.seconds)));
    row("cost per hour, USD", of_pods(&|spent| format!("{:.5}", spent.cost / spent.seconds * 3600.0)));
    row("seconds in which pods or sizes changed", of_pods(&|spent| spent.changes.to_string()));
}
