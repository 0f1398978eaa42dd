//! Progress of an evaluation on standard error: a bar on a terminal, else occasional lines.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use qscale_evaluate::evaluation::jobs::{Progress, Stage};

/// Number of lines without a terminal.
const LINES: u64 = 10;

/// The progress display.
pub struct Bar {
    bar: Option<ProgressBar>,
    stage: Option<Stage>,
    line: u64,
}

impl Bar {
    /// An empty display.
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

    /// Updates the display.
    pub fn show(&mut self, progress: Progress) {
        if progress.all == 0 {
            return;
        }
        let word = match progress.stage {
            Stage::Tuning => "tuning",
            Stage::Test => "testing",
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
            let known = if begins && progress.known > 0 { format!(", {} of them before", progress.known) } else { String::new() };
            eprintln!("{word}: {} of {} runs{known}", progress.done, progress.all);
            self.line = part;
        }
    }

    /// Clears the display.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
