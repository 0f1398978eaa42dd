//! The custom resource `ScalingPolicy`. Owns its schema, derived from the ScalingPolicy of the contract, its status and its conversion; must not send anything.

#![allow(clippy::duplicated_attributes, reason = "the columns of the resource have the same attributes")]

use std::borrow::Cow;
use std::collections::BTreeMap;

use kube::{CustomResource, CustomResourceExt as _};
use qscale_common::name::FunctionId;
use qscale_common::policy::{ScalingPolicy, WorkloadKind};
use qscale_common::runtime::kubernetes::function_id;
use qscale_common::runtime::kubernetes::sizing::{ContainerResources, Size, Sizing};
use qscale_common::units::Allocation;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Fields of a ScalingPolicy that an object has elsewhere, or not at all.
const NOT_IN_SPEC: [&str; 4] = ["name", "namespace", "version", "mirrored"];
/// Kind of a workload whose object does not name one.
const DEFAULT_KIND: &str = "deployment";
/// Durations such as `1m 30s`.
const DURATION_PATTERN: &str = "^([0-9]+ ?[a-z]+ ?)+$";

/// Specification of the object: a ScalingPolicy without its name. Kept as it was written, so that one that is invalid, or of a later version, does not prevent
/// that others are read.
#[derive(Debug, Clone, CustomResource, Serialize, Deserialize)]
#[kube(
    group = "qscale.dev",
    version = "v1alpha1",
    kind = "ScalingPolicy",
    root = "PolicyObject",
    doc = "Objective, limits and agent of one workload: how many replicas it has, and how much CPU and memory each of them.",
    namespaced,
    status = "PolicyStatus",
    shortname = "scp",
    category = "qscale",
    printcolumn(name = "Target", type_ = "string", json_path = ".status.target"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Agent", type_ = "string", json_path = ".spec.agent"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Acting", type_ = "string", json_path = ".status.conditions[?(@.type==\"Acting\")].status"),
    printcolumn(name = "Allocation", type_ = "string", json_path = ".status.allocation.text"),
    printcolumn(name = "Recommended", type_ = "string", json_path = ".status.recommendation.text"),
    printcolumn(name = "Saving", type_ = "string", json_path = ".status.estimatedSaving"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.decision.reason", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(transparent)]
pub struct PolicySpec(Value);

/// State of the policy, written by the leading actuator.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyStatus {
    /// Generation of the specification that the status describes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Scaled object, as `kind/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Allocation that the workload has been given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocation: Option<AllocationStatus>,
    /// Allocation that the guard allowed last, whether or not it was applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommendation: Option<AllocationStatus>,
    /// Share of the present cost that the recommendation saves, by the prices of the policy, such as `25 %`; negative if it costs more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_saving: Option<String>,
    /// The last decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionStatus>,
    /// The last measurements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
    /// Decided size, which pods get at their admission while the mode is active. The pod template stays as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_size: Option<PodSize>,
    /// Ready, Acting, Fallback, Stale, NoLatencySource, Conflict, ResizePending and ReplicasPending.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<PolicyCondition>,
}

/// An allocation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AllocationStatus {
    /// Number of replicas.
    #[schemars(extend("format" = "int64"))]
    pub replicas: u32,
    /// CPU of each replica.
    pub cpu: String,
    /// Memory of each replica.
    pub memory: String,
    /// The allocation in one line.
    pub text: String,
}

impl From<Allocation> for AllocationStatus {
    fn from(allocation: Allocation) -> Self {
        let (cpu, memory) = (allocation.cpu_millicores.to_string(), allocation.memory_mib.to_string());
        Self { replicas: allocation.replicas.0, cpu, memory, text: allocation.to_string() }
    }
}

/// Size of the container that is scaled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSize {
    /// Name of the container.
    pub container: String,
    /// Requests, by resource.
    pub requests: BTreeMap<String, String>,
    /// Limits, by resource; without those that the template does not have.
    pub limits: BTreeMap<String, String>,
}

impl PodSize {
    /// Requests and limits at `size`.
    #[must_use]
    pub fn of(sizing: &Sizing, size: Size) -> Self {
        let ContainerResources { requests, limits } = sizing.resources(size);
        Self { container: sizing.container().to_owned(), requests, limits }
    }
}

/// A decision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DecisionStatus {
    /// Time of the decision, RFC 3339.
    pub at: String,
    /// Agent that decided, or the rule of the fallback.
    pub agent: String,
    /// Result: applied, changed, unchanged, held, recorded, refused or failed.
    pub effect: String,
    /// Reason of the agent, and of the guard where it changed or held the decision.
    pub reason: String,
}

/// Measurements of the last tick. Those that were not taken are absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Measured {
    /// Time of the measurements, RFC 3339.
    pub at: String,
    /// Replicas that accept requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int64"))]
    pub ready_replicas: Option<u32>,
    /// Requests/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<String>,
    /// CPU of one replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Memory of one replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

/// A condition, as the conventions of the Kubernetes API define it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyCondition {
    /// Name of the condition.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// Reason, one word.
    pub reason: String,
    /// Reason, for people.
    pub message: String,
    /// Time since which the status is the present one, RFC 3339.
    pub last_transition_time: String,
    /// Generation of the specification that the condition describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl PolicyObject {
    /// The function that the object is the policy of; `None` if its name or namespace is not a DNS label.
    #[must_use]
    pub fn function(&self) -> Option<FunctionId> {
        function_id(&self.metadata)
    }

    /// The definition of the resource, as YAML.
    ///
    /// # Panics
    /// Never: it is JSON.
    #[must_use]
    pub fn definition() -> String {
        let text = serde_saphyr::to_string(&Self::crd()).expect("a definition holds only what JSON can write");
        format!("# Generated by `make schemas`.\n{text}")
    }

    /// The ScalingPolicy that other services read.
    ///
    /// # Errors
    /// Names the field, its value and its range.
    pub fn policy(&self) -> Result<ScalingPolicy, String> {
        let function = self.function().ok_or("name and namespace must be DNS labels")?;
        let Value::Object(mut fields) = self.spec.0.clone() else { return Err("spec must be an object".into()) };
        if let Some(field) = NOT_IN_SPEC.iter().find(|field| fields.contains_key(**field)) {
            return Err(format!("unknown key `{field}`"));
        }
        fields.insert("name".into(), function.name.as_str().into());
        fields.insert("namespace".into(), function.namespace.as_str().into());
        if let Value::Object(workload) = fields.entry("workload").or_insert_with(|| json!({})) {
            workload.entry("kind").or_insert_with(|| DEFAULT_KIND.into());
        }
        let policy = ScalingPolicy::from_value(Value::Object(fields)).map_err(|error| error.to_string())?;
        if policy.workload.kind == WorkloadKind::Local {
            return Err("field `workload.kind`: `local` is not a kind of Kubernetes".into());
        }
        Ok(ScalingPolicy { mirrored: true, ..policy })
    }
}

impl JsonSchema for PolicySpec {
    fn schema_name() -> Cow<'static, str> {
        "ScalingPolicySpec".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = ScalingPolicy::json_schema(generator).to_value();
        if let Some(object) = schema.as_object_mut() {
            object.remove("required");
            if let Some(Value::Object(properties)) = object.get_mut("properties") {
                NOT_IN_SPEC.iter().for_each(|field| drop(properties.remove(*field)));
            }
        }
        adapt(&mut schema);
        Schema::try_from(schema).unwrap_or_default()
    }
}

/// Makes a JSON Schema, its subschemas and its defaults a structural one, as the API server requires it, with rules for what it cannot express.
fn adapt(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(adapt),
        Value::Object(schema) => {
            if schema.get("kind") == Some(&json!("local")) {
                schema.insert("kind".into(), DEFAULT_KIND.into());
            }
            if schema.get("default") == Some(&json!("local")) {
                schema.insert("default".into(), DEFAULT_KIND.into());
            }
            schema.remove("title");
            unwrap_optional(schema);
            name_variants(schema);
            add_rules(schema);
            schema.values_mut().for_each(adapt);
        }
        _ => {}
    }
}

/// Replaces `anyOf` of a schema and `null` by the schema: an absent field is enough.
fn unwrap_optional(schema: &mut Map<String, Value>) {
    let Some(Value::Array(alternatives)) = schema.get("anyOf") else { return };
    let given: Vec<_> = alternatives.iter().filter(|schema| schema.get("type") != Some(&json!("null"))).cloned().collect();
    if let [Value::Object(only)] = given.as_slice() {
        schema.remove("anyOf");
        for (key, value) in only {
            schema.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// Replaces `oneOf` of constants by `enum`, with their descriptions in that of the field.
fn name_variants(schema: &mut Map<String, Value>) {
    let Some(Value::Array(variants)) = schema.get("oneOf") else { return };
    let variants: Vec<_> = variants.iter().filter(|variant| variant.get("const") != Some(&json!("local"))).cloned().collect();
    let text = |variant: &Value, key: &str| variant.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (names, descriptions): (Vec<_>, Vec<_>) =
        variants.iter().map(|variant| (text(variant, "const"), text(variant, "description"))).unzip();
    let listed = names.iter().zip(descriptions).map(|(name, description)| format!(" {name}: {description}")).collect::<String>();
    let description = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let description = format!("{description}{listed}");
    schema.remove("oneOf");
    schema.insert("description".into(), description.into());
    schema.insert("enum".into(), names.into());
    schema.insert("type".into(), "string".into());
}

/// Adds the format of durations, rules between fields, and formats that the API server knows.
fn add_rules(schema: &mut Map<String, Value>) {
    if schema.get("format") == Some(&json!("uint32")) {
        schema.insert("format".into(), "int64".into());
        schema.insert("maximum".into(), u32::MAX.into());
    } else if schema.get("format") == Some(&json!("uint16")) {
        schema.insert("format".into(), "int32".into());
    }
    if let Some(limit) = schema.remove("exclusiveMaximum") {
        let message = format!("must be less than {limit}");
        let rule = format!("self < {:?}", limit.as_f64().unwrap_or_default());
        schema.insert("x-kubernetes-validations".into(), json!([{ "rule": rule, "message": message }]));
    }
    if let Some(Value::Array(examples)) = schema.remove("examples")
        && examples.contains(&json!("5s"))
    {
        schema.insert("pattern".into(), DURATION_PATTERN.into());
    }
    let Some(Value::Object(properties)) = schema.get("properties") else { return };
    let has = |names: &[&str]| names.len() == properties.len() && names.iter().all(|name| properties.contains_key(*name));
    let rules = if has(&["min", "max"]) {
        json!([{ "rule": "self.min <= self.max", "message": "min must be at most max" }])
    } else if has(&["replicas", "cpu_millicores", "memory_mib"]) {
        json!([
            { "rule": "!has(self.replicas) || self.replicas.max >= 1", "message": "replicas.max must be at least 1" },
            { "rule": "!has(self.cpu_millicores) || self.cpu_millicores.min >= 1", "message": "cpu_millicores.min must be at least 1" },
            { "rule": "!has(self.memory_mib) || self.memory_mib.min >= 1", "message": "memory_mib.min must be at least 1" },
        ])
    } else {
        return;
    };
    schema.insert("x-kubernetes-validations".into(), rules);
}

#[cfg(test)]
mod tests {
    use qscale_common::policy::{Mode, Range};
    use qscale_common::units::Replicas;

    use super::*;

    fn object(spec: Value) -> PolicyObject {
        let mut object = PolicyObject::new("fib", PolicySpec(spec));
        object.metadata.namespace = Some("prod".into());
        object
    }

    #[test]
    fn an_object_is_the_policy_of_the_deployment_of_its_name() {
        let policy = object(json!({ "mode": "active", "bounds": { "replicas": { "min": 2, "max": 5 } } })).policy().expect("valid");
        let mut expected = ScalingPolicy::new("prod/fib".parse().expect("a name"));
        expected.workload.kind = WorkloadKind::Deployment;
        expected.mode = Mode::Active;
        expected.bounds.replicas = Range::new(Replicas(2), Replicas(5)).expect("valid");
        expected.mirrored = true;
        assert_eq!(policy, expected);
    }

    #[test]
    fn the_published_definition_is_the_generated_one() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/cluster/chart/files/scaling-policies.yaml");
        assert!(std::fs::read_to_string(path).expect("readable") == PolicyObject::definition(), "`make schemas` writes it");
        assert!(!PolicyObject::definition().contains("uint"), "the API server warns of formats that it does not know");
    }

    #[test]
    fn an_invalid_object_is_refused_with_field_and_value() {
        for (spec, part) in [
            (json!({ "objective": { "percentile": 100 } }), "objective.percentile"),
            (json!({ "workload": { "kind": "local" } }), "workload.kind"),
            (json!({ "name": "other" }), "`name`"),
            (json!({ "mirrored": false }), "`mirrored`"),
            (json!({ "colour": 1 }), "`colour`"),
            (json!([]), "spec"),
        ] {
            let error = object(spec).policy().expect_err("invalid");
            assert!(error.contains(part), "{error}");
        }
        assert!(PolicyObject::new("Fib_1", PolicySpec(json!({}))).policy().is_err());
    }
}
