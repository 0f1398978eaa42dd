//! Definition of a violated objective, for everything that counts violations: the reward, the training reward, the evaluator, and
//! the comparison of recordings. Must not know where its arguments were measured.
//!
//! - A request is *late* when it succeeded, but later than the objective's latency bound.
//! - [`is_violated`]: the objective is violated in an interval when its latency percentile is above the bound, or more
//!   requests failed than it allows.
//! - [`severity`]: how far, 0 to 1, for the reward.
//! - [`graded`]: the same as a smooth function of shares, for training.

use std::time::Duration;

use crate::contract::{Window, WireObjective};

/// Whether the objective is violated in an interval in which requests ended. `late` says whether its latency percentile
/// is above the bound, `failed_share` is the share of the ended requests that failed and `allowed_share` the share that
/// may, all 0 to 1.
#[must_use]
pub fn is_violated(late: bool, failed_share: f64, allowed_share: f64) -> bool {
    late || failed_share > allowed_share
}

/// Whether the objective is violated in an interval in which no request ended: when requests waited all through it and
/// it is longer than the bound.
#[must_use]
pub fn is_violated_without_replies(waited: bool, interval: Duration, bound: Duration) -> bool {
    waited && interval > bound
}

/// Whether `objective` is violated in `window`; `None` where no request ended or that was not measured.
#[must_use]
pub fn is_violated_in(window: &Window, objective: &WireObjective) -> Option<bool> {
    let late = window.latency.is_some_and(|latency| latency.objective_ms > objective.latency_ms as f64);
    Some(is_violated(late, window.failed_share?, objective.failure_share))
}

/// `1 - completion x min(1, bound / percentile)`: 0 where every request succeeded and the latency percentile is
/// within the bound, 1 where all failed. `percentile` is that of the successful requests, in the unit of `bound`;
/// `None` where there were none.
#[must_use]
pub fn severity(failed_share: f64, percentile: Option<f64>, bound: f64) -> f64 {
    let in_time = percentile.map_or(1.0, |percentile| if percentile > bound { bound / percentile } else { 1.0 });
    1.0 - (1.0 - failed_share) * in_time
}

/// A violation graded from 0 to 1: a share of late or failed requests at twice what the objective allows counts in
/// full, less by its square. Each argument is the observed share and the allowed one; failed requests count as late
/// too.
#[must_use]
pub fn graded(late: (f64, f64), failed: (f64, f64)) -> f64 {
    let twice = |(share, allowed): (f64, f64)| (share / (2.0 * allowed.max(1e-3))).min(1.0).powi(2);
    twice(late).max(twice(failed))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn at_the_bound_and_at_the_allowed_share_nothing_is_violated() {
        assert!(!is_violated(false, 0.01, 0.01));
        assert!(is_violated(false, 0.0101, 0.01) && is_violated(true, 0.0, 0.01));
        assert_eq!((severity(0.0, Some(500.0), 500.0), severity(0.0, None, 500.0)), (0.0, 0.0));
        assert_eq!((severity(0.0, Some(1000.0), 500.0), severity(1.0, None, 500.0)), (0.5, 1.0));
        let second = Duration::from_secs(1);
        assert!(is_violated_without_replies(true, 2 * second, second));
        assert!(!is_violated_without_replies(true, second, second) && !is_violated_without_replies(false, 2 * second, second));
    }

    proptest! {
        #[test]
        fn severity_and_grade_agree_with_whether_it_is_violated(failed in 0.0..=1.0f64, late in 0.0..=1.0f64, percentile in 0.0..1e4f64, bound in 1.0..1e4f64) {
            let severity = severity(failed, Some(percentile), bound);
            prop_assert!((0.0..=1.0).contains(&severity));
            prop_assert!(severity > 0.0 || !is_violated(percentile > bound * (1.0 + 1e-9), failed, 1e-9), "{severity}");
            let grade = graded((late, 0.05), (failed, 0.01));
            prop_assert!((0.0..=1.0).contains(&grade));
            prop_assert!(grade >= 0.25 || !is_violated(late > 0.05, failed, 0.01), "{grade}");
        }
    }
}
