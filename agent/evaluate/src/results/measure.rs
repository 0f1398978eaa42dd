//! What is measured of a run. Owns names, units and which way is better.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::rounded;

/// One measure of a run, taken from what really happened in its world, over its measured part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Requests that arrived.
    Requests,
    /// Share of the answers that were late (above the objective's bound) or failures, 0 to 1.
    LateShare,
    /// Share of the judged intervals in which the objective was violated, 0 to 1.
    ViolatedShare,
    /// Mean over the judged intervals of the reward's V, 0 to 1: how badly the objective was violated.
    Severity,
    /// Median latency, milliseconds; a failure counts as the time that the gateway waits.
    P50Ms,
    /// 95th percentile, likewise.
    P95Ms,
    /// 99th percentile, likewise.
    P99Ms,
    /// Requests answered well over requests that arrived, 0 to 1.
    CompletedShare,
    /// CPU limits of the replicas that there were times how long, core-seconds.
    CoreSeconds,
    /// Memory limits of the replicas that there were times how long, GiB-seconds.
    GibSeconds,
    /// What they cost an hour, in the suite's currency.
    CostPerHour,
    /// That over the cost of the largest allocation that the bounds allow, 0 to 1.
    CostShare,
    /// Changes of the allocation an hour.
    ActionsPerHour,
    /// Those of them that went the other way than the one before, soon after it, an hour.
    ReversalsPerHour,
    /// Replicas that were started.
    Starts,
    /// Times that a request found no replica at all and started one.
    ColdStarts,
    /// Replicas that were killed for memory or crashed.
    Kills,
    /// Mean seconds from a disturbance (a step of the load, a lost node) until the objective holds again.
    RecoverS,
    /// The score: violations times their weight plus cost times its weight, as the reward has them; 0 is best.
    Loss,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Less of it.
    Lower,
    /// More of it.
    Higher,
    /// It tells nothing of a policy's worth.
    Neither,
}

impl Measure {
    /// Every measure, in the order of tables.
    pub const ALL: [Measure; 19] = [
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
        Self::Kills,
        Self::RecoverS,
        Self::Loss,
    ];

    /// As it stands in `results.json` and in tables for programs.
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
            Self::Kills => "kills",
            Self::RecoverS => "recover_s",
            Self::Loss => "loss",
        }
    }

    /// What it is, for a reader.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Requests => "requests that arrived",
            Self::LateShare => "share of the answers that were late or failures",
            Self::ViolatedShare => "share of the intervals in which the objective was violated",
            Self::Severity => "mean of 1 - completion x min(1, bound / percentile) over the intervals",
            Self::P50Ms => "median latency, failures counted as the gateway's timeout",
            Self::P95Ms => "95th percentile of latency, likewise",
            Self::P99Ms => "99th percentile of latency, likewise",
            Self::CompletedShare => "requests answered well over requests that arrived",
            Self::CoreSeconds => "CPU limits times how long they were held",
            Self::GibSeconds => "memory limits times how long they were held",
            Self::CostPerHour => "what both cost an hour",
            Self::CostShare => "cost over that of the largest allocation allowed",
            Self::ActionsPerHour => "changes of the allocation an hour",
            Self::ReversalsPerHour => "changes an hour that undid the one before",
            Self::Starts => "replicas started",
            Self::ColdStarts => "times that a request found no replica and started one",
            Self::Kills => "replicas killed for memory or crashed",
            Self::RecoverS => "mean time from a disturbance until the objective holds again",
            Self::Loss => "violation weight x severity + cost weight x cost share",
        }
    }

    /// Its unit for a reader; empty for shares and counts.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::P50Ms | Self::P95Ms | Self::P99Ms => "ms",
            Self::CoreSeconds => "core-seconds",
            Self::GibSeconds => "GiB-seconds",
            Self::ActionsPerHour | Self::ReversalsPerHour => "an hour",
            Self::RecoverS => "s",
            _ => "",
        }
    }

    /// Whether it is a share of one, which tables show in percent.
    #[must_use]
    pub fn is_share(self) -> bool {
        matches!(self, Self::LateShare | Self::ViolatedShare | Self::Severity | Self::CompletedShare | Self::CostShare)
    }

    /// Which way is better.
    #[must_use]
    pub fn better(self) -> Better {
        match self {
            Self::Requests | Self::Starts => Better::Neither,
            Self::CompletedShare => Better::Higher,
            _ => Better::Lower,
        }
    }

    /// Its place in [`Measure::ALL`].
    fn place(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The measures of one run; what could not be measured is absent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "[Option<f64>; Measure::ALL.len()]", into = "[Option<f64>; Measure::ALL.len()]")]
pub struct Measures([Option<f64>; Measure::ALL.len()]);

impl From<[Option<f64>; Measure::ALL.len()]> for Measures {
    /// Rounds again: a reader of JSON may miss the number that was written by the last bit.
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

    /// Notes one measure, as precisely as results are written, so that a run read from a journal is the run that was written.
    pub fn set(&mut self, measure: Measure, value: Option<f64>) {
        self.0[measure.place()] = value.filter(|value| value.is_finite()).map(rounded);
    }

    /// The columns of `runs`: for each measure its value in each of them, in their order.
    #[must_use]
    pub fn columns<'a>(runs: impl Iterator<Item = &'a Measures> + Clone) -> BTreeMap<Measure, Vec<Option<f64>>> {
        Measure::ALL.into_iter().map(|measure| (measure, runs.clone().map(|run| run.get(measure)).collect())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_are_written() {
        for measure in Measure::ALL {
            assert_eq!(serde_json::to_value(measure).expect("writes"), measure.name());
            assert_eq!(Measure::ALL[measure.place()], measure);
        }
    }

    #[test]
    fn a_run_is_read_as_it_is_written() {
        let mut run = Measures::default();
        run.set(Measure::P99Ms, Some(1.0 / 3.0));
        run.set(Measure::Loss, Some(f64::NAN));
        assert_eq!((run.get(Measure::P99Ms), run.get(Measure::Loss)), (Some(0.333_333_3), None));
        let text = serde_json::to_string(&run).expect("writes");
        assert_eq!(serde_json::from_str::<Measures>(&text).expect("reads"), run);
    }
}
