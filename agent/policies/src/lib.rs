//! Policies: rules that map a State to an allocation. Owns the rules and the list of them; does no I/O, reads no clock
//! and draws no random numbers of its own.
//!
//! A policy proposes and never enforces: it stays within the State's bounds, but the guard in the actuator has the last word.

pub mod autopilot;
pub mod clairvoyant;
pub mod fixed;
pub mod history;
pub mod holt_winters;
pub mod hpa;
pub mod hpa_vpa;
mod inputs;
pub mod keda;
pub mod keep_alive;
pub mod kpa;
mod memory;
pub mod openfaas;
mod parameters;
pub mod peak;
pub mod phpa_linear;
mod policy;
mod registry;
pub mod sizing;
pub mod target_tracking;
pub mod threshold;
pub mod vpa;

pub use clairvoyant::{Clairvoyant, ClairvoyantParams, Forecast};
pub use fixed::Fixed;
pub use history::History;
pub use inputs::{answered_rps, measured, ready_in};
pub use memory::Memory;
pub use parameters::{Parameter, of as parameters_of};
pub use policy::{Decision, HoldReason, Policy, Timing};
pub use registry::{PolicyError, Rule, RuleEntry, by_name, describe, read};
pub use sizing::Scope;
pub use threshold::Threshold;

use registry::rule;

/// Every rule. A new one needs a module and a line here.
pub const RULES: [RuleEntry; 22] = [
    rule::<threshold::Threshold>("threshold", "replicas: one more above 250m CPU or 256 MiB memory a replica, else one less"),
    rule::<threshold::Threshold>("threshold-vertical", "the same thresholds for CPU and memory of each replica"),
    rule::<threshold::Threshold>("threshold-both", "the same thresholds for replicas, CPU and memory; the default fallback"),
    rule::<peak::Peak>("peak", "replicas for the highest demand of the last 15 minutes, with a margin"),
    rule::<peak::Peak>("peak-vertical", "the same by CPU and memory of each replica"),
    rule::<peak::Peak>("peak-both", "the same by replicas, CPU and memory"),
    rule::<autopilot::Autopilot>("autopilot", "replicas by a percentile of past CPU use in a decaying window, with a margin"),
    rule::<autopilot::Autopilot>("autopilot-vertical", "the same by CPU and memory of each replica"),
    rule::<autopilot::Autopilot>("autopilot-both", "the same by replicas, CPU and memory"),
    rule::<target_tracking::TargetTracking>(
        "target-tracking",
        "cloud providers' target tracking on CPU, with the capacity of the same hour before",
    ),
    rule::<fixed::Fixed>("static", "a fixed allocation, or the current one"),
    rule::<hpa::Hpa>("hpa", "Kubernetes Horizontal Pod Autoscaler v2"),
    rule::<hpa::Hpa>("hpa-behavior", "the same with the `behavior` field: rate limits and stabilization windows"),
    rule::<kpa::Kpa>("kpa", "Knative Pod Autoscaler: stable and panic windows, scale to zero"),
    rule::<vpa::Vpa>("vpa", "Kubernetes Vertical Pod Autoscaler: percentiles of decaying histograms"),
    rule::<hpa_vpa::HpaVpa>("hpa-vpa", "HPA on CPU and VPA on memory together"),
    rule::<keda::Keda>("keda", "KEDA: activation from zero, then HPA on concurrency or rate"),
    rule::<holt_winters::HoltWinters>("holt-winters", "predictive HPA: Holt-Winters forecast of the replicas that HPA asks for"),
    rule::<phpa_linear::PhpaLinear>("phpa-linear", "predictive HPA: linear forecast of the replicas that HPA asks for"),
    rule::<keep_alive::KeepAliveFixed>("keep-alive-fixed", "keeps replicas for a fixed time after their last use"),
    rule::<keep_alive::KeepAliveHistogram>(
        "keep-alive-histogram",
        "hybrid histogram: unloads and preloads by the distribution of idle times",
    ),
    rule::<openfaas::OpenFaas>("openfaas", "OpenFaaS community edition: steps while a request rate alert fires"),
];

/// Names of all rules, in the order of [`RULES`].
pub const NAMES: [&str; RULES.len()] = {
    let (mut names, mut index) = ([""; RULES.len()], 0);
    while index < RULES.len() {
        names[index] = RULES[index].name;
        index += 1;
    }
    names
};

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod property_tests;
