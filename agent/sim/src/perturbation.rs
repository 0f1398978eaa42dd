//! What goes wrong in a world. Owns its figures and their ranges; must not do it.

use qscale_common::time::Span;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::node::Nodes;

/// What goes wrong in a world; the default is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Perturbation {
    /// How old measurements are when they are read. What the platform itself tells is not measured: what is in force, and which replicas are ready.
    pub metric_lag: Span,
    /// Share of the scrapes that are lost, 0 to 1.
    pub lost_scrapes: f64,
    /// How many times as long starts take, 0 to 1,000.
    pub startup: f64,
    /// Requests that compute longer from some time on.
    pub payload: Option<Payload>,
    /// How often a running replica ends by itself, times an hour, 0 to 3,600.
    pub crashes_per_hour: f64,
    /// A node that goes away for a while. There must be nodes.
    pub lost_node: Option<LostNode>,
}

/// A change of what requests carry.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payload {
    /// From when on, since the world began.
    pub from: Span,
    /// How many times as long requests compute, 0 to 1,000.
    pub factor: f64,
}

/// A node that goes away, with every replica on it, and comes back empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LostNode {
    /// When, since the world began.
    pub at: Span,
    /// For how long.
    pub lasts: Span,
    /// Which, counted from 0. The first replica of a world is placed on node 0.
    #[serde(default)]
    pub node: u32,
}

/// A perturbation that cannot be.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum InvalidPerturbation {
    /// A number outside its range.
    #[error("{field} = {value}, must be from 0 to {most}")]
    Range {
        /// Its name.
        field: &'static str,
        /// Its value.
        value: f64,
        /// The greatest value allowed.
        most: f64,
    },
    /// A node is lost that is not there.
    #[error("lost_node.node = {node}, but there are {nodes} nodes, counted from 0: give the world more nodes, or lose another one")]
    NoSuchNode {
        /// Its number.
        node: u32,
        /// How many there are.
        nodes: u32,
    },
    /// A node is lost where nodes are without limit.
    #[error("lost_node is set, but nodes are without limit: say how many nodes there are and how large they are")]
    NoNodes,
}

impl Default for Perturbation {
    /// Nothing.
    fn default() -> Self {
        Self { metric_lag: Span::millis(0), lost_scrapes: 0.0, startup: 1.0, payload: None, crashes_per_hour: 0.0, lost_node: None }
    }
}

impl Perturbation {
    /// Holds it against its ranges, in a world with `nodes`.
    ///
    /// # Errors
    /// A number outside its range, and a lost node that is not there.
    pub fn check(&self, nodes: Option<&Nodes>) -> Result<(), InvalidPerturbation> {
        let payload = self.payload.map_or(1.0, |payload| payload.factor);
        for (field, value, most) in [
            ("lost_scrapes", self.lost_scrapes, 1.0),
            ("startup", self.startup, 1e3),
            ("payload.factor", payload, 1e3),
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
}

#[cfg(test)]
mod tests {
    use qscale_common::units::{Mebibytes, Millicores};

    use super::*;

    #[track_caller]
    fn refused(text: &str, nodes: Option<&Nodes>, because: &str) {
        let perturbation: Perturbation = serde_json::from_str(text).expect("reads");
        let error = perturbation.check(nodes).expect_err("refused").to_string();
        assert!(error.contains(because), "{error}");
    }

    #[test]
    fn what_is_not_said_does_not_go_wrong() {
        assert_eq!(serde_json::from_str::<Perturbation>("{}").expect("reads"), Perturbation::default());
        assert!(serde_json::from_str::<Perturbation>(r#"{"lost_nodes": 1}"#).is_err());
        let text = r#"{"metric_lag": "30s", "payload": {"from": "10m", "factor": 2}, "lost_node": {"at": "5m", "lasts": "1m"}}"#;
        let perturbation: Perturbation = serde_json::from_str(text).expect("reads");
        assert_eq!(perturbation.lost_node, Some(LostNode { at: Span::seconds(300), lasts: Span::seconds(60), node: 0 }));
        let again = serde_json::to_string(&perturbation).expect("writes");
        assert_eq!(serde_json::from_str::<Perturbation>(&again).expect("reads"), perturbation);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_value() {
        let nodes = Nodes { count: 2, cpu_millicores: Millicores(4000), memory_mib: Mebibytes(4096), cpu_overcommit: 1.0 };
        refused(r#"{"lost_scrapes": 1.5}"#, None, "lost_scrapes = 1.5, must be from 0 to 1");
        refused(r#"{"crashes_per_hour": -1}"#, None, "crashes_per_hour = -1");
        refused(r#"{"lost_node": {"at": "1s", "lasts": "1s"}}"#, None, "nodes are without limit");
        refused(r#"{"lost_node": {"at": "1s", "lasts": "1s", "node": 2}}"#, Some(&nodes), "there are 2 nodes");
        assert!(Perturbation { lost_scrapes: f64::NAN, ..Perturbation::default() }.check(None).is_err());
    }
}
