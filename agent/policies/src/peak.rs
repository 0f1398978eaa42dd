//! The policies `peak`, `peak-vertical` and `peak-both`: provide the highest demand of a window, times a margin. Own that choice; the demand is estimated by
//! [`History`] and the allocation made by [`DemandSizing`].
//!
//! They are the strongest simple rules that we know: they scale up within a tick, since a higher demand is a new peak, and down when the window has passed. The
//! demand is the arrival rate times the CPU time of a request, so that it is known while replicas are saturated. They know the future no better than any rule,
//! and pay for a peak as long as the window lasts.

use std::time::Duration;

use qscale_common::contract::State;
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::{Allocation, Replicas};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::history::{History, waiting_rps};
use crate::inputs::{self, check_range, check_span, measured};
use crate::sizing::{DemandSizing, EstimatedDemand, fitted_memory};
use crate::{Decision, HoldReason, Memory, Policy, Rule, Scope};

/// Parameters of the rule.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Peak {
    /// The parts that are scaled; set by the policy's name.
    #[serde(skip)]
    pub scope: Scope,
    /// Time for which a peak counts, in whole minutes, 1 min to 4 h.
    pub window: Span,
    /// Factor of the peak that is provided, 0.1 to 100.
    pub margin: f64,
}

impl Default for Peak {
    /// A quarter of an hour and 15 %, as the default action of the learned policy.
    fn default() -> Self {
        Self { scope: Scope::Horizontal, window: Span::seconds(15 * 60), margin: 1.15 }
    }
}

impl Policy for Peak {
    fn name(&self) -> &'static str {
        self.scope.choose(["peak", "peak-vertical", "peak-both"])
    }

    fn model(&self) -> String {
        format!("{}/1 {} x {}", self.name(), self.window, self.margin)
    }

    fn lookback(&self) -> Option<Duration> {
        Some(self.window.0 + Duration::from_secs(60))
    }

    fn decide(&self, state: &State, memory: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        let history = memory.of::<History>();
        history.add(state);
        let Some(current) = state.allocation else {
            return Decision::hold(HoldReason::NoAllocation, "the current allocation is not known");
        };
        let windows = &state.windows;
        if measured(windows.tick.rate_rps).or(measured(windows.short.rate_rps)).is_none() {
            return Decision::hold(HoldReason::NoMeasurement, "arrivals were not measured");
        }
        let (summary, (rate, concurrency)) = (history.summary(), history.peaks(self.window.0));
        let level = summary.rate.level.max(0.0);
        let now = level + waiting_rps(state, inputs::in_flight(state).unwrap_or(0.0), level);
        let demand = match summary.request_seconds {
            _ if rate.max(now) == 0.0 && concurrency == 0.0 => EstimatedDemand::default(),
            None => return Decision::hold(HoldReason::NoMeasurement, "the CPU time of a request is not known yet"),
            Some(seconds) => EstimatedDemand {
                cores: (rate.max(now) * seconds * self.margin).min(MAX_CORES),
                // A replica that was full once was enough for the peak then.
                full: summary.limit.map_or(0.0, |limit| concurrency / limit.max(0.01) - 0.05).clamp(0.0, MAX_CORES),
            },
        };
        let memory_mib = if self.scope == Scope::Horizontal { current.memory_mib } else { fitted_memory(state, current.memory_mib) };
        let sized = Allocation { memory_mib, ..current };
        let sizing = DemandSizing { state, current: sized, request_seconds: summary.request_seconds, idle: Replicas(0), scope: self.scope };
        let Some(wanted) = sizing.provide(demand) else {
            return Decision::hold(HoldReason::NotAllowed, "there is no replica to resize");
        };
        let reason = format!("{:.2} cores for the peak of {}: {:.1} requests a second", demand.cores, self.window, rate.max(now));
        inputs::propose(state, current, wanted, reason)
    }
}

/// Far above any demand, and low enough that products stay finite.
const MAX_CORES: f64 = 1e9;

impl Rule for Peak {
    fn named(self, name: &str) -> Self {
        Self { scope: Scope::of_rule(name), ..self }
    }

    fn check(&self) -> Result<(), String> {
        check_span("window", self.window, Span::seconds(60), Span(History::REACH))?;
        check_range("margin", self.margin, 0.1, 100.0)
    }
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::Usage;
    use qscale_common::time::Tick;

    use super::*;
    use crate::fixtures;

    /// A minute at `rate` requests a second of 10 ms of CPU each, on `current`.
    fn minute(number: u64, rate: f64, current: Allocation) -> State {
        let mut state = State { tick: Tick(100 + number), tick_length_ms: 60_000, allocation: Some(current), ..fixtures::state() };
        let cpu = rate * 10.0 / f64::from(current.replicas.0.max(1));
        for window in [&mut state.windows.tick, &mut state.windows.short, &mut state.windows.long] {
            (window.covered_ms, window.rate_rps, window.completed_rps) = (60_000, Some(rate), Some(rate));
            window.cpu_millicores = Some(Usage { mean: cpu, max: cpu });
            window.memory_mib = Some(Usage { mean: 100.0, max: 100.0 });
            (window.concurrency, window.queued) = (Some(0.0), Some(0.0));
        }
        state
    }

    /// The allocation after each minute of `rates`.
    fn run(rule: Peak, rates: &[f64], start: Allocation) -> Vec<Allocation> {
        let (mut memory, mut current) = (Memory::default(), start);
        let step = |(number, rate): (u64, &f64)| {
            let state = minute(number, *rate, current);
            let decision = rule.decide(&state, &mut memory, Timestamp(0), &mut fixtures::rng());
            current = decision.wanted().unwrap_or(current);
            current
        };
        (0..).zip(rates).map(step).collect()
    }

    #[test]
    fn a_peak_counts_at_once_and_until_its_window_has_passed() {
        let rule = Peak { window: Span::seconds(180), margin: 1.5, ..Peak::default() };
        let replicas = |rates: &[f64]| run(rule, rates, Allocation::new(2, 500, 200)).iter().map(|a| a.replicas.0).collect::<Vec<_>>();
        // 50 requests a second take half a core; with the margin 0.75, two replicas of half a core.
        assert_eq!(replicas(&[50.0, 100.0, 50.0, 50.0, 50.0, 50.0]), [2, 3, 3, 3, 3, 2]);
    }

    #[test]
    fn each_scope_changes_its_part() {
        let last = |scope| *run(Peak { scope, ..Peak::default() }, &[50.0, 200.0], Allocation::new(2, 500, 900)).last().expect("two");
        let (across, along, both) = (last(Scope::Horizontal), last(Scope::Vertical), last(Scope::Joint));
        assert_eq!(across, Allocation::new(5, 500, 900));
        assert_eq!((along.replicas, along.memory_mib.0), (Replicas(2), 150));
        assert_eq!(along.cpu_millicores.0, 1000, "the greatest allowed");
        assert_eq!((both.replicas.0, both.memory_mib.0), (3, 150));
    }
}
