//! The policy `openfaas`: alert-driven scaling of the OpenFaaS community edition. Owns the alert and its steps.
//!
//! The alert is the shipped one: more than five requests a second of one function for a while. It is sent at each
//! interval while it fires, and once when it is resolved. The community edition does not scale to zero.

use std::time::Duration;

use qscale_common::contract::State;
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::{Allocation, Replicas};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inputs::{self, Cadence, check_range, check_span, measured};
use crate::{Decision, HoldReason, Memory, Policy, Rule, Timing};

/// Parameters of the alert and of scaling.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OpenFaas {
    /// Requests a second above which the alert fires, 0 to 1e6.
    pub rate_rps: f64,
    /// Time for which the rate must be above it, up to 1 h.
    pub pending: Span,
    /// Interval at which a firing alert is sent, 1 s to 1 h.
    pub interval: Span,
    /// Step size, percent of the greatest number of replicas, 0 to 100.
    pub factor: u32,
    /// Greatest number of replicas within the bounds, 1 to 10,000; by default the community edition's cap.
    pub max_replicas: u32,
}

/// Memory of the rule about one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenFaasMemory {
    cadence: Cadence,
    above_since: Option<Timestamp>,
    fired: bool,
}

impl Default for OpenFaas {
    fn default() -> Self {
        Self { rate_rps: 5.0, pending: Span::seconds(5), interval: Span::seconds(5), factor: 10, max_replicas: MAX_REPLICAS }
    }
}

/// Cap of the community edition.
pub const MAX_REPLICAS: u32 = 5;

/// Replicas after an alert that fires or is resolved, given `current` within `min` to `max`.
#[must_use]
pub fn replicas(firing: bool, current: u32, min: u32, max: u32, factor: u32) -> u32 {
    let step = (f64::from(max) / 100.0 * f64::from(factor)).ceil() as u32;
    if firing && step > 0 { current.saturating_add(step).min(max) } else { min }
}

impl Policy for OpenFaas {
    fn name(&self) -> &'static str {
        "openfaas"
    }

    fn model(&self) -> String {
        format!("openfaas/1 above {} rps, factor {}, at most {}", self.rate_rps, self.factor, self.max_replicas)
    }

    fn lookback(&self) -> Option<Duration> {
        Some((self.pending.0 + self.interval.0) * 2)
    }

    /// Prometheus evaluates and repeats the alert each 5 s (`evaluation_interval`, `group_interval` of the shipped configuration).
    fn timing(&self) -> Timing {
        Timing { tick: Some(self.interval), metric_lag: Span::default() }
    }

    fn decide(&self, state: &State, memory: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        let (memory, now) = (memory.of::<OpenFaasMemory>(), inputs::instant(state));
        let Some(current_allocation) = state.allocation else {
            return Decision::hold(HoldReason::NoAllocation, "the current allocation is not known");
        };
        let Some(rate) = measured(state.windows.tick.rate_rps) else {
            return Decision::hold(HoldReason::NoMeasurement, "no arrivals were measured in this tick");
        };
        memory.above_since = (rate > self.rate_rps).then(|| memory.above_since.unwrap_or(now));
        let firing = memory.above_since.is_some_and(|since| now.since(since) >= self.pending.0);
        let resolved = memory.fired && memory.above_since.is_none();
        if !firing && !resolved {
            return Decision::hold(HoldReason::NothingToDo, format!("{rate:.1} requests a second raise no alert"));
        }
        if !memory.cadence.due(now, self.interval) {
            return Cadence::hold(self.interval);
        }
        memory.fired = firing;
        let range = state.bounds.replicas;
        let (min, max) = (range.min().0.max(1), range.max().0.min(self.max_replicas));
        let wanted = Replicas(replicas(firing, current_allocation.replicas.0, min, max.max(min), self.factor));
        let word = if firing { "fires" } else { "is resolved" };
        inputs::propose(
            state,
            current_allocation,
            Allocation { replicas: wanted, ..current_allocation },
            format!("the alert {word} at {rate:.1} requests a second"),
        )
    }
}

impl Rule for OpenFaas {
    fn check(&self) -> Result<(), String> {
        check_range("rate_rps", self.rate_rps, 0.0, 1e6)?;
        check_span("pending", self.pending, Span::default(), Span::seconds(3600))?;
        check_span("interval", self.interval, Span::seconds(1), Span::seconds(3600))?;
        check_range("factor", f64::from(self.factor), 0.0, 100.0)?;
        check_range("max_replicas", f64::from(self.max_replicas), 1.0, 10_000.0)
    }
}

#[cfg(test)]
mod tests {
    use qscale_common::time::Tick;

    use super::*;
    use crate::fixtures;

    #[test]
    fn alert_handler() {
        // A configured maximum counts up to the edition's own.
        let cases = [
            ("TestDisabledScale", (true, 1, 1, 5, 0), 1),
            ("TestParameterEdge", (true, 1, 0, 5, 0), 0),
            ("TestScaling_SameUpperLowerLimit", (true, 5, 5, 5, 10), 5),
            ("TestMaxScale", (true, 1, 1, 10, 100), 5),
            ("TestInitialScale_From1_Factor10", (true, 1, 1, 5, 10), 2),
            ("TestScale_midrange_factor25", (true, 4, 1, 5, 25), 5),
            ("TestScale_Ceiling_IsDefaultMaxReplicas", (true, 5, 1, 5, 10), 5),
            ("TestScaleCeilingReplicasOver", (true, 19, 1, 5, 10), 5),
            ("TestBackingOff", (false, 8, 1, 5, 10), 1),
            ("TestScaledUpFrom1", (true, 1, 1, 5, 30), 3),
            ("TestScaledUpWithSmallParam", (true, 1, 1, 4, 1), 2),
        ];
        for (name, (firing, current, min, max, factor), expected) in cases {
            assert_eq!(replicas(firing, current, min, max.min(MAX_REPLICAS), factor), expected, "{name}");
        }
    }

    #[test]
    fn an_alert_takes_a_step_each_time_it_goes_out_and_goes_back_at_once() {
        let (mut memory, mut current_allocation, mut seen) = (Memory::default(), 1, Vec::new());
        for tick in 0..10 {
            let mut state =
                State { allocation: Some(Allocation::new(current_allocation, 500, 256)), tick: Tick(1000 + tick), ..fixtures::state() };
            state.windows.tick.rate_rps = Some(if (2..6).contains(&tick) { 9.0 } else { 1.0 });
            let decision = OpenFaas::default().decide(&state, &mut memory, Timestamp(0), &mut fixtures::rng());
            current_allocation = decision.wanted().map_or(current_allocation, |wanted| wanted.replicas.0);
            seen.push(current_allocation);
        }
        assert_eq!(seen, [1, 1, 1, 2, 3, 4, 1, 1, 1, 1]);
    }
}
