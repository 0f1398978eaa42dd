//! Each service can do its work with its own credential, and no more.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, DeliverPolicy};
use futures::StreamExt;
use qscale_common::contract::{EventType, subject};
use qscale_common::runtime::bus::ConnectError;
use qscale_tests::{NatsServer, PATIENCE};

const AGENTS: [&str; 2] = ["threshold", "other"];

struct Fixture {
    server: NatsServer,
}

impl Fixture {
    async fn new() -> Self {
        let server = NatsServer::start_with_accounts(&AGENTS);
        server.provision().await;
        Self { server }
    }

    /// Whether the server lets `user` publish on `subject`.
    async fn may_publish(&self, user: &str, subject: &str) -> bool {
        let (refusals, mut refused) = tokio::sync::mpsc::unbounded_channel();
        let config = self.server.config(user);
        let client = async_nats::ConnectOptions::new()
            .user_and_password(config.user.clone(), config.password.clone())
            .custom_inbox_prefix(qscale_common::runtime::nats_permissions::inbox_prefix(user))
            .event_callback(move |event| {
                if let async_nats::Event::ServerError(error) = event {
                    refusals.send(error.to_string()).expect("the test listens until the client is gone");
                }
                async {}
            })
            .connect(&config.url)
            .await
            .expect("the server takes the credential");
        client.publish(subject.to_owned(), "x".into()).await.expect("publishing is asynchronous");
        // The server handles commands of a connection in order. A publish that it always refuses shows that it has handled the one before.
        client.publish("nobody.may".to_owned(), "x".into()).await.expect("publishing is asynchronous");
        let mut allowed = true;
        loop {
            let refusal = tokio::time::timeout(PATIENCE, refused.recv()).await.expect("a reply of the server").expect("the client lives");
            if refusal.to_lowercase().contains("nobody.may") {
                return allowed;
            }
            allowed = false;
        }
    }

    async fn check(&self, user: &str, allowed: &[&str]) {
        let everything = [
            "qscale.v1.state.default.f",
            "qscale.v1.reward.default.f",
            "qscale.v1.action.threshold.default.f",
            "qscale.v1.action.other.default.f",
            "qscale.v1.outcome.default.f",
            "qscale.v1.load.default.f",
            "$KV.qscale_policies.default.f",
            "$KV.qscale_control.all",
            "$KV.qscale_leases.actuator",
            "$KV.qscale_leases.promoter",
            "$KV.qscale_actuator.x",
            "$KV.qscale_finetune.x",
            "$O.qscale_models.M.bWluZS8x",
            "$O.qscale_models.C.1",
            "$JS.API.STREAM.PURGE.OBJ_qscale_models",
            "$JS.API.STREAM.DELETE.QSCALE_RECORD",
            "$JS.API.STREAM.PURGE.QSCALE_RECORD",
        ];
        for subject in everything {
            assert_eq!(self.may_publish(user, subject).await, allowed.contains(&subject), "{user} on {subject}");
        }
    }
}

#[tokio::test]
async fn each_service_publishes_its_own_subjects_only() {
    let fixture = Fixture::new().await;
    fixture.check("collector", &["qscale.v1.state.default.f", "qscale.v1.reward.default.f"]).await;
    fixture.check("agent-threshold", &["qscale.v1.action.threshold.default.f"]).await;
    let promoter =
        ["$O.qscale_models.M.bWluZS8x", "$O.qscale_models.C.1", "$JS.API.STREAM.PURGE.OBJ_qscale_models", "$KV.qscale_finetune.x"];
    fixture.check("promoter", &[&promoter[..], &["$KV.qscale_leases.promoter"]].concat()).await;
    fixture.check("actuator", &["qscale.v1.outcome.default.f", "$KV.qscale_leases.actuator", "$KV.qscale_actuator.x"]).await;
    fixture.check("loadgen", &["qscale.v1.load.default.f"]).await;
    let models = ["$O.qscale_models.M.bWluZS8x", "$O.qscale_models.C.1", "$JS.API.STREAM.PURGE.OBJ_qscale_models"];
    fixture
        .check("operator", &[&["$KV.qscale_policies.default.f", "$KV.qscale_control.all", "$KV.qscale_finetune.x"], &models[..]].concat())
        .await;
}

#[tokio::test]
async fn services_can_read_what_their_work_needs() {
    let fixture = Fixture::new().await;
    let bucket = |user: &'static str, bucket: &'static str| {
        let config = fixture.server.config(user);
        async move {
            let client = config.connect_once("test", PATIENCE).await.expect("connect");
            let store =
                async_nats::jetstream::new(client).get_key_value(bucket).await.map_err(|error| format!("{user} {bucket}: {error}"))?;
            store.watch_with_history(">").await.map_err(|error| format!("{user} {bucket}: {error}"))?;
            store.get("default.f").await.map_err(|error| format!("{user} {bucket}: {error}"))?;
            Ok::<(), String>(())
        }
    };
    for user in ["collector", "agent-threshold", "actuator", "promoter", "operator"] {
        bucket(user, subject::POLICY_BUCKET).await.expect("policies are readable");
    }
    bucket("actuator", subject::CONTROL_BUCKET).await.expect("controls are readable");
    bucket("actuator", subject::LEASE_BUCKET).await.expect("leases are readable");

    let operator = fixture.server.config("operator").connect_once("test", PATIENCE).await.expect("connect");
    let stream = async_nats::jetstream::new(operator).get_stream(subject::RECORD_STREAM).await.expect("the stream is visible");
    let configuration = consumer::pull::OrderedConfig { deliver_policy: DeliverPolicy::All, ..Default::default() };
    let consumer = stream.create_consumer(configuration).await.expect("a consumer can be made");
    consumer.messages().await.expect("messages can be read");
}

#[tokio::test]
async fn messages_for_others_are_not_received() {
    let fixture = Fixture::new().await;
    let loadgen = fixture.server.config("loadgen").connect_once("test", PATIENCE).await.expect("connect");
    let mut actions = loadgen.subscribe(subject::all(EventType::Action)).await.expect("subscribing is asynchronous");
    let agent = fixture.server.config("agent-threshold").connect_once("test", PATIENCE).await.expect("connect");
    let jetstream = async_nats::jetstream::new(agent);
    let published = jetstream.publish("qscale.v1.action.threshold.default.f", "{}".into()).await.expect("sent");
    published.await.expect("the stream acknowledges the agent's own action");
    let nothing = tokio::time::timeout(Duration::from_millis(300), actions.next()).await;
    assert!(!matches!(nothing, Ok(Some(_))), "loadgen heard an action");
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
