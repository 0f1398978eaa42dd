//! The policy `hpa-vpa`: HPA and VPA on one function. Owns the combination of their decisions; must not decide itself.
//!
//! Kubernetes warns of using both on one resource, since each changes the other's ratio. So by default the HPA uses CPU and the VPA memory.

use std::time::Duration;

use qscale_common::contract::State;
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::hpa::Hpa;
use crate::hpa::HpaMemory;
use crate::vpa::Vpa;
use crate::vpa::{Controlled, VpaMemory};
use crate::{Decision, HoldReason, Memory, Policy, Rule, Timing, inputs};

/// Parameters of both autoscalers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HpaVpa {
    /// The HPA, which sets the number of replicas.
    pub hpa: Hpa,
    /// The VPA, which sets their size.
    pub vpa: Vpa,
}

/// Memory of both about one function.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HpaVpaMemory {
    hpa: HpaMemory,
    vpa: VpaMemory,
}

impl Default for HpaVpa {
    fn default() -> Self {
        Self { hpa: Hpa::default(), vpa: Vpa { controlled: Controlled::Memory, ..Vpa::default() } }
    }
}

impl Policy for HpaVpa {
    fn name(&self) -> &'static str {
        "hpa-vpa"
    }

    fn model(&self) -> String {
        format!("{}; {}", self.hpa.model(), self.vpa.model())
    }

    fn lookback(&self) -> Option<Duration> {
        self.hpa.lookback().max(self.vpa.lookback())
    }

    /// Timing of the HPA, which decides more often than the VPA.
    fn timing(&self) -> Timing {
        self.hpa.timing()
    }

    fn decide(&self, state: &State, memory: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        let memory = memory.of::<HpaVpaMemory>();
        let (across, along) = (self.hpa.sync(state, &mut memory.hpa), self.vpa.run(state, &mut memory.vpa));
        let Some(current) = state.allocation else {
            return Decision::hold(HoldReason::NoAllocation, "the current allocation is not known");
        };
        join(state, current, across, along)
    }
}

impl Rule for HpaVpa {
    fn check(&self) -> Result<(), String> {
        self.hpa.check().map_err(|error| format!("hpa.{error}"))?;
        self.vpa.check().map_err(|error| format!("vpa.{error}"))
    }
}

/// Replicas of the HPA's decision with CPU and memory of the VPA's. A decision to hold keeps the current values of its part.
fn join(state: &State, current: Allocation, across: Decision, along: Decision) -> Decision {
    let reason = match (&across, &along) {
        (Decision::Hold { why: HoldReason::NotDue, .. }, along) => text(along).to_owned(),
        (across, Decision::Hold { why: HoldReason::NotDue, .. }) => text(across).to_owned(),
        (across, along) => format!("{}; {}", text(across), text(along)),
    };
    match (across.wanted(), along.wanted()) {
        (None, None) => match (across, along) {
            (Decision::Hold { why: HoldReason::NotDue, .. }, Decision::Hold { why, .. }) | (Decision::Hold { why, .. }, _) => {
                Decision::hold(why, reason)
            }
            (across, _) => across,
        },
        (across, along) => {
            let (across, along) = (across.unwrap_or(current), along.unwrap_or(current));
            inputs::propose(state, current, Allocation { replicas: across.replicas, ..along }, reason)
        }
    }
}

fn text(decision: &Decision) -> &str {
    match decision {
        Decision::Want { reason, .. } | Decision::Hold { reason, .. } => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    fn want(allocation: Allocation) -> Decision {
        Decision::Want { allocation, reason: "wanted".into(), choices: Vec::new() }
    }

    #[test]
    fn each_sets_its_own_part() {
        let (current, state) = (Allocation::new(2, 500, 256), fixtures::state());
        let idle = || Decision::hold(HoldReason::NotDue, "idle");
        let check = |across, along, expected| assert_eq!(join(&state, current, across, along).wanted(), expected);
        check(want(Allocation::new(5, 500, 256)), want(Allocation::new(2, 500, 300)), Some(Allocation::new(5, 500, 300)));
        check(want(Allocation::new(5, 500, 256)), idle(), Some(Allocation::new(5, 500, 256)));
        check(idle(), want(Allocation::new(2, 500, 300)), Some(Allocation::new(2, 500, 300)));
        check(idle(), idle(), None);
        assert!(matches!(join(&state, current, idle(), idle()), Decision::Hold { why: HoldReason::NotDue, .. }));
        let nothing = Decision::hold(HoldReason::NoMeasurement, "nothing measured");
        assert!(matches!(join(&state, current, idle(), nothing), Decision::Hold { why: HoldReason::NoMeasurement, .. }));
    }
}
