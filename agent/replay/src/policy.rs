//! The policy that decides again. Owns how an agent's policy is reconstructed from its settings and recorded Actions,
//! and the assumptions made; must not decide.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, ensure};
use qscale_common::contract::{Action, Provenance};
use qscale_common::name::Name;
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::files::{self, MAX_DOCUMENT, read_text_if_present};
use qscale_common::runtime::models::ModelStore;
use qscale_common::text::clean;
use qscale_dqn::checkpoint::MAX_BYTES;
use qscale_dqn::decider::{Decider, FALLBACK};
use qscale_dqn::pretrained::pretrained;
use qscale_dqn::registry::{self, DQN};
use qscale_dqn::tree::policy::{TREE, TreePolicy};
use qscale_dqn::{Checkpoint, DecisionTree, tree};
use qscale_evaluate::suite::with_params;
use qscale_rl::device::cpu;
use serde::Deserialize;
use serde_json::{Value, json};

/// Prefix of a configured model that names one of the model store.
pub const STORE_PREFIX: &str = "store:";

/// A policy with its parameters.
pub struct ReplayPolicy {
    /// A rule, or a network with its fallback rule.
    pub decider: Decider,
    /// Its parameters.
    pub params: Value,
    /// Assumptions about the policy, in sentences.
    pub assumptions: Vec<String>,
}

impl ReplayPolicy {
    /// The policy written as `NAME[:KEY=VALUE,...]`; `dqn` decides by `model`, or by the bundled model.
    ///
    /// # Errors
    /// An unknown policy or parameter; a model given for a rule.
    pub fn named(text: &str, model: Option<&Checkpoint>) -> anyhow::Result<Self> {
        let (name, given) = text.split_once(':').unwrap_or((text, ""));
        if name == TREE {
            let file = given.strip_prefix("file=").filter(|file| !file.is_empty());
            let path = file.with_context(|| format!("`{text}`: name the file of a decision tree, as in {TREE}:file=mine.tree"))?;
            ensure_learned(name, model)?;
            let decider = Decider::learned(load_tree(Path::new(path))?, FALLBACK)?;
            return Ok(Self { decider, params: json!({ "file": path }), assumptions: Vec::new() });
        }
        let none = json!({});
        let params = if given.is_empty() { none } else { with_params(&none, given).map_err(|reason| anyhow!(reason))? };
        ensure_learned(name, model)?;
        Self::new(name, params, model, FALLBACK)
    }

    /// The policy of `agent`, as its settings describe it, or else as its `last` Action does. `model` replaces the model that decided.
    ///
    /// # Errors
    /// An unknown policy; unreadable settings; a model that cannot be read.
    pub async fn of_agent(
        bus: &Bus,
        settings: &SettingsFolder,
        agent: &Name,
        last: Option<&Action>,
        model: Option<&Checkpoint>,
    ) -> anyhow::Result<Self> {
        let settings = settings.read(agent)?;
        let recorded = last.map(|action| &action.provenance);
        let name = settings.as_ref().and_then(|settings| settings.policy.clone()).unwrap_or_else(|| policy_name(agent, recorded));
        let stored;
        let model = match model {
            None if name == TREE => return Self::of_tree(agent, settings, recorded),
            None if name == DQN => {
                stored = model_that_decided(bus, settings.as_ref().and_then(|settings| settings.model.as_deref()), recorded).await?;
                stored.as_ref()
            }
            given => {
                ensure_learned(&name, given)?;
                given
            }
        };
        Self::with_settings(agent, &name, settings, recorded, model)
    }

    /// The decision tree of `agent`, which only its settings name.
    fn of_tree(agent: &Name, settings: Option<AgentSettings>, recorded: Option<&Provenance>) -> anyhow::Result<Self> {
        let AgentSettings { model, fallback, .. } = settings.unwrap_or_default();
        let path = model
            .with_context(|| format!("the decision tree of agent {agent} is unknown: the state folder has no configuration of {agent}"))?;
        let tree = load_tree(Path::new(&path))?;
        let decider = Decider::learned(tree, fallback.as_deref().unwrap_or(FALLBACK)).context("fallback")?;
        let assumptions = other_configuration(&decider, recorded).into_iter().collect();
        Ok(Self { decider, params: json!({}), assumptions })
    }

    fn with_settings(
        agent: &Name,
        name: &str,
        settings: Option<AgentSettings>,
        recorded: Option<&Provenance>,
        model: Option<&Checkpoint>,
    ) -> anyhow::Result<Self> {
        let mut assumptions = Vec::new();
        if settings.is_none() {
            assumptions.push(format!(
                "{agent} runs with default parameters: an Action does not contain them, and the state folder has no configuration of {agent}"
            ));
        }
        let AgentSettings { params, fallback, .. } = settings.unwrap_or_default();
        let params = if params.is_null() { json!({}) } else { params };
        let policy = Self::new(name, params, model, fallback.as_deref().unwrap_or(FALLBACK));
        let mut policy = policy.with_context(|| format!("the policy of agent {agent} is unknown"))?;
        assumptions.extend(other_configuration(&policy.decider, recorded));
        policy.assumptions = assumptions;
        Ok(policy)
    }

    fn new(name: &str, params: Value, model: Option<&Checkpoint>, fallback: &str) -> anyhow::Result<Self> {
        let decider = match name {
            DQN => Decider::learned(registry::learned(&params, model, &cpu())?, fallback).context("fallback")?,
            rule => Decider::Rule(registry::by_name(rule, &params, None, &cpu())?),
        };
        Ok(Self { decider, params, assumptions: Vec::new() })
    }

    /// Its name with its parameters, `hpa:cpu_utilization=50`.
    #[must_use]
    pub fn title(&self) -> String {
        let params: Vec<String> = self.params.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
        let name = self.decider.name();
        if params.is_empty() { name.to_owned() } else { format!("{name}:{}", params.join(",")) }
    }
}

/// Folder with the configurations of agents, `agent-NAME.json`, as `qscale up` writes them; `None` if the system runs elsewhere.
#[derive(Debug, Clone, Default)]
pub struct SettingsFolder(pub Option<PathBuf>);

impl SettingsFolder {
    /// The settings of `agent`; `None` if there are none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, agent: &Name) -> anyhow::Result<Option<AgentSettings>> {
        let Some(folder) = &self.0 else { return Ok(None) };
        let path = folder.join(format!("agent-{agent}.json"));
        let text = read_text_if_present(&path, MAX_DOCUMENT)?;
        text.map(|text| serde_json::from_str(&text).with_context(|| path.display().to_string())).transpose()
    }
}

/// Policy settings in the configuration of an agent.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AgentSettings {
    /// Name of the policy.
    pub policy: Option<String>,
    /// Its parameters.
    pub params: Value,
    /// A file, or `store:NAME`.
    pub model: Option<String>,
    /// Rule that decides when the network cannot be trusted.
    pub fallback: Option<String>,
}

/// Reads a model file of bounded size.
///
/// # Errors
/// When it cannot be read, or is not a model.
pub fn load_model(path: &Path) -> anyhow::Result<Checkpoint> {
    files::open(path, MAX_BYTES as u64).and_then(|file| Ok(Checkpoint::read(file)?)).with_context(|| format!("model {}", path.display()))
}

/// Reads a decision tree of bounded size.
///
/// # Errors
/// When it cannot be read, or is not a decision tree for this program.
pub fn load_tree(path: &Path) -> anyhow::Result<TreePolicy> {
    let read = files::read_bytes(path, tree::MAX_BYTES as u64).and_then(|bytes| Ok(DecisionTree::parse(&bytes)?));
    read.map(TreePolicy::new).with_context(|| format!("decision tree {}", path.display()))
}

/// The assumption that another configuration than the recorded one decides.
fn other_configuration(decider: &Decider, recorded: Option<&Provenance>) -> Option<String> {
    let current = Action::cut(decider.configuration());
    let recorded = recorded.map(|recorded| &recorded.configuration).filter(|recorded| **recorded != current)?;
    Some(format!("`{}` decided; `{current}` decides again", clean(recorded)))
}

/// The policy of an agent without settings: the policy with the agent's name, or else the one that its Actions name.
fn policy_name(agent: &Name, recorded: Option<&Provenance>) -> String {
    let known = |name: &str| name == TREE || registry::names().any(|known| known == name);
    let published = recorded.map(|recorded| recorded.policy.as_str()).filter(|name| known(name));
    match published {
        Some(name) if !known(agent.as_str()) => name.to_owned(),
        _ => agent.to_string(),
    }
}

fn ensure_learned(name: &str, model: Option<&Checkpoint>) -> anyhow::Result<()> {
    ensure!(model.is_none() || name == DQN, "policy {name} does not use a model; a model requires policy {DQN}");
    Ok(())
}

/// The model with the recorded fingerprint: the bundled model (`None`), the configured file, or a version in the store;
/// otherwise the configured model.
async fn model_that_decided(bus: &Bus, configured: Option<&str>, recorded: Option<&Provenance>) -> anyhow::Result<Option<Checkpoint>> {
    let fingerprint = recorded.and_then(Provenance::fingerprint);
    if fingerprint.is_some_and(|fingerprint| fingerprint == pretrained().fingerprint()) {
        return Ok(None);
    }
    let named = configured.and_then(|model| model.strip_prefix(STORE_PREFIX));
    let of_file = configured.filter(|_| named.is_none()).map(|path| load_model(Path::new(path))).transpose()?;
    if of_file.as_ref().is_some_and(|model| fingerprint.is_none_or(|fingerprint| fingerprint == model.fingerprint())) {
        return Ok(of_file);
    }
    let store = ModelStore::open(bus).await?;
    for (name, model) in store.all().await? {
        let in_use = model.in_use.as_ref().filter(|_| fingerprint.is_none() && named == Some(name.as_str())).map(|in_use| in_use.version);
        let same = model.versions.iter().find(|(_, stored)| fingerprint.is_some() && stored.fingerprint.as_deref() == fingerprint);
        let Some(version) = same.map(|(version, _)| *version).or(in_use) else { continue };
        let bytes = store.reader().read(&name, version, MAX_BYTES).await.with_context(|| format!("model {name}@{version}"))?;
        return Checkpoint::from_bytes(&bytes).map(Some).with_context(|| format!("model {name}@{version}"));
    }
    Ok(of_file)
}

#[cfg(test)]
mod tests {
    use qscale_policies::PolicyError;

    use super::*;

    #[test]
    fn names_a_policy_with_its_parameters() {
        let policy = ReplayPolicy::named("hpa:cpu_utilization=50,tolerance=0.2", None).expect("valid");
        assert_eq!(policy.title(), "hpa:cpu_utilization=50,tolerance=0.2");
        let error = |text: &str| ReplayPolicy::named(text, None).err().expect("refused");
        assert!(error("hpa:50").to_string().contains("`50`"), "{}", error("hpa:50"));
        assert!(error("deep").is::<PolicyError>(), "{}", error("deep"));
    }

    #[test]
    fn refuses_a_model_for_a_rule() {
        assert!(ReplayPolicy::named("hpa", Some(pretrained())).is_err());
        assert!(ReplayPolicy::named(DQN, Some(pretrained())).is_ok());
    }

    #[test]
    fn a_missing_model_file_is_named() {
        let error = load_model(Path::new("missing.dqn")).expect_err("absent");
        assert_eq!(error.downcast_ref::<std::io::Error>().map(std::io::Error::kind), Some(std::io::ErrorKind::NotFound));
        assert!(error.to_string().contains("missing.dqn"), "{error}");
    }

    #[test]
    fn policy_of_an_agent_comes_from_settings_name_or_actions() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = SettingsFolder(Some(folder.path().to_owned()));
        let name = |text: &str| Name::new(text).expect("valid");
        let written = r#"{"agent": "mine", "policy": "hpa", "params": {"cpu_utilization": 40}, "health": "127.0.0.1:1"}"#;
        std::fs::write(folder.path().join("agent-mine.json"), written).expect("written");
        let of = |agent: &str, recorded: Option<&Provenance>| {
            let (agent, settings) = (name(agent), settings.read(&name(agent)).expect("readable"));
            let policy = settings.as_ref().and_then(|settings| settings.policy.clone());
            ReplayPolicy::with_settings(&agent, &policy.unwrap_or_else(|| policy_name(&agent, recorded)), settings, recorded, None)
        };
        let mine = of("mine", None).expect("configured");
        assert_eq!((mine.title().as_str(), mine.assumptions.len()), ("hpa:cpu_utilization=40", 0));
        let provenance = mine.decider.provenance();
        let other = of("other", Some(&provenance)).expect("the Actions name the policy");
        assert_eq!((other.title().as_str(), other.assumptions.len()), ("hpa", 2));
        assert!(other.assumptions[1].contains(&provenance.configuration), "{:?}", other.assumptions);
        assert_eq!(of("kpa", Some(&provenance)).expect("the agent is named after its policy").decider.name(), "kpa");
        let error = of("nobody", None).err().expect("unknown");
        assert!(error.downcast_ref::<PolicyError>().is_some() && error.to_string().contains("nobody"), "{error:#}");
    }
}
