//! `qscale freeze`, `unfreeze` and `restore`: requests of an operator to the actuator. Owns the requests; the actuator carries them out.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use async_nats::jetstream::kv::Store;
use clap::Args;
use qscale_common::contract::{DecisionSource, Effect, EventType, Outcome, Version, subject};
use qscale_common::control::{self, Control};
use qscale_common::name::FunctionId;
use qscale_common::runtime::bus::{Bus, Subscription};
use qscale_common::runtime::clock;
use qscale_common::time::{Span, Timestamp};

use crate::output;
use crate::system::Locate;
use qscale_common::runtime::kv;

/// Functions to freeze.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale freeze fibonacci --reason \"incident 7\"
  qscale freeze --all")]
pub struct FreezeArgs {
    #[command(flatten)]
    targets: TargetArgs,
    /// Reason, shown to other operators
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Functions to unfreeze.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale unfreeze fibonacci
  qscale unfreeze --all      also those that were frozen one by one")]
pub struct UnfreezeArgs {
    #[command(flatten)]
    targets: TargetArgs,
}

/// Functions to restore.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale restore fibonacci
  qscale restore --all --wait 1m --reason \"incident 7\"")]
pub struct RestoreArgs {
    #[command(flatten)]
    targets: TargetArgs,
    /// Reason, shown to other operators
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
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

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    One(FunctionId),
    All,
}

impl Target {
    fn key(&self) -> String {
        match self {
            Self::One(function) => Control::key(function),
            Self::All => control::ALL.to_owned(),
        }
    }

    fn argument(&self) -> String {
        match self {
            Self::One(function) => function.to_string(),
            Self::All => "--all".to_owned(),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(function) => function.fmt(f),
            Self::All => f.write_str("all functions"),
        }
    }
}

/// Stops the application of decisions.
pub async fn freeze(locate: &Locate, arguments: FreezeArgs) -> anyhow::Result<()> {
    let bus = locate.bus().await?;
    let store = kv::open(&bus, subject::CONTROL_BUCKET).await?;
    for target in arguments.targets.list() {
        let mut before = None;
        let edited = kv::edit(&store, &target.key(), |current| {
            before = current.and_then(|value| Control::from_json(value).ok());
            Ok(frozen(before.as_ref(), arguments.reason.as_deref(), clock::now()).map(|control| control.to_json()))
        })
        .await?;
        match before.filter(|_| edited == kv::Edited::Unchanged) {
            Some(before) => output::line(format_args!("{target}: already frozen{}", before.provenance()))?,
            None => output::line(format_args!("{target}: frozen until `qscale unfreeze {}`", target.argument()))?,
        }
    }
    warn_of_unknown(&bus, &arguments.targets).await
}

/// The control after a freeze; `None` if it is unchanged. A requested restore remains.
fn frozen(before: Option<&Control>, reason: Option<&str>, now: Timestamp) -> Option<Control> {
    let same = before.is_some_and(|before| before.frozen && reason.is_none_or(|reason| before.reason == reason));
    (!same).then(|| control(true, before.and_then(|before| before.restore), reason, now))
}

fn control(frozen: bool, restore: Option<Timestamp>, reason: Option<&str>, now: Timestamp) -> Control {
    Control { version: Version::CURRENT, frozen, restore, by: operator(), reason: reason.unwrap_or_default().to_owned(), at_ms: now }
}

fn operator() -> String {
    std::env::var("USER").ok().filter(|user| !user.is_empty()).unwrap_or_else(|| "operator".to_owned())
}

/// Warns about functions without a ScalingPolicy: freezing them is allowed but likely a typing error.
async fn warn_of_unknown(bus: &Bus, targets: &TargetArgs) -> anyhow::Result<()> {
    let policies = if targets.functions.is_empty() { return Ok(()) } else { kv::policies(bus).await? };
    for function in targets.functions.iter().filter(|function| !policies.contains_key(&function.tokens())) {
        output::warn(format_args!("policy {function} does not exist, so nothing scales it"));
    }
    Ok(())
}

/// Applies decisions again.
pub async fn unfreeze(locate: &Locate, arguments: UnfreezeArgs) -> anyhow::Result<()> {
    let bus = locate.bus().await?;
    let store = kv::open(&bus, subject::CONTROL_BUCKET).await?;
    let controls = kv::controls(&bus).await?;
    for target in arguments.targets.list() {
        lift(&store, &target.key(), &target.to_string()).await?;
    }
    // --all also lifts the freezes of single functions.
    if arguments.targets.all {
        for (key, _) in
            controls.iter().filter(|(key, control)| *key != control::ALL && control.as_ref().is_ok_and(|control| control.frozen))
        {
            lift(&store, key, &key.replacen('.', "/", 1)).await?;
        }
    } else if let Some(Ok(all)) = controls.get(control::ALL).filter(|all| all.as_ref().is_ok_and(|all| all.frozen)) {
        output::warn(format_args!("all functions are still frozen{}; `qscale unfreeze --all` lifts that", all.provenance()));
    }
    Ok(())
}

async fn lift(store: &Store, key: &str, what: &str) -> anyhow::Result<()> {
    let edited = kv::edit(store, key, |current| {
        // An invalid value may freeze, so it is replaced too.
        let free = current.is_none_or(|value| Control::from_json(value).is_ok_and(|control| !control.frozen));
        Ok((!free).then(|| control(false, None, None, clock::now()).to_json()))
    });
    match edited.await? {
        kv::Edited::Unchanged => output::line(format_args!("{what}: was not frozen")),
        kv::Edited::Created | kv::Edited::Changed => output::line(format_args!("{what}: no longer frozen")),
    }
}

/// Restores the allocation from before Qscale acted, and freezes it.
pub async fn restore(locate: &Locate, arguments: RestoreArgs) -> anyhow::Result<()> {
    let bus = locate.bus().await?;
    let store = kv::open(&bus, subject::CONTROL_BUCKET).await?;
    let mut waiting = affected(&bus, &arguments.targets).await?;
    // Subscribed before the request, so that no answer is missed.
    let outcomes: Subscription<Outcome> = bus.subscribe(subject::all(EventType::Outcome), None).await?;
    bus.client().flush().await.context("subscribe to outcomes")?;
    let asked = clock::now();
    for target in arguments.targets.list() {
        let reason = arguments.reason.as_deref();
        kv::edit(&store, &target.key(), |_| Ok(Some(control(true, Some(asked), reason, clock::now()).to_json()))).await?;
        output::line(format_args!(
            "{target}: frozen, restore to the allocation before Qscale requested; undo with `qscale unfreeze {}`",
            target.argument()
        ))?;
    }
    warn_of_unknown(&bus, &arguments.targets).await?;
    let mut failed = BTreeSet::new();
    let answers = follow(outcomes, &mut waiting, &mut failed);
    if let Ok(result) = tokio::time::timeout(arguments.wait.0, answers).await {
        result?;
    }
    for function in &waiting {
        match failed.contains(function) {
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
    let policies = kv::policies(bus).await?;
    Ok(policies.into_values().filter_map(Result::ok).map(|policy| policy.function()).collect())
}

/// Prints the answers until every function has one.
async fn follow(
    mut outcomes: Subscription<Outcome>,
    waiting: &mut BTreeSet<FunctionId>,
    failed: &mut BTreeSet<FunctionId>,
) -> anyhow::Result<()> {
    let mut refused = Vec::new();
    while !waiting.is_empty() {
        let outcome = outcomes.next().await.context("the connection was closed")?.message;
        let function = FunctionId::new(outcome.namespace.clone(), outcome.function.clone());
        // Repairs of the bounds have the source Operator too.
        if outcome.source != DecisionSource::Operator || outcome.agent.as_str() != "restore" || !waiting.contains(&function) {
            continue;
        }
        match outcome.effect {
            Effect::Failed => drop(failed.insert(function)),
            Effect::Refused | Effect::Held | Effect::Recorded => {
                refused.push(format!("{function}: not restored, {}", refusal(&outcome)));
                waiting.remove(&function);
            }
            Effect::Applied | Effect::Changed | Effect::Unchanged => {
                output::line(restored(&function, &outcome))?;
                waiting.remove(&function);
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_763_880_784_123);

    #[test]
    fn freeze_keeps_a_requested_restore() {
        let before = control(false, Some(Timestamp(7)), None, Timestamp(1));
        let after = frozen(Some(&before), Some("incident"), NOW).expect("to be written");
        assert_eq!((after.frozen, after.restore, after.reason.as_str()), (true, Some(Timestamp(7)), "incident"));
    }

    #[test]
    fn repeated_freeze_without_a_new_reason_writes_nothing() {
        let before = control(true, None, Some("incident"), Timestamp(1));
        assert_eq!(frozen(Some(&before), None, NOW), None);
        assert_eq!(frozen(Some(&before), Some("incident"), NOW), None);
        assert!(frozen(Some(&before), Some("another"), NOW).is_some());
        assert!(frozen(None, None, NOW).is_some());
    }
}
