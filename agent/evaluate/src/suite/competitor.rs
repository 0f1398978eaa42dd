//! Who competes, and the settings that are tried of them. Owns the grid; makes no policy.

use qscale_common::time::{Span, TickLength};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One competitor of a suite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompetitorEntry {
    /// The policy.
    pub policy: String,
    /// What it is called; the policy's name where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the policy is told, by default and before tuning.
    #[serde(default = "nothing")]
    pub params: Value,
    /// Settings to try: parameters with a list of values in place of each.
    #[serde(default = "nothing")]
    pub grid: Grid,
    /// How often it sees a State; the suite's tick where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tick: Option<TickLength>,
    /// How old its measurements are when it sees them.
    #[serde(default)]
    pub lag: Span,
}

/// Parameters with a list of values in place of each; an object within is one of the policy's own objects.
pub type Grid = Value;

fn nothing() -> Value {
    Value::Object(Map::new())
}

impl CompetitorEntry {
    /// `policy` as it comes.
    #[must_use]
    pub fn plain(policy: &str) -> Self {
        Self { policy: policy.to_owned(), name: None, params: nothing(), grid: nothing(), tick: None, lag: Span::millis(0) }
    }

    /// What it is called.
    #[must_use]
    pub fn called(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.policy)
    }

    /// Every setting that is tried: what it is told by default, and that with each combination of the grid, the last parameter changing fastest. A combination
    /// that is the default is not tried twice.
    ///
    /// # Errors
    /// A parameter whose values are no list, or an empty one.
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
        other => Err(format!("`{}` = {other}, must be a list of the values to try, such as [50, 70]", path.join("."))),
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

/// `base` with what `told` says besides, as `KEY=VALUE,...`; a dot leads into a group of keys.
///
/// # Errors
/// A part that is no key with a value.
pub fn with_params(base: &Value, told: &str) -> Result<Value, String> {
    let mut params = base.clone();
    for pair in told.split(',') {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| format!("`{pair}` is no key=value; write for example hpa:cpu_utilization=50,tolerance=0.05"))?;
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        params = with(&params, &path, &value);
    }
    Ok(params)
}
