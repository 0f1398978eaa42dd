//! The example agent in Python, as a newcomer runs it: nats-py alone, the contract its only link to the rest.

use std::path::PathBuf;
use std::process::Command;

use crate::scene::{Scene, state};
use qscale_common::contract::{Message, Usage};
use qscale_common::units::Allocation;
use qscale_tests::{Program, repository};

/// A Python with nats-py: `NATS_PYTHON`, or the one of the set-up.
fn python() -> PathBuf {
    std::env::var_os("NATS_PYTHON").map_or_else(|| repository().join(".tools/nats/bin/python"), PathBuf::from)
}

#[tokio::test]
async fn the_python_example_answers_states_within_the_contract() {
    let mut scene = Scene::new(&["mine"]).await;
    let mut command = Command::new(python());
    command.arg(repository().join("agent/examples/agent.py")).env("QSCALE_AGENT", "mine");
    let password = "password%20of%20agent-mine";
    command.env("NATS_URL", scene.server.url().replace("nats://", &format!("nats://agent-mine:{password}@")));
    let _agent = Program::spawn(command, &scene.log("python"));
    // 2 replicas of 500m use 400m each: 800m at 70 % of 500m are 3 replicas.
    let (answered, action) = scene.answered("mine", state("fib")).await;
    assert_eq!(action.allocation, Allocation::new(3, 500, 128));
    assert_eq!((action.state_id(), action.check()), (answered.state_id(), Ok(())));
    assert_eq!(action.provenance.policy, "cpu-70");

    let mut unmeasured = state("aes");
    unmeasured.windows.tick.cpu_millicores = None;
    assert_eq!(scene.answered("mine", unmeasured).await.1.allocation, Allocation::new(2, 500, 128));
    let mut busy = state("hot");
    busy.windows.tick.cpu_millicores = Some(Usage { mean: 1e9, max: 1e9 });
    assert_eq!(scene.answered("mine", busy).await.1.allocation, Allocation::new(10, 500, 128));
    scene.collector.client().publish("qscale.v1.state.default.fib", "no JSON".into()).await.expect("published");
    scene.answered("mine", state("after")).await;
}
