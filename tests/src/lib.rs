//! What the tests of several crates need: a real nats-server of their own, folders that vanish, and waiting without sleeping for luck.

pub mod nats;
pub mod process;
pub mod system;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use nats::NatsServer;
pub use process::Program;
pub use system::System;

/// Long enough for anything that works, on a busy machine; only what hangs reaches it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` yields something.
///
/// # Panics
/// When it does not within [`PATIENCE`]; `what` says what was waited for.
#[track_caller]
pub fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, condition)
}

/// As [`eventually`], with a patience of its own.
///
/// # Panics
/// When the condition yields nothing within `patience`.
#[track_caller]
pub fn within<T>(patience: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = qscale_common::runtime::clock::instant();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(qscale_common::runtime::clock::since(began) < patience, "waited {patience:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// As [`eventually`], for conditions that wait themselves.
///
/// # Panics
/// When the condition yields nothing within [`PATIENCE`].
pub async fn eventually_async<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let began = qscale_common::runtime::clock::instant();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(qscale_common::runtime::clock::since(began) < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A folder of its own for a test, removed when dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// A new, empty folder.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(purpose: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("qscale-{purpose}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder can be made");
        Self(path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that cannot be removed is left to the system's cleaning of temporary files.
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

/// Root of the repository, for tests that need its files.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies within the repository").to_owned()
}
