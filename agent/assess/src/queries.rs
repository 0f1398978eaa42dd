//! Queries of PromQL by which a Prometheus server gives histories. Owns the bundled presets, files of queries and placeholders; sends nothing.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use qscale_common::document::{self, Format};
use qscale_common::time::Span;
use serde::Deserialize;

use crate::history::HistoryMetric;

/// A bundled set of queries.
#[derive(Debug, Clone, Copy)]
pub struct QueryPreset {
    /// Its name.
    pub name: &'static str,
    /// Its text, TOML.
    pub text: &'static str,
}

/// All bundled presets, in the order in which they are tried.
pub const PRESETS: [QueryPreset; 5] = [
    QueryPreset { name: "qscale", text: include_str!("../presets/qscale.toml") },
    QueryPreset { name: "istio", text: include_str!("../presets/istio.toml") },
    QueryPreset { name: "linkerd", text: include_str!("../presets/linkerd.toml") },
    QueryPreset { name: "knative", text: include_str!("../presets/knative.toml") },
    QueryPreset { name: "nginx", text: include_str!("../presets/nginx.toml") },
];

/// Longest query, bytes.
const MAX_QUERY: usize = 16_384;

/// A query for each metric that a server can give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuerySet {
    /// Meaning of the names, in a phrase.
    pub description: String,
    queries: BTreeMap<HistoryMetric, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryFile {
    #[serde(default)]
    description: String,
    queries: BTreeMap<String, String>,
}

/// Values of the placeholders.
#[derive(Debug, Clone, Copy)]
pub struct QueryParameters<'a> {
    /// `$window`: length of a step.
    pub window: Span,
    /// `$percentile`: percentile of the objective, as a share.
    pub percentile: f64,
    /// `$namespaces`: regular expression of namespaces.
    pub namespaces: &'a str,
}

impl QuerySet {
    /// The preset `name`.
    ///
    /// # Errors
    /// An unknown name.
    pub fn preset(name: &str) -> anyhow::Result<Self> {
        let Some(preset) = PRESETS.iter().find(|preset| preset.name == name) else {
            bail!("preset `{name}`, must be one of {}", PRESETS.map(|preset| preset.name).join(", "))
        };
        Self::parse(preset.text, Format::Toml).with_context(|| format!("preset {name}"))
    }

    /// Reads a file of queries.
    ///
    /// # Errors
    /// Names the field: an unknown metric, an empty or too long query.
    pub fn parse(text: &str, format: Format) -> anyhow::Result<Self> {
        let file: QueryFile = document::parse(text, format)?;
        let mut queries = BTreeMap::new();
        for (name, query) in file.queries {
            let metric: HistoryMetric = name.parse().ok().with_context(|| {
                let known: Vec<_> = <HistoryMetric as strum::VariantArray>::VARIANTS.iter().map(|metric| metric.name()).collect();
                format!("queries.{name}: unknown metric, must be one of {}", known.join(", "))
            })?;
            let query = query.trim().to_owned();
            ensure!(!query.is_empty() && query.len() <= MAX_QUERY, "queries.{name}: must have 1 to {MAX_QUERY} bytes");
            queries.insert(metric, query);
        }
        Ok(Self { description: file.description, queries })
    }

    /// These queries, with those of `other` in place of their own.
    #[must_use]
    pub fn replaced_by(mut self, other: Self) -> Self {
        self.queries.extend(other.queries);
        self
    }

    /// The query for `metric`; `None` if there is none.
    #[must_use]
    pub fn query(&self, metric: HistoryMetric, parameters: &QueryParameters<'_>) -> Option<String> {
        let seconds = parameters.window.0.as_secs().max(1);
        let query = self.queries.get(&metric)?;
        // A backslash or quote would end the text of a matcher.
        let namespaces = parameters.namespaces.replace('\\', r"\\").replace('"', "\\\"");
        let query = query.replace("$window", &format!("{seconds}s")).replace("$percentile", &parameters.percentile.to_string());
        Some(query.replace("$namespaces", &namespaces))
    }
}

#[cfg(test)]
mod tests {
    use strum::VariantArray as _;

    use super::*;

    #[test]
    fn every_preset_has_what_is_required_and_no_placeholder_is_left() {
        let parameters = QueryParameters { window: Span::seconds(60), percentile: 0.95, namespaces: "shop|a\"b" };
        for preset in PRESETS {
            let set = QuerySet::preset(preset.name).expect("valid");
            assert!(!set.description.is_empty());
            for metric in HistoryMetric::VARIANTS {
                let query = set.query(*metric, &parameters);
                assert!(query.is_some() || !metric.is_required(), "{}: {metric}", preset.name);
                if let Some(query) = query {
                    let rest: Vec<_> = ["$window", "$percentile", "$namespaces"].into_iter().filter(|word| query.contains(word)).collect();
                    assert!(rest.is_empty() && query.matches('(').count() == query.matches(')').count(), "{}: {query}", preset.name);
                    assert!(query.contains("=~\"shop|a\\\"b\""), "{query}");
                }
            }
        }
    }

    #[test]
    fn a_file_replaces_single_queries() {
        let given = QuerySet::parse("[queries]\nreplicas = 'kube_replicas[$window]'\n", Format::Toml).expect("valid");
        let set = QuerySet::preset("istio").expect("bundled").replaced_by(given);
        let parameters = QueryParameters { window: Span::seconds(15), percentile: 0.5, namespaces: ".*" };
        assert_eq!(set.query(HistoryMetric::Replicas, &parameters).as_deref(), Some("kube_replicas[15s]"));
        assert!(set.query(HistoryMetric::ArrivalsRps, &parameters).expect("kept").contains("istio_"));
        let error = |text: &str| format!("{:#}", QuerySet::parse(text, Format::Toml).expect_err("refused"));
        assert!(error("[queries]\nspeed = 'x'\n").contains("queries.speed: unknown metric"));
        assert!(error("[queries]\nreplicas = ' '\n").contains("queries.replicas"));
        assert!(format!("{:#}", QuerySet::preset("none").expect_err("unknown")).contains("qscale, istio"));
    }
}
