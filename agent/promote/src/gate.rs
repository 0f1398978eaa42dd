//! Decides whether a candidate passes a gate. Owns the thresholds and the objections; must not simulate.

use qscale_dqn::reward::StepReward;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Limits of the gates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Thresholds {
    /// Loss of training reward on validation worlds that is accepted: a share of the reward, 0 to 1.
    pub reward: f64,
    /// Additional violations on validation worlds that are accepted, a share of ticks, 0 to 1.
    pub validation_violation: f64,
    /// Additional simulated violations of a function that are accepted, a share of ticks, 0 to 1.
    pub violated: f64,
    /// Additional simulated cost of a function that is accepted: a share of the cost, 0 to 1.
    pub cost: f64,
    /// Largest error of simulated violations against the recording, a share of ticks, 0 to 1.
    pub violated_error: f64,
    /// Largest error of the simulated cost against the recording, a share of the recorded cost.
    pub cost_error: f64,
    /// Share of decisions on out-of-distribution observations that is accepted, 0 to 1.
    pub out_of_distribution: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        // A tenth of a percentage point counts as equal in the evaluation (3.6 s an hour). Validation worlds get twice
        // that: models of two training seeds differ by more. The cost error is wide because the simulation may start
        // other replicas than were recorded, for both models alike.
        Self {
            reward: 0.02,
            validation_violation: 0.002,
            violated: 0.001,
            cost: 0.01,
            violated_error: 0.05,
            cost_error: 0.2,
            out_of_distribution: 0.01,
        }
    }
}

/// One measure of the candidate and of the model in use, both simulated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// The model in use, mean over the seeds.
    pub base: f64,
    /// The candidate, mean over the seeds.
    pub candidate: f64,
    /// Lower end of the interval of the difference, candidate minus model in use, paired by seed.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Simulated minus recorded value of the model in use; absent if nothing was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
}

impl Compared {
    fn difference(&self) -> f64 {
        self.candidate - self.base
    }

    /// Whether the interval of the difference lies below zero.
    fn is_less(&self) -> bool {
        self.high < 0.0
    }

    fn recorded(&self) -> Option<f64> {
        self.error.map(|error| self.base - error)
    }
}

/// Simulation of one function over its recorded arrivals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionEstimate {
    /// The function.
    pub function: String,
    /// Simulated ticks.
    pub ticks: usize,
    /// Share of ticks in violation.
    pub violated: Compared,
    /// Cost per hour.
    pub cost: Compared,
}

/// A function that could not be simulated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotSimulated {
    /// The function.
    pub function: String,
    /// The error.
    pub cause: String,
}

/// Simulation of all functions that a model serves.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Estimates {
    /// Functions that were simulated.
    pub simulated: Vec<FunctionEstimate>,
    /// Functions that could not be.
    pub failed: Vec<NotSimulated>,
    /// Functions without a recorded request: there is nothing to simulate.
    pub idle: Vec<String>,
}

/// Decisions of the candidate on recorded States, none of which was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ShadowDecisions {
    /// Decisions.
    pub decisions: usize,
    /// Decisions in which an allowed action has a non-finite Q-value.
    pub not_finite: usize,
    /// Decisions on out-of-distribution observations.
    pub out_of_distribution: usize,
    /// Decisions that differ from those of the model in use.
    pub differ: usize,
}

/// Reason why a candidate does not pass a gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Objection {
    /// The training reward on validation worlds fell by more than the threshold, or is not finite.
    #[error("on validation worlds the reward is {candidate:.4}, model in use {base:.4}")]
    ValidationReward {
        /// The model in use.
        base: f64,
        /// The candidate.
        candidate: f64,
    },
    /// Violations on validation worlds rose by more than the threshold.
    #[error("on validation worlds the share of violations is {candidate:.4}, model in use {base:.4}")]
    ValidationViolation {
        /// The model in use.
        base: f64,
        /// The candidate.
        candidate: f64,
    },
    /// A function would be violated more often.
    #[error("{function} would be violated in {:.2} % of its ticks instead of {:.2} %", candidate * 100.0, base * 100.0)]
    Violation {
        /// The function.
        function: String,
        /// The model in use, share of ticks.
        base: f64,
        /// The candidate, share of ticks.
        candidate: f64,
    },
    /// A function would cost more.
    #[error("{function} would cost {candidate:.4} per hour instead of {base:.4}")]
    Cost {
        /// The function.
        function: String,
        /// The model in use, cost per hour.
        base: f64,
        /// The candidate, cost per hour.
        candidate: f64,
    },
    /// A function could not be simulated, so nothing rules out that the candidate harms it.
    #[error("{function} cannot be simulated: {cause}")]
    NotSimulated {
        /// The function.
        function: String,
        /// The error.
        cause: String,
    },
    /// There is no recording to simulate over.
    #[error("no recording to simulate over")]
    NothingRecorded,
    /// No function shows an improvement beyond chance.
    #[error("no function shows an improvement beyond chance")]
    NoImprovement,
    /// An improvement may be there, but the simulation is too far from the recordings to show it.
    #[error("no improvement is proven: {}", doubts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Unproven {
        /// Functions whose simulation proves nothing.
        doubts: Vec<Doubt>,
    },
    /// The candidate decided on no State in the shadow.
    #[error("no State arrived for the candidate to decide on")]
    NoDecision,
    /// The candidate returned non-finite Q-values in the shadow.
    #[error("non-finite Q-value in {count} of {decisions} decisions")]
    NonFinite {
        /// Decisions with such a value.
        count: usize,
        /// All decisions.
        decisions: usize,
    },
    /// Too many observations in the shadow were out of distribution.
    #[error("observation out of distribution in {count} of {decisions} decisions")]
    OutOfDistribution {
        /// Decisions on such an observation.
        count: usize,
        /// All decisions.
        decisions: usize,
    },
}

/// Reason why the simulation of a function proves nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Doubt {
    /// There is no recorded value to check the simulation against.
    #[error("{function}: no recorded value to check the simulation against")]
    Unchecked {
        /// The function.
        function: String,
    },
    /// Simulated violations are too far from the recorded ones.
    #[error("{function}: simulated violations are off by {:+.1} percentage points", error * 100.0)]
    Violations {
        /// The function.
        function: String,
        /// Simulated minus recorded, share of ticks.
        error: f64,
    },
    /// The simulated cost is too far from the recorded one.
    #[error("{function}: simulated cost is off by {error:+.4} per hour, recorded {recorded:.4}")]
    Cost {
        /// The function.
        function: String,
        /// Simulated minus recorded, cost per hour.
        error: f64,
        /// Recorded cost per hour.
        recorded: f64,
    },
}

/// Report of a gate on a candidate.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GateReport {
    /// Why the candidate does not pass; empty if it passes.
    pub objections: Vec<Objection>,
    /// Improvements and passed checks, as sentences.
    pub improvements: Vec<String>,
    /// Functions that were not judged because they had no request.
    pub idle: Vec<String>,
}

impl GateReport {
    /// Whether the candidate passes.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.objections.is_empty()
    }

    /// This report and another on the same candidate.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.objections.extend(other.objections);
        self.improvements.extend(other.improvements);
        self.idle.extend(other.idle);
        self
    }

    /// The objections, or the improvements if there is no objection; and the functions that were not judged.
    #[must_use]
    pub fn why(&self) -> String {
        let mut reasons: Vec<String> = self.objections.iter().map(ToString::to_string).collect();
        if reasons.is_empty() {
            reasons.clone_from(&self.improvements);
        }
        if !self.idle.is_empty() {
            reasons.push(format!("not judged, without requests: {}", self.idle.join(", ")));
        }
        reasons.join("; ")
    }
}

/// Whether `value` is at most `limit`; false for NaN.
fn within(value: f64, limit: f64) -> bool {
    value <= limit
}

impl Thresholds {
    /// Checks that the candidate, with mean step `candidate` on validation worlds, forgot nothing that the model in
    /// use, with `base`, knows.
    #[must_use]
    pub fn validation(&self, base: &StepReward, candidate: &StepReward) -> GateReport {
        let mut report = GateReport::default();
        let floor = base.reward - self.reward * base.reward.abs();
        let finite = candidate.reward.is_finite();
        if !finite || candidate.reward < floor {
            report.objections.push(Objection::ValidationReward { base: base.reward, candidate: candidate.reward });
        }
        if !finite || candidate.violation > base.violation + self.validation_violation {
            report.objections.push(Objection::ValidationViolation { base: base.violation, candidate: candidate.violation });
        }
        if report.passes() {
            report
                .improvements
                .push(format!("on validation worlds the reward is {:.4}, model in use {:.4}", candidate.reward, base.reward));
        }
        report
    }

    /// Checks that the candidate violates no more and costs no more in `estimates`. With `better`, at least one of them
    /// must improve beyond chance, for a function whose simulation is close to the recording. A function that could not
    /// be simulated is an objection: nothing shows that the candidate does not harm it.
    #[must_use]
    pub fn estimated(&self, estimates: &Estimates, better: bool) -> GateReport {
        let Estimates { simulated, failed, idle } = estimates;
        let mut report = GateReport { idle: idle.clone(), ..GateReport::default() };
        let mut doubts = Vec::new();
        for FunctionEstimate { function, violated, cost, .. } in simulated {
            let function = function.clone();
            if !within(violated.difference(), self.violated) {
                let (base, candidate) = (violated.base, violated.candidate);
                report.objections.push(Objection::Violation { function: function.clone(), base, candidate });
            }
            if !within(cost.difference(), self.cost * cost.base) {
                report.objections.push(Objection::Cost { function: function.clone(), base: cost.base, candidate: cost.candidate });
            }
            match self.doubt(&function, violated, cost) {
                Some(doubt) => doubts.push(doubt),
                None => report.improvements.extend(improvements(&function, violated, cost)),
            }
        }
        for NotSimulated { function, cause } in failed {
            report.objections.push(Objection::NotSimulated { function: function.clone(), cause: cause.clone() });
        }
        if simulated.is_empty() && failed.is_empty() {
            report.objections.push(Objection::NothingRecorded);
        } else if better && !simulated.is_empty() && report.improvements.is_empty() {
            report.objections.push(if doubts.is_empty() { Objection::NoImprovement } else { Objection::Unproven { doubts } });
        }
        report
    }

    /// Why the simulation of a function proves nothing; `None` if its error is small enough.
    fn doubt(&self, function: &str, violated: &Compared, cost: &Compared) -> Option<Doubt> {
        let function = function.to_owned();
        let (Some(violated_error), Some(cost_error), Some(recorded)) = (violated.error, cost.error, cost.recorded()) else {
            return Some(Doubt::Unchecked { function });
        };
        if !within(violated_error.abs(), self.violated_error) {
            return Some(Doubt::Violations { function, error: violated_error });
        }
        if !within(cost_error.abs(), self.cost_error * recorded.abs()) {
            return Some(Doubt::Cost { function, error: cost_error, recorded });
        }
        None
    }

    /// Checks that the decisions of the candidate in the shadow can be applied.
    #[must_use]
    pub fn shadowed(&self, shadowed: &ShadowDecisions) -> GateReport {
        let mut report = GateReport::default();
        let ShadowDecisions { decisions, not_finite, out_of_distribution, differ } = *shadowed;
        if decisions == 0 {
            report.objections.push(Objection::NoDecision);
        }
        if not_finite > 0 {
            report.objections.push(Objection::NonFinite { count: not_finite, decisions });
        }
        if out_of_distribution as f64 > self.out_of_distribution * decisions as f64 {
            report.objections.push(Objection::OutOfDistribution { count: out_of_distribution, decisions });
        }
        if report.passes() {
            report.improvements.push(format!(
                "{differ} of {decisions} decisions differ from those of the model in use; all are finite and in distribution"
            ));
        }
        report
    }
}

fn improvements(function: &str, violated: &Compared, cost: &Compared) -> Vec<String> {
    let mut improvements = Vec::new();
    if violated.is_less() {
        let (candidate, base) = (violated.candidate * 100.0, violated.base * 100.0);
        improvements.push(format!("{function} would be violated in {candidate:.2} % of its ticks instead of {base:.2} %"));
    }
    if cost.is_less() {
        improvements.push(format!("{function} would cost {:.4} per hour instead of {:.4}", cost.candidate, cost.base));
    }
    improvements
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(base: f64, candidate: f64, width: f64, error: Option<f64>) -> Compared {
        let difference = candidate - base;
        Compared { base, candidate, low: difference - width, high: difference + width, error }
    }

    fn estimate(violated: Compared, cost: Compared) -> FunctionEstimate {
        FunctionEstimate { function: "default/f".into(), ticks: 100, violated, cost }
    }

    fn report(simulated: &[FunctionEstimate]) -> GateReport {
        Thresholds::default().estimated(&Estimates { simulated: simulated.to_vec(), ..Estimates::default() }, true)
    }

    #[track_caller]
    fn check_passes(estimates: &[FunctionEstimate]) {
        let report = report(estimates);
        assert!(report.passes() && !report.improvements.is_empty(), "{report:?}");
    }

    #[track_caller]
    fn check_objects(estimates: &[FunctionEstimate], expected: fn(&Objection) -> bool) {
        let report = report(estimates);
        assert!(report.objections.iter().any(expected), "{report:?}");
    }

    #[test]
    fn lower_cost_without_more_violations_passes() {
        let cheaper = compared(1.0, 0.9, 0.02, Some(0.05));
        check_passes(&[estimate(compared(0.01, 0.01, 0.0, Some(0.0)), cheaper)]);
        let violation = |objection: &Objection| matches!(objection, Objection::Violation { function, .. } if function == "default/f");
        check_objects(&[estimate(compared(0.01, 0.03, 0.0, Some(0.0)), cheaper)], violation);
        check_objects(&[estimate(compared(0.01, f64::NAN, 0.0, Some(0.0)), cheaper)], violation);
        check_objects(&[estimate(compared(0.03, 0.01, 0.001, Some(0.0)), compared(1.0, 1.1, 0.2, Some(0.0)))], |objection| {
            matches!(objection, Objection::Cost { base: 1.0, candidate: 1.1, .. })
        });
    }

    #[test]
    fn a_difference_within_chance_or_within_the_simulation_error_is_no_improvement() {
        let same = compared(0.01, 0.01, 0.0, Some(0.0));
        let only = |violated, cost| {
            let report = report(&[estimate(violated, cost)]);
            assert_eq!(report.objections.len(), 1, "{report:?}");
            report.objections[0].clone()
        };
        assert_eq!(only(same, compared(1.0, 0.99, 0.02, Some(0.0))), Objection::NoImprovement);
        let doubt = |violated, cost| {
            let Objection::Unproven { doubts } = only(violated, cost) else { panic!("an improvement that is not proven") };
            doubts[0].clone()
        };
        let recorded = doubt(same, compared(1.0, 0.9, 0.02, Some(0.4)));
        assert!(matches!(recorded, Doubt::Cost { error, recorded, .. } if error == 0.4 && recorded == 0.6), "{recorded:?}");
        assert!(matches!(doubt(same, compared(1.0, 0.9, 0.02, None)), Doubt::Unchecked { .. }));
        let off = Compared { error: Some(-0.2), ..same };
        assert!(matches!(doubt(off, compared(1.0, 0.9, 0.02, Some(0.0))), Doubt::Violations { error, .. } if error == -0.2));
        assert_eq!(report(&[]).objections, [Objection::NothingRecorded]);
    }

    #[test]
    fn one_function_that_would_get_worse_is_enough_to_reject() {
        let better = estimate(compared(0.01, 0.01, 0.0, Some(0.0)), compared(1.0, 0.8, 0.02, Some(0.0)));
        let worse = estimate(compared(0.0, 0.2, 0.0, None), compared(1.0, 0.8, 0.0, None));
        check_passes(&[better.clone(), better.clone()]);
        check_objects(&[better, worse], |objection| matches!(objection, Objection::Violation { candidate: 0.2, .. }));
    }

    #[test]
    fn a_function_that_cannot_be_simulated_rejects_and_stands_in_the_report() {
        let better = estimate(compared(0.01, 0.01, 0.0, Some(0.0)), compared(1.0, 0.8, 0.02, Some(0.0)));
        let failed = NotSimulated { function: "default/g".into(), cause: "nothing was answered".into() };
        for simulated in [vec![better], Vec::new()] {
            for better in [true, false] {
                let estimates = Estimates { simulated: simulated.clone(), failed: vec![failed.clone()], ..Estimates::default() };
                let report = Thresholds::default().estimated(&estimates, better);
                let expected = Objection::NotSimulated { function: "default/g".into(), cause: "nothing was answered".into() };
                assert_eq!(report.objections, [expected]);
                assert!(report.why().contains("default/g") && report.why().contains("nothing was answered"), "{}", report.why());
            }
        }
    }

    #[test]
    fn a_function_without_requests_is_reported_and_does_not_reject() {
        let better = estimate(compared(0.01, 0.01, 0.0, Some(0.0)), compared(1.0, 0.8, 0.02, Some(0.0)));
        let idle = vec!["default/g".to_owned()];
        let report =
            Thresholds::default().estimated(&Estimates { simulated: vec![better], idle: idle.clone(), ..Estimates::default() }, true);
        assert!(report.passes() && report.why().contains("default/g"), "{report:?}");
        let none = Thresholds::default().estimated(&Estimates { idle, ..Estimates::default() }, false);
        assert_eq!(none.objections, [Objection::NothingRecorded]);
    }

    #[test]
    fn a_shadow_need_not_be_better_but_must_not_be_worse() {
        let same = estimate(compared(0.01, 0.01, 0.0, Some(0.0)), compared(1.0, 1.0, 0.0, Some(0.0)));
        let same = Estimates { simulated: vec![same], ..Estimates::default() };
        assert!(Thresholds::default().estimated(&same, false).passes());
    }

    #[test]
    fn a_candidate_that_forgot_validation_worlds_is_rejected() {
        let tick = |reward, violation| StepReward { reward, violation, ..StepReward::default() };
        let report = |candidate| Thresholds::default().validation(&tick(-0.1, 0.02), &candidate);
        assert!(report(tick(-0.101, 0.0215)).passes());
        assert_eq!(report(tick(-0.103, 0.02)).objections, [Objection::ValidationReward { base: -0.1, candidate: -0.103 }]);
        assert_eq!(report(tick(-0.1, 0.03)).objections, [Objection::ValidationViolation { base: 0.02, candidate: 0.03 }]);
        assert!(!report(tick(f64::NAN, 0.0)).passes());
    }

    #[test]
    fn a_shadow_with_unusable_decisions_is_rejected() {
        let thresholds = Thresholds::default();
        let good = ShadowDecisions { decisions: 100, not_finite: 0, out_of_distribution: 1, differ: 7 };
        assert!(thresholds.shadowed(&good).passes());
        let objections = |shadowed| thresholds.shadowed(&shadowed).objections;
        assert_eq!(objections(ShadowDecisions { not_finite: 1, ..good }), [Objection::NonFinite { count: 1, decisions: 100 }]);
        assert_eq!(
            objections(ShadowDecisions { out_of_distribution: 2, ..good }),
            [Objection::OutOfDistribution { count: 2, decisions: 100 }]
        );
        assert_eq!(objections(ShadowDecisions::default()), [Objection::NoDecision]);
    }
}
