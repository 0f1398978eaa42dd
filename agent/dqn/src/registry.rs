//! Policies by name: the learned policy, and the rules of `qscale-policies`.

use qscale_policies::{NAMES as RULES, Parameter, Policy, PolicyError};
use qscale_rl::device::Device;
use serde_json::Value;

use crate::checkpoint::Checkpoint;
use crate::default_action::{DefaultAction, DefaultActionParams, NAME as DQN_DEFAULT};
use crate::policy::{Dqn, DqnParams};
use crate::pretrained::pretrained;

/// Name of the learned policy.
pub const DQN: &str = "dqn";

/// Every name that [`by_name`] knows, the learned one first.
pub fn names() -> impl Iterator<Item = &'static str> {
    [DQN, DQN_DEFAULT].into_iter().chain(RULES)
}

/// The policy `name` with `params`; the learned one decides by `model`, or the bundled model, on `device`.
///
/// # Errors
/// When no policy has that name, a parameter is unknown or out of range, or the model does not match this program.
pub fn by_name(name: &str, params: &Value, model: Option<&Checkpoint>, device: &Device) -> Result<Box<dyn Policy>, PolicyError> {
    match name {
        DQN => Ok(Box::new(learned(params, model, device)?)),
        DQN_DEFAULT => Ok(Box::new(DefaultAction::new(qscale_policies::read(DQN_DEFAULT, params)?))),
        rule => qscale_policies::by_name(rule, params).map_err(with_learned),
    }
}

/// The learned policy with `params`, by `model`, or the bundled model, on `device`. Former names of parameters are accepted.
///
/// # Errors
/// When a parameter is unknown, given by two names or out of range, or the model does not match this program.
pub fn learned(params: &Value, model: Option<&Checkpoint>, device: &Device) -> Result<Dqn, PolicyError> {
    let invalid = |reason: String| PolicyError::Parameters { policy: DQN.into(), reason };
    let params: DqnParams = qscale_policies::read(DQN, params)?;
    Dqn::new(model.unwrap_or_else(|| pretrained()), params, device).map_err(|error| invalid(error.to_string()))
}

/// The parameters of the policy `name`.
///
/// # Errors
/// When no policy has that name.
pub fn describe(name: &str) -> Result<Vec<Parameter>, PolicyError> {
    match name {
        DQN => Ok(qscale_policies::parameters_of(&DqnParams::default())),
        DQN_DEFAULT => Ok(qscale_policies::parameters_of(&DefaultActionParams::default())),
        rule => qscale_policies::describe(rule).map_err(with_learned),
    }
}

fn with_learned(error: PolicyError) -> PolicyError {
    match error {
        PolicyError::Unknown { name, .. } => PolicyError::Unknown { name, known: names().collect() },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use qscale_rl::device::cpu;
    use serde_json::json;

    use super::*;
    use crate::policy::{DEFAULT_VIOLATION_COST, DEFAULT_VIOLATION_COST_SCALE_TO_ZERO, SwitchMargin};
    use qscale_common::policy::ViolationCost;

    #[test]
    fn knows_the_learned_policy_and_the_rules() {
        let made = |name: &str, params| by_name(name, &params, None, &cpu());
        assert_eq!(made("hpa", json!({"cpu_utilization": 50})).expect("a rule").name(), "hpa");
        assert_eq!(made("dqn", Value::Null).expect("the bundled model").name(), "dqn");
        let error = |name: &str, params| made(name, params).err().expect("refused").to_string();
        for key in ["violation_cost", "caution"] {
            assert!(error("dqn", json!({key: 1})).contains("violation_cost = 1"), "{key}");
        }
        assert!(error("dqn", json!({"cautious": 1})).contains("`cautious`"));
        assert!(matches!(made("dqn", json!({"caution": 20, "violation_cost": 20})).err(), Some(PolicyError::Parameters { .. })));
        assert!(matches!(made("deep", Value::Null).err(), Some(PolicyError::Unknown { name, known }) if name == "deep" && known[0] == DQN));
        assert!(describe("dqn").expect("known").iter().any(|parameter| parameter.name == "violation_cost"));
    }

    #[test]
    fn former_parameter_names_give_the_same_policy() {
        let params = |value: Value| -> DqnParams { qscale_policies::read(DQN, &value).expect("valid") };
        let former = params(json!({"caution": 300, "patience": 2.5}));
        assert_eq!(former, params(json!({"violation_cost": 300, "switch_margin": 2.5})));
        assert_eq!(former, serde_json::from_value(json!({"caution": 300, "patience": 2.5})).expect("aliases"));
        learned(&json!({"caution": 300, "patience": 2.5}), None, &cpu()).expect("accepted");
    }

    #[test]
    fn documented_defaults_and_ranges_are_those_of_the_code() {
        let parameters = describe(DQN).expect("known");
        for (name, numbers) in [
            ("violation_cost", [ViolationCost::LEAST, ViolationCost::MOST, DEFAULT_VIOLATION_COST, DEFAULT_VIOLATION_COST_SCALE_TO_ZERO]),
            ("switch_margin", [0.0, SwitchMargin::MOST, SwitchMargin::DEFAULT, SwitchMargin::DEFAULT_SCALE_TO_ZERO]),
        ] {
            let parameter = parameters.iter().find(|parameter| parameter.name == name).expect("listed");
            let documented: Vec<f64> = parameter
                .meaning
                .split(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-'))
                .filter_map(|word| word.trim_end_matches('.').parse().ok())
                .collect();
            assert!(numbers.iter().all(|number| documented.contains(number)), "{name}: {numbers:?} {documented:?}");
        }
    }
}
