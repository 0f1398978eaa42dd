//! The policies of an evaluation: rules, the clairvoyant bound, the learned policy with a model, decision trees, and external programs.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use qscale_common::document;
use qscale_common::runtime::files;
use qscale_dqn::Checkpoint;
use qscale_dqn::registry;
use qscale_dqn::tree::policy::{TREE, TreePolicy};
use qscale_dqn::tree::{self, DecisionTree};
use qscale_evaluate::RulePolicies;
use qscale_evaluate::policy_set::{FutureKnowledge, PolicySet, RunContext};
use qscale_policies::{Policy, PolicyError};
use qscale_rl::device::cpu;
use serde::Deserialize;
use serde_json::Value;

use super::external::{EXTERNAL, ExternalPolicies};

/// Parameters of a decision tree.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TreeParams {
    /// File of the tree, as `qscale model distil` writes it.
    file: PathBuf,
}

/// The policy of the decision tree in `path`.
///
/// # Errors
/// When the file cannot be read, or is not a decision tree for this program.
pub fn read_tree(path: &Path) -> anyhow::Result<TreePolicy> {
    let bytes = files::read_bytes(path, tree::MAX_BYTES as u64)?;
    Ok(TreePolicy::new(DecisionTree::parse(&bytes).with_context(|| path.display().to_string())?))
}

/// The rules, the learned policy, decision trees and external programs.
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
        if name == TREE {
            let refused = |reason: String| PolicyError::Parameters { policy: TREE.to_owned(), reason };
            let params: TreeParams = document::from_value(params.clone())
                .map_err(|error| refused(format!("{error}; name the file of a decision tree, as in tree:file=mine.tree")))?;
            return Ok(Box::new(read_tree(&params.file).map_err(|error| refused(format!("file: {error:#}")))?));
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
