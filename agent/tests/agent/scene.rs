//! A bus with accounts and streams, an agent on it, and the two ends that a test holds.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use qscale_common::contract::{Action, EventType, Message, State, Usage, subject};
use qscale_common::fixtures;
use qscale_common::name::Name;
use qscale_common::runtime::bus::{Bus, Subscription};
use qscale_common::runtime::clock;
use qscale_common::time::{Tick, TickLength};
use qscale_common::units::Allocation;
use qscale_tests::{Folder, NatsServer, Program, TIMEOUT, process};

pub fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

/// A State of a function that uses 400m of its 500m, so that the threshold rule wants one replica more.
pub fn state(function: &str) -> State {
    let mut state = fixtures::state();
    state.function = name(function);
    state.observed_at_ms = clock::now();
    state.tick = Tick::at(state.observed_at_ms, TickLength::default());
    state.allocation = Some(Allocation::new(2, 500, 128));
    state.windows.tick.cpu_millicores = Some(Usage { mean: 400.0, max: 400.0 });
    state.windows.tick.memory_mib = Some(Usage { mean: 50.0, max: 50.0 });
    state
}

/// A bus with its streams, the collector's way in and the operator's way out.
pub struct Scene {
    pub collector: Bus,
    pub actions: Subscription<Action>,
    pub folder: Folder,
    pub server: NatsServer,
}

impl Scene {
    pub async fn new(agents: &[&str]) -> Self {
        let server = NatsServer::start_with_accounts(agents);
        server.provision().await;
        server.answer_reads().await;
        let connect = async |user: &str| {
            let client = server.config(user).connect_once("test", TIMEOUT).await.expect("the server answers");
            Bus::of_client(client, "/qscale/test/0")
        };
        let actions = connect("operator").await.subscribe::<Action>(subject::all(EventType::Action), None).await.expect("a valid subject");
        Self { collector: connect("collector").await, actions, folder: Folder::new("agent"), server }
    }

    pub fn start(&self, agent: &str, instance: &str, extra: &[&str]) -> Program {
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

    pub fn log(&self, instance: &str) -> PathBuf {
        self.folder.path().join(format!("{instance}.log"))
    }

    /// Publishes `state` at one tick after the other until `agent` answers one; returns both.
    pub async fn answered(&mut self, agent: &str, state: State) -> (State, Action) {
        for tick in 0..300 {
            let state = State { tick: Tick(tick), observed_at_ms: clock::now(), ..state.clone() };
            self.collector.publish(&state, self.collector.new_trace()).await;
            while let Ok(Some(received)) = tokio::time::timeout(Duration::from_millis(200), self.actions.next()).await {
                let action = received.message;
                if action.agent == name(agent) && action.function() == state.function() && action.state_id() == state.state_id() {
                    return (state, action);
                }
            }
        }
        panic!("no answer of {agent}:\n{}", tails(self.folder.path()));
    }

    /// Publishes States until each of `count` instances has answered one.
    pub async fn shared(&mut self, count: usize) {
        let mut instances = BTreeSet::new();
        for tick in 1000..2000 {
            let state = State { tick: Tick(tick), ..state("shared") };
            self.collector.publish(&state, self.collector.new_trace()).await;
            let received = tokio::time::timeout(TIMEOUT, self.actions.next()).await.expect("an answer in time").expect("the bus stands");
            instances.insert(received.message.instance);
            if instances.len() == count {
                return;
            }
        }
        panic!("only {instances:?} answered:\n{}", tails(self.folder.path()));
    }

    /// Publishes a State of each function in one go and says which of them were answered.
    pub async fn round(&mut self, tick: u64, functions: &[String]) -> BTreeSet<String> {
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

pub fn tails(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| process::tail(&entry.path())).collect::<Vec<_>>().join("\n--\n")
}
