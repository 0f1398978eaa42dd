//! Policies by name. Owns which names there are and how their parameters are read.

use qscale_common::document;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use crate::hpa::behavior::Behavior;
use crate::parameters::{self, Parameter};
use crate::threshold::{Mode, Threshold};
use crate::{Fixed, HoltWinters, Hpa, HpaVpa, Keda, KeepAliveFixed, KeepAliveHistogram, Kpa, OpenFaas, PhpaLinear, Policy, Vpa};

/// Every name that [`by_name`] knows.
pub const NAMES: [&str; 15] = [
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
    "phpa-linear",
    "keep-alive-fixed",
    "keep-alive-histogram",
    "openfaas",
];

/// Why there is no such policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// No policy has this name.
    #[error("policy = `{name}`, must be one of {}", known.join(", "))]
    Unknown {
        /// What was asked for, cut to 100 characters.
        name: String,
        /// What can be asked for.
        known: Vec<&'static str>,
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
        "phpa-linear" => checked(name, params, PhpaLinear::check),
        "static" => Ok(Box::new(read::<Fixed>(name, params)?)),
        _ => Err(unknown(name)),
    }
}

/// A policy that is told `params` and refuses what its `check` refuses.
fn checked<T>(policy: &str, params: &Value, check: fn(&T) -> Result<(), String>) -> Result<Box<dyn Policy>, PolicyError>
where
    T: DeserializeOwned + Serialize + Default + Policy + 'static,
{
    let made: T = read(policy, params)?;
    check(&made).map_err(|reason| refused(policy, reason))?;
    Ok(Box::new(made))
}

/// What the policy called `name` can be told. What is read by [`by_name`] is what is listed here.
///
/// # Errors
/// When no policy has that name.
pub fn describe(name: &str) -> Result<Vec<Parameter>, PolicyError> {
    Ok(match name {
        "threshold" | "threshold-vertical" | "threshold-both" => parameters::of(&Threshold::default()),
        "hpa" => parameters::of(&Hpa::default()),
        "hpa-behavior" => parameters::of(&Hpa { behavior: Some(Behavior::default()), ..Hpa::default() }),
        "kpa" => parameters::of(&Kpa::default()),
        "vpa" => parameters::of(&Vpa::default()),
        "hpa-vpa" => parameters::of(&HpaVpa::default()),
        "keda" => parameters::of(&Keda::default()),
        "keep-alive-fixed" => parameters::of(&KeepAliveFixed::default()),
        "keep-alive-histogram" => parameters::of(&KeepAliveHistogram::default()),
        "openfaas" => parameters::of(&OpenFaas::default()),
        "holt-winters" => parameters::of(&HoltWinters::default()),
        "phpa-linear" => parameters::of(&PhpaLinear::default()),
        "static" => parameters::of(&Fixed::default()),
        _ => return Err(unknown(name)),
    })
}

fn unknown(name: &str) -> PolicyError {
    PolicyError::Unknown { name: name.chars().take(100).collect(), known: NAMES.into() }
}

/// `params` over the defaults, group by group: whoever tells one key of a group leaves the others as they are.
///
/// # Errors
/// When `params` has a key that `policy` does not know or a value that is none.
pub fn read<T: DeserializeOwned + Serialize + Default>(policy: &str, params: &Value) -> Result<T, PolicyError> {
    if params.is_null() {
        return Ok(T::default());
    }
    if !params.is_object() {
        return Err(refused(policy, "must be keys with values".into()));
    }
    let mut told = serde_json::to_value(T::default()).map_err(|error| refused(policy, error.to_string()))?;
    tell(&mut told, params);
    document::from_value(told).map_err(|error| refused(policy, error.to_string()))
}

fn tell(known: &mut Value, told: &Value) {
    match (known, told) {
        (Value::Object(known), Value::Object(told)) => {
            told.iter().for_each(|(key, value)| tell(known.entry(key.as_str()).or_insert(Value::Null), value));
        }
        (known, told) => known.clone_from(told),
    }
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

    /// `value` at the place that `name` tells, in nothing else.
    fn nested(name: &str, value: &Value) -> Value {
        match name.split_once('.') {
            None => json!({name: value}),
            Some((group, rest)) => json!({group: nested(rest, value)}),
        }
    }

    #[test]
    fn every_parameter_that_is_listed_is_explained_and_can_be_told() {
        for name in NAMES {
            let listed = describe(name).expect("known");
            assert!(!listed.is_empty(), "{name}");
            for Parameter { name: key, default, meaning } in listed {
                assert!(!meaning.is_empty(), "{name}: {key}");
                if default.is_null() && key.contains('.') {
                    continue; // Of a group that is not there unless it is told.
                }
                let told = by_name(name, &nested(&key, &default)).map(|policy| policy.model());
                assert_eq!(told.expect(&key), by_name(name, &Value::Null).expect(name).model(), "{name}: {key} = {default}");
            }
        }
        assert!(matches!(describe("treshold"), Err(PolicyError::Unknown { .. })));
    }

    #[test]
    fn parameters_are_listed_with_their_groups_and_defaults() {
        let default = |name: &str, key: &str| {
            let listed = describe(name).expect("known");
            listed.into_iter().find(|parameter| parameter.name == key).unwrap_or_else(|| panic!("{name} lists no {key}")).default
        };
        assert_eq!(default("hpa", "tolerance"), json!(0.1));
        assert_eq!(default("hpa-behavior", "behavior.scale_down.stabilization_window"), json!("5m"));
        assert_eq!(default("hpa-vpa", "vpa.margin"), json!(0.15));
        assert_eq!(default("kpa", "panic_window_percentage"), json!(10.0));
        assert_eq!(default("threshold", "cpu_millicores"), json!(250));
    }

    #[test]
    fn one_key_of_a_group_leaves_the_others_as_they_are() {
        let model = |name, params| by_name(name, &params).expect("valid").model();
        assert!(model("holt-winters", json!({"hpa": {"cpu_utilization": 60}})).ends_with("hpa-behavior/2 cpu 60%"));
        let read: HpaVpa = super::read("hpa-vpa", &json!({"vpa": {"margin": 0.3}})).expect("valid");
        assert_eq!(read.vpa, Vpa { margin: 0.3, ..HpaVpa::default().vpa });
        let read: Hpa = super::read("hpa-behavior", &json!({"behavior": {"scale_down": {"stabilization_window": "1m"}}})).expect("valid");
        let (told, default) = (read.behavior.expect("told"), Behavior::default());
        assert_eq!((told.scale_up, told.scale_down.policies), (default.scale_up, default.scale_down.policies));
        assert_eq!(told.scale_down.stabilization_window.to_string(), "1m");
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
