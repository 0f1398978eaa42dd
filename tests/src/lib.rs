//! Shared test support: a real nats-server per test, temporary folders, and waiting for conditions instead of sleeping.

pub mod cluster;
pub mod command;
pub mod nats;
pub mod process;
pub mod prometheus;
pub mod signals;
pub mod source;
pub mod system;
pub mod watched;

use std::future::Future;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

pub use cluster::{Cluster, RealNode};
pub use command::CommandResult;
pub use nats::NatsServer;
pub use process::Program;
use qscale_common::contract::Message;
use qscale_common::runtime::bus::Subscription;
use qscale_common::runtime::clock;
pub use system::System;

/// Timeout of every wait. Long enough for a busy machine; only a hang reaches it.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until `condition` returns a value.
///
/// # Panics
/// When it does not within [`TIMEOUT`]; `what` describes the condition.
#[track_caller]
pub fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(TIMEOUT, what, condition)
}

/// Like [`eventually`], with another timeout.
///
/// # Panics
/// When the condition returns no value within `timeout`.
#[track_caller]
pub fn within<T>(timeout: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = clock::instant();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(clock::since(began) < timeout, "timeout after {timeout:?}: {what}");
        assert!(!signals::arrived(), "ended by a signal during: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Like [`eventually`], for asynchronous conditions.
///
/// # Panics
/// When the condition returns no value within [`TIMEOUT`].
pub async fn eventually_async<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let began = clock::instant();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(clock::since(began) < TIMEOUT, "timeout after {TIMEOUT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The first of `messages` that `accept` accepts; `None` if none arrives within [`TIMEOUT`].
pub async fn first<M: Message + Send + 'static>(messages: &mut Subscription<M>, accept: impl Fn(&M) -> bool) -> Option<M> {
    let search = async {
        while let Some(received) = messages.next().await {
            if accept(&received.message) {
                return Some(received.message);
            }
        }
        None
    };
    tokio::time::timeout(TIMEOUT, search).await.ok().flatten()
}

/// A port of the loopback interface that no other call returned, below those that Linux gives to connections: it stays free until the program that gets it
/// binds it.
///
/// # Panics
/// When no port is free.
pub fn free_port() -> u16 {
    const FIRST: u16 = 8_800;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test programs that run at the same time begin at different ports.
    let offset = u16::try_from(std::process::id() % 30).unwrap_or(0) * 100;
    (0..3_000)
        .map(|_| FIRST + (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % 3_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// A temporary folder of a test, removed when dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// A new, empty folder.
    ///
    /// # Panics
    /// When it cannot be created.
    #[must_use]
    pub fn new(purpose: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("qscale-{purpose}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder can be created");
        Self(path)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The operating system cleans up temporary folders that cannot be removed.
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

/// Root of the repository, for tests that need its files.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies within the repository").to_owned()
}
