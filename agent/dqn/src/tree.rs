//! Decision trees that imitate a trained network: readable rules over the features of the observation. Owns the tree and its decisions on observations;
//! must not grow one, which is training.

pub mod policy;
mod text;

use qscale_common::policy::ViolationCost;

use qscale_common::hash::fnv1a;
use qscale_policies::Scope;

use crate::actions::{ActionCandidates, ActionSet, Actions};
use crate::checkpoint::Checkpoint;
use crate::observation::quantity::QUANTITIES;
use crate::observation::{self, keeps_one};
use crate::policy::ood_score;

pub use text::{MAX_BYTES, TreeError};

/// Greatest depth of a tree: 4096 leaves, already more than a reader follows.
pub const MAX_DEPTH: u32 = 12;

/// A decision tree.
#[derive(Debug, Clone, PartialEq)]
pub struct DecisionTree {
    header: TreeHeader,
    root: TreeNode,
    ranges: Vec<FeatureRanges>,
}

/// Origin and purpose of a tree.
#[derive(Debug, Clone, PartialEq)]
pub struct TreeHeader {
    /// Fingerprint of the model that the tree imitates.
    pub model: String,
    /// Its action set.
    pub action_set: ActionSet,
    /// Its scope.
    pub scope: Scope,
    /// Violation cost at which the model decided; `None` for the default of each function.
    pub violation_cost: Option<ViolationCost>,
    /// Seed of the worlds from which the samples come.
    pub seed: u64,
}

/// A node of a tree.
#[derive(Debug, Clone, PartialEq)]
pub enum TreeNode {
    /// A condition on one feature.
    Split {
        /// Index of the feature.
        feature: usize,
        /// Greatest value for which the branch `low` applies.
        at_most: f32,
        /// The branch for values up to `at_most`.
        low: Box<Self>,
        /// The branch for greater values.
        high: Box<Self>,
    },
    /// An action.
    Leaf(TreeLeaf),
}

/// A leaf with the samples of the model's decisions that reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeLeaf {
    /// Index of the action.
    pub action: usize,
    /// Number of samples.
    pub samples: u64,
    /// Number of samples for which the action gives the allocation that the model chose.
    pub equal: u64,
}

/// Shift and scale of each feature, by which the model recognises observations unlike those of its training.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FeatureRanges {
    shift: Vec<f32>,
    scale: Vec<f32>,
}

/// Conditions from the root to a leaf: a feature with the greatest values that exclude and include it.
type Conditions = Vec<(usize, Option<f32>, Option<f32>)>;

impl DecisionTree {
    /// The tree `root` that imitates `model`, with the ranges of the model's training. The header's other fields are as given.
    ///
    /// # Errors
    /// A tree that is deeper than [`MAX_DEPTH`], or has an unknown feature or action, or numbers that are not possible.
    pub fn new(header: TreeHeader, root: TreeNode, model: &Checkpoint) -> Result<Self, String> {
        let ranges = |weights: &qscale_rl::Weights| {
            let (shift, scale) = weights.normalisation();
            FeatureRanges { shift: shift.to_vec(), scale: scale.to_vec() }
        };
        let ranges = std::iter::once(&model.weights).chain(&model.specialist).map(ranges).collect();
        Self { header, root, ranges }.checked()
    }

    fn checked(self) -> Result<Self, String> {
        self.root.check(self.actions().count(), 0)?;
        let of_all = |ranges: &FeatureRanges| [ranges.shift.len(), ranges.scale.len()] == [observation::COUNT; 2];
        if !(1..=2).contains(&self.ranges.len()) || !self.ranges.iter().all(of_all) {
            return Err("the ranges are not those of this program's features".into());
        }
        Ok(self)
    }

    /// Its header.
    #[must_use]
    pub fn header(&self) -> &TreeHeader {
        &self.header
    }

    /// Its actions.
    #[must_use]
    pub fn actions(&self) -> Actions {
        Actions::new(self.header.action_set, self.header.scope)
    }

    /// Number of leaves.
    #[must_use]
    pub fn leaves(&self) -> usize {
        self.root.leaves()
    }

    /// Greatest number of conditions from the root to a leaf.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.root.depth()
    }

    /// Identifies the tree in decision records: a checksum of its text in 16 hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("{:016x}", fnv1a(self.to_string().bytes().map(u32::from)))
    }

    /// The leaf of `observation`.
    #[must_use]
    pub fn leaf(&self, observation: &[f32]) -> TreeLeaf {
        let mut node = &self.root;
        loop {
            match node {
                TreeNode::Leaf(leaf) => return *leaf,
                TreeNode::Split { feature, at_most, low, high } => node = if observation[*feature] <= *at_most { low } else { high },
            }
        }
    }

    /// The action on `observation`: under a steady load the default action, like that of the network, otherwise that of the leaf, or an action in its
    /// place if it cannot be taken ([`Actions::resolve`]). `None` if none can be taken.
    #[must_use]
    pub fn select(&self, actions: &Actions, observation: &[f32], candidates: &ActionCandidates) -> Option<usize> {
        let steady = candidates.is_steady().then(|| actions.default_action(candidates)).flatten();
        steady.or_else(|| actions.resolve(self.leaf(observation).action, candidates))
    }

    /// Out-of-distribution score of `observation`, that of the network ([`crate::policy::Valuation::ood_score`]).
    #[must_use]
    pub fn ood_score(&self, observation: &[f32]) -> f32 {
        let index = usize::from(self.ranges.len() > 1 && keeps_one(observation));
        let FeatureRanges { shift, scale } = &self.ranges[index];
        ood_score(observation, shift, scale)
    }

    /// Conditions that lead to the leaf of `observation`, each with the quantity observed; conditions on one feature are joined.
    #[must_use]
    pub fn explain(&self, observation: &[f32]) -> Vec<String> {
        let mut conditions: Conditions = Vec::new();
        let mut node = &self.root;
        while let TreeNode::Split { feature, at_most, low, high } = node {
            let is_above = observation[*feature] > *at_most;
            let at = conditions.iter().position(|(known, ..)| known == feature).unwrap_or_else(|| {
                conditions.push((*feature, None, None));
                conditions.len() - 1
            });
            // A condition further down is the stricter one.
            *(if is_above { &mut conditions[at].1 } else { &mut conditions[at].2 }) = Some(*at_most);
            node = if is_above { high } else { low };
        }
        let text = |(feature, above, at_most): (usize, Option<f32>, Option<f32>)| {
            let quantity = &QUANTITIES[feature];
            let of = |bound: Option<f32>, is_above| bound.map(|bound| quantity.condition(bound, is_above));
            let conditions: Vec<String> = of(above, true).into_iter().chain(of(at_most, false)).collect();
            let observed = quantity.text(observation[feature]);
            if conditions == [observed.clone()] {
                return format!("{}: {observed}", quantity.meaning);
            }
            format!("{} {} ({observed})", quantity.meaning, conditions.join(" and "))
        };
        conditions.into_iter().map(text).collect()
    }
}

impl TreeNode {
    /// The tree without conditions whose branches lead to the same action.
    #[must_use]
    pub fn pruned(self) -> Self {
        let Self::Split { feature, at_most, low, high } = self else { return self };
        match (low.pruned(), high.pruned()) {
            (Self::Leaf(low), Self::Leaf(high)) if low.action == high.action => {
                Self::Leaf(TreeLeaf { samples: low.samples + high.samples, equal: low.equal + high.equal, ..low })
            }
            (low, high) => Self::Split { feature, at_most, low: Box::new(low), high: Box::new(high) },
        }
    }

    fn check(&self, actions: usize, depth: u32) -> Result<(), String> {
        match self {
            Self::Split { feature, at_most, low, high } => {
                if depth == MAX_DEPTH {
                    return Err(format!("deeper than {MAX_DEPTH} conditions"));
                }
                if *feature >= observation::COUNT || !at_most.is_finite() {
                    return Err(format!("condition on feature {feature} with threshold {at_most}"));
                }
                low.check(actions, depth + 1)?;
                high.check(actions, depth + 1)
            }
            Self::Leaf(TreeLeaf { action, samples, equal }) if *action >= actions || equal > samples => {
                Err(format!("leaf with action {action} of {actions} and {equal} of {samples} samples"))
            }
            Self::Leaf(_) => Ok(()),
        }
    }

    fn leaves(&self) -> usize {
        match self {
            Self::Split { low, high, .. } => low.leaves() + high.leaves(),
            Self::Leaf(_) => 1,
        }
    }

    fn depth(&self) -> u32 {
        match self {
            Self::Split { low, high, .. } => 1 + low.depth().max(high.depth()),
            Self::Leaf(_) => 0,
        }
    }

    fn samples(&self) -> u64 {
        match self {
            Self::Split { low, high, .. } => low.samples().saturating_add(high.samples()),
            Self::Leaf(leaf) => leaf.samples,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
