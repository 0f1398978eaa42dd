//! What acts when the agent is silent. Owns the choice of rule; it needs nothing but the last State, so it cannot die with an agent or the bus.

use qscale_common::contract::{Provenance, State};
use qscale_common::policy::FallbackRule;
use qscale_common::units::Allocation;
use qscale_policies::{Decision, Policy as _, Threshold};

/// What a fallback rule says.
#[derive(Debug, Clone, PartialEq)]
pub struct Advice {
    /// What the rule is called.
    pub rule: &'static str,
    /// Its version and parameters.
    pub provenance: Provenance,
    /// What it wants.
    pub wanted: Allocation,
    /// Why.
    pub reason: String,
}

/// What `rule` makes of `state`, where `current` is what the platform was last told; `None` where the rule is to do nothing.
#[must_use]
pub fn advise(rule: FallbackRule, state: &State, current: Allocation) -> Option<Advice> {
    match rule {
        FallbackRule::Hold => None,
        FallbackRule::Threshold => {
            let rule = Threshold::default();
            // The rule steps from what the platform was told last, which the State may not have seen yet.
            let present = State { allocation: Some(current), ..state.clone() };
            let (wanted, reason) = match rule.evaluate(&present) {
                Decision::Want { allocation, reason, .. } => (allocation, reason),
                Decision::Hold { reason, .. } => (current, reason),
            };
            Some(Advice { rule: rule.name(), provenance: Provenance::of_rule(rule.name(), rule.model()), wanted, reason })
        }
    }
}
