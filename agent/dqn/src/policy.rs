//! A trained network as a policy: greedy, with what it valued in every decision. Owns inference; must not learn or explore.

use std::time::Duration;

use qscale_common::contract::{Choice, State};
use qscale_common::time::{Span, Timestamp};
use qscale_policies::{Decision, History, HoldReason, Memory, Policy, Timing};
use qscale_rl::Mask;
use qscale_rl::device::Device;
use qscale_rl::network::{DeviceError, Network, Weights};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::actions::{ActionSet, Actions, Menu, Scope};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::observation;
use crate::sight::Sight;
use crate::worth::Worth;

/// What a violated tick may cost to avoid, in units of five seconds of the function's usual cost. The network learns what every caution asks for, so that one
/// network serves those who must save and those who must not be late.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Caution(f64);

impl Caution {
    /// The least that is trained for.
    pub const LEAST: f64 = 10.0;
    /// The most that is trained for.
    pub const MOST: f64 = 20_000.0;

    /// At which models in training are judged.
    pub const JUDGED: Self = Self(100.0);

    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

/// The caution where none is told, by what does well in the evaluation: 20, and 500 for a function that may be scaled to zero, which is called now and then and whose
/// next request would wait for a start.
#[must_use]
pub fn usual_caution(state: &State) -> f64 {
    if state.bounds.replicas.min().0 == 0 { 500.0 } else { 20.0 }
}

impl TryFrom<f64> for Caution {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        if (Self::LEAST..=Self::MOST).contains(&value) {
            Ok(Self(value))
        } else {
            Err(format!("caution = {value}, must be from {} to {}", Self::LEAST, Self::MOST))
        }
    }
}

impl From<Caution> for f64 {
    fn from(caution: Caution) -> Self {
        caution.0
    }
}

/// What another choice than the default one ([`Actions::default_choice`]) must promise to save, in ticks at the usual cost, 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Patience(f64);

impl Patience {
    /// Whatever is worth most is chosen.
    pub const NONE: Self = Self(0.0);

    /// The ticks.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

/// The patience where none is told: a fifth of a tick at the usual cost, and four ticks for a function that may be scaled to zero. A violation is rare there and
/// weighs hundreds of such ticks, so that no value is known better than to some of them (EXPERIMENTS.md 15); but one step saves little, and many are taken one after the other.
#[must_use]
pub fn usual_patience(state: &State, set: ActionSet) -> f64 {
    if set == ActionSet::Headroom && state.bounds.replicas.min().0 == 0 { 4.0 } else { 0.2 }
}

impl TryFrom<f64> for Patience {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        if (0.0..=100.0).contains(&value) { Ok(Self(value)) } else { Err(format!("patience = {value}, must be from 0 to 100")) }
    }
}

impl From<Patience> for f64 {
    fn from(patience: Patience) -> Self {
        patience.0
    }
}

/// What is told to a trained network.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DqnParams {
    /// What a violated tick may cost to avoid, in units of five seconds of the function's usual cost, 10 to 20000: more is safer and dearer. Where it is not told
    /// 20, and 500 for a function that may be scaled to zero.
    #[schemars(with = "Option<f64>")]
    pub caution: Option<Caution>,
    /// What may be changed, horizontal, vertical or joint; where it is not said all that the network was trained to change.
    #[schemars(with = "Option<String>")]
    pub scope: Option<Scope>,
    /// What another choice than the default one, the peak of a quarter of an hour, must promise to save so that it is made, in ticks at the function's usual cost, 0
    /// to 100: more is calmer. Where it is not told 2, and 8 for a function that may be scaled to zero; 0.2 where choices are steps.
    #[schemars(with = "Option<f64>")]
    pub patience: Option<Patience>,
}

/// A network as it decides.
struct Trained {
    network: Box<dyn Network>,
    /// What it takes from each feature, and what it multiplies the rest with.
    normalisation: (Vec<f32>, Vec<f32>),
}

impl Trained {
    fn new(weights: &Weights, device: &Device) -> Self {
        let (shift, scale) = weights.normalisation();
        Self { network: device.network(weights), normalisation: (shift.to_vec(), scale.to_vec()) }
    }

    /// The values of `observations`, row by row.
    fn values(&self, observations: &[f32]) -> Result<Vec<f32>, DeviceError> {
        if observations.len() == observation::COUNT {
            // One row alone is computed by another product, which rounds otherwise: a decision must not depend on who else is decided on.
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
    /// Decides in its place for functions that always keep a replica.
    specialist: Option<Trained>,
    actions: Actions,
    names: Vec<String>,
    model: String,
    fingerprint: String,
    caution: Option<Caution>,
    /// What another choice than the default one must promise to save: a network's errors are no reason to change.
    patience: Option<Patience>,
    /// What rewards weighed in training.
    worth: Worth,
}

/// A strangeness beyond which nobody should trust a network. In training worlds fewer than one tick in 10,000 is so strange, which a test holds.
pub const FAR: f32 = 3.0;

/// What the network saw of one State and what it made of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Valued {
    /// What it saw, in the order of [`observation::FEATURES`].
    pub observation: Vec<f32>,
    /// What each choice names, or why it cannot be made.
    pub menu: Menu,
    /// What each choice is worth, in units of reward.
    pub values: Vec<f32>,
    /// The best that can be made; `None` where none can, or no value is a number.
    pub best: Option<usize>,
    /// How far what it saw lies from what the network was trained on: the root mean square over the features, in deviations of the network's own normalisation.
    /// Near 1 in training, and above [`FAR`] in fewer than one of 10,000 ticks there.
    pub strangeness: f32,
}

impl Dqn {
    /// The network of `checkpoint` on `device`, told `params`.
    ///
    /// # Errors
    /// When it was trained for other features or choices than this program has, or for another scope; says what differs.
    pub fn new(checkpoint: &Checkpoint, params: DqnParams, device: &Device) -> Result<Self, CheckpointError> {
        let trained = checkpoint.check()?;
        let scope = params.scope.unwrap_or(trained.scope());
        if trained.scope() != Scope::Joint && trained.scope() != scope {
            return Err(CheckpointError::Mismatch(vec![format!("it was trained for scope {}, {scope} is asked for", trained.scope())]));
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
            caution: params.caution,
            patience: params.patience,
            worth: checkpoint.header.worth.unwrap_or_default(),
        })
    }

    /// Whether the specialist decides on `observation`, where there is one.
    fn special(&self, observation: &[f32]) -> Option<&Trained> {
        self.specialist.as_ref().filter(|_| observation::keeps_one(observation))
    }

    /// The value of each choice for each of `observations`, row by row.
    ///
    /// # Errors
    /// When the device fails.
    pub fn values(&self, observations: &[f32]) -> Result<Vec<f32>, DeviceError> {
        let Some(specialist) = &self.specialist else { return self.network.values(observations) };
        let rows = || observations.chunks_exact(observation::COUNT);
        let of = |special: bool| rows().filter(|row| self.special(row).is_some() == special).flatten().copied().collect::<Vec<f32>>();
        let (special, others) = (specialist.values(&of(true))?, self.network.values(&of(false))?);
        let width = self.names.len();
        let (mut special, mut others) = (special.chunks_exact(width), others.chunks_exact(width));
        let row = |row| if self.special(row).is_some() { special.next() } else { others.next() };
        Ok(rows().flat_map(row).flatten().copied().collect())
    }

    /// Fingerprint of its checkpoint.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What it may choose.
    #[must_use]
    pub fn actions(&self) -> &Actions {
        &self.actions
    }

    /// What it makes of many functions in one pass.
    ///
    /// # Errors
    /// When the device fails.
    pub fn value(&self, sights: &[Sight<'_>]) -> Result<Vec<Valued>, DeviceError> {
        let mut observations = vec![0.0; sights.len() * observation::COUNT];
        for (sight, row) in sights.iter().zip(observations.chunks_exact_mut(observation::COUNT)) {
            observation::observe(sight, row);
        }
        let values = self.values(&observations)?;
        let rows = observations.chunks_exact(observation::COUNT).zip(values.chunks_exact(self.names.len()));
        let valued = sights.iter().zip(rows).map(|(sight, (observation, values))| {
            let mut menu = Menu::default();
            self.actions.decode(sight, &mut menu);
            let best = self.pick(sight.state, &menu, values, sight.caution);
            let strangeness = self.strangeness(observation);
            Valued { observation: observation.to_vec(), menu, values: values.to_vec(), best, strangeness }
        });
        Ok(valued.collect())
    }

    /// What it makes of many functions in one pass, each with what was seen of it before.
    ///
    /// # Errors
    /// When the device fails; what was seen is remembered then too.
    pub fn see_all(&self, cases: &mut [(&State, &mut Memory)]) -> Result<Vec<Valued>, DeviceError> {
        let caution = |state: &State| self.caution.map_or_else(|| usual_caution(state), Caution::get);
        let sights: Vec<Sight<'_>> =
            cases.iter_mut().map(|(state, memory)| Sight::take(state, memory.of::<History>(), caution(state))).collect();
        self.value(&sights)
    }

    /// What is chosen in `state` of what `menu` holds, where choices have these `values`: the most valuable, or the default one where that is as good within the
    /// patience, with so much `caution`. What is no number is not chosen.
    #[must_use]
    pub fn pick(&self, state: &State, menu: &Menu, values: &[f32], caution: f64) -> Option<usize> {
        let numbers = values.iter().enumerate().fold(0, |mask, (index, value)| mask | u64::from(value.is_finite()) << index);
        let mask = Mask(menu.mask().0 & numbers);
        let best = mask.best(values)?;
        let patience = self.patience.map_or_else(|| usual_patience(state, self.actions.set()), Patience::get);
        let margin = patience * self.worth.of_usual_cost(caution) * state.tick_length_ms as f64 / 1000.0;
        let within = |choice: &usize| mask.allows(*choice) && values[*choice] + margin as f32 >= values[best];
        Some(self.actions.default_choice(menu).filter(within).unwrap_or(best))
    }

    /// How far `observation` lies from what the network was trained on ([`Valued::strangeness`]).
    #[must_use]
    pub fn strangeness(&self, observation: &[f32]) -> f32 {
        let (shift, scale) = &self.special(observation).unwrap_or(&self.network).normalisation;
        let (shift, scale) = (shift.iter(), scale.iter());
        let squares = observation.iter().zip(shift).zip(scale).map(|((value, shift), scale)| ((value - shift) * scale).powi(2));
        (squares.sum::<f32>() / observation.len().max(1) as f32).sqrt()
    }

    /// What `valued` means for `state`.
    #[must_use]
    pub fn decision(&self, state: &State, valued: &Valued) -> Decision {
        let Some(current) = state.allocation else {
            return Decision::hold(HoldReason::NoAllocation, "what is in force is not known");
        };
        // A network decides by all that it sees; without arrivals or replicas it would decide by neutral values.
        if state.windows.tick.covered_ms == 0 && state.windows.short.covered_ms == 0 {
            return Decision::hold(HoldReason::NoMeasurement, "nothing was measured within twelve ticks");
        }
        let choices = self.choices(valued);
        let Some(best) = valued.best else {
            return Decision::Hold {
                why: HoldReason::NoMeasurement,
                reason: "the network values no choice that can be made".into(),
                choices,
            };
        };
        let name = &self.names[best];
        match valued.menu.entry(best) {
            Ok(allocation) if allocation != current => {
                let reason = format!("`{name}` is worth {:.3}{}", valued.values[best], self.runner_up(valued, best));
                Decision::Want { allocation, reason, choices }
            }
            _ => {
                let reason = format!("`{name}`, worth {:.3}{}, names what is in force", valued.values[best], self.runner_up(valued, best));
                Decision::Hold { why: HoldReason::NothingToDo, reason, choices }
            }
        }
    }

    fn choices(&self, valued: &Valued) -> Vec<Choice> {
        let choice = |(index, name): (usize, &String)| Choice {
            action: name.clone(),
            value: valued.values.get(index).filter(|value| value.is_finite()).map(|value| f64::from(*value)),
            masked: valued.menu.entry(index).err().map(|why| why.to_string()),
        };
        self.names.iter().enumerate().map(choice).collect()
    }

    fn runner_up(&self, valued: &Valued, best: usize) -> String {
        let others = Mask(valued.menu.mask().0 & !(1 << best));
        let Some(second) = others.best(&valued.values) else { return String::new() };
        let stands = if valued.values[second] > valued.values[best] { " by too little to leave the default choice" } else { "" };
        format!(", `{}` {:.3}{stands}", self.names[second], valued.values[second])
    }
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
        match self.see_all(cases) {
            Ok(valued) => cases.iter().zip(&valued).map(|((state, _), valued)| self.decision(state, valued)).collect(),
            Err(error) => vec![Decision::hold(HoldReason::NoMeasurement, error.to_string()); cases.len()],
        }
    }
}

#[cfg(test)]
mod tests;
