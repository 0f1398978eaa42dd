//! The competitors of the study and their policies. Owns their names and model files; must not run anything.

use std::path::{Path, PathBuf};

use qscale_dqn::policy::{Dqn, DqnParams};
use qscale_dqn::registry::DQN;
use qscale_dqn::tabular::TABULAR;
use qscale_dqn::{Checkpoint, Tabular};
use qscale_policies::Policy;
use qscale_rl::device::cpu;
use serde_json::{Map, Value, json};

use super::experiment::{Experiment, ExperimentKind};

/// A policy that takes part in the study.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StudyCompetitor {
    /// The study's rule.
    Threshold,
    /// Tabular Q-learning with this step.
    Table { name: &'static str, step: u32 },
    /// A network with the action set `step`, trained here.
    Steps,
    /// The bundled model.
    Pretrained,
}

impl StudyCompetitor {
    pub(super) fn all(kind: ExperimentKind) -> Vec<Self> {
        let table = |name, step| Self::Table { name, step };
        match kind {
            ExperimentKind::Horizontal => {
                vec![Self::Threshold, table("tabular-q", 20), table("tabular-q-1", 1), Self::Steps, Self::Pretrained]
            }
            ExperimentKind::Vertical => vec![Self::Threshold, table("tabular-q", 30), Self::Steps, Self::Pretrained],
        }
    }

    pub(super) fn name(self, kind: ExperimentKind) -> &'static str {
        match self {
            Self::Threshold => rule(kind),
            Self::Table { name, .. } => name,
            Self::Steps => "dqn-step",
            Self::Pretrained => "dqn",
        }
    }

    /// File in `out` of the model that it learned with `seed`, for an agent; `None` if it does not learn here.
    pub(super) fn model(self, kind: ExperimentKind, seed: u64, out: &Path) -> Option<PathBuf> {
        let ending = match self {
            Self::Table { .. } => "json",
            Self::Steps => "dqn",
            Self::Threshold | Self::Pretrained => return None,
        };
        Some(out.join("models").join(format!("{}-{seed}.{ending}", self.name(kind))))
    }

    /// Configuration of an agent with the same policy.
    pub(super) fn agent_configuration(self, experiment: Experiment, seed: u64, out: &Path) -> Map<String, Value> {
        let kind = experiment.kind;
        let mut configuration = Map::new();
        let (policy, params) = match self {
            Self::Threshold => (rule(kind), experiment.rule()),
            Self::Table { .. } => (TABULAR, Value::Null),
            Self::Steps => (DQN, Value::Null),
            Self::Pretrained => (DQN, json!({ "scope": kind.scope() })),
        };
        configuration.insert("policy".into(), policy.into());
        if !params.is_null() {
            configuration.insert("params".into(), params);
        }
        if let Some(model) = self.model(kind, seed, out) {
            configuration.insert("model".into(), json!(model));
        }
        configuration
    }
}

/// The policy of a competitor after training.
pub(super) enum TrainedCompetitor {
    Rule(Box<dyn Policy>),
    Table(Box<Tabular>),
    Network(Box<Checkpoint>),
}

impl TrainedCompetitor {
    pub(super) fn policy(self) -> anyhow::Result<Box<dyn Policy>> {
        Ok(match self {
            Self::Rule(rule) => rule,
            Self::Table(table) => table,
            Self::Network(model) => Box::new(Dqn::new(&model, DqnParams::default(), &cpu())?),
        })
    }

    /// Content of its model file.
    pub(super) fn bytes(&self) -> anyhow::Result<Vec<u8>> {
        Ok(match self {
            Self::Rule(_) => Vec::new(),
            Self::Table(table) => serde_json::to_vec(table)?,
            Self::Network(model) => model.to_bytes(),
        })
    }
}

/// Name of the rule that is the baseline.
pub(super) fn rule(kind: ExperimentKind) -> &'static str {
    match kind {
        ExperimentKind::Horizontal => "threshold",
        ExperimentKind::Vertical => "threshold-vertical",
    }
}
