//! Cost of thousands of workloads: a real control plane with simulated nodes, one Deployment and one ScalingPolicy for each workload, and the services of
//! Qscale on this machine: `make cluster-scale`. Owns the experiment and its summary.
//!
//! Arguments: the number of workloads, the tick, the length of the measurement in minutes and the agent, such as `5000 15s 5 hpa`. The pods are not asked for
//! their requests, so the agent must do without. `threshold-both` changes its mind often, `hpa` rarely.

use std::collections::{BTreeMap, HashMap};
use std::process::Command;
use std::time::Duration;

use qscale_common::contract::{DecisionSource, Effect, EventType, Outcome, State, subject};
use qscale_common::name::Name;
use qscale_common::runtime::bus::Subscription;
use qscale_common::runtime::clock;
use qscale_common::time::{Tick, Timestamp};
use qscale_tests::{Cluster, System, signals, within};
use serde_json::{Value, json};

/// The services, by the names of their programs.
const SERVICES: [&str; 4] = ["qscale-collector", "qscale-agent", "qscale-actuator", "nats-server"];
/// Workloads on one simulated node.
const PER_NODE: usize = 500;
/// Objects in one request of kubectl.
const BATCH: usize = 500;
/// Namespace and service account of the services, by which the audit log knows their requests.
const NAMESPACE: &str = "qscale-system";
const ACCOUNT: &str = "scale";
/// Long enough for thousands of pods on a busy machine.
const PATIENCE: Duration = Duration::from_secs(1_800);

fn main() {
    signals::catch();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |place: usize, default: &str| arguments.get(place).cloned().unwrap_or_else(|| default.to_owned());
    let workloads: usize = argument(0, "5000").parse().expect("the number of workloads");
    let (tick, minutes) = (argument(1, "15s"), argument(2, "5").parse::<u64>().expect("minutes"));
    let agent = argument(3, "hpa");
    let Some(mut cluster) = Cluster::start_without_nodes() else { std::process::exit(1) };
    let resources = json!({ "cpu": "4000", "memory": "8Ti", "pods": (PER_NODE * 4).to_string() });
    cluster.add_simulated_nodes(workloads.div_ceil(PER_NODE), &resources);
    cluster.kubectl(&["create", "namespace", NAMESPACE]);
    cluster.install_policies();
    create(&cluster, workloads, deployment);
    within(PATIENCE, "ready pods", || {
        let ready = cluster.get(&["deployments"])["items"].as_array()?.iter().filter(|item| item["status"]["readyReplicas"] == 1).count();
        std::thread::sleep(Duration::from_secs(2));
        (ready == workloads).then_some(())
    });
    println!("[1/3] {workloads} Deployments with a ready pod each");

    let system = System::up_with(&["--backend", "kubernetes", "--insecure-kubelets", "--agent", &agent], None, |command| {
        command.env("KUBECONFIG", account(&cluster));
    });
    create(&cluster, workloads, |number| policy(number, &tick, &agent));
    println!("[2/3] as many ScalingPolicies with a tick of {tick}");

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(measure(&cluster, &system, workloads, Duration::from_secs(60 * minutes)));
    drop(system);
}

fn name(number: usize) -> String {
    format!("fn-{number:05}")
}

/// Creates an object for each workload.
fn create(cluster: &Cluster, workloads: usize, object: impl Fn(usize) -> Value) {
    let objects: Vec<Value> = (0..workloads).map(object).collect();
    objects.chunks(BATCH).for_each(|batch| cluster.create(batch));
}

/// A Deployment whose pod has 500 millicores and uses 60 to 640, so that some are scaled.
fn deployment(number: usize) -> Value {
    let mut object = Cluster::deployment(1, &format!("{}m", 60 + number * 37 % 580));
    object["metadata"]["name"] = name(number).into();
    object["spec"]["selector"]["matchLabels"]["app"] = name(number).into();
    object["spec"]["template"]["metadata"]["labels"]["app"] = name(number).into();
    object
}

fn policy(number: usize, tick: &str, agent: &str) -> Value {
    let bounds = json!({ "replicas": { "min": 1, "max": 3 } });
    let spec = json!({ "agent": agent, "mode": "active", "tick": tick, "bounds": bounds });
    let metadata = json!({ "name": name(number), "namespace": "default" });
    json!({ "apiVersion": "qscale.dev/v1alpha1", "kind": "ScalingPolicy", "metadata": metadata, "spec": spec })
}

/// Configuration of a service account with all rights, whose requests the audit log has.
fn account(cluster: &Cluster) -> std::path::PathBuf {
    cluster.kubectl(&["create", "serviceaccount", ACCOUNT, "--namespace", NAMESPACE]);
    let subject = format!("--serviceaccount={NAMESPACE}:{ACCOUNT}");
    cluster.kubectl(&["create", "clusterrolebinding", ACCOUNT, "--clusterrole=cluster-admin", &subject]);
    let token = cluster.kubectl(&["create", "token", ACCOUNT, "--namespace", NAMESPACE, "--duration=24h"]);
    cluster.kubeconfig_of(ACCOUNT, token.trim())
}

/// Use of a process at one time.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    cpu: Duration,
    resident_kib: u64,
    /// Bytes that it received over the connections that are open.
    received: u64,
}

impl Usage {
    fn of(pid: u32) -> Self {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
        // User and system time, hundredths of a second.
        let ticks: u64 = [11, 12].into_iter().filter_map(|place| fields.get(place)?.parse::<u64>().ok()).sum();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
        Self { cpu: Duration::from_millis(10 * ticks), resident_kib: resident.unwrap_or(0), received: received(pid) }
    }
}

/// Bytes that the process received over its connections to the API server and others, by `ss`.
fn received(pid: u32) -> u64 {
    let Ok(output) = Command::new("ss").args(["-tinpH"]).output() else { return 0 };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let own = lines.windows(2).filter(|pair| pair[0].contains(&format!("pid={pid},")));
    own.filter_map(|pair| pair[1].split_whitespace().find_map(|word| word.strip_prefix("bytes_received:")?.parse::<u64>().ok())).sum()
}

/// Ages of the States whose Outcomes arrived, milliseconds.
#[derive(Debug, Default)]
struct Lags {
    observed: HashMap<(Name, Tick), Timestamp>,
    all: Vec<u64>,
    changed: Vec<u64>,
    effects: BTreeMap<String, u32>,
}

impl Lags {
    fn add(&mut self, outcome: &Outcome) {
        let Some(observed) = self.observed.remove(&(outcome.function.clone(), outcome.tick)) else { return };
        let lag = clock::now().0.saturating_sub(observed.0);
        self.all.push(lag);
        *self.effects.entry(format!("{:?}", outcome.effect).to_lowercase()).or_default() += 1;
        if matches!(outcome.effect, Effect::Applied | Effect::Changed) {
            self.changed.push(lag);
        }
    }
}

/// Measures from the second Outcome of each workload on.
async fn measure(cluster: &Cluster, system: &System, workloads: usize, length: Duration) {
    let bus = system.bus().await;
    let mut states = bus.subscribe::<State>(subject::all(EventType::State), None).await.expect("operators may listen");
    let mut outcomes = bus.subscribe::<Outcome>(subject::all(EventType::Outcome), None).await.expect("operators may listen");
    let mut lags = Lags::default();
    let mut seen: HashMap<Name, u32> = HashMap::new();
    let began = clock::instant();
    while seen.len() < workloads || seen.values().any(|count| *count < 2) {
        assert!(clock::since(began) < PATIENCE, "{} workloads of {workloads} have Outcomes:\n{}", seen.len(), system.tail());
        follow(&mut states, &mut outcomes, &mut lags, |outcome| *seen.entry(outcome.function.clone()).or_default() += 1).await;
    }
    println!("[3/3] all workloads are decided for, {} s later; measuring for {} s\n", clock::since(began).as_secs(), length.as_secs());

    lags = Lags { observed: lags.observed, ..Lags::default() };
    let pids = SERVICES.map(|service| system.pid_of(service).unwrap_or_else(|| panic!("{service} does not run")));
    let requests = |cluster: &Cluster| cluster.requests_of(ACCOUNT).used;
    let (before, requests_before, began) = (pids.map(Usage::of), requests(cluster), clock::instant());
    while clock::since(began) < length && !signals::arrived() {
        follow(&mut states, &mut outcomes, &mut lags, |_| ()).await;
    }
    let (after, requests_after, seconds) = (pids.map(Usage::of), requests(cluster), clock::since(began).as_secs_f64());

    println!("{:<18} {:>12} {:>24} {:>12} {:>16}", "service", "CPU, cores", "ms/workload and State", "memory, MiB", "received, kB/s");
    let decisions = lags.all.len().max(1) as f64;
    for (service, (before, after)) in SERVICES.iter().zip(before.iter().zip(&after)) {
        let cpu = (after.cpu - before.cpu).as_secs_f64();
        let received = after.received.saturating_sub(before.received) as f64 / seconds / 1e3;
        println!(
            "{service:<18} {:>12.3} {:>24.3} {:>12.0} {received:>16.0}",
            cpu / seconds,
            1e3 * cpu / decisions,
            after.resident_kib as f64 / 1024.0
        );
    }
    println!("\n{:<40} {:>12}", "requests to the API server", "per second");
    for (right, count) in &requests_after {
        let count = count - requests_before.get(right).copied().unwrap_or(0);
        if count > 0 {
            println!("{:<40} {:>12.2}", right.to_string(), f64::from(count) / seconds);
        }
    }
    println!("\noutcomes: {}", lags.effects.iter().map(|(effect, count)| format!("{count} {effect}")).collect::<Vec<_>>().join(", "));
    println!("\n{:<40} {:>8} {:>10} {:>10} {:>10}", "from State to Outcome, ms", "number", "p50", "p95", "largest");
    for (text, lags) in [("all", &mut lags.all), ("of changed allocations", &mut lags.changed)] {
        lags.sort_unstable();
        let at = |share: f64| lags.get(((lags.len() as f64 * share) as usize).min(lags.len().saturating_sub(1))).copied().unwrap_or(0);
        println!("{text:<40} {:>8} {:>10} {:>10} {:>10}", lags.len(), at(0.5), at(0.95), at(1.0));
    }
}

/// Takes what arrives within a second.
async fn follow(states: &mut Subscription<State>, outcomes: &mut Subscription<Outcome>, lags: &mut Lags, mut each: impl FnMut(&Outcome)) {
    let end = tokio::time::sleep(Duration::from_secs(1));
    tokio::pin!(end);
    loop {
        tokio::select! {
            biased;
            () = &mut end => return,
            Some(received) = states.next() => {
                let state = received.message;
                lags.observed.insert((state.function, state.tick), state.observed_at_ms);
            }
            Some(received) = outcomes.next() => {
                if received.message.source == DecisionSource::Shadow {
                    continue;
                }
                each(&received.message);
                lags.add(&received.message);
            }
            else => return,
        }
    }
}
