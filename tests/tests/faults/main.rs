//! A running system under faults: a full disk, damaged files of the nats-server, paused services, clocks that are set, a cut network, other versions.

mod clocks;
mod partitions;
mod pauses;
mod storage;
mod versions;

/// Whether this process may mount disks and create networks. Says that the test is skipped if not.
fn is_root() -> bool {
    // SAFETY: geteuid only reads.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped: only root can do this");
    }
    root
}
