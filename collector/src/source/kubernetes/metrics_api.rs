//! CPU and memory of pods from the resource metrics API (metrics.k8s.io), for clusters whose kubelets cannot be read. Owns the requests, and the counters that
//! the API does not have: it shows the mean use of CPU over a window, some 15 s ago.

use std::collections::{BTreeMap, HashMap};

use http::Request;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::ObjectMeta;
use qscale_common::hash::fnv1a;
use qscale_common::name::Name;
use qscale_common::quantity;
use qscale_common::scrape::{CpuCounters, Parts, Scrape};
use qscale_common::time::Timestamp;
use serde::Deserialize;

use super::super::SourceError;
use super::sweep::Sweep;
use super::{KubernetesConfig, milliseconds};
use crate::metric::{Impossible, Metric, ReplicaMetric};
use crate::reading::Reading;

/// Cores that one container can use.
const CORES: std::ops::RangeInclusive<f64> = 0.0..=8192.0;

/// Reads the resource metrics API.
pub(super) struct MetricsApi {
    client: Client,
    /// Paths of the lists, one for each namespace.
    paths: Vec<String>,
    totals: Totals,
    sweep: Sweep<PodMetricsList>,
}

/// Counters of CPU by container, written `namespace/pod/container`.
#[derive(Debug, Default)]
struct Totals(HashMap<String, Total>);

/// CPU time of a container since it was first read.
#[derive(Debug)]
struct Total {
    at: Timestamp,
    microseconds: f64,
}

#[derive(Debug, Deserialize)]
struct PodMetricsList {
    items: Vec<PodMetrics>,
}

/// Use of a pod.
#[derive(Debug, Deserialize)]
struct PodMetrics {
    metadata: ObjectMeta,
    /// End of the window.
    timestamp: Time,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Debug, Deserialize)]
struct ContainerMetrics {
    name: String,
    /// Quantities by resource.
    #[serde(default)]
    usage: BTreeMap<String, String>,
}

impl MetricsApi {
    pub(super) fn new(client: Client, config: &KubernetesConfig) -> Self {
        let of_namespace = |namespace: &Name| format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods", namespace.as_str());
        let paths = match &config.namespaces[..] {
            [] => vec!["/apis/metrics.k8s.io/v1beta1/pods".to_owned()],
            some => some.iter().map(of_namespace).collect(),
        };
        Self { client, paths, totals: Totals::default(), sweep: Sweep::new("metrics.k8s.io", config) }
    }

    /// Measurements of all pods. A namespace that cannot be read is left out.
    pub(super) async fn read(&mut self) -> Reading {
        let reads = self.paths.iter().map(|path| (path.clone(), list(self.client.clone(), path.clone())));
        let lists = self.sweep.read(reads).await;
        let complete = lists.len() == self.paths.len();
        self.totals.reading(lists.into_iter().flat_map(|list| list.items).collect(), complete)
    }
}

async fn list(client: Client, path: String) -> Result<PodMetricsList, SourceError> {
    let failed = |error: anyhow::Error| SourceError::Connection(format!("{error:#}"));
    let request = Request::get(path).body(Vec::new()).map_err(|error| failed(error.into()))?;
    client.request(request).await.map_err(|error| failed(error.into()))
}

impl Totals {
    /// Measurements of `pods`; the totals of others are kept unless these are all.
    fn reading(&mut self, pods: Vec<PodMetrics>, complete: bool) -> Reading {
        let mut reading = Reading { samples: pods.len() as u64, ..Reading::default() };
        let mut totals = HashMap::new();
        for pod in pods {
            let (Some(namespace), Some(name)) = (pod.metadata.namespace, pod.metadata.name) else { continue };
            let path = format!("{namespace}/{name}");
            let at = milliseconds(&pod.timestamp.0);
            let (mut counters, mut memory) = (Some(Vec::new()), Some(0.0));
            for container in &pod.containers {
                let key = format!("{path}/{}", container.name);
                let mut amount = |resource: &str, metric: ReplicaMetric, range: std::ops::RangeInclusive<f64>| {
                    let Some(number) = quantity::usage(container.usage.get(resource)?) else {
                        reading.malformed += 1;
                        return None;
                    };
                    if range.contains(&number) {
                        return Some(number);
                    }
                    reading.dropped.add(Metric::Replica(metric), || key.clone(), Impossible::Value { number, range });
                    None
                };
                let bytes = amount("memory", ReplicaMetric::WorkingSet, ReplicaMetric::WorkingSet.range());
                let cores = amount("cpu", ReplicaMetric::CpuSeconds, CORES);
                memory = memory.zip(bytes).map(|(sum, bytes)| sum + bytes);
                counters = counters.zip(cores).map(|(mut counters, cores)| {
                    let total = self.0.get(&key).map_or(Total { at, microseconds: 0.0 }, |last| last.until(at, cores));
                    let of = fnv1a(container.name.bytes());
                    counters.push(CpuCounters { usage_us: total.microseconds as u64, periods: None, of, started: None });
                    totals.insert(key, total);
                    counters
                });
            }
            let mut scrape = Scrape::new(name, at);
            scrape.working_set_bytes = memory.filter(|bytes| *bytes > 0.0).map(|bytes| bytes as u64);
            scrape.cpu = counters.filter(|counters| !counters.is_empty()).map(|mut counters| {
                counters.sort_by_key(|counter| counter.of);
                counters.into_iter().collect::<Parts<_>>()
            });
            reading.unowned.push((path, scrape));
        }
        if complete {
            self.0.clear();
        }
        self.0.extend(totals);
        reading
    }
}

impl Total {
    /// The total at a later reading, at which the mean use was `cores`.
    fn until(&self, at: Timestamp, cores: f64) -> Self {
        let passed_ms = at.0.saturating_sub(self.at.0);
        Self { at: self.at.max(at), microseconds: self.microseconds + cores * passed_ms as f64 * 1000.0 }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(totals: &mut Totals, seconds: u32, containers: serde_json::Value) -> Reading {
        let metadata = json!({ "name": "fib-1", "namespace": "default" });
        let timestamp = format!("2026-01-01T00:00:{seconds:02}Z");
        let pod = json!({ "metadata": metadata, "timestamp": timestamp, "window": "15s", "containers": containers });
        totals.reading(vec![serde_json::from_value(pod).expect("as the API shows it")], true)
    }

    #[test]
    fn means_over_windows_become_counters() {
        let mut totals = Totals::default();
        let containers = |cpu: &str, memory: &str| json!([{ "name": "f", "usage": { "cpu": cpu, "memory": memory } }, { "name": "proxy", "usage": { "cpu": "100m", "memory": "1Mi" } }]);
        let mut used = |seconds, cpu: &str, memory: &str| {
            let reading = read(&mut totals, seconds, containers(cpu, memory));
            let (path, scrape) = reading.unowned[0].clone();
            assert_eq!(path, "default/fib-1");
            (scrape.cpu.map(|cpu| cpu.usage_us()), scrape.working_set_bytes, reading.dropped.iter().count() as u64 + reading.malformed)
        };
        assert_eq!(used(0, "500m", "31Mi"), (Some(0), Some(32 << 20), 0));
        assert_eq!(used(15, "250000000n", "31Mi"), (Some(5_250_000), Some(32 << 20), 0));
        assert_eq!(used(15, "250000000n", "31Mi"), (Some(5_250_000), Some(32 << 20), 0), "the same window is read again");
        assert_eq!(used(20, "0", "31Mi"), (Some(5_750_000), Some(32 << 20), 0), "one of them was idle");
        assert_eq!(used(30, "9000", "31Mi"), (None, Some(32 << 20), 1));
        assert_eq!(used(45, "100m", "-5"), (Some(0), None, 1), "a counter that was lost begins again");
        assert_eq!(totals.reading(Vec::new(), false).unowned, []);
        assert_eq!(totals.0.len(), 2, "an answer that is late loses no counter");
        totals.reading(Vec::new(), true);
        assert!(totals.0.is_empty());
    }
}
