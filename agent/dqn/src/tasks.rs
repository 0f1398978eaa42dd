//! The distribution of training tasks, as recorded in a model's card. Owns the ranges; the training crate samples from them.

use std::fmt;
use std::str::FromStr;

use qscale_common::time::{Span, TickLength};
use serde::{Deserialize, Serialize};

use crate::actions::named;

/// Disjoint parts of the worlds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// For training.
    Training,
    /// For selecting checkpoints.
    Validation,
    /// For evaluating the selected checkpoint.
    Test,
}

/// The ranges from which worlds are sampled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaskDistribution {
    /// Tick lengths; each world has one of them.
    pub ticks: Vec<Span>,
    /// Upper bound of a world's mean arrival rate, requests/s: limits the cost of simulation.
    pub most_rps: f64,
    /// Share of worlds with a perturbation, 0 to 1.
    #[serde(rename = "troubled", alias = "perturbed_share")]
    pub perturbed_share: f64,
    /// Share of worlds whose function is invoked rarely, as most functions of a cloud are, and may be scaled to zero, 0 to 1.
    #[serde(rename = "sparse", alias = "sparse_share")]
    pub sparse_share: f64,
}

impl Default for TaskDistribution {
    fn default() -> Self {
        let ticks = [5, 5, 10].map(Span::seconds).into();
        Self { ticks, most_rps: 100.0, perturbed_share: 0.5, sparse_share: 0.35 }
    }
}

/// The functions that a network learns to control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FunctionClass {
    /// All functions.
    #[default]
    All,
    /// Functions under continuous load, which always keep a replica.
    Steady,
    /// Functions that are invoked rarely and may be scaled to zero.
    Sparse,
}

named!(FunctionClass, "functions", "all" => All, "steady" => Steady, "sparse" => Sparse);

impl TaskDistribution {
    /// This distribution restricted to functions of `class`.
    #[must_use]
    pub fn of(self, class: FunctionClass) -> Self {
        match class {
            FunctionClass::All => self,
            FunctionClass::Steady => Self { sparse_share: 0.0, ..self },
            FunctionClass::Sparse => Self { sparse_share: 1.0, ..self },
        }
    }

    /// # Errors
    /// Names the first value that is out of range, with its range.
    pub fn check(&self) -> Result<(), String> {
        for (name, share) in [("perturbed_share", self.perturbed_share), ("sparse_share", self.sparse_share)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("tasks.{name} = {share}, must be from 0 to 1"));
            }
        }
        if !(0.1..=10_000.0).contains(&self.most_rps) {
            return Err(format!("tasks.most_rps = {}, must be from 0.1 to 10000", self.most_rps));
        }
        if self.ticks.is_empty() {
            return Err("tasks.ticks is empty; give at least one length, such as 5s".into());
        }
        match self.ticks.iter().find(|tick| TickLength::new(tick.0).is_err() || !(Span::seconds(1)..=Span::seconds(60)).contains(tick)) {
            Some(tick) => Err(format!("tasks.ticks holds {tick}, must be from 1s to 60s")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_and_new_names_of_the_shares_are_read() {
        let read = |text: &str| serde_json::from_str::<TaskDistribution>(text).expect("valid");
        let expected = TaskDistribution { perturbed_share: 0.2, sparse_share: 0.3, ..TaskDistribution::default() };
        assert_eq!(read(r#"{"troubled": 0.2, "sparse": 0.3}"#), expected);
        assert_eq!(read(r#"{"perturbed_share": 0.2, "sparse_share": 0.3}"#), expected);
    }
}
