//! Growth of a decision tree (CART, Breiman et al. 1984) over samples with a loss of each action. Owns the choice of conditions.
//!
//! A leaf takes the action with the least mean loss. That mean itself is a poor guide to conditions, as most conditions leave the best action of both branches
//! unchanged; its soft minimum also rewards a branch in which another action comes near. Candidates of thresholds are quantiles of the features.

use std::num::NonZeroUsize;

use qscale_dqn::observation::COUNT;
use qscale_dqn::tree::{TreeLeaf, TreeNode};

use super::rollout::LabelledState;

/// Most thresholds that are tried for a feature.
const BINS: usize = 128;
/// Fewest samples of a leaf.
const LEAST_SAMPLES: usize = 50;
/// Temperature of the soft minimum, in units of the mean loss.
const TEMPERATURE: f64 = 0.2;
/// Loss of any other allocation than the network's, in units of the mean loss. Where the Q-values hardly differ it makes the tree imitate the network still.
const DIFFERENT: f64 = 0.5;
/// Greatest loss, in units of the mean loss: an error of one estimate must not outweigh hundreds of decisions.
const GREATEST: f64 = 10.0;
/// Least improvement for a condition, in units of the mean loss for each sample of the tree.
const LEAST_GAIN: f64 = 1e-5;

/// Samples as the growth uses them.
struct SampleTable {
    /// Bin of each feature, by feature and sample.
    bins: Vec<Vec<u8>>,
    /// Greatest value of each bin but the last, by feature.
    thresholds: Vec<Vec<f32>>,
    /// Loss of each action, by sample, in units of the mean loss.
    losses: Vec<f32>,
    /// Actions equal to the network's, by sample.
    equal: Vec<u64>,
    actions: usize,
    threads: usize,
}

/// A condition with its improvement.
#[derive(Debug, Clone, Copy)]
struct BestSplit {
    gain: f64,
    feature: usize,
    bin: usize,
}

/// The tree of at most `depth` conditions from the root to a leaf over `samples`, which have `actions` losses. Same samples, same tree, whatever the number of
/// `threads`.
pub(super) fn grow(samples: &[LabelledState], actions: usize, depth: u32, threads: NonZeroUsize) -> TreeNode {
    let ruled: Vec<&LabelledState> = samples.iter().filter(|sample| sample.is_ruled).collect();
    let table = SampleTable::new(&ruled, actions, threads.get());
    let mut rows: Vec<u32> = (0..ruled.len() as u32).collect();
    table.node(&mut rows, depth).pruned()
}

impl SampleTable {
    fn new(samples: &[&LabelledState], actions: usize, threads: usize) -> Self {
        let (mut bins, mut thresholds) = (Vec::with_capacity(COUNT), Vec::with_capacity(COUNT));
        for feature in 0..COUNT {
            let values: Vec<f32> = samples.iter().map(|sample| sample.observation[feature]).collect();
            let edges = edges(&values);
            bins.push(values.iter().map(|value| edges.partition_point(|edge| edge < value) as u8).collect());
            thresholds.push(edges);
        }
        let positive = || samples.iter().flat_map(|sample| &sample.losses).filter(|loss| **loss > 0.0).map(|loss| f64::from(*loss));
        let mean = positive().sum::<f64>() / positive().count().max(1) as f64;
        let loss = |sample: &LabelledState, action: usize| {
            if sample.equal >> action & 1 == 1 {
                return 0.0;
            }
            (DIFFERENT + f64::from(sample.losses[action]) / mean.max(1e-9)).min(GREATEST) as f32
        };
        let losses = samples.iter().flat_map(|sample| (0..actions).map(move |action| loss(sample, action))).collect();
        Self { bins, thresholds, losses, equal: samples.iter().map(|sample| sample.equal).collect(), actions, threads }
    }

    fn node(&self, rows: &mut [u32], depth: u32) -> TreeNode {
        let best = if depth > 0 && rows.len() >= 2 * LEAST_SAMPLES { self.best_condition(rows) } else { None };
        let Some(BestSplit { feature, bin, .. }) = best else { return TreeNode::Leaf(self.leaf(rows)) };
        let bins = &self.bins[feature];
        // Both branches keep the order of the samples.
        let (low, high): (Vec<u32>, Vec<u32>) = rows.iter().partition(|row| usize::from(bins[**row as usize]) <= bin);
        let middle = low.len();
        rows[..middle].copy_from_slice(&low);
        rows[middle..].copy_from_slice(&high);
        drop((low, high));
        let (low, high) = rows.split_at_mut(middle);
        TreeNode::Split {
            feature,
            at_most: self.thresholds[feature][bin],
            low: Box::new(self.node(low, depth - 1)),
            high: Box::new(self.node(high, depth - 1)),
        }
    }

    fn leaf(&self, rows: &[u32]) -> TreeLeaf {
        let mut sums = vec![0.0; self.actions];
        rows.iter().for_each(|row| self.add(&mut sums, *row));
        let least = |one: &usize, other: &usize| sums[*one].total_cmp(&sums[*other]);
        let action = (0..self.actions).min_by(least).unwrap_or(0);
        let equal = rows.iter().filter(|row| self.equal[**row as usize] >> action & 1 == 1).count() as u64;
        TreeLeaf { action, samples: rows.len() as u64, equal }
    }

    fn add(&self, sums: &mut [f64], row: u32) {
        let at = row as usize * self.actions;
        sums.iter_mut().zip(&self.losses[at..at + self.actions]).for_each(|(sum, loss)| *sum += f64::from(*loss));
    }

    /// The condition with the greatest improvement; of equal ones that of the first feature.
    fn best_condition(&self, rows: &[u32]) -> Option<BestSplit> {
        let mut sums = vec![0.0; self.actions];
        rows.iter().for_each(|row| self.add(&mut sums, *row));
        let before = soft_minimum(&sums, rows.len() as f64);
        let (sums, features) = (&sums, COUNT.div_ceil(self.threads));
        let of_features = |first: usize| {
            (first..(first + features).min(COUNT)).filter_map(|feature| self.condition(rows, feature, sums, before)).reduce(better)
        };
        let found = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..COUNT).step_by(features).map(|first| scope.spawn(move || of_features(first))).collect();
            let joined = threads.into_iter().filter_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            joined.reduce(better)
        });
        found.filter(|condition| condition.gain > LEAST_GAIN * self.equal.len() as f64)
    }

    /// The best condition on `feature`.
    fn condition(&self, rows: &[u32], feature: usize, all: &[f64], before: f64) -> Option<BestSplit> {
        let (bins, count) = (&self.bins[feature], self.thresholds[feature].len() + 1);
        let (mut sums, mut samples) = (vec![0.0; count * self.actions], vec![0usize; count]);
        for row in rows {
            let bin = usize::from(bins[*row as usize]);
            self.add(&mut sums[bin * self.actions..(bin + 1) * self.actions], *row);
            samples[bin] += 1;
        }
        let (mut low, mut high) = (vec![0.0; self.actions], all.to_vec());
        let mut below = 0;
        let mut best: Option<BestSplit> = None;
        for bin in 0..count - 1 {
            let moved = &sums[bin * self.actions..(bin + 1) * self.actions];
            low.iter_mut().zip(&mut high).zip(moved).for_each(|((low, high), moved)| {
                *low += moved;
                *high -= moved;
            });
            below += samples[bin];
            let above = rows.len() - below;
            if samples[bin] == 0 || below.min(above) < LEAST_SAMPLES {
                continue;
            }
            let gain = before - soft_minimum(&low, below as f64) - soft_minimum(&high, above as f64);
            best = Some(best.map_or(BestSplit { gain, feature, bin }, |best| better(best, BestSplit { gain, feature, bin })));
        }
        best
    }
}

fn better(one: BestSplit, other: BestSplit) -> BestSplit {
    if other.gain > one.gain { other } else { one }
}

/// Upper edges of at most [`BINS`] bins of about equal numbers of `values`, without that of the last.
fn edges(values: &[f32]) -> Vec<f32> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    let mut edges: Vec<f32> = (1..BINS).filter_map(|part| sorted.get(part * sorted.len() / BINS).copied()).collect();
    edges.dedup();
    edges.retain(|edge| sorted.last().is_some_and(|last| edge < last));
    edges
}

/// Soft minimum of the mean losses whose sums over `samples` are `sums`, times the number of samples: concave, so that no condition makes it greater.
fn soft_minimum(sums: &[f64], samples: f64) -> f64 {
    let least = sums.iter().copied().fold(f64::INFINITY, f64::min);
    let weight: f64 = sums.iter().map(|sum| ((least - sum) / (samples * TEMPERATURE)).exp()).sum();
    least - samples * TEMPERATURE * weight.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample in which action 1 is right where `first` is above 0.3 and `second` above 0.6, otherwise action 0.
    fn sample(first: f32, second: f32) -> LabelledState {
        let mut observation = vec![0.0; COUNT];
        (observation[3], observation[7]) = (first, second);
        let right = usize::from(first > 0.3 && second > 0.6);
        let mut losses = vec![1.0, 1.0, 2.0];
        losses[right] = 0.0;
        LabelledState { observation, losses, equal: 1 << right, is_ruled: true, is_default: right == 0 }
    }

    fn samples() -> Vec<LabelledState> {
        (0..100).flat_map(|one| (0..100).map(move |other| sample(one as f32 / 100.0, other as f32 / 100.0))).collect()
    }

    #[test]
    fn finds_the_conditions_behind_the_samples() {
        let tree = grow(&samples(), 3, 2, NonZeroUsize::MIN);
        let TreeNode::Split { feature: first, at_most, high, low } = &tree else { panic!("{tree:?}") };
        assert!(matches!(**low, TreeNode::Leaf(TreeLeaf { action: 0, .. })), "{tree:?}");
        let TreeNode::Split { feature: second, high, .. } = &**high else { panic!("{tree:?}") };
        let TreeNode::Leaf(leaf) = **high else { panic!("{tree:?}") };
        assert!([[3, 7], [7, 3]].contains(&[*first, *second]), "{tree:?}");
        let exact = if *first == 3 { 0.3 } else { 0.6 };
        assert!((at_most - exact).abs() < 0.02 && leaf.action == 1 && leaf.equal * 100 > leaf.samples * 95, "{tree:?}");
    }

    #[test]
    fn grows_the_same_tree_on_any_number_of_threads() {
        let samples = samples();
        let tree = |threads| grow(&samples, 3, 5, NonZeroUsize::new(threads).expect("not zero"));
        assert_eq!(tree(1), tree(3));
    }

    #[test]
    fn the_loss_and_not_the_number_of_samples_decides() {
        // Of a hundred samples in the same state three lose forty times as much.
        let mut samples: Vec<LabelledState> = (0..100).map(|_| sample(0.0, 0.0)).collect();
        for costly in &mut samples[..3] {
            (costly.losses, costly.equal) = (vec![400.0, 0.0, 500.0], 0b010);
        }
        samples[3..].iter_mut().for_each(|cheap| cheap.losses = vec![0.0, 0.1, 10.0]);
        let TreeNode::Leaf(leaf) = grow(&samples, 3, 3, NonZeroUsize::MIN) else { panic!("no feature differs") };
        assert_eq!((leaf.action, leaf.samples, leaf.equal), (0, 100, 97), "the loss of one sample is limited");
        samples[3..].iter_mut().for_each(|cheap| (cheap.losses, cheap.equal) = (vec![0.0, 0.0, 10.0], 0b011));
        let TreeNode::Leaf(leaf) = grow(&samples, 3, 3, NonZeroUsize::MIN) else { panic!("no feature differs") };
        assert_eq!(leaf.action, 1);
    }

    #[test]
    fn steady_loads_are_left_to_the_default_action() {
        let mut samples = samples();
        samples.iter_mut().for_each(|sample| sample.is_ruled = false);
        assert_eq!(grow(&samples, 3, 2, NonZeroUsize::MIN), TreeNode::Leaf(TreeLeaf { action: 0, samples: 0, equal: 0 }));
    }
}
