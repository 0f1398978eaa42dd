//! The policy `static`: always the same. The dullest baseline, and what a comparison must beat.

use qscale_common::contract::State;
use qscale_common::time::Timestamp;
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Decision, HoldReason, Memory, Policy, Rule};

/// Gives what it was told to give, and keeps what is in force of whatever it was not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Fixed {
    /// Replicas; as in force where absent.
    pub replicas: Option<Replicas>,
    /// CPU of each replica, thousandths of a core; as in force where absent.
    pub cpu_millicores: Option<Millicores>,
    /// Memory of each replica, MiB; as in force where absent.
    pub memory_mib: Option<Mebibytes>,
}

impl Fixed {
    /// Always `allocation`.
    #[must_use]
    pub fn at(allocation: Allocation) -> Self {
        Self {
            replicas: Some(allocation.replicas),
            cpu_millicores: Some(allocation.cpu_millicores),
            memory_mib: Some(allocation.memory_mib),
        }
    }

    /// What to give where `current` is in force; `None` where that is needed and not known.
    fn target(&self, current: Option<Allocation>) -> Option<Allocation> {
        Some(Allocation {
            replicas: self.replicas.or(current.map(|a| a.replicas))?,
            cpu_millicores: self.cpu_millicores.or(current.map(|a| a.cpu_millicores))?,
            memory_mib: self.memory_mib.or(current.map(|a| a.memory_mib))?,
        })
    }
}

impl Policy for Fixed {
    fn name(&self) -> &'static str {
        "static"
    }

    fn model(&self) -> String {
        let part = |value: Option<String>| value.unwrap_or_else(|| "as is".into());
        let (cpu, memory) = (self.cpu_millicores.map(|v| v.to_string()), self.memory_mib.map(|v| v.to_string()));
        format!("static/1 replicas {}, cpu {}, memory {}", part(self.replicas.map(|v| v.to_string())), part(cpu), part(memory))
    }

    fn decide(&self, state: &State, _: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        let Some(target) = self.target(state.allocation) else {
            return Decision::hold(HoldReason::NoAllocation, "the allocation in force is not known");
        };
        let allocation = state.bounds.clamp(target);
        if state.allocation != Some(allocation) {
            Decision::Want { allocation, reason: format!("always {target}"), choices: Vec::new() }
        } else if allocation == target {
            Decision::hold(HoldReason::NothingToDo, format!("always {target}"))
        } else {
            Decision::hold(HoldReason::NotAllowed, format!("always {target}, and the bounds allow {allocation}"))
        }
    }
}

impl Rule for Fixed {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[track_caller]
    fn check(policy: Fixed, current: Option<Allocation>, expected: Result<Allocation, HoldReason>) {
        let state = State { allocation: current, ..fixtures::state() };
        match policy.decide(&state, &mut Memory::default(), Timestamp(0), &mut fixtures::rng()) {
            Decision::Want { allocation, .. } => assert_eq!(Ok(allocation), expected),
            Decision::Hold { why, .. } => assert_eq!(Err(why), expected),
        }
    }

    #[test]
    fn gives_what_it_was_told_within_the_bounds() {
        let one = Allocation::new(1, 500, 128);
        check(Fixed::at(Allocation::new(3, 200, 128)), Some(one), Ok(Allocation::new(3, 200, 128)));
        check(Fixed::at(Allocation::new(3, 200, 128)), None, Ok(Allocation::new(3, 200, 128)));
        check(Fixed::at(one), Some(one), Err(HoldReason::NothingToDo));
        check(Fixed::at(Allocation::new(99, 500, 128)), Some(one), Ok(Allocation::new(10, 500, 128)));
        check(Fixed::at(Allocation::new(99, 500, 128)), Some(Allocation::new(10, 500, 128)), Err(HoldReason::NotAllowed));
    }

    #[test]
    fn keeps_what_it_was_not_told() {
        let current = Allocation::new(2, 500, 128);
        check(Fixed::default(), Some(current), Err(HoldReason::NothingToDo));
        check(Fixed::default(), None, Err(HoldReason::NoAllocation));
        check(Fixed { replicas: Some(Replicas(4)), ..Fixed::default() }, Some(current), Ok(Allocation::new(4, 500, 128)));
        check(Fixed { replicas: Some(Replicas(4)), ..Fixed::default() }, None, Err(HoldReason::NoAllocation));
    }
}
