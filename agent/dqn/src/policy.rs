//! A trained network as a policy: greedy, with its Q-values in every decision. Owns inference; must not learn or explore.

use std::time::Duration;

use qscale_common::contract::{Choice, State};
use qscale_common::policy::ViolationCost;
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::Allocation;
use qscale_policies::{Decision, History, HoldReason, Memory, Policy, Scope, Timing};
use qscale_rl::Mask;
use qscale_rl::device::Device;
use qscale_rl::network::{DeviceError, Network, Weights};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::actions::{ActionCandidates, ActionSet, Actions};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::context::FeatureContext;
use crate::observation;
use crate::operating_point::PointController;
use crate::reward::TrainingReward;

/// Violation cost at which networks in training are evaluated.
const EVALUATED_VIOLATION_COST: f64 = 100.0;
/// Default violation cost of a function that always keeps a replica, by the results of the evaluation.
pub const DEFAULT_VIOLATION_COST: f64 = 20.0;
/// Default violation cost of a function that may be scaled to zero: it is invoked rarely, and its next request would wait for a start.
pub const DEFAULT_VIOLATION_COST_SCALE_TO_ZERO: f64 = 500.0;

/// The violation cost at which networks in training are evaluated.
#[must_use]
pub fn evaluated_violation_cost() -> ViolationCost {
    ViolationCost::try_from(EVALUATED_VIOLATION_COST).expect("it is within the range")
}

/// The violation cost of the function of `state` if none is configured.
#[must_use]
pub fn default_violation_cost(state: &State) -> f64 {
    if may_scale_to_zero(state) { DEFAULT_VIOLATION_COST_SCALE_TO_ZERO } else { DEFAULT_VIOLATION_COST }
}

fn may_scale_to_zero(state: &State) -> bool {
    state.bounds.replicas.min().0 == 0
}

/// Minimum saving, compared with the default action ([`Actions::default_action`]), for which another action is taken,
/// in ticks of the usual cost, 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct SwitchMargin(f64);

impl SwitchMargin {
    /// The action with the highest Q-value is taken.
    pub const NONE: Self = Self(0.0);
    /// Largest margin.
    pub const MOST: f64 = 100.0;
    /// Default for a function that always keeps a replica, and for action sets of steps.
    pub const DEFAULT: f64 = 0.2;
    /// Default for a function that may be scaled to zero. A violation is rare there and weighs hundreds of ticks of the
    /// usual cost, so that Q-values are accurate to a few of those at best (EXPERIMENTS.md 15). A step saves little,
    /// and many are taken one after the other, so that sets of steps keep [`SwitchMargin::DEFAULT`].
    pub const DEFAULT_SCALE_TO_ZERO: f64 = 4.0;

    /// The number of ticks.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

/// The switch margin for actions of `set` on the function of `state` if none is configured.
#[must_use]
pub fn default_switch_margin(state: &State, set: ActionSet) -> f64 {
    if set == ActionSet::Headroom && may_scale_to_zero(state) { SwitchMargin::DEFAULT_SCALE_TO_ZERO } else { SwitchMargin::DEFAULT }
}

impl TryFrom<f64> for SwitchMargin {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        if (0.0..=Self::MOST).contains(&value) {
            Ok(Self(value))
        } else {
            Err(format!("switch_margin = {value}, must be from 0 to {}", Self::MOST))
        }
    }
}

impl From<SwitchMargin> for f64 {
    fn from(margin: SwitchMargin) -> Self {
        margin.0
    }
}

/// Parameters of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DqnParams {
    /// Cost of a violated tick, in units of five seconds of the function's usual cost, 10 to 20000: higher is safer and
    /// more expensive. Default: 20, and 500 for a function that may be scaled to zero.
    #[serde(alias = "caution")]
    #[schemars(with = "Option<f64>")]
    pub violation_cost: Option<ViolationCost>,
    /// Parts of the allocation that may be changed: horizontal, vertical or joint. Default: the scope of the model.
    #[schemars(with = "Option<String>")]
    pub scope: Option<Scope>,
    /// Minimum saving, compared with the default action of providing the 15-minute peak, for which another action is
    /// taken, in ticks of the function's usual cost, 0 to 100: higher changes less. Default: 0.2, and 4 for a function
    /// that may be scaled to zero if the action set is headroom.
    #[serde(alias = "patience")]
    #[schemars(with = "Option<f64>")]
    pub switch_margin: Option<SwitchMargin>,
}

/// Memory of a learned policy about one function.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LearnedMemory {
    /// Past loads.
    pub history: History,
    /// The operating point that is held.
    pub point: PointController,
}

/// A network with its normalisation.
struct Trained {
    network: Box<dyn Network>,
    /// Shift and scale of each feature.
    normalisation: (Vec<f32>, Vec<f32>),
}

impl Trained {
    fn new(weights: &Weights, device: &Device) -> Self {
        let (shift, scale) = weights.normalisation();
        Self { network: device.network(weights), normalisation: (shift.to_vec(), scale.to_vec()) }
    }

    /// The Q-values for each row of `observations`.
    fn values(&self, observations: &[f32]) -> Result<Vec<f32>, DeviceError> {
        if observations.len() == observation::COUNT {
            // A single row uses another matrix kernel with other rounding. A decision must not depend on which
            // functions are decided together.
            let mut values = self.network.values(&observations.repeat(2))?;
            values.truncate(values.len() / 2);
            return Ok(values);
        }
        self.network.values(observations)
    }
}

/// A trained network that decides.
pub struct Dqn {
    network: Trained,
    /// The network for functions that always keep a replica.
    specialist: Option<Trained>,
    actions: Actions,
    names: Vec<String>,
    model: String,
    fingerprint: String,
    violation_cost: Option<ViolationCost>,
    switch_margin: Option<SwitchMargin>,
    /// The reward in training.
    reward: TrainingReward,
}

/// Out-of-distribution score beyond which the network is not trusted. A test checks that fewer than one tick in 10,000
/// of training worlds exceeds it.
pub const OOD_THRESHOLD: f32 = 3.0;

/// Observation and Q-values for one State.
#[derive(Debug, Clone, PartialEq)]
pub struct Valuation {
    /// The observation, in the order of [`observation::FEATURES`].
    pub observation: Vec<f32>,
    /// The allocation of each action.
    pub candidates: ActionCandidates,
    /// Q-value of each action, in units of the training reward.
    pub values: Vec<f32>,
    /// The selected action; `None` if none can be taken or no value is finite.
    pub best: Option<usize>,
    /// Out-of-distribution score: root mean square of the features after the network's normalisation. About 1 in
    /// training, and above [`OOD_THRESHOLD`] in fewer than one of 10,000 ticks there.
    pub ood_score: f32,
}

impl Dqn {
    /// The policy of `checkpoint` on `device` with `params`.
    ///
    /// # Errors
    /// When it was trained for other features, actions or another scope; lists the differences.
    pub fn new(checkpoint: &Checkpoint, params: DqnParams, device: &Device) -> Result<Self, CheckpointError> {
        let trained = checkpoint.check()?;
        let scope = params.scope.unwrap_or(trained.scope());
        if trained.scope() != Scope::Joint && trained.scope() != scope {
            return Err(CheckpointError::Mismatch(vec![format!("trained for scope {}, {scope} is requested", trained.scope())]));
        }
        let actions = Actions::new(trained.set(), scope);
        let fingerprint = checkpoint.fingerprint();
        let model = format!("dqn {} {scope} {fingerprint}", actions.set());
        Ok(Self {
            network: Trained::new(&checkpoint.weights, device),
            specialist: checkpoint.specialist.as_ref().map(|weights| Trained::new(weights, device)),
            names: actions.names(),
            actions,
            model,
            fingerprint,
            violation_cost: params.violation_cost,
            switch_margin: params.switch_margin,
            reward: checkpoint.header.reward.unwrap_or_default(),
        })
    }

    /// The specialist, if there is one and it decides on `observation`.
    fn specialist_for(&self, observation: &[f32]) -> Option<&Trained> {
        self.specialist.as_ref().filter(|_| observation::keeps_one(observation))
    }

    /// The Q-value of each action for each row of `observations`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn values(&self, observations: &[f32]) -> Result<Vec<f32>, DeviceError> {
        let Some(specialist) = &self.specialist else { return self.network.values(observations) };
        let rows = || observations.chunks_exact(observation::COUNT);
        let of =
            |special: bool| rows().filter(|row| self.specialist_for(row).is_some() == special).flatten().copied().collect::<Vec<f32>>();
        let (special, others) = (specialist.values(&of(true))?, self.network.values(&of(false))?);
        let width = self.names.len();
        let (mut special, mut others) = (special.chunks_exact(width), others.chunks_exact(width));
        let row = |row| if self.specialist_for(row).is_some() { special.next() } else { others.next() };
        Ok(rows().flat_map(row).flatten().copied().collect())
    }

    /// Fingerprint of its checkpoint.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Its actions.
    #[must_use]
    pub fn actions(&self) -> &Actions {
        &self.actions
    }

    /// Values many functions in one pass of the network.
    ///
    /// # Errors
    /// When the device fails.
    pub fn value(&self, contexts: &[FeatureContext<'_>]) -> Result<Vec<Valuation>, DeviceError> {
        let mut observations = vec![0.0; contexts.len() * observation::COUNT];
        for (context, row) in contexts.iter().zip(observations.chunks_exact_mut(observation::COUNT)) {
            observation::observe(context, row);
        }
        let values = self.values(&observations)?;
        let rows = observations.chunks_exact(observation::COUNT).zip(values.chunks_exact(self.names.len()));
        let valuations = contexts.iter().zip(rows).map(|(context, (observation, values))| {
            let mut candidates = ActionCandidates::default();
            self.actions.decode(context, &mut candidates);
            let best = self.select(context.state, &candidates, values, context.violation_cost);
            let ood_score = self.ood_score(observation);
            Valuation { observation: observation.to_vec(), candidates, values: values.to_vec(), best, ood_score }
        });
        Ok(valuations.collect())
    }

    /// Adds each State to its memory and values all functions in one pass of the network.
    ///
    /// # Errors
    /// When the device fails; the States are in the memories even then.
    pub fn value_all(&self, cases: &mut [(&State, &mut Memory)]) -> Result<Vec<Valuation>, DeviceError> {
        let contexts = cases.iter_mut().map(|(state, memory)| {
            let LearnedMemory { history, point } = memory.of::<LearnedMemory>();
            FeatureContext::update(state, history, self.violation_cost(state, point))
        });
        self.value(&contexts.collect::<Vec<_>>())
    }

    /// Violation cost for the decision on `state`: that of the operating point of its ScalingPolicy, or the parameter, or the default.
    fn violation_cost(&self, state: &State, point: &mut PointController) -> f64 {
        let unstated = self.violation_cost.map_or_else(|| default_violation_cost(state), ViolationCost::get);
        state.objective.point.map_or(unstated, |target| point.update(state, target, unstated))
    }

    /// The action to take in `state` by `values`: the one with the highest value, or the default action if its value is
    /// within the switch margin of it or if the load is steady. Values that are not finite are ignored.
    ///
    /// Under a steady load the peak of the last minutes is the demand, and there is nothing to foresee. The network, which
    /// learned from loads that change, would provide for a change and follow the noise.
    #[must_use]
    pub fn select(&self, state: &State, candidates: &ActionCandidates, values: &[f32], violation_cost: f64) -> Option<usize> {
        let finite = values.iter().enumerate().fold(0, |mask, (index, value)| mask | u64::from(value.is_finite()) << index);
        let mask = Mask(candidates.mask().0 & finite);
        let best = mask.best(values)?;
        let ticks = self.switch_margin.map_or_else(|| default_switch_margin(state, self.actions.set()), SwitchMargin::get);
        let margin = ticks * self.reward.of_usual_cost(violation_cost) * state.tick_length_ms as f64 / 1000.0;
        let within = |choice: &usize| mask.allows(*choice) && (candidates.is_steady() || values[*choice] + margin as f32 >= values[best]);
        Some(self.actions.default_action(candidates).filter(within).unwrap_or(best))
    }

    /// Out-of-distribution score of `observation` ([`Valuation::ood_score`]).
    #[must_use]
    pub fn ood_score(&self, observation: &[f32]) -> f32 {
        let (shift, scale) = &self.specialist_for(observation).unwrap_or(&self.network).normalisation;
        ood_score(observation, shift, scale)
    }

    /// The decision for `state` by `valuation`.
    #[must_use]
    pub fn decision(&self, state: &State, valuation: &Valuation) -> Decision {
        let current = match current(state) {
            Ok(current) => current,
            Err(hold) => return hold,
        };
        let choices = self.choices(valuation);
        let Some(best) = valuation.best else {
            return Decision::Hold { why: HoldReason::NoMeasurement, reason: "no action can be taken".into(), choices };
        };
        let name = &self.names[best];
        match valuation.candidates.entry(best) {
            Ok(allocation) if allocation != current => {
                let reason = format!("`{name}` has Q-value {:.3}{}", valuation.values[best], self.runner_up(valuation, best));
                Decision::Want { allocation, reason, choices }
            }
            _ => {
                let reason = format!(
                    "`{name}` with Q-value {:.3}{} is the current allocation",
                    valuation.values[best],
                    self.runner_up(valuation, best)
                );
                Decision::Hold { why: HoldReason::NothingToDo, reason, choices }
            }
        }
    }

    fn choices(&self, valuation: &Valuation) -> Vec<Choice> {
        let choice = |(index, name): (usize, &String)| Choice {
            action: name.clone(),
            value: valuation.values.get(index).filter(|value| value.is_finite()).map(|value| f64::from(*value)),
            masked: valuation.candidates.entry(index).err().map(|why| why.to_string()),
        };
        self.names.iter().enumerate().map(choice).collect()
    }

    fn runner_up(&self, valuation: &Valuation, best: usize) -> String {
        let others = Mask(valuation.candidates.mask().0 & !(1 << best));
        let Some(second) = others.best(&valuation.values) else { return String::new() };
        let stands = if valuation.values[second] <= valuation.values[best] {
            ""
        } else if valuation.candidates.is_steady() {
            ", but the load is steady"
        } else {
            ", within the switch margin"
        };
        format!(", `{}` {:.3}{stands}", self.names[second], valuation.values[second])
    }
}

/// Root mean square of the features of `observation`, each less its `shift` and times its `scale`.
pub(crate) fn ood_score(observation: &[f32], shift: &[f32], scale: &[f32]) -> f32 {
    let squares = observation.iter().zip(shift).zip(scale).map(|((value, shift), scale)| ((value - shift) * scale).powi(2));
    (squares.sum::<f32>() / observation.len().max(1) as f32).sqrt()
}

/// The current allocation of a function with measurements, without which a decision would rest on neutral values.
pub(crate) fn current(state: &State) -> Result<Allocation, Decision> {
    let Some(current) = state.allocation else {
        return Err(Decision::hold(HoldReason::NoAllocation, "current allocation unknown"));
    };
    if state.windows.tick.covered_ms == 0 && state.windows.short.covered_ms == 0 {
        return Err(Decision::hold(HoldReason::NoMeasurement, "no measurement in the last 12 ticks"));
    }
    Ok(current)
}

impl Policy for Dqn {
    fn name(&self) -> &'static str {
        "dqn"
    }

    fn model(&self) -> String {
        self.model.clone()
    }

    fn lookback(&self) -> Option<Duration> {
        Some(History::REACH)
    }

    fn timing(&self) -> Timing {
        Timing { tick: Some(Span::seconds(5)), ..Timing::default() }
    }

    fn decide(&self, state: &State, memory: &mut Memory, now: Timestamp, rng: &mut dyn Rng) -> Decision {
        let mut decisions = self.decide_all(&mut [(state, memory)], now, rng);
        decisions.pop().expect("one case gives one decision")
    }

    /// In one pass of the network.
    fn decide_all(&self, cases: &mut [(&State, &mut Memory)], _: Timestamp, _: &mut dyn Rng) -> Vec<Decision> {
        match self.value_all(cases) {
            Ok(valuations) => cases.iter().zip(&valuations).map(|((state, _), valuation)| self.decision(state, valuation)).collect(),
            Err(error) => vec![Decision::hold(HoldReason::NoMeasurement, error.to_string()); cases.len()],
        }
    }
}

#[cfg(test)]
mod tests;
