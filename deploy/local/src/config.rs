//! Configuration of the platform. Owns defaults and ranges; reads nothing itself.

use std::net::SocketAddr;
use std::path::PathBuf;

use qscale_common::platform::Limits;
use qscale_common::range::OutOfRange;
use qscale_common::runtime::service::ServiceConfig;
use qscale_common::runtime::telemetry::TelemetryConfig;
use qscale_common::time::Span;
use serde::{Deserialize, Serialize};

/// Everything that can be configured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalConfig {
    /// Address of the API and of `/metrics`; port 0 takes a free one.
    pub api: SocketAddr,
    /// Address of the gateway; port 0 takes a free one.
    pub gateway: SocketAddr,
    /// Whether non-loopback addresses are allowed. Requests and the token of the API then cross the network unencrypted,
    /// and the API runs any command that it receives.
    pub allow_remote: bool,
    /// Folder for functions, allocations, the highest lease, the addresses and the token of the API. Private to the
    /// platform's user, and locked by one platform at a time.
    pub state_dir: PathBuf,
    /// Name of the cgroup, below the platform's own, that holds those of the replicas.
    pub cgroup_root: String,
    /// Whether to limit CPU and memory through cgroups where they are writable. `false`: horizontal scaling only.
    pub vertical: bool,
    /// User and group of all functions, from 1, if the platform runs as root. Absent: each replica has its own,
    /// 2000000000 and the number of its port, or 65534 in a user namespace without those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_user: Option<u32>,
    /// Folders that functions cannot access, besides `state_dir`. Takes effect where the kernel has Landlock.
    pub hidden_folders: Vec<PathBuf>,
    /// First and last port for replicas. Below the kernel's ephemeral ports, so that outgoing connections do not take them.
    pub replica_ports: (u16, u16),
    /// Time between SIGTERM and SIGKILL for a replica that is stopped.
    pub kill_grace: Span,
    /// Longest time to finish requests when the platform stops.
    pub stop_timeout: Span,
    /// Upper bounds of allocations.
    pub limits: Limits,
    /// Logs of the platform itself.
    pub telemetry: TelemetryConfig,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self {
            api: SocketAddr::from(([127, 0, 0, 1], 8701)),
            gateway: SocketAddr::from(([127, 0, 0, 1], 8700)),
            allow_remote: false,
            state_dir: PathBuf::from(".qscale/platform"),
            cgroup_root: "qscale".to_owned(),
            vertical: true,
            function_user: None,
            hidden_folders: Vec::new(),
            replica_ports: (20_000, 31_999),
            kill_grace: Span::seconds(5),
            stop_timeout: Span::seconds(10),
            limits: Limits::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl LocalConfig {
    /// Validates ranges.
    ///
    /// # Errors
    /// The first field outside its range, with its value and the range.
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
        if self.function_user.is_some_and(|user| user == 0 || user == u32::MAX) {
            return Err(OutOfRange::new("function_user", self.function_user.unwrap_or_default(), "1 to 4294967294"));
        }
        let label = self.cgroup_root.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if self.cgroup_root.is_empty() || !label {
            return Err(OutOfRange::new("cgroup_root", &self.cgroup_root, "letters, digits, - and _"));
        }
        Ok(())
    }
}

impl ServiceConfig for LocalConfig {
    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_bound_unless_it_is_allowed() {
        let mut config = LocalConfig { api: SocketAddr::from(([0, 0, 0, 0], 1)), ..LocalConfig::default() };
        assert!(config.validate().expect_err("not loopback").to_string().contains("api = 0.0.0.0:1"));
        config.allow_remote = true;
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn functions_do_not_run_as_root() {
        let config = LocalConfig { function_user: Some(0), ..LocalConfig::default() };
        assert!(config.validate().expect_err("root").to_string().contains("function_user = 0"));
    }
}
