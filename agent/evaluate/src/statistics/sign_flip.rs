//! The paired sign-flip test. Owns its null distribution; must not know the pairs.
//!
//! Under the null hypothesis both signs of a difference are equally likely. The p-value is the share of all choices of
//! signs whose sum is at least as far from zero as the observed one.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};

use super::Sample;

/// Number of non-zero differences up to which all choices of signs are counted: two halves of 2^16 sums each.
const EXACT: usize = 32;
/// Random choices for more differences.
const DRAWN: u32 = 19_999;

/// Two-sided p of `differences`: exact for up to 32 non-zero differences; beyond that from 19,999 draws and the
/// observed choice, so that it is never zero (Phipson and Smyth 2010).
#[must_use]
pub fn sign_flip(differences: &Sample, seed: u64) -> f64 {
    // Zeros have no sign.
    let sizes: Vec<f64> = differences.values().iter().map(|value| value.abs()).filter(|size| *size > 0.0).collect();
    // Sums that differ only by rounding are equal.
    let least = differences.values().iter().sum::<f64>().abs() - 1e-12 * sizes.iter().sum::<f64>();
    if least <= 0.0 {
        1.0
    } else if sizes.len() <= EXACT {
        exact(&sizes, least)
    } else {
        drawn(&sizes, least, seed)
    }
}

/// Share of the choices of signs whose sum is at least `least` (above 0) from zero: counts pairs of sums of two halves instead of all sums.
fn exact(sizes: &[f64], least: f64) -> f64 {
    let (first, second) = sizes.split_at(sizes.len() / 2);
    let (first, second) = (sums(first), sums(second));
    // As one sum rises, more of the other half's sums reach far enough, from the top.
    let mut reach = second.len();
    let mut count = 0u64;
    for sum in first {
        while reach > 0 && sum + second[reach - 1] >= least {
            reach -= 1;
        }
        count += (second.len() - reach) as u64;
    }
    // Two-sided: every choice has its mirror image.
    2.0 * count as f64 / (sizes.len() as f64).exp2()
}

/// All sums of `sizes` with both signs each, in rising order.
fn sums(sizes: &[f64]) -> Vec<f64> {
    sizes.iter().fold(vec![0.0], |sums, size| {
        let mut merged = Vec::with_capacity(2 * sums.len());
        let mut raised = sums.iter().map(|sum| sum + size).peekable();
        for lowered in sums.iter().map(|sum| sum - size) {
            while let Some(sum) = raised.next_if(|sum| *sum < lowered) {
                merged.push(sum);
            }
            merged.push(lowered);
        }
        merged.extend(raised);
        merged
    })
}

fn drawn(sizes: &[f64], least: f64, seed: u64) -> f64 {
    let mut draws = Xoshiro256PlusPlus::seed_from_u64(seed);
    let reaches = |_: &u32| {
        let sum: f64 = sizes
            .chunks(64)
            .map(|chunk| {
                let signs = draws.next_u64();
                chunk.iter().enumerate().map(|(bit, size)| if signs >> bit & 1 == 1 { *size } else { -size }).sum::<f64>()
            })
            .sum();
        sum.abs() >= least
    };
    let count = (0..DRAWN).filter(reaches).count();
    (count + 1) as f64 / f64::from(DRAWN + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(values: &[f64]) -> Sample {
        Sample::try_from(values.to_vec()).expect("finite")
    }

    #[track_caller]
    fn check(values: &[f64], expected: f64) {
        let found = sign_flip(&sample(values), 0);
        assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
    }

    #[test]
    fn small_cases_match_manual_counts() {
        check(&[0.0, 0.0], 1.0);
        check(&[1.0, -1.0], 1.0);
        check(&[3.0], 1.0);
        check(&[1.0, 2.0, 4.0], 2.0 / 8.0);
        // Sums of at least 5 of 7: all three positive, or 1 negative.
        check(&[-1.0, 2.0, 4.0], 4.0 / 8.0);
        check(&[0.0, -1.0, 2.0, 4.0], 4.0 / 8.0);
        // Tenths cannot be written exactly: 0.1 + 0.2 and 0.3 are one sum.
        check(&[0.1, 0.2, 0.3, -0.3], 12.0 / 16.0);
    }

    #[test]
    fn it_agrees_with_scipy() {
        // SciPy 1.17.1: scipy.stats.permutation_test((d,), sum, permutation_type="samples", n_resamples=inf). Darwin's
        // maize (Fisher 1935), in eighths of an inch.
        check(&[6.0, 8.0, 14.0, 16.0, 23.0, 24.0, 28.0, 29.0, 41.0, -48.0, 49.0, 56.0, 60.0, -67.0, 75.0], 0.052_673_339_843_75);
        check(&[0.952, -0.147, 1.022, 0.43, 0.62, 0.59, 0.49, -0.08, 0.01], 0.027_343_75);
        check(&[0.2, -0.1, 0.4, 0.3], 0.25);
    }

    #[test]
    fn sampled_p_is_close_to_the_exact_one() {
        let values: Vec<f64> = (0..24).map(|index| f64::from((index * 7) % 24) - 8.0).collect();
        let sizes: Vec<f64> = values.iter().map(|value| value.abs()).collect();
        let least = values.iter().sum::<f64>().abs() - 1e-9;
        let (counted, drawn) = (exact(&sizes, least), drawn(&sizes, least, 3));
        // Four standard deviations of a share of 20,000.
        assert!((counted - drawn).abs() < 4.0 * (counted * (1.0 - counted) / 2e4).sqrt(), "{counted} {drawn}");
        let many = sample(&[1.0; 100]);
        assert_eq!(sign_flip(&many, 1), 1.0 / 20_000.0);
        assert_eq!(sign_flip(&many, 1), sign_flip(&many, 1));
    }

    proptest! {
        #[test]
        fn counting_pairs_of_halves_is_counting_all(values in prop::collection::vec(-20i32..20, 1..12)) {
            let values: Vec<f64> = values.into_iter().map(f64::from).collect();
            let seen = values.iter().sum::<f64>().abs();
            let sum = |signs: &u32| values.iter().enumerate().map(|(bit, value)| if signs >> bit & 1 == 1 { *value } else { -value }).sum::<f64>();
            let count = (0..1u32 << values.len()).filter(|signs| sum(signs).abs() >= seen).count();
            prop_assert_eq!(sign_flip(&sample(&values), 0), count as f64 / f64::from(1u32 << values.len()));
        }

        #[test]
        fn p_is_a_probability_and_the_same_both_ways(values in prop::collection::vec(-1e3..1e3f64, 1..45)) {
            let p = sign_flip(&sample(&values), 5);
            prop_assert!(0.0 < p && p <= 1.0);
            let other: Vec<f64> = values.iter().map(|value| -value).collect();
            prop_assert_eq!(sign_flip(&sample(&other), 5), p);
        }
    }
}
