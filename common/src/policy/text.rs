//! ScalingPolicies as text: set fields by path, list differences, write YAML. Must not validate: the policy does.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde_json::{Map, Value};
use thiserror::Error;

use super::{ScalingPolicy, ScalingPolicyError};
use crate::document::Format;
use crate::text::safe_json;

/// Fields of a ScalingPolicy's key, which cannot be changed.
const KEY_FIELDS: [&str; 2] = ["name", "namespace"];

/// A field and its new value.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    path: Vec<String>,
    value: String,
}

impl FromStr for Change {
    type Err = String;
    /// Parses `field=value`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (path, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not field=value, such as bounds.replicas.max=6"))?;
        let path: Vec<String> = path.trim().split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err(format!("`{text}`: a field is a path of names and dots, such as bounds.replicas.max"));
        }
        Ok(Self { path, value: value.trim().to_owned() })
    }
}

/// Why a change was refused.
#[derive(Debug, Error)]
pub enum ChangeError {
    /// The field is part of the key.
    #[error("{0} is part of the key and cannot be changed; apply another policy and delete this one")]
    KeyField(String),
    /// The path continues below a field that is not an object.
    #[error("`{0}` has no fields")]
    NoFields(String),
    /// The changed policy is invalid.
    #[error(transparent)]
    Invalid(#[from] ScalingPolicyError),
}

/// The ScalingPolicy with all `changes`, validated as a whole.
///
/// # Errors
/// An unknown or fixed field; a value out of range, with the range.
///
/// # Panics
/// Never: a policy can be written as JSON.
pub fn changed(policy: &ScalingPolicy, changes: &[Change]) -> Result<ScalingPolicy, ChangeError> {
    let mut value = serde_json::to_value(policy).expect("a policy holds only what JSON can write");
    for change in changes {
        if KEY_FIELDS.contains(&change.path[0].as_str()) {
            return Err(ChangeError::KeyField(change.path[0].clone()));
        }
        put(&mut value, change)?;
    }
    Ok(ScalingPolicy::from_value(value)?)
}

fn put(root: &mut Value, change: &Change) -> Result<(), ChangeError> {
    let (last, parents) = change.path.split_last().expect("a parsed change names a field");
    let mut place = root;
    for (depth, word) in parents.iter().enumerate() {
        let object = place.as_object_mut().ok_or_else(|| no_fields(&change.path[..depth]))?;
        place = object.entry(word.as_str()).or_insert_with(|| Value::Object(Map::new()));
    }
    let object = place.as_object_mut().ok_or_else(|| no_fields(parents))?;
    match read(&change.value, object.get(last)) {
        Value::Null => drop(object.remove(last)),
        value => drop(object.insert(last.clone(), value)),
    }
    Ok(())
}

fn no_fields(path: &[String]) -> ChangeError {
    ChangeError::NoFields(path.join("."))
}

/// A typed value: JSON if it is valid JSON, else text. A number stays text if the field contained text.
fn read(typed: &str, before: Option<&Value>) -> Value {
    match serde_json::from_str(typed) {
        Ok(Value::Number(_) | Value::Bool(_)) if before.is_some_and(Value::is_string) => Value::String(typed.to_owned()),
        Ok(value) => value,
        Err(_) => Value::String(typed.to_owned()),
    }
}

/// Differences, one for each field, such as `agent threshold → mine`.
#[must_use]
pub fn differences(before: &ScalingPolicy, after: &ScalingPolicy) -> Vec<String> {
    let flat = |policy| {
        let mut leaves = BTreeMap::new();
        flatten("", &serde_json::to_value(policy).unwrap_or_default(), &mut leaves);
        leaves
    };
    let (before, after) = (flat(before), flat(after));
    let mut paths: Vec<&String> = before.keys().chain(after.keys()).collect();
    paths.sort();
    paths.dedup();
    let word = |leaves: &BTreeMap<String, String>, path: &String| leaves.get(path).map_or_else(|| "none".to_owned(), Clone::clone);
    let differ = paths.into_iter().filter(|path| before.get(*path) != after.get(*path));
    differ.map(|path| format!("{path} {} → {}", word(&before, path), word(&after, path))).collect()
}

fn flatten(path: &str, value: &Value, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                flatten(&if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, value, leaves);
            }
        }
        Value::String(text) => drop(leaves.insert(path.to_owned(), text.clone())),
        other => drop(leaves.insert(path.to_owned(), other.to_string())),
    }
}

/// Format of a text, detected from its first line that is neither empty nor a comment.
#[must_use]
pub fn format_of_text(text: &str) -> Format {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
    let toml = match (first.find('='), first.find(':')) {
        (Some(equals), Some(colon)) => equals < colon,
        (Some(_), None) => true,
        (None, _) => first.starts_with('['),
    };
    match first {
        _ if first.starts_with('{') => Format::Json,
        _ if toml => Format::Toml,
        _ => Format::Yaml,
    }
}

/// `value` as YAML, fields in order.
#[must_use]
pub fn yaml(value: &Value) -> String {
    let mut text = String::new();
    write_yaml(value, 0, &mut text);
    text
}

fn write_yaml(value: &Value, depth: usize, text: &mut String) {
    let Value::Object(fields) = value else {
        text.push_str(&scalar(value));
        text.push('\n');
        return;
    };
    for (key, value) in fields {
        text.extend(std::iter::repeat_n("  ", depth));
        text.push_str(key);
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                text.push_str(":\n");
                write_yaml(value, depth + 1, text);
            }
            _ => {
                text.push_str(": ");
                text.push_str(&scalar(value));
                text.push('\n');
            }
        }
    }
}

/// A value on one line. JSON is YAML; only unambiguous text is left unquoted.
fn scalar(value: &Value) -> String {
    const NOT_TEXT: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    match value {
        Value::String(text)
            if text.starts_with(|c: char| c.is_ascii_alphabetic())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
                && !NOT_TEXT.contains(&text.to_ascii_lowercase().as_str()) =>
        {
            text.clone()
        }
        other => safe_json(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> ScalingPolicy {
        ScalingPolicy::new("fibonacci".parse().expect("valid"))
    }

    #[track_caller]
    fn set(changes: &[&str]) -> Result<ScalingPolicy, String> {
        let changes: Vec<Change> = changes.iter().map(|text| text.parse().expect("of the form field=value")).collect();
        changed(&policy(), &changes).map_err(|error| error.to_string())
    }

    #[test]
    fn sets_fields_by_path() {
        let after = set(&[
            "agent=mine",
            "mode=active",
            "bounds.replicas.max=6",
            "tick=1s",
            "paused=true",
            "guard.max_age=15s",
            "metrics.source=prometheus",
        ])
        .expect("valid");
        let found = differences(&policy(), &after);
        let expected = [
            "agent threshold → mine",
            "bounds.replicas.max 10 → 6",
            "guard.max_age none → 15s",
            "metrics.source none → prometheus",
            "mode recommend → active",
            "paused false → true",
            "tick 5s → 1s",
        ];
        assert_eq!(found, expected);
        assert!(differences(&after, &after).is_empty());
    }

    #[test]
    fn text_stays_text_and_null_resets_to_default() {
        assert_eq!(set(&["agent=123"]).expect("a label may be all digits").agent.as_str(), "123");
        let wide = set(&["bounds.replicas={\"min\":0,\"max\":3}"]).expect("objects are JSON");
        assert!(differences(&policy(), &wide).contains(&"bounds.replicas.min 1 → 0".to_owned()));
        assert_eq!(set(&["mode=null", "objective=null"]).expect("valid"), policy());
    }

    #[test]
    fn both_ends_of_a_range_change_together() {
        assert!(set(&["bounds.replicas.min=20"]).expect_err("above the most").contains("bounds.replicas"));
        assert!(set(&["bounds.replicas.min=20", "bounds.replicas.max=30"]).is_ok());
    }

    #[test]
    fn invalid_change_is_refused_with_field_value_and_range() {
        let error = set(&["objective.percentile=100"]).expect_err("out of range");
        assert!(error.contains("objective.percentile") && error.contains("100, must be a percentile such as 95"), "{error}");
        assert!(!error.contains("line"), "there is no document with lines: {error}");
        assert!(set(&["bounds.replica.max=3"]).expect_err("no such field").contains("bounds.replica"));
        assert!(set(&["tick.length=3s"]).expect_err("a scalar").contains("`tick`"));
        assert!(set(&["name=other"]).expect_err("the key").contains("name"));
        assert!(set(&["mode=wild"]).expect_err("no such mode").contains("mode"));
        assert!("agent".parse::<Change>().is_err());
        assert!("bounds..max=1".parse::<Change>().is_err());
    }

    #[test]
    fn printed_yaml_is_read_back() {
        let after = set(&["agent=1e3", "guard.max_age=1m 30s", "metrics.source=on", "prices.currency=EUR"]).expect("valid");
        let text = yaml(&serde_json::to_value(&after).expect("JSON"));
        assert_eq!(ScalingPolicy::from_document(&text, Format::Yaml).expect(&text), after);
    }

    #[test]
    fn format_is_detected_from_the_text() {
        assert_eq!(format_of_text("# a policy\n\nname: f"), Format::Yaml);
        assert_eq!(format_of_text("name = \"a:b\""), Format::Toml);
        assert_eq!(format_of_text("[bounds]"), Format::Toml);
        assert_eq!(format_of_text(" {\"name\": \"f\"}"), Format::Json);
        assert_eq!(format_of_text(""), Format::Yaml);
    }
}
