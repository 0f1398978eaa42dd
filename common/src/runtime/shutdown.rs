//! Graceful stop: one token, cancelled by a signal.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled on SIGINT, SIGTERM, and on SIGHUP unless it is ignored (nohup). A second signal ends the process at once.
///
/// # Panics
/// If called outside a tokio runtime.
#[must_use]
pub fn token() -> CancellationToken {
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        wait().await;
        cancelled.cancel();
        wait().await;
        std::process::exit(130);
    });
    token
}

async fn wait() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        // Without handlers the signals end the process, which is their default.
        return std::future::pending().await;
    };
    let mut hangup = hangup();
    let hung_up = async {
        match &mut hangup {
            Some(hangup) => hangup.recv().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hung_up => {}
    }
}

/// SIGHUP, unless it is ignored: then the process must outlive its terminal.
fn hangup() -> Option<Signal> {
    // SAFETY: sigaction without a new action only writes the current one to our memory.
    let ignored = unsafe {
        let mut present: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut present) == 0 && present.sa_sigaction == libc::SIG_IGN
    };
    if ignored { None } else { signal(SignalKind::hangup()).ok() }
}
