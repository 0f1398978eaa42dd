//! The simulated part of a function file. Owns its fields, defaults and ranges; finding the profile and the trace is the platform's.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::range::OutOfRange;
use crate::workload::{Gaps, Iat, Pattern, Scale};

/// Settings of a simulated function and its load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimulatedFunction {
    /// Demands of requests and starts: the name of a profile, or a file (.toml, .yaml, .json).
    pub profile: String,
    /// Requests/s over time, as the load generator's `--rate`; absent for no load. Must not be given together with `trace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<Pattern>,
    /// Gaps between the requests of `load`.
    pub gaps: Gaps,
    /// A function of a trace as the load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<SimulatedTrace>,
    /// Factor on the profile's start-up times, 0.001 to 1000.
    pub slower_starts: f64,
    /// Factor on the profile's CPU demand of a request, 0.001 to 1000.
    pub payload: f64,
    /// Crashes of a running replica per hour, 0 to 3600.
    pub crashes_per_hour: f64,
    /// Seed of arrivals, demands and starts; by default derived from the function's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

impl Default for SimulatedFunction {
    fn default() -> Self {
        Self {
            profile: "fibonacci-python".to_owned(),
            load: None,
            gaps: Gaps::default(),
            trace: None,
            slower_starts: 1.0,
            payload: 1.0,
            crashes_per_hour: 0.0,
            seed: None,
        }
    }
}

/// One function of a trace in InVitro's or Azure's format, and how it is played.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulatedTrace {
    /// Folder or file of the trace.
    pub folder: PathBuf,
    /// Index of the function in the trace, from 0.
    #[serde(default)]
    pub function: usize,
    /// Placement of the invocations within a minute.
    #[serde(default)]
    pub iat: Iat,
    /// Seconds of the trace that are played in one second.
    #[serde(default = "one")]
    pub time_scale: f64,
    /// Requests for each invocation of the trace.
    #[serde(default = "one")]
    pub rate_scale: f64,
    /// Share of a duration of the trace that is computed, 0 to 1; the rest is waiting.
    #[serde(default = "one")]
    pub cpu_share: f64,
}

fn one() -> f64 {
    1.0
}

impl SimulatedTrace {
    /// Function `function` of the trace in `folder`, played as recorded.
    #[must_use]
    pub fn new(folder: PathBuf, function: usize) -> Self {
        Self { folder, function, iat: Iat::default(), time_scale: 1.0, rate_scale: 1.0, cpu_share: 1.0 }
    }
}

impl SimulatedFunction {
    /// Checks every number against its range.
    pub(super) fn validate(&self) -> Result<(), OutOfRange> {
        let within = |field: &str, value: f64, (min, max): (f64, f64)| {
            let range = format_args!("{min} to {max}");
            if (min..=max).contains(&value) { Ok(()) } else { Err(OutOfRange::new(&format!("simulated.{field}"), value, range)) }
        };
        within("payload", self.payload, (0.001, 1_000.0))?;
        within("slower_starts", self.slower_starts, (0.001, 1_000.0))?;
        within("crashes_per_hour", self.crashes_per_hour, (0.0, 3_600.0))?;
        if let Some(trace) = &self.trace {
            if let Some(load) = &self.load {
                return Err(OutOfRange::new("simulated.load", load, "left out where there is a trace"));
            }
            within("trace.cpu_share", trace.cpu_share, (0.0, 1.0))?;
            within("trace.time_scale", trace.time_scale, Scale::TIME)?;
            within("trace.rate_scale", trace.rate_scale, Scale::RATE)?;
        }
        Ok(())
    }
}

impl fmt::Display for SimulatedFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulated {}", self.profile)?;
        match (&self.trace, &self.load) {
            (Some(trace), _) => write!(f, ", function {} of trace {}", trace.function, trace.folder.display()),
            (None, Some(load)) => write!(f, ", load {load}"),
            (None, None) => Ok(()),
        }
    }
}
