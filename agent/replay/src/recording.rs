//! Recorded messages about one function, read back from the streams. Owns their order and the removal of duplicates;
//! must not decide or print anything.

use std::collections::BTreeMap;

use anyhow::Context as _;
use qscale_common::contract::{self, Action, EventType, Message, State, StateId, subject};
use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::bus::Bus;
use qscale_common::time::Timestamp;
use thiserror::Error;

/// Part of a recording, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// Its beginning.
    pub since: Timestamp,
    /// Its end.
    pub until: Timestamp,
}

/// No State of a function is retained.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "no State of {function} since {since} is retained; `qscale policy list` lists the functions, an earlier --since reads more, and \
     `qscale watch --kind state` shows whether the collector publishes"
)]
pub struct NothingRecorded {
    /// The function.
    pub function: FunctionId,
    /// Beginning of the period that was read.
    pub since: Timestamp,
}

/// Recorded States of a function.
#[derive(Debug, Clone, Default)]
pub struct RecordedStates {
    /// The States by epoch and tick, each once.
    pub states: Vec<State>,
    /// Messages that cannot be read, of any time since the begin of the period.
    pub unreadable: u64,
    /// States that were recorded again.
    pub repeated: u64,
}

impl RecordedStates {
    fn of(mut states: Vec<State>, unreadable: u64) -> Self {
        states.sort_by_key(State::state_id);
        let all = states.len();
        states.dedup_by_key(|state| state.state_id());
        let repeated = (all - states.len()) as u64;
        Self { states, unreadable, repeated }
    }

    /// Faults of the recording, in sentences.
    pub fn faults(&self) -> impl Iterator<Item = String> {
        let unreadable = (self.unreadable > 0).then(|| format!("{} recorded messages cannot be read and are left out", self.unreadable));
        let repeated = (self.repeated > 0).then(|| format!("{} States were recorded more than once and count once", self.repeated));
        unreadable.into_iter().chain(repeated)
    }
}

/// States of `function` observed in `period`.
///
/// # Errors
/// When the stream cannot be read.
pub async fn states(bus: &Bus, function: &FunctionId, period: Period) -> anyhow::Result<RecordedStates> {
    let mut states: Vec<State> = Vec::new();
    let visit = |state: State| {
        if (period.since..=period.until).contains(&state.observed_at_ms) {
            states.push(state);
        }
    };
    let count = bus.read_history_on(subject::of(EventType::State, function), period.since, visit).await?;
    Ok(RecordedStates::of(states, count.unreadable))
}

/// Actions of `agent` for `function` recorded since `since`, by the State that they answer; the first Action for a State counts.
///
/// # Errors
/// When the stream cannot be read.
pub async fn actions(bus: &Bus, agent: &Name, function: &FunctionId, since: Timestamp) -> anyhow::Result<BTreeMap<StateId, Action>> {
    let mut actions = BTreeMap::new();
    let visit = |action: Action| {
        actions.entry(action.state_id()).or_insert(action);
    };
    bus.read_history_on(subject::action(agent, function), since, visit).await?;
    Ok(actions)
}

/// The last of `actions` that answers the State `state_id` or an earlier one.
#[must_use]
pub fn last_until(actions: &BTreeMap<StateId, Action>, state_id: StateId) -> Option<&Action> {
    actions.range(..=state_id).next_back().map(|(_, action)| action)
}

/// All messages of one type about `function` recorded since `since`.
///
/// # Errors
/// When the stream cannot be read.
pub async fn messages<M: Message>(bus: &Bus, function: &FunctionId, since: Timestamp) -> anyhow::Result<Vec<M>> {
    let mut found = Vec::new();
    bus.read_history_on(subject::of(M::TYPE, function), since, |message: M| found.push(message)).await?;
    Ok(found)
}

/// The newest State of `function`.
///
/// # Errors
/// [`NothingRecorded`], or when the stream or the State cannot be read.
pub async fn last_state(bus: &Bus, function: &FunctionId) -> anyhow::Result<State> {
    let on = subject::of(EventType::State, function);
    let Some(stored) = bus.last_message(EventType::State, &on).await? else {
        return Err(NothingRecorded { function: function.clone(), since: Timestamp(0) }.into());
    };
    contract::decode(&on, &stored.payload).with_context(|| format!("the last State of {function}"))
}

/// The newest Action of `agent` for `function`.
///
/// # Errors
/// When the stream or the Action cannot be read.
pub async fn last_action(bus: &Bus, agent: &Name, function: &FunctionId) -> anyhow::Result<Option<Action>> {
    let on = subject::action(agent, function);
    let Some(stored) = bus.last_message(EventType::Action, &on).await? else { return Ok(None) };
    contract::decode(&on, &stored.payload).map(Some).with_context(|| format!("the last Action of {agent} for {function}"))
}

/// The Action of `agent` for the State of `tick`, which began at `begin`; the newest one if collectors of several
/// epochs observed that tick.
///
/// # Errors
/// When the stream cannot be read.
pub async fn action_at(bus: &Bus, agent: &Name, function: &FunctionId, begin: Timestamp, tick: u64) -> anyhow::Result<Option<Action>> {
    let actions = actions(bus, agent, function, begin).await?;
    Ok(actions.into_iter().rev().find(|(state_id, _)| state_id.tick.0 == tick).map(|(_, action)| action))
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::Epoch;
    use qscale_common::fixtures;
    use qscale_common::time::Tick;

    use super::*;

    #[test]
    fn states_are_ordered_and_counted_once_and_faults_are_named() {
        let state = |epoch, tick| State { epoch: Epoch(epoch), tick: Tick(tick), ..fixtures::state() };
        let recorded = RecordedStates::of(vec![state(2, 3), state(1, 9), state(2, 3), state(1, 8), state(2, 2)], 4);
        let ids: Vec<_> = recorded.states.iter().map(|state| (state.epoch.0, state.tick.0)).collect();
        assert_eq!(ids, [(1, 8), (1, 9), (2, 2), (2, 3)]);
        assert_eq!((recorded.unreadable, recorded.repeated), (4, 1));
        assert_eq!(recorded.faults().count(), 2);
        assert_eq!(RecordedStates::of(Vec::new(), 0).faults().count(), 0);
    }
}
