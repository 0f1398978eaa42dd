//! One function: its file, what it shall have, and its replicas. Owns the reconciliation of the two; must not decide how much that is,
//! but for the one replica that a request starts.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use qscale_common::name::FunctionId;
use qscale_common::platform::metrics::Counted;
use qscale_common::platform::{ActualAllocation, EventKind, FunctionSpec, ReplicaState};
use qscale_common::units::{Allocation, Replicas};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::admission::Admission;
use crate::host::Host;
use crate::latency::Latency;
use crate::logs::Logs;
use crate::replica::life::Life;
use crate::replica::{Replica, Resized, Target};

/// How often the function is looked at without cause: it repairs what was missed and tries refused limits again.
const LOOK: Duration = Duration::from_secs(1);

/// One function.
#[derive(Debug)]
pub struct Function {
    /// Which.
    pub id: FunctionId,
    /// Its queue.
    pub admission: Arc<Admission<Arc<Target>>>,
    /// What its replicas wrote.
    pub logs: Logs,
    /// Durations of requests that never reached a replica.
    pub gateway_latency: Latency,
    /// Cancelled when it is deleted or the platform stops.
    pub stop: CancellationToken,
    counters: Counters,
    inner: Mutex<Inner>,
    changed: Notify,
    /// Version of the desired state that was last reconciled.
    reconciled: watch::Sender<u64>,
    /// Told when the desired state was changed from within.
    unsaved: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Counters {
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
    /// Grows with every change of the desired state.
    version: u64,
    /// A request started it and that was not told yet.
    woken: bool,
    replicas: BTreeMap<u64, Arc<Replica>>,
    next_replica: u64,
}

impl Function {
    /// A function without replicas.
    #[must_use]
    pub fn new(spec: FunctionSpec, desired: Allocation, unsaved: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            id: spec.id(),
            admission: Admission::new(spec.concurrency, spec.queue),
            logs: Logs::default(),
            gateway_latency: Latency::default(),
            stop: CancellationToken::new(),
            counters: Counters::default(),
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

    /// Its file.
    #[must_use]
    pub fn spec(&self) -> Arc<FunctionSpec> {
        Arc::clone(&self.inner().spec)
    }

    /// What it shall have.
    #[must_use]
    pub fn desired(&self) -> Allocation {
        self.inner().desired
    }

    /// Its replicas, in the order of their starts.
    #[must_use]
    pub fn replicas(&self) -> Vec<Arc<Replica>> {
        self.inner().replicas.values().cloned().collect()
    }

    /// What it has.
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

    /// What it has counted.
    #[must_use]
    pub fn counted(&self) -> Counted {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        Counted {
            arrived: read(&counters.arrived),
            oom_kills: read(&counters.oom_kills),
            crashes: read(&counters.crashes),
            startups: read(&counters.startups),
            startup_time: Duration::from_micros(read(&counters.startup_us)),
        }
    }

    /// Sets what it shall have; returns the version of that, and what it was to have before.
    pub fn set_desired(&self, desired: Allocation) -> (u64, Allocation) {
        let mut inner = self.inner();
        let before = std::mem::replace(&mut inner.desired, desired);
        inner.version += 1;
        let version = inner.version;
        drop(inner);
        self.changed.notify_one();
        (version, before)
    }

    /// Gives it another file. Replicas of the old one are replaced, each when a new one is ready.
    pub fn replace(&self, spec: FunctionSpec) {
        self.admission.configure(spec.concurrency, spec.queue);
        let mut inner = self.inner();
        inner.spec = Arc::new(spec);
        inner.generation += 1;
        inner.version += 1;
        drop(inner);
        self.changed.notify_one();
    }

    /// A request waits: a function that shall have no replica shall have one from now on.
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

    /// Waits until `version` of the desired state was acted on: replicas are started or asked to stop, limits are set.
    pub async fn reconciled(&self, version: u64) {
        // The sender lives as long as the function, so this ends only when the version is reached.
        drop(self.reconciled.subscribe().wait_for(|reconciled| *reconciled >= version).await);
    }

    /// Counts a request that arrived.
    pub fn count_arrival(&self) {
        self.counters.arrived.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a replica that was killed for memory.
    pub fn count_oom_kill(&self) {
        self.counters.oom_kills.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a replica that ended by itself.
    pub fn count_crash(&self) {
        self.counters.crashes.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a start that took `startup`.
    pub fn count_startup(&self, startup: Duration) {
        self.counters.startups.fetch_add(1, Ordering::Relaxed);
        self.counters.startup_us.fetch_add(u64::try_from(startup.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn forget(&self, ended: Result<u64, JoinError>) {
        match ended {
            Ok(number) => drop(self.inner().replicas.remove(&number)),
            Err(error) => error!(function = %self.id, %error, "the task of a replica was cancelled"),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the replicas of `function` at what is desired until it is stopped; returns when none is left.
pub async fn supervise(function: Arc<Function>, host: Arc<Host>) {
    let mut lives = JoinSet::new();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = function.stop.cancelled() => break,
            () = function.changed.notified() => {}
            Some(ended) = lives.join_next() => function.forget(ended),
            _ = looks.tick() => {}
        }
        if function.desired().replicas == Replicas(0) && function.admission.queued() > 0 {
            function.wake();
        }
        let version = reconcile(&function, &host, &mut lives).await;
        function.reconciled.send_replace(version);
    }
    function.admission.shut();
    for replica in function.replicas() {
        replica.stop();
    }
    while let Some(ended) = lives.join_next().await {
        function.forget(ended);
    }
    function.reconciled.send_replace(u64::MAX);
}

/// Starts what is missing, stops what is too much, sets limits; returns the version of the desired state that it acted on.
async fn reconcile(function: &Arc<Function>, host: &Arc<Host>, lives: &mut JoinSet<u64>) -> u64 {
    let (version, desired, alive) = start_and_stop(function, host, lives);
    resize(function, host, alive, desired).await;
    version
}

fn start_and_stop(function: &Arc<Function>, host: &Arc<Host>, lives: &mut JoinSet<u64>) -> (u64, Allocation, Vec<Arc<Replica>>) {
    let mut inner = function.inner();
    if std::mem::take(&mut inner.woken) {
        host.record(&function.id, None, EventKind::StartedFromZero, "a request waits: 0 to 1 replicas");
    }
    let (desired, version, generation, spec) = (inner.desired, inner.version, inner.generation, Arc::clone(&inner.spec));
    let alive: Vec<Arc<Replica>> = inner.replicas.values().filter(|replica| !replica.is_stopping()).cloned().collect();
    let views: Vec<View> = alive.iter().map(|replica| View::of(replica, generation)).collect();
    let plan = plan(&views, desired.replicas.0 as usize);
    for _ in 0..plan.start {
        let number = inner.next_replica;
        inner.next_replica += 1;
        let replica = Replica::new(host.new_replica_id(&function.id.name), Arc::clone(&spec), generation);
        inner.replicas.insert(number, Arc::clone(&replica));
        let life = Life { replica, function: Arc::clone(function), host: Arc::clone(host) };
        lives.spawn(async move {
            let replica = Arc::clone(&life.replica);
            if AssertUnwindSafe(life.live(desired)).catch_unwind().await.is_err() {
                // Its process ended with the task; another replica takes its place.
                error!(replica = replica.id, "the task of a replica panicked");
            }
            number
        });
    }
    drop(inner);
    for index in &plan.stop {
        alive[*index].stop();
    }
    (version, desired, alive)
}

/// What of a replica decides whether it stays.
#[derive(Debug, Clone, Copy)]
struct View {
    current: bool,
    ready: bool,
    load: u32,
}

impl View {
    fn of(replica: &Replica, generation: u64) -> Self {
        Self { current: replica.generation == generation, ready: replica.phase() == ReplicaState::Ready, load: replica.load() }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Plan {
    start: usize,
    stop: Vec<usize>,
}

/// How many replicas to start, and which of those that are not stopping already to stop: those that serve nobody first, then the least
/// loaded, then the youngest. Replicas of an old file stay until as many of the new one are ready.
fn plan(replicas: &[View], desired: usize) -> Plan {
    let mut current: Vec<usize> = (0..replicas.len()).filter(|index| replicas[*index].current).collect();
    let mut old: Vec<usize> = (0..replicas.len()).filter(|index| !replicas[*index].current).collect();
    let expendable = |index: &usize| (replicas[*index].ready, replicas[*index].load, std::cmp::Reverse(*index));
    current.sort_by_key(expendable);
    old.sort_by_key(expendable);
    let ready = current.iter().filter(|index| replicas[**index].ready).count();
    let old_needed = desired.saturating_sub(ready);
    let too_many_old = old.len().saturating_sub(old_needed);
    let too_many = current.len().saturating_sub(desired);
    let mut stop: Vec<usize> = current.iter().take(too_many).chain(old.iter().take(too_many_old)).copied().collect();
    stop.sort_unstable();
    Plan { start: desired.saturating_sub(current.len()), stop }
}

async fn resize(function: &Arc<Function>, host: &Arc<Host>, replicas: Vec<Arc<Replica>>, desired: Allocation) {
    if host.cgroups.is_none() {
        return;
    }
    let (function, host) = (Arc::clone(function), Arc::clone(host));
    let resized = tokio::task::spawn_blocking(move || {
        for replica in replicas.iter().filter(|replica| !replica.is_stopping()) {
            let (kind, message) = match replica.resize(desired.cpu_millicores, desired.memory_mib) {
                Resized::Changed(change) => (EventKind::ReplicaResized, change),
                Resized::Refused { reason, first: true } => (EventKind::ResizeRefused, reason),
                Resized::Refused { first: false, .. } | Resized::Unchanged => continue,
            };
            host.record(&function.id, Some(&replica.id), kind, message);
        }
    });
    if let Err(error) = resized.await {
        error!(%error, "limits could not be set");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(current: bool, ready: bool, load: u32) -> View {
        View { current, ready, load }
    }

    #[track_caller]
    fn check(replicas: &[View], desired: usize, start: usize, stop: &[usize]) {
        assert_eq!(plan(replicas, desired), Plan { start, stop: stop.to_vec() });
    }

    #[test]
    fn what_is_missing_is_started_and_what_is_too_much_stopped() {
        check(&[], 3, 3, &[]);
        check(&[view(true, true, 0)], 1, 0, &[]);
        check(&[view(true, true, 0); 3], 1, 0, &[1, 2]);
    }

    #[test]
    fn those_that_serve_nobody_stop_first_then_the_least_loaded() {
        check(&[view(true, true, 0), view(true, false, 0), view(true, true, 5)], 2, 0, &[1]);
        check(&[view(true, true, 3), view(true, true, 1), view(true, true, 2)], 2, 0, &[1]);
    }

    #[test]
    fn an_old_file_serves_until_the_new_one_is_ready() {
        check(&[view(false, true, 0), view(false, true, 0)], 2, 2, &[]);
        check(&[view(false, true, 1), view(false, true, 0), view(true, true, 0), view(true, false, 0)], 2, 0, &[1]);
        check(&[view(false, true, 1), view(true, true, 0), view(true, true, 0)], 2, 0, &[0]);
        check(&[view(false, true, 1)], 0, 0, &[0]);
    }
}
