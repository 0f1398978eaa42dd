//! Start of a service: command line, configuration and logging. Owns what every service does before it runs; must not know what it serves.

use clap::{Args as _, Command, FromArgMatches as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::config::{self, ConfigArgs};
use super::shutdown;
use super::telemetry::{self, TelemetryConfig};

/// The configuration of a service.
pub trait ServiceConfig: Default + Serialize + DeserializeOwned {
    /// Its log configuration.
    fn telemetry(&self) -> &TelemetryConfig;

    /// Checks what the types of its fields cannot express.
    ///
    /// # Errors
    /// Names the key, its value and the range.
    fn check(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Name and version of a service's program.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Name of the program, such as `qscale-collector`. Without `qscale-` it names the service in the environment and in logs.
    pub name: &'static str,
    /// Version of the program.
    pub version: &'static str,
    /// One sentence for `--help`.
    pub about: &'static str,
}

/// Parses the command line of `program`, loads and checks its configuration and starts logging.
///
/// # Errors
/// Names the file, the key and the error.
pub fn start<C: ServiceConfig>(program: Program) -> anyhow::Result<C> {
    let Program { name, version, about } = program;
    let command = ConfigArgs::augment_args(Command::new(name).version(version).about(about));
    let arguments = ConfigArgs::from_arg_matches(&command.get_matches())?;
    let service = name.strip_prefix("qscale-").unwrap_or(name);
    let config: C = config::load(service, &arguments)?;
    config.check()?;
    telemetry::init(service, config.telemetry())?;
    Ok(config)
}

/// Runs the service `program` until a signal ends it.
///
/// # Errors
/// As [`start`], and those of `run`.
pub async fn main<C: ServiceConfig>(
    program: Program,
    run: impl AsyncFnOnce(C, CancellationToken) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    run(start(program)?, shutdown::token()).await
}

/// Name of this instance where none is configured: host name and process id, or the process id alone where the host has no name.
#[must_use]
pub fn instance_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id()).trim_start_matches('-').to_owned()
}
