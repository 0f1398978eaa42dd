//! Profiles: what a request of a function asks for, and what the gateway before it allows. Owns the figures of one function; must not simulate.

use std::time::Duration;

use qscale_common::platform::FunctionSpec;
use qscale_common::time::Span;
use qscale_common::units::Mebibytes;
use qscale_common::workload::WorkloadRng;
use serde::{Deserialize, Serialize};

use crate::distribution::{Distribution, Sampler};
use crate::nanos::Nanos;

/// What is known of a function: what its requests and its starts ask for, and how it works on them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionProfile {
    /// Name of the function.
    pub name: String,
    /// Where the figures come from.
    pub source: String,
    /// CPU time of a request on one core.
    pub cpu: Distribution,
    /// Time that a request waits for others (a store, another function), before it computes.
    #[serde(default = "nothing")]
    pub waiting: Distribution,
    /// What a replica needs to become ready.
    pub startup: Startup,
    /// Requests that one replica works on at once; 0 is without limit. vSwarm's Python servers work on one.
    #[serde(default = "one")]
    pub workers: u32,
    /// Cores that one replica can use at once, at least 1. Python and Node use one.
    #[serde(default = "one")]
    pub parallelism: u32,
    /// Memory of one replica.
    #[serde(default)]
    pub memory: Memory,
}

/// What a replica needs from its start to readiness. Its CPU time lasts longer under a quota.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Startup {
    /// CPU time on one core: loading the runtime and the function.
    pub cpu: Distribution,
    /// Time that does not depend on CPU: scheduling, fetching, probing.
    #[serde(default = "nothing")]
    pub waiting: Distribution,
}

/// Memory of one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// In use without any request.
    pub base_mib: Mebibytes,
    /// In use for each request in flight.
    pub request_kib: u32,
}

impl Default for Memory {
    /// A small interpreter: what vSwarm's Python functions take.
    fn default() -> Self {
        Self { base_mib: Mebibytes(50), request_kib: 64 }
    }
}

impl Memory {
    /// Working set of a replica with so many requests in flight, bytes.
    #[must_use]
    pub fn working_set(&self, in_flight: u32) -> u64 {
        self.base_mib.bytes() + (u64::from(self.request_kib) << 10) * u64::from(in_flight)
    }

    /// The most requests in flight for which `limit` has room; zero, too, where it has not even room for none.
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

/// What the gateway allows: the local platform's fields of the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Requests that one replica is given at once; 0 is without limit.
    pub concurrency: u32,
    /// Requests that may wait for a replica; one more is refused.
    pub queue: u32,
    /// Time that a request may take from arrival to the end of its reply; at most 10 days count.
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

/// What differs from the profile for a while: a perturbation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProfileScale {
    /// How many times as long requests compute: a change of payload.
    pub cpu: f64,
    /// How many times as long starts take.
    pub startup: f64,
}

impl Default for ProfileScale {
    fn default() -> Self {
        Self { cpu: 1.0, startup: 1.0 }
    }
}

/// What one request asks of its replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demand {
    /// CPU time on one core.
    pub cpu: Nanos,
    /// Time that it waits for others before it computes.
    pub waiting: Nanos,
}

/// A profile ready to be drawn from.
#[derive(Debug, Clone)]
pub struct Demands {
    request: [Sampler; 2],
    startup: [Sampler; 2],
}

impl Demands {
    /// What `profile` asks for, stretched.
    #[must_use]
    pub fn new(profile: &FunctionProfile, scale: ProfileScale) -> Self {
        Self {
            request: [profile.cpu.sampler(scale.cpu), profile.waiting.sampler(1.0)],
            startup: [profile.startup.cpu.sampler(scale.startup), profile.startup.waiting.sampler(scale.startup)],
        }
    }

    /// What the next request asks for.
    #[inline]
    pub fn request(&self, rng: &mut WorkloadRng) -> Demand {
        Demand { cpu: self.request[0].draw(rng), waiting: self.request[1].draw(rng) }
    }

    /// What the next start asks for.
    pub fn startup(&self, rng: &mut WorkloadRng) -> Demand {
        Demand { cpu: self.startup[0].draw(rng), waiting: self.startup[1].draw(rng) }
    }
}

impl FunctionProfile {
    /// A function of requests alike, one at a time, that starts at once: what tests and examples begin with.
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
            memory: Memory::default(),
        }
    }

    /// vSwarm's fibonacci-python with small numbers, as the study drove it at some 332 requests a second (`reference/peers.md`).
    ///
    /// 1.28 ms of CPU: a quota of 350m completed 74 to 84 % of them, so that a request took 1.25 to 1.42 ms; the median of 1.6 ms at 550m, where
    /// nothing queues, leaves 0.3 ms for the way there and back. A start takes 0.5 s of CPU and 0.3 s besides: 0.6 to 0.9 s from start to first reply
    /// were measured on whole cores. One request at a time (`max_workers=1`), and 52 MB.
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
            memory: Memory { base_mib: Mebibytes(49), request_kib: 64 },
        }
    }
}
