//! Whether a candidate may pass a gate. Owns the margins and the sentences that say why not; must not simulate.

use qscale_dqn::worth::Tick;
use serde::{Deserialize, Serialize};

/// What counts as no worse, and how far a simulation may err that is to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Margins {
    /// Of the reward on validation worlds, by which a candidate may fall behind: a share of the reward, 0 to 1.
    pub reward: f64,
    /// Violations on validation worlds by which it may exceed the model in use, a share of ticks, 0 to 1.
    pub validation_violation: f64,
    /// Estimated violations by which it may exceed it, a share of ticks, 0 to 1.
    pub violated: f64,
    /// Estimated cost by which it may exceed it: a share of the cost, 0 to 1.
    pub cost: f64,
    /// Largest error of simulated violations against the record, a share of ticks, 0 to 1.
    pub violated_error: f64,
    /// Largest error of the simulated cost, a share of the recorded cost.
    pub cost_error: f64,
    /// Share of decisions that may be made on what no training showed, 0 to 1.
    pub strange: f64,
}

impl Default for Margins {
    fn default() -> Self {
        // A tenth of a percentage point is what the evaluation takes for equal (3.6 s an hour); on validation worlds, where models of two seeds of training differ
        // by more than that, twice as much. A simulation errs in cost by as much as it starts other replicas, which both sides share.
        Self {
            reward: 0.02,
            validation_violation: 0.002,
            violated: 0.001,
            cost: 0.01,
            violated_error: 0.05,
            cost_error: 0.2,
            strange: 0.01,
        }
    }
}

/// A measure of the candidate beside that of the model in use, both simulated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// The model in use, mean over the seeds.
    pub base: f64,
    /// The candidate.
    pub candidate: f64,
    /// Ends of the interval of the difference, the candidate less the model in use, seed by seed.
    pub low: f64,
    /// The upper one.
    pub high: f64,
    /// How much more the simulated model in use shows than was recorded; absent where nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
}

impl Compared {
    fn more(&self) -> f64 {
        self.candidate - self.base
    }

    /// Whether the interval of the difference lies below zero.
    fn is_less(&self) -> bool {
        self.high < 0.0
    }

    /// What was recorded.
    fn recorded(&self) -> Option<f64> {
        self.error.map(|error| self.base - error)
    }
}

/// What simulating one function over its recorded arrivals says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The function.
    pub function: String,
    /// Ticks that are simulated.
    pub ticks: usize,
    /// Share of ticks in violation.
    pub violated: Compared,
    /// Cost an hour.
    pub cost: Compared,
}

/// What a candidate made of States, without being obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Shadowed {
    /// States that it decided on.
    pub decisions: usize,
    /// Those where it valued a choice that could be made at no number.
    pub not_finite: usize,
    /// Those that lie far from all training.
    pub strange: usize,
    /// Those where it wanted something else than the model in use.
    pub differ: usize,
}

/// What a gate says of a candidate.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Ruling {
    /// Why it does not pass, each a sentence; empty where it does.
    pub against: Vec<String>,
    /// What speaks for it.
    pub speaks_for: Vec<String>,
}

impl Ruling {
    /// Whether the candidate passes.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.against.is_empty()
    }

    /// Both of them.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.against.extend(other.against);
        self.speaks_for.extend(other.speaks_for);
        self
    }

    /// Why, in one sentence.
    #[must_use]
    pub fn why(&self) -> String {
        let reasons = if self.passes() { &self.speaks_for } else { &self.against };
        reasons.join("; ")
    }
}

/// Whether `value` is at most `most`; what is no number is not.
fn within(value: f64, most: f64) -> bool {
    value <= most
}

impl Margins {
    /// Whether a candidate that was worth `candidate` on the validation worlds, where the model in use was worth `base`, forgot nothing.
    #[must_use]
    pub fn validation(&self, base: &Tick, candidate: &Tick) -> Ruling {
        let mut ruling = Ruling::default();
        let told =
            |what: &str, base: f64, candidate: f64| format!("on validation worlds {what} {candidate:.4}, the model in use {base:.4}");
        let least = base.reward - self.reward * base.reward.abs();
        let finite = candidate.reward.is_finite();
        if !finite || candidate.reward < least {
            ruling.against.push(told("the candidate's reward is", base.reward, candidate.reward));
        }
        if !finite || candidate.violation > base.violation + self.validation_violation {
            ruling.against.push(told("the candidate violates a share of", base.violation, candidate.violation));
        }
        if ruling.passes() {
            ruling.speaks_for.push(told("the candidate's reward is", base.reward, candidate.reward));
        }
        ruling
    }

    /// Whether the candidate violates no more and costs no more by `estimates`; where `better` is asked for, at least one of them beyond chance, of a function
    /// whose simulation comes near what was recorded.
    #[must_use]
    pub fn estimated(&self, estimates: &[Estimate], better: bool) -> Ruling {
        let mut ruling = Ruling::default();
        let mut doubts = Vec::new();
        for Estimate { function, violated, cost, .. } in estimates {
            if !within(violated.more(), self.violated) {
                ruling.against.push(format!(
                    "{function} would be violated in {:.2} % of its ticks instead of {:.2} %",
                    violated.candidate * 100.0,
                    violated.base * 100.0
                ));
            }
            if !within(cost.more(), self.cost * cost.base) {
                ruling.against.push(format!("{function} would cost {:.4} an hour instead of {:.4}", cost.candidate, cost.base));
            }
            match self.doubt(violated, cost) {
                Some(doubt) => doubts.push(format!("of {function} {doubt}")),
                None => ruling.speaks_for.extend(self.gains(function, violated, cost)),
            }
        }
        if estimates.is_empty() {
            ruling.against.push("nothing was recorded that it could be simulated over".to_owned());
        } else if better && ruling.speaks_for.is_empty() {
            ruling.against.push(if doubts.is_empty() {
                "it is nowhere better than the model in use by more than chance".to_owned()
            } else {
                format!("nothing shows that it is better: {}", doubts.join("; "))
            });
        }
        ruling
    }

    /// Why the simulation of a function proves nothing; `None` where it errs by little enough.
    fn doubt(&self, violated: &Compared, cost: &Compared) -> Option<String> {
        let (Some(violated_error), Some(cost_error), Some(paid)) = (violated.error, cost.error, cost.recorded()) else {
            return Some("nothing was recorded to hold the simulation against".to_owned());
        };
        if !within(violated_error.abs(), self.violated_error) {
            return Some(format!(
                "the simulation shows {:+.1} percentage points of violations beside what was recorded",
                violated_error * 100.0
            ));
        }
        if !within(cost_error.abs(), self.cost_error * paid.abs()) {
            return Some(format!("the simulation costs {cost_error:+.4} an hour beside the {paid:.4} that were recorded"));
        }
        None
    }

    fn gains(&self, function: &str, violated: &Compared, cost: &Compared) -> Vec<String> {
        let mut gains = Vec::new();
        if violated.is_less() {
            let (candidate, base) = (violated.candidate * 100.0, violated.base * 100.0);
            gains.push(format!("{function} would be violated in {candidate:.2} % of its ticks instead of {base:.2} %"));
        }
        if cost.is_less() {
            gains.push(format!("{function} would cost {:.4} an hour instead of {:.4}", cost.candidate, cost.base));
        }
        gains
    }

    /// Whether what the candidate made of States can be obeyed.
    #[must_use]
    pub fn shadowed(&self, seen: &Shadowed) -> Ruling {
        let mut ruling = Ruling::default();
        let Shadowed { decisions, not_finite, strange, differ } = *seen;
        if decisions == 0 {
            ruling.against.push("no State came that it could decide on".to_owned());
        }
        if not_finite > 0 {
            ruling.against.push(format!("in {not_finite} of {decisions} decisions it valued a choice at no number"));
        }
        if strange as f64 > self.strange * decisions as f64 {
            ruling.against.push(format!("in {strange} of {decisions} decisions it saw what no training showed"));
        }
        if ruling.passes() {
            ruling.speaks_for.push(format!("of {decisions} decisions {differ} differ from those of the model in use, and none is astray"));
        }
        ruling
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(base: f64, candidate: f64, width: f64, error: Option<f64>) -> Compared {
        let more = candidate - base;
        Compared { base, candidate, low: more - width, high: more + width, error }
    }

    fn estimate(violated: Compared, cost: Compared) -> Estimate {
        Estimate { function: "default/f".into(), ticks: 100, violated, cost }
    }

    #[track_caller]
    fn check(estimates: &[Estimate], against: Option<&str>) {
        let ruling = Margins::default().estimated(estimates, true);
        match against {
            None => assert!(ruling.passes() && !ruling.speaks_for.is_empty(), "{ruling:?}"),
            Some(text) => assert!(ruling.why().contains(text) && !ruling.passes(), "{ruling:?}"),
        }
    }

    #[test]
    fn less_cost_at_no_more_violations_passes() {
        let cheaper = compared(1.0, 0.9, 0.02, Some(0.05));
        check(&[estimate(compared(0.01, 0.01, 0.0, Some(0.0)), cheaper)], None);
        check(&[estimate(compared(0.01, 0.03, 0.0, Some(0.0)), cheaper)], Some("violated in 3.00 % of its ticks instead of 1.00 %"));
        check(&[estimate(compared(0.03, 0.01, 0.001, Some(0.0)), compared(1.0, 1.1, 0.2, Some(0.0)))], Some("cost 1.1000 an hour"));
        check(&[estimate(compared(0.01, f64::NAN, 0.0, Some(0.0)), cheaper)], Some("violated"));
    }

    #[test]
    fn what_may_be_chance_or_is_simulated_badly_is_no_gain() {
        let same = compared(0.01, 0.01, 0.0, Some(0.0));
        check(&[estimate(same, compared(1.0, 0.99, 0.02, Some(0.0)))], Some("more than chance"));
        check(&[estimate(same, compared(1.0, 0.9, 0.02, Some(0.4)))], Some("costs +0.4000 an hour beside the 0.6000"));
        check(&[estimate(same, compared(1.0, 0.9, 0.02, None))], Some("nothing was recorded to hold"));
        check(&[estimate(Compared { error: Some(-0.2), ..same }, compared(1.0, 0.9, 0.02, Some(0.0)))], Some("-20.0 percentage points"));
        check(&[], Some("nothing was recorded"));
    }

    #[test]
    fn one_function_that_would_fare_worse_is_enough_to_reject() {
        let better = estimate(compared(0.01, 0.01, 0.0, Some(0.0)), compared(1.0, 0.8, 0.02, Some(0.0)));
        let worse = estimate(compared(0.0, 0.2, 0.0, None), compared(1.0, 0.8, 0.0, None));
        check(&[better.clone(), better.clone()], None);
        check(&[better, worse], Some("20.00 %"));
    }

    #[test]
    fn a_shadow_need_not_be_better_but_must_not_be_worse() {
        let same = estimate(compared(0.01, 0.01, 0.0, Some(0.0)), compared(1.0, 1.0, 0.0, Some(0.0)));
        assert!(Margins::default().estimated(&[same], false).passes());
    }

    #[test]
    fn what_was_known_must_not_be_forgotten() {
        let tick = |reward, violation| Tick { reward, violation, ..Tick::default() };
        let ruling = |candidate| Margins::default().validation(&tick(-0.1, 0.02), &candidate);
        assert!(ruling(tick(-0.101, 0.0215)).passes());
        assert!(ruling(tick(-0.103, 0.02)).why().contains("the candidate's reward is -0.1030, the model in use -0.1000"));
        assert!(ruling(tick(-0.1, 0.03)).why().contains("violates a share of 0.0300"));
        assert!(!ruling(tick(f64::NAN, 0.0)).passes());
    }

    #[test]
    fn a_shadow_that_is_astray_is_not_obeyed() {
        let margins = Margins::default();
        let good = Shadowed { decisions: 100, not_finite: 0, strange: 1, differ: 7 };
        assert!(margins.shadowed(&good).passes());
        assert!(margins.shadowed(&Shadowed { not_finite: 1, ..good }).why().contains("valued a choice at no number"));
        assert!(margins.shadowed(&Shadowed { strange: 2, ..good }).why().contains("no training showed"));
        assert!(!margins.shadowed(&Shadowed::default()).passes());
    }
}
