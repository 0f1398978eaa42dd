//! Findings of `qscale doctor`. Owns their form and output; checks nothing.

use serde::Serialize;

use crate::output::{self, Tone};

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
pub struct Finding {
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
pub struct Report(Vec<Finding>);

impl Report {
    /// Adds a passed check.
    pub fn pass(&mut self, check: impl Into<String>, found: impl Into<String>) {
        self.0.push(Finding { check: check.into(), verdict: DoctorVerdict::Passed, found: found.into(), fix: None });
    }

    /// Adds a warning.
    pub fn warn(&mut self, check: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { check: check.into(), verdict: DoctorVerdict::Warning, found: found.into(), fix: Some(fix.into()) });
    }

    /// Adds a failed check.
    pub fn fail(&mut self, check: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { check: check.into(), verdict: DoctorVerdict::Failed, found: found.into(), fix: Some(fix.into()) });
    }

    /// All findings in order.
    pub fn findings(&self) -> &[Finding] {
        &self.0
    }

    /// Whether a check failed.
    pub fn has_failures(&self) -> bool {
        self.count(DoctorVerdict::Failed) > 0
    }

    fn count(&self, verdict: DoctorVerdict) -> usize {
        self.0.iter().filter(|finding| finding.verdict == verdict).count()
    }

    /// The findings as lines, and a last line with their number.
    pub fn render(&self) -> String {
        let mut lines = Vec::new();
        for finding in &self.0 {
            let (sign, tone) = match finding.verdict {
                DoctorVerdict::Passed => ("✓", Tone::Good),
                DoctorVerdict::Warning => ("!", Tone::Warn),
                DoctorVerdict::Failed => ("✗", Tone::Bad),
            };
            lines.push(format!("{} {}: {}", tone.paint(sign), Tone::Strong.paint(&finding.check), output::clean(&finding.found)));
            lines.extend(finding.fix.as_ref().map(|fix| format!("    → {}", output::clean(fix))));
        }
        let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let (failed, warnings) = (self.count(DoctorVerdict::Failed), count(self.count(DoctorVerdict::Warning), "warning"));
        lines.push(match failed {
            0 => Tone::Good.paint(format_args!("no problems, {warnings}")),
            _ => Tone::Bad.paint(format_args!("{}, {warnings}", count(failed, "problem"))),
        });
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_come_with_a_fix() {
        let mut report = Report::default();
        assert_eq!(output::plain(&report.render()), "no problems, 0 warnings");
        report.pass("disk", "9 GiB free");
        report.fail("lease", "not held", "start an actuator");
        let text = output::plain(&report.render());
        assert_eq!(text, "✓ disk: 9 GiB free\n✗ lease: not held\n    → start an actuator\n1 problem, 0 warnings");
        assert!(report.has_failures());
    }
}
