//! Leader election over a bucket of the bus. Owns the lease entry, its renewal and its fencing token; must not know what a leader does.
//!
//! Every group of processes of which one may act at a time has its own key in the bucket. [`Election`] decides and does no I/O;
//! [`campaign`] runs it against the bucket.

mod campaign;
mod election;

pub use campaign::{LeaseHandle, campaign};
pub use election::{Election, ElectionStep, LeaderStatus, Lease, LeaseEntry, Reply};

use serde::{Deserialize, Serialize};

use crate::range::{OutOfRange, check_span};
use crate::time::Span;

/// Configuration of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseConfig {
    /// Key of the lease, shared by the processes that replace one another: the name of the service, alone or followed
    /// by a dot and more; absent: derived from the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Time after which a leader that stopped renewing is replaced, 600 ms to 10 min.
    pub ttl: Span,
}

impl LeaseConfig {
    /// Checks what the types cannot; `prefix` is the key of this section, such as `lease`. The bus lets `service` write
    /// only keys that begin with its name.
    ///
    /// # Errors
    /// Names the key, its value and its range.
    pub fn check(&self, prefix: &str, service: &str) -> Result<(), OutOfRange> {
        check_span(&format!("{prefix}.ttl"), self.ttl, Span::millis(600), Span::seconds(600))?;
        let Some(key) = &self.key else { return Ok(()) };
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let valid = (1..=200).contains(&key.len()) && key.chars().all(allowed) && key.split('.').all(|part| !part.is_empty());
        if valid && key.split('.').next() == Some(service) {
            return Ok(());
        }
        let range = format_args!("{service}, or {service}. and more of a-z, A-Z, 0-9, -, _ and . in between, at most 200");
        Err(OutOfRange::new(&format!("{prefix}.key"), format_args!("`{key}`"), range))
    }

    /// The key of the lease, `default` unless one is configured.
    #[must_use]
    pub fn key_or(&self, default: impl Into<String>) -> String {
        self.key.clone().unwrap_or_else(|| default.into())
    }
}

impl Default for LeaseConfig {
    /// Six seconds: failover takes little more than one default tick.
    fn default() -> Self {
        Self { key: None, ttl: Span::seconds(6) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_must_fit_the_bucket_and_the_permissions_of_the_service() {
        let check = |key: &str| LeaseConfig { key: Some(key.into()), ..LeaseConfig::default() }.check("lease", "actuator");
        assert!(["actuator", "actuator.local", "actuator.west-2_x"].into_iter().all(|key| check(key).is_ok()));
        for key in ["", ".", "actuator.", ".actuator", "actuator.a b", "actuator.*", "actuator.>", "promoter", "actuators", "west.actuator"]
        {
            assert_eq!(check(key).map_err(|error| error.field), Err("lease.key".to_owned()), "{key}");
        }
    }

    #[test]
    fn the_ttl_must_be_in_its_range() {
        let check = |ttl: Span| LeaseConfig { ttl, ..LeaseConfig::default() }.check("lease", "actuator").is_ok();
        assert!(check(Span::millis(600)) && check(Span::seconds(600)));
        assert!(!check(Span::millis(599)) && !check(Span::seconds(601)));
    }
}
