//! Wilcoxon's signed-rank test. Owns ranks and their null distribution; must not know the pairs.

use serde::{Deserialize, Serialize};

use super::Sample;

/// Number of non-zero differences up to which all choices of signs are counted; 2^50 is exact in a double.
const EXACT: usize = 50;

/// Result of the test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Wilcoxon {
    /// Sum of the ranks of the positive differences.
    pub positive: f64,
    /// Sum of the ranks of the negative differences.
    pub negative: f64,
    /// Two-sided p, above 0 and at most 1.
    pub p: f64,
}

/// Tests whether `differences` are symmetric about zero. Zeros are dropped (Wilcoxon 1945), ties share their mean rank.
/// Exact, including ties, for up to 50 non-zero differences; beyond that by the normal distribution with corrections
/// for ties and continuity.
#[must_use]
pub fn wilcoxon(differences: &Sample) -> Wilcoxon {
    let ranked = doubled_ranks(differences.values());
    let sum = |wanted: bool| ranked.iter().filter(|(positive, _)| *positive == wanted).map(|(_, rank)| rank).sum::<usize>();
    let (positive, negative) = (sum(true), sum(false));
    let least = positive.min(negative);
    let p = if ranked.len() <= EXACT { exact(&ranked, least) } else { approximate(&ranked, least) };
    Wilcoxon { positive: positive as f64 / 2.0, negative: negative as f64 / 2.0, p }
}

/// For each non-zero difference, whether it is positive, and twice its rank, which is an integer even for shared ranks.
/// In rising order of size.
fn doubled_ranks(differences: &[f64]) -> Vec<(bool, usize)> {
    let mut sizes: Vec<f64> = differences.iter().copied().filter(|value| *value != 0.0).collect();
    sizes.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    let mut ranked = Vec::with_capacity(sizes.len());
    for tied in sizes.chunk_by(|a, b| a.abs() == b.abs()) {
        // Ranks first ..= last, counted from 1; their mean twice is first + last.
        let doubled = 2 * ranked.len() + tied.len() + 1;
        ranked.extend(tied.iter().map(|value| (*value > 0.0, doubled)));
    }
    ranked
}

/// Twice the share of the choices of signs whose positive ranks sum to at most `least`.
fn exact(ranked: &[(bool, usize)], least: usize) -> f64 {
    // Number of choices of the ranks so far for each sum; sums above `least` are irrelevant.
    let mut choices = vec![0.0; least + 1];
    choices[0] = 1.0;
    for &(_, rank) in ranked {
        for sum in (rank..=least).rev() {
            choices[sum] += choices[sum - rank];
        }
    }
    (2.0 * choices.iter().sum::<f64>() / (ranked.len() as f64).exp2()).min(1.0)
}

fn approximate(ranked: &[(bool, usize)], least: usize) -> f64 {
    let total: usize = ranked.iter().map(|(_, rank)| rank).sum();
    let mean = total as f64 / 4.0;
    // Each rank counts or not, with a variance of a quarter of its square; squares of shared ranks contain the correction for ties.
    let variance = ranked.iter().map(|(_, rank)| (*rank as f64 / 2.0).powi(2)).sum::<f64>() / 4.0;
    let far = (mean - least as f64 / 2.0 - 0.5).max(0.0);
    libm::erfc(far / (2.0 * variance).sqrt())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(values: &[f64]) -> Sample {
        Sample::try_from(values.to_vec()).expect("finite")
    }

    #[track_caller]
    fn check(values: &[f64], statistic: f64, p: f64) {
        let found = wilcoxon(&sample(values));
        assert_eq!(found.positive.min(found.negative), statistic);
        assert!((found.p - p).abs() < 1e-12, "{found:?}, expected {p}");
    }

    /// Hamilton's depression scores (Hollander and Wolfe 1973).
    const DEPRESSION: [f64; 9] = [0.952, -0.147, 1.022, 0.43, 0.62, 0.59, 0.49, -0.08, 0.01];
    /// Darwin's maize (Fisher 1935), in eighths of an inch.
    const MAIZE: [f64; 15] = [6.0, 8.0, 14.0, 16.0, 23.0, 24.0, 28.0, 29.0, 41.0, -48.0, 49.0, 56.0, 60.0, -67.0, 75.0];
    const TIED: [f64; 12] = [0.0, 0.0, 1.0, 1.0, -1.0, 2.0, 2.0, 2.0, -3.0, 4.0, 5.0, 5.0];

    #[test]
    fn small_cases_match_manual_counts() {
        check(&[0.0, 0.0], 0.0, 1.0);
        check(&[2.0], 0.0, 1.0);
        check(&[1.0, 2.0, 3.0], 0.0, 2.0 / 8.0);
        check(&[-1.0, 2.0, 3.0], 1.0, 4.0 / 8.0);
        // Three share rank 2: a sum of 2 or less by no or one positive of three.
        check(&[1.0, 1.0, -1.0], 2.0, 1.0);
    }

    #[test]
    fn exact_values_are_scipys() {
        // SciPy 1.17.1: scipy.stats.wilcoxon(d, method="exact")
        check(&DEPRESSION, 5.0, 0.039_062_5);
        check(&MAIZE, 24.0, 0.041_259_765_625);
        // With ties, zeros left out: scipy.stats.wilcoxon(d[d != 0],
        // method=scipy.stats.PermutationMethod(n_resamples=10**7)), which counts all signs
        check(&TIED, 9.0, 0.066_406_25);
    }

    #[test]
    fn approximate_values_are_scipys() {
        // SciPy 1.17.1: scipy.stats.wilcoxon(d, zero_method="wilcox", method="asymptotic", correction=True)
        let check = |values: &[f64], expected: f64| {
            let ranked = doubled_ranks(values);
            let sum = |wanted| ranked.iter().filter(|(positive, _)| *positive == wanted).map(|(_, rank)| rank).sum::<usize>();
            let found = approximate(&ranked, sum(true).min(sum(false)));
            assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
        };
        check(&DEPRESSION, 0.044_010_984_012_951_43);
        check(&MAIZE, 0.043_772_323_763_041_174);
        check(&TIED, 0.064_957_970_776_121_34);
    }

    #[test]
    fn many_differences_take_the_approximation() {
        // 60 values, one of them zero, with ties; SciPy as above.
        let values: Vec<f64> = (0..60).map(|index| f64::from((index * 37) % 101 - 40) / 4.0).collect();
        check(&values, 583.0, 0.022_858_234_652_659_223);
    }

    proptest! {
        #[test]
        fn p_is_a_probability_and_the_same_both_ways(values in prop::collection::vec(-30i32..30, 1..80)) {
            let of = |sign: i32| wilcoxon(&sample(&values.iter().map(|value| f64::from(sign * value)).collect::<Vec<_>>()));
            let (one, other) = (of(1), of(-1));
            prop_assert!(0.0 < one.p && one.p <= 1.0);
            prop_assert_eq!((one.p, one.positive), (other.p, other.negative));
        }

        #[test]
        fn the_sums_of_ranks_are_all_ranks(values in prop::collection::vec(-30i32..30, 1..80)) {
            let found = wilcoxon(&sample(&values.iter().copied().map(f64::from).collect::<Vec<_>>()));
            let count = values.iter().filter(|value| **value != 0).count() as f64;
            prop_assert_eq!(found.positive + found.negative, count * (count + 1.0) / 2.0);
        }

        #[test]
        fn approximate_and_exact_p_are_close(values in prop::collection::vec(-1e3..1e3f64, 30..50)) {
            let ranked = doubled_ranks(&values);
            let sum = |wanted| ranked.iter().filter(|(positive, _)| *positive == wanted).map(|(_, rank)| rank).sum::<usize>();
            let least = sum(true).min(sum(false));
            prop_assert!((exact(&ranked, least) - approximate(&ranked, least)).abs() < 0.01);
        }
    }
}
