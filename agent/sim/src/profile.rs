//! Profiles: demands of the requests and starts of a function, and limits of its gateway. Owns the figures of one
//! function; must not simulate.

use std::time::Duration;

use qscale_common::platform::FunctionSpec;
use qscale_common::time::Span;
use qscale_common::units::Mebibytes;
use qscale_common::workload::WorkloadRng;
use serde::{Deserialize, Serialize};

use crate::distribution::{Distribution, Sampler};
use crate::nanos::Nanos;

/// A function: demands of its requests and starts, and how it serves them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionProfile {
    /// Name of the function.
    pub name: String,
    /// Source of the figures.
    pub source: String,
    /// CPU time of a request on one core.
    pub cpu: Distribution,
    /// Time that a request waits for other services (a store, another function) before it computes.
    #[serde(default = "nothing")]
    pub waiting: Distribution,
    /// Demand of a start.
    pub startup: Startup,
    /// Requests that one replica serves at once; 0 without limit. vSwarm's Python servers serve one.
    #[serde(default = "one")]
    pub workers: u32,
    /// Cores that one replica can use at once, at least 1. Python and Node use one.
    #[serde(default = "one")]
    pub parallelism: u32,
    /// Memory of one replica.
    #[serde(default)]
    pub memory: MemoryProfile,
}

/// Demand of a start until readiness. Its CPU time takes longer under a quota.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Startup {
    /// CPU time on one core: loading the runtime and the function.
    pub cpu: Distribution,
    /// Time that does not depend on CPU: scheduling, image pull, probes.
    #[serde(default = "nothing")]
    pub waiting: Distribution,
}

/// Memory of one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryProfile {
    /// Usage without any request.
    pub base_mib: Mebibytes,
    /// Usage of each request in flight.
    pub request_kib: u32,
}

impl Default for MemoryProfile {
    /// A small interpreter, as vSwarm's Python functions.
    fn default() -> Self {
        Self { base_mib: Mebibytes(50), request_kib: 64 }
    }
}

impl MemoryProfile {
    /// Working set of a replica with `in_flight` requests, bytes.
    #[must_use]
    pub fn working_set(&self, in_flight: u32) -> u64 {
        self.base_mib.bytes() + (u64::from(self.request_kib) << 10) * u64::from(in_flight)
    }

    /// Greatest number of requests in flight that fits into `limit`; also zero if not even the base fits.
    #[must_use]
    pub fn room(&self, limit: Mebibytes) -> u32 {
        match u64::from(self.request_kib) << 10 {
            0 => u32::MAX,
            request => u32::try_from(limit.bytes().saturating_sub(self.base_mib.bytes()) / request).unwrap_or(u32::MAX),
        }
    }
}

fn nothing() -> Distribution {
    Distribution::ZERO
}

fn one() -> u32 {
    1
}

/// Limits of the gateway, as the local platform's fields of the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Requests dispatched to one replica at once; 0 without limit.
    pub concurrency: u32,
    /// Length of the queue; further requests are refused.
    pub queue: u32,
    /// Time from arrival to the end of the reply after which a request times out, up to 10 days.
    pub timeout: Span,
}

impl Default for Gateway {
    /// The local platform's defaults.
    fn default() -> Self {
        Self { concurrency: 100, queue: 10_000, timeout: Span::seconds(30) }
    }
}

impl From<&FunctionSpec> for Gateway {
    fn from(spec: &FunctionSpec) -> Self {
        Self { concurrency: spec.concurrency, queue: spec.queue, timeout: spec.timeout }
    }
}

/// Factors on a profile's demands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProfileScale {
    /// Factor of the CPU time of requests.
    pub cpu: f64,
    /// Factor of the duration of starts.
    pub startup: f64,
}

impl Default for ProfileScale {
    fn default() -> Self {
        Self { cpu: 1.0, startup: 1.0 }
    }
}

/// Demand of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestDemand {
    /// CPU time on one core.
    pub cpu: Nanos,
    /// Time that it waits for other services before it computes.
    pub waiting: Nanos,
}

/// Samplers of a profile.
#[derive(Debug, Clone)]
pub struct Demands {
    request: [Sampler; 2],
    startup: [Sampler; 2],
}

impl Demands {
    /// Samplers of `profile`, scaled.
    #[must_use]
    pub fn new(profile: &FunctionProfile, scale: ProfileScale) -> Self {
        Self {
            request: [profile.cpu.sampler(scale.cpu), profile.waiting.sampler(1.0)],
            startup: [profile.startup.cpu.sampler(scale.startup), profile.startup.waiting.sampler(scale.startup)],
        }
    }

    /// Draws the demand of the next request.
    #[inline]
    pub fn request(&self, rng: &mut WorkloadRng) -> RequestDemand {
        RequestDemand { cpu: self.request[0].draw(rng), waiting: self.request[1].draw(rng) }
    }

    /// Draws the demand of the next start.
    pub fn startup(&self, rng: &mut WorkloadRng) -> RequestDemand {
        RequestDemand { cpu: self.startup[0].draw(rng), waiting: self.startup[1].draw(rng) }
    }
}

impl FunctionProfile {
    /// A function that serves one request at a time and starts at once, for tests and examples.
    #[must_use]
    pub fn simple(name: &str, cpu: Distribution) -> Self {
        Self {
            name: name.to_owned(),
            source: "made up".to_owned(),
            cpu,
            waiting: Distribution::ZERO,
            startup: Startup { cpu: Distribution::ZERO, waiting: Distribution::ZERO },
            workers: 1,
            parallelism: 1,
            memory: MemoryProfile::default(),
        }
    }

    /// vSwarm's fibonacci-python with small inputs, as the reproduced study ran it at 332 requests a second.
    ///
    /// 1.28 ms of CPU, since a quota of 350m completed 74 to 84 % of the requests, which means 1.25 to 1.42 ms. The
    /// median latency of 1.6 ms at 550m, without queueing, leaves 0.3 ms for the network. A start takes 0.5 s of CPU
    /// and 0.3 s of waiting: 0.6 to 0.9 s from start to first reply were measured on whole cores. One request at a time
    /// (`max_workers=1`), 52 MB.
    #[must_use]
    pub fn fibonacci_python() -> Self {
        let spread = |median: Duration| Distribution::log_normal(median.into(), 0.1).expect("a sigma within its range");
        Self {
            name: "fibonacci-python".to_owned(),
            source: "the study's completion and latency against CPU limit at 332 rps; vSwarm's own profile for memory".to_owned(),
            cpu: spread(Duration::from_micros(1280)),
            waiting: Distribution::constant(Nanos(300_000)),
            startup: Startup { cpu: spread(Duration::from_millis(500)), waiting: spread(Duration::from_millis(300)) },
            workers: 1,
            parallelism: 1,
            memory: MemoryProfile { base_mib: Mebibytes(49), request_kib: 64 },
        }
    }
}
