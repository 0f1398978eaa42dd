//! What was expected against what came: targets, errors, Huber loss and its gradient, of means and of quantiles. Owns the arithmetic of double Q-learning
//! and of its kin; must not know a network.
//!
//! Plain numbers in, plain numbers out: what is a target here cannot carry a gradient, whatever the library does.

use crate::learner::Munchausen;
use crate::mask::Mask;
use crate::network::mean_of;
use crate::replay::Batch;

/// Values of the same batch by several passes, row by row, each quantile by quantile.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// Of what was seen, by the network that learns.
    pub seen: &'a [f32],
    /// Of what was seen then, by the network that learns: it chooses.
    pub next: &'a [f32],
    /// Of what was seen then, by the target network: it values.
    pub next_by_target: &'a [f32],
    /// Of what was seen, by the target network; read for Munchausen's policy alone.
    pub seen_by_target: &'a [f32],
}

/// How values are judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Actions that are valued.
    pub actions: usize,
    /// Quantiles of each; 1 is its mean.
    pub quantiles: usize,
    /// Error beyond which the loss grows in a straight line.
    pub corner: f32,
    /// Whether the policy's own view of its choices is part of their rewards.
    pub munchausen: Option<Munchausen>,
}

/// What a batch says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Verdict {
    /// Weighted mean of the Huber losses.
    pub loss: f32,
    /// Value expected less target, row by row.
    pub errors: Vec<f32>,
    /// Gradient of the loss by each value of what was seen, row by row.
    pub gradient: Vec<f32>,
}

/// What `action` is worth by one row of values: the mean of its quantiles.
#[must_use]
pub fn value(row: &[f32], action: usize, rule: Rule) -> f32 {
    row.iter().skip(action).step_by(rule.actions).sum::<f32>() / rule.quantiles as f32
}

/// Memory for means of one row.
struct Means {
    next: Vec<f32>,
    by_target: Vec<f32>,
}

/// The targets of one row of `batch` into `targets`: what came, and each quantile that the target network sees of the choice that the learning network would
/// make (van Hasselt et al., AAAI 2016) among those that could be made, or what it sees of all of them by a soft policy. Where a row has nothing to bootstrap
/// from it is what came alone, and values of what was seen then are not needed.
fn targets(batch: &Batch, row: usize, values: Values<'_>, rule: Rule, means: &mut Means, targets: &mut Vec<f32>) {
    let Rule { actions, quantiles, .. } = rule;
    let row_of = |values| row_of(values, row, rule);
    targets.clear();
    let mut came = batch.rewards[row];
    if let Some(munchausen) = rule.munchausen {
        mean_of(row_of(values.seen_by_target), quantiles, &mut means.by_target);
        let logarithm = log_policy(&means.by_target, batch.masks[row], usize::from(batch.actions[row]), munchausen.temperature);
        came += munchausen.alpha * logarithm.clamp(munchausen.least, 0.0);
    }
    let bootstrap = batch.bootstraps[row];
    if bootstrap == 0.0 {
        return targets.push(came);
    }
    let (mask, by_target) = (batch.next_masks[row], row_of(values.next_by_target));
    if let Some(Munchausen { temperature, .. }) = rule.munchausen {
        mean_of(by_target, quantiles, &mut means.by_target);
        let soft = |values: &[f32]| {
            let part = |action| {
                let logarithm = log_policy(&means.by_target, mask, action, temperature);
                (logarithm / temperature).exp() * (values[action] - logarithm)
            };
            came + bootstrap * mask.allowed().take_while(|action| *action < actions).map(part).sum::<f32>()
        };
        return targets.extend(by_target.chunks_exact(actions).map(soft));
    }
    mean_of(row_of(values.next), quantiles, &mut means.next);
    let choice = mask.best(&means.next);
    // Where nothing can be chosen nothing is told of the future.
    targets.extend(by_target.chunks_exact(actions).map(|values| came + bootstrap * choice.map_or(0.0, |choice| values[choice])));
}

fn row_of(values: &[f32], row: usize, rule: Rule) -> &[f32] {
    let width = rule.actions * rule.quantiles;
    &values[row * width..(row + 1) * width]
}

/// The logarithm of how likely `action` is by a policy that is soft at `temperature` among what `mask` allows, times the temperature.
fn log_policy(values: &[f32], mask: Mask, action: usize, temperature: f32) -> f32 {
    let allowed = || values.iter().enumerate().filter(|(action, _)| mask.allows(*action)).map(|(_, value)| *value);
    let most = allowed().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = allowed().map(|value| ((value - most) / temperature).exp()).sum();
    if mask.allows(action) && sum > 0.0 { values[action] - most - temperature * sum.ln() } else { 0.0 }
}

/// Judges `values` of `batch` by Huber's loss, each quantile leaning to its side (Dabney et al., AAAI 2018; twice theirs, so that one quantile is the mean).
#[must_use]
pub fn judge(batch: &Batch, values: Values<'_>, rule: Rule) -> Verdict {
    let Rule { actions, quantiles, corner, .. } = rule;
    let (rows, width) = (batch.actions.len(), actions * quantiles);
    let mut verdict = Verdict { loss: 0.0, errors: Vec::with_capacity(rows), gradient: vec![0.0; rows * width] };
    let mut means = Means { next: vec![0.0; actions], by_target: vec![0.0; actions] };
    let mut aims = Vec::with_capacity(quantiles);
    for row in 0..rows {
        targets(batch, row, values, rule, &mut means, &mut aims);
        let action = usize::from(batch.actions[row]);
        let weight = batch.weights[row] / (rows * aims.len()) as f32;
        for quantile in 0..quantiles {
            let place = row * width + quantile * actions + action;
            let share = (quantile as f32 + 0.5) / quantiles as f32;
            let (mut loss, mut slope) = (0.0, 0.0);
            for aim in &aims {
                let error = values.seen[place] - aim;
                let lean = 2.0 * if error > 0.0 { 1.0 - share } else { share };
                loss += lean * huber(error, corner);
                slope += lean * error.clamp(-corner, corner);
            }
            verdict.loss += weight * loss;
            verdict.gradient[place] = weight * slope;
        }
        let expected = value(row_of(values.seen, row, rule), action, rule);
        verdict.errors.push(expected - aims.iter().sum::<f32>() / aims.len() as f32);
    }
    verdict
}

/// Half the square of `error` near 0, a straight line beyond `corner` (Huber, 1964).
fn huber(error: f32, corner: f32) -> f32 {
    let size = error.abs();
    if size <= corner { 0.5 * error * error } else { corner * (size - 0.5 * corner) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Mask;

    /// Two rows of three actions: the first goes on, the second is over.
    fn batch() -> Batch {
        Batch {
            places: vec![0, 1],
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
    const MEANS: Rule = Rule { actions: 3, quantiles: 1, corner: 1.0, munchausen: None };

    fn values(seen: &[f32]) -> Values<'_> {
        Values { seen, next: &NEXT, next_by_target: &NEXT_BY_TARGET, seen_by_target: &[1.0, 1.5, 1.0, 0.0, 0.0, 0.0] }
    }

    fn targets_of(values: Values<'_>, rule: Rule) -> [Vec<f32>; 2] {
        [0, 1].map(|row| {
            let mut found = Vec::new();
            targets(&batch(), row, values, rule, &mut Means { next: vec![0.0; 3], by_target: vec![0.0; 3] }, &mut found);
            found
        })
    }

    fn close(found: &[f32], expected: &[f32]) {
        let all = found.len() == expected.len() && found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-5);
        assert!(all, "{found:?} {expected:?}");
    }

    #[test]
    fn a_target_is_what_the_target_values_of_what_the_learner_would_choose_among_what_is_allowed() {
        // By hand: action 2 is masked, the learner prefers action 1 (2 over 1), the target values it at 3; -0.5 + 0.9 x 3 = 2.2. The second is over.
        let [first, second] = targets_of(values(&[0.0; 6]), MEANS);
        close(&first, &[2.2]);
        close(&second, &[-1.0]);
    }

    #[test]
    fn each_quantile_has_a_target_of_its_own_and_the_choice_is_by_the_mean() {
        // Two quantiles of three actions. Means of the learner: 2, 1.5 and, masked, 9; so action 0, whose quantiles the target sees at 1 and 5.
        let next = [0.0, 1.0, 9.0, 4.0, 2.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let next_by_target = [1.0, 3.0, 8.0, 5.0, 3.0, 8.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let values = Values { seen: &[0.0; 12], next: &next, next_by_target: &next_by_target, seen_by_target: &[] };
        let [first, second] = targets_of(values, Rule { quantiles: 2, ..MEANS });
        close(&first, &[-0.5 + 0.9, -0.5 + 0.9 * 5.0]);
        close(&second, &[-1.0]);
    }

    #[test]
    fn quantiles_of_what_comes_at_random_are_found_by_descent() {
        // Of 0, 1, 2 and 3 the quantiles at 1/4 and 3/4 lie from 0 to 1 and from 2 to 3; their mean is not where either is.
        let rule = Rule { actions: 1, quantiles: 2, corner: 0.01, munchausen: None };
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
            let verdict = judge(&all, Values { seen: &seen, next: &[], next_by_target: &[], seen_by_target: &[] }, rule);
            for (place, slope) in verdict.gradient.iter().enumerate() {
                found[place % 2] -= 0.1 * slope;
            }
        }
        assert!((-0.1..=1.1).contains(&found[0]) && (1.9..=3.1).contains(&found[1]), "{found:?}");
    }

    #[test]
    fn a_soft_policy_says_what_it_thinks_of_its_choices() {
        // Temperature 1. Of what was seen actions 1 and 2 are allowed, at 1.5 and 1: ln of 1 / (1 + exp(-0.5)) is -0.4741. Of what was seen then actions 0
        // and 1 at 7 and 3: the soft value is ln(exp(7) + exp(3)) = 7.01815, the mean of value less logarithm by the policy.
        let munchausen = Munchausen { alpha: 0.5, temperature: 1.0, least: -10.0 };
        let [first, second] = targets_of(values(&[0.0; 6]), Rule { munchausen: Some(munchausen), ..MEANS });
        close(&first, &[-0.5 - 0.5 * 0.474_077 + 0.9 * 7.018_15]);
        // Nothing comes after the second; of three alike the logarithm is -ln 3.
        close(&second, &[-1.0 - 0.5 * 3f32.ln()]);
        // What it thinks worst of counts no less than told.
        let [first, _] = targets_of(values(&[0.0; 6]), Rule { munchausen: Some(Munchausen { least: -0.1, ..munchausen }), ..MEANS });
        close(&first, &[-0.5 - 0.5 * 0.1 + 0.9 * 7.018_15]);
    }

    #[test]
    fn the_gradient_touches_only_what_was_chosen_and_is_bounded() {
        let verdict = judge(&batch(), values(&[0.0, 2.6, 0.0, 0.0, 0.0, 4.0]), MEANS);
        // Errors 0.4 and 5: gradients 0.4 / 2 and, beyond the corner, 1 x 0.5 / 2; losses 0.08 / 2 and 4.5 x 0.5 / 2.
        close(&verdict.gradient, &[0.0, 0.2, 0.0, 0.0, 0.0, 0.25]);
        close(&[verdict.loss], &[0.04 + 1.125]);
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let seen = [0.3, 2.6, -1.0, 0.0, 0.7, -1.4];
        let (next, next_by_target) = ([NEXT, NEXT].concat(), [NEXT_BY_TARGET, NEXT].concat());
        for quantiles in [1, 2] {
            let rule = Rule { quantiles, ..MEANS };
            let whole: Vec<f32> = seen.iter().copied().cycle().take(6 * quantiles).collect();
            let judged =
                |seen: &[f32]| judge(&batch(), Values { seen, next: &next, next_by_target: &next_by_target, seen_by_target: &[] }, rule);
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
