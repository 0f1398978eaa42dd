//! `qscale-agent`: answers States with Actions.

use qscale_common::runtime::service::{self, Program};

const PROGRAM: Program = Program {
    name: "qscale-agent",
    version: env!("CARGO_PKG_VERSION"),
    about: "Answers every State on the bus with an Action, by the configured policy",
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    service::main(PROGRAM, qscale_agent::service::run).await
}
