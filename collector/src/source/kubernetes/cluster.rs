//! The state of the source between readings. Owns connections and what is counted across readings.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, Resource, ResourceExt as _};
use qscale_common::runtime::kubernetes::configuration;
use qscale_common::scrape::Scrape;

use super::super::SourceError;
use super::KubernetesConfig;
use super::cache::Cache;
use super::kubelet::Kubelets;
use super::workloads::{Objects, StartUps};
use crate::reading::Reading;

/// A cluster that is read.
pub struct Cluster {
    config: KubernetesConfig,
    opened: Option<Opened>,
    start_ups: StartUps,
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
    kubelets: Kubelets,
    /// Connections to kubelets by name of the node and revision of its address.
    connections: HashMap<String, Option<(Client, String)>>,
}

impl Cluster {
    pub(in super::super) fn new(config: &KubernetesConfig) -> Self {
        Self { config: config.clone(), opened: None, start_ups: StartUps::default() }
    }

    async fn open(&self) -> anyhow::Result<Opened> {
        let found = configuration(self.config.kubeconfig.as_deref(), self.config.context.as_deref()).await?;
        let client = Client::try_from(found.clone())?;
        Ok(Opened {
            deployments: self.follow(&client),
            stateful_sets: self.follow(&client),
            pods: self.follow(&client),
            nodes: Cache::follow(Api::all(client), without_writers),
            kubelets: Kubelets::new(found, &self.config),
            connections: HashMap::new(),
        })
    }

    /// Follows the objects of a kind in the configured namespaces.
    fn follow<K>(&self, client: &Client) -> Vec<Cache<K>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let apis: Vec<Api<K>> = match self.config.namespaces.as_slice() {
            [] => vec![Api::all(client.clone())],
            some => some.iter().map(|namespace| Api::namespaced(client.clone(), namespace.as_str())).collect(),
        };
        apis.into_iter().map(|api| Cache::follow(api, without_writers)).collect()
    }

    pub(in super::super) async fn read(&mut self) -> Result<Reading, SourceError> {
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
        let usage = opened.usage(&objects, self.config.concurrency as usize, self.config.timeout.0).await;
        Ok(objects.reading(usage, &mut self.start_ups))
    }
}

impl Opened {
    /// CPU and memory of the pods of all nodes, as the kubelets show them. A node that cannot be read is left out, so that its pods are not measured.
    async fn usage(&mut self, objects: &Objects, concurrency: usize, limit: Duration) -> Usage {
        let kubelets = &self.kubelets;
        let (mut connections, mut read) = (HashMap::new(), Vec::new());
        for node in &objects.nodes {
            let key = format!(
                "{} {}",
                node.name_any(),
                node.status.as_ref().map_or_else(String::new, |status| format!("{:?}", status.addresses))
            );
            let connection = self.connections.remove(&key).unwrap_or_else(|| kubelets.connect(node));
            read.extend(connection.clone());
            connections.insert(key, connection);
        }
        self.connections = connections;
        let mut usage = Usage { failed: read.len() as u64, ..Usage::default() };
        let readings = stream::iter(read).map(async |(client, path)| kubelets.read(&client, &path).await);
        let mut readings = pin!(readings.buffer_unordered(concurrency).take_until(tokio::time::sleep(limit)));
        while let Some(reading) = readings.next().await {
            match reading {
                Ok(reading) => usage.add(reading),
                Err(error) => tracing::debug!(%error, "failed to read a kubelet"),
            }
        }
        usage
    }
}

/// Measurements of the kubelets.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// Measurements of pods, by `namespace/pod`.
    pub pods: HashMap<String, Scrape>,
    pub reading: Reading,
    /// Nodes that could not be read.
    pub failed: u64,
}

impl Usage {
    fn add(&mut self, reading: Reading) {
        self.failed -= 1;
        self.reading.samples += reading.samples;
        self.reading.malformed += reading.malformed;
        self.pods.extend(reading.unowned);
    }
}

/// Leaves out who wrote which field, the largest part of most objects.
fn without_writers<K: kube::ResourceExt>(object: &mut K) {
    object.managed_fields_mut().clear();
}
