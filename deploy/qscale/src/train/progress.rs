//! Progress of a training on standard error: a bar on a terminal, a line at each evaluation elsewhere.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use qscale_common::runtime::clock;
use qscale_common::text::number;
use qscale_experiments::train::{BaselineRule, TrainEvent};
use qscale_train::run::TrainingProgress;

use crate::output;

/// A function that shows the events of trainings, one after the other.
pub fn show() -> impl Fn(TrainEvent<'_>) {
    let shown = RefCell::new(None);
    move |event| {
        let mut shown = shown.borrow_mut();
        if let TrainEvent::Started { name, ticks } = event {
            *shown = Some(Shown::new(name, ticks));
        } else if let Some(shown) = shown.as_mut() {
            shown.event(&event);
        }
    }
}

struct Shown {
    bar: Option<ProgressBar>,
    name: String,
    from: u64,
    all: u64,
    began: Instant,
    rule: String,
}

impl Shown {
    fn new(name: &str, (from, all): (u64, u64)) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(all);
            if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:24}] {percent} %, {elapsed}, {eta} to go  {msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(name.to_owned());
            bar.set_position(from);
            bar
        });
        Self { bar, name: name.to_owned(), from, all, began: clock::instant(), rule: String::new() }
    }

    fn event(&mut self, event: &TrainEvent<'_>) {
        match (event, &self.bar) {
            (TrainEvent::Tuning { setting, settings }, Some(bar)) => {
                bar.set_message(format!("rule setting {} of {settings} on the validation worlds", setting + 1));
            }
            (TrainEvent::Tuning { setting: 0, settings }, None) => {
                output::note(format_args!("{}: evaluating {settings} settings of rules on the validation worlds", self.name));
            }
            (TrainEvent::Baseline(rule), _) => self.baseline(rule),
            (TrainEvent::Validated(validation), _) => self.validated(validation),
            (TrainEvent::Ticks(ticks), Some(bar)) => bar.set_position(*ticks),
            (TrainEvent::Testing, _) => output::note(format_args!("{}: evaluating the best network on the test worlds", self.name)),
            (TrainEvent::Ended, Some(bar)) => bar.finish_and_clear(),
            (TrainEvent::Started { .. } | TrainEvent::Tuning { .. } | TrainEvent::Ticks(_) | TrainEvent::Ended, _) => {}
        }
    }

    fn baseline(&mut self, rule: &BaselineRule) {
        let mean = &rule.validation.mean;
        self.rule = format!("{}: {:.2} % {:.2} {:.3}", rule.name(), mean.violation * 100.0, mean.cost, mean.reward);
        self.began = clock::instant();
        if self.bar.is_none() {
            output::note(format_args!("{}: best tuned rule {} (violated, cost, reward)", self.name, self.rule));
        }
    }

    fn validated(&self, validation: &TrainingProgress) {
        let mean = &validation.score.mean;
        let seconds = clock::since(self.began).as_secs_f64().max(1e-3);
        let line = format!(
            "{} ticks/s, loss {:.3}, return {:.3}; validation {:.2} % {:.2} {:.3}{}; {}",
            number((validation.ticks - self.from) as f64 / seconds),
            validation.updates_since.loss,
            validation.explored.mean.reward,
            mean.violation * 100.0,
            mean.cost,
            mean.reward,
            if validation.best { " (best)" } else { "" },
            self.rule
        );
        match &self.bar {
            Some(bar) => bar.set_message(line),
            None => output::note(format_args!("{}: {:3.0} %, {line}", self.name, 100.0 * validation.ticks as f64 / self.all as f64)),
        }
    }
}
