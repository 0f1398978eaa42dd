//! Configuration of the actuator. Owns its form, defaults and checks.

use std::net::SocketAddr;
use std::num::NonZeroUsize;

use qscale_common::contract::subject::ACTUATOR_LEASE;
use qscale_common::range::check_span;
use qscale_common::runtime::bus::BusConfig;
use qscale_common::runtime::lease::LeaseConfig;
use qscale_common::runtime::service::{InstanceName, ServiceConfig};
use qscale_common::runtime::signature::TrustConfig;
use qscale_common::runtime::telemetry::TelemetryConfig;
use qscale_common::time::Span;
use serde::{Deserialize, Serialize};

use crate::backend::BackendConfig;

/// Configuration of the service `actuator`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ActuatorConfig {
    /// Name of this actuator; absent: host, process and a random number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceName>,
    /// The platform that allocations are applied to.
    pub platform: BackendConfig,
    /// Leader election.
    pub lease: LeaseConfig,
    /// Interval at which the platform is compared with the decisions, 100 ms to 1 h.
    pub reconcile: Span,
    /// Longest delay between two requests for the same decision, 100 ms to 1 h; the first is 250 ms.
    #[serde(alias = "retry_at_most")]
    pub max_retry_delay: Span,
    /// Interval at which changed budgets are stored, 100 ms to 1 h. A crash loses at most the changes since the last write.
    #[serde(alias = "store_every")]
    pub flush_interval: Span,
    /// Requests to the platform at the same time.
    pub concurrency: NonZeroUsize,
    /// Keys of which one must have signed a ScalingPolicy.
    pub trust: TrustConfig,
    /// Address of health and metrics; port 0 takes a free port.
    pub health: SocketAddr,
    /// The bus.
    pub nats: BusConfig,
    /// Logs.
    pub telemetry: TelemetryConfig,
}

impl Default for ActuatorConfig {
    fn default() -> Self {
        const AT_ONCE: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not zero");
        Self {
            instance: None,
            platform: BackendConfig::default(),
            lease: LeaseConfig::default(),
            reconcile: Span::seconds(10),
            max_retry_delay: Span::seconds(10),
            flush_interval: Span::seconds(10),
            concurrency: AT_ONCE,
            trust: TrustConfig::default(),
            health: SocketAddr::from(([127, 0, 0, 1], 8713)),
            nats: BusConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl ActuatorConfig {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// Names the key, its value and its range.
    pub fn check(&self) -> anyhow::Result<()> {
        for (key, span) in
            [("reconcile", self.reconcile), ("max_retry_delay", self.max_retry_delay), ("flush_interval", self.flush_interval)]
        {
            check_span(key, span, Span::millis(100), Span::seconds(3600))?;
        }
        self.platform.check(self.lease.ttl)?;
        self.trust.check()?;
        self.lease.check("lease", ACTUATOR_LEASE)?;
        Ok(())
    }

    /// Key of the lease: actuators with different backends do not replace one another.
    #[must_use]
    pub fn lease_key(&self) -> String {
        self.lease.key_or(format!("{ACTUATOR_LEASE}.{}", self.platform.name()))
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
    use crate::backend::LocalBackendConfig;

    #[test]
    fn defaults_are_valid() {
        ActuatorConfig::default().check().expect("valid");
    }

    #[test]
    fn former_names_of_keys_are_read() {
        let config: ActuatorConfig = serde_json::from_str(r#"{ "retry_at_most": "3s", "store_every": "4s" }"#).expect("valid");
        assert_eq!((config.max_retry_delay, config.flush_interval), (Span::seconds(3), Span::seconds(4)));
    }

    #[test]
    fn a_value_outside_its_range_is_named_with_the_range() {
        let config = ActuatorConfig { lease: LeaseConfig { ttl: Span::millis(10), ..LeaseConfig::default() }, ..ActuatorConfig::default() };
        let error = config.check().expect_err("too short").to_string();
        assert_eq!(error, "lease.ttl = 10ms, must be 600ms to 10m");
    }

    #[test]
    fn the_backend_is_local_unless_another_is_chosen() {
        let read = |text: &str| serde_json::from_str::<ActuatorConfig>(text);
        let expected = BackendConfig::Local(LocalBackendConfig { address: "127.0.0.1:9".into(), ..LocalBackendConfig::default() });
        for text in
            [r#"{ "platform": { "address": "127.0.0.1:9" } }"#, r#"{ "platform": { "backend": "local", "address": "127.0.0.1:9" } }"#]
        {
            assert_eq!(read(text).expect("valid").platform, expected);
        }
        let kubernetes = read(r#"{ "platform": { "backend": "kubernetes", "timeout": "2s" } }"#).expect("valid");
        assert_eq!(kubernetes.lease_key(), "actuator.kubernetes");
        let error = kubernetes.check().expect_err("longer than a leader may write").to_string();
        assert_eq!(error, "platform.timeout = 2s, must be less than a sixth of lease.ttl = 6s");
        assert!(read(r#"{ "platform": { "backend": "kubernetes" } }"#).expect("valid").check().is_ok());
        assert!(read(r#"{ "platform": { "backend": "unknown" } }"#).is_err());
        assert!(read(r#"{ "platform": { "adress": "127.0.0.1:9" } }"#).is_err());
        let printed = serde_json::to_string(&ActuatorConfig::default()).expect("printable");
        assert_eq!(read(&printed).expect("valid"), ActuatorConfig::default());
    }

    #[test]
    fn every_backend_has_a_lease_key_of_its_own() {
        let config = ActuatorConfig::default();
        assert_eq!(config.lease_key(), "actuator.local");
        let lease = LeaseConfig { key: Some("actuator.west".into()), ..LeaseConfig::default() };
        assert_eq!(ActuatorConfig { lease, ..config }.lease_key(), "actuator.west");
    }
}
