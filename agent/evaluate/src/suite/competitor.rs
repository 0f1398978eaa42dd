//! Competitors of a suite and their settings. Owns the grid; must not construct policies.

use qscale_common::time::{Span, TickLength};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A competitor of a suite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompetitorEntry {
    /// Name of the policy.
    pub policy: String,
    /// Name of the competitor; the policy's name if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Default parameters, before tuning.
    #[serde(default = "nothing")]
    pub params: Value,
    /// Settings for tuning: parameters with a list of values each.
    #[serde(default = "nothing")]
    pub grid: Grid,
    /// Tick at which it sees States; the suite's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tick: Option<TickLength>,
    /// Additional metric lag.
    #[serde(default)]
    pub lag: Span,
}

/// Parameters with a list of values each; a nested object is a parameter group of the policy.
pub type Grid = Value;

fn nothing() -> Value {
    Value::Object(Map::new())
}

impl CompetitorEntry {
    /// `policy` with defaults.
    #[must_use]
    pub fn plain(policy: &str) -> Self {
        Self { policy: policy.to_owned(), name: None, params: nothing(), grid: nothing(), tick: None, lag: Span::millis(0) }
    }

    /// Name of the competitor.
    #[must_use]
    pub fn called(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.policy)
    }

    /// All settings: the default, then the default with each combination of the grid, the last parameter varying
    /// fastest. A combination equal to the default is skipped.
    ///
    /// # Errors
    /// A parameter whose values are not a list, or an empty one.
    pub fn settings(&self) -> Result<Vec<Value>, String> {
        let mut axes = Vec::new();
        collect(&self.grid, &mut Vec::new(), &mut axes)?;
        let mut settings = vec![self.params.clone()];
        let mut combinations = vec![self.params.clone()];
        for (path, values) in &axes {
            combinations = combinations.iter().flat_map(|base| values.iter().map(|value| with(base, path, value))).collect();
        }
        if !axes.is_empty() {
            combinations.retain(|setting| *setting != self.params);
            settings.extend(combinations);
        }
        Ok(settings)
    }
}

fn collect<'a>(grid: &'a Value, path: &mut Vec<String>, axes: &mut Vec<(Vec<String>, &'a [Value])>) -> Result<(), String> {
    match grid {
        Value::Object(keys) => {
            for (key, value) in keys {
                path.push(key.clone());
                collect(value, path, axes)?;
                path.pop();
            }
            Ok(())
        }
        Value::Array(values) if !path.is_empty() && !values.is_empty() => {
            axes.push((path.clone(), values));
            Ok(())
        }
        Value::Null if path.is_empty() => Ok(()),
        other => Err(format!("`{}` = {other}, must be a list of values, such as [50, 70]", path.join("."))),
    }
}

/// `base` with `value` at `path`.
#[must_use]
pub fn with(base: &Value, path: &[String], value: &Value) -> Value {
    let Some((key, rest)) = path.split_first() else { return value.clone() };
    let mut keys = base.as_object().cloned().unwrap_or_default();
    let inner = with(keys.get(key).unwrap_or(&Value::Null), rest, value);
    keys.insert(key.clone(), inner);
    Value::Object(keys)
}

/// `base` with the parameters of `text`, as `KEY=VALUE,...`; a dot leads into a group of keys.
///
/// # Errors
/// A part that is not `KEY=VALUE`.
pub fn with_params(base: &Value, text: &str) -> Result<Value, String> {
    let mut params = base.clone();
    for pair in text.split(',') {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| format!("`{pair}` is not key=value; write for example hpa:cpu_utilization=50,tolerance=0.05"))?;
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        params = with(&params, &path, &value);
    }
    Ok(params)
}
