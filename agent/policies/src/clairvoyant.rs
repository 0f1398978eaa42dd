//! The policy `clairvoyant`: a bound that knows the future. Owns the forecast and the cheapest allocation that serves it.
//!
//! It knows the arrival and CPU time of every request, the duration of starts and how requests are served. At each
//! State it requests the cheapest allocation that carries the load until a later request could be ready. It is not
//! proven optimal: its utilization is the parameter `headroom`, the time over which peaks are averaged the parameter
//! `window`, and an evaluator takes the best of several settings for each cell. So the bound is the best of that grid,
//! with the same bounds, tick and guard as any policy. It looks no further ahead than a start and a tick, and accepts
//! queueing within `window`.
//!
//! It is not among [`crate::RULES`], since no configuration file can give it the future.

use std::sync::Arc;
use std::time::Duration;

use qscale_common::contract::State;
use qscale_common::time::{Span, Timestamp, millis};
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inputs::{self, check_range, check_span, measured};
use crate::{Decision, HoldReason, Memory, Policy, Scope};

/// The future of a function, and facts about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// Begin of the first interval.
    pub begin: Timestamp,
    /// Length of an interval, at least 1 ms; a second is enough for ticks of seconds.
    pub interval: Span,
    /// Load of each interval; none after the last.
    pub intervals: Vec<IntervalLoad>,
    /// The function.
    pub function: Facts,
}

/// Load of an interval.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct IntervalLoad {
    /// Requests that arrive.
    pub arrivals: f64,
    /// Their CPU time, core-seconds.
    pub cpu_seconds: f64,
    /// Total time that they wait for other services before they compute, seconds.
    pub waiting_seconds: f64,
}

/// Facts about a function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Facts {
    /// CPU time on one core of a request, at the objective's percentile.
    pub request_cpu: Span,
    /// Time that such a request waits for other services.
    pub request_waiting: Span,
    /// CPU time on one core of a start.
    pub startup_cpu: Span,
    /// Time of a start that does not depend on CPU.
    pub startup_waiting: Span,
    /// Requests that one replica serves at once, 0 without limit.
    pub workers: u32,
    /// Cores that one replica can use, at least 1.
    pub parallelism: u32,
    /// Memory that one replica needs.
    pub memory_mib: Mebibytes,
}

/// Parameters, which an evaluator tunes for each cell.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ClairvoyantParams {
    /// Factor of the load that is allocated, 0.1 to 100: the inverse of the target utilization.
    pub headroom: f64,
    /// Time over which peaks are averaged, 1 ms to 1 h: smoothing by a queue.
    pub window: Span,
    /// Share of the latency objective for a request that does not queue, 0.01 to 1.
    pub service_share: f64,
    /// Additional look-ahead, up to 1 h: scales up earlier and down later, for guards with limits on steps or changes.
    pub lead: Span,
    /// Factor by which the guard lets a replica's CPU grow at once, 1 to 1e6.
    pub resize_factor: f64,
    /// Least saving for a decrease, as a share of the current cost, 0 to 1.
    pub min_saving: f64,
    /// Resources that are changed; others keep their current value.
    pub scope: Scope,
}

impl Default for ClairvoyantParams {
    /// 80 % utilization, peaks of a second, half of the objective for service: meant to be tuned. The factor is the guard's default.
    fn default() -> Self {
        Self {
            headroom: 1.25,
            window: Span::seconds(1),
            service_share: 0.5,
            lead: Span::default(),
            resize_factor: 2.0,
            min_saving: 0.05,
            scope: Scope::Joint,
        }
    }
}

impl ClairvoyantParams {
    /// Checks the ranges.
    ///
    /// # Errors
    /// Names the field, its value and its range.
    pub fn check(&self) -> Result<(), String> {
        check_range("headroom", self.headroom, 0.1, 100.0)?;
        check_span("window", self.window, Span::millis(1), Span::seconds(3600))?;
        check_range("service_share", self.service_share, 0.01, 1.0)?;
        check_span("lead", self.lead, Span::default(), Span::seconds(3600))?;
        check_range("resize_factor", self.resize_factor, 1.0, 1e6)?;
        check_range("min_saving", self.min_saving, 0.0, 1.0)
    }
}

/// The policy.
#[derive(Debug, Clone)]
pub struct Clairvoyant {
    begin: Timestamp,
    interval_ms: u64,
    /// Cumulative load before each interval: one entry more than intervals.
    sums: Arc<[IntervalLoad]>,
    function: Facts,
    params: ClairvoyantParams,
}

impl Policy for Clairvoyant {
    fn name(&self) -> &'static str {
        "clairvoyant"
    }

    fn model(&self) -> String {
        let ClairvoyantParams { headroom, window, service_share, .. } = self.params;
        format!("clairvoyant/1 headroom {headroom}, window {window}, service share {service_share}")
    }

    fn decide(&self, state: &State, _: &mut Memory, now: Timestamp, _: &mut dyn Rng) -> Decision {
        let Some(current) = state.allocation else {
            return Decision::hold(HoldReason::NoAllocation, "the current allocation is not known");
        };
        let within = self.within(state, current);
        let (tick, lead) = (inputs::tick_length(state), self.params.lead.0);
        let soon = self.peak(now, tick + lead).plus(self.backlog(state, tick));
        let later = self.peak(now, self.startup(within.least_cpu) + tick + lead).highest(soon);
        let wanted = self.cheapest(&within, state, current, soon, later);
        let reason = format!("{:.2} cores needed within the tick, {:.2} until the next start is ready", soon.cores, later.cores);
        if self.stays(&within, state, current, wanted, soon, later) {
            return Decision::hold(HoldReason::NothingToDo, reason);
        }
        inputs::propose(state, current, wanted, reason)
    }
}

/// Load at a peak.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct PeakLoad {
    /// CPU, cores.
    cores: f64,
    /// Requests a second.
    rate: f64,
    /// Requests waiting for other services at once.
    waiting: f64,
}

impl PeakLoad {
    fn highest(self, other: Self) -> Self {
        Self { cores: self.cores.max(other.cores), rate: self.rate.max(other.rate), waiting: self.waiting.max(other.waiting) }
    }

    fn plus(self, other: Self) -> Self {
        Self { cores: self.cores + other.cores, rate: self.rate + other.rate, waiting: self.waiting + other.waiting }
    }

    fn is_nothing(self) -> bool {
        self.cores <= 0.0 && self.rate <= 0.0
    }
}

impl Clairvoyant {
    /// The policy with `forecast`, the arrivals of the run in which it decides.
    ///
    /// # Errors
    /// When the forecast's intervals have no length, a load is negative or not finite, or `params` is outside its ranges.
    pub fn new(forecast: &Forecast, params: ClairvoyantParams) -> Result<Self, String> {
        params.check()?;
        check_span("forecast.interval", forecast.interval, Span::millis(1), Span::seconds(3600))?;
        check_range("forecast.function.parallelism", f64::from(forecast.function.parallelism), 1.0, 10_000.0)?;
        let (mut sums, mut sum) = (Vec::with_capacity(forecast.intervals.len() + 1), IntervalLoad::default());
        sums.push(sum);
        for (index, coming) in forecast.intervals.iter().enumerate() {
            for (field, value) in
                [("arrivals", coming.arrivals), ("cpu_seconds", coming.cpu_seconds), ("waiting_seconds", coming.waiting_seconds)]
            {
                check_range(&format!("forecast.intervals[{index}].{field}"), value, 0.0, inputs::MAX_VALUE)?;
            }
            sum.arrivals += coming.arrivals;
            sum.cpu_seconds += coming.cpu_seconds;
            sum.waiting_seconds += coming.waiting_seconds;
            sums.push(sum);
        }
        let (begin, interval_ms, function) = (forecast.begin, millis(forecast.interval.0), forecast.function);
        Ok(Self { begin, interval_ms, sums: sums.into(), function, params })
    }

    /// The same forecast with other parameters.
    ///
    /// # Errors
    /// When `params` is outside its ranges.
    pub fn with(&self, params: ClairvoyantParams) -> Result<Self, String> {
        params.check()?;
        Ok(Self { params, ..self.clone() })
    }

    /// Duration of a start with `cpu`.
    fn startup(&self, cpu: Millicores) -> Duration {
        let speed = cpu.cores().clamp(0.001, 1.0);
        self.function.startup_waiting.0 + self.function.startup_cpu.0.div_f64(speed)
    }

    /// Greatest means over a window, among windows that begin within `ahead` of `now`.
    fn peak(&self, now: Timestamp, ahead: Duration) -> PeakLoad {
        let last = self.sums.len() - 1;
        let place = |ms: u64| usize::try_from(ms).unwrap_or(usize::MAX).min(last);
        let (from, to) = (now.0.saturating_sub(self.begin.0), now.plus(ahead).0.saturating_sub(self.begin.0));
        let (first, end) = (place(from / self.interval_ms), place(to.div_ceil(self.interval_ms)));
        let width = place(millis(self.params.window.0).div_ceil(self.interval_ms)).max(1);
        let seconds = width as f64 * self.interval_ms as f64 / 1000.0;
        (first..end).fold(PeakLoad::default(), |peak, begin| {
            let (before, after) = (self.sums[begin], self.sums[(begin + width).min(last)]);
            peak.highest(PeakLoad {
                cores: (after.cpu_seconds - before.cpu_seconds) / seconds,
                rate: (after.arrivals - before.arrivals) / seconds,
                waiting: (after.waiting_seconds - before.waiting_seconds) / seconds,
            })
        })
    }

    /// Queued requests, spread over a tick, each with the mean demand.
    fn backlog(&self, state: &State, tick: Duration) -> PeakLoad {
        let queued = measured(state.windows.tick.queued).unwrap_or(0.0);
        let all = self.sums[self.sums.len() - 1];
        let (rate, count) = (queued / tick.as_secs_f64().max(0.001), all.arrivals.max(1.0));
        PeakLoad { cores: rate * all.cpu_seconds / count, rate, waiting: rate * all.waiting_seconds / count }
    }

    /// Range of allowed allocations.
    fn within(&self, state: &State, current: Allocation) -> AllowedRange {
        let bounds = &state.bounds;
        let (replicas, cpu) = (bounds.replicas, bounds.cpu_millicores);
        // More CPU than a replica can use is wasted; less than a single request needs for the objective is too little.
        let useful = Millicores(self.function.parallelism.saturating_mul(1000));
        let most = cpu.max().min(useful.max(cpu.min()));
        let spare = Duration::from_millis(state.objective.latency_ms)
            .mul_f64(self.params.service_share)
            .saturating_sub(self.function.request_waiting.0);
        let needed = (self.function.request_cpu.0.as_secs_f64() / spare.as_secs_f64().max(1e-6) * 1000.0).ceil().min(1000.0);
        let least = cpu.clamp(Millicores(needed as u32)).min(most);
        let [across, along] = [self.params.scope != Scope::Vertical, self.params.scope != Scope::Horizontal];
        let now = bounds.clamp(current);
        AllowedRange {
            fewest: if across { replicas.min().0 } else { now.replicas.0 },
            most: if across { replicas.max().0 } else { now.replicas.0 },
            least_cpu: if along { least } else { now.cpu_millicores },
            most_cpu: if along { most } else { now.cpu_millicores },
            memory: if along { self.function.memory_mib } else { now.memory_mib },
        }
    }
}

/// Range of allowed allocations.
struct AllowedRange {
    fewest: u32,
    most: u32,
    least_cpu: Millicores,
    most_cpu: Millicores,
    memory: Mebibytes,
}

impl Clairvoyant {
    /// The cheapest allocation whose replicas carry the load `later` if each then gets all CPU that it can use, and the
    /// load `soon` with the CPU of the ready replicas now. Few large replicas cost no more than many small ones, need
    /// less memory and answer sooner; more are kept only if CPU cannot grow as fast.
    fn cheapest(&self, within: &AllowedRange, state: &State, current: Allocation, soon: PeakLoad, later: PeakLoad) -> Allocation {
        let give = |replicas: u32, cpu: Millicores| {
            state.bounds.clamp(Allocation { replicas: Replicas(replicas), cpu_millicores: cpu, memory_mib: within.memory })
        };
        if later.is_nothing() {
            return give(within.fewest, within.least_cpu);
        }
        let ready = inputs::counts(state).map_or(0, |counts| counts.ready.0);
        let at_once = current.cpu_millicores.scaled(self.params.resize_factor).min(within.most_cpu);
        let replicas = self.replicas(later, within.most_cpu).max(self.replicas(soon, at_once).min(ready));
        let replicas = replicas.clamp(within.fewest.max(1).min(within.most), within.most);
        // While others start, the ready replicas carry the load; if none is ready, all carry the later load.
        let (carry, load) = if ready == 0 { (replicas, later) } else { (replicas.min(ready), soon) };
        give(replicas, self.cpu(load, carry).clamp(within.least_cpu, within.most_cpu))
    }

    /// Whether `current` carries the load and costs little more than `wanted`.
    fn stays(
        &self,
        within: &AllowedRange,
        state: &State,
        current: Allocation,
        wanted: Allocation,
        soon: PeakLoad,
        later: PeakLoad,
    ) -> bool {
        let Allocation { replicas, cpu_millicores: cpu, memory_mib } = current;
        let ready = inputs::counts(state).map_or(0, |counts| counts.ready.0).min(replicas.0);
        let carries = self.replicas(soon, cpu) <= ready && self.replicas(later, within.most_cpu) <= replicas.0;
        let enough = carries && cpu >= within.least_cpu && memory_mib >= within.memory && wanted.replicas.0 > 0;
        let (price, least) = (state.prices.per_hour(current), state.prices.per_hour(wanted));
        enough && state.bounds.contain(current) && least >= price * (1.0 - self.params.min_saving)
    }

    /// Replicas with `cpu` each that carry `load`.
    fn replicas(&self, load: PeakLoad, cpu: Millicores) -> u32 {
        let Facts { workers, parallelism, .. } = self.function;
        let cores = cpu.cores().min(f64::from(parallelism)).max(0.001);
        let by_cpu = load.cores * self.params.headroom / cores;
        // A worker is occupied while its request waits and computes.
        let taken = load.waiting + load.cores / cores.min(1.0);
        let by_workers = if workers == 0 { 0.0 } else { taken * self.params.headroom / f64::from(workers) };
        up(by_cpu.max(by_workers))
    }

    /// CPU of each of `replicas` that carry `load`.
    fn cpu(&self, load: PeakLoad, replicas: u32) -> Millicores {
        let (headroom, count) = (self.params.headroom, f64::from(replicas.max(1)));
        let by_cpu = load.cores * headroom / count;
        let free = count * f64::from(self.function.workers) / headroom - load.waiting;
        let by_workers = match self.function.workers {
            0 => 0.0,
            _ if free > 0.0 => load.cores / free,
            _ => f64::INFINITY,
        };
        Millicores(up(by_cpu.max(by_workers) * 1000.0))
    }
}

/// Rounds up, tolerating rounding errors of sums.
fn up(amount: f64) -> u32 {
    (amount - 1e-6).ceil() as u32
}

#[cfg(test)]
mod tests;
