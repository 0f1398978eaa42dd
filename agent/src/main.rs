//! `qscale-agent`: answers States with Actions.

use clap::Parser;
use qscale_agent::config::AgentConfig;
use qscale_agent::service;
use qscale_common::runtime::config::{self, ConfigArgs};
use qscale_common::runtime::{shutdown, telemetry};

/// Answers every State on the bus with an Action, by the configured policy
#[derive(Debug, Parser)]
#[command(name = "qscale-agent", version)]
struct Arguments {
    #[command(flatten)]
    config: ConfigArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config: AgentConfig = config::load("agent", &arguments.config)?;
    telemetry::init("agent", &config.telemetry)?;
    service::run(config, shutdown::token()).await
}
