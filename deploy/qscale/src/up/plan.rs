//! What is to run, as the command line asks for it. Owns which functions there are, their policies and their load; starts nothing.

mod simulated;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use qscale_common::document::Format;
use qscale_common::name::{FunctionId, Name};
use qscale_common::platform::{FunctionSpec, Protocol};
use qscale_common::policy::ScalingPolicy;
use qscale_common::runtime::clock::{self, ClockRate};
use qscale_common::time::Span;
use qscale_common::workload::Pattern;
use qscale_dqn::registry::{self, DQN};
use serde_json::{Map, Value, json};

use super::{Backend, UpArgs};
use crate::system::{Locate, StateDir};
use crate::train;

const SHIPPED: [(&str, &str); 3] = [
    ("fibonacci", include_str!("../../../functions/fibonacci.toml")),
    ("aes", include_str!("../../../functions/aes.toml")),
    ("faas", include_str!("../../../functions/faas.toml")),
];

/// A function that is to run, and the agent that scales it.
#[derive(Debug)]
pub struct Planned {
    /// Its name.
    pub id: FunctionId,
    /// The agent that its policy names.
    pub agent: Name,
    /// Its file.
    pub spec: FunctionSpec,
    /// Its policy.
    pub policy: ScalingPolicy,
}

/// What is to run.
#[derive(Debug)]
pub struct Plan {
    /// The functions, copies included.
    pub functions: Vec<Planned>,
    /// Where they run.
    pub backend: Backend,
    /// How fast the system lives.
    pub pace: ClockRate,
    /// The folder that keeps it all.
    pub state: StateDir,
    /// The agents that are needed.
    pub agents: Vec<Name>,
    /// What the configuration of an agent says besides its name, where it says more.
    pub told: BTreeMap<Name, Map<String, Value>>,
    /// What the load generator is to send; `None` for nothing. Simulated functions bring their own load.
    pub load: Option<LoadPlan>,
    /// What load is offered, in words.
    pub load_words: String,
}

/// What the load generator is to send.
#[derive(Debug)]
pub struct LoadPlan {
    /// The rate over time.
    pub pattern: String,
    /// How requests are sent.
    pub protocol: String,
    /// What they ask for.
    pub inputs: Vec<String>,
    /// How long; absent: until stopped.
    pub duration: Option<Span>,
    /// Seed of the arrivals.
    pub seed: u64,
    /// Whether requests come evenly, and not by chance.
    pub evenly: bool,
}

impl Plan {
    /// The functions, in the order in which they are shown.
    pub fn ids(&self) -> Vec<FunctionId> {
        self.functions.iter().map(|planned| planned.id.clone()).collect()
    }

    /// What `arguments` ask for.
    pub fn new(locate: &Locate, arguments: &UpArgs) -> anyhow::Result<Self> {
        let pattern = arguments.pattern()?;
        arguments.check_backend()?;
        let pace = ClockRate::new(arguments.speed, clock::wall()).map_err(|error| anyhow::anyhow!("--{error}"))?;
        let (functions, load, load_words) = match arguments.backend {
            Backend::Local => local(arguments, pattern)?,
            Backend::Sim => {
                let (functions, words) = simulated::functions(arguments)?;
                (functions, None, words)
            }
        };
        let mut agents: Vec<Name> = functions.iter().map(|function| function.agent.clone()).collect();
        agents.sort();
        agents.dedup();
        if let Some(unknown) = agents.iter().find(|agent| registry::names().all(|name| name != agent.as_str())) {
            let known = registry::names().collect::<Vec<_>>().join(", ");
            let first = functions.first().map(|function| function.id.name.to_string()).unwrap_or_default();
            anyhow::bail!(
                "no agent `{unknown}` comes with the system, those that do are {known}; for one of your own start with one of these, then \
                 `qscale agent add {unknown}` and `qscale policy set {first} agent={unknown}`"
            );
        }
        let model = model(arguments.model.as_deref(), &agents)?;
        let learned = agents.iter().find(|agent| agent.as_str() == DQN);
        let told = learned.map(|agent| (agent.clone(), Map::from_iter([("model".to_owned(), json!(model))]))).into_iter().collect();
        let state = StateDir::new(&locate.state_dir)?;
        Ok(Self { functions, backend: arguments.backend, pace, state, agents, told, load, load_words })
    }
}

/// What the learned agent decides by: a file, which is judged before anything starts, or a model of the store, by default the one that is called as the agent.
fn model(named: Option<&str>, agents: &[Name]) -> anyhow::Result<String> {
    let Some(named) = named else { return Ok(format!("store:{DQN}")) };
    anyhow::ensure!(
        agents.iter().any(|agent| agent.as_str() == DQN),
        "--model {named}: of {} none is learned; add --agent {DQN} or --versus {DQN}",
        agents.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
    );
    if named.starts_with("store:") {
        return Ok(named.to_owned());
    }
    let path = Path::new(named).canonicalize().with_context(|| format!("--model {named}"))?;
    train::load(&path)?.check().with_context(|| format!("--model {named}"))?;
    Ok(path.display().to_string())
}

/// One function of this machine, or two copies of it.
fn local(arguments: &UpArgs, pattern: Option<Pattern>) -> anyhow::Result<(Vec<Planned>, Option<LoadPlan>, String)> {
    let spec = function_spec(arguments.function.as_deref().unwrap_or(SHIPPED[0].0))?;
    let mut functions = vec![planned(spec.clone(), &arguments.agent, arguments)?];
    if let Some(versus) = &arguments.versus {
        functions.push(planned(copy_of(&spec)?, versus, arguments)?);
    }
    let (protocol, inputs) = request_form(&spec, arguments.protocol.as_deref(), &arguments.inputs);
    let load = pattern.map(|pattern| LoadPlan {
        pattern: pattern.to_string(),
        protocol,
        inputs,
        duration: arguments.duration,
        seed: arguments.seed,
        evenly: false,
    });
    Ok((functions, load, arguments.load.clone()))
}

/// The function that is named, or read from a file.
pub fn function_spec(named: &str) -> anyhow::Result<FunctionSpec> {
    if let Some((_, text)) = SHIPPED.iter().find(|(name, _)| *name == named) {
        return FunctionSpec::parse(text, Format::Toml).with_context(|| format!("function {named}"));
    }
    let path = Path::new(named);
    let names: Vec<_> = SHIPPED.iter().map(|(name, _)| *name).collect();
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("--function {named}: neither a function that comes with the system ({}) nor a readable file", names.join(", "))
    })?;
    FunctionSpec::parse(&text, Format::of(path)?).with_context(|| format!("--function {named}"))
}

fn planned(spec: FunctionSpec, agent: &Name, arguments: &UpArgs) -> anyhow::Result<Planned> {
    let id = spec.id();
    let policy = json!({
        "namespace": id.namespace,
        "name": id.name,
        "tick": arguments.tick,
        "agent": agent,
        "mode": "active",
        "objective": { "percentile": 95.0, "latency": arguments.slo },
        "bounds": {
            "replicas": { "min": 1, "max": 6 },
            "cpu_millicores": { "min": 100, "max": 1000 },
            "memory_mib": { "min": 32, "max": 1024 },
        },
        // A demonstration at a tick of seconds may change more often than a cluster should.
        "guard": { "changes_per_hour": 1800, "reversals_per_hour": 900 },
    });
    let policy = ScalingPolicy::from_document(&policy.to_string(), Format::Json).context("the policy of the function")?;
    Ok(Planned { id, agent: agent.clone(), spec, policy })
}

/// How requests to a function are sent and what they ask for, where the command line does not say.
pub fn request_form(spec: &FunctionSpec, chosen: Option<&str>, inputs: &[String]) -> (String, Vec<String>) {
    let name = spec.name.as_str();
    let (protocol, input) = match name {
        _ if spec.protocol == Protocol::Http => ("http", None),
        _ if name.contains("fibonacci") => ("direct:fibonacci", Some("name=50000")),
        _ if name.contains("aes") => ("direct:aes", None),
        _ if name.contains("faas") => ("faas", None),
        _ => ("relay", None),
    };
    let Some(chosen) = chosen else {
        let inputs = if inputs.is_empty() { input.map(ToOwned::to_owned).into_iter().collect() } else { inputs.to_vec() };
        return (protocol.to_owned(), inputs);
    };
    (chosen.to_owned(), inputs.to_vec())
}

/// The copy of a function that another agent scales.
pub fn copy_of(spec: &FunctionSpec) -> anyhow::Result<FunctionSpec> {
    let name = Name::new(format!("{}-versus", spec.name)).context("--versus: the name of the copy")?;
    Ok(FunctionSpec { name, listen: None, ..spec.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_judged_before_anything_starts() {
        let agents = |names: &[&str]| names.iter().map(|name| Name::new(*name).expect("valid")).collect::<Vec<_>>();
        assert_eq!(model(None, &agents(&["hpa"])).expect("by default"), "store:dqn");
        assert_eq!(model(Some("store:mine"), &agents(&["hpa", "dqn"])).expect("in the store"), "store:mine");
        let error = |named: &str, names: &[&str]| format!("{:#}", model(Some(named), &agents(names)).expect_err("refused"));
        assert!(error("store:mine", &["hpa", "static"]).contains("of hpa, static none is learned; add --agent dqn"));
        assert!(error("nosuch.dqn", &["dqn"]).contains("--model nosuch.dqn"));
        let folder = qscale_tests::Folder::new("plan");
        let broken = folder.path().join("broken.dqn");
        std::fs::write(&broken, "PK").expect("written");
        assert!(error(&broken.display().to_string(), &["dqn"]).contains("not a checkpoint"));
    }
}
