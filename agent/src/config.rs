//! What an agent is told. Owns the configuration's form and its checks.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use anyhow::{Context as _, anyhow};
use qscale_common::contract::Action;
use qscale_common::name::Name;
use qscale_common::partition::Partition;
use qscale_common::runtime::bus::BusConfig;
use qscale_common::runtime::service::{ServiceConfig, instance_name};
use qscale_common::runtime::telemetry::TelemetryConfig;
use qscale_dqn::Tabular;
use qscale_dqn::decider::{Decider, FALLBACK};
use qscale_dqn::registry::{self, DQN};
use qscale_dqn::tabular::TABULAR;
use qscale_policies::PolicyError;
use qscale_rl::device::cpu;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::model::{self, Source};

/// Configuration of the service `agent`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentConfig {
    /// The name under which it answers; ScalingPolicies name the agent that they obey by it.
    pub agent: Name,
    /// The rule that decides; absent: the one that the agent is called by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What the rule is told; see the rule for its keys.
    pub params: Map<String, Value>,
    /// What the learned policy `dqn` decides by: the path of a file, or `store:NAME` for the version of NAME that is in use in the model store, which is followed
    /// when another is put in use; absent: the model that comes along. Of `tabular-q` the path of a table, as `qscale reproduce --local` writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Source>,
    /// The rule, at its defaults, that decides where the learned policy cannot be trusted: where it values a choice at no number, or what it sees is far from
    /// what it was trained on.
    pub fallback: String,
    /// Name of this instance among those of the agent; absent: host and process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Which part of all functions this instance answers for, where the rule has a memory. Without memory the instances share States as they come.
    pub partition: Partition,
    /// Ticks after which an Action is void, counted from when its State was observed, at least 1.
    pub expires_after: NonZeroU32,
    /// Address of health and metrics; port 0 takes any.
    pub health: SocketAddr,
    /// The bus.
    pub nats: BusConfig,
    /// Logs.
    pub telemetry: TelemetryConfig,
}

impl Default for AgentConfig {
    /// Two ticks: an Action that comes a tick late still counts, one that comes later meets a newer State.
    fn default() -> Self {
        const TWO: NonZeroU32 = NonZeroU32::new(2).expect("two is not zero");
        Self {
            agent: Name::new("threshold").expect("the default agent is a DNS label"),
            policy: None,
            params: Map::new(),
            model: None,
            fallback: FALLBACK.into(),
            instance: None,
            partition: Partition::default(),
            expires_after: TWO,
            health: SocketAddr::from(([127, 0, 0, 1], 8712)),
            nats: BusConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl AgentConfig {
    /// What the configuration says shall decide. Where a model of the store is named, that is the one that comes along until the store's is read.
    ///
    /// # Errors
    /// When there is no such rule, it does not know a parameter, or the model cannot be read or was trained for something else.
    pub fn policy(&self) -> anyhow::Result<Decider> {
        let name = self.policy.as_deref().unwrap_or(self.agent.as_str());
        let params = Value::Object(self.params.clone());
        if name == TABULAR {
            return Ok(Decider::Rule(Box::new(self.table()?)));
        }
        if name != DQN {
            anyhow::ensure!(
                self.model.is_none(),
                "model is set, but policy `{name}` is a rule and has none; leave it out, or set policy = {DQN}"
            );
            let made = registry::by_name(name, &params, None, &cpu());
            return made.map(Decider::Rule).map_err(|error| match error {
                PolicyError::Unknown { .. } if self.policy.is_none() => {
                    anyhow!("{error}; no `policy` is set, so the agent's name says it")
                }
                _ => anyhow!(error),
            });
        }
        let model = match &self.model {
            Some(Source::File(path)) => Some(model::load(path)?),
            Some(Source::Store(_)) | None => None,
        };
        let dqn = registry::learned(&params, model.as_ref(), &cpu())?;
        Decider::learned(dqn, &self.fallback).context("fallback")
    }

    /// The table that `model` names, which brings its own parameters.
    fn table(&self) -> anyhow::Result<Tabular> {
        anyhow::ensure!(self.params.is_empty(), "params is set, but policy {TABULAR} takes none: they are in its table; leave params out");
        match &self.model {
            Some(Source::File(path)) => model::table(path),
            Some(Source::Store(name)) => {
                anyhow::bail!("model = `store:{name}`, and policy {TABULAR} takes no model of the store; name the file of a table")
            }
            None => anyhow::bail!("policy {TABULAR} decides by a table, and no model is set; name its file, as in model = q.json"),
        }
    }

    /// The name of this instance.
    ///
    /// # Errors
    /// When it is empty or too long.
    pub fn instance(&self) -> anyhow::Result<String> {
        let Some(instance) = &self.instance else {
            return Ok(instance_name());
        };
        anyhow::ensure!(
            (1..=Action::MAX_TEXT).contains(&instance.len()) && instance.chars().all(|c| c.is_ascii_graphic()),
            "instance = `{instance}`, must be 1 to {} printable characters without spaces",
            Action::MAX_TEXT
        );
        Ok(instance.clone())
    }
}

impl ServiceConfig for AgentConfig {
    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn parsed(value: Value) -> AgentConfig {
        serde_json::from_value(value).expect("a valid configuration")
    }

    #[test]
    fn the_agents_name_says_the_policy_unless_one_is_set() {
        assert_eq!(parsed(json!({"agent": "static"})).policy().expect("known").name(), "static");
        assert_eq!(parsed(json!({"agent": "mine", "policy": "threshold-both"})).policy().expect("known").name(), "threshold-both");
        let error = format!("{:#}", parsed(json!({"agent": "mine"})).policy().err().expect("unknown"));
        assert!(error.contains("`policy`") && error.contains("`mine`") && error.contains("threshold-both"), "{error}");
    }

    #[test]
    fn parameters_reach_the_policy_and_are_checked() {
        let with = |params: Value| parsed(json!({"policy": "threshold", "params": params})).policy();
        assert_eq!(with(json!({"cpu_millicores": 300})).expect("known").configuration(), "threshold/1 300m 256Mi");
        let error = format!("{:#}", with(json!({"cpu": 300})).err().expect("unknown"));
        assert!(error.contains("`cpu`"), "{error}");
    }

    #[test]
    fn a_learned_policy_has_a_model_and_a_network_a_rule_beside_it() {
        let learned = parsed(json!({"agent": "dqn"})).policy().expect("the model that comes along");
        assert_eq!((learned.name(), learned.configuration().split(' ').next()), ("dqn", Some("dqn")));
        assert!(parsed(json!({"policy": "dqn", "params": {"caution": 300}, "model": "store:mine"})).policy().is_ok());
        let error = |config: Value| format!("{:#}", parsed(config).policy().err().expect("refused"));
        assert!(error(json!({"agent": "dqn", "model": "nosuch.dqn"})).contains("nosuch.dqn"));
        assert!(error(json!({"agent": "dqn", "fallback": "dqn"})).contains("fallback: policy = `dqn`, must be one of threshold"));
        assert!(error(json!({"agent": "dqn", "params": {"caution": 1}})).contains("violation_cost = 1"));
        let folder = qscale_tests::Folder::new("table");
        let (table, broken) = (folder.path().join("table.json"), folder.path().join("broken.json"));
        let learned = Tabular::new(qscale_dqn::tabular::TabularParameters::default(), 3);
        std::fs::write(&table, serde_json::to_vec(&learned).expect("written")).expect("a file");
        std::fs::write(&broken, "{}").expect("a file");
        let told = |path: &std::path::Path| json!({"agent": "mine", "policy": "tabular-q", "model": path});
        assert_eq!(parsed(told(&table)).policy().expect("a table").configuration(), "tabular-q of seed 3 after 0 steps");
        assert!(error(told(&broken)).contains("broken.json"));
        assert!(error(json!({"agent": "tabular-q"})).contains("no model is set; name its file"));
        assert!(error(json!({"agent": "tabular-q", "model": "store:mine"})).contains("name the file of a table"));
        let error = error(json!({"agent": "hpa", "model": "store:mine"}));
        assert!(error.contains("policy `hpa` is a rule") && error.contains("policy = dqn"), "{error}");
        let error = serde_json::from_value::<AgentConfig>(json!({"model": "store:Mine"})).expect_err("no name").to_string();
        assert!(error.contains("`Mine` is not a valid name"), "{error}");
    }

    #[test]
    fn an_instance_always_has_a_name() {
        assert!(!AgentConfig::default().instance().expect("made").is_empty());
        assert_eq!(parsed(json!({"instance": "a-1"})).instance().expect("valid"), "a-1");
        assert!(parsed(json!({"instance": ""})).instance().is_err());
        assert!(parsed(json!({"instance": "a b"})).instance().is_err());
    }
}
