//! Objects of other autoscalers of Kubernetes as ScalingPolicies. Owns which of their fields becomes which field of a policy; must not read files.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::{Bounds, Range, ScalingPolicy, WorkloadId, WorkloadKind};
use crate::name::{FunctionId, Name};
use crate::quantity;
use crate::range::check_number;
use crate::units::{Mebibytes, Millicores, Replicas};

/// Target of a HorizontalPodAutoscaler that does not say, percent of the CPU request, which is also the default of the agent `hpa`.
const DEFAULT_CPU_TARGET: u64 = 80;
/// Largest number of replicas of a ScaledObject that does not say.
const DEFAULT_MAX_REPLICAS: u64 = 100;
/// Fields of a ScaledObject with the parameter of the agent `keda` that has the same meaning, and its unit.
const KEDA_PARAMETERS: [(&str, &str, &str); 4] = [
    ("pollingInterval", "polling_interval", "s"),
    ("cooldownPeriod", "cooldown_period", "s"),
    ("initialCooldownPeriod", "initial_cooldown_period", "s"),
    ("idleReplicaCount", "idle_replicas", ""),
];
/// Beginnings of annotations that change how an autoscaler works: those of KEDA, and fields of an older version of the HorizontalPodAutoscaler.
const ANNOTATIONS: [&str; 3] =
    ["autoscaling.keda.sh/", "autoscaling.alpha.kubernetes.io/metrics", "autoscaling.alpha.kubernetes.io/behavior"];
const BYTES_PER_MIB: f64 = 1_048_576.0;

/// A ScalingPolicy in place of other autoscalers of one workload.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedPolicy {
    /// The policy; its mode is `recommend`.
    pub policy: ScalingPolicy,
    /// Parameters of its agent that have the meaning of fields of the objects; an agent gets them when it is started.
    pub params: Value,
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
        let Some(kind) = AutoscalerKind::of(object) else { continue };
        let named = describe(object);
        let read = |reason| ImportError::Object { object: named.clone(), reason };
        let workload = kind.workload(text(&object["metadata"], "namespace"), &object["spec"]).map_err(read)?;
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

/// A kind of object that scales a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoscalerKind {
    /// Kubernetes' HorizontalPodAutoscaler.
    Hpa,
    /// Kubernetes' VerticalPodAutoscaler.
    Vpa,
    /// KEDA's ScaledObject.
    ScaledObject,
}

impl AutoscalerKind {
    const ALL: [Self; 3] = [Self::Hpa, Self::Vpa, Self::ScaledObject];

    fn of(object: &Value) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| object["kind"] == kind.name())
    }

    /// Its name in manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hpa => "HorizontalPodAutoscaler",
            Self::Vpa => "VerticalPodAutoscaler",
            Self::ScaledObject => "ScaledObject",
        }
    }

    /// The workload that an object of this kind scales, from its namespace and specification.
    ///
    /// # Errors
    /// Names the field, its value and its range.
    pub fn workload(self, namespace: Option<&str>, spec: &Value) -> Result<WorkloadId, String> {
        let field = if self == Self::Vpa { "targetRef" } else { "scaleTargetRef" };
        let target = &spec[field];
        let name = text(target, "name").ok_or_else(|| format!("spec.{field}.name is missing"))?;
        let kind = match text(target, "kind").unwrap_or("Deployment") {
            "Deployment" => WorkloadKind::Deployment,
            "StatefulSet" => WorkloadKind::StatefulSet,
            other => return Err(format!("spec.{field}.kind = {other}, must be Deployment or StatefulSet")),
        };
        let label = |text: &str| Name::new(text).map_err(|error| error.to_string());
        Ok(WorkloadId { kind, name: FunctionId::new(label(namespace.unwrap_or(FunctionId::DEFAULT_NAMESPACE))?, label(name)?) })
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

/// The autoscalers of one workload.
#[derive(Debug, Default)]
struct Autoscalers {
    from: Vec<String>,
    replicas: Option<Range<Replicas>>,
    cpu: Option<Range<Millicores>>,
    memory: Option<Range<Mebibytes>>,
    horizontal: Option<&'static str>,
    vertical: bool,
    params: Map<String, Value>,
    notes: Vec<String>,
}

impl Autoscalers {
    fn add(&mut self, object: &Value, kind: AutoscalerKind) -> Result<(), String> {
        let spec = &object["spec"];
        for (annotation, value) in object["metadata"]["annotations"].as_object().into_iter().flatten() {
            if ANNOTATIONS.iter().any(|beginning| annotation.starts_with(beginning)) {
                self.note_ignored(annotation, value);
            }
        }
        match kind {
            AutoscalerKind::Hpa => self.add_hpa(spec),
            AutoscalerKind::ScaledObject => self.add_scaled_object(spec),
            AutoscalerKind::Vpa => self.add_vpa(spec),
        }
    }

    fn add_hpa(&mut self, spec: &Value) -> Result<(), String> {
        self.horizontal = Some("hpa");
        self.add_replicas(spec, ("minReplicas", 1), ("maxReplicas", None))?;
        let metrics = spec["metrics"].as_array().map_or(&[][..], Vec::as_slice);
        let is_cpu = |metric: &&Value| text(metric, "type") == Some("Resource") && text(&metric["resource"], "name") == Some("cpu");
        let cpu = metrics.iter().find(is_cpu).map(|metric| &metric["resource"]["target"]);
        let utilization = cpu.filter(|target| text(target, "type") == Some("Utilization")).map(|target| &target["averageUtilization"]);
        let utilization = spec["targetCPUUtilizationPercentage"].as_u64().or(utilization.and_then(Value::as_u64));
        if let Some(target) = utilization {
            self.params.insert("cpu_utilization".to_owned(), json!(target));
        }
        let default = format!("the agent has one of {DEFAULT_CPU_TARGET} % of the CPU request");
        match (utilization, cpu) {
            (Some(DEFAULT_CPU_TARGET), _) => {}
            (Some(target), _) => self.notes.push(format!("its CPU target is {target} %; start the agent with cpu_utilization = {target}")),
            (None, Some(target)) => {
                let of = text(target, "type").unwrap_or("?");
                self.notes.push(format!("its CPU target of type {of} is not imported; {default}"));
            }
            (None, None) if !metrics.is_empty() => self.notes.push(format!("it has no CPU target; {default}")),
            (None, None) => {}
        }
        for metric in metrics.iter().filter(|metric| !is_cpu(metric)) {
            self.notes.push(format!("its metric of type {} is not imported", text(metric, "type").unwrap_or("?")));
        }
        if !spec["behavior"].is_null() {
            self.params.insert("behavior".to_owned(), behavior(&spec["behavior"]));
            self.notes.push(format!("it has a behavior; start the agent with behavior = {}", self.params["behavior"]));
        }
        self.note_other_fields(
            "",
            spec,
            &["scaleTargetRef", "minReplicas", "maxReplicas", "metrics", "targetCPUUtilizationPercentage", "behavior"],
        );
        Ok(())
    }

    fn add_scaled_object(&mut self, spec: &Value) -> Result<(), String> {
        self.horizontal = Some("keda");
        self.add_replicas(spec, ("minReplicaCount", 0), ("maxReplicaCount", Some(DEFAULT_MAX_REPLICAS)))?;
        for trigger in spec["triggers"].as_array().into_iter().flatten() {
            self.notes.push(format!("its trigger {} is not imported", text(trigger, "type").unwrap_or("?")));
        }
        for (field, parameter, unit) in KEDA_PARAMETERS {
            if let Some(value) = spec[field].as_u64() {
                self.params.insert(parameter.to_owned(), if unit.is_empty() { json!(value) } else { json!(format!("{value}{unit}")) });
                self.notes.push(format!("its {field} is {value}; start the agent with {parameter} = {value}{unit}"));
            }
        }
        let mut known = vec!["scaleTargetRef", "minReplicaCount", "maxReplicaCount", "triggers"];
        known.extend(KEDA_PARAMETERS.map(|(field, ..)| field).iter().filter(|field| spec[**field].is_u64()));
        self.note_other_fields("", spec, &known);
        Ok(())
    }

    fn add_vpa(&mut self, spec: &Value) -> Result<(), String> {
        self.vertical = true;
        let (update, resources) = (&spec["updatePolicy"], &spec["resourcePolicy"]);
        match text(update, "updateMode") {
            Some("Off") => self.notes.push("its updateMode is Off; leave the mode at recommend, which changes nothing either".to_owned()),
            Some("Initial") => self.note_ignored("updatePolicy.updateMode", &update["updateMode"]),
            _ => {}
        }
        self.note_other_fields("updatePolicy.", update, &["updateMode"]);
        self.note_other_fields("resourcePolicy.", resources, &["containerPolicies"]);
        self.note_other_fields("", spec, &["targetRef", "updatePolicy", "resourcePolicy"]);
        let containers = resources["containerPolicies"].as_array().map_or(&[][..], Vec::as_slice);
        if let [first, others @ ..] = containers {
            self.add_sizes(first)?;
            self.note_other_fields("containerPolicies.", first, &["containerName", "minAllowed", "maxAllowed"]);
            for bound in ["minAllowed", "maxAllowed"] {
                self.note_other_fields(&format!("{bound}."), &first[bound], &["cpu", "memory"]);
            }
            if !others.is_empty() {
                let container = text(first, "containerName").unwrap_or("*");
                self.notes.push(format!("only the bounds of container {container} are imported"));
            }
        }
        Ok(())
    }

    /// Notes the fields of `object` that are not `known`; `place` precedes them.
    fn note_other_fields(&mut self, place: &str, object: &Value, known: &[&str]) {
        for (field, value) in object.as_object().into_iter().flatten().filter(|(field, _)| !known.contains(&field.as_str())) {
            self.note_ignored(&format!("{place}{field}"), value);
        }
    }

    fn note_ignored(&mut self, field: &str, value: &Value) {
        match value {
            Value::Null => {}
            Value::Object(_) | Value::Array(_) => self.notes.push(format!("its {field} is not imported")),
            _ => self.notes.push(format!("its {field} = {value} is not imported")),
        }
    }

    fn add_replicas(&mut self, spec: &Value, min: (&str, u64), max: (&str, Option<u64>)) -> Result<(), String> {
        let number = |field: &str, default: Option<u64>, least: u32| {
            let value = if spec[field].is_null() { default } else { spec[field].as_u64() };
            let value = value.ok_or_else(|| format!("spec.{field} = {}, must be a number of replicas", spec[field]))?;
            let place = format!("spec.{field}");
            check_number(&place, value, u64::from(least), u64::from(Replicas::MAX.0)).map_err(|error| error.to_string())?;
            u32::try_from(value).map(Replicas).map_err(|error| error.to_string())
        };
        let (least, most) = (number(min.0, Some(min.1), 0)?, number(max.0, max.1, 1)?);
        self.replicas = Some(Range::new(least, most)?);
        Ok(())
    }

    fn add_sizes(&mut self, policy: &Value) -> Result<(), String> {
        let cores = |bound: &str| amount(policy, bound, "cpu", f64::from(Millicores::MAX.0) / 1000.0);
        let bytes = |bound: &str| amount(policy, bound, "memory", f64::from(Mebibytes::MAX.0) * BYTES_PER_MIB);
        let defaults = Bounds::default();
        let (least, most) = (cores("minAllowed")?, cores("maxAllowed")?);
        if least.or(most).is_some() {
            let millicores = |cores: f64| Millicores(((cores * 1000.0).round() as u32).max(1));
            self.cpu = Some(range(least.map(millicores), most.map(millicores), defaults.cpu_millicores)?);
        }
        let (least, most) = (bytes("minAllowed")?, bytes("maxAllowed")?);
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
        let params = if agent == "hpa-vpa" { json!({ "hpa": self.params }) } else { Value::Object(self.params) };
        ImportedPolicy { policy, params, from: self.from, notes }
    }
}

/// The field `behavior` of a HorizontalPodAutoscaler as a parameter of the agents `hpa` and `hpa-behavior`. A field that is absent there is absent here.
fn behavior(behavior: &Value) -> Value {
    let seconds = |value: &Value| value.as_u64().map(|seconds| json!(format!("{seconds}s")));
    let word = |value: &Value| value.as_str().map(|text| json!(text.to_ascii_lowercase()));
    let fields = |fields: Vec<(&str, Option<Value>)>| -> Value {
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect::<Map<_, _>>().into()
    };
    let limit = |policy: &Value| {
        let value = policy["value"].as_u64().map(|value| json!(value));
        fields(vec![("kind", word(&policy["type"])), ("value", value), ("period", seconds(&policy["periodSeconds"]))])
    };
    let rules = |name: &str| {
        let rules = &behavior[name];
        rules.is_object().then(|| {
            fields(vec![
                ("stabilization_window", seconds(&rules["stabilizationWindowSeconds"])),
                ("select_policy", word(&rules["selectPolicy"])),
                ("policies", rules["policies"].as_array().map(|policies| policies.iter().map(limit).collect())),
            ])
        })
    };
    fields(vec![("scale_up", rules("scaleUp")), ("scale_down", rules("scaleDown"))])
}

/// The quantity of `resource` in `bound` of a container policy, a number or text, in cores or bytes; `None` for 0, which is no bound.
fn amount(policy: &Value, bound: &str, resource: &str, most: f64) -> Result<Option<f64>, String> {
    let value = &policy[bound][resource];
    let text = match value {
        Value::Null => return Ok(None),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let place = format!("{bound}.{resource} = {value}");
    match quantity::usage(&text) {
        None => Err(format!("{place}, must be a quantity of at least 0, such as 250m or 64Mi")),
        Some(amount) if amount > most => Err(format!("{place}, must be at most {most}; lower it, or remove it for no bound")),
        Some(amount) => Ok(Some(amount).filter(|amount| *amount > 0.0)),
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
        let [ImportedPolicy { policy, params, from, notes }] = imported.as_slice() else { panic!("{imported:?}") };
        assert_eq!(policy.function().to_string(), "prod/fib");
        assert_eq!(*params, json!({ "hpa": { "cpu_utilization": 60 } }));
        assert_eq!((policy.agent.as_str(), policy.workload.kind), ("hpa-vpa", WorkloadKind::Deployment));
        assert_eq!((policy.bounds.replicas.min(), policy.bounds.replicas.max()), (Replicas(2), Replicas(7)));
        assert_eq!((policy.bounds.cpu_millicores.min(), policy.bounds.cpu_millicores.max()), (Millicores(50), Millicores(2000)));
        assert_eq!((policy.bounds.memory_mib.min(), policy.bounds.memory_mib.max()), (Mebibytes(64), Mebibytes(1024)));
        assert_eq!(*from, ["HorizontalPodAutoscaler prod/old", "VerticalPodAutoscaler prod/old"]);
        assert!(notes.len() == 2 && notes[0].contains("60 %") && notes[1].contains("External"), "{notes:?}");
    }

    #[test]
    fn a_target_may_leave_its_kind_out_and_must_be_one_that_is_scaled() {
        let target = |target: Value| AutoscalerKind::ScaledObject.workload(Some("shop"), &json!({ "scaleTargetRef": target }));
        let deployment = target(json!({ "name": "fib" })).expect("a Deployment");
        assert_eq!((deployment.kind, deployment.name.to_string()), (WorkloadKind::Deployment, "shop/fib".to_owned()));
        let set = target(json!({ "kind": "StatefulSet", "name": "fib" }));
        assert_eq!(set.map(|workload| workload.kind), Ok(WorkloadKind::StatefulSet));
        for wrong in [json!({ "kind": "Rollout", "name": "fib" }), json!({ "name": 7 }), json!({ "name": "Fib" }), json!("fib")] {
            assert!(target(wrong.clone()).is_err(), "{wrong}");
        }
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

    /// Notes on an object, without those about absent bounds.
    fn notes(kind: &str, spec: Value) -> Vec<String> {
        let mut imported = import(&[autoscaler(kind, spec)]).expect("valid");
        let notes = imported.remove(0).notes;
        notes.into_iter().filter(|note| !note.starts_with("bounds.")).collect()
    }

    #[test]
    fn each_field_that_is_not_imported_is_noted() {
        let metric = |target: Value| json!([{ "type": "Resource", "resource": { "name": "cpu", "target": target } }]);
        let hpa =
            |metrics: Value| json!({ "scaleTargetRef": target("fib"), "maxReplicas": 7, "metrics": metrics, "behavior": {}, "new": 1 });
        let others = ["it has a behavior; start the agent with behavior = {}", "its new = 1 is not imported"];
        let value = json!({ "type": "AverageValue", "averageValue": "500m", "averageUtilization": 60 });
        let target_of = |text: &str| format!("{text}; the agent has one of 80 % of the CPU request");
        let found = notes("HorizontalPodAutoscaler", hpa(metric(value)));
        assert_eq!(found, [&target_of("its CPU target of type AverageValue is not imported"), others[0], others[1]]);
        let found = notes("HorizontalPodAutoscaler", hpa(json!([{ "type": "Pods" }])));
        assert_eq!(found, [&target_of("it has no CPU target"), "its metric of type Pods is not imported", others[0], others[1]]);
        let keda = json!({ "scaleTargetRef": target("fib"), "idleReplicaCount": 0, "cooldownPeriod": 60, "fallback": { "replicas": 3 } });
        let expected = [
            "its cooldownPeriod is 60; start the agent with cooldown_period = 60s",
            "its idleReplicaCount is 0; start the agent with idle_replicas = 0",
            "its fallback is not imported",
        ];
        assert_eq!(notes("ScaledObject", keda), expected);
        let container = json!({ "controlledResources": ["cpu"], "mode": "Off", "minAllowed": { "gpu": 1 } });
        let vpa = json!({ "targetRef": target("fib"), "updatePolicy": { "updateMode": "Off", "minReplicas": 2 }, "recommenders": [],
            "resourcePolicy": { "containerPolicies": [container] } });
        let expected = [
            "its updateMode is Off; leave the mode at recommend, which changes nothing either",
            "its updatePolicy.minReplicas = 2 is not imported",
            "its recommenders is not imported",
            "its containerPolicies.controlledResources is not imported",
            "its containerPolicies.mode = \"Off\" is not imported",
            "its minAllowed.gpu = 1 is not imported",
        ];
        assert_eq!(notes("VerticalPodAutoscaler", vpa), expected);
        let mut paused = autoscaler("ScaledObject", json!({ "scaleTargetRef": target("fib") }));
        paused["metadata"]["annotations"] = json!({ "autoscaling.keda.sh/paused": "true", "owner": "shop" });
        let imported = import(&[paused]).expect("valid");
        assert_eq!(imported[0].notes[0], "its autoscaling.keda.sh/paused = \"true\" is not imported");
        assert!(!imported[0].notes.iter().any(|note| note.contains("owner")));
    }

    #[test]
    fn fields_with_the_meaning_of_parameters_become_parameters() {
        let down = json!({ "stabilizationWindowSeconds": 60, "selectPolicy": "Min", "policies": [{ "type": "Percent", "value": 50, "periodSeconds": 30 }] });
        let spec = json!({ "scaleTargetRef": target("fib"), "maxReplicas": 7, "targetCPUUtilizationPercentage": 40, "behavior": { "scaleDown": down } });
        let imported = import(&[autoscaler("HorizontalPodAutoscaler", spec)]).expect("valid");
        let rules = json!({ "stabilization_window": "60s", "select_policy": "min", "policies": [{ "kind": "percent", "value": 50, "period": "30s" }] });
        assert_eq!(imported[0].params, json!({ "cpu_utilization": 40, "behavior": { "scale_down": rules } }));
        let spec = json!({ "scaleTargetRef": { "name": "fib" }, "cooldownPeriod": 60, "idleReplicaCount": 0 });
        let imported = import(&[autoscaler("ScaledObject", spec)]).expect("valid");
        assert_eq!(imported[0].params, json!({ "cooldown_period": "60s", "idle_replicas": 0 }));
    }

    #[test]
    fn bounds_are_read_alike_as_numbers_and_as_text() {
        let read = |bound: &str, resource: &str, value: &Value| {
            let allowed = json!({ "containerPolicies": [{ bound: { resource: value } }] });
            let imported = import(&[autoscaler("VerticalPodAutoscaler", json!({ "targetRef": target("fib"), "resourcePolicy": allowed }))]);
            imported.map(|mut imported| imported.remove(0).policy.bounds).map_err(|error| error.to_string())
        };
        for (number, text) in [(json!(0), "0"), (json!(0.5), "500m"), (json!(2), "2"), (json!(1024), "1024")] {
            let expected = read("maxAllowed", "cpu", &number).expect("valid");
            assert_eq!(read("maxAllowed", "cpu", &json!(text)), Ok(expected), "{text}");
            assert_eq!(expected == Bounds::default(), text == "0", "0 is no bound");
        }
        for value in [json!(-1), json!("-1"), json!(1e30), json!("1e30"), json!("1E"), json!(1024.1), json!(true), json!([])] {
            for (bound, resource) in [("minAllowed", "cpu"), ("maxAllowed", "cpu"), ("minAllowed", "memory")] {
                if resource == "memory" && value == json!(1024.1) {
                    continue;
                }
                let error = read(bound, resource, &value).expect_err("outside the range");
                assert!(error.contains(&format!("{bound}.{resource} = {value}, must be ")), "{error}");
            }
        }
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
            (json!({ "scaleTargetRef": target("fib"), "maxReplicas": 0 }), "spec.maxReplicas = 0, must be 1 to 1000000"),
            (json!({ "scaleTargetRef": target("fib"), "maxReplicas": 4_000_000_000_u32 }), "spec.maxReplicas = 4000000000, must be"),
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
