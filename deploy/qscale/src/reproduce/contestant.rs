//! Who takes part, and what each decides by. Owns names and files of models; must not run anything.

use std::path::{Path, PathBuf};

use qscale_dqn::policy::{Dqn, DqnParams};
use qscale_dqn::registry::DQN;
use qscale_dqn::tabular::TABULAR;
use qscale_dqn::{Checkpoint, Tabular};
use qscale_policies::Policy;
use qscale_rl::device::cpu;
use serde_json::{Map, Value, json};

use super::experiment::{Experiment, Which};

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Contestant {
    /// The study's rule.
    Threshold,
    /// A table that moves by so much.
    Table { name: &'static str, step: u32 },
    /// A network that takes steps, trained here.
    Steps,
    /// The model that comes along.
    Pretrained,
}

impl Contestant {
    pub(super) fn all(which: Which) -> Vec<Self> {
        let table = |name, step| Self::Table { name, step };
        match which {
            Which::Horizontal => {
                vec![Self::Threshold, table("tabular-q", 20), table("tabular-q-1", 1), Self::Steps, Self::Pretrained]
            }
            Which::Vertical => vec![Self::Threshold, table("tabular-q", 30), Self::Steps, Self::Pretrained],
        }
    }

    pub(super) fn name(self, which: Which) -> &'static str {
        match self {
            Self::Threshold => rule(which),
            Self::Table { name, .. } => name,
            Self::Steps => "dqn-step",
            Self::Pretrained => "dqn",
        }
    }

    /// Where what it learned with `seed` is kept in `out`, for an agent to decide by; `None` of one that learns nothing here.
    pub(super) fn model(self, which: Which, seed: u64, out: &Path) -> Option<PathBuf> {
        let ending = match self {
            Self::Table { .. } => "json",
            Self::Steps => "dqn",
            Self::Threshold | Self::Pretrained => return None,
        };
        Some(out.join("models").join(format!("{}-{seed}.{ending}", self.name(which))))
    }

    /// What an agent is told that decides as it does.
    pub(super) fn told(self, experiment: Experiment, seed: u64, out: &Path) -> Map<String, Value> {
        let which = experiment.which;
        let mut told = Map::new();
        let (policy, params) = match self {
            Self::Threshold => (rule(which), experiment.rule()),
            Self::Table { .. } => (TABULAR, Value::Null),
            Self::Steps => (DQN, Value::Null),
            Self::Pretrained => (DQN, json!({ "scope": which.scope() })),
        };
        told.insert("policy".into(), policy.into());
        if !params.is_null() {
            told.insert("params".into(), params);
        }
        if let Some(model) = self.model(which, seed, out) {
            told.insert("model".into(), json!(model));
        }
        told
    }
}

/// What a contestant decides by once it has learned.
pub(super) enum Learned {
    Rule(Box<dyn Policy>),
    Table(Box<Tabular>),
    Network(Box<Checkpoint>),
}

impl Learned {
    pub(super) fn policy(self) -> anyhow::Result<Box<dyn Policy>> {
        Ok(match self {
            Self::Rule(rule) => rule,
            Self::Table(table) => table,
            Self::Network(model) => Box::new(Dqn::new(&model, DqnParams::default(), &cpu())?),
        })
    }

    /// As its file holds it.
    pub(super) fn bytes(&self) -> anyhow::Result<Vec<u8>> {
        Ok(match self {
            Self::Rule(_) => Vec::new(),
            Self::Table(table) => serde_json::to_vec(table)?,
            Self::Network(model) => model.to_bytes(),
        })
    }
}

/// What the rule is called, against which everybody is held.
pub(super) fn rule(which: Which) -> &'static str {
    match which {
        Which::Horizontal => "threshold",
        Which::Vertical => "threshold-vertical",
    }
}
