//! Measures of a run, from its true totals rather than from States. Owns the definitions of late, violated and
//! recovered; must not know the policy.
//!
//! - A request is *late* if it succeeded after the objective's latency bound. Refused, timed out and lost requests are *failures*.
//! - Time is divided into intervals of equal length for every competitor. The objective is *violated* in an interval if
//!   its latency percentile over the requests that ended in it (failures count as slower than any) is above the bound,
//!   or if more of them failed than the objective allows. An interval in which no request ended does not count, unless
//!   requests waited throughout and the interval is longer than the bound: then it is violated.
//! - *Severity* is the mean over counted intervals of the reward's `V = 1 - completion x min(1, bound / percentile)`.
//! - *Time to recover* from a disturbance is the time to the begin of the first of three consecutive intervals in which
//!   the objective holds, at most to the next disturbance or the end of the run; the mean over the disturbances within
//!   the measured part.
//! - The *slowdown* of a function is the 95th percentile of its latency over the mean duration of a request that has a whole core and does not queue; that
//!   of a run is the mean over its functions.
//! - Cold requests, idle memory-time and replicas that were started ahead are counted as in the keep-alive literature (Shahrad et al., USENIX ATC 2020).
//! - A *reversal* is a change of the allocation in the opposite direction, by price, of one shortly before.

use std::time::Duration;

use qscale_common::contract::Direction;
use qscale_common::policy::{Prices, RewardWeights, ScalingPolicy};
use qscale_common::slo;
use qscale_sim::latency::LatencyHistogram;
use qscale_sim::{Nanos, Setup, Totals};

use crate::cell::MeasurementSpan;
use crate::results::{Measure, Measures, TimeSeries};

/// Consecutive intervals in which the objective must hold for a recovery.
const RECOVERED: usize = 3;

/// Criteria of a function.
#[derive(Debug, Clone)]
pub struct Criteria {
    bound: Nanos,
    percentile: f64,
    failure_share: f64,
    timeout: Nanos,
    measurement: MeasurementSpan,
    prices: Prices,
    largest_per_hour: f64,
    reversal_within: Duration,
}

impl Criteria {
    /// The criteria of the function of `setup`.
    #[must_use]
    pub fn new(setup: &Setup, measurement: MeasurementSpan, reversal_within: Duration) -> Self {
        let ScalingPolicy { objective, prices, bounds, .. } = &setup.policy;
        Self {
            bound: Nanos::from(objective.latency.get()),
            percentile: objective.percentile.get() / 100.0,
            failure_share: objective.failure_share.get(),
            timeout: Nanos::from(setup.gateway.timeout.0),
            measurement,
            prices: prices.clone(),
            largest_per_hour: prices.per_hour(bounds.largest()),
            reversal_within,
        }
    }

    /// Length of the runs.
    #[must_use]
    pub fn measurement(&self) -> MeasurementSpan {
        self.measurement
    }

    /// Cost of what was allocated in an interval, in the currency of the prices.
    #[must_use]
    pub fn cost(&self, interval: &Totals) -> f64 {
        let (core_price, gib_price) = (self.prices.cpu_core_hour.get(), self.prices.memory_gib_hour.get());
        (interval.core_seconds * core_price + interval.gibibyte_seconds * gib_price) / 3600.0
    }

    /// Result of an interval; `None` if it does not count. `waited` says whether requests waited throughout.
    #[must_use]
    pub fn evaluate(&self, interval: &Totals, waited: bool) -> Option<IntervalResult> {
        let failed = interval.unanswered();
        let ended = interval.completed + failed;
        if ended == 0 {
            let hopeless = slo::is_violated_without_replies(waited, self.measurement.interval, self.bound.into());
            return hopeless.then_some(IntervalResult { violated: true, severity: 1.0 });
        }
        let failure_share = failed as f64 / ended as f64;
        let late = interval.quantile(self.percentile).is_none_or(|latency| latency > self.bound);
        let percentile = interval.latency.quantile(self.percentile, 0).map(|latency| latency.0 as f64);
        Some(IntervalResult {
            violated: slo::is_violated(late, failure_share, self.failure_share),
            severity: slo::severity(failure_share, percentile, self.bound.0 as f64),
        })
    }
}

/// Result of an interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IntervalResult {
    /// Whether the objective was violated.
    pub violated: bool,
    /// Severity, 0 to 1.
    pub severity: f64,
}

/// Shares of the loss of a whole run, which is the sum of its intervals and functions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LossShares {
    /// Loss of an interval with a severity of 1.
    pub severity: f64,
    /// Loss of a unit of cost.
    pub cost: f64,
}

/// Sums over the functions of a run, in its measured part.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunSums {
    /// True totals.
    pub totals: Totals,
    late: f64,
    counted: u64,
    violated: u64,
    severity: f64,
    cost: f64,
    largest_cost: f64,
    actions: u64,
    reversals: u64,
    recovering_s: f64,
    recoveries: u64,
    /// Sum over functions in which a request ended, and their number.
    slowdown: f64,
    with_requests: u64,
    /// Longest timeout of a gateway.
    timeout: Nanos,
    hours: f64,
}

impl RunSums {
    /// Adds another function of the run.
    pub fn include(&mut self, other: &RunSums) {
        self.totals.include(&other.totals);
        self.late += other.late;
        self.counted += other.counted;
        self.violated += other.violated;
        self.severity += other.severity;
        self.cost += other.cost;
        self.largest_cost += other.largest_cost;
        self.actions += other.actions;
        self.reversals += other.reversals;
        self.recovering_s += other.recovering_s;
        self.recoveries += other.recoveries;
        self.slowdown += other.slowdown;
        self.with_requests += other.with_requests;
        self.timeout = self.timeout.max(other.timeout);
        self.hours = self.hours.max(other.hours);
    }

    /// The measures of the run.
    #[must_use]
    pub fn measures(&self, weights: &RewardWeights) -> Measures {
        let totals = &self.totals;
        let ended = totals.completed + totals.unanswered();
        let over = |sum: f64, count: f64| (count > 0.0).then(|| sum / count);
        let percentile = |share: f64| (ended > 0).then(|| totals.quantile(share).unwrap_or(self.timeout).seconds() * 1000.0);
        let severity = over(self.severity, self.counted as f64).unwrap_or(0.0);
        let cost_share = over(self.cost, self.largest_cost).unwrap_or(0.0);
        let mut measures = Measures::default();
        for (measure, value) in [
            (Measure::Requests, Some(totals.arrived as f64)),
            (Measure::LateShare, over(self.late, ended as f64)),
            (Measure::ViolatedShare, over(self.violated as f64, self.counted as f64)),
            (Measure::Severity, over(self.severity, self.counted as f64)),
            (Measure::P50Ms, percentile(0.5)),
            (Measure::P95Ms, percentile(0.95)),
            (Measure::P99Ms, percentile(0.99)),
            // A request that arrived in the warm-up may end in the measured part.
            (Measure::CompletedShare, over(totals.completed as f64, totals.arrived as f64).map(|share| share.min(1.0))),
            (Measure::CoreSeconds, Some(totals.core_seconds)),
            (Measure::GibSeconds, Some(totals.gibibyte_seconds)),
            (Measure::CostPerHour, over(self.cost, self.hours)),
            (Measure::CostShare, Some(cost_share)),
            (Measure::ActionsPerHour, over(self.actions as f64, self.hours)),
            (Measure::ReversalsPerHour, over(self.reversals as f64, self.hours)),
            (Measure::Starts, Some(totals.starts as f64)),
            (Measure::ColdStarts, Some(totals.wakes as f64)),
            (Measure::ColdShare, over(totals.cold as f64, totals.arrived as f64)),
            (Measure::Slowdown, over(self.slowdown, self.with_requests as f64)),
            (Measure::IdleGibSeconds, Some((totals.gibibyte_seconds - totals.busy_gibibyte_seconds).max(0.0))),
            (Measure::Prewarmed, Some(totals.prewarmed as f64)),
            (Measure::Unused, Some(totals.unused as f64)),
            (Measure::Kills, Some((totals.oom_kills + totals.crashes) as f64)),
            (Measure::RecoverS, over(self.recovering_s, self.recoveries as f64)),
            (Measure::Loss, Some(weights.violation.get() * severity + weights.cost.get() * cost_share)),
        ] {
            measures.set(measure, value);
        }
        measures
    }

    /// Shares of single intervals in the loss of the run.
    pub(crate) fn loss_shares(&self, weights: &RewardWeights) -> LossShares {
        let share = |weight: f64, of: f64| if of > 0.0 { weight / of } else { 0.0 };
        LossShares { severity: share(weights.violation.get(), self.counted as f64), cost: share(weights.cost.get(), self.largest_cost) }
    }

    /// Latencies of successful requests.
    #[must_use]
    pub fn latency(&self) -> &LatencyHistogram {
        &self.totals.latency
    }
}

/// Measures one function through one run.
#[derive(Debug)]
pub struct RunMeter<'a> {
    criteria: &'a Criteria,
    disturbed: &'a [Duration],
    sums: RunSums,
    time_series: Option<TimeSeries>,
    /// Requests in the system when the interval began.
    outstanding: u64,
    /// Whether the objective was violated, for each interval.
    violated: Vec<bool>,
    last_action: Option<(Duration, Direction)>,
}

impl<'a> RunMeter<'a> {
    /// Measures by `criteria`, with the time to recover from each instant of `disturbed`; records the time series if `with_series`.
    #[must_use]
    pub fn new(criteria: &'a Criteria, disturbed: &'a [Duration], with_series: bool) -> Self {
        Self {
            criteria,
            disturbed,
            sums: RunSums::default(),
            time_series: with_series.then(TimeSeries::default),
            outstanding: 0,
            violated: Vec::new(),
            last_action: None,
        }
    }

    fn is_measured(&self) -> bool {
        self.violated.len() >= self.criteria.measurement.warm_up as usize
    }

    /// Records a change of the allocation at `now`.
    pub fn acted(&mut self, now: Duration, direction: Direction) {
        let criteria = self.criteria;
        let reversed = self.last_action.is_some_and(|(at, last)| last != direction && now - at <= criteria.reversal_within);
        if self.is_measured() {
            self.sums.actions += 1;
            self.sums.reversals += u64::from(reversed);
        }
        self.last_action = Some((now, direction));
    }

    /// Ends an interval with `replicas` requested and `waiting` requests queued.
    pub fn interval(&mut self, totals: &Totals, replicas: u32, waiting: usize) {
        let ended = totals.completed + totals.unanswered();
        // No request ended, so those of the begin are still waiting.
        let verdict = self.criteria.evaluate(totals, self.outstanding > 0);
        self.outstanding = (self.outstanding + totals.arrived).saturating_sub(ended);
        if self.is_measured() {
            self.measure(totals, verdict);
        }
        self.violated.push(verdict.is_some_and(|verdict| verdict.violated));
        if self.time_series.is_some() {
            self.note(totals, verdict, replicas, waiting);
        }
    }

    fn measure(&mut self, totals: &Totals, verdict: Option<IntervalResult>) {
        let criteria = self.criteria;
        self.sums.totals.include(totals);
        self.sums.late += totals.violations(criteria.bound);
        if let Some(verdict) = verdict {
            self.sums.counted += 1;
            self.sums.violated += u64::from(verdict.violated);
            self.sums.severity += verdict.severity;
        }
    }

    fn note(&mut self, totals: &Totals, verdict: Option<IntervalResult>, replicas: u32, waiting: usize) {
        let (criteria, number) = (self.criteria, self.violated.len() as f64);
        let seconds = criteria.measurement.interval.as_secs_f64();
        let Some(time_series) = &mut self.time_series else { return };
        let ended = totals.completed + totals.unanswered();
        let latency = (ended > 0).then(|| totals.quantile(criteria.percentile).unwrap_or(criteria.timeout).seconds() * 1000.0);
        time_series.until_s.push(number * seconds);
        time_series.rate_rps.push(totals.arrived as f64 / seconds);
        time_series.replicas.push(f64::from(replicas));
        time_series.cores.push(totals.core_seconds / seconds);
        time_series.latency_ms.push(latency);
        time_series.waiting.push(waiting as f64);
        time_series.violated.push(f64::from(u8::from(verdict.is_some_and(|verdict| verdict.violated))));
    }

    /// Sums of the run, and its time series.
    #[must_use]
    pub fn finish(mut self) -> (RunSums, Option<TimeSeries>) {
        self.recover();
        let criteria = self.criteria;
        let hours = criteria.measurement.measured_s() / 3600.0;
        self.sums.cost = criteria.cost(&self.sums.totals);
        self.sums.largest_cost = criteria.largest_per_hour * hours;
        self.sums.hours = hours;
        self.sums.timeout = criteria.timeout;
        let totals = &self.sums.totals;
        if totals.completed + totals.unanswered() > 0 && totals.demand > Nanos::ZERO {
            let alone_s = totals.demand.seconds() / totals.arrived as f64;
            self.sums.slowdown = totals.quantile(0.95).unwrap_or(criteria.timeout).seconds() / alone_s;
            self.sums.with_requests = 1;
        }
        (self.sums, self.time_series)
    }

    fn recover(&mut self) {
        let measurement = self.criteria.measurement;
        let (begin, end) = (measurement.interval * measurement.warm_up, measurement.length());
        let mut instants: Vec<Duration> = self.disturbed.iter().copied().filter(|at| (begin..end).contains(at)).collect();
        instants.sort_unstable();
        for (index, at) in instants.iter().enumerate() {
            let until = instants.get(index + 1).copied().unwrap_or(end);
            let place = |at: Duration| (at.as_nanos() / measurement.interval.as_nanos()) as usize;
            let recovered = (place(*at)..place(until)).find(|from| {
                // Intervals beyond the end count as fulfilled.
                self.violated.iter().skip(*from).take(RECOVERED).all(|violated| !violated)
            });
            let recovered = recovered.map_or(until, |interval| measurement.interval * interval as u32);
            self.sums.recovering_s += recovered.saturating_sub(*at).as_secs_f64();
            self.sums.recoveries += 1;
        }
    }
}

#[cfg(test)]
mod tests;
