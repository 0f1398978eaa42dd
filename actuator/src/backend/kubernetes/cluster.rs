//! Workloads of a Kubernetes cluster: replicas by the scale subresource, CPU and memory by in-place resize of the running pods. Pod templates are never
//! written, because any change of one replaces all pods.
//!
//! The API server does not know fencing tokens. The highest one is kept in an annotation of a Lease object, and a change reads in this order: workload and
//! pods, token. Workload and pods may come from a watch; after a conflict they are read. It then writes only on the revisions that it knows, so it fails where a newer leader has written since. Of an object that the newer leader
//! has not written, a change that was under way may still arrive within `platform.timeout`; a leader stops sending before another one can lead, and the
//! next comparison of the platform corrects what arrived late.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::Selector;
use kube::{Api, Client};
use qscale_common::policy::WorkloadKind;
use qscale_common::runtime::clock;
use qscale_common::runtime::kubernetes::scaled::{self, owner};
use qscale_common::runtime::kubernetes::sizing::{Size, Sizing};
use qscale_common::runtime::kubernetes::{configuration, is_alive};
use qscale_common::units::{Allocation, Replicas};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use super::fence::Fence;
use super::knative::RevisionScale;
use super::objects::{Followed, Objects, Snapshot};
use super::pending::Pending;
use super::requests::backend_error;
use super::resource::PodSize;
use super::rivals::RivalFinder;
use super::{KubernetesBackendConfig, policies};
use crate::backend::{BackendError, BackendFuture, LoopAccess, PlatformBackend, WorkloadId, WorkloadStatus};

/// Name of the writer in the managed fields of objects.
pub(super) const FIELD_MANAGER: &str = "qscale-actuator";
/// Pause before a request is repeated on a newer revision.
const CONFLICT_DELAY: Duration = Duration::from_millis(20);
/// Time for which a refused resize is shown. A decision that still wants it is refused again before.
const REFUSED_FOR: Duration = Duration::from_secs(300);
/// Time that Knative's autoscaler may take to follow a change.
const KNATIVE_DELAY: Duration = Duration::from_secs(30);
/// Timeout of the lists of other autoscalers.
const RIVALS_TIMEOUT: Duration = Duration::from_secs(30);

/// A Kubernetes cluster.
pub struct KubernetesBackend {
    config: KubernetesBackendConfig,
    opened: OnceCell<Opened>,
    requested: Mutex<HashMap<WorkloadId, Requested>>,
    /// Replicas that Knative was asked for, and does not have yet.
    awaited: Mutex<HashMap<WorkloadId, (Replicas, Instant)>>,
    rivals: RivalFinder,
    view: SharedView,
}

/// A connection to the cluster.
struct Opened {
    client: Client,
    objects: Objects,
    fence: Fence,
}

/// Content of the last list.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Whether there was one.
    pub read: bool,
    pub workloads: HashMap<WorkloadId, Seen>,
    /// Another autoscaler of a workload, as `kind/name`.
    pub rivals: HashMap<WorkloadId, String>,
}

/// A listed workload.
#[derive(Debug)]
pub(super) struct Seen {
    pub status: WorkloadStatus,
    /// Whether all of its pods have the size of its status, and no resize waits.
    pub uniform: bool,
    /// Size that new pods get; `None` if this actuator has decided none.
    pub pod_size: Option<PodSize>,
    /// Uid of the workload; `None` for a Knative Service, of which only the Deployments of its revisions are read.
    pub uid: Option<String>,
    /// Why a pod does not have its size: its resize waits, failed, was refused, or cannot be done.
    pub pending_resize: Option<Pending>,
    /// Why pods are not created, or have no node.
    pub pending_replicas: Option<Pending>,
}

pub(super) type SharedView = Arc<Mutex<View>>;

/// The last request to resize the pods of a workload. A pod that was created since then has the size of its template.
struct Requested {
    size: Size,
    pod_size: PodSize,
    /// Why one of the pods kept its size, and when that was said last.
    refused: Option<(String, Instant)>,
}

impl Requested {
    /// Why a pod kept its size, if that was said a short time ago.
    fn recently_refused(&self) -> Option<Pending> {
        let (message, at) = self.refused.as_ref()?;
        (clock::since(*at) < REFUSED_FOR).then(|| Pending::refused(message.clone()))
    }
}

/// Why an attempt to change a workload ended.
pub(super) enum Attempt {
    /// An object was changed since it was read.
    Conflict,
    Failed(BackendError),
}

impl From<kube::Error> for Attempt {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 409 => Self::Conflict,
            error => Self::Failed(backend_error(error)),
        }
    }
}

/// A client of the cluster.
pub(super) async fn connect(config: &KubernetesBackendConfig) -> anyhow::Result<Client> {
    Ok(Client::try_from(configuration(config.kubeconfig.as_deref(), config.context.as_deref()).await?)?)
}

impl KubernetesBackend {
    /// A cluster; connects with the first request.
    #[must_use]
    pub fn new(config: KubernetesBackendConfig) -> Self {
        Self {
            config,
            opened: OnceCell::new(),
            requested: Mutex::default(),
            awaited: Mutex::default(),
            rivals: RivalFinder::default(),
            view: SharedView::default(),
        }
    }

    async fn open(&self) -> Result<&Opened, BackendError> {
        let open = async || {
            let client = connect(&self.config).await?;
            let objects = Objects::follow(&client, &self.config.namespaces);
            let fence = Fence::new(&client, &self.config.lease_namespace);
            anyhow::Ok(Opened { client, objects, fence })
        };
        let opened = self.opened.get_or_try_init(open).await;
        opened.map_err(|error| BackendError::Unavailable(format!("no connection to Kubernetes: {error:#}")))
    }

    async fn list(&self) -> Result<Vec<WorkloadStatus>, BackendError> {
        let Opened { client, objects, .. } = self.open().await?;
        let rivals = tokio::time::timeout(RIVALS_TIMEOUT, self.rivals.find(client, &self.config.namespaces)).await;
        let rivals =
            rivals.unwrap_or_else(|_| Err(BackendError::Unavailable(format!("no list of autoscalers within {RIVALS_TIMEOUT:?}"))))?;
        let snapshot = objects.snapshot().await?;
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut view.workloads);
        for object in &snapshot.deployments {
            view.workloads.extend(self.listed_object(objects, &**object, &snapshot, &mut before));
        }
        for object in &snapshot.stateful_sets {
            view.workloads.extend(self.listed_object(objects, &**object, &snapshot, &mut before));
        }
        (view.read, view.rivals) = (true, rivals);
        let known = |id: &WorkloadId| view.workloads.contains_key(id);
        self.requested.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| known(id));
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| known(id));
        objects.retain(known);
        Ok(view.workloads.values().map(|seen| seen.status.clone()).collect())
    }

    /// An object as it is listed; as it was `before` if it does not show the last change yet. `None` if its name or namespace is not a DNS label.
    fn listed_object<K: Followed>(
        &self,
        objects: &Objects,
        object: &K,
        snapshot: &Snapshot,
        before: &mut HashMap<WorkloadId, Seen>,
    ) -> Option<(WorkloadId, Seen)> {
        let id = scaled::id(object)?;
        let pods = snapshot.pods.get(&id).map_or(&[][..], Vec::as_slice);
        let last = before.remove(&id).filter(|_| objects.is_behind(&id, object, pods));
        let seen = last.unwrap_or_else(|| self.seen(id.clone(), object, pods));
        Some((id, seen))
    }

    /// An object and its pods as they are known.
    fn seen<K: Followed>(&self, id: WorkloadId, object: &K, pods: &[Arc<Pod>]) -> Seen {
        let sizing = object.template().and_then(Sizing::of);
        let requested = self.requested.lock().unwrap_or_else(PoisonError::into_inner);
        let last = requested.get(&id).map(|requested| requested.size);
        let size = sizing.as_ref().map(|sizing| sizing.requested(pods.iter().map(|pod| &**pod), last));
        let refused = requested.get(&id).filter(|requested| Some(requested.size) != size).and_then(Requested::recently_refused);
        drop(requested);
        let vertical = sizing.as_ref().is_some_and(Sizing::is_possible);
        let desired = size.unwrap_or_default().allocation(self.replicas(&id, object.replicas()));
        let status = WorkloadStatus { id, desired, vertical };
        let pending_resize = pods.iter().find_map(|pod| Pending::resize(pod)).or(refused);
        let pending_replicas = object.pending_pods().or_else(|| pods.iter().find_map(|pod| Pending::pod(pod)));
        let has_size = |pod: &Arc<Pod>| sizing.as_ref().and_then(|sizing| sizing.size(pod)) == size;
        let uniform = pending_resize.is_none() && pods.iter().all(has_size);
        let pod_size = self.pod_size(&status).filter(|_| pending_resize.is_none());
        let uid = object.meta().uid.clone().filter(|_| status.id.kind != WorkloadKind::KnativeService);
        Seen { uniform, pod_size, uid, pending_resize, pending_replicas, status }
    }

    /// Replicas that a workload was asked for, of which the platform shows `shown`.
    fn replicas(&self, id: &WorkloadId, shown: Replicas) -> Replicas {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((replicas, since)) = awaited.get(id).copied() else { return shown };
        // A Service gets to zero when it has had no request for a while.
        if replicas == shown || (replicas != Replicas(0) && clock::since(since) >= KNATIVE_DELAY) {
            awaited.remove(id);
            return shown;
        }
        replicas
    }

    /// Size that new pods get: the one that was requested last, if all pods have it. One that a pod was refused may fit no node.
    fn pod_size(&self, status: &WorkloadStatus) -> Option<PodSize> {
        let requested = self.requested.lock().unwrap_or_else(PoisonError::into_inner);
        let last = requested.get(&status.id).filter(|last| last.refused.is_none() && last.size == Size::of(status.desired));
        last.map(|last| last.pod_size.clone())
    }

    async fn set(&self, id: &WorkloadId, allocation: Allocation, lease: u64) -> Result<WorkloadStatus, BackendError> {
        let rival = self.view.lock().unwrap_or_else(PoisonError::into_inner).rivals.get(id).cloned();
        if let Some(rival) = rival {
            return Err(BackendError::Invalid(format!("{rival} scales the workload")));
        }
        let opened = self.open().await?;
        let attempts = async {
            let mut direct = false;
            loop {
                let attempt = match id.kind {
                    WorkloadKind::Deployment | WorkloadKind::KnativeService => {
                        self.attempt::<Deployment>(opened, id, allocation, lease, direct).await
                    }
                    WorkloadKind::StatefulSet => self.attempt::<StatefulSet>(opened, id, allocation, lease, direct).await,
                    WorkloadKind::Local => Err(Attempt::Failed(BackendError::NotFound(id.name.clone()))),
                };
                match attempt {
                    Ok(status) => {
                        let pod_size = self.pod_size(&status);
                        // New pods get the new size before the next list.
                        if let Some(seen) = self.view.lock().unwrap_or_else(PoisonError::into_inner).workloads.get_mut(id) {
                            seen.uniform &= Size::of(seen.status.desired) == Size::of(status.desired);
                            (seen.status, seen.pod_size) = (status.clone(), pod_size);
                        }
                        return Ok(status);
                    }
                    Err(Attempt::Failed(error)) => return Err(error),
                    Err(Attempt::Conflict) => {
                        // An attempt with objects of a watch that are out of date is repeated at once.
                        if std::mem::replace(&mut direct, true) {
                            tokio::time::sleep(CONFLICT_DELAY).await;
                        }
                    }
                }
            }
        };
        let timeout = self.config.timeout;
        let in_time = tokio::time::timeout(timeout.0, attempts).await;
        in_time.unwrap_or_else(|_| Err(BackendError::Unavailable(format!("the change took longer than platform.timeout = {timeout}"))))
    }

    /// Size of a workload's pods in the last list, and whether all of them had it.
    fn listed(&self, id: &WorkloadId) -> Option<(Size, bool)> {
        let view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.workloads.get(id).map(|seen| (Size::of(seen.status.desired), seen.uniform))
    }

    /// Changes a workload, as the watches show it, or as it is read if `direct`.
    async fn attempt<K: Followed>(
        &self,
        opened: &Opened,
        id: &WorkloadId,
        wanted: Allocation,
        lease: u64,
        direct: bool,
    ) -> Result<WorkloadStatus, Attempt> {
        let Opened { client, objects: followed, fence } = opened;
        let (namespace, name) = (id.name.namespace.as_str(), id.name.name.as_str());
        let objects: Api<K> = Api::namespaced(client.clone(), namespace);
        let object = match followed.workload::<K>(id).filter(|_| !direct) {
            Some(object) => object,
            None => match K::read(client, id).await? {
                Some(object) => object,
                None => return Err(Attempt::Failed(BackendError::NotFound(id.name.clone()))),
            },
        };
        let sizing = object.template().and_then(Sizing::of);
        let vertical = sizing.as_ref().is_some_and(Sizing::is_possible);
        let listed = self.listed(id);
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let own = if vertical && !listed.is_some_and(|(size, uniform)| uniform && size == Size::of(wanted)) {
            match followed.pods(id).filter(|_| !direct) {
                Some(own) => own,
                None => self.list_pods(&pods, id, object.selector()).await?,
            }
        } else {
            Vec::new()
        };
        let revision = match id.kind {
            WorkloadKind::KnativeService => Some(RevisionScale::read(client, object.meta()).await?),
            _ => None,
        };
        // After everything that is written below was read.
        fence.check(lease).await?;

        if let Some(revision) = revision {
            revision.write(wanted.replicas).await?;
            self.awaited.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), (wanted.replicas, clock::instant()));
        } else if object.replicas() != wanted.replicas {
            let replicas = i32::try_from(wanted.replicas.0).unwrap_or(i32::MAX);
            let metadata = ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.to_owned()),
                resource_version: object.meta().resource_version.clone(),
                ..ObjectMeta::default()
            };
            let scale = Scale { metadata, spec: Some(ScaleSpec { replicas: Some(replicas) }), status: None };
            let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
            match objects.replace_scale(name, &params, &scale).await {
                Ok(_) => followed.on_scaled(id, &*object),
                // Deleted since it was read.
                Err(kube::Error::Api(status)) if status.code == 404 => return Err(Attempt::Conflict),
                Err(error) => return Err(error.into()),
            }
        }
        let size = match sizing {
            Some(sizing) if vertical => self.resize(followed, &pods, &sizing, &own, id, Size::of(wanted)).await?,
            Some(sizing) => listed.map_or_else(|| sizing.requested([], None), |(size, _)| size),
            None => Size::default(),
        };
        Ok(WorkloadStatus { id: id.clone(), desired: size.allocation(wanted.replicas), vertical })
    }

    /// The pods of `id` that run or will run.
    async fn list_pods(&self, api: &Api<Pod>, id: &WorkloadId, selector: Option<&LabelSelector>) -> Result<Vec<Arc<Pod>>, Attempt> {
        let selector = selector.cloned().map(Selector::try_from).transpose();
        let selector = selector.map_err(|error| Attempt::Failed(BackendError::Invalid(error.to_string())))?.unwrap_or_default();
        // From the cache of the API server: a resize of a pod that has changed since then is refused, and repeated.
        let listed = api.list(&ListParams::default().labels_from(&selector).match_any()).await?.items;
        Ok(listed.into_iter().filter(|pod| owner(pod).as_ref() == Some(id) && is_alive(pod)).map(Arc::new).collect())
    }

    /// Resizes the pods that have another size. Returns the size of all, or that of one that could not be resized.
    async fn resize(
        &self,
        followed: &Objects,
        api: &Api<Pod>,
        sizing: &Sizing,
        pods: &[Arc<Pod>],
        id: &WorkloadId,
        size: Size,
    ) -> Result<Size, Attempt> {
        let (mut kept, mut refused) = (None, None);
        for pod in pods.iter().filter(|pod| sizing.size(pod) != Some(size)) {
            let Some(name) = &pod.metadata.name else { continue };
            let patch = sizing.patch(pod, size);
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            match api.patch_resize(name, &params, &Patch::Strategic(patch)).await {
                Ok(resized) => followed.on_resized(id, &resized),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
                    kept = kept.or(sizing.size(pod));
                    refused.get_or_insert(status.message);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let mut requested = self.requested.lock().unwrap_or_else(PoisonError::into_inner);
        // Each decision asks again, and is refused again.
        if let Some(reason) = &refused
            && requested.get(id).is_none_or(|last| last.refused.as_ref().is_none_or(|(last, _)| last != reason))
        {
            tracing::warn!(workload = %id.name, reason, "a pod cannot be resized; it keeps its size");
        }
        let refused = refused.map(|reason| (reason, clock::instant()));
        requested.insert(id.clone(), Requested { size, pod_size: PodSize::of(sizing, size), refused });
        Ok(kept.unwrap_or(size))
    }
}

impl PlatformBackend for KubernetesBackend {
    fn kinds(&self) -> &'static [WorkloadKind] {
        &[WorkloadKind::Deployment, WorkloadKind::StatefulSet, WorkloadKind::KnativeService]
    }

    fn list(&self) -> BackendFuture<'_, Vec<WorkloadStatus>> {
        Box::pin(self.list())
    }

    fn apply<'a>(&'a self, workload: &'a WorkloadId, allocation: Allocation, lease: u64) -> BackendFuture<'a, WorkloadStatus> {
        Box::pin(self.set(workload, allocation, lease))
    }

    fn follow(&self, access: LoopAccess) -> Option<JoinHandle<()>> {
        Some(tokio::spawn(policies::run(self.config.clone(), Arc::clone(&self.view), access)))
    }
}
