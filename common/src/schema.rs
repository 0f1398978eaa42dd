//! The contract for any language: a JSON Schema of each message and an AsyncAPI document, generated from the types. Owns their texts;
//! must not add anything to the types and subjects.

mod asyncapi;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::Value;

use crate::change::ChangeRecord;
use crate::contract::{Action, EventType, Load, Outcome, Reward, State};
use crate::policy::ScalingPolicy;

pub use asyncapi::asyncapi;

/// Command that regenerates the files.
pub const COMMAND: &str = "cargo run -p qscale-common --example schemas";

/// A generated file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Name within `common/schemas`.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Every generated file.
#[must_use]
pub fn files() -> Vec<File> {
    let mut files: Vec<File> =
        EventType::ALL.iter().copied().map(|kind| File { name: file_name(kind), text: pretty(schema(kind).as_value()) }).collect();
    files.push(File { name: "scaling-policy.schema.json".into(), text: pretty(policy().as_value()) });
    files.push(File { name: "change.schema.json".into(), text: pretty(of::<ChangeRecord>().as_value()) });
    files.push(File { name: "asyncapi.json".into(), text: pretty(&asyncapi()) });
    files
}

/// Name of the file that holds the schema of `kind`.
fn file_name(kind: EventType) -> String {
    format!("{kind}.schema.json")
}

/// The JSON Schema of the body of `kind`.
#[must_use]
pub fn schema(kind: EventType) -> Schema {
    match kind {
        EventType::State => of::<State>(),
        EventType::Reward => of::<Reward>(),
        EventType::Action => of::<Action>(),
        EventType::Outcome => of::<Outcome>(),
        EventType::Load => of::<Load>(),
    }
}

/// The JSON Schema of a ScalingPolicy.
#[must_use]
pub fn policy() -> Schema {
    of::<ScalingPolicy>()
}

/// Draft 7, which every AsyncAPI tool supports. Describes what a reader must accept: fields with a default may be absent.
fn of<T: JsonSchema>() -> Schema {
    SchemaSettings::draft07().into_generator().into_root_schema_for::<T>()
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
