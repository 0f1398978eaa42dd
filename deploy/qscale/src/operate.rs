//! `qscale freeze`, `unfreeze` and `restore`: what an operator asks for, written where the actuator reads it. Owns the asking; carries nothing out.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use async_nats::jetstream::kv::Store;
use clap::Args;
use qscale_common::contract::{Effect, EventType, Outcome, Source, Version, subject};
use qscale_common::control::{self, Control};
use qscale_common::name::FunctionId;
use qscale_common::runtime::bus::{Bus, Subscription};
use qscale_common::runtime::clock;
use qscale_common::time::{Span, Timestamp};

use crate::show;
use crate::store;
use crate::system::Locate;

/// Which functions, and why.
#[derive(Debug, Args)]
pub struct FreezeArgs {
    #[command(flatten)]
    which: Which,
    /// Why, for whoever finds it frozen
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Which functions.
#[derive(Debug, Args)]
pub struct UnfreezeArgs {
    #[command(flatten)]
    which: Which,
}

/// Which functions, and for how long the answer is awaited.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    which: Which,
    /// Why, for whoever finds it frozen
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// How long to wait for the actuator; the request stands whether or not it answers
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    wait: Span,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// namespace/name, or name
    #[arg(value_name = "FUNCTION")]
    functions: Vec<FunctionId>,
    /// All functions, those that come later included
    #[arg(long)]
    all: bool,
}

impl Which {
    /// What is addressed: single functions, or everything.
    fn targets(&self) -> Vec<Target> {
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
            Self::All => f.write_str("everything"),
        }
    }
}

/// Has nothing changed any more.
pub async fn freeze(locate: &Locate, arguments: FreezeArgs) -> anyhow::Result<()> {
    let bus = locate.bus().await?;
    let store = store::open(&bus, subject::CONTROL_BUCKET).await?;
    for target in arguments.which.targets() {
        let mut before = None;
        let edited = store::edit(&store, &target.key(), |current| {
            before = current.and_then(|value| Control::from_json(value).ok());
            Ok(frozen(before.as_ref(), arguments.reason.as_deref(), clock::now()).map(|control| control.to_json()))
        })
        .await?;
        match before.filter(|_| edited == store::Edited::Unchanged) {
            Some(before) => show::line(format_args!("{target} is frozen already{}", whence(&before)))?,
            None => show::line(format_args!("{target} is frozen: nothing is changed until `qscale unfreeze {}`", target.argument()))?,
        }
    }
    warn_of_unknown(&bus, &arguments.which).await
}

/// What a freeze makes of the control that was there; `None` where nothing is to be written. A restore that was asked for stands.
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

/// By whom, when and why, as far as that is known.
pub fn whence(control: &Control) -> String {
    let by = if control.by.is_empty() { String::new() } else { format!(" by {}", show::clean(&control.by)) };
    let reason = if control.reason.is_empty() { String::new() } else { format!(": {}", show::clean(&control.reason)) };
    format!("{by} since {} {}{reason}", show::day(control.at_ms), show::clock(control.at_ms))
}

/// A freeze of a function that has no policy is allowed, and most likely a slip of the finger.
async fn warn_of_unknown(bus: &Bus, which: &Which) -> anyhow::Result<()> {
    let policies = if which.functions.is_empty() { return Ok(()) } else { store::policies(bus).await? };
    for function in which.functions.iter().filter(|function| !policies.contains_key(&function.tokens())) {
        show::warn(format_args!("there is no policy {function}, so nothing would have changed it"));
    }
    Ok(())
}

/// Has decisions applied again.
pub async fn unfreeze(locate: &Locate, arguments: UnfreezeArgs) -> anyhow::Result<()> {
    let bus = locate.bus().await?;
    let store = store::open(&bus, subject::CONTROL_BUCKET).await?;
    let controls = store::controls(&bus).await?;
    for target in arguments.which.targets() {
        lift(&store, &target.key(), &target.to_string()).await?;
    }
    // Lifting the freeze of everything means every freeze.
    if arguments.which.all {
        for (key, _) in
            controls.iter().filter(|(key, control)| *key != control::ALL && control.as_ref().is_ok_and(|control| control.frozen))
        {
            lift(&store, key, &key.replacen('.', "/", 1)).await?;
        }
    } else if let Some(Ok(all)) = controls.get(control::ALL).filter(|all| all.as_ref().is_ok_and(|all| all.frozen)) {
        show::warn(format_args!("everything is still frozen{}; `qscale unfreeze --all` ends that", whence(all)));
    }
    Ok(())
}

async fn lift(store: &Store, key: &str, what: &str) -> anyhow::Result<()> {
    let edited = store::edit(store, key, |current| {
        // A value that cannot be read may freeze, so it is replaced too.
        let free = current.is_none_or(|value| Control::from_json(value).is_ok_and(|control| !control.frozen));
        Ok((!free).then(|| control(false, None, None, clock::now()).to_json()))
    });
    match edited.await? {
        store::Edited::Unchanged => show::line(format_args!("{what} was not frozen")),
        store::Edited::Created | store::Edited::Changed => {
            show::line(format_args!("{what} is no longer frozen; decisions are applied again"))
        }
    }
}

/// Has the allocation from before Qscale put back, and kept.
pub async fn restore(locate: &Locate, arguments: RestoreArgs) -> anyhow::Result<()> {
    let bus = locate.bus().await?;
    let store = store::open(&bus, subject::CONTROL_BUCKET).await?;
    let mut waiting = affected(&bus, &arguments.which).await?;
    // Listening begins before anything is asked, so that no answer is missed.
    let outcomes: Subscription<Outcome> = bus.subscribe(subject::all(EventType::Outcome), None).await?;
    bus.client().flush().await.context("subscribe to outcomes")?;
    let asked = clock::now();
    for target in arguments.which.targets() {
        let reason = arguments.reason.as_deref();
        store::edit(&store, &target.key(), |_| Ok(Some(control(true, Some(asked), reason, clock::now()).to_json()))).await?;
        show::line(format_args!(
            "{target} is frozen and shall have what it had before Qscale; `qscale unfreeze {}` ends that",
            target.argument()
        ))?;
    }
    warn_of_unknown(&bus, &arguments.which).await?;
    let mut failed = BTreeSet::new();
    let answers = follow(outcomes, &mut waiting, &mut failed);
    if let Ok(result) = tokio::time::timeout(arguments.wait.0, answers).await {
        result?;
    }
    for function in &waiting {
        match failed.contains(function) {
            true => show::warn(format_args!("{function}: the platform did not take it yet; the actuator keeps trying")),
            false => show::warn(format_args!(
                "{function}: no actuator answered within {}; the request stands and is carried out as soon as one runs. Where Qscale never changed a function there is nothing to put back",
                arguments.wait
            )),
        }
    }
    Ok(())
}

/// The functions of which an answer is expected.
async fn affected(bus: &Bus, which: &Which) -> anyhow::Result<BTreeSet<FunctionId>> {
    if !which.all {
        return Ok(which.functions.iter().cloned().collect());
    }
    let policies = store::policies(bus).await?;
    Ok(policies.into_values().filter_map(Result::ok).map(|policy| policy.function()).collect())
}

/// Shows the answers to what was asked, until there is one for every function.
async fn follow(
    mut outcomes: Subscription<Outcome>,
    waiting: &mut BTreeSet<FunctionId>,
    failed: &mut BTreeSet<FunctionId>,
) -> anyhow::Result<()> {
    let mut refused = Vec::new();
    while !waiting.is_empty() {
        let outcome = outcomes.next().await.context("the connection was closed")?.message;
        let function = FunctionId::new(outcome.namespace.clone(), outcome.function.clone());
        // A repair of the bounds is an operator's too.
        if outcome.source != Source::Operator || outcome.agent.as_str() != "restore" || !waiting.contains(&function) {
            continue;
        }
        match outcome.effect {
            Effect::Failed => drop(failed.insert(function)),
            Effect::Refused | Effect::Held | Effect::Recorded => {
                refused.push(format!("{function}: not restored, {}", because(&outcome)));
                waiting.remove(&function);
            }
            Effect::Applied | Effect::Changed | Effect::Unchanged => {
                show::line(restored(&function, &outcome))?;
                waiting.remove(&function);
            }
        }
    }
    if refused.is_empty() { Ok(()) } else { bail!("{}", refused.join("\nerror: ")) }
}

fn restored(function: &FunctionId, outcome: &Outcome) -> String {
    let after = outcome.allowed.unwrap_or(outcome.requested);
    match outcome.before.and_then(|before| show::difference(before, after)) {
        Some(difference) => format!("{function} has {after} again ({difference})"),
        None => format!("{function} has {after}, as before Qscale"),
    }
}

fn because(outcome: &Outcome) -> String {
    let notes: Vec<&str> =
        outcome.guard.iter().map(|note| note.detail.as_str()).chain([outcome.reason.as_str()]).filter(|text| !text.is_empty()).collect();
    if notes.is_empty() { "the actuator does not say why".to_owned() } else { show::clean(&notes.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_763_880_784_123);

    #[test]
    fn a_freeze_keeps_a_restore_that_was_asked_for() {
        let before = control(false, Some(Timestamp(7)), None, Timestamp(1));
        let after = frozen(Some(&before), Some("incident"), NOW).expect("to be written");
        assert_eq!((after.frozen, after.restore, after.reason.as_str()), (true, Some(Timestamp(7)), "incident"));
    }

    #[test]
    fn freezing_again_without_a_new_reason_writes_nothing() {
        let before = control(true, None, Some("incident"), Timestamp(1));
        assert_eq!(frozen(Some(&before), None, NOW), None);
        assert_eq!(frozen(Some(&before), Some("incident"), NOW), None);
        assert!(frozen(Some(&before), Some("another"), NOW).is_some());
        assert!(frozen(None, None, NOW).is_some());
    }

    #[test]
    fn a_freeze_says_by_whom_since_when_and_why() {
        let mut control = control(true, None, Some("in\x1bcident"), NOW);
        control.by = "ada".into();
        assert_eq!(whence(&control), " by ada since 2025-11-23 06:53:04.123: in\\u{1b}cident");
    }
}
