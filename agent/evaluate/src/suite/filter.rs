//! Filters of a suite from the command line: other or fewer competitors, cells and seeds. Owns their syntax.

use qscale_common::name::Name;
use qscale_common::time::{Span, TickLength};
use serde_json::{Map, Value};

use super::competitor::with_params;
use super::{CompetitorEntry, Selection, Suite, SuiteError};
use crate::policy_set::PolicySet;

/// A filter of a suite.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SuiteFilter {
    /// Competitors, as `NAME`, `NAME:key=value,...` or `LABEL=NAME:key=value,...`; all if empty.
    pub policies: Vec<String>,
    /// Functions; all if empty.
    pub functions: Vec<String>,
    /// Workloads; all if empty.
    pub workloads: Vec<String>,
    /// Perturbations; all if empty.
    pub perturbations: Vec<String>,
    /// Number of seeds.
    pub seeds: Option<u32>,
    /// Passes of the search for the bound.
    pub bound_passes: Option<u32>,
    /// Whether to use the quick version.
    pub quick: bool,
}

fn refused(field: &str, reason: String) -> SuiteError {
    SuiteError::Field { field: field.to_owned(), reason }
}

impl Suite {
    /// The suite restricted by `filter`.
    ///
    /// # Errors
    /// Unknown names, and invalid fields.
    pub fn narrowed(mut self, filter: &SuiteFilter) -> Result<Self, SuiteError> {
        if filter.quick {
            self.seeds = self.quick.seeds;
            self.tuning.seeds = 1;
            if !self.quick.cells.is_empty() {
                let quick = self.quick.cells.clone();
                let within = self.both(&self.cells, &quick);
                self.cells = if within.is_empty() { quick.clone() } else { within };
                self.tuning.cells = quick;
            }
        }
        let named = Selection {
            functions: names("function", &filter.functions)?,
            workloads: names("workload", &filter.workloads)?,
            perturbations: names("perturbation", &filter.perturbations)?,
        };
        if named != Selection::default() {
            self.check_selections("command", std::slice::from_ref(&named))?;
            // Named combinations may be outside the listed cells. A trace has a cell for each perturbation, so that the named ones are all of them.
            let within = if self.trace.is_some() { Vec::new() } else { self.both(&self.cells, std::slice::from_ref(&named)) };
            self.cells = if within.is_empty() { vec![named] } else { within };
        }
        self.seeds = filter.seeds.unwrap_or(self.seeds);
        self.planning.passes = filter.bound_passes.unwrap_or(self.planning.passes);
        if !filter.policies.is_empty() {
            self.competitors = filter.policies.iter().map(|text| self.competitor(text)).collect::<Result<_, _>>()?;
        }
        self.check()?;
        Ok(self)
    }

    /// Intersection of two selections, as single combinations; an empty list stands for all.
    fn both(&self, these: &[Selection], those: &[Selection]) -> Vec<Selection> {
        let among = |list: &[Selection], f: &str, w: &str, p: &str| list.is_empty() || list.iter().any(|one| one.holds(f, w, p));
        let mut found = Vec::new();
        if self.trace.is_some() {
            let perturbations = self.perturbations.iter().map(|entry| entry.name.clone());
            let kept = perturbations.filter(|name| among(these, "", "", name.as_str()) && among(those, "", "", name.as_str()));
            return kept.map(|name| Selection { perturbations: vec![name], ..Selection::default() }).collect();
        }
        for function in &self.functions {
            for workload in &self.workloads {
                let (f, w) = (function.name.as_str(), workload.name.as_str());
                let kept = self.perturbations.iter().map(|entry| entry.name.clone());
                let kept: Vec<Name> = kept.filter(|name| among(these, f, w, name.as_str()) && among(those, f, w, name.as_str())).collect();
                if !kept.is_empty() {
                    found.push(Selection {
                        functions: vec![function.name.clone()],
                        workloads: vec![workload.name.clone()],
                        perturbations: kept,
                    });
                }
            }
        }
        found
    }

    /// The competitor of `text`: one of the suite or another policy, optionally with a label and parameters.
    fn competitor(&self, text: &str) -> Result<CompetitorEntry, SuiteError> {
        let (name, given) = text.split_once(':').unwrap_or((text, ""));
        let (label, name) = name.split_once('=').map_or((None, name), |(label, name)| (Some(label.to_owned()), name));
        let base = self.competitors.iter().find(|entry| entry.called() == name).cloned().unwrap_or_else(|| CompetitorEntry::plain(name));
        if given.is_empty() {
            return Ok(CompetitorEntry { name: label.or(base.name), ..base });
        }
        let params = with_params(&base.params, given).map_err(|reason| refused("policy", format!("`{text}`: {reason}")))?;
        let name = label.unwrap_or_else(|| text.to_owned());
        Ok(CompetitorEntry { name: Some(name), params, grid: Value::Object(Map::new()), ..base })
    }

    /// The suite with a tick for each competitor whose policy decides more often than the suite's tick: the policy's
    /// own if it divides the interval, else a second.
    #[must_use]
    pub fn with_natural_ticks(mut self, policy_set: &dyn PolicySet) -> Self {
        for entry in self.competitors.iter_mut().filter(|entry| entry.tick.is_none()) {
            // A competitor that cannot be made is refused before the run.
            let native = policy_set.policy(&entry.policy, &entry.params, None).ok().and_then(|policy| policy.timing().tick);
            let Some(own) = native.filter(|own| own.0 < self.tick.duration() && !own.0.is_zero()) else { continue };
            let fits = |span: &Span| self.interval.0.as_nanos().is_multiple_of(span.0.as_nanos());
            let span = [own, Span::seconds(1)].into_iter().find(fits);
            entry.tick = span.and_then(|span| TickLength::new(span.0).ok());
        }
        self
    }
}

fn names(kind: &str, given: &[String]) -> Result<Vec<Name>, SuiteError> {
    given.iter().map(|name| Name::new(name.clone()).map_err(|error| refused(kind, error.to_string()))).collect()
}
