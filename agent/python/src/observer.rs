//! One function as the learned policy sees it. Owns the memory of the function; features, actions and masks belong to `qscale_dqn`.

use pyo3::prelude::*;
use pyo3::types::PyByteArray;
use qscale_common::contract::{Message as _, State, StateId, parse};
use qscale_common::name::FunctionId;
use qscale_dqn::actions::{ActionCandidates, Actions};
use qscale_dqn::context::FeatureContext;
use qscale_dqn::observation;
use qscale_dqn::policy::default_violation_cost;
use qscale_policies::History;

use crate::invalid;
use crate::worlds::{actions_of, flags, floats, violation_cost_of};

/// Observations of the States of one function, with the memory that features need.
#[pyclass(module = "qscale._native")]
pub(crate) struct Observer {
    actions: Actions,
    violation_cost: Option<f64>,
    history: History,
    last: Option<(FunctionId, StateId)>,
    observation: Vec<f32>,
    candidates: ActionCandidates,
}

#[pymethods]
impl Observer {
    #[new]
    #[pyo3(signature = (action_set = "headroom", scope = "joint", violation_cost = None))]
    fn new(action_set: &str, scope: &str, violation_cost: Option<f64>) -> PyResult<Self> {
        let (actions, violation_cost) = (actions_of(action_set, scope)?, violation_cost_of(violation_cost)?);
        let (observation, candidates) = (vec![0.0; observation::COUNT], ActionCandidates::default());
        Ok(Self { actions, violation_cost, history: History::default(), last: None, observation, candidates })
    }

    /// The observation of a State and its action mask. A State that was seen before changes nothing.
    fn observe<'py>(&mut self, py: Python<'py>, state: &[u8]) -> PyResult<(Bound<'py, PyByteArray>, Bound<'py, PyByteArray>)> {
        let state: State = parse(state).map_err(invalid)?;
        self.add(&state)?;
        let mask = self.candidates.mask();
        let allowed = (0..self.actions.count()).map(|action| mask.allows(action));
        Ok((floats(py, &self.observation)?, flags(py, self.actions.count(), allowed)?))
    }

    /// Replicas, millicores and MiB of `action` for the last State. `None` keeps the current allocation.
    fn allocation(&self, action: usize) -> PyResult<Option<(u32, u32, u32)>> {
        if self.last.is_none() {
            return Err(invalid("no State was observed; call observe first"));
        }
        if action >= self.actions.count() {
            return Err(invalid(format_args!("action = {action}, must be from 0 to {}", self.actions.count() - 1)));
        }
        let allocation = self.candidates.unmasked(action);
        Ok(allocation.map(|allocation| (allocation.replicas.0, allocation.cpu_millicores.0, allocation.memory_mib.0)))
    }

    /// Forgets all States.
    fn reset(&mut self) {
        (self.history, self.last) = (History::default(), None);
    }
}

impl Observer {
    fn add(&mut self, state: &State) -> PyResult<()> {
        let (function, id) = (state.function(), state.state_id());
        if let Some((known, last)) = &self.last {
            if *known != function {
                return Err(invalid(format_args!(
                    "State of {function} after States of {known}; an Observer has one function, create another one"
                )));
            }
            if !id.follows(*last) {
                return Ok(());
            }
        }
        let violation_cost = self.violation_cost.unwrap_or_else(|| default_violation_cost(state));
        let context = FeatureContext::update(state, &mut self.history, violation_cost);
        observation::observe(&context, &mut self.observation);
        self.actions.decode(&context, &mut self.candidates);
        self.last = Some((function, id));
        Ok(())
    }
}
