//! From what the metrics ask for to what is asked of the platform: the HPA's stabilisation and limits of rate. Owns the history that they need.

use std::time::Duration;

use qscale_common::time::{Span, Timestamp, millis};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// How fast and how steadily is scaled: the field `behavior` of an HPA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Behavior {
    /// Upwards.
    #[serde(deserialize_with = "up")]
    pub scale_up: Rules,
    /// Downwards.
    #[serde(deserialize_with = "down")]
    pub scale_down: Rules,
}

/// How fast and how steadily is scaled in one direction. What is not told is as the API fills it in for that direction.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Rules {
    /// The mildest recommendation of this long counts, at most 1 h.
    pub stabilization_window: Span,
    /// Which of several policies counts.
    pub select_policy: Select,
    /// What may change within a period; at least one.
    pub policies: Vec<RatePolicy>,
    /// How far the ratio may lie from 1 without an answer; the HPA's own tolerance where absent.
    pub tolerance: Option<f64>,
}

/// Rules of which some are told.
#[derive(Deserialize)]
struct Told {
    stabilization_window: Option<Span>,
    select_policy: Option<Select>,
    policies: Option<Vec<RatePolicy>>,
    tolerance: Option<f64>,
}

impl Told {
    fn over(self, default: Rules) -> Rules {
        Rules {
            stabilization_window: self.stabilization_window.unwrap_or(default.stabilization_window),
            select_policy: self.select_policy.unwrap_or(default.select_policy),
            policies: self.policies.unwrap_or(default.policies),
            tolerance: self.tolerance,
        }
    }
}

fn up<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Rules, D::Error> {
    Ok(Told::deserialize(deserializer)?.over(Behavior::default().scale_up))
}

fn down<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Rules, D::Error> {
    Ok(Told::deserialize(deserializer)?.over(Behavior::default().scale_down))
}

/// Which of several policies counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The one that allows most change.
    #[default]
    Max,
    /// The one that allows least change.
    Min,
    /// No change at all.
    Disabled,
}

/// What may change within a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RatePolicy {
    /// What `value` counts.
    pub kind: RateKind,
    /// Pods or percent, at least 1.
    pub value: u32,
    /// The period, 1 s to 30 min.
    pub period: Span,
}

/// What a limit of rate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RateKind {
    /// Pods.
    Pods,
    /// Percent of the pods at the period's start.
    Percent,
}

/// The least and the most replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Least.
    pub min: u32,
    /// Most, not below the least.
    pub max: u32,
}

/// What an HPA remembers: what was recommended and what was changed, no longer than any window asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    recommendations: Vec<Entry>,
    ups: Vec<Entry>,
    downs: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    at: Timestamp,
    replicas: u32,
}

impl Default for Behavior {
    /// What the API fills in where `behavior` is set and empty: up by 100 % or 4 pods in 15 s at once, down by all after 300 s.
    fn default() -> Self {
        let policy = |kind, value| RatePolicy { kind, value, period: Span::seconds(15) };
        Self {
            scale_up: Rules::new(0, [policy(RateKind::Percent, 100), policy(RateKind::Pods, 4)]),
            scale_down: Rules::new(300, [policy(RateKind::Percent, 100)]),
        }
    }
}

impl Behavior {
    /// Longest stabilisation window that the API takes.
    pub const MAX_WINDOW: Span = Span::seconds(3600);
    /// Longest period of a policy that the API takes.
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

    /// How many replicas to ask for where the metrics ask for `desired` and there are `current`, both within `limits`.
    pub fn normalize(&self, history: &mut History, current: u32, desired: u32, limits: Limits, now: Timestamp) -> u32 {
        let stabilized = self.stabilize(history, current, desired, now);
        self.limit(history, current, stabilized, limits, now)
    }

    /// `current`, moved to within the mildest recommendations of either window. What the metrics asked for is what is remembered.
    fn stabilize(&self, history: &mut History, current: u32, desired: u32, now: Timestamp) -> u32 {
        let within = |rules: &Rules| {
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

    /// `desired`, as far as the limits of rate let it go within `limits`.
    #[must_use]
    pub fn limit(&self, history: &History, current: u32, desired: u32, limits: Limits, now: Timestamp) -> u32 {
        if desired > current {
            desired.min(self.up_limit(history, current, now).max(i64::from(current)).min(i64::from(limits.max)) as u32)
        } else if desired < current {
            desired.max(self.down_limit(history, current, now).min(i64::from(current)).max(i64::from(limits.min)) as u32)
        } else {
            desired
        }
    }

    fn up_limit(&self, history: &History, current: u32, now: Timestamp) -> i64 {
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

    /// The policy that allows least change gives the highest limit here.
    fn down_limit(&self, history: &History, current: u32, now: Timestamp) -> i64 {
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

    /// Remembers that `to` replicas were asked for where there were `from`.
    pub fn record(&self, history: &mut History, from: u32, to: u32, now: Timestamp) {
        let events = if to > from { &mut history.ups } else { &mut history.downs };
        // Events of one direction count in the periods of the other too.
        let longest =
            self.scale_up.policies.iter().chain(&self.scale_down.policies).map(|policy| policy.period.0).max().unwrap_or_default();
        if from != to {
            History::push(events, Entry { at: now, replicas: from.abs_diff(to) }, longest);
        }
    }
}

impl Rules {
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

/// How many replicas to ask for without `behavior`: the highest recommendation of `window`, at most the double or 4, within `limits`.
pub fn normalize(history: &mut History, current: u32, desired: u32, window: Duration, limits: Limits, now: Timestamp) -> u32 {
    let stabilized =
        history.recommendations.iter().filter(|entry| now.since(entry.at) <= window).map(|entry| entry.replicas).fold(desired, u32::max);
    history.recommend(desired, now, window);
    convert(current, stabilized, limits)
}

/// `desired`, at most the double of `current` or 4, within `limits`.
#[must_use]
pub fn convert(current: u32, desired: u32, limits: Limits) -> u32 {
    let most = current.saturating_mul(2).max(4).min(limits.max);
    if desired < limits.min { limits.min } else { desired.min(most) }
}

impl History {
    /// Entries that are kept at most, whatever the windows: an hour of decisions each second.
    const MAX_VALUE: usize = 3600;

    /// Remembers `replicas` as recommended where nothing is remembered: so an HPA that was restarted does not forget what it found.
    pub fn begin(&mut self, replicas: u32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push(Entry { at: now, replicas });
        }
    }

    fn recommend(&mut self, replicas: u32, now: Timestamp, keep: Duration) {
        Self::push(&mut self.recommendations, Entry { at: now, replicas }, keep);
    }

    fn push(entries: &mut Vec<Entry>, entry: Entry, keep: Duration) {
        entries.retain(|known| entry.at.0.saturating_sub(known.at.0) <= millis(keep));
        if entries.len() >= Self::MAX_VALUE {
            entries.remove(0);
        }
        entries.push(entry);
    }

    /// How many replicas there were when the period began that ends now.
    fn at_period_start(&self, current: u32, period: Duration, now: Timestamp) -> i64 {
        i64::from(current) + self.changed_within(period, now)
    }

    /// Replicas that were removed less those that were added within `period` before `now`.
    #[must_use]
    pub fn changed_within(&self, period: Duration, now: Timestamp) -> i64 {
        let sum = |events: &[Entry]| -> i64 {
            events.iter().filter(|event| now.since(event.at) < period).map(|event| i64::from(event.replicas)).sum()
        };
        sum(&self.downs) - sum(&self.ups)
    }

    /// How many recommendations are remembered.
    #[must_use]
    pub fn recommended(&self) -> usize {
        self.recommendations.len()
    }

    /// A history in which so many replicas were recommended, added and removed, each at its time: for tests and for a rebuilt memory.
    #[must_use]
    pub fn of(recommendations: &[(Timestamp, u32)], ups: &[(Timestamp, u32)], downs: &[(Timestamp, u32)]) -> Self {
        let entries = |list: &[(Timestamp, u32)]| list.iter().map(|(at, replicas)| Entry { at: *at, replicas: *replicas }).collect();
        Self { recommendations: entries(recommendations), ups: entries(ups), downs: entries(downs) }
    }
}
