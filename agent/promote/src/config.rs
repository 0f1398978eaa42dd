//! Configuration of the service. Owns its form and its ranges.

use std::net::SocketAddr;

use qscale_common::runtime::bus::BusConfig;
use qscale_common::runtime::lease::LeaseConfig;
use qscale_common::runtime::service::{ServiceConfig, instance_name};
use qscale_common::runtime::telemetry::TelemetryConfig;
use serde::{Deserialize, Serialize};

/// Configuration of the service `promoter`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromoterConfig {
    /// Name of this instance; absent: host name, process id and a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Address of the platform's API, host and port, for the gateway settings of functions that are simulated; absent: the local platform's defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The lease: one of several promoters works at a time.
    pub lease: LeaseConfig,
    /// Address of health and metrics; port 0 takes any.
    pub health: SocketAddr,
    /// The bus.
    pub nats: BusConfig,
    /// Logs.
    pub telemetry: TelemetryConfig,
}

impl Default for PromoterConfig {
    fn default() -> Self {
        Self {
            instance: None,
            platform: None,
            lease: LeaseConfig::default(),
            health: SocketAddr::from(([127, 0, 0, 1], 8715)),
            nats: BusConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl PromoterConfig {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// Names the key, its value and its range.
    pub fn check(&self) -> anyhow::Result<()> {
        self.lease.check("lease")?;
        if let Some(instance) = &self.instance {
            let readable = (1..=200).contains(&instance.len()) && instance.chars().all(|c| c.is_ascii_graphic());
            anyhow::ensure!(readable, "instance = `{instance}`, must be 1 to 200 printable characters without spaces");
        }
        Ok(())
    }

    /// The configured name, or one from host, process and `number`.
    #[must_use]
    pub fn instance(&self, number: u32) -> String {
        self.instance.clone().unwrap_or_else(|| format!("{}-{number:08x}", instance_name()))
    }
}

impl ServiceConfig for PromoterConfig {
    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }

    fn check(&self) -> anyhow::Result<()> {
        self.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        PromoterConfig::default().check().expect("valid");
    }
}
