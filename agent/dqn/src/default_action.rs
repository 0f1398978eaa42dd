//! The policy `dqn-default`: the action that the learned policy takes unless its network knows a better one. It shows what the network adds.

use std::time::Duration;

use qscale_common::policy::ViolationCost;

use qscale_common::contract::State;
use qscale_common::time::{Span, Timestamp};
use qscale_policies::{Decision, History, HoldReason, Memory, Policy, Scope, Timing};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::actions::{ActionCandidates, ActionSet, Actions};
use crate::context::FeatureContext;
use crate::policy::{current, default_violation_cost};

/// Name of the policy.
pub const NAME: &str = "dqn-default";

/// Parameters of the policy, those of the learned one that do not concern its network.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DefaultActionParams {
    /// Cost of a violated tick, in units of five seconds of the function's usual cost, 10 to 20000. It decides whether a replica stays without load.
    /// Default: 20, and 500 for a function that may be scaled to zero.
    #[schemars(with = "Option<f64>")]
    pub violation_cost: Option<ViolationCost>,
    /// Parts of the allocation that may be changed: horizontal, vertical or joint.
    pub scope: Scope,
}

/// The default action of [`ActionSet::Headroom`].
#[derive(Debug)]
pub struct DefaultAction {
    params: DefaultActionParams,
    actions: Actions,
}

impl DefaultAction {
    /// The policy with `params`.
    #[must_use]
    pub fn new(params: DefaultActionParams) -> Self {
        Self { params, actions: Actions::new(ActionSet::Headroom, params.scope) }
    }
}

impl Policy for DefaultAction {
    fn name(&self) -> &'static str {
        NAME
    }

    fn model(&self) -> String {
        format!("dqn-default/1 {}", self.params.scope)
    }

    fn lookback(&self) -> Option<Duration> {
        Some(History::REACH)
    }

    fn timing(&self) -> Timing {
        Timing { tick: Some(Span::seconds(5)), ..Timing::default() }
    }

    fn decide(&self, state: &State, memory: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        let cost = self.params.violation_cost.map_or_else(|| default_violation_cost(state), ViolationCost::get);
        let context = FeatureContext::update(state, memory.of::<History>(), cost);
        let current = match current(state) {
            Ok(current) => current,
            Err(hold) => return hold,
        };
        let mut candidates = ActionCandidates::default();
        self.actions.decode(&context, &mut candidates);
        let taken = self.actions.default_action(&candidates).and_then(|index| Some((index, candidates.entry(index).ok()?)));
        match taken {
            None => Decision::hold(HoldReason::NoMeasurement, "the default action cannot be taken"),
            Some((index, allocation)) if allocation == current => {
                Decision::hold(HoldReason::NothingToDo, format!("`{}` is the current allocation", self.actions.name(index)))
            }
            Some((index, allocation)) => {
                Decision::Want { allocation, reason: format!("`{}`", self.actions.name(index)), choices: Vec::new() }
            }
        }
    }
}
