//! The summary of an evaluation: every competitor over all cells, and over each workload, perturbation, function and
//! cell. Owns the parts and the choice of the reference; must not run anything or format numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::bootstrap::{Bootstrap, Estimate};
use super::comparison::{Comparison, Differences, strata};
use super::gap::{GAP_MEASURE, GapShare, share_of_gap};
use super::{StatisticsError, holm, pareto};
use crate::results::{CompetitorVariant, Group, Measure, Results};

/// Measures of the parts; over all cells every measure is estimated.
pub const KEY_MEASURES: [Measure; 7] = [
    Measure::ViolatedShare,
    Measure::Severity,
    Measure::P95Ms,
    Measure::CostPerHour,
    Measure::ColdStarts,
    Measure::ActionsPerHour,
    Measure::Loss,
];

/// Settings of a summary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SummaryOptions {
    /// Settings of the intervals.
    pub bootstrap: Bootstrap,
    /// Share of the intervals, 0 to 1, by which violations may exceed the reference's and still count as equal.
    pub margin: f64,
    /// Label of the reference, which all others are compared with. If absent: the tuned policy with the least mean
    /// loss, or without tuning the default with the least. The choice on test runs favours the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

impl Default for SummaryOptions {
    /// 95 % intervals from 1,000 resamples; 0.1 percentage points of violations (3.6 s an hour) count as equal.
    fn default() -> Self {
        Self { bootstrap: Bootstrap { resamples: 1000, confidence: 0.95, seed: 0 }, margin: 0.001, reference: None }
    }
}

/// Why there is no summary.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum UnknownReference {
    /// No competitor has this name.
    #[error("reference `{asked}`, competitors are {known}")]
    Name {
        /// The requested one.
        asked: String,
        /// The known ones.
        known: String,
    },
    /// A value is not finite.
    #[error(transparent)]
    Value(#[from] StatisticsError),
}

/// The summary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Its settings.
    pub options: SummaryOptions,
    /// Index of the reference.
    pub reference: Option<usize>,
    /// Index of the gap's baseline: `static`, or if absent the default with the greatest mean loss.
    pub baseline: Option<usize>,
    /// Index of the bound.
    pub bound: Option<usize>,
    /// Index of the planner with known rates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_rates: Option<usize>,
    /// All cells first, then each workload, perturbation, function and cell, if there are several.
    pub parts: Vec<SummaryPart>,
}

impl Summary {
    /// All cells together.
    #[must_use]
    pub fn overall(&self) -> Option<&SummaryPart> {
        self.parts.first()
    }

    /// The parts of one kind, in the order of the suite.
    pub fn parts_like(&self, like: fn(&SummaryScope) -> bool) -> impl Iterator<Item = &SummaryPart> {
        self.parts.iter().filter(move |part| like(&part.scope))
    }
}

/// Cells of a part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "of", content = "name", rename_all = "snake_case")]
pub enum SummaryScope {
    /// All cells.
    All,
    /// Cells of one workload.
    Workload(String),
    /// Cells of one perturbation.
    Perturbation(String),
    /// Cells of one function.
    Function(String),
    /// A single cell.
    Cell(String),
}

impl SummaryScope {
    /// Kind, as a word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Workload(_) => "workload",
            Self::Perturbation(_) => "perturbation",
            Self::Function(_) => "function",
            Self::Cell(_) => "cell",
        }
    }

    /// Its name; empty for all cells.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::All => "",
            Self::Workload(name) | Self::Perturbation(name) | Self::Function(name) | Self::Cell(name) => name,
        }
    }
}

impl fmt::Display for SummaryScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

/// Results over some cells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SummaryPart {
    /// The cells.
    pub scope: SummaryScope,
    /// Indices into the cells.
    pub cells: Vec<usize>,
    /// One line for each competitor, in order.
    pub lines: Vec<SummaryLine>,
    /// Share of the gap between the reference and the bound that a planner with known rates closes; absent without such a planner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates_close: Option<GapShare>,
}

/// Results of one competitor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SummaryLine {
    /// Index into the competitors.
    pub competitor: usize,
    /// Centres and intervals.
    pub measures: BTreeMap<Measure, Estimate>,
    /// Share of the gap to the clairvoyant that it closes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_closed: Option<GapShare>,
    /// Whether no other competitor except bounds dominates it in cost and violations (interquartile means).
    pub pareto: bool,
    /// Comparison with the reference; absent for the reference itself and for bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Comparison>,
}

/// Summarises `results`.
///
/// # Errors
/// An unknown reference.
pub fn summarise(results: &Results, options: &SummaryOptions) -> Result<Summary, UnknownReference> {
    let runs = Runs::new(results);
    let [bound, known_rates] = [CompetitorVariant::Bound, CompetitorVariant::KnownRates].map(|variant| runs.first(variant));
    let roles = Roles { reference: runs.reference(options)?, baseline: runs.baseline(), bound, known_rates };
    let mut parts = Vec::new();
    for (scope, cells) in scopes(results) {
        parts.push(runs.part(scope, cells, &roles, options)?);
    }
    // Two families of comparisons: the table of all cells, and all other parts.
    let overall = parts.len().min(1);
    let (overall, others) = parts.split_at_mut(overall);
    correct(overall);
    correct(others);
    let Roles { reference, baseline, bound, known_rates } = roles;
    Ok(Summary { options: options.clone(), reference, baseline, bound, known_rates, parts })
}

/// All cells, then the parts of each kind with several members.
fn scopes(results: &Results) -> Vec<(SummaryScope, Vec<usize>)> {
    let mut scopes = vec![(SummaryScope::All, (0..results.cells.len()).collect())];
    let kinds: [fn(&crate::results::Cell) -> SummaryScope; 4] = [
        |cell| SummaryScope::Workload(cell.workload.clone()),
        |cell| SummaryScope::Perturbation(cell.perturbation.clone()),
        |cell| SummaryScope::Function(cell.function.clone()),
        |cell| SummaryScope::Cell(cell.name.clone()),
    ];
    for kind in kinds {
        let mut seen = BTreeSet::new();
        let all: Vec<SummaryScope> = results.cells.iter().map(kind).filter(|scope| seen.insert(scope.clone())).collect();
        if all.len() > 1 {
            let within = |scope: &SummaryScope| (0..results.cells.len()).filter(|index| kind(&results.cells[*index]) == *scope).collect();
            scopes.extend(all.into_iter().map(|scope| (scope.clone(), within(&scope))));
        }
    }
    scopes
}

/// Holm's correction over every comparison of `parts`, for each of the two tests.
fn correct(parts: &mut [SummaryPart]) {
    let mut tests: Vec<_> = parts
        .iter_mut()
        .flat_map(|part| &mut part.lines)
        .filter_map(|line| line.against.as_mut())
        .flat_map(Comparison::tests_mut)
        .collect();
    let sign_flip = holm(&tests.iter().map(|test| test.sign_flip_p).collect::<Vec<_>>());
    let wilcoxon = holm(&tests.iter().map(|test| test.wilcoxon_p).collect::<Vec<_>>());
    for ((test, sign_flip), wilcoxon) in tests.iter_mut().zip(sign_flip).zip(wilcoxon) {
        (test.sign_flip_holm, test.wilcoxon_holm) = (crate::results::rounded(sign_flip), crate::results::rounded(wilcoxon));
    }
}

/// Roles of competitors.
struct Roles {
    reference: Option<usize>,
    baseline: Option<usize>,
    bound: Option<usize>,
    known_rates: Option<usize>,
}

/// Groups by competitor and cell.
struct Runs<'a> {
    results: &'a Results,
    groups: BTreeMap<(usize, usize), &'a Group>,
}

impl<'a> Runs<'a> {
    fn new(results: &'a Results) -> Self {
        Self { results, groups: results.groups.iter().map(|group| ((group.competitor, group.cell), group)).collect() }
    }

    fn values(&self, competitor: usize, cell: usize, measure: Measure) -> &'a [Option<f64>] {
        self.groups.get(&(competitor, cell)).map_or(&[], |group| group.values(measure))
    }

    fn first(&self, variant: CompetitorVariant) -> Option<usize> {
        self.results.competitors.iter().position(|competitor| competitor.variant == variant)
    }

    fn reference(&self, options: &SummaryOptions) -> Result<Option<usize>, UnknownReference> {
        let competitors = &self.results.competitors;
        match &options.reference {
            None => Ok(self.best(CompetitorVariant::Tuned).or_else(|| self.best(CompetitorVariant::Default))),
            Some(asked) => {
                let found = competitors.iter().position(|competitor| competitor.label() == *asked);
                let known = || competitors.iter().map(|competitor| format!("`{}`", competitor.label())).collect::<Vec<_>>().join(", ");
                found.map(Some).ok_or_else(|| UnknownReference::Name { asked: asked.clone(), known: known() })
            }
        }
    }

    fn baseline(&self) -> Option<usize> {
        let plain =
            |competitor: &crate::results::Competitor| competitor.policy == "static" && competitor.variant == CompetitorVariant::Default;
        self.results.competitors.iter().position(plain).or_else(|| self.by_loss(CompetitorVariant::Default).pop().map(|(_, index)| index))
    }

    fn best(&self, variant: CompetitorVariant) -> Option<usize> {
        self.by_loss(variant).first().map(|(_, index)| *index)
    }

    /// Competitors of `variant` in rising order of mean loss.
    fn by_loss(&self, variant: CompetitorVariant) -> Vec<(f64, usize)> {
        let loss = |index: usize| {
            let values = (0..self.results.cells.len()).flat_map(|cell| self.values(index, cell, GAP_MEASURE)).flatten();
            let (sum, count) = values.fold((0.0, 0u32), |(sum, count), value| (sum + value, count + 1));
            (count > 0).then(|| (sum / f64::from(count), index))
        };
        let of_variant = |index: &usize| self.results.competitors[*index].variant == variant;
        let mut found: Vec<_> = (0..self.results.competitors.len()).filter(of_variant).filter_map(loss).collect();
        found.sort_by(|a, b| a.0.total_cmp(&b.0));
        found
    }

    fn part(
        &self,
        scope: SummaryScope,
        cells: Vec<usize>,
        roles: &Roles,
        options: &SummaryOptions,
    ) -> Result<SummaryPart, StatisticsError> {
        let mut lines = Vec::new();
        for competitor in 0..self.results.competitors.len() {
            lines.push(self.line(&scope, &cells, competitor, roles, options)?);
        }
        let point =
            |line: &SummaryLine| Some((line.measures.get(&Measure::CostPerHour)?.iqm, line.measures.get(&Measure::ViolatedShare)?.iqm));
        let competes = |line: &SummaryLine| self.results.competitors[line.competitor].variant.competes();
        let (places, points): (Vec<_>, Vec<_>) =
            lines.iter().enumerate().filter(|(_, line)| competes(line)).filter_map(|(place, line)| Some((place, point(line)?))).unzip();
        places.into_iter().zip(pareto(&points)).for_each(|(place, kept)| lines[place].pareto = kept);
        let gap = roles.reference.zip(roles.bound).zip(roles.known_rates);
        let rates_close = gap.and_then(|((reference, bound), known_rates)| {
            let losses: Vec<_> = cells.iter().map(|cell| self.losses(*cell, known_rates, reference, bound)).collect();
            share_of_gap(&options.bootstrap, &losses, &format!("{scope}, known rates"))
        });
        Ok(SummaryPart { scope, cells, lines, rates_close })
    }

    fn line(
        &self,
        scope: &SummaryScope,
        cells: &[usize],
        competitor: usize,
        roles: &Roles,
        options: &SummaryOptions,
    ) -> Result<SummaryLine, StatisticsError> {
        let bootstrap = &options.bootstrap;
        let described = &self.results.competitors[competitor];
        let name = |what: &str| format!("{scope}, {}, {what}", described.label());
        let measures = if *scope == SummaryScope::All { &Measure::ALL[..] } else { &KEY_MEASURES[..] };
        let mut estimates = BTreeMap::new();
        for &measure in measures {
            let strata = strata(cells.iter().map(|cell| self.values(competitor, *cell, measure).iter().flatten().copied()))?;
            estimates.extend(bootstrap.estimate(&strata, &name(measure.name())).map(|estimate| (measure, estimate)));
        }
        let gap_closed = roles.baseline.zip(roles.bound).and_then(|(baseline, bound)| {
            let losses: Vec<_> = cells.iter().map(|cell| self.losses(*cell, competitor, baseline, bound)).collect();
            share_of_gap(bootstrap, &losses, &name("gap"))
        });
        let against = match roles.reference {
            Some(reference) if reference != competitor && described.variant.competes() => {
                let differences = [Measure::CostPerHour, Measure::ViolatedShare, GAP_MEASURE]
                    .map(|measure| self.differences(cells, competitor, reference, measure));
                Comparison::of(bootstrap, differences, options.margin, &name("against"))?
            }
            _ => None,
        };
        Ok(SummaryLine { competitor, measures: estimates, gap_closed, pareto: false, against })
    }

    /// Paired differences, competitor less reference.
    fn differences(&self, cells: &[usize], competitor: usize, reference: usize, measure: Measure) -> Differences {
        let pairs = |cell: &usize| self.values(competitor, *cell, measure).iter().zip(self.values(reference, *cell, measure));
        cells.iter().map(|cell| pairs(cell).map(|(one, other)| Some((*one)? - (*other)?)).collect()).collect()
    }

    fn losses(&self, cell: usize, policy: usize, baseline: usize, bound: usize) -> Vec<(f64, f64, f64)> {
        let [policy, baseline, bound] = [policy, baseline, bound].map(|index| self.values(index, cell, GAP_MEASURE));
        policy
            .iter()
            .zip(baseline)
            .zip(bound)
            .filter_map(|((policy, baseline), bound)| Some(((*policy)?, (*baseline)?, (*bound)?)))
            .collect()
    }
}

#[cfg(test)]
mod tests;
