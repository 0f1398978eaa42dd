use proptest::prelude::*;
use rand::RngExt;

use super::*;

const BOOTSTRAP: Bootstrap = Bootstrap { resamples: 1000, confidence: 0.95, seed: 1 };

fn sample(values: &[f64]) -> Sample {
    Sample::try_from(values.to_vec()).expect("finite")
}

#[test]
fn equal_values_have_an_empty_interval() {
    let found = BOOTSTRAP.estimate(&[sample(&[0.1; 30]), sample(&[0.1; 5])], "agree").expect("values");
    assert_eq!((found.runs, found.iqm, found.iqm_interval), (35, 0.1, Interval { low: 0.1, high: 0.1 }));
    assert_eq!(BOOTSTRAP.estimate(&[], "none"), None);
}

#[test]
fn strata_are_resampled_within_themselves() {
    // Nothing varies within a stratum, so nothing varies at all; resampled together, the mean would.
    let found = BOOTSTRAP.estimate(&[sample(&[0.0; 8]), sample(&[10.0; 8])], "strata").expect("values");
    assert_eq!((found.iqm, found.mean_interval), (5.0, Interval { low: 5.0, high: 5.0 }));
    let together = BOOTSTRAP.estimate(&[sample(&[[0.0; 8], [10.0; 8]].concat())], "strata").expect("values");
    assert!(together.mean_interval.high - together.mean_interval.low > 3.0, "{together:?}");
}

#[test]
fn the_interval_of_a_mean_is_that_of_theory() {
    // 200 values of a uniform distribution over 0 to 1: the mean's standard deviation is sqrt(1 / 12 / 200) = 0.0204, 1.96 of them 0.0400.
    let values: Vec<f64> = (0..200).map(|index| (f64::from(index) + 0.5) / 200.0).collect();
    let found = Bootstrap { resamples: 20_000, ..BOOTSTRAP }.estimate(&[sample(&values)], "uniform").expect("values").mean_interval;
    assert!((found.low - 0.46).abs() < 0.001 && (found.high - 0.54).abs() < 0.001, "{found:?}");
}

#[test]
fn intervals_have_their_coverage() {
    let mut draws = Xoshiro256PlusPlus::seed_from_u64(7);
    // The sum of twelve uniform draws is nearly normal, and symmetric about its centre in every stratum; so the truth
    // is 0 for both centres.
    let mut normal = || (0..12).map(|_| draws.random::<f64>() - 0.5).sum::<f64>();
    let rounds = 600;
    let (mut middles, mut means) = (0, 0);
    for round in 0..rounds {
        let strata: Vec<Sample> = [-1.0, 0.0, 1.0].into_iter().map(|centre| sample(&[(); 20].map(|()| centre + normal()))).collect();
        let found = Bootstrap { resamples: 300, ..BOOTSTRAP }.estimate(&strata, &round.to_string()).expect("values");
        let holds = |interval: Interval| i32::from(interval.low <= 0.0 && 0.0 <= interval.high);
        middles += holds(found.iqm_interval);
        means += holds(found.mean_interval);
    }
    // 95 % of 600 is 570, its standard deviation 5; a percentile bootstrap of samples of 20 is known to hold a little less than it says.
    for held in [middles, means] {
        assert!((545..=586).contains(&held), "{held} of {rounds}");
    }
}

#[test]
fn random_numbers_depend_on_the_name() {
    let values = [sample(&[1.0, 5.0, 2.0, 8.0, 3.0])];
    let of = |name| BOOTSTRAP.estimate(&values, name).expect("values");
    assert_eq!(of("one"), of("one"));
    assert_ne!(of("one").mean_interval, Bootstrap { seed: 2, ..BOOTSTRAP }.estimate(&values, "one").expect("values").mean_interval);
}

#[test]
fn a_ratio_is_of_sums_and_needs_something_to_divide_by() {
    let (ratio, interval) = BOOTSTRAP.ratio(&[vec![(1.0, 2.0); 4], vec![(3.0, 2.0); 4]], "ratio").expect("a ratio");
    assert_eq!((ratio, interval), (1.0, Interval { low: 1.0, high: 1.0 }));
    assert_eq!(BOOTSTRAP.ratio(&[vec![(1.0, 0.0)]], "zero"), None);
    assert_eq!(BOOTSTRAP.ratio(&[], "none"), None);
    let (ratio, interval) = BOOTSTRAP.ratio(&[vec![(1.0, 1.0), (0.0, 3.0), (2.0, 1.0)]], "spread").expect("a ratio");
    assert!(interval.low < ratio && ratio < interval.high, "{ratio} {interval:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_interval_of_symmetric_values_holds_the_centre(halves in prop::collection::vec(0.0..100f64, 2..20)) {
        let both: Vec<f64> = halves.iter().flat_map(|value| [-value, *value]).collect();
        let found = Bootstrap { resamples: 400, ..BOOTSTRAP }.estimate(&[sample(&both)], "symmetric").expect("values");
        prop_assert!(found.iqm_interval.low <= found.iqm && found.iqm <= found.iqm_interval.high, "{:?}", found);
        prop_assert!(found.mean_interval.low <= 1e-9 && -1e-9 <= found.mean_interval.high, "{:?}", found);
    }

    #[test]
    fn a_resample_of_counts_is_a_resample_of_values(values in prop::collection::vec(-5i32..5, 1..30), seed in any::<u64>()) {
        let sample = sample(&values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>());
        let pool = RankedValues::new(std::slice::from_ref(&sample)).expect("values");
        let mut counts = vec![0; pool.values.len()];
        pool.resample(&mut counts, &mut Xoshiro256PlusPlus::seed_from_u64(seed));
        let mut draws = Xoshiro256PlusPlus::seed_from_u64(seed);
        let drawn: Vec<f64> = (0..values.len()).map(|_| sample.values()[below(&mut draws, values.len())]).collect();
        let drawn = Sample::try_from(drawn).expect("finite");
        prop_assert!((pool.interquartile_mean(&counts) - drawn.interquartile_mean()).abs() < 1e-9);
        prop_assert!((pool.mean(&counts) - drawn.mean()).abs() < 1e-9);
    }
}
