//! Observation of every function, tick by tick: readings, policies and Outcomes in, States and Rewards out. Owns which tick is due; does no I/O and reads
//! no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use qscale_common::contract::{DecidedBy, DecisionSource, Effect, Epoch, Headroom, Outcome, Reward, State, StateId, TraceParent};
use qscale_common::name::Name;
use qscale_common::partition::Partition;
use qscale_common::policy::ScalingPolicy;
use qscale_common::reward::{self, RewardContext};
use qscale_common::scrape::{FunctionScrape, Scrape};
use qscale_common::time::{Tick, TickLength, Timestamp};
use qscale_common::window::{FunctionWindows, assemble};

use crate::reading::Reading;

/// Ticks by which the clock may be set back before a new epoch begins. Up to it the observer waits; any longer, and the fallback would take over.
const MAX_TICKS_BEHIND: u64 = 2;

/// A reading of a named source.
#[derive(Debug)]
pub struct SourceReading {
    /// Name of the source.
    pub source: Name,
    /// The reading.
    pub reading: Reading,
    /// Whether the previous reading failed, so that the first measurements may be old.
    pub resumed: bool,
}

/// Result of a tick of a function.
#[derive(Debug)]
pub struct Observation {
    /// The State that closes the tick.
    pub state: State,
    /// The Reward for the tick before, and the trace of the State that began it; `None` with the first State of an epoch.
    pub reward: Option<(Reward, TraceParent)>,
    /// Ticks without a State since the last State.
    pub missed: u64,
}

/// The observed functions.
#[derive(Debug)]
pub struct Observer {
    epoch: Epoch,
    partition: Partition,
    /// Ordered by key.
    functions: Vec<Function>,
    index: HashMap<String, usize>,
    lengths: BTreeSet<TickLength>,
    /// Workloads by replica (`namespace/replica`), as each source last named them.
    owners: BTreeMap<Name, HashMap<String, String>>,
}

#[derive(Debug)]
struct Function {
    policy: Arc<ScalingPolicy>,
    workload: String,
    windows: FunctionWindows,
    headroom: Option<Headroom>,
    decided_by: Option<DecidedBy>,
    /// Last closed tick: published, or started before the function was known.
    closed: Tick,
    /// The last State of this epoch.
    published: Option<(Tick, TraceParent)>,
}

impl Observer {
    /// An observer without functions; its epoch starts at `now`.
    #[must_use]
    pub fn new(partition: Partition, now: Timestamp) -> Self {
        Self {
            epoch: Epoch(now.0),
            partition,
            functions: Vec::new(),
            index: HashMap::new(),
            lengths: BTreeSet::new(),
            owners: BTreeMap::new(),
        }
    }

    /// The epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Number of functions that are observed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.functions.len()
    }

    /// Whether no function is observed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// Observes the functions of `policies` that belong to this collector's share. Measurements of a function are kept unless its tick length or workload
    /// changed.
    pub fn set_policies(&mut self, policies: &BTreeMap<String, Arc<ScalingPolicy>>, now: Timestamp) {
        let mut known: Vec<Option<Function>> = std::mem::take(&mut self.functions).into_iter().map(Some).collect();
        let mut index = HashMap::with_capacity(policies.len());
        for (key, policy) in policies.iter().filter(|(_, policy)| self.partition.contains(&policy.function())) {
            let workload = format!("{}/{}", policy.namespace, policy.workload_name());
            let same = |function: &Function| function.windows.tick_length() == policy.tick && function.workload == workload;
            let before = self.index.get(key).and_then(|&place| known[place].take()).filter(same);
            let function = match before {
                Some(function) => Function { policy: Arc::clone(policy), ..function },
                None => Function::new(Arc::clone(policy), workload, now),
            };
            index.insert(key.clone(), self.functions.len());
            self.functions.push(function);
        }
        self.index = index;
        self.lengths = self.functions.iter().map(|function| function.policy.tick).collect();
    }

    /// Processes an Outcome. A decision that was applied, or that equals the current allocation, is the current one until the next such.
    pub fn on_outcome(&mut self, outcome: &Outcome) {
        let stands =
            matches!(outcome.effect, Effect::Applied | Effect::Changed | Effect::Unchanged) && outcome.source != DecisionSource::Shadow;
        let key = format!("{}.{}", outcome.namespace, outcome.function);
        if let Some(&place) = self.index.get(&key)
            && stands
        {
            let Outcome { source, agent, provenance, tick, .. } = outcome;
            let decider = DecidedBy { source: *source, agent: agent.clone(), provenance: provenance.clone(), tick: *tick };
            self.functions[place].decided_by = Some(decider);
        }
    }

    /// Processes the readings of one time. Replicas whose workload one source does not know belong to the workload that another source named last.
    pub fn record(&mut self, readings: &[SourceReading]) {
        for SourceReading { source, reading, .. } in readings {
            // A source that names no workloads has no owners to remember. Replicas that a source no longer names are forgotten.
            self.owners.insert(source.clone(), owners(reading));
        }
        let joined = self.join_unowned(readings);
        for function in &mut self.functions {
            let extra = joined.get(function.workload.as_str()).map_or(&[][..], Vec::as_slice);
            function.record(readings, extra);
        }
    }

    /// Replicas whose workload their source does not know, by the workload that another source names.
    fn join_unowned(&self, readings: &[SourceReading]) -> HashMap<String, Vec<Scrape>> {
        let mut joined: HashMap<String, Vec<Scrape>> = HashMap::new();
        for (path, scrape) in readings.iter().flat_map(|source_reading| &source_reading.reading.unowned) {
            if let Some(workload) = self.owners.values().find_map(|owners| owners.get(path)) {
                joined.entry(workload.clone()).or_default().push(scrape.clone());
            }
        }
        joined
    }

    /// Start of the next tick of any function after `now`.
    #[must_use]
    pub fn next_tick(&self, now: Timestamp) -> Option<Timestamp> {
        self.lengths.iter().map(|&length| Tick::at(now, length).next().start(length)).min()
    }

    /// Starts a new epoch if the clock was set back too far, and returns whether it did. All measurements are dropped, as their times lie in the future.
    pub fn check_clock(&mut self, now: Timestamp) -> bool {
        let ahead = |function: &Function| function.closed.0 > Tick::at(now, function.policy.tick).0.saturating_add(MAX_TICKS_BEHIND);
        if !self.functions.iter().any(ahead) {
            return false;
        }
        self.epoch = Epoch(now.0.max(self.epoch.0.saturating_add(1)));
        for function in &mut self.functions {
            let fresh = Function::new(Arc::clone(&function.policy), std::mem::take(&mut function.workload), now);
            *function = Function { decided_by: function.decided_by.take(), ..fresh };
        }
        true
    }

    /// Indices of the functions with a tick that has started but has no State yet.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Vec<usize> {
        let due = |function: &Function| Tick::at(now, function.policy.tick) > function.closed;
        self.functions.iter().enumerate().filter(|(_, function)| due(function)).map(|(place, _)| place).collect()
    }

    /// Closes the tick of a due function: its State, which starts `trace`, and the Reward for the previous tick. `None` if it is not due.
    pub fn observe(&mut self, place: usize, now: Timestamp, trace: TraceParent) -> Option<Observation> {
        let function = self.functions.get_mut(place)?;
        let policy = Arc::clone(&function.policy);
        let tick = Tick::at(now, policy.tick);
        if tick <= function.closed || !function.windows.close(tick, &policy.prices) {
            return None;
        }
        let missed = tick.0 - function.closed.0 - 1;
        function.closed = tick;
        let state_id = StateId { epoch: self.epoch, tick };
        let state = assemble(&policy, state_id, now, &function.windows, function.headroom);
        let before = function.published.replace((tick, trace));
        let reward = before.zip(function.windows.closed()).map(|((tick, trace), closed)| {
            let context = RewardContext { epoch: self.epoch, tick, at: now, decided_by: function.decided_by.clone() };
            let measured = reward::measure(&state.windows.tick, closed, &policy);
            (reward::message(&measured, closed, context, &policy), trace)
        });
        Some(Observation { state, reward, missed })
    }
}

impl Function {
    fn new(policy: Arc<ScalingPolicy>, workload: String, now: Timestamp) -> Self {
        let windows = FunctionWindows::new(policy.tick);
        let closed = Tick::at(now, policy.tick);
        Self { policy, workload, windows, headroom: None, decided_by: None, closed, published: None }
    }

    /// Processes what the function's sources measured, and the replicas that they do not know to be its own (`extra`).
    fn record(&mut self, readings: &[SourceReading], extra: &[Scrape]) {
        let named = self.policy.metrics.source.as_ref();
        let of_function = readings.iter().filter(|source_reading| named.is_none_or(|named| *named == source_reading.source));
        let mut scrapes =
            of_function.filter_map(|source_reading| Some((source_reading, source_reading.reading.functions.get(&self.workload)?)));
        let Some((first, scrape)) = scrapes.next() else {
            if !extra.is_empty() {
                self.windows.record(&FunctionScrape { replicas: extra.to_vec(), ..FunctionScrape::default() });
            }
            return;
        };
        if scrape.platform.is_some() {
            self.headroom = first.reading.headroom;
        }
        let mut merged: Option<FunctionScrape> = None;
        // A measurement can be older than the last one only if another source reads it too.
        let mut resumed = false;
        for (source_reading, other) in scrapes {
            let merged = merged.get_or_insert_with(|| scrape.clone());
            if merged.platform.is_none() && other.platform.is_some() {
                self.headroom = source_reading.reading.headroom;
            }
            merged.platform = merged.platform.or(other.platform);
            merged.ingress = merged.ingress.or(other.ingress);
            merged.replicas.extend_from_slice(&other.replicas);
            resumed |= first.resumed || source_reading.resumed;
        }
        if !extra.is_empty() {
            merged.get_or_insert_with(|| scrape.clone()).replicas.extend_from_slice(extra);
        }
        let scrape = merged.as_ref().unwrap_or(scrape);
        if resumed { self.windows.record_after_outage(scrape) } else { self.windows.record(scrape) }
    }
}

/// Workloads of the replicas in `reading`, by replica, written `namespace/replica`.
fn owners(reading: &Reading) -> HashMap<String, String> {
    let mut owners = HashMap::new();
    for (workload, scrape) in &reading.functions {
        let namespace = workload.split_once('/').map_or("", |(namespace, _)| namespace);
        owners.extend(scrape.replicas.iter().map(|replica| (format!("{namespace}/{}", replica.replica), workload.clone())));
    }
    owners
}

#[cfg(test)]
mod tests;
