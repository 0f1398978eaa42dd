//! The policies of an evaluation: rules, the clairvoyant bound, the learned policy with a model, and external programs.

use qscale_dqn::Checkpoint;
use qscale_dqn::registry;
use qscale_evaluate::RulePolicies;
use qscale_evaluate::policy_set::{FutureKnowledge, PolicySet, RunContext};
use qscale_policies::{Policy, PolicyError};
use qscale_rl::device::cpu;
use serde_json::Value;

use super::external::{EXTERNAL, ExternalPolicies};

/// The rules, the learned policy and external programs.
#[derive(Debug, Default)]
pub struct AllPolicies {
    /// Model of the learned policy; `None` for the bundled one.
    pub model: Option<Checkpoint>,
    /// The external programs.
    pub external: ExternalPolicies,
}

impl PolicySet for AllPolicies {
    fn policy(&self, name: &str, params: &Value, context: Option<&RunContext<'_>>) -> Result<Box<dyn Policy>, PolicyError> {
        if RulePolicies.knowledge(name).is_some() {
            return RulePolicies.policy(name, params, context);
        }
        if name == EXTERNAL {
            return self.external.policy(params, context.map(|context| context.seed));
        }
        registry::by_name(name, params, self.model.as_ref(), &cpu())
    }

    fn knowledge(&self, name: &str) -> Option<FutureKnowledge> {
        RulePolicies.knowledge(name)
    }
}

#[cfg(test)]
mod tests {
    use qscale_common::document::Format;
    use qscale_evaluate::Suite;
    use qscale_evaluate::suite::BUNDLED;

    use super::*;

    #[test]
    fn every_competitor_of_the_bundled_suites_is_valid() {
        for bundled in BUNDLED {
            let suite = Suite::parse(bundled.text, Format::Toml).expect("a suite");
            for entry in &suite.competitors {
                for setting in entry.settings().expect("a grid") {
                    let made = AllPolicies::default().policy(&entry.policy, &setting, None);
                    made.unwrap_or_else(|error| panic!("{}: {}: {error}", bundled.name, entry.called()));
                }
            }
        }
    }
}
