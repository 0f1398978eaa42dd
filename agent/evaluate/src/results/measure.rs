//! Measures of a run. Owns names, units and the better direction.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::rounded;

/// A measure of a run, from its true totals over the measured part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Requests that arrived.
    Requests,
    /// Share of the ended requests that were late (above the objective's bound) or failed, 0 to 1.
    LateShare,
    /// Share of the counted intervals in which the objective was violated, 0 to 1.
    ViolatedShare,
    /// Severity: mean of the reward's V over the counted intervals, 0 to 1.
    Severity,
    /// Median latency, milliseconds; a failure counts as the gateway's timeout.
    P50Ms,
    /// 95th percentile, likewise.
    P95Ms,
    /// 99th percentile, likewise.
    P99Ms,
    /// Successful requests over requests that arrived, 0 to 1.
    CompletedShare,
    /// Integral of the CPU limits of all replicas, core-seconds.
    CoreSeconds,
    /// Integral of the memory limits of all replicas, GiB-seconds.
    GibSeconds,
    /// Cost of both an hour, in the suite's currency.
    CostPerHour,
    /// Cost over that of the largest allocation within the bounds, 0 to 1.
    CostShare,
    /// Changes of the allocation an hour.
    ActionsPerHour,
    /// Changes an hour that reversed a recent one.
    ReversalsPerHour,
    /// Started replicas.
    Starts,
    /// Requests that found no replica and started one.
    ColdStarts,
    /// Share of the requests that arrived when no replica was ready, 0 to 1.
    ColdShare,
    /// Mean over the functions of the 95th percentile of latency over the mean duration of a request that has a whole core and does not queue.
    Slowdown,
    /// Wasted memory-time: integral of the memory limits of replicas without a request, starts included, GiB-seconds.
    IdleGibSeconds,
    /// Replicas that became ready when no request waited.
    Prewarmed,
    /// Ready replicas that were removed before they took a request.
    Unused,
    /// Out-of-memory kills and crashes.
    Kills,
    /// Mean time from a disturbance (a step of the load, a lost node) until the objective holds again, seconds.
    RecoverS,
    /// The score: weighted sum of severity and relative cost, with the reward's weights; 0 is best.
    Loss,
}

/// The better direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Less is better.
    Lower,
    /// More is better.
    Higher,
    /// Neither: not a quality of a policy.
    Neither,
}

impl Measure {
    /// Every measure, in the order of tables.
    pub const ALL: [Measure; 24] = [
        Self::Requests,
        Self::LateShare,
        Self::ViolatedShare,
        Self::Severity,
        Self::P50Ms,
        Self::P95Ms,
        Self::P99Ms,
        Self::CompletedShare,
        Self::CoreSeconds,
        Self::GibSeconds,
        Self::CostPerHour,
        Self::CostShare,
        Self::ActionsPerHour,
        Self::ReversalsPerHour,
        Self::Starts,
        Self::ColdStarts,
        Self::ColdShare,
        Self::Slowdown,
        Self::IdleGibSeconds,
        Self::Prewarmed,
        Self::Unused,
        Self::Kills,
        Self::RecoverS,
        Self::Loss,
    ];

    /// Measures of the keep-alive literature, which reports show in a table of their own.
    pub const KEEP_ALIVE: [Measure; 5] = [Self::Slowdown, Self::ColdShare, Self::IdleGibSeconds, Self::Prewarmed, Self::Unused];

    /// Name in `results.json` and CSV.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::LateShare => "late_share",
            Self::ViolatedShare => "violated_share",
            Self::Severity => "severity",
            Self::P50Ms => "p50_ms",
            Self::P95Ms => "p95_ms",
            Self::P99Ms => "p99_ms",
            Self::CompletedShare => "completed_share",
            Self::CoreSeconds => "core_seconds",
            Self::GibSeconds => "gib_seconds",
            Self::CostPerHour => "cost_per_hour",
            Self::CostShare => "cost_share",
            Self::ActionsPerHour => "actions_per_hour",
            Self::ReversalsPerHour => "reversals_per_hour",
            Self::Starts => "starts",
            Self::ColdStarts => "cold_starts",
            Self::ColdShare => "cold_share",
            Self::Slowdown => "slowdown",
            Self::IdleGibSeconds => "idle_gib_seconds",
            Self::Prewarmed => "prewarmed",
            Self::Unused => "unused",
            Self::Kills => "kills",
            Self::RecoverS => "recover_s",
            Self::Loss => "loss",
        }
    }

    /// Description for a reader.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Requests => "requests that arrived",
            Self::LateShare => "share of the requests that were late or failed",
            Self::ViolatedShare => "share of the intervals in which the objective was violated",
            Self::Severity => "mean of 1 - completion x min(1, bound / percentile) over the intervals",
            Self::P50Ms => "median latency, failures counted as the gateway's timeout",
            Self::P95Ms => "95th percentile of latency, likewise",
            Self::P99Ms => "99th percentile of latency, likewise",
            Self::CompletedShare => "successful requests over requests that arrived",
            Self::CoreSeconds => "integral of the CPU limits",
            Self::GibSeconds => "integral of the memory limits",
            Self::CostPerHour => "cost of CPU and memory an hour",
            Self::CostShare => "cost over that of the largest allowed allocation",
            Self::ActionsPerHour => "changes of the allocation an hour",
            Self::ReversalsPerHour => "changes an hour that reversed a recent one",
            Self::Starts => "replicas started",
            Self::ColdStarts => "requests that found no replica and started one",
            Self::ColdShare => "share of the requests that arrived when no replica was ready",
            Self::Slowdown => {
                "mean over the functions of the 95th percentile of latency over the mean duration of a request alone on a core"
            }
            Self::IdleGibSeconds => "wasted memory-time: integral of the memory limits of replicas without a request",
            Self::Prewarmed => "replicas that became ready when no request waited",
            Self::Unused => "ready replicas that were removed before they took a request",
            Self::Kills => "out-of-memory kills and crashes",
            Self::RecoverS => "mean time from a disturbance until the objective holds again",
            Self::Loss => "violation weight x severity + cost weight x cost share",
        }
    }

    /// Unit; empty for shares and counts.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::P50Ms | Self::P95Ms | Self::P99Ms => "ms",
            Self::CoreSeconds => "core-seconds",
            Self::GibSeconds | Self::IdleGibSeconds => "GiB-seconds",
            Self::ActionsPerHour | Self::ReversalsPerHour => "an hour",
            Self::RecoverS => "s",
            _ => "",
        }
    }

    /// Whether it is a share, shown in percent.
    #[must_use]
    pub fn is_share(self) -> bool {
        matches!(self, Self::LateShare | Self::ViolatedShare | Self::Severity | Self::CompletedShare | Self::CostShare | Self::ColdShare)
    }

    /// The better direction.
    #[must_use]
    pub fn better(self) -> Better {
        match self {
            Self::Requests | Self::Starts | Self::Prewarmed => Better::Neither,
            Self::CompletedShare => Better::Higher,
            _ => Better::Lower,
        }
    }

    /// Index in [`Measure::ALL`].
    fn place(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Measures of one run; `None` if not measurable.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "[Option<f64>; Measure::ALL.len()]", into = "[Option<f64>; Measure::ALL.len()]")]
pub struct Measures([Option<f64>; Measure::ALL.len()]);

impl From<[Option<f64>; Measure::ALL.len()]> for Measures {
    /// Rounds again, since reading JSON may change the last bit.
    fn from(values: [Option<f64>; Measure::ALL.len()]) -> Self {
        Self(values.map(|value| value.map(rounded)))
    }
}

impl From<Measures> for [Option<f64>; Measure::ALL.len()] {
    fn from(measures: Measures) -> Self {
        measures.0
    }
}

impl Measures {
    /// One measure.
    #[must_use]
    pub fn get(&self, measure: Measure) -> Option<f64> {
        self.0[measure.place()]
    }

    /// Sets a measure with the precision of the results, so that a run read from a journal equals the one written.
    pub fn set(&mut self, measure: Measure, value: Option<f64>) {
        self.0[measure.place()] = value.filter(|value| value.is_finite()).map(rounded);
    }

    /// Columns: the values of each measure over `runs`, in order.
    #[must_use]
    pub fn columns<'a>(runs: impl Iterator<Item = &'a Measures> + Clone) -> BTreeMap<Measure, Vec<Option<f64>>> {
        Measure::ALL.into_iter().map(|measure| (measure, runs.clone().map(|run| run.get(measure)).collect())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_the_serialized_form() {
        for measure in Measure::ALL {
            assert_eq!(serde_json::to_value(measure).expect("writes"), measure.name());
            assert_eq!(Measure::ALL[measure.place()], measure);
        }
    }

    #[test]
    fn a_run_survives_a_round_trip() {
        let mut run = Measures::default();
        run.set(Measure::P99Ms, Some(1.0 / 3.0));
        run.set(Measure::Loss, Some(f64::NAN));
        assert_eq!((run.get(Measure::P99Ms), run.get(Measure::Loss)), (Some(0.333_333_3), None));
        let text = serde_json::to_string(&run).expect("writes");
        assert_eq!(serde_json::from_str::<Measures>(&text).expect("reads"), run);
    }
}
