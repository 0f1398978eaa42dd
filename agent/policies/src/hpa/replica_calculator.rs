//! The HPA's replica calculator: replicas that one metric asks for. Owns classes of pods and the arithmetic of ratios;
//! must not know history or bounds.
//!
//! Deviation: metrics of pods that are not in the list cannot be expressed. The original ignores them for utilization.

use std::time::Duration;

use qscale_common::time::Timestamp;
use thiserror::Error;

/// Settings of the calculator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calculator {
    /// Tolerated deviation of a ratio from 1.
    pub tolerance: Tolerance,
    /// Time after a pod's start in which its CPU may be due to initialization.
    pub cpu_initialization: Duration,
    /// A pod that became unready within this time of its start was never ready.
    pub initial_readiness_delay: Duration,
}

impl Default for Calculator {
    fn default() -> Self {
        Self {
            tolerance: Tolerance { up: 0.1, down: 0.1 },
            cpu_initialization: Duration::from_secs(300),
            initial_readiness_delay: Duration::from_secs(30),
        }
    }
}

/// Tolerated range of a ratio: `1 - down` to `1 + up`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Above 1.
    pub up: f64,
    /// Below 1, 0 to 1.
    pub down: f64,
}

impl Tolerance {
    fn holds(&self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// A pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pod {
    /// Phase.
    pub phase: PodPhase,
    /// Whether its deletion was requested.
    pub deleted: bool,
    /// Time of its start.
    pub started: Option<Timestamp>,
    /// Its Ready condition.
    pub ready: Option<Ready>,
    /// Request of the resource, thousandths.
    pub request: Option<i64>,
    /// Its measurement.
    pub metric: Option<PodMetric>,
}

/// Phase of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodPhase {
    /// Not yet started.
    Pending,
    /// Started.
    Running,
    /// Ended successfully.
    Succeeded,
    /// Failed.
    Failed,
}

/// A Ready condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Whether the pod is ready.
    pub is: bool,
    /// Time of the last transition.
    pub since: Timestamp,
}

/// A measurement of one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodMetric {
    /// In thousandths.
    pub value: i64,
    /// End of the measured span.
    pub at: Timestamp,
    /// Length of the measured span.
    pub window: Duration,
}

/// Kind of metric; CPU of a starting pod is not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HpaMetricKind {
    /// CPU.
    Cpu,
    /// Anything else.
    Other,
}

/// Proposal of one metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proposal {
    /// Replicas.
    pub replicas: u32,
    /// Measured value: percent for a utilization, thousandths for a value.
    pub measured: i64,
}

/// Why a metric makes no proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CalculatorError {
    /// The workload has no pods.
    #[error("no pods returned by selector while calculating replica count")]
    NoPods,
    /// A pod requests nothing of the resource.
    #[error("missing request for a pod")]
    NoRequest,
    /// There are no measurements.
    #[error("no metrics returned")]
    NoMetrics,
    /// There are no measurements of the pods that count.
    #[error("did not receive metrics for targeted pods (pods might be unready)")]
    NoReadyMetrics,
    /// The pods that were measured request nothing.
    #[error("no metrics returned matched known pods")]
    NoMatch,
}

/// Classes of pods, as indices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Groups {
    /// Pods whose measurement counts.
    pub ready: usize,
    /// Pods that are not ready, whose measurements do not count.
    pub unready: Vec<usize>,
    /// Pods without a measurement.
    pub missing: Vec<usize>,
    /// Pods that are terminating or have ended.
    pub ignored: Vec<usize>,
}

impl Calculator {
    /// Replicas that bring utilization, in percent of the requests, to `target`, which is at least 1.
    ///
    /// # Errors
    /// If no pod that counts has a measurement.
    pub fn utilization(
        &self,
        current: u32,
        target: u32,
        kind: HpaMetricKind,
        pods: &[Pod],
        now: Timestamp,
    ) -> Result<Proposal, CalculatorError> {
        if pods.iter().all(|pod| pod.metric.is_none()) {
            return Err(if pods.is_empty() { CalculatorError::NoPods } else { CalculatorError::NoMetrics });
        }
        let requests: Vec<i64> = pods.iter().map(|pod| pod.request).collect::<Option<_>>().ok_or(CalculatorError::NoRequest)?;
        let fallback = |pod: usize| (i128::from(requests[pod]) * i128::from(target.max(100)) / 100) as i64;
        let measure = |metrics: &[(usize, i64)]| {
            let usage: i128 = metrics.iter().map(|(_, value)| i128::from(*value)).sum();
            let requested: i128 = metrics.iter().map(|(pod, _)| i128::from(requests[*pod])).sum();
            if requested <= 0 {
                return Err(CalculatorError::NoMatch);
            }
            let percent = (usage * 100 / requested).clamp(0, i128::from(i32::MAX)) as i64;
            Ok((percent as f64 / f64::from(target), percent))
        };
        self.propose(current, kind, pods, now, fallback, measure)
    }

    /// Replicas that bring the mean over the pods to `target`, which is at least 1; both in thousandths.
    ///
    /// # Errors
    /// If no pod that counts has a measurement.
    pub fn average(
        &self,
        current: u32,
        target: i64,
        kind: HpaMetricKind,
        pods: &[Pod],
        now: Timestamp,
    ) -> Result<Proposal, CalculatorError> {
        if pods.is_empty() {
            return Err(CalculatorError::NoPods);
        }
        let measure = |metrics: &[(usize, i64)]| {
            let sum: i128 = metrics.iter().map(|(_, value)| i128::from(*value)).sum();
            let mean = (sum / metrics.len() as i128) as i64;
            Ok((mean as f64 / target as f64, mean))
        };
        self.propose(current, kind, pods, now, |_| target, measure)
    }

    /// Applies `measure` to the pods with assumptions for those without measurement; `fallback` is the greatest usage of such a pod.
    fn propose(
        &self,
        current: u32,
        kind: HpaMetricKind,
        pods: &[Pod],
        now: Timestamp,
        fallback: impl Fn(usize) -> i64,
        measure: impl Fn(&[(usize, i64)]) -> Result<(f64, i64), CalculatorError>,
    ) -> Result<Proposal, CalculatorError> {
        let Groups { ready, unready, missing, ignored } = self.group(pods, kind, now);
        let mut counts = vec![true; pods.len()];
        unready.iter().chain(&ignored).for_each(|pod| counts[*pod] = false);
        let measured = pods.iter().enumerate().filter(|(pod, _)| counts[*pod]);
        let mut metrics: Vec<(usize, i64)> = measured.filter_map(|(index, pod)| Some((index, pod.metric?.value))).collect();
        if metrics.is_empty() {
            return Err(CalculatorError::NoReadyMetrics);
        }
        let (ratio, measured) = measure(&metrics)?;
        let answer = |replicas| Ok(Proposal { replicas, measured });
        let unready_matter = !unready.is_empty() && ratio > 1.0;
        if missing.is_empty() && !unready_matter {
            return answer(if self.tolerance.holds(ratio) { current } else { whole(ratio * ready as f64) });
        }
        // Unknown values are assumed to speak against a change.
        if ratio < 1.0 {
            metrics.extend(missing.iter().map(|pod| (*pod, fallback(*pod))));
        } else if ratio > 1.0 {
            metrics.extend(missing.iter().map(|pod| (*pod, 0)));
        }
        if unready_matter {
            metrics.extend(unready.iter().map(|pod| (*pod, 0)));
        }
        let (filled, _) = measure(&metrics)?;
        let turned = (ratio < 1.0 && filled > 1.0) || (ratio > 1.0 && filled < 1.0);
        if self.tolerance.holds(filled) || turned {
            return answer(current);
        }
        let replicas = whole(filled * metrics.len() as f64);
        let against = (filled < 1.0 && replicas > current) || (filled > 1.0 && replicas < current);
        answer(if against { current } else { replicas })
    }

    /// Classifies the pods.
    #[must_use]
    pub fn group(&self, pods: &[Pod], kind: HpaMetricKind, now: Timestamp) -> Groups {
        let mut groups = Groups::default();
        for (index, pod) in pods.iter().enumerate() {
            if pod.deleted || pod.phase == PodPhase::Failed {
                groups.ignored.push(index);
            } else if pod.phase == PodPhase::Pending {
                groups.unready.push(index);
            } else if let Some(metric) = pod.metric {
                if kind == HpaMetricKind::Cpu && self.is_unready(pod, metric, now) { groups.unready.push(index) } else { groups.ready += 1 }
            } else {
                groups.missing.push(index);
            }
        }
        groups
    }

    fn is_unready(&self, pod: &Pod, metric: PodMetric, now: Timestamp) -> bool {
        let (Some(Ready { is, since }), Some(started)) = (pod.ready, pod.started) else { return true };
        if now < started.plus(self.cpu_initialization) {
            !is || metric.at < since.plus(metric.window)
        } else {
            !is && started.plus(self.initial_readiness_delay) > since
        }
    }

    /// Replicas that bring one value of the whole workload from `usage` to `target`, which is at least 1; both in thousandths.
    #[must_use]
    pub fn value(&self, current: u32, usage: i64, target: i64, ready: u32) -> Proposal {
        let ratio = usage as f64 / target as f64;
        let replicas = match current {
            0 => whole(ratio),
            _ if self.tolerance.holds(ratio) => current,
            _ => whole(ratio * f64::from(ready)),
        };
        Proposal { replicas, measured: usage }
    }

    /// Replicas that bring `usage` of the whole workload to `target` each; both in thousandths, `target` at least 1.
    /// `existing` is the current number.
    #[must_use]
    pub fn average_value(&self, existing: u32, usage: i64, target: i64) -> Proposal {
        let ratio = usage as f64 / (target as f64 * f64::from(existing));
        let replicas = if self.tolerance.holds(ratio) { existing } else { whole(usage as f64 / target as f64) };
        Proposal { replicas, measured: (usage as f64 / f64::from(existing)).ceil() as i64 }
    }
}

/// Running and ready pods.
#[must_use]
pub fn ready_pods(pods: &[Pod]) -> u32 {
    let ready = pods.iter().filter(|pod| pod.phase == PodPhase::Running && pod.ready.is_some_and(|ready| ready.is));
    u32::try_from(ready.count()).unwrap_or(u32::MAX)
}

/// Rounds up to replicas, at most the API's greatest number.
fn whole(replicas: f64) -> u32 {
    (replicas.ceil() as u32).min(i32::MAX as u32)
}
