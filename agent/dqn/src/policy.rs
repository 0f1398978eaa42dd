//! A trained network as a policy: greedy, with what it valued in every decision. Owns inference; must not learn or explore.

use std::time::Duration;

use qscale_common::contract::{Choice, State};
use qscale_common::time::{Span, Timestamp};
use qscale_policies::{Decision, History, HoldReason, Memory, Native, Policy};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::actions::{Actions, Mask, Menu};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::device::Device;
use crate::network::{DeviceFailed, Network};
use crate::observation;
use crate::sight::Sight;

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

    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Default for Caution {
    fn default() -> Self {
        Self(100.0)
    }
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

/// What is told to a trained network.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DqnParams {
    /// What a violated tick may cost to avoid, in units of five seconds of the function's usual cost, 10 to 20000: more is safer and dearer.
    #[schemars(with = "f64")]
    pub caution: Caution,
}

/// A trained network that decides.
pub struct Dqn {
    network: Network,
    actions: Actions,
    names: Vec<String>,
    model: String,
    caution: Caution,
}

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
}

impl Dqn {
    /// The network of `checkpoint` on `device`, told `params`.
    ///
    /// # Errors
    /// When it was trained for other features or choices than this program has; says what differs.
    pub fn new(checkpoint: &Checkpoint, params: DqnParams, device: &Device) -> Result<Self, CheckpointError> {
        let actions = checkpoint.check()?;
        let model = format!("dqn {} {} {}", checkpoint.header.action_set, checkpoint.header.scope, checkpoint.fingerprint());
        Ok(Self { network: Network::new(&checkpoint.weights, device), names: actions.names(), actions, model, caution: params.caution })
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
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
    pub fn value(&self, sights: &[Sight<'_>]) -> Result<Vec<Valued>, DeviceFailed> {
        let mut observations = vec![0.0; sights.len() * observation::COUNT];
        for (sight, row) in sights.iter().zip(observations.chunks_exact_mut(observation::COUNT)) {
            observation::observe(sight, row);
        }
        let values = self.network.values(&observations)?;
        let rows = observations.chunks_exact(observation::COUNT).zip(values.chunks_exact(self.names.len()));
        let valued = sights.iter().zip(rows).map(|(sight, (observation, values))| {
            let mut menu = Menu::default();
            self.actions.decode(sight, &mut menu);
            let numbers = Mask(values.iter().enumerate().fold(0, |mask, (index, value)| mask | u64::from(value.is_finite()) << index));
            let best = Mask(menu.mask().0 & numbers.0).best(values);
            Valued { observation: observation.to_vec(), menu, values: values.to_vec(), best }
        });
        Ok(valued.collect())
    }

    /// What it decides for many functions in one pass, each with what was seen of it before.
    ///
    /// # Errors
    /// When the device fails.
    pub fn decide_all<'a>(&self, functions: impl IntoIterator<Item = (&'a State, &'a mut Memory)>) -> Result<Vec<Decision>, DeviceFailed> {
        let sights: Vec<Sight<'_>> =
            functions.into_iter().map(|(state, memory)| Sight::take(state, memory.history(), self.caution.get())).collect();
        Ok(sights.iter().zip(self.value(&sights)?).map(|(sight, valued)| self.decision(sight.state, &valued)).collect())
    }

    /// What `valued` means for `state`.
    #[must_use]
    pub fn decision(&self, state: &State, valued: &Valued) -> Decision {
        let Some(in_force) = state.allocation else {
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
            Ok(allocation) if allocation != in_force => {
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
        match others.best(&valued.values) {
            Some(second) => format!(", `{}` {:.3}", self.names[second], valued.values[second]),
            None => String::new(),
        }
    }
}

impl Policy for Dqn {
    fn name(&self) -> &'static str {
        "dqn"
    }

    fn model(&self) -> String {
        self.model.clone()
    }

    fn remembers(&self) -> Option<Duration> {
        Some(History::REACH)
    }

    fn native(&self) -> Native {
        Native { tick: Some(Span::seconds(5)), ..Native::default() }
    }

    fn decide(&self, state: &State, memory: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        match self.decide_all([(state, memory)]) {
            Ok(mut decisions) => decisions.pop().unwrap_or_else(|| Decision::hold(HoldReason::NoMeasurement, "nothing was decided")),
            Err(error) => Decision::hold(HoldReason::NoMeasurement, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
