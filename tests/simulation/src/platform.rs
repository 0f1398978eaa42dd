//! The platform: real fencing and checks of `operations` over functions in virtual time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use qscale_actuator::backend::{BackendError, WorkloadId, WorkloadStatus};
use qscale_actuator::core::ApplyRequest;
use qscale_common::name::{FunctionId, Name};
use qscale_common::platform::{
    ActualAllocation, AllocationRequest, EventKind, FunctionSpec, FunctionStatus, Isolation, Limits, LogLine, NodeCapacity,
    SimulatedFunction,
};
use qscale_common::policy::WorkloadKind;
use qscale_common::runtime::platform::api::{Platform, Refused};
use qscale_common::runtime::platform::events::Events;
use qscale_common::runtime::platform::operations::{OperationControl, set_allocation};
use qscale_common::scrape::{
    CpuCounters, CpuPeriods, FunctionScrape, IngressReading, PlatformReading, PlatformReplicas, RequestCounters, Scrape,
};
use qscale_common::time::Timestamp;
use qscale_common::units::{Allocation, Replicas};

use crate::protocol::Millis;

/// Cores of the node.
pub(crate) const NODE_CORES: f64 = 64.0;
/// Memory of the node, bytes.
pub(crate) const NODE_BYTES: f64 = 64e9;
/// Time from the start of a replica to readiness.
const STARTUP_MS: Millis = 1_500;
/// CPU time of a request, microseconds.
const REQUEST_US: f64 = 20_000.0;
/// Working set of a replica, bytes.
const WORKING_SET: u64 = 60 << 20;

/// The platform. Its process may end; what it has saved stays.
pub(crate) struct SimulatedPlatform {
    control: OperationControl,
    functions: Mutex<Vec<Function>>,
    events: Events,
}

struct Function {
    spec: Arc<FunctionSpec>,
    desired: Allocation,
    replicas: Vec<Replica>,
    created: u64,
    /// Requests per second.
    rate: f64,
    arrived: f64,
    advanced: Millis,
}

#[derive(Clone)]
struct Replica {
    name: String,
    ready_at: Millis,
    started: Timestamp,
    completed: f64,
    usage_us: f64,
    periods: f64,
}

/// Content of the platform's disk.
#[derive(Debug, Clone)]
pub(crate) struct Saved {
    highest_lease: u64,
    desired: Vec<Allocation>,
}

impl SimulatedPlatform {
    /// A platform with the functions `ids`, started at `now`, with what was `saved`.
    pub(crate) fn new(ids: &[FunctionId], rates: &[f64], saved: Option<&Saved>, now: Millis) -> Self {
        let control = OperationControl::new(Limits::default(), NodeCapacity::default(), saved.map_or(0, |saved| saved.highest_lease));
        let functions = ids.iter().zip(rates).enumerate().map(|(index, (id, rate))| {
            let spec = FunctionSpec {
                namespace: id.namespace.clone(),
                ..FunctionSpec::of_simulated(id.name.clone(), SimulatedFunction::default())
            };
            let desired = saved.map_or(Allocation::from(spec.allocation), |saved| saved.desired[index]);
            Function { spec: Arc::new(spec), desired, replicas: Vec::new(), created: now, rate: *rate, arrived: 0.0, advanced: now }
        });
        Self { control, functions: Mutex::new(functions.collect()), events: Events::new(Timestamp(0)) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Function>> {
        self.functions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Current content of its disk.
    pub(crate) fn saved(&self) -> Saved {
        Saved { highest_lease: self.control.highest_lease(), desired: self.lock().iter().map(|function| function.desired).collect() }
    }

    /// Desired allocation of function `index`.
    pub(crate) fn desired(&self, index: usize) -> Allocation {
        self.lock()[index].desired
    }

    /// Sets the load of function `index`, requests per second.
    pub(crate) fn set_rate(&self, index: usize, rate: f64, now: Millis) {
        let mut functions = self.lock();
        functions[index].advance(now);
        functions[index].rate = rate;
    }

    /// Sets the desired allocation without a lease, as an operator.
    pub(crate) fn set_by_hand(&self, index: usize, allocation: Allocation) {
        self.lock()[index].desired = allocation;
    }

    /// Carries out a request of the actuator.
    pub(crate) fn apply(&self, request: &ApplyRequest, now: Millis, wall: Timestamp) -> Result<WorkloadStatus, BackendError> {
        let wanted = AllocationRequest { clamp: true, ..AllocationRequest::new(request.allocation, Some(request.lease)) };
        let set = set_allocation(self, &request.workload.name, &wanted).now_or_never().expect("nothing waits");
        self.advance(now, wall);
        match set {
            Ok(reply) => Ok(workload(&reply.function)),
            Err(refused @ Refused::StaleLease { highest, .. }) => Err(BackendError::StaleLease { reason: refused.to_string(), highest }),
            Err(Refused::NotFound(id)) => Err(BackendError::NotFound(id)),
            Err(Refused::Range(error)) => Err(BackendError::Invalid(error.to_string())),
            Err(Refused::Unavailable(why)) => Err(BackendError::Unavailable(why)),
        }
    }

    /// Lists the workloads.
    pub(crate) fn workloads(&self) -> Vec<WorkloadStatus> {
        self.list().iter().map(workload).collect()
    }

    /// Counters of all functions at `now`, by workload. The reader sets the times of the readings.
    pub(crate) fn scrape(&self, now: Millis, wall: Timestamp) -> Vec<(String, FunctionScrape)> {
        self.advance(now, wall);
        self.lock().iter().map(|function| (format!("{}/{}", function.spec.namespace, function.spec.name), function.scrape(now))).collect()
    }

    fn advance(&self, now: Millis, wall: Timestamp) {
        for function in self.lock().iter_mut() {
            function.advance(now);
            function.reconcile(now, wall);
        }
    }
}

fn workload(status: &FunctionStatus) -> WorkloadStatus {
    WorkloadStatus { id: WorkloadId { kind: WorkloadKind::Local, name: status.id() }, desired: status.desired, vertical: status.vertical }
}

impl Function {
    fn advance(&mut self, now: Millis) {
        let seconds = now.saturating_sub(self.advanced) as f64 / 1e3;
        self.advanced = now;
        let arrived = self.rate * seconds;
        self.arrived += arrived;
        let ready = self.replicas.iter().filter(|replica| replica.ready_at <= now).count();
        let limit = seconds * self.desired.cpu_millicores.cores() * 1e6;
        for replica in self.replicas.iter_mut().filter(|replica| replica.ready_at <= now) {
            let share = arrived / ready as f64;
            replica.completed += share;
            replica.usage_us += (share * REQUEST_US).min(limit);
            replica.periods += seconds * 10.0;
        }
    }

    fn reconcile(&mut self, now: Millis, wall: Timestamp) {
        let wanted = self.desired.replicas.0 as usize;
        self.replicas.truncate(wanted);
        while self.replicas.len() < wanted {
            self.created += 1;
            let name = format!("{}-{}", self.spec.name, self.created);
            let ready_at = now + STARTUP_MS;
            self.replicas.push(Replica { name, ready_at, started: wall, completed: 0.0, usage_us: 0.0, periods: 0.0 });
        }
    }

    fn scrape(&self, now: Millis) -> FunctionScrape {
        let ready = self.replicas.iter().filter(|replica| replica.ready_at <= now).count() as u32;
        let replicas = PlatformReplicas {
            desired: self.desired.replicas,
            ready: Replicas(ready),
            pending: Replicas(self.replicas.len() as u32 - ready),
        };
        FunctionScrape {
            platform: Some(PlatformReading {
                at: Timestamp(0),
                allocation: Some(self.desired),
                replicas: Some(replicas),
                crashes: Some(0),
                oom_kills: Some(0),
                startups: None,
            }),
            ingress: Some(IngressReading { at: Timestamp(0), arrived: (self.arrived as u64).into(), failed: 0.into(), queued: 0.0 }),
            replicas: self.replicas.iter().map(Replica::scrape).collect(),
            node_cores: None,
        }
    }
}

impl Replica {
    fn scrape(&self) -> Scrape {
        let mut requests = RequestCounters { completed: self.completed as u64, ..RequestCounters::default() };
        requests.latency.get_or_insert_default()[3] = requests.completed;
        let periods = CpuPeriods { runnable: self.periods as u64, throttled: 0 };
        Scrape {
            started: Some(self.started),
            requests: Some(requests),
            in_flight: Some(0.0),
            cpu: Some(CpuCounters { usage_us: self.usage_us as u64, periods: Some(periods), ..CpuCounters::default() }.into()),
            working_set_bytes: Some(WORKING_SET),
            ..Scrape::new(&*self.name, Timestamp(0))
        }
    }
}

impl Platform for SimulatedPlatform {
    type Function = usize;

    fn control(&self) -> &OperationControl {
        &self.control
    }

    fn list(&self) -> Vec<FunctionStatus> {
        (0..self.count()).map(|index| self.status(&index)).collect()
    }

    fn count(&self) -> usize {
        self.lock().len()
    }

    fn find(&self, id: &FunctionId) -> Option<usize> {
        let is_of = |function: &Function| function.spec.name == id.name && function.spec.namespace == id.namespace;
        self.lock().iter().position(is_of)
    }

    fn status(&self, function: &usize) -> FunctionStatus {
        let function = &self.lock()[*function];
        FunctionStatus {
            spec: (*function.spec).clone(),
            desired: function.desired,
            actual: ActualAllocation::default(),
            vertical: true,
            queued: 0,
            oom_kills: 0,
            crashes: 0,
            gateway: String::new(),
        }
    }

    fn spec(&self, function: &usize) -> Arc<FunctionSpec> {
        Arc::clone(&self.lock()[*function].spec)
    }

    fn desired(&self, function: &usize) -> Allocation {
        self.lock()[*function].desired
    }

    async fn create(&self, _spec: FunctionSpec) -> Result<usize, Refused> {
        Err(Refused::Unavailable("the functions are fixed".into()))
    }

    async fn replace(&self, _function: &usize, _spec: FunctionSpec) -> Result<(), Refused> {
        Err(Refused::Unavailable("the functions are fixed".into()))
    }

    fn remove(&self, _id: &FunctionId) -> Option<usize> {
        None
    }

    async fn gone(&self, _function: usize) {}

    fn set_desired(&self, function: &usize, desired: Allocation) -> Allocation {
        std::mem::replace(&mut self.lock()[*function].desired, desired)
    }

    async fn settle(&self, _function: &usize) {}

    async fn save(&self) -> Result<(), Refused> {
        Ok(())
    }

    fn logs(&self, _function: &usize, _lines: usize) -> Vec<LogLine> {
        Vec::new()
    }

    fn record(&self, _id: &FunctionId, _kind: EventKind, _message: String) {}

    fn isolation(&self) -> Option<Isolation> {
        None
    }

    fn events(&self) -> &Events {
        &self.events
    }

    fn metrics(&self) -> String {
        String::new()
    }
}

/// Name of function `index`.
///
/// # Panics
/// Never: the name is a DNS label.
#[must_use]
pub(crate) fn function_id(index: usize) -> FunctionId {
    let label = |text: String| Name::new(text).expect("a DNS label");
    FunctionId::new(label("sim".into()), label(format!("f-{index}")))
}
