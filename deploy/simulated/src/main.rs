//! `qscale-simulated`: a platform of simulated functions.

use clap::Parser;
use qscale_common::runtime::config::{self, ConfigArgs};
use qscale_common::runtime::{shutdown, telemetry};
use qscale_simulated::config::SimulatedConfig;
use qscale_simulated::server;

/// Simulates functions, with their load, behind the API and the metrics of the local platform.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    config: ConfigArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config: SimulatedConfig = config::load("simulated", &arguments.config)?;
    telemetry::init("simulated", &config.telemetry)?;
    server::run(config, shutdown::token()).await
}
