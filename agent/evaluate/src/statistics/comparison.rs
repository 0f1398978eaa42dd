//! Comparison of a competitor with a reference. Owns pairs, tests and the rule of the verdict; must not choose the reference.
//!
//! With one seed both have equal arrivals, so runs are compared in pairs of the same cell and seed. Intervals resample
//! the pairs of each cell. Tests use one difference a seed, the mean over the cells, since the cells of a seed share
//! their arrivals and are not independent.
//!
//! **Better means cheaper at equal or fewer violations, with intervals that exclude zero.** In detail:
//! - *cheaper*: the intervals of the paired cost differences are below zero, for the interquartile mean and for the mean;
//! - *equal or fewer*: the same two intervals of the violations end at most a registered margin above zero. The mean is
//!   included because most violations are in the worst quarter, which an interquartile mean ignores.
//!
//! *Worse* means that the reference is better. Everything else is a tie.

use serde::{Deserialize, Serialize};

use super::bootstrap::{Bootstrap, Estimate, Interval};
use super::{Sample, StatisticsError, sign_flip, wilcoxon};
use crate::results::rounded;

/// Verdict on a competitor against a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComparisonVerdict {
    /// Cheaper at equal or fewer violations.
    Better,
    /// The reference is better.
    Worse,
    /// Neither is better.
    Tie,
}

impl ComparisonVerdict {
    /// Word in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Tie => "tie",
        }
    }
}

/// Sign of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceSign {
    /// Below zero.
    Less,
    /// Not significant.
    Same,
    /// Above zero.
    More,
}

/// A verdict with its components.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The verdict.
    pub verdict: ComparisonVerdict,
    /// Cost relative to the reference.
    pub cost: DifferenceSign,
    /// Violations relative to the reference.
    pub violations: DifferenceSign,
}

impl Finding {
    /// The verdict on differences (competitor less reference) of cost and of violations.
    #[must_use]
    pub fn of(cost: &Estimate, violations: &Estimate, margin: f64) -> Self {
        let ends = |estimate: &Estimate| (lowest(estimate), highest(estimate));
        let judged = Self {
            verdict: ComparisonVerdict::Tie,
            cost: DifferenceSign::of_cost(cost),
            violations: DifferenceSign::of_violations(violations),
        };
        let verdict = match (judged.cost, ends(violations)) {
            (DifferenceSign::Less, (_, high)) if high <= margin => ComparisonVerdict::Better,
            (DifferenceSign::More, (low, _)) if low >= -margin => ComparisonVerdict::Worse,
            _ => ComparisonVerdict::Tie,
        };
        Self { verdict, ..judged }
    }

    /// Cost and violations in words.
    #[must_use]
    pub fn reading(self) -> &'static str {
        use DifferenceSign::{Less, More, Same};
        match (self.cost, self.violations) {
            (Less, Same) if self.verdict == ComparisonVerdict::Tie => "cheaper, violations unclear",
            (More, Same) if self.verdict == ComparisonVerdict::Tie => "more expensive, violations unclear",
            (Less, Less) => "cheaper, fewer violations",
            (Less, Same) => "cheaper, equal violations",
            (Less, More) => "cheaper, more violations",
            (Same, Less) => "equal cost, fewer violations",
            (Same, Same) => "equal cost and violations",
            (Same, More) => "equal cost, more violations",
            (More, Less) => "more expensive, fewer violations",
            (More, Same) => "more expensive, equal violations",
            (More, More) => "more expensive, more violations",
        }
    }
}

fn lowest(estimate: &Estimate) -> f64 {
    f64::min(estimate.iqm_interval.low, estimate.mean_interval.low)
}

fn highest(estimate: &Estimate) -> f64 {
    f64::max(estimate.iqm_interval.high, estimate.mean_interval.high)
}

impl DifferenceSign {
    /// Both centres must agree.
    fn of_cost(estimate: &Estimate) -> Self {
        match (lowest(estimate), highest(estimate)) {
            (_, high) if high < 0.0 => Self::Less,
            (low, _) if low > 0.0 => Self::More,
            _ => Self::Same,
        }
    }

    /// One centre is enough, since many cells have no violations and some have many.
    fn of_violations(estimate: &Estimate) -> Self {
        let intervals = [estimate.iqm_interval, estimate.mean_interval];
        let (more, less) = (intervals.iter().any(|interval| interval.low > 0.0), intervals.iter().any(|interval| interval.high < 0.0));
        match (less, more) {
            (true, false) => Self::Less,
            (false, true) => Self::More,
            _ => Self::Same,
        }
    }
}

/// Paired differences of one measure, competitor less reference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Differences, one for each cell and seed.
    pub difference: Estimate,
    /// Number of tested differences, one for each seed.
    pub tested: usize,
    /// Two-sided p of the sign-flip test.
    pub sign_flip_p: f64,
    /// Corrected for all comparisons of its table (Holm).
    pub sign_flip_holm: f64,
    /// Two-sided p of Wilcoxon's signed-rank test.
    pub wilcoxon_p: f64,
    /// Corrected for all comparisons of its table (Holm).
    pub wilcoxon_holm: f64,
}

/// Differences of one measure by cell and seed: `cells[cell][seed]`, `None` if one of both is missing. All cells have equal length.
pub type Differences = Vec<Vec<Option<f64>>>;

impl Paired {
    /// Intervals and tests of `differences`, with p-values not yet corrected. `None` without differences.
    ///
    /// # Errors
    /// A difference that is not finite.
    pub fn of(bootstrap: &Bootstrap, differences: &Differences, name: &str) -> Result<Option<Self>, StatisticsError> {
        let strata = strata(differences.iter().map(|cell| cell.iter().flatten().copied()))?;
        let Some(difference) = bootstrap.estimate(&strata, name) else { return Ok(None) };
        let seeds = differences.iter().map(Vec::len).max().unwrap_or(0);
        let by_seed = (0..seeds).filter_map(|seed| mean(differences.iter().filter_map(|cell| *cell.get(seed)?)));
        let by_seed = Sample::try_from(by_seed.collect::<Vec<_>>())?;
        let (sign_flip_p, wilcoxon_p) = (rounded(sign_flip(&by_seed, bootstrap.seed)), rounded(wilcoxon(&by_seed).p));
        let tested = by_seed.values().len();
        Ok(Some(Self { difference, tested, sign_flip_p, sign_flip_holm: sign_flip_p, wilcoxon_p, wilcoxon_holm: wilcoxon_p }))
    }
}

/// A sample for each non-empty cell.
pub(super) fn strata(cells: impl Iterator<Item = impl Iterator<Item = f64>>) -> Result<Vec<Sample>, StatisticsError> {
    let cells = cells.map(Iterator::collect::<Vec<_>>);
    cells.filter(|cell| !cell.is_empty()).map(Sample::try_from).collect()
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

/// A competitor against a reference over some cells.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Verdict with its components.
    pub comparison: Finding,
    /// Cost an hour.
    pub cost: Paired,
    /// Share of intervals in violation.
    pub violations: Paired,
    /// The score.
    pub loss: Paired,
    /// Probability of improvement: share of the pairs in which the competitor's loss is less; ties count half.
    pub improvement: f64,
    /// Its interval.
    pub improvement_interval: Interval,
}

impl Comparison {
    /// Compares by paired differences of cost, violations and loss. `None` without pairs.
    ///
    /// # Errors
    /// A difference that is not finite.
    pub fn of(
        bootstrap: &Bootstrap,
        [cost, violations, loss]: [Differences; 3],
        margin: f64,
        name: &str,
    ) -> Result<Option<Self>, StatisticsError> {
        let improved = |difference: &f64| if *difference < 0.0 { 1.0 } else { f64::from(u8::from(*difference == 0.0)) / 2.0 };
        let improved = strata(loss.iter().map(|cell| cell.iter().flatten().map(improved)))?;
        let improvement = bootstrap.estimate(&improved, &format!("{name} improvement"));
        let paired = |differences, what| Paired::of(bootstrap, differences, &format!("{name} {what}"));
        let (Some(cost), Some(violations), Some(loss), Some(improvement)) =
            (paired(&cost, "cost")?, paired(&violations, "violations")?, paired(&loss, "loss")?, improvement)
        else {
            return Ok(None);
        };
        let comparison = Finding::of(&cost.difference, &violations.difference, margin);
        let (improvement, improvement_interval) = (improvement.mean, improvement.mean_interval);
        Ok(Some(Self { comparison, cost, violations, loss, improvement, improvement_interval }))
    }

    /// All tested differences.
    pub(super) fn tests_mut(&mut self) -> [&mut Paired; 3] {
        [&mut self.cost, &mut self.violations, &mut self.loss]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTSTRAP: Bootstrap = Bootstrap { resamples: 200, confidence: 0.95, seed: 1 };

    fn estimate(low: f64, high: f64) -> Estimate {
        let (centre, interval) = ((low + high) / 2.0, Interval { low, high });
        Estimate { runs: 10, iqm: centre, iqm_interval: interval, mean: centre, mean_interval: interval }
    }

    #[track_caller]
    fn check(cost: (f64, f64), violations: (f64, f64), expected: ComparisonVerdict) {
        let (cost, violations) = (estimate(cost.0, cost.1), estimate(violations.0, violations.1));
        assert_eq!(Finding::of(&cost, &violations, 0.001).verdict, expected);
        // What wins one way loses the other way.
        let turned = |estimate: &Estimate| self::estimate(-estimate.iqm_interval.high, -estimate.iqm_interval.low);
        let other = match expected {
            ComparisonVerdict::Better => ComparisonVerdict::Worse,
            ComparisonVerdict::Worse => ComparisonVerdict::Better,
            ComparisonVerdict::Tie => ComparisonVerdict::Tie,
        };
        assert_eq!(Finding::of(&turned(&cost), &turned(&violations), 0.001).verdict, other);
    }

    #[test]
    fn better_is_cheaper_at_equal_or_fewer_violations() {
        check((-2.0, -1.0), (0.0, 0.0), ComparisonVerdict::Better);
        check((-2.0, -1.0), (-0.3, -0.1), ComparisonVerdict::Better);
        check((-2.0, -1.0), (-0.3, 0.001), ComparisonVerdict::Better);
        check((1.0, 2.0), (-0.001, 0.3), ComparisonVerdict::Worse);
    }

    #[test]
    fn all_else_is_a_tie() {
        check((-2.0, 0.0), (0.0, 0.0), ComparisonVerdict::Tie);
        check((-2.0, -1.0), (-0.1, 0.1), ComparisonVerdict::Tie);
        check((-2.0, -1.0), (0.1, 0.2), ComparisonVerdict::Tie);
        check((-1.0, 1.0), (-0.2, -0.1), ComparisonVerdict::Tie);
        check((0.0, 0.0), (0.0, 0.0), ComparisonVerdict::Tie);
    }

    #[test]
    fn the_worst_quarter_affects_the_verdict() {
        let mut violations = estimate(0.0, 0.0);
        violations.mean_interval = Interval { low: 0.02, high: 0.05 };
        let judged = Finding::of(&estimate(-2.0, -1.0), &violations, 0.001);
        assert_eq!((judged.verdict, judged.reading()), (ComparisonVerdict::Tie, "cheaper, more violations"));
    }

    #[test]
    fn tests_use_one_difference_for_each_seed() {
        // Ten cells of three seeds: thirty pairs, but three seeds can say no more than 2 / 2^3.
        let differences = vec![vec![Some(-1.0), Some(-1.5), Some(-2.0)]; 10];
        let found = Paired::of(&BOOTSTRAP, &differences, "few").expect("finite").expect("pairs");
        assert_eq!((found.difference.runs, found.tested, found.sign_flip_p, found.wilcoxon_p), (30, 3, 0.25, 0.25));
    }

    #[test]
    fn missing_values_are_skipped() {
        let differences = vec![vec![Some(-1.0), None], vec![None, None], vec![Some(-3.0), Some(-4.0)]];
        let found = Paired::of(&BOOTSTRAP, &differences, "gaps").expect("finite").expect("pairs");
        assert_eq!((found.difference.runs, found.tested), (3, 2));
        assert_eq!(Paired::of(&BOOTSTRAP, &vec![vec![None]], "none"), Ok(None));
        assert!(Paired::of(&BOOTSTRAP, &vec![vec![Some(f64::NAN)]], "none").is_err());
    }

    #[test]
    fn improvement_counts_pairs() {
        let loss = vec![vec![Some(-1.0), Some(0.0), Some(1.0), Some(-2.0)]];
        let found = Comparison::of(&BOOTSTRAP, [loss.clone(), loss.clone(), loss], 0.0, "pairs").expect("finite").expect("pairs");
        assert_eq!(found.improvement, 0.625);
    }
}
