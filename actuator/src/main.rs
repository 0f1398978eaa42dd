//! `qscale-actuator`: applies the decisions of agents that pass the guard.

use qscale_common::runtime::service::{self, Program};

const PROGRAM: Program = Program {
    name: "qscale-actuator",
    version: env!("CARGO_PKG_VERSION"),
    about: "Applies the decisions of agents, as far as the guard allows",
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    service::main(PROGRAM, qscale_actuator::service::run).await
}
