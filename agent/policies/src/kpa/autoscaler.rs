//! How many pods a revision needs, as Knative's autoscaler decides it. Owns panic and delay; knows neither bounds nor what zero means.

use std::time::Duration;

use qscale_common::time::{Timestamp, millis};

use super::bucketing::Highest;

/// What the autoscaler is told of a revision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeciderSpec {
    /// What one pod should have, more than 0.
    pub target: f64,
    /// What one pod can have.
    pub total: f64,
    /// Burst that should be absorbed without the activator; -1 for any.
    pub target_burst_capacity: f64,
    /// Panic begins at so many times the ready pods.
    pub panic_threshold: f64,
    /// Most pods at once, times the ready ones.
    pub max_scale_up_rate: f64,
    /// Fewest pods at once, the ready ones divided by this.
    pub max_scale_down_rate: f64,
    /// Fewest pods where any are needed.
    pub activation_scale: u32,
    /// The long window, which panic outlasts.
    pub stable_window: Duration,
    /// The highest need of this long counts.
    pub scale_down_delay: Duration,
    /// Whether anything routes to the revision.
    pub reachable: bool,
}

/// What the autoscaler remembers of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Autoscaler {
    panic_since: Option<Timestamp>,
    max_panic_pods: u32,
    delay: Highest,
}

/// What the autoscaler wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScaleResult {
    /// Pods.
    pub desired: u32,
    /// What is left of the capacity after the burst that should be absorbed; below 0 the activator stays in the path.
    pub excess_burst_capacity: i32,
}

impl Autoscaler {
    /// How long a slot of the delay is: the tick of the original.
    const SLOT_MS: u64 = 2000;

    /// Begins in panic where more than one pod is ready, so that a restart without history does not scale down.
    #[must_use]
    pub fn new(ready: u32, now: Timestamp) -> Self {
        Self { panic_since: (ready > 1).then_some(now), max_panic_pods: ready, delay: Highest::default() }
    }

    /// Since when it panics.
    #[must_use]
    pub fn panics_since(&self) -> Option<Timestamp> {
        self.panic_since
    }

    /// Fewest pods while it panics.
    #[must_use]
    pub fn max_panic_pods(&self) -> u32 {
        self.max_panic_pods
    }

    /// Pods for what was observed over the stable and the panic window, in sum over the revision.
    pub fn scale(&mut self, spec: &DeciderSpec, ready_pods: u32, stable: f64, panic: f64, now: Timestamp) -> ScaleResult {
        let ready = f64::from(ready_pods.max(1));
        let most = (spec.max_scale_up_rate * ready).ceil();
        let fewest = if spec.reachable { (ready / spec.max_scale_down_rate).floor() } else { 0.0 };
        let (stable_need, panic_need) = ((stable / spec.target).ceil(), (panic / spec.target).ceil());
        let within = |need: f64| {
            let pods = need.max(fewest).min(most) as u32;
            if need > 0.0 && spec.activation_scale > 1 { pods.max(spec.activation_scale) } else { pods }
        };
        self.judge_panic(spec, panic_need / ready >= spec.panic_threshold, now);
        let mut desired = within(stable_need);
        if self.panic_since.is_some() {
            self.max_panic_pods = self.max_panic_pods.max(desired).max(within(panic_need));
            desired = self.max_panic_pods;
        }
        if !spec.scale_down_delay.is_zero() && spec.reachable {
            desired = self.delay.record(now.0 / Self::SLOT_MS, desired, millis(spec.scale_down_delay).div_ceil(Self::SLOT_MS));
        }
        ScaleResult { desired, excess_burst_capacity: excess(spec, ready_pods, panic) }
    }

    fn judge_panic(&mut self, spec: &DeciderSpec, over: bool, now: Timestamp) {
        if over {
            self.panic_since = Some(now);
        } else if self.panic_since.is_some_and(|since| since.plus(spec.stable_window) < now) {
            (self.panic_since, self.max_panic_pods) = (None, 0);
        }
    }
}

fn excess(spec: &DeciderSpec, ready: u32, panic: f64) -> i32 {
    match spec.target_burst_capacity {
        0.0 => 0,
        burst if burst > 0.0 => (f64::from(ready) * spec.total - burst - panic).floor() as i32,
        _ => -1,
    }
}
