//! Findings of the checks. Owns their form; checks nothing.

use std::collections::BTreeMap;

use qscale_common::name::FunctionId;
use serde::Serialize;

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DoctorVerdict {
    /// No problem.
    Passed,
    /// Worth knowing; the system works.
    Warning,
    /// A problem.
    Failed,
}

/// Result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    /// Checked item.
    pub check: String,
    /// Kind of item, such as "state of" for the State of a function; the item itself if it belongs to no function.
    #[serde(skip)]
    pub kind: String,
    /// Function of the item, if it belongs to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionId>,
    /// Result.
    pub verdict: DoctorVerdict,
    /// Observation.
    pub found: String,
    /// Remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// Checked item: a name, or a kind of item and the function that it belongs to.
#[derive(Debug, Clone)]
pub struct CheckedItem {
    kind: String,
    function: Option<FunctionId>,
}

impl CheckedItem {
    /// Item of `function`, such as "state of".
    pub fn of(kind: impl Into<String>, function: &FunctionId) -> CheckedItem {
        CheckedItem { kind: kind.into(), function: Some(function.clone()) }
    }
}

impl From<&str> for CheckedItem {
    fn from(name: &str) -> CheckedItem {
        name.to_owned().into()
    }
}

impl From<String> for CheckedItem {
    fn from(kind: String) -> CheckedItem {
        CheckedItem { kind, function: None }
    }
}

/// Findings in order.
#[derive(Debug, Default)]
pub struct Report(Vec<CheckResult>);

impl Report {
    /// Adds a passed check.
    pub fn pass(&mut self, item: impl Into<CheckedItem>, found: impl Into<String>) {
        self.add(item.into(), DoctorVerdict::Passed, found.into(), None);
    }

    /// Adds a warning.
    pub fn warn(&mut self, item: impl Into<CheckedItem>, found: impl Into<String>, fix: impl Into<String>) {
        self.add(item.into(), DoctorVerdict::Warning, found.into(), Some(fix.into()));
    }

    /// Adds a failed check.
    pub fn fail(&mut self, item: impl Into<CheckedItem>, found: impl Into<String>, fix: impl Into<String>) {
        self.add(item.into(), DoctorVerdict::Failed, found.into(), Some(fix.into()));
    }

    fn add(&mut self, item: CheckedItem, verdict: DoctorVerdict, found: String, fix: Option<String>) {
        let CheckedItem { kind, function } = item;
        let check = function.as_ref().map_or_else(|| kind.clone(), |function| format!("{kind} {function}"));
        self.0.push(CheckResult { check, kind, function, verdict, found, fix });
    }

    /// Findings of functions grouped by kind and verdict, each group at the place of its first finding; other findings alone. No group is empty.
    #[must_use]
    pub fn groups(&self) -> Vec<Vec<&CheckResult>> {
        let (mut groups, mut places) = (Vec::<Vec<&CheckResult>>::new(), BTreeMap::new());
        for finding in &self.0 {
            let place = match finding.function {
                Some(_) => *places.entry((&finding.kind, finding.verdict)).or_insert(groups.len()),
                None => groups.len(),
            };
            match groups.get_mut(place) {
                Some(group) => group.push(finding),
                None => groups.push(vec![finding]),
            }
        }
        groups
    }

    /// All findings in order.
    #[must_use]
    pub fn findings(&self) -> &[CheckResult] {
        &self.0
    }

    /// Whether a check failed.
    #[must_use]
    pub fn has_failures(&self) -> bool {
        self.count(DoctorVerdict::Failed) > 0
    }

    /// Number of findings with this verdict.
    #[must_use]
    pub fn count(&self, verdict: DoctorVerdict) -> usize {
        self.0.iter().filter(|finding| finding.verdict == verdict).count()
    }
}
