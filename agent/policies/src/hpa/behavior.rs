//! Stabilization windows and rate limits of the HPA. Owns the history that they need; must not read metrics.

use std::time::Duration;

use qscale_common::time::{Span, Timestamp, millis};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// The field `behavior` of an HPA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Behavior {
    /// Rules for scaling up.
    #[serde(deserialize_with = "up")]
    pub scale_up: ScalingRules,
    /// Rules for scaling down.
    #[serde(deserialize_with = "down")]
    pub scale_down: ScalingRules,
}

/// Rules of one direction. Absent fields have the API's defaults of that direction.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ScalingRules {
    /// Window whose most conservative recommendation counts, at most 1 h.
    pub stabilization_window: Span,
    /// Selection among several policies.
    pub select_policy: Select,
    /// Limits of the change within a period; at least one.
    pub policies: Vec<RatePolicy>,
    /// Tolerated deviation of the ratio from 1; the HPA's own tolerance if absent.
    pub tolerance: Option<f64>,
}

/// Partially specified rules.
#[derive(Deserialize)]
struct PartialRules {
    stabilization_window: Option<Span>,
    select_policy: Option<Select>,
    policies: Option<Vec<RatePolicy>>,
    tolerance: Option<f64>,
}

impl PartialRules {
    fn over(self, default: ScalingRules) -> ScalingRules {
        ScalingRules {
            stabilization_window: self.stabilization_window.unwrap_or(default.stabilization_window),
            select_policy: self.select_policy.unwrap_or(default.select_policy),
            policies: self.policies.unwrap_or(default.policies),
            tolerance: self.tolerance,
        }
    }
}

fn up<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ScalingRules, D::Error> {
    Ok(PartialRules::deserialize(deserializer)?.over(Behavior::default().scale_up))
}

fn down<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ScalingRules, D::Error> {
    Ok(PartialRules::deserialize(deserializer)?.over(Behavior::default().scale_down))
}

/// Selection among several policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The policy that allows the greatest change.
    #[default]
    Max,
    /// The policy that allows the smallest change.
    Min,
    /// No change at all.
    Disabled,
}

/// Limit of the change within a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RatePolicy {
    /// Unit of `value`.
    pub kind: RateKind,
    /// Pods or percent, at least 1.
    pub value: u32,
    /// The period, 1 s to 30 min.
    pub period: Span,
}

/// Unit of a rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RateKind {
    /// Pods.
    Pods,
    /// Percent of the pods at the period's start.
    Percent,
}

/// Bounds of the replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaBounds {
    /// Minimum.
    pub min: u32,
    /// Maximum, not below the minimum.
    pub max: u32,
}

/// Past recommendations and scaling events, as far back as the windows need.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScalingHistory {
    recommendations: Vec<ScaleEvent>,
    ups: Vec<ScaleEvent>,
    downs: Vec<ScaleEvent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ScaleEvent {
    at: Timestamp,
    replicas: u32,
}

impl Default for Behavior {
    /// The API's defaults of an empty `behavior`: up by 100 % or 4 pods in 15 s without delay, down by any number after 300 s.
    fn default() -> Self {
        let policy = |kind, value| RatePolicy { kind, value, period: Span::seconds(15) };
        Self {
            scale_up: ScalingRules::new(0, [policy(RateKind::Percent, 100), policy(RateKind::Pods, 4)]),
            scale_down: ScalingRules::new(300, [policy(RateKind::Percent, 100)]),
        }
    }
}

impl Behavior {
    /// Longest stabilization window that the API accepts.
    pub const MAX_WINDOW: Span = Span::seconds(3600);
    /// Longest period of a policy that the API accepts.
    pub const MAX_PERIOD: Span = Span::seconds(1800);

    /// Refuses what the API would refuse.
    ///
    /// # Errors
    /// Names the field, its value and its range.
    pub fn check(&self) -> Result<(), String> {
        for (name, rules) in [("scale_up", &self.scale_up), ("scale_down", &self.scale_down)] {
            rules.check().map_err(|error| format!("behavior.{name}.{error}"))?;
        }
        Ok(())
    }

    /// Replicas to request if the metrics ask for `desired` and `current` run, within `limits`.
    pub fn normalize(&self, history: &mut ScalingHistory, current: u32, desired: u32, limits: ReplicaBounds, now: Timestamp) -> u32 {
        let stabilized = self.stabilize(history, current, desired, now);
        self.limit(history, current, stabilized, limits, now)
    }

    /// `current`, moved to the most conservative recommendations of both windows. Records the unlimited recommendation.
    fn stabilize(&self, history: &mut ScalingHistory, current: u32, desired: u32, now: Timestamp) -> u32 {
        let within = |rules: &ScalingRules| {
            let window = rules.stabilization_window.0;
            history.recommendations.iter().filter(move |entry| now.since(entry.at) < window).map(|entry| entry.replicas)
        };
        let up = within(&self.scale_up).fold(desired, u32::min);
        let down = within(&self.scale_down).fold(desired, u32::max);
        let longest = self.scale_up.stabilization_window.max(self.scale_down.stabilization_window);
        history.recommend(desired, now, longest.0);
        let raised = current.max(up);
        if raised > down { down } else { raised }
    }

    /// `desired`, as far as rate limits and `limits` allow.
    #[must_use]
    pub fn limit(&self, history: &ScalingHistory, current: u32, desired: u32, limits: ReplicaBounds, now: Timestamp) -> u32 {
        if desired > current {
            desired.min(self.up_limit(history, current, now).max(i64::from(current)).min(i64::from(limits.max)) as u32)
        } else if desired < current {
            desired.max(self.down_limit(history, current, now).min(i64::from(current)).max(i64::from(limits.min)) as u32)
        } else {
            desired
        }
    }

    fn up_limit(&self, history: &ScalingHistory, current: u32, now: Timestamp) -> i64 {
        let proposals = self.scale_up.policies.iter().map(|policy| {
            let start = history.at_period_start(current, policy.period.0, now);
            match policy.kind {
                RateKind::Pods => start + i64::from(policy.value),
                RateKind::Percent => (start as f64 * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i64,
            }
        });
        match self.scale_up.select_policy {
            Select::Disabled => Some(i64::from(current)),
            Select::Max => proposals.max(),
            Select::Min => proposals.min(),
        }
        .unwrap_or(i64::from(current))
    }

    /// Scaling down, the policy with the smallest change gives the highest limit.
    fn down_limit(&self, history: &ScalingHistory, current: u32, now: Timestamp) -> i64 {
        let proposals = self.scale_down.policies.iter().map(|policy| {
            let start = history.at_period_start(current, policy.period.0, now);
            match policy.kind {
                RateKind::Pods => start - i64::from(policy.value),
                RateKind::Percent => (start as f64 * (1.0 - f64::from(policy.value) / 100.0)) as i64,
            }
        });
        match self.scale_down.select_policy {
            Select::Disabled => Some(i64::from(current)),
            Select::Max => proposals.min(),
            Select::Min => proposals.max(),
        }
        .unwrap_or(i64::from(current))
    }

    /// Records a request of `to` replicas instead of `from`.
    pub fn record(&self, history: &mut ScalingHistory, from: u32, to: u32, now: Timestamp) {
        let events = if to > from { &mut history.ups } else { &mut history.downs };
        // Events of one direction also count in the periods of the other.
        let longest =
            self.scale_up.policies.iter().chain(&self.scale_down.policies).map(|policy| policy.period.0).max().unwrap_or_default();
        if from != to {
            ScalingHistory::push(events, ScaleEvent { at: now, replicas: from.abs_diff(to) }, longest);
        }
    }
}

impl ScalingRules {
    fn new<const N: usize>(window_s: u64, policies: [RatePolicy; N]) -> Self {
        Self { stabilization_window: Span::seconds(window_s), select_policy: Select::Max, policies: policies.into(), tolerance: None }
    }

    fn check(&self) -> Result<(), String> {
        if self.stabilization_window > Behavior::MAX_WINDOW {
            return Err(format!("stabilization_window = {}, must be at most {}", self.stabilization_window, Behavior::MAX_WINDOW));
        }
        if self.policies.is_empty() || self.policies.len() > 16 {
            return Err(format!("policies = {} of them, must be 1 to 16", self.policies.len()));
        }
        for (index, RatePolicy { value, period, .. }) in self.policies.iter().enumerate() {
            if *value == 0 {
                return Err(format!("policies[{index}].value = 0, must be at least 1"));
            }
            if !(Span::seconds(1)..=Behavior::MAX_PERIOD).contains(period) {
                return Err(format!("policies[{index}].period = {period}, must be 1s to {}", Behavior::MAX_PERIOD));
            }
        }
        match self.tolerance {
            Some(tolerance) if !(0.0..=1.0).contains(&tolerance) => Err(format!("tolerance = {tolerance}, must be from 0 to 1")),
            _ => Ok(()),
        }
    }
}

/// Replicas to request without `behavior`: the highest recommendation of `window`, at most twice `current` or 4, within `limits`.
pub fn normalize(history: &mut ScalingHistory, current: u32, desired: u32, window: Duration, limits: ReplicaBounds, now: Timestamp) -> u32 {
    let stabilized =
        history.recommendations.iter().filter(|entry| now.since(entry.at) <= window).map(|entry| entry.replicas).fold(desired, u32::max);
    history.recommend(desired, now, window);
    convert(current, stabilized, limits)
}

/// `desired`, at most twice `current` or 4, within `limits`.
#[must_use]
pub fn convert(current: u32, desired: u32, limits: ReplicaBounds) -> u32 {
    let most = current.saturating_mul(2).max(4).min(limits.max);
    if desired < limits.min { limits.min } else { desired.min(most) }
}

impl ScalingHistory {
    /// Greatest number of entries, for any windows: an hour of decisions each second.
    const MAX_VALUE: usize = 3600;

    /// Records `replicas` as recommended if the history is empty, so that a restarted HPA does not scale down at once.
    pub fn begin(&mut self, replicas: u32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push(ScaleEvent { at: now, replicas });
        }
    }

    fn recommend(&mut self, replicas: u32, now: Timestamp, keep: Duration) {
        Self::push(&mut self.recommendations, ScaleEvent { at: now, replicas }, keep);
    }

    fn push(entries: &mut Vec<ScaleEvent>, entry: ScaleEvent, keep: Duration) {
        entries.retain(|known| entry.at.0.saturating_sub(known.at.0) <= millis(keep));
        if entries.len() >= Self::MAX_VALUE {
            entries.remove(0);
        }
        entries.push(entry);
    }

    /// Replicas at the start of the period that ends now.
    fn at_period_start(&self, current: u32, period: Duration, now: Timestamp) -> i64 {
        i64::from(current) + self.changed_within(period, now)
    }

    /// Replicas removed less replicas added within `period` before `now`.
    #[must_use]
    pub fn changed_within(&self, period: Duration, now: Timestamp) -> i64 {
        let sum = |events: &[ScaleEvent]| -> i64 {
            events.iter().filter(|event| now.since(event.at) < period).map(|event| i64::from(event.replicas)).sum()
        };
        sum(&self.downs) - sum(&self.ups)
    }

    /// Number of recorded recommendations.
    #[must_use]
    pub fn recommended(&self) -> usize {
        self.recommendations.len()
    }

    /// A history of given recommendations, additions and removals with their times, for tests.
    #[must_use]
    pub fn of(recommendations: &[(Timestamp, u32)], ups: &[(Timestamp, u32)], downs: &[(Timestamp, u32)]) -> Self {
        let entries = |list: &[(Timestamp, u32)]| list.iter().map(|(at, replicas)| ScaleEvent { at: *at, replicas: *replicas }).collect();
        Self { recommendations: entries(recommendations), ups: entries(ups), downs: entries(downs) }
    }
}
