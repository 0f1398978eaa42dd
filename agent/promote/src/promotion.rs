//! The promotion of a candidate: shadow, use under watch, then kept or rolled back. Owns the next step and the budget
//! of the day. Does no I/O: the caller executes a step and reports the result with its time.
//!
//! A candidate enters the shadow after it passed the offline gate. Without a budget it gets no further than a
//! recommendation. The budget is counted in violation minutes per day: every minute in which the objective of a
//! function was violated while a candidate was under watch, for any cause.

use std::fmt;

use qscale_common::name::FunctionId;
use qscale_common::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use thiserror::Error;

use crate::settings::{PromotionRequest, PromotionRules, PromotionSettings, RoundRequest};

const DAY_MS: u64 = 86_400_000;
const MINUTE_MS: f64 = 60_000.0;
/// Decisions in the log.
const LOG_LENGTH: usize = 50;

/// Violation and observation time of all functions together.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct ViolationMinutes {
    /// Minutes in violation.
    pub violated_minutes: f64,
    /// Minutes in which violation was measured at all.
    pub judged_minutes: f64,
}

impl ViolationMinutes {
    /// Adds a tick of `tick_ms` milliseconds; `None`: violation was not measured.
    pub fn add(&mut self, violated: Option<bool>, tick_ms: u64) {
        let Some(violated) = violated else { return };
        let minutes = tick_ms as f64 / MINUTE_MS;
        self.judged_minutes += minutes;
        self.violated_minutes += if violated { minutes } else { 0.0 };
    }

    /// Share of the measured time in violation; 0 if nothing was measured.
    #[must_use]
    pub fn rate(&self) -> f64 {
        if self.judged_minutes > 0.0 { self.violated_minutes / self.judged_minutes } else { 0.0 }
    }

    /// Violation minutes expected in the measured time at the rate of `before`.
    fn expected(&self, before: &Self) -> f64 {
        before.rate() * self.judged_minutes
    }
}

impl fmt::Display for ViolationMinutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} of {:.1} minutes in violation ({:.2} %)", self.violated_minutes, self.judged_minutes, self.rate() * 100.0)
    }
}

/// A candidate and the version that it is to replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Version of the candidate.
    pub version: u64,
    /// Version in use before; absent if the bundled model decides because no version is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
}

/// Stage of the promotion.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum Stage {
    /// There is no candidate.
    Rest {
        /// Earliest start of the next periodic round.
        until: Timestamp,
    },
    /// The candidate decides on the same States as the model in use, and its decisions are not applied.
    Shadow {
        /// The candidate.
        trial: Trial,
        /// Beginning of the shadow.
        since: Timestamp,
        /// Its end.
        until: Timestamp,
    },
    /// The candidate is in use and watched.
    Watch {
        /// The candidate.
        trial: Trial,
        /// Beginning of the watch.
        since: Timestamp,
        /// Its end.
        until: Timestamp,
        /// Violations in a period of the same length before the watch.
        before: ViolationMinutes,
        /// Violation minutes counted against the budget so far.
        counted_minutes: f64,
        /// Revision of the pointer over which the candidate is still to be put in use; absent once it is in use.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pointer: Option<u64>,
    },
}

/// Budget spent on one day.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct DailyBudget {
    /// The day, counted from 1970-01-01 UTC.
    pub day: u64,
    /// Violation minutes of candidates under watch.
    pub spent_minutes: f64,
    /// Whether a candidate was rolled back; then no other is tried on that day.
    #[serde(alias = "taken_back")]
    pub rolled_back: bool,
}

/// Decision on a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum PromotionDecision {
    /// There is no candidate: too little was recorded.
    TooLittle,
    /// The offline gate rejected it.
    RejectedOffline,
    /// The candidate passed the offline gate and entered the shadow.
    Shadow,
    /// The shadow gate rejected it.
    RejectedInShadow,
    /// The candidate passed the shadow gate and is not put in use, for lack of a budget.
    Recommended,
    /// The candidate passed the shadow gate and is put in use under watch.
    Used,
    /// The candidate stays in use.
    Kept,
    /// The previous version is in use again.
    RolledBack,
    /// Another version was put in use, so the trial ended.
    #[serde(alias = "foreign")]
    Superseded,
}

/// Entry of the decision log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionLogEntry {
    /// Time of the decision.
    pub at: Timestamp,
    /// The decision.
    #[serde(alias = "outcome")]
    pub decision: PromotionDecision,
    /// Version of the candidate; absent if it was not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Reason.
    #[serde(alias = "why")]
    pub reason: String,
}

/// Progress of a requested round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundStatus {
    /// Number of the request.
    pub id: u64,
    /// Its state.
    pub state: RoundState,
}

/// State of a requested round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum RoundState {
    /// Running, or its candidate is on trial.
    Running,
    /// Ended with a decision.
    Done,
    /// Ended without a candidate: the budget of the day is spent, or a candidate was rolled back on that day. A new
    /// request is accepted from `until` on.
    #[serde(alias = "deferred")]
    NotTried {
        /// Beginning of the next day.
        until: Timestamp,
    },
    /// Ended with an error.
    Failed {
        /// The error.
        error: String,
    },
}

/// State of the promotion of one model. Stored after every change, so that another process can continue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Promotion {
    /// Stage of the candidate.
    pub stage: Stage,
    /// Budget of the day.
    #[serde(alias = "ledger")]
    pub budget: DailyBudget,
    /// The latest decisions, newest last.
    #[serde(alias = "said")]
    pub log: Vec<DecisionLogEntry>,
    /// Number of decisions made so far.
    #[serde(default)]
    pub decisions: u64,
    /// Settings of the current trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<PromotionSettings>,
    /// Functions whose violations are compared while a candidate is under watch: those that obeyed the agent when it was put in use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watched: Vec<FunctionId>,
    /// The latest requested round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<RoundStatus>,
}

/// Next step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Due {
    /// Nothing before that time.
    Wait(Timestamp),
    /// Train a candidate, or take the requested one, and pass it through the offline gate.
    Round,
    /// Evaluate the decisions of the candidate as a shadow, made since that time.
    EvaluateShadow(Trial, Timestamp),
    /// Put the candidate in use over the pointer of that revision.
    PutInUse(Trial, u64),
    /// Evaluate the violations under the candidate since that time.
    EvaluateTrial(Trial, Timestamp),
}

/// Verdict on a candidate under watch.
#[derive(Debug, Clone, PartialEq)]
pub enum CanaryVerdict {
    /// Continue the watch.
    Continue,
    /// Keep the candidate, with the violations under watch and before.
    Promote(BurnComparison),
    /// Put the previous version in use again.
    RollBack(RollBackReason),
    /// Another version is in use.
    Superseded(Superseded),
}

/// Violations under watch and in the same time before.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
#[error("{burned}, before {:.2} %", before.rate() * 100.0)]
pub struct BurnComparison {
    /// Under watch.
    pub burned: ViolationMinutes,
    /// Before.
    pub before: ViolationMinutes,
}

/// Why a candidate is rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
pub enum RollBackReason {
    /// Violations are more frequent than before.
    #[error("more violations than before: {0}")]
    BurnsFaster(BurnComparison),
    /// The budget of the day is spent.
    #[error("the daily budget of {budget_minutes} violation minutes is spent ({spent_minutes:.1}): {comparison}")]
    BudgetSpent {
        /// Budget, minutes.
        budget_minutes: f64,
        /// Spent today, minutes.
        spent_minutes: f64,
        /// Violations under watch and before.
        comparison: BurnComparison,
    },
    /// Nothing was measured during the whole watch.
    #[error("no violation was measured during the watch, so nothing speaks for the candidate")]
    NothingMeasured,
}

/// Another version than the one of the trial is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{} is in use, expected {}; the trial ends", called(*found), called(*expected))]
pub struct Superseded {
    /// Version that the trial expects in use.
    pub expected: Option<u64>,
    /// Version in use.
    pub found: Option<u64>,
}

fn called(version: Option<u64>) -> String {
    version.map_or_else(|| "no version".to_owned(), |version| format!("version {version}"))
}

/// Why a candidate that passed the shadow gate is not put in use.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
pub enum NotAllowed {
    /// There is no budget.
    #[error("without a budget no candidate is put in use")]
    NoBudget,
    /// The budget of the day is spent, or a candidate was rolled back on that day.
    #[error("the daily budget of {budget_minutes} violation minutes is spent, or a candidate was rolled back today")]
    Spent {
        /// Budget, minutes.
        budget_minutes: f64,
    },
}

impl Default for Promotion {
    fn default() -> Self {
        Self {
            stage: Stage::Rest { until: Timestamp(0) },
            budget: DailyBudget::default(),
            log: Vec::new(),
            decisions: 0,
            settings: None,
            watched: Vec::new(),
            round: None,
        }
    }
}

fn day(at: Timestamp) -> u64 {
    at.0 / DAY_MS
}

/// Beginning of the day after `at`, UTC.
#[must_use]
pub fn next_day(at: Timestamp) -> Timestamp {
    Timestamp((day(at) + 1).saturating_mul(DAY_MS))
}

impl Promotion {
    /// Resets the budget if a new day began.
    fn start_day(&mut self, now: Timestamp) {
        if self.budget.day != day(now) {
            self.budget = DailyBudget { day: day(now), ..DailyBudget::default() };
        }
    }

    /// Earliest time of the next trial; `now` if nothing forbids it.
    #[must_use]
    pub fn not_before(&self, now: Timestamp, rules: &PromotionRules) -> Timestamp {
        let today = self.budget.day == day(now);
        let spent = rules.budget_minutes.is_some_and(|budget| budget > 0.0 && self.budget.spent_minutes >= budget);
        if today && (self.budget.rolled_back || spent) { next_day(now) } else { now }
    }

    /// Violation minutes of candidates under watch today.
    #[must_use]
    pub fn spent_today(&self, now: Timestamp) -> f64 {
        if self.budget.day == day(now) { self.budget.spent_minutes } else { 0.0 }
    }

    /// Whether a candidate was rolled back today.
    #[must_use]
    pub fn rolled_back_today(&self, now: Timestamp) -> bool {
        self.budget.day == day(now) && self.budget.rolled_back
    }

    /// Accepts a requested round that is new: starts it, or queues it behind the candidate on trial. Returns whether the state changed.
    pub fn accept(&mut self, round: &RoundRequest, now: Timestamp) -> bool {
        if self.round.as_ref().is_some_and(|status| status.id >= round.id) {
            return false;
        }
        let from = self.not_before(now, &round.settings.rules);
        let state = match self.trial() {
            Some(trial) if round.candidate.is_some() => {
                RoundState::Failed { error: format!("version {} is on trial; request the next one after its end", trial.version) }
            }
            Some(_) => {
                self.settings = Some(round.settings.clone());
                RoundState::Running
            }
            None if from > now => RoundState::NotTried { until: from },
            None => {
                self.stage = Stage::Rest { until: now };
                RoundState::Running
            }
        };
        self.round = Some(RoundStatus { id: round.id, state });
        true
    }

    /// Settings of the current trial, or of the next round, and the candidate that was requested for it; `None` if there is nothing to do.
    #[must_use]
    pub fn plan(&self, request: &PromotionRequest) -> Option<(PromotionSettings, Option<u64>)> {
        if self.trial().is_some() {
            let settings = self.settings.clone().or_else(|| request.periodic.clone());
            return Some((settings.unwrap_or_default(), None));
        }
        let running = self.running().and_then(|id| request.round.as_ref().filter(|round| round.id == id));
        match running {
            Some(round) => Some((round.settings.clone(), round.candidate)),
            None => request.periodic.clone().map(|settings| (settings, None)),
        }
    }

    /// Number of the requested round that runs.
    fn running(&self) -> Option<u64> {
        self.round.as_ref().filter(|round| round.state == RoundState::Running).map(|round| round.id)
    }

    /// The next step at `now`.
    #[must_use]
    pub fn due(&self, now: Timestamp, rules: &PromotionRules) -> Due {
        match self.stage {
            Stage::Rest { until } => {
                let from = until.max(self.not_before(now, rules));
                if from > now { Due::Wait(from) } else { Due::Round }
            }
            Stage::Shadow { until, .. } if until > now => Due::Wait(until),
            Stage::Shadow { trial, since, .. } => Due::EvaluateShadow(trial, since),
            Stage::Watch { trial, pointer: Some(revision), .. } => Due::PutInUse(trial, revision),
            Stage::Watch { trial, since, .. } => Due::EvaluateTrial(trial, since),
        }
    }

    /// Decisions after the first `seen`, as far as the log reaches back.
    #[must_use]
    pub fn log_since(&self, seen: u64) -> &[DecisionLogEntry] {
        let new = usize::try_from(self.decisions.saturating_sub(seen)).unwrap_or(usize::MAX);
        &self.log[self.log.len().saturating_sub(new)..]
    }

    /// The candidate in the shadow or under watch.
    #[must_use]
    pub fn trial(&self) -> Option<Trial> {
        match self.stage {
            Stage::Rest { .. } => None,
            Stage::Shadow { trial, .. } | Stage::Watch { trial, .. } => Some(trial),
        }
    }

    /// Ends the round or trial with `decision`. The next periodic round starts after the pause.
    pub fn end(&mut self, decision: PromotionDecision, version: Option<u64>, reason: &str, now: Timestamp, every: Span) {
        self.start_day(now);
        self.budget.rolled_back |= decision == PromotionDecision::RolledBack;
        self.stage = Stage::Rest { until: now.plus(every.0) };
        self.settings = None;
        self.watched.clear();
        if let Some(round) = self.round.as_mut().filter(|round| round.state == RoundState::Running) {
            round.state = RoundState::Done;
        }
        self.record(decision, version, reason, now);
    }

    /// Ends a round with an error before there is a candidate; no periodic round starts before `retry`.
    pub fn fail_round(&mut self, error: &str, retry: Timestamp) {
        self.stage = Stage::Rest { until: retry };
        if let Some(round) = self.round.as_mut().filter(|round| round.state == RoundState::Running) {
            round.state = RoundState::Failed { error: error.to_owned() };
        }
    }

    /// Starts the shadow of a candidate that passed the offline gate.
    pub fn shadow(&mut self, trial: Trial, settings: PromotionSettings, reason: &str, now: Timestamp) {
        self.stage = Stage::Shadow { trial, since: now, until: now.plus(settings.rules.shadow_for.0) };
        self.settings = Some(settings);
        self.record(PromotionDecision::Shadow, Some(trial.version), reason, now);
    }

    /// Whether a candidate that passed the shadow gate may be put in use.
    ///
    /// # Errors
    /// Why not.
    pub fn may_use(&self, now: Timestamp, rules: &PromotionRules) -> Result<(), NotAllowed> {
        match rules.budget_minutes {
            Some(budget) if budget > 0.0 && self.not_before(now, rules) <= now => Ok(()),
            Some(budget) if budget > 0.0 => Err(NotAllowed::Spent { budget_minutes: budget }),
            _ => Err(NotAllowed::NoBudget),
        }
    }

    /// Decides to put a candidate in use over the pointer of revision `pointer`; `before` are the violations in a
    /// period of the length of the watch. [`Promotion::started`] follows once it is in use.
    pub fn watch(&mut self, trial: Trial, pointer: u64, before: ViolationMinutes, reason: &str, now: Timestamp, rules: &PromotionRules) {
        self.start_day(now);
        let until = now.plus(rules.watch_for.0);
        self.stage = Stage::Watch { trial, since: now, until, before, counted_minutes: 0.0, pointer: Some(pointer) };
        self.record(PromotionDecision::Used, Some(trial.version), reason, now);
    }

    /// Begins the watch at `now`: the candidate is in use.
    pub fn started(&mut self, now: Timestamp, rules: &PromotionRules) {
        if let Stage::Watch { since, until, pointer, .. } = &mut self.stage {
            (*since, *until, *pointer) = (now, now.plus(rules.watch_for.0), None);
        }
    }

    /// Whether another version is in use than the trial expects.
    #[must_use]
    pub fn superseded(&self, in_use: Option<u64>) -> Option<Superseded> {
        let expected = match self.stage {
            Stage::Rest { .. } => return None,
            Stage::Shadow { trial, .. } => trial.base,
            Stage::Watch { trial, .. } => Some(trial.version),
        };
        (in_use != expected).then_some(Superseded { expected, found: in_use })
    }

    /// Evaluates the candidate under watch from the version in use and the violations since its start. Counts new
    /// violations against the budget of the day.
    pub fn look(&mut self, in_use: Option<u64>, burned: ViolationMinutes, now: Timestamp, rules: &PromotionRules) -> CanaryVerdict {
        self.start_day(now);
        if let Some(superseded) = self.superseded(in_use) {
            return CanaryVerdict::Superseded(superseded);
        }
        let Stage::Watch { until, before, counted_minutes, .. } = &mut self.stage else { return CanaryVerdict::Continue };
        self.budget.spent_minutes += (burned.violated_minutes - *counted_minutes).max(0.0);
        *counted_minutes = counted_minutes.max(burned.violated_minutes);
        let (until, expected) = (*until, burned.expected(before));
        let comparison = BurnComparison { burned, before: *before };
        if burned.violated_minutes > expected * (1.0 + rules.margin) && burned.violated_minutes - expected >= rules.least_minutes {
            return CanaryVerdict::RollBack(RollBackReason::BurnsFaster(comparison));
        }
        // A trial that an earlier release recorded has no budget.
        if let Some(budget_minutes) = rules.budget_minutes.filter(|budget| self.budget.spent_minutes >= *budget) {
            let spent_minutes = self.budget.spent_minutes;
            return CanaryVerdict::RollBack(RollBackReason::BudgetSpent { budget_minutes, spent_minutes, comparison });
        }
        if now < until {
            CanaryVerdict::Continue
        } else if burned.judged_minutes > 0.0 {
            CanaryVerdict::Promote(comparison)
        } else {
            CanaryVerdict::RollBack(RollBackReason::NothingMeasured)
        }
    }

    /// Ends a trial because another version is in use. If that is the version before the candidate under watch, an
    /// operator rolled it back, and no other candidate is tried today.
    pub fn supersede(&mut self, superseded: Superseded, now: Timestamp, every: Span) {
        let trial = self.trial();
        let watched = matches!(self.stage, Stage::Watch { .. });
        self.end(PromotionDecision::Superseded, trial.map(|trial| trial.version), &superseded.to_string(), now, every);
        self.budget.rolled_back |= watched && trial.is_some_and(|trial| trial.base == superseded.found);
    }

    fn record(&mut self, decision: PromotionDecision, version: Option<u64>, reason: &str, at: Timestamp) {
        self.decisions += 1;
        self.log.push(DecisionLogEntry { at, decision, version, reason: reason.to_owned() });
        let excess = self.log.len().saturating_sub(LOG_LENGTH);
        self.log.drain(..excess);
    }
}

#[cfg(test)]
mod tests;
