//! The state of the source between readings. Owns connections and what is counted across readings.

use std::collections::HashMap;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client};
use qscale_common::runtime::kubernetes::cache::Cache;
use qscale_common::runtime::kubernetes::{configuration, knative};
use qscale_common::scrape::Scrape;

use super::super::{ObservedWorkloads, SourceError};
use super::endpoints::Endpoints;
use super::kubelet::Kubelets;
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
    usage: UsageReader,
}

/// Reads CPU and memory of pods.
enum UsageReader {
    Kubelets(Box<Kubelets>),
    MetricsApi(Box<MetricsApi>),
}

impl Cluster {
    pub(in super::super) fn new(config: &KubernetesConfig) -> Self {
        Self { config: config.clone(), opened: None, start_ups: StartUps::default(), endpoints: Endpoints::new(config) }
    }

    async fn open(&self) -> anyhow::Result<Opened> {
        let found = configuration(self.config.kubeconfig.as_deref(), self.config.context.as_deref()).await?;
        let client = Client::try_from(found.clone())?;
        let usage = match self.config.usage {
            UsageSource::Kubelets => UsageReader::Kubelets(Box::new(Kubelets::new(found, &self.config))),
            UsageSource::MetricsApi => UsageReader::MetricsApi(Box::new(MetricsApi::new(client.clone(), &self.config))),
        };
        Ok(Opened {
            deployments: Cache::follow_all(&client, &self.config.namespaces, without_writers),
            stateful_sets: Cache::follow_all(&client, &self.config.namespaces, without_writers),
            pods: Cache::follow_all(&client, &self.config.namespaces, without_writers),
            nodes: Cache::follow(Api::all(client), without_writers),
            usage,
        })
    }

    pub(in super::super) async fn read(&mut self, observed: &ObservedWorkloads) -> Result<Reading, SourceError> {
        if self.opened.is_none() {
            let opened = self.open().await.map_err(|error| SourceError::Connection(format!("{error:#}")))?;
            self.opened = Some(opened);
        }
        let Some(opened) = &mut self.opened else { return Err(SourceError::Timeout) };
        let mut objects = Objects::default();
        objects.add(&opened.deployments, |objects| &mut objects.deployments)?;
        knative::retain_serving(&mut objects.deployments);
        objects.add(&opened.stateful_sets, |objects| &mut objects.stateful_sets)?;
        objects.add(&opened.pods, |objects| &mut objects.pods)?;
        objects.add(std::slice::from_ref(&opened.nodes), |objects| &mut objects.nodes)?;
        let (mut usage, requests) = tokio::join!(opened.usage.read(&objects), self.endpoints.read(&objects.pods, observed));
        requests.into_iter().for_each(|reading| usage.add_others(reading));
        Ok(objects.reading(usage, &mut self.start_ups))
    }
}

impl UsageReader {
    /// Measurements of all pods. Those of a node or namespace that cannot be read are absent.
    async fn read(&mut self, objects: &Objects) -> Usage {
        let mut usage = Usage::default();
        match self {
            Self::Kubelets(kubelets) => kubelets.read(&objects.nodes).await.into_iter().for_each(|reading| usage.add(reading)),
            Self::MetricsApi(api) => usage.add_others(api.read().await),
        }
        usage
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
