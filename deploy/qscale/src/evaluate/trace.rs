//! Arguments that select a trace.

use std::path::PathBuf;

use clap::Args;
use qscale_experiments::evaluate::TraceSelection;

/// A trace, its split and its scale.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Trace of real functions: a folder in the format of InVitro or Azure Functions 2019 (invocations.csv,
    /// durations.csv and, where there is one, memory.csv, or the published names; of several days the first, or that of
    /// a given file), or a file in that of Azure Functions 2021
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
    /// The selected trace, if one was given.
    pub fn selection(&self) -> Option<TraceSelection> {
        let Self { path, functions, split, time_scale, rate_scale } = self;
        let (functions, split, time_scale, rate_scale) = (*functions, split.clone(), *time_scale, *rate_scale);
        path.clone().map(|path| TraceSelection { path, functions, split, time_scale, rate_scale })
    }

    /// Names every argument that was given.
    pub fn words(&self, add: &mut impl FnMut(&str, &str)) {
        self.path.iter().for_each(|path| add("--trace", &path.display().to_string()));
        self.functions.iter().for_each(|functions| add("--functions", &functions.to_string()));
        self.split.iter().for_each(|split| add("--split", split));
        self.time_scale.iter().for_each(|scale| add("--time-scale", &scale.to_string()));
        self.rate_scale.iter().for_each(|scale| add("--scale", &scale.to_string()));
    }
}
