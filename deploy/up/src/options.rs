//! The options of one run of the whole system. Owns which options go together; starts nothing.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use qscale_common::name::Name;
use qscale_common::time::{Span, TickLength};
use qscale_common::workload::Pattern;
use qscale_dqn::registry::DQN;

/// Where functions run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Backend {
    /// On this machine, as processes
    #[default]
    Local,
    /// Nowhere: they are simulated, hundreds at once, in real time or faster
    Sim,
}

/// Run nats-server, local platform, collector, agent, actuator and load generator, and show what they do.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale up                                              fibonacci under a daily wave of two minutes, scaled both ways
  qscale up --for 60s --json --load step:5@0s,40@15s,5@40s
  qscale up --versus threshold-both                      the learned agent and a rule side by side under the same arrivals
  qscale up --model .qscale/training/model.dqn           by a model of your own
  qscale up --agent threshold --versus static            two agents side by side under the same arrivals
  qscale up --function my-function.toml --protocol http --load 20
  qscale up --backend sim --functions 200 --agent hpa    two hundred simulated functions
  qscale up --backend sim --speed 10 --for 10m --json --trace DIR --versus static")]
pub struct UpArgs {
    /// Where functions run
    #[arg(long, value_enum, value_name = "BACKEND", default_value_t)]
    pub backend: Backend,
    /// Stop after this time (90s, 10m); of the system's own time where that runs faster
    #[arg(long = "for", value_name = "TIME")]
    pub duration: Option<Span>,
    /// Load that is offered: constant:50, step:RATE@TIME,..., ramp:A..B/TIME, diurnal:A..B/PERIOD, bursty:A..B/PERIOD/LENGTH, spike:A..B@TIME/LENGTH; none for no load
    #[arg(long, value_name = "PATTERN", default_value = "diurnal:3..40/2m")]
    pub load: String,
    /// Agent that scales the function
    #[arg(long, value_name = "NAME", default_value = DQN)]
    pub agent: Name,
    /// Run a second copy of the function under the same arrivals, scaled by this agent
    #[arg(long, value_name = "NAME")]
    pub versus: Option<Name>,
    /// What the agent dqn decides by: a checkpoint, or store:NAME for the version of NAME that is in use in the model store; store:dqn without this
    #[arg(long, value_name = "FILE|store:NAME", value_hint = clap::ValueHint::FilePath)]
    pub model: Option<String>,
    /// Function to run: fibonacci (without this), aes, faas, or a function file
    #[arg(long, value_name = "NAME|FILE", value_hint = clap::ValueHint::FilePath)]
    pub function: Option<String>,
    /// How requests are sent: relay, direct:SERVICE, faas, http; by default what suits the function
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<String>,
    /// What each request asks for, such as name=50000 of fibonacci; by default some 15 ms of CPU; may be repeated
    #[arg(long = "input", value_name = "FIELD=VALUE")]
    pub inputs: Vec<String>,
    /// Functions to simulate; without this one, or up to 100 of a trace
    #[arg(long, value_name = "COUNT", help_heading = "Simulated functions")]
    pub functions: Option<u32>,
    /// How many times as fast as real time the whole system lives, 1 to 1000
    #[arg(long, value_name = "FACTOR", default_value_t = 1, help_heading = "Simulated functions")]
    pub speed: u32,
    /// What requests and starts ask for: a profile by name (fibonacci-python without this), or a file
    #[arg(long, value_name = "NAME|FILE", value_hint = clap::ValueHint::FilePath, help_heading = "Simulated functions")]
    pub profile: Option<String>,
    /// Play a trace instead of --load: a folder in InVitro's or Azure's format, a function of it for each
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath, help_heading = "Simulated functions")]
    pub trace: Option<PathBuf>,
    /// How often is decided
    #[arg(long, value_name = "TIME", default_value = "2s")]
    pub tick: TickLength,
    /// Bound on the 95th percentile of latency
    #[arg(long, value_name = "TIME", default_value = "200ms")]
    pub slo: Span,
    /// Seed of the arrivals: the same seed, the same arrivals
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Print one summary object at the end on standard output
    #[arg(long)]
    pub json: bool,
    /// Plain lines instead of the live view
    #[arg(long)]
    pub plain: bool,
}

impl UpArgs {
    /// Refuses what the backend cannot do.
    pub(crate) fn check_backend(&self) -> anyhow::Result<()> {
        let (given, why) = match self.backend {
            Backend::Local => (
                [
                    ("speed", self.speed != 1),
                    ("functions", self.functions.is_some()),
                    ("profile", self.profile.is_some()),
                    ("trace", self.trace.is_some()),
                ],
                "real processes cannot be hurried or multiplied; add --backend sim to simulate functions",
            ),
            Backend::Sim => (
                [
                    ("function", self.function.is_some()),
                    ("protocol", self.protocol.is_some()),
                    ("input", !self.inputs.is_empty()),
                    ("", false),
                ],
                "simulated functions run nothing; --profile says what their requests ask for",
            ),
        };
        match given.into_iter().find(|(_, given)| *given) {
            Some((option, _)) => anyhow::bail!("--{option} does not go with --backend {}: {why}", self.backend_name()),
            None => Ok(()),
        }
    }

    /// Name of the backend, as `--backend` takes it.
    pub fn backend_name(&self) -> &'static str {
        match self.backend {
            Backend::Local => "local",
            Backend::Sim => "sim",
        }
    }

    pub(crate) fn pattern(&self) -> anyhow::Result<Option<Pattern>> {
        if self.load == "none" {
            return Ok(None);
        }
        self.load.parse().map(Some).map_err(|error: String| anyhow::anyhow!("--load {}: {error}", self.load))
    }
}
