//! The plan of a run, from its options. Owns which functions there are, their policies and their load; starts nothing.

mod simulated;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use qscale_common::document::Format;
use qscale_common::name::{FunctionId, Name};
use qscale_common::platform::{FunctionSpec, Protocol};
use qscale_common::policy::{ScalingPolicy, default_agent};
use qscale_common::runtime::clock::{self, ClockRate};
use qscale_common::runtime::files::{self, read_document};
use qscale_common::workload::Pattern;
use qscale_dqn::checkpoint::MAX_BYTES;
use qscale_dqn::registry::{self, DQN};
use qscale_dqn::tree::policy::TREE;
use qscale_dqn::{Checkpoint, DecisionTree, tree};
use serde_json::{Map, Value, json};

use self::simulated::LoadWords;
use crate::load::{LoadPlan, RequestForm};
use crate::options::{BackendKind, UpOptions};

/// Bundled functions: names and texts of their files.
const BUNDLED: [(&str, &str); 3] = [
    ("fibonacci", include_str!("../../functions/fibonacci.toml")),
    ("aes", include_str!("../../functions/aes.toml")),
    ("faas", include_str!("../../functions/faas.toml")),
];

/// A function to run, and the agent that scales it.
#[derive(Debug)]
pub struct PlannedFunction {
    /// Its name.
    pub id: FunctionId,
    /// The agent of its ScalingPolicy.
    pub agent: Name,
    /// Its function file.
    pub spec: FunctionSpec,
    /// Its ScalingPolicy.
    pub policy: ScalingPolicy,
}

/// The functions, agents and load of a run.
#[derive(Debug, Default)]
pub struct Plan {
    /// The functions, copies included.
    pub functions: Vec<PlannedFunction>,
    /// Backend.
    pub backend: BackendKind,
    /// Speed of the system's clock.
    pub clock_rate: ClockRate,
    /// Configuration of each agent in addition to its name.
    pub agents: BTreeMap<Name, Map<String, Value>>,
    /// Load that the load generator sends; `None` for no load. Simulated functions have their own load.
    pub load: Option<LoadPlan>,
    /// Load in words.
    pub load_description: String,
    /// The part of the trace that is played, if there is a trace.
    pub trace: Option<String>,
    /// Whether policies and models must be signed.
    pub require_signatures: bool,
    /// The cluster, with that backend.
    pub cluster: ClusterPlan,
}

/// A Kubernetes cluster. Its functions are those of the ScalingPolicy objects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterPlan {
    /// Context of the kubeconfig; `None`: its current one.
    pub context: Option<String>,
    /// Whether certificates of kubelets are not checked.
    pub insecure_kubelets: bool,
    /// Address of metrics with arrivals and latencies.
    pub requests: Option<String>,
}

impl Plan {
    /// The functions, in display order.
    pub fn ids(&self) -> Vec<FunctionId> {
        self.functions.iter().map(|planned| planned.id.clone()).collect()
    }

    /// The plan of these options.
    ///
    /// # Errors
    /// Names the option and its value.
    pub fn new(arguments: &UpOptions) -> anyhow::Result<Self> {
        let pattern = arguments.pattern()?;
        arguments.check_backend()?;
        let clock_rate = ClockRate::new(arguments.speed, clock::wall()).map_err(|error| anyhow::anyhow!("--{error}"))?;
        let (functions, load, words) = match arguments.backend {
            BackendKind::Local => local(arguments, pattern)?,
            BackendKind::Sim => {
                let (functions, words) = simulated::functions(arguments)?;
                (functions, None, words)
            }
            BackendKind::Kubernetes => (Vec::new(), None, LoadWords { short: "of the cluster".into(), trace: None }),
        };
        let mut agents: BTreeMap<Name, Map<String, Value>> =
            functions.iter().map(|function| (function.agent.clone(), Map::new())).collect();
        if arguments.backend == BackendKind::Kubernetes {
            // Objects name their agents; one that names none has the default one.
            agents.extend([arguments.agent.clone(), default_agent()].map(|agent| (agent, Map::new())));
        }
        if let Some(unknown) = agents.keys().find(|agent| built_in().all(|name| name != agent.as_str())) {
            let known = built_in().collect::<Vec<_>>().join(", ");
            let first = functions.first().map(|function| function.id.name.to_string()).unwrap_or_default();
            anyhow::bail!(
                "--agent {unknown}: not a built-in agent ({known}); to use your own agent, start with a built-in one, then run \
                 `qscale agent add {unknown}` and `qscale policy set {first} agent={unknown}`"
            );
        }
        for (agent, model) in models(arguments.model.as_deref(), agents.keys())? {
            agents.entry(agent).or_default().insert("model".to_owned(), json!(model));
        }
        let LoadWords { short: load_description, trace } = words;
        let require_signatures = arguments.require_signatures;
        let cluster = ClusterPlan {
            context: arguments.context.clone(),
            insecure_kubelets: arguments.insecure_kubelets,
            requests: arguments.requests.clone(),
        };
        Ok(Self { functions, backend: arguments.backend, clock_rate, agents, load, load_description, trace, require_signatures, cluster })
    }
}

/// Names of the agents that run without a program of the user.
fn built_in() -> impl Iterator<Item = &'static str> {
    registry::names().chain([TREE])
}

/// The `model` setting of each of `agents` that has one. `named` is a decision tree if one of them is a tree; otherwise a model of the learned agent: a file,
/// which is checked here, or a model of the store, by default the one with the agent's name.
fn models<'a>(named: Option<&str>, agents: impl Iterator<Item = &'a Name> + Clone) -> anyhow::Result<BTreeMap<Name, String>> {
    let of = |name: &str| agents.clone().find(|agent| agent.as_str() == name).cloned();
    let (learned, distilled) = (of(DQN), of(TREE));
    if let Some(named) = named
        && learned.is_none()
        && distilled.is_none()
    {
        let agents = agents.map(Name::as_str).collect::<Vec<_>>().join(", ");
        anyhow::bail!("--model {named}: none of the agents {agents} uses a model; add --agent {DQN} or --versus {DQN}");
    }
    let mut models = BTreeMap::new();
    if let Some(agent) = distilled.clone() {
        let named = named.with_context(|| {
            format!("--agent {TREE} needs a decision tree, as in --model mine.tree; `qscale model distil --out mine.tree` makes one")
        })?;
        models.insert(
            agent,
            checked_file(named, tree::MAX_BYTES, |bytes| {
                DecisionTree::parse(bytes)?;
                Ok(())
            })?,
        );
    }
    if let Some(agent) = learned {
        let model = match named.filter(|_| distilled.is_none()) {
            None => format!("store:{DQN}"),
            Some(named) if named.starts_with("store:") => named.to_owned(),
            Some(named) => checked_file(named, MAX_BYTES, |bytes| {
                Checkpoint::from_bytes(bytes)?.check()?;
                Ok(())
            })?,
        };
        models.insert(agent, model);
    }
    Ok(models)
}

/// Absolute path of the file `named` of at most `limit` bytes, whose content `check` accepts.
fn checked_file(named: &str, limit: usize, check: impl Fn(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<String> {
    let option = || format!("--model {named}");
    let path = Path::new(named).canonicalize().with_context(option)?;
    files::read_bytes(&path, limit as u64).and_then(|bytes| check(&bytes)).with_context(option)?;
    Ok(path.display().to_string())
}

/// One real function, or two copies of it.
fn local(arguments: &UpOptions, pattern: Option<Pattern>) -> anyhow::Result<(Vec<PlannedFunction>, Option<LoadPlan>, LoadWords)> {
    let spec = function_spec(arguments.function.as_deref().unwrap_or(BUNDLED[0].0))?;
    let mut functions = vec![planned(spec.clone(), &arguments.agent, arguments)?];
    if let Some(versus) = &arguments.versus {
        functions.push(planned(copy_of(&spec)?, versus, arguments)?);
    }
    let request = request_form(&spec, arguments.protocol.as_deref(), &arguments.inputs);
    let load = pattern.map(|pattern| LoadPlan {
        pattern: pattern.to_string(),
        request,
        duration: arguments.duration,
        seed: arguments.seed,
        ..LoadPlan::default()
    });
    Ok((functions, load, LoadWords { short: arguments.load.clone(), trace: None }))
}

/// A function by the name of a bundled one, or from a function file.
///
/// # Errors
/// When there is neither, or the file is invalid.
pub fn function_spec(named: &str) -> anyhow::Result<FunctionSpec> {
    if let Some((_, text)) = BUNDLED.iter().find(|(name, _)| *name == named) {
        return FunctionSpec::parse(text, Format::Toml).with_context(|| format!("function {named}"));
    }
    let path = Path::new(named);
    let names: Vec<_> = BUNDLED.iter().map(|(name, _)| *name).collect();
    let (text, format) = read_document(path)
        .with_context(|| format!("--function {named}: not a bundled function ({}), and not a readable file", names.join(", ")))?;
    FunctionSpec::parse(&text, format).with_context(|| format!("--function {named}"))
}

fn planned(spec: FunctionSpec, agent: &Name, arguments: &UpOptions) -> anyhow::Result<PlannedFunction> {
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
        // A demonstration with a tick of seconds changes allocations more often than a cluster should.
        "guard": { "changes_per_hour": 1800, "reversals_per_hour": 900 },
    });
    let policy = ScalingPolicy::from_document(&policy.to_string(), Format::Json).context("invalid policy of the function")?;
    Ok(PlannedFunction { id, agent: agent.clone(), spec, policy })
}

/// Protocol and fields of requests to a function: the given ones, or the defaults of the function.
pub fn request_form(spec: &FunctionSpec, chosen: Option<&str>, inputs: &[String]) -> RequestForm {
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
        return RequestForm { protocol: protocol.to_owned(), inputs };
    };
    RequestForm { protocol: chosen.to_owned(), inputs: inputs.to_vec() }
}

/// The copy of a function that another agent scales.
///
/// # Errors
/// When the name of the copy is too long.
pub fn copy_of(spec: &FunctionSpec) -> anyhow::Result<FunctionSpec> {
    let name = Name::new(format!("{}-versus", spec.name)).context("--versus: invalid name of the copy")?;
    Ok(FunctionSpec { name, listen: None, ..spec.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_checked_before_anything_starts() {
        let agents = |names: &[&str]| names.iter().map(|name| Name::new(*name).expect("valid")).collect::<Vec<_>>();
        let models = |named: Option<&str>, names: &[&str]| {
            let found = models(named, agents(names).iter())?;
            Ok::<_, anyhow::Error>(found.into_iter().map(|(agent, model)| format!("{agent} {model}")).collect::<Vec<_>>())
        };
        assert_eq!(models(None, &["hpa"]).expect("no model"), Vec::<String>::new());
        assert_eq!(models(None, &["hpa", "dqn"]).expect("by default"), ["dqn store:dqn"]);
        assert_eq!(models(Some("store:mine"), &["hpa", "dqn"]).expect("in the store"), ["dqn store:mine"]);
        let error = |named: &str, names: &[&str]| format!("{:#}", models(Some(named), names).expect_err("refused"));
        assert!(error("store:mine", &["hpa", "static"]).contains("hpa, static"));
        assert!(error("nosuch.dqn", &["dqn"]).contains("nosuch.dqn"));
        let folder = qscale_tests::Folder::new("plan");
        let broken = folder.path().join("broken.dqn");
        std::fs::write(&broken, b"PK\x03\x04").expect("written");
        assert!(error(&broken.display().to_string(), &["dqn"]).contains("broken.dqn"));
        let tree = qscale_tests::repository().join("tests/fuzz/corpus/trees/small.tree").display().to_string();
        assert_eq!(models(Some(&tree), &["dqn", "tree"]).expect("a tree"), ["dqn store:dqn".to_owned(), format!("tree {tree}")]);
        assert!(error(&broken.display().to_string(), &["tree"]).contains("line 1: the file is compressed"));
        assert!(format!("{:#}", models(None, &["tree"]).expect_err("no tree")).contains("qscale model distil"));
    }
}
