//! The policy `target-tracking`: keep the CPU use of replicas at a target, and at least as many replicas as this hour needed before, as cloud providers sell it. Owns
//! the alarms and the schedule.
//!
//! Capacity follows the target in proportion once the metric was above it for some periods, and comes back after more of them, as AWS Application Auto Scaling
//! documents its target tracking: an alarm of 3 periods of a minute above the target, and one of 15 below 90 % of it. The schedule stands for scheduled and
//! predictive scaling: the replicas that the target required in the same hour of the day before and of the week before are the least.

use std::time::Duration;

use qscale_common::contract::State;
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::{Allocation, Replicas};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inputs::{self, Cadence, Meter, check_range, check_span};
use crate::{Decision, HoldReason, Memory, Policy, Rule, Timing};

/// Parameters of the rule.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TargetTracking {
    /// Mean CPU use of a replica that is kept, percent of its limit, 1 to 1000.
    pub cpu_utilization: f64,
    /// Length of a period of the metric, 1 s to 1 h.
    pub period: Span,
    /// Periods above the target before replicas are added, 1 to 1000.
    pub out_periods: u32,
    /// Periods below 90 % of the target before replicas are removed, 1 to 1000.
    pub in_periods: u32,
    /// Whether the replicas that the same hour required yesterday and a week ago are the least.
    pub schedule: bool,
    /// Time before an hour at which its replicas start, up to 1 h.
    pub lead: Span,
}

/// Memory of the rule about one function.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TargetTrackingMemory {
    cadence: Cadence,
    cpu: Meter,
    above: u32,
    below: u32,
    /// Most replicas that each hour required, with the number of the hour since 1970, the newest last.
    hours: Vec<(u64, u32)>,
}

const HOUR_MS: u64 = 3_600_000;
const DAY: u64 = 24;
const WEEK: u64 = 7 * DAY;
/// Share of the target below which use counts as low.
const LOW: f64 = 0.9;

impl Default for TargetTracking {
    /// The alarms of AWS, and half of the CPU as the target.
    fn default() -> Self {
        Self { cpu_utilization: 50.0, period: Span::seconds(60), out_periods: 3, in_periods: 15, schedule: true, lead: Span::seconds(300) }
    }
}

impl Policy for TargetTracking {
    fn name(&self) -> &'static str {
        "target-tracking"
    }

    fn model(&self) -> String {
        let schedule = if self.schedule { ", scheduled" } else { "" };
        format!("target-tracking/1 cpu {}%, {} and {} x {}{schedule}", self.cpu_utilization, self.out_periods, self.in_periods, self.period)
    }

    fn lookback(&self) -> Option<Duration> {
        let periods = self.period.0.saturating_mul(self.in_periods.max(self.out_periods) + 1);
        let scheduled = Duration::from_millis((WEEK + 1) * HOUR_MS);
        Some(if self.schedule { periods.max(scheduled) } else { periods })
    }

    /// A period of the metric is read when it has ended.
    fn timing(&self) -> Timing {
        Timing { tick: Some(self.period), metric_lag: self.period }
    }

    fn decide(&self, state: &State, memory: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        let (memory, now) = (memory.of::<TargetTrackingMemory>(), inputs::instant(state));
        memory.cpu.add(now, inputs::tick_length(state), state.windows.tick.cpu_millicores.map(|usage| usage.mean), self.period);
        if !memory.cadence.due(now, self.period) {
            return Cadence::hold(self.period);
        }
        let Some(current) = state.allocation else {
            return Decision::hold(HoldReason::NoAllocation, "the current allocation is not known");
        };
        let Some(read) = memory.cpu.read(now, self.period) else {
            return Decision::hold(HoldReason::NoMeasurement, "no CPU measurement in the last period");
        };
        let use_percent = read.mean / f64::from(current.cpu_millicores.0.max(1)) * 100.0;
        let ready = inputs::counts(state).map_or(0, |counts| counts.ready.0);
        let required = (f64::from(ready) * use_percent / self.cpu_utilization - 1e-9).ceil().clamp(1.0, 1e6) as u32;
        memory.record(now, required);
        memory.above = if use_percent > self.cpu_utilization { memory.above.saturating_add(1) } else { 0 };
        memory.below = if use_percent < self.cpu_utilization * LOW { memory.below.saturating_add(1) } else { 0 };
        let (wanted, mut reason) = match () {
            () if memory.above >= self.out_periods => (required.max(current.replicas.0), "above the target"),
            () if memory.below >= self.in_periods => (required.min(current.replicas.0), "below the target"),
            () => (current.replicas.0, "no alarm"),
        };
        let least = if self.schedule { memory.scheduled(now, self.lead) } else { 0 };
        if least > wanted {
            reason = "scheduled";
        }
        let wanted = Allocation { replicas: Replicas(wanted.max(least)), ..current };
        inputs::propose(state, current, wanted, format!("{reason}: {use_percent:.0} % CPU, {required} replicas are required"))
    }
}

impl TargetTrackingMemory {
    fn record(&mut self, now: Timestamp, required: u32) {
        let hour = now.0 / HOUR_MS;
        match self.hours.last_mut() {
            Some((last, most)) if *last == hour => *most = required.max(*most),
            _ => self.hours.push((hour, required)),
        }
        self.hours.retain(|(at, _)| *at <= hour && *at + WEEK + 1 >= hour);
    }

    /// Replicas that this hour, or the one that begins within `lead`, required a day and a week before.
    fn scheduled(&self, now: Timestamp, lead: Span) -> u32 {
        let hours = [now, now.plus(lead.0)].map(|at| at.0 / HOUR_MS);
        let before = |at: u64| hours.iter().any(|hour| at + DAY == *hour || at + WEEK == *hour);
        self.hours.iter().filter(|(at, _)| before(*at)).map(|(_, required)| *required).max().unwrap_or(0)
    }
}

impl Rule for TargetTracking {
    fn check(&self) -> Result<(), String> {
        check_range("cpu_utilization", self.cpu_utilization, 1.0, 1000.0)?;
        check_span("period", self.period, Span::seconds(1), Span::seconds(3600))?;
        check_range("out_periods", f64::from(self.out_periods), 1.0, 1000.0)?;
        check_range("in_periods", f64::from(self.in_periods), 1.0, 1000.0)?;
        check_span("lead", self.lead, Span::default(), Span::seconds(3600))
    }
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::Usage;
    use qscale_common::time::Tick;

    use super::*;
    use crate::fixtures;

    /// Replicas after each minute in which all replicas together use `cores`, from the given minute on.
    fn run(rule: TargetTracking, memory: &mut Memory, from: u64, cores: &[f64]) -> Vec<u32> {
        let mut current = Allocation::new(2, 1000, 256);
        let step = |(minute, cores): (u64, &f64)| {
            let mut state = State { tick: Tick(minute), tick_length_ms: 60_000, allocation: Some(current), ..fixtures::state() };
            let each = cores * 1000.0 / f64::from(current.replicas.0);
            state.windows.tick.cpu_millicores = Some(Usage { mean: each, max: each });
            state.replicas = None;
            let decision = rule.decide(&state, memory, Timestamp(0), &mut fixtures::rng());
            current = decision.wanted().unwrap_or(current);
            current.replicas.0
        };
        (from..).zip(cores).map(step).collect()
    }

    #[test]
    fn replicas_follow_the_target_after_the_periods_of_an_alarm() {
        let rule = TargetTracking { in_periods: 4, schedule: false, ..TargetTracking::default() };
        let cores = [&[2.0; 5][..], &[0.9; 6]].concat();
        assert_eq!(run(rule, &mut Memory::default(), 10, &cores), [2, 2, 4, 4, 4, 4, 4, 4, 2, 2, 2]);
    }

    #[test]
    fn an_hour_begins_with_the_replicas_it_required_before() {
        let rule = TargetTracking::default();
        let mut memory = Memory::default();
        let hour = 30 * 60;
        run(rule, &mut memory, hour, &[2.0; 5]);
        for days in [1, 7] {
            let begin = hour + days * 24 * 60;
            let replicas = run(rule, &mut memory, begin - 8, &[0.9; 10]);
            assert_eq!((replicas[0], replicas[9]), (2, 4), "after {days} days");
            // What this hour requires is not what it was given.
            assert_eq!(memory.of::<TargetTrackingMemory>().hours.last().map(|(_, required)| *required), Some(2));
        }
        assert_eq!(run(rule, &mut memory, hour + 3 * 24 * 60, &[0.9; 3]), [2, 2, 2]);
    }
}
