//! The share of the gap to the bound that a policy closes. Owns its definition; must not choose baseline and bound.
//!
//! With the loss L (weighted severity and cost), averaged over the same runs, of a baseline that does not react, the
//! bound and the policy, the share is `(L baseline - L policy) / (L baseline - L bound)`: 0 for the
//! baseline, 1 for the bound, negative if worse than the baseline, above 1 if better than the bound. Means rather than
//! interquartile means, so that the parts of a gap add up. Undefined if the bound is not better than the baseline.

use serde::{Deserialize, Serialize};

use super::{Bootstrap, Interval};
use crate::Measure;

/// Measure of the gap.
pub const GAP_MEASURE: Measure = Measure::Loss;

/// A share with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GapShare {
    /// The share.
    pub value: f64,
    /// Its interval.
    pub interval: Interval,
}

/// The share from losses of (policy, baseline, bound) of each run, by cell.
#[must_use]
pub fn share_of_gap(bootstrap: &Bootstrap, cells: &[Vec<(f64, f64, f64)>], name: &str) -> Option<GapShare> {
    let gaps = |&(policy, baseline, bound): &(f64, f64, f64)| (baseline - policy, baseline - bound);
    let strata: Vec<Vec<(f64, f64)>> = cells.iter().map(|runs| runs.iter().map(gaps).collect()).collect();
    bootstrap.ratio(&strata, name).map(|(value, interval)| GapShare { value, interval })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTSTRAP: Bootstrap = Bootstrap { resamples: 200, confidence: 0.95, seed: 1 };

    #[test]
    fn the_extreme_quantiles_are_the_ends() {
        let of = |policy: f64| share_of_gap(&BOOTSTRAP, &[vec![(policy, 0.8, 0.2); 5]], "gap").expect("a gap").value;
        assert_eq!([0.8, 0.2, 0.5, 1.1, 0.05].map(of), [0.0, 1.0, 0.5, -0.5, 1.25]);
    }

    #[test]
    fn no_gap_if_the_bound_is_not_better() {
        assert_eq!(share_of_gap(&BOOTSTRAP, &[vec![(0.1, 0.2, 0.2); 5]], "gap"), None);
        assert_eq!(share_of_gap(&BOOTSTRAP, &[vec![(0.1, 0.2, 0.3); 5]], "gap"), None);
    }

    #[test]
    fn it_is_a_ratio_of_means_not_a_mean_of_ratios() {
        let cells = [vec![(0.5, 1.0, 0.0)], vec![(0.1, 0.1, 0.0)]];
        assert_eq!(share_of_gap(&BOOTSTRAP, &cells, "gap").expect("a gap").value, 0.454_545_5);
    }
}
