//! The VPA's updater: whether a recommendation is applied to a pod. Owns the thresholds. The original's order of
//! evictions has no use here, since all replicas are resized at once.

use std::time::Duration;

use super::recommender::{Amounts, Recommendation};

/// Settings of the updater.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Updater {
    /// Age at which a pod is updated for a significant change.
    pub lifetime: Duration,
    /// Share of the request that is a significant change.
    pub min_change: f64,
    /// A pod that was OOM-killed within this time of its start is updated at once.
    pub evict_after_oom: Duration,
    /// Number of pods below which none is updated.
    pub min_replicas: u32,
}

impl Default for Updater {
    fn default() -> Self {
        Self { lifetime: Duration::from_secs(12 * 3600), min_change: 0.1, evict_after_oom: Duration::from_secs(600), min_replicas: 2 }
    }
}

/// Significance of an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Priority {
    /// Whether the request is outside the recommended range.
    pub outside: bool,
    /// Change of all resources, as a share of the request.
    pub diff: f64,
}

impl Priority {
    /// Significance of changing the containers of a pod from their requests to their targets, for CPU and memory, each if `enabled`.
    #[must_use]
    pub fn of(containers: &[(Amounts, Recommendation)], enabled: [bool; 2]) -> Self {
        let mut priority = Self { outside: false, diff: 0.0 };
        let resources: [fn(&Amounts) -> i64; 2] = [|amounts| amounts.cpu_millicores, |amounts| amounts.memory_bytes];
        for amount in resources.into_iter().zip(enabled).filter_map(|(amount, enabled)| enabled.then_some(amount)) {
            let (mut requested, mut recommended) = (0i64, 0i64);
            for (requests, Recommendation { target, lower, upper }) in containers {
                let (request, target) = (amount(requests), amount(target));
                priority.outside |= request < amount(lower) || request > amount(upper);
                requested = requested.saturating_add(request);
                recommended = recommended.saturating_add(target);
            }
            priority.diff += requested.abs_diff(recommended) as f64 / requested.max(1) as f64;
        }
        priority
    }
}

impl Updater {
    /// Whether a pod of `priority` is updated. `age` is the time since its start, `oom_after` its age when it was
    /// OOM-killed, if it was.
    #[must_use]
    pub fn eligible(&self, priority: &Priority, age: Duration, oom_after: Option<Duration>) -> bool {
        let quick_oom = oom_after.is_some_and(|after| after < self.evict_after_oom) && priority.diff > 0.0;
        // A killed pod that would get the same amount is left alone, even outside the range.
        let futile = oom_after.is_some_and(|after| after < self.evict_after_oom) && priority.diff == 0.0;
        !futile && (priority.outside || quick_oom || (age >= self.lifetime && priority.diff >= self.min_change))
    }
}
