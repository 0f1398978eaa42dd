//! What was expected against what came: targets, errors, Huber loss and its gradient. Owns the arithmetic of double Q-learning; must not know a network.
//!
//! Plain numbers in, plain numbers out: what is a target here cannot carry a gradient, whatever the library does.

use crate::replay::Batch;

/// Values of the same batch by three passes, row by row.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// Of what was seen, by the network that learns.
    pub seen: &'a [f32],
    /// Of what was seen then, by the network that learns: it chooses.
    pub next: &'a [f32],
    /// Of what was seen then, by the target network: it values.
    pub next_by_target: &'a [f32],
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

/// The targets of `batch`: what came, and what the target network values of the choice that the learning network would make (van Hasselt et al.,
/// AAAI 2016) among those that could be made. Where no row has anything to bootstrap from, values of what was seen then are not needed.
pub fn targets<'a>(batch: &'a Batch, next: &'a [f32], next_by_target: &'a [f32], actions: usize) -> impl Iterator<Item = f32> + 'a {
    batch.rewards.iter().zip(&batch.bootstraps).enumerate().map(move |(row, (reward, bootstrap))| {
        if *bootstrap == 0.0 {
            return *reward;
        }
        let row_of = |values: &'a [f32]| &values[row * actions..(row + 1) * actions];
        // Where nothing can be chosen nothing is told of the future.
        let value = batch.next_masks[row].best(row_of(next)).map_or(0.0, |choice| row_of(next_by_target)[choice]);
        reward + bootstrap * value
    })
}

/// Judges `values` of `batch` by Huber's loss with its corner at `corner`.
#[must_use]
pub fn judge(batch: &Batch, values: Values<'_>, actions: usize, corner: f32) -> Verdict {
    let rows = batch.actions.len();
    let mut verdict = Verdict { loss: 0.0, errors: Vec::with_capacity(rows), gradient: vec![0.0; rows * actions] };
    for (row, target) in targets(batch, values.next, values.next_by_target, actions).enumerate() {
        let place = row * actions + usize::from(batch.actions[row]);
        let error = values.seen[place] - target;
        let weight = batch.weights[row] / rows as f32;
        verdict.loss += weight * huber(error, corner);
        verdict.gradient[place] = weight * error.clamp(-corner, corner);
        verdict.errors.push(error);
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
    use crate::actions::Mask;

    /// Two rows of three actions: the first goes on, the second is over.
    fn batch() -> Batch {
        Batch {
            places: vec![0, 1],
            observations: Vec::new(),
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

    #[test]
    fn a_target_is_what_the_target_values_of_what_the_learner_would_choose_among_what_is_allowed() {
        // By hand: action 2 is masked, the learner prefers action 1 (2 over 1), the target values it at 3; -0.5 + 0.9 x 3 = 2.2. The second is over.
        let targets: Vec<f32> = targets(&batch(), &NEXT, &NEXT_BY_TARGET, 3).collect();
        assert!((targets[0] - 2.2).abs() < 1e-6 && targets[1] == -1.0, "{targets:?}");
    }

    #[test]
    fn the_gradient_touches_only_what_was_chosen_and_is_bounded() {
        let values = Values { seen: &[0.0, 2.6, 0.0, 0.0, 0.0, 4.0], next: &NEXT, next_by_target: &NEXT_BY_TARGET };
        let verdict = judge(&batch(), values, 3, 1.0);
        // Errors 0.4 and 5: gradients 0.4 / 2 and, beyond the corner, 1 x 0.5 / 2; losses 0.08 / 2 and 4.5 x 0.5 / 2.
        let expected = [0.0, 0.2, 0.0, 0.0, 0.0, 0.25];
        assert!(verdict.gradient.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{verdict:?}");
        assert!((verdict.loss - (0.04 + 1.125)).abs() < 1e-5, "{}", verdict.loss);
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let seen = [0.3, 2.6, -1.0, 0.0, 0.7, -1.4];
        let loss = |seen: &[f32]| judge(&batch(), Values { seen, next: &NEXT, next_by_target: &NEXT_BY_TARGET }, 3, 1.0).loss;
        let gradient = judge(&batch(), Values { seen: &seen, next: &NEXT, next_by_target: &NEXT_BY_TARGET }, 3, 1.0).gradient;
        for place in 0..6 {
            let (mut more, mut less) = (seen, seen);
            (more[place], less[place]) = (seen[place] + 1e-2, seen[place] - 1e-2);
            let slope = (loss(&more) - loss(&less)) / 2e-2;
            assert!((slope - gradient[place]).abs() < 1e-3, "{place}: {slope} {}", gradient[place]);
        }
    }
}
