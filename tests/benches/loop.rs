//! Latency of a State through the loop: published, decided by an agent, checked by an actuator, until its Outcome
//! arrives. Real processes and a real nats-server, but nothing to apply. Prints percentiles of the time from State to
//! Outcome, for one function at a time and for many at once.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use qscale_common::contract::{Ages, EventType, Outcome, ReplicaCounts, State, subject};
use qscale_common::fixtures;
use qscale_common::name::FunctionId;
use qscale_common::policy::{Mode, ScalingPolicy};
use qscale_common::runtime::bus::{Bus, Subscription};
use qscale_common::runtime::clock;
use qscale_common::runtime::health::Health;
use qscale_common::time::Tick;
use qscale_common::units::Replicas;
use qscale_tests::{Folder, NatsServer, Program, TIMEOUT, process};
use serde_json::json;

const ROUNDS: usize = 300;
const MANY: usize = 1000;
const ROUNDS_OF_MANY: usize = 10;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let (server, folder) = (NatsServer::start(), Folder::new("loop"));
    server.provision_for(&[fixtures::name("static")]).await;
    let functions: Vec<FunctionId> = (0..MANY).map(|number| format!("f{number}").parse().expect("a name")).collect();
    let (mut metrics, health) = (Registry::default(), Health::new());
    let bus = Bus::connect("bench", "0", &server.config(""), &health, &mut metrics).await.expect("connect");
    write_policies(&bus, &functions).await;
    let mut outcomes = bus.subscribe(subject::all(EventType::Outcome), None).await.expect("subscribe");
    let nats = json!({ "url": server.url() });
    let _agent = start(&folder, "qscale-agent", &json!({ "agent": "static", "nats": nats, "health": "127.0.0.1:0" }));
    let unused_platform = json!({ "address": "127.0.0.1:9" });
    let actuator = json!({ "nats": nats, "health": "127.0.0.1:0", "platform": unused_platform, "reconcile": "1h" });
    let _actuator = start(&folder, "qscale-actuator", &actuator);

    let mut bench = Bench { bus, tick: 1 };
    bench.warm_up(&functions[..1], &mut outcomes).await;
    let mut single = Vec::new();
    for _ in 0..ROUNDS {
        single.extend(bench.round(&functions[..1], &mut outcomes).await);
    }
    report("one function", &mut single);
    bench.warm_up(&functions, &mut outcomes).await;
    let mut many = Vec::new();
    let began = clock::instant();
    for _ in 0..ROUNDS_OF_MANY {
        many.extend(bench.round(&functions, &mut outcomes).await);
    }
    let elapsed = clock::since(began).as_secs_f64();
    report(&format!("{MANY} functions at once"), &mut many);
    println!("{:.0} States/s through the loop", many.len() as f64 / elapsed);
}

fn start(folder: &Folder, program: &str, configuration: &serde_json::Value) -> Program {
    let path = folder.path().join(format!("{program}.json"));
    std::fs::write(&path, configuration.to_string()).expect("the configuration can be written");
    let arguments: [&Path; 2] = [Path::new("--config"), &path];
    Program::start(&process::binary(program), arguments, &folder.path().join(format!("{program}.log")))
}

async fn write_policies(bus: &Bus, functions: &[FunctionId]) {
    let store = bus.jetstream().get_key_value(subject::POLICY_BUCKET).await.expect("the bucket");
    for function in functions {
        let mut policy = ScalingPolicy::new(function.clone());
        policy.agent = fixtures::name("static");
        policy.mode = Mode::Active;
        store.put(function.tokens(), policy.to_json().into()).await.expect("written");
    }
}

struct Bench {
    bus: Bus,
    tick: u64,
}

impl Bench {
    /// Publishes States until every function has an Outcome: agent and actuator are connected, the actuator leads, and policies are read.
    async fn warm_up(&mut self, functions: &[FunctionId], outcomes: &mut Subscription<Outcome>) {
        let began = clock::instant();
        while self.attempt(functions, outcomes, Duration::from_secs(2)).await.len() < functions.len() {
            assert!(clock::since(began) < TIMEOUT, "no Outcome for every State");
        }
    }

    async fn round(&mut self, functions: &[FunctionId], outcomes: &mut Subscription<Outcome>) -> Vec<Duration> {
        let latencies = self.attempt(functions, outcomes, TIMEOUT).await;
        assert_eq!(latencies.len(), functions.len(), "an Outcome for every State");
        latencies
    }

    /// Publishes one State per function and returns the time to each Outcome.
    async fn attempt(&mut self, functions: &[FunctionId], outcomes: &mut Subscription<Outcome>, timeout: Duration) -> Vec<Duration> {
        self.tick += 1;
        let mut sent: HashMap<FunctionId, Instant> = HashMap::new();
        for function in functions {
            sent.insert(function.clone(), clock::instant());
            self.bus.publish(&state(function, Tick(self.tick)), self.bus.new_trace()).await;
        }
        let mut latencies = Vec::new();
        let all = async {
            while latencies.len() < functions.len() {
                let Some(received) = outcomes.next().await else { return };
                let outcome = received.message;
                if outcome.tick.0 == self.tick
                    && let Some(at) = sent.remove(&FunctionId::new(outcome.namespace, outcome.function))
                {
                    latencies.push(clock::since(at));
                }
            }
        };
        // The number of latencies shows which Outcomes are missing.
        let _in_time = tokio::time::timeout(timeout, all).await;
        latencies
    }
}

fn state(function: &FunctionId, tick: Tick) -> State {
    State {
        namespace: function.namespace.clone(),
        function: function.name.clone(),
        tick,
        observed_at_ms: clock::now(),
        agent: fixtures::name("static"),
        replicas: Some(ReplicaCounts::all(Replicas(2))),
        age: Ages { requests_ms: Some(1), cpu_ms: Some(1), memory_ms: Some(1), replicas_ms: Some(1) },
        ..fixtures::state()
    }
}

fn report(what: &str, latencies: &mut [Duration]) {
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    println!(
        "State to Outcome, {what}: p50 {:?}, p95 {:?}, p99 {:?}, max {:?} ({} samples)",
        at(0.5),
        at(0.95),
        at(0.99),
        at(1.0),
        latencies.len()
    );
}
