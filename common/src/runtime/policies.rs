//! Changes of ScalingPolicies in their bucket. Owns the compare-and-set, the signature and the record of each change;
//! must not decide what a policy says.

use anyhow::Context as _;
use async_nats::jetstream::kv::Operation;
use serde_json::Value;

use super::author::{Author, Made};
use super::kv::{self, Edited};
use super::nats_accounts::User;
use super::signature;
use crate::change::{ChangeKind, ChangedValue};
use crate::contract::subject;
use crate::name::FunctionId;
use crate::policy::{OnDelete, ScalingPolicy};
use crate::time::Timestamp;

/// A ScalingPolicy before and after an edit.
#[derive(Debug, Clone)]
pub struct PolicyEdit {
    /// Whether it was written.
    pub edited: Edited,
    /// The policy before; `None` if there was no valid one.
    pub before: Option<ScalingPolicy>,
    /// The policy after.
    pub after: ScalingPolicy,
}

/// Replaces the ScalingPolicy of `function` by the result of `change`, which gets the stored value. An equal one is
/// written only if the author signs and it is not signed. `change` runs again after a concurrent write.
///
/// # Errors
/// Errors of `change`; those of [`kv::edit`]; an author without a key does not replace a signed policy, and only an actuator one that is mirrored.
pub async fn edit(
    author: &Author,
    function: &FunctionId,
    mut change: impl FnMut(Option<&[u8]>) -> anyhow::Result<ScalingPolicy>,
    now: Timestamp,
) -> anyhow::Result<PolicyEdit> {
    let store = kv::open(author.bus(), subject::POLICY_BUCKET).await?;
    let mut policies = None;
    let edited = kv::edit(&store, &function.tokens(), |current| {
        let after = change(current)?;
        let before = current.and_then(|value| ScalingPolicy::from_json(value).ok());
        let mirrored = after.mirrored || before.as_ref().is_some_and(|before| before.mirrored);
        anyhow::ensure!(
            !mirrored || *author.user() == User::Actuator,
            "policy {function} is a copy of a ScalingPolicy object of the cluster; change that, for example with `kubectl edit scp {}`",
            function.name
        );
        let write = stored_form(author, function, &after, before.as_ref(), current, now)?;
        policies = Some((before, after));
        Ok(write)
    })
    .await?;
    let (before, after) = policies.context("an edit reads the current value")?;
    let (revision_before, revision) = match edited {
        Edited::Created { after } => (None, after),
        Edited::Changed { before, after } => (Some(before), after),
        Edited::Unchanged => return Ok(PolicyEdit { edited, before, after }),
    };
    let value_before = revision_before.map(|revision| ChangedValue { revision: Some(revision), value: before.as_ref().map(as_value) });
    let made = Made {
        kind: ChangeKind::PolicyWritten,
        target: function.to_string(),
        before: value_before,
        after: Some(ChangedValue::new(Some(revision), as_value(&after))),
    };
    author.record(made, now).await;
    Ok(PolicyEdit { edited, before, after })
}

/// Deletes the ScalingPolicy of `function`; returns what it says of its workload, or `None` if there was none.
///
/// # Errors
/// If the bucket cannot be read or written, or another command changes the policy at the same time.
pub async fn delete(author: &Author, function: &FunctionId, now: Timestamp) -> anyhow::Result<Option<OnDelete>> {
    let store = kv::open(author.bus(), subject::POLICY_BUCKET).await?;
    let entry = store.entry(function.tokens()).await.with_context(|| format!("failed to read policy {function}"))?;
    let Some(entry) = entry.filter(|entry| entry.operation == Operation::Put) else { return Ok(None) };
    store
        .delete_expect_revision(function.tokens(), Some(entry.revision))
        .await
        .with_context(|| format!("failed to delete policy {function}"))?;
    let policy = ScalingPolicy::from_json(&entry.value).ok();
    let made = Made {
        kind: ChangeKind::PolicyDeleted,
        target: function.to_string(),
        before: Some(ChangedValue { revision: Some(entry.revision), value: policy.as_ref().map(as_value) }),
        after: None,
    };
    author.record(made, now).await;
    Ok(Some(policy.map_or(OnDelete::Keep, |policy| policy.on_delete)))
}

/// The form in which `after` is to be stored in place of `current`; `None` if that is the same policy, and signed if
/// the author signs.
fn stored_form(
    author: &Author,
    function: &FunctionId,
    after: &ScalingPolicy,
    before: Option<&ScalingPolicy>,
    current: Option<&[u8]>,
    now: Timestamp,
) -> anyhow::Result<Option<Vec<u8>>> {
    let (key, same) = (function.tokens(), before == Some(after));
    let Some(signer) = author.key() else {
        anyhow::ensure!(
            same || !current.is_some_and(signature::is_signed),
            "policy {function} is signed, and the change is not: sign it with --sign-with FILE, or delete the policy first"
        );
        return Ok((!same).then(|| after.to_json()));
    };
    let signed = current.is_some_and(|current| signer.has_signed(&key, current));
    Ok((!same || !signed).then(|| signer.sign_policy(&key, after, current, now)))
}

fn as_value(policy: &ScalingPolicy) -> Value {
    serde_json::to_value(policy).expect("a policy holds only strings and finite numbers, which JSON can write")
}
