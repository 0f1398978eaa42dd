//! `qscale freeze`, `unfreeze` and `restore`: requests of an operator to the actuator. Owns arguments and output; the requests belong to `qscale_common::runtime::operator`.

use std::collections::BTreeSet;

use anyhow::bail;
use clap::Args;
use qscale_common::contract::Outcome;
use qscale_common::control;
use qscale_common::name::FunctionId;
use qscale_common::runtime::author::Author;
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::operator::{self, RestoreAnswer, RestoreAnswers, Target};
use qscale_common::runtime::signature::TrustConfig;
use qscale_common::runtime::{clock, kv};
use qscale_common::time::Span;

use crate::author::AuthorArgs;
use crate::output;
use crate::system::Locate;

/// Functions to freeze.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale freeze fibonacci --reason \"incident 7\"
  qscale freeze --all")]
pub struct FreezeArgs {
    #[command(flatten)]
    targets: TargetArgs,
    #[command(flatten)]
    author: AuthorArgs,
}

/// Functions to unfreeze.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale unfreeze fibonacci
  qscale unfreeze --all      also those that were frozen one by one")]
pub struct UnfreezeArgs {
    #[command(flatten)]
    targets: TargetArgs,
    #[command(flatten)]
    author: AuthorArgs,
}

/// Functions to restore.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale restore fibonacci
  qscale restore --all --wait 1m --reason \"incident 7\"")]
pub struct RestoreArgs {
    #[command(flatten)]
    targets: TargetArgs,
    #[command(flatten)]
    author: AuthorArgs,
    /// Time to wait for the actuator; the request remains in place if it does not answer
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    wait: Span,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct TargetArgs {
    /// namespace/name, or name
    #[arg(value_name = "FUNCTION")]
    functions: Vec<FunctionId>,
    /// All functions, including future ones
    #[arg(long)]
    all: bool,
}

impl TargetArgs {
    /// Single functions, or all.
    fn list(&self) -> Vec<Target> {
        if self.all {
            return vec![Target::All];
        }
        let functions: BTreeSet<&FunctionId> = self.functions.iter().collect();
        functions.into_iter().cloned().map(Target::One).collect()
    }
}

fn argument(target: &Target) -> String {
    match target {
        Target::One(function) => function.to_string(),
        Target::All => "--all".to_owned(),
    }
}

/// Stops the application of decisions.
pub async fn freeze(locate: &Locate, arguments: FreezeArgs) -> anyhow::Result<()> {
    let bus = locate.bus().await?;
    let author = arguments.author.author(&bus);
    for target in arguments.targets.list() {
        match operator::freeze(&author, &target, clock::now()).await? {
            Some(before) => output::line(format_args!("{target}: already frozen{}", before.provenance()))?,
            None => output::line(format_args!("{target}: frozen until `qscale unfreeze {}`", argument(&target)))?,
        }
    }
    warn_of_unknown(&bus, &arguments.targets).await
}

/// Warns about functions without a ScalingPolicy: freezing them is allowed but likely a typing error.
async fn warn_of_unknown(bus: &Bus, targets: &TargetArgs) -> anyhow::Result<()> {
    let policies = if targets.functions.is_empty() { return Ok(()) } else { kv::policies(bus, &TrustConfig::default()).await? };
    for function in targets.functions.iter().filter(|function| !policies.contains_key(&function.tokens())) {
        output::warn(format_args!("policy {function} does not exist, so nothing scales it"));
    }
    Ok(())
}

/// Applies decisions again.
pub async fn unfreeze(locate: &Locate, arguments: UnfreezeArgs) -> anyhow::Result<()> {
    let bus = locate.bus().await?;
    let author = arguments.author.author(&bus);
    let controls = kv::controls(&bus).await?;
    for target in arguments.targets.list() {
        lift(&author, &target).await?;
    }
    // --all also lifts the freezes of single functions.
    if arguments.targets.all {
        let frozen = controls.iter().filter(|(key, control)| *key != control::ALL && control.frozen);
        for function in frozen.filter_map(|(key, _)| key.replacen('.', "/", 1).parse().ok()) {
            lift(&author, &Target::One(function)).await?;
        }
    } else if let Some(all) = controls.get(control::ALL).filter(|all| all.frozen) {
        output::warn(format_args!("all functions are still frozen{}; `qscale unfreeze --all` lifts that", all.provenance()));
    }
    Ok(())
}

async fn lift(author: &Author, target: &Target) -> anyhow::Result<()> {
    match operator::unfreeze(author, target, clock::now()).await? {
        true => output::line(format_args!("{target}: no longer frozen")),
        false => output::line(format_args!("{target}: was not frozen")),
    }
}

/// Restores the allocation from before Qscale acted, and freezes it.
pub async fn restore(locate: &Locate, arguments: RestoreArgs) -> anyhow::Result<()> {
    let bus = locate.bus().await?;
    let mut answers = RestoreAnswers::subscribe(&bus, affected(&bus, &arguments.targets).await?).await?;
    let author = arguments.author.author(&bus);
    for target in arguments.targets.list() {
        operator::restore(&author, &target, clock::now()).await?;
        output::line(format_args!(
            "{target}: frozen, restore to the allocation before Qscale requested; undo with `qscale unfreeze {}`",
            argument(&target)
        ))?;
    }
    warn_of_unknown(&bus, &arguments.targets).await?;
    if let Ok(result) = tokio::time::timeout(arguments.wait.0, follow(&mut answers)).await {
        result?;
    }
    for (function, failed) in answers.unanswered() {
        match failed {
            true => output::warn(format_args!("{function}: the platform has not applied it yet; the actuator keeps retrying")),
            false => output::warn(format_args!(
                "{function}: no reply from an actuator within {}; the request remains and is carried out when one runs. A function that Qscale never changed has nothing to restore",
                arguments.wait
            )),
        }
    }
    Ok(())
}

/// Functions for which an answer is expected.
async fn affected(bus: &Bus, targets: &TargetArgs) -> anyhow::Result<BTreeSet<FunctionId>> {
    if !targets.all {
        return Ok(targets.functions.iter().cloned().collect());
    }
    let policies = kv::policies(bus, &TrustConfig::default()).await?;
    Ok(policies.into_values().filter_map(Result::ok).map(|policy| policy.function()).collect())
}

/// Prints the answers until every function has one.
async fn follow(answers: &mut RestoreAnswers) -> anyhow::Result<()> {
    let mut refused = Vec::new();
    while let Some((function, answer)) = answers.next().await? {
        match answer {
            RestoreAnswer::Restored(outcome) => output::line(restored(&function, &outcome))?,
            RestoreAnswer::Refused(outcome) => refused.push(format!("{function}: not restored, {}", refusal(&outcome))),
        }
    }
    if refused.is_empty() { Ok(()) } else { bail!("{}", refused.join("\nerror: ")) }
}

fn restored(function: &FunctionId, outcome: &Outcome) -> String {
    let after = outcome.allowed.unwrap_or(outcome.requested);
    match outcome.before.and_then(|before| output::difference(before, after)) {
        Some(difference) => format!("{function}: restored {after} ({difference})"),
        None => format!("{function}: already has {after}, as before Qscale"),
    }
}

fn refusal(outcome: &Outcome) -> String {
    let notes: Vec<&str> =
        outcome.guard.iter().map(|note| note.detail.as_str()).chain([outcome.reason.as_str()]).filter(|text| !text.is_empty()).collect();
    if notes.is_empty() { "the actuator gave no reason".to_owned() } else { output::clean(&notes.join("; ")) }
}
