use std::sync::Arc;

use qscale_common::policy::{Objective, RewardWeights};
use qscale_common::time::Span;
use qscale_common::units::Allocation;
use qscale_common::workload::Gaps;
use qscale_sim::latency::HistogramPosition;
use qscale_sim::{Distribution, FunctionProfile, Gateway, Perturbation, SimulatedLoad};

use super::*;

/// p95 within 100 ms, a tenth may fail, and the largest allocation is ten cores and ten GiB.
fn setup() -> Setup {
    let mut policy = ScalingPolicy::new("default/f".parse().expect("a function"));
    policy.objective = Objective {
        percentile: 95.0.try_into().expect("valid"),
        latency: Span::millis(100).try_into().expect("valid"),
        failure_share: 0.1.try_into().expect("valid"),
        point: None,
    };
    Setup {
        profile: Arc::new(FunctionProfile::simple("f", Distribution::ZERO)),
        gateway: Gateway { timeout: Span::seconds(20), ..Gateway::default() },
        policy,
        allocation: Allocation::new(1, 1000, 1024),
        load: SimulatedLoad::Pattern { pattern: "1".parse().expect("a rate"), gaps: Gaps::Constant },
        perturbation: Perturbation::default(),
        nodes: None,
    }
}

fn criteria(measured: u32) -> Criteria {
    let measurement = MeasurementSpan { interval: Duration::from_secs(10), warm_up: 1, measured };
    Criteria::new(&setup(), measurement, Duration::from_secs(60))
}

/// An interval with completed requests of these latencies, and a number of failures.
fn interval(latencies_ms: &[u64], failed: u64) -> Totals {
    let mut totals = Totals { completed: latencies_ms.len() as u64, timed_out: failed, ..Totals::default() };
    totals.arrived = totals.completed + failed;
    totals.demand = Nanos::millis(10 * totals.arrived);
    latencies_ms.iter().for_each(|ms| totals.latency.add(HistogramPosition::of(Nanos::millis(*ms))));
    totals
}

#[track_caller]
fn judged(totals: &Totals, violated: bool, severity: f64) {
    let verdict = criteria(1).evaluate(totals, false).expect("judged");
    assert_eq!(verdict.violated, violated);
    assert!((verdict.severity - severity).abs() < 0.01, "{}, expected {severity}", verdict.severity);
}

#[test]
fn an_interval_is_violated_by_lateness_or_by_failures() {
    judged(&interval(&[50; 100], 0), false, 0.0);
    judged(&interval(&[200; 100], 0), true, 0.5);
    judged(&interval(&[50; 100], 4), false, 4.0 / 104.0);
    // With a tenth of failures the 95th percentile is one of them, though all that was answered was in time.
    judged(&interval(&[50; 90], 10), true, 0.1);
    judged(&interval(&[], 5), true, 1.0);
}

#[test]
fn an_interval_without_ended_requests_counts_only_if_requests_wait_throughout() {
    assert_eq!(criteria(1).evaluate(&Totals::default(), false), None);
    assert_eq!(criteria(1).evaluate(&Totals::default(), true), Some(IntervalResult { violated: true, severity: 1.0 }));
}

/// Measured by hand: after the warm-up two good intervals, two bad ones, four good ones and one without requests.
#[test]
fn a_run_adds_up_to_what_was_computed_by_hand() {
    let criteria = criteria(9);
    let disturbed = [Duration::from_secs(5), Duration::from_secs(32)];
    let mut meter = RunMeter::new(&criteria, &disturbed, true);
    let costly = |mut totals: Totals| {
        (totals.core_seconds, totals.gibibyte_seconds, totals.busy_gibibyte_seconds) = (20.0, 10.0, 4.0);
        (totals.cold, totals.prewarmed, totals.unused) = (totals.arrived / 10, 2, 1);
        totals
    };
    // In the warm-up: nothing of it counts.
    meter.acted(Duration::from_secs(5), Direction::Up);
    meter.interval(&interval(&[900; 50], 50), 1, 7);
    for second in [20, 40] {
        meter.acted(Duration::from_secs(second), if second == 20 { Direction::Down } else { Direction::Up });
    }
    let time_series = [(50, 0), (50, 0), (200, 0), (200, 20), (50, 0), (50, 0), (50, 0), (50, 0)];
    time_series.into_iter().for_each(|(ms, failed)| meter.interval(&costly(interval(&[ms; 80], failed)), 2, 0));
    meter.acted(Duration::from_secs(130), Direction::Down);
    meter.interval(&costly(Totals::default()), 2, 0);
    let (sums, time_series) = meter.finish();
    let measures = sums.measures(&RewardWeights::default());
    let prices = &setup().policy.prices;
    let cost_per_hour = 2.0 * prices.cpu_core_hour.get() + prices.memory_gib_hour.get();
    let cost_share = cost_per_hour / (10.0 * prices.cpu_core_hour.get() + 10.0 * prices.memory_gib_hour.get());
    let severity = (0.5 + (1.0 - 0.8 * 0.5)) / 8.0;
    for (measure, expected) in [
        (Measure::Requests, 660.0),
        (Measure::LateShare, 180.0 / 660.0),
        (Measure::ViolatedShare, 2.0 / 8.0),
        (Measure::Severity, severity),
        (Measure::P50Ms, 50.0),
        (Measure::P99Ms, 20_000.0),
        (Measure::CompletedShare, 640.0 / 660.0),
        (Measure::CoreSeconds, 180.0),
        (Measure::GibSeconds, 90.0),
        (Measure::IdleGibSeconds, 54.0),
        (Measure::ColdShare, 0.1),
        (Measure::Prewarmed, 18.0),
        (Measure::Unused, 9.0),
        (Measure::CostPerHour, cost_per_hour),
        (Measure::CostShare, cost_share),
        // Three in 90 s; the first two undid the one before, the third came too late to.
        (Measure::ActionsPerHour, 120.0),
        (Measure::ReversalsPerHour, 80.0),
        // From 32 s, in the second good interval, to 50 s, when the fifth begins.
        (Measure::RecoverS, 18.0),
        (Measure::Loss, severity + 0.3 * cost_share),
    ] {
        let found = measures.get(measure).unwrap_or_else(|| panic!("{measure} is absent"));
        assert!((found - expected).abs() <= 0.03 * expected, "{measure} = {found}, expected {expected}");
    }
    let time_series = time_series.expect("was wanted");
    assert_eq!((time_series.until_s.len(), time_series.until_s[9]), (10, 100.0));
    assert_eq!(time_series.violated, [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!((time_series.waiting[0], time_series.latency_ms[0], time_series.latency_ms[9]), (7.0, Some(20_000.0), None));
}

#[test]
fn functions_of_one_run_are_taken_together() {
    let criteria = criteria(1);
    let result = |latency: u64| {
        let mut meter = RunMeter::new(&criteria, &[], false);
        meter.interval(&Totals::default(), 0, 0);
        meter.interval(&interval(&[latency; 10], 0), 0, 0);
        meter.finish().0
    };
    let mut both = result(50);
    both.include(&result(400));
    let measures = both.measures(&RewardWeights::default());
    assert_eq!((measures.get(Measure::Requests), measures.get(Measure::ViolatedShare)), (Some(20.0), Some(0.5)));
    assert_eq!(measures.get(Measure::RecoverS), None);
    assert!(measures.get(Measure::P99Ms).expect("answered") > 350.0);
    // The mean of both functions, and not of all requests.
    let slowdown = measures.get(Measure::Slowdown).expect("answered");
    assert!((slowdown / 22.5 - 1.0).abs() < 0.03, "{slowdown}");
}
