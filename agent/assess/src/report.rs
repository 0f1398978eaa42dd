//! Totals of namespaces, and the table of an assessment as CSV. Owns the sums; the page is printed by its caller.

use std::collections::BTreeMap;

use qscale_common::name::Name;
use serde::Serialize;

use crate::assessment::{Assessment, PolicyEstimate, WorkloadAssessment};
use crate::csv_text::csv_text;
use crate::interval::EstimatedRange;

/// Name of the acting autoscalers in totals, which may differ between workloads.
pub const ACTING: &str = "acting";

/// Columns of the table.
const COLUMNS: [&str; 17] = [
    "namespace",
    "workload",
    "policy",
    "role",
    "cost_per_hour",
    "cost_low",
    "cost_high",
    "relative_cost",
    "relative_cost_low",
    "relative_cost_high",
    "violated_share",
    "violated_low",
    "violated_high",
    "changes_per_hour",
    "conclusion",
    "reproduced",
    "params",
];

/// One policy on all assessed workloads of a namespace.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NamespaceTotal {
    /// The policy, or [`ACTING`].
    pub policy: String,
    /// Sum of the costs an hour.
    pub cost_per_hour: EstimatedRange,
    /// Mean of the shares of violated steps.
    pub violated_share: EstimatedRange,
}

/// Totals of a namespace.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NamespaceTotals {
    /// The namespace.
    pub namespace: Name,
    /// Currency of the costs.
    pub currency: String,
    /// Assessed workloads.
    pub workloads: usize,
    /// Workloads whose measurements the simulator reproduces.
    pub reproduced: usize,
    /// Sum of the measured costs an hour; `None` if one is unknown.
    pub measured_cost_per_hour: Option<f64>,
    /// Mean of the measured shares of violated steps; `None` if one is unknown.
    pub measured_violated_share: Option<f64>,
    /// The acting autoscalers, then each policy that was estimated on every workload, the cheapest first.
    pub policies: Vec<NamespaceTotal>,
}

/// Totals of every namespace. Workloads with another currency than the first of their namespace are left out.
#[must_use]
pub fn totals(assessment: &Assessment) -> Vec<NamespaceTotals> {
    let mut namespaces: BTreeMap<&Name, Vec<&WorkloadAssessment>> = BTreeMap::new();
    for workload in &assessment.workloads {
        let all = namespaces.entry(&workload.workload.namespace).or_default();
        if all.first().is_none_or(|first| first.policy.prices.currency == workload.policy.prices.currency) {
            all.push(workload);
        }
    }
    namespaces.into_iter().map(|(namespace, workloads)| of_namespace(namespace, &workloads)).collect()
}

fn of_namespace(namespace: &Name, workloads: &[&WorkloadAssessment]) -> NamespaceTotals {
    let mean = |values: Option<Vec<f64>>| values.map(|values| values.iter().sum::<f64>() / values.len().max(1) as f64);
    let acting: Vec<&PolicyEstimate> = workloads.iter().map(|workload| &workload.acting_estimate).collect();
    let mut names: Vec<&str> = workloads.iter().flat_map(|workload| &workload.estimates).map(|estimate| estimate.policy.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut policies: Vec<NamespaceTotal> = names
        .into_iter()
        .filter_map(|name| {
            let of = |workload: &&WorkloadAssessment| workload.estimates.iter().find(|estimate| estimate.policy == name).cloned();
            let estimates: Vec<PolicyEstimate> = workloads.iter().map(of).collect::<Option<_>>()?;
            Some(total(name, &estimates.iter().collect::<Vec<_>>()))
        })
        .collect();
    policies.sort_by(|one, other| one.cost_per_hour.mean.total_cmp(&other.cost_per_hour.mean));
    policies.insert(0, total(ACTING, &acting));
    NamespaceTotals {
        namespace: namespace.clone(),
        currency: workloads.first().map_or_else(String::new, |first| first.policy.prices.currency.clone()),
        workloads: workloads.len(),
        reproduced: workloads.iter().filter(|workload| workload.reproduction.faults.is_empty()).count(),
        measured_cost_per_hour: workloads.iter().map(|workload| workload.reproduction.measured.cost_per_hour).sum(),
        measured_violated_share: mean(workloads.iter().map(|workload| workload.reproduction.measured.violated_share).collect()),
        policies,
    }
}

fn total(policy: &str, estimates: &[&PolicyEstimate]) -> NamespaceTotal {
    let all = |of: fn(&PolicyEstimate) -> EstimatedRange| estimates.iter().map(|estimate| of(estimate)).collect::<Vec<_>>();
    NamespaceTotal {
        policy: policy.to_owned(),
        cost_per_hour: EstimatedRange::sum(&all(|estimate| estimate.cost_per_hour)),
        violated_share: EstimatedRange::sum(&all(|estimate| estimate.violated_share)).times(1.0 / estimates.len().max(1) as f64),
    }
}

/// A row for each workload and policy: the measurements, the acting autoscaler, then the others.
#[must_use]
pub fn csv(assessment: &Assessment) -> String {
    let mut rows = Vec::new();
    for workload in &assessment.workloads {
        let name = &workload.workload;
        let row = |policy: &str, role: &str, rest: [String; 13]| {
            let first = [name.namespace.as_str(), name.name.as_str(), policy, role].map(str::to_owned);
            first.into_iter().chain(rest).collect::<Vec<_>>()
        };
        let measured = &workload.reproduction.measured;
        let mut values: [String; 13] = Default::default();
        for (place, value) in [(0, measured.cost_per_hour), (6, measured.violated_share)] {
            values[place] = value.map_or_else(String::new, |value| value.to_string());
        }
        rows.push(row(&workload.acting, "measured", values));
        let reproduced = workload.reproduction.faults.is_empty();
        let candidates = workload.estimates.iter().map(|estimate| ("candidate", estimate));
        for (role, estimate) in std::iter::once(("acting", &workload.acting_estimate)).chain(candidates) {
            let PolicyEstimate { cost_per_hour: cost, relative_cost: relative, violated_share: violated, .. } = estimate;
            let [a, b, c] = [cost, relative, violated].map(|range| [range.mean, range.low, range.high].map(|value| value.to_string()));
            let ([a0, a1, a2], [b0, b1, b2], [c0, c1, c2]) = (a, b, c);
            let (changes, conclusion) = (estimate.changes_per_hour.to_string(), estimate.conclusion.to_string());
            let rest = [a0, a1, a2, b0, b1, b2, c0, c1, c2, changes, conclusion, reproduced.to_string(), estimate.params.to_string()];
            rows.push(row(&estimate.policy, role, rest));
        }
    }
    csv_text(&COLUMNS, rows)
}
