//! A policy that decides on recorded States, as an agent decides by it. Owns where it comes from, what had to be assumed of it, and what an agent would have published of it.

use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use qscale_common::contract::{Action, Choice, State};
use qscale_common::name::Name;
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::models::ModelStore;
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use qscale_dqn::checkpoint::MOST_BYTES;
use qscale_dqn::decider::{FALLBACK, Memories};
use qscale_dqn::device::cpu;
use qscale_dqn::pretrained::pretrained;
use qscale_dqn::registry::{self, DQN};
use qscale_dqn::{Checkpoint, decider};
use qscale_evaluate::suite::told_besides;
use qscale_policies::Decision;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::show;
use crate::system::Locate;

/// A policy, and what is known of it.
pub struct Decider {
    /// It: a rule, or a network with the rule beside it.
    pub decides: decider::Decider,
    /// What it is told.
    pub params: Value,
    /// What had to be assumed.
    pub assumed: Vec<String>,
}

impl Decider {
    /// The policy that `text` names, as `NAME[:KEY=VALUE,...]`; the learned one decides by the model in `model`.
    pub fn named(text: &str, model: Option<&Path>) -> anyhow::Result<Self> {
        let (name, told) = text.split_once(':').unwrap_or((text, ""));
        let nothing = json!({});
        let params = if told.is_empty() { Ok(nothing) } else { told_besides(&nothing, told) };
        let params = params.map_err(|reason| anyhow!("--policy {text}: {reason}"))?;
        let checkpoint = load(name, model)?;
        Self::made(name, params, checkpoint.as_ref(), FALLBACK, Vec::new()).with_context(|| format!("--policy {text}"))
    }

    /// The policy of `agent`, whose last Action names `recorded` as its model: as its configuration in the state folder tells it, or its name. `model` is
    /// taken in place of the one that it decided by.
    pub async fn of_agent(locate: &Locate, bus: &Bus, agent: &Name, recorded: Option<&str>, model: Option<&Path>) -> anyhow::Result<Self> {
        let configured = Configured::of(locate, agent)?;
        let name = configured.as_ref().and_then(|configured| configured.policy.clone()).unwrap_or_else(|| policy_name(agent, recorded));
        let checkpoint = match model {
            None if name == DQN => {
                decided_by(bus, configured.as_ref().and_then(|configured| configured.model.as_deref()), recorded).await?
            }
            asked => load(&name, asked)?,
        };
        Self::told(agent, &name, configured, recorded, checkpoint.as_ref())
    }

    fn told(
        agent: &Name,
        name: &str,
        configured: Option<Configured>,
        recorded: Option<&str>,
        checkpoint: Option<&Checkpoint>,
    ) -> anyhow::Result<Self> {
        let mut assumed = Vec::new();
        if configured.is_none() {
            assumed.push(format!(
                "{agent} was told nothing but its policy's defaults: an Action does not tell parameters, and there is no configuration of \
                 {agent} in the state folder"
            ));
        }
        let Configured { params, fallback, .. } = configured.unwrap_or_default();
        let params = if params.is_null() { json!({}) } else { params };
        let made = Self::made(name, params, checkpoint, fallback.as_deref().unwrap_or(FALLBACK), assumed);
        let mut made = made.with_context(|| format!("the policy of agent {agent} is not known here"))?;
        let now = cut(made.decides.model());
        if let Some(recorded) = recorded.filter(|recorded| *recorded != now) {
            made.assumed.push(format!("what decided is `{}`, and what decides again is `{now}`", show::clean(recorded)));
        }
        Ok(made)
    }

    fn made(name: &str, params: Value, checkpoint: Option<&Checkpoint>, fallback: &str, assumed: Vec<String>) -> anyhow::Result<Self> {
        let decides = match name {
            DQN => decider::Decider::learned(registry::learned(&params, checkpoint, &cpu())?, fallback).context("fallback")?,
            rule => decider::Decider::Rule(registry::by_name(rule, &params, None, &cpu())?),
        };
        Ok(Self { decides, params, assumed })
    }

    /// What it is called, with what it is told.
    pub fn title(&self) -> String {
        let told: Vec<String> = self.params.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
        let name = self.decides.name();
        if told.is_empty() { name.to_owned() } else { format!("{name}:{}", told.join(",")) }
    }
}

/// What the configuration of an agent says of its policy.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Configured {
    policy: Option<String>,
    /// What the policy is told.
    pub params: Value,
    /// A file, or `store:NAME`.
    pub model: Option<String>,
    /// The rule beside a network.
    fallback: Option<String>,
}

impl Configured {
    /// As `qscale up` wrote it; `None` where it did not, or where the system is elsewhere.
    pub fn of(locate: &Locate, agent: &Name) -> anyhow::Result<Option<Self>> {
        if locate.nats.is_some() {
            return Ok(None);
        }
        let path = locate.state_dir.join("config").join(format!("agent-{agent}.json"));
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }
}

/// The policy of an agent that does not say it: the one that it is called by, else the one that its model begins with.
fn policy_name(agent: &Name, recorded: Option<&str>) -> String {
    let known = |name: &str| registry::names().any(|known| known == name);
    let of_model = recorded.and_then(|model| model.split(['/', ' ']).next()).filter(|name| known(name));
    match of_model {
        Some(name) if !known(agent.as_str()) => name.to_owned(),
        _ => agent.to_string(),
    }
}

/// The model that is asked for; `None` where none is.
fn load(name: &str, asked: Option<&Path>) -> anyhow::Result<Option<Checkpoint>> {
    if let Some(path) = asked {
        ensure!(name == DQN, "--model {}: policy {name} decides by no model; it goes with {DQN}", path.display());
    }
    asked.map(crate::train::load).transpose()
}

/// The model of which `recorded` bears the fingerprint: the one that comes along (`None`), the configured file, or a version in the store. Where none does, what
/// is configured now.
async fn decided_by(bus: &Bus, configured: Option<&str>, recorded: Option<&str>) -> anyhow::Result<Option<Checkpoint>> {
    let fingerprint = recorded.and_then(|model| model.split(' ').next_back());
    if fingerprint.is_some_and(|fingerprint| fingerprint == pretrained().fingerprint()) {
        return Ok(None);
    }
    let named = configured.and_then(|model| model.strip_prefix(STORE));
    let of_file = configured.filter(|_| named.is_none()).map(|path| crate::train::load(Path::new(path))).transpose()?;
    if of_file.as_ref().is_some_and(|model| fingerprint.is_none_or(|fingerprint| fingerprint == model.fingerprint())) {
        return Ok(of_file);
    }
    let store = ModelStore::open(bus).await?;
    for (name, model) in store.all().await? {
        let in_use = model.in_use.as_ref().filter(|_| fingerprint.is_none() && named == Some(name.as_str())).map(|in_use| in_use.version);
        let same = model.versions.iter().find(|(_, stored)| fingerprint.is_some() && stored.fingerprint.as_deref() == fingerprint);
        let Some(version) = same.map(|(version, _)| *version).or(in_use) else { continue };
        let bytes = store.read(&name, version, MOST_BYTES).await.with_context(|| format!("model {name}@{version}"))?;
        return Checkpoint::from_bytes(&bytes).map(Some).with_context(|| format!("model {name}@{version}"));
    }
    Ok(of_file)
}

/// What begins the name of a model of the store.
pub const STORE: &str = "store:";

/// A policy that decides on the States of one function, one after the other.
pub struct Again<'a> {
    decides: &'a decider::Decider,
    memories: Memories,
    rng: SmallRng,
}

impl<'a> Again<'a> {
    /// What `decides`, which has seen nothing yet.
    pub fn new(decides: &'a decider::Decider) -> Self {
        // The policies that there are draw nothing.
        Self { decides, memories: Memories::default(), rng: SmallRng::seed_from_u64(0) }
    }

    /// What it decides on `state` at `now`.
    pub fn decide(&mut self, state: &State, now: Timestamp) -> Decision {
        if self.decides.lookback().is_none() {
            self.memories = Memories::default();
        }
        let decided = self.decides.decide_all(&mut [(state, &mut self.memories)], now, &mut self.rng).pop();
        decided.expect("one State has one decision").decision
    }

    /// Begins as an agent does that was started at `now`, when the stream held `before`.
    pub fn begin_anew(&mut self, before: &[State], now: Timestamp) {
        self.memories = Memories::default();
        let Some(remembers) = self.decides.lookback() else { return };
        for state in before.iter().filter(|state| state.observed_at_ms >= now.minus(remembers)) {
            self.decides.recall(state, &mut self.memories, &mut self.rng);
        }
    }

    /// Trusts a network whatever was seen before: an agent that starts does.
    pub fn trust_again(&mut self) {
        self.memories.trust_again();
    }
}

/// What an agent says with a decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Said {
    /// What the function shall have.
    pub allocation: Allocation,
    /// Why.
    pub reason: String,
    /// What could have been chosen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Choice>,
}

impl Said {
    /// What an agent publishes of `decision`, as whoever reads its Action has it; `None` where it says nothing.
    pub fn of(state: &State, decision: Decision) -> Option<Self> {
        let (allocation, reason, mut choices) = match decision {
            Decision::Want { allocation, reason, choices } => (allocation, reason, choices),
            Decision::Hold { reason, choices, .. } => (state.allocation?, reason, choices),
        };
        choices.truncate(Action::MAX_CHOICES);
        // A number that was written and read again may differ by its last bit.
        let written = serde_json::to_vec(&choices).expect("choices hold only strings and numbers");
        let choices = serde_json::from_slice(&written).unwrap_or(choices);
        Some(Self { allocation, reason: cut(reason), choices })
    }
}

impl From<Action> for Said {
    fn from(action: Action) -> Self {
        Self { allocation: action.allocation, reason: action.reason, choices: action.choices }
    }
}

/// `text`, cut to what an Action may carry.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(Action::MAX_TEXT));
    text
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::Version;

    use super::super::tests::state;
    use super::*;

    #[test]
    fn a_policy_is_named_with_what_it_is_told() {
        let decider = Decider::named("hpa:cpu_utilization=50,tolerance=0.2", None).expect("valid");
        assert_eq!(decider.title(), "hpa:cpu_utilization=50,tolerance=0.2");
        let error = |text: &str| format!("{:#}", Decider::named(text, None).err().expect("refused"));
        assert!(error("hpa:50").contains("--policy hpa:50: `50` is no key=value"), "{}", error("hpa:50"));
        assert!(error("deep").contains("must be one of dqn, threshold"), "{}", error("deep"));
        let lost = Decider::named("dqn", Some(Path::new("nosuch.dqn"))).err().expect("refused");
        assert!(format!("{lost:#}").contains("nosuch.dqn"), "{lost:#}");
        let none = Decider::named("hpa", Some(Path::new("nosuch.dqn"))).err().expect("refused");
        assert!(format!("{none:#}").contains("policy hpa decides by no model"), "{none:#}");
    }

    #[test]
    fn an_agent_is_the_policy_that_its_configuration_or_its_name_tells() {
        let folder = qscale_tests::Folder::new("decider");
        let locate = Locate { state_dir: folder.path().to_owned(), nats: None, platform: None };
        let name = |text: &str| Name::new(text).expect("valid");
        std::fs::create_dir(folder.path().join("config")).expect("made");
        let configured = r#"{"agent": "mine", "policy": "hpa", "params": {"cpu_utilization": 40}, "health": "127.0.0.1:1"}"#;
        std::fs::write(folder.path().join("config/agent-mine.json"), configured).expect("written");
        let of = |agent: &str, recorded: Option<&str>| {
            let (agent, configured) = (name(agent), Configured::of(&locate, &name(agent)).expect("readable"));
            let policy = configured.as_ref().and_then(|configured| configured.policy.clone());
            Decider::told(&agent, &policy.unwrap_or_else(|| policy_name(&agent, recorded)), configured, recorded, None)
        };
        let mine = of("mine", None).expect("configured");
        assert_eq!((mine.title().as_str(), mine.assumed.len()), ("hpa:cpu_utilization=40", 0));
        let model = mine.decides.model();
        let other = of("other", Some(&model)).expect("its model tells the policy");
        assert_eq!(other.title(), "hpa");
        let assumed = &other.assumed;
        assert!(assumed[0].contains("nothing but its policy's defaults") && assumed[1].contains(&model), "{assumed:?}");
        assert_eq!(of("kpa", Some(&model)).expect("its name tells the policy").decides.name(), "kpa");
        let error = format!("{:#}", of("nobody", None).err().expect("not known"));
        assert!(error.contains("agent nobody is not known here: policy = `nobody`"), "{error}");
    }

    #[test]
    fn what_is_said_is_what_is_read_of_an_action() {
        let decider = Decider::named("dqn", None).expect("the model that comes along");
        let state = state(1, 40.0);
        let decision = Again::new(&decider.decides).decide(&state, state.observed_at_ms);
        let (Decision::Want { choices, .. } | Decision::Hold { choices, .. }) = decision.clone();
        let said = Said::of(&state, decision).expect("an allocation is in force");
        let action = Action {
            version: Version::CURRENT,
            agent: Name::new("dqn").expect("valid"),
            instance: String::new(),
            model: decider.decides.model(),
            namespace: state.namespace.clone(),
            function: state.function.clone(),
            epoch: state.epoch,
            tick: state.tick,
            decided_at_ms: state.observed_at_ms,
            expires_at_ms: state.observed_at_ms,
            allocation: said.allocation,
            reason: said.reason.clone(),
            choices,
        };
        let read: Action = serde_json::from_slice(&serde_json::to_vec(&action).expect("writes")).expect("reads");
        assert!(!said.choices.is_empty());
        assert_eq!(Said::from(read), said, "to the bit");
        let unknown = State { allocation: None, ..state.clone() };
        assert_eq!(Said::of(&unknown, Again::new(&decider.decides).decide(&unknown, state.observed_at_ms)), None);
    }
}
