//! The bus over a real nats-server: invalid messages, interruptions, and messages that must arrive.

use futures::StreamExt;
use prometheus_client::registry::Registry;
use qscale_common::contract::{Action, DecodeError, EventType, Message, State, Version, subject};
use qscale_common::fixtures;
use qscale_common::policy::ScalingPolicy;
use qscale_common::runtime::bus::{Bus, BusConfig, Received, Subscription};
use qscale_common::runtime::health::Health;
use qscale_common::runtime::kv;
use qscale_common::runtime::signature::TrustConfig;
use qscale_common::time::Tick;
use qscale_common::units::Allocation;
use qscale_tests::{NatsServer, TIMEOUT, eventually_async};
use tokio_util::sync::CancellationToken;

struct Peer {
    bus: Bus,
    health: Health,
    metrics: Registry,
}

impl Peer {
    async fn connect(config: &BusConfig) -> Self {
        let (health, mut metrics) = (Health::new(), Registry::default());
        let bus = Bus::connect("test", "0", config, &health, &mut metrics).await.expect("a valid configuration");
        Self { bus, health, metrics }
    }

    async fn ready(&self) {
        eventually_async("the connection", async || self.health.ready().then_some(())).await;
    }

    fn count(&self, kind: EventType, what: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).expect("metrics can be written");
        let label = format!("qscale_bus_messages_total{{message=\"{kind}\",outcome=\"{what}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&label)?.parse().ok()).unwrap_or(0)
    }
}

fn action(tick: u64) -> Action {
    serde_json::from_value(serde_json::json!({
        "version": "1.0", "agent": "threshold", "namespace": "default", "function": "f", "epoch": 1, "tick": tick,
        "decided_at_ms": 1, "expires_at_ms": 2, "allocation": Allocation::new(1, 100, 64),
    }))
    .expect("a valid action")
}

async fn next(subscription: &mut Subscription<Action>) -> Action {
    tokio::time::timeout(TIMEOUT, subscription.next()).await.expect("a message arrives").expect("the connection lives").message
}

/// Subscribes, and waits until the server has registered the subscription.
async fn listening(peer: &Peer) -> Subscription<Action> {
    let subscription = peer.bus.subscribe(subject::all(EventType::Action), None).await.expect("subscribing works");
    // The server handles one connection's commands in order: once it replies, the subscription is active.
    peer.bus.client().request("$JS.API.INFO", "".into()).await.expect("the server answers");
    subscription
}

#[tokio::test]
async fn invalid_messages_are_counted_and_skipped() {
    let server = NatsServer::start();
    server.provision_for(&[fixtures::name("threshold")]).await;
    let peer = Peer::connect(&server.config("")).await;
    peer.ready().await;
    let mut actions = listening(&peer).await;
    let sender = server.config("").connect_once("sender", TIMEOUT).await.expect("connect");
    let good = String::from_utf8(action(1).encode()).expect("JSON is text");
    let subject = action(1).subject();
    let bad: [(&str, &str, Vec<u8>); 8] = [
        (&subject, "malformed", b"".to_vec()),
        (&subject, "malformed", b"{".to_vec()),
        (&subject, "malformed", good.replace("\"tick\":1", "\"tick\":\"one\"").into_bytes()),
        (&subject, "not_utf8", vec![0xff, 0xfe]),
        (&subject, "oversized", vec![b' '; 70_000]),
        (&subject, "version", good.replace("\"1.0\"", "\"2.0\"").into_bytes()),
        (&subject, "invalid", good.replace("\"expires_at_ms\":2", "\"expires_at_ms\":0").into_bytes()),
        ("qscale.v1.action.Thres*old.a.b.c.d", "subject", good.clone().into_bytes()),
    ];
    let kinds: Vec<_> = bad.iter().map(|(_, kind, _)| *kind).collect();
    for (subject, _, payload) in bad {
        // The client does not publish on wildcards; the rest of this subject is invalid, too.
        sender.publish(subject.replace('*', "h"), payload.into()).await.expect("sent");
    }
    sender.publish(subject.clone(), good.replace("\"tick\":1", "\"tick\":2,\"from\":\"the future\"").into()).await.expect("sent");
    assert_eq!(next(&mut actions).await.tick.0, 2, "the valid one arrives, with an unknown field");
    for kind in DecodeError::KINDS {
        let sent = kinds.iter().filter(|sent| **sent == *kind).count() as u64;
        assert_eq!(peer.count(EventType::Action, kind), sent, "{kind}");
    }
}

#[tokio::test]
async fn a_lagging_reader_gets_the_newest_state_of_each_function() {
    let server = NatsServer::start();
    server.provision_for(&[fixtures::name("threshold")]).await;
    let peer = Peer::connect(&server.config("")).await;
    peer.ready().await;
    let mut states: Subscription<State> = peer.bus.subscribe_latest(subject::all(EventType::State), None).await.expect("subscribing works");
    peer.bus.client().request("$JS.API.INFO", "".into()).await.expect("the server answers");
    let state = |function: &str, tick| State { function: fixtures::name(function), tick: Tick(tick), ..fixtures::state() };
    for message in [state("one", 1), state("two", 1), state("one", 2), state("one", 3)] {
        peer.bus.publish(&message, peer.bus.new_trace()).await;
    }
    eventually_async("all States", async || (peer.count(EventType::State, "received") == 4).then_some(())).await;
    assert_eq!(peer.count(EventType::State, "superseded"), 2);
    let left: Vec<(String, u64)> =
        std::iter::from_fn(|| states.try_next()).map(|received| (received.message.function.to_string(), received.message.tick.0)).collect();
    assert_eq!(left, [("one".to_owned(), 3), ("two".to_owned(), 1)]);
}

#[tokio::test]
async fn a_service_starts_before_its_server() {
    let mut server = NatsServer::start();
    server.provision_for(&[fixtures::name("threshold")]).await;
    let config = server.config("");
    server.kill();
    let peer = Peer::connect(&config).await;
    assert!(!peer.health.ready());
    server.restart();
    peer.ready().await;
    let mut actions = listening(&peer).await;
    peer.bus.record(&action(1), peer.bus.new_trace()).await;
    assert_eq!(next(&mut actions).await, action(1));
}

#[tokio::test]
async fn messages_recorded_during_an_outage_are_stored_once() {
    let mut server = NatsServer::start();
    server.provision_for(&[fixtures::name("threshold")]).await;
    let peer = Peer::connect(&server.config("")).await;
    peer.ready().await;
    server.kill();
    for tick in 1..=20 {
        peer.bus.record(&action(tick), peer.bus.new_trace()).await;
    }
    server.restart();
    peer.bus.drain(TIMEOUT).await;
    assert_eq!(peer.count(EventType::Action, "recorded"), 20);
    peer.bus.record(&action(20), peer.bus.new_trace()).await;
    peer.bus.drain(TIMEOUT).await;
    let stream = peer.bus.jetstream().get_stream(subject::action_stream(&fixtures::name("threshold"))).await.expect("the stream");
    assert_eq!(stream.get_info().await.expect("its state").state.messages, 20, "published twice, stored once");
}

#[tokio::test]
async fn a_trace_travels_with_the_message() {
    let server = NatsServer::start();
    server.provision_for(&[fixtures::name("threshold")]).await;
    let peer = Peer::connect(&server.config("")).await;
    peer.ready().await;
    let raw = server.config("").connect_once("raw", TIMEOUT).await.expect("connect");
    let mut messages = raw.subscribe("qscale.v1.>").await.expect("subscribe");
    raw.request("$JS.API.INFO", "".into()).await.expect("the server answers");
    let trace = peer.bus.new_trace();
    peer.bus.record(&action(1), trace).await;
    let message = tokio::time::timeout(TIMEOUT, messages.next()).await.expect("in time").expect("a message");
    let headers = message.headers.expect("headers");
    let header = |name: &str| headers.get(name).expect(name).as_str().to_owned();
    assert_eq!(header("traceparent"), trace.to_string());
    assert_eq!(header("ce-type"), "qscale.v1.action");
    assert_eq!(header("ce-id"), header("Nats-Msg-Id"));
    assert_eq!(header("ce-subject"), "default/f");
    assert!(header("ce-time").ends_with('Z'));
}

#[tokio::test]
async fn policies_are_followed_through_a_restart_of_the_server() {
    let mut server = NatsServer::start();
    server.provision_for(&[fixtures::name("threshold")]).await;
    let peer = Peer::connect(&server.config("")).await;
    peer.ready().await;
    let token = CancellationToken::new();
    let mut policies = peer.bus.watch_policies(&TrustConfig::default(), token.clone());
    let keys = async |policies: &mut tokio::sync::watch::Receiver<_>, wanted: &[&str]| {
        let has = |map: &Option<std::sync::Arc<std::collections::BTreeMap<String, std::sync::Arc<ScalingPolicy>>>>| {
            map.as_ref().is_some_and(|map| map.keys().map(String::as_str).collect::<Vec<_>>() == wanted)
        };
        let arrived = tokio::time::timeout(TIMEOUT, policies.wait_for(has)).await;
        assert!(arrived.is_ok(), "waited for {wanted:?}");
    };
    keys(&mut policies, &[]).await;
    let store = peer.bus.jetstream().get_key_value(subject::POLICY_BUCKET).await.expect("the bucket");
    for name in ["a", "b"] {
        let policy = ScalingPolicy::new(name.parse().expect("a name"));
        store.put(policy.function().tokens(), policy.to_json().into()).await.expect("written");
    }
    keys(&mut policies, &["default.a", "default.b"]).await;
    store.put("default.bad", "{".into()).await.expect("written");
    server.kill();
    server.restart();
    let deleted = async || store.delete("default.a").await.ok();
    eventually_async("the deletion to be taken", deleted).await;
    keys(&mut policies, &["default.b"]).await;
    token.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_is_read_whole_while_its_entries_are_replaced() {
    const KEYS: usize = 40;
    let server = NatsServer::start();
    server.provision().await;
    let peer = Peer::connect(&server.config("")).await;
    peer.ready().await;
    let store = kv::open(&peer.bus, subject::ACTUATOR_BUCKET).await.expect("the bucket");
    let keys: Vec<String> = (0..KEYS).map(|number| format!("original.default.f-{number}")).collect();
    for key in &keys {
        store.put(key, "0".into()).await.expect("written");
    }
    let writer = tokio::spawn({
        let (store, keys) = (store.clone(), keys.clone());
        async move {
            for round in 1_u64.. {
                for key in &keys {
                    store.put(key, round.to_string().into()).await.expect("written");
                }
            }
        }
    });
    for reading in 0..300 {
        let found = kv::entries(&store).await.expect("readable");
        assert_eq!(found.len(), KEYS, "reading {reading}");
    }
    writer.abort();
}

#[tokio::test]
async fn the_newest_messages_win_where_a_reader_lags() {
    let server = NatsServer::start();
    let peer = Peer::connect(&server.config("")).await;
    peer.ready().await;
    let mut actions = listening(&peer).await;
    let sender = server.config("").connect_once("sender", TIMEOUT).await.expect("connect");
    // A subscription keeps 64 MiB of messages, decoded and encoded size together, and drops the oldest beyond.
    let (capacity, count, mut sizes) = (64 << 20, 140_000, Vec::new());
    for tick in 0..count {
        let body = action(tick).encode();
        sizes.push(size_of::<Received<Action>>() + body.len());
        sender.publish(action(0).subject(), body.into()).await.expect("sent");
    }
    sender.flush().await.expect("sent");
    eventually_async("all to be read", async || (peer.count(EventType::Action, "received") == count).then_some(())).await;
    let dropped = peer.count(EventType::Action, "overrun");
    let kept: usize = sizes[dropped as usize..].iter().sum();
    assert!(kept <= capacity && kept + sizes[dropped as usize - 1] > capacity, "{dropped} dropped, {kept} bytes kept");
    assert_eq!(next(&mut actions).await.tick.0, dropped);
}

#[test]
fn a_version_error_contains_both_versions() {
    let text = String::from_utf8(action(1).encode()).expect("text").replace("\"1.0\"", "\"7.3\"");
    let error = qscale_common::contract::parse::<Action>(text.as_bytes()).expect_err("refused").to_string();
    assert!(error.contains("7.3") && error.contains(&format!("{}.x", Version::CURRENT.major)), "{error}");
}
