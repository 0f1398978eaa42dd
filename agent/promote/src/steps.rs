//! The order in which a trial changes the record of its promotion and the version in use. Owns that order, so that whichever promoter reads the record next
//! watches the candidate in use; must not evaluate one. Generic over the requests, so that a simulation can lose them.

use anyhow::Context as _;
use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::models::{ModelPointer, PointerError};
use qscale_common::time::Timestamp;
use qscale_replay::recording::Period;

use crate::promotion::{CanaryVerdict, PromotionDecision, Superseded, ViolationMinutes};
use crate::record::RecordChanged;
use crate::settings::PromotionSettings;
use crate::{Promotion, Trial};

/// Requests of a promotion. Each may fail, or fail after it took effect; between two of them another promoter or an operator may make one.
pub trait TrialRequests {
    /// The model.
    fn model(&self) -> &Name;

    /// Present time.
    fn now(&self) -> Timestamp;

    /// The promotion as it was read, with the changes since.
    fn promotion(&mut self) -> &mut Promotion;

    /// Writes the promotion to the record.
    ///
    /// # Errors
    /// [`RecordChanged`] if another promoter wrote it since it was read; or if the request failed.
    fn write(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// The version in use.
    ///
    /// # Errors
    /// If the request failed.
    fn pointer(&self) -> impl Future<Output = Result<ModelPointer, PointerError>> + Send;

    /// Stores the bundled model as a version and returns its number.
    ///
    /// # Errors
    /// If the request failed.
    fn push_bundled(&self) -> impl Future<Output = anyhow::Result<u64>> + Send;

    /// Puts `version` in use on trial, if the pointer still is `expected`; a rollback returns to `base`.
    ///
    /// # Errors
    /// [`PointerError::Superseded`] if the pointer changed; or if the request failed.
    fn start_trial(&self, version: u64, base: u64, expected: &ModelPointer) -> impl Future<Output = Result<(), PointerError>> + Send;

    /// Ends the trial of `version`, which stays in use.
    ///
    /// # Errors
    /// [`PointerError::Superseded`] if another version is in use; or if the request failed.
    fn confirm_trial(&self, version: u64) -> impl Future<Output = Result<(), PointerError>> + Send;

    /// Ends the trial of `version` and puts `base` in use.
    ///
    /// # Errors
    /// As [`TrialRequests::confirm_trial`].
    fn roll_back_trial(&self, version: u64, base: u64) -> impl Future<Output = Result<(), PointerError>> + Send;

    /// Violations of `functions` in `period`; of those that obey the agent now if the list is empty.
    ///
    /// # Errors
    /// If the request failed.
    fn violations(&self, functions: &[FunctionId], period: Period) -> impl Future<Output = anyhow::Result<ViolationMinutes>> + Send;
}

/// Steps of the promotion of one model.
pub struct TrialSteps<R> {
    /// Its requests.
    pub requests: R,
    /// Settings of the trial, or of the next round.
    pub settings: PromotionSettings,
}

impl<R: TrialRequests> TrialSteps<R> {
    /// Ends the round or trial with `decision` on `version`.
    ///
    /// # Errors
    /// As [`TrialRequests::write`].
    pub async fn end(&mut self, decision: PromotionDecision, version: Option<u64>, reason: &str) -> anyhow::Result<()> {
        let now = self.requests.now();
        self.requests.promotion().end(decision, version, reason, now, self.settings.rules.every);
        self.requests.write().await
    }

    async fn supersede(&mut self, superseded: Superseded, now: Timestamp) -> anyhow::Result<()> {
        self.requests.promotion().supersede(superseded, now, self.settings.rules.every);
        self.requests.write().await
    }

    /// Whether the version is in use that the trial expects; ends the trial if not.
    ///
    /// # Errors
    /// If a request failed.
    pub async fn is_expected_in_use(&mut self, now: Timestamp) -> anyhow::Result<bool> {
        let in_use = self.requests.pointer().await?.version();
        let Some(superseded) = self.requests.promotion().superseded(in_use) else { return Ok(true) };
        self.supersede(superseded, now).await?;
        Ok(false)
    }

    /// Starts the shadow of a candidate that passed the offline gate for `reason`.
    ///
    /// # Errors
    /// As [`TrialRequests::write`].
    pub async fn start_shadow(&mut self, trial: Trial, reason: &str) -> anyhow::Result<()> {
        let now = self.requests.now();
        self.requests.promotion().shadow(trial, self.settings.clone(), reason, now);
        self.requests.write().await
    }

    /// Puts a candidate in use that passed the shadow gate on `functions` for `reason`; without a budget it is recommended.
    ///
    /// # Errors
    /// If a request failed.
    pub async fn after_shadow(&mut self, trial: Trial, functions: &[FunctionId], reason: &str) -> anyhow::Result<()> {
        let (model, now, rules) = (self.requests.model().clone(), self.requests.now(), self.settings.rules);
        if let Err(forbidden) = self.requests.promotion().may_use(now, &rules) {
            let reason = format!("{reason}; {forbidden}: `qscale model use {model}@{}` does", trial.version);
            return self.end(PromotionDecision::Recommended, Some(trial.version), &reason).await;
        }
        let before = self.requests.violations(functions, Period { since: now.minus(rules.watch_for.0), until: now }).await?;
        let pointer = self.requests.pointer().await?;
        if let Some(superseded) = self.requests.promotion().superseded(pointer.version()) {
            return self.supersede(superseded, now).await;
        }
        let base = match trial.base {
            Some(base) => base,
            // So that a rollback has a version to return to.
            None => self.requests.push_bundled().await?,
        };
        let (trial, now) = (Trial { base: Some(base), ..trial }, self.requests.now());
        let promotion = self.requests.promotion();
        promotion.watch(trial, pointer.revision, before, reason, now, &rules);
        promotion.watched = functions.to_vec();
        // The record is written first, so that the next process that reads it puts the candidate in use and watches it.
        self.requests.write().await?;
        self.put_in_use(trial, pointer.revision).await
    }

    /// Puts the candidate in use unless the version in use changed since the pointer had `revision`.
    ///
    /// # Errors
    /// [`RecordChanged`] if it changed while the candidate was put in use; or if a request failed.
    pub async fn put_in_use(&mut self, trial: Trial, revision: u64) -> anyhow::Result<()> {
        let now = self.requests.now();
        let pointer = self.requests.pointer().await?;
        let is_put = pointer.in_use.as_ref().is_some_and(|in_use| in_use.on_trial && in_use.version == trial.version);
        if !is_put {
            let base = base(trial)?;
            if pointer.revision != revision {
                return self.supersede(Superseded { expected: Some(base), found: pointer.version() }, now).await;
            }
            match self.requests.start_trial(trial.version, base, &pointer).await {
                Ok(()) => {}
                // By an operator, or by another promoter that has put the candidate in use: the next step finds out.
                Err(PointerError::Superseded { name, .. }) => return Err(RecordChanged(name).into()),
                Err(error) => return Err(error.into()),
            }
        }
        self.requests.promotion().started(now, &self.settings.rules);
        self.requests.write().await
    }

    /// Evaluates the violations since the candidate is in use, and rolls it back if there are too many.
    ///
    /// # Errors
    /// If a request failed.
    pub async fn evaluate_trial(&mut self, trial: Trial, since: Timestamp, now: Timestamp) -> anyhow::Result<()> {
        // Functions whose violations before the watch are known. One that an operator pauses or gives another agent still counts.
        let functions = self.requests.promotion().watched.clone();
        let burned = self.requests.violations(&functions, Period { since, until: now }).await?;
        let in_use = self.requests.pointer().await?.version();
        match self.requests.promotion().look(in_use, burned, now, &self.settings.rules) {
            CanaryVerdict::Continue => self.requests.write().await,
            CanaryVerdict::Superseded(superseded) => self.supersede(superseded, now).await,
            CanaryVerdict::Promote(comparison) => match self.requests.confirm_trial(trial.version).await {
                Ok(()) => self.end(PromotionDecision::Kept, Some(trial.version), &comparison.to_string()).await,
                Err(error) => self.superseded_by(trial, error, now).await,
            },
            CanaryVerdict::RollBack(reason) => {
                let base = base(trial)?;
                match self.requests.roll_back_trial(trial.version, base).await {
                    Ok(()) => {
                        let reason = format!("{reason}; {}@{base} is in use again", self.requests.model());
                        self.end(PromotionDecision::RolledBack, Some(trial.version), &reason).await
                    }
                    Err(error) => self.superseded_by(trial, error, now).await,
                }
            }
        }
    }

    /// Ends the trial if `error` says that another version is in use.
    async fn superseded_by(&mut self, trial: Trial, error: PointerError, now: Timestamp) -> anyhow::Result<()> {
        match error {
            PointerError::Superseded { found, .. } => self.supersede(Superseded { expected: Some(trial.version), found }, now).await,
            error => Err(error.into()),
        }
    }
}

fn base(trial: Trial) -> anyhow::Result<u64> {
    trial.base.context("a candidate under watch replaces a version")
}
