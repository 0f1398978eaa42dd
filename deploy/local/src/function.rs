//! A function: its file, desired allocation, queue and replicas. Owns this state; the reconciler acts on it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use qscale_common::name::FunctionId;
use qscale_common::platform::metrics::FunctionCounters;
use qscale_common::platform::{ActualAllocation, FunctionSpec, ReplicaState};
use qscale_common::units::{Allocation, Replicas};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::admission::RequestQueue;
use crate::latency::LatencyHistograms;
use crate::logs::Logs;
use crate::replica::{ReadyReplica, Replica};

/// The functions of the platform by `namespace/name`. Cheap to clone.
#[derive(Clone, Default)]
pub struct Functions(Arc<RwLock<HashMap<String, Arc<ManagedFunction>>>>);

/// One function.
#[derive(Debug)]
pub struct ManagedFunction {
    /// Namespace and name.
    pub id: FunctionId,
    /// Queue of requests.
    pub admission: Arc<RequestQueue<Arc<ReadyReplica>>>,
    /// Output of its replicas.
    pub logs: Logs,
    /// Durations of requests that never reached a replica.
    pub gateway_latency: LatencyHistograms,
    /// Cancelled when the function is deleted or the platform stops.
    pub stop: CancellationToken,
    counters: AtomicCounters,
    inner: Mutex<Inner>,
    changed: Notify,
    /// Version of the desired state that was last reconciled.
    reconciled: watch::Sender<u64>,
    /// Notified when a request changes the desired state, which is to be saved then.
    unsaved: Arc<Notify>,
}

#[derive(Debug, Default)]
struct AtomicCounters {
    arrived: AtomicU64,
    oom_kills: AtomicU64,
    crashes: AtomicU64,
    startups: AtomicU64,
    startup_us: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    spec: Arc<FunctionSpec>,
    generation: u64,
    desired: Allocation,
    /// Incremented by every change of the desired state.
    version: u64,
    /// A request started the function and the event is not recorded yet.
    woken: bool,
    replicas: BTreeMap<u64, Arc<Replica>>,
    next_replica: u64,
}

/// Desired state of a function, as of one moment.
#[derive(Debug)]
pub struct Goal {
    /// Replicas, CPU and memory.
    pub allocation: Allocation,
    /// Version of the desired state.
    pub version: u64,
    /// The function file.
    pub spec: Arc<FunctionSpec>,
    /// Version of the function file.
    pub generation: u64,
    /// Whether a request started the function from zero since the last call.
    pub woken: bool,
}

impl ManagedFunction {
    /// A function without replicas.
    #[must_use]
    pub fn new(spec: FunctionSpec, desired: Allocation, unsaved: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            id: spec.id(),
            admission: RequestQueue::new(spec.concurrency, spec.queue),
            logs: Logs::default(),
            gateway_latency: LatencyHistograms::default(),
            stop: CancellationToken::new(),
            counters: AtomicCounters::default(),
            inner: Mutex::new(Inner {
                spec: Arc::new(spec),
                generation: 0,
                desired,
                version: 1,
                woken: false,
                replicas: BTreeMap::new(),
                next_replica: 0,
            }),
            changed: Notify::new(),
            reconciled: watch::Sender::new(0),
            unsaved,
        })
    }

    /// Function file.
    #[must_use]
    pub fn spec(&self) -> Arc<FunctionSpec> {
        Arc::clone(&self.inner().spec)
    }

    /// Desired allocation.
    #[must_use]
    pub fn desired(&self) -> Allocation {
        self.inner().desired
    }

    /// Replicas in the order of their creation.
    #[must_use]
    pub fn replicas(&self) -> Vec<Arc<Replica>> {
        self.inner().replicas.values().cloned().collect()
    }

    /// Actual replicas, with counts by state.
    #[must_use]
    pub fn actual(&self) -> ActualAllocation {
        let mut actual =
            ActualAllocation { replicas: self.replicas().iter().map(|replica| replica.status()).collect(), ..ActualAllocation::default() };
        for replica in &actual.replicas {
            match replica.state {
                ReplicaState::Ready => actual.ready += 1,
                ReplicaState::Starting | ReplicaState::BackOff => actual.starting += 1,
                ReplicaState::Draining => actual.draining += 1,
            }
        }
        actual
    }

    /// Counters for the metrics.
    #[must_use]
    pub fn counted(&self) -> FunctionCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        FunctionCounters {
            arrived: read(&counters.arrived),
            oom_kills: read(&counters.oom_kills),
            crashes: read(&counters.crashes),
            startups: read(&counters.startups),
            startup_time: Duration::from_micros(read(&counters.startup_us)),
        }
    }

    /// Version of the desired state.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.inner().version
    }

    /// Sets the desired allocation; returns the one before.
    pub fn set_desired(&self, desired: Allocation) -> Allocation {
        let mut inner = self.inner();
        let before = std::mem::replace(&mut inner.desired, desired);
        inner.version += 1;
        drop(inner);
        self.changed.notify_one();
        before
    }

    /// Replaces the function file. Each old replica is stopped once a new one is ready.
    pub fn replace(&self, spec: FunctionSpec) {
        self.admission.configure(spec.concurrency, spec.queue);
        let mut inner = self.inner();
        inner.spec = Arc::new(spec);
        inner.generation += 1;
        inner.version += 1;
        drop(inner);
        self.changed.notify_one();
    }

    /// Starts a function from zero for a waiting request: raises the desired replicas from 0 to 1.
    pub fn wake(&self) {
        let mut inner = self.inner();
        if inner.desired.replicas > Replicas(0) {
            return;
        }
        inner.desired.replicas = Replicas(1);
        inner.woken = true;
        inner.version += 1;
        drop(inner);
        self.changed.notify_one();
        self.unsaved.notify_one();
    }

    /// Waits until the reconciler has acted on `version` of the desired state: replicas are started or asked to stop, limits are set.
    pub async fn reconciled(&self, version: u64) {
        // The sender lives as long as the function, so the wait cannot fail.
        drop(self.reconciled.subscribe().wait_for(|reconciled| *reconciled >= version).await);
    }

    /// Counts a request that arrived.
    pub fn count_arrival(&self) {
        self.counters.arrived.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an OOM kill.
    pub fn count_oom_kill(&self) {
        self.counters.oom_kills.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a replica that ended unasked.
    pub fn count_crash(&self) {
        self.counters.crashes.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a replica that became ready after `startup`.
    pub fn count_startup(&self, startup: Duration) {
        self.counters.startups.fetch_add(1, Ordering::Relaxed);
        self.counters.startup_us.fetch_add(u64::try_from(startup.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Desired state to reconcile to. Resets [`Goal::woken`].
    pub fn take_goal(&self) -> Goal {
        let mut inner = self.inner();
        Goal {
            allocation: inner.desired,
            version: inner.version,
            spec: Arc::clone(&inner.spec),
            generation: inner.generation,
            woken: std::mem::take(&mut inner.woken),
        }
    }

    /// Waits for a change of the desired state.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Marks `version` of the desired state as acted on.
    pub fn set_reconciled(&self, version: u64) {
        self.reconciled.send_replace(version);
    }

    /// Adds `replica`; returns the number by which it is removed.
    pub fn add_replica(&self, replica: Arc<Replica>) -> u64 {
        let mut inner = self.inner();
        let number = inner.next_replica;
        inner.next_replica += 1;
        inner.replicas.insert(number, replica);
        number
    }

    /// Removes the replica with this number.
    pub fn remove_replica(&self, number: u64) {
        self.inner().replicas.remove(&number);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Functions {
    /// The function with the key `namespace/name`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Arc<ManagedFunction>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// All functions by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<ManagedFunction>> {
        let mut all: Vec<_> = self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        all.sort_by(|one, other| one.id.cmp(&other.id));
        all
    }

    /// Adds `function`, in place of one with the same name.
    pub fn insert(&self, function: Arc<ManagedFunction>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(function.id.to_string(), function);
    }

    /// Removes the function `id`.
    pub fn remove(&self, id: &FunctionId) -> Option<Arc<ManagedFunction>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&id.to_string())
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Functions")
    }
}
