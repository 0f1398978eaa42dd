use proptest::prelude::*;
use qscale_common::contract::ReplicaCounts;
use qscale_common::units::Replicas;

use super::*;
use crate::fixtures;

/// State of a tick with the given arrival rate, requests/s.
fn state(tick: u64, tick_ms: u64, rate: Option<f64>) -> State {
    let mut state = State { tick: Tick(tick), tick_length_ms: tick_ms, ..fixtures::state() };
    let two = Replicas(2);
    state.replicas = Some(ReplicaCounts::all(two));
    state.windows.tick.rate_rps = rate;
    state.windows.tick.concurrency = rate.map(|rate| rate * 0.05);
    state.windows.tick.queued = rate.map(|_| 0.0);
    state
}

fn seen(tick_ms: u64, ticks: std::ops::Range<u64>, rate: impl Fn(u64) -> f64) -> History {
    let mut history = History::default();
    ticks.for_each(|tick| history.add(&state(tick, tick_ms, Some(rate(tick)))));
    history
}

#[test]
fn a_level_gives_back_what_it_was_made_of() {
    for value in [0.0, 1e-3, 0.5, 7.0, 123.4, 99_999.0] {
        let back = Level::of(value).get().expect("measured");
        assert!((back - value).abs() <= 4e-4 * value + 1e-9, "{value} becomes {back}");
    }
    assert_eq!((Level::of(0.0), Level::default().get()), (Level::ZERO, None));
    assert!(Level::of(f64::MAX) > Level::of(1e6));
}

#[test]
fn peaks_are_those_of_their_slots() {
    // Ticks of 5 s: 12 a slot. 100 for a tick, 20 minutes ago.
    let history = seen(5000, 0..12 * 60, |tick| if tick == 12 * 40 { 100.0 } else { 10.0 });
    let HistorySummary { rate, rate_peaks: heights, .. } = history.summary();
    assert!((rate.level - 10.0).abs() < 0.1 && rate.significance.abs() < 1.0, "{rate:?}");
    assert!((heights.peak_5 - 10.0).abs() < 0.1 && (heights.peak_15 - 10.0).abs() < 0.1, "{heights:?}");
    // A tick of 5 s is averaged with its neighbour.
    assert!((heights.peak_60 - 55.0).abs() < 0.5 && (heights.high_60 - 10.0).abs() < 0.1, "{heights:?}");
    assert!((heights.mean_60 - (10.0 + 90.0 / (12.0 * 59.0))).abs() < 0.05, "{heights:?}");
}

#[test]
fn a_rise_counts_at_once_and_a_slope_is_found() {
    let jump = seen(1000, 0..100, |tick| if tick == 99 { 300.0 } else { 50.0 });
    assert!((jump.summary().rate.level - 300.0).abs() < 1e-3);
    let noise = seen(1000, 0..100, |tick| if tick == 99 { 62.0 } else { 50.0 });
    assert!(noise.summary().rate.level < 57.0, "{:?}", noise.summary().rate);
    let few = seen(1000, 0..100, |tick| [2.0, 6.0, 4.0][tick as usize % 3]).summary().rate;
    assert!((few.level - 4.0).abs() < 0.3 && few.span_s > 20.0, "{few:?}");
    let rising = seen(1000, 0..100, |tick| tick as f64 * 2.0).summary().rate;
    assert!((rising.slope_a_second - 2.0).abs() < 1e-3 && rising.significance > 10.0, "{rising:?}");
}

#[test]
fn forecasts_a_seasonal_series() {
    // A wave of ten minutes.
    let wave = |tick: u64| 50.0 - 45.0 * (std::f64::consts::TAU * tick as f64 * 5.0 / 600.0).cos();
    let summary = seen(5000, 0..12 * 45, wave).summary();
    let peak_of_next = (12 * 45..12 * 47).map(wave).fold(0.0, f64::max);
    let seasonal_peak = summary.seasonal_peak.expect("a season");
    assert!(summary.season_trust > 0.9 && (seasonal_peak / peak_of_next - 1.0).abs() < 0.1, "{summary:?} {peak_of_next}");
    assert_eq!(seen(5000, 0..12 * 45, |_| 10.0).summary().seasonal_peak, None);
}

#[test]
fn gaps_predict_the_next_request_of_a_timer() {
    // A request at every fifth minute, in its second tick.
    let timer = |tick: u64| if tick % 60 == 1 { 0.2 } else { 0.0 };
    let at = |minute: u64| seen(5000, 0..12 * minute + 1, timer).summary();
    let (early, due, after) = (at(122), at(125), at(123));
    assert_eq!((early.idle_slots, after.idle_slots, due.idle_slots), (2, 3, 5));
    assert!(due.wake_chance > 0.9 && early.wake_chance < 0.05 && at(124).next_wake_chance > 0.9, "{due:?} {early:?}");
    assert!((due.active_60 - 0.2).abs() < 1e-9);
    let active = seen(5000, 0..12 * 125 + 2, timer).summary();
    assert_eq!((active.idle_slots, active.wake_chance), (0, 1.0));
    assert!(active.next_wake_chance < 0.05);
}

#[test]
fn a_full_replica_shows_its_limit() {
    let mut history = History::default();
    let mut full = state(1, 5000, Some(3.0));
    full.windows.tick.concurrency = Some(4.0);
    history.add(&full);
    assert_eq!(history.summary().limit, None, "no request queued");
    full.tick = Tick(2);
    full.windows.tick.queued = Some(3.0);
    history.add(&full);
    assert_eq!(history.summary().limit, Some(4.0));
    (3..3000).for_each(|tick| history.add(&state(tick, 5000, Some(1.0))));
    assert_eq!(history.summary().limit, None, "it may have changed since");
}

#[test]
fn ignores_an_old_state_and_restarts_with_another_tick_length() {
    let mut history = seen(5000, 0..50, |_| 10.0);
    let before = history.clone();
    history.add(&state(49, 5000, Some(99.0)));
    history.add(&state(20, 5000, Some(99.0)));
    assert_eq!(history, before);
    history.add(&state(1_000, 1000, Some(3.0)));
    assert_eq!(history.summary().rate_peaks.peak_60, Level::of(3.0).get().expect("measured"));
}

#[test]
fn it_stays_small() {
    let history = seen(1000, 0..20_000, |tick| (tick % 97) as f64);
    assert!(history.memory_bytes() < 3200, "{}", history.memory_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn histories_that_saw_the_last_four_hours_have_the_same_summary(
        steps in proptest::collection::vec((prop_oneof![20 => Just(1u64), 1 => 1..40u64], proptest::option::weighted(0.9, 0.0..200.0f64)), 300..400),
        tick_ms in prop_oneof![Just(5000u64), Just(60_000), Just(100_000)], late in 0..50usize,
    ) {
        // Padded to more than the reach by ticks that both saw.
        let mut states = Vec::new();
        let mut tick = 7_000_000;
        for (passed, rate) in steps {
            tick += passed;
            states.push(state(tick, tick_ms, rate));
        }
        let reach = History::REACH.as_millis() as u64 * tick_ms.max(60_000) / 60_000 / tick_ms + 64;
        states.extend((1..=reach).map(|more| state(tick + more, tick_ms, Some((more % 13) as f64))));
        let summary = |from: usize| {
            let mut history = History::default();
            states[from..].iter().for_each(|state| history.add(state));
            history.summary()
        };
        prop_assert_eq!(summary(0), summary(late));
    }

    #[test]
    fn survives_serialisation(rates in proptest::collection::vec(proptest::option::weighted(0.8, 0.0..500.0f64), 1..300)) {
        let mut history = History::default();
        rates.iter().enumerate().for_each(|(tick, rate)| history.add(&state(tick as u64, 5000, *rate)));
        let text = serde_json::to_string(&history).expect("written");
        let read: History = serde_json::from_str(&text).expect("read");
        prop_assert_eq!(read.summary(), history.summary());
    }
}
