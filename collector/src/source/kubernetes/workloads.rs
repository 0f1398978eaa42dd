//! Measurements of workloads from objects and kubelets. Owns what counts as a replica, and as ready; must not send anything.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod};
use kube::ResourceExt as _;
use qscale_common::contract::Headroom;
use qscale_common::hash::fnv1a;
use qscale_common::policy::WorkloadId;
use qscale_common::quantity;
use qscale_common::runtime::kubernetes::cache::{Cache, Cached};
use qscale_common::runtime::kubernetes::is_alive;
use qscale_common::runtime::kubernetes::scaled::{self, Scaled};
use qscale_common::runtime::kubernetes::sizing::{Size, Sizing};
use qscale_common::scrape::{Count, FunctionScrape, PlatformReading, PlatformReplicas, Scrape};
use qscale_common::time::Timestamp;
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};

use super::super::SourceError;
use super::cluster::Usage;
use super::milliseconds;
use crate::reading::{NodeLimits, Reading};

/// Objects of a cluster.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub deployments: Vec<Arc<Deployment>>,
    pub stateful_sets: Vec<Arc<StatefulSet>>,
    pub pods: Vec<Arc<Pod>>,
    pub nodes: Vec<Arc<Node>>,
    /// Time up to which all of them are current.
    current: Option<Timestamp>,
}

/// Starts of pods until they were ready.
#[derive(Debug, Default)]
pub(super) struct StartUps {
    /// Number, and total milliseconds, by workload.
    totals: HashMap<WorkloadId, (u64, u64)>,
    /// Pods that are counted, by uid.
    counted: HashSet<String>,
}

impl Objects {
    /// Adds the objects of `caches`.
    pub(super) fn add<K: Cached>(&mut self, caches: &[Cache<K>], field: fn(&mut Self) -> &mut Vec<Arc<K>>) -> Result<(), SourceError> {
        for cache in caches {
            let (objects, current) = cache.objects().map_err(SourceError::Connection)?;
            field(self).extend(objects);
            self.current = Some(self.current.map_or(current, |earlier| earlier.min(current)));
        }
        Ok(())
    }

    /// The measurements of all workloads.
    pub(super) fn reading(&self, usage: Usage, start_ups: &mut StartUps) -> Reading {
        let at = self.current.unwrap_or_default();
        let mut pods: HashMap<WorkloadId, Vec<&Pod>> = HashMap::new();
        for pod in self.pods.iter().filter(|pod| is_alive(pod)) {
            if let Some(id) = scaled::owner(pod) {
                pods.entry(id).or_default().push(pod);
            }
        }
        start_ups.count(&pods);
        let Usage { pods: mut measured, mut others, samples, malformed, dropped } = usage;
        let mut functions = HashMap::new();
        let mut desired = (0.0, 0.0);
        let mut add = |found: Option<(WorkloadId, Option<Allocation>, u32)>| {
            let Some((id, allocation, replicas)) = found else { return };
            let own = pods.get(&id).map_or(&[][..], Vec::as_slice);
            if let Some(allocation) = allocation {
                let replicas = f64::from(allocation.replicas.0);
                desired.0 += replicas * f64::from(allocation.cpu_millicores.0);
                desired.1 += replicas * f64::from(allocation.memory_mib.0);
            }
            let ready = own.iter().filter(|pod| ready_since(pod).is_some()).count();
            let number = |count: usize| Replicas(u32::try_from(count).unwrap_or(u32::MAX));
            let counts = PlatformReplicas { desired: Replicas(replicas), ready: number(ready), pending: number(own.len() - ready) };
            let startups = start_ups.totals.get(&id).copied();
            let platform = PlatformReading { allocation, replicas: Some(counts), startups, ..PlatformReading::new(at) };
            let replicas = own.iter().flat_map(|pod| replica(pod, &mut measured, &mut others, at)).collect();
            functions.insert(id.name.to_string(), FunctionScrape { platform: Some(platform), replicas, ..FunctionScrape::default() });
        };
        self.deployments.iter().for_each(|object| add(workload(&**object, &pods)));
        self.stateful_sets.iter().for_each(|object| add(workload(&**object, &pods)));
        let (cores, memory) = self.capacity();
        let left = |capacity: f64, desired: f64| (capacity - desired).max(0.0).min(f64::from(u32::MAX)) as u32;
        let headroom = Headroom {
            cpu_millicores: Millicores(left(cores.iter().sum::<f64>() * 1000.0, desired.0)),
            memory_mib: Mebibytes(left(memory.iter().sum::<f64>() / f64::from(1 << 20), desired.1)),
        };
        let largest = |values: &[f64]| values.iter().copied().reduce(f64::max);
        Reading {
            functions,
            headroom: (!cores.is_empty()).then_some(headroom),
            node: NodeLimits { cores: largest(&cores), memory_bytes: largest(&memory) },
            samples: samples + self.pods.len() as u64,
            malformed,
            dropped,
            ..Reading::default()
        }
    }

    /// Allocatable cores and bytes of each node that takes pods.
    fn capacity(&self) -> (Vec<f64>, Vec<f64>) {
        let takes_pods = |node: &&Arc<Node>| node.spec.as_ref().is_none_or(|spec| spec.unschedulable != Some(true));
        let amount = |node: &Node, name: &str| quantity::positive(&node.status.as_ref()?.allocatable.as_ref()?.get(name)?.0);
        let both = |node: &Arc<Node>| Some((amount(node, "cpu")?, amount(node, "memory")?));
        self.nodes.iter().filter(takes_pods).filter_map(both).unzip()
    }
}

impl StartUps {
    /// Counts the pods that became ready since the last reading.
    fn count(&mut self, pods: &HashMap<WorkloadId, Vec<&Pod>>) {
        let mut present = HashSet::new();
        for (id, pod) in pods.iter().flat_map(|(id, pods)| pods.iter().map(move |pod| (id, *pod))) {
            let (Some(uid), Some(ready)) = (pod.metadata.uid.clone(), ready_since(pod)) else { continue };
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| milliseconds(&time.0));
            // A pod that restarted becomes ready again, long after its start.
            let restarted = containers(pod).any(|container| container.restart_count > 0);
            if !self.counted.contains(&uid)
                && let Some(created) = created.filter(|_| !restarted)
            {
                let (number, total) = self.totals.entry(id.clone()).or_default();
                (*number, *total) = (*number + 1, *total + ready.0.saturating_sub(created.0));
            }
            present.insert(uid);
        }
        self.counted = present;
        self.totals.retain(|id, _| pods.contains_key(id));
    }
}

/// Identity, desired allocation and desired replicas of an object.
fn workload<K: Scaled>(object: &K, pods: &HashMap<WorkloadId, Vec<&Pod>>) -> Option<(WorkloadId, Option<Allocation>, u32)> {
    let id = scaled::id(object)?;
    let replicas = object.replicas();
    let sizing = object.template().and_then(Sizing::of);
    let size = sizing.map(|sizing| sizing.requested(pods.get(&id).into_iter().flatten().copied(), None));
    let allocation = size.filter(|size| *size != Size::default()).map(|size| size.allocation(replicas));
    Some((id, allocation, replicas.0))
}

/// The measurements of a pod, those of `others` with times of their own.
fn replica(pod: &Pod, measured: &mut HashMap<String, Scrape>, others: &mut HashMap<String, Vec<Scrape>>, at: Timestamp) -> Vec<Scrape> {
    let name = pod.name_any();
    let path = format!("{}/{name}", pod.metadata.namespace.as_deref().unwrap_or_default());
    let mut scrape = measured.remove(&path).unwrap_or_else(|| Scrape::new(name, at));
    let starts = || containers(pod).filter_map(|container| container.state.as_ref()?.running.as_ref()?.started_at.as_ref());
    scrape.started = scrape.started.or_else(|| starts().map(|start| milliseconds(&start.0)).min());
    scrape.last_started = scrape.last_started.or_else(|| starts().map(|start| milliseconds(&start.0)).max());
    let mut restarts: Vec<_> = containers(pod)
        .map(|container| Count { of: fnv1a(container.name.bytes()), value: u64::try_from(container.restart_count).unwrap_or_default() })
        .collect();
    restarts.sort_by_key(|restarts| restarts.of);
    scrape.restarts = (!restarts.is_empty()).then(|| restarts.into_iter().collect());
    let (started, last_started) = (scrape.started, scrape.last_started);
    let own = others.remove(&path).unwrap_or_default().into_iter();
    // Counters of requests begin with the process, those of CPU that the collector keeps do not.
    let dated = own.map(|other| if other.requests.is_some() { Scrape { started, last_started, ..other } } else { other });
    std::iter::once(scrape).chain(dated).collect()
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().filter_map(|status| status.container_statuses.as_ref()).flatten()
}

/// Time since which a pod accepts requests; `None` if it does not.
fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp(0), |time| milliseconds(&time.0)))
}
