//! Arguments that select a trace. Owns how they change a suite; the trace is opened by [`qscale_common::runtime::traces`].

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use qscale_common::runtime::traces::open_trace;
use qscale_common::workload::Scale;
use qscale_common::workload::trace::{Keep, Trace};
use qscale_evaluate::Suite;
use qscale_evaluate::suite::TraceEntry;

use crate::output;

/// A trace, its split and its scale.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Trace of real functions: a folder in the format of InVitro or Azure Functions 2019 (invocations.csv, durations.csv and, where there is one, memory.csv, or the
    /// published names; of several days the first, or that of a given file), or a file in that of Azure Functions 2021
    #[arg(long = "trace", value_name = "DIR|FILE", value_hint = clap::ValueHint::AnyPath)]
    path: Option<PathBuf>,
    /// Number of functions, from the start of the trace
    #[arg(id = "trace-functions", long = "functions", value_name = "NUMBER", requires = "path")]
    functions: Option<usize>,
    /// Shares of the trace's minutes for training, validation and test, in percent
    #[arg(long, value_name = "A/B/C", requires = "path")]
    split: Option<String>,
    /// Seconds of the trace played in one second
    #[arg(long, value_name = "FACTOR", requires = "path")]
    time_scale: Option<f64>,
    /// Invocations for each one recorded
    #[arg(long = "scale", value_name = "FACTOR", requires = "path")]
    rate_scale: Option<f64>,
}

impl TraceArgs {
    /// Whether a trace was given.
    pub fn is_given(&self) -> bool {
        self.path.is_some()
    }

    /// Name of the trace in results: the last part of its path, in letters, digits and dashes.
    pub fn name(&self) -> Option<String> {
        let path = self.path.as_ref()?;
        let full = path.canonicalize().unwrap_or_else(|_| path.clone());
        let name = full.file_stem().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        Some(name.chars().map(plain).collect::<String>().trim_matches('-').to_owned())
    }

    /// Overrides the split, functions and scale of a suite with the given ones.
    ///
    /// # Errors
    /// When a value is outside its range.
    pub fn apply(&self, entry: &mut TraceEntry) -> anyhow::Result<()> {
        if let Some(split) = &self.split {
            let parts: Result<Vec<u32>, _> = split.split('/').map(str::parse).collect();
            let parts: Option<[u32; 3]> = parts.ok().and_then(|parts| parts.try_into().ok());
            entry.split =
                parts.with_context(|| format!("--split {split}: write three shares in percent that sum to 100, such as 60/20/20"))?;
        }
        entry.functions = self.functions.unwrap_or(entry.functions);
        let scale = Scale::new(self.time_scale.unwrap_or(entry.scale.time), self.rate_scale.unwrap_or(entry.scale.rate));
        entry.scale = scale.map_err(anyhow::Error::msg)?;
        Ok(())
    }

    /// Names every argument that was given.
    pub fn words(&self, add: &mut impl FnMut(&str, &str)) {
        self.path.iter().for_each(|path| add("--trace", &path.display().to_string()));
        self.functions.iter().for_each(|functions| add("--functions", &functions.to_string()));
        self.split.iter().for_each(|split| add("--split", split));
        self.time_scale.iter().for_each(|scale| add("--time-scale", &scale.to_string()));
        self.rate_scale.iter().for_each(|scale| add("--scale", &scale.to_string()));
    }

    /// Reads the trace, and prints which part of it was read.
    ///
    /// # Errors
    /// When none was given, the suite has no trace section, or the trace cannot be read.
    pub fn read(&self, suite: &Suite) -> anyhow::Result<Trace> {
        let path = self.path.as_deref().context("no trace given; add --trace DIR")?;
        let entry = suite.trace.as_ref().context("the suite has no [trace] section")?;
        let keep = Keep { functions: if entry.functions == 0 { usize::MAX } else { entry.functions }, ..Keep::default() };
        let opened = open_trace(path, keep, entry.memory_mib)?;
        output::note(&opened.description);
        Ok(opened.trace)
    }
}
