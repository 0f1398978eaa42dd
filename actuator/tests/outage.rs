//! An actuator with many functions while the nats-server is down.

#[path = "support/memory.rs"]
mod memory;
#[path = "support/messages.rs"]
mod messages;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use memory::MemoryPlatform;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use qscale_actuator::config::ActuatorConfig;
use qscale_actuator::service;
use qscale_common::contract::subject::{CONTROL_BUCKET, POLICY_BUCKET};
use qscale_common::contract::{Action, DecisionSource, Outcome, State, TraceParent, Version};
use qscale_common::control::{self, Control};
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::{Mode, ScalingPolicy};
use qscale_common::runtime::bus::{Bus, Outbox};
use qscale_common::runtime::clock;
use qscale_common::runtime::health::Health;
use qscale_common::runtime::http;
use qscale_common::runtime::lease::LeaseConfig;
use qscale_common::time::{Span, TickLength, Timestamp};
use qscale_common::units::Allocation;
use qscale_tests::{NatsServer, eventually_async};
use tokio_util::sync::CancellationToken;

/// More than the 2,048 requests that a disconnected NATS client queues, in the first group alone.
const EARLY: usize = 2_400;
const LATE: usize = 600;
const TICK: Duration = Duration::from_secs(1);
/// Ticks of silence after which the fallback takes over: the late group decides while the bus has long stopped
/// accepting Outcomes of the early one.
const EARLY_AFTER: u32 = 4;
const LATE_AFTER: u32 = 10;

struct Fleet {
    server: NatsServer,
    bus: Bus,
    early: Vec<FunctionId>,
    late: Vec<FunctionId>,
    platform: Arc<MemoryPlatform>,
    health: SocketAddr,
    started: Timestamp,
    token: CancellationToken,
}

impl Fleet {
    async fn start() -> Self {
        let server = NatsServer::start();
        server.provision_for(&[Name::new("agent").expect("a name")]).await;
        let bus = Bus::of_client(server.config("test").connect_once("test", qscale_tests::TIMEOUT).await.expect("it answers"), "/test");
        let function = |number: usize| format!("f-{number}").parse::<FunctionId>().expect("a name");
        let early: Vec<_> = (0..EARLY).map(function).collect();
        let late: Vec<_> = (EARLY..EARLY + LATE).map(function).collect();
        let platform = Arc::new(MemoryPlatform::new(early.iter().chain(&late).cloned(), Allocation::new(4, 500, 256)));
        let health = std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).and_then(|free| free.local_addr()).expect("a port");
        let fleet = Self { server, bus, early, late, platform, health, started: clock::now(), token: CancellationToken::new() };
        fleet.put_policies().await;
        let config = ActuatorConfig {
            nats: fleet.server.config("actuator"),
            lease: LeaseConfig { ttl: Span::seconds(3), ..LeaseConfig::default() },
            health,
            ..ActuatorConfig::default()
        };
        tokio::spawn(service::run_with(config, fleet.platform.clone(), fleet.token.clone()));
        fleet
    }

    fn all(&self) -> impl Iterator<Item = &FunctionId> {
        self.early.iter().chain(&self.late)
    }

    async fn put_policies(&self) {
        let store = self.bus.jetstream().get_key_value(POLICY_BUCKET).await.expect("the bucket is there");
        let groups = [(&self.early, EARLY_AFTER), (&self.late, LATE_AFTER)];
        let policies = groups.into_iter().flat_map(|(group, after)| group.iter().map(move |function| policy(function, after)));
        let mut writes = tokio::task::JoinSet::new();
        for policy in policies {
            let store = store.clone();
            writes.spawn(async move { store.put(policy.function().tokens(), policy.to_json().into()).await });
            if writes.len() >= 256 {
                writes.join_next().await;
            }
        }
        while let Some(written) = writes.join_next().await {
            written.expect("no panic").expect("the bucket takes it");
        }
    }

    /// Publishes State `tick` of every function, whose replicas are close to their CPU limit.
    async fn publish_states(&self, tick: u64, replicas: u32) {
        for function in self.all() {
            self.bus.publish(&state(function, tick, replicas), self.bus.new_trace()).await;
        }
        self.bus.client().flush().await.expect("the server answers");
    }

    async fn record_actions(&self, tick: u64, replicas: u32) {
        for function in self.all() {
            self.bus.record(&action(function, tick, replicas), self.bus.new_trace()).await;
        }
    }

    /// The value of the first metric whose line starts with `name`.
    async fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = http::get(&self.health.to_string(), "/metrics", qscale_tests::TIMEOUT).await.ok()?;
        text.lines().find(|line| line.starts_with(name))?.rsplit(' ').next()?.parse().ok()
    }

    async fn until_metric(&self, name: &str, value: f64) {
        eventually_async(&format!("{name} = {value}"), async || (self.metric(name).await? == value).then_some(())).await;
    }

    async fn until_having(&self, what: &str, functions: &[FunctionId], replicas: u32) {
        eventually_async(what, async || (self.platform.having(functions, replicas) == functions.len()).then_some(())).await;
    }

    async fn fallback_outcomes(&self) -> usize {
        let mut count = 0;
        let read =
            self.bus.read_history(self.started, |outcome: Outcome| count += usize::from(outcome.source == DecisionSource::Fallback)).await;
        read.map_or(0, |_| count)
    }
}

fn policy(function: &FunctionId, after: u32) -> ScalingPolicy {
    let mut policy = ScalingPolicy::new(function.clone());
    policy.mode = Mode::Active;
    policy.agent = Name::new("agent").expect("a name");
    policy.tick = TickLength::new(TICK).expect("within the range");
    policy.fallback.after_ticks = NonZeroU32::new(after).expect("not zero");
    policy
}

fn state(function: &FunctionId, tick: u64, replicas: u32) -> State {
    messages::state(&policy(function, EARLY_AFTER), tick, Allocation::new(replicas, 500, 256), 480.0)
}

fn action(function: &FunctionId, tick: u64, replicas: u32) -> Action {
    messages::action("agent", function, tick, Allocation::new(replicas, 500, 256), clock::now().plus(Duration::from_secs(300)))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_bus_the_fallback_decides_on_time_for_every_function() {
    let mut fleet = Fleet::start().await;
    fleet.until_metric("qscale_actuator_leader ", 1.0).await;
    fleet.publish_states(1, 4).await;
    fleet.record_actions(1, 5).await;
    fleet.until_having("the agent's decisions", &fleet.early, 5).await;
    fleet.until_having("the agent's decisions", &fleet.late, 5).await;

    // The last State that the actuator sees; nobody answers it.
    fleet.publish_states(2, 5).await;
    let received = "qscale_bus_messages_total{message=\"state\",outcome=\"received\"}";
    fleet.until_metric(received, 2.0 * (EARLY + LATE) as f64).await;
    fleet.server.kill();
    fleet.until_having("the fallback's first decisions", &fleet.early, 6).await;
    fleet.until_having("the fallback's later decisions", &fleet.late, 6).await;
    fleet.until_metric("qscale_actuator_leader ", 0.0).await;

    fleet.server.restart();
    fleet.until_metric("qscale_actuator_leader ", 1.0).await;
    let control = Control {
        version: Version::CURRENT,
        frozen: true,
        restore: Some(clock::now()),
        by: "test".into(),
        reason: String::new(),
        at_ms: clock::now(),
        malformed: false,
    };
    eventually_async("the operator's request to be written", async || {
        let store = fleet.bus.jetstream().get_key_value(CONTROL_BUCKET).await.ok()?;
        store.put(control::ALL, control.to_json().into()).await.ok()
    })
    .await;
    fleet.until_having("the restore", &fleet.early, 4).await;
    fleet.until_having("the restore", &fleet.late, 4).await;
    eventually_async("every Outcome of the fallback", async || (fleet.fallback_outcomes().await == EARLY + LATE).then_some(())).await;
    fleet.token.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_outbox_drops_the_oldest_outcomes_and_counts_them() {
    const CAPACITY: usize = 100;
    const PUSHED: u64 = 20_000;
    let mut server = NatsServer::start();
    server.provision().await;
    let health = Health::new();
    let bus = Bus::connect("test", "0", &server.config("test"), &health, &mut Registry::default()).await.expect("an address");
    eventually_async("the connection", async || health.ready().then_some(())).await;
    server.kill();
    eventually_async("the connection to be lost", async || (!health.ready()).then_some(())).await;

    let dropped = Counter::default();
    let outbox = Outbox::start(bus.clone(), CAPACITY, dropped.clone());
    let started = clock::now();
    for tick in 0..PUSHED {
        outbox.push(outcome(tick), TraceParent { trace: 1, span: 1 });
    }
    assert!((1..=PUSHED - CAPACITY as u64).contains(&dropped.get()), "{} dropped", dropped.get());
    server.restart();
    assert_eq!(outbox.close(qscale_tests::TIMEOUT).await, 0);
    eventually_async("the newest Outcome", async || {
        let mut last = 0;
        bus.read_history(started, |outcome: Outcome| last = last.max(outcome.tick.0)).await.ok()?;
        (last == PUSHED - 1).then_some(())
    })
    .await;
}

fn outcome(tick: u64) -> Outcome {
    let body = serde_json::json!({
        "version": "1.0", "namespace": "default", "function": "f", "epoch": 1, "tick": tick, "source": "fallback", "agent": "threshold",
        "effect": "applied", "requested": Allocation::new(1, 500, 256), "decided_at_ms": clock::now(),
    });
    serde_json::from_value(body).expect("an Outcome")
}
