//! Progress of an evaluation on standard error: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use qscale_evaluate::evaluation::jobs::{EvaluationStage, StageProgress};

use crate::output;

/// Number of lines printed without a terminal.
const LINES: u64 = 10;

/// Progress of an evaluation.
pub struct Bar {
    bar: Option<ProgressBar>,
    stage: Option<EvaluationStage>,
    line: u64,
}

impl Bar {
    /// A bar before the first run.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("{msg:7} [{bar:40}] {pos} of {len} runs, {elapsed}, {eta} to go");
            if let Ok(style) = style {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        Self { bar, stage: None, line: 0 }
    }

    /// Shows the progress.
    pub fn show(&mut self, progress: StageProgress) {
        if progress.all == 0 {
            return;
        }
        let word = match progress.stage {
            EvaluationStage::Tuning => "tuning",
            EvaluationStage::Test => "testing",
            EvaluationStage::Planning => "planning the bound",
        };
        let begins = self.stage != Some(progress.stage);
        self.stage = Some(progress.stage);
        if let Some(bar) = &self.bar {
            if begins {
                bar.reset();
                bar.set_length(progress.all);
                bar.set_message(word);
            }
            bar.set_position(progress.done);
            return;
        }
        let part = progress.done * LINES / progress.all;
        if begins || part > self.line {
            let known = if begins && progress.known > 0 { format!(", {} already finished", progress.known) } else { String::new() };
            output::note(format_args!("{word}: {} of {} runs{known}", progress.done, progress.all));
            self.line = part;
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
