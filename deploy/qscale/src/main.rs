//! The command that people type. Owns arguments and what is shown; what is decided, applied or measured belongs to the services.

mod agent;
mod compare;
mod doctor;
mod evaluate;
mod finetune;
mod function;
mod journal;
mod model;
mod operate;
mod period;
mod policy;
mod profile;
mod replay;
mod reproduce;
mod show;
mod system;
mod train;
mod up;
mod validate;
mod watch;
mod why;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

// The commands refer to these as `crate::store` and `crate::blocking`.
use qscale_common::runtime::{cancellable as blocking, kv as store};

use crate::system::Locate;

/// Give serverless functions the resources they need and no more.
///
/// `qscale up` runs the whole system on this machine; `qscale train` and `qscale evaluate` need none; every other command speaks to a running one.
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
    /// Run the whole system on this machine, in the foreground, with a live view
    Up(Box<up::UpArgs>),
    /// Follow what services tell each other: states, actions, outcomes, rewards, load
    Watch(watch::WatchArgs),
    /// Explain a decision: what it saw, what it valued, what the guard made of it, what HPA and VPA would have done
    Why(why::WhyArgs),
    /// Decide on what was recorded again, by the same policy or another, and tell what differs
    Replay(replay::ReplayArgs),
    /// Estimate what another policy would have come to, by simulating it and the acting one over the recorded arrivals
    Compare(compare::CompareArgs),
    /// Write, read and delete ScalingPolicies
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Add, list and delete functions of the local platform
    #[command(subcommand)]
    Function(function::FunctionCommand),
    /// Measure a function on the local platform: what a request computes and waits, what a start takes
    Profile(profile::ProfileArgs),
    /// Run the same function under the same load simulated and on the local platform, and tell how far they differ
    Validate(validate::ValidateArgs),
    /// Give an agent a credential of its own
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// Compare policies in the simulator, as they come and tuned
    Evaluate(Box<evaluate::EvaluateArgs>),
    /// Train a model in the simulator, beside the best tuned rule
    Train(Box<train::TrainArgs>),
    /// Repeat the study that Qscale grew out of: a rule, tabular and deep Q-learning on fibonacci, simulated
    Reproduce(reproduce::ReproduceArgs),
    /// Say what each part of training is worth, leaving out one at a time
    Ablate(train::ablate::AblateArgs),
    /// Push trained models to a running system, choose which version decides, and show what they are
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Let the model in use go on learning from what was recorded, and replace it only through gates; off by default
    Finetune(Box<finetune::FinetuneArgs>),
    /// Try the GPU, in a process of its own
    #[command(hide = true)]
    ProbeDevice,
    /// Change nothing any more: one function, or all
    Freeze(operate::FreezeArgs),
    /// Let decisions be applied again after a freeze
    Unfreeze(operate::UnfreezeArgs),
    /// Put back the allocation from before Qscale acted, and freeze the function there
    Restore(operate::RestoreArgs),
    /// Say what is wrong with a set-up and how to mend it
    Doctor(doctor::DoctorArgs),
    /// Print the tab completions of a shell: source <(qscale completions bash)
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli).await {
        Ok(code) => code,
        // Whoever read the output, `head` say, has seen enough.
        Err(error) if show::pipe_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
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
        Command::ProbeDevice => train::device::probe()?,
        Command::Watch(arguments) => watch::run(locate, arguments).await?,
        Command::Why(arguments) => why::run(locate, arguments).await?,
        Command::Replay(arguments) => return replay::run(locate, arguments).await,
        Command::Compare(arguments) => return compare::run(locate, arguments).await,
        Command::Policy(command) => policy::run(locate, command).await?,
        Command::Function(command) => function::run(locate, command).await?,
        Command::Profile(arguments) => profile::run(locate, arguments).await?,
        Command::Validate(arguments) => return validate::run(locate, arguments).await,
        Command::Agent(command) => agent::run(locate, command).await?,
        Command::Model(command) => model::run(locate, command).await?,
        Command::Freeze(arguments) => operate::freeze(locate, arguments).await?,
        Command::Unfreeze(arguments) => operate::unfreeze(locate, arguments).await?,
        Command::Restore(arguments) => operate::restore(locate, arguments).await?,
        Command::Doctor(arguments) => return doctor::run(locate, arguments).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "qscale", &mut script);
            show::line(String::from_utf8_lossy(&script).trim_end())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
