//! Graceful stop: tokens cancelled by signals.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Time within which signals count as one, because a terminal and a parent process may both send one.
const SIGNAL_WINDOW: Duration = Duration::from_secs(1);

/// A token that is cancelled on SIGINT, SIGTERM, and on SIGHUP unless it is ignored (nohup). A second signal ends the process at once.
///
/// # Panics
/// If called outside a tokio runtime.
#[must_use]
pub fn token() -> CancellationToken {
    let token = CancellationToken::new();
    let cancelled = token.clone();
    let mut signals = Signals::new();
    tokio::spawn(async move {
        signals.next().await;
        cancelled.cancel();
        signals.next().await;
        std::process::exit(130);
    });
    token
}

/// Two tokens for a process that must finish its work itself: the first signal cancels the first token, a signal at
/// least 1 s later the second one. The signals are those of [`token`]; none of them ends the process.
///
/// # Panics
/// If called outside a tokio runtime.
#[must_use]
pub fn stop_and_abort() -> (CancellationToken, CancellationToken) {
    let tokens = (CancellationToken::new(), CancellationToken::new());
    let (stop, abort) = tokens.clone();
    let mut signals = Signals::new();
    tokio::spawn(async move {
        signals.next().await;
        stop.cancel();
        let window = tokio::time::sleep(SIGNAL_WINDOW);
        tokio::pin!(window);
        loop {
            tokio::select! {
                biased;
                () = &mut window => break,
                () = signals.next() => {}
            }
        }
        signals.next().await;
        abort.cancel();
    });
    tokens
}

/// Handlers of the signals that end a process. A signal without a handler, which cannot be installed, ends the process,
/// which is its default.
struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> Self {
        let handler = |kind| signal(kind).ok();
        let hangup = if hangup_is_ignored() { None } else { handler(SignalKind::hangup()) };
        Self { interrupt: handler(SignalKind::interrupt()), terminate: handler(SignalKind::terminate()), hangup }
    }

    async fn next(&mut self) {
        tokio::select! {
            () = received(&mut self.interrupt) => {}
            () = received(&mut self.terminate) => {}
            () = received(&mut self.hangup) => {}
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => _ = signal.recv().await,
        None => std::future::pending().await,
    }
}

/// Whether SIGHUP is ignored: then the process must outlive its terminal.
fn hangup_is_ignored() -> bool {
    // SAFETY: sigaction without a new action only writes the current one to our memory.
    unsafe {
        let mut present: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut present) == 0 && present.sa_sigaction == libc::SIG_IGN
    }
}
