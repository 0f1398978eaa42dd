//! The functions of a running system, by their messages, and their totals over a run. Owns the sums; does no I/O.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use qscale_common::contract::{DecisionSource, Effect, GuardRule, Load, Outcome, State};
use qscale_common::load::FunctionLoad;
use qscale_common::name::FunctionId;
use qscale_common::text::clean;
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use serde::Serialize;

use super::many;

/// Points kept for the plots: ten minutes at one a second.
const POINTS: usize = 600;
/// Interval between two samples of the totals.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// Functions that are shown.
const MAX_FUNCTIONS: usize = 100_000;
/// Buckets of latency that are kept of a function.
const MAX_BUCKETS: usize = 4096;
/// Lines kept of the log.
const LINES: usize = 100;

/// All functions, and the log of their changes.
#[derive(Debug, Default)]
pub struct Dashboard {
    /// One record a function.
    pub functions: BTreeMap<FunctionId, FunctionRecord>,
    /// Log of changes and warnings, newest last.
    pub lines: VecDeque<String>,
    /// Time of the first change of an allocation.
    pub first_change: Option<Timestamp>,
    /// Totals of all functions over time.
    pub system: SystemHistory,
    missed: u64,
}

/// Totals of all functions over time.
#[derive(Debug, Default)]
pub struct SystemHistory {
    /// Offered rate.
    pub offered: VecDeque<(Timestamp, f64)>,
    /// Achieved rate.
    pub achieved: VecDeque<(Timestamp, f64)>,
    /// Cores allocated.
    pub allocated: VecDeque<(Timestamp, f64)>,
    /// Cores used.
    pub used: VecDeque<(Timestamp, f64)>,
    /// Replicas.
    pub replicas: VecDeque<(Timestamp, f64)>,
    /// Share of the functions whose latency is above its bound, in percent.
    pub violating: VecDeque<(Timestamp, f64)>,
}

/// One function over time.
#[derive(Debug, Default)]
pub struct FunctionRecord {
    /// Latest State.
    pub state: Option<State>,
    /// Latest Load.
    pub load: Option<Load>,
    /// Offered rate over time, requests/s.
    pub offered: VecDeque<(Timestamp, f64)>,
    /// Achieved rate over time, requests/s.
    pub achieved: VecDeque<(Timestamp, f64)>,
    /// Latency over time, milliseconds, at the percentile of the objective.
    pub latency: VecDeque<(Timestamp, f64)>,
    /// Replicas over time.
    pub replicas: VecDeque<(Timestamp, f64)>,
    /// Cores allocated over time.
    pub allocated: VecDeque<(Timestamp, f64)>,
    /// Cores used over time.
    pub used: VecDeque<(Timestamp, f64)>,
    /// Successful requests by the upper bound of their latency bucket, microseconds.
    pub latencies: BTreeMap<u64, u64>,
    /// Failed requests.
    pub failed: u64,
    /// Decisions of the rule that replaces a network which is not trusted.
    pub network_fallbacks: u64,
    totals: Accumulated,
}

#[derive(Debug, Default)]
struct Accumulated {
    seconds: f64,
    replica_seconds: f64,
    core_seconds: f64,
    gib_seconds: f64,
    most: Option<Allocation>,
    least: Option<Allocation>,
    decisions: u64,
    changes: u64,
    guard: u64,
    fallbacks: u64,
    states: u64,
    missed: u64,
}

/// Totals of one function over a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FunctionSummary {
    /// `namespace/name`.
    pub function: String,
    /// The agent of its ScalingPolicy.
    pub agent: String,
    /// Measurements of the load generator; null without load.
    pub load: Option<FunctionLoad>,
    /// Mean allocation over time.
    pub mean_allocation: MeanAllocation,
    /// Largest replicas, CPU and memory of a replica, each on its own.
    pub max_allocation: Option<Allocation>,
    /// Smallest replicas, CPU and memory of a replica, each on its own.
    pub min_allocation: Option<Allocation>,
    /// Cores allocated times seconds.
    pub core_seconds: f64,
    /// GiB allocated times seconds.
    pub gib_seconds: f64,
    /// Decisions of the agent or the fallback.
    pub actions: u64,
    /// Decisions that changed the allocation.
    pub changes: u64,
    /// Decisions that the guard changed or held.
    pub guard_interventions: u64,
    /// Decisions of the fallback.
    pub fallback_actions: u64,
    /// States received.
    pub states: u64,
    /// Ticks without a State.
    pub missed_ticks: u64,
}

/// A mean over time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MeanAllocation {
    /// Replicas.
    pub replicas: f64,
    /// Cores of all replicas together.
    pub cores: f64,
    /// GiB of all replicas together.
    pub memory_gib: f64,
}

impl Dashboard {
    /// Adds a State.
    pub fn state(&mut self, state: State) {
        let id = FunctionId::new(state.namespace.clone(), state.function.clone());
        let record = self.functions.entry(id).or_default();
        let at = state.observed_at_ms;
        if let Some(allocation) = state.allocation {
            append(&mut record.replicas, at, f64::from(allocation.replicas.0));
            append(&mut record.allocated, at, allocation.total_cores());
            record.totals.hold(allocation, state.tick_length_ms as f64 / 1000.0);
        }
        if let Some(latency) = state.windows.tick.latency {
            append(&mut record.latency, at, latency.objective_ms);
        }
        if let Some(used) = state.cores_used(&state.windows.tick) {
            append(&mut record.used, at, used);
        }
        record.totals.states += 1;
        if let Some(before) =
            record.state.as_ref().filter(|before| before.epoch == state.epoch && before.tick_length_ms == state.tick_length_ms)
        {
            let missed = state.tick.0.saturating_sub(before.tick.0.saturating_add(1));
            record.totals.missed = record.totals.missed.saturating_add(missed);
            self.missed = self.missed.saturating_add(missed);
        }
        record.state = Some(state);
    }

    /// Ticks without a State, of all functions.
    pub fn missed_ticks(&self) -> u64 {
        self.missed
    }

    /// Notes how all of `shown` stand together at `now`, at most once a second.
    pub fn sample(&mut self, shown: &[FunctionId], now: Timestamp) {
        if self.system.offered.back().is_some_and(|(at, _)| now.since(*at) < SAMPLE_INTERVAL) {
            return;
        }
        let totals = many::SystemTotals::of(self, shown);
        let system = &mut self.system;
        append(&mut system.offered, now, totals.offered);
        append(&mut system.achieved, now, totals.achieved);
        append(&mut system.allocated, now, totals.allocated);
        append(&mut system.used, now, totals.used);
        append(&mut system.replicas, now, f64::from(totals.replicas));
        append(&mut system.violating, now, totals.violating as f64 * 100.0 / shown.len().max(1) as f64);
    }

    /// Adds a Load.
    pub fn load(&mut self, load: Load) {
        let id = FunctionId::new(load.namespace.clone(), load.function.clone());
        if self.functions.len() >= MAX_FUNCTIONS && !self.functions.contains_key(&id) {
            return;
        }
        let record = self.functions.entry(id).or_default();
        append(&mut record.offered, load.at_ms, load.offered_rps);
        append(&mut record.achieved, load.at_ms, load.achieved_rps);
        for bucket in &load.latency {
            // A load generator has a few hundred buckets; others count in the next larger one.
            let full = record.latencies.len() >= MAX_BUCKETS;
            let place = if full { record.latencies.range(bucket.le_us..).next().or(record.latencies.last_key_value()) } else { None };
            let count = record.latencies.entry(place.map_or(bucket.le_us, |(le_us, _)| *le_us)).or_default();
            *count = count.saturating_add(bucket.count);
        }
        record.failed = record.failed.saturating_add(load.failures.total());
        record.load = Some(load);
    }

    /// Adds an Outcome; those of shadow agents are ignored.
    pub fn outcome(&mut self, outcome: &Outcome) {
        if outcome.source == DecisionSource::Shadow {
            return;
        }
        let id = FunctionId::new(outcome.namespace.clone(), outcome.function.clone());
        let record = self.functions.entry(id.clone()).or_default();
        record.network_fallbacks += u64::from(outcome.provenance.fallback.is_some());
        let totals = &mut record.totals;
        let changed = matches!(outcome.effect, Effect::Applied | Effect::Changed);
        totals.decisions += 1;
        totals.changes += u64::from(changed);
        totals.fallbacks += u64::from(outcome.source == DecisionSource::Fallback);
        let intervened = outcome.guard.iter().any(|note| !matches!(note.rule, GuardRule::Mode | GuardRule::NotNamed));
        totals.guard += u64::from(intervened);
        if changed {
            self.first_change.get_or_insert(outcome.decided_at_ms);
        }
        if changed || intervened || outcome.effect == Effect::Failed {
            self.line(describe(&id, outcome));
        }
    }

    /// Adds a line to the log.
    pub fn line(&mut self, line: String) {
        self.lines.push_back(line);
        if self.lines.len() > LINES {
            self.lines.pop_front();
        }
    }

    /// Totals of `function`, with the load generator's measurements.
    pub fn summary(&self, function: &FunctionId, agent: &str, load: Option<FunctionLoad>) -> FunctionSummary {
        let nothing = Accumulated::default();
        let totals = self.functions.get(function).map_or(&nothing, |record| &record.totals);
        let seconds = totals.seconds.max(f64::MIN_POSITIVE);
        FunctionSummary {
            function: function.to_string(),
            agent: agent.to_owned(),
            load,
            mean_allocation: MeanAllocation {
                replicas: totals.replica_seconds / seconds,
                cores: totals.core_seconds / seconds,
                memory_gib: totals.gib_seconds / seconds,
            },
            max_allocation: totals.most,
            min_allocation: totals.least,
            core_seconds: totals.core_seconds,
            gib_seconds: totals.gib_seconds,
            actions: totals.decisions,
            changes: totals.changes,
            guard_interventions: totals.guard,
            fallback_actions: totals.fallbacks,
            states: totals.states,
            missed_ticks: totals.missed,
        }
    }
}

impl Accumulated {
    fn hold(&mut self, allocation: Allocation, seconds: f64) {
        self.seconds += seconds;
        self.replica_seconds += f64::from(allocation.replicas.0) * seconds;
        self.core_seconds += allocation.total_cores() * seconds;
        self.gib_seconds += allocation.total_gibibytes() * seconds;
        let pick = |known: Option<Allocation>, choose: fn(u32, u32) -> u32| {
            let known = known.unwrap_or(allocation);
            Allocation::new(
                choose(known.replicas.0, allocation.replicas.0),
                choose(known.cpu_millicores.0, allocation.cpu_millicores.0),
                choose(known.memory_mib.0, allocation.memory_mib.0),
            )
        };
        self.most = Some(pick(self.most, u32::max));
        self.least = Some(pick(self.least, u32::min));
    }
}

fn append(series: &mut VecDeque<(Timestamp, f64)>, at: Timestamp, value: f64) {
    series.push_back((at, value));
    if series.len() > POINTS {
        series.pop_front();
    }
}

fn describe(function: &FunctionId, outcome: &Outcome) -> String {
    let time = outcome.decided_at_ms.to_string();
    let clock = time.get(11..19).unwrap_or_default();
    let before = outcome.before.map(|before| format!("{before} -> ")).unwrap_or_default();
    let after = outcome.allowed.unwrap_or(outcome.requested);
    let effect = match outcome.effect {
        Effect::Applied => "applied",
        Effect::Changed => "changed by the guard",
        Effect::Unchanged => "unchanged",
        Effect::Held => "held by the guard",
        Effect::Recorded => "recorded",
        Effect::Refused => "refused",
        Effect::Failed => "failed, retrying",
        Effect::Other => "of an unknown effect",
    };
    let rules: Vec<_> = outcome.guard.iter().map(|note| note.detail.as_str()).collect();
    let why = if rules.is_empty() { outcome.reason.clone() } else { rules.join("; ") };
    format!("{clock} {function} {} {before}{after} {effect}: {}", outcome.agent, clean(&why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_seconds_are_cores_times_seconds() {
        let mut totals = Accumulated::default();
        totals.hold(Allocation::new(2, 500, 128), 2.0);
        totals.hold(Allocation::new(1, 1000, 256), 2.0);
        assert!((totals.core_seconds - 4.0).abs() < 1e-9);
        assert!((totals.replica_seconds - 6.0).abs() < 1e-9);
        assert_eq!(totals.most, Some(Allocation::new(2, 1000, 256)));
        assert_eq!(totals.least, Some(Allocation::new(1, 500, 128)));
    }

    #[test]
    fn absurd_loads_neither_overflow_nor_fill_the_memory() {
        let golden = include_str!("../../../common/tests/golden/load.full.json");
        let mut load: Load = serde_json::from_str(golden).expect("the golden Load reads");
        let id = FunctionId::new(load.namespace.clone(), load.function.clone());
        load.failures.timeout = u64::MAX;
        let mut dashboard = Dashboard::default();
        for first in 0..3 * MAX_BUCKETS as u64 {
            load.latency = vec![qscale_common::contract::LatencyBucket { le_us: first * 1000, count: u64::MAX }];
            dashboard.load(load.clone());
        }
        let record = &dashboard.functions[&id];
        assert_eq!((record.failed, record.latencies.len()), (u64::MAX, MAX_BUCKETS));
        assert!(record.latencies.values().all(|count| *count == u64::MAX));
    }

    #[test]
    fn ticks_without_a_state_are_counted_within_an_epoch() {
        let golden = include_str!("../../../common/tests/golden/state.full.json");
        let state: State = serde_json::from_str(golden).expect("the golden State reads");
        let at = |tick: u64, epoch: u64| {
            let mut state = state.clone();
            (state.tick.0, state.epoch.0) = (tick, epoch);
            state
        };
        let mut dashboard = Dashboard::default();
        for (tick, epoch) in [(5, 1), (6, 1), (9, 1), (100, 2), (101, 2)] {
            dashboard.state(at(tick, epoch));
        }
        assert_eq!(dashboard.missed_ticks(), 2);
        let id = FunctionId::new(state.namespace.clone(), state.function.clone());
        assert_eq!(dashboard.summary(&id, "static", None).missed_ticks, 2);
    }

    #[test]
    fn a_run_without_messages_has_a_summary_of_zeros() {
        let summary = Dashboard::default().summary(&"f".parse().expect("valid"), "static", None);
        assert_eq!((summary.actions, summary.core_seconds, summary.max_allocation), (0, 0.0, None));
        serde_json::to_string(&summary).expect("it can be written");
    }
}
