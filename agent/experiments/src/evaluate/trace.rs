//! Part and scale of a trace for an evaluation. Owns how they change a suite; [`qscale_common::runtime::traces`] opens the files.

use std::path::PathBuf;

use anyhow::Context;
use qscale_common::runtime::traces::open_trace;
use qscale_common::workload::Scale;
use qscale_common::workload::trace::{Keep, Trace};
use qscale_evaluate::Suite;
use qscale_evaluate::suite::TraceEntry;

/// A trace, and values that replace those of the suite.
#[derive(Debug, Clone, Default)]
pub struct TraceSelection {
    /// File or folder of the trace.
    pub path: PathBuf,
    /// Number of functions, from the start of the trace; 0 for all.
    pub functions: Option<usize>,
    /// Shares of the trace's minutes for training, validation and test, percent, as `60/20/20`.
    pub split: Option<String>,
    /// Seconds of the trace played in one second.
    pub time_scale: Option<f64>,
    /// Invocations for each recorded one.
    pub rate_scale: Option<f64>,
}

impl TraceSelection {
    /// Name of the trace in results: the last part of its path, in letters, digits and dashes.
    #[must_use]
    pub fn name(&self) -> String {
        let full = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let name = full.file_stem().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        name.chars().map(plain).collect::<String>().trim_matches('-').to_owned()
    }

    /// Replaces the split, functions and scale of a suite.
    pub(super) fn apply(&self, entry: &mut TraceEntry) -> anyhow::Result<()> {
        if let Some(split) = &self.split {
            let parts: Result<Vec<u32>, _> = split.split('/').map(str::parse).collect();
            let parts: Option<[u32; 3]> = parts.ok().and_then(|parts| parts.try_into().ok());
            entry.split =
                parts.with_context(|| format!("--split {split}: write three shares in percent that sum to 100, such as 60/20/20"))?;
        }
        entry.functions = self.functions.unwrap_or(entry.functions);
        let scale = Scale::new(self.time_scale.unwrap_or(entry.scale.time), self.rate_scale.unwrap_or(entry.scale.rate));
        entry.scale = scale.map_err(anyhow::Error::msg)?;
        Ok(())
    }

    /// Reads the trace; `note` is called with a description of the part that was read.
    pub(super) fn read(&self, suite: &Suite, note: impl FnOnce(&str)) -> anyhow::Result<Trace> {
        let entry = suite.trace.as_ref().context("the suite has no [trace] section")?;
        let keep = Keep { functions: if entry.functions == 0 { usize::MAX } else { entry.functions }, ..Keep::default() };
        let opened = open_trace(&self.path, keep, entry.memory_mib)?;
        note(&opened.description);
        Ok(opened.trace)
    }
}

#[cfg(test)]
mod tests {
    use qscale_common::document::Format;
    use qscale_evaluate::suite::BUNDLED;

    use super::*;

    #[test]
    fn name_has_letters_digits_and_dashes() {
        for (path, name) in [("a/My Trace.csv", "my-trace"), ("/x/day_1", "day-1"), ("--", "")] {
            assert_eq!(TraceSelection { path: path.into(), ..TraceSelection::default() }.name(), name);
        }
    }

    #[test]
    fn values_replace_those_of_the_suite() {
        let suite = BUNDLED.iter().find(|suite| suite.name == "trace").expect("bundled");
        let entry = Suite::parse(suite.text, Format::Toml).expect("valid").trace.expect("a section [trace]");
        let apply = |selection: TraceSelection| {
            let mut entry = entry.clone();
            selection.apply(&mut entry).map(|()| entry)
        };
        assert_eq!(apply(TraceSelection::default()).expect("no change"), entry);
        let given =
            TraceSelection { functions: Some(7), split: Some("50/25/25".into()), rate_scale: Some(2.0), ..TraceSelection::default() };
        let changed = apply(given).expect("valid");
        assert_eq!((changed.functions, changed.split, changed.scale.rate, changed.scale.time), (7, [50, 25, 25], 2.0, entry.scale.time));
        assert!(apply(TraceSelection { split: Some("50/50".into()), ..TraceSelection::default() }).is_err());
        assert!(apply(TraceSelection { time_scale: Some(0.0), ..TraceSelection::default() }).is_err());
    }
}
