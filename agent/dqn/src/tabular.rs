//! Tabular Q-learning as in the study: five bins of CPU, twenty replicas less, none or more, or so much CPU of each. Owns the table; the simplest agent to read, and
//! a baseline.
//!
//! The study's figures (`peers.md`): alpha 0.5, gamma 0.9, epsilon 0.9 times 0.995 a step from step 50 on. It saw the CPU of a node; what an agent sees here
//! is the CPU of a function's replicas over their limit, in the same five bins. The reward is the one that all agents share.

use qscale_common::contract::{Choice, State};
use qscale_common::time::Timestamp;
use qscale_common::units::{Allocation, Millicores, Replicas};
use qscale_policies::{Decision, HoldReason, Memory, Policy};
use qscale_rl::replay::StepEnd;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::actions::Scope;
use crate::sight::measured;

/// What the policy is called.
pub const TABULAR: &str = "tabular-q";

/// Bins of CPU over its limit, each a fifth.
pub const BINS: usize = 5;

/// What the study's agent could do: so many replicas more.
const STEPS: [i64; 3] = [-20, 0, 20];

/// What a table is told.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TabularParameters {
    /// Part of an error that is learned, above 0 and at most 1.
    pub alpha: f64,
    /// How much a reward counts one step later, 0 to below 1.
    pub gamma: f64,
    /// Share of choices left to chance at first, 0 to 1.
    pub epsilon: f64,
    /// What that is multiplied with at each step, above 0 and at most 1.
    pub decay: f64,
    /// From which step on.
    pub decay_from: u64,
    /// Replicas that one choice adds or removes, or millicores of each, 1 to 1000.
    pub step: u32,
    /// Which of the two: horizontal or vertical.
    pub scope: Scope,
}

impl Default for TabularParameters {
    fn default() -> Self {
        Self { alpha: 0.5, gamma: 0.9, epsilon: 0.9, decay: 0.995, decay_from: 50, step: STEPS[2] as u32, scope: Scope::Horizontal }
    }
}

/// What is done to a function while a table is learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// The number of the choice, the bin that it was made in included.
    pub choice: usize,
    /// What the function should be given; `None` wants nothing else than there is.
    pub wanted: Option<Allocation>,
}

/// The table and where its exploration is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tabular {
    /// What it was told.
    pub parameters: TabularParameters,
    /// Seed of its chance.
    pub seed: u64,
    /// The value of each choice in each bin.
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

    /// Reads a table that was written as JSON.
    ///
    /// # Errors
    /// When it is longer than 64 KiB, no such table, or holds a number that is not finite or outside its range.
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

    /// The share of choices left to chance now.
    #[must_use]
    pub fn epsilon(&self) -> f64 {
        let fallen = self.steps.saturating_sub(self.parameters.decay_from);
        self.parameters.epsilon * self.parameters.decay.powi(i32::try_from(fallen).unwrap_or(i32::MAX))
    }

    /// What choice number `choice` names for `state`.
    fn named(&self, state: &State, choice: usize) -> Option<Allocation> {
        let current = state.allocation?;
        let moved = |from: u32| (i64::from(from) + self.by(choice)).clamp(0, i64::from(u32::MAX)) as u32;
        Some(match self.parameters.scope {
            Scope::Vertical => {
                let cpu_millicores = state.bounds.cpu_millicores.clamp(Millicores(moved(current.cpu_millicores.0)));
                Allocation { cpu_millicores, ..current }
            }
            _ => Allocation { replicas: state.bounds.replicas.clamp(Replicas(moved(current.replicas.0))), ..current },
        })
    }

    /// What choice number `choice` adds.
    fn by(&self, choice: usize) -> i64 {
        STEPS[choice].signum() * i64::from(self.parameters.step)
    }

    fn best(&self, bin: usize) -> usize {
        // Of equals the one that keeps what is in force.
        [1, 0, 2].into_iter().reduce(|best, other| if self.table[bin][other] > self.table[bin][best] { other } else { best }).unwrap_or(1)
    }
}

/// The fifth of its limit that the CPU of the replicas lies in; `None` where it was not measured.
fn bin(state: &State) -> Option<usize> {
    let used = measured(state.windows.tick.cpu_millicores.map(|usage| usage.mean))?;
    let share = used / f64::from(state.allocation?.cpu_millicores.0.max(1));
    Some(((share * BINS as f64) as usize).min(BINS - 1))
}

impl Tabular {
    /// What the function of `state` should be given in step number `step`, exploring.
    #[must_use]
    pub fn choose(&self, state: &State, step: u64) -> Option<Chosen> {
        let mut rng = SmallRng::seed_from_u64(self.seed ^ step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let chance = rng.random::<f64>() < self.epsilon();
        let bin = bin(state)?;
        let choice = if chance { rng.random_range(0..STEPS.len()) } else { self.best(bin) };
        // What was seen when it was chosen belongs to the choice.
        Some(Chosen { choice: bin * STEPS.len() + choice, wanted: self.named(state, choice) })
    }

    /// Takes in what became of choice number `chosen`: its reward, how the step ended, and the function then.
    pub fn learn(&mut self, chosen: usize, reward: f64, ending: StepEnd, state: &State) {
        let TabularParameters { alpha, gamma, .. } = self.parameters;
        let Some(to) = bin(state) else { return };
        let (from, choice) = (chosen / STEPS.len(), chosen % STEPS.len());
        let future = if ending == StepEnd::Terminated { 0.0 } else { self.table[to][self.best(to)] };
        self.table[from][choice] -= alpha * (self.table[from][choice] - (reward + gamma * future));
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
        let Some(current) = state.allocation else { return Decision::hold(HoldReason::NoAllocation, "what is in force is not known") };
        let Some(bin) = bin(state) else { return Decision::hold(HoldReason::NoMeasurement, "CPU was not measured") };
        let called = |index| match self.parameters.scope {
            Scope::Vertical => format!("cpu {:+}m", self.by(index)),
            _ => format!("replicas {:+}", self.by(index)),
        };
        let choice = |(index, value): (usize, &f64)| Choice { action: called(index), value: Some(*value), masked: None };
        let choices: Vec<Choice> = self.table[bin].iter().enumerate().map(choice).collect();
        let best = self.best(bin);
        let reason = format!("CPU in bin {bin} of {BINS}: `{}` is worth {:.3}", choices[best].action, self.table[bin][best]);
        match self.named(state, best) {
            Some(allocation) if allocation != current && state.bounds.contain(allocation) => Decision::Want { allocation, reason, choices },
            Some(allocation) if allocation != current => Decision::Hold { why: HoldReason::NotAllowed, reason, choices },
            _ => Decision::Hold { why: HoldReason::NothingToDo, reason, choices },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn the_table_takes_half_of_each_error() {
        let state = sample::busy(0.5);
        let bin = bin(&state).expect("measured");
        assert_eq!(bin, 2);
        let mut tabular = Tabular::new(TabularParameters { epsilon: 0.0, ..TabularParameters::default() }, 1);
        tabular.table[bin] = [0.0, 4.0, 0.0];
        let chosen = |tabular: &Tabular, step| tabular.choose(&state, step).expect("CPU is measured").choice;
        tabular.learn(chosen(&tabular, 0), 1.0, StepEnd::Truncated, &state);
        // 4 + 0.5 x (1 + 0.9 x 4 - 4) = 4.3, and after an end 4.3 + 0.5 x (1 - 4.3) = 2.65.
        assert!((tabular.table[bin][1] - 4.3).abs() < 1e-12);
        tabular.learn(chosen(&tabular, 1), 1.0, StepEnd::Terminated, &state);
        assert!((tabular.table[bin][1] - 2.65).abs() < 1e-12);
    }

    #[test]
    fn it_learns_which_way_pays_and_then_decides_so() {
        let state = sample::busy(0.5);
        let mut tabular = Tabular::new(TabularParameters { gamma: 0.0, step: 1, ..TabularParameters::default() }, 2);
        for step in 0..200 {
            let act = tabular.choose(&state, step).expect("CPU is measured");
            tabular.steps += 1;
            let reward = if act.wanted.expect("an allocation is in force").replicas.0 == 3 { 1.0 } else { -1.0 };
            tabular.learn(act.choice, reward, StepEnd::Continues, &state);
        }
        let decision = tabular.decide(&state, &mut Memory::default(), Timestamp(0), &mut SmallRng::seed_from_u64(0));
        assert_eq!(decision.wanted(), Some(Allocation::new(3, 500, 256)));
        assert!((tabular.epsilon() - 0.9 * 0.995f64.powi(150)).abs() < 1e-12);
    }

    #[test]
    fn vertically_it_changes_cpu_and_nothing_else() {
        let state = sample::busy(0.5);
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
    fn a_table_is_read_as_it_was_written_and_goes_on_exploring_where_it_was() {
        let state = sample::busy(0.5);
        let mut tabular = Tabular::new(TabularParameters::default(), 3);
        for step in 0..100 {
            let act = tabular.choose(&state, step).expect("CPU is measured");
            tabular.steps += 1;
            tabular.learn(act.choice, -0.3, StepEnd::Continues, &state);
        }
        let read = Tabular::from_json(&serde_json::to_vec(&tabular).expect("it is written")).expect("and read again");
        assert_eq!(read, tabular);
        assert!((100..120).all(|step| read.choose(&state, step) == tabular.choose(&state, step)));
        assert!(Tabular::from_json(b"{}").is_err() && Tabular::from_json(&vec![b' '; 70_000]).is_err());
    }
}
