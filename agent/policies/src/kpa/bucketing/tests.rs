//! The conformance cases of the original's `bucketing_test`, `timewindow_test` and `window_test`. Where a case reads
//! single buckets, their sum is read here.

use super::*;

fn of(window: usize, records: impl IntoIterator<Item = (u64, f64)>) -> TimedBuckets {
    let mut buckets = TimedBuckets::default();
    records.into_iter().for_each(|(second, value)| buckets.record(second, value, window));
    buckets
}

fn sum(buckets: &TimedBuckets) -> f64 {
    buckets.values.iter().sum()
}

#[test]
fn compute_decay_multiplier() {
    for (values, expected) in [(100, 0.2), (60, 0.2), (40, 0.20567), (6, 0.78456)] {
        assert!((smoothing(values) - expected).abs() < 1e-5, "{values}: {}", smoothing(values));
    }
}

#[test]
fn simple() {
    assert!(TimedBuckets::default().is_empty(1000));
    let buckets = of(120, [(1000, 1.0), (1000, 10.0), (1001, 1.0), (1003, 1.0)]);
    assert_eq!((buckets.values[1000 % 120], buckets.values[1001 % 120], buckets.values[1003 % 120], sum(&buckets)), (11.0, 1.0, 1.0, 13.0));
    assert!(!buckets.is_empty(1003));
}

#[test]
fn many_reps_in_any_order() {
    for order in [[0, 1, 2, 3, 4], [0, 3, 2, 1, 4]] {
        let records = (0..5u64).flat_map(|round| (0..5u64).map(move |value| (1000 + order[round as usize], (round + value) as f64)));
        assert_eq!(sum(&of(60, records)), 100.0, "{order:?}");
    }
}

#[test]
fn weighted_average() {
    let m = smoothing(5);
    let close = |got: f64, expected: f64| assert!((got - expected).abs() < 1e-12, "{got}, not {expected}");
    let mut buckets = of(5, [(100, 2.0)]);
    close(buckets.weighted_average(100), 2.0 * m);
    close(buckets.weighted_average(101), 2.0 * m * (1.0 - m));
    buckets.record(101, 2.0, 5);
    close(buckets.weighted_average(101), 2.0 * m * (1.0 - m) + 2.0 * m);
    (0..5).for_each(|index| buckets.record(102 + index, (index + 2) as f64, 5));
    let expected: f64 = (0..5).map(|age| (6 - age) as f64 * m * (1.0 - m).powi(age)).sum();
    close(buckets.weighted_average(106), expected);
    assert_eq!(buckets.weighted_average(116), 0.0, "an empty window");
}

#[test]
fn window_average() {
    let mut buckets = of(5, [(100, 1.0)]);
    assert_eq!(buckets.window_average(100), 1.0, "it counts from the first that was written");
    (1..5).for_each(|second| buckets.record(100 + second, (second + 1) as f64, 5));
    for (now, expected) in [(104, 3.0), (103, 3.0), (106, 4.0), (110, 0.0)] {
        assert_eq!(buckets.window_average(now), expected, "at {now}");
    }
    buckets.record(106, 91.0, 5);
    assert_eq!(buckets.window_average(106), (15.0 - 1.0 - 2.0 + 91.0) / 5.0, "write with holes");
    buckets.record(160, 1984.0, 5);
    assert_eq!(buckets.window_average(160), 1984.0, "much farther");
    buckets.record(157, 4.0, 5);
    assert_eq!(buckets.window_average(160), (4.0 + 1984.0) / 4.0, "an earlier time");
    buckets.record(161, 5.0, 5);
    assert_eq!(buckets.window_average(161), (4.0 + 1984.0 + 5.0) / 5.0, "one more second");
    buckets.record(158, 10.0, 5);
    let expected = (4.0 + 10.0 + 1984.0 + 5.0) / 5.0;
    assert_eq!(buckets.window_average(161), expected, "an earlier time again");
    for early in [155, 156] {
        buckets.record(early, 10.0, 5);
        assert_eq!(buckets.window_average(161), expected, "what is too early is passed over");
    }
    buckets.record(166, 10.0, 5);
    assert_eq!(buckets.window_average(166), 10.0, "nothing for exactly a window");
}

#[test]
fn descending_record() {
    assert_eq!(of(5, (100..=108).rev().map(|second| (second, 5.0))).window_average(105), 5.0);
}

#[test]
fn holes() {
    let mut buckets = of(5, (0..5).map(|index| (100 + index, (index + 1) as f64)));
    assert_eq!((sum(&buckets), buckets.window_average(104)), (15.0, 3.0));
    buckets.record(108, 2.0, 5);
    assert_eq!(sum(&buckets), 7.0);
}

#[test]
fn resize_window() {
    let mut buckets = of(5, (0..6).map(|index| (100 + index, (index + 1) as f64)));
    assert_eq!((sum(&buckets), buckets.window_average(105)), (20.0, 4.0));
    assert!((buckets.weighted_average(105) - 5.812).abs() < 5e-4, "{}", buckets.weighted_average(105));
    buckets.resize(10);
    assert_eq!((buckets.values.len(), sum(&buckets), buckets.window_average(105)), (10, 20.0, 4.0));
    buckets.record(106, 7.0, 10);
    assert_eq!((sum(&buckets), buckets.window_average(106)), (27.0, 4.5));
    buckets.resize(4);
    assert_eq!((buckets.values.len(), sum(&buckets), buckets.window_average(106)), (4, 22.0, 5.5));
    let before = buckets.clone();
    buckets.resize(4);
    assert_eq!(buckets, before);
}

#[test]
fn round_to_n_digits() {
    let cases = [(6, 3.6e-17, 0.0), (3, -3.6e-17, 0.0), (3, 0.0004, 0.0), (3, 1.2345, 1.235), (4, 1.2345, 1.2345), (6, 12345.0, 12345.0)];
    for (digits, value, expected) in cases {
        assert_eq!(rounded(digits, value), expected, "{value}");
    }
}

#[test]
fn timed_window_max() {
    let check = |name: &str, records: &[(u64, u32)], expected| {
        let mut highest = Highest::default();
        let last = records.iter().map(|(slot, value)| highest.record(*slot, *value, 5)).last();
        assert_eq!(last, Some(expected), "{name}");
    };
    check("single value", &[(100, 5)], 5);
    check("two values in same second", &[(100, 6), (100, 5)], 6);
    check("two values", &[(100, 5), (101, 8)], 8);
    check("time gap", &[(100, 5), (106, 4)], 4);
}

#[test]
fn window_max() {
    let check = |name: &str, values: &[u32], slot: fn(u64) -> u64, expected: &[u32]| {
        let mut highest = Highest::default();
        let got: Vec<u32> = values.iter().zip(0..).map(|(value, index)| highest.record(slot(index), *value, 5)).collect();
        assert_eq!(got, expected, "{name}");
        assert!(highest.slots.len() <= 5, "{name}");
    };
    let each = |index| index;
    check("single value", &[1], each, &[1]);
    check("ascending values", &[1, 2], each, &[1, 2]);
    check("descending values", &[2, 1], each, &[2, 2]);
    check("up, down, up", &[1, 2, 1], each, &[1, 2, 2]);
    check("windowing out", &[5, 6, 5, 5, 5, 5, 5], each, &[5, 6, 6, 6, 6, 6, 5]);
    check("windowing out with gaps", &[6, 5, 2, 1], |index| if index >= 3 { index + 3 } else { index }, &[6, 6, 6, 2]);
    check("windowing out 2", &[5, 6, 5, 7, 5, 5, 1], each, &[5, 6, 6, 7, 7, 7, 7]);
    check("windowing out 3", &[5, 8, 5, 7, 5, 5], each, &[5, 8, 8, 8, 8, 8]);
    check("windowing out 4", &[5, 8, 5, 7, 5, 5, 1], each, &[5, 8, 8, 8, 8, 8, 7]);
    let (values, maxima) = ([5, 8, 5, 7, 5, 5, 1, 4, 4, 4, 4, 9, 3, 4, 2, 1, 0], [5, 8, 8, 8, 8, 8, 7, 7, 5, 5, 4, 9, 9, 9, 9, 9, 4]);
    for (name, length) in [("windowing out 5", 10), ("windowing out 6", 11), ("windowing out 7", 12), ("windowing out 8", 17)] {
        check(name, &values[..length], each, &maxima[..length]);
    }
    check("multiple with same index, ascending", &[1, 2, 3, 4, 5, 6, 7], |_| 1, &[1, 2, 3, 4, 5, 6, 7]);
    check("multiple with same index, descending", &[7, 6, 5, 4, 3, 2, 1], |_| 1, &[7; 7]);
}
