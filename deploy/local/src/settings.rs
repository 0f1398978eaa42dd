//! Configuration of the platform. Owns defaults and ranges; reads nothing itself.

use std::net::SocketAddr;
use std::path::PathBuf;

use qscale_common::platform::OutOfRange;
use qscale_common::runtime::telemetry::TelemetryConfig;
use qscale_common::time::Span;
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use serde::{Deserialize, Serialize};

/// Everything that can be configured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Address of the API and of `/metrics`; port 0 takes a free one.
    pub api: SocketAddr,
    /// Address of the gateway; port 0 takes a free one.
    pub gateway: SocketAddr,
    /// Whether the addresses may be others than loopback. The API runs any command that it is sent, so this hands the machine to whoever
    /// can reach it.
    pub allow_remote: bool,
    /// Folder that keeps functions, allocations, the highest lease and the addresses. One platform at a time uses it.
    pub state_dir: PathBuf,
    /// Name of the cgroup, below the platform's own, that holds those of the replicas.
    pub cgroup_root: String,
    /// Whether to limit CPU and memory through cgroups where they can be written. `false` offers horizontal scaling only.
    pub vertical: bool,
    /// First and last port that replicas are given. Below the kernel's ephemeral ports, so that connections do not take them.
    pub replica_ports: (u16, u16),
    /// Time between SIGTERM and SIGKILL for a replica that is stopped.
    pub kill_grace: Span,
    /// Longest time that the platform takes to finish its requests when it is stopped.
    pub stop_timeout: Span,
    /// How much functions may be given.
    pub limits: Limits,
    /// Logs of the platform itself.
    pub telemetry: TelemetryConfig,
}

/// Bounds of what one function may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Functions on the platform.
    pub functions: u32,
    /// Replicas of one function.
    pub replicas: Replicas,
    /// CPU of one replica.
    pub cpu_millicores: Millicores,
    /// Memory of one replica.
    pub memory_mib: Mebibytes,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            api: SocketAddr::from(([127, 0, 0, 1], 8701)),
            gateway: SocketAddr::from(([127, 0, 0, 1], 8700)),
            allow_remote: false,
            state_dir: PathBuf::from(".qscale/platform"),
            cgroup_root: "qscale".to_owned(),
            vertical: true,
            replica_ports: (20_000, 31_999),
            kill_grace: Span::seconds(5),
            stop_timeout: Span::seconds(10),
            limits: Limits::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { functions: 1_000, replicas: Replicas(100), cpu_millicores: Millicores(64_000), memory_mib: Mebibytes(1 << 20) }
    }
}

impl Settings {
    /// Checks what serde cannot.
    ///
    /// # Errors
    /// Names the first field outside its range, its value and the range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        for (field, address) in [("api", self.api), ("gateway", self.gateway)] {
            if !self.allow_remote && !address.ip().is_loopback() {
                return Err(OutOfRange::new(field, address, "a loopback address, unless allow_remote = true"));
            }
        }
        let (first, last) = self.replica_ports;
        if first < 1024 || last < first || last - first < 99 {
            return Err(OutOfRange::new("replica_ports", format_args!("[{first}, {last}]"), "at least 100 ports from 1024 to 65535"));
        }
        let label = self.cgroup_root.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if self.cgroup_root.is_empty() || !label {
            return Err(OutOfRange::new("cgroup_root", &self.cgroup_root, "letters, digits, - and _"));
        }
        Ok(())
    }
}

impl Limits {
    /// Least CPU of a replica: the kernel's smallest quota, 1 ms, in a period of 100 ms.
    pub const MIN_CPU: Millicores = Millicores(10);
    /// Least memory of a replica: below it no process starts.
    pub const MIN_MEMORY: Mebibytes = Mebibytes(4);

    /// Checks `allocation` against these bounds; `prefix` stands before the field in the error.
    ///
    /// # Errors
    /// Names the first field outside its range, its value and the range.
    pub fn check(&self, allocation: &Allocation, prefix: &str) -> Result<(), OutOfRange> {
        let within = |field: &str, value: u32, min: u32, max: u32| {
            let range = format_args!("{min} to {max}");
            if (min..=max).contains(&value) { Ok(()) } else { Err(OutOfRange::new(&format!("{prefix}{field}"), value, range)) }
        };
        within("replicas", allocation.replicas.0, 0, self.replicas.0)?;
        within("cpu_millicores", allocation.cpu_millicores.0, Self::MIN_CPU.0, self.cpu_millicores.0)?;
        within("memory_mib", allocation.memory_mib.0, Self::MIN_MEMORY.0, self.memory_mib.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_bound_unless_it_is_allowed() {
        let mut settings = Settings { api: SocketAddr::from(([0, 0, 0, 0], 1)), ..Settings::default() };
        assert!(settings.validate().expect_err("not loopback").to_string().contains("api = 0.0.0.0:1"));
        settings.allow_remote = true;
        assert_eq!(settings.validate(), Ok(()));
    }

    #[test]
    fn an_allocation_outside_its_bounds_is_named() {
        let limits = Limits::default();
        assert_eq!(limits.check(&Allocation::new(0, 10, 4), ""), Ok(()));
        let error = limits.check(&Allocation::new(101, 10, 4), "allocation.").expect_err("too many");
        assert_eq!(error.to_string(), "allocation.replicas = 101, must be 0 to 100");
        assert!(limits.check(&Allocation::new(1, 9, 4), "").is_err());
        assert!(limits.check(&Allocation::new(1, 10, 3), "").is_err());
    }
}
