//! The native module of the Python package: simulated functions as the trainer sees them, the learned policy's view of a State, and the contract. Owns the
//! conversion of arguments and results; must not simulate, observe or decide by itself.

mod contract;
mod observer;
mod worlds;

/// The functions and classes that Python imports as `qscale._native`.
#[pyo3::pymodule(name = "_native")]
mod native {
    #[pymodule_export]
    use super::contract::{action_subject, agent_group, check_state, state_subjects};
    #[pymodule_export]
    use super::observer::Observer;
    #[pymodule_export]
    use super::worlds::{Worlds, action_names, feature_names};
}

/// A `ValueError` with `text`.
fn invalid(text: impl ToString) -> pyo3::PyErr {
    pyo3::exceptions::PyValueError::new_err(text.to_string())
}
