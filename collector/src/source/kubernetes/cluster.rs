//! The state of the source between readings. Owns connections and what is counted across readings.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, Resource};
use qscale_common::runtime::kubernetes::{apis, configuration};
use qscale_common::scrape::Scrape;

use super::super::{ObservedWorkloads, SourceError};
use super::cache::{Cache, Cached};
use super::endpoints::Endpoints;
use super::kubelet::{KubeletAddress, Kubelets};
use super::metrics_api::MetricsApi;
use super::workloads::{Objects, StartUps};
use super::{KubernetesConfig, UsageSource};
use crate::reading::{Dropped, Reading};

/// A cluster that is read.
pub struct Cluster {
    config: KubernetesConfig,
    opened: Option<Opened>,
    start_ups: StartUps,
    endpoints: Endpoints,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("config", &self.config).finish_non_exhaustive()
    }
}

struct Opened {
    deployments: Vec<Cache<Deployment>>,
    stateful_sets: Vec<Cache<StatefulSet>>,
    pods: Vec<Cache<Pod>>,
    nodes: Cache<Node>,
    /// Read instead of the kubelets.
    metrics_api: Option<MetricsApi>,
    kubelets: Kubelets,
    /// Connections to kubelets by address.
    connections: HashMap<String, Client>,
    /// Whether a node, or metrics.k8s.io, could not be read the last time.
    incomplete: bool,
}

impl Cluster {
    pub(in super::super) fn new(config: &KubernetesConfig) -> Self {
        Self { config: config.clone(), opened: None, start_ups: StartUps::default(), endpoints: Endpoints::new(config) }
    }

    async fn open(&self) -> anyhow::Result<Opened> {
        let found = configuration(self.config.kubeconfig.as_deref(), self.config.context.as_deref()).await?;
        let client = Client::try_from(found.clone())?;
        let metrics_api =
            matches!(self.config.usage, UsageSource::MetricsApi).then(|| MetricsApi::new(client.clone(), &self.config.namespaces));
        Ok(Opened {
            deployments: self.follow(&client),
            stateful_sets: self.follow(&client),
            pods: self.follow(&client),
            nodes: Cache::follow(Api::all(client), without_writers),
            metrics_api,
            kubelets: Kubelets::new(found, &self.config),
            connections: HashMap::new(),
            incomplete: false,
        })
    }

    /// Follows the objects of a kind in the configured namespaces.
    fn follow<K: Cached + Resource<Scope = NamespaceResourceScope>>(&self, client: &Client) -> Vec<Cache<K>> {
        apis(client, &self.config.namespaces).into_iter().map(|api| Cache::follow(api, without_writers)).collect()
    }

    pub(in super::super) async fn read(&mut self, observed: &ObservedWorkloads) -> Result<Reading, SourceError> {
        if self.opened.is_none() {
            let opened = self.open().await.map_err(|error| SourceError::Connection(format!("{error:#}")))?;
            self.opened = Some(opened);
        }
        let Some(opened) = &mut self.opened else { return Err(SourceError::Timeout) };
        let mut objects = Objects::default();
        objects.add(&opened.deployments, |objects| &mut objects.deployments)?;
        objects.add(&opened.stateful_sets, |objects| &mut objects.stateful_sets)?;
        objects.add(&opened.pods, |objects| &mut objects.pods)?;
        objects.add(std::slice::from_ref(&opened.nodes), |objects| &mut objects.nodes)?;
        let limit = self.config.timeout.0;
        let usage = opened.usage(&objects, self.config.concurrency as usize, limit);
        let (mut usage, requests) = tokio::join!(usage, self.endpoints.read(&objects.pods, observed, limit));
        requests.into_iter().for_each(|reading| usage.add_others(reading));
        Ok(objects.reading(usage, &mut self.start_ups))
    }
}

impl Opened {
    /// CPU and memory of the pods of all nodes, as the kubelets show them. A node that cannot be read is left out, so that its pods are not measured.
    async fn usage(&mut self, objects: &Objects, concurrency: usize, limit: Duration) -> Usage {
        if let Some(api) = &mut self.metrics_api {
            let mut usage = Usage::default();
            let read = tokio::time::timeout(limit, api.read()).await.unwrap_or(Err(SourceError::Timeout));
            let failed = read.as_ref().err().cloned();
            read.into_iter().for_each(|reading| usage.add_others(reading));
            self.report(usize::from(failed.is_some()), 1, failed);
            return usage;
        }
        let kubelets = &self.kubelets;
        let (mut connections, mut read) = (HashMap::new(), Vec::new());
        for KubeletAddress { url, path } in objects.nodes.iter().filter_map(|node| kubelets.address(node)) {
            let Some(client) = self.connections.remove(&url).or_else(|| kubelets.connect(&url)) else { continue };
            read.push((client.clone(), path));
            connections.insert(url, client);
        }
        self.connections = connections;
        let (nodes, mut missing, mut reason) = (objects.nodes.len(), objects.nodes.len(), None);
        let mut usage = Usage::default();
        {
            let readings = stream::iter(read).map(async |(client, path)| kubelets.read(&client, &path).await);
            let mut readings = pin!(readings.buffer_unordered(concurrency).take_until(tokio::time::sleep(limit)));
            while let Some(reading) = readings.next().await {
                match reading {
                    Ok(reading) => {
                        missing -= 1;
                        usage.add(reading);
                    }
                    Err(error) => reason = Some(error),
                }
            }
        }
        self.report(missing, nodes, reason);
        usage
    }

    /// Logs that some nodes, or metrics.k8s.io, cannot be read, or that all can, when that changes.
    fn report(&mut self, missing: usize, nodes: usize, reason: Option<SourceError>) {
        match (std::mem::replace(&mut self.incomplete, missing > 0), missing > 0) {
            (false, true) => {
                let error = reason.unwrap_or(SourceError::Timeout);
                tracing::warn!(missing, of = nodes, %error, "CPU and memory cannot be read; those of the pods concerned are absent");
            }
            (true, false) => tracing::info!("CPU and memory of all pods are read"),
            _ => {}
        }
    }
}

/// Measurements of pods.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// Measurements by kubelets, by `namespace/pod`.
    pub pods: HashMap<String, Scrape>,
    /// Measurements by others, by `namespace/pod`.
    pub others: HashMap<String, Vec<Scrape>>,
    pub samples: u64,
    pub malformed: u64,
    pub dropped: Dropped,
}

impl Usage {
    fn add(&mut self, reading: Reading) {
        let pods = self.count(reading);
        self.pods.extend(pods);
    }

    fn add_others(&mut self, reading: Reading) {
        for (pod, scrape) in self.count(reading) {
            self.others.entry(pod).or_default().push(scrape);
        }
    }

    /// Counts the samples of a reading, and returns its measurements.
    fn count(&mut self, reading: Reading) -> Vec<(String, Scrape)> {
        self.samples += reading.samples;
        self.malformed += reading.malformed;
        self.dropped.extend(reading.dropped);
        reading.unowned
    }
}

/// Leaves out who wrote which field, the largest part of most objects.
fn without_writers<K: kube::ResourceExt>(object: &mut K) {
    object.managed_fields_mut().clear();
}
