//! Configuration of the simulated platform. Owns defaults and ranges; reads nothing itself.

use std::net::SocketAddr;

use qscale_common::platform::{Limits, OutOfRange};
use qscale_common::runtime::bus::BusConfig;
use qscale_common::runtime::service::ServiceConfig;
use qscale_common::runtime::telemetry::TelemetryConfig;
use qscale_common::time::Span;
use qscale_common::units::{Mebibytes, Millicores};
use serde::{Deserialize, Serialize};

/// Everything that can be configured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Address of the API and of `/metrics`, on loopback; port 0 takes a free one.
    pub api: SocketAddr,
    /// The machine that it shows.
    pub machine: Machine,
    /// How much functions may be given.
    pub limits: Limits,
    /// Whether load waits for `POST /v1/load`; else it begins when its function is added.
    pub load_waits: bool,
    /// How often the load of each function is told on the bus, 100 ms to 1 h.
    pub load_every: Span,
    /// The bus on which load is told; absent: nobody is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats: Option<BusConfig>,
    /// Logs of the platform itself.
    pub telemetry: TelemetryConfig,
}

/// The machine that a simulated platform shows: what agents see as room, not what functions are held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Machine {
    /// Its CPU.
    pub cpu_millicores: Millicores,
    /// Its memory.
    pub memory_mib: Mebibytes,
}

impl Default for Machine {
    /// A rack: 1,024 cores and 4 TiB, more than a thousand functions of some replicas ask for.
    fn default() -> Self {
        Self { cpu_millicores: Millicores(1_024_000), memory_mib: Mebibytes(4 << 20) }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            api: SocketAddr::from(([127, 0, 0, 1], 8701)),
            machine: Machine::default(),
            limits: Limits { functions: 10_000, ..Limits::default() },
            load_waits: false,
            load_every: Span::seconds(1),
            nats: None,
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl Settings {
    /// Checks what serde cannot.
    ///
    /// # Errors
    /// Names the first field outside its range, its value and the range.
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

impl ServiceConfig for Settings {
    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_named() {
        assert_eq!(Settings::default().validate(), Ok(()));
        let open = Settings { api: SocketAddr::from(([0, 0, 0, 0], 1)), ..Settings::default() };
        assert!(open.validate().expect_err("not loopback").to_string().contains("api = 0.0.0.0:1"));
        let often = Settings { load_every: Span::millis(1), ..Settings::default() };
        assert!(often.validate().expect_err("too often").to_string().contains("load_every = 1ms"));
    }
}
