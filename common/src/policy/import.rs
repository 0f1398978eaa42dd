//! Objects of other autoscalers of Kubernetes as ScalingPolicies. Owns which of their fields becomes which field of a policy; must not read files.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use thiserror::Error;

use super::{Bounds, Range, ScalingPolicy, WorkloadId, WorkloadKind};
use crate::name::{FunctionId, Name};
use crate::quantity;
use crate::units::{Mebibytes, Millicores, Replicas};

/// Target of a HorizontalPodAutoscaler that does not say, percent of the CPU request, which is also the default of the agent `hpa`.
const DEFAULT_CPU_TARGET: u64 = 80;
/// Largest number of replicas of a ScaledObject that does not say.
const DEFAULT_MAX_REPLICAS: u64 = 100;
const BYTES_PER_MIB: f64 = 1_048_576.0;

/// A ScalingPolicy in place of other autoscalers of one workload.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedPolicy {
    /// The policy; its mode is `recommend`.
    pub policy: ScalingPolicy,
    /// The objects that it replaces, as `Kind namespace/name`.
    pub from: Vec<String>,
    /// Differences, for people.
    pub notes: Vec<String>,
}

/// Why a document cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImportError {
    /// No object of a known kind.
    #[error("there is no HorizontalPodAutoscaler, VerticalPodAutoscaler or ScaledObject")]
    Nothing,
    /// An object that cannot be read.
    #[error("{object}: {reason}")]
    Object {
        /// The object, as `Kind namespace/name`.
        object: String,
        /// The field, its value and its range.
        reason: String,
    },
}

/// The policies for the objects of `documents`, which may be lists, one for each workload.
///
/// # Errors
/// If there are no such objects, or one of them is malformed.
pub fn import(documents: &[Value]) -> Result<Vec<ImportedPolicy>, ImportError> {
    let mut workloads: BTreeMap<WorkloadId, Autoscalers> = BTreeMap::new();
    for object in documents.iter().flat_map(objects) {
        let Some(kind) = Kind::of(object) else { continue };
        let named = describe(object);
        let read = |reason| ImportError::Object { object: named.clone(), reason };
        let workload = target(object, kind).map_err(read)?;
        let autoscalers = workloads.entry(workload).or_default();
        autoscalers.add(object, kind).map_err(read)?;
        autoscalers.from.push(named);
    }
    if workloads.is_empty() {
        return Err(ImportError::Nothing);
    }
    Ok(workloads.into_iter().map(|(workload, autoscalers)| autoscalers.policy(workload)).collect())
}

/// The objects of a document: its items, if it is a list.
fn objects(document: &Value) -> &[Value] {
    match document["items"].as_array() {
        Some(items) => items,
        None => std::slice::from_ref(document),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Hpa,
    Vpa,
    ScaledObject,
}

impl Kind {
    fn of(object: &Value) -> Option<Self> {
        match object["kind"].as_str()? {
            "HorizontalPodAutoscaler" => Some(Self::Hpa),
            "VerticalPodAutoscaler" => Some(Self::Vpa),
            "ScaledObject" => Some(Self::ScaledObject),
            _ => None,
        }
    }
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value[field].as_str()
}

fn describe(object: &Value) -> String {
    let metadata = &object["metadata"];
    let (namespace, name) = (text(metadata, "namespace").unwrap_or(FunctionId::DEFAULT_NAMESPACE), text(metadata, "name").unwrap_or("?"));
    format!("{} {namespace}/{name}", text(object, "kind").unwrap_or("?"))
}

/// The workload that `object` scales.
fn target(object: &Value, kind: Kind) -> Result<WorkloadId, String> {
    let field = if kind == Kind::Vpa { "targetRef" } else { "scaleTargetRef" };
    let target = &object["spec"][field];
    let name = text(target, "name").ok_or_else(|| format!("spec.{field}.name is missing"))?;
    let kind = match text(target, "kind").unwrap_or("Deployment") {
        "Deployment" => WorkloadKind::Deployment,
        "StatefulSet" => WorkloadKind::StatefulSet,
        other => return Err(format!("spec.{field}.kind = {other}, must be Deployment or StatefulSet")),
    };
    let namespace = text(&object["metadata"], "namespace").unwrap_or(FunctionId::DEFAULT_NAMESPACE);
    let label = |text: &str| Name::new(text).map_err(|error| error.to_string());
    Ok(WorkloadId { kind, name: FunctionId::new(label(namespace)?, label(name)?) })
}

/// The autoscalers of one workload.
#[derive(Debug, Default)]
struct Autoscalers {
    from: Vec<String>,
    replicas: Option<Range<Replicas>>,
    cpu: Option<Range<Millicores>>,
    memory: Option<Range<Mebibytes>>,
    horizontal: Option<&'static str>,
    vertical: bool,
    notes: Vec<String>,
}

impl Autoscalers {
    fn add(&mut self, object: &Value, kind: Kind) -> Result<(), String> {
        let spec = &object["spec"];
        match kind {
            Kind::Hpa => {
                self.horizontal = Some("hpa");
                self.add_replicas(spec, ("minReplicas", 1), ("maxReplicas", None))?;
                let old = spec["targetCPUUtilizationPercentage"].as_u64();
                let metrics = spec["metrics"].as_array().map_or(&[][..], Vec::as_slice);
                let is_cpu = |metric: &&Value| text(metric, "type") == Some("Resource") && text(&metric["resource"], "name") == Some("cpu");
                let new = metrics.iter().find(is_cpu).and_then(|metric| metric["resource"]["target"]["averageUtilization"].as_u64());
                if let Some(target) = old.or(new).filter(|target| *target != DEFAULT_CPU_TARGET) {
                    self.notes.push(format!("its CPU target is {target} %; start the agent with cpu_utilization = {target}"));
                }
                for metric in metrics.iter().filter(|metric| !is_cpu(metric)) {
                    self.notes.push(format!("its metric of type {} is not imported", text(metric, "type").unwrap_or("?")));
                }
            }
            Kind::ScaledObject => {
                self.horizontal = Some("keda");
                self.add_replicas(spec, ("minReplicaCount", 0), ("maxReplicaCount", Some(DEFAULT_MAX_REPLICAS)))?;
                for trigger in spec["triggers"].as_array().into_iter().flatten() {
                    self.notes.push(format!("its trigger {} is not imported", text(trigger, "type").unwrap_or("?")));
                }
            }
            Kind::Vpa => {
                self.vertical = true;
                let containers = spec["resourcePolicy"]["containerPolicies"].as_array().map_or(&[][..], Vec::as_slice);
                if let [first, others @ ..] = containers {
                    self.add_sizes(first)?;
                    if !others.is_empty() {
                        let container = text(first, "containerName").unwrap_or("*");
                        self.notes.push(format!("only the bounds of container {container} are imported"));
                    }
                }
            }
        }
        Ok(())
    }

    fn add_replicas(&mut self, spec: &Value, min: (&str, u64), max: (&str, Option<u64>)) -> Result<(), String> {
        let number = |field: &str, default: Option<u64>| {
            let value = if spec[field].is_null() { default } else { spec[field].as_u64() };
            let value = value.and_then(|value| u32::try_from(value).ok());
            value.map(Replicas).ok_or_else(|| format!("spec.{field} = {}, must be a number of replicas", spec[field]))
        };
        let (least, most) = (number(min.0, Some(min.1))?, number(max.0, max.1)?);
        if most.0 == 0 {
            return Err(format!("spec.{} = 0, must be at least 1", max.0));
        }
        self.replicas = Some(Range::new(least, most)?);
        Ok(())
    }

    fn add_sizes(&mut self, policy: &Value) -> Result<(), String> {
        let amount = |bound: &str, resource: &str| match &policy[bound][resource] {
            Value::Null => Ok(None),
            Value::Number(number) => Ok(number.as_f64()),
            value => {
                let amount = value.as_str().and_then(quantity::positive);
                amount.map(Some).ok_or_else(|| format!("{bound}.{resource} = {value}, must be a positive quantity"))
            }
        };
        let defaults = Bounds::default();
        let (least, most) = (amount("minAllowed", "cpu")?, amount("maxAllowed", "cpu")?);
        if least.or(most).is_some() {
            let millicores = |cores: f64| Millicores(((cores * 1000.0).round() as u32).max(1));
            self.cpu = Some(range(least.map(millicores), most.map(millicores), defaults.cpu_millicores)?);
        }
        let (least, most) = (amount("minAllowed", "memory")?, amount("maxAllowed", "memory")?);
        if least.or(most).is_some() {
            let mebibytes = |bytes: f64| Mebibytes(((bytes / BYTES_PER_MIB).ceil() as u32).max(1));
            self.memory = Some(range(least.map(mebibytes), most.map(mebibytes), defaults.memory_mib)?);
        }
        Ok(())
    }

    fn policy(self, workload: WorkloadId) -> ImportedPolicy {
        let mut policy = ScalingPolicy::new(workload.name);
        policy.workload.kind = workload.kind;
        let agent = match (self.horizontal, self.vertical) {
            (Some("hpa"), true) => "hpa-vpa",
            (Some(horizontal), _) => horizontal,
            (None, _) => "vpa",
        };
        policy.agent = Name::new(agent).expect("names of rules are DNS labels");
        let mut notes = self.notes;
        policy.bounds.replicas = self.replicas.unwrap_or(policy.bounds.replicas);
        policy.bounds.cpu_millicores = self.cpu.unwrap_or(policy.bounds.cpu_millicores);
        policy.bounds.memory_mib = self.memory.unwrap_or(policy.bounds.memory_mib);
        let missing =
            [("replicas", self.replicas.is_none()), ("cpu_millicores", self.cpu.is_none()), ("memory_mib", self.memory.is_none())];
        for (field, _) in missing.iter().filter(|(_, missing)| *missing) {
            notes.push(format!("bounds.{field} is the default, which the present value must be in"));
        }
        ImportedPolicy { policy, from: self.from, notes }
    }
}

/// A range with `least` and `most`, or one of them and the default, which gives way.
fn range<T: Copy + Ord + std::fmt::Display>(least: Option<T>, most: Option<T>, default: Range<T>) -> Result<Range<T>, String> {
    match (least, most) {
        (Some(least), None) => Range::new(least, default.max().max(least)),
        (None, Some(most)) => Range::new(default.min().min(most), most),
        (Some(least), Some(most)) => Range::new(least, most),
        (None, None) => Ok(default),
    }
}

/// The object `ScalingPolicy` of a cluster for `policy`, with the fields that an import sets.
#[must_use]
pub fn object(policy: &ScalingPolicy) -> Value {
    json!({
        "apiVersion": "qscale.dev/v1alpha1",
        "kind": "ScalingPolicy",
        "metadata": { "name": policy.name, "namespace": policy.namespace },
        "spec": { "workload": policy.workload, "agent": policy.agent, "mode": policy.mode, "bounds": policy.bounds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn autoscaler(kind: &str, spec: Value) -> Value {
        json!({ "kind": kind, "metadata": { "name": "old", "namespace": "prod" }, "spec": spec })
    }

    fn target(of: &str) -> Value {
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": of })
    }

    #[test]
    fn an_hpa_and_a_vpa_of_one_workload_are_one_policy() {
        let cpu =
            json!({ "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 60 } } });
        let hpa = json!({ "scaleTargetRef": target("fib"), "minReplicas": 2, "maxReplicas": 7, "metrics": [cpu, { "type": "External" }] });
        let allowed =
            json!({ "containerName": "*", "minAllowed": { "cpu": "50m", "memory": "64Mi" }, "maxAllowed": { "cpu": 2, "memory": "1Gi" } });
        let vpa = json!({ "targetRef": target("fib"), "resourcePolicy": { "containerPolicies": [allowed] } });
        let list =
            json!({ "kind": "List", "items": [autoscaler("HorizontalPodAutoscaler", hpa), autoscaler("VerticalPodAutoscaler", vpa)] });
        let imported = import(&[list]).expect("valid");
        let [ImportedPolicy { policy, from, notes }] = imported.as_slice() else { panic!("{imported:?}") };
        assert_eq!(policy.function().to_string(), "prod/fib");
        assert_eq!((policy.agent.as_str(), policy.workload.kind), ("hpa-vpa", WorkloadKind::Deployment));
        assert_eq!((policy.bounds.replicas.min(), policy.bounds.replicas.max()), (Replicas(2), Replicas(7)));
        assert_eq!((policy.bounds.cpu_millicores.min(), policy.bounds.cpu_millicores.max()), (Millicores(50), Millicores(2000)));
        assert_eq!((policy.bounds.memory_mib.min(), policy.bounds.memory_mib.max()), (Mebibytes(64), Mebibytes(1024)));
        assert_eq!(*from, ["HorizontalPodAutoscaler prod/old", "VerticalPodAutoscaler prod/old"]);
        assert!(notes.len() == 2 && notes[0].contains("60 %") && notes[1].contains("External"), "{notes:?}");
    }

    #[test]
    fn a_scaled_object_has_the_defaults_of_keda() {
        let spec = json!({ "scaleTargetRef": { "name": "fib" }, "triggers": [{ "type": "prometheus" }] });
        let imported = import(&[autoscaler("ScaledObject", spec)]).expect("valid");
        assert_eq!(imported[0].policy.agent.as_str(), "keda");
        assert_eq!((imported[0].policy.bounds.replicas.min(), imported[0].policy.bounds.replicas.max()), (Replicas(0), Replicas(100)));
        assert!(imported[0].notes.iter().any(|note| note.contains("prometheus")));
        assert!(imported[0].notes.iter().any(|note| note.contains("bounds.memory_mib")));
        let spec = &object(&imported[0].policy)["spec"];
        assert_eq!((&spec["mode"], &spec["workload"]["kind"]), (&json!("recommend"), &json!("deployment")));
    }

    #[test]
    fn malformed_objects_are_refused_with_their_name_and_field() {
        let refused = |kind, spec| import(&[autoscaler(kind, spec)]).expect_err("malformed").to_string();
        let error = refused("HorizontalPodAutoscaler", json!({ "scaleTargetRef": target("fib"), "minReplicas": 5, "maxReplicas": 2 }));
        assert_eq!(error, "HorizontalPodAutoscaler prod/old: min = 5, must be at most max = 2");
        for (spec, part) in [
            (json!({ "maxReplicas": 2 }), "spec.scaleTargetRef.name"),
            (json!({ "scaleTargetRef": target("fib") }), "spec.maxReplicas"),
            (json!({ "scaleTargetRef": target("fib"), "maxReplicas": -1 }), "spec.maxReplicas = -1"),
            (json!({ "scaleTargetRef": { "kind": "Job", "name": "fib" }, "maxReplicas": 2 }), "Job"),
        ] {
            let error = refused("HorizontalPodAutoscaler", spec);
            assert!(error.contains(part), "{error}");
        }
        let allowed = json!({ "containerPolicies": [{ "minAllowed": { "cpu": "much" } }] });
        let error = refused("VerticalPodAutoscaler", json!({ "targetRef": target("fib"), "resourcePolicy": allowed }));
        assert!(error.contains("minAllowed.cpu"), "{error}");
        assert_eq!(import(&[json!({ "kind": "Pod" }), json!(7)]), Err(ImportError::Nothing));
    }
}
