//! How far a training is: a bar on a terminal, a line at each judgement elsewhere. Owns standard error; decides nothing.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use qscale_common::runtime::clock;
use qscale_train::course::Judgement;

use super::rules::Rule;
use crate::show;

/// Shows how far it is.
pub struct Watcher {
    bar: Option<ProgressBar>,
    name: String,
    all: u64,
    from: u64,
    began: Instant,
    rule: String,
}

impl Watcher {
    /// A training that people know as `name`, that is to live through `all` ticks and begins at `from`.
    pub fn new(name: String, all: u64, from: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(all);
            if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:24}] {percent} %, {elapsed}, {eta} to go  {msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(name.clone());
            bar.set_position(from);
            bar
        });
        Self { bar, name, all, from, began: clock::instant(), rule: String::new() }
    }

    /// Rule number `number` of `all` is being judged.
    pub fn tuning(&self, number: usize, all: usize) {
        match &self.bar {
            Some(bar) => bar.set_message(format!("rule {} of {all} on the validation worlds", number + 1)),
            None if number == 0 => eprintln!("{}: trying {all} settings of the rules on the validation worlds", self.name),
            None => {}
        }
    }

    /// Training begins, and is held against `rule`.
    pub fn beside(&mut self, rule: &Rule) {
        let mean = &rule.validation.mean;
        self.rule = format!("{}: {:.2} % {:.2} {:.3}", rule.name(), mean.violation * 100.0, mean.cost, mean.reward);
        self.began = clock::instant();
        if self.bar.is_none() {
            eprintln!("{}: best tuned rule {} (violated, cost, reward)", self.name, self.rule);
        }
    }

    /// So many ticks were lived through.
    pub fn at(&self, ticks: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(ticks);
        }
    }

    /// The network was judged.
    pub fn judged(&self, judgement: &Judgement) {
        let mean = &judgement.validation.mean;
        let speed = (judgement.ticks - self.from) as f64 / self.began.elapsed().as_secs_f64().max(1e-3);
        let told = format!(
            "{} ticks/s, loss {:.3}, return {:.3}; validation {:.2} % {:.2} {:.3}{}; {}",
            show::number(speed),
            judgement.loss.loss,
            judgement.explored.mean.reward,
            mean.violation * 100.0,
            mean.cost,
            mean.reward,
            if judgement.best { " (best)" } else { "" },
            self.rule
        );
        match &self.bar {
            Some(bar) => bar.set_message(told),
            None => eprintln!("{}: {:3.0} %, {told}", self.name, 100.0 * judgement.ticks as f64 / self.all as f64),
        }
    }

    /// Something that takes a while begins.
    pub fn say(&self, what: &str) {
        eprintln!("{}: {what}", self.name);
    }

    /// Nothing more comes.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
