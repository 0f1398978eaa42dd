//! Holm's step-down correction. Owns the arithmetic of a family of tests; must not choose the family.

/// The p-values corrected for multiple tests (Holm 1979), in order: rejecting those up to α keeps the probability of
/// any false rejection at most α.
#[must_use]
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut corrected = vec![0.0; p.len()];
    let mut most: f64 = 0.0;
    for (rank, index) in order.into_iter().enumerate() {
        most = most.max(p[index] * (p.len() - rank) as f64).min(1.0);
        corrected[index] = most;
    }
    corrected
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(p: &[f64], expected: &[f64]) {
        let found = holm(p);
        assert!(
            found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-12) && found.len() == expected.len(),
            "{found:?}"
        );
    }

    #[test]
    fn the_least_is_multiplied_most() {
        check(&[], &[]);
        check(&[0.03], &[0.03]);
        check(&[0.5, 0.01, 0.9], &[1.0, 0.03, 1.0]);
    }

    #[test]
    fn it_agrees_with_statsmodels() {
        // statsmodels 0.15.0: statsmodels.stats.multitest.multipletests(p, method="holm")
        check(&[0.01, 0.04, 0.03, 0.005, 0.5], &[0.04, 0.09, 0.09, 0.025, 0.5]);
    }

    proptest! {
        #[test]
        fn the_order_remains_and_nothing_shrinks(p in prop::collection::vec(0.0..=1.0f64, 1..30)) {
            let found = holm(&p);
            for (a, corrected) in p.iter().zip(&found) {
                prop_assert!(*a <= *corrected + 1e-15 && *corrected <= 1.0);
                prop_assert!(p.iter().zip(&found).all(|(b, other)| a > b || corrected <= other));
            }
        }
    }
}
