//! Findings and how they are shown. Owns their form; finds nothing.

use serde::Serialize;

use crate::show::{self, Paint, Tone};

/// How a thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Worth knowing; the system works.
    Notice,
    /// Wrong.
    Wrong,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

/// Everything that was looked at.
#[derive(Debug, Default)]
pub struct Report(Vec<Finding>);

impl Report {
    /// Something is as it should be.
    pub fn good(&mut self, check: impl Into<String>, found: impl Into<String>) {
        self.0.push(Finding { check: check.into(), verdict: Verdict::Good, found: found.into(), mend: None });
    }

    /// Something is worth knowing.
    pub fn notice(&mut self, check: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) {
        self.0.push(Finding { check: check.into(), verdict: Verdict::Notice, found: found.into(), mend: Some(mend.into()) });
    }

    /// Something is wrong.
    pub fn wrong(&mut self, check: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) {
        self.0.push(Finding { check: check.into(), verdict: Verdict::Wrong, found: found.into(), mend: Some(mend.into()) });
    }

    /// All findings, in the order in which they were made.
    pub fn findings(&self) -> &[Finding] {
        &self.0
    }

    /// Whether anything is wrong.
    pub fn something_wrong(&self) -> bool {
        self.count(Verdict::Wrong) > 0
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.0.iter().filter(|finding| finding.verdict == verdict).count()
    }

    /// The findings as lines, and a last line that sums them up.
    pub fn render(&self, paint: Paint) -> String {
        let mut lines = Vec::new();
        for finding in &self.0 {
            let (sign, tone) = match finding.verdict {
                Verdict::Good => ("✓", Tone::Good),
                Verdict::Notice => ("!", Tone::Warn),
                Verdict::Wrong => ("✗", Tone::Bad),
            };
            lines.push(format!("{} {}: {}", paint.tone(tone, sign), paint.tone(Tone::Strong, &finding.check), show::clean(&finding.found)));
            lines.extend(finding.mend.as_ref().map(|mend| format!("    → {}", show::clean(mend))));
        }
        let notices = self.count(Verdict::Notice);
        lines.push(match (self.count(Verdict::Wrong), notices) {
            (0, 0) => paint.tone(Tone::Good, "all is well"),
            (0, _) => paint.tone(Tone::Good, format_args!("nothing is wrong, {} worth knowing", things(notices))),
            (wrong, _) => paint.tone(Tone::Bad, format_args!("{} wrong, {} worth knowing", things(wrong), things(notices))),
        });
        lines.join("\n")
    }
}

fn things(count: usize) -> String {
    if count == 1 { "1 thing".to_owned() } else { format!("{count} things") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_problem_says_how_to_mend_it() {
        let mut report = Report::default();
        assert_eq!(report.render(Paint::none()), "all is well");
        report.good("disk", "9 GiB free");
        report.wrong("lease", "nobody leads", "start an actuator");
        let text = report.render(Paint::none());
        assert_eq!(text, "✓ disk: 9 GiB free\n✗ lease: nobody leads\n    → start an actuator\n1 thing wrong, 0 things worth knowing");
        assert!(report.something_wrong());
    }
}
