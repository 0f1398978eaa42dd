//! Policies by name, learned ones included. Owns which learned policies there are; the rules belong to `qscale-policies`.

use qscale_policies::{NAMES as RULES, Parameter, Policy, PolicyError};
use qscale_rl::device::Device;
use serde_json::Value;

use crate::checkpoint::Checkpoint;
use crate::policy::{Dqn, DqnParams};
use crate::pretrained::pretrained;

/// What the learned policy is called.
pub const DQN: &str = "dqn";

/// Every name that [`by_name`] knows, the learned one first.
pub fn names() -> impl Iterator<Item = &'static str> {
    std::iter::once(DQN).chain(RULES)
}

/// The policy called `name`, told `params`; the learned one decides by `model` on `device`, or by the model that comes along.
///
/// # Errors
/// When no policy has that name, a parameter is not known or outside its range, or the model was trained for something else.
pub fn by_name(name: &str, params: &Value, model: Option<&Checkpoint>, device: &Device) -> Result<Box<dyn Policy>, PolicyError> {
    if name != DQN {
        return qscale_policies::by_name(name, params).map_err(with_learned);
    }
    Ok(Box::new(learned(params, model, device)?))
}

/// The learned policy, told `params`, by `model` on `device`, or by the model that comes along.
///
/// # Errors
/// When a parameter is not known or outside its range, or the model was trained for something else.
pub fn learned(params: &Value, model: Option<&Checkpoint>, device: &Device) -> Result<Dqn, PolicyError> {
    let told: DqnParams = qscale_policies::read(DQN, params)?;
    let made = Dqn::new(model.unwrap_or_else(|| pretrained()), told, device);
    made.map_err(|error| PolicyError::Parameters { policy: DQN.into(), reason: error.to_string() })
}

/// What the policy called `name` can be told.
///
/// # Errors
/// When no policy has that name.
pub fn describe(name: &str) -> Result<Vec<Parameter>, PolicyError> {
    if name == DQN {
        Ok(qscale_policies::parameters_of(&DqnParams::default()))
    } else {
        qscale_policies::describe(name).map_err(with_learned)
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

    #[test]
    fn the_learned_policy_stands_among_the_rules() {
        let made = |name: &str, params| by_name(name, &params, None, &cpu());
        assert_eq!(made("hpa", json!({"cpu_utilization": 50})).expect("a rule").name(), "hpa");
        assert_eq!(made("dqn", Value::Null).expect("the model that comes along").name(), "dqn");
        let error = |name: &str, params| made(name, params).err().expect("refused").to_string();
        assert!(error("dqn", json!({"caution": 1})).contains("caution = 1, must be from 10 to 20000"));
        assert!(error("dqn", json!({"cautious": 1})).contains("unknown key `cautious`"));
        assert!(error("deep", Value::Null).contains("`deep`, must be one of dqn, threshold"));
        assert_eq!(describe("dqn").expect("known")[0].name, "caution");
    }
}
