//! What all functions of the platform share.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use qscale_common::name::{FunctionId, Name};
use qscale_common::platform::EventKind;
use qscale_common::runtime::clock;
use qscale_common::runtime::platform::events::Events;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::cgroup::Cgroups;
use crate::ports::Ports;
use crate::process::Spawner;

/// The machine, as functions see it.
#[derive(Debug)]
pub struct Host {
    /// Starts processes.
    pub spawner: Spawner,
    /// Ports of replicas.
    pub ports: Arc<Ports>,
    /// Where limits are set; none where they cannot be.
    pub cgroups: Option<Cgroups>,
    /// What happened.
    pub events: Events,
    /// State folder, by which orphans are known.
    pub state_dir: PathBuf,
    /// Time between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
    /// Cancelled when there is no more time to be graceful.
    pub hurry: CancellationToken,
    /// Connections that clients of the gateway may still open.
    pub client_connections: Arc<Semaphore>,
    /// Number of the next replica, and of this run of the platform, so that ids do not come back.
    replicas: AtomicU64,
    run: u64,
}

impl Host {
    /// A host that has not started anything.
    #[must_use]
    pub fn new(
        spawner: Spawner,
        ports: Arc<Ports>,
        cgroups: Option<Cgroups>,
        state_dir: PathBuf,
        kill_grace: Duration,
        hurry: CancellationToken,
        client_connections: usize,
    ) -> Self {
        let now = clock::now();
        let run = now.0 / 1_000 % (1 << 20);
        let events = Events::new(now);
        let client_connections = Arc::new(Semaphore::new(client_connections));
        Self { spawner, ports, cgroups, events, state_dir, kill_grace, hurry, client_connections, replicas: AtomicU64::new(1), run }
    }

    /// An id for a new replica of the function `name`.
    #[must_use]
    pub fn new_replica_id(&self, name: &Name) -> String {
        format!("{name}-{:05x}-{}", self.run, self.replicas.fetch_add(1, Ordering::Relaxed))
    }

    /// Records that something happened now.
    pub fn record(&self, function: &FunctionId, replica: Option<&str>, kind: EventKind, message: impl Into<String>) {
        let message = message.into();
        info!(%function, replica, event = ?kind, "{message}");
        self.events.record(clock::now(), function, replica, kind, message);
    }

    /// The mark by which a successor knows the processes of this platform.
    #[must_use]
    pub fn mark(&self) -> (OsString, OsString) {
        (crate::orphans::MARK.into(), self.state_dir.clone().into_os_string())
    }
}
