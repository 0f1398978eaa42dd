//! Messages of the contract, checked by the code that all services use. Owns nothing; must not spell a subject or a rule of its own.

use pyo3::prelude::*;
use qscale_common::contract::{Action, EventType, Message as _, State, decode, parse, subject};
use qscale_common::name::Name;

use crate::invalid;

/// Checks that `payload`, received on `subject`, is a State.
#[pyfunction]
pub(crate) fn check_state(subject: &str, payload: &[u8]) -> PyResult<()> {
    decode::<State>(subject, payload).map(drop).map_err(invalid)
}

/// Checks that `payload` is an Action and returns the subject on which it is published.
#[pyfunction]
pub(crate) fn action_subject(payload: &[u8]) -> PyResult<String> {
    parse::<Action>(payload).map(|action| action.subject()).map_err(invalid)
}

/// Wildcard for the States of all functions.
#[pyfunction]
pub(crate) fn state_subjects() -> String {
    subject::all(EventType::State)
}

/// Queue group of the instances of `agent`.
#[pyfunction]
pub(crate) fn agent_group(agent: &str) -> PyResult<String> {
    let name: Name = agent.parse().map_err(|error| invalid(format_args!("agent = {agent:?}: {error}")))?;
    Ok(subject::agent_group(&name))
}
