//! The simulated platform: its functions and what may be done with them. Owns which functions there are, the order of leases, and when load begins.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use qscale_common::contract::Load;
use qscale_common::load::LoadSummary;
use qscale_common::name::FunctionId;
use qscale_common::platform::metrics::{self, FunctionView, NodeView};
use qscale_common::platform::{AllocationReply, AllocationRequest, EventKind, FunctionSpec, FunctionStatus, Limits, LogLine};
use qscale_common::runtime::clock;
use qscale_common::runtime::platform::api::{self, Refused};
use qscale_common::runtime::platform::events::Events;
use qscale_common::time::Timestamp;
use qscale_common::units::{Allocation, Replicas};
use qscale_common::workload::trace::MinuteTrace;
use qscale_sim::Nanos;
use tracing::debug;

use crate::function::{Happened, Origin, Simulated};
use crate::report::summary;
use crate::settings::Machine;
use crate::wanted::Wanted;

/// Functions from which on more than one core lives through time.
const WORTH_THREADS: usize = 32;
/// How often a function that is deleted is looked at, whose replicas finish their requests.
const LOOK: Duration = Duration::from_millis(100);

/// The platform.
#[derive(Debug)]
pub struct SimulatedPlatform {
    origin: Origin,
    machine: Machine,
    limits: Limits,
    threads: NonZeroUsize,
    functions: RwLock<BTreeMap<FunctionId, Arc<Mutex<Simulated>>>>,
    highest_lease: Mutex<u64>,
    /// Held while functions are added or deleted, so that these happen one after the other. With it, the trace that was opened last.
    editing: Mutex<Option<(PathBuf, Arc<MinuteTrace>)>>,
    /// Whether load waits to be let begin.
    load_waits: Mutex<bool>,
    /// Functions and files that ever were, for names of replicas that do not come back.
    runs: AtomicU64,
    events: Events,
}

impl SimulatedPlatform {
    /// A platform without functions, whose world begins at `now`.
    #[must_use]
    pub fn new(machine: Machine, limits: Limits, load_waits: bool, now: Timestamp) -> Self {
        Self {
            origin: Origin(now),
            machine,
            limits,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            functions: RwLock::default(),
            highest_lease: Mutex::new(0),
            editing: Mutex::default(),
            load_waits: Mutex::new(load_waits),
            runs: AtomicU64::new(now.0 / 1_000 % (1 << 20)),
            events: Events::new(now),
        }
    }

    /// Lets all load begin at `now` that has not yet, and that of functions added later with them.
    pub fn begin_load(&self, now: Timestamp) {
        let mut waits = lock(&self.load_waits);
        *waits = false;
        self.each(now, |function| function.begin_load(now));
    }

    /// What was offered to each function and answered since this was asked for last; `run` names the run.
    #[must_use]
    pub fn loads(&self, run: &str, now: Timestamp) -> Vec<Load> {
        self.each(now, |function| function.load(run, now)).into_iter().flatten().collect()
    }

    /// What the load of all functions came to.
    #[must_use]
    pub fn summary(&self, now: Timestamp) -> LoadSummary {
        let lines = self.each(now, |function| (function.line(), function.loaded_for()));
        let longest = lines.iter().map(|(_, loaded)| *loaded).max().unwrap_or(Nanos::ZERO);
        summary(lines.into_iter().map(|(line, _)| line).collect(), longest)
    }

    /// Lets every function live up to `now` and does something with it, on all cores where there are many; in the order of names.
    fn each<T: Send>(&self, now: Timestamp, act: impl Fn(&mut Simulated) -> T + Sync) -> Vec<T> {
        let functions: Vec<Arc<Mutex<Simulated>>> = self.read().values().cloned().collect();
        let run = |function: &Arc<Mutex<Simulated>>| {
            let mut function = lock(function);
            self.live(&mut function, now);
            act(&mut function)
        };
        if functions.len() < WORTH_THREADS || self.threads == NonZeroUsize::MIN {
            return functions.iter().map(run).collect();
        }
        let chunk = functions.len().div_ceil(self.threads.get());
        std::thread::scope(|scope| {
            let run = &run;
            let parts: Vec<_> = functions.chunks(chunk).map(|part| scope.spawn(move || part.iter().map(run).collect::<Vec<T>>())).collect();
            parts.into_iter().flat_map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    fn live(&self, function: &mut Simulated, now: Timestamp) {
        let happened = function.advance(now);
        self.record(&function.id, now, happened);
    }

    fn record(&self, id: &FunctionId, now: Timestamp, happened: Vec<Happened>) {
        for (replica, kind, message) in happened {
            debug!(function = %id, replica, event = ?kind, "{message}");
            self.events.record(now, id, replica.as_deref(), kind, message);
        }
    }

    fn find(&self, id: &FunctionId) -> Result<Arc<Mutex<Simulated>>, Refused> {
        self.read().get(id).cloned().ok_or_else(|| Refused::NotFound(id.clone()))
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<FunctionId, Arc<Mutex<Simulated>>>> {
        self.functions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<FunctionId, Arc<Mutex<Simulated>>>> {
        self.functions.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a function or replaces its file; blocks while files are read.
    fn add_now(&self, spec: FunctionSpec) -> Result<FunctionStatus, Refused> {
        spec.validate()?;
        self.limits.check(&Allocation::from(spec.allocation), "allocation.")?;
        let mut trace = lock(&self.editing);
        let id = spec.id();
        if let Ok(function) = self.find(&id) {
            let mut function = lock(&function);
            let now = clock::now();
            self.live(&mut function, now);
            if *function.spec() != spec {
                let wanted = Wanted::new(&spec, &mut trace)?;
                function.replace(spec, wanted, self.runs.fetch_add(1, Ordering::Relaxed));
                self.record(&id, now, vec![(None, EventKind::FunctionReplaced, "file replaced".to_owned())]);
                self.live(&mut function, now);
            }
            return Ok(function.status());
        }
        let count = self.read().len();
        if count >= self.limits.functions as usize {
            return Err(Refused::Unavailable(format!("functions = {}, must be at most {}", count + 1, self.limits.functions)));
        }
        let wanted = Wanted::new(&spec, &mut trace)?;
        // Before or after all load is let begin, never in between.
        let waits = lock(&self.load_waits);
        let now = clock::now();
        let mut function = Simulated::new(spec, wanted, self.origin, self.runs.fetch_add(1, Ordering::Relaxed), now);
        if !*waits {
            function.begin_load(now);
        }
        self.record(&id, now, vec![(None, EventKind::FunctionAdded, format!("added with {}", function.desired()))]);
        self.live(&mut function, now);
        let status = function.status();
        self.write().insert(id, Arc::new(Mutex::new(function)));
        Ok(status)
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
            // Replicas that are gone take what they used with them.
            idle_seconds: Some((cores * self.origin.nanos(now).seconds() - busy).max(0.0)),
        }
    }
}

impl api::Platform for SimulatedPlatform {
    fn list(&self) -> Vec<FunctionStatus> {
        self.each(clock::now(), Simulated::status)
    }

    fn get(&self, id: &FunctionId) -> Option<FunctionStatus> {
        let function = self.find(id).ok()?;
        let mut function = lock(&function);
        self.live(&mut function, clock::now());
        Some(function.status())
    }

    async fn add(&self, spec: FunctionSpec) -> Result<FunctionStatus, Refused> {
        tokio::task::block_in_place(|| self.add_now(spec))
    }

    async fn delete(&self, id: &FunctionId) -> Result<(), Refused> {
        let (function, patience) = {
            let _editing = lock(&self.editing);
            let function = self.write().remove(id).ok_or_else(|| Refused::NotFound(id.clone()))?;
            let now = clock::now();
            self.record(id, now, vec![(None, EventKind::FunctionDeleted, "deleted".to_owned())]);
            let patience = {
                let mut function = lock(&function);
                self.live(&mut function, now);
                function.end();
                function.spec().drain_timeout.0
            };
            (function, now.plus(patience))
        };
        loop {
            let now = clock::now();
            let gone = {
                let mut function = lock(&function);
                self.live(&mut function, now);
                function.is_gone()
            };
            if gone || now >= patience {
                return Ok(());
            }
            clock::sleep(LOOK).await;
        }
    }

    async fn set_allocation(&self, id: &FunctionId, request: &AllocationRequest) -> Result<AllocationReply, Refused> {
        let function = self.find(id)?;
        let mut function = lock(&function);
        let now = clock::now();
        self.live(&mut function, now);
        let before = function.desired();
        let desired = Allocation {
            replicas: request.replicas,
            cpu_millicores: request.cpu_millicores.unwrap_or(before.cpu_millicores),
            memory_mib: request.memory_mib.unwrap_or(before.memory_mib),
        };
        self.limits.check(&desired, "")?;
        let happened = {
            // Lease and allocation under one lock, so that no older writer comes between.
            let mut highest = lock(&self.highest_lease);
            if let Some(lease) = request.lease.filter(|lease| *lease < *highest) {
                let refused = Refused::StaleLease { lease, highest: *highest };
                self.record(id, now, vec![(None, EventKind::StaleLease, refused.to_string())]);
                return Err(refused);
            }
            *highest = request.lease.unwrap_or_default().max(*highest);
            function.allocate(desired)
        };
        self.record(id, now, happened);
        let status = function.status();
        let warnings =
            status.actual.replicas.iter().filter_map(|replica| Some(format!("{}: {}", replica.id, replica.resize_pending.as_ref()?)));
        Ok(AllocationReply { warnings: warnings.collect(), function: status })
    }

    fn logs(&self, id: &FunctionId, _lines: usize) -> Option<Vec<LogLine>> {
        // What is simulated writes nothing.
        self.find(id).ok().map(|_| Vec::new())
    }

    fn events(&self) -> &Events {
        &self.events
    }

    fn metrics(&self) -> String {
        let now = clock::now();
        let functions = self.each(now, Simulated::view);
        metrics::render(&functions, self.node(&functions, now))
    }
}

impl Simulated {
    /// Takes no more load and gives up its replicas, each when its requests are done.
    fn end(&mut self) {
        self.stop_load();
        self.allocate(Allocation { replicas: Replicas(0), ..self.desired() });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
