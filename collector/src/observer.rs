//! Observation of every function, tick by tick: readings, policies and Outcomes in, States and Rewards out. Owns which tick is due; does no I/O and reads
//! no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use qscale_common::contract::{DecidedBy, DecisionSource, Effect, Epoch, Headroom, Outcome, Reward, State, StateId, TraceParent};
use qscale_common::name::{FunctionId, Name};
use qscale_common::partition::Partition;
use qscale_common::policy::ScalingPolicy;
use qscale_common::reward::{self, RewardContext};
use qscale_common::scrape::{FunctionScrape, Scrape};
use qscale_common::time::{Tick, TickLength, Timestamp};
use qscale_common::window::{Counter, FunctionWindows, ImpossibleGrowth, assemble};

use crate::metric::{FunctionMetric, Impossible, Metric, ReplicaMetric};
use crate::reading::{NodeLimits, Reading};
use crate::source::ObservedWorkloads;

/// Ticks by which the clock may be set back before a new epoch begins. Up to it the observer waits; any longer, and the fallback would take over.
const MAX_TICKS_BEHIND: u64 = 2;

/// A reading of a named source.
#[derive(Debug)]
pub struct SourceReading {
    /// Name of the source.
    pub source: Name,
    /// The reading.
    pub reading: Reading,
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
    functions: Vec<ObservedFunction>,
    index: HashMap<String, usize>,
    lengths: BTreeSet<TickLength>,
    /// Workloads by replica (`namespace/replica`), as each source last named them.
    owners: BTreeMap<Name, HashMap<String, String>>,
    /// Limits of the largest node, as each source last showed them.
    nodes: BTreeMap<Name, NodeLimits>,
    /// Time of day at which readings were last recorded.
    recorded: Timestamp,
}

#[derive(Debug)]
struct ObservedFunction {
    policy: Arc<ScalingPolicy>,
    workload: String,
    /// Begin of its observation, with this tick length and workload.
    epoch: Epoch,
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
            nodes: BTreeMap::new(),
            recorded: now,
        }
    }

    /// The newest epoch.
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

    /// Workloads of the observed functions.
    #[must_use]
    pub fn workloads(&self) -> ObservedWorkloads {
        self.functions.iter().map(|function| (function.workload.clone(), function.policy.metrics.clone())).collect()
    }

    /// Observed functions whose ScalingPolicy names a source that is not one of `sources`, with its name: nothing measures them.
    #[must_use]
    pub fn without_source(&self, sources: &[Name]) -> BTreeSet<(FunctionId, Name)> {
        let named =
            self.functions.iter().filter_map(|function| Some((function.policy.function(), function.policy.metrics.source.clone()?)));
        named.filter(|(_, source)| !sources.contains(source)).collect()
    }

    /// Observes the functions of `policies` that belong to this collector's share. Measurements of a function are kept unless its tick length or workload
    /// changed: then a new epoch begins for it, as ticks of different lengths cannot be compared.
    pub fn set_policies(&mut self, policies: &BTreeMap<String, Arc<ScalingPolicy>>, now: Timestamp) {
        let mut known: Vec<Option<ObservedFunction>> = std::mem::take(&mut self.functions).into_iter().map(Some).collect();
        // Later than any epoch so far, also while the clock is behind.
        let epoch = Epoch(now.0.max(self.epoch.0.saturating_add(u64::from(!known.is_empty()))));
        let mut index = HashMap::with_capacity(policies.len());
        for (key, policy) in policies.iter().filter(|(_, policy)| self.partition.contains(&policy.function())) {
            let workload = format!("{}/{}", policy.namespace, policy.workload_name());
            let same = |function: &ObservedFunction| function.windows.tick_length() == policy.tick && function.workload == workload;
            let before = self.index.get(key).and_then(|&place| known[place].take()).filter(same);
            let function = match before {
                Some(function) => ObservedFunction { policy: Arc::clone(policy), ..function },
                None => {
                    self.epoch = epoch;
                    ObservedFunction::new(Arc::clone(policy), workload, epoch, now)
                }
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

    /// Processes the readings of one time, at `now`. Replicas whose workload one source does not know belong to the workload that another source named last.
    /// Measurements beyond what a node or a process can do move to the dropped values of their reading.
    pub fn record(&mut self, readings: &mut [SourceReading], now: Timestamp) {
        self.recorded = now;
        for SourceReading { source, reading } in readings.iter() {
            // A source that names no workloads has no owners to remember. Replicas that a source no longer names are forgotten.
            self.owners.insert(source.clone(), owners(reading));
            self.nodes.insert(source.clone(), reading.node);
        }
        let node = self.nodes.values().copied().fold(NodeLimits::default(), NodeLimits::max);
        readings.iter_mut().for_each(|source_reading| source_reading.reading.limit(node));
        let joined = self.join_unowned(readings);
        let mut impossible = Vec::new();
        for function in &mut self.functions {
            let extra = joined.get(function.workload.as_str()).map_or(&[][..], Vec::as_slice);
            impossible.extend(function.record(readings, extra));
        }
        for ImpossibleCounter { reading, metric, of, why } in impossible {
            readings[reading].reading.dropped.add(metric, || of, why);
        }
    }

    /// Replicas whose workload their source does not know, with the place of the reading, by the workload that another source names.
    fn join_unowned(&self, readings: &[SourceReading]) -> HashMap<String, Vec<(usize, Scrape)>> {
        let mut joined: HashMap<String, Vec<(usize, Scrape)>> = HashMap::new();
        for (place, source_reading) in readings.iter().enumerate() {
            for (path, scrape) in &source_reading.reading.unowned {
                if let Some(workload) = self.owners.values().find_map(|owners| owners.get(path)) {
                    joined.entry(workload.clone()).or_default().push((place, scrape.clone()));
                }
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
        let ahead = |function: &ObservedFunction| {
            let length = function.policy.tick;
            // Readings of a time that is not reached yet would hide the later ones.
            let last = function.closed.max(Tick::at(self.recorded, length));
            last.0 > Tick::at(now, length).0.saturating_add(MAX_TICKS_BEHIND)
        };
        let behind = self.functions.iter().any(ahead);
        if behind {
            self.restart(now);
        }
        behind
    }

    /// Starts a new epoch without measurements: the times of earlier ones cannot be compared with those of later ones.
    pub fn restart(&mut self, now: Timestamp) {
        self.epoch = Epoch(now.0.max(self.epoch.0.saturating_add(1)));
        self.recorded = now;
        for function in &mut self.functions {
            let fresh = ObservedFunction::new(Arc::clone(&function.policy), std::mem::take(&mut function.workload), self.epoch, now);
            *function = ObservedFunction { decided_by: function.decided_by.take(), ..fresh };
        }
    }

    /// Indices of the functions with a tick that has started but has no State yet.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Vec<usize> {
        let due = |function: &ObservedFunction| Tick::at(now, function.policy.tick) > function.closed;
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
        let epoch = function.epoch;
        let state_id = StateId { epoch, tick };
        let state = assemble(&policy, state_id, now, &function.windows, function.headroom);
        let before = function.published.replace((tick, trace));
        let reward = before.zip(function.windows.closed()).map(|((tick, trace), closed)| {
            let context = RewardContext { epoch, tick, at: now, decided_by: function.decided_by.clone() };
            let measured = reward::measure(&state.windows.tick, closed, &policy);
            (reward::message(&measured, closed, context, &policy), trace)
        });
        Some(Observation { state, reward, missed })
    }
}

impl ObservedFunction {
    fn new(policy: Arc<ScalingPolicy>, workload: String, epoch: Epoch, now: Timestamp) -> Self {
        let windows = FunctionWindows::new(policy.tick);
        let closed = Tick::at(now, policy.tick);
        Self { policy, workload, epoch, windows, headroom: None, decided_by: None, closed, published: None }
    }

    /// Processes what the function's sources measured, and the replicas that they do not know to be its own (`extra`, with the places of their readings).
    fn record(&mut self, readings: &[SourceReading], extra: &[(usize, Scrape)]) -> Vec<ImpossibleCounter> {
        let named = self.policy.metrics.source.as_ref();
        let of_function =
            readings.iter().enumerate().filter(|(_, source_reading)| named.is_none_or(|named| *named == source_reading.source));
        let shown: Vec<(usize, &FunctionScrape)> = of_function
            .filter_map(|(place, source_reading)| Some((place, source_reading.reading.functions.get(&self.workload)?)))
            .collect();
        if let Some((place, _)) = shown.iter().find(|(_, scrape)| scrape.platform.is_some()) {
            self.headroom = readings[*place].reading.headroom;
        }
        let merged;
        let scrape = match (&shown[..], extra) {
            ([], []) => return Vec::new(),
            ([(_, scrape)], []) => *scrape,
            _ => {
                merged = merge(&shown, extra);
                &merged
            }
        };
        let impossible = self.windows.record(scrape);
        impossible.into_iter().map(|growth| self.impossible(growth, &shown, extra)).collect()
    }

    /// The reading and the metric of a counter that grew by more than it can.
    fn impossible(&self, growth: ImpossibleGrowth, shown: &[(usize, &FunctionScrape)], extra: &[(usize, Scrape)]) -> ImpossibleCounter {
        let metric = match growth.counter {
            Counter::Cpu => Metric::Replica(ReplicaMetric::CpuSeconds),
            Counter::Requests => Metric::Replica(ReplicaMetric::DurationCount),
            Counter::Arrivals => Metric::Function(FunctionMetric::Arrived),
        };
        let of_replicas = shown.iter().flat_map(|(place, scrape)| scrape.replicas.iter().map(|replica| (*place, replica)));
        let mut of_replicas = of_replicas.chain(extra.iter().map(|(place, replica)| (*place, replica)));
        let replica = growth.replica.and_then(|index| of_replicas.nth(index));
        let ingress = || shown.iter().find(|(_, scrape)| scrape.ingress.is_some()).map_or(0, |(place, _)| *place);
        ImpossibleCounter {
            reading: replica.map_or_else(ingress, |(place, _)| place),
            metric,
            of: replica.map_or_else(|| self.workload.clone(), |(_, replica)| format!("{}, replica {}", self.workload, replica.replica)),
            why: growth.per_second.map_or(Impossible::Fall, |per_second| Impossible::Growth { per_second }),
        }
    }
}

/// A counter that grew by more than it can.
struct ImpossibleCounter {
    /// Place of its reading.
    reading: usize,
    metric: Metric,
    /// Function that it belongs to, and the replica whose counter it is.
    of: String,
    why: Impossible,
}

/// Measurements of several sources of a function, and replicas that they do not know to be its own.
fn merge(shown: &[(usize, &FunctionScrape)], extra: &[(usize, Scrape)]) -> FunctionScrape {
    let of_replicas = shown.iter().flat_map(|(_, scrape)| &scrape.replicas);
    FunctionScrape {
        platform: shown.iter().find_map(|(_, scrape)| scrape.platform),
        ingress: shown.iter().find_map(|(_, scrape)| scrape.ingress.clone()),
        replicas: of_replicas.chain(extra.iter().map(|(_, replica)| replica)).cloned().collect(),
        node_cores: shown.iter().find_map(|(_, scrape)| scrape.node_cores),
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
