//! Checkpoints: a trained network as bytes, with everything that must match before it may decide. Owns the form; a checkpoint is data and is never run.
//!
//! Form: the line `qscale-dqn 1`, the length of the header in ASCII digits and a newline, the header as JSON, then floats, little end first: shifts
//! and scales of the inputs, weights, and where training can go on, weights of the target and the optimiser's two moments; then shifts, scales and weights of
//! the specialist, where there is one. Weights of a model, which training does not go on from, have 16 bits, everything else 32. Everything is bounded before
//! it is read, and a sum over the floats finds what was cut or flipped.

use half::f16;
use qscale_rl::adam::Moments;
use qscale_rl::learner::{Hyperparameters, LearnerState};
use qscale_rl::network::{Architecture, Weights};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::actions::{ActionSet, Actions, Scope};
use crate::domain::{Domain, Part};
use crate::observation;
use crate::worth::{Tick, Worth};

/// First line of every checkpoint.
const MAGIC: &[u8] = b"qscale-dqn 1\n";

/// Largest checkpoint that is read, in bytes: the widest network of the default depth with its training state has some 25 MB.
pub const MOST_BYTES: usize = 64 << 20;

/// Longest header that is read, in bytes.
const MOST_HEADER: usize = 256 << 10;

/// What a checkpoint holds besides numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Version of the observation.
    pub observation: u32,
    /// Names of the features, in order.
    pub features: Vec<String>,
    /// Which choices there are.
    pub action_set: ActionSet,
    /// Which of them may be taken.
    pub scope: Scope,
    /// Names of the choices, in order.
    pub actions: Vec<String>,
    /// What the terms of the reward weighed in training; absent where it was something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worth: Option<Worth>,
    /// Seed of the training run.
    pub seed: u64,
    /// What the learner was told.
    pub hyperparameters: Hyperparameters,
    /// Choices made in training: where exploration goes on.
    pub choices: u64,
    /// Updates made in training.
    pub updates: u64,
    /// Steps of the optimiser; absent where training cannot go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimiser_steps: Option<u64>,
    /// What the network looks like.
    pub architecture: Architecture,
    /// Whether a specialist is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    specialist: bool,
    /// Whether weights are written with 16 bits, which they then fit in.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    half: bool,
    /// Sum over the floats, by [`checksum`].
    checksum: u64,
    /// What else whoever trained it says of it, at most 4 KiB.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// What it saw and how it was judged; absent of one that is still in training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<Card>,
}

/// What people ask of a model before they trust it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The command that trains it again.
    pub command: String,
    /// Ticks of simulated functions that it lived through, all together.
    pub ticks: u64,
    /// What its functions, loads and troubles were drawn from.
    pub domain: Domain,
    /// How it was judged, and the best tuned rule beside it.
    pub judged: Vec<Judged>,
    /// The card of the specialist, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub specialist: Option<Box<Self>>,
}

/// What a policy was worth on worlds that it had not seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judged {
    /// The policy, with its parameters.
    pub policy: String,
    /// Which part the worlds belong to.
    pub part: Part,
    /// How many worlds.
    pub worlds: u64,
    /// Means over all their ticks.
    pub mean: Tick,
}

/// A trained network with what must match.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// What it is.
    pub header: Header,
    /// The network.
    pub weights: Weights,
    /// The network that decides in its place for functions that always keep a replica, where there is one: what is called now and then and what is called all
    /// the time have little in common, and a network of its own learns the latter sooner (EXPERIMENTS.md).
    pub specialist: Option<Weights>,
    /// State needed to continue training; absent if training cannot continue.
    pub training: Option<LearnerState>,
}

/// Why bytes are no checkpoint, or not one that may decide here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// Longer than what is read.
    #[error("checkpoint of {0} bytes, at most {MOST_BYTES} are read")]
    Oversized(usize),
    /// Not of this form.
    #[error("not a checkpoint: {0}")]
    Form(String),
    /// The header cannot be read.
    #[error("header of the checkpoint: {0}")]
    Header(String),
    /// The numbers are not those that the header speaks of.
    #[error("numbers of the checkpoint: {0}")]
    Numbers(String),
    /// Trained for something else; says what differs.
    #[error("the checkpoint does not match: {}", .0.join("; "))]
    Mismatch(Vec<String>),
}

/// What a checkpoint is for, besides its numbers.
#[derive(Debug, Clone)]
pub struct Purpose {
    /// The choices.
    pub actions: Actions,
    /// What the terms of the reward weighed.
    pub worth: Option<Worth>,
    /// What else is said of it.
    pub note: String,
}

impl Checkpoint {
    /// A checkpoint of `weights`, trained with `hyperparameters` from `seed` for `purpose`.
    #[must_use]
    pub fn new(weights: Weights, training: Option<LearnerState>, hyperparameters: &Hyperparameters, seed: u64, purpose: &Purpose) -> Self {
        let mut checkpoint = Self {
            header: Header {
                observation: observation::VERSION,
                features: observation::names(),
                action_set: purpose.actions.set(),
                scope: purpose.actions.scope(),
                actions: purpose.actions.names(),
                worth: purpose.worth,
                seed,
                hyperparameters: hyperparameters.clone(),
                choices: training.as_ref().map_or(0, |state| state.actions_taken),
                updates: training.as_ref().map_or(0, |state| state.updates),
                optimiser_steps: training.as_ref().map(|state| state.moments.steps),
                architecture: weights.architecture().clone(),
                specialist: false,
                half: false,
                checksum: 0,
                note: purpose.note.chars().take(1024).collect(),
                card: None,
            },
            weights,
            specialist: None,
            training,
        };
        checkpoint.header.checksum = checkpoint.sum();
        checkpoint
    }

    /// The network that decides once training is over: the averaged one that targets were taken from, its weights rounded to 16 bits, without what is needed
    /// to go on, and with its `card`.
    #[must_use]
    pub fn model(self, card: Option<Card>) -> Self {
        let weights = self.training.map_or(self.weights, |state| state.target).rounded();
        let specialist = self.specialist.map(Weights::rounded);
        let mut model =
            Self { header: Header { optimiser_steps: None, half: true, card, ..self.header }, weights, specialist, training: None };
        model.header.checksum = model.sum();
        model
    }

    /// This model with the network of `specialist` beside it, for functions that always keep a replica.
    ///
    /// # Errors
    /// When one of them does not match this program, or the two differ in their choices or in what they look like.
    pub fn join(self, specialist: &Self) -> Result<Self, CheckpointError> {
        if self.check()? != specialist.check()? {
            return Err(CheckpointError::Mismatch(vec!["the specialist chooses among other choices".into()]));
        }
        if specialist.specialist.is_some() {
            return Err(CheckpointError::Mismatch(vec!["the specialist holds two networks itself".into()]));
        }
        if self.header.architecture != specialist.header.architecture {
            return Err(CheckpointError::Mismatch(vec!["the specialist has another architecture".into()]));
        }
        if self.header.worth != specialist.header.worth {
            return Err(CheckpointError::Mismatch(vec!["the specialist's rewards weigh other things".into()]));
        }
        let mut card = self.header.card.clone();
        if let Some(card) = &mut card {
            card.specialist = specialist.header.card.clone().map(Box::new);
        }
        Ok(self.with_specialist(Some(specialist.weights.clone())).model(card))
    }

    /// This with such a `specialist`, of the same architecture, or none.
    #[must_use]
    pub fn with_specialist(mut self, specialist: Option<Weights>) -> Self {
        self.header.specialist = specialist.is_some();
        self.specialist = if self.header.half { specialist.map(Weights::rounded) } else { specialist };
        self.header.checksum = self.sum();
        self
    }

    /// The runs of floats, in the order in which they are written, and whether each has 16 bits.
    fn sections(&self) -> Vec<(&[f32], bool)> {
        fn network(weights: &Weights, half: bool) -> [(&[f32], bool); 3] {
            let (shift, scale) = weights.normalisation();
            [(shift, false), (scale, false), (weights.values(), half)]
        }
        let half = self.header.half;
        let mut sections = network(&self.weights, half).to_vec();
        if let Some(LearnerState { target, moments, .. }) = &self.training {
            sections.extend([(target.values(), half), (moments.first.as_slice(), false), (moments.second.as_slice(), false)]);
        }
        sections.extend(self.specialist.iter().flat_map(|weights| network(weights, half)));
        sections
    }

    fn sum(&self) -> u64 {
        checksum(self.sections().into_iter().flat_map(|(values, _)| values))
    }

    /// The checkpoint as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = serde_json::to_vec(&self.header).expect("a header holds only names and numbers, which JSON can write");
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(format!("{}\n", header.len()).as_bytes());
        bytes.extend_from_slice(&header);
        for (values, half) in self.sections() {
            if half {
                bytes.extend(values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()));
            } else {
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
        bytes
    }

    /// Reads a checkpoint. What it was trained for is not judged: see [`Checkpoint::check`].
    ///
    /// # Errors
    /// When `bytes` are too many, not of the form, cut, changed, or hold a number that is not finite or outside its range.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CheckpointError> {
        if bytes.len() > MOST_BYTES {
            return Err(CheckpointError::Oversized(bytes.len()));
        }
        let form = |reason: &str| CheckpointError::Form(reason.to_owned());
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| form("it does not begin with the line `qscale-dqn 1`"))?;
        let line = rest.iter().take(10).position(|byte| *byte == b'\n').ok_or_else(|| form("the header's length is missing"))?;
        let length = std::str::from_utf8(&rest[..line]).ok().and_then(|digits| digits.parse::<usize>().ok());
        let length = length.ok_or_else(|| form("the header's length is no number"))?;
        let rest = &rest[line + 1..];
        if length > MOST_HEADER || length > rest.len() {
            return Err(CheckpointError::Form(format!("a header of {length} bytes, at most {} can be", MOST_HEADER.min(rest.len()))));
        }
        let (header, numbers) = rest.split_at(length);
        let header: Header = serde_json::from_slice(header).map_err(|error| CheckpointError::Header(error.to_string()))?;
        header.check().map_err(CheckpointError::Header)?;
        header.with_numbers(numbers).map_err(CheckpointError::Numbers)
    }

    /// Whether this was trained for the observation of this program, and for choices of its own set and scope as this program has them.
    ///
    /// # Errors
    /// Says everything that differs.
    pub fn check(&self) -> Result<Actions, CheckpointError> {
        let header = &self.header;
        let actions = Actions::new(header.action_set, header.scope);
        let mut differs = Vec::new();
        if header.observation != observation::VERSION {
            differs.push(format!("observation of version {}, this program has version {}", header.observation, observation::VERSION));
        }
        differs.extend(difference("feature", &header.features, &observation::names()));
        differs.extend(difference("action", &header.actions, &actions.names()));
        if header.architecture.inputs != observation::COUNT {
            differs.push(format!("a network of {} inputs, the observation has {}", header.architecture.inputs, observation::COUNT));
        }
        if header.architecture.actions != actions.count() {
            differs.push(format!(
                "a network of {} actions, the set {} has {}",
                header.architecture.actions,
                header.action_set,
                actions.count()
            ));
        }
        if differs.is_empty() { Ok(actions) } else { Err(CheckpointError::Mismatch(differs)) }
    }

    /// A word that no other network shares, for decision records: the sum over its weights in sixteen digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let specialist = self.specialist.iter().flat_map(Weights::values);
        format!("{:016x}", checksum(self.weights.values().iter().chain(specialist)))
    }
}

impl Header {
    fn check(&self) -> Result<(), String> {
        self.architecture.check()?;
        self.hyperparameters.check()?;
        if self.features.len() > Architecture::WIDEST || self.actions.len() > qscale_rl::Mask::CAPACITY {
            return Err(format!("{} features and {} actions, more than any network has", self.features.len(), self.actions.len()));
        }
        let cards = self.card.iter().flat_map(|card| std::iter::once(card).chain(card.specialist.as_deref()));
        for card in cards {
            if card.judged.len() > 100 {
                return Err("a card with more than 100 judgements".into());
            }
        }
        if self.note.len() > 4096 {
            return Err(format!("a note of {} bytes, must be at most 4096", self.note.len()));
        }
        Ok(())
    }

    fn with_numbers(self, bytes: &[u8]) -> Result<Checkpoint, String> {
        let (inputs, parameters) = (self.architecture.inputs, self.architecture.parameters());
        let (networks, states) = (1 + usize::from(self.specialist), usize::from(self.optimiser_steps.is_some()));
        let weight = if self.half { 2 } else { 4 };
        let expected = networks * (2 * inputs * 4 + parameters * weight) + states * parameters * (weight + 8);
        if bytes.len() != expected {
            return Err(format!("{} bytes, the header speaks of {expected}", bytes.len()));
        }
        let mut rest = bytes;
        let mut take = |count: usize, half: bool| -> Vec<f32> {
            let (taken, others) = rest.split_at(count * if half { 2 } else { 4 });
            rest = others;
            if half {
                taken.chunks_exact(2).map(|two| f16::from_le_bytes([two[0], two[1]]).to_f32()).collect()
            } else {
                taken.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()
            }
        };
        let (shift, scale) = (take(inputs, false), take(inputs, false));
        let weights = Weights::from_parts(self.architecture.clone(), take(parameters, self.half), shift.clone(), scale.clone())?;
        let training = match self.optimiser_steps {
            None => None,
            Some(steps) => {
                let target = Weights::from_parts(self.architecture.clone(), take(parameters, self.half), shift, scale)?;
                let moments = Moments { steps, first: take(parameters, false), second: take(parameters, false) };
                if moments.first.iter().any(|value| !value.is_finite())
                    || moments.second.iter().any(|value| !(value.is_finite() && *value >= 0.0))
                {
                    return Err("a moment of the optimiser is not a finite number, or a second moment is below zero".into());
                }
                Some(LearnerState { target, moments, actions_taken: self.choices, updates: self.updates })
            }
        };
        let specialist = match self.specialist {
            false => None,
            true => {
                let (shift, scale) = (take(inputs, false), take(inputs, false));
                Some(Weights::from_parts(self.architecture.clone(), take(parameters, self.half), shift, scale)?)
            }
        };
        let checkpoint = Checkpoint { header: self, weights, specialist, training };
        let (sum, told) = (checkpoint.sum(), checkpoint.header.checksum);
        if sum == told { Ok(checkpoint) } else { Err(format!("their sum is {sum:016x}, the header says {told:016x}")) }
    }
}

/// What differs between two lists of names: the first name that does, and the lengths.
fn difference(what: &str, found: &[String], expected: &[String]) -> Option<String> {
    if found == expected {
        return None;
    }
    let at = found.iter().zip(expected).position(|(found, expected)| found != expected);
    Some(match at {
        Some(at) => {
            let cut: String = found[at].chars().take(100).collect();
            format!("{what} {at} is `{cut}`, this program has `{}`", expected[at])
        }
        None => format!("{} {what}s, this program has {}", found.len(), expected.len()),
    })
}

/// FNV-1a of 64 bits over the floats' bits (Fowler, Noll and Vo): finds accidents, proves nothing.
fn checksum<'a>(values: impl IntoIterator<Item = &'a f32>) -> u64 {
    values.into_iter().fold(0xcbf2_9ce4_8422_2325, |sum, value| (sum ^ u64::from(value.to_bits())).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests;
