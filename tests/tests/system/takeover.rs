//! An agent in another language takes over a running function and hands it back.

use std::process::Command;

use qscale_common::contract::{DecisionSource, Effect, EventType, Outcome, subject};
use qscale_common::runtime::bus::Subscription;
use qscale_tests::{Program, System, first, repository};

async fn decided_by(outcomes: &mut Subscription<Outcome>, agent: &str, system: &System) -> Outcome {
    let decided = |outcome: &Outcome| outcome.agent.as_str() == agent && outcome.source == DecisionSource::Agent;
    first(outcomes, decided).await.unwrap_or_else(|| panic!("no decision of {agent}:\n{}", system.tail()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_agent_takes_over_by_a_policy_and_hands_back() {
    let mut system = System::up(&["--load", "10", "--tick", "1s", "--agent", "threshold"]);
    let added = system.qscale(&["agent", "add", "mine"]);
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let text = String::from_utf8(added.stdout).expect("text");
    let url = text.lines().find_map(|line| line.split_once("NATS_URL=")).expect("the address to export").1;
    let python = std::env::var_os("NATS_PYTHON").map_or_else(|| repository().join(".tools/nats/bin/python"), Into::into);
    let mut command = Command::new(python);
    command.arg(repository().join("agent/examples/agent.py")).env("NATS_URL", url).env("QSCALE_AGENT", "mine");
    let _agent = Program::spawn(command, &system.state().join("logs/mine.log"));

    let bus = system.bus().await;
    let mut outcomes = bus.subscribe(subject::all(EventType::Outcome), None).await.expect("operators may listen");
    decided_by(&mut outcomes, "threshold", &system).await;
    let set = |agent: &str| {
        let output = system.qscale(&["policy", "set", "fibonacci", &format!("agent={agent}")]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    set("mine");
    let outcome = decided_by(&mut outcomes, "mine", &system).await;
    assert!(matches!(outcome.effect, Effect::Applied | Effect::Changed | Effect::Unchanged | Effect::Held), "{outcome:?}");
    set("threshold");
    decided_by(&mut outcomes, "threshold", &system).await;
    drop(outcomes);
    assert!(system.stop(), "{}", system.tail());
}
