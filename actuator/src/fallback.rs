//! The fallback for a silent agent. Owns the choice of rule; needs only the last State, so that it depends on neither agents nor the bus.

use qscale_common::contract::{Provenance, State};
use qscale_common::policy::FallbackRule;
use qscale_common::units::Allocation;
use qscale_policies::{Decision, Policy as _, Threshold};

/// Decision of a fallback rule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FallbackDecision {
    /// Name of the rule.
    pub(crate) rule: &'static str,
    /// Its version and parameters.
    pub(crate) provenance: Provenance,
    /// Requested allocation.
    pub(crate) wanted: Allocation,
    /// Reason, for people.
    pub(crate) reason: String,
}

/// The decision of `rule` on `state`, given the current allocation; `None` if the rule does nothing.
#[must_use]
pub(crate) fn decide(rule: FallbackRule, state: &State, current: Allocation) -> Option<FallbackDecision> {
    match rule {
        FallbackRule::Hold => None,
        FallbackRule::Threshold => {
            let rule = Threshold::default();
            // The rule steps from the current allocation, which the State may not show yet.
            let present = State { allocation: Some(current), ..state.clone() };
            let (wanted, reason) = match rule.evaluate(&present) {
                Decision::Want { allocation, reason, .. } => (allocation, reason),
                Decision::Hold { reason, .. } => (current, reason),
            };
            Some(FallbackDecision { rule: rule.name(), provenance: Provenance::of_rule(rule.name(), rule.model()), wanted, reason })
        }
    }
}
