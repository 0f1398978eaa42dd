//! Parameters of a rule, derived from its type: names and defaults from its serialised form, descriptions from its doc comments.

use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value};

/// A parameter of a policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Parameter {
    /// Key in `params`; a dot leads into a group of keys, such as `behavior.scale_up.tolerance`.
    pub name: String,
    /// Default value; null if there is none.
    pub default: Value,
    /// Description with unit and range.
    pub meaning: String,
}

/// All parameters of the type of `policy`, in its order, with the values of `policy` as defaults.
#[must_use]
pub fn of<T: JsonSchema + Serialize>(policy: &T) -> Vec<Parameter> {
    let schema = SchemaGenerator::default().into_root_schema_for::<T>().to_value();
    let defaults = serde_json::to_value(policy).unwrap_or_default();
    let mut found = Vec::new();
    gather(&schema, &schema, &defaults, "", &mut found);
    found
}

fn gather(root: &Value, schema: &Value, defaults: &Value, prefix: &str, found: &mut Vec<Parameter>) {
    let Some(properties) = properties(root, schema) else { return };
    for (key, property) in properties {
        let default = defaults.get(key).cloned().unwrap_or_default();
        let name = format!("{prefix}{key}");
        let meaning = property.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " ");
        found.push(Parameter { name: name.clone(), default: default.clone(), meaning });
        gather(root, property, &default, &format!("{name}."), found);
    }
}

/// Fields of an object schema, given inline, by reference, or as an alternative to null.
fn properties<'a>(root: &'a Value, schema: &'a Value) -> Option<&'a Map<String, Value>> {
    if let Some(fields) = schema.get("properties").and_then(Value::as_object) {
        return Some(fields);
    }
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        return properties(root, root.pointer(reference.strip_prefix('#')?)?);
    }
    schema.get("anyOf")?.as_array()?.iter().find_map(|either| properties(root, either))
}
