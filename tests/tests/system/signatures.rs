//! Policies and models must be signed where that is configured: what is not, is refused by services on a real
//! nats-server, and what was read before stays.

use std::collections::BTreeMap;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::jetstream::kv::Store;
use async_nats::jetstream::object_store::ObjectMetadata;
use qscale_common::contract::{self, Action, EventType, State, subject};
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::ScalingPolicy;
use qscale_common::runtime::author::Author;
use qscale_common::runtime::bus::{Bucket, Bus};
use qscale_common::runtime::models::{ModelReader, ModelStore, ReadError};
use qscale_common::runtime::nats_accounts::User;
use qscale_common::runtime::signature::{SignatureError, SigningKey, TrustConfig};
use qscale_common::runtime::{clock, kv, policies};
use qscale_dqn::pretrained::pretrained;
use qscale_tests::{Folder, NatsServer, System, TIMEOUT, eventually_async};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

async fn bus(server: &NatsServer, user: &str) -> Bus {
    let client = server.config(user).connect_once("test", TIMEOUT).await.expect("the server answers");
    Bus::of_client(client, "/qscale/test/0")
}

fn key(folder: &Folder, name: &str) -> SigningKey {
    SigningKey::create(&folder.path().join(name)).expect("created")
}

fn function(name: &str) -> FunctionId {
    name.parse().expect("a name")
}

fn policy(name: &str, latency_ms: u64) -> ScalingPolicy {
    let text = format!(r#"{{"name": "{name}", "objective": {{"latency": "{latency_ms}ms"}}}}"#);
    ScalingPolicy::from_json(text.as_bytes()).expect("valid")
}

/// A server, the policies that an actuator reads on it, and what an attacker with the operator's credential writes.
struct Fixture {
    _server: NatsServer,
    operator: Bus,
    store: Store,
    read: Bucket<ScalingPolicy>,
    trusted: SigningKey,
    foreign: SigningKey,
}

impl Fixture {
    async fn new() -> Self {
        let server = NatsServer::start_with_accounts(&[]);
        server.provision().await;
        let (operator, actuator) = (bus(&server, "operator").await, bus(&server, "actuator").await);
        let folder = Folder::new("keys");
        let (trusted, foreign) = (key(&folder, "trusted"), key(&folder, "foreign"));
        let read = actuator.watch_policies(&TrustConfig::of([trusted.public_key()]), CancellationToken::new());
        let store = kv::open(&operator, subject::POLICY_BUCKET).await.expect("there");
        Self { _server: server, operator, store, read, trusted, foreign }
    }

    /// Writes the policy as an operator with `key` does.
    async fn write(&self, policy: &ScalingPolicy, key: &SigningKey) {
        let author = Author::new(&self.operator, User::Operator, "test").signing(Some(key.clone()));
        policies::edit(&author, &policy.function(), |_| Ok(policy.clone()), clock::now()).await.expect("written");
    }

    async fn stored(&self, name: &str) -> Vec<u8> {
        self.store.get(function(name).tokens()).await.expect("readable").expect("there").into()
    }

    async fn put(&self, name: &str, value: Vec<u8>) {
        self.store.put(function(name).tokens(), value.into()).await.expect("operators may write");
    }

    /// The policies that the actuator uses, once it has read everything that was written so far.
    async fn used(&mut self) -> BTreeMap<String, Arc<ScalingPolicy>> {
        let mark = policy("mark", 1 + next());
        self.write(&mark, &self.trusted).await;
        let key = mark.function().tokens();
        let has = |read: &Option<Arc<BTreeMap<String, Arc<ScalingPolicy>>>>| {
            read.as_ref().is_some_and(|read| read.get(&key).is_some_and(|found| **found == mark))
        };
        let read = tokio::time::timeout(TIMEOUT, self.read.wait_for(has)).await.expect("in time").expect("watched").clone();
        let mut read = (*read.expect("read")).clone();
        read.remove(&key);
        read
    }

    /// Checks the latency objective that the actuator uses for the function `name`; `None` for no policy.
    #[track_caller]
    fn check(used: &BTreeMap<String, Arc<ScalingPolicy>>, name: &str, latency_ms: Option<u64>) {
        let found = used.get(&function(name).tokens()).map(|found| (**found).clone());
        assert_eq!(found, latency_ms.map(|latency_ms| policy(name, latency_ms)));
    }
}

/// A number that differs from call to call.
fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_policies_with_a_trusted_signature_of_their_own_replace_earlier_ones() {
    let mut fixture = Fixture::new().await;
    let (trusted, foreign) = (fixture.trusted.clone(), fixture.foreign.clone());
    fixture.put("a", policy("a", 100).to_json()).await;
    Fixture::check(&fixture.used().await, "a", None);
    fixture.write(&policy("a", 100), &trusted).await;
    let first = fixture.stored("a").await;
    Fixture::check(&fixture.used().await, "a", Some(100));

    fixture.put("a", policy("a", 200).to_json()).await;
    Fixture::check(&fixture.used().await, "a", Some(100));
    fixture.write(&policy("a", 300), &foreign).await;
    Fixture::check(&fixture.used().await, "a", Some(100));
    fixture.write(&policy("b", 400), &trusted).await;
    let of_b = fixture.stored("b").await;
    fixture.put("a", of_b.clone()).await;
    let renamed = String::from_utf8(of_b).expect("text").replace(r#""name":"b""#, r#""name":"a""#);
    fixture.put("a", renamed.into_bytes()).await;
    Fixture::check(&fixture.used().await, "a", Some(100));
    let flipped = String::from_utf8(first.clone()).expect("text").replace("100ms", "900ms");
    assert_ne!(flipped.as_bytes(), first);
    fixture.put("a", flipped.into_bytes()).await;
    fixture.put("a", first[..first.len() - 20].to_vec()).await;
    Fixture::check(&fixture.used().await, "a", Some(100));

    fixture.write(&policy("a", 500), &trusted).await;
    Fixture::check(&fixture.used().await, "a", Some(500));
    fixture.put("a", first.clone()).await;
    Fixture::check(&fixture.used().await, "a", Some(500));
    // Also after the policy was deleted.
    fixture.store.delete(function("a").tokens()).await.expect("operators may delete");
    fixture.put("a", first).await;
    Fixture::check(&fixture.used().await, "a", None);
    fixture.write(&policy("a", 600), &trusted).await;
    let used = fixture.used().await;
    Fixture::check(&used, "a", Some(600));
    Fixture::check(&used, "b", Some(400));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_author_signs_a_policy_that_is_not_and_does_not_replace_a_signed_one_without_a_key() {
    let fixture = Fixture::new().await;
    let plain = Author::new(&fixture.operator, User::Operator, "test");
    let edit = async |author: &Author, policy: &ScalingPolicy| {
        policies::edit(author, &policy.function(), |_| Ok(policy.clone()), clock::now()).await.map(|edit| edit.edited)
    };
    edit(&plain, &policy("a", 100)).await.expect("nothing is signed yet");
    let signing = plain.clone().signing(Some(fixture.trusted.clone()));
    assert_ne!(edit(&signing, &policy("a", 100)).await.expect("signed"), kv::Edited::Unchanged);
    assert_eq!(edit(&signing, &policy("a", 100)).await.expect("the same"), kv::Edited::Unchanged);
    assert_eq!(edit(&plain, &policy("a", 100)).await.expect("the same"), kv::Edited::Unchanged);
    let error = edit(&plain, &policy("a", 200)).await.expect_err("not signed").to_string();
    assert!(error.contains("default/a") && error.contains("--sign-with"), "{error}");
    assert_eq!(ScalingPolicy::from_json(&fixture.stored("a").await).expect("valid"), policy("a", 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_reads_models_with_a_trusted_signature_of_their_own_only() {
    let server = NatsServer::start_with_accounts(&["dqn"]);
    server.provision().await;
    server.answer_reads().await;
    let dqn = Name::new("dqn").expect("valid");
    let (operator, agent) = (bus(&server, "operator").await, bus(&server, "agent-dqn").await.reading_as(dqn.clone()));
    let folder = Folder::new("keys");
    let (trusted, foreign) = (key(&folder, "trusted"), key(&folder, "foreign"));
    let reader = ModelReader::new(&agent, &TrustConfig::of([trusted.public_key()]));
    let store = ModelStore::open(&operator).await.expect("there");
    let other = Name::new("other").expect("valid");
    let plain = Author::new(&operator, User::Operator, "test");
    let signing = |key: &SigningKey| plain.clone().signing(Some(key.clone()));
    let push = async |author: &Author, name| store.push(author, name, b"weights", "?").await.expect("pushed");
    let read = async |name, version| reader.read(name, version, 1000).await;

    assert_eq!(push(&signing(&trusted), &dqn).await, 1);
    assert_eq!(read(&dqn, 1).await.expect("trusted"), b"weights");
    assert_eq!(push(&plain, &dqn).await, 2);
    assert!(matches!(read(&dqn, 2).await, Err(ReadError::Untrusted(SignatureError::Missing))));
    assert_eq!(push(&signing(&foreign), &dqn).await, 3);
    assert!(matches!(read(&dqn, 3).await, Err(ReadError::Untrusted(SignatureError::Untrusted(key))) if key == foreign.public_key()));
    let unlimited = ModelReader::new(&agent, &TrustConfig::default());
    assert_eq!(unlimited.read(&dqn, 2, 1000).await.expect("signatures are not required"), b"weights");

    // The signature of dqn@1 with another version, another name, and other bytes.
    let objects = operator.jetstream().get_object_store(subject::MODEL_STORE).await.expect("there");
    let metadata = objects.info("dqn/1").await.expect("there").metadata;
    push(&plain, &other).await;
    for (name, version, bytes) in [(&dqn, 2, &b"weights"[..]), (&other, 1, b"weights"), (&dqn, 1, b"weight"), (&dqn, 1, b"weightS")] {
        let object = ObjectMetadata { name: format!("{name}/{version}"), metadata: metadata.clone(), ..Default::default() };
        objects.put(object, &mut &*bytes).await.expect("operators may write");
        let refused = read(name, version).await;
        assert!(matches!(refused, Err(ReadError::Untrusted(SignatureError::Invalid))), "{name}@{version}: {refused:?}");
    }
}

#[track_caller]
fn succeed(output: &Output, system: &System) -> String {
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), system.tail());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn fail(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Tick and latency objective, milliseconds, of the newest State.
async fn latency(bus: &Bus, function: &FunctionId) -> (u64, u64) {
    let subject = subject::of(EventType::State, function);
    let message = bus.last_message(EventType::State, &subject).await.expect("readable").expect("published");
    let state: State = contract::decode(&subject, &message.payload).expect("valid");
    (state.tick.0, state.objective.latency_ms)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_system_that_requires_signatures_is_operated_with_its_own_keys() {
    let mut system = System::up(&["--backend", "sim", "--load", "constant:20", "--speed", "10", "--require-signatures"]);
    let (bus, fibonacci) = (system.bus().await, function("fibonacci-001"));
    let set = ["policy", "set", "fibonacci-001", "objective.latency=150ms"];
    succeed(&system.qscale(&set), &system);
    eventually_async("States with the new objective", async || (latency(&bus, &fibonacci).await.1 == 150).then_some(())).await;

    let foreign = system.state().join("foreign");
    let public = succeed(&system.qscale(&["key", "create", &foreign.display().to_string()]), &system);
    assert_eq!(succeed(&system.qscale(&["key", "show", &foreign.display().to_string()]), &system), public);
    let error = fail(&system.qscale(&[&set[..], &["--sign-with", &foreign.display().to_string()]].concat()));
    assert!(error.contains(public.trim()) && error.contains("nothing was changed"), "{error}");
    let url = system.operator().url;
    let password = std::fs::read_to_string(system.state().join("credentials/operator")).expect("readable");
    let keyless = url.replace("nats://", &format!("nats://operator:{}@", password.trim()));
    let error = fail(&system.qscale(&["--nats", &keyless, "policy", "set", "fibonacci-001", "objective.latency=1ms"]));
    assert!(error.contains("default/fibonacci-001 is signed"), "{error}");

    // An unsigned policy is refused and named; the signed one stays.
    let store = kv::open(&bus, subject::POLICY_BUCKET).await.expect("there");
    let signed = store.get(fibonacci.tokens()).await.expect("readable").expect("there");
    let mut unsigned = ScalingPolicy::from_json(&signed).expect("valid");
    unsigned.objective.latency = policy("any", 900).objective.latency;
    store.put(fibonacci.tokens(), unsigned.to_json().into()).await.expect("operators may write");
    let from = latency(&bus, &fibonacci).await.0;
    eventually_async("more States", async || (latency(&bus, &fibonacci).await.0 > from + 5).then_some(())).await;
    assert_eq!(latency(&bus, &fibonacci).await.1, 150);
    let listed = system.qscale(&["policy", "list"]);
    let warned = String::from_utf8_lossy(&listed.stderr).into_owned();
    assert!(warned.contains("fibonacci-001") && warned.contains("not signed"), "{warned}");
    let findings: Value = serde_json::from_slice(&system.qscale(&["doctor", "--json"]).stdout).expect("JSON");
    let named = |check: &str, part: &str| {
        let found = findings.as_array().into_iter().flatten();
        let mut found = found.filter(|finding| finding["check"] == check && finding["verdict"] == "failed");
        found.any(|finding| finding["found"].as_str().is_some_and(|text| text.contains(part)))
    };
    assert!(named("policy default/fibonacci-001", "not signed"), "{findings}");
    for service in ["collector", "actuator"] {
        let log = std::fs::read_to_string(system.state().join("logs").join(format!("{service}.log"))).expect("readable");
        assert!(log.contains("default.fibonacci-001") && log.contains("not signed"), "{log}");
    }
    let error = fail(&system.qscale(&["policy", "set", "fibonacci-001", "mode=active"]));
    assert!(error.contains("not signed"), "the command does not sign what another program wrote: {error}");
    store.put(fibonacci.tokens(), signed).await.expect("operators may write");
    succeed(&system.qscale(&["policy", "set", "fibonacci-001", "objective.latency=250ms"]), &system);
    eventually_async("States with the new objective", async || (latency(&bus, &fibonacci).await.1 == 250).then_some(())).await;

    // A model that the command pushes is signed, and the agent uses it.
    let model = system.state().join("model.dqn");
    std::fs::write(&model, pretrained().to_bytes()).expect("written");
    succeed(&system.qscale(&["model", "push", "dqn", &model.display().to_string(), "--use"]), &system);
    let actions = subject::action(&Name::new("dqn").expect("valid"), &fibonacci);
    eventually_async("Actions of the model in the store", async || {
        let message = bus.last_message(EventType::Action, &actions).await.expect("readable")?;
        let action: Action = contract::decode(&actions, &message.payload).expect("valid");
        action.provenance.model.filter(|model| model.version == Some(1)).map(drop)
    })
    .await;
    // The promoter's key signs models, but not policies.
    let promoter = SigningKey::read(&system.state().join("keys/promoter")).expect("made at the start");
    let author = Author::new(&bus, User::Operator, "test").signing(Some(promoter));
    let (store, dqn) = (ModelStore::open(&bus).await.expect("there"), Name::new("dqn").expect("valid"));
    let version = store.push(&author, &dqn, &pretrained().to_bytes(), &pretrained().fingerprint()).await.expect("pushed");
    succeed(&system.qscale(&["model", "use", &format!("dqn@{version}")]), &system);
    let changed = |_: Option<&[u8]>| Ok(ScalingPolicy { objective: policy("any", 900).objective, ..unsigned.clone() });
    policies::edit(&author, &fibonacci, changed, clock::now()).await.expect("operators may write");
    eventually_async("the refusal of the policy", async || {
        let log = std::fs::read_to_string(system.state().join("logs/actuator.log")).expect("readable");
        log.contains("not trusted").then_some(())
    })
    .await;
    let unsigned = store.push(&Author::new(&bus, User::Operator, "test"), &dqn, &pretrained().to_bytes(), "?").await.expect("pushed");
    let error = fail(&system.qscale(&["model", "use", &format!("dqn@{unsigned}")]));
    assert!(error.contains("not signed"), "{error}");
    let doctor = system.qscale(&["doctor", "--json"]);
    let text = String::from_utf8_lossy(&doctor.stdout);
    assert!(text.contains("its signature is trusted"), "{text}");
    assert!(system.stop(), "{}", system.tail());
}
