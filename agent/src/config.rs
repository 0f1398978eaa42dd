//! Configuration of an agent. Owns its format and checks.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use qscale_common::name::Name;
use qscale_common::partition::Partition;
use qscale_common::runtime::bus::BusConfig;
use qscale_common::runtime::service::{InstanceName, ServiceConfig};
use qscale_common::runtime::signature::TrustConfig;
use qscale_common::runtime::telemetry::TelemetryConfig;
use qscale_dqn::decider::{Decider, FALLBACK};
use qscale_dqn::registry::{self, DQN};
use qscale_dqn::tabular::TABULAR;
use qscale_dqn::tree::policy::TREE;
use qscale_policies::PolicyError;
use qscale_rl::device::cpu;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::model::{self, ModelSource};

/// Configuration of the service `agent`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentConfig {
    /// Name of the agent; a ScalingPolicy selects its agent by this name.
    pub agent: Name,
    /// The policy; absent: the one with the agent's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Parameters of the policy; see the policy for its keys.
    pub params: Map<String, Value>,
    /// Model of the learned policy `dqn`: the path of a file, or `store:NAME` for the version of NAME in use in the
    /// model store, with its later changes; absent: the bundled model. For `tabular-q` the path of a table, as written
    /// by `qscale reproduce --local`; for `tree` that of a decision tree, as written by `qscale model distil`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelSource>,
    /// Fallback: the rule, with defaults, that decides when the learned policy is not trusted, because a Q-value is not
    /// finite or the observation is out of distribution.
    pub fallback: String,
    /// Name of this instance of the agent; absent: host and process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceName>,
    /// Partition of the functions that this instance answers for, if the policy has memory. Without memory the instances share all States.
    pub partition: Partition,
    /// Ticks after the observation of its State at which an Action expires, at least 1.
    pub expires_after: NonZeroU32,
    /// Keys of which one must have signed a model of the store. A model in a file needs no signature.
    pub trust: TrustConfig,
    /// Address of health and metrics; port 0 selects a free one.
    pub health: SocketAddr,
    /// Connection to the bus.
    pub nats: BusConfig,
    /// Logging.
    pub telemetry: TelemetryConfig,
}

impl Default for AgentConfig {
    /// Two ticks: an Action that is one tick late still applies, a later one is superseded by a newer State.
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
            trust: TrustConfig::default(),
            health: SocketAddr::from(([127, 0, 0, 1], 8712)),
            nats: BusConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl AgentConfig {
    /// The configured decider. With a model of the store it uses the bundled model until the store's is read.
    ///
    /// # Errors
    /// If the policy or a parameter is unknown, or the model cannot be read or has another shape.
    pub fn policy(&self) -> anyhow::Result<Decider> {
        let name = self.policy.as_deref().unwrap_or(self.agent.as_str());
        let params = Value::Object(self.params.clone());
        if name == TABULAR {
            return Ok(Decider::Rule(Box::new(model::table(self.file_of(TABULAR, "table", "q.json")?)?)));
        }
        if name == TREE {
            let tree = model::tree(self.file_of(TREE, "decision tree", "mine.tree")?)?;
            return Decider::learned(tree, &self.fallback).context("fallback");
        }
        if name != DQN {
            anyhow::ensure!(
                self.model.is_none(),
                "model is set, but policy `{name}` is a rule without a model; remove it, or set policy = {DQN}"
            );
            let made = registry::by_name(name, &params, None, &cpu());
            return made.map(Decider::Rule).map_err(|error| match error {
                PolicyError::Unknown { .. } if self.policy.is_none() => {
                    anyhow!("{error}; `policy` is not set, so the agent's name selects it")
                }
                _ => anyhow!(error),
            });
        }
        let model = match &self.model {
            Some(ModelSource::File(path)) => Some(model::load(path)?),
            Some(ModelSource::Store(_)) | None => None,
        };
        let dqn = registry::learned(&params, model.as_ref(), &cpu())?;
        Decider::learned(dqn, &self.fallback).context("fallback")
    }

    /// The file of `model` for `policy`, a `kind` of file that contains its parameters.
    fn file_of(&self, policy: &str, kind: &str, example: &str) -> anyhow::Result<&Path> {
        anyhow::ensure!(self.params.is_empty(), "params is set, but the parameters of policy {policy} are in its {kind}; remove params");
        match &self.model {
            Some(ModelSource::File(path)) => Ok(path),
            Some(ModelSource::Store(name)) => {
                anyhow::bail!("model = `store:{name}`, but policy {policy} needs the path of a {kind}")
            }
            None => anyhow::bail!("policy {policy} needs the path of a {kind}, as in model = {example}"),
        }
    }
}

impl ServiceConfig for AgentConfig {
    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }

    fn check(&self) -> anyhow::Result<()> {
        self.trust.check()
    }
}

#[cfg(test)]
mod tests {
    use qscale_dqn::Tabular;
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn parsed(value: Value) -> AgentConfig {
        serde_json::from_value(value).expect("a valid configuration")
    }

    #[test]
    fn the_agents_name_selects_the_policy_by_default() {
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
    fn a_learned_policy_has_a_model_and_a_fallback() {
        let learned = parsed(json!({"agent": "dqn"})).policy().expect("the bundled model");
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
        let with = |path: &std::path::Path| json!({"agent": "mine", "policy": "tabular-q", "model": path});
        assert_eq!(parsed(with(&table)).policy().expect("a table").configuration(), "tabular-q of seed 3 after 0 steps");
        assert!(error(with(&broken)).contains("broken.json"));
        assert!(error(json!({"agent": "tabular-q"})).contains("needs the path of a table"));
        assert!(error(json!({"agent": "tabular-q", "model": "store:mine"})).contains("needs the path of a table"));
        let tree = folder.path().join("mine.tree");
        let corpus = qscale_tests::repository().join("tests/fuzz/corpus/trees/small.tree");
        std::fs::copy(corpus, &tree).expect("a file");
        let decider = parsed(json!({"agent": "tree", "model": tree})).policy().expect("a tree");
        assert_eq!((decider.name(), decider.configuration().starts_with("tree headroom joint ")), ("tree", true));
        assert!(error(json!({"agent": "tree", "model": broken})).contains("line 1: not a decision tree"));
        assert!(error(json!({"agent": "tree"})).contains("needs the path of a decision tree, as in model = mine.tree"));
        assert!(error(json!({"agent": "tree", "model": tree, "params": {"caution": 30}})).contains("in its decision tree"));
        let error = error(json!({"agent": "hpa", "model": "store:mine"}));
        assert!(error.contains("policy `hpa` is a rule") && error.contains("policy = dqn"), "{error}");
        let error = serde_json::from_value::<AgentConfig>(json!({"model": "store:Mine"})).expect_err("no name").to_string();
        assert!(error.contains("`Mine` is not a valid name"), "{error}");
    }

    #[test]
    fn the_name_of_an_instance_is_checked() {
        assert_eq!(parsed(json!({"instance": "a-1"})).instance.map(String::from).as_deref(), Some("a-1"));
        assert!(serde_json::from_value::<AgentConfig>(json!({"instance": ""})).is_err());
        assert!(serde_json::from_value::<AgentConfig>(json!({"instance": "a b"})).is_err());
    }
}
