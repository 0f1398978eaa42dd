//! The agent as a program, over a real nats-server with the accounts of the services.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use qscale_common::contract::{
    Action, Ages, Changes, Epoch, EventType, Message, State, TraceParent, Usage, Version, Windows, WireObjective, subject,
};
use qscale_common::name::Name;
use qscale_common::policy::{Bounds, Prices};
use qscale_common::runtime::bus::{Bus, Subscription};
use qscale_common::runtime::clock;
use qscale_common::time::{Tick, TickLength};
use qscale_common::units::Allocation;
use qscale_tests::{Folder, NatsServer, PATIENCE, Program, eventually_async, process};

fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

/// A function that uses 400m of its 500m, so that the threshold rule wants one replica more.
fn state(function: &str) -> State {
    let mut windows = Windows::default();
    windows.tick.cpu_millicores = Some(Usage { mean: 400.0, max: 400.0 });
    windows.tick.memory_mib = Some(Usage { mean: 50.0, max: 50.0 });
    let now = clock::now();
    State {
        version: Version::CURRENT,
        namespace: name("default"),
        function: name(function),
        epoch: Epoch(1),
        tick: Tick::at(now, TickLength::default()),
        tick_length_ms: TickLength::default().millis(),
        observed_at_ms: now,
        agent: name("threshold"),
        allocation: Some(Allocation::new(2, 500, 128)),
        replicas: None,
        age: Ages::default(),
        windows,
        changes: Changes::default(),
        startup_ms: None,
        headroom: None,
        objective: WireObjective { percentile: 95.0, latency_ms: 500, failure_share: 0.01 },
        bounds: Bounds::default(),
        prices: Prices::default(),
    }
}

/// A bus with its streams, the collector's way in and the operator's way out.
struct Scene {
    collector: Bus,
    actions: Subscription<Action>,
    folder: Folder,
    server: NatsServer,
}

impl Scene {
    async fn new(agents: &[&str]) -> Self {
        let server = NatsServer::start_with_accounts(agents);
        server.provision().await;
        let connect = async |user: &str| {
            let client = server.config(user).connect_once("test", PATIENCE).await.expect("the server answers");
            Bus::of_client(client, "/qscale/test/0")
        };
        let actions = connect("operator").await.subscribe::<Action>(subject::all(EventType::Action), None).await.expect("a valid subject");
        Self { collector: connect("collector").await, actions, folder: Folder::new("agent"), server }
    }

    fn start(&self, agent: &str, instance: &str, extra: &[&str]) -> Program {
        let bus = self.server.config(&format!("agent-{agent}"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_qscale-agent"));
        for setting in [
            format!("agent={agent}"),
            format!("instance={instance}"),
            "health=127.0.0.1:0".into(),
            format!("nats.url={}", bus.url),
            format!("nats.user={}", bus.user),
            format!("nats.password={}", bus.password),
        ] {
            command.arg("--set").arg(setting);
        }
        // A backtrace would push the error out of the end of the log that is looked at.
        command.args(extra).env("RUST_BACKTRACE", "0");
        Program::spawn(command, &self.log(instance))
    }

    fn log(&self, instance: &str) -> std::path::PathBuf {
        self.folder.path().join(format!("{instance}.log"))
    }

    /// Publishes States of `function` until `agent` answers one; returns both.
    async fn answered(&mut self, agent: &str, function: &str) -> (State, Action) {
        for tick in 0..300 {
            let state = State { tick: Tick(tick), ..state(function) };
            self.collector.publish(&state, self.collector.new_trace()).await;
            while let Ok(Some(received)) = tokio::time::timeout(Duration::from_millis(200), self.actions.next()).await {
                let action = received.message;
                if action.agent == name(agent) && action.function() == state.function() && action.moment() == state.moment() {
                    return (state, action);
                }
            }
        }
        panic!("no answer of {agent}:\n{}", tails(self.folder.path()));
    }

    /// Publishes a State of each function in one go and says which of them were answered.
    async fn round(&mut self, tick: u64, functions: &[String]) -> BTreeSet<String> {
        for function in functions {
            let state = State { tick: Tick(tick), ..state(function) };
            self.collector.publish(&state, self.collector.new_trace()).await;
        }
        let mut answered = BTreeSet::new();
        while answered.len() < functions.len() {
            match tokio::time::timeout(Duration::from_secs(5), self.actions.next()).await {
                Ok(Some(received)) if received.message.tick == Tick(tick) => {
                    answered.insert(received.message.function.to_string());
                }
                Ok(Some(_)) => {}
                _ => break,
            }
        }
        answered
    }
}

fn tails(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| process::tail(&entry.path())).collect::<Vec<_>>().join("\n--\n")
}

#[tokio::test]
async fn every_agent_answers_every_state_under_its_own_name() {
    let mut scene = Scene::new(&["threshold", "static"]).await;
    let _threshold = scene.start("threshold", "t-1", &[]);
    let _shadow = scene.start("static", "s-1", &["--set", "params.replicas=4"]);
    let (_, action) = scene.answered("threshold", "fib").await;
    assert_eq!(action.allocation, Allocation::new(3, 500, 128));
    assert_eq!((action.instance.as_str(), action.model.as_str()), ("t-1", "threshold/1 250m 256Mi"));
    assert_eq!(action.reason, "CPU 400m a replica is above 250m");
    let (state, action) = scene.answered("static", "aes").await;
    assert_eq!(action.allocation, Allocation::new(4, 500, 128));
    assert_eq!(action.moment(), state.moment());
    assert_eq!(action.expires_at_ms.0, state.observed_at_ms.0 + 2 * state.tick_length_ms);
}

#[tokio::test]
async fn an_action_continues_the_trace_of_its_state_and_is_kept_by_the_stream() {
    let mut scene = Scene::new(&["threshold"]).await;
    let _agent = scene.start("threshold", "t-1", &[]);
    scene.answered("threshold", "warm").await;
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
    let client = scene.server.config("operator").connect_once("test", PATIENCE).await.expect("the server answers");
    let stream = async_nats::jetstream::new(client).get_stream(subject::RECORD_STREAM).await.expect("the stream is there");
    eventually_async("the Action in the stream", || async { stream.direct_get_last_for_subject(subject).await.ok() }).await.payload.to_vec()
}

#[tokio::test]
async fn two_instances_share_the_work_and_one_may_die() {
    let mut scene = Scene::new(&["threshold"]).await;
    let mut doomed = scene.start("threshold", "t-1", &[]);
    scene.answered("threshold", "warm").await;
    let _survivor = scene.start("threshold", "t-2", &[]);
    let functions: Vec<_> = (0..50).map(|number| format!("f{number}")).collect();
    let mut instances = BTreeSet::new();
    for tick in 1000.. {
        assert!(tick < 2000, "the instances never shared: {instances:?}\n{}", tails(scene.folder.path()));
        let state = State { tick: Tick(tick), ..state("shared") };
        scene.collector.publish(&state, scene.collector.new_trace()).await;
        let received = tokio::time::timeout(PATIENCE, scene.actions.next()).await.expect("an answer in time").expect("the bus stands");
        instances.insert(received.message.instance);
        if instances.len() == 2 {
            break;
        }
    }
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
    scene.answered("threshold", "fib").await;
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
    let stale = State { observed_at_ms: qscale_common::time::Timestamp(1), ..state("stale") };
    scene.collector.publish(&stale, scene.collector.new_trace()).await;
    let (_, action) = scene.answered("threshold", "other").await;
    assert_eq!(action.function, name("other"));
    drop(agent);
}

#[tokio::test]
async fn outlives_the_absence_of_nats() {
    let mut scene = Scene::new(&["threshold"]).await;
    scene.server.kill();
    let _agent = scene.start("threshold", "t-1", &[]);
    scene.server.restart();
    scene.answered("threshold", "first").await;
    scene.server.kill();
    scene.server.restart();
    scene.answered("threshold", "second").await;
}

#[tokio::test]
async fn stops_when_asked_with_its_actions_acknowledged() {
    let mut scene = Scene::new(&["threshold"]).await;
    let mut agent = scene.start("threshold", "t-1", &[]);
    scene.answered("threshold", "fib").await;
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
