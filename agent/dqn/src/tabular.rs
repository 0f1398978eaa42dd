//! Tabular Q-learning as in the reproduced study: five bins of CPU utilisation; three actions that add or remove
//! replicas or CPU. Owns the table. It is the simplest learned policy and a baseline.
//!
//! Parameters of the study: alpha 0.5, gamma 0.9, epsilon 0.9, multiplied by 0.995 per step from step 50 on. The study
//! used the CPU of a node; here it is the CPU of the function's replicas relative to their limit, in the same five
//! bins. The reward is the one that all agents share.

use qscale_common::contract::{Choice, State};
use qscale_common::hash::GOLDEN_RATIO;
use qscale_common::time::Timestamp;
use qscale_common::units::{Allocation, Millicores, Replicas};
use qscale_policies::{Decision, HoldReason, Memory, Policy};
use qscale_rl::replay::StepEnd;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::context::feature_value;
use qscale_policies::Scope;

/// Name of the policy.
pub const TABULAR: &str = "tabular-q";

/// Bins of CPU utilisation, each a fifth.
pub const BINS: usize = 5;

/// The study's actions: replicas to add.
const STEPS: [i64; 3] = [-20, 0, 20];

/// Parameters of tabular Q-learning.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TabularParameters {
    /// Learning rate, above 0 and at most 1.
    pub alpha: f64,
    /// Discount, 0 to below 1.
    pub gamma: f64,
    /// Initial probability of a random action, 0 to 1.
    pub epsilon: f64,
    /// Factor of epsilon per step, above 0 and at most 1.
    pub decay: f64,
    /// First step of the decay.
    pub decay_from: u64,
    /// Replicas, or millicores of each replica, that an action adds or removes, 1 to 1000.
    pub step: u32,
    /// Horizontal (replicas) or vertical (CPU).
    pub scope: Scope,
}

impl Default for TabularParameters {
    fn default() -> Self {
        Self { alpha: 0.5, gamma: 0.9, epsilon: 0.9, decay: 0.995, decay_from: 50, step: STEPS[2] as u32, scope: Scope::Horizontal }
    }
}

/// An action taken during training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TabularAction {
    /// Index of bin and action in the table.
    pub index: usize,
    /// Requested allocation; `None` keeps the current one.
    pub requested: Option<Allocation>,
}

/// The table and the state of exploration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tabular {
    /// Its parameters.
    pub parameters: TabularParameters,
    /// Seed of exploration.
    pub seed: u64,
    /// Value of each action in each bin.
    pub table: [[f64; STEPS.len()]; BINS],
    /// Steps made so far.
    pub steps: u64,
}

impl Tabular {
    /// An empty table.
    #[must_use]
    pub fn new(parameters: TabularParameters, seed: u64) -> Self {
        Self { parameters, seed, table: [[0.0; STEPS.len()]; BINS], steps: 0 }
    }

    /// Reads a table from JSON.
    ///
    /// # Errors
    /// When it is longer than 64 KiB, not a table, or contains a number that is not finite or out of range.
    pub fn from_json(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > 64 << 10 {
            return Err(format!("a table of {} bytes, at most {} are read", bytes.len(), 64 << 10));
        }
        let tabular: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let TabularParameters { alpha, gamma, epsilon, decay, step, .. } = tabular.parameters;
        let ranges = [
            ("alpha", alpha, alpha > 0.0 && alpha <= 1.0),
            ("gamma", gamma, (0.0..1.0).contains(&gamma)),
            ("epsilon", epsilon, (0.0..=1.0).contains(&epsilon)),
            ("decay", decay, decay > 0.0 && decay <= 1.0),
            ("step", f64::from(step), (1..=1000).contains(&step)),
        ];
        match ranges.into_iter().find(|(_, _, within)| !within) {
            Some((name, value, _)) => Err(format!("{name} = {value} is outside its range")),
            None if tabular.parameters.scope == Scope::Joint => {
                Err("scope = joint, must be horizontal or vertical: a table changes one of them".into())
            }
            None if tabular.table.iter().flatten().any(|value| !value.is_finite()) => Err("a value of the table is not finite".into()),
            None => Ok(tabular),
        }
    }

    /// Current probability of a random action.
    #[must_use]
    pub fn epsilon(&self) -> f64 {
        let fallen = self.steps.saturating_sub(self.parameters.decay_from);
        self.parameters.epsilon * self.parameters.decay.powi(i32::try_from(fallen).unwrap_or(i32::MAX))
    }

    /// The allocation of action `action` for `state`.
    fn allocation(&self, state: &State, action: usize) -> Option<Allocation> {
        let current = state.allocation?;
        let moved = |from: u32| (i64::from(from) + self.by(action)).clamp(0, i64::from(u32::MAX)) as u32;
        Some(match self.parameters.scope {
            Scope::Vertical => {
                let cpu_millicores = state.bounds.cpu_millicores.clamp(Millicores(moved(current.cpu_millicores.0)));
                Allocation { cpu_millicores, ..current }
            }
            _ => Allocation { replicas: state.bounds.replicas.clamp(Replicas(moved(current.replicas.0))), ..current },
        })
    }

    /// Replicas or millicores that action `action` adds.
    fn by(&self, action: usize) -> i64 {
        STEPS[action].signum() * i64::from(self.parameters.step)
    }

    fn best(&self, bin: usize) -> usize {
        // Of equal values the action that keeps the current allocation.
        [1, 0, 2].into_iter().reduce(|best, other| if self.table[bin][other] > self.table[bin][best] { other } else { best }).unwrap_or(1)
    }
}

/// The fifth of its limit that the CPU of the replicas lies in; `None` where it was not measured.
fn bin(state: &State) -> Option<usize> {
    let used = feature_value(state.windows.tick.cpu_millicores.map(|usage| usage.mean))?;
    let share = used / f64::from(state.allocation?.cpu_millicores.0.max(1));
    Some(((share * BINS as f64) as usize).min(BINS - 1))
}

impl Tabular {
    /// The exploring action for `state` in step `step`; `None` if CPU was not measured.
    #[must_use]
    pub fn choose(&self, state: &State, step: u64) -> Option<TabularAction> {
        let mut rng = SmallRng::seed_from_u64(self.seed ^ step.wrapping_mul(GOLDEN_RATIO));
        let chance = rng.random::<f64>() < self.epsilon();
        let bin = bin(state)?;
        let choice = if chance { rng.random_range(0..STEPS.len()) } else { self.best(bin) };
        Some(TabularAction { index: bin * STEPS.len() + choice, requested: self.allocation(state, choice) })
    }

    /// Updates the value of the action with `index` by its reward, the end of the step and the State after it.
    pub fn update(&mut self, index: usize, reward: f64, end: StepEnd, state: &State) {
        let TabularParameters { alpha, gamma, .. } = self.parameters;
        let Some(to) = bin(state) else { return };
        let (from, action) = (index / STEPS.len(), index % STEPS.len());
        let future = if end == StepEnd::Terminated { 0.0 } else { self.table[to][self.best(to)] };
        self.table[from][action] -= alpha * (self.table[from][action] - (reward + gamma * future));
    }
}

impl Policy for Tabular {
    fn name(&self) -> &'static str {
        TABULAR
    }

    fn model(&self) -> String {
        format!("tabular-q of seed {} after {} steps", self.seed, self.steps)
    }

    fn decide(&self, state: &State, _: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        let Some(current) = state.allocation else { return Decision::hold(HoldReason::NoAllocation, "current allocation unknown") };
        let Some(bin) = bin(state) else { return Decision::hold(HoldReason::NoMeasurement, "CPU not measured") };
        let called = |index| match self.parameters.scope {
            Scope::Vertical => format!("cpu {:+}m", self.by(index)),
            _ => format!("replicas {:+}", self.by(index)),
        };
        let choice = |(index, value): (usize, &f64)| Choice { action: called(index), value: Some(*value), masked: None };
        let choices: Vec<Choice> = self.table[bin].iter().enumerate().map(choice).collect();
        let best = self.best(bin);
        let reason = format!("CPU in bin {bin} of {BINS}: `{}` has Q-value {:.3}", choices[best].action, self.table[bin][best]);
        match self.allocation(state, best) {
            Some(allocation) if allocation != current && state.bounds.contain(allocation) => Decision::Want { allocation, reason, choices },
            Some(allocation) if allocation != current => Decision::Hold { why: HoldReason::NotAllowed, reason, choices },
            _ => Decision::Hold { why: HoldReason::NothingToDo, reason, choices },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn learns_half_of_each_error() {
        let state = fixtures::busy(0.5);
        let bin = bin(&state).expect("measured");
        assert_eq!(bin, 2);
        let mut tabular = Tabular::new(TabularParameters { epsilon: 0.0, ..TabularParameters::default() }, 1);
        tabular.table[bin] = [0.0, 4.0, 0.0];
        let chosen = |tabular: &Tabular, step| tabular.choose(&state, step).expect("CPU is measured").index;
        tabular.update(chosen(&tabular, 0), 1.0, StepEnd::Truncated, &state);
        // 4 + 0.5 x (1 + 0.9 x 4 - 4) = 4.3, and after an end 4.3 + 0.5 x (1 - 4.3) = 2.65.
        assert!((tabular.table[bin][1] - 4.3).abs() < 1e-12);
        tabular.update(chosen(&tabular, 1), 1.0, StepEnd::Terminated, &state);
        assert!((tabular.table[bin][1] - 2.65).abs() < 1e-12);
    }

    #[test]
    fn learns_the_better_action_and_decides_for_it() {
        let state = fixtures::busy(0.5);
        let mut tabular = Tabular::new(TabularParameters { gamma: 0.0, step: 1, ..TabularParameters::default() }, 2);
        for step in 0..200 {
            let act = tabular.choose(&state, step).expect("CPU is measured");
            tabular.steps += 1;
            let reward = if act.requested.expect("the current allocation is known").replicas.0 == 3 { 1.0 } else { -1.0 };
            tabular.update(act.index, reward, StepEnd::Continues, &state);
        }
        let decision = tabular.decide(&state, &mut Memory::default(), Timestamp(0), &mut SmallRng::seed_from_u64(0));
        assert_eq!(decision.wanted(), Some(Allocation::new(3, 500, 256)));
        assert!((tabular.epsilon() - 0.9 * 0.995f64.powi(150)).abs() < 1e-12);
    }

    #[test]
    fn vertical_scope_changes_cpu_only() {
        let state = fixtures::busy(0.5);
        let parameters = TabularParameters { epsilon: 0.0, step: 30, scope: Scope::Vertical, ..TabularParameters::default() };
        let mut tabular = Tabular::new(parameters, 4);
        let decide = |tabular: &Tabular| tabular.decide(&state, &mut Memory::default(), Timestamp(0), &mut SmallRng::seed_from_u64(0));
        tabular.table[2] = [0.0, 0.0, 1.0];
        assert_eq!(decide(&tabular).wanted(), Some(Allocation::new(2, 530, 256)));
        tabular.table[2] = [1.0, 0.0, 0.0];
        assert_eq!(decide(&tabular).wanted(), Some(Allocation::new(2, 470, 256)));
        assert!(matches!(decide(&tabular), Decision::Want { choices, .. } if choices[2].action == "cpu +30m"));
        tabular.parameters.scope = Scope::Joint;
        let error = Tabular::from_json(&serde_json::to_vec(&tabular).expect("it is written")).expect_err("one of them");
        assert!(error.contains("scope = joint"), "{error}");
    }

    #[test]
    fn a_stored_table_resumes_exploration() {
        let state = fixtures::busy(0.5);
        let mut tabular = Tabular::new(TabularParameters::default(), 3);
        for step in 0..100 {
            let act = tabular.choose(&state, step).expect("CPU is measured");
            tabular.steps += 1;
            tabular.update(act.index, -0.3, StepEnd::Continues, &state);
        }
        let read = Tabular::from_json(&serde_json::to_vec(&tabular).expect("it is written")).expect("and read again");
        assert_eq!(read, tabular);
        assert!((100..120).all(|step| read.choose(&state, step) == tabular.choose(&state, step)));
        assert!(Tabular::from_json(b"{}").is_err() && Tabular::from_json(&vec![b' '; 70_000]).is_err());
    }
}
