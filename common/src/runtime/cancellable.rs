//! Long computations off the runtime's threads. Owns how cancellation reaches them; must not compute anything itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::shutdown;

/// Runs `work` on a blocking thread; Ctrl-C sets the flag passed to it, and its end is awaited. `what` names the work in errors.
///
/// # Errors
/// The error of `work`, or when it panics.
pub async fn until_stopped<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce(&AtomicBool) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    until_cancelled(&shutdown::token(), what, work).await
}

/// Runs `work` on a blocking thread; cancelling `token` sets the flag passed to it, and its end is awaited. `what`
/// names the work in errors.
///
/// # Errors
/// The error of `work`, or when it panics.
pub async fn until_cancelled<T: Send + 'static>(
    token: &CancellationToken,
    what: &'static str,
    work: impl FnOnce(&AtomicBool) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let work = tokio::task::spawn_blocking(move || work(&stopped));
    tokio::pin!(work);
    let ended = tokio::select! {
        ended = &mut work => ended,
        () = token.cancelled() => {
            stop.store(true, Ordering::Relaxed);
            work.await
        }
    };
    ended.with_context(|| format!("{what} panicked"))?
}
