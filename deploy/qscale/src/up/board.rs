//! What is known of each function while the system is up, and what a run came to. Owns sums over messages; does no I/O.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use qscale_common::contract::{Effect, Load, Outcome, Rule, Source, State};
use qscale_common::load::FunctionLoad;
use qscale_common::name::FunctionId;
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use serde::Serialize;

use super::crowd;

/// Points kept for the plots; at a second each, ten minutes.
const KEPT: usize = 600;
/// How often the sum of all functions is noted.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Lines kept of what was done.
const LINES: usize = 100;

/// All functions, by name.
#[derive(Debug, Default)]
pub struct Board {
    /// One entry a function.
    pub functions: BTreeMap<FunctionId, Entry>,
    /// What was done lately, newest last.
    pub lines: VecDeque<String>,
    /// When the allocation of a function was first changed.
    pub first_change: Option<Timestamp>,
    /// All functions together, over time.
    pub together: Together,
    missed: u64,
}

/// All functions together, over time.
#[derive(Debug, Default)]
pub struct Together {
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

/// One function.
#[derive(Debug, Default)]
pub struct Entry {
    /// The State that came last.
    pub state: Option<State>,
    /// The Load that came last.
    pub load: Option<Load>,
    /// Offered rate over time: when, requests a second.
    pub offered: VecDeque<(Timestamp, f64)>,
    /// Achieved rate over time.
    pub achieved: VecDeque<(Timestamp, f64)>,
    /// The objective's percentile of latency over time, milliseconds.
    pub latency: VecDeque<(Timestamp, f64)>,
    /// Replicas over time.
    pub replicas: VecDeque<(Timestamp, f64)>,
    /// Cores allocated over time.
    pub allocated: VecDeque<(Timestamp, f64)>,
    /// Cores used over time.
    pub used: VecDeque<(Timestamp, f64)>,
    /// Requests that were answered well, by the upper bound of their latency in microseconds, as Load tells it.
    pub latencies: BTreeMap<u64, u64>,
    /// Requests that failed.
    pub failed: u64,
    /// Decisions which the rule beside a network made.
    pub beside: u64,
    totals: Totals,
}

#[derive(Debug, Default)]
struct Totals {
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

/// What a run came to, for one function.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// `namespace/name`.
    pub function: String,
    /// The agent that was obeyed.
    pub agent: String,
    /// What the load generator measured; null where it did not tell.
    pub load: Option<FunctionLoad>,
    /// Mean allocation over time: replicas, cores and GiB in all.
    pub mean_allocation: MeanAllocation,
    /// The largest number of replicas, CPU and memory a replica that were in force, each on its own.
    pub max_allocation: Option<Allocation>,
    /// The smallest, each on its own.
    pub min_allocation: Option<Allocation>,
    /// Cores allocated times seconds.
    pub core_seconds: f64,
    /// GiB allocated times seconds.
    pub gib_seconds: f64,
    /// Decisions of the named agent or the fallback.
    pub actions: u64,
    /// Decisions that changed the allocation.
    pub changes: u64,
    /// Decisions that the guard changed or held.
    pub guard_interventions: u64,
    /// Decisions of the fallback.
    pub fallback_actions: u64,
    /// States that were seen.
    pub states: u64,
    /// Ticks between them that had none.
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

impl Board {
    /// Takes in a State.
    pub fn state(&mut self, state: State) {
        let id = FunctionId::new(state.namespace.clone(), state.function.clone());
        let entry = self.functions.entry(id).or_default();
        let at = state.observed_at_ms;
        if let Some(allocation) = state.allocation {
            keep(&mut entry.replicas, at, f64::from(allocation.replicas.0));
            keep(&mut entry.allocated, at, allocation.total_cores());
            entry.totals.hold(allocation, state.tick_length_ms as f64 / 1000.0);
        }
        if let Some(latency) = state.windows.tick.latency {
            keep(&mut entry.latency, at, latency.objective_ms);
        }
        if let Some(used) = state.cores_used(&state.windows.tick) {
            keep(&mut entry.used, at, used);
        }
        entry.totals.states += 1;
        if let Some(before) =
            entry.state.as_ref().filter(|before| before.epoch == state.epoch && before.tick_length_ms == state.tick_length_ms)
        {
            let missed = state.tick.0.saturating_sub(before.tick.0.saturating_add(1));
            entry.totals.missed += missed;
            self.missed += missed;
        }
        entry.state = Some(state);
    }

    /// Ticks of functions that passed without a State.
    pub fn missed_ticks(&self) -> u64 {
        self.missed
    }

    /// Notes how all of `shown` stand together at `now`, at most once a second.
    pub fn sample(&mut self, shown: &[FunctionId], now: Timestamp) {
        if self.together.offered.back().is_some_and(|(at, _)| now.since(*at) < SAMPLE_EVERY) {
            return;
        }
        let totals = crowd::Totals::of(self, shown);
        let together = &mut self.together;
        keep(&mut together.offered, now, totals.offered);
        keep(&mut together.achieved, now, totals.achieved);
        keep(&mut together.allocated, now, totals.allocated);
        keep(&mut together.used, now, totals.used);
        keep(&mut together.replicas, now, f64::from(totals.replicas));
        keep(&mut together.violating, now, totals.violating as f64 * 100.0 / shown.len().max(1) as f64);
    }

    /// Takes in a Load.
    pub fn load(&mut self, load: Load) {
        let id = FunctionId::new(load.namespace.clone(), load.function.clone());
        let entry = self.functions.entry(id).or_default();
        keep(&mut entry.offered, load.at_ms, load.offered_rps);
        keep(&mut entry.achieved, load.at_ms, load.achieved_rps);
        for bucket in &load.latency {
            *entry.latencies.entry(bucket.le_us).or_default() += bucket.count;
        }
        entry.failed += load.failures.total();
        entry.load = Some(load);
    }

    /// Takes in an Outcome.
    pub fn outcome(&mut self, outcome: &Outcome) {
        if outcome.source == Source::Shadow {
            return;
        }
        let id = FunctionId::new(outcome.namespace.clone(), outcome.function.clone());
        let entry = self.functions.entry(id.clone()).or_default();
        entry.beside += u64::from(outcome.provenance.fallback.is_some());
        let totals = &mut entry.totals;
        let changed = matches!(outcome.effect, Effect::Applied | Effect::Changed);
        totals.decisions += 1;
        totals.changes += u64::from(changed);
        totals.fallbacks += u64::from(outcome.source == Source::Fallback);
        let intervened = outcome.guard.iter().any(|note| !matches!(note.rule, Rule::Mode | Rule::NotNamed));
        totals.guard += u64::from(intervened);
        if changed {
            self.first_change.get_or_insert(outcome.decided_at_ms);
        }
        if changed || intervened || outcome.effect == Effect::Failed {
            self.line(describe(&id, outcome));
        }
    }

    /// Adds a line to what was done lately.
    pub fn line(&mut self, line: String) {
        self.lines.push_back(line);
        if self.lines.len() > LINES {
            self.lines.pop_front();
        }
    }

    /// What the run came to for `function`, with what the load generator says of it.
    pub fn summary(&self, function: &FunctionId, agent: &str, load: Option<FunctionLoad>) -> Summary {
        let nothing = Totals::default();
        let totals = self.functions.get(function).map_or(&nothing, |entry| &entry.totals);
        let seconds = totals.seconds.max(f64::MIN_POSITIVE);
        Summary {
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

impl Totals {
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

fn keep(series: &mut VecDeque<(Timestamp, f64)>, at: Timestamp, value: f64) {
    series.push_back((at, value));
    if series.len() > KEPT {
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
        Effect::Failed => "failed, trying again",
    };
    let rules: Vec<_> = outcome.guard.iter().map(|note| note.detail.as_str()).collect();
    let why = if rules.is_empty() { outcome.reason.clone() } else { rules.join("; ") };
    format!("{clock} {function} {} {before}{after} {effect}: {why}", outcome.agent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_seconds_are_cores_times_seconds() {
        let mut totals = Totals::default();
        totals.hold(Allocation::new(2, 500, 128), 2.0);
        totals.hold(Allocation::new(1, 1000, 256), 2.0);
        assert!((totals.core_seconds - 4.0).abs() < 1e-9);
        assert!((totals.replica_seconds - 6.0).abs() < 1e-9);
        assert_eq!(totals.most, Some(Allocation::new(2, 1000, 256)));
        assert_eq!(totals.least, Some(Allocation::new(1, 500, 128)));
    }

    #[test]
    fn ticks_without_a_state_are_counted_within_an_epoch() {
        let golden = include_str!("../../../../common/tests/golden/state.full.json");
        let state: State = serde_json::from_str(golden).expect("the golden State reads");
        let at = |tick: u64, epoch: u64| {
            let mut state = state.clone();
            (state.tick.0, state.epoch.0) = (tick, epoch);
            state
        };
        let mut board = Board::default();
        for (tick, epoch) in [(5, 1), (6, 1), (9, 1), (100, 2), (101, 2)] {
            board.state(at(tick, epoch));
        }
        assert_eq!(board.missed_ticks(), 2);
        let id = FunctionId::new(state.namespace.clone(), state.function.clone());
        assert_eq!(board.summary(&id, "static", None).missed_ticks, 2);
    }

    #[test]
    fn a_run_without_messages_has_a_summary_of_zeros() {
        let summary = Board::default().summary(&"f".parse().expect("valid"), "static", None);
        assert_eq!((summary.actions, summary.core_seconds, summary.max_allocation), (0, 0.0, None));
        serde_json::to_string(&summary).expect("it can be written");
    }
}
