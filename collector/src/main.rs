//! `qscale-collector`: measures functions and publishes States and Rewards.

use qscale_common::runtime::service::{self, Program};

const PROGRAM: Program = Program {
    name: "qscale-collector",
    version: env!("CARGO_PKG_VERSION"),
    about: "Reads the metrics of functions and publishes a State and a Reward at every tick",
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    service::main(PROGRAM, qscale_collector::service::run).await
}
