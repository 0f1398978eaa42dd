//! `qscale-collector`: metrics in, State and Reward out.

use clap::Parser;
use qscale_collector::config::CollectorConfig;
use qscale_collector::service;
use qscale_common::runtime::config::{self, ConfigArgs};
use qscale_common::runtime::{shutdown, telemetry};

/// Reads metrics of functions, and publishes at every tick what was seen and what the tick before was worth
#[derive(Debug, Parser)]
#[command(name = "qscale-collector", version)]
struct Arguments {
    #[command(flatten)]
    config: ConfigArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config: CollectorConfig = config::load("collector", &arguments.config)?;
    telemetry::init("collector", &config.telemetry)?;
    service::run(config, shutdown::token()).await
}
