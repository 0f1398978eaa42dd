//! The platform: its functions and what may be done with them. Owns which functions there are, the order of leases, and what is saved when.

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use qscale_common::name::FunctionId;
use qscale_common::platform::{AllocationReply, AllocationRequest, EventKind, FunctionSpec, FunctionStatus, Limits, LogLine, OutOfRange};
use qscale_common::runtime::platform::api::{self, Refused};
use qscale_common::runtime::platform::events::Events;
use qscale_common::units::Allocation;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::function::{Function, supervise};
use crate::gateway::{self, Destination, route::FUNCTION_HEADER};
use crate::host::Host;
use crate::metrics;
use crate::state::{Saved, SavedFunction, StateDir};

/// Longest time that a reply to a new allocation waits for it to be acted on.
const ACTED_ON: Duration = Duration::from_secs(2);

/// The functions by `namespace/name`; cheap to clone and to look into.
#[derive(Clone, Default)]
pub struct Functions(Arc<RwLock<HashMap<String, Arc<Function>>>>);

/// The platform.
#[derive(Debug)]
pub struct Platform {
    /// The machine.
    pub host: Arc<Host>,
    /// The functions.
    pub functions: Functions,
    gateway: SocketAddr,
    limits: Limits,
    state: Arc<StateDir>,
    highest_lease: Mutex<u64>,
    listeners: Mutex<HashMap<String, Listening>>,
    /// Held while functions are added or deleted, so that these happen one after the other.
    editing: tokio::sync::Mutex<()>,
    saving: tokio::sync::Mutex<()>,
    unsaved: Arc<Notify>,
    tasks: TaskTracker,
}

/// A function's own port.
#[derive(Debug)]
struct Listening {
    port: u16,
    stop: CancellationToken,
}

impl Functions {
    /// The function with the key `namespace/name`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Arc<Function>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// All functions by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Function>> {
        let mut all: Vec<_> = self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        all.sort_by(|one, other| one.id.cmp(&other.id));
        all
    }

    fn insert(&self, function: Arc<Function>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(function.id.to_string(), function);
    }

    fn remove(&self, id: &FunctionId) -> Option<Arc<Function>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&id.to_string())
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Functions")
    }
}

impl Platform {
    /// A platform without functions, whose gateway is at `gateway`.
    #[must_use]
    pub fn new(host: Arc<Host>, state: StateDir, limits: Limits, gateway: SocketAddr) -> Arc<Self> {
        let platform = Arc::new(Self {
            host,
            functions: Functions::default(),
            gateway,
            limits,
            state: Arc::new(state),
            highest_lease: Mutex::new(0),
            listeners: Mutex::default(),
            editing: tokio::sync::Mutex::default(),
            saving: tokio::sync::Mutex::default(),
            unsaved: Arc::default(),
            tasks: TaskTracker::new(),
        });
        tokio::spawn(save_when_told(Arc::downgrade(&platform), Arc::clone(&platform.unsaved)));
        platform
    }

    /// Takes up the functions that were saved. One whose own port is taken by another program runs without it.
    pub async fn restore(&self, saved: Saved) {
        *self.lease() = saved.highest_lease;
        for SavedFunction { spec, desired } in saved.functions {
            let listener = match self.bind(spec.listen).await {
                Ok(listener) => listener,
                Err(error) => {
                    error!(function = %spec.id(), %error, "restored without its own port");
                    None
                }
            };
            self.start(spec, desired, listener);
        }
    }

    fn allocation_reply(&self, function: &Function, request: &AllocationRequest) -> AllocationReply {
        let status = self.status(function);
        let mut warnings = Vec::new();
        if !status.vertical && (request.cpu_millicores.is_some() || request.memory_mib.is_some()) {
            warnings.push("cpu_millicores and memory_mib have no effect: limits cannot be set on this machine".to_owned());
        }
        let refused =
            status.actual.replicas.iter().filter_map(|replica| Some(format!("{}: {}", replica.id, replica.resize_pending.as_ref()?)));
        warnings.extend(refused);
        AllocationReply { function: status, warnings }
    }

    /// Sets what `function` shall have unless `lease` is below the highest that was seen. Both under one lock, so that no older writer
    /// comes between. Returns the version, what was desired before, and whether the lease is a new highest.
    fn set_fenced(&self, function: &Function, desired: Allocation, lease: Option<u64>) -> Result<(u64, Allocation, bool), Refused> {
        let mut highest = self.lease();
        if let Some(lease) = lease.filter(|lease| *lease < *highest) {
            let refused = Refused::StaleLease { lease, highest: *highest };
            drop(highest);
            self.host.record(&function.id, None, EventKind::StaleLease, refused.to_string());
            return Err(refused);
        }
        let grew = lease.is_some_and(|lease| lease > *highest);
        *highest = lease.unwrap_or_default().max(*highest);
        let (version, before) = function.set_desired(desired);
        Ok((version, before, grew))
    }

    /// A function as the API shows it.
    #[must_use]
    pub fn status(&self, function: &Function) -> FunctionStatus {
        let (spec, counted) = (function.spec(), function.counted());
        let gateway = match spec.listen {
            Some(port) => format!("127.0.0.1:{port}"),
            None => format!("{} ({}.{} or {FUNCTION_HEADER}: {})", self.gateway, function.id.name, function.id.namespace, function.id),
        };
        FunctionStatus {
            spec: FunctionSpec::clone(&spec),
            desired: function.desired(),
            actual: function.actual(),
            vertical: self.host.cgroups.is_some(),
            queued: u32::try_from(function.admission.queued()).unwrap_or(u32::MAX),
            oom_kills: counted.oom_kills,
            crashes: counted.crashes,
            gateway,
        }
    }

    /// Stops every function; returns when no replica is left. What they shall have stays saved.
    pub async fn stop(&self) {
        for function in self.functions.all() {
            function.stop.cancel();
        }
        for (_, listening) in lock(&self.listeners).drain() {
            listening.stop.cancel();
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn start(&self, spec: FunctionSpec, desired: Allocation, listener: Option<TcpListener>) -> Arc<Function> {
        let function = Function::new(spec, desired, Arc::clone(&self.unsaved));
        self.functions.insert(Arc::clone(&function));
        self.tasks.spawn(supervise(Arc::clone(&function), Arc::clone(&self.host)));
        self.listen(&function, listener);
        function
    }

    async fn bind(&self, port: Option<u16>) -> Result<Option<TcpListener>, Refused> {
        let Some(port) = port else { return Ok(None) };
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        bound.map(Some).map_err(|error| OutOfRange::new("listen", port, format_args!("a port that is free on loopback ({error})")).into())
    }

    async fn move_listener(&self, function: &Arc<Function>, port: Option<u16>) -> Result<(), Refused> {
        let key = function.id.to_string();
        if lock(&self.listeners).get(&key).map(|listening| listening.port) == port {
            return Ok(());
        }
        let listener = self.bind(port).await?;
        if let Some(listening) = lock(&self.listeners).remove(&key) {
            listening.stop.cancel();
        }
        self.listen(function, listener);
        Ok(())
    }

    fn listen(&self, function: &Arc<Function>, listener: Option<TcpListener>) {
        let (Some(listener), Some(port)) = (listener, function.spec().listen) else { return };
        let stop = CancellationToken::new();
        lock(&self.listeners).insert(function.id.to_string(), Listening { port, stop: stop.clone() });
        self.tasks.spawn(gateway::serve(listener, Destination::One(Arc::clone(function)), stop, Arc::clone(&self.host)));
    }

    async fn save(&self) -> Result<(), Refused> {
        let _saving = self.saving.lock().await;
        let functions = self.functions.all();
        let functions =
            functions.iter().map(|function| SavedFunction { spec: FunctionSpec::clone(&function.spec()), desired: function.desired() });
        let saved = Saved::new(*self.lease(), functions.collect());
        let state = Arc::clone(&self.state);
        let written =
            tokio::task::spawn_blocking(move || state.save(&saved)).await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        written.map_err(|error| {
            error!(%error, "the state cannot be saved; what was changed is in force, and lost when the platform restarts");
            Refused::Unavailable(format!("in force, but it cannot be saved: {error}"))
        })
    }

    fn lease(&self) -> MutexGuard<'_, u64> {
        lock(&self.highest_lease)
    }
}

impl api::Platform for Platform {
    fn list(&self) -> Vec<FunctionStatus> {
        self.functions.all().iter().map(|function| self.status(function)).collect()
    }

    fn get(&self, id: &FunctionId) -> Option<FunctionStatus> {
        self.functions.get(&id.to_string()).map(|function| self.status(&function))
    }

    async fn add(&self, spec: FunctionSpec) -> Result<FunctionStatus, Refused> {
        spec.validate()?;
        if let Some(simulated) = &spec.simulated {
            return Err(OutOfRange::new("simulated", simulated, "left out: this platform runs processes").into());
        }
        let desired = Allocation::from(spec.allocation);
        self.limits.check(&desired, "allocation.")?;
        let _editing = self.editing.lock().await;
        let id = spec.id();
        let function = match self.functions.get(&id.to_string()) {
            Some(function) if *function.spec() == spec => return Ok(self.status(&function)),
            Some(function) => {
                self.move_listener(&function, spec.listen).await?;
                function.replace(spec);
                self.host.record(&id, None, EventKind::FunctionReplaced, "file replaced");
                function
            }
            None => {
                let count = self.functions.all().len();
                if count >= self.limits.functions as usize {
                    return Err(Refused::Unavailable(format!("functions = {}, must be at most {}", count + 1, self.limits.functions)));
                }
                let listener = self.bind(spec.listen).await?;
                self.host.record(&id, None, EventKind::FunctionAdded, format!("added with {desired}"));
                self.start(spec, desired, listener)
            }
        };
        self.save().await?;
        Ok(self.status(&function))
    }

    async fn delete(&self, id: &FunctionId) -> Result<(), Refused> {
        let editing = self.editing.lock().await;
        let function = self.functions.remove(id).ok_or_else(|| Refused::NotFound(id.clone()))?;
        if let Some(listening) = lock(&self.listeners).remove(&id.to_string()) {
            listening.stop.cancel();
        }
        function.stop.cancel();
        self.host.record(id, None, EventKind::FunctionDeleted, "deleted");
        let saved = self.save().await;
        drop(editing);
        function.reconciled(u64::MAX).await;
        saved
    }

    async fn set_allocation(&self, id: &FunctionId, request: &AllocationRequest) -> Result<AllocationReply, Refused> {
        let function = self.functions.get(&id.to_string()).ok_or_else(|| Refused::NotFound(id.clone()))?;
        let before = function.desired();
        let desired = Allocation {
            replicas: request.replicas,
            cpu_millicores: request.cpu_millicores.unwrap_or(before.cpu_millicores),
            memory_mib: request.memory_mib.unwrap_or(before.memory_mib),
        };
        self.limits.check(&desired, "")?;
        let (version, before, lease_grew) = self.set_fenced(&function, desired, request.lease)?;
        if before != desired {
            self.host.record(id, None, EventKind::AllocationSet, format!("{before} to {desired}"));
        }
        if lease_grew || before != desired {
            self.save().await?;
        }
        // A reply that comes early shows less, which is no error.
        drop(tokio::time::timeout(ACTED_ON, function.reconciled(version)).await);
        Ok(self.allocation_reply(&function, request))
    }

    fn logs(&self, id: &FunctionId, lines: usize) -> Option<Vec<LogLine>> {
        Some(self.functions.get(&id.to_string())?.logs.tail(lines))
    }

    fn events(&self) -> &Events {
        &self.host.events
    }

    fn metrics(&self) -> String {
        metrics::render(self)
    }
}

/// Saves what changed without a request to the API: a function that was started from zero.
async fn save_when_told(platform: std::sync::Weak<Platform>, unsaved: Arc<Notify>) {
    loop {
        unsaved.notified().await;
        let Some(platform) = platform.upgrade() else { return };
        // It was logged; the next change tries again.
        drop(platform.save().await);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
