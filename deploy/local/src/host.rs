//! Resources that all functions of the platform share: processes, ports, cgroups, events. Owns replica ids.

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
use crate::sandbox::Sandbox;

/// Shared resources of the platform.
#[derive(Debug)]
pub struct Host {
    /// Process spawner.
    pub spawner: Spawner,
    /// Ports of replicas.
    pub ports: Arc<Ports>,
    /// Parent of the replicas' cgroups; `None` where limits cannot be set.
    pub cgroups: Option<Cgroups>,
    /// Recorded events.
    pub events: Events,
    /// Isolation of the functions.
    pub sandbox: Arc<Sandbox>,
    /// Time between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
    /// Cancelled to kill the remaining replicas without a grace period.
    pub abort: CancellationToken,
    /// Connections that clients of the gateway may still open.
    pub client_connections: Arc<Semaphore>,
    /// Number of the next replica, and of this run of the platform, which make ids unique across restarts.
    replicas: AtomicU64,
    run: u64,
}

impl Host {
    /// Resources of a platform without replicas.
    #[must_use]
    pub fn new(
        spawner: Spawner,
        ports: Arc<Ports>,
        cgroups: Option<Cgroups>,
        sandbox: Sandbox,
        kill_grace: Duration,
        abort: CancellationToken,
        client_connections: usize,
    ) -> Self {
        let now = clock::now();
        let run = now.0 / 1_000 % (1 << 20);
        let events = Events::new(now);
        let client_connections = Arc::new(Semaphore::new(client_connections));
        let sandbox = Arc::new(sandbox);
        Self { spawner, ports, cgroups, events, sandbox, kill_grace, abort, client_connections, replicas: AtomicU64::new(1), run }
    }

    /// Unique id for a new replica of the function `name`.
    #[must_use]
    pub fn new_replica_id(&self, name: &Name) -> String {
        format!("{name}-{:05x}-{}", self.run, self.replicas.fetch_add(1, Ordering::Relaxed))
    }

    /// Records and logs an event.
    pub fn record(&self, function: &FunctionId, replica: Option<&str>, kind: EventKind, message: impl Into<String>) {
        let message = message.into();
        info!(%function, replica, event = ?kind, "{message}");
        self.events.record(clock::now(), function, replica, kind, message);
    }
}
