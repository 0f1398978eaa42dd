//! Configuration of the simulated platform. Owns defaults and ranges; reads nothing itself.

use std::net::SocketAddr;
use std::path::PathBuf;

use qscale_common::platform::{Limits, NodeCapacity};
use qscale_common::range::OutOfRange;
use qscale_common::runtime::bus::BusConfig;
use qscale_common::runtime::service::ServiceConfig;
use qscale_common::runtime::telemetry::TelemetryConfig;
use qscale_common::time::Span;
use qscale_common::units::{Mebibytes, Millicores};
use serde::{Deserialize, Deserializer, Serialize};

/// Everything that can be configured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimulatedConfig {
    /// Loopback address of the API and of `/metrics`; port 0 selects a free port.
    pub api: SocketAddr,
    /// Folder for the token of the API. Private to the platform's user, and locked by one platform at a time.
    pub state_dir: PathBuf,
    /// Machine shown in the metrics.
    pub machine: SimulatedMachine,
    /// Upper bounds of allocations.
    #[serde(deserialize_with = "limits")]
    pub limits: Limits,
    /// Whether load waits for `POST /v1/load`; otherwise it starts when its function is added.
    pub load_waits: bool,
    /// Interval of the Load messages of each function, 100 ms to 1 h.
    pub load_every: Span,
    /// Bus for Load messages; no messages if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats: Option<BusConfig>,
    /// Logs of the platform itself.
    pub telemetry: TelemetryConfig,
}

/// Machine of a simulated platform: the capacity that agents see. No replica is larger; all functions together are not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimulatedMachine {
    /// Its CPU.
    pub cpu_millicores: Millicores,
    /// Its memory.
    pub memory_mib: Mebibytes,
}

impl SimulatedMachine {
    /// Its capacity, which bounds the size of a replica.
    #[must_use]
    pub fn capacity(&self) -> NodeCapacity {
        NodeCapacity { cpu_millicores: Some(self.cpu_millicores), memory_mib: Some(self.memory_mib) }
    }
}

impl Default for SimulatedMachine {
    /// A rack: 1,024 cores and 4 TiB, more than a thousand functions with some replicas each request.
    fn default() -> Self {
        Self { cpu_millicores: Millicores(1_024_000), memory_mib: Mebibytes(4 << 20) }
    }
}

impl Default for SimulatedConfig {
    fn default() -> Self {
        Self {
            api: SocketAddr::from(([127, 0, 0, 1], 8701)),
            state_dir: PathBuf::from(".qscale/platform"),
            machine: SimulatedMachine::default(),
            limits: Limits { functions: 10_000, ..Limits::default() },
            load_waits: false,
            load_every: Span::seconds(1),
            nats: None,
            telemetry: TelemetryConfig::default(),
        }
    }
}

/// Reads limits. Keys that are not set keep the simulated platform's defaults, not those of [`Limits`].
fn limits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Limits, D::Error> {
    use serde::de::Error;
    let set = serde_json::Map::deserialize(deserializer)?;
    let mut tree = serde_json::to_value(SimulatedConfig::default().limits).map_err(D::Error::custom)?;
    tree.as_object_mut().expect("limits are keys with values").extend(set);
    Limits::deserialize(tree).map_err(D::Error::custom)
}

impl SimulatedConfig {
    /// Validates ranges.
    ///
    /// # Errors
    /// The first field outside its range, with its value and the range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        if !self.api.ip().is_loopback() {
            return Err(OutOfRange::new("api", self.api, "a loopback address"));
        }
        if !(Span::millis(100)..=Span::seconds(3600)).contains(&self.load_every) {
            return Err(OutOfRange::new("load_every", self.load_every, "100ms to 1h"));
        }
        Ok(())
    }
}

impl ServiceConfig for SimulatedConfig {
    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_set_leaves_the_other_defaults() {
        let config: SimulatedConfig = serde_json::from_str(r#"{ "limits": { "replicas": 7 } }"#).expect("valid");
        assert_eq!((config.limits.replicas.0, config.limits.functions), (7, 10_000));
        assert!(serde_json::from_str::<SimulatedConfig>(r#"{ "limits": { "replica": 7 } }"#).is_err());
    }

    #[test]
    fn values_out_of_range_are_refused() {
        assert_eq!(SimulatedConfig::default().validate(), Ok(()));
        let open = SimulatedConfig { api: SocketAddr::from(([0, 0, 0, 0], 1)), ..SimulatedConfig::default() };
        assert!(open.validate().expect_err("not loopback").to_string().contains("api = 0.0.0.0:1"));
        let often = SimulatedConfig { load_every: Span::millis(1), ..SimulatedConfig::default() };
        assert!(often.validate().expect_err("too often").to_string().contains("load_every = 1ms"));
    }
}
