//! A running system under faults: a full disk, damaged files of the nats-server, paused services, clocks that are set, a cut network, other versions.

mod clocks;
mod partitions;
mod pauses;
mod storage;
mod versions;

use qscale_common::contract::{Effect, EventType, Outcome, subject};
use qscale_common::runtime::bus::Subscription;
use qscale_tests::TIMEOUT;
use qscale_tests::watched::Watched;

/// Whether this process may mount disks and create networks. Says that the test is skipped if not.
fn is_root() -> bool {
    // SAFETY: geteuid only reads.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped: only root can do this");
    }
    root
}

/// All Outcomes of a system.
async fn outcomes(watched: &Watched) -> Subscription<Outcome> {
    watched.system.bus().await.subscribe(subject::all(EventType::Outcome), None).await.expect("operators may listen")
}

/// Waits for `count` Outcomes of the actuator whose name does, or does not, begin with `standby`; no other one may publish an Outcome of a decision
/// that it took later.
async fn only_acts(outcomes: &mut Subscription<Outcome>, watched: &Watched, standby: bool, count: usize) {
    let (mut seen, mut since) = (0, None);
    while seen < count {
        let next = tokio::time::timeout(TIMEOUT, outcomes.next()).await;
        let Ok(Some(received)) = next else { panic!("no Outcome of the standby ({standby}):\n{}", watched.system.tail()) };
        let outcome = received.message;
        let applied = matches!(outcome.effect, Effect::Applied | Effect::Changed | Effect::Unchanged);
        if outcome.actuator.starts_with("standby") == standby {
            since.get_or_insert(outcome.decided_at_ms);
            seen += usize::from(applied);
        } else if let Some(since) = since {
            assert!(!applied || outcome.decided_at_ms < since, "two actuators act: {outcome:?}");
        }
    }
}
