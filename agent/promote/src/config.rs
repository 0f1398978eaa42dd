//! Configuration of the service. Owns its form and its ranges.

use std::net::SocketAddr;
use std::path::PathBuf;

use qscale_common::contract::subject::PROMOTER_LEASE;
use qscale_common::runtime::bus::BusConfig;
use qscale_common::runtime::lease::LeaseConfig;
use qscale_common::runtime::service::{InstanceName, ServiceConfig};
use qscale_common::runtime::telemetry::TelemetryConfig;
use serde::{Deserialize, Serialize};

/// Configuration of the service `promoter`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromoterConfig {
    /// Name of this instance; absent: host name, process id and a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceName>,
    /// Address of the platform's API, host and port, for the gateway settings of functions that are simulated; absent: the local platform's defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// File that holds the token of the platform's API; absent: the one that a platform of the same user and machine has noted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
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
            token_file: None,
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
        self.lease.check("lease", PROMOTER_LEASE)?;
        Ok(())
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
