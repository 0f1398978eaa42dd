//! Start of a service: command line, configuration and logging. Owns what every service does before it runs; must not know what it serves.

use std::fmt;

use clap::{Args as _, Command, FromArgMatches as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::config::{self, ConfigArgs};
use super::shutdown;
use super::telemetry::{self, TelemetryConfig};
use crate::range::OutOfRange;

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

/// Name of one instance of a service, 1 to 200 printable ASCII characters without spaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceName(String);

impl InstanceName {
    const MAX_LEN: usize = 200;

    /// Default name of an instance: host name and process id, or the process id alone where the host has no name.
    #[must_use]
    pub fn of_process() -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self(format!("{}-{}", host.trim(), std::process::id()).trim_start_matches('-').to_owned())
    }

    /// As [`InstanceName::of_process`], followed by `number`, for instances that must not share a name by mistake.
    #[must_use]
    pub fn numbered(number: u32) -> Self {
        Self(format!("{}-{number:08x}", Self::of_process()))
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for InstanceName {
    type Error = OutOfRange;

    fn try_from(name: String) -> Result<Self, OutOfRange> {
        let valid = (1..=Self::MAX_LEN).contains(&name.len()) && name.chars().all(|c| c.is_ascii_graphic());
        let range = format_args!("1 to {} printable characters without spaces", Self::MAX_LEN);
        if valid { Ok(Self(name)) } else { Err(OutOfRange::new("instance", format_args!("`{name}`"), range)) }
    }
}

impl From<InstanceName> for String {
    fn from(name: InstanceName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_name_is_printable_and_short() {
        let accepted = |name: &str| InstanceName::try_from(name.to_owned()).is_ok();
        assert!(accepted("a-1") && accepted(&"a".repeat(200)));
        assert!(!accepted("") && !accepted("a b") && !accepted("\u{e9}") && !accepted(&"a".repeat(201)));
        assert_eq!(InstanceName::try_from(String::new()).map_err(|error| error.field), Err("instance".to_owned()));
    }

    #[test]
    fn default_names_are_valid() {
        for name in [InstanceName::of_process(), InstanceName::numbered(7)] {
            assert_eq!(InstanceName::try_from(name.to_string()), Ok(name));
        }
    }
}
