//! A recording of one function, its States and Rewards, as experience of a learner. Owns the action and the training
//! reward of a recorded tick; must not learn.
//!
//! A step consists of the observation of a State, the action that corresponds to the allocation during the following
//! tick, and the training reward of that tick. It does not matter which agent or rule decided: Q-learning is
//! off-policy. A tick that was not measured is not a step; a missing value never counts as zero.

use std::collections::BTreeMap;

use qscale_common::contract::{Latency, Reward, State, StateId};
use qscale_common::slo;
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use qscale_dqn::actions::{ActionCandidates, Actions};
use qscale_dqn::context::{FeatureContext, feature_value};
use qscale_dqn::observation::{COUNT, observe};
use qscale_dqn::reward::{StepReward, TrainingReward};
use qscale_policies::History;
use qscale_rl::Mask;
use qscale_rl::learner::Learner;
use qscale_rl::replay::{StepEnd, Transition};
use serde::{Deserialize, Serialize};

/// Range of the covered time of a measurement, in ticks; outside of it the measurement belongs to another period than the tick.
const MIN_COVERED: f64 = 0.5;
const MAX_COVERED: f64 = 1.5;

/// Recording of one function.
#[derive(Debug, Clone, Copy)]
pub struct Recording<'a> {
    /// Its States in order. Those before `since` only fill the history.
    pub states: &'a [State],
    /// Its Rewards, by the State whose tick they measure.
    pub rewards: &'a BTreeMap<StateId, Reward>,
    /// Time of the first step.
    pub since: Timestamp,
}

/// Converts recordings: observations as the agent computes them, rewards as training computes them.
pub struct ExperienceReader<'a> {
    /// The action set.
    pub actions: &'a Actions,
    /// The training reward.
    pub reward: TrainingReward,
    /// Violation cost with which the agent decides on a State.
    pub violation_cost: &'a dyn Fn(&State) -> f64,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedStep {
    /// Observation before the tick.
    pub observation: Vec<f32>,
    /// Allowed actions.
    pub mask: Mask,
    /// Action that corresponds to the allocation during the tick.
    pub choice: usize,
    /// Training reward of the tick and its terms.
    pub tick: StepReward,
    /// Observation after the tick.
    pub next: Vec<f32>,
    /// Allowed actions there.
    pub next_mask: Mask,
}

impl RecordedStep {
    fn transition(&self) -> Transition<'_> {
        Transition {
            observation: &self.observation,
            mask: self.mask,
            action: self.choice as u8,
            reward: self.tick.reward as f32,
            next: &self.next,
            next_mask: self.next_mask,
            end: StepEnd::Continues,
        }
    }
}

/// A recorded tick.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordedTick {
    /// A step to learn from.
    Step(Box<RecordedStep>),
    /// A tick that is skipped; no return spans it.
    Gap,
}

/// Skipped ticks by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Skipped {
    /// The State after the tick, or the one that measures it, is missing.
    pub missing: usize,
    /// A term of the training reward was not measured.
    pub unmeasured: usize,
    /// No action corresponds to the allocation.
    pub unmatched: usize,
}

/// Experience in a recording.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Experience {
    /// Ticks in order.
    pub ticks: Vec<RecordedTick>,
    /// Skipped ticks.
    pub skipped: Skipped,
}

impl Skipped {
    /// Their total.
    #[must_use]
    pub fn all(&self) -> usize {
        self.missing + self.unmeasured + self.unmatched
    }
}

impl Experience {
    /// Number of steps.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.ticks.iter().filter(|tick| matches!(tick, RecordedTick::Step(_))).count()
    }

    /// Keeps only the newest `count` ticks.
    pub fn keep_newest(&mut self, count: usize) {
        self.ticks.drain(..self.ticks.len().saturating_sub(count));
    }
}

/// Adds `ticks`, `times` times, to the replay of `learner` as its environment number `environment`.
pub fn fill_replay(learner: &mut Learner, environment: usize, ticks: &[RecordedTick], times: usize) {
    for _ in 0..times {
        for tick in ticks {
            match tick {
                RecordedTick::Step(step) => learner.observe(environment, &step.transition()),
                RecordedTick::Gap => learner.interrupt(environment),
            }
        }
        learner.interrupt(environment);
    }
}

/// Why a tick is skipped.
enum SkipReason {
    Missing,
    Unmeasured,
    Unmatched,
}

/// A State as the network sees it.
struct ObservedState {
    observation: Vec<f32>,
    candidates: ActionCandidates,
    usual_price: f64,
    violation_cost: f64,
}

impl ExperienceReader<'_> {
    /// The experience in `recording`.
    #[must_use]
    pub fn read(&self, recording: &Recording<'_>) -> Experience {
        let mut history = History::default();
        let seen: Vec<Option<ObservedState>> =
            recording.states.iter().map(|state| self.observe(state, &mut history, recording.since)).collect();
        let mut experience = Experience::default();
        for at in 0..recording.states.len().saturating_sub(1) {
            let Some(before) = &seen[at] else { continue };
            match self.step(recording, at, before, seen[at + 1].as_ref()) {
                Ok(step) => experience.ticks.push(RecordedTick::Step(Box::new(step))),
                Err(why) => {
                    experience.ticks.push(RecordedTick::Gap);
                    *match why {
                        SkipReason::Missing => &mut experience.skipped.missing,
                        SkipReason::Unmeasured => &mut experience.skipped.unmeasured,
                        SkipReason::Unmatched => &mut experience.skipped.unmatched,
                    } += 1;
                }
            }
        }
        experience
    }

    /// Adds `state` to `history`; returns its observation, or `None` before `since`.
    fn observe(&self, state: &State, history: &mut History, since: Timestamp) -> Option<ObservedState> {
        let violation_cost = (self.violation_cost)(state);
        let context = FeatureContext::update(state, history, violation_cost);
        if state.observed_at_ms < since {
            return None;
        }
        let mut seen = ObservedState {
            observation: vec![0.0; COUNT],
            candidates: ActionCandidates::default(),
            usual_price: context.usual_price(),
            violation_cost,
        };
        observe(&context, &mut seen.observation);
        self.actions.decode(&context, &mut seen.candidates);
        Some(seen)
    }

    fn step(
        &self,
        recording: &Recording<'_>,
        at: usize,
        before: &ObservedState,
        after: Option<&ObservedState>,
    ) -> Result<RecordedStep, SkipReason> {
        let states = recording.states;
        let after = after.filter(|_| follows(&states[at], &states[at + 1])).ok_or(SkipReason::Missing)?;
        // With late measurements, a later State holds those of this tick.
        let late = states[at + 1].age.requests_ms.ok_or(SkipReason::Unmeasured)? / states[at + 1].tick_length_ms.max(1);
        let measured_at = at + 1 + usize::try_from(late).unwrap_or(usize::MAX / 2);
        let whole = measured_at < states.len() && (at..measured_at).all(|at| follows(&states[at], &states[at + 1]));
        let [.., waiting, measured_by] = states.get(..=measured_at).filter(|_| whole).ok_or(SkipReason::Missing)? else {
            return Err(SkipReason::Missing);
        };
        if measured_by.age.requests_ms.is_none_or(|age| age / measured_by.tick_length_ms.max(1) != late) {
            return Err(SkipReason::Unmeasured);
        }
        let reward = recording.rewards.get(&waiting.state_id()).ok_or(SkipReason::Unmeasured)?;
        let current = reward.allocation.ok_or(SkipReason::Unmeasured)?;
        let tick = self.training_reward(waiting, measured_by, reward, current, before).ok_or(SkipReason::Unmeasured)?;
        let choice =
            (0..self.actions.count()).find(|choice| before.candidates.entry(*choice) == Ok(current)).ok_or(SkipReason::Unmatched)?;
        let (next, next_mask) = (after.observation.clone(), after.candidates.mask());
        Ok(RecordedStep { observation: before.observation.clone(), mask: before.candidates.mask(), choice, tick, next, next_mask })
    }

    /// Training reward of the tick between the States `waiting` and `measured_by`; `None` if a term was not measured.
    fn training_reward(
        &self,
        waiting: &State,
        measured_by: &State,
        reward: &Reward,
        current: Allocation,
        seen: &ObservedState,
    ) -> Option<StepReward> {
        let violation = violation(waiting, measured_by)?;
        let cost = measured_by.prices.per_hour(current) / seen.usual_price;
        let terms = &reward.terms;
        let (reversal, resize, kills) = (terms.reversal.value?, terms.resize.value?, terms.kill.value?);
        let tick = StepReward { reward: 0.0, violation, cost, reversal, kills };
        let tick = self.reward.weigh(tick, resize, measured_by.tick_length_ms as f64 / 1000.0, seen.violation_cost);
        tick.reward.is_finite().then_some(tick)
    }
}

/// Whether `next` is the State of the tick after that of `state`.
fn follows(state: &State, next: &State) -> bool {
    next.epoch == state.epoch && next.tick == state.tick.next() && next.tick_length_ms == state.tick_length_ms
}

/// Violation term of the tick between the States `waiting` and `measured_by`; `None` if it was not measured.
#[must_use]
pub fn violation(waiting: &State, measured_by: &State) -> Option<f64> {
    let (window, objective) = (&measured_by.windows.tick, &measured_by.objective);
    let covered = window.covered_ms as f64 / measured_by.tick_length_ms.max(1) as f64;
    if !(MIN_COVERED..=MAX_COVERED).contains(&covered) {
        return None;
    }
    let completed = feature_value(window.completed_rps)?;
    let Some(failed) = window.failed_share else {
        // Requests completed, so a missing share of failures means that it was not measured.
        if completed > 0.0 {
            return None;
        }
        // No request completed during a tick that is longer than the latency bound.
        let queued = |state: &State| feature_value(state.windows.tick.queued).map(|queued| queued > 0.0);
        let stuck = queued(waiting)? && queued(measured_by)? && measured_by.tick_length_ms > objective.latency_ms;
        return Some(f64::from(u8::from(stuck)));
    };
    let late_of_successful = match window.latency {
        Some(latency) => slower(&latency, objective.percentile, objective.latency_ms as f64),
        None if completed > 0.0 => return None,
        None => 0.0,
    };
    let late = failed + (1.0 - failed) * late_of_successful;
    Some(slo::graded((late, 1.0 - objective.percentile / 100.0), (failed, objective.failure_share)))
}

/// Share of successful requests that took longer than `bound_ms`, interpolated between the known percentiles. Between
/// two of them, and beyond the last, the share falls exponentially.
fn slower(latency: &Latency, percentile: f64, bound_ms: f64) -> f64 {
    let mut knots = [
        (0.0, 1.0f64),
        (latency.p50_ms, 0.5),
        (latency.p95_ms, 0.05),
        (latency.p99_ms, 0.01),
        (latency.objective_ms, 1.0 - percentile / 100.0),
    ];
    knots.sort_by(|one, other| other.1.total_cmp(&one.1));
    let mut share = 0.0;
    for pair in knots.windows(2) {
        let ((from_ms, from), (to_ms, to)) = (pair[0], pair[1]);
        if to_ms <= from_ms || to >= from {
            continue;
        }
        let fall = (to / from).ln() / (to_ms - from_ms);
        share = from * (fall * (bound_ms - from_ms)).exp();
        if bound_ms <= to_ms {
            break;
        }
    }
    // With few requests the highest percentiles are equal: no request is known to be slower.
    if bound_ms >= knots[4].0 && knots[3].0 >= knots[4].0 { 0.0 } else { share.clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests;
