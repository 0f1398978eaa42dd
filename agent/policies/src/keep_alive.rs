//! The policies `keep-alive-fixed` and `keep-alive-histogram`: replicas stay for some time after their last request.
//! Owns the number of replicas needed and the time they stay; the histogram of idle times is in [`histogram`].
//!
//! Platforms with keep-alive start a replica for a request that finds none free. So the replicas needed are the
//! concurrency over the requests that one replica takes at once, and the greatest need within the keep-alive counts.
//! Both policies decide at each State.

pub mod histogram;

use std::time::Duration;

use qscale_common::contract::State;
use qscale_common::time::{Span, Timestamp, millis};
use qscale_common::units::{Allocation, Replicas};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inputs::{self, check_range, check_span, measured};
use crate::kpa::bucketing::Highest;
use crate::{Decision, HoldReason, Memory, Policy, Rule};
use histogram::{IdleTimes, KeepAliveWindows};

/// Parameters of a fixed keep-alive.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KeepAliveFixed {
    /// Time a replica stays after its last request, 1 s to 1 day.
    pub keep_alive: Span,
    /// Requests that one replica takes at once, 0.01 to 10,000.
    pub concurrency: f64,
}

/// Parameters of a keep-alive and prewarming by the distribution of idle times.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KeepAliveHistogram {
    /// Requests that one replica takes at once, 0.01 to 10,000.
    pub concurrency: f64,
    /// Percentile of idle times before which no request is expected, 0 to 1.
    pub head: f64,
    /// Percentile of idle times after which none is expected, 0 to 1.
    pub tail: f64,
    /// Share by which prewarming is earlier and keep-alive longer than these, 0 to 1.
    pub margin: f64,
    /// Coefficient of variation of the bin counts from which the histogram is used, 0 to 1000.
    pub representative: f64,
}

/// Memory of a keep-alive about one function.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct KeepAliveMemory {
    needs: Highest,
    busy_until: Option<Timestamp>,
    idle: IdleTimes,
}

impl Default for KeepAliveFixed {
    /// Ten minutes, as OpenWhisk and AWS Lambda; one request at a time.
    fn default() -> Self {
        Self { keep_alive: Span::seconds(600), concurrency: 1.0 }
    }
}

impl Default for KeepAliveHistogram {
    /// Constants of the public re-implementations; one request at a time.
    fn default() -> Self {
        Self { concurrency: 1.0, head: 0.05, tail: 0.99, margin: 0.1, representative: 2.0 }
    }
}

/// Demand for replicas in a State.
struct ReplicaDemand {
    now: Timestamp,
    replicas: u32,
    busy: bool,
}

/// Demand of the tick of `state`; `None` without a measurement of concurrency.
fn need(state: &State, concurrency: f64) -> Option<ReplicaDemand> {
    let in_flight = inputs::in_flight(state)?;
    let arrived = measured(state.windows.tick.rate_rps).unwrap_or(0.0) > 0.0;
    let busy = in_flight > 0.0 || arrived;
    let replicas = ((in_flight / concurrency).ceil() as u32).max(u32::from(busy));
    Some(ReplicaDemand { now: inputs::instant(state).plus(inputs::tick_length(state)), replicas, busy })
}

fn decide(state: &State, concurrency: f64, replicas: impl FnOnce(ReplicaDemand) -> (u32, String)) -> Decision {
    let Some(current) = state.allocation else {
        return Decision::hold(HoldReason::NoAllocation, "the current allocation is not known");
    };
    let Some(need) = need(state, concurrency) else {
        return Decision::hold(HoldReason::NoMeasurement, "requests in flight were not measured");
    };
    let (replicas, reason) = replicas(need);
    inputs::propose(state, current, Allocation { replicas: Replicas(replicas), ..current }, reason)
}

impl Policy for KeepAliveFixed {
    fn name(&self) -> &'static str {
        "keep-alive-fixed"
    }

    fn model(&self) -> String {
        format!("keep-alive-fixed/1 {} at {} a replica", self.keep_alive, self.concurrency)
    }

    fn lookback(&self) -> Option<Duration> {
        Some(self.keep_alive.0 * 2)
    }

    fn decide(&self, state: &State, memory: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        let memory = memory.of::<KeepAliveMemory>();
        decide(state, self.concurrency, |need| {
            // Sixty slots bound the memory for any length.
            let slot = millis(self.keep_alive.0).div_ceil(60).max(1);
            let replicas = memory.needs.record(need.now.0 / slot, need.replicas, 61);
            (replicas, format!("{} replicas needed now, {replicas} within {}", need.replicas, self.keep_alive))
        })
    }
}

impl Rule for KeepAliveFixed {
    fn check(&self) -> Result<(), String> {
        check_span("keep_alive", self.keep_alive, Span::seconds(1), Span::seconds(24 * 3600))?;
        check_range("concurrency", self.concurrency, 0.01, 10_000.0)
    }
}

impl Policy for KeepAliveHistogram {
    fn name(&self) -> &'static str {
        "keep-alive-histogram"
    }

    fn model(&self) -> String {
        format!("keep-alive-histogram/1 4h in minutes, at {} a replica", self.concurrency)
    }

    fn lookback(&self) -> Option<Duration> {
        Some(Self::HISTORY)
    }

    fn decide(&self, state: &State, memory: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        let memory = memory.of::<KeepAliveMemory>();
        decide(state, self.concurrency, |need| self.replicas(memory, &need))
    }
}

impl Rule for KeepAliveHistogram {
    fn check(&self) -> Result<(), String> {
        check_range("concurrency", self.concurrency, 0.01, 10_000.0)?;
        for (field, share) in [("head", self.head), ("tail", self.tail), ("margin", self.margin)] {
            check_range(field, share, 0.0, 1.0)?;
        }
        check_range("representative", self.representative, 0.0, 1000.0)
    }
}

impl KeepAliveHistogram {
    const MINUTE_MS: u64 = 60_000;
    /// A day of idle times fills the bins of any function that is called regularly.
    const HISTORY: Duration = Duration::from_secs(24 * 3600);

    fn replicas(&self, memory: &mut KeepAliveMemory, need: &ReplicaDemand) -> (u32, String) {
        let slot = need.now.0 / Self::MINUTE_MS;
        if need.busy {
            // Consecutive ticks leave no idle time; a gap is at least one tick.
            if let Some(until) = memory.busy_until.filter(|until| need.now.since(*until) >= Duration::from_millis(Self::MINUTE_MS)) {
                memory.idle.record(need.now.since(until));
            }
            memory.busy_until = Some(need.now);
        }
        let KeepAliveWindows { prewarm, keep_alive } = memory.idle.windows(self);
        let minutes = millis(keep_alive).div_ceil(Self::MINUTE_MS).clamp(1, IdleTimes::MINUTES as u64 * 2);
        let kept = memory.needs.record(slot, need.replicas, minutes + 1);
        let Some(until) = memory.busy_until else { return (kept, "no request was seen yet".into()) };
        let idle = need.now.since(until);
        let reason = format!("idle for {}, prewarmed after {}, kept until {}", Span(idle), Span(prewarm), Span(keep_alive));
        let replicas = match () {
            () if need.busy && prewarm.is_zero() => kept,
            () if need.busy => need.replicas,
            () if idle >= keep_alive => 0,
            () if prewarm.is_zero() => kept,
            () => u32::from(idle >= prewarm),
        };
        (replicas, reason)
    }
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::ReplicaCounts;
    use qscale_common::policy::Range;
    use qscale_common::time::Tick;

    use super::*;
    use crate::fixtures;

    /// Replicas after each minute, given the requests in flight.
    fn run(policy: &dyn Policy, in_flight: impl Fn(u64) -> f64, minutes: u64) -> Vec<u32> {
        let (mut memory, mut replicas) = (Memory::default(), 0);
        let played = (0..minutes).map(|minute| {
            let mut state =
                State { allocation: Some(Allocation::new(replicas, 500, 256)), tick: Tick(28_000_000 + minute), ..fixtures::state() };
            state.tick_length_ms = 60_000;
            state.bounds.replicas = Range::new(Replicas(0), Replicas(100)).expect("ordered");
            let all = Replicas(replicas);
            state.replicas = Some(ReplicaCounts::all(all));
            state.windows.tick.concurrency = (replicas > 0).then_some(0.0);
            state.windows.tick.queued = Some(in_flight(minute));
            let decision = policy.decide(&state, &mut memory, Timestamp(0), &mut fixtures::rng());
            replicas = decision.wanted().map_or(replicas, |wanted| wanted.replicas.0);
            replicas
        });
        played.collect()
    }

    #[test]
    fn fixed_keeps_the_highest_need_for_its_time() {
        let replicas = run(&KeepAliveFixed::default(), |minute| [3.2, 1.0].get(minute as usize).copied().unwrap_or(0.0), 20);
        assert_eq!(replicas[..2], [4, 4]);
        assert_eq!(replicas[9], 4);
        assert_eq!((replicas[11], replicas[12]), (1, 0), "{replicas:?}");
    }

    #[test]
    fn histogram_starts_again_before_the_request_that_comes_every_half_hour() {
        let replicas = run(&KeepAliveHistogram::default(), |minute| f64::from(u8::from(minute.is_multiple_of(30))), 30 * 40);
        let season = &replicas[30 * 30..30 * 31];
        assert_eq!((season[0], season[1], season[15]), (1, 0, 0), "unloaded at once: {season:?}");
        assert_eq!(season[28..], [1, 1], "started again after 0.9 x 30 min: {season:?}");
    }

    #[test]
    fn histogram_without_history_keeps_for_four_hours() {
        let replicas = run(&KeepAliveHistogram::default(), |minute| f64::from(u8::from(minute == 0)), 300);
        assert_eq!((replicas[0], replicas[239], replicas[240]), (1, 1, 0));
    }
}
