//! What training draws its worlds from, as a model's card records it. Owns the ranges; must not draw.

use std::fmt;
use std::str::FromStr;

use qscale_common::time::{Span, TickLength};
use serde::{Deserialize, Serialize};

use crate::actions::named;

/// Which part of the worlds is drawn from: none is drawn in two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// For training.
    Training,
    /// For choosing checkpoints.
    Validation,
    /// For saying how good the chosen one is.
    Test,
}

/// The ranges that worlds are drawn from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Domain {
    /// Lengths of a tick, one of them for each world.
    pub ticks: Vec<Span>,
    /// Most requests a second in the mean: what a world costs to simulate.
    pub most_rps: f64,
    /// Share of the worlds in which something goes wrong, 0 to 1.
    pub troubled: f64,
    /// Share of the worlds whose function is called now and then, as most functions of a cloud are, and may be scaled to zero, 0 to 1.
    pub sparse: f64,
}

impl Default for Domain {
    fn default() -> Self {
        let ticks = [5, 5, 10].map(Span::seconds).into();
        Self { ticks, most_rps: 100.0, troubled: 0.5, sparse: 0.35 }
    }
}

/// Which functions a network learns about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// All of them.
    #[default]
    All,
    /// Those that are called all the time: a specialist for what always keeps a replica.
    Steady,
    /// Those that are called now and then and may be scaled to zero.
    Sparse,
}

named!(Kind, "functions", "all" => All, "steady" => Steady, "sparse" => Sparse);

impl Domain {
    /// This domain with functions of `kind` alone.
    #[must_use]
    pub fn of(self, kind: Kind) -> Self {
        match kind {
            Kind::All => self,
            Kind::Steady => Self { sparse: 0.0, ..self },
            Kind::Sparse => Self { sparse: 1.0, ..self },
        }
    }

    /// # Errors
    /// Names the first that lies outside its range.
    pub fn check(&self) -> Result<(), String> {
        for (name, share) in [("troubled", self.troubled), ("sparse", self.sparse)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("domain.{name} = {share}, must be from 0 to 1"));
            }
        }
        if !(0.1..=10_000.0).contains(&self.most_rps) {
            return Err(format!("domain.most_rps = {}, must be from 0.1 to 10000", self.most_rps));
        }
        if self.ticks.is_empty() {
            return Err("domain.ticks is empty; give at least one length, such as 5s".into());
        }
        match self.ticks.iter().find(|tick| TickLength::new(tick.0).is_err() || !(Span::seconds(1)..=Span::seconds(60)).contains(tick)) {
            Some(tick) => Err(format!("domain.ticks holds {tick}, must be from 1s to 60s")),
            None => Ok(()),
        }
    }
}
