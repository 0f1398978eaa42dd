//! Cost-violation curves: what each policy achieves with all the settings of its grid. Owns the settings to run and the points; must not plot.

use serde_json::{Map, Value};

use crate::policy_set::PolicySet;
use crate::results::{Competitor, Measure, Results};
use crate::statistics::pareto;
use crate::suite::{CompetitorEntry, Suite};

/// Test runs of each setting in each cell, unless stated otherwise: a curve has hundreds of settings.
pub const CURVE_SEEDS: u32 = 3;

/// Separates the name of a competitor from the number of its setting.
const NUMBERED: char = '#';

/// A competitor with all its settings.
#[derive(Debug, Clone, PartialEq)]
pub struct CostCurve {
    /// Name of the competitor.
    pub name: String,
    /// Whether it is a bound with knowledge of the future, not a competitor.
    pub is_bound: bool,
    /// Its settings, in the order of the grid.
    pub points: Vec<CurvePoint>,
}

/// The means of one setting over all cells and seeds.
#[derive(Debug, Clone, PartialEq)]
pub struct CurvePoint {
    /// Parameters.
    pub params: Value,
    /// Share of the intervals in which the objective was violated, 0 to 1.
    pub violated_share: f64,
    /// Cost per hour, in the suite's currency.
    pub cost_per_hour: f64,
    /// Changes of the allocation an hour.
    pub actions_per_hour: f64,
    /// Whether no other setting of the competitor is cheaper at equal or fewer violations.
    pub is_on_curve: bool,
    /// Whether no setting of any competitor is.
    pub is_on_front: bool,
}

impl Suite {
    /// This suite with a competitor for each setting of each grid. A bound is left as it is.
    ///
    /// # Errors
    /// A grid that is not valid, with the competitor's name.
    pub fn with_each_setting(mut self, policy_set: &dyn PolicySet) -> Result<Self, String> {
        let mut competitors = Vec::new();
        for entry in self.competitors {
            if policy_set.knowledge(&entry.policy).is_some() {
                competitors.push(entry);
                continue;
            }
            let settings = entry.settings().map_err(|reason| format!("competitor `{}`: {reason}", entry.called()))?;
            competitors.extend(settings.into_iter().enumerate().map(|(number, params)| CompetitorEntry {
                name: Some(format!("{}{NUMBERED}{number}", entry.called())),
                params,
                grid: Value::Object(Map::new()),
                ..entry.clone()
            }));
        }
        self.competitors = competitors;
        // A search for each run would take longer than all settings together.
        self.planning.passes = 0;
        Ok(self)
    }
}

/// The curves of `results`, which are those of [`Suite::with_each_setting`], in the order of the suite.
#[must_use]
pub fn cost_curves(results: &Results) -> Vec<CostCurve> {
    let competitors = results.competitors.iter().enumerate();
    curves_of(competitors.filter_map(|(index, competitor)| {
        Some((competitor.name.as_str(), !competitor.variant.competes(), point(results, index, competitor)?))
    }))
}

/// The curves of `points`, each with the name of its competitor in [`Suite::with_each_setting`], and whether that is a bound. Marks the points on the curves and
/// on the front.
pub fn curves_of<'a>(points: impl IntoIterator<Item = (&'a str, bool, CurvePoint)>) -> Vec<CostCurve> {
    let mut curves: Vec<CostCurve> = Vec::new();
    for (competitor, is_bound, point) in points {
        let name = competitor.rsplit_once(NUMBERED).map_or(competitor, |(name, _)| name);
        match curves.iter_mut().find(|curve| curve.name == name) {
            Some(curve) => curve.points.push(point),
            None => curves.push(CostCurve { name: name.to_owned(), is_bound, points: vec![point] }),
        }
    }
    let of_all: Vec<(f64, f64)> = curves.iter().filter(|curve| !curve.is_bound).flat_map(CostCurve::coordinates).collect();
    let mut on_front = pareto(&of_all).into_iter();
    for curve in &mut curves {
        let on_curve = pareto(&curve.coordinates());
        for (point, on_curve) in curve.points.iter_mut().zip(on_curve) {
            point.is_on_curve = on_curve;
            point.is_on_front = !curve.is_bound && on_front.next().unwrap_or(false);
        }
    }
    curves
}

impl CostCurve {
    fn coordinates(&self) -> Vec<(f64, f64)> {
        self.points.iter().map(|point| (point.violated_share, point.cost_per_hour)).collect()
    }

    /// The cheapest setting whose violations are at most `violated_share`.
    #[must_use]
    pub fn cheapest_within(&self, violated_share: f64) -> Option<&CurvePoint> {
        let within = self.points.iter().filter(|point| point.violated_share <= violated_share);
        within.min_by(|one, other| one.cost_per_hour.total_cmp(&other.cost_per_hour))
    }
}

/// Means over all cells and seeds; `None` without a value.
fn point(results: &Results, index: usize, competitor: &Competitor) -> Option<CurvePoint> {
    let mean = |measure| {
        let groups = results.groups.iter().filter(|group| group.competitor == index);
        let values: Vec<f64> = groups.flat_map(|group| group.values(measure)).copied().flatten().collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    Some(CurvePoint {
        params: competitor.params.values().next().cloned().unwrap_or_default(),
        violated_share: mean(Measure::ViolatedShare)?,
        cost_per_hour: mean(Measure::CostPerHour)?,
        actions_per_hour: mean(Measure::ActionsPerHour).unwrap_or(0.0),
        is_on_curve: false,
        is_on_front: false,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::num::NonZeroUsize;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::evaluation::jobs::NoLedger;
    use crate::evaluation::{EvaluationRequest, Options, SuiteEvaluation};
    use crate::policy_set::RulePolicies;
    use crate::suite::{BUNDLED, SuiteFilter};
    use qscale_common::document::Format;

    /// The curves of two rules and the bound in one short cell.
    pub(crate) fn curves() -> Vec<CostCurve> {
        let filter = SuiteFilter {
            policies: ["static", "threshold:cpu_millicores=30", "clairvoyant"].map(str::to_owned).to_vec(),
            functions: vec!["fibonacci".into()],
            workloads: vec!["step".into()],
            perturbations: vec!["none".into()],
            seeds: Some(2),
            ..SuiteFilter::default()
        };
        let suite = Suite::parse(BUNDLED[0].text, Format::Toml).and_then(|suite| suite.narrowed(&filter)).expect("a suite");
        let suite = suite.with_each_setting(&RulePolicies).expect("valid grids");
        assert_eq!(suite.competitors.len(), 13 + 1 + 1);
        let evaluation = SuiteEvaluation::of_patterns(suite, EvaluationRequest::default()).expect("a cell");
        let options = Options { threads: NonZeroUsize::MIN, stop: &AtomicBool::new(false), clock: None };
        let (results, _) = evaluation.run(&RulePolicies, &options, &mut NoLedger).expect("runs");
        cost_curves(&results)
    }

    #[test]
    fn every_setting_is_a_point_and_no_other_one_dominates_the_front() {
        let curves = curves();
        let counts: Vec<_> = curves.iter().map(|curve| (curve.name.as_str(), curve.points.len(), curve.is_bound)).collect();
        assert_eq!(counts, [("static", 13, false), ("threshold:cpu_millicores=30", 1, false), ("clairvoyant", 1, true)]);
        assert_eq!(curves[0].points[3].params, serde_json::json!({ "replicas": 3 }));
        let (one, twelve) = (&curves[0].points[1], &curves[0].points[12]);
        assert!(one.violated_share > twelve.violated_share && one.cost_per_hour < twelve.cost_per_hour, "{curves:?}");
        let competing = || curves.iter().filter(|curve| !curve.is_bound).flat_map(|curve| &curve.points);
        for point in competing().filter(|point| point.is_on_front) {
            let better = |other: &CurvePoint| other.violated_share <= point.violated_share && other.cost_per_hour < point.cost_per_hour;
            assert!(point.is_on_curve && !competing().any(better), "{point:?}");
        }
        assert!(competing().any(|point| point.is_on_front));
        let cheapest = curves[0].cheapest_within(one.violated_share).expect("one is within");
        assert!(cheapest.cost_per_hour <= one.cost_per_hour);
        assert_eq!(curves[0].cheapest_within(-1.0), None);
    }
}
