//! Whether a pod is given what is recommended for it, as the VPA's updater decides it. Owns the thresholds; touches nothing.

use std::time::Duration;

use super::recommender::{Amounts, Recommendation};

/// The updater's settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Updater {
    /// A pod this old is updated for a change that matters.
    pub lifetime: Duration,
    /// Share of what is requested from which on a change matters.
    pub min_change: f64,
    /// A pod killed for memory within so long of its start is updated at once.
    pub evict_after_oom: Duration,
    /// Pods below which none is touched.
    pub min_replicas: u32,
}

impl Default for Updater {
    fn default() -> Self {
        Self { lifetime: Duration::from_secs(12 * 3600), min_change: 0.1, evict_after_oom: Duration::from_secs(600), min_replicas: 2 }
    }
}

/// How much an update of a pod matters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Priority {
    /// What is requested lies outside the recommended range.
    pub outside: bool,
    /// Change of all resources, in shares of what is requested.
    pub diff: f64,
}

impl Priority {
    /// How much it matters to change the containers of a pod from what each requests to its target. A resource that `heeded` is false for counts for nothing:
    /// first CPU, then memory.
    #[must_use]
    pub fn of(containers: &[(Amounts, Recommendation)], heeded: [bool; 2]) -> Self {
        let mut priority = Self { outside: false, diff: 0.0 };
        let resources: [fn(&Amounts) -> i64; 2] = [|amounts| amounts.cpu_millicores, |amounts| amounts.memory_bytes];
        for amount in resources.into_iter().zip(heeded).filter_map(|(amount, heeded)| heeded.then_some(amount)) {
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
    /// Whether a pod of this `priority` is updated. `age` is how long it runs; `oom_after` how long it ran when it was killed for memory, if it was.
    #[must_use]
    pub fn eligible(&self, priority: &Priority, age: Duration, oom_after: Option<Duration>) -> bool {
        let quick_oom = oom_after.is_some_and(|after| after < self.evict_after_oom) && priority.diff > 0.0;
        // What was killed and would be given the same is left alone, wherever it lies.
        let futile = oom_after.is_some_and(|after| after < self.evict_after_oom) && priority.diff == 0.0;
        !futile && (priority.outside || quick_oom || (age >= self.lifetime && priority.diff >= self.min_change))
    }
}
