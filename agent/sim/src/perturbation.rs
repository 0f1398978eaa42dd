//! Perturbations: disturbances of a simulated world. Owns the only list of them: fields, ranges, effects over time and
//! the distribution for training (for rarely called functions that of `agent/train/src/world.rs`).
//!
//! To add one: a field with its default in [`Perturbation`], its range in [`Perturbation::check`], and its effect. An
//! effect on what requests and starts ask for belongs into [`Perturbation::scale_at`]; any other is a `PerturbationEvent`, or a
//! number that [`crate::simulation`] reads. A suite lists it by the field's name.

use std::time::Duration;

use qscale_common::time::Span;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::nanos::Nanos;
use crate::node::Nodes;
use crate::profile::ProfileScale;

/// Disturbances of a world; none by default.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Perturbation {
    /// Age of measurements when they are read, up to 1 h. The current allocation and the readiness of replicas come
    /// from the platform and are never late.
    pub metric_lag: Span,
    /// Share of the scrapes that are lost, 0 to 1.
    pub lost_scrapes: f64,
    /// Factor of the duration of starts, 0 to 1,000.
    pub startup: f64,
    /// A change of the requests' CPU time from some instant on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Payload>,
    /// Crashes of each running replica, times an hour, 0 to 3,600.
    pub crashes_per_hour: f64,
    /// A node that fails for a while; needs a world with nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_node: Option<LostNode>,
    /// Neighbours on the host that slow the function down for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noisy_neighbour: Option<NoisyNeighbour>,
}

/// A change of the requests' CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payload {
    /// Begin, since the start of the world.
    pub from: Span,
    /// Factor of the CPU time, 0 to 1,000.
    pub factor: f64,
}

/// A node that fails with every replica on it, and returns empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LostNode {
    /// Time of the failure, since the start of the world.
    pub at: Span,
    /// Duration of the failure.
    pub lasts: Span,
    /// Number of the node, counted from 0. The first replica of a world is placed on node 0.
    #[serde(default)]
    pub node: u32,
}

/// Contention for caches, memory bandwidth and hardware threads of the host: the same work takes more CPU time, as the
/// quota and CPU counters see it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoisyNeighbour {
    /// Begin, since the start of the world.
    pub at: Span,
    /// Duration.
    pub lasts: Span,
    /// Factor of the requests' CPU time, 0 to 1,000; measured values are 1.1 to 2.
    pub factor: f64,
}

impl NoisyNeighbour {
    fn end(&self) -> Span {
        Span(self.at.0.saturating_add(self.lasts.0))
    }
}

/// A change of the world at an instant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum PerturbationEvent {
    /// [`Perturbation::scale_at`] gives another result from now on.
    Scale,
    /// The node of this number fails.
    NodeLost(u32),
    /// The node of this number returns.
    NodeReturned(u32),
}

/// Why a perturbation is invalid.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum InvalidPerturbation {
    /// A number outside its range.
    #[error("{field} = {value}, must be from 0 to {most}")]
    Range {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: f64,
        /// The greatest value allowed.
        most: f64,
    },
    /// A span that is too long.
    #[error("{field} = {value}, must be at most {most}")]
    TooLong {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: Span,
        /// The longest span allowed.
        most: Span,
    },
    /// The lost node does not exist.
    #[error("lost_node.node = {node}, but there are {nodes} nodes, counted from 0: give the world more nodes, or lose another one")]
    NoSuchNode {
        /// Number of the node.
        node: u32,
        /// Number of nodes in the world.
        nodes: u32,
    },
    /// A node is lost in a world without limited nodes.
    #[error("lost_node is set, but nodes are unlimited: set the number and size of nodes")]
    NoNodes,
}

impl Default for Perturbation {
    /// No disturbance.
    fn default() -> Self {
        Self {
            metric_lag: Span::millis(0),
            lost_scrapes: 0.0,
            startup: 1.0,
            payload: None,
            crashes_per_hour: 0.0,
            lost_node: None,
            noisy_neighbour: None,
        }
    }
}

impl Perturbation {
    /// Longest metric lag.
    const MAX_LAG: Span = Span::seconds(3600);

    /// Checks the ranges of all fields, for a world with `nodes`.
    ///
    /// # Errors
    /// A number outside its range, or a lost node that does not exist.
    pub fn check(&self, nodes: Option<&Nodes>) -> Result<(), InvalidPerturbation> {
        if self.metric_lag > Self::MAX_LAG {
            return Err(InvalidPerturbation::TooLong { field: "metric_lag", value: self.metric_lag, most: Self::MAX_LAG });
        }
        let payload = self.payload.map_or(1.0, |payload| payload.factor);
        let noisy = self.noisy_neighbour.map_or(1.0, |noisy| noisy.factor);
        for (field, value, most) in [
            ("lost_scrapes", self.lost_scrapes, 1.0),
            ("startup", self.startup, 1e3),
            ("payload.factor", payload, 1e3),
            ("noisy_neighbour.factor", noisy, 1e3),
            ("crashes_per_hour", self.crashes_per_hour, 3600.0),
        ] {
            if !(0.0..=most).contains(&value) {
                return Err(InvalidPerturbation::Range { field, value, most });
            }
        }
        match (self.lost_node, nodes) {
            (Some(_), None) => Err(InvalidPerturbation::NoNodes),
            (Some(LostNode { node, .. }), Some(nodes)) if node >= nodes.count => {
                Err(InvalidPerturbation::NoSuchNode { node, nodes: nodes.count })
            }
            _ => Ok(()),
        }
    }

    /// Demands of requests and starts at `now` since the start of the world, relative to the profile.
    #[must_use]
    pub fn scale_at(&self, now: Nanos) -> ProfileScale {
        let payload = self.payload.filter(|payload| Nanos::from(payload.from.0) <= now);
        let noisy = self.noisy_neighbour.filter(|noisy| (Nanos::from(noisy.at.0)..noisy.end().0.into()).contains(&now));
        let cpu = payload.map_or(1.0, |payload| payload.factor) * noisy.map_or(1.0, |noisy| noisy.factor);
        ProfileScale { cpu, startup: self.startup }
    }

    /// Instants since the start of the world at which a disturbance begins; time to recover is measured from there.
    pub fn onsets(&self) -> impl Iterator<Item = Span> {
        let onsets =
            [self.payload.map(|payload| payload.from), self.lost_node.map(|lost| lost.at), self.noisy_neighbour.map(|noisy| noisy.at)];
        onsets.into_iter().flatten()
    }

    /// Everything that happens at an instant, in order of time.
    pub(crate) fn events(&self) -> Vec<(Nanos, PerturbationEvent)> {
        let mut events = Vec::new();
        if let Some(payload) = self.payload {
            events.push((payload.from.0.into(), PerturbationEvent::Scale));
        }
        if let Some(LostNode { at, lasts, node }) = self.lost_node {
            events.push((at.0.into(), PerturbationEvent::NodeLost(node)));
            events.push((at.0.saturating_add(lasts.0).into(), PerturbationEvent::NodeReturned(node)));
        }
        if let Some(noisy) = self.noisy_neighbour {
            events.push((noisy.at.0.into(), PerturbationEvent::Scale));
            events.push((noisy.end().0.into(), PerturbationEvent::Scale));
        }
        events.sort_by_key(|(at, _)| *at);
        events
    }

    /// A random perturbation for training, in a world of `length` without nodes. Neighbours are never noisy in training.
    #[must_use]
    pub fn draw(rng: &mut impl Rng, length: Duration) -> Self {
        let mut drawn = Self::default();
        if rng.random_bool(0.5) {
            drawn.metric_lag = Span::seconds(rng.random_range(1..=58));
        }
        if rng.random_bool(0.3) {
            drawn.lost_scrapes = rng.random_range(0.01..0.35);
        }
        if rng.random_bool(0.3) {
            drawn.startup = rng.random_range(1.0..4.0);
        }
        if rng.random_bool(0.2) {
            let from = Span(length.mul_f64(rng.random_range(0.1..0.9)));
            drawn.payload = Some(Payload { from, factor: log_uniform(rng, 0.5, 2.5) });
        }
        if rng.random_bool(0.1) {
            drawn.crashes_per_hour = log_uniform(rng, 0.5, 20.0);
        }
        drawn
    }
}

/// A number between `least` and `most` whose logarithm is uniform.
fn log_uniform(rng: &mut impl Rng, least: f64, most: f64) -> f64 {
    rng.random_range(least.ln()..most.ln()).exp()
}

#[cfg(test)]
mod tests {
    use qscale_common::units::{Mebibytes, Millicores};

    use super::*;

    #[track_caller]
    fn refused(text: &str, nodes: Option<&Nodes>) -> InvalidPerturbation {
        let perturbation: Perturbation = serde_json::from_str(text).expect("reads");
        perturbation.check(nodes).expect_err("refused")
    }

    #[test]
    fn nothing_is_perturbed_by_default() {
        assert_eq!(serde_json::from_str::<Perturbation>("{}").expect("reads"), Perturbation::default());
        assert!(serde_json::from_str::<Perturbation>(r#"{"lost_nodes": 1}"#).is_err());
        let text = r#"{"metric_lag": "30s", "payload": {"from": "10m", "factor": 2}, "lost_node": {"at": "5m", "lasts": "1m"}}"#;
        let perturbation: Perturbation = serde_json::from_str(text).expect("reads");
        assert_eq!(perturbation.lost_node, Some(LostNode { at: Span::seconds(300), lasts: Span::seconds(60), node: 0 }));
        let again = serde_json::to_string(&perturbation).expect("writes");
        assert_eq!(serde_json::from_str::<Perturbation>(&again).expect("reads"), perturbation);
    }

    #[test]
    fn refuses_values_outside_their_ranges() {
        let nodes = Nodes { count: 2, cpu_millicores: Millicores(4000), memory_mib: Mebibytes(4096), cpu_overcommit: 1.0 };
        let range = |field, value, most| InvalidPerturbation::Range { field, value, most };
        assert_eq!(refused(r#"{"lost_scrapes": 1.5}"#, None), range("lost_scrapes", 1.5, 1.0));
        assert_eq!(refused(r#"{"crashes_per_hour": -1}"#, None), range("crashes_per_hour", -1.0, 3600.0));
        assert!(matches!(refused(r#"{"metric_lag": "2h"}"#, None), InvalidPerturbation::TooLong { field: "metric_lag", .. }));
        assert_eq!(refused(r#"{"lost_node": {"at": "1s", "lasts": "1s"}}"#, None), InvalidPerturbation::NoNodes);
        let lost = r#"{"lost_node": {"at": "1s", "lasts": "1s", "node": 2}}"#;
        assert_eq!(refused(lost, Some(&nodes)), InvalidPerturbation::NoSuchNode { node: 2, nodes: 2 });
        assert!(Perturbation { lost_scrapes: f64::NAN, ..Perturbation::default() }.check(None).is_err());
    }

    #[test]
    fn events_are_in_order_of_time() {
        let payload = Some(Payload { from: Span::seconds(40), factor: 2.0 });
        let lost_node = Some(LostNode { at: Span::seconds(10), lasts: Span::seconds(60), node: 1 });
        let perturbation = Perturbation { payload, lost_node, ..Perturbation::default() };
        let at = |seconds: u64| Nanos::millis(seconds * 1000);
        assert_eq!(
            perturbation.events(),
            [(at(10), PerturbationEvent::NodeLost(1)), (at(40), PerturbationEvent::Scale), (at(70), PerturbationEvent::NodeReturned(1))]
        );
        assert_eq!([39, 40].map(|seconds| perturbation.scale_at(at(seconds)).cpu), [1.0, 2.0]);
    }
}
