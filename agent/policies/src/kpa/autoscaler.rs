//! Knative's autoscaler: pods that a revision needs. Owns panic mode and scale-down delay; must not know bounds or
//! scaling to zero. The original's number of activators has no use here.

use std::time::Duration;

use qscale_common::time::{Timestamp, millis};

use super::bucketing::Highest;

/// Settings of a revision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeciderSpec {
    /// Target of one pod, more than 0.
    pub target: f64,
    /// Capacity of one pod.
    pub total: f64,
    /// Burst to absorb without the activator; -1 for any.
    pub target_burst_capacity: f64,
    /// Ratio of needed to ready pods at which panic mode begins.
    pub panic_threshold: f64,
    /// Greatest factor of the ready pods in one step up.
    pub max_scale_up_rate: f64,
    /// Greatest divisor of the ready pods in one step down.
    pub max_scale_down_rate: f64,
    /// Least number of pods if any are needed.
    pub activation_scale: u32,
    /// The long window, for which panic lasts at least.
    pub stable_window: Duration,
    /// Window whose greatest need counts.
    pub scale_down_delay: Duration,
    /// Whether requests are routed to the revision.
    pub reachable: bool,
}

/// Memory of the autoscaler about a revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Autoscaler {
    panic_since: Option<Timestamp>,
    max_panic_pods: u32,
    delay: Highest,
}

/// Result of the autoscaler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScaleResult {
    /// Wanted pods.
    pub desired: u32,
    /// Capacity left after the burst to absorb; below 0 the activator stays in the path.
    pub excess_burst_capacity: i32,
}

impl Autoscaler {
    /// Slot length of the delay window: the original's tick.
    const SLOT_MS: u64 = 2000;

    /// Begins in panic mode if more than one pod is ready, so that a restart without history does not scale down.
    #[must_use]
    pub fn new(ready: u32, now: Timestamp) -> Self {
        Self { panic_since: (ready > 1).then_some(now), max_panic_pods: ready, delay: Highest::default() }
    }

    /// Time of the last cause of panic, in panic mode.
    #[must_use]
    pub fn panics_since(&self) -> Option<Timestamp> {
        self.panic_since
    }

    /// Least number of pods in panic mode.
    #[must_use]
    pub fn max_panic_pods(&self) -> u32 {
        self.max_panic_pods
    }

    /// Pods for the averages over the stable and the panic window, summed over the revision.
    pub fn scale(&mut self, spec: &DeciderSpec, ready_pods: u32, stable: f64, panic: f64, now: Timestamp) -> ScaleResult {
        let ready = f64::from(ready_pods.max(1));
        let most = (spec.max_scale_up_rate * ready).ceil();
        let fewest = if spec.reachable { (ready / spec.max_scale_down_rate).floor() } else { 0.0 };
        let (stable_need, panic_need) = ((stable / spec.target).ceil(), (panic / spec.target).ceil());
        let within = |need: f64| {
            let pods = need.max(fewest).min(most) as u32;
            if need > 0.0 && spec.activation_scale > 1 { pods.max(spec.activation_scale) } else { pods }
        };
        self.update_panic(spec, panic_need / ready >= spec.panic_threshold, now);
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

    fn update_panic(&mut self, spec: &DeciderSpec, over: bool, now: Timestamp) {
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
