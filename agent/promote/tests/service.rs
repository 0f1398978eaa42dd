//! Promoters as processes, over a real nats-server.

use std::path::{Path, PathBuf};

use qscale_common::change::ChangeKind;
use qscale_common::contract::subject::{LEASE_BUCKET, POLICY_BUCKET, PROMOTER_LEASE};
use qscale_common::contract::{Ages, State, Window, Windows};
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::{Mode, ScalingPolicy};
use qscale_common::runtime::author::Author;
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::lease::Lease;
use qscale_common::runtime::models::{ModelPointer, ModelStore};
use qscale_common::runtime::nats_accounts::User;
use qscale_common::runtime::{changes, clock};
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::Allocation;
use qscale_dqn::pretrained::pretrained;
use qscale_promote::promotion::{RoundState, RoundStatus, ViolationMinutes};
use qscale_promote::record::{self, PromotionRecord};
use qscale_promote::{PromotionDecision, PromotionRules, PromotionSettings, RoundRequest, Trial};
use qscale_tests::{Folder, NatsServer, Program, TIMEOUT, eventually_async};

const BASE: u64 = 1;
const CANDIDATE: u64 = 2;

/// A server with two stored versions, of which the first is in use, and one function that obeys the agent.
struct World {
    server: NatsServer,
    operator: Bus,
    promoter: Bus,
    collector: Bus,
    store: ModelStore,
    model: Name,
    policy: ScalingPolicy,
    folder: Folder,
}

async fn bus(server: &NatsServer, user: &str) -> Bus {
    let client = server.config(user).connect_once("test", TIMEOUT).await.expect("the server answers");
    Bus::of_client(client, "/qscale/test/0")
}

impl World {
    async fn new() -> Self {
        let server = NatsServer::start_with_accounts(&[]);
        server.provision().await;
        let (operator, promoter, collector) =
            (bus(&server, "operator").await, bus(&server, "promoter").await, bus(&server, "collector").await);
        let (store, model) = (ModelStore::open(&operator).await.expect("the store is there"), Name::new("dqn").expect("valid"));
        let author = Author::new(&operator, User::Operator, "test");
        for version in [BASE, CANDIDATE] {
            assert_eq!(store.push(&author, &model, version.to_string().as_bytes(), "?").await.expect("pushed"), version);
        }
        store.put_in_use(&author, &model, BASE, &ModelPointer::default()).await.expect("put in use");
        let mut policy = ScalingPolicy::new(FunctionId::new(Name::new("default").expect("valid"), Name::new("fib").expect("valid")));
        (policy.agent, policy.mode) = (model.clone(), Mode::Active);
        let bucket = operator.jetstream().get_key_value(POLICY_BUCKET).await.expect("the bucket is there");
        bucket.put(policy.function().tokens(), policy.to_json().into()).await.expect("operators may write");
        Self { server, operator, promoter, collector, store, model, policy, folder: Folder::new("promoter") }
    }

    fn author(&self) -> Author {
        Author::new(&self.operator, User::Operator, "test")
    }

    /// Records that the candidate is to be put in use and watched, as a promoter does before it puts it in use.
    async fn record_watch(&self) {
        let pointer = self.store.pointer(&self.model).await.expect("known");
        let rules = PromotionRules { watch_for: Span::seconds(3600), budget_minutes: Some(1000.0), ..PromotionRules::default() };
        let mut record = PromotionRecord::read(&self.promoter, &self.model).await.expect("readable");
        record.promotion.settings = Some(PromotionSettings { rules, ..PromotionSettings::default() });
        let (trial, before) =
            (Trial { version: CANDIDATE, base: Some(BASE) }, ViolationMinutes { violated_minutes: 0.0, judged_minutes: 60.0 });
        record.promotion.watch(trial, pointer.revision, before, "a test", clock::now(), &rules);
        record.promotion.watched = vec![self.policy.function()];
        record.write().await.expect("the promoter may write");
    }

    fn start(&self, instance: &str) -> Program {
        let nats = self.server.config("promoter");
        let set = [
            format!("instance={instance}"),
            format!("nats.url={}", nats.url),
            format!("nats.user={}", nats.user),
            format!("nats.password={}", nats.password),
            "health=127.0.0.1:0".into(),
            "lease.ttl=1500ms".into(),
        ];
        let arguments = set.iter().flat_map(|pair| ["--set", pair]);
        Program::start(Path::new(env!("CARGO_BIN_EXE_qscale-promoter")), arguments, &self.log(instance))
    }

    fn log(&self, instance: &str) -> PathBuf {
        self.folder.path().join(format!("{instance}.log"))
    }

    /// The instance that holds the lease, if any.
    async fn leader(&self) -> Option<String> {
        let bucket = self.operator.jetstream().get_key_value(LEASE_BUCKET).await.expect("the bucket is there");
        let value = bucket.get(PROMOTER_LEASE).await.expect("readable")?;
        let lease: Lease = serde_json::from_slice(&value).expect("a lease");
        lease.holder.split_once('/').map(|(instance, _)| instance.to_owned())
    }

    /// The version in use and whether it is on trial.
    async fn in_use(&self) -> Option<(u64, bool)> {
        let in_use = self.store.in_use(&self.model).await.expect("known")?;
        Some((in_use.version, in_use.on_trial))
    }

    /// Publishes the State of a tick of one minute in which every request failed.
    async fn publish_violation(&self, tick: u64) {
        let window =
            Window { covered_ms: 60_000, rate_rps: Some(10.0), completed_rps: Some(10.0), failed_share: Some(1.0), ..Window::default() };
        let age = Ages { requests_ms: Some(0), cpu_ms: Some(0), memory_ms: Some(0), replicas_ms: Some(0) };
        let body = serde_json::json!({
            "version": "1.0", "namespace": "default", "function": "fib", "epoch": 1, "tick": tick, "tick_length_ms": 60_000,
            "observed_at_ms": clock::now(), "agent": self.policy.agent, "age": age, "windows": Windows::default(), "changes": {},
            "objective": self.policy.objective.wire(), "bounds": self.policy.bounds, "prices": self.policy.prices,
        });
        let mut state: State = serde_json::from_value(body).expect("a State");
        state.allocation = Some(Allocation::new(1, 500, 256));
        state.windows = Windows { tick: window.clone(), short: window.clone(), long: window };
        self.collector.publish(&state, self.collector.new_trace()).await;
    }

    async fn decisions(&self) -> Vec<PromotionDecision> {
        let record = PromotionRecord::read(&self.operator, &self.model).await.expect("readable");
        record.promotion.log.iter().map(|entry| entry.decision).collect()
    }

    fn logs(&self) -> String {
        ["a", "b"].map(|instance| qscale_tests::process::tail(&self.log(instance))).join("\n---\n")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_takes_over_the_watch_of_a_leader_that_dies() {
    let world = World::new().await;
    world.record_watch().await;
    let (mut a, mut b) = (world.start("a"), world.start("b"));
    // The record says that the candidate is to be put in use, and nobody has done so: as after a crash between the two.
    eventually_async("the candidate in use", async || (world.in_use().await == Some((CANDIDATE, true))).then_some(())).await;
    let leader = world.leader().await.expect("one of them leads");
    let (dies, survives) = if leader == "a" { (&mut a, &mut b) } else { (&mut b, &mut a) };
    dies.kill();
    for tick in 1..=5 {
        world.publish_violation(tick).await;
    }
    world.collector.client().flush().await.expect("connected");
    eventually_async("the version before", async || (world.in_use().await == Some((BASE, false))).then_some(())).await;
    let decided = eventually_async("the decision", async || {
        let decisions = world.decisions().await;
        (decisions.len() == 2).then_some(decisions)
    });
    assert_eq!(decided.await, [PromotionDecision::Used, PromotionDecision::RolledBack], "{}", world.logs());
    assert_ne!(world.leader().await, Some(leader));
    assert!(survives.stop().success(), "{}", world.logs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_paused_during_the_watch_still_counts() {
    let mut world = World::new().await;
    world.record_watch().await;
    world.policy.paused = true;
    let bucket = world.operator.jetstream().get_key_value(POLICY_BUCKET).await.expect("the bucket is there");
    bucket.put(world.policy.function().tokens(), world.policy.to_json().into()).await.expect("operators may write");
    let mut promoter = world.start("a");
    eventually_async("the candidate in use", async || (world.in_use().await == Some((CANDIDATE, true))).then_some(())).await;
    for tick in 1..=5 {
        world.publish_violation(tick).await;
    }
    world.collector.client().flush().await.expect("connected");
    eventually_async("the version before", async || (world.in_use().await == Some((BASE, false))).then_some(())).await;
    assert!(promoter.stop().success(), "{}", world.logs());
    let recorded = changes::since(&world.operator, Timestamp(0)).await.expect("readable");
    let of_promoter = recorded.into_iter().filter(|change| change.user == "promoter").map(|change| change.record.expect("readable"));
    let (kinds, names): (Vec<_>, Vec<_>) = of_promoter.map(|record| (record.kind, record.by)).unzip();
    assert_eq!(kinds, [ChangeKind::TrialStarted, ChangeKind::TrialRolledBack]);
    assert!(names.iter().all(|name| name.starts_with("promoter ")), "{names:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_an_operator_puts_in_use_stays() {
    let world = World::new().await;
    world.record_watch().await;
    let operators = world.store.push(&world.author(), &world.model, b"3", "?").await.expect("pushed");
    let pointer = world.store.pointer(&world.model).await.expect("known");
    world.store.put_in_use(&world.author(), &world.model, operators, &pointer).await.expect("operators may write");
    let mut promoter = world.start("a");
    let decided = eventually_async("the decision", async || {
        let decisions = world.decisions().await;
        (decisions.len() == 2).then_some(decisions)
    });
    assert_eq!(decided.await, [PromotionDecision::Used, PromotionDecision::Superseded], "{}", world.logs());
    assert_eq!(world.in_use().await, Some((operators, false)));
    assert!(promoter.stop().success(), "{}", world.logs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_cannot_be_simulated_rejects_the_candidate_and_is_named() {
    let world = World::new().await;
    let mut versions = Vec::new();
    for _ in 0..2 {
        let version =
            world.store.push(&world.author(), &world.model, &pretrained().to_bytes(), &pretrained().fingerprint()).await.expect("pushed");
        versions.push(version);
    }
    let pointer = world.store.pointer(&world.model).await.expect("known");
    world.store.put_in_use(&world.author(), &world.model, versions[0], &pointer).await.expect("operators may write");
    // One tick is too short a recording to simulate the function over.
    world.publish_violation(1).await;
    world.collector.client().flush().await.expect("connected");
    let _promoter = world.start("a");
    let settings = PromotionSettings { validation_worlds: 1, seeds: 2, ..PromotionSettings::default() };
    let round = RoundRequest { id: 1, settings, candidate: Some(versions[1]) };
    record::edit_request(&world.author(), &world.model, |request| request.round = Some(round.clone())).await.expect("operators may write");
    let log = eventually_async("the decision", async || {
        let record = PromotionRecord::read(&world.operator, &world.model).await.expect("readable");
        (record.promotion.decisions > 0).then_some(record.promotion.log)
    });
    let log = log.await;
    assert_eq!((log[0].decision, log[0].version), (PromotionDecision::RejectedOffline, Some(versions[1])), "{log:?}\n{}", world.logs());
    assert!(log[0].reason.contains(&world.policy.function().to_string()), "{log:?}");
    assert_eq!(world.in_use().await, Some((versions[0], false)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requested_round_that_cannot_run_reports_its_error() {
    let world = World::new().await;
    let _promoter = world.start("a");
    let settings = PromotionSettings { agent: Name::new("nobody").expect("valid"), ..PromotionSettings::default() };
    let round = RoundRequest { id: 1, settings, candidate: None };
    record::edit_request(&world.author(), &world.model, |request| request.round = Some(round.clone())).await.expect("operators may write");
    let status = eventually_async("the end of the round", async || {
        let record = PromotionRecord::read(&world.operator, &world.model).await.expect("readable");
        record.promotion.round.filter(|round| round.state != RoundState::Running)
    });
    let RoundStatus { id: 1, state: RoundState::Failed { error } } = status.await else { panic!("{}", world.logs()) };
    assert!(error.contains("nobody"), "{error}");
}
