//! The command-line tool. Owns arguments and output; decisions, measurements and simulations belong to the services and libraries that it calls.

#![deny(clippy::print_stderr)]

mod agent;
mod assess;
mod author;
mod bus;
mod changes;
mod cluster;
mod compare;
mod doctor;
mod evaluate;
mod finetune;
mod freeze_restore;
mod function;
mod help;
mod import;
mod key;
mod model;
mod output;
mod period;
mod platform;
mod policy;
mod profile;
mod replay;
mod reproduce;
mod run_options;
mod system;
mod train;
mod up;
mod validate;
mod watch;
mod why;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::system::Locate;

/// Learn how many replicas and how much CPU and memory serverless functions need
///
/// `qscale up` runs the whole system on this machine. The commands under Experiment need no running system; most others connect to one.
#[derive(Debug, Parser)]
#[command(name = "qscale", version, max_term_width = 110, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    locate: Locate,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole system on this machine, in the foreground, with a dashboard
    Up(Box<qscale_up::UpOptions>),
    /// Follow the messages of the bus: States, Actions, Outcomes, Rewards, load
    Watch(watch::WatchArgs),
    /// Show who changed policies, freezes and models, when and why
    Changes(changes::ChangesArgs),
    /// Explain a decision: observation, Q-values, guard, and what HPA and VPA would have requested
    Why(why::WhyArgs),
    /// Decide on recorded States again, by the same policy or another, and list the differences
    Replay(replay::ReplayArgs),
    /// Estimate violations and cost of another policy by simulating it over recorded arrivals
    Compare(compare::CompareArgs),
    /// Estimate from a history what Qscale and other autoscalers would have cost and violated, before anything is installed
    Assess(Box<assess::AssessArgs>),
    /// Apply, show and delete ScalingPolicies
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Turn autoscalers of a Kubernetes cluster into ScalingPolicies
    Import(import::ImportArgs),
    /// Add, show, scale and delete functions of the local platform
    #[command(subcommand)]
    Function(function::FunctionCommand),
    /// Show the platform, and reset its fencing token
    #[command(subcommand)]
    Platform(platform::PlatformCommand),
    /// Measure a function on the local platform: CPU time, waiting time and startup time
    Profile(profile::ProfileArgs),
    /// Compare the simulator with the local platform under the same load
    Validate(validate::ValidateArgs),
    /// Manage the credentials of agents
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// Set up a nats-server that `qscale up` does not start, as in a cluster
    #[command(subcommand)]
    Bus(bus::BusCommand),
    /// Compare policies in the simulator, with defaults and tuned
    Evaluate(Box<evaluate::EvaluateArgs>),
    /// Train a model in the simulator and compare it with the best tuned rule
    Train(Box<train::TrainArgs>),
    /// Reproduce the original study: a rule, tabular and deep Q-learning on fibonacci
    Reproduce(reproduce::ReproduceArgs),
    /// Measure the effect of each part of training by leaving it out
    Ablate(train::ablate::AblateArgs),
    /// Store trained models, select the version in use, and show them
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Make and show keys that sign policies and models
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Fine-tune the model in use on recordings; a candidate must pass gates to replace it
    Finetune(Box<finetune::FinetuneArgs>),
    /// Test the GPU in a separate process
    #[command(hide = true)]
    ProbeDevice,
    /// Stop applying decisions: one function, or all
    Freeze(freeze_restore::FreezeArgs),
    /// Apply decisions again after a freeze
    Unfreeze(freeze_restore::UnfreezeArgs),
    /// Restore the allocation from before Qscale acted, and freeze it
    Restore(freeze_restore::RestoreArgs),
    /// Find problems of a setup and how to fix them
    Doctor(doctor::DoctorArgs),
    /// Print tab completions for a shell
    #[command(
        after_help = "Examples:\n  source <(qscale completions bash)\n  qscale completions fish > ~/.config/fish/completions/qscale.fish"
    )]
    Completions {
        /// Shell
        shell: clap_complete::Shell,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let matches = help::grouped(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match run(cli).await {
        Ok(code) => code,
        // The reader of the output, such as `head`, closed it.
        Err(error) if output::pipe_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(mut cli: Cli) -> anyhow::Result<ExitCode> {
    let _forward = match &mut cli.command {
        Command::Up(options) => {
            options.context = cli.locate.context.clone();
            None
        }
        // It checks the cluster before the chart.
        Command::Doctor(_) => None,
        _ => cli.locate.forward()?,
    };
    let locate = &cli.locate;
    if !matches!(cli.command, Command::Up(_)) {
        locate.follow_clock()?;
    }
    match cli.command {
        Command::Up(arguments) => return up::run(locate, *arguments).await,
        Command::Evaluate(arguments) => return evaluate::run(locate, *arguments).await,
        Command::Train(arguments) => return train::run(locate, *arguments).await,
        Command::Finetune(arguments) => return finetune::run(locate, *arguments).await,
        Command::Reproduce(arguments) => return reproduce::run(locate, arguments).await,
        Command::Ablate(arguments) => return train::ablate::run(locate, arguments).await,
        Command::ProbeDevice => output::json(&qscale_experiments::train::device::probe())?,
        Command::Watch(arguments) => watch::run(locate, arguments).await?,
        Command::Changes(arguments) => changes::run(locate, arguments).await?,
        Command::Why(arguments) => why::run(locate, arguments).await?,
        Command::Replay(arguments) => return replay::run(locate, arguments).await,
        Command::Assess(arguments) => return assess::run(locate, *arguments).await,
        Command::Compare(arguments) => return compare::run(locate, arguments).await,
        Command::Policy(command) => policy::run(locate, command).await?,
        Command::Import(arguments) => import::run(&arguments)?,
        Command::Function(command) => function::run(locate, command).await?,
        Command::Platform(command) => platform::run(locate, command).await?,
        Command::Profile(arguments) => profile::run(locate, arguments).await?,
        Command::Validate(arguments) => return validate::run(locate, arguments).await,
        Command::Agent(command) => agent::run(locate, command).await?,
        Command::Bus(command) => bus::run(command).await?,
        Command::Model(command) => model::run(locate, command).await?,
        Command::Key(command) => key::run(&command)?,
        Command::Freeze(arguments) => freeze_restore::freeze(locate, arguments).await?,
        Command::Unfreeze(arguments) => freeze_restore::unfreeze(locate, arguments).await?,
        Command::Restore(arguments) => freeze_restore::restore(locate, arguments).await?,
        Command::Doctor(arguments) => return doctor::run(locate, arguments).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "qscale", &mut script);
            output::line(String::from_utf8_lossy(&script).trim_end())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
