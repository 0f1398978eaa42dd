//! Workloads and pods of a cluster, kept up to date by watches. Owns which parts of an object are kept, and which objects do not show yet what this actuator
//! has written; must not write.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, StatefulSet};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodTemplateSpec};
use kube::api::{ListParams, ObjectMeta};
use kube::{Api, Client};
use qscale_common::name::Name;
use qscale_common::policy::{WorkloadId, WorkloadKind};
use qscale_common::runtime::kubernetes::cache::{Cache, Cached};
use qscale_common::runtime::kubernetes::scaled::{Scaled, owner};
use qscale_common::runtime::kubernetes::{is_alive, knative};

use super::pending::{self, Pending};
use crate::backend::BackendError;

/// Time for the first lists.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// The objects of a cluster.
pub(super) struct Objects {
    deployments: Vec<Cache<Deployment>>,
    stateful_sets: Vec<Cache<StatefulSet>>,
    pods: Vec<Cache<Pod>>,
    written: Mutex<HashMap<WorkloadId, Written>>,
}

/// The newest revisions that this actuator has written. An older object is one from before the write.
#[derive(Debug, Default)]
struct Written {
    /// Uid and generation of the workload.
    workload: Option<(String, i64)>,
    /// Generations of pods by uid.
    pods: HashMap<String, i64>,
}

/// A kind of workload that is followed.
pub(super) trait Followed: Scaled + Cached {
    /// Its caches.
    fn caches(objects: &Objects) -> &[Cache<Self>];

    /// Why its pods cannot be created.
    fn pending_pods(&self) -> Option<Pending> {
        None
    }

    /// A workload as it is read; `None` if there is none.
    async fn read(client: &Client, id: &WorkloadId) -> Result<Option<Arc<Self>>, kube::Error> {
        let api: Api<Self> = Api::namespaced(client.clone(), id.name.namespace.as_str());
        Ok(api.get_opt(id.name.name.as_str()).await?.map(Arc::new))
    }

    /// The object of a workload, if it is known and its watch is not broken.
    fn find(objects: &Objects, id: &WorkloadId) -> Option<Arc<Self>> {
        Self::caches(objects).iter().find_map(|cache| cache.get(&id.name))
    }
}

impl Followed for Deployment {
    fn caches(objects: &Objects) -> &[Cache<Self>] {
        &objects.deployments
    }

    fn pending_pods(&self) -> Option<Pending> {
        Pending::creation(self)
    }

    async fn read(client: &Client, id: &WorkloadId) -> Result<Option<Arc<Self>>, kube::Error> {
        let api: Api<Self> = Api::namespaced(client.clone(), id.name.namespace.as_str());
        match knative_service(id) {
            Some((namespace, name)) => {
                let own = api.list(&ListParams::default().labels(&format!("{}={name}", knative::SERVICE))).await?.items;
                let own: Vec<_> = own.into_iter().map(Arc::new).collect();
                Ok(knative::serving(&own, namespace, name).cloned())
            }
            None => Ok(api.get_opt(id.name.name.as_str()).await?.map(Arc::new)),
        }
    }

    fn find(objects: &Objects, id: &WorkloadId) -> Option<Arc<Self>> {
        match knative_service(id) {
            Some((namespace, name)) => knative::serving(&current(&objects.deployments).ok()?, namespace, name).cloned(),
            None => Self::caches(objects).iter().find_map(|cache| cache.get(&id.name)),
        }
    }
}

impl Followed for StatefulSet {
    fn caches(objects: &Objects) -> &[Cache<Self>] {
        &objects.stateful_sets
    }
}

/// All objects at one time.
pub(super) struct Snapshot {
    pub deployments: Vec<Arc<Deployment>>,
    pub stateful_sets: Vec<Arc<StatefulSet>>,
    /// Pods that run or will run, by their workload.
    pub pods: HashMap<WorkloadId, Vec<Arc<Pod>>>,
}

impl Objects {
    /// Begins to follow the objects in `namespaces`, or in all if there are none.
    pub(super) fn follow(client: &Client, namespaces: &[Name]) -> Self {
        Self {
            deployments: Cache::follow_all(client, namespaces, |object: &mut Deployment| {
                reduce_metadata(&mut object.metadata);
                let status = object.status.take().unwrap_or_default();
                // Of the revisions of a Knative Service, one with ready replicas serves.
                let ready_replicas = status.ready_replicas.filter(|_| knative::service(&object.metadata).is_some());
                let conditions = status.conditions.map(|conditions| conditions.into_iter().filter(pending::is_failure).collect());
                object.status = Some(DeploymentStatus { ready_replicas, conditions, ..DeploymentStatus::default() });
                object.spec.iter_mut().for_each(|spec| reduce_template(&mut spec.template));
            }),
            stateful_sets: Cache::follow_all(client, namespaces, |object: &mut StatefulSet| {
                reduce_metadata(&mut object.metadata);
                object.status = None;
                object.spec.iter_mut().for_each(|spec| {
                    reduce_template(&mut spec.template);
                    spec.volume_claim_templates = None;
                });
            }),
            pods: Cache::follow_all(client, namespaces, |pod: &mut Pod| {
                reduce_metadata(&mut pod.metadata);
                pod.metadata.annotations = None;
                pod.spec.iter_mut().for_each(reduce_spec);
                pod.status.iter_mut().for_each(|status| {
                    (status.container_statuses, status.init_container_statuses, status.pod_ips) = (None, None, None);
                });
            }),
            written: Mutex::default(),
        }
    }

    fn written(&self) -> MutexGuard<'_, HashMap<WorkloadId, Written>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them.
    ///
    /// # Errors
    /// If a kind was not listed in time, or its watch is broken.
    pub(super) async fn snapshot(&self) -> Result<Snapshot, BackendError> {
        let listed = async {
            futures::future::join_all(self.deployments.iter().map(Cache::listed)).await;
            futures::future::join_all(self.stateful_sets.iter().map(Cache::listed)).await;
            futures::future::join_all(self.pods.iter().map(Cache::listed)).await;
        };
        // What is missing afterwards is named below.
        let _in_time = tokio::time::timeout(LIST_TIMEOUT, listed).await;
        let (mut deployments, stateful_sets) = (current(&self.deployments)?, current(&self.stateful_sets)?);
        knative::retain_serving(&mut deployments);
        let mut pods: HashMap<WorkloadId, Vec<Arc<Pod>>> = HashMap::new();
        for pod in current(&self.pods)? {
            if let Some(id) = owner(&pod).filter(|_| is_alive(&pod)) {
                pods.entry(id).or_default().push(pod);
            }
        }
        Ok(Snapshot { deployments, stateful_sets, pods })
    }

    /// A workload, if the last write of this actuator shows in it.
    pub(super) fn workload<K: Followed>(&self, id: &WorkloadId) -> Option<Arc<K>> {
        let object = K::find(self, id)?;
        (!self.written().get(id).is_some_and(|written| written.is_ahead_of_workload(object.meta()))).then_some(object)
    }

    /// The pods of `id` that run or will run, if the last write of this actuator shows in them.
    pub(super) fn pods(&self, id: &WorkloadId) -> Option<Vec<Arc<Pod>>> {
        let (namespace, name) = (id.name.namespace.as_str(), id.name.name.as_str());
        // The owner of a pod of a Deployment is a ReplicaSet, whose name begins with that of the Deployment.
        let is_owned = |pod: &Pod| pod.metadata.owner_references.iter().flatten().any(|owner| owner.name.starts_with(name));
        let mut own = current(&self.pods).ok()?;
        own.retain(|pod| pod.metadata.namespace.as_deref() == Some(namespace) && is_owned(pod) && is_alive(pod));
        own.retain(|pod| owner(pod).as_ref() == Some(id));
        (!self.written().get(id).is_some_and(|written| written.is_ahead_of_pods(&own))).then_some(own)
    }

    /// Remembers that the replicas of `object` were written on the revision that it shows.
    pub(super) fn on_scaled<K: Followed>(&self, id: &WorkloadId, object: &K) {
        let meta = object.meta();
        let next = meta.uid.clone().zip(meta.generation.map(|generation| generation + 1));
        self.written().entry(id.clone()).or_default().workload = next;
    }

    /// Remembers that a pod was written.
    pub(super) fn on_resized(&self, id: &WorkloadId, pod: &Pod) {
        if let (Some(uid), Some(generation)) = (&pod.metadata.uid, pod.metadata.generation) {
            self.written().entry(id.clone()).or_default().pods.insert(uid.clone(), generation);
        }
    }

    /// Whether a workload, as it is in a snapshot with its `pods`, is from before the last write of this actuator.
    pub(super) fn is_behind<K: Scaled>(&self, id: &WorkloadId, object: &K, pods: &[Arc<Pod>]) -> bool {
        let mut written = self.written();
        let Some(last) = written.get(id) else { return false };
        let behind = last.is_ahead_of_workload(object.meta()) || last.is_ahead_of_pods(pods);
        if !behind {
            written.remove(id);
        }
        behind
    }

    /// Forgets what was written to workloads that `keep` does not name.
    pub(super) fn retain(&self, keep: impl Fn(&WorkloadId) -> bool) {
        self.written().retain(|id, _| keep(id));
    }
}

impl Written {
    fn is_ahead_of_workload(&self, meta: &ObjectMeta) -> bool {
        let same = self.workload.as_ref().filter(|(uid, _)| meta.uid.as_ref() == Some(uid));
        same.is_some_and(|(_, generation)| meta.generation < Some(*generation))
    }

    fn is_ahead_of_pods(&self, pods: &[Arc<Pod>]) -> bool {
        let is_older = |pod: &Arc<Pod>| {
            let written = pod.metadata.uid.as_ref().and_then(|uid| self.pods.get(uid));
            written.is_some_and(|generation| pod.metadata.generation < Some(*generation))
        };
        !self.pods.is_empty() && pods.iter().any(is_older)
    }
}

/// Namespace and name of a Service of Knative.
fn knative_service(id: &WorkloadId) -> Option<(&str, &str)> {
    (id.kind == WorkloadKind::KnativeService).then(|| (id.name.namespace.as_str(), id.name.name.as_str()))
}

/// The objects of all caches.
fn current<K: Cached>(caches: &[Cache<K>]) -> Result<Vec<Arc<K>>, BackendError> {
    let mut all = Vec::new();
    for cache in caches {
        all.extend(cache.current().map_err(BackendError::Unavailable)?);
    }
    Ok(all)
}

fn reduce_metadata(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
}

fn reduce_template(template: &mut PodTemplateSpec) {
    template.spec.iter_mut().for_each(reduce_spec);
}

/// Keeps what the sizes of containers depend on.
fn reduce_spec(spec: &mut PodSpec) {
    let containers = std::mem::take(&mut spec.containers).into_iter().map(|container| Container {
        name: container.name,
        resources: container.resources,
        resize_policy: container.resize_policy,
        ..Container::default()
    });
    *spec = PodSpec { containers: containers.collect(), ..PodSpec::default() };
}
