//! Checkpoints: a trained network as bytes, with a header that must match this program before the network may decide.
//! Owns the format. A checkpoint contains only data, no code.
//!
//! Format: the line `qscale-dqn 1`; the length of the header in ASCII digits and a newline; the header as JSON; then
//! little-endian floats: shift and scale of the inputs and the weights; if training can continue, the weights of the
//! target network and the optimiser's two moments; then shift, scale and weights of the specialist network, if there is
//! one. Weights of a model, from which training does not continue, have 16 bits, all other numbers 32. Sizes are
//! checked before anything is read, and a checksum over the floats detects truncation and corruption.

use std::io::Read;

use half::f16;
use qscale_common::document::compression;
use qscale_common::hash::fnv1a;
use qscale_policies::Scope;
use qscale_rl::adam::Moments;
use qscale_rl::learner::{Hyperparameters, LearnerState};
use qscale_rl::network::{Architecture, Weights};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::actions::{ActionSet, Actions};
use crate::observation;
use crate::reward::{StepReward, TrainingReward};
use crate::tasks::{Split, TaskDistribution};

/// First line of every checkpoint.
const MAGIC: &[u8] = b"qscale-dqn 1\n";
/// Beginning of that line in every version.
const NAME: &[u8] = b"qscale-dqn ";
/// Beginning of the text that stands for a file that Git LFS has not fetched.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/";
/// Byte order mark of UTF-8, which editors put before a text.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Largest accepted checkpoint, bytes. The widest network of the default depth with its training state has about 25 MB.
pub const MAX_BYTES: usize = 64 << 20;

/// Longest accepted header, bytes.
const MAX_HEADER: usize = 256 << 10;

/// Header of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Version of the observation.
    pub observation: u32,
    /// Names of the features, in order.
    pub features: Vec<String>,
    /// The action set.
    pub action_set: ActionSet,
    /// The scope of the actions.
    pub scope: Scope,
    /// Names of the actions, in order.
    pub actions: Vec<String>,
    /// Weights of the training reward; absent if another reward was used.
    #[serde(rename = "worth", alias = "reward", default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<TrainingReward>,
    /// Seed of the training run.
    pub seed: u64,
    /// Hyperparameters of the learner.
    pub hyperparameters: Hyperparameters,
    /// Actions taken in training, which determine the position in the exploration schedule.
    #[serde(rename = "choices", alias = "actions_taken")]
    pub actions_taken: u64,
    /// Updates made in training.
    pub updates: u64,
    /// Steps of the optimiser; absent if training cannot continue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimiser_steps: Option<u64>,
    /// Shape of the network.
    pub architecture: Architecture,
    /// Whether there is a specialist network.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    specialist: bool,
    /// Whether weights are stored in 16 bits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    half: bool,
    /// Checksum of the floats.
    checksum: u64,
    /// Free text of at most 4 KiB.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Training data and evaluation; absent while in training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<Card>,
}

/// Model card: how a model was trained and evaluated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The command that reproduces the training.
    pub command: String,
    /// Simulated ticks of all functions.
    pub ticks: u64,
    /// The distribution of training tasks.
    #[serde(rename = "domain", alias = "tasks")]
    pub tasks: TaskDistribution,
    /// Evaluations of the model and of the best tuned rule.
    #[serde(rename = "judged", alias = "evaluations")]
    pub evaluations: Vec<Evaluation>,
    /// The card of the specialist network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub specialist: Option<Box<Self>>,
}

/// Result of a policy on worlds that were not used for training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// The policy, with its parameters.
    pub policy: String,
    /// The split of the worlds.
    #[serde(rename = "part", alias = "split")]
    pub split: Split,
    /// Number of worlds.
    pub worlds: u64,
    /// Means over all ticks.
    pub mean: StepReward,
}

/// A trained network with its header.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The header.
    pub header: Header,
    /// The network.
    pub weights: Weights,
    /// A network that decides instead for functions that always keep a replica: sparse and continuous load differ so
    /// much that a separate network learns the latter faster (EXPERIMENTS.md).
    pub specialist: Option<Weights>,
    /// State needed to continue training; absent if training cannot continue.
    pub training: Option<LearnerState>,
}

/// Why bytes are not a checkpoint, or not one for this program.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// Longer than the limit.
    #[error("checkpoint of {0} bytes exceeds the limit of {MAX_BYTES}")]
    Oversized(usize),
    /// Not in this format.
    #[error("not a checkpoint: {0}")]
    Form(String),
    /// Invalid header.
    #[error("invalid checkpoint header: {0}")]
    Header(String),
    /// Numbers that do not match the header.
    #[error("invalid numbers in the checkpoint: {0}")]
    Numbers(String),
    /// Trained for other features or actions; lists the differences.
    #[error("the checkpoint does not match this program: {}", .0.join("; "))]
    Mismatch(Vec<String>),
}

/// Purpose of a trained network: its actions and reward.
#[derive(Debug, Clone)]
pub struct NetworkPurpose {
    /// The actions.
    pub actions: Actions,
    /// Weights of the training reward.
    pub reward: Option<TrainingReward>,
    /// Free text.
    pub note: String,
}

impl Checkpoint {
    /// A checkpoint of `weights`, trained with `hyperparameters` from `seed` for `purpose`.
    #[must_use]
    pub fn new(
        weights: Weights,
        training: Option<LearnerState>,
        hyperparameters: &Hyperparameters,
        seed: u64,
        purpose: &NetworkPurpose,
    ) -> Self {
        let mut checkpoint = Self {
            header: Header {
                observation: observation::VERSION,
                features: observation::names(),
                action_set: purpose.actions.set(),
                scope: purpose.actions.scope(),
                actions: purpose.actions.names(),
                reward: purpose.reward,
                seed,
                hyperparameters: hyperparameters.clone(),
                actions_taken: training.as_ref().map_or(0, |state| state.actions_taken),
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

    /// The model that training results in: the target network, an average of the latest ones, with weights rounded to
    /// 16 bits, without training state, and with `card`.
    #[must_use]
    pub fn model(self, card: Option<Card>) -> Self {
        let weights = self.training.map_or(self.weights, |state| state.target).rounded();
        let specialist = self.specialist.map(Weights::rounded);
        let mut model =
            Self { header: Header { optimiser_steps: None, half: true, card, ..self.header }, weights, specialist, training: None };
        model.header.checksum = model.sum();
        model
    }

    /// This model combined with the network of `specialist`, for functions that always keep a replica.
    ///
    /// # Errors
    /// When one of them does not match this program, or the two differ in actions, shape or reward.
    pub fn join(self, specialist: &Self) -> Result<Self, CheckpointError> {
        if self.check()? != specialist.check()? {
            return Err(CheckpointError::Mismatch(vec!["the specialist has other actions".into()]));
        }
        if specialist.specialist.is_some() {
            return Err(CheckpointError::Mismatch(vec!["the specialist has a specialist itself".into()]));
        }
        if self.header.architecture != specialist.header.architecture {
            return Err(CheckpointError::Mismatch(vec!["the specialist has another architecture".into()]));
        }
        if self.header.reward != specialist.header.reward {
            return Err(CheckpointError::Mismatch(vec!["the specialist was trained with another reward".into()]));
        }
        let mut card = self.header.card.clone();
        if let Some(card) = &mut card {
            card.specialist = specialist.header.card.clone().map(Box::new);
        }
        Ok(self.with_specialist(Some(specialist.weights.clone())).model(card))
    }

    /// A copy with this `specialist`, of the same architecture, or without one.
    #[must_use]
    pub fn with_specialist(mut self, specialist: Option<Weights>) -> Self {
        self.header.specialist = specialist.is_some();
        self.specialist = if self.header.half { specialist.map(Weights::rounded) } else { specialist };
        self.header.checksum = self.sum();
        self
    }

    /// The sections of floats in their order, and whether each has 16 bits.
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
        let header = serde_json::to_vec(&self.header).expect("a header has only names and numbers, which JSON can represent");
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

    /// Reads a checkpoint from `source`, such as a file, up to [`MAX_BYTES`].
    ///
    /// # Errors
    /// When reading fails, or as [`Checkpoint::from_bytes`].
    pub fn read(source: impl Read) -> std::io::Result<Self> {
        let mut bytes = Vec::new();
        source.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        Self::from_bytes(&bytes).map_err(std::io::Error::other)
    }

    /// Reads a checkpoint. [`Checkpoint::check`] checks whether it matches this program.
    ///
    /// # Errors
    /// When `bytes` are too many, not in the format, truncated or corrupted, or contain a number that is not finite or out of range.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CheckpointError> {
        if bytes.len() > MAX_BYTES {
            return Err(CheckpointError::Oversized(bytes.len()));
        }
        let form = |reason: &str| CheckpointError::Form(reason.to_owned());
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| CheckpointError::Form(other_content(bytes)))?;
        let line = rest.iter().take(10).position(|byte| *byte == b'\n').ok_or_else(|| form("the length of the header is missing"))?;
        let length = std::str::from_utf8(&rest[..line]).ok().and_then(|digits| digits.parse::<usize>().ok());
        let length = length.ok_or_else(|| form("the length of the header is not a number"))?;
        let rest = &rest[line + 1..];
        if length > MAX_HEADER || length > rest.len() {
            return Err(CheckpointError::Form(format!("header of {length} bytes, must be at most {}", MAX_HEADER.min(rest.len()))));
        }
        let (header, numbers) = rest.split_at(length);
        let header: Header = serde_json::from_slice(header).map_err(|error| CheckpointError::Header(error.to_string()))?;
        header.check().map_err(CheckpointError::Header)?;
        header.with_numbers(numbers).map_err(CheckpointError::Numbers)
    }

    /// The actions for which this was trained, if they and the observation match this program.
    ///
    /// # Errors
    /// Lists all differences.
    pub fn check(&self) -> Result<Actions, CheckpointError> {
        let header = &self.header;
        let actions = Actions::new(header.action_set, header.scope);
        let mut differences = Vec::new();
        if header.observation != observation::VERSION {
            differences.push(format!("observation version {}, this program has version {}", header.observation, observation::VERSION));
        }
        differences.extend(difference("feature", &header.features, &observation::names()));
        differences.extend(difference("action", &header.actions, &actions.names()));
        if header.architecture.inputs != observation::COUNT {
            differences.push(format!("network of {} inputs, the observation has {}", header.architecture.inputs, observation::COUNT));
        }
        if header.architecture.actions != actions.count() {
            differences.push(format!(
                "network of {} actions, the set {} has {}",
                header.architecture.actions,
                header.action_set,
                actions.count()
            ));
        }
        if differences.is_empty() { Ok(actions) } else { Err(CheckpointError::Mismatch(differences)) }
    }

    /// Identifies the network in decision records: a checksum of its weights in 16 hexadecimal digits.
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
            return Err(format!("{} features and {} actions exceed the limits of a network", self.features.len(), self.actions.len()));
        }
        let cards = self.card.iter().flat_map(|card| std::iter::once(card).chain(card.specialist.as_deref()));
        for card in cards {
            if card.evaluations.len() > 100 {
                return Err("a card with more than 100 evaluations".into());
            }
        }
        if self.note.len() > 4096 {
            return Err(format!("note of {} bytes, must be at most 4096", self.note.len()));
        }
        Ok(())
    }

    fn with_numbers(self, bytes: &[u8]) -> Result<Checkpoint, String> {
        let (inputs, parameters) = (self.architecture.inputs, self.architecture.parameters());
        let (networks, states) = (1 + usize::from(self.specialist), usize::from(self.optimiser_steps.is_some()));
        let weight = if self.half { 2 } else { 4 };
        let expected = networks * (2 * inputs * 4 + parameters * weight) + states * parameters * (weight + 8);
        if bytes.len() != expected {
            return Err(format!("{} bytes, the header requires {expected}", bytes.len()));
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
                    return Err("a moment of the optimiser is not finite, or a second moment is negative".into());
                }
                Some(LearnerState { target, moments, actions_taken: self.actions_taken, updates: self.updates })
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
        let (sum, expected) = (checkpoint.sum(), checkpoint.header.checksum);
        if sum == expected { Ok(checkpoint) } else { Err(format!("checksum {sum:016x}, the header has {expected:016x}")) }
    }
}

/// The first difference between two lists of names.
/// The reason why a file that does not begin with [`MAGIC`] is not a checkpoint of this version, and the remedy.
fn other_content(bytes: &[u8]) -> String {
    if bytes.starts_with(LFS_POINTER) {
        return "it is a pointer of Git LFS; fetch the file with `git lfs pull`".to_owned();
    }
    if let Some(format) = compression(bytes) {
        return format!("it is compressed ({format}); decompress it first");
    }
    if bytes.starts_with(MARK) {
        return "it begins with a byte order mark, so an editor has saved it as text; copy the original file again".to_owned();
    }
    let version = bytes.strip_prefix(NAME).and_then(|rest| rest.iter().take(10).position(|byte| *byte == b'\n').map(|end| &rest[..end]));
    match version.map(|version| String::from_utf8_lossy(version)) {
        Some(version) if version == "1\r" => "its line ends were converted, as if it were text; copy the original file again".to_owned(),
        Some(version) => format!("its version is `{}`, this program reads version 1", version.escape_debug()),
        None => "it does not start with the line `qscale-dqn 1`".to_owned(),
    }
}

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

/// FNV-1a of 64 bits over the floats' bits (Fowler, Noll and Vo): detects accidental changes, not deliberate ones.
fn checksum<'a>(values: impl IntoIterator<Item = &'a f32>) -> u64 {
    fnv1a(values.into_iter().map(|value| value.to_bits()))
}

#[cfg(test)]
mod tests;
