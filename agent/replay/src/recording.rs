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

/// States of `function` observed in `period`, in order, each once.
///
/// # Errors
/// When the stream cannot be read.
pub async fn states(bus: &Bus, function: &FunctionId, period: Period) -> anyhow::Result<Vec<State>> {
    let mut states: Vec<State> = Vec::new();
    let visit = |state: State| {
        let newer = states.last().is_none_or(|last| state.state_id().follows(last.state_id()));
        if newer && (period.since..=period.until).contains(&state.observed_at_ms) {
            states.push(state);
        }
    };
    bus.read_history_on(subject::of(EventType::State, function), period.since, visit).await?;
    Ok(states)
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
