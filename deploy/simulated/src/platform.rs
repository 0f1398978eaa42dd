//! The simulated platform behind the API. Owns the list of functions and the start of load.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use qscale_common::contract::Load;
use qscale_common::load::LoadSummary;
use qscale_common::name::FunctionId;
use qscale_common::platform::metrics::{self, FunctionView, NodeView};
use qscale_common::platform::{EventKind, FunctionSpec, FunctionStatus, Isolation, Limits, LogLine};
use qscale_common::runtime::clock::{self, SteadyClock};
use qscale_common::runtime::platform::api::{self, Refused};
use qscale_common::runtime::platform::events::Events;
use qscale_common::runtime::platform::operations::OperationControl;
use qscale_common::time::Timestamp;
use qscale_common::units::{Allocation, Replicas};
use qscale_sim::Nanos;
use tracing::debug;

use crate::config::SimulatedMachine;
use crate::function::{FunctionEvent, Origin, Simulated};
use crate::inputs::{LastTrace, SimulationInputs};
use crate::report::summary;

/// Number of functions from which they are advanced on several cores.
const PARALLEL_FROM: usize = 32;
/// Interval at which a deleted function is checked for replicas that finish their requests.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The platform.
#[derive(Debug)]
pub struct SimulatedPlatform {
    origin: Origin,
    /// Its time: requests and replicas go on while the time of day is set.
    clock: SteadyClock,
    machine: SimulatedMachine,
    control: OperationControl,
    threads: NonZeroUsize,
    functions: RwLock<BTreeMap<FunctionId, Arc<Mutex<Simulated>>>>,
    /// Trace that was opened last.
    last_trace: Mutex<LastTrace>,
    /// Whether load waits for [`SimulatedPlatform::begin_load`].
    load_waits: Mutex<bool>,
    /// Number of function files so far, for unique ids of replicas.
    runs: AtomicU64,
    events: Events,
}

impl SimulatedPlatform {
    /// A platform without functions, whose virtual time begins at `now`.
    #[must_use]
    pub fn new(machine: SimulatedMachine, limits: Limits, load_waits: bool, now: Timestamp) -> Self {
        Self {
            origin: Origin(now),
            clock: SteadyClock::start(now),
            machine,
            control: OperationControl::new(limits, machine.capacity(), 0),
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            functions: RwLock::default(),
            last_trace: Mutex::default(),
            load_waits: Mutex::new(load_waits),
            runs: AtomicU64::new(now.0 / 1_000 % (1 << 20)),
            events: Events::new(now),
        }
    }

    /// Time of the platform.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.clock.now()
    }

    /// Starts all waiting load at `now`; the load of functions added later starts with them.
    pub fn begin_load(&self, now: Timestamp) {
        let mut waits = lock(&self.load_waits);
        *waits = false;
        self.each(now, |function| function.begin_load(now));
    }

    /// Load messages of all functions since the last call; `run` names the run.
    #[must_use]
    pub fn loads(&self, run: &str, now: Timestamp) -> Vec<Load> {
        self.each(now, |function| function.load(run, now)).into_iter().flatten().collect()
    }

    /// Summary of the load of all functions.
    #[must_use]
    pub fn summary(&self, now: Timestamp) -> LoadSummary {
        let lines = self.each(now, |function| (function.line(), function.loaded_for()));
        let longest = lines.iter().map(|(_, loaded)| *loaded).max().unwrap_or(Nanos::ZERO);
        summary(lines.into_iter().map(|(line, _)| line).collect(), longest)
    }

    /// Advances every function to `now` and calls `act`, on all cores if there are many functions. Results are in the order of names.
    fn each<T: Send>(&self, now: Timestamp, act: impl Fn(&mut Simulated) -> T + Sync) -> Vec<T> {
        let functions: Vec<Arc<Mutex<Simulated>>> = self.read().values().cloned().collect();
        let run = |function: &Arc<Mutex<Simulated>>| {
            let mut function = lock(function);
            self.advance(&mut function, now);
            act(&mut function)
        };
        if functions.len() < PARALLEL_FROM || self.threads == NonZeroUsize::MIN {
            return functions.iter().map(run).collect();
        }
        let chunk = functions.len().div_ceil(self.threads.get());
        std::thread::scope(|scope| {
            let run = &run;
            let parts: Vec<_> = functions.chunks(chunk).map(|part| scope.spawn(move || part.iter().map(run).collect::<Vec<T>>())).collect();
            parts.into_iter().flat_map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    fn advance(&self, function: &mut Simulated, now: Timestamp) {
        let events = function.advance(now);
        self.record_all(&function.id, now, events);
    }

    fn record_all(&self, id: &FunctionId, now: Timestamp, events: Vec<FunctionEvent>) {
        for (replica, kind, message) in events {
            debug!(function = %id, replica, event = ?kind, "{message}");
            self.events.record(now, id, replica.as_deref(), kind, message);
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<FunctionId, Arc<Mutex<Simulated>>>> {
        self.functions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<FunctionId, Arc<Mutex<Simulated>>>> {
        self.functions.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Advances a function to the present and calls `act`.
    fn now<T>(&self, function: &Mutex<Simulated>, act: impl FnOnce(&mut Simulated, Timestamp) -> T) -> T {
        let mut function = lock(function);
        let now = self.time();
        self.advance(&mut function, now);
        act(&mut function, now)
    }

    fn next_run(&self) -> u64 {
        self.runs.fetch_add(1, Ordering::Relaxed)
    }

    /// Creates a function; blocks while files are read.
    fn create_now(&self, spec: FunctionSpec) -> Result<Arc<Mutex<Simulated>>, Refused> {
        let inputs = SimulationInputs::new(&spec, &mut lock(&self.last_trace))?;
        let id = spec.id();
        // Held until the function is in the list, so that `begin_load` does not miss it.
        let waits = lock(&self.load_waits);
        let now = self.time();
        let mut function = Simulated::new(spec, inputs, self.origin, self.next_run(), now);
        if !*waits {
            function.begin_load(now);
        }
        self.record_all(&id, now, vec![(None, EventKind::FunctionAdded, format!("added with {}", function.desired()))]);
        self.advance(&mut function, now);
        let function = Arc::new(Mutex::new(function));
        self.write().insert(id, Arc::clone(&function));
        Ok(function)
    }

    /// Gives a function another file; blocks while files are read.
    fn replace_now(&self, function: &Mutex<Simulated>, spec: FunctionSpec) -> Result<(), Refused> {
        let inputs = SimulationInputs::new(&spec, &mut lock(&self.last_trace))?;
        self.now(function, |function, now| {
            function.replace(spec, inputs, self.next_run());
            self.advance(function, now);
        });
        Ok(())
    }

    fn node(&self, functions: &[FunctionView], now: Timestamp) -> NodeView {
        let replicas = || functions.iter().flat_map(|function| &function.replicas).filter_map(|replica| replica.usage);
        let (used, busy) =
            (replicas().map(|usage| usage.working_set as f64).sum::<f64>(), replicas().map(|usage| usage.cpu_seconds).sum::<f64>());
        let (cores, bytes) = (self.machine.cpu_millicores.cores(), self.machine.memory_mib.bytes() as f64);
        NodeView {
            cpu_cores: Some(cores),
            memory_bytes: Some(bytes),
            available_bytes: Some((bytes - used).max(0.0)),
            // The usage of replicas that are gone is not counted.
            idle_seconds: Some((cores * self.origin.nanos(now).seconds() - busy).max(0.0)),
        }
    }
}

impl api::Platform for SimulatedPlatform {
    type Function = Arc<Mutex<Simulated>>;

    fn control(&self) -> &OperationControl {
        &self.control
    }

    fn list(&self) -> Vec<FunctionStatus> {
        self.each(self.time(), Simulated::status)
    }

    fn count(&self) -> usize {
        self.read().len()
    }

    fn find(&self, id: &FunctionId) -> Option<Arc<Mutex<Simulated>>> {
        self.read().get(id).cloned()
    }

    fn status(&self, function: &Arc<Mutex<Simulated>>) -> FunctionStatus {
        self.now(function, |function, _| function.status())
    }

    fn spec(&self, function: &Arc<Mutex<Simulated>>) -> Arc<FunctionSpec> {
        Arc::clone(&lock(function).spec)
    }

    fn desired(&self, function: &Arc<Mutex<Simulated>>) -> Allocation {
        tokio::task::block_in_place(|| self.now(function, |function, _| function.desired()))
    }

    async fn create(&self, spec: FunctionSpec) -> Result<Arc<Mutex<Simulated>>, Refused> {
        tokio::task::block_in_place(|| self.create_now(spec))
    }

    async fn replace(&self, function: &Arc<Mutex<Simulated>>, spec: FunctionSpec) -> Result<(), Refused> {
        tokio::task::block_in_place(|| self.replace_now(function, spec))
    }

    fn remove(&self, id: &FunctionId) -> Option<Arc<Mutex<Simulated>>> {
        let function = self.write().remove(id)?;
        tokio::task::block_in_place(|| self.now(&function, |function, _| function.end()));
        Some(function)
    }

    async fn gone(&self, function: Arc<Mutex<Simulated>>) {
        let deadline = self.time().plus(lock(&function).spec().drain_timeout.0);
        loop {
            let (gone, now) = self.now(&function, |function, now| (function.is_gone(), now));
            if gone || now >= deadline {
                return;
            }
            clock::sleep(POLL_INTERVAL).await;
        }
    }

    fn set_desired(&self, function: &Arc<Mutex<Simulated>>, desired: Allocation) -> Allocation {
        tokio::task::block_in_place(|| {
            self.now(function, |function, now| {
                let before = function.desired();
                let events = function.allocate(desired);
                self.record_all(&function.id, now, events);
                before
            })
        })
    }

    async fn settle(&self, _: &Arc<Mutex<Simulated>>) {}

    /// Nothing outlives a simulated platform.
    async fn save(&self) -> Result<(), Refused> {
        Ok(())
    }

    /// Simulated replicas write nothing.
    fn logs(&self, _: &Arc<Mutex<Simulated>>, _: usize) -> Vec<LogLine> {
        Vec::new()
    }

    fn record(&self, id: &FunctionId, kind: EventKind, message: String) {
        self.record_all(id, self.time(), vec![(None, kind, message)]);
    }

    fn isolation(&self) -> Option<Isolation> {
        None
    }

    fn events(&self) -> &Events {
        &self.events
    }

    fn metrics(&self) -> String {
        let now = self.time();
        let functions = self.each(now, Simulated::view);
        metrics::render(&functions, self.node(&functions, now))
    }
}

impl Simulated {
    /// Stops its load and scales it to zero.
    fn end(&mut self) {
        self.stop_load();
        self.allocate(Allocation { replicas: Replicas(0), ..self.desired() });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
