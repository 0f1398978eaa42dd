//! Brings the replicas of a function to its desired allocation. Owns which replicas start and stop; must not change the allocation, except for the
//! one replica that a request starts.

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
use crate::function::{Function, Goal};
use crate::host::Host;
use crate::replica::{Replica, Resized};

mod lifecycle;

/// How often the function is looked at without cause: it repairs what was missed and tries refused limits again.
const LOOK: Duration = Duration::from_secs(1);

/// Keeps the replicas of `function` at the desired allocation until it is stopped; returns when none is left.
pub async fn run(function: Arc<Function>, host: Arc<Host>) {
    let mut lives = JoinSet::new();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = function.stop.cancelled() => break,
            () = function.changed() => {}
            Some(ended) = lives.join_next() => forget(&function, ended),
            _ = looks.tick() => {}
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

fn forget(function: &Function, ended: Result<u64, JoinError>) {
    match ended {
        Ok(number) => function.remove_replica(number),
        Err(error) => error!(function = %function.id, %error, "the task of a replica was cancelled"),
    }
}

/// Starts what is missing, stops what is too much, sets limits; returns the version of the desired state that it acted on.
async fn reconcile(function: &Arc<Function>, host: &Arc<Host>, lives: &mut JoinSet<u64>) -> u64 {
    let (version, desired, alive) = start_and_stop(function, host, lives);
    resize(function, host, alive, desired).await;
    version
}

fn start_and_stop(function: &Arc<Function>, host: &Arc<Host>, lives: &mut JoinSet<u64>) -> (u64, Allocation, Vec<Arc<Replica>>) {
    let Goal { allocation, version, spec, generation, woken } = function.take_goal();
    if woken {
        host.record(&function.id, None, EventKind::StartedFromZero, "a request waits: 0 to 1 replicas");
    }
    let alive: Vec<Arc<Replica>> = function.replicas().into_iter().filter(|replica| !replica.is_stopping()).collect();
    let views: Vec<View> = alive.iter().map(|replica| View::of(replica, generation)).collect();
    let plan = plan(&views, allocation.replicas.0 as usize);
    for _ in 0..plan.start {
        let replica = Replica::new(host.new_replica_id(&function.id.name), Arc::clone(&spec), generation);
        let number = function.add_replica(Arc::clone(&replica));
        let lifecycle = Lifecycle { replica: Arc::clone(&replica), function: Arc::clone(function), host: Arc::clone(host) };
        lives.spawn(async move {
            if AssertUnwindSafe(lifecycle.run(allocation)).catch_unwind().await.is_err() {
                // Its process ended with the task; another replica takes its place.
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
