//! SIGINT and SIGTERM as an end that still stops what was started: waits fail, so that values are dropped. Owns the handler.

use std::sync::atomic::{AtomicBool, Ordering};

static ARRIVED: AtomicBool = AtomicBool::new(false);

/// From now on, the first of these signals is only noted; the next one ends the process at once.
pub fn catch() {
    extern "C" fn note(signal: libc::c_int) {
        ARRIVED.store(true, Ordering::Relaxed);
        // SAFETY: signal is async-signal-safe.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic and calls what is async-signal-safe.
        unsafe { libc::signal(signal, note as *const () as libc::sighandler_t) };
    }
}

/// Whether one of them arrived.
#[must_use]
pub fn arrived() -> bool {
    ARRIVED.load(Ordering::Relaxed)
}
