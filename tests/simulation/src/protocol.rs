//! Messages between the simulated processes, the nats-server and the platform. Owns no behaviour.

use std::collections::BTreeMap;
use std::sync::Arc;

use qscale_actuator::backend::{BackendError, WorkloadStatus};
use qscale_actuator::core::ApplyRequest;
use qscale_actuator::store::Record;
use qscale_common::contract::{Action, EventType, Message as _, Outcome, Reward, State};
use qscale_common::control::Control;
use qscale_common::name::FunctionId;
use qscale_common::policy::ScalingPolicy;
use qscale_common::runtime::lease;
use qscale_common::scrape::FunctionScrape;
use qscale_common::time::Timestamp;

/// Milliseconds since the start of the simulation.
pub(crate) type Millis = u64;
/// Index of a process.
pub(crate) type ProcessId = usize;
/// A map as a watched bucket shows it.
pub(crate) type View<T> = Arc<BTreeMap<String, Arc<T>>>;

/// A message of the contract.
#[derive(Debug, Clone)]
pub(crate) enum Payload {
    /// State.
    State(Arc<State>),
    /// Action.
    Action(Arc<Action>),
    /// Outcome.
    Outcome(Arc<Outcome>),
    /// Reward.
    Reward(Arc<Reward>),
}

impl Payload {
    /// Kind of the message.
    pub(crate) fn kind(&self) -> EventType {
        match self {
            Self::State(_) => EventType::State,
            Self::Action(_) => EventType::Action,
            Self::Outcome(_) => EventType::Outcome,
            Self::Reward(_) => EventType::Reward,
        }
    }

    /// Id under which a stream stores it once.
    pub(crate) fn unique_id(&self) -> String {
        match self {
            Self::State(message) => message.unique_id(),
            Self::Action(message) => message.unique_id(),
            Self::Outcome(message) => message.unique_id(),
            Self::Reward(message) => message.unique_id(),
        }
    }
}

/// From a process to the nats-server.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    /// Publish without acknowledgement.
    Publish(Payload),
    /// Publish and acknowledge once stored; `number` returns in the answer.
    Record(u64, Payload),
    /// Read or write the lease.
    Lease(u64, lease::ElectionStep),
    /// Store a record of the actuator.
    Store(u64, FunctionId, Record),
    /// Delete the baseline of a function.
    Forget(u64, FunctionId),
    /// Read the retained States.
    History(u64),
}

/// From the nats-server to a process.
#[derive(Debug, Clone)]
pub(crate) enum Delivery {
    /// A message that it has subscribed to.
    Message(Payload),
    /// A message was stored.
    Recorded(u64),
    /// The lease.
    Lease(u64, lease::Reply),
    /// The stored record; `None` if it was not stored.
    Stored(u64, Option<Record>),
    /// A baseline was deleted.
    Forgotten(u64),
    /// The retained States.
    History(u64, Vec<Arc<State>>),
    /// Watched policies.
    Policies(View<ScalingPolicy>),
    /// Watched requests of operators.
    Controls(View<Control>),
    /// Watched records of the actuator.
    Records(View<(FunctionId, Record)>),
}

/// From a process to the platform.
#[derive(Debug, Clone)]
pub(crate) enum PlatformRequest {
    /// Set an allocation.
    Apply(ApplyRequest),
    /// List the workloads; the time of the request is returned.
    List(Timestamp),
    /// Read the counters.
    Scrape(u64),
}

/// Counters of one process of the platform.
#[derive(Debug)]
pub(crate) struct PlatformScrape {
    /// Life of the process: the counters begin with it.
    pub(crate) life: u32,
    /// The counters, by workload.
    pub(crate) functions: Vec<(String, FunctionScrape)>,
}

/// From the platform to a process.
#[derive(Debug)]
pub(crate) enum PlatformReply {
    /// Answer to `Apply`.
    Applied(ApplyRequest, Result<WorkloadStatus, BackendError>),
    /// Answer to `List`.
    Listed(Timestamp, Result<Vec<WorkloadStatus>, BackendError>),
    /// Answer to `Scrape`; absent if the platform does not answer.
    Scraped(u64, Option<PlatformScrape>),
}

/// Timers of a process.
#[derive(Debug, Clone)]
pub(crate) enum Timer {
    /// The interval of the actuator, or the next tick of the collector.
    Wake,
    /// The next step of the election; ignored if another one was set since.
    LeaseStep(u64),
    /// The answer to a step of the election is late.
    LeaseTimeout(u64),
    /// A record was not acknowledged in time.
    RecordTimeout(u64),
    /// A recorded message is sent again.
    RecordAgain(u64),
    /// A write to a bucket was not answered in time.
    StoreTimeout(u64),
    /// A reading was not answered in time.
    ScrapeTimeout(u64),
    /// A request to the platform was not answered in time.
    ApplyTimeout(ApplyRequest),
    /// The retained States were not read in time.
    HistoryTimeout(u64),
}

/// Order of a process.
#[derive(Debug)]
pub(crate) enum ProcessOutput {
    /// Send to the nats-server.
    ToServer(Request),
    /// Send to the platform.
    ToPlatform(PlatformRequest),
    /// Wake the process after a time.
    After(Millis, Timer),
}
