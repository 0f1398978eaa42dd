//! The agent alone: what it answers, what it outlives, how it ends.

use crate::scene::{Scene, name, state, tails};
use qscale_common::contract::{EventType, Message, State, TraceParent, subject};
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use qscale_tests::{TIMEOUT, eventually_async, process};

#[tokio::test]
async fn every_agent_answers_every_state_under_its_own_name() {
    let mut scene = Scene::new(&["threshold", "static"]).await;
    let _threshold = scene.start("threshold", "t-1", &[]);
    let _shadow = scene.start("static", "s-1", &["--set", "params.replicas=4"]);
    let (_, action) = scene.answered("threshold", state("fib")).await;
    assert_eq!(action.allocation, Allocation::new(3, 500, 128));
    assert_eq!((action.instance.as_str(), action.provenance.configuration.as_str()), ("t-1", "threshold/1 250m 256Mi"));
    assert_eq!(action.reason, "CPU 400m a replica is above 250m");
    let (answered, action) = scene.answered("static", state("aes")).await;
    assert_eq!(action.allocation, Allocation::new(4, 500, 128));
    assert_eq!(action.state_id(), answered.state_id());
    assert_eq!(action.expires_at_ms.0, answered.observed_at_ms.0 + 2 * answered.tick_length_ms);
}

#[tokio::test]
async fn an_action_continues_the_trace_of_its_state_and_is_kept_by_the_stream() {
    let mut scene = Scene::new(&["threshold"]).await;
    let _agent = scene.start("threshold", "t-1", &[]);
    scene.answered("threshold", state("warm")).await;
    let trace: TraceParent = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01".parse().expect("a trace");
    scene.collector.publish(&state("traced"), trace).await;
    let received = loop {
        let received = scene.actions.next().await.expect("the bus stands");
        if received.message.function == name("traced") {
            break received;
        }
    };
    let step = received.trace.expect("an Action has a trace");
    assert_eq!(step.trace, trace.trace);
    assert_ne!(step.span, trace.span);
    let stored = stored(&scene, &received.message.subject()).await;
    assert_eq!(stored, received.message.encode());
}

async fn stored(scene: &Scene, subject: &str) -> Vec<u8> {
    let client = scene.server.config("operator").connect_once("test", TIMEOUT).await.expect("the server answers");
    let stream =
        async_nats::jetstream::new(client).get_stream(subject::action_stream(&name("threshold"))).await.expect("the stream is there");
    eventually_async("the Action in the stream", || async { stream.direct_get_last_for_subject(subject).await.ok() }).await.payload.to_vec()
}

#[tokio::test]
async fn two_instances_share_the_work_and_one_may_die() {
    let mut scene = Scene::new(&["threshold"]).await;
    let mut doomed = scene.start("threshold", "t-1", &[]);
    scene.answered("threshold", state("warm")).await;
    let _survivor = scene.start("threshold", "t-2", &[]);
    let functions: Vec<_> = (0..50).map(|number| format!("f{number}")).collect();
    scene.shared(2).await;
    doomed.kill();
    // What had been handed to the dead one is lost; the tick after that is whole again, and stays so.
    scene.round(5000, &functions).await;
    for tick in 5001..5006 {
        assert_eq!(scene.round(tick, &functions).await.len(), functions.len(), "{}", tails(scene.folder.path()));
    }
}

#[tokio::test]
async fn what_is_no_state_is_skipped_and_the_next_one_answered() {
    let mut scene = Scene::new(&["threshold"]).await;
    let agent = scene.start("threshold", "t-1", &[]);
    scene.answered("threshold", state("fib")).await;
    let text = String::from_utf8(state("fib").encode()).expect("JSON is text");
    let payloads: [Vec<u8>; 6] = [
        b"".to_vec(),
        b"\xff\xfe".to_vec(),
        b"[1,2".to_vec(),
        text.replace("\"1.0\"", "\"2.0\"").into(),
        text.replace("\"tick_length_ms\":5000", "\"tick_length_ms\":\"5s\"").into(),
        vec![b' '; 100_000],
    ];
    for payload in payloads {
        let subject = subject::of(EventType::State, &state("fib").function());
        scene.collector.client().publish(subject, payload.into()).await.expect("published");
    }
    let stale = State { observed_at_ms: Timestamp(1), ..state("stale") };
    scene.collector.publish(&stale, scene.collector.new_trace()).await;
    let (_, action) = scene.answered("threshold", state("other")).await;
    assert_eq!(action.function, name("other"));
    drop(agent);
}

#[tokio::test]
async fn outlives_the_absence_of_nats() {
    let mut scene = Scene::new(&["threshold"]).await;
    scene.server.kill();
    let _agent = scene.start("threshold", "t-1", &[]);
    scene.server.restart();
    scene.answered("threshold", state("first")).await;
    scene.server.kill();
    scene.server.restart();
    scene.answered("threshold", state("second")).await;
}

#[tokio::test]
async fn stops_when_asked_with_its_actions_acknowledged() {
    let mut scene = Scene::new(&["threshold"]).await;
    let mut agent = scene.start("threshold", "t-1", &[]);
    scene.answered("threshold", state("fib")).await;
    assert!(agent.stop().success());
    let log = process::tail(&scene.log("t-1"));
    assert!(log.contains("stopped") && !log.contains("not acknowledged"), "{log}");
}

#[tokio::test]
async fn a_policy_that_does_not_exist_ends_it_with_the_known_ones() {
    let scene = Scene::new(&["mine"]).await;
    let mut agent = scene.start("mine", "m-1", &["--set", "policy=treshold"]);
    assert!(!agent.wait().success());
    let log = process::tail(&scene.log("m-1"));
    assert!(log.contains("`treshold`") && log.contains("threshold-vertical"), "{log}");
}

#[tokio::test]
async fn an_instance_that_is_stopped_hands_over_within_a_tick() {
    let mut scene = Scene::new(&["threshold"]).await;
    let mut leaving = scene.start("threshold", "t-1", &[]);
    scene.answered("threshold", state("warm")).await;
    let _staying = scene.start("threshold", "t-2", &[]);
    let functions: Vec<_> = (0..50).map(|number| format!("f{number}")).collect();
    scene.shared(2).await;
    assert!(leaving.stop().success());
    for tick in 5001..5004 {
        assert_eq!(scene.round(tick, &functions).await.len(), functions.len(), "{}", tails(scene.folder.path()));
    }
}
