//! A decision tree as a policy, whose decisions name the rules that led to them.

use std::time::Duration;

use qscale_common::policy::ViolationCost;

use qscale_common::contract::State;
use qscale_common::time::{Span, Timestamp};
use qscale_policies::{Decision, History, HoldReason, Memory, Policy, Timing};
use rand::Rng;

use super::DecisionTree;
use crate::actions::{ActionCandidates, Actions};
use crate::context::FeatureContext;
use crate::observation;
use crate::policy::{LearnedMemory, Valuation, current, default_violation_cost};

/// Name of the policy.
pub const TREE: &str = "tree";

/// A decision tree that decides.
#[derive(Debug)]
pub struct TreePolicy {
    tree: DecisionTree,
    actions: Actions,
    fingerprint: String,
}

impl TreePolicy {
    /// The policy of `tree`.
    #[must_use]
    pub fn new(tree: DecisionTree) -> Self {
        Self { actions: tree.actions(), fingerprint: tree.fingerprint(), tree }
    }

    /// Fingerprint of the tree.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Violation cost at which it decides on `state`.
    #[must_use]
    pub fn violation_cost(&self, state: &State) -> f64 {
        self.tree.header().violation_cost.map_or_else(|| default_violation_cost(state), ViolationCost::get)
    }

    /// Adds `state` to the history in `memory` and selects an action. There are no values.
    pub fn value(&self, state: &State, memory: &mut Memory) -> Valuation {
        let context = FeatureContext::update(state, &mut memory.of::<LearnedMemory>().history, self.violation_cost(state));
        let (mut observation, mut candidates) = (vec![0.0; observation::COUNT], ActionCandidates::default());
        observation::observe(&context, &mut observation);
        self.actions.decode(&context, &mut candidates);
        let best = self.tree.select(&self.actions, &observation, &candidates);
        let ood_score = self.tree.ood_score(&observation);
        Valuation { observation, candidates, values: Vec::new(), best, ood_score }
    }

    /// The decision for `state` by `valuation`.
    #[must_use]
    pub fn decision(&self, state: &State, valuation: &Valuation) -> Decision {
        let current = match current(state) {
            Ok(current) => current,
            Err(hold) => return hold,
        };
        let Some((best, allocation)) = valuation.best.and_then(|best| Some((best, valuation.candidates.entry(best).ok()?))) else {
            return Decision::hold(HoldReason::NoMeasurement, "no action can be taken");
        };
        let reason = self.reason(valuation, best);
        if allocation == current {
            return Decision::hold(HoldReason::NothingToDo, format!("{reason}; it is the current allocation"));
        }
        Decision::Want { allocation, reason, choices: Vec::new() }
    }

    /// Rules that led to the action `taken`.
    fn reason(&self, valuation: &Valuation, taken: usize) -> String {
        let name = self.actions.name(taken);
        if valuation.candidates.is_steady() {
            return format!("`{name}`, as the load is steady");
        }
        let leaf = self.tree.leaf(&valuation.observation);
        let wanted = match valuation.candidates.entry(leaf.action) {
            Err(why) if leaf.action != taken => format!(" in place of `{}` ({why})", self.actions.name(leaf.action)),
            _ => String::new(),
        };
        let rules = self.tree.explain(&valuation.observation);
        let rules = if rules.is_empty() { "always".to_owned() } else { rules.join(", ") };
        let share = leaf.equal as f64 / leaf.samples.max(1) as f64 * 100.0;
        format!("`{name}`{wanted} by the rules: {rules}; there the model agreed in {share:.0} % of {} samples", leaf.samples)
    }
}

impl Policy for TreePolicy {
    fn name(&self) -> &'static str {
        TREE
    }

    fn model(&self) -> String {
        let header = self.tree.header();
        format!("tree {} {} {} of the model {}", header.action_set, header.scope, self.fingerprint, header.model)
    }

    fn lookback(&self) -> Option<Duration> {
        Some(History::REACH)
    }

    fn timing(&self) -> Timing {
        Timing { tick: Some(Span::seconds(5)), ..Timing::default() }
    }

    fn decide(&self, state: &State, memory: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        let valuation = self.value(state, memory);
        self.decision(state, &valuation)
    }
}
