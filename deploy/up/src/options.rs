//! The options of one run of the whole system. Owns which options go together; starts nothing.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use qscale_common::name::Name;
use qscale_common::time::{Span, TickLength};
use qscale_common::workload::Pattern;
use qscale_dqn::registry::DQN;

/// The platform that runs the functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum BackendKind {
    /// On this machine, as processes
    #[default]
    Local,
    /// In the simulator: hundreds of functions, in real time or faster
    Sim,
    /// In a Kubernetes cluster: the workloads that ScalingPolicy objects name. Needs the features `kubernetes` of collector and actuator
    Kubernetes,
}

/// Defaults of options that describe functions and their load.
const LOAD: &str = "diurnal:3..40/2m";
const TICK: &str = "2s";
const OBJECTIVE: &str = "200ms";
const SEED: u64 = 1;

/// Help of `--load`: the forms of a pattern.
fn load_help() -> String {
    format!("Offered load, requests/s over time: {}; none for no load", Pattern::grammars())
}

/// Run nats-server, platform, collector, agent, actuator and load generator on this machine, with a live view. With --backend kubernetes the functions run in a cluster.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale up                                              fibonacci under a wave of two minutes, scaled both ways
  qscale up --for 60s --json --load step:5@0s,40@15s,5@40s
  qscale up --versus threshold-both                      the learned agent and a rule, with the same arrivals
  qscale up --model .qscale/training/model.dqn           your own model
  qscale up --agent tree --model mine.tree               the rules of `qscale model distil`
  qscale up --agent threshold --versus static            two agents with the same arrivals
  qscale up --function my-function.toml --protocol http --load 20
  qscale up --backend sim --functions 200 --agent hpa    two hundred simulated functions
  qscale up --backend sim --speed 10 --for 10m --json --trace DIR --versus static
  qscale up --backend kubernetes --context kind-test      the workloads of a cluster that have a ScalingPolicy")]
pub struct UpOptions {
    /// Backend
    #[arg(long, value_enum, value_name = "BACKEND", default_value_t)]
    pub backend: BackendKind,
    /// Stop after this time (90s, 10m), measured by the system's clock
    #[arg(long = "for", value_name = "DURATION")]
    pub duration: Option<Span>,
    /// Offered load, a pattern; the help lists its forms.
    #[arg(long, value_name = "PATTERN", default_value = LOAD, help = load_help())]
    pub load: String,
    /// Agent that scales the function
    #[arg(long, value_name = "NAME", default_value = DQN)]
    pub agent: Name,
    /// Also run a copy of the function with the same arrivals, scaled by this agent
    #[arg(long, value_name = "NAME")]
    pub versus: Option<Name>,
    /// Model of the agent dqn: a checkpoint file, or store:NAME for the version in use of a model in the store [default: store:dqn]; with the agent tree
    /// the file of its decision tree
    #[arg(long, value_name = "FILE|store:NAME", value_hint = clap::ValueHint::FilePath)]
    pub model: Option<String>,
    /// Function: fibonacci, aes, faas, or a function file [default: fibonacci]
    #[arg(long, value_name = "NAME|FILE", value_hint = clap::ValueHint::FilePath)]
    pub function: Option<String>,
    /// Protocol of the requests: relay, direct:SERVICE, faas, http; the default depends on the function
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<String>,
    /// Field of each request, such as name=50000 for fibonacci; repeatable. By default a request takes about 15 ms of CPU
    #[arg(long = "input", value_name = "FIELD=VALUE")]
    pub inputs: Vec<String>,
    /// Number of functions [default: 1, or up to 100 of a trace]
    #[arg(long, value_name = "NUMBER", help_heading = "Simulated functions")]
    pub functions: Option<u32>,
    /// Speed of the system's clock relative to real time, 1 to 1000
    #[arg(long, value_name = "FACTOR", default_value_t = 1, help_heading = "Simulated functions")]
    pub speed: u32,
    /// Profile of the functions: a name or a file [default: fibonacci-python]
    #[arg(long, value_name = "NAME|FILE", value_hint = clap::ValueHint::FilePath, help_heading = "Simulated functions")]
    pub profile: Option<String>,
    /// Replay a trace instead of --load: a folder or file in the format of InVitro or Azure, one function for each of its functions
    #[arg(long, value_name = "DIR|FILE", value_hint = clap::ValueHint::AnyPath, help_heading = "Simulated functions")]
    pub trace: Option<PathBuf>,
    /// Context of the kubeconfig (`KUBECONFIG`, or ~/.kube/config); absent: its current one. An option of all commands.
    #[arg(skip)]
    pub context: Option<String>,
    /// Accept certificates of kubelets that cannot be checked, as they are self-signed in many clusters
    #[arg(long, help_heading = "Kubernetes")]
    pub insecure_kubelets: bool,
    /// Metrics with arrivals and latencies of the workloads, in Prometheus's text format, such as those of an ingress; without them decisions follow CPU and memory
    #[arg(long, value_name = "URL", help_heading = "Kubernetes")]
    pub requests: Option<String>,
    /// Control interval
    #[arg(long, value_name = "DURATION", default_value = TICK)]
    pub tick: TickLength,
    /// Objective: bound on the 95th percentile of latency
    #[arg(long, value_name = "DURATION", default_value = OBJECTIVE)]
    pub slo: Span,
    /// Seed of the arrivals
    #[arg(long, value_name = "NUMBER", default_value_t = SEED)]
    pub seed: u64,
    /// Refuse ScalingPolicies and models that are not signed. Makes the keys of operator and promoter in the folder `keys` of the state folder
    #[arg(long)]
    pub require_signatures: bool,
    /// Print the summary as one JSON object on standard output
    #[arg(long)]
    pub json: bool,
    /// Print lines instead of the live view
    #[arg(long)]
    pub plain: bool,
}

impl UpOptions {
    /// Refuses options of the other backend.
    pub(crate) fn check_backend(&self) -> anyhow::Result<()> {
        let local = [("function", self.function.is_some()), ("protocol", self.protocol.is_some()), ("input", !self.inputs.is_empty())];
        let simulated = [
            ("speed", self.speed != 1),
            ("functions", self.functions.is_some()),
            ("profile", self.profile.is_some()),
            ("trace", self.trace.is_some()),
        ];
        let cluster =
            [("context", self.context.is_some()), ("insecure-kubelets", self.insecure_kubelets), ("requests", self.requests.is_some())];
        let both = [("versus", self.versus.is_some())];
        let objects = [("tick", Span::from(self.tick).to_string() != TICK), ("slo", self.slo.to_string() != OBJECTIVE)];
        let load = [("load", self.load != LOAD && self.load != "none"), ("seed", self.seed != SEED)];
        let (for_local, for_simulated, for_cluster) = (
            "it is for functions of this machine",
            "it is for simulated functions; add --backend sim",
            "it is for a cluster; add --backend kubernetes",
        );
        let refused: &[(&[_], _)] = match self.backend {
            BackendKind::Local => &[(&simulated, for_simulated), (&cluster, for_cluster)],
            BackendKind::Sim => &[(&local, "it is for real functions; use --profile to describe simulated ones"), (&cluster, for_cluster)],
            BackendKind::Kubernetes => &[
                (&local, for_local),
                (&simulated, for_simulated),
                (&both, "a workload has no copy"),
                (&objects, "the ScalingPolicy objects of the cluster say it"),
                (&load, "requests come from the users of the cluster"),
            ],
        };
        let given = refused.iter().find_map(|(options, remedy)| Some((options.iter().find(|(_, given)| *given)?.0, remedy)));
        match given {
            Some((option, remedy)) => anyhow::bail!("--{option} is not valid with --backend {}: {remedy}", self.backend_name()),
            None => Ok(()),
        }
    }

    /// Name of the backend, as `--backend` takes it.
    pub fn backend_name(&self) -> &'static str {
        match self.backend {
            BackendKind::Local => "local",
            BackendKind::Sim => "sim",
            BackendKind::Kubernetes => "kubernetes",
        }
    }

    pub(crate) fn pattern(&self) -> anyhow::Result<Option<Pattern>> {
        if self.load == "none" {
            return Ok(None);
        }
        self.load.parse().map(Some).map_err(|error: String| anyhow::anyhow!("--load {}: {error}", self.load))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: UpOptions,
    }

    #[track_caller]
    fn check(line: &str, refused: Option<&str>) {
        let line = Line::try_parse_from(["up"].into_iter().chain(line.split_whitespace())).expect("the options exist");
        match (line.options.check_backend(), refused) {
            (Ok(()), None) => {}
            (Err(error), Some(option)) => assert!(error.to_string().starts_with(&format!("--{option} ")), "{error}"),
            (result, expected) => panic!("{result:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn options_of_the_other_backend_are_refused() {
        check("", None);
        check("--function aes --protocol relay --input name=1", None);
        check("--speed 10", Some("speed"));
        check("--trace x", Some("trace"));
        check("--backend sim --speed 10 --functions 3", None);
        check("--backend sim --function aes", Some("function"));
        check("--backend sim --input name=1", Some("input"));
        check("--backend sim --requests http://x/metrics", Some("requests"));
        check("--backend kubernetes --requests http://x/metrics --insecure-kubelets", None);
        check("--backend kubernetes --function aes", Some("function"));
        check("--backend kubernetes --speed 2", Some("speed"));
        check("--backend kubernetes --versus static", Some("versus"));
        check("--backend kubernetes --load 20", Some("load"));
        check("--backend kubernetes --load none --tick 2s", None);
        check("--backend kubernetes --tick 5s", Some("tick"));
        check("--backend kubernetes --slo 1s", Some("slo"));
    }

    #[test]
    fn the_help_of_load_lists_every_pattern() {
        let help = load_help();
        assert!(Pattern::forms().iter().all(|form| help.contains(form.kind)), "{help}");
    }
}
