//! Histories of workloads: measurements on a grid of steps of equal length. Owns the metrics with their units and the grid; must not know where they come from.

pub mod table;

use std::time::Duration;

use qscale_common::name::FunctionId;
use qscale_common::time::Timestamp;
use strum::{EnumCount, EnumString, IntoStaticStr, VariantArray};

/// A measurement of one workload in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, EnumCount, EnumString, IntoStaticStr, VariantArray, strum::Display)]
#[strum(serialize_all = "snake_case")]
pub enum HistoryMetric {
    /// Arrivals, requests/s.
    ArrivalsRps,
    /// Share of the ended requests that failed, 0 to 1.
    FailedShare,
    /// Mean latency, milliseconds.
    MeanMs,
    /// Median latency, milliseconds.
    MedianMs,
    /// The percentile of latency that the objective bounds, milliseconds.
    ObjectiveMs,
    /// CPU use of all replicas, cores.
    CpuCores,
    /// Share of the CFS periods in which a replica was throttled, 0 to 1.
    ThrottledShare,
    /// Largest working set of a replica, MiB.
    MemoryMib,
    /// Replicas, those that are starting included.
    Replicas,
    /// CPU limit of a replica, millicores.
    CpuLimitMillicores,
    /// CPU request of a replica, millicores.
    CpuRequestMillicores,
    /// Memory limit of a replica, MiB; its request if it has no limit.
    MemoryLimitMib,
    /// Time from the start of a replica to its readiness, seconds.
    StartupS,
}

impl HistoryMetric {
    /// Its name in tables and files of queries.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether nothing can be estimated without it.
    #[must_use]
    pub fn is_required(self) -> bool {
        matches!(self, Self::ArrivalsRps | Self::CpuCores | Self::Replicas)
    }

    /// Consequence of its absence.
    #[must_use]
    pub fn consequence(self) -> &'static str {
        match self {
            Self::ArrivalsRps => "no load can be simulated",
            Self::CpuCores => "CPU time per request is unknown",
            Self::Replicas => "the measured cost is unknown",
            Self::FailedShare => "failed requests do not count as violations",
            Self::MeanMs => "not needed if the median is known",
            Self::MedianMs => "the time that requests wait for other services is taken as 0",
            Self::ObjectiveMs => "measured violations are unknown, so simulated ones cannot be checked",
            Self::ThrottledShare => "only for your information",
            Self::MemoryMib => "the memory in use is taken as half of the limit",
            Self::CpuLimitMillicores => "a replica may use its CPU request, or as much as it was seen to use",
            Self::CpuRequestMillicores => "it is taken as equal to the limit; a CPU target of an HPA is a share of it",
            Self::MemoryLimitMib => "it is taken as twice the memory in use",
            Self::StartupS => "a start is taken to last 3 s, with a wide interval",
        }
    }
}

/// Measurements of one step; a value that is absent was not measured.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct HistoryStep([Option<f64>; HistoryMetric::COUNT]);

impl HistoryStep {
    /// A measurement.
    #[must_use]
    pub fn get(&self, metric: HistoryMetric) -> Option<f64> {
        self.0[metric as usize]
    }

    /// Sets a measurement; a value that cannot be true (not finite, or negative) is absent.
    pub fn set(&mut self, metric: HistoryMetric, value: f64) {
        self.0[metric as usize] = (value.is_finite() && value >= 0.0).then_some(value);
    }
}

/// History of one workload.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadHistory {
    /// The workload.
    pub workload: FunctionId,
    /// Begin of the first step.
    pub begin: Timestamp,
    /// Length of a step.
    pub step: Duration,
    /// The steps in order.
    pub steps: Vec<HistoryStep>,
}

impl WorkloadHistory {
    /// Most steps that are held of one workload: two months of quarter minutes.
    pub const MAX_STEPS: usize = 350_000;
    /// Most steps that are held of all workloads together, in 400 MB: a week of minutes of two hundred workloads.
    pub const MAX_ALL_STEPS: usize = 2_000_000;

    /// A history without measurements.
    #[must_use]
    pub fn empty(workload: FunctionId, begin: Timestamp, step: Duration, steps: usize) -> Self {
        Self { workload, begin, step, steps: vec![HistoryStep::default(); steps.min(Self::MAX_STEPS)] }
    }

    /// Length of the history.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.step * u32::try_from(self.steps.len()).unwrap_or(u32::MAX)
    }

    /// End of the last step.
    #[must_use]
    pub fn end(&self) -> Timestamp {
        self.begin.plus(self.length())
    }

    /// Measured values of `metric`, in order.
    pub fn values(&self, metric: HistoryMetric) -> impl Iterator<Item = f64> {
        self.steps.iter().filter_map(move |step| step.get(metric))
    }

    /// Metrics that were never measured.
    pub fn missing(&self) -> impl Iterator<Item = HistoryMetric> {
        HistoryMetric::VARIANTS.iter().copied().filter(|metric| self.values(*metric).next().is_none())
    }

    /// Median of the measured values of `metric`; `None` without any.
    #[must_use]
    pub fn median(&self, metric: HistoryMetric) -> Option<f64> {
        let mut values: Vec<f64> = self.values(metric).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    /// Largest measured value of `metric`; `None` without any.
    #[must_use]
    pub fn largest(&self, metric: HistoryMetric) -> Option<f64> {
        self.values(metric).reduce(f64::max)
    }

    /// Number of requests in `steps`.
    #[must_use]
    pub fn requests(&self, steps: std::ops::Range<usize>) -> f64 {
        let rates = self.steps[steps].iter().filter_map(|step| step.get(HistoryMetric::ArrivalsRps));
        rates.sum::<f64>() * self.step.as_secs_f64()
    }
}
