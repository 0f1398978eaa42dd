//! Simulated figures of two policies next to the recorded ones. Owns confidence intervals and the conclusion drawn from them; pure.

use qscale_common::contract::{DecisionSource, Reward};
use qscale_common::name::Name;
use qscale_common::text::number;
use qscale_evaluate::statistics::{Bootstrap, Sample};
use serde::Serialize;
use thiserror::Error;

use super::simulation::RunMetrics;

/// 95 % bootstrap intervals.
const BOOTSTRAP: Bootstrap = Bootstrap { resamples: 2000, confidence: 0.95, seed: 0 };
/// Minimum share of ticks decided by others that is reported.
const REPORTED_SHARE: f64 = 0.01;

/// A mean over seeds with its confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MeanInterval {
    /// The mean.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl MeanInterval {
    fn of(values: Vec<f64>, name: &str) -> anyhow::Result<Self> {
        let sample = Sample::try_from(values)?;
        let estimate = BOOTSTRAP.estimate(&[sample], name).expect("a sample is a stratum");
        Ok(Self { mean: estimate.mean, low: estimate.mean_interval.low, high: estimate.mean_interval.high })
    }
}

/// Conclusion from the difference between two policies in one metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// The difference exceeds both chance and the simulation error.
    Significant,
    /// The interval of the difference contains zero.
    NotSignificant,
    /// The simulation error on the acting policy is at least as large as the difference.
    Inconclusive,
    /// The simulation error is unknown because nothing was recorded.
    Unverified,
}

/// A compared metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScenarioMetric {
    /// Share of ticks that violate the objective, 0 to 1.
    ViolatedShare,
    /// Mean cost per hour, in the ScalingPolicy's currency.
    CostPerHour,
}

/// One metric, recorded and simulated.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricComparison {
    /// The metric.
    pub metric: ScenarioMetric,
    /// Recorded value; `None` if unknown.
    pub recorded: Option<f64>,
    /// The acting policy, simulated.
    pub acting: MeanInterval,
    /// The other policy, simulated.
    pub other: MeanInterval,
    /// The other minus the acting policy, paired by seed.
    pub difference: MeanInterval,
}

/// Both metrics of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricsComparison {
    /// Violations.
    pub violation: MetricComparison,
    /// Cost.
    pub cost: MetricComparison,
}

/// No simulated run completed a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no simulated run has a value of {0:?}: no request completed or failed; is there any load since --since?")]
pub struct NothingSimulated(pub ScenarioMetric);

impl MetricsComparison {
    /// Compares pairs of runs, the acting policy's first, with the `recorded` figures.
    ///
    /// # Errors
    /// [`NothingSimulated`].
    pub fn of(recorded: &RunMetrics, runs: &[(RunMetrics, RunMetrics)]) -> anyhow::Result<Self> {
        Ok(Self {
            violation: MetricComparison::of(ScenarioMetric::ViolatedShare, recorded, runs)?,
            cost: MetricComparison::of(ScenarioMetric::CostPerHour, recorded, runs)?,
        })
    }

    /// Both metrics in the order of output.
    #[must_use]
    pub fn metrics(&self) -> [&MetricComparison; 2] {
        [&self.violation, &self.cost]
    }
}

impl ScenarioMetric {
    /// Its name in output for programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ViolatedShare => "violated_share",
            Self::CostPerHour => "cost_per_hour",
        }
    }

    fn of(self, run: &RunMetrics) -> Option<f64> {
        match self {
            Self::ViolatedShare => run.violated_share(),
            Self::CostPerHour => run.cost_per_hour(),
        }
    }
}

impl Serialize for MetricComparison {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Output {
            metric: ScenarioMetric,
            recorded: Option<f64>,
            acting: MeanInterval,
            other: MeanInterval,
            difference: MeanInterval,
            error: Option<f64>,
            conclusion: Conclusion,
        }
        let Self { metric, recorded, acting, other, difference } = self.clone();
        let (error, conclusion) = (self.simulation_error(), self.conclusion());
        Output { metric, recorded, acting, other, difference, error, conclusion }.serialize(serializer)
    }
}

impl MetricComparison {
    fn of(metric: ScenarioMetric, recorded: &RunMetrics, runs: &[(RunMetrics, RunMetrics)]) -> anyhow::Result<Self> {
        let pairs: Vec<(f64, f64)> = runs.iter().filter_map(|(acting, other)| Some((metric.of(acting)?, metric.of(other)?))).collect();
        if pairs.is_empty() {
            return Err(NothingSimulated(metric).into());
        }
        // The name seeds the bootstrap.
        let mean = |of: fn(&(f64, f64)) -> f64, name: &str| {
            MeanInterval::of(pairs.iter().map(of).collect(), &format!("{} {name}", metric.as_str()))
        };
        Ok(Self {
            metric,
            recorded: metric.of(recorded),
            acting: mean(|pair| pair.0, "acting")?,
            other: mean(|pair| pair.1, "other")?,
            difference: mean(|pair| pair.1 - pair.0, "difference")?,
        })
    }

    /// Simulated minus recorded value of the acting policy; `None` if nothing was recorded.
    #[must_use]
    pub fn simulation_error(&self) -> Option<f64> {
        Some(self.acting.mean - self.recorded?)
    }

    /// The conclusion about the two policies.
    #[must_use]
    pub fn conclusion(&self) -> Conclusion {
        let MeanInterval { mean, low, high } = self.difference;
        match self.simulation_error() {
            _ if low <= 0.0 && high >= 0.0 => Conclusion::NotSignificant,
            None => Conclusion::Unverified,
            Some(error) if error.abs() >= mean.abs() => Conclusion::Inconclusive,
            Some(_) => Conclusion::Significant,
        }
    }
}

/// The share of ticks that another agent, the fallback or an operator decided, in a sentence; `None` if it is negligible.
pub(super) fn decided_by_others(rewards: &[Reward], agent: &Name) -> Option<String> {
    let deciders = rewards.iter().filter_map(|reward| reward.decided_by.as_ref());
    let all = deciders.clone().count() as f64;
    let others = deciders.filter(|decider| decider.agent != *agent || decider.source != DecisionSource::Agent).count() as f64;
    let share = others / all.max(1.0);
    (share > REPORTED_SHARE).then(|| {
        format!(
            "the recorded figures are attributed to {agent}; in {}% of the ticks another agent, the fallback or an operator had decided",
            number(share * 100.0)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(recorded: Option<f64>, acting: &[f64], other: &[f64]) -> MetricComparison {
        let difference = acting.iter().zip(other).map(|(acting, other)| other - acting).collect();
        let mean = |values: Vec<f64>, name: &str| MeanInterval::of(values, name).expect("finite");
        MetricComparison {
            metric: ScenarioMetric::ViolatedShare,
            recorded,
            acting: mean(acting.to_vec(), "acting"),
            other: mean(other.to_vec(), "other"),
            difference: mean(difference, "difference"),
        }
    }

    #[test]
    fn difference_is_significant_beyond_chance_and_simulation_error() {
        let (acting, other) = ([0.10, 0.11, 0.12, 0.11], [0.04, 0.05, 0.05, 0.04]);
        let conclusion = |recorded, other: &[f64]| comparison(recorded, &acting, other).conclusion();
        assert_eq!(conclusion(Some(0.10), &other), Conclusion::Significant);
        assert_eq!(conclusion(Some(0.25), &other), Conclusion::Inconclusive);
        assert_eq!(conclusion(None, &other), Conclusion::Unverified);
        assert_eq!(conclusion(Some(0.1), &[0.09, 0.12, 0.11, 0.12]), Conclusion::NotSignificant);
        assert_eq!(conclusion(Some(0.1), &acting), Conclusion::NotSignificant, "no difference");
    }

    #[test]
    fn runs_without_requests_are_an_error() {
        let runs = [(RunMetrics::default(), RunMetrics::default())];
        let error = MetricsComparison::of(&RunMetrics::default(), &runs).expect_err("nothing simulated");
        assert_eq!(error.downcast_ref(), Some(&NothingSimulated(ScenarioMetric::ViolatedShare)));
    }

    #[test]
    fn json_has_error_and_conclusion() {
        let json = serde_json::to_value(comparison(Some(0.05), &[0.1, 0.1], &[0.0, 0.0])).expect("writes");
        assert_eq!((&json["error"], &json["conclusion"], &json["metric"]), (&0.05.into(), &"significant".into(), &"violated_share".into()));
        assert_eq!(json["difference"]["mean"], -0.1);
    }

    #[test]
    fn reports_the_share_of_ticks_that_others_decided() {
        let text = include_str!("../../../../common/tests/golden/reward.full.json");
        let reward: Reward = serde_json::from_str(text).expect("golden");
        let agent = reward.decided_by.clone().expect("decided").agent;
        let mut other = reward.clone();
        other.decided_by.as_mut().expect("decided").source = DecisionSource::Operator;
        let mut mine = reward;
        mine.decided_by.as_mut().expect("decided").source = DecisionSource::Agent;
        assert_eq!(decided_by_others(&[mine.clone(), mine.clone()], &agent), None);
        let reported = decided_by_others(&[mine, other], &agent).expect("half of the ticks");
        assert!(reported.contains("50%"), "{reported}");
    }
}
