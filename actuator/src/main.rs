//! `qscale-actuator`: applies what agents decide, as far as the guard lets it through.

use clap::Parser;
use qscale_actuator::config::ActuatorConfig;
use qscale_actuator::service;
use qscale_common::runtime::config::{self, ConfigArgs};
use qscale_common::runtime::{shutdown, telemetry};

/// Applies what agents decide, as far as the guard lets it through
#[derive(Debug, Parser)]
#[command(name = "qscale-actuator", version)]
struct Arguments {
    #[command(flatten)]
    config: ConfigArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config: ActuatorConfig = config::load("actuator", &arguments.config)?;
    config.check()?;
    telemetry::init("actuator", &config.telemetry)?;
    service::run(config, shutdown::token()).await
}
