//! `qscale changes`: the record of who changed what. Owns filters and output; must not change anything.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use qscale_common::change::{ChangeKind, ChangeRecord, ChangedValue};
use qscale_common::control;
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::{ScalingPolicy, text};
use qscale_common::runtime::changes::{self, StoredChange};
use qscale_common::runtime::clock;
use qscale_common::time::{Span, Timestamp};
use serde_json::{Value, json};

use crate::output;
use crate::system::Locate;

/// Which changes are shown.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale changes --since 7d
  qscale changes --function fibonacci      also freezes of all functions
  qscale changes --kind frozen,unfrozen
  qscale changes --model dqn --json")]
pub struct ChangesArgs {
    /// Only changes of these functions, as namespace/name or name, and of all functions; repeatable
    #[arg(long = "function", value_name = "FUNCTION")]
    functions: Vec<FunctionId>,
    /// Only changes of these models; repeatable
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<Name>,
    /// Only these kinds of change, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "KIND", value_parser = kind_parser())]
    kind: Vec<ChangeKind>,
    /// Only changes of this period, such as 1h or 7d; by default all that are stored
    #[arg(long, value_name = "DURATION")]
    since: Option<Span>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Parses the name of a kind.
fn kind_parser() -> impl TypedValueParser<Value = ChangeKind> {
    let kind_of = |word: &str| ChangeKind::ALL.iter().copied().find(|kind| kind.word() == word);
    PossibleValuesParser::new(ChangeKind::ALL.iter().map(|kind| kind.word())).map(move |word| kind_of(&word).unwrap_or(ChangeKind::Other))
}

/// Prints the record of changes.
pub async fn run(locate: &Locate, arguments: ChangesArgs) -> anyhow::Result<()> {
    let since = arguments.since.map_or(Timestamp(0), |since| clock::now().minus(since.0));
    let mut stored = changes::since(&locate.bus().await?, since).await?;
    stored.retain(|change| arguments.takes(change));
    if arguments.json {
        return output::json(&stored.iter().map(as_json).collect::<Vec<_>>());
    }
    if stored.is_empty() {
        return output::line("no changes are recorded");
    }
    stored.iter().try_for_each(|change| output::line(line(change)))
}

impl ChangesArgs {
    /// Whether `change` is wanted. One that cannot be read is shown unless its content is asked for.
    fn takes(&self, change: &StoredChange) -> bool {
        let any = self.functions.is_empty() && self.models.is_empty();
        match &change.record {
            Ok(record) => {
                let function = || self.functions.iter().any(|function| record.concerns(function));
                let model = || self.models.iter().any(|model| record.kind.concerns_models() && record.target == model.as_str());
                (any || function() || model()) && (self.kind.is_empty() || self.kind.contains(&record.kind))
            }
            Err(_) => any && self.kind.is_empty(),
        }
    }
}

fn as_json(change: &StoredChange) -> Value {
    let mut object = json!({ "sequence": change.sequence, "stored_at": change.at.to_string(), "user": change.user });
    match &change.record {
        Ok(record) => object["change"] = json!(record),
        Err(error) => object["error"] = json!(error.to_string()),
    }
    object
}

fn line(change: &StoredChange) -> String {
    let when = format!("{} {}", output::day(change.at), output::clock(change.at));
    match &change.record {
        Ok(record) => {
            let reason = if record.reason.is_empty() { String::new() } else { format!(" ({})", output::clean(&record.reason)) };
            format!(
                "{when}  {} as {}: {}{reason}",
                output::clean(&record.by),
                output::clean(&change.user),
                output::clean(&sentence(record))
            )
        }
        Err(error) => format!("{when}  unreadable entry of {}: {}", output::clean(&change.user), output::clean(&error.to_string())),
    }
}

/// The change in words.
fn sentence(record: &ChangeRecord) -> String {
    let target = if record.target == control::ALL && record.kind.concerns_functions() { "all functions" } else { &record.target };
    match record.kind {
        ChangeKind::PolicyWritten => format!("policy {target} {}", policy_change(record)),
        ChangeKind::PolicyDeleted => format!("policy {target} deleted"),
        ChangeKind::Frozen => format!("{target} frozen"),
        ChangeKind::Unfrozen => format!("{target} unfrozen"),
        ChangeKind::RestoreRequested => format!("{target} frozen, restore requested"),
        ChangeKind::ModelPushed => format!("model {target}@{} stored", version(record.after.as_ref())),
        ChangeKind::ModelUsed => format!("model {} put in use", replaced(record)),
        ChangeKind::ModelRolledBack => format!("model {} rolled back", replaced(record)),
        ChangeKind::TrialStarted => format!("model {} put in use on trial", replaced(record)),
        ChangeKind::TrialConfirmed => format!("model {target}@{} kept after its trial", version(record.after.as_ref())),
        ChangeKind::TrialRolledBack => format!("model {} rolled back after its trial", replaced(record)),
        ChangeKind::FinetuneRequested => format!("fine-tuning of model {target} {}", finetuning(record)),
        ChangeKind::AgentAdded => format!("agent {target} added"),
        ChangeKind::AgentRemoved => format!("agent {target} removed"),
        ChangeKind::LeaseReset => {
            format!("highest fencing token of platform {target} {} → {}", value(record.before.as_ref()), value(record.after.as_ref()))
        }
        ChangeKind::Other => format!("{target}: a kind of change that a later version added"),
    }
}

fn policy_change(record: &ChangeRecord) -> String {
    let policy = |changed: &ChangedValue| {
        let value = changed.value.as_ref()?;
        ScalingPolicy::from_json(value.to_string().as_bytes()).ok()
    };
    match (record.before.as_ref().map(policy), record.after.as_ref().and_then(policy)) {
        (Some(Some(before)), Some(after)) => match text::differences(&before, &after) {
            same if same.is_empty() => "written again".to_owned(),
            differences => format!("changed: {}", differences.join(", ")),
        },
        (Some(None), _) | (Some(_), None) => "changed".to_owned(),
        (None, Some(after)) => format!("created: agent {}", after.agent),
        (None, None) => "created".to_owned(),
    }
}

/// The change that a request for fine-tuning made.
fn finetuning(record: &ChangeRecord) -> String {
    let part = |changed: &Option<ChangedValue>, part| changed.as_ref().and_then(|changed| changed.value.as_ref()?.get(part)).cloned();
    let rounds = (part(&record.before, "round"), part(&record.after, "round"));
    if let (before, Some(after)) = &rounds
        && before.as_ref() != Some(after)
        && !after.is_null()
    {
        return format!("requested: round {}", after["id"]);
    }
    match part(&record.after, "periodic") {
        Some(settings) if !settings.is_null() => match settings["rules"]["every"].as_str() {
            Some(every) => format!("switched on: a round every {every}"),
            None => "switched on".to_owned(),
        },
        _ => "switched off".to_owned(),
    }
}

/// The version in use before, if any, and after.
fn replaced(record: &ChangeRecord) -> String {
    let (name, after) = (&record.target, version(record.after.as_ref()));
    match &record.before {
        Some(before) => format!("{name}@{} → {name}@{after}", version(Some(before))),
        None => format!("{name}@{after}"),
    }
}

fn version(changed: Option<&ChangedValue>) -> String {
    let version = changed.and_then(|changed| changed.value.as_ref()).and_then(|value| value["version"].as_u64());
    version.map_or_else(|| "?".to_owned(), |version| version.to_string())
}

fn value(changed: Option<&ChangedValue>) -> String {
    changed.and_then(|changed| changed.value.as_ref()).map_or_else(|| "?".to_owned(), Value::to_string)
}

#[cfg(test)]
mod tests {
    use qscale_common::document::DocumentError;

    use super::*;

    fn stored(kind: ChangeKind, target: &str, before: Option<Value>, after: Option<Value>) -> StoredChange {
        let changed = |value| ChangedValue::new(Some(1), value);
        let record = ChangeRecord {
            version: qscale_common::contract::Version::CURRENT,
            at_ms: Timestamp(1),
            by: "ada\u{1b}".into(),
            kind,
            target: target.into(),
            before: before.map(changed),
            after: after.map(changed),
            reason: "incident 7".into(),
        };
        StoredChange { sequence: 1, at: Timestamp(1_763_880_784_123), user: "operator".into(), record: Ok(record) }
    }

    #[track_caller]
    fn check(change: &StoredChange, expected: &str) {
        assert_eq!(line(change), format!("2025-11-23 06:53:04.123  ada\\u{{1b}} as operator: {expected} (incident 7)"));
    }

    #[test]
    fn each_kind_is_a_sentence() {
        let policy = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        let (before, after) = (policy(r#"{"name": "fib"}"#), policy(r#"{"name": "fib", "mode": "active"}"#));
        let written = |before, after| stored(ChangeKind::PolicyWritten, "default/fib", before, after);
        check(&written(None, Some(after.clone())), "policy default/fib created: agent threshold");
        check(&written(Some(before), Some(after.clone())), "policy default/fib changed: mode recommend → active");
        check(&written(Some(json!(1)), Some(after)), "policy default/fib changed");
        check(&stored(ChangeKind::Frozen, "all", None, None), "all functions frozen");
        let used = |version| Some(json!({ "version": version, "on_trial": false }));
        check(&stored(ChangeKind::ModelUsed, "dqn", used(1), used(2)), "model dqn@1 → dqn@2 put in use");
        check(&stored(ChangeKind::ModelUsed, "dqn", None, used(2)), "model dqn@2 put in use");
        let request = |periodic: Value, round: Value| Some(json!({ "periodic": periodic, "round": round }));
        let tuned = |before, after| stored(ChangeKind::FinetuneRequested, "dqn", before, after);
        let every = json!({ "rules": { "every": "1h" } });
        check(&tuned(None, request(every.clone(), Value::Null)), "fine-tuning of model dqn switched on: a round every 1h");
        check(
            &tuned(request(every.clone(), Value::Null), request(every.clone(), json!({ "id": 2 }))),
            "fine-tuning of model dqn requested: round 2",
        );
        check(&tuned(request(every, Value::Null), request(Value::Null, Value::Null)), "fine-tuning of model dqn switched off");
        check(&stored(ChangeKind::AgentRemoved, "mine", None, None), "agent mine removed");
        check(&stored(ChangeKind::LeaseReset, "127.0.0.1:1", Some(json!(9)), None), "highest fencing token of platform 127.0.0.1:1 9 → ?");
    }

    #[test]
    fn unreadable_entries_are_shown_unless_filtered() {
        let broken = StoredChange { record: Err(DocumentError::Syntax("EOF".into())), ..stored(ChangeKind::Frozen, "all", None, None) };
        assert!(line(&broken).ends_with("unreadable entry of operator: EOF"));
        assert_eq!(as_json(&broken)["error"], "EOF");
        let arguments = |models: &[&str], kind: &[ChangeKind]| ChangesArgs {
            functions: Vec::new(),
            models: models.iter().map(|name| name.parse().expect("valid")).collect(),
            kind: kind.to_vec(),
            since: None,
            json: false,
        };
        assert!(arguments(&[], &[]).takes(&broken));
        assert!(!arguments(&["dqn"], &[]).takes(&broken) && !arguments(&[], &[ChangeKind::Frozen]).takes(&broken));
        let used = stored(ChangeKind::ModelUsed, "dqn", None, None);
        assert!(arguments(&["dqn"], &[]).takes(&used) && !arguments(&["other"], &[]).takes(&used));
        assert!(!arguments(&["dqn"], &[ChangeKind::Frozen]).takes(&used));
    }
}
