//! The policy `static`: a fixed allocation, the simplest baseline.

use qscale_common::contract::State;
use qscale_common::time::Timestamp;
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Decision, HoldReason, Memory, Policy, Rule};

/// A fixed allocation; parameters that are absent keep their current value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Fixed {
    /// Replicas; the current number if absent.
    pub replicas: Option<Replicas>,
    /// CPU of each replica, thousandths of a core; the current value if absent.
    pub cpu_millicores: Option<Millicores>,
    /// Memory of each replica, MiB; the current value if absent.
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

    /// The target given the `current` allocation; `None` if that is needed and unknown.
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
            return Decision::hold(HoldReason::NoAllocation, "the current allocation is not known");
        };
        let allocation = state.bounds.clamp(target);
        if state.allocation != Some(allocation) {
            Decision::Want { allocation, reason: format!("always {target}"), choices: Vec::new() }
        } else if allocation == target {
            Decision::hold(HoldReason::NothingToDo, format!("always {target}"))
        } else {
            Decision::hold(HoldReason::NotAllowed, format!("always {target}; bounds allow {allocation}"))
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
    fn requests_its_allocation_within_the_bounds() {
        let one = Allocation::new(1, 500, 128);
        check(Fixed::at(Allocation::new(3, 200, 128)), Some(one), Ok(Allocation::new(3, 200, 128)));
        check(Fixed::at(Allocation::new(3, 200, 128)), None, Ok(Allocation::new(3, 200, 128)));
        check(Fixed::at(one), Some(one), Err(HoldReason::NothingToDo));
        check(Fixed::at(Allocation::new(99, 500, 128)), Some(one), Ok(Allocation::new(10, 500, 128)));
        check(Fixed::at(Allocation::new(99, 500, 128)), Some(Allocation::new(10, 500, 128)), Err(HoldReason::NotAllowed));
    }

    #[test]
    fn keeps_current_values_of_absent_parameters() {
        let current = Allocation::new(2, 500, 128);
        check(Fixed::default(), Some(current), Err(HoldReason::NothingToDo));
        check(Fixed::default(), None, Err(HoldReason::NoAllocation));
        check(Fixed { replicas: Some(Replicas(4)), ..Fixed::default() }, Some(current), Ok(Allocation::new(4, 500, 128)));
        check(Fixed { replicas: Some(Replicas(4)), ..Fixed::default() }, None, Err(HoldReason::NoAllocation));
    }
}
