//! Brings the replicas of a function to its desired allocation. Owns which replicas start and stop; must not change the
//! allocation, except for the one replica that a request starts.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use qscale_common::platform::{EventKind, ReplicaState};
use qscale_common::units::{Allocation, Replicas};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use tracing::error;

use self::lifecycle::Lifecycle;
use crate::function::{Goal, ManagedFunction};
use crate::host::Host;
use crate::replica::{Replica, Resized};

mod lifecycle;

/// Interval of reconciliation without a change: repairs missed changes and retries refused limits.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(1);

/// Keeps the replicas of `function` at the desired allocation until it is stopped; returns when none is left.
pub async fn run(function: Arc<ManagedFunction>, host: Arc<Host>) {
    let mut lives = JoinSet::new();
    let mut ticks = interval(RECONCILE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = function.stop.cancelled() => break,
            () = function.changed() => {}
            Some(ended) = lives.join_next() => forget(&function, ended),
            _ = ticks.tick() => {}
        }
        if function.desired().replicas == Replicas(0) && function.admission.queued() > 0 {
            function.wake();
        }
        let version = reconcile(&function, &host, &mut lives).await;
        function.set_reconciled(version);
    }
    function.admission.shut();
    for replica in function.replicas() {
        replica.stop();
    }
    while let Some(ended) = lives.join_next().await {
        forget(&function, ended);
    }
    function.set_reconciled(u64::MAX);
}

fn forget(function: &ManagedFunction, ended: Result<u64, JoinError>) {
    match ended {
        Ok(number) => function.remove_replica(number),
        Err(error) => error!(function = %function.id, %error, "the task of a replica was cancelled"),
    }
}

/// Starts missing replicas, stops excess ones and sets limits; returns the version of the desired state acted on.
async fn reconcile(function: &Arc<ManagedFunction>, host: &Arc<Host>, lives: &mut JoinSet<u64>) -> u64 {
    let (version, desired, alive) = start_and_stop(function, host, lives);
    resize(function, host, alive, desired).await;
    version
}

fn start_and_stop(function: &Arc<ManagedFunction>, host: &Arc<Host>, lives: &mut JoinSet<u64>) -> (u64, Allocation, Vec<Arc<Replica>>) {
    let Goal { allocation, version, spec, generation, woken } = function.take_goal();
    if woken {
        host.record(&function.id, None, EventKind::StartedFromZero, "a request waits: 0 to 1 replicas");
    }
    let alive: Vec<Arc<Replica>> = function.replicas().into_iter().filter(|replica| !replica.is_stopping()).collect();
    let ranks: Vec<ReplicaRank> = alive.iter().map(|replica| ReplicaRank::of(replica, generation)).collect();
    let plan = plan(&ranks, allocation.replicas.0 as usize);
    for _ in 0..plan.start {
        let replica = Replica::new(host.new_replica_id(&function.id.name), Arc::clone(&spec), generation);
        let number = function.add_replica(Arc::clone(&replica));
        let lifecycle = Lifecycle { replica: Arc::clone(&replica), function: Arc::clone(function), host: Arc::clone(host) };
        lives.spawn(async move {
            if AssertUnwindSafe(lifecycle.run(allocation)).catch_unwind().await.is_err() {
                // The process ended with the task; the next reconciliation replaces the replica.
                error!(replica = replica.id, "the task of a replica panicked");
            }
            number
        });
    }
    for index in &plan.stop {
        alive[*index].stop();
    }
    (version, allocation, alive)
}

/// Properties of a replica that decide whether it is stopped.
#[derive(Debug, Clone, Copy)]
struct ReplicaRank {
    current: bool,
    ready: bool,
    load: u32,
}

impl ReplicaRank {
    fn of(replica: &Replica, generation: u64) -> Self {
        Self { current: replica.generation == generation, ready: replica.phase() == ReplicaState::Ready, load: replica.load() }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct ScalingPlan {
    start: usize,
    stop: Vec<usize>,
}

/// Plans the number of replicas to start and the indices of those to stop, among replicas not stopping already: not ready first, then least
/// loaded, then youngest. Replicas of an old file stay until the same number of new ones is ready.
fn plan(replicas: &[ReplicaRank], desired: usize) -> ScalingPlan {
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
    ScalingPlan { start: desired.saturating_sub(current.len()), stop }
}

async fn resize(function: &Arc<ManagedFunction>, host: &Arc<Host>, replicas: Vec<Arc<Replica>>, desired: Allocation) {
    if host.cgroups.is_none() {
        return;
    }
    let (id, function, host) = (function.id.clone(), Arc::clone(function), Arc::clone(host));
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
        error!(function = %id, %error, "failed to set limits");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(current: bool, ready: bool, load: u32) -> ReplicaRank {
        ReplicaRank { current, ready, load }
    }

    #[track_caller]
    fn check(replicas: &[ReplicaRank], desired: usize, start: usize, stop: &[usize]) {
        assert_eq!(plan(replicas, desired), ScalingPlan { start, stop: stop.to_vec() });
    }

    #[test]
    fn missing_replicas_are_started_and_excess_ones_stopped() {
        check(&[], 3, 3, &[]);
        check(&[view(true, true, 0)], 1, 0, &[]);
        check(&[view(true, true, 0); 3], 1, 0, &[1, 2]);
    }

    #[test]
    fn replicas_that_are_not_ready_stop_first_then_the_least_loaded() {
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
