use qscale_common::contract::{ReplicaCounts, Usage};
use qscale_common::policy::Range;
use qscale_common::time::Tick;
use qscale_common::units::{Allocation, Replicas};

use super::model::linear;
use super::*;
use crate::fixtures;

fn model(alpha: f64, beta: f64, gamma: f64, periods: usize, seasonal: Form) -> Model {
    Model { alpha, beta, gamma, periods, trend: Form::Additive, seasonal }
}

#[track_caller]
fn close(got: &[f64], expected: &[f64], within: f64) {
    assert!(got.len() == expected.len() && got.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < within), "{got:?}");
}

#[test]
fn holt_winters_additive() {
    let series = [[1.0, 3.0, 1.0].repeat(4), vec![1.0]].concat();
    let model = model(0.9, 0.9, 0.3, 3, Form::Additive);
    let initial = model.initial(&series).expect("long enough");
    close(&[initial.level, initial.trend], &[1.6667, 0.0], 1e-4);
    close(&initial.season, &[-0.667, 1.333, -0.667], 1e-3);
    assert_eq!(whole(model.forecast(&series).expect("long enough")), 3);
}

#[test]
fn holt_winters_multiplicative() {
    let series = [1, 1, 1, 1, 2, 1, 1, 3, 1, 1, 4, 1, 1, 5, 1, 1, 6, 1, 1].map(f64::from);
    let model = model(0.005, 0.9, 0.4, 3, Form::Multiplicative);
    let initial = model.initial(&series).expect("long enough");
    close(&[initial.level, initial.trend], &[0.866_667, 0.115_152], 1e-6);
    close(&initial.season, &[0.575_258, 1.705_218, 0.719_524], 1e-6);
    let forecast = model.forecast(&series).expect("long enough");
    close(&[forecast], &[5.978_902_785_453_87], 1e-9);
    assert_eq!(whole(forecast), 6);
}

#[test]
fn holt_winters_with_a_multiplicative_trend() {
    let series = [[1.0, 3.0, 1.0].repeat(5)].concat();
    let model = Model { trend: Form::Multiplicative, ..model(0.3, 0.3, 0.9, 3, Form::Additive) };
    assert_eq!(whole(model.forecast(&series[..15]).expect("long enough")), 1);
}

#[test]
fn history_shorter_than_its_seasons_is_kept() {
    // Seven of a season of three are two whole ones and a beginning: nothing goes until the third is whole.
    let policy = HoltWinters { seasonal_periods: 3, stored_seasons: 2, ..HoltWinters::default() };
    let mut history = Vec::new();
    let lengths: Vec<usize> = (1..=10).map(|proposal| (policy.forecast_next(&mut history, proposal), history.len()).1).collect();
    assert_eq!(lengths, [1, 2, 3, 4, 5, 6, 7, 8, 6, 7]);
}

#[test]
fn holt_winters_of_an_even_season() {
    let series: Vec<f64> = (0..24).map(|index| [1.0, 2.0, 5.0, 2.0][index % 4] + index as f64).collect();
    let forecast = model(0.5, 0.5, 0.5, 4, Form::Additive).forecast(&series).expect("long enough");
    close(&[forecast], &[25.0], 0.01);
    let series: Vec<f64> = (0..24).map(|index| [1.0, 2.0, 5.0, 2.0][index % 4]).collect();
    let multiplicative = Model { trend: Form::Multiplicative, ..model(0.5, 0.5, 0.5, 4, Form::Multiplicative) };
    close(&[multiplicative.forecast(&series).expect("long enough")], &[1.0], 1e-6);
}

#[test]
fn too_short_a_series_has_no_forecast() {
    let check = |periods, least| {
        let model = model(0.9, 0.9, 0.9, periods, Form::Additive);
        assert_eq!(model.least(), least);
        assert!(model.forecast(&vec![1.0; least - 1]).is_none() && model.forecast(&vec![1.0; least]).is_some());
    };
    check(3, 12);
    check(4, 14);
    check(6, 16);
    check(12, 24);
}

#[test]
fn linear_regression() {
    // One to four replicas ten seconds apart; now is nine seconds after the last.
    let observed = [(-39.0, 1.0), (-29.0, 2.0), (-19.0, 3.0), (-9.0, 4.0)];
    for (look_ahead_ms, expected) in [(0.0, 5), (10_000.0, 6), (15_000.0, 7)] {
        assert_eq!(whole(linear(&observed, look_ahead_ms / 1000.0).expect("observed")), expected);
    }
    assert_eq!(linear(&[(-5.0, 3.0)], 100.0), Some(3.0));
    assert_eq!(linear(&[], 0.0), None);
}

#[test]
fn decision_types() {
    let check = |decision: DecisionType, proposals: &[u32], expected| assert_eq!(decision.decide(proposals), expected);
    check(DecisionType::Maximum, &[3, 9, 5], 9);
    check(DecisionType::Minimum, &[3, 9, 5], 3);
    check(DecisionType::Mean, &[3, 9, 5], 5);
    check(DecisionType::Median, &[9, 3, 5], 5);
    check(DecisionType::Median, &[9, 3, 5, 6], 5);
    check(DecisionType::Maximum, &[], 0);
}

#[test]
fn history_is_pruned_by_whole_seasons() {
    let policy = HoltWinters { seasonal_periods: 3, stored_seasons: 2, ..HoltWinters::default() };
    let kept = |as_shipped: bool| {
        let (policy, mut history) = (HoltWinters { as_shipped, ..policy.clone() }, Vec::new());
        (1..=9).for_each(|proposal| {
            policy.forecast_next(&mut history, proposal);
        });
        history
    };
    assert_eq!(kept(false), [4, 5, 6, 7, 8, 9]);
    assert_eq!(kept(true), [9, 8, 7, 6, 5, 4]);
}

#[test]
fn as_shipped_reverses_the_history() {
    let ordered = HoltWinters { seasonal_periods: 2, stored_seasons: 20, alpha: 0.5, beta: 0.1, gamma: 0.1, ..HoltWinters::default() };
    let shipped = HoltWinters { as_shipped: true, ..ordered.clone() };
    let last = |policy: &HoltWinters| {
        let mut history = Vec::new();
        (1..=30).map(|proposal| policy.forecast_next(&mut history, proposal)).last().expect("some")
    };
    assert!((30..=32).contains(&last(&ordered)), "a rising series is extrapolated to {}", last(&ordered));
    assert!(!(30..=32).contains(&last(&shipped)), "{}", last(&shipped));
}

#[test]
fn scales_up_before_the_load_that_comes_every_season() {
    let policy = HoltWinters {
        seasonal_periods: 8,
        stored_seasons: 4,
        hpa: Hpa { behavior: None, downscale_stabilization: Span::default(), ..Hpa::default() },
        ..HoltWinters::default()
    };
    let plain = policy.hpa.clone();
    let run = |policy: &dyn Policy| {
        let (mut memory, mut replicas) = (Memory::default(), 2);
        let ticks = (0..480u64).map(|tick| {
            let mut state =
                State { allocation: Some(Allocation::new(replicas, 500, 256)), tick: Tick(300_000_000 + tick), ..fixtures::state() };
            state.bounds.replicas = Range::new(Replicas(1), Replicas(20)).expect("ordered");
            let all = Replicas(replicas);
            state.replicas = Some(ReplicaCounts::all(all));
            let busy = tick / 3 % 8 >= 6;
            let mean = if busy { 3600.0 } else { 800.0 } / f64::from(replicas);
            state.windows.tick.cpu_millicores = Some(Usage { mean, max: mean });
            replicas = policy
                .decide(&state, &mut memory, Timestamp(0), &mut fixtures::rng())
                .wanted()
                .map_or(replicas, |wanted| wanted.replicas.0);
            // How much of the load the replicas of the tick can carry, once the season is known.
            if tick > 240 && busy { f64::from(replicas) * 500.0 / 3600.0 } else { 1.0 }
        });
        ticks.map(|share| share.min(1.0)).sum::<f64>()
    };
    assert!(run(&policy) > run(&plain), "{} {}", run(&policy), run(&plain));
}

#[test]
fn a_history_too_short_for_any_forecast_is_refused() {
    let check = |seasonal_periods, stored_seasons| HoltWinters { seasonal_periods, stored_seasons, ..HoltWinters::default() }.check();
    for (periods, seasons, part) in
        [(6, 1, "at least 2"), (24, 1, "at least 2"), (2, 2, "at least 5"), (3, 2, "at least 3"), (6, 0, "2 to 100")]
    {
        let error = check(periods, seasons).expect_err("too short");
        assert!(error.contains("stored_seasons") && error.contains(part), "{error}");
    }
    for (periods, seasons) in [(6, 2), (2, 5), (3, 3), (24, 2)] {
        check(periods, seasons).expect("long enough");
        let policy = HoltWinters { seasonal_periods: periods, stored_seasons: seasons, ..HoltWinters::default() };
        let mut history = Vec::new();
        assert!((0..20 * periods).any(|_| policy.forecast_next(&mut history, 3) > 0), "{periods} x {seasons}");
    }
}
