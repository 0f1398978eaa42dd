//! Checks at every step. Owns the record of events; uses only what processes received, sent and published.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use qscale_actuator::core::{ApplyRequest, Lead, REPORTED_REFUSALS};
use qscale_common::contract::{Action, DecisionSource, Direction, Effect, Message as _, Outcome, Reward, State, StateId};
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::{Bounds, Mode};
use qscale_common::runtime::lease::LeaderStatus;
use qscale_common::time::{Timestamp, millis};
use qscale_common::units::Allocation;
use serde::{Deserialize, Serialize};

use crate::protocol::{Millis, Payload, PlatformScrape, ProcessId};
use crate::view::ActuatorView;

/// Time within which an Action that reached the leader has an Outcome, milliseconds: two timeouts of a request and a retry. The time of a pause does not count.
const OUTCOME_WITHIN: Millis = 30_000;
/// Changes that a new leader may not know of: those between two writes of a budget.
const UNSTORED_CHANGES: u32 = 6;

/// Something that must not happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Time of the simulation, milliseconds.
    pub at: Millis,
    /// Name of the check.
    pub check: String,
    /// Description of the violation.
    pub detail: String,
}

type ActionKey = (Name, FunctionId, StateId);

/// The checks and what they remember.
#[derive(Default)]
pub(crate) struct Checks {
    now: Millis,
    /// Whether a clock is wrong at any time of this run: some checks compare clocks.
    clocks_step: bool,
    /// Whether the bus delivers a message more than once in this run.
    duplicates: bool,
    violation: Option<Violation>,
    leads: BTreeMap<ProcessId, (Lead, u32)>,
    published: HashMap<FunctionId, [Option<StateId>; 2]>,
    rewards: HashSet<(FunctionId, StateId)>,
    readings: HashMap<String, Readings>,
    /// Whether the counters began again before the last reading. The collector is not informed, and takes a small fall for an error of the exporter.
    counters_began: bool,
    /// Life of the platform's process whose counters were read last.
    read_life: Option<u32>,
    answered: HashSet<(ProcessId, ActionKey)>,
    actions: HashMap<ActionKey, Timestamp>,
    /// Actions that reached a leader.
    delivered: HashSet<(ProcessId, ActionKey)>,
    /// Actions that reached a leader and have no Outcome yet.
    waiting: BTreeMap<(ProcessId, ActionKey), Millis>,
    /// Processes that do not run.
    paused: BTreeSet<ProcessId>,
    emissions: HashMap<(ProcessId, FunctionId, u64), Emission>,
    completed: HashMap<(ProcessId, FunctionId), Emission>,
    outcomes: HashMap<String, Outcome>,
    /// Decisions that were applied, by the actuator that applied them. A later Outcome of one is of a repair.
    concluded: HashSet<(ProcessId, ActionKey)>,
    acknowledged: BTreeSet<String>,
    highest_accepted: u64,
    /// Fencing tokens, and who leads or led with each.
    tokens: HashMap<u64, ProcessId>,
    changes: HashMap<FunctionId, Spent>,
    last_loop: HashMap<FunctionId, Millis>,
    /// Actions that an actuator received since the last State.
    arrivals: HashMap<(ProcessId, FunctionId, Name), u32>,
    terms: u32,
}

#[derive(Default, Clone, Copy)]
struct Readings {
    /// Time of day, arrivals and allocation of the last reading, and of the one before.
    last: Option<(Timestamp, u64, Option<Allocation>)>,
    before: Option<(Timestamp, u64, Option<Allocation>)>,
}

#[derive(Default, Clone, Copy)]
struct Spent {
    all: u32,
    term: (ProcessId, u32),
    in_term: u32,
    /// Direction of the last change, and the reversals, of this term.
    last: Option<Direction>,
    reversals: u32,
}

/// Knowledge at the time at which a request was sent to the platform.
#[derive(Clone, Copy)]
struct Emission {
    disconnected: bool,
    restore: bool,
    bounds: Bounds,
    /// Age of the oldest measurement, with replicas and without; `None`: nothing was measured.
    ages: [Option<u64>; 2],
    /// Memory below which the function must not be lowered, MiB; `None`: it must not be lowered.
    memory_floor: Option<f64>,
    /// Time at which it was sent, by the clock of the actuator.
    at: Timestamp,
}

impl Checks {
    /// Checks of a run in which clocks step, or messages are delivered more than once.
    pub(crate) fn new(clocks_step: bool, duplicates: bool) -> Self {
        Self { clocks_step, duplicates, ..Self::default() }
    }

    /// Time advances to `now`.
    pub(crate) fn advance(&mut self, now: Millis) {
        self.now = now;
        let overdue =
            |((process, _), since): &(&(ProcessId, ActionKey), &Millis)| now - **since > OUTCOME_WITHIN && !self.paused.contains(process);
        if let Some(((process, (agent, function, state_id)), _)) = self.waiting.iter().find(overdue) {
            let detail = format!("actuator {process}: Action of {agent} for {function}, tick {}, has no Outcome", state_id.tick);
            self.fail("every Action gets an Outcome", detail);
        }
    }

    /// Notes a violation, unless there is one already.
    pub(crate) fn fail(&mut self, check: &str, detail: impl Into<String>) {
        if self.violation.is_none() {
            self.violation = Some(Violation { at: self.now, check: check.to_owned(), detail: detail.into() });
        }
    }

    /// The first violation.
    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    fn require(&mut self, holds: bool, check: &str, detail: impl FnOnce() -> String) {
        if !holds {
            self.fail(check, detail());
        }
    }

    /// The collector has read `functions` at `wall`.
    pub(crate) fn on_scraped(&mut self, scraped: &PlatformScrape, wall: Timestamp) {
        // The counters of a platform begin with its process.
        if self.read_life != Some(scraped.life) {
            self.readings.clear();
        }
        self.read_life = Some(scraped.life);
        self.counters_began = self.readings.is_empty();
        for (workload, scrape) in &scraped.functions {
            let readings = self.readings.entry(workload.clone()).or_default();
            readings.before = readings.last;
            let allocation = scrape.platform.and_then(|platform| platform.allocation);
            readings.last = Some((wall, scrape.ingress.as_ref().map_or(0, |ingress| ingress.arrived.sum()), allocation));
        }
    }

    /// The collector has dropped a value of `metric`: this platform shows only possible ones.
    pub(crate) fn on_dropped(&mut self, metric: &str, why: &str) {
        let expected = self.clocks_step || self.counters_began;
        self.require(expected, "possible values are used", || format!("{metric}: {why}"));
    }

    /// The collector starts again.
    pub(crate) fn on_collector_started(&mut self) {
        self.published.clear();
        self.readings.clear();
    }

    /// The collector publishes `state`.
    pub(crate) fn on_state_published(&mut self, state: &State) {
        let function = state.function();
        let (id, valid) = (state.state_id(), state.check());
        self.require(valid.is_ok(), "States are valid", || format!("{function}: {valid:?}"));
        let [last, _] = self.published.get(&function).copied().unwrap_or_default();
        self.require(last.is_none_or(|last| last < id), "States are in order", || format!("{function}: {id:?} after {last:?}"));
        self.published.insert(function.clone(), [Some(id), last]);
        let Some(Readings { last: Some(last), before }) = self.readings.get(&function.to_string()).copied() else { return };
        if state.age.replicas_ms == Some(millis(state.observed_at_ms.since(last.0))) {
            let shown = state.allocation;
            self.require(shown == last.2, "States show what was read", || format!("{function}: {shown:?} instead of {:?}", last.2));
        }
        let (window, Some(before)) = (&state.windows.tick, before) else { return };
        let elapsed = millis(last.0.since(before.0));
        if let Some(rate) = window.rate_rps
            && window.covered_ms == elapsed
            && elapsed > 0
            && last.1 >= before.1
        {
            let expected = (last.1 - before.1) as f64 * 1e3 / elapsed as f64;
            self.require((rate - expected).abs() <= 1e-6 + expected * 1e-3, "States show what was read", || {
                format!("{function}: {rate} requests/s instead of {expected}")
            });
        }
    }

    /// The collector publishes `reward`: one for each tick between two States.
    pub(crate) fn on_reward(&mut self, reward: &Reward) {
        let (function, id) = (reward.function(), StateId { epoch: reward.epoch, tick: reward.tick });
        let [last, before] = self.published.get(&function).copied().unwrap_or_default();
        self.require(before == Some(id), "a Reward is for the State before", || {
            format!("{function}: {id:?} after the States {before:?} and {last:?}")
        });
        let new = self.rewards.insert((function.clone(), id));
        self.require(new, "a tick has one Reward", || format!("{function}: {id:?}"));
    }

    /// An agent answers `state` with `action` at `wall`.
    pub(crate) fn on_action_decided(&mut self, action: &Action, state: &State, wall: Timestamp) {
        let key = key(action);
        let latest = state.observed_at_ms.0 + 2 * state.tick_length_ms;
        self.require(action.state_id() == state.state_id(), "an Action names its State", || format!("{key:?}"));
        self.require(action.expires_at_ms.0 == latest && wall.0 <= latest, "no late Action is sent", || format!("{key:?} at {wall}"));
        self.actions.insert(key, action.expires_at_ms);
    }

    /// An instance of an agent has answered.
    pub(crate) fn on_answered(&mut self, process: ProcessId, action: &Action) {
        let key = key(action);
        let duplicates = self.duplicates;
        let new = self.answered.insert((process, key.clone()));
        self.require(new || duplicates, "an agent answers a State once", || format!("process {process}: {key:?}"));
    }

    /// A new State of `function` reaches the actuator `process`.
    pub(crate) fn on_state_delivered(&mut self, process: ProcessId, function: &FunctionId) {
        self.arrivals.retain(|(other, of, _), _| *other != process || of != function);
    }

    /// `action` reaches the actuator `process`.
    pub(crate) fn on_action_delivered(&mut self, process: ProcessId, action: &Action, view: &ActuatorView) {
        let leads = matches!(self.leads.get(&process), Some((Lead::Leading(_), _)));
        let arrivals = self.arrivals.entry((process, action.function(), action.agent.clone())).or_default();
        *arrivals += 1;
        // An Action that is sent again is refused, as are those that waited for a connection, and the number of reported refusals between two States is limited.
        let reported = *arrivals <= REPORTED_REFUSALS;
        if leads && view.policy(&action.function()).is_some() && self.delivered.insert((process, key(action))) && reported {
            self.waiting.insert((process, key(action)), self.now);
        }
    }

    /// The actuator `process` passes `lead` to its core.
    pub(crate) fn on_lead(&mut self, process: ProcessId, lead: Lead) {
        let (before, term) = self.leads.get(&process).copied().unwrap_or((Lead::Following, 0));
        if before == lead {
            return;
        }
        let is_new = matches!(lead, Lead::Leading(_)) && !matches!(before, Lead::Disconnected(_));
        self.terms += u32::from(is_new);
        if let Lead::Leading(token) = lead {
            let holder = *self.tokens.entry(token).or_insert(process);
            self.require(holder == process, "every leader has a token of its own", || format!("actuators {holder} and {process}: {token}"));
        }
        self.leads.insert(process, (lead, term + u32::from(is_new)));
        self.waiting.retain(|(waiting, _), _| *waiting != process);
    }

    /// A process is paused.
    pub(crate) fn on_paused(&mut self, process: ProcessId) {
        self.paused.insert(process);
    }

    /// A process runs again: its time for Outcomes begins again.
    pub(crate) fn on_resumed(&mut self, process: ProcessId) {
        self.paused.remove(&process);
        let now = self.now;
        self.waiting.iter_mut().filter(|((waiting, _), _)| *waiting == process).for_each(|(_, since)| *since = now);
    }

    /// A process ends.
    pub(crate) fn on_stopped(&mut self, process: ProcessId) {
        self.on_lead(process, Lead::Following);
        self.answered.retain(|(other, _)| *other != process);
        self.delivered.retain(|(other, _)| *other != process);
        self.concluded.retain(|(other, _)| *other != process);
        self.arrivals.retain(|(other, ..), _| *other != process);
    }

    /// The actuator `process` sends `request` to the platform.
    pub(crate) fn on_apply(
        &mut self,
        process: ProcessId,
        request: &ApplyRequest,
        status: LeaderStatus,
        view: &ActuatorView,
        wall: Timestamp,
    ) {
        let function = &request.function;
        let Some(policy) = view.policy(function) else {
            return self.fail("only functions with a policy are changed", format!("actuator {process}: {function}"));
        };
        let requested = view.restore_request(function);
        let restore = requested > view.restored(function) && view.baseline(function) == Some(request.allocation);
        let disconnected = matches!(status, LeaderStatus::Disconnected { .. });
        self.require(view.baseline(function).is_some(), "the allocation before the first change is stored before it", || {
            format!("actuator {process}: {function} {}", request.allocation)
        });
        self.require(restore || policy.bounds.contain(request.allocation), "allocations are within the bounds", || {
            format!("actuator {process}: {function} {}, bounds {:?}", request.allocation, policy.bounds)
        });
        self.require(restore || !view.is_frozen(function), "a freeze is obeyed", || {
            format!("actuator {process}: {function} {}", request.allocation)
        });
        self.require(restore || !policy.paused, "a pause is obeyed", || format!("actuator {process}: {function} {}", request.allocation));
        self.require(restore || policy.mode == Mode::Active, "the mode is obeyed", || {
            format!("actuator {process}: {function} {} in mode {:?}", request.allocation, policy.mode)
        });
        let ages = [true, false].map(|running| view.age(function, running, wall));
        let memory_floor = view.memory_floor(function, policy.guard.working_set_margin.get());
        let emission = Emission { disconnected, restore, bounds: policy.bounds, ages, memory_floor, at: wall };
        self.emissions.insert((process, function.clone(), request.number), emission);
    }

    /// The platform has answered `request` of the actuator `process`.
    pub(crate) fn on_completed(&mut self, process: ProcessId, request: &ApplyRequest) {
        if let Some(emission) = self.emissions.remove(&(process, request.function.clone(), request.number)) {
            self.completed.insert((process, request.function.clone()), emission);
        }
    }

    /// The platform has carried out `request`.
    pub(crate) fn on_accepted(&mut self, request: &ApplyRequest) {
        let (lease, highest) = (request.lease, self.highest_accepted);
        self.require(lease >= highest, "no older leader writes", || format!("{}: token {lease} after {highest}", request.function));
        self.highest_accepted = highest.max(lease);
    }

    /// The platform has lost its disk.
    pub(crate) fn on_platform_disk_lost(&mut self) {
        self.highest_accepted = 0;
    }

    /// The nats-server has lost its disk.
    pub(crate) fn on_server_disk_lost(&mut self) {
        self.acknowledged.clear();
        self.changes.clear();
        self.tokens.clear();
    }

    /// `leaders` are the actuators that lead now.
    pub(crate) fn on_leaders(&mut self, leaders: &[ProcessId]) {
        self.require(leaders.len() <= 1, "one actuator leads", || format!("actuators {leaders:?}"));
    }

    /// A stream has acknowledged `payload`.
    pub(crate) fn on_acknowledged(&mut self, payload: &Payload) {
        if matches!(payload, Payload::Outcome(_)) {
            self.acknowledged.insert(payload.unique_id());
        }
    }

    /// The actuator `process` publishes `outcome`.
    pub(crate) fn on_outcome(&mut self, process: ProcessId, outcome: &Outcome, view: &ActuatorView) {
        let function = outcome.function();
        let id = outcome.unique_id();
        if let Some(other) = self.outcomes.insert(id.clone(), outcome.clone())
            && other.actuator == outcome.actuator
            // The same Action may arrive twice, and is refused each time.
            && outcome.effect != Effect::Refused
        {
            self.fail("an Outcome is published once", format!("{id}: {} and {}", other.reason, outcome.reason));
        }
        let of_action = matches!(outcome.source, DecisionSource::Agent | DecisionSource::Shadow);
        let state_id = StateId { epoch: outcome.epoch, tick: outcome.tick };
        let key = (outcome.agent.clone(), function.clone(), state_id);
        let done = matches!(outcome.effect, Effect::Applied | Effect::Changed | Effect::Unchanged);
        let repair = if done { !self.concluded.insert((process, key.clone())) } else { self.concluded.contains(&(process, key.clone())) };
        if of_action && !repair {
            self.waiting.remove(&(process, key.clone()));
            if !matches!(outcome.effect, Effect::Refused | Effect::Failed) {
                let expires = self.actions.get(&key).copied();
                self.require(expires.is_some_and(|expires| outcome.decided_at_ms < expires), "no expired Action is obeyed", || {
                    format!("actuator {process}: {key:?} at {}, expires {expires:?}", outcome.decided_at_ms)
                });
                let recent = self.clocks_step || view.was_recent(&function, state_id, outcome.decided_at_ms);
                self.require(recent, "an Action answers one of the last two States", || format!("actuator {process}: {key:?}"));
            }
        }
        let is_loop = outcome.source == DecisionSource::Agent && !matches!(outcome.effect, Effect::Refused | Effect::Failed);
        if is_loop && !repair {
            self.last_loop.insert(function.clone(), self.now);
        }
        if matches!(outcome.effect, Effect::Applied | Effect::Changed) {
            self.on_change(process, outcome, &function, repair, view);
        }
    }

    fn on_change(&mut self, process: ProcessId, outcome: &Outcome, function: &FunctionId, repair: bool, view: &ActuatorView) {
        let (Some(emission), Some(policy)) = (self.completed.remove(&(process, function.clone())), view.policy(function)) else {
            return self.fail("a change follows a request", format!("actuator {process}: {function}"));
        };
        if outcome.source == DecisionSource::Agent && !repair {
            let key = (outcome.agent.clone(), function.clone(), StateId { epoch: outcome.epoch, tick: outcome.tick });
            let (expires, at) = (self.actions.get(&key).copied(), emission.at);
            self.require(expires.is_some_and(|expires| at < expires), "no request for an expired Action is sent", || {
                format!("actuator {process}: {key:?} at {at}, expires {expires:?}")
            });
        }
        let (Some(before), Some(allowed)) = (outcome.before, outcome.allowed) else { return };
        if emission.restore || outcome.source == DecisionSource::Operator || !emission.bounds.contain(before) {
            return;
        }
        let lower = allowed.is_lower_than(before);
        let change = || format!("actuator {process}: {function} from {before} to {allowed}, {}", outcome.reason);
        if emission.disconnected {
            let fallback = outcome.source == DecisionSource::Fallback;
            self.require(fallback && !lower, "a disconnected actuator only increases, by the fallback", change);
        }
        let age = emission.ages[usize::from(before.replicas.0 == 0)];
        let fresh = age.is_some_and(|age| age <= millis(policy.max_age()));
        self.require(fresh || !lower, "nothing is scaled down on stale data", || format!("{}, age {age:?} ms", change()));
        if repair {
            return;
        }
        let (up, down) = (policy.guard.replicas_up.get(), policy.guard.replicas_down.get());
        let within =
            allowed.replicas.0 <= before.replicas.0.saturating_add(up) && allowed.replicas.0 >= before.replicas.0.saturating_sub(down);
        self.require(within, "steps are limited", change);
        let kept =
            allowed.memory_mib >= before.memory_mib || emission.memory_floor.is_some_and(|floor| f64::from(allowed.memory_mib.0) >= floor);
        self.require(kept, "memory stays above the working set", || format!("{}, at least {:?}", change(), emission.memory_floor));
        let (_, term) = self.leads.get(&process).copied().unwrap_or((Lead::Following, 0));
        let spent = self.changes.entry(function.clone()).or_default();
        if spent.term != (process, term) {
            *spent = Spent { term: (process, term), in_term: 0, last: None, reversals: 0, ..*spent };
        }
        let direction = policy.prices.direction(before, allowed);
        if let Some(direction) = direction {
            spent.reversals += u32::from(spent.last.is_some_and(|last| last != direction));
            spent.last = Some(direction);
        }
        spent.all += 1;
        spent.in_term += 1;
        let (all, in_term, limit) = (spent.all, spent.in_term, policy.guard.changes_per_hour.get());
        // A step down leaves one reversal for the way up.
        let (reversals, most) = (spent.reversals + 1, policy.guard.reversals_per_hour);
        let unknown = UNSTORED_CHANGES * self.terms.saturating_sub(1);
        self.require(self.clocks_step || in_term <= limit && all <= limit + unknown, "the budget of changes is kept", || {
            format!("{function}: {all} changes, {in_term} by this leader, at most {limit}")
        });
        let down = direction == Some(Direction::Down);
        self.require(self.clocks_step || !down || reversals <= most, "the budget of reversals is kept", || {
            format!("{function}: down, with {reversals} reversals by this leader once it is up again, at most {most}")
        });
    }

    /// Requires that every function was decided on by its agent since `since`.
    pub(crate) fn require_loop(&mut self, functions: &[FunctionId], since: Millis) {
        for function in functions {
            let last = self.last_loop.get(function).copied();
            self.require(last.is_some_and(|last| last >= since), "the loop recovers", || {
                format!("{function}: last decision at {last:?} ms, expected after {since} ms")
            });
        }
    }

    /// Requires that every acknowledged Outcome is among `recorded` once.
    pub(crate) fn require_recorded(&mut self, recorded: &[String]) {
        let mut counts: HashMap<&str, u32> = HashMap::new();
        for id in recorded {
            *counts.entry(id).or_default() += 1;
        }
        let missing = self.acknowledged.iter().find(|id| counts.get(id.as_str()) != Some(&1)).cloned();
        self.require(missing.is_none(), "an acknowledged Outcome is recorded once", || format!("{missing:?}"));
    }
}

fn key(action: &Action) -> ActionKey {
    (action.agent.clone(), action.function(), action.state_id())
}
