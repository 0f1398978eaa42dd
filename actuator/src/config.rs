//! What an actuator is told. Owns the configuration's form and its checks.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use qscale_common::runtime::bus::BusConfig;
use qscale_common::runtime::lease::LeaseConfig;
use qscale_common::runtime::service::{ServiceConfig, instance_name};
use qscale_common::runtime::telemetry::TelemetryConfig;
use qscale_common::time::Span;
use serde::{Deserialize, Serialize};

/// Configuration of the service `actuator`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ActuatorConfig {
    /// Name of this actuator among others; absent: host, process and a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The platform on this machine.
    pub platform: PlatformConfig,
    /// Leader election.
    pub lease: LeaseConfig,
    /// How often what the platform has is compared with what it was told, 100 ms to 1 h.
    pub reconcile: Span,
    /// Longest pause between two attempts to apply the same decision, 100 ms to 1 h; the first is a quarter of a second.
    pub retry_at_most: Span,
    /// How often budgets that changed are stored, 100 ms to 1 h. A crash forgets at most the changes since.
    pub store_every: Span,
    /// Allocations that are applied at the same time.
    pub concurrency: NonZeroUsize,
    /// Address of health and metrics; port 0 takes any.
    pub health: SocketAddr,
    /// The bus.
    pub nats: BusConfig,
    /// Logs.
    pub telemetry: TelemetryConfig,
}

/// The platform on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlatformConfig {
    /// Address of its API, host and port.
    pub address: String,
    /// How long one request may take, 10 ms to 1 min.
    pub timeout: Span,
}

impl Default for PlatformConfig {
    fn default() -> Self {
        Self { address: "127.0.0.1:8701".into(), timeout: Span::seconds(5) }
    }
}

impl Default for ActuatorConfig {
    fn default() -> Self {
        const AT_ONCE: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not zero");
        Self {
            instance: None,
            platform: PlatformConfig::default(),
            lease: LeaseConfig::default(),
            reconcile: Span::seconds(10),
            retry_at_most: Span::seconds(10),
            store_every: Span::seconds(10),
            concurrency: AT_ONCE,
            health: SocketAddr::from(([127, 0, 0, 1], 8713)),
            nats: BusConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl ActuatorConfig {
    /// Refuses what no field's type can.
    ///
    /// # Errors
    /// Names the key, its value and its range.
    pub fn check(&self) -> anyhow::Result<()> {
        let hour = Duration::from_secs(3600);
        let periods = [
            ("reconcile", self.reconcile, Duration::from_millis(100), hour),
            ("retry_at_most", self.retry_at_most, Duration::from_millis(100), hour),
            ("store_every", self.store_every, Duration::from_millis(100), hour),
            ("lease.ttl", self.lease.ttl, LeaseConfig::TTL_RANGE.0, LeaseConfig::TTL_RANGE.1),
            ("platform.timeout", self.platform.timeout, Duration::from_millis(10), Duration::from_secs(60)),
        ];
        for (key, span, least, most) in periods {
            anyhow::ensure!((least..=most).contains(&span.0), "{key} = {span}, must be {} to {}", Span(least), Span(most));
        }
        if let Some(instance) = &self.instance {
            let readable = (1..=200).contains(&instance.len()) && instance.chars().all(|c| c.is_ascii_graphic());
            anyhow::ensure!(readable, "instance = `{instance}`, must be 1 to 200 printable characters without spaces");
        }
        Ok(())
    }

    /// The name of this actuator. `number` tells apart two that nobody named.
    #[must_use]
    pub fn instance(&self, number: u32) -> String {
        self.instance.clone().unwrap_or_else(|| format!("{}-{number:08x}", instance_name()))
    }
}

impl ServiceConfig for ActuatorConfig {
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
    fn the_defaults_are_valid() {
        ActuatorConfig::default().check().expect("valid");
    }

    #[test]
    fn a_value_outside_its_range_is_named_with_the_range() {
        let config = ActuatorConfig { lease: LeaseConfig { ttl: Span::millis(10) }, ..ActuatorConfig::default() };
        let error = config.check().expect_err("too short").to_string();
        assert_eq!(error, "lease.ttl = 10ms, must be 600ms to 10m");
    }
}
