//! The local platform behind the API. Owns the list of functions, their own ports and the saved state.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qscale_common::name::FunctionId;
use qscale_common::platform::{EventKind, FunctionSpec, FunctionStatus, Isolation, Limits, LogLine, MAX_LEASE};
use qscale_common::range::OutOfRange;
use qscale_common::runtime::platform::api::{self, Platform as _, Refused};
use qscale_common::runtime::platform::events::Events;
use qscale_common::runtime::platform::operations::OperationControl;
use qscale_common::units::Allocation;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::function::{Functions, ManagedFunction};
use crate::gateway::{self, ListenerTarget, route::FUNCTION_HEADER};
use crate::host::Host;
use crate::metrics;
use crate::reconciler;
use crate::state::{PlatformStateDir, Saved, SavedFunction};

/// Longest wait for a new allocation to be acted on before the API replies.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// The platform.
#[derive(Debug)]
pub struct LocalPlatform {
    /// Shared resources.
    pub host: Arc<Host>,
    /// Functions of the platform.
    pub functions: Functions,
    gateway: SocketAddr,
    control: OperationControl,
    state: Arc<PlatformStateDir>,
    listeners: Mutex<HashMap<String, Listening>>,
    saving: tokio::sync::Mutex<()>,
    unsaved: Arc<Notify>,
    tasks: TaskTracker,
}

/// Listener on a function's own port.
#[derive(Debug)]
struct Listening {
    port: u16,
    stop: CancellationToken,
}

impl LocalPlatform {
    /// A platform without functions. `gateway` is the address of the gateway.
    #[must_use]
    pub fn new(host: Arc<Host>, state: PlatformStateDir, limits: Limits, gateway: SocketAddr) -> Arc<Self> {
        let platform = Arc::new(Self {
            host,
            functions: Functions::default(),
            gateway,
            control: OperationControl::new(limits, metrics::capacity(), 0),
            state: Arc::new(state),
            listeners: Mutex::default(),
            saving: tokio::sync::Mutex::default(),
            unsaved: Arc::default(),
            tasks: TaskTracker::new(),
        });
        tokio::spawn(save_on_notice(Arc::downgrade(&platform), Arc::clone(&platform.unsaved)));
        platform
    }

    /// Starts the saved functions. One whose own port is taken by another program runs without it.
    pub async fn restore(&self, saved: Saved) {
        if saved.highest_lease > MAX_LEASE {
            warn!(
                lease = saved.highest_lease,
                "the highest lease is above that of any actuator, so all are refused; `qscale platform reset-lease` replaces it"
            );
        }
        self.control.raise_lease(saved.highest_lease);
        for SavedFunction { spec, desired } in saved.functions {
            let listener = match self.bind(spec.listen).await {
                Ok(listener) => listener,
                Err(error) => {
                    error!(function = %spec.id(), %error, "failed to listen on the function's own port; restored without it");
                    None
                }
            };
            self.start(spec, desired, listener);
        }
    }

    /// Stops every function; returns when no replica is left. The saved state is unchanged.
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

    fn start(&self, spec: FunctionSpec, desired: Allocation, listener: Option<TcpListener>) -> Arc<ManagedFunction> {
        let port = spec.listen;
        let function = ManagedFunction::new(spec, desired, Arc::clone(&self.unsaved));
        self.functions.insert(Arc::clone(&function));
        self.tasks.spawn(reconciler::run(Arc::clone(&function), Arc::clone(&self.host)));
        self.listen(&function, port, listener);
        function
    }

    async fn bind(&self, port: Option<u16>) -> Result<Option<TcpListener>, Refused> {
        let Some(port) = port else { return Ok(None) };
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        bound.map(Some).map_err(|error| OutOfRange::new("listen", port, format_args!("a free loopback port ({error})")).into())
    }

    async fn move_listener(&self, function: &Arc<ManagedFunction>, port: Option<u16>) -> Result<(), Refused> {
        let key = function.id.to_string();
        if lock(&self.listeners).get(&key).map(|listening| listening.port) == port {
            return Ok(());
        }
        let listener = self.bind(port).await?;
        if let Some(listening) = lock(&self.listeners).remove(&key) {
            listening.stop.cancel();
        }
        self.listen(function, port, listener);
        Ok(())
    }

    fn listen(&self, function: &Arc<ManagedFunction>, port: Option<u16>, listener: Option<TcpListener>) {
        let (Some(port), Some(listener)) = (port, listener) else { return };
        let stop = CancellationToken::new();
        lock(&self.listeners).insert(function.id.to_string(), Listening { port, stop: stop.clone() });
        self.tasks.spawn(gateway::serve(listener, ListenerTarget::One(Arc::clone(function)), stop, Arc::clone(&self.host)));
    }
}

impl api::Platform for LocalPlatform {
    type Function = Arc<ManagedFunction>;

    fn control(&self) -> &OperationControl {
        &self.control
    }

    fn list(&self) -> Vec<FunctionStatus> {
        self.functions.all().iter().map(|function| self.status(function)).collect()
    }

    fn count(&self) -> usize {
        self.functions.all().len()
    }

    fn find(&self, id: &FunctionId) -> Option<Arc<ManagedFunction>> {
        self.functions.get(&id.to_string())
    }

    fn status(&self, function: &Arc<ManagedFunction>) -> FunctionStatus {
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

    fn spec(&self, function: &Arc<ManagedFunction>) -> Arc<FunctionSpec> {
        function.spec()
    }

    fn desired(&self, function: &Arc<ManagedFunction>) -> Allocation {
        function.desired()
    }

    async fn create(&self, spec: FunctionSpec) -> Result<Arc<ManagedFunction>, Refused> {
        runs_as_process(&spec)?;
        let listener = self.bind(spec.listen).await?;
        let desired = Allocation::from(spec.allocation);
        self.record(&spec.id(), EventKind::FunctionAdded, format!("added with {desired}"));
        Ok(self.start(spec, desired, listener))
    }

    async fn replace(&self, function: &Arc<ManagedFunction>, spec: FunctionSpec) -> Result<(), Refused> {
        runs_as_process(&spec)?;
        self.move_listener(function, spec.listen).await?;
        function.replace(spec);
        Ok(())
    }

    fn remove(&self, id: &FunctionId) -> Option<Arc<ManagedFunction>> {
        let function = self.functions.remove(id)?;
        if let Some(listening) = lock(&self.listeners).remove(&id.to_string()) {
            listening.stop.cancel();
        }
        function.stop.cancel();
        Some(function)
    }

    async fn gone(&self, function: Arc<ManagedFunction>) {
        function.reconciled(u64::MAX).await;
    }

    fn set_desired(&self, function: &Arc<ManagedFunction>, desired: Allocation) -> Allocation {
        // Recorded first, so that it precedes the events of the replicas that it starts.
        let before = function.desired();
        if before != desired {
            self.host.record(&function.id, None, EventKind::AllocationSet, format!("{before} to {desired}"));
        }
        function.set_desired(desired)
    }

    async fn settle(&self, function: &Arc<ManagedFunction>) {
        // An early reply only shows less progress.
        drop(tokio::time::timeout(SETTLE_TIMEOUT, function.reconciled(function.version())).await);
    }

    async fn save(&self) -> Result<(), Refused> {
        let _saving = self.saving.lock().await;
        let functions = self.functions.all();
        let functions =
            functions.iter().map(|function| SavedFunction { spec: FunctionSpec::clone(&function.spec()), desired: function.desired() });
        let saved = Saved::new(self.control.highest_lease(), functions.collect());
        let state = Arc::clone(&self.state);
        let written = tokio::task::spawn_blocking(move || state.save(&saved)).await.unwrap_or_else(|error| Err(error.into()));
        written.map_err(|error| {
            let error = format!("{error:#}");
            error!(error, "failed to save state; the change is active but lost at the next restart");
            Refused::Unavailable(format!("the change is active, but saving it failed: {error}"))
        })
    }

    fn logs(&self, function: &Arc<ManagedFunction>, lines: usize) -> Vec<LogLine> {
        function.logs.tail(lines)
    }

    fn record(&self, id: &FunctionId, kind: EventKind, message: String) {
        self.host.record(id, None, kind, message);
    }

    fn isolation(&self) -> Option<Isolation> {
        Some(self.host.sandbox.describe())
    }

    fn events(&self) -> &Events {
        &self.host.events
    }

    fn metrics(&self) -> String {
        metrics::render(&self.functions, &self.host)
    }
}

fn runs_as_process(spec: &FunctionSpec) -> Result<(), OutOfRange> {
    match &spec.simulated {
        Some(simulated) => Err(OutOfRange::new("simulated", simulated, "absent: this platform runs processes")),
        None => Ok(()),
    }
}

/// Saves changes that did not come through the API: functions started from zero.
async fn save_on_notice(platform: std::sync::Weak<LocalPlatform>, unsaved: Arc<Notify>) {
    loop {
        unsaved.notified().await;
        let Some(platform) = platform.upgrade() else { return };
        // A failure is logged by `save`; the next change retries.
        drop(platform.save().await);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
