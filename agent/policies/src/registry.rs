//! Policies by name. Owns which names there are and how their parameters are read.

use qscale_common::document;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use crate::threshold::{Mode, Threshold};
use crate::{Fixed, HoltWinters, Hpa, HpaVpa, Keda, KeepAliveFixed, KeepAliveHistogram, Kpa, OpenFaas, Policy, Vpa};

/// Every name that [`by_name`] knows.
pub const NAMES: [&str; 14] = [
    "threshold",
    "threshold-vertical",
    "threshold-both",
    "static",
    "hpa",
    "hpa-behavior",
    "kpa",
    "vpa",
    "hpa-vpa",
    "keda",
    "holt-winters",
    "keep-alive-fixed",
    "keep-alive-histogram",
    "openfaas",
];

/// Why there is no such policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// No policy has this name.
    #[error("policy = `{name}`, must be one of {}", NAMES.join(", "))]
    Unknown {
        /// What was asked for, cut to 100 characters.
        name: String,
    },
    /// The policy cannot be told this.
    #[error("params of policy `{policy}`: {reason}")]
    Parameters {
        /// The policy's name.
        policy: String,
        /// Names the field, its value and its range.
        reason: String,
    },
}

/// The policy called `name`, told `params`: an object with any of the policy's parameters, or null for its defaults.
///
/// # Errors
/// When no policy has that name, or `params` has a key that the policy does not know or a value outside its range.
pub fn by_name(name: &str, params: &Value) -> Result<Box<dyn Policy>, PolicyError> {
    let threshold = |mode| {
        let policy: Threshold = read(name, params)?;
        policy.check().map_err(|reason| refused(name, reason))?;
        Ok(Box::new(Threshold { mode, ..policy }) as Box<dyn Policy>)
    };
    match name {
        "threshold" => threshold(Mode::Horizontal),
        "threshold-vertical" => threshold(Mode::Vertical),
        "threshold-both" => threshold(Mode::Both),
        "hpa" => checked(name, params, Hpa::check),
        "hpa-behavior" => {
            let mut policy: Hpa = read(name, params)?;
            policy.behavior.get_or_insert_default();
            policy.check().map_err(|reason| refused(name, reason))?;
            Ok(Box::new(policy))
        }
        "kpa" => checked(name, params, Kpa::check),
        "vpa" => checked(name, params, Vpa::check),
        "hpa-vpa" => checked(name, params, HpaVpa::check),
        "keda" => checked(name, params, Keda::check),
        "keep-alive-fixed" => checked(name, params, KeepAliveFixed::check),
        "keep-alive-histogram" => checked(name, params, KeepAliveHistogram::check),
        "openfaas" => checked(name, params, OpenFaas::check),
        "holt-winters" => checked(name, params, HoltWinters::check),
        "static" => Ok(Box::new(read::<Fixed>(name, params)?)),
        _ => Err(PolicyError::Unknown { name: name.chars().take(100).collect() }),
    }
}

/// A policy that is told `params` and refuses what its `check` refuses.
fn checked<T>(policy: &str, params: &Value, check: fn(&T) -> Result<(), String>) -> Result<Box<dyn Policy>, PolicyError>
where
    T: DeserializeOwned + Default + Policy + 'static,
{
    let made: T = read(policy, params)?;
    check(&made).map_err(|reason| refused(policy, reason))?;
    Ok(Box::new(made))
}

fn read<T: DeserializeOwned + Default>(policy: &str, params: &Value) -> Result<T, PolicyError> {
    if params.is_null() {
        return Ok(T::default());
    }
    if !params.is_object() {
        return Err(refused(policy, "must be keys with values".into()));
    }
    document::from_value(params.clone()).map_err(|error| refused(policy, error.to_string()))
}

fn refused(policy: &str, reason: String) -> PolicyError {
    PolicyError::Parameters { policy: policy.into(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn refusal(name: &str, params: &Value) -> String {
        by_name(name, params).err().expect("must be refused").to_string()
    }

    #[test]
    fn every_name_makes_a_policy_of_that_name() {
        for name in NAMES {
            assert_eq!(by_name(name, &Value::Null).expect(name).name(), name);
            assert_eq!(by_name(name, &json!({})).expect(name).name(), name);
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        assert_eq!(refusal("treshold", &Value::Null), format!("policy = `treshold`, must be one of {}", NAMES.join(", ")));
    }

    #[test]
    fn parameters_are_refused_with_field_and_value() {
        assert_eq!(refusal("threshold", &json!({"cpu": 3})), "params of policy `threshold`: unknown key `cpu`");
        assert_eq!(refusal("threshold", &json!({"mode": "vertical"})), "params of policy `threshold`: unknown key `mode`");
        assert!(refusal("threshold", &json!({"cpu_millicores": "250m"})).contains("cpu_millicores"));
        assert!(refusal("threshold", &json!({"down_below": 1.5})).contains("down_below = 1.5"));
        assert!(refusal("threshold", &json!({"saturation": 0})).contains("saturation = 0"));
        assert!(refusal("threshold", &json!({"replicas_step": 0})).contains("replicas_step = 0"));
        assert!(refusal("static", &json!({"replicas": -1})).contains("replicas"));
        assert!(refusal("static", &json!([1, 2, 3])).contains("must be keys with values"));
    }
}
