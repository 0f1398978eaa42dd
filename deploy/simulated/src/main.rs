//! `qscale-simulated`: a platform of simulated functions.

use qscale_common::runtime::service::{self, Program};

const PROGRAM: Program = Program {
    name: "qscale-simulated",
    version: env!("CARGO_PKG_VERSION"),
    about: "Simulates functions and their load behind the API and the metrics of the local platform",
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    service::main(PROGRAM, qscale_simulated::server::run).await
}
