//! Services one minor version apart: messages and values of the next one, with fields that this one does not know, over the bus of a running system.

use std::time::Duration;

use async_nats::Client;
use futures::StreamExt as _;
use qscale_common::contract::{Action, EventType, Message as _, Provenance, State, Version, subject};
use qscale_common::fixtures;
use qscale_common::runtime::bus::BusConfig;
use qscale_common::runtime::{clock, kv};
use qscale_tests::watched::Watched;
use qscale_tests::{TIMEOUT, first};
use serde_json::{Value, json};

use super::outcomes;

/// `bytes` as the next minor version writes them: another version, and an unknown field in every object.
fn of_next_minor(bytes: &[u8]) -> Vec<u8> {
    fn add_fields(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.values_mut().for_each(add_fields);
                fields.insert("added_later".into(), json!({ "unit": "watt", "values": [1, null] }));
            }
            Value::Array(items) => items.iter_mut().for_each(add_fields),
            _ => {}
        }
    }
    let mut value = serde_json::from_slice(bytes).expect("JSON");
    add_fields(&mut value);
    value["version"] = json!(Version { minor: Version::CURRENT.minor + 1, ..Version::CURRENT });
    serde_json::to_vec(&value).expect("JSON")
}

async fn connect(watched: &Watched, user: &str) -> Client {
    let password_file = Some(watched.system.state().join("credentials").join(user));
    let config = BusConfig { user: user.into(), password_file, ..watched.system.operator() };
    config.connect_once("test", TIMEOUT).await.expect("connected")
}

/// An agent of the next minor version, which adds a replica. Runs until the test ends.
async fn agent_of_next_minor(watched: &Watched) {
    assert!(watched.system.qscale(&["agent", "add", "next"]).status.success());
    let client = connect(watched, "agent-next").await;
    let mut states = client.subscribe(subject::all(EventType::State)).await.expect("agents may listen");
    tokio::spawn(async move {
        while let Some(message) = states.next().await {
            let state: State = serde_json::from_slice(&message.payload).expect("a State");
            let Some(allocation) = state.allocation else { continue };
            let now = clock::now();
            let action = Action {
                version: Version::CURRENT,
                agent: fixtures::name("next"),
                instance: "next-1".into(),
                provenance: Provenance::default(),
                namespace: state.namespace,
                function: state.function,
                epoch: state.epoch,
                tick: state.tick,
                decided_at_ms: now,
                expires_at_ms: now.plus(Duration::from_secs(10)),
                allocation,
                reason: "as before".into(),
                choices: Vec::new(),
                point: None,
            };
            let sent = client.publish(action.subject(), of_next_minor(&action.encode()).into()).await;
            sent.expect("agents may publish their Actions");
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_and_values_of_the_next_minor_version_are_understood() {
    let mut watched = Watched::new().await;
    watched.loop_turns(2, "the start").await;
    let bus = watched.system.bus().await;

    agent_of_next_minor(&watched).await;
    let policies = kv::open(&bus, subject::POLICY_BUCKET).await.expect("the bucket");
    let mut policy: Value =
        serde_json::from_slice(&policies.get("default.fibonacci").await.expect("readable").expect("written")).expect("JSON");
    policy["agent"] = json!("next");
    let policy = of_next_minor(policy.to_string().as_bytes());
    policies.put("default.fibonacci", policy.into()).await.expect("operators may write");
    let mut outcomes = outcomes(&watched).await;
    let decided = first(&mut outcomes, |outcome| outcome.agent.as_str() == "next" && outcome.allowed.is_some()).await;
    assert!(decided.is_some(), "no Outcome of the next version:\n{}", watched.system.tail());

    let controls = kv::open(&bus, subject::CONTROL_BUCKET).await.expect("the bucket");
    controls.put("all", of_next_minor(br#"{"frozen": true, "by": "ada", "at_ms": 1}"#).into()).await.expect("operators may write");
    watched.until_frozen(true).await;
    let doctor = watched.system.qscale(&["doctor"]);
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("frozen by ada"), "it is not malformed: {doctor:?}");
    controls.put("all", of_next_minor(br#"{"frozen": false, "at_ms": 2}"#).into()).await.expect("operators may write");
    watched.until_frozen(false).await;
    watched.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_answer_states_with_more_fields_and_with_none_but_the_required_ones() {
    let mut watched = Watched::new().await;
    watched.loop_turns(2, "the start").await;
    let bus = watched.system.bus().await;
    let mut actions = bus.subscribe::<Action>(subject::all(EventType::Action), None).await.expect("operators may listen");
    let collector = connect(&watched, "collector").await;
    for (function, next) in [("required", false), ("more", true)] {
        let state = State { function: fixtures::name(function), observed_at_ms: clock::now(), ..fixtures::state() };
        let bytes = if next { of_next_minor(&state.encode()) } else { state.encode() };
        collector.publish(state.subject(), bytes.into()).await.expect("collectors may publish States");
        let answered = first(&mut actions, |action| action.function == state.function).await;
        assert!(answered.is_some(), "no answer to {function}:\n{}", watched.system.tail());
    }
    watched.stop();
}
