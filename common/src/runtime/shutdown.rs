//! Graceful stop: one token, cancelled when the service is asked to end.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled on SIGINT, SIGTERM, or SIGHUP where that is not ignored (nohup). A second signal ends the process at once, for a stop that hangs.
///
/// # Panics
/// When called outside a tokio runtime.
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
        // Without handlers the signals keep their default effect, which ends the process.
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

/// SIGHUP, unless whoever started this process had it ignored: then the process is to outlive its terminal.
fn hangup() -> Option<Signal> {
    // SAFETY: sigaction with no new action only reads the present one into memory of ours.
    let ignored = unsafe {
        let mut present: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut present) == 0 && present.sa_sigaction == libc::SIG_IGN
    };
    if ignored { None } else { signal(SignalKind::hangup()).ok() }
}
