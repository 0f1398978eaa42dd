//! The autoscaler that acts on a workload today, and the limits of its workload. Owns how a manifest or a ScalingPolicy describes them; reads no files.

use std::collections::BTreeMap;

use qscale_common::document::{self, Format};
use qscale_common::name::FunctionId;
use qscale_common::policy::import::{self, ImportedPolicy};
use qscale_common::policy::{Bounds, Guardrails, Objective, Prices, Range, ScalingPolicy};
use qscale_common::time::TickLength;
use qscale_common::units::{Mebibytes, Millicores, Replicas};
use serde_json::{Map, Value, json};

use crate::history::{HistoryMetric, WorkloadHistory};
use crate::replay::ReplicaSize;

/// Name of the competitor that repeats the recorded allocations.
pub const RECORDED: &str = "recorded";

/// A policy with parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct ActingPolicy {
    /// Name of the policy, or [`RECORDED`].
    pub policy: String,
    /// Its parameters.
    pub params: Value,
    /// Limits on its changes; those of no autoscaler if it is not one of Qscale.
    pub guard: Guardrails,
}

/// Autoscalers and limits of workloads, from their objects.
#[derive(Debug, Clone, Default)]
pub struct ActingPolicies {
    found: BTreeMap<FunctionId, Described>,
}

#[derive(Debug, Clone)]
struct Described {
    policy: ScalingPolicy,
    params: Value,
    /// Whether it is one of Qscale, so that it has an objective, a guard and all bounds.
    own: bool,
    notes: Vec<String>,
}

/// Limits of the workload, for all policies that are compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CommonLimits {
    /// Objective where a workload has none of its own.
    pub objective: Objective,
    /// Control interval of Qscale.
    pub tick: TickLength,
    /// Whether CPU and memory of a replica stay as they are.
    pub keep_size: bool,
}

impl ActingPolicies {
    /// Adds the objects of `text`: ScalingPolicies, HorizontalPodAutoscalers, VerticalPodAutoscalers and ScaledObjects.
    ///
    /// # Errors
    /// When it has none of them, or one is malformed.
    pub fn add(&mut self, text: &str, format: Format) -> anyhow::Result<()> {
        let mut documents = Vec::new();
        for section in document::sections(text, format) {
            documents.push(document::parse_value(section.text, format)?);
        }
        let (objects, policies): (Vec<Value>, Vec<Value>) = documents.into_iter().partition(|document| document.get("kind").is_some());
        for document in policies {
            let policy = ScalingPolicy::from_value(document)?;
            self.insert(Described { policy, params: json!({}), own: true, notes: Vec::new() });
        }
        // A ScalingPolicy object of a cluster has the fields of the file in its `spec`.
        let (own, others): (Vec<Value>, Vec<Value>) = objects.into_iter().partition(|object| object["kind"] == "ScalingPolicy");
        for object in own {
            let mut fields = object["spec"].as_object().cloned().unwrap_or_default();
            for field in ["name", "namespace"] {
                if let Some(value) = object["metadata"].get(field) {
                    fields.insert(field.to_owned(), value.clone());
                }
            }
            let policy = ScalingPolicy::from_value(Value::Object(fields))?;
            self.insert(Described { policy, params: json!({}), own: true, notes: Vec::new() });
        }
        if !others.is_empty() {
            for ImportedPolicy { policy, params, notes, .. } in import::import(&others)? {
                self.insert(Described { policy, params, own: false, notes });
            }
        }
        Ok(())
    }

    fn insert(&mut self, described: Described) {
        let function = FunctionId::new(described.policy.namespace.clone(), described.policy.workload_name().clone());
        self.found.insert(function, described);
    }

    /// The workloads that are described.
    pub fn workloads(&self) -> impl Iterator<Item = &FunctionId> {
        self.found.keys()
    }

    /// Objective of `workload`: its own, or that of all.
    #[must_use]
    pub fn objective(&self, workload: &FunctionId, common: Objective) -> Objective {
        self.found.get(workload).filter(|found| found.own).map_or(common, |found| found.policy.objective)
    }

    /// The autoscaler of the workload of `history` and the ScalingPolicy under which others are compared with it; `otherwise` acts where no object says
    /// anything. Adds what it assumes.
    #[must_use]
    pub fn of(
        &self,
        history: &WorkloadHistory,
        otherwise: &ActingPolicy,
        limits: &CommonLimits,
        size: ReplicaSize,
        assumptions: &mut Vec<String>,
    ) -> (ActingPolicy, ScalingPolicy) {
        let found = self.found.get(&history.workload);
        let mut policy = ScalingPolicy::new(history.workload.clone());
        policy.objective = self.objective(&history.workload, limits.objective);
        policy.tick = limits.tick;
        let own = found.filter(|found| found.own).map(|found| &found.policy);
        policy.bounds =
            own.map_or_else(|| bounds(history, found.map(|found| found.policy.bounds.replicas), size, assumptions), |own| own.bounds);
        policy.prices = own.map_or_else(Prices::default, |own| own.prices.clone());
        policy.guard = own.map_or_else(Guardrails::default, |own| own.guard);
        if limits.keep_size {
            let fixed = "a range of one value";
            policy.bounds.cpu_millicores = Range::new(size.cpu, size.cpu).expect(fixed);
            policy.bounds.memory_mib = Range::new(size.memory, size.memory).expect(fixed);
        }
        let acting = match found {
            None => otherwise.clone(),
            Some(found) => {
                assumptions.extend(found.notes.iter().filter(|note| is_about_the_rule(note)).cloned());
                ActingPolicy {
                    policy: found.policy.agent.to_string(),
                    params: of_use(&found.params, size),
                    guard: if found.own { found.policy.guard } else { Guardrails::permissive() },
                }
            }
        };
        (acting, policy)
    }
}

/// Whether a note of an import is about behaviour that the simulated rule lacks.
fn is_about_the_rule(note: &str) -> bool {
    note.contains("not imported")
}

/// `params` with CPU targets, which are shares of the request, as shares of the CPU that a replica may use.
fn of_use(params: &Value, size: ReplicaSize) -> Value {
    let scaled = |value: &Value| {
        let target = value.as_f64()? * size.request_share;
        Some(json!(target.round().clamp(1.0, 1000.0) as u32))
    };
    let fields: Map<String, Value> = params
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| {
            let value = match name.as_str() {
                "cpu_utilization" => scaled(value).unwrap_or_else(|| value.clone()),
                "hpa" => of_use(value, size),
                _ => value.clone(),
            };
            (name.clone(), value)
        })
        .collect();
    Value::Object(fields)
}

/// Bounds of a workload without a ScalingPolicy: replicas of its autoscaler, or up to twice the most that were seen; a quarter to twice of the CPU of a
/// replica, and memory from a fifth above its use on.
fn bounds(history: &WorkloadHistory, given: Option<Range<Replicas>>, size: ReplicaSize, assumptions: &mut Vec<String>) -> Bounds {
    let seen = history.largest(HistoryMetric::Replicas).unwrap_or(1.0).ceil() as u32;
    let least = u32::from(!history.values(HistoryMetric::Replicas).any(|replicas| replicas < 0.5));
    let replicas = given.unwrap_or_else(|| {
        let most = (seen.saturating_mul(2)).clamp(10, Replicas::MAX.0);
        assumptions.push(format!("every policy may use {least} to {most} replicas: no object bounds them"));
        Range::new(Replicas(least), Replicas(most)).expect("the most is at least 10")
    });
    let cpu = (Millicores((size.cpu.0 / 4).max(10)), Millicores(size.cpu.0.saturating_mul(2).clamp(10, Millicores::MAX.0)));
    let used = history.largest(HistoryMetric::MemoryMib).unwrap_or(f64::from(size.memory.0) / 2.0);
    let least = Mebibytes(((used * 1.2).ceil() as u32).clamp(1, Mebibytes::MAX.0));
    let most = Mebibytes(size.memory.0.saturating_mul(2).clamp(least.0, Mebibytes::MAX.0));
    Bounds {
        replicas,
        cpu_millicores: Range::new(cpu.0, cpu.1).expect("a quarter is below twice"),
        memory_mib: Range::new(least, most).expect("clamped"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use qscale_common::time::Timestamp;

    use super::*;

    const SIZE: ReplicaSize = ReplicaSize { cpu: Millicores(1000), memory: Mebibytes(256), request_share: 0.25 };

    fn limits() -> CommonLimits {
        CommonLimits { objective: Objective::default(), tick: TickLength::default(), keep_size: false }
    }

    fn history(workload: &str) -> WorkloadHistory {
        let mut history = WorkloadHistory::empty(workload.parse().expect("valid"), Timestamp(0), Duration::from_secs(60), 2);
        history.steps[1].set(HistoryMetric::Replicas, 7.0);
        history.steps[1].set(HistoryMetric::MemoryMib, 100.0);
        history
    }

    fn recorded() -> ActingPolicy {
        ActingPolicy { policy: RECORDED.to_owned(), params: json!({}), guard: Guardrails::permissive() }
    }

    #[test]
    fn an_hpa_acts_by_its_target_of_the_request() {
        let text = "kind: HorizontalPodAutoscaler\nmetadata: {name: a, namespace: shop}\nspec:\n  scaleTargetRef: {kind: Deployment, name: cart}\n  \
                    maxReplicas: 9\n  metrics:\n  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 60}}}\n  \
                    - {type: External}\n";
        let mut acting = ActingPolicies::default();
        acting.add(text, Format::Yaml).expect("valid");
        let mut assumptions = Vec::new();
        let (hpa, policy) = acting.of(&history("shop/cart"), &recorded(), &limits(), SIZE, &mut assumptions);
        assert_eq!((hpa.policy.as_str(), &hpa.params), ("hpa", &json!({ "cpu_utilization": 15 })));
        assert_eq!((policy.bounds.replicas.min(), policy.bounds.replicas.max()), (Replicas(1), Replicas(9)));
        assert!(assumptions.len() == 1 && assumptions[0].contains("External"), "{assumptions:?}");
        let (other, policy) = acting.of(&history("shop/other"), &recorded(), &limits(), SIZE, &mut assumptions);
        assert_eq!(
            (other.policy.as_str(), policy.bounds.replicas.max(), policy.bounds.memory_mib.min()),
            (RECORDED, Replicas(14), Mebibytes(120))
        );
    }

    #[test]
    fn a_scaling_policy_gives_everything() {
        let text = "name: fib\nagent: threshold-both\nobjective: {percentile: 99, latency: 100ms}\nbounds: {replicas: {min: 2, max: 4}, \
                    cpu_millicores: {min: 100, max: 500}, memory_mib: {min: 64, max: 128}}\n";
        let object = format!("kind: ScalingPolicy\nmetadata: {{name: object, namespace: shop}}\nspec: {}", "{agent: kpa}");
        let mut acting = ActingPolicies::default();
        acting.add(&format!("{text}---\n{object}"), Format::Yaml).expect("valid");
        let mut assumptions = Vec::new();
        let keep = CommonLimits { keep_size: true, ..limits() };
        let (threshold, policy) = acting.of(&history("fib"), &recorded(), &keep, SIZE, &mut assumptions);
        assert_eq!(
            (threshold.policy.as_str(), policy.objective.percentile.get(), policy.bounds.replicas.max()),
            ("threshold-both", 99.0, Replicas(4))
        );
        assert_eq!((policy.bounds.cpu_millicores.min(), policy.bounds.cpu_millicores.max()), (Millicores(1000), Millicores(1000)));
        assert_eq!(acting.of(&history("shop/object"), &recorded(), &limits(), SIZE, &mut assumptions).0.policy, "kpa");
        assert!(acting.add("kind: Pod\n", Format::Yaml).is_err());
        assert!(acting.add("name: fib\nspeed: 3\n", Format::Yaml).is_err());
    }
}
