//! The finalizer of a ScalingPolicy object whose workload gets its original allocation back when it is deleted. Owns when the finalizer is added and removed, and
//! what is reported then; must not send anything. A restore that fails delays the removal, and never prevents it.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::events::{Event, EventType};
use qscale_common::policy::OnDelete;
use qscale_common::text;
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use serde_json::{Value, json};

/// The finalizer.
const FINALIZER: &str = "qscale.dev/restore";
/// Time after the first request to restore the workload at which the object is released without it.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(120);

/// Restore of the workload of a deleted object.
#[derive(Debug)]
pub(super) struct Release {
    /// Time of the first request.
    pub(super) since: Timestamp,
    pub(super) result: Option<RestoreResult>,
}

/// The restored allocation, `None` if there was nothing to restore, or why it failed.
pub(super) type RestoreResult = Result<Option<Allocation>, String>;

/// Next step for the finalizer of an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    Add,
    Remove,
    /// The workload is to be restored first.
    Restore,
    /// The restore has ended: remove it and report the result.
    Release(RestoreResult),
}

/// The next step for an object with `metadata` at `now`; `on_delete` is absent while its specification is invalid.
pub(super) fn step(metadata: &ObjectMeta, on_delete: Option<OnDelete>, release: Option<&Release>, now: Timestamp) -> Step {
    let present = metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
    match (metadata.deletion_timestamp.is_some(), present) {
        (false, false) if on_delete == Some(OnDelete::Restore) => Step::Add,
        (false, true) if on_delete == Some(OnDelete::Keep) => Step::Remove,
        (false, _) | (true, false) => Step::Nothing,
        (true, true) => match release {
            Some(Release { result: Some(result), .. }) => Step::Release(result.clone()),
            Some(release) if now.since(release.since) >= RESTORE_TIMEOUT => {
                Step::Release(Err(format!("not restored within {} s", RESTORE_TIMEOUT.as_secs())))
            }
            Some(_) | None => Step::Restore,
        },
    }
}

/// The merge patch that adds the finalizer, or removes it. It is refused if the object has changed since `metadata` was read.
pub(super) fn patch(metadata: &ObjectMeta, add: bool) -> Value {
    let others = metadata.finalizers.iter().flatten().filter(|finalizer| *finalizer != FINALIZER).cloned();
    let finalizers: Vec<String> = others.chain(add.then(|| FINALIZER.to_owned())).collect();
    json!({ "metadata": { "resourceVersion": metadata.resource_version, "finalizers": finalizers } })
}

/// The event about the end of a restore of `target`.
pub(super) fn event(result: &RestoreResult, target: &str) -> Event {
    let (type_, reason, note) = match result {
        Ok(Some(allocation)) => (EventType::Normal, "Restored", format!("{target} has its original allocation again: {allocation}")),
        Ok(None) => (EventType::Normal, "NotChanged", format!("nothing to restore: Qscale has not changed {target}")),
        Err(error) => (EventType::Warning, "RestoreFailed", format!("{target} keeps its allocation, the policy is deleted: {error}")),
    };
    Event { type_, reason: reason.into(), note: Some(text::clean(&note)), action: "Restore".into(), secondary: None }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn object(deleted: bool, finalizers: &[&str]) -> ObjectMeta {
        ObjectMeta {
            deletion_timestamp: deleted.then(|| serde_json::from_value::<Time>(json!("2026-01-01T00:00:00Z")).expect("a time")),
            finalizers: Some(finalizers.iter().map(|name| (*name).to_owned()).collect()),
            resource_version: Some("7".into()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn only_a_policy_that_restores_has_the_finalizer() {
        let of = |finalizers: &[&str], on_delete| step(&object(false, finalizers), on_delete, None, NOW);
        assert_eq!(of(&["other"], Some(OnDelete::Restore)), Step::Add);
        assert_eq!(of(&[FINALIZER], Some(OnDelete::Restore)), Step::Nothing);
        assert_eq!(of(&[FINALIZER], Some(OnDelete::Keep)), Step::Remove);
        assert_eq!(of(&[FINALIZER], None), Step::Nothing, "an invalid specification changes nothing");
        assert_eq!(of(&[], Some(OnDelete::Keep)), Step::Nothing);
    }

    #[test]
    fn a_deleted_object_is_released_after_the_restore_whatever_its_result() {
        let deleted = object(true, &[FINALIZER]);
        let release = |result| Release { since: NOW, result };
        let of = |release: Option<&Release>, now| step(&deleted, None, release, now);
        assert_eq!(of(None, NOW), Step::Restore);
        assert_eq!(of(Some(&release(None)), NOW.plus(RESTORE_TIMEOUT / 2)), Step::Restore);
        assert!(matches!(of(Some(&release(None)), NOW.plus(RESTORE_TIMEOUT)), Step::Release(Err(_))));
        for result in [Ok(None), Ok(Some(Allocation::new(1, 100, 64))), Err("refused".to_owned())] {
            assert_eq!(of(Some(&release(Some(result.clone()))), NOW), Step::Release(result));
        }
        assert_eq!(step(&object(true, &["other"]), Some(OnDelete::Restore), None, NOW), Step::Nothing, "too late to add it");
    }

    #[test]
    fn finalizers_of_others_stay() {
        let object = object(true, &["a", FINALIZER, "b"]);
        assert_eq!(patch(&object, false), json!({ "metadata": { "resourceVersion": "7", "finalizers": ["a", "b"] } }));
        assert_eq!(patch(&object, true)["metadata"]["finalizers"], json!(["a", "b", FINALIZER]));
    }
}
