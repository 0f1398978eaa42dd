//! What a person takes of a suite: fewer competitors, cells or seeds, or others. Owns the words of the command line for it.

use qscale_common::name::Name;
use qscale_common::time::{Span, TickLength};
use serde_json::{Map, Value};

use super::competitor::with_params;
use super::{CompetitorEntry, Selection, Suite, SuiteError};
use crate::policy_set::PolicySet;

/// What is taken of a suite.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SuiteFilter {
    /// These competitors, as `NAME` or `NAME:key=value,...`; all of them where none is named.
    pub policies: Vec<String>,
    /// These functions.
    pub functions: Vec<String>,
    /// These workloads.
    pub workloads: Vec<String>,
    /// These perturbations.
    pub perturbations: Vec<String>,
    /// So many seeds.
    pub seeds: Option<u32>,
    /// What the suite leaves for a quick look.
    pub quick: bool,
}

fn refused(field: &str, reason: String) -> SuiteError {
    SuiteError::Field { field: field.to_owned(), reason }
}

impl Suite {
    /// What `filter` takes of it.
    ///
    /// # Errors
    /// Names that it does not have, and what makes no sense.
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
            let within = self.both(&self.cells, std::slice::from_ref(&named));
            // What is named may lie outside the cells that the suite lists.
            self.cells = if within.is_empty() { vec![named] } else { within };
        }
        self.seeds = filter.seeds.unwrap_or(self.seeds);
        if !filter.policies.is_empty() {
            self.competitors = filter.policies.iter().map(|text| self.competitor(text)).collect::<Result<_, _>>()?;
        }
        self.check()?;
        Ok(self)
    }

    /// The combinations that are among `these` and among `those`, one by one; none listed stands for all.
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

    /// The competitor that `text` names: one of the suite, a policy that it does not have, and either with other parameters.
    fn competitor(&self, text: &str) -> Result<CompetitorEntry, SuiteError> {
        let (name, told) = text.split_once(':').unwrap_or((text, ""));
        let base = self.competitors.iter().find(|entry| entry.called() == name).cloned().unwrap_or_else(|| CompetitorEntry::plain(name));
        if told.is_empty() {
            return Ok(base);
        }
        let params = with_params(&base.params, told).map_err(|reason| refused("policy", format!("`{text}`: {reason}")))?;
        Ok(CompetitorEntry { name: Some(text.to_owned()), params, grid: Value::Object(Map::new()), ..base })
    }

    /// The same suite with a tick written down for each competitor that decides more often than the suite's tick: the rule's own where it goes into an interval
    /// without rest, else a second.
    #[must_use]
    pub fn with_natural_ticks(mut self, policy_set: &dyn PolicySet) -> Self {
        for entry in self.competitors.iter_mut().filter(|entry| entry.tick.is_none()) {
            // One that cannot be made is refused when it is to run.
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
