//! A trained network as a policy: greedy, with what it valued in every decision. Owns inference; must not learn or explore.

use qscale_common::contract::{Choice, State};
use qscale_common::time::Timestamp;
use qscale_policies::{Decision, HoldReason, Memory, Policy};
use rand::Rng;

use crate::actions::{Actions, Mask, Menu};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::device::Device;
use crate::network::{DeviceFailed, Network};
use crate::observation;

/// A trained network that decides.
pub struct Dqn {
    network: Network,
    actions: Actions,
    names: Vec<String>,
    model: String,
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
    /// The network of `checkpoint` on `device`.
    ///
    /// # Errors
    /// When it was trained for other features or choices than this program has; says what differs.
    pub fn new(checkpoint: &Checkpoint, device: &Device) -> Result<Self, CheckpointError> {
        let actions = checkpoint.check()?;
        let model = format!("dqn {} {} {}", checkpoint.header.action_set, checkpoint.header.scope, checkpoint.fingerprint());
        Ok(Self { network: Network::new(&checkpoint.weights, device), names: actions.names(), actions, model })
    }

    /// What it may choose.
    #[must_use]
    pub fn actions(&self) -> &Actions {
        &self.actions
    }

    /// What it makes of many States in one pass.
    ///
    /// # Errors
    /// When the device fails.
    pub fn value(&self, states: &[&State]) -> Result<Vec<Valued>, DeviceFailed> {
        let mut observations = vec![0.0; states.len() * observation::COUNT];
        for (state, row) in states.iter().zip(observations.chunks_exact_mut(observation::COUNT)) {
            observation::observe(state, row);
        }
        let values = self.network.values(&observations)?;
        let rows = observations.chunks_exact(observation::COUNT).zip(values.chunks_exact(self.names.len()));
        let valued = states.iter().zip(rows).map(|(state, (observation, values))| {
            let mut menu = Menu::default();
            self.actions.decode(state, &mut menu);
            let numbers = Mask(values.iter().enumerate().fold(0, |mask, (index, value)| mask | u64::from(value.is_finite()) << index));
            let best = Mask(menu.mask().0 & numbers.0).best(values);
            Valued { observation: observation.to_vec(), menu, values: values.to_vec(), best }
        });
        Ok(valued.collect())
    }

    /// What it decides on many States in one pass.
    ///
    /// # Errors
    /// When the device fails.
    pub fn decide_all(&self, states: &[&State]) -> Result<Vec<Decision>, DeviceFailed> {
        Ok(states.iter().zip(self.value(states)?).map(|(state, valued)| self.decision(state, &valued)).collect())
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

    fn decide(&self, state: &State, _: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        match self.decide_all(&[state]) {
            Ok(mut decisions) => decisions.pop().unwrap_or_else(|| Decision::hold(HoldReason::NoMeasurement, "nothing was decided")),
            Err(error) => Decision::hold(HoldReason::NoMeasurement, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
