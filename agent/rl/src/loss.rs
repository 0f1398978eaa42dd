//! The loss: targets, temporal-difference errors, Huber loss and its gradient, for means and quantiles. Owns the
//! arithmetic of double Q-learning and its variants; must not know a network.
//!
//! All inputs and outputs are plain numbers, so that no gradient can flow through a target.

use serde::{Deserialize, Serialize};

use crate::mask::Mask;
use crate::network::mean_of;
use crate::replay::Batch;

/// Munchausen Q-learning: a soft policy by the target network whose log-probability is added to the reward (Vieillard
/// et al., NeurIPS 2020).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Munchausen {
    /// Weight of the scaled log-probability, 0 to 1.
    pub alpha: f32,
    /// Temperature of the softmax policy, above 0: the difference of two values that makes one action e times as likely as the other.
    pub temperature: f32,
    /// Lower bound of the scaled log-probability, below 0.
    pub least: f32,
}

impl Default for Munchausen {
    /// As in the paper, whose rewards are at most 1; that of a usual tick is about -1 here.
    fn default() -> Self {
        Self { alpha: 0.9, temperature: 0.03, least: -1.0 }
    }
}

/// Quantiles of the same batch by several forward passes, in the order of [`crate::network::Network::quantiles`].
#[derive(Debug, Clone, Copy)]
pub struct BatchValues<'a> {
    /// Of the observations, by the online network.
    pub current: &'a [f32],
    /// Of the next observations, by the network that selects the next action: the online network in double Q-learning.
    pub next: &'a [f32],
    /// Of the next observations, by the target network.
    pub next_by_target: &'a [f32],
    /// Of the observations, by the target network; read for [`Munchausen`] only.
    pub current_by_target: &'a [f32],
}

/// Parameters of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossConfig {
    /// Number of actions.
    pub actions: usize,
    /// Quantiles of each; 1 is the mean.
    pub quantiles: usize,
    /// Error beyond which the loss is linear.
    pub huber_delta: f32,
    /// Adds the policy's log-probability to the rewards.
    pub munchausen: Option<Munchausen>,
}

/// The loss of a batch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LossOutput {
    /// Weighted mean of the Huber losses.
    pub loss: f32,
    /// Temporal-difference errors: value less target, row by row.
    pub errors: Vec<f32>,
    /// Gradient of the loss by each of [`BatchValues::current`].
    pub gradient: Vec<f32>,
}

/// The value of `action` in one row of quantiles: their mean.
#[must_use]
pub fn value(row: &[f32], action: usize, config: LossConfig) -> f32 {
    row.iter().skip(action).step_by(config.actions).sum::<f32>() / config.quantiles as f32
}

/// Buffers for the means of one row.
struct Means {
    next: Vec<f32>,
    by_target: Vec<f32>,
}

/// Replaces `targets` by the targets of one row of `batch`, one for each quantile: the reward plus the discounted
/// quantile of the target network for the allowed action that `next` values most (double Q-learning; van Hasselt et
/// al., AAAI 2016), or, with Munchausen, its mean over the softmax policy. A row without bootstrap has the reward as
/// its only target, and its next values are not read.
fn targets(batch: &Batch, row: usize, values: BatchValues<'_>, config: LossConfig, means: &mut Means, targets: &mut Vec<f32>) {
    let LossConfig { actions, quantiles, .. } = config;
    let row_of = |values| row_of(values, row, config);
    targets.clear();
    let mut reward = batch.rewards[row];
    if let Some(munchausen) = config.munchausen {
        mean_of(row_of(values.current_by_target), quantiles, &mut means.by_target);
        let logarithm = log_policy(&means.by_target, batch.masks[row], usize::from(batch.actions[row]), munchausen.temperature);
        reward += munchausen.alpha * logarithm.clamp(munchausen.least, 0.0);
    }
    let bootstrap = batch.bootstraps[row];
    if bootstrap == 0.0 {
        return targets.push(reward);
    }
    let (mask, by_target) = (batch.next_masks[row], row_of(values.next_by_target));
    if let Some(Munchausen { temperature, .. }) = config.munchausen {
        mean_of(by_target, quantiles, &mut means.by_target);
        let soft = |values: &[f32]| {
            let part = |action| {
                let logarithm = log_policy(&means.by_target, mask, action, temperature);
                (logarithm / temperature).exp() * (values[action] - logarithm)
            };
            reward + bootstrap * mask.allowed().take_while(|action| *action < actions).map(part).sum::<f32>()
        };
        return targets.extend(by_target.chunks_exact(actions).map(soft));
    }
    mean_of(row_of(values.next), quantiles, &mut means.next);
    let choice = mask.best(&means.next);
    // Without an allowed action there is no estimate of the future.
    targets.extend(by_target.chunks_exact(actions).map(|values| reward + bootstrap * choice.map_or(0.0, |choice| values[choice])));
}

fn row_of(values: &[f32], row: usize, config: LossConfig) -> &[f32] {
    let width = config.actions * config.quantiles;
    &values[row * width..(row + 1) * width]
}

/// Log-probability of `action` under the softmax policy at `temperature` over the actions that `mask` allows, times the temperature.
fn log_policy(values: &[f32], mask: Mask, action: usize, temperature: f32) -> f32 {
    let allowed = || values.iter().enumerate().filter(|(action, _)| mask.allows(*action)).map(|(_, value)| *value);
    let most = allowed().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = allowed().map(|value| ((value - most) / temperature).exp()).sum();
    if mask.allows(action) && sum > 0.0 { values[action] - most - temperature * sum.ln() } else { 0.0 }
}

/// The quantile Huber loss of `values` (Dabney et al., AAAI 2018; twice theirs, so that one quantile gives the Huber loss of the mean).
#[must_use]
pub fn td_loss(batch: &Batch, values: BatchValues<'_>, config: LossConfig) -> LossOutput {
    let LossConfig { actions, quantiles, huber_delta, .. } = config;
    let (rows, width) = (batch.actions.len(), actions * quantiles);
    let mut output = LossOutput { loss: 0.0, errors: Vec::with_capacity(rows), gradient: vec![0.0; rows * width] };
    let mut means = Means { next: vec![0.0; actions], by_target: vec![0.0; actions] };
    let mut row_targets = Vec::with_capacity(quantiles);
    for row in 0..rows {
        targets(batch, row, values, config, &mut means, &mut row_targets);
        let action = usize::from(batch.actions[row]);
        let weight = batch.weights[row] / (rows * row_targets.len()) as f32;
        for quantile in 0..quantiles {
            let place = row * width + quantile * actions + action;
            let share = (quantile as f32 + 0.5) / quantiles as f32;
            let (mut loss, mut slope) = (0.0, 0.0);
            for target in &row_targets {
                let error = values.current[place] - target;
                let weight_of_side = 2.0 * if error > 0.0 { 1.0 - share } else { share };
                loss += weight_of_side * huber(error, huber_delta);
                slope += weight_of_side * error.clamp(-huber_delta, huber_delta);
            }
            output.loss += weight * loss;
            output.gradient[place] = weight * slope;
        }
        let expected = value(row_of(values.current, row, config), action, config);
        output.errors.push(expected - row_targets.iter().sum::<f32>() / row_targets.len() as f32);
    }
    output
}

/// Half the square of `error` up to `delta`, linear beyond (Huber, 1964).
fn huber(error: f32, delta: f32) -> f32 {
    let size = error.abs();
    if size <= delta { 0.5 * error * error } else { delta * (size - 0.5 * delta) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Mask;

    /// Two rows of three actions: the episode of the first continues, that of the second has terminated.
    fn batch() -> Batch {
        Batch {
            indices: vec![0, 1],
            observations: Vec::new(),
            masks: vec![Mask(0b110), Mask(0b111)],
            actions: vec![1, 2],
            rewards: vec![-0.5, -1.0],
            bootstraps: vec![0.9, 0.0],
            nexts: Vec::new(),
            next_masks: vec![Mask(0b011), Mask(0b111)],
            weights: vec![1.0, 0.5],
        }
    }

    const NEXT: [f32; 6] = [1.0, 2.0, 9.0, 5.0, 5.0, 5.0];
    const NEXT_BY_TARGET: [f32; 6] = [7.0, 3.0, 8.0, 4.0, 4.0, 4.0];
    const MEANS: LossConfig = LossConfig { actions: 3, quantiles: 1, huber_delta: 1.0, munchausen: None };

    fn values(current: &[f32]) -> BatchValues<'_> {
        BatchValues { current, next: &NEXT, next_by_target: &NEXT_BY_TARGET, current_by_target: &[1.0, 1.5, 1.0, 0.0, 0.0, 0.0] }
    }

    fn targets_of(values: BatchValues<'_>, config: LossConfig) -> [Vec<f32>; 2] {
        [0, 1].map(|row| {
            let mut found = Vec::new();
            targets(&batch(), row, values, config, &mut Means { next: vec![0.0; 3], by_target: vec![0.0; 3] }, &mut found);
            found
        })
    }

    fn close(found: &[f32], expected: &[f32]) {
        let all = found.len() == expected.len() && found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-5);
        assert!(all, "{found:?} {expected:?}");
    }

    #[test]
    fn double_targets_take_the_target_networks_value_of_the_best_allowed_action() {
        // By hand: action 2 is masked, the online network prefers action 1 (2 over 1), the target network values it at
        // 3; -0.5 + 0.9 x 3 = 2.2.
        let [first, second] = targets_of(values(&[0.0; 6]), MEANS);
        close(&first, &[2.2]);
        close(&second, &[-1.0]);
    }

    #[test]
    fn each_quantile_has_its_own_target_and_the_mean_selects_the_action() {
        // Two quantiles of three actions. Means of the online network: 2, 1.5 and, masked, 9; so action 0, whose
        // quantiles are 1 and 5 in the target network.
        let next = [0.0, 1.0, 9.0, 4.0, 2.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let next_by_target = [1.0, 3.0, 8.0, 5.0, 3.0, 8.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let values = BatchValues { current: &[0.0; 12], next: &next, next_by_target: &next_by_target, current_by_target: &[] };
        let [first, second] = targets_of(values, LossConfig { quantiles: 2, ..MEANS });
        close(&first, &[-0.5 + 0.9, -0.5 + 0.9 * 5.0]);
        close(&second, &[-1.0]);
    }

    #[test]
    fn gradient_descent_finds_the_quantiles_of_a_random_reward() {
        // Of 0, 1, 2 and 3 the quantiles at 1/4 and 3/4 lie between 0 and 1 and between 2 and 3.
        let config = LossConfig { actions: 1, quantiles: 2, huber_delta: 0.01, munchausen: None };
        let all = Batch {
            actions: vec![0; 4],
            rewards: vec![0.0, 1.0, 2.0, 3.0],
            bootstraps: vec![0.0; 4],
            weights: vec![1.0; 4],
            ..Batch::default()
        };
        let mut found = [1.4f32, 1.6];
        for _ in 0..20_000 {
            let seen: Vec<f32> = found.iter().copied().cycle().take(8).collect();
            let output = td_loss(&all, BatchValues { current: &seen, next: &[], next_by_target: &[], current_by_target: &[] }, config);
            for (place, slope) in output.gradient.iter().enumerate() {
                found[place % 2] -= 0.1 * slope;
            }
        }
        assert!((-0.1..=1.1).contains(&found[0]) && (1.9..=3.1).contains(&found[1]), "{found:?}");
    }

    #[test]
    fn munchausen_adds_the_clipped_log_probability() {
        // Temperature 1. In the current State actions 1 and 2 are allowed, at 1.5 and 1: ln(1 / (1 + exp(-0.5))) =
        // -0.4741. In the next actions 0 and 1, at 7 and 3: the soft value is ln(exp(7) + exp(3)) = 7.01815.
        let munchausen = Munchausen { alpha: 0.5, temperature: 1.0, least: -10.0 };
        let [first, second] = targets_of(values(&[0.0; 6]), LossConfig { munchausen: Some(munchausen), ..MEANS });
        close(&first, &[-0.5 - 0.5 * 0.474_077 + 0.9 * 7.018_15]);
        // The second has terminated; with three equal values the log-probability is -ln 3.
        close(&second, &[-1.0 - 0.5 * 3f32.ln()]);
        // The log-probability is clipped.
        let [first, _] = targets_of(values(&[0.0; 6]), LossConfig { munchausen: Some(Munchausen { least: -0.1, ..munchausen }), ..MEANS });
        close(&first, &[-0.5 - 0.5 * 0.1 + 0.9 * 7.018_15]);
    }

    #[test]
    fn gradient_is_bounded_and_zero_for_actions_not_taken() {
        let output = td_loss(&batch(), values(&[0.0, 2.6, 0.0, 0.0, 0.0, 4.0]), MEANS);
        // Errors 0.4 and 5: gradients 0.4 / 2 and, beyond delta, 1 x 0.5 / 2; losses 0.08 / 2 and 4.5 x 0.5 / 2.
        close(&output.gradient, &[0.0, 0.2, 0.0, 0.0, 0.0, 0.25]);
        close(&[output.loss], &[0.04 + 1.125]);
    }

    #[test]
    fn gradient_equals_the_numerical_slope_of_the_loss() {
        let seen = [0.3, 2.6, -1.0, 0.0, 0.7, -1.4];
        let (next, next_by_target) = ([NEXT, NEXT].concat(), [NEXT_BY_TARGET, NEXT].concat());
        for quantiles in [1, 2] {
            let config = LossConfig { quantiles, ..MEANS };
            let whole: Vec<f32> = seen.iter().copied().cycle().take(6 * quantiles).collect();
            let judged = |current: &[f32]| {
                td_loss(&batch(), BatchValues { current, next: &next, next_by_target: &next_by_target, current_by_target: &[] }, config)
            };
            let gradient = judged(&whole).gradient;
            for place in 0..whole.len() {
                let (mut more, mut less) = (whole.clone(), whole.clone());
                (more[place], less[place]) = (whole[place] + 1e-2, whole[place] - 1e-2);
                let slope = (judged(&more).loss - judged(&less).loss) / 2e-2;
                assert!((slope - gradient[place]).abs() < 1e-3, "{place}: {slope} {}", gradient[place]);
            }
        }
    }
}
