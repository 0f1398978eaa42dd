//! The policy `keda`: KEDA's operator between zero and one replica, and an HPA on the same trigger above. Owns the
//! operator and both control intervals; the HPA's arithmetic is in [`crate::hpa`].
//!
//! The trigger is read on demand, as by KEDA's metrics server, not through a metrics pipeline.

use std::time::Duration;

use qscale_common::contract::State;
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::{Allocation, Replicas};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::hpa::behavior::{Behavior, ReplicaBounds, ScalingHistory, normalize};
use crate::hpa::replica_calculator::{Calculator, Tolerance};
use crate::inputs::{self, Cadence, check_range, check_span, measured};
use crate::kpa::ScalingMetric;
use crate::{Decision, HoldReason, Memory, Policy, Rule, Timing};

/// Parameters of KEDA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Keda {
    /// Metric of the trigger, over the whole function.
    pub metric: ScalingMetric,
    /// Target of the metric for one replica, 0.001 to 1e6.
    pub threshold: f64,
    /// Value above which the trigger is active, 0 to 1e6.
    pub activation_threshold: f64,
    /// Time between polls of the operator, 1 s to 1 h.
    pub polling_interval: Span,
    /// Time after the last activity at which the function scales to zero, up to 1 day.
    pub cooldown_period: Span,
    /// Time after its creation at which a function that was never active scales to zero, up to 1 day.
    pub initial_cooldown_period: Span,
    /// Replicas while the trigger is inactive, below the minimum; if absent, zero where the bounds allow it.
    pub idle_replicas: Option<u32>,
    /// Fallback if the trigger cannot be read.
    pub fallback: Option<KedaFallback>,
    /// Time between decisions of the HPA, 1 s to 1 h.
    pub sync_period: Span,
    /// Rate limits and stabilization windows of the HPA; if absent, the rules from before the field existed.
    pub behavior: Option<Behavior>,
}

/// Fallback for a trigger that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "Fallback")]
pub struct KedaFallback {
    /// Consecutive failures after which it applies.
    pub failure_threshold: u32,
    /// Replicas of the fallback.
    pub replicas: u32,
    /// Combination with the current replicas.
    #[serde(default)]
    pub behavior: FallbackBehavior,
}

/// Combination of the fallback's replicas with the current ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FallbackBehavior {
    /// The fallback's.
    #[default]
    Static,
    /// The current replicas.
    CurrentReplicas,
    /// The greater of both.
    CurrentReplicasIfHigher,
    /// The smaller of both.
    CurrentReplicasIfLower,
}

impl KedaFallback {
    /// Substitute value of a metric with `threshold` for each replica, after `failures` consecutive failures; `None` up
    /// to the threshold of failures.
    #[must_use]
    pub fn value(&self, threshold: f64, failures: u32, current: u32) -> Option<f64> {
        let replicas = match self.behavior {
            FallbackBehavior::Static => self.replicas,
            FallbackBehavior::CurrentReplicas => current,
            FallbackBehavior::CurrentReplicasIfHigher => self.replicas.max(current),
            FallbackBehavior::CurrentReplicasIfLower => self.replicas.min(current),
        };
        (failures > self.failure_threshold).then_some(threshold * f64::from(replicas))
    }
}

/// Settings of the operator for a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operator {
    /// Minimum of replicas.
    pub min: u32,
    /// Replicas while inactive, if they differ from the minimum.
    pub idle: Option<u32>,
    /// Cooldown after the last activity.
    pub cooldown: Duration,
    /// Cooldown after the creation of a function that was never active.
    pub initial_cooldown: Duration,
    /// Annotations of the function.
    pub annotations: Annotations,
}

/// Annotations of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Annotations {
    /// Forbids scaling to zero or idle.
    pub pause_scale_in: bool,
    /// Forbids scaling from zero or idle.
    pub pause_scale_out: bool,
    /// Treats the triggers as active.
    pub force_activation: bool,
}

/// State of the triggers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// At least one is active.
    Active,
    /// None is.
    Inactive,
    /// None is, and one could not be read.
    Failed,
}

impl Operator {
    /// Replicas to scale to from `current`; `None` if the HPA decides or the cooldown lasts. With a `fallback` for
    /// failing triggers the HPA scales by the substitute value, so the operator does nothing, except that a fallback of
    /// zero replicas allows scaling to zero.
    #[must_use]
    pub fn scale(
        &self,
        trigger: Trigger,
        current: u32,
        fallback: Option<u32>,
        last_active: Option<Timestamp>,
        created: Timestamp,
        now: Timestamp,
    ) -> Option<u32> {
        let cooled = match last_active {
            Some(last) => now > last.plus(self.cooldown),
            None => now > created.plus(self.initial_cooldown),
        };
        let wakes = current == 0 || (self.idle.is_some() && current < self.min);
        let sleeps = self.idle.is_some_and(|idle| current > idle) || (current > 0 && self.min == 0);
        match trigger {
            _ if trigger == Trigger::Active || self.annotations.force_activation => {
                (wakes && !self.annotations.pause_scale_out).then_some(self.min.max(1))
            }
            Trigger::Failed if fallback != Some(0) => None,
            _ if sleeps => (cooled && !self.annotations.pause_scale_in).then_some(self.idle.unwrap_or(self.min)),
            _ => (current < self.min && self.idle.is_none()).then_some(self.min),
        }
    }
}

/// Memory of KEDA about one function.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct KedaMemory {
    poll: Cadence,
    sync: Cadence,
    created: Option<Timestamp>,
    last_active: Option<Timestamp>,
    failures: u32,
    history: ScalingHistory,
}

impl Default for Keda {
    /// KEDA's defaults. Triggers have none; 100 requests in flight is the default of its HTTP add-on.
    fn default() -> Self {
        Self {
            metric: ScalingMetric::Concurrency,
            threshold: 100.0,
            activation_threshold: 0.0,
            polling_interval: Span::seconds(30),
            cooldown_period: Span::seconds(300),
            initial_cooldown_period: Span::default(),
            idle_replicas: None,
            fallback: None,
            sync_period: Span::seconds(15),
            behavior: None,
        }
    }
}

impl Policy for Keda {
    fn name(&self) -> &'static str {
        "keda"
    }

    fn model(&self) -> String {
        let metric = match self.metric {
            ScalingMetric::Concurrency => "concurrency",
            ScalingMetric::Rps => "rps",
        };
        format!("keda/2.20 {metric} {} a replica, active above {}", self.threshold, self.activation_threshold)
    }

    fn lookback(&self) -> Option<Duration> {
        let cooldown = self.cooldown_period.max(self.initial_cooldown_period).max(self.polling_interval);
        let windows = self.behavior.as_ref().map_or(Self::STABILIZATION, |_| Behavior::MAX_WINDOW.0);
        Some(cooldown.0.max(windows) + (self.sync_period.0 + self.polling_interval.0) * 2)
    }

    /// The operator polls each 30 s (`pollingInterval`), the HPA syncs each 15 s; both read the trigger when they do
    /// (`useCachedMetrics` is off).
    fn timing(&self) -> Timing {
        Timing { tick: Some(self.sync_period.min(self.polling_interval)), metric_lag: Span::default() }
    }

    fn decide(&self, state: &State, memory: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        let (memory, now) = (memory.of::<KedaMemory>(), inputs::instant(state));
        let created = *memory.created.get_or_insert(now);
        let (polls, syncs) = (memory.poll.due(now, self.polling_interval), memory.sync.due(now, self.sync_period));
        if !polls && !syncs {
            return Cadence::hold(self.sync_period);
        }
        let Some(current_allocation) = state.allocation else {
            return Decision::hold(HoldReason::NoAllocation, "the current allocation is not known");
        };
        let value = self.value(state);
        // Failures count when the HPA asks for the metric, not at the operator's polls.
        memory.failures = match value {
            Some(_) => 0,
            None => memory.failures.saturating_add(u32::from(syncs)),
        };
        let value_or_fallback = value.or_else(|| self.fallback?.value(self.threshold, memory.failures, current_allocation.replicas.0));
        if polls && let Some(decision) = self.activate(state, current_allocation, value, memory, created, now) {
            return decision;
        }
        if syncs { self.across(state, current_allocation, value_or_fallback, memory, now) } else { Cadence::hold(self.sync_period) }
    }
}

impl Rule for Keda {
    fn check(&self) -> Result<(), String> {
        let (hour, day) = (Span::seconds(3600), Span::seconds(24 * 3600));
        check_range("threshold", self.threshold, 0.001, 1e6)?;
        check_range("activation_threshold", self.activation_threshold, 0.0, 1e6)?;
        check_span("polling_interval", self.polling_interval, Span::seconds(1), hour)?;
        check_span("cooldown_period", self.cooldown_period, Span::default(), day)?;
        check_span("initial_cooldown_period", self.initial_cooldown_period, Span::default(), day)?;
        check_span("sync_period", self.sync_period, Span::seconds(1), hour)?;
        self.behavior.as_ref().map_or(Ok(()), Behavior::check)
    }
}

impl Keda {
    fn value(&self, state: &State) -> Option<f64> {
        match self.metric {
            ScalingMetric::Concurrency => inputs::in_flight(state),
            ScalingMetric::Rps => measured(state.windows.tick.rate_rps),
        }
    }

    /// The operator's decision; `None` if it leaves the function to the HPA.
    fn activate(
        &self,
        state: &State,
        current_allocation: Allocation,
        value: Option<f64>,
        memory: &mut KedaMemory,
        created: Timestamp,
        now: Timestamp,
    ) -> Option<Decision> {
        let range = state.bounds.replicas;
        let trigger = match value {
            Some(value) if value > self.activation_threshold => Trigger::Active,
            Some(_) => Trigger::Inactive,
            None => Trigger::Failed,
        };
        if trigger == Trigger::Active {
            memory.last_active = Some(now);
        }
        let fallback = self.fallback.map(|fallback| fallback.replicas);
        let operator = Operator {
            min: range.min().0,
            idle: self.idle_replicas.filter(|idle| *idle < range.min().0),
            cooldown: self.cooldown_period.0,
            initial_cooldown: self.initial_cooldown_period.0,
            annotations: Annotations::default(),
        };
        let replicas = operator.scale(trigger, current_allocation.replicas.0, fallback, memory.last_active, created, now)?;
        let reason = match trigger {
            Trigger::Active => "the trigger is active",
            Trigger::Inactive => "the trigger was inactive for the cooldown period",
            Trigger::Failed => "the trigger cannot be read",
        };
        Some(inputs::propose(state, current_allocation, Allocation { replicas: Replicas(replicas), ..current_allocation }, reason.into()))
    }

    /// The HPA's decision: at least one replica, by the value of the whole function.
    fn across(
        &self,
        state: &State,
        current_allocation: Allocation,
        value: Option<f64>,
        memory: &mut KedaMemory,
        now: Timestamp,
    ) -> Decision {
        let (range, current) = (state.bounds.replicas, current_allocation.replicas.0);
        let limits = ReplicaBounds { min: range.min().0.max(1), max: range.max().0.max(1) };
        if current == 0 {
            return Decision::hold(HoldReason::NothingToDo, "the HPA is off at zero replicas");
        }
        let Some(value) = value else {
            return Decision::hold(HoldReason::NoMeasurement, "the trigger cannot be read");
        };
        memory.history.begin(current, now);
        let existing = inputs::counts(state).map_or(current, |counts| counts.ready.0.saturating_add(counts.pending.0));
        let milli = |value: f64| (value * 1000.0) as i64;
        let desired = self.calculator().average_value(existing, milli(value), milli(self.threshold)).replicas;
        let replicas = if current > limits.max || current < limits.min {
            current.clamp(limits.min, limits.max)
        } else {
            match &self.behavior {
                None => normalize(&mut memory.history, current, desired, Self::STABILIZATION, limits, now),
                Some(behavior) => behavior.normalize(&mut memory.history, current, desired, limits, now),
            }
        };
        if let Some(behavior) = &self.behavior {
            behavior.record(&mut memory.history, current, replicas, now);
        }
        let reason = format!("{value:.2} at {} a replica ask for {desired}", self.threshold);
        inputs::propose(state, current_allocation, Allocation { replicas: Replicas(replicas), ..current_allocation }, reason)
    }

    /// The HPA's calculator, with the tolerances that `behavior` sets.
    fn calculator(&self) -> Calculator {
        let default = Calculator::default();
        let Tolerance { up, down } = default.tolerance;
        let tolerance = self.behavior.as_ref().map_or(default.tolerance, |behavior| Tolerance {
            up: behavior.scale_up.tolerance.unwrap_or(up),
            down: behavior.scale_down.tolerance.unwrap_or(down),
        });
        Calculator { tolerance, ..default }
    }

    /// The HPA's downscale stabilization.
    const STABILIZATION: Duration = Duration::from_secs(300);
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::ReplicaCounts;
    use qscale_common::policy::Range;
    use qscale_common::time::Tick;

    use super::*;
    use crate::fixtures;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn operator(min: u32, idle: Option<u32>) -> Operator {
        Operator { min, idle, cooldown: Duration::from_secs(300), initial_cooldown: Duration::ZERO, annotations: Annotations::default() }
    }

    #[test]
    fn scale_scaled_objects() {
        let long_ago = NOW.minus(Duration::from_secs(600));
        let cases = [
            ("TestScaleToMinReplicasWhenNotActive", operator(0, None), Trigger::Inactive, 10, Some(0)),
            ("TestScaleToMinReplicasFromLowerInitialReplicaCount", operator(5, None), Trigger::Inactive, 1, Some(5)),
            ("TestScaleFromMinReplicasWhenActive", operator(0, None), Trigger::Active, 0, Some(1)),
            ("active from zero goes to the least", operator(3, None), Trigger::Active, 0, Some(3)),
            ("TestScaleToIdleReplicasWhenNotActive", operator(5, Some(0)), Trigger::Inactive, 10, Some(0)),
            ("TestScaleFromIdleToMinReplicasWhenActive", operator(5, Some(0)), Trigger::Active, 0, Some(5)),
            ("active above the least is the HPA's", operator(0, None), Trigger::Active, 7, None),
            ("inactive with a least is the HPA's", operator(2, None), Trigger::Inactive, 7, None),
            ("inactive at idle stays", operator(5, Some(2)), Trigger::Inactive, 2, None),
            ("inactive at zero stays", operator(0, None), Trigger::Inactive, 0, None),
            ("failed without fallback stays", operator(0, None), Trigger::Failed, 7, None),
        ];
        for (name, operator, trigger, current, expected) in cases {
            assert_eq!(operator.scale(trigger, current, None, Some(long_ago), long_ago, NOW), expected, "{name}");
        }
        let failed = |fallback| operator(0, None).scale(Trigger::Failed, 7, fallback, Some(long_ago), long_ago, NOW);
        assert_eq!(failed(Some(4)), None, "failed with fallback is the HPA's");
        assert_eq!(failed(Some(0)), Some(0), "a fallback to zero counts as inactive");
    }

    #[test]
    fn annotations() {
        let long_ago = NOW.minus(Duration::from_secs(600));
        let paused_in = Annotations { pause_scale_in: true, ..Annotations::default() };
        let paused_out = Annotations { pause_scale_out: true, ..Annotations::default() };
        let forced = Annotations { force_activation: true, ..Annotations::default() };
        let (active, inactive) = (Trigger::Active, Trigger::Inactive);
        let cases = [
            ("TestNoScaleToMinReplicasWhenNotActiveAndPauseScaleInAnnotationSet", operator(0, None), paused_in, inactive, 10, None),
            ("TestNoScaleToIdleReplicasWhenNotActiveAndPauseScaleInAnnotationSet", operator(5, Some(0)), paused_in, inactive, 10, None),
            ("TestScaleFromMinReplicasWhenActivationForced", operator(0, None), forced, inactive, 0, Some(1)),
            ("TestNoScaleFromMinReplicasWhenActiveAndPausedScaleOutAnnotationSet", operator(0, None), paused_out, active, 0, None),
            ("TestNoScaleFromIdleReplicasToMinReplicasWhenActiveAndPausedScaleOut", operator(5, Some(0)), paused_out, active, 0, None),
            ("TestEventWitTriggerInfo", operator(5, Some(0)), Annotations::default(), active, 2, Some(5)),
        ];
        for (name, operator, annotations, trigger, current, expected) in cases {
            let got = Operator { annotations, ..operator }.scale(trigger, current, None, Some(long_ago), long_ago, NOW);
            assert_eq!(got, expected, "{name}");
        }
    }

    #[test]
    fn cooldown() {
        let check = |last: Option<u64>, created: u64, initial: u64, expected| {
            let (ago, initial_cooldown) = (|seconds| NOW.minus(Duration::from_secs(seconds)), Duration::from_secs(initial));
            let operator = Operator { initial_cooldown, ..operator(0, None) };
            assert_eq!(
                operator.scale(Trigger::Inactive, 1, None, last.map(ago), ago(created), NOW),
                expected,
                "{last:?} {created} {initial}"
            );
        };
        check(Some(301), 600, 0, Some(0));
        check(Some(300), 600, 0, None);
        check(None, 1, 0, Some(0));
        check(None, 60, 120, None);
        check(None, 121, 120, Some(0));
    }

    #[test]
    fn fallback() {
        let value =
            |behavior, failures, current| KedaFallback { failure_threshold: 3, replicas: 10, behavior }.value(10.0, failures, current);
        assert_eq!(value(FallbackBehavior::Static, 4, 6), Some(100.0));
        assert_eq!(value(FallbackBehavior::Static, 3, 6), None);
        assert_eq!(value(FallbackBehavior::CurrentReplicas, 4, 6), Some(60.0));
        assert_eq!(value(FallbackBehavior::CurrentReplicasIfHigher, 4, 4), Some(100.0));
        assert_eq!(value(FallbackBehavior::CurrentReplicasIfHigher, 4, 15), Some(150.0));
        assert_eq!(value(FallbackBehavior::CurrentReplicasIfLower, 4, 6), Some(60.0));
        assert_eq!(value(FallbackBehavior::CurrentReplicasIfLower, 4, 15), Some(100.0));
    }

    /// Replicas after each tick of 5 s, given the requests in flight.
    fn run(policy: &Keda, mut replicas: u32, in_flight: impl Fn(u64) -> Option<f64>, ticks: u64) -> Vec<u32> {
        let mut memory = Memory::default();
        let played = (0..ticks).map(|tick| {
            let mut state =
                State { allocation: Some(Allocation::new(replicas, 500, 256)), tick: Tick(300_000_000 + tick), ..fixtures::state() };
            state.bounds.replicas = Range::new(Replicas(0), Replicas(100)).expect("ordered");
            let all = Replicas(replicas);
            state.replicas = Some(ReplicaCounts::all(all));
            state.windows.tick.concurrency = in_flight(tick).filter(|_| replicas > 0).map(|all| all / f64::from(replicas));
            state.windows.tick.queued = if replicas == 0 { in_flight(tick) } else { Some(0.0) };
            let decision = policy.decide(&state, &mut memory, Timestamp(0), &mut fixtures::rng());
            replicas = decision.wanted().map_or(replicas, |wanted| wanted.replicas.0);
            replicas
        });
        played.collect()
    }

    #[test]
    fn wakes_within_a_poll_and_sleeps_after_the_cooldown() {
        let replicas = run(&Keda::default(), 0, |tick| Some(if (3..20).contains(&tick) { 250.0 } else { 0.0 }), 120);
        assert_eq!(replicas[5..8], [0, 1, 1], "the second poll is at 30 s");
        assert_eq!(replicas[9], 3, "the next sync of the HPA");
        // Last seen active by the poll of tick 18; 300 s after it the poll of tick 78 is not yet later than that.
        assert_eq!((replicas[83], replicas[84]), (1, 0), "{replicas:?}");
    }

    #[test]
    fn holds_where_the_trigger_cannot_be_read_unless_there_is_a_fallback() {
        assert!(run(&Keda::default(), 4, |_| None, 60).iter().all(|replicas| *replicas == 4));
        let fallback = Some(KedaFallback { failure_threshold: 3, replicas: 6, behavior: FallbackBehavior::Static });
        assert_eq!(run(&Keda { fallback, ..Keda::default() }, 4, |_| None, 60).last(), Some(&6));
    }
}
