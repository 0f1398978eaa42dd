//! What a recording teaches: States and Rewards of one function as steps of a learner. Owns which choice a recorded tick was and what it was worth; must not learn.
//!
//! A step is: what the network saw of a State, the choice that names the allocation which was in force during the tick that followed, and what that tick was worth. Who
//! decided is no matter, as Q-learning asks only what was done. What was not measured is no step and never counts as zero.

use std::collections::BTreeMap;

use qscale_common::contract::{Latency, Reward, State, StateId};
use qscale_common::slo;
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use qscale_dqn::actions::{Actions, Menu};
use qscale_dqn::observation::{COUNT, observe};
use qscale_dqn::sight::{Sight, measured};
use qscale_dqn::worth::{self, Worth};
use qscale_policies::History;
use qscale_rl::Mask;
use qscale_rl::learner::Learner;
use qscale_rl::replay::{StepEnd, Transition};
use serde::{Deserialize, Serialize};

/// A reading that covers less than this share of a tick, or more than that many ticks, tells of another span than the tick.
const LEAST_COVERED: f64 = 0.5;
const MOST_COVERED: f64 = 1.5;

/// What was recorded of one function.
#[derive(Debug, Clone, Copy)]
pub struct Recording<'a> {
    /// Its States in order. Those before `since` only fill the history.
    pub states: &'a [State],
    /// Its Rewards by the State whose tick they judge.
    pub rewards: &'a BTreeMap<StateId, Reward>,
    /// When steps begin.
    pub since: Timestamp,
}

/// By what a recording is read: as the agent saw it, and as training judges it.
pub struct Reader<'a> {
    /// What could be chosen.
    pub actions: &'a Actions,
    /// What a tick is worth.
    pub worth: Worth,
    /// The caution that a function's State is decided on with.
    pub caution: &'a dyn Fn(&State) -> f64,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What was seen.
    pub observation: Vec<f32>,
    /// What could be chosen.
    pub mask: Mask,
    /// The choice that names what was in force then.
    pub choice: usize,
    /// What the tick was worth, and why.
    pub tick: worth::Tick,
    /// What was seen after it.
    pub next: Vec<f32>,
    /// What could be chosen there.
    pub next_mask: Mask,
}

impl Step {
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

/// A tick of a recording.
#[derive(Debug, Clone, PartialEq)]
pub enum Lived {
    /// It teaches something.
    Step(Box<Step>),
    /// It does not, and no return reaches across it.
    Gap,
}

/// Ticks that teach nothing, by the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Skipped {
    /// The State of the tick after it, or of the one that measures it, is missing.
    pub missing: usize,
    /// What it was worth was not measured.
    pub unmeasured: usize,
    /// No choice names what was in force.
    pub unmatched: usize,
}

/// What a recording teaches.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Experience {
    /// Its ticks in order.
    pub lived: Vec<Lived>,
    /// Those that teach nothing.
    pub skipped: Skipped,
}

impl Skipped {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> usize {
        self.missing + self.unmeasured + self.unmatched
    }
}

impl Experience {
    /// How many steps there are.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.lived.iter().filter(|lived| matches!(lived, Lived::Step(_))).count()
    }

    /// Keeps only the newest `most` ticks.
    pub fn keep_newest(&mut self, most: usize) {
        self.lived.drain(..self.lived.len().saturating_sub(most));
    }
}

/// Has `learner` remember `lived` as what happened in its environment number `lane`, `times` times over.
pub fn learn_from(learner: &mut Learner, lane: usize, lived: &[Lived], times: usize) {
    for _ in 0..times {
        for lived in lived {
            match lived {
                Lived::Step(step) => learner.observe(lane, &step.transition()),
                Lived::Gap => learner.interrupt(lane),
            }
        }
        learner.interrupt(lane);
    }
}

/// Why a tick teaches nothing.
enum Why {
    Missing,
    Unmeasured,
    Unmatched,
}

/// What the network saw of one State.
struct Seen {
    observation: Vec<f32>,
    menu: Menu,
    usual_price: f64,
    caution: f64,
}

impl Reader<'_> {
    /// What `recording` teaches.
    #[must_use]
    pub fn read(&self, recording: &Recording<'_>) -> Experience {
        let mut history = History::default();
        let seen: Vec<Option<Seen>> = recording.states.iter().map(|state| self.see(state, &mut history, recording.since)).collect();
        let mut experience = Experience::default();
        for at in 0..recording.states.len().saturating_sub(1) {
            let Some(before) = &seen[at] else { continue };
            match self.step(recording, at, before, seen[at + 1].as_ref()) {
                Ok(step) => experience.lived.push(Lived::Step(Box::new(step))),
                Err(why) => {
                    experience.lived.push(Lived::Gap);
                    *match why {
                        Why::Missing => &mut experience.skipped.missing,
                        Why::Unmeasured => &mut experience.skipped.unmeasured,
                        Why::Unmatched => &mut experience.skipped.unmatched,
                    } += 1;
                }
            }
        }
        experience
    }

    /// Takes `state` into `history`; what was seen of it, unless it only fills that.
    fn see(&self, state: &State, history: &mut History, since: Timestamp) -> Option<Seen> {
        let caution = (self.caution)(state);
        let sight = Sight::take(state, history, caution);
        if state.observed_at_ms < since {
            return None;
        }
        let mut seen = Seen { observation: vec![0.0; COUNT], menu: Menu::default(), usual_price: sight.usual_price(), caution };
        observe(&sight, &mut seen.observation);
        self.actions.decode(&sight, &mut seen.menu);
        Some(seen)
    }

    fn step(&self, recording: &Recording<'_>, at: usize, before: &Seen, after: Option<&Seen>) -> Result<Step, Why> {
        let states = recording.states;
        let after = after.filter(|_| follows(&states[at], &states[at + 1])).ok_or(Why::Missing)?;
        // Measurements that come late tell of this tick in a later State.
        let late = states[at + 1].age.requests_ms.ok_or(Why::Unmeasured)? / states[at + 1].tick_length_ms.max(1);
        let told_at = at + 1 + usize::try_from(late).unwrap_or(usize::MAX / 2);
        let whole = told_at < states.len() && (at..told_at).all(|at| follows(&states[at], &states[at + 1]));
        let [.., waiting, told] = states.get(..=told_at).filter(|_| whole).ok_or(Why::Missing)? else { return Err(Why::Missing) };
        if told.age.requests_ms.is_none_or(|age| age / told.tick_length_ms.max(1) != late) {
            return Err(Why::Unmeasured);
        }
        let reward = recording.rewards.get(&waiting.state_id()).ok_or(Why::Unmeasured)?;
        let current = reward.allocation.ok_or(Why::Unmeasured)?;
        let tick = self.worth_of(waiting, told, reward, current, before).ok_or(Why::Unmeasured)?;
        let choice = (0..self.actions.count()).find(|choice| before.menu.entry(*choice) == Ok(current)).ok_or(Why::Unmatched)?;
        let (next, next_mask) = (after.observation.clone(), after.menu.mask());
        Ok(Step { observation: before.observation.clone(), mask: before.menu.mask(), choice, tick, next, next_mask })
    }

    /// What the tick between `waiting` and `told` was worth, by the formula of training; `None` where a term of it was not measured.
    fn worth_of(&self, waiting: &State, told: &State, reward: &Reward, current: Allocation, seen: &Seen) -> Option<worth::Tick> {
        let violation = violation(waiting, told)?;
        let cost = told.prices.per_hour(current) / seen.usual_price;
        let terms = &reward.terms;
        let (reversal, resize, kills) = (terms.reversal.value?, terms.resize.value?, terms.kill.value?);
        let tick = worth::Tick { reward: 0.0, violation, cost, reversal, kills };
        let tick = self.worth.weigh(tick, resize, told.tick_length_ms as f64 / 1000.0, seen.caution);
        tick.reward.is_finite().then_some(tick)
    }
}

/// Whether `next` closes the tick after that of `state`.
fn follows(state: &State, next: &State) -> bool {
    next.epoch == state.epoch && next.tick == state.tick.next() && next.tick_length_ms == state.tick_length_ms
}

/// How far the objective was violated in the tick that `told` closes, before which `waiting` was; `None` where that was not measured.
#[must_use]
pub fn violation(waiting: &State, told: &State) -> Option<f64> {
    let (window, objective) = (&told.windows.tick, &told.objective);
    let covered = window.covered_ms as f64 / told.tick_length_ms.max(1) as f64;
    if !(LEAST_COVERED..=MOST_COVERED).contains(&covered) {
        return None;
    }
    let completed = measured(window.completed_rps)?;
    let Some(failed) = window.failed_share else {
        // Where something was answered and nobody knows how much of it failed, that was not read.
        if completed > 0.0 {
            return None;
        }
        // Nothing came back all through a tick that is longer than the bound.
        let queued = |state: &State| measured(state.windows.tick.queued).map(|queued| queued > 0.0);
        let stuck = queued(waiting)? && queued(told)? && told.tick_length_ms > objective.latency_ms;
        return Some(f64::from(u8::from(stuck)));
    };
    let late_of_answered = match window.latency {
        Some(latency) => slower(&latency, objective.percentile, objective.latency_ms as f64),
        None if completed > 0.0 => return None,
        None => 0.0,
    };
    let late = failed + (1.0 - failed) * late_of_answered;
    Some(slo::graded((late, 1.0 - objective.percentile / 100.0), (failed, objective.failure_share)))
}

/// Share of the requests answered well that took longer than `bound_ms`, by the percentiles that are told: between two of them, and beyond the last, the share falls
/// exponentially, as a tail does.
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
    // Where the highest percentiles are one number, as of few requests, nothing is known to be slower.
    if bound_ms >= knots[4].0 && knots[3].0 >= knots[4].0 { 0.0 } else { share.clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests;
