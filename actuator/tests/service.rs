//! Actuators as processes, with a real nats-server and a stub platform.

#[path = "support/messages.rs"]
mod messages;
#[path = "support/platform.rs"]
mod platform;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use platform::StubPlatform;
use qscale_actuator::backend::{BackendError, LocalBackend, PlatformBackend as _, WorkloadId};
use qscale_common::contract::subject::{self, CONTROL_BUCKET, POLICY_BUCKET};
use qscale_common::contract::{DecisionSource, Effect, EventType, GuardRule, Outcome, TraceParent, Version};
use qscale_common::control::{self, Control};
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::{Mode, ScalingPolicy, WorkloadKind};
use qscale_common::runtime::bus::{Bus, Received, Subscription};
use qscale_common::runtime::clock;
use qscale_common::time::{TickLength, Timestamp};
use qscale_common::units::Allocation;
use qscale_tests::{Folder, NatsServer, Program, TIMEOUT, eventually_async, process};

const TICK: Duration = Duration::from_millis(250);
const TTL: &str = "1500ms";

/// A server, a platform, and the parts of collector, agents and operator, which the test plays.
struct World {
    server: NatsServer,
    platform: StubPlatform,
    collector: Bus,
    agent: Bus,
    operator: Bus,
    outcomes: Subscription<Outcome>,
    policy: ScalingPolicy,
    folder: Folder,
    tick: AtomicU64,
}

impl World {
    async fn new() -> Self {
        let server = NatsServer::start_with_accounts(&["agent", "other"]);
        server.provision().await;
        let (collector, agent, operator) =
            (bus(&server, "collector").await, bus(&server, "agent-agent").await, bus(&server, "operator").await);
        let outcomes = operator.subscribe(subject::all(EventType::Outcome), None).await.expect("a valid subject");
        operator.client().flush().await.expect("connected");
        let mut policy = ScalingPolicy::new(function());
        policy.mode = Mode::Active;
        policy.agent = name("agent");
        policy.tick = TickLength::new(TICK).expect("within the range");
        let platform = StubPlatform::start().await;
        let world = Self {
            server,
            platform,
            collector,
            agent,
            operator,
            outcomes,
            policy,
            folder: Folder::new("actuator"),
            tick: AtomicU64::new(1),
        };
        world.put(POLICY_BUCKET, &function().tokens(), world.policy.to_json()).await;
        world
    }

    async fn put(&self, bucket: &str, key: &str, value: Vec<u8>) {
        let store = self.operator.jetstream().get_key_value(bucket).await.expect("the bucket is there");
        store.put(key, value.into()).await.expect("it can be written");
    }

    async fn control(&self, frozen: bool, restore: Option<Timestamp>) {
        let control = Control {
            version: Version::CURRENT,
            frozen,
            restore,
            by: "test".into(),
            reason: String::new(),
            at_ms: clock::now(),
            malformed: false,
        };
        self.put(CONTROL_BUCKET, control::ALL, control.to_json()).await;
    }

    fn actuator(&self, instance: &str) -> Program {
        self.actuator_with(instance, TTL)
    }

    fn actuator_with(&self, instance: &str, ttl: &str) -> Program {
        let (log, nats) = (self.log(instance), self.server.config("actuator"));
        let set = [
            format!("instance={instance}"),
            format!("nats.url={}", nats.url),
            format!("nats.user={}", nats.user),
            format!("nats.password={}", nats.password),
            format!("platform.address={}", self.platform.address()),
            "platform.timeout=1s".into(),
            "reconcile=500ms".into(),
            "health=127.0.0.1:0".into(),
            format!("lease.ttl={ttl}"),
            "max_retry_delay=1s".into(),
        ];
        let arguments = set.iter().flat_map(|pair| ["--set", pair]);
        Program::start(Path::new(env!("CARGO_BIN_EXE_qscale-actuator")), arguments, &log)
    }

    fn log(&self, instance: &str) -> std::path::PathBuf {
        self.folder.path().join(format!("{instance}.log"))
    }

    /// Publishes the next State, of replicas that use `cpu` millicores; returns its tick.
    async fn state(&self, cpu: f64, trace: TraceParent) -> u64 {
        let tick = self.tick.fetch_add(1, Ordering::Relaxed);
        let allocation = Allocation::new(self.platform.replicas(), 500, 256);
        self.collector.publish(&messages::state(&self.policy, tick, allocation, cpu), trace).await;
        tick
    }

    async fn action(&self, tick: u64, replicas: u32, trace: TraceParent) {
        self.action_until(tick, replicas, clock::now().plus(Duration::from_secs(30)), trace).await;
    }

    async fn action_until(&self, tick: u64, replicas: u32, expires: Timestamp, trace: TraceParent) {
        let action = messages::action("agent", &function(), tick, Allocation::new(replicas, 500, 256), expires);
        self.agent.record(&action, trace).await;
    }

    /// Sends a State and the agent's answer.
    async fn tick_wanting(&self, replicas: u32) {
        let trace = self.collector.new_trace();
        let tick = self.state(250.0, trace).await;
        self.action(tick, replicas, trace).await;
    }

    /// Sends States and Actions that request `replicas` until the platform has them.
    async fn until_applied(&self, replicas: u32) {
        eventually_async("the allocation to be applied", async || {
            self.tick_wanting(replicas).await;
            tokio::time::sleep(TICK).await;
            (self.platform.replicas() == replicas).then_some(())
        })
        .await;
    }

    /// The next Outcome that satisfies `wanted`.
    async fn outcome(&mut self, what: &str, wanted: impl Fn(&Outcome) -> bool) -> Received<Outcome> {
        let next = async {
            loop {
                let received = self.outcomes.next().await.expect("the connection stands");
                if wanted(&received.message) {
                    return received;
                }
            }
        };
        tokio::time::timeout(TIMEOUT, next).await.unwrap_or_else(|_| panic!("no {what} in time"))
    }
}

/// The connection of a user with its own permissions only.
async fn bus(server: &NatsServer, user: &str) -> Bus {
    Bus::of_client(server.config(user).connect_once("test", TIMEOUT).await.expect("it answers"), "/test")
}

fn function() -> FunctionId {
    "fib".parse().expect("a name")
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_is_applied_and_its_outcome_continues_the_trace() {
    let mut world = World::new().await;
    let _actuator = world.actuator("a");
    world.until_applied(6).await;
    let trace = world.collector.new_trace();
    let tick = world.state(250.0, trace).await;
    world.action(tick, 50, trace).await;
    let received = world.outcome("the Outcome", |outcome| outcome.tick.0 == tick).await;
    assert_eq!(received.trace.map(|trace| trace.trace), Some(trace.trace));
    let rules: Vec<GuardRule> = received.message.guard.iter().map(|note| note.rule).collect();
    assert_eq!((received.message.effect, rules.as_slice()), (Effect::Changed, [GuardRule::Bounds].as_slice()), "10 is one step from 6");
    assert_eq!(world.platform.replicas(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_actions_costs_its_sender_only() {
    let mut world = World::new().await;
    let actuator = world.actuator("a");
    world.until_applied(6).await;
    let config = world.server.config("agent-other");
    let flood = tokio::spawn(async move {
        let client = config.connect_once("flood", TIMEOUT).await.expect("it answers");
        let body = format!("{{{}", "\"a\":1,".repeat(8_000));
        for _ in 0..20_000 {
            client.publish("qscale.v1.action.other.default.fib", body.clone().into()).await.expect("connected");
        }
        client.flush().await.expect("connected");
    });
    for replicas in [7, 8, 7, 8] {
        world.until_applied(replicas).await;
        let outcome = world.outcome("an Outcome", |outcome| outcome.effect == Effect::Applied).await;
        assert_eq!(outcome.message.source, DecisionSource::Agent);
    }
    assert!(!flood.is_finished() || world.platform.replicas() == 8);
    flood.abort();
    let log = std::fs::read_to_string(world.log("a")).expect("readable");
    assert!(!log.contains("connection to NATS lost"), "{log}");
    let resident = process::resident_bytes(actuator.id());
    assert!(resident < 1 << 30, "{resident} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_takes_over_when_the_first_is_killed() {
    let world = World::new().await;
    let mut first = world.actuator("a");
    world.until_applied(6).await;
    let old = world.platform.highest();
    let _second = world.actuator("b");
    first.kill();
    world.until_applied(7).await;
    assert!(world.platform.highest() > old, "the new leader has a higher token");
    let late = LocalBackend::new(&world.platform.address(), Duration::from_secs(5)).expect("an address");
    let workload = WorkloadId { kind: WorkloadKind::Local, name: function() };
    let refused = late.apply(&workload, Allocation::new(1, 500, 256), old).await;
    assert!(matches!(refused, Err(BackendError::StaleLease { .. })), "{refused:?}");
    assert_eq!(world.platform.replicas(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_actuators_leads() {
    let mut world = World::new().await;
    let (_first, _second) = (world.actuator("a"), world.actuator("b"));
    world.until_applied(6).await;
    world.until_applied(7).await;
    let leases: std::collections::BTreeSet<u64> = world.platform.writes().iter().map(|(lease, _)| *lease).collect();
    assert_eq!(leases.len(), 1);
    world.tick_wanting(7).await;
    let tick = world.tick.load(Ordering::Relaxed) - 1;
    let outcome = world.outcome("the Outcome", |outcome| outcome.tick.0 == tick).await.message;
    world.tick_wanting(8).await;
    let next = world.outcome("the next Outcome", |outcome| outcome.tick.0 >= tick).await.message;
    assert!(next.tick.0 == tick + 1 && next.actuator == outcome.actuator, "one Outcome an Action: {outcome:?} {next:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_leader_sends_nothing_after_it_was_replaced() {
    let world = World::new().await;
    let first = world.actuator("a");
    world.until_applied(6).await;
    let old = world.platform.highest();
    let _second = world.actuator("b");
    first.signal(libc_signal::STOP);
    world.until_applied(7).await;
    let new = world.platform.highest();
    assert!(new > old);
    let before = world.platform.writes().len();
    first.signal(libc_signal::CONTINUE);
    world.until_applied(5).await;
    world.until_applied(8).await;
    assert!(world.platform.writes()[before..].iter().all(|(lease, _)| *lease == new));
    assert_eq!(world.platform.refused(), 0, "it did not even try");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_not_sent_again_and_a_new_one_is_taken() {
    let world = World::new().await;
    let _actuator = world.actuator("a");
    world.until_applied(6).await;
    let refused = world.platform.highest();
    world.platform.raise(refused + 1);
    world.until_applied(7).await;
    assert!(world.platform.highest() > refused + 1, "a token of its own");
    assert_eq!(world.platform.refused(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_while_the_actuator_has_stepped_down() {
    let world = World::new().await;
    let mut actuator = world.actuator_with("a", "1m");
    world.until_applied(6).await;
    world.platform.raise(u64::MAX);
    world.tick_wanting(8).await;
    eventually_async("the refusal", async || (world.platform.refused() > 0).then_some(())).await;
    let began = clock::instant();
    assert!(actuator.stop().success());
    assert!(clock::since(began) < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_hands_over_immediately() {
    let world = World::new().await;
    let mut first = world.actuator("a");
    world.until_applied(6).await;
    let _second = world.actuator("b");
    assert!(first.stop().success());
    world.until_applied(7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fallback_decides_while_the_agent_is_silent() {
    let mut world = World::new().await;
    let _actuator = world.actuator("a");
    world.until_applied(5).await;
    for _ in 0..5 {
        world.state(400.0, world.collector.new_trace()).await;
    }
    let outcome = world.outcome("the fallback", |outcome| outcome.source == DecisionSource::Fallback).await.message;
    assert_eq!((outcome.effect, outcome.agent.as_str()), (Effect::Applied, "threshold"));
    assert!(world.platform.replicas() > 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn freeze_and_restore_work_without_an_agent() {
    let mut world = World::new().await;
    let _actuator = world.actuator("a");
    world.until_applied(8).await;
    world.control(true, Some(clock::now())).await;
    let outcome = world.outcome("the restore", |outcome| outcome.source == DecisionSource::Operator).await.message;
    assert_eq!((outcome.effect, outcome.allowed), (Effect::Applied, Some(Allocation::new(4, 500, 256))));
    assert_eq!(world.platform.replicas(), 4);
    world.tick_wanting(8).await;
    let tick = world.tick.load(Ordering::Relaxed) - 1;
    let outcome = world.outcome("the frozen Action", |outcome| outcome.tick.0 == tick).await.message;
    assert_eq!((outcome.effect, outcome.guard[0].rule), (Effect::Held, GuardRule::Freeze));
    world.control(false, None).await;
    world.until_applied(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_comes_back_gets_the_last_decision() {
    let mut world = World::new().await;
    let _actuator = world.actuator("a");
    world.until_applied(6).await;
    world.platform.stop();
    world.tick_wanting(8).await;
    let failed = world.outcome("the failure", |outcome| outcome.effect == Effect::Failed).await.message;
    world.platform.restart().await;
    let applied = world.outcome("the success", |outcome| outcome.tick == failed.tick && outcome.effect == Effect::Applied).await.message;
    assert!(applied.attempts > 1);
    assert_eq!(world.platform.replicas(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_allocation_is_applied_again() {
    let world = World::new().await;
    let _actuator = world.actuator("a");
    world.until_applied(6).await;
    world.platform.lose(1);
    eventually_async("the repair", async || (world.platform.replicas() == 6).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loop_continues_after_the_server_was_killed() {
    let mut world = World::new().await;
    let _actuator = world.actuator("a");
    world.until_applied(6).await;
    let trace = world.collector.new_trace();
    let tick = world.state(400.0, trace).await;
    world.collector.client().flush().await.expect("the server answers");
    // The Outcome of an expired Action shows that the State before it arrived.
    world.action_until(tick, 6, clock::now().minus(Duration::from_secs(1)), trace).await;
    world.outcome("the refusal", |outcome| outcome.tick.0 == tick && outcome.effect == Effect::Refused).await;
    world.server.kill();
    // The agent is silent now, so the fallback decides without the server.
    eventually_async("the fallback's decision", async || (world.platform.replicas() == 7).then_some(())).await;
    world.server.restart();
    world.until_applied(8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_actuator_continues() {
    let world = World::new().await;
    let mut first = world.actuator("a");
    world.until_applied(6).await;
    first.kill();
    let _again = world.actuator("a");
    world.until_applied(7).await;
}

/// The two signals of job control.
mod libc_signal {
    pub const STOP: i32 = 19;
    pub const CONTINUE: i32 = 18;
}
