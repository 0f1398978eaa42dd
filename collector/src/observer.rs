//! What is observed of every function, tick by tick: readings, policies and Outcomes in, States and Rewards out. Owns which tick is due; does no I/O and
//! reads no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use qscale_common::contract::{DecidedBy, DecisionSource, Effect, Epoch, Headroom, Outcome, Reward, State, StateId, TraceParent};
use qscale_common::name::Name;
use qscale_common::partition::Partition;
use qscale_common::policy::ScalingPolicy;
use qscale_common::reward::{self, RewardContext};
use qscale_common::scrape::{FunctionScrape, Scrape};
use qscale_common::time::{Tick, TickLength, Timestamp};
use qscale_common::window::{Windows, assemble};

use crate::reading::Reading;

/// A clock that was set back by no more than this many ticks is waited for; beyond it a new epoch begins, for a function that is not observed for longer
/// is one that its fallback takes over.
const TICKS_WAITED_FOR: u64 = 2;

/// A reading and where it is from.
#[derive(Debug)]
pub struct Sourced {
    /// Name of the source.
    pub source: Name,
    /// What it showed.
    pub reading: Reading,
    /// Whether it could not be read the last time, so that what it shows first may be old.
    pub resumed: bool,
}

/// What a tick of a function gives.
#[derive(Debug)]
pub struct Observation {
    /// The State that closes the tick.
    pub state: State,
    /// The Reward for the tick before, and the trace of the State that began it; `None` with the first State of an epoch.
    pub reward: Option<(Reward, TraceParent)>,
    /// Ticks since the last State that had none.
    pub missed: u64,
}

/// Everything that is observed.
#[derive(Debug)]
pub struct Observer {
    epoch: Epoch,
    partition: Partition,
    /// In the order of their keys.
    functions: Vec<Function>,
    index: HashMap<String, usize>,
    lengths: BTreeSet<TickLength>,
}

#[derive(Debug)]
struct Function {
    policy: Arc<ScalingPolicy>,
    workload: String,
    windows: Windows,
    headroom: Option<Headroom>,
    decided_by: Option<DecidedBy>,
    /// The last tick that is over: published, or begun before the function was known.
    closed: Tick,
    /// The last State of this epoch.
    published: Option<(Tick, TraceParent)>,
}

impl Observer {
    /// Observes nothing yet, from `now` on.
    #[must_use]
    pub fn new(partition: Partition, now: Timestamp) -> Self {
        Self { epoch: Epoch(now.0), partition, functions: Vec::new(), index: HashMap::new(), lengths: BTreeSet::new() }
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

    /// Observes the functions of `policies` that belong to this part, and no others. What was seen of a function is kept unless its tick or its
    /// workload changed.
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

    /// Takes in who decided what is in force. A decision that was applied, or that found what it wanted in force, stands until the next such.
    pub fn take_outcome(&mut self, outcome: &Outcome) {
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

    /// Takes in what was read at one time.
    pub fn record(&mut self, readings: &[Sourced]) {
        let joined = join_unowned(readings);
        for function in &mut self.functions {
            let extra = joined.get(function.workload.as_str()).map_or(&[][..], Vec::as_slice);
            function.record(readings, extra);
        }
    }

    /// When the next tick of any function begins, after `now`.
    #[must_use]
    pub fn next_tick(&self, now: Timestamp) -> Option<Timestamp> {
        self.lengths.iter().map(|&length| Tick::at(now, length).next().start(length)).min()
    }

    /// Says whether the clock was set back so far that a new epoch had to begin, in which every function is seen as for the first time: what was read
    /// before lies in a future that the clock may never reach.
    pub fn heal_clock(&mut self, now: Timestamp) -> bool {
        let ahead = |function: &Function| function.closed.0 > Tick::at(now, function.policy.tick).0.saturating_add(TICKS_WAITED_FOR);
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

    /// The functions of which a tick began that has no State yet.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Vec<usize> {
        let due = |function: &Function| Tick::at(now, function.policy.tick) > function.closed;
        self.functions.iter().enumerate().filter(|(_, function)| due(function)).map(|(place, _)| place).collect()
    }

    /// Closes the tick of one that is due: its State, which `trace` follows, and the Reward for the tick before. `None` where it is not due.
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
            let judged = RewardContext { epoch: self.epoch, tick, at: now, decided_by: function.decided_by.clone() };
            let measured = reward::measure(&state.windows.tick, closed, &policy);
            (reward::message(&measured, closed, judged, &policy), trace)
        });
        Some(Observation { state, reward, missed })
    }
}

impl Function {
    fn new(policy: Arc<ScalingPolicy>, workload: String, now: Timestamp) -> Self {
        let windows = Windows::new(policy.tick);
        let closed = Tick::at(now, policy.tick);
        Self { policy, workload, windows, headroom: None, decided_by: None, closed, published: None }
    }

    /// Takes in what the sources of this function showed of it, and what they showed of replicas without knowing whose they are.
    fn record(&mut self, readings: &[Sourced], extra: &[Scrape]) {
        let named = self.policy.metrics.source.as_ref();
        let of_function = readings.iter().filter(|sourced| named.is_none_or(|named| *named == sourced.source));
        let mut scrapes = of_function.filter_map(|sourced| Some((sourced, sourced.reading.functions.get(&self.workload)?)));
        let Some((first, scrape)) = scrapes.next() else { return };
        if scrape.platform.is_some() {
            self.headroom = first.reading.headroom;
        }
        let mut merged: Option<FunctionScrape> = None;
        // Only what another source reads as well can be older than what was read here before.
        let mut resumed = false;
        for (sourced, other) in scrapes {
            let merged = merged.get_or_insert_with(|| scrape.clone());
            if merged.platform.is_none() && other.platform.is_some() {
                self.headroom = sourced.reading.headroom;
            }
            merged.platform = merged.platform.or(other.platform);
            merged.ingress = merged.ingress.or(other.ingress);
            merged.replicas.extend_from_slice(&other.replicas);
            resumed |= first.resumed || sourced.resumed;
        }
        if !extra.is_empty() {
            merged.get_or_insert_with(|| scrape.clone()).replicas.extend_from_slice(extra);
        }
        let scrape = merged.as_ref().unwrap_or(scrape);
        if resumed { self.windows.record_after_outage(scrape) } else { self.windows.record(scrape) }
    }
}

/// Replicas of which one source does not say whose they are, by the workload that another one says, `namespace/name`.
fn join_unowned(readings: &[Sourced]) -> HashMap<&str, Vec<Scrape>> {
    let mut joined: HashMap<&str, Vec<Scrape>> = HashMap::new();
    if readings.iter().all(|sourced| sourced.reading.unowned.is_empty()) {
        return joined;
    }
    let mut owners = HashMap::new();
    for (workload, scrape) in readings.iter().flat_map(|sourced| &sourced.reading.functions) {
        let namespace = workload.split_once('/').map_or("", |(namespace, _)| namespace);
        owners.extend(scrape.replicas.iter().map(|replica| (format!("{namespace}/{}", replica.replica), workload.as_str())));
    }
    for (path, scrape) in readings.iter().flat_map(|sourced| &sourced.reading.unowned) {
        if let Some(workload) = owners.get(path) {
            joined.entry(workload).or_default().push(scrape.clone());
        }
    }
    joined
}

#[cfg(test)]
mod tests;
