//! Distillation of a trained network into a decision tree, by DAgger (Ross et al., AISTATS 2011) with the loss of VIPER (Bastani et al., NeurIPS 2018): the
//! network labels the states that it visits itself, then those that the tree of the round before visits. An action that gives the same allocation as the
//! network's is right; any other loses the difference of the Q-values. No files; results are return values.

mod grow;
mod rollout;

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;

use qscale_common::policy::ViolationCost;

use qscale_dqn::checkpoint::{Checkpoint, CheckpointError};
use qscale_dqn::policy::{Dqn, DqnParams};
use qscale_dqn::tasks::{Split, TaskDistribution};
use qscale_dqn::tree::{DecisionTree, MAX_DEPTH, TreeHeader};
use qscale_rl::device::Device;
use qscale_rl::network::DeviceError;
use serde::Serialize;

use self::grow::grow;
pub use self::rollout::Agreement;
use self::rollout::{ActingPolicy, Rollouts, WorldRange};
use crate::evaluate::Score;

/// Settings of a distillation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DistilOptions {
    /// Greatest depth of the tree, 1 to [`MAX_DEPTH`].
    pub depth: u32,
    /// Training worlds of each round, 1 to 100,000; a quarter as many validation and test worlds.
    pub worlds: u64,
    /// Rounds, 1 to 20; in all but the first the tree of the round before acts.
    pub rounds: u32,
    /// Seed of the worlds.
    pub seed: u64,
    /// Violation cost at which the network decides; `None` for the default of each function.
    pub violation_cost: Option<ViolationCost>,
    /// Number of threads; has no effect on the result.
    pub threads: NonZeroUsize,
}

impl Default for DistilOptions {
    fn default() -> Self {
        Self { depth: 6, worlds: 400, rounds: 3, seed: 1, violation_cost: None, threads: NonZeroUsize::MIN }
    }
}

impl DistilOptions {
    fn check(&self) -> Result<(), DistilError> {
        let refused = |name: &str, value: u64, most: u64| Err(DistilError::Options(format!("{name} = {value}, must be from 1 to {most}")));
        match *self {
            Self { depth, .. } if !(1..=MAX_DEPTH).contains(&depth) => refused("depth", depth.into(), MAX_DEPTH.into()),
            Self { worlds, .. } if !(1..=100_000).contains(&worlds) => refused("worlds", worlds, 100_000),
            Self { rounds, .. } if !(1..=20).contains(&rounds) => refused("rounds", rounds.into(), 20),
            _ => Ok(()),
        }
    }
}

/// A finished round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DistilRound {
    /// Its number, from 1.
    pub round: u32,
    /// Samples of all rounds so far.
    pub samples: usize,
    /// Leaves of its tree.
    pub leaves: usize,
    /// Agreement with the network in the states that the tree visits in validation worlds.
    pub agreement: Agreement,
    /// Score of the tree there.
    pub score: Score,
}

/// Agreement and scores in the test worlds, which no tree was grown or chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Fidelity {
    /// Agreement in the states that the network visits.
    pub of_model_states: Agreement,
    /// Agreement in the states that the tree visits.
    pub of_tree_states: Agreement,
    /// Agreement of the default action alone in the states that the network visits: what a tree without rules would reach.
    pub of_default: Agreement,
    /// Score of the network.
    pub model: Score,
    /// Score of the tree.
    pub tree: Score,
}

/// A decision tree with its fidelity.
#[derive(Debug, Clone, PartialEq)]
pub struct Distillation {
    /// The tree of the round with the best score in validation worlds.
    pub tree: DecisionTree,
    /// Number of that round.
    pub chosen: u32,
    /// All rounds.
    pub rounds: Vec<DistilRound>,
    /// Fidelity of the tree.
    pub fidelity: Fidelity,
}

/// Why there is no tree.
#[derive(Debug, thiserror::Error)]
pub enum DistilError {
    /// An option is out of range.
    #[error("{0}")]
    Options(String),
    /// The model does not match this program.
    #[error(transparent)]
    Model(#[from] CheckpointError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// No sample was collected, as the model could not act in any state.
    #[error("no state in which the model can act in {0} worlds; increase the number of worlds")]
    NoSamples(u64),
    /// Stopped before the end.
    #[error("stopped")]
    Stopped,
}

/// Distils `model`, computed on `device`. `progress` is called after each round.
///
/// # Errors
/// As [`DistilError`].
pub fn distil(
    model: &Checkpoint,
    options: &DistilOptions,
    device: &Device,
    mut progress: impl FnMut(&DistilRound),
    stop: &AtomicBool,
) -> Result<Distillation, DistilError> {
    options.check()?;
    let network = Dqn::new(model, DqnParams { violation_cost: options.violation_cost, ..DqnParams::default() }, device)?;
    let tasks = model.header.card.as_ref().map_or_else(TaskDistribution::default, |card| card.tasks.clone());
    let rollouts = Rollouts {
        network: &network,
        tasks,
        reward: model.header.reward.unwrap_or_default(),
        violation_cost: options.violation_cost,
        threads: options.threads,
        stop,
    };
    let few = options.worlds.div_ceil(4);
    let run = |actor: ActingPolicy<'_>, split: Split, first: u64, worlds: u64| {
        rollouts.run(actor, &WorldRange { split, first, worlds, seed: options.seed })
    };
    let (mut samples, mut rounds, mut trees) = (Vec::new(), Vec::new(), Vec::<DecisionTree>::new());
    for round in 1..=options.rounds {
        let actor = trees.last().map_or(ActingPolicy::Network, ActingPolicy::Tree);
        samples.extend(run(actor, Split::Training, u64::from(round - 1) * options.worlds, options.worlds)?.samples);
        if samples.is_empty() {
            return Err(DistilError::NoSamples(options.worlds));
        }
        let root = grow(&samples, network.actions().count(), options.depth, options.threads);
        let actions = network.actions();
        let header = TreeHeader {
            model: network.fingerprint().to_owned(),
            action_set: actions.set(),
            scope: actions.scope(),
            violation_cost: options.violation_cost,
            seed: options.seed,
        };
        let tree = DecisionTree::new(header, root, model).map_err(DistilError::Options)?;
        let found = run(ActingPolicy::Tree(&tree), Split::Validation, 0, few)?;
        let (samples, leaves) = (samples.len(), tree.leaves());
        let done = DistilRound { round, samples, leaves, agreement: found.agreement, score: found.score };
        progress(&done);
        rounds.push(done);
        trees.push(tree);
    }
    let reward = |round: &&DistilRound| round.score.mean.reward;
    // Of equal rounds the last, which has the most samples.
    let chosen = rounds.iter().max_by(|one, other| reward(one).total_cmp(&reward(other))).map_or(1, |best| best.round);
    let tree = trees.swap_remove(chosen as usize - 1);
    let (by_model, by_tree) = (run(ActingPolicy::Network, Split::Test, 0, few)?, run(ActingPolicy::Tree(&tree), Split::Test, 0, few)?);
    let fidelity = Fidelity {
        of_model_states: Agreement::of(&by_model.samples, &tree),
        of_tree_states: by_tree.agreement,
        of_default: Agreement::of_default(&by_model.samples),
        model: by_model.score,
        tree: by_tree.score,
    };
    Ok(Distillation { tree, chosen, rounds, fidelity })
}

#[cfg(test)]
mod tests;
