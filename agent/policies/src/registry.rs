//! Construction of rules by name. Owns how parameters are read, checked and described; the list of rules is [`crate::RULES`].

use qscale_common::document;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use crate::parameters::{self, Parameter};
use crate::{NAMES, Policy, RULES};

/// A policy that is configured by parameters alone. Its fields are the parameters, their doc comments the descriptions,
/// its `Default` the defaults.
pub trait Rule: Policy + Default + Serialize + DeserializeOwned + JsonSchema + 'static {
    /// The same rule as it is registered under `name`; for a rule with several names.
    #[must_use]
    fn named(self, _name: &str) -> Self {
        self
    }

    /// Refuses parameters with which the rule makes no sense.
    ///
    /// # Errors
    /// Names the field, its value and its range.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Makes a rule of a name from its parameters.
type Constructor = fn(&'static str, &Value) -> Result<Box<dyn Policy>, PolicyError>;

/// A registered rule.
#[derive(Debug, Clone, Copy)]
pub struct RuleEntry {
    /// Name in configuration files and on the command line.
    pub name: &'static str,
    /// One-line description for a user who chooses a rule.
    pub description: &'static str,
    build: Constructor,
    parameters: fn(&'static str) -> Vec<Parameter>,
}

/// The entry of a rule under one of its names.
pub(crate) const fn rule<T: Rule>(name: &'static str, description: &'static str) -> RuleEntry {
    RuleEntry { name, description, build: build::<T>, parameters: |name| parameters::of(&T::default().named(name)) }
}

/// Why a policy cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// No policy has this name.
    #[error("policy = `{name}`, must be one of {}", known.join(", "))]
    Unknown {
        /// The name asked for, cut to 100 characters.
        name: String,
        /// The known names.
        known: Vec<&'static str>,
    },
    /// A parameter is unknown or outside its range.
    #[error("params of policy `{policy}`: {reason}")]
    Parameters {
        /// The policy's name.
        policy: String,
        /// Names the field, its value and its range.
        reason: String,
    },
}

/// The rule called `name` with `params`: an object with any of the rule's parameters, or null for its defaults.
///
/// # Errors
/// When no rule has that name, or `params` has an unknown key or a value outside its range.
pub fn by_name(name: &str, params: &Value) -> Result<Box<dyn Policy>, PolicyError> {
    let entry = entry(name)?;
    (entry.build)(entry.name, params)
}

/// The parameters of the rule called `name`, as [`by_name`] reads them.
///
/// # Errors
/// When no rule has that name.
pub fn describe(name: &str) -> Result<Vec<Parameter>, PolicyError> {
    let entry = entry(name)?;
    Ok((entry.parameters)(entry.name))
}

fn entry(name: &str) -> Result<&'static RuleEntry, PolicyError> {
    let unknown = || PolicyError::Unknown { name: name.chars().take(100).collect(), known: NAMES.into() };
    RULES.iter().find(|entry| entry.name == name).ok_or_else(unknown)
}

fn build<T: Rule>(name: &'static str, params: &Value) -> Result<Box<dyn Policy>, PolicyError> {
    let rule: T = read::<T>(name, params)?.named(name);
    rule.check().map_err(|reason| refused(name, reason))?;
    Ok(Box::new(rule))
}

/// `params` over the defaults, group by group: keys of a group that are absent keep their defaults.
///
/// # Errors
/// When `params` has a key that `policy` does not know or a value of the wrong type.
pub fn read<T: DeserializeOwned + Serialize + Default>(policy: &str, params: &Value) -> Result<T, PolicyError> {
    if params.is_null() {
        return Ok(T::default());
    }
    if !params.is_object() {
        return Err(refused(policy, "must be an object".into()));
    }
    let mut merged = serde_json::to_value(T::default()).map_err(|error| refused(policy, error.to_string()))?;
    // A default of null is the value of an absent key. Left in, it would collide with a parameter given by its former name.
    remove_nulls(&mut merged);
    merge(&mut merged, params);
    document::from_value(merged).map_err(|error| refused(policy, error.to_string()))
}

fn remove_nulls(value: &mut Value) {
    if let Value::Object(keys) = value {
        keys.retain(|_, value| !value.is_null());
        keys.values_mut().for_each(remove_nulls);
    }
}

fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            over.iter().for_each(|(key, value)| merge(base.entry(key.as_str()).or_insert(Value::Null), value));
        }
        (base, over) => base.clone_from(over),
    }
}

fn refused(policy: &str, reason: String) -> PolicyError {
    PolicyError::Parameters { policy: policy.into(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hpa::Hpa;
    use crate::hpa::behavior::Behavior;
    use crate::hpa_vpa::HpaVpa;
    use crate::vpa::Vpa;
    use serde_json::json;

    /// The reason why `params` are refused.
    #[track_caller]
    fn refusal(name: &str, params: &Value) -> String {
        match by_name(name, params).err() {
            Some(PolicyError::Parameters { policy, reason }) if policy == name => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_name_makes_a_policy_of_that_name() {
        for name in NAMES {
            assert_eq!(by_name(name, &Value::Null).expect(name).name(), name);
            assert_eq!(by_name(name, &json!({})).expect(name).name(), name);
        }
    }

    /// An object with `value` at the path `name`.
    fn nested(name: &str, value: &Value) -> Value {
        match name.split_once('.') {
            None => json!({name: value}),
            Some((group, rest)) => json!({group: nested(rest, value)}),
        }
    }

    #[test]
    fn every_listed_parameter_is_described_and_accepted() {
        for name in NAMES {
            let listed = describe(name).expect("known");
            assert!(!listed.is_empty(), "{name}");
            for Parameter { name: key, default, meaning } in listed {
                assert!(!meaning.is_empty(), "{name}: {key}");
                if default.is_null() && key.contains('.') {
                    continue; // In a group that is absent by default.
                }
                let made = by_name(name, &nested(&key, &default)).map(|policy| policy.model());
                assert_eq!(made.expect(&key), by_name(name, &Value::Null).expect(name).model(), "{name}: {key} = {default}");
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
    fn a_key_of_a_group_keeps_the_other_keys() {
        let model = |name, params| by_name(name, &params).expect("valid").model();
        assert!(model("holt-winters", json!({"hpa": {"cpu_utilization": 60}})).ends_with("hpa-behavior/2 cpu 60%"));
        let read: HpaVpa = super::read("hpa-vpa", &json!({"vpa": {"margin": 0.3}})).expect("valid");
        assert_eq!(read.vpa, Vpa { margin: 0.3, ..HpaVpa::default().vpa });
        let read: Hpa = super::read("hpa-behavior", &json!({"behavior": {"scale_down": {"stabilization_window": "1m"}}})).expect("valid");
        let (read, default) = (read.behavior.expect("given"), Behavior::default());
        assert_eq!((read.scale_up, read.scale_down.policies), (default.scale_up, default.scale_down.policies));
        assert_eq!(read.scale_down.stabilization_window.to_string(), "1m");
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_names() {
        let error = by_name("treshold", &Value::Null).err();
        assert_eq!(error, Some(PolicyError::Unknown { name: "treshold".into(), known: NAMES.into() }));
    }

    #[test]
    fn refused_parameters_are_named_with_their_value() {
        assert!(refusal("threshold", &json!({"cpu": 3})).contains("`cpu`"));
        assert!(refusal("threshold", &json!({"mode": "vertical"})).contains("`mode`"));
        assert!(refusal("threshold", &json!({"cpu_millicores": "250m"})).contains("cpu_millicores"));
        assert!(refusal("threshold", &json!({"down_below": 1.5})).contains("down_below = 1.5"));
        assert!(refusal("threshold", &json!({"saturation": 0})).contains("saturation = 0"));
        assert!(refusal("threshold", &json!({"replicas_step": 0})).contains("replicas_step = 0"));
        assert!(refusal("static", &json!({"replicas": -1})).contains("replicas"));
        assert!(!refusal("static", &json!([1, 2, 3])).is_empty());
    }
    /// Names in backticks in the first column of the table of agents in the README.
    fn names_in_readme() -> std::collections::BTreeSet<String> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
        let text = std::fs::read_to_string(path).expect("the README is readable");
        let rows = text.lines().skip_while(|line| !line.starts_with("| agent |")).skip(2).take_while(|line| line.starts_with('|'));
        rows.filter_map(|row| row.split('|').nth(1)).flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
    }

    #[test]
    fn the_readme_lists_every_rule_and_nothing_else() {
        let mut listed = names_in_readme();
        let learned = ["dqn", "dqn-default", "tree"];
        assert!(learned.iter().all(|name| listed.remove(*name)), "the learned policies, which are registered elsewhere");
        assert_eq!(listed, NAMES.iter().map(|name| (*name).to_owned()).collect());
    }

    #[test]
    fn every_rule_has_its_own_name_and_a_description() {
        let names: std::collections::BTreeSet<&str> = NAMES.into_iter().collect();
        assert_eq!(names.len(), NAMES.len());
        assert!(RULES.iter().all(|rule| (1..=100).contains(&rule.description.len())));
    }
}
