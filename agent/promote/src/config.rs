//! Configuration of the service. Owns its form and its ranges.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use qscale_common::contract::subject::PROMOTER_LEASE;
use qscale_common::runtime::bus::BusConfig;
use qscale_common::runtime::lease::LeaseConfig;
use qscale_common::runtime::service::{InstanceName, ServiceConfig};
use qscale_common::runtime::signature::{SigningKey, TrustConfig};
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
    /// Keys of which one must have signed the ScalingPolicies and models that it reads.
    pub trust: TrustConfig,
    /// File with the seed of the key with which it signs models, an nkey of a user (`SU...`); required if signatures are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_key_file: Option<PathBuf>,
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
            trust: TrustConfig::default(),
            signing_key_file: None,
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
        self.trust.check()?;
        anyhow::ensure!(
            !self.trust.is_required() || self.signing_key_file.is_some(),
            "trust.keys requires signatures, but signing_key_file is not set: agents would refuse every model of this promoter"
        );
        Ok(())
    }

    /// The key with which it signs.
    ///
    /// # Errors
    /// If the file cannot be read, or `trust.keys` does not list the key.
    pub fn signing_key(&self) -> anyhow::Result<Option<SigningKey>> {
        let Some(path) = &self.signing_key_file else { return Ok(None) };
        let key = SigningKey::read(path).context("signing_key_file")?;
        let public = key.public_key();
        anyhow::ensure!(self.trust.accepts(&public), "signing_key_file has the key {public}, which trust.keys does not list");
        Ok(Some(key))
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

    #[test]
    fn a_promoter_that_must_sign_has_a_trusted_key() {
        let folder = qscale_tests::Folder::new("promoter-key");
        let create = |name: &str| SigningKey::create(&folder.path().join(name)).expect("created").public_key();
        let (own, other) = (create("own"), create("other"));
        let config = |file: Option<&str>| PromoterConfig {
            trust: TrustConfig::of([own.clone()]),
            signing_key_file: file.map(|file| folder.path().join(file)),
            ..PromoterConfig::default()
        };
        assert!(config(None).check().expect_err("no key").to_string().contains("signing_key_file"));
        assert!(config(Some("own")).check().is_ok());
        assert_eq!(config(Some("own")).signing_key().expect("trusted").map(|key| key.public_key()), Some(own.clone()));
        let error = config(Some("other")).signing_key().expect_err("not trusted").to_string();
        assert!(error.contains(&other.to_string()) && error.contains("trust.keys"), "{error}");
        assert!(config(Some("absent")).signing_key().is_err());
    }
}
