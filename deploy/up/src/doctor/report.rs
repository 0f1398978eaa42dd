//! Findings of the checks. Owns their form; checks nothing.

use serde::Serialize;

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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
    /// Result.
    pub verdict: DoctorVerdict,
    /// Observation.
    pub found: String,
    /// Remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// Findings in order.
#[derive(Debug, Default)]
pub struct Report(Vec<CheckResult>);

impl Report {
    /// Adds a passed check.
    pub fn pass(&mut self, check: impl Into<String>, found: impl Into<String>) {
        self.0.push(CheckResult { check: check.into(), verdict: DoctorVerdict::Passed, found: found.into(), fix: None });
    }

    /// Adds a warning.
    pub fn warn(&mut self, check: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) {
        self.0.push(CheckResult { check: check.into(), verdict: DoctorVerdict::Warning, found: found.into(), fix: Some(fix.into()) });
    }

    /// Adds a failed check.
    pub fn fail(&mut self, check: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) {
        self.0.push(CheckResult { check: check.into(), verdict: DoctorVerdict::Failed, found: found.into(), fix: Some(fix.into()) });
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
