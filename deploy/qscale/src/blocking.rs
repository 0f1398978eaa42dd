//! Long work that computes, off the threads that wait. Owns how Ctrl-C reaches it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use qscale_common::runtime::shutdown;
use tokio_util::sync::CancellationToken;

/// Does `work`, which is called `what`. On Ctrl-C the flag that it is given turns true, and its end is waited for.
pub async fn until_stopped<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce(&AtomicBool) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    until_cancelled(&shutdown::token(), what, work).await
}

/// Does `work`, which is called `what`. Once `token` is cancelled the flag that it is given turns true, and its end is waited for.
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
    ended.with_context(|| format!("the {what} broke off"))?
}
