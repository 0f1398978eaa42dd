//! Each user can do its work with its own credential, and no more. The subjects that are tried come from the definitions of the accounts.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::consumer::{self, DeliverPolicy};
use async_nats::{Client, ConnectOptions, Event, HeaderMap, Subscriber};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::{FutureExt, StreamExt};
use qscale_common::contract::{EventType, Message, subject};
use qscale_common::fixtures;
use qscale_common::name::Name;
use qscale_common::runtime::bus::{Bus, BusConfig, ConnectError};
use qscale_common::runtime::nats_accounts::{User, inbox_prefix};
use qscale_common::runtime::provision;
use qscale_tests::{Folder, NatsServer, Program, TIMEOUT, eventually, eventually_async, nats, process};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const AGENTS: [&str; 3] = ["threshold", "other", "with-hyphen"];
/// Calls of JetStream's API that change something or read through a consumer.
const CALLS: [&str; 12] = [
    "STREAM.CREATE",
    "STREAM.UPDATE",
    "STREAM.DELETE",
    "STREAM.PURGE",
    "STREAM.INFO",
    "STREAM.MSG.DELETE",
    "STREAM.MSG.GET",
    "STREAM.SNAPSHOT",
    "CONSUMER.CREATE",
    "CONSUMER.DURABLE.CREATE",
    "CONSUMER.DELETE",
    "CONSUMER.MSG.NEXT",
];

fn agents() -> Vec<Name> {
    AGENTS.map(fixtures::name).to_vec()
}

/// Streams, buckets and the model store.
fn streams() -> Vec<String> {
    let messages = provision::streams(&agents()).into_iter().map(|stream| stream.name);
    let buckets = provision::buckets().into_iter().map(|bucket| subject::bucket_stream(&bucket.bucket));
    messages.chain(buckets).chain([subject::model_stream()]).collect()
}

/// A subject of every kind that a user may publish or read, every call on every stream, and subjects of the server itself.
fn subjects() -> BTreeSet<String> {
    let concrete = |pattern: &String| {
        let subject = pattern.split(' ').next().unwrap_or_default();
        subject.replace('*', "x").replace('>', "x.y")
    };
    let mut all: BTreeSet<String> =
        ["$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.x.CONNZ", "$SRV.PING", "_R_.x.y", "_INBOX.x", "$JS.API.INFO"].map(str::to_owned).into();
    for user in User::all(agents()) {
        let permissions = user.permissions(&agents());
        all.extend(permissions.publish.iter().chain(&permissions.subscribe).map(concrete));
    }
    for bucket in provision::buckets() {
        all.insert(format!("$KV.{}.default.f", bucket.bucket));
    }
    for stream in streams() {
        all.extend(CALLS.iter().map(|call| format!("$JS.API.{call}.{stream}")));
        all.extend(["CONSUMER.CREATE", "CONSUMER.DURABLE.CREATE"].map(|call| format!("$JS.API.{call}.{stream}.mine")));
    }
    all
}

fn matches(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some(wanted), Some(found)) if wanted == "*" || wanted == found => {}
            _ => return false,
        }
    }
}

/// A connection that reports what the server refuses.
struct Peer {
    client: Client,
    events: UnboundedReceiver<Event>,
    /// Whether nothing is refused.
    observes: bool,
    flushes: u64,
}

impl Peer {
    async fn connect(server: &NatsServer, user: &str) -> Self {
        let (sender, events) = unbounded_channel();
        let config = server.config(user);
        let client = ConnectOptions::new()
            .user_and_password(config.user.clone(), config.password.clone())
            .custom_inbox_prefix(inbox_prefix(user))
            .event_callback(move |event| {
                // A test that has ended listens no more.
                let _ended = sender.send(event);
                async {}
            })
            .connect(&config.url)
            .await
            .expect("the server takes the credential");
        Self { client, events, observes: user == "observer", flushes: 0 }
    }

    async fn publish(&self, subject: &str, payload: &str) {
        self.client.publish(subject.to_owned(), payload.to_owned().into()).await.expect("publishing is asynchronous");
    }

    async fn publish_with_reply(&self, subject: &str, reply: &str, payload: &str) {
        let sent = self.client.publish_with_reply(subject.to_owned(), reply.to_owned(), payload.to_owned().into());
        sent.await.expect("publishing is asynchronous");
    }

    /// Waits until the server has handled everything sent so far, and returns what it refused since the last call.
    async fn flush(&mut self) -> Vec<String> {
        self.flushes += 1;
        // The server handles the commands of a connection in order, and refuses this one; the observer may publish it and hears it.
        let subject = format!("flush.{}", self.flushes);
        let mut heard = self.client.subscribe(subject.clone()).await.expect("subscribing is asynchronous");
        self.publish(&subject, "").await;
        let mut refusals = Vec::new();
        loop {
            let event = tokio::select! {
                message = heard.next(), if self.observes => { message.expect("the connection lives"); return refusals }
                event = tokio::time::timeout(TIMEOUT, self.events.recv()) => event.expect("in time").expect("the connection lives"),
            };
            if let Event::ServerError(error) = event {
                let error = error.to_string().to_lowercase();
                if error.contains(&format!("publish to \"{subject}\"")) {
                    return refusals;
                }
                if !error.contains("\"flush.") {
                    refusals.push(error);
                }
            }
        }
    }
}

/// The messages that have arrived.
fn received(subscriber: &mut Subscriber) -> Vec<async_nats::Message> {
    // Not subject to the runtime's budget, with which a poll would end the list early.
    std::iter::from_fn(|| tokio::task::unconstrained(subscriber.next()).now_or_never().flatten()).collect()
}

struct Fixture {
    server: NatsServer,
    observer: Peer,
    /// Everything in the account of the services.
    seen: Subscriber,
}

impl Fixture {
    async fn new() -> Self {
        let server = NatsServer::start_observed(&AGENTS);
        server.provision_for(&agents()).await;
        server.answer_reads().await;
        let mut observer = Peer::connect(&server, "observer").await;
        let seen = observer.client.subscribe(">").await.expect("subscribing is asynchronous");
        observer.flush().await;
        Self { server, observer, seen }
    }

    async fn seen(&mut self) -> Vec<async_nats::Message> {
        self.observer.flush().await;
        let mut seen = received(&mut self.seen);
        seen.retain(|message| !matches("flush.>", &message.subject));
        seen
    }

    /// Last sequence number of every stream.
    async fn last_sequences(&self) -> Vec<(String, u64)> {
        let jetstream = async_nats::jetstream::new(self.observer.client.clone());
        let mut last = Vec::new();
        for stream in streams() {
            let info = jetstream.get_stream(&stream).await.expect("it is there").cached_info().clone();
            last.push((stream, info.state.last_sequence));
        }
        last
    }
}

#[tokio::test]
async fn each_user_publishes_the_subjects_of_its_definition_only() {
    let mut fixture = Fixture::new().await;
    for user in User::all(agents()) {
        let allowed = user.permissions(&agents()).publish;
        let mut peer = Peer::connect(&fixture.server, &user.name()).await;
        fixture.seen().await;
        let tag = format!("from {}", user.name());
        // The client keeps a limited number of refusals.
        for some in subjects().into_iter().collect::<Vec<_>>().chunks(32) {
            for subject in some {
                peer.publish(subject, &tag).await;
            }
            peer.flush().await;
        }
        let found: BTreeSet<String> = fixture
            .seen()
            .await
            .into_iter()
            .filter(|message| message.payload == tag.as_bytes())
            .map(|message| message.subject.to_string())
            .collect();
        let expected: BTreeSet<String> =
            subjects().into_iter().filter(|subject| allowed.iter().any(|pattern| matches(pattern, subject))).collect();
        let difference: Vec<_> = found.symmetric_difference(&expected).collect();
        assert!(difference.is_empty(), "{}: {difference:?}", user.name());
    }
}

#[tokio::test]
async fn no_reply_subject_carries_a_message_out_of_an_agents_account() {
    let mut fixture = Fixture::new().await;
    let state = fixtures::state();
    fixture.observer.client.publish(state.subject(), state.encode().into()).await.expect("sent");
    let mut victim = Peer::connect(&fixture.server, "agent-other").await;
    let mut heard = Vec::new();
    for subject in User::Agent(fixtures::name("other")).permissions(&agents()).subscribe.iter().filter(|subject| !subject.contains(' ')) {
        heard.push(victim.client.subscribe(subject.clone()).await.expect("allowed"));
    }
    victim.flush().await;
    let attacker = Peer::connect(&fixture.server, "agent-threshold").await;
    let own = User::Agent(fixtures::name("threshold")).permissions(&agents()).publish;
    let before = fixture.last_sequences().await;
    fixture.seen().await;
    let targets = subjects();
    for service in &own {
        for target in &targets {
            let service = service.replace('>', "default.f").replace('*', subject::LIVE_STREAM);
            for payload in ["{}", r#"{"seq":1}"#, r#"{"last_by_subj":"qscale.v1.state.>"}"#, r#"{"seq":1,"batch":10,"next_by_subj":">"}"#] {
                attacker.publish_with_reply(&service, target, payload).await;
            }
        }
    }
    // Answers to one agent come in the order of the requests; those that do not fit in its queue are dropped.
    for service in &own {
        let service = service.replace('>', "default.f").replace('*', subject::LIVE_STREAM);
        eventually_async("the attacker's own requests to be answered", || {
            let request = attacker.client.request(service.clone(), r#"{"seq":1}"#.into());
            async { tokio::time::timeout(Duration::from_secs(1), request).await.ok()?.ok() }
        })
        .await;
    }
    let allowed = |subject: &str| {
        own.iter().any(|pattern| matches(pattern, subject)) || matches("_R_.>", subject) || matches("$JS.EVENT.ADVISORY.>", subject)
    };
    // The collector reads for the agent, over inboxes of its own.
    let inbox = format!("{}.", inbox_prefix("collector"));
    let of_collector = |message: &async_nats::Message| {
        message.subject.starts_with(&inbox) || message.reply.as_ref().is_some_and(|reply| reply.starts_with(&inbox))
    };
    let leaked: Vec<_> = fixture
        .seen()
        .await
        .into_iter()
        .filter(|message| !of_collector(message) && !allowed(&message.subject))
        .map(|message| message.subject.to_string())
        .collect();
    assert!(leaked.is_empty(), "{leaked:?}");
    victim.flush().await;
    let leaked: Vec<_> = heard.iter_mut().flat_map(received).collect();
    assert!(leaked.is_empty(), "{leaked:?}");
    let own_stream = subject::action_stream(&fixtures::name("threshold"));
    let changed: Vec<_> = before
        .into_iter()
        .zip(fixture.last_sequences().await)
        .filter(|(before, after)| before != after)
        .map(|(before, _)| before.0)
        .collect();
    assert_eq!(changed, [own_stream], "an agent writes to its own stream only");
}

#[tokio::test]
async fn an_agent_subscribes_to_its_definition_in_its_own_queue_group_only() {
    let mut fixture = Fixture::new().await;
    let mut agent = Peer::connect(&fixture.server, "agent-threshold").await;
    let allowed = User::Agent(fixtures::name("threshold")).permissions(&agents()).subscribe;
    for subject in subjects() {
        let mut heard = agent.client.subscribe(subject.clone()).await.expect("subscribing is asynchronous");
        agent.flush().await;
        fixture.observer.publish(&subject, "secret").await;
        fixture.observer.flush().await;
        agent.flush().await;
        let expected = allowed.iter().any(|pattern| matches(pattern, &subject)) && !subject.starts_with("_INBOX");
        assert_eq!(!received(&mut heard).is_empty(), expected, "{subject}");
    }
    agent.flush().await;
    for subject in allowed.iter().filter(|subject| !subject.contains(' ') && !subject.starts_with("_INBOX")) {
        for pattern in [subject.clone(), subject.replace('>', "default.*"), subject.replace('>', "*.*")] {
            let _own = agent.client.queue_subscribe(pattern.clone(), "agent.threshold".into()).await.expect("asynchronous");
            assert_eq!(agent.flush().await, [""; 0], "{pattern}");
            let _foreign = agent.client.queue_subscribe(pattern.clone(), "agent.other".into()).await.expect("asynchronous");
            assert_eq!(agent.flush().await.len(), 1, "{pattern}");
        }
    }
}

#[tokio::test]
async fn an_agent_cannot_take_message_ids_of_others() {
    let fixture = Fixture::new().await;
    let attacker = async_nats::jetstream::new(Peer::connect(&fixture.server, "agent-threshold").await.client);
    let other = async_nats::jetstream::new(Peer::connect(&fixture.server, "agent-other").await.client);
    let collector = async_nats::jetstream::new(Peer::connect(&fixture.server, "collector").await.client);
    let with_id = |id: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id);
        headers
    };
    for id in ["action", "reward"] {
        let sent = attacker.publish_with_headers("qscale.v1.action.threshold.default.f", with_id(id), "x".into()).await.expect("sent");
        assert!(!sent.await.expect("stored").duplicate);
    }
    let action = other.publish_with_headers("qscale.v1.action.other.default.f", with_id("action"), "x".into()).await.expect("sent");
    assert!(!action.await.expect("stored").duplicate);
    let reward = collector.publish_with_headers("qscale.v1.reward.default.f", with_id("reward"), "x".into()).await.expect("sent");
    assert!(!reward.await.expect("stored").duplicate);
}

#[tokio::test]
async fn an_agent_has_a_limited_number_of_connections() {
    let fixture = Fixture::new().await;
    let config = fixture.server.config("agent-threshold");
    let mut open = Vec::new();
    let refused = loop {
        match config.connect_once("test", Duration::from_secs(3)).await {
            Ok(client) => open.push(client),
            Err(error) => break error,
        }
        assert!(open.len() < 200, "no limit");
    };
    assert!(open.len() > 10, "{refused:#}");
    fixture.server.config("agent-other").connect_once("test", TIMEOUT).await.expect("another agent is not affected");
}

#[tokio::test]
async fn services_can_read_what_their_work_needs() {
    let fixture = Fixture::new().await;
    let bucket = |user: &'static str, bucket: &'static str| {
        let config = fixture.server.config(user);
        async move {
            let client = config.connect_once("test", TIMEOUT).await.expect("connect");
            let store =
                async_nats::jetstream::new(client).get_key_value(bucket).await.map_err(|error| format!("{user} {bucket}: {error}"))?;
            store.watch_with_history(">").await.map_err(|error| format!("{user} {bucket}: {error}"))?;
            store.get("default.f").await.map_err(|error| format!("{user} {bucket}: {error}"))?;
            Ok::<(), String>(())
        }
    };
    for user in ["collector", "actuator", "promoter", "operator"] {
        bucket(user, subject::POLICY_BUCKET).await.expect("policies are readable");
    }
    bucket("actuator", subject::CONTROL_BUCKET).await.expect("controls are readable");
    bucket("actuator", subject::LEASE_BUCKET).await.expect("leases are readable");

    let operator = fixture.server.config("operator").connect_once("test", TIMEOUT).await.expect("connect");
    let actions = subject::action_stream(&fixtures::name("other"));
    for name in [subject::RECORD_STREAM, &actions] {
        let stream = async_nats::jetstream::new(operator.clone()).get_stream(name).await.expect("the stream is visible");
        let configuration = consumer::pull::OrderedConfig { deliver_policy: DeliverPolicy::All, ..Default::default() };
        let consumer = stream.create_consumer(configuration).await.expect("a consumer can be made");
        consumer.messages().await.expect("messages can be read");
    }
}

#[tokio::test]
async fn retained_messages_are_read_completely_and_in_order() {
    let mut fixture = Fixture::new().await;
    let count = 2500;
    let state = fixtures::state();
    for tick in 0..count {
        let state = qscale_common::contract::State { tick: qscale_common::time::Tick(tick), ..state.clone() };
        fixture.observer.client.publish(state.subject(), state.encode().into()).await.expect("sent");
    }
    fixture.observer.client.publish("qscale.v1.load.default.f", "{}".into()).await.expect("sent");
    fixture.observer.flush().await;
    for user in ["agent-threshold", "operator"] {
        let bus = Bus::of_client(Peer::connect(&fixture.server, user).await.client, "/qscale/test/0");
        let bus = if user == "operator" { bus } else { bus.reading_as(fixtures::name("threshold")) };
        let mut ticks = Vec::new();
        let visit = |state: qscale_common::contract::State| ticks.push(state.tick.0);
        let read = bus.read_history(qscale_common::time::Timestamp(0), visit).await.expect("readable");
        assert_eq!(read.read, count, "{user}");
        assert_eq!(ticks, (0..count).collect::<Vec<_>>(), "{user}");
        let last = bus.last_message(EventType::State, &subject::all(EventType::State)).await.expect("readable").expect("one is retained");
        assert_eq!(last.sequence, count, "{user}");
    }
}

#[tokio::test]
async fn a_flood_of_reads_costs_its_sender_only() {
    let mut fixture = Fixture::new().await;
    let state = fixtures::state();
    for tick in 0..10_000 {
        let state = qscale_common::contract::State { tick: qscale_common::time::Tick(tick), ..state.clone() };
        fixture.observer.client.publish(state.subject(), state.encode().into()).await.expect("sent");
    }
    fixture.observer.flush().await;
    let attacker = Peer::connect(&fixture.server, "agent-threshold").await;
    let reads = subject::read(&fixtures::name("threshold"), subject::LIVE_STREAM);
    for _ in 0..20_000 {
        attacker.publish_with_reply(&reads, "_INBOX.x", r#"{"seq":1,"batch":1000000,"next_by_subj":">"}"#).await;
    }
    let client = Peer::connect(&fixture.server, "agent-other").await.client;
    let bus = Bus::of_client(client, "/qscale/test/0").reading_as(fixtures::name("other"));
    let read = bus.read_history(qscale_common::time::Timestamp(0), |_: qscale_common::contract::State| ()).await;
    assert_eq!(read.expect("another agent is not affected").read, 10_000);
    attacker.client.flush().await.expect("connected");
    let resident = process::resident_bytes(fixture.server.id());
    assert!(resident < 1 << 30, "the server holds {resident} bytes");
}

#[tokio::test]
async fn headers_with_which_an_action_was_stored_are_not_taken_for_those_of_the_server() {
    let fixture = Fixture::new().await;
    let agent = async_nats::jetstream::new(Peer::connect(&fixture.server, "agent-threshold").await.client);
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("Nats-Time-Stamp", "garbage"),
        ("Nats-Sequence", "18446744073709551615"),
        ("Nats-Num-Pending", "18446744073709551615"),
        ("Nats-Subject", "qscale.v1.action.other.default.f"),
    ] {
        headers.insert(name, value);
    }
    let sent = agent.publish_with_headers("qscale.v1.action.threshold.default.f", headers, "{}".into()).await.expect("sent");
    sent.await.expect("stored");
    let bus = Bus::of_client(Peer::connect(&fixture.server, "operator").await.client, "/qscale/test/0");
    let last = bus.last_message(EventType::Action, &subject::all_of_agent(&fixtures::name("threshold"))).await.expect("readable");
    let last = last.expect("one is retained");
    assert_eq!((last.subject.as_str(), last.sequence), ("qscale.v1.action.threshold.default.f", 1));
    let read = bus.read_history(qscale_common::time::Timestamp(0), |_: qscale_common::contract::Action| ()).await;
    let count = read.expect("read to the end");
    assert_eq!((count.read, count.unreadable), (0, 1), "the body is no Action");
}

#[tokio::test]
async fn messages_for_others_are_not_received() {
    let fixture = Fixture::new().await;
    let mut loadgen = Peer::connect(&fixture.server, "loadgen").await;
    let mut actions = loadgen.client.subscribe(subject::all(EventType::Action)).await.expect("subscribing is asynchronous");
    loadgen.flush().await;
    let agent = Peer::connect(&fixture.server, "agent-threshold").await;
    let jetstream = async_nats::jetstream::new(agent.client.clone());
    let published = jetstream.publish("qscale.v1.action.threshold.default.f", "{}".into()).await.expect("sent");
    published.await.expect("the stream acknowledges the agent's own action");
    loadgen.flush().await;
    assert!(received(&mut actions).is_empty(), "loadgen heard an Action");
}

#[tokio::test]
async fn a_wrong_password_is_refused() {
    let fixture = Fixture::new().await;
    let mut config = fixture.server.config("collector");
    config.password = "wrong".into();
    let error = config.connect_once("test", Duration::from_secs(3)).await.expect_err("the server refuses");
    let refused = ConnectError::Refused { url: config.url, user: "collector".to_owned() };
    assert_eq!(error.downcast_ref(), Some(&refused), "{error:#}");
}

/// Starts a nats-server with TLS that knows the nkey `public` and accepts clients with a certificate of its own authority only.
fn start_with_tls(folder: &Folder, public: &str) -> (Program, String) {
    let key = || rcgen::KeyPair::generate().expect("a key");
    let mut authority = rcgen::CertificateParams::new(Vec::<String>::new()).expect("valid");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = key();
    let certificate = authority.self_signed(&authority_key).expect("signed");
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("written");
    write("ca.pem", certificate.pem());
    for name in ["server", "client"] {
        let own = key();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("valid");
        write(&format!("{name}.pem"), params.signed_by(&own, &issuer).expect("signed").pem());
        write(&format!("{name}.key"), own.serialize_pem());
    }
    let path = |name: &str| folder.path().join(name);
    let text = format!(
        "listen: \"127.0.0.1:-1\"\nports_file_dir: {:?}\nauthorization {{ users: [ {{ nkey: {public} }} ] }}\n\
         tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}\n",
        folder.path(),
        path("server.pem"),
        path("server.key"),
        path("ca.pem"),
    );
    write("nats.conf", text);
    let mut command = std::process::Command::new(nats::program());
    command.arg("-c").arg(path("nats.conf"));
    let program = Program::spawn(command, &path("nats.log"));
    let port = eventually("nats-server to listen", || nats::listening_port(folder.path()));
    (program, format!("tls://localhost:{port}"))
}

#[tokio::test]
async fn tls_and_nkeys_are_used_where_configured() {
    let (folder, user) = (Folder::new("tls"), nkeys::KeyPair::new_user());
    let (_server, url) = start_with_tls(&folder, &user.public_key());
    let path = |name: &str| Some(folder.path().join(name));
    std::fs::write(folder.path().join("seed"), user.seed().expect("a seed")).expect("written");
    let config = BusConfig {
        url,
        nkey_file: path("seed"),
        ca_file: path("ca.pem"),
        certificate_file: path("client.pem"),
        key_file: path("client.key"),
        ..BusConfig::default()
    };
    let client = config.connect_once("test", TIMEOUT).await.expect("key and certificates are accepted");
    let mut heard = client.subscribe("a").await.expect("subscribed");
    client.publish("a", "x".into()).await.expect("published");
    assert!(tokio::time::timeout(TIMEOUT, heard.next()).await.expect("in time").is_some());
    let refused = async |config: BusConfig| config.connect_once("test", Duration::from_secs(3)).await.is_err();
    assert!(refused(BusConfig { nkey_file: None, ..config.clone() }).await, "without the nkey");
    assert!(refused(BusConfig { certificate_file: None, key_file: None, ..config.clone() }).await, "without the client's certificate");
    assert!(refused(BusConfig { ca_file: None, ..config.clone() }).await, "an authority that the system does not know");
    let error = BusConfig { key_file: None, ..config }.connect_once("test", TIMEOUT).await.expect_err("incomplete").to_string();
    assert!(error.contains("nats.key_file"), "{error}");
}

/// The claims `nats` about `subject`, signed by `issuer`, as the tools of NATS write them.
fn jwt(subject: &nkeys::KeyPair, issuer: &nkeys::KeyPair, nats: &serde_json::Value) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let claims = json!({ "jti": "test", "iat": 1, "iss": issuer.public_key(), "name": "test", "sub": subject.public_key(), "nats": nats });
    let signed = format!("{}.{}", encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#), encode(claims.to_string().as_bytes()));
    format!("{signed}.{}", encode(&issuer.sign(signed.as_bytes()).expect("signed")))
}

#[tokio::test]
async fn a_jwt_is_read_from_a_credentials_file() {
    let (operator, account, user) = (nkeys::KeyPair::new_operator(), nkeys::KeyPair::new_account(), nkeys::KeyPair::new_user());
    let unlimited = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1
    });
    let operator_jwt = jwt(&operator, &operator, &json!({ "type": "operator", "version": 2 }));
    let account_jwt = jwt(&account, &operator, &json!({ "type": "account", "version": 2, "limits": unlimited }));
    let claims = json!({ "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1 });
    let user_jwt = jwt(&user, &account, &claims);
    let folder = Folder::new("jwt");
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("written");
    let public = account.public_key();
    write(
        "nats.conf",
        format!(
            "listen: \"127.0.0.1:-1\"\nports_file_dir: {:?}\noperator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {public}: {account_jwt} }}\n",
            folder.path()
        ),
    );
    let mut command = std::process::Command::new(nats::program());
    command.arg("-c").arg(folder.path().join("nats.conf"));
    let _server = Program::spawn(command, &folder.path().join("nats.log"));
    let port = eventually("nats-server to listen", || nats::listening_port(folder.path()));
    let path = folder.path().join("agent.creds");
    let config = BusConfig { url: format!("nats://127.0.0.1:{port}"), credentials_file: Some(path.clone()), ..BusConfig::default() };
    let error = config.connect_once("test", TIMEOUT).await.expect_err("no file");
    assert!(format!("{error:#}").contains(&path.display().to_string()), "{error:#}");
    write("agent.creds", "not credentials".to_owned());
    let error = config.connect_once("test", TIMEOUT).await.expect_err("no JWT");
    assert!(format!("{error:#}").contains("not a credentials file"), "{error:#}");
    let credentials = |seed: &nkeys::KeyPair| {
        let seed = seed.seed().expect("a seed");
        format!(
            "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    };
    write("agent.creds", credentials(&nkeys::KeyPair::new_user()));
    assert!(config.connect_once("test", Duration::from_secs(3)).await.is_err(), "the key of another user");
    write("agent.creds", credentials(&user));
    config.connect_once("test", TIMEOUT).await.expect("the JWT is accepted");
}
