//! The generated schemas that are checked in are those of the types.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use qscale_common::schema::{self, COMMAND};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

#[test]
fn checked_in_files_are_those_of_the_types() {
    let files = schema::files();
    for file in &files {
        // As values, since the order of keys may depend on which features of serde_json another crate asks for.
        let text = std::fs::read_to_string(folder().join(&file.name)).unwrap_or_default();
        let (there, expected): (Option<Value>, Value) = (serde_json::from_str(&text).ok(), serde_json::from_str(&file.text).unwrap());
        assert!(
            there == Some(expected),
            "common/schemas/{} is not what the types say; run `{COMMAND}` and look at the difference",
            file.name
        );
    }
    let known: BTreeSet<_> = files.iter().map(|file| file.name.clone()).collect();
    let present: BTreeSet<_> =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(present, known, "common/schemas holds what nothing generates");
}

#[test]
fn every_reference_in_the_asyncapi_document_leads_somewhere() {
    let document = schema::asyncapi();
    let names: BTreeSet<_> = schema::files().into_iter().map(|file| format!("./{}", file.name)).collect();
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 40);
    for reference in references {
        let found = reference.strip_prefix('#').map_or_else(|| names.contains(&reference), |pointer| document.pointer(pointer).is_some());
        assert!(found, "{reference}");
    }
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                references.push(reference.clone());
            }
            map.values().for_each(|value| collect(value, references));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}

#[test]
fn addresses_name_their_parameters_and_every_header_is_explained() {
    let document = schema::asyncapi();
    assert_eq!(document["channels"]["state"]["address"], "qscale.v1.state.{namespace}.{function}");
    assert_eq!(document["channels"]["action"]["address"], "qscale.v1.action.{agent}.{namespace}.{function}");
    for channel in document["channels"].as_object().unwrap().values() {
        let address = channel["address"].as_str().unwrap();
        let parameters = channel["parameters"].as_object().unwrap();
        assert_eq!(address.matches('{').count(), parameters.len(), "{address}");
        assert!(parameters.keys().all(|name| address.contains(&format!("{{{name}}}"))), "{address}");
    }
    assert_eq!(document["operations"]["agentReceivesState"]["bindings"]["nats"]["queue"], "agent.{agent}");
    for (name, header) in document["components"]["schemas"]["headers"]["properties"].as_object().unwrap() {
        assert_ne!(header["description"], "", "{name}");
    }
}

#[test]
fn the_schemas_say_which_fields_an_action_needs() {
    let schema = schema::schema(qscale_common::contract::EventType::Action);
    let required: BTreeSet<_> = schema.as_value()["required"].as_array().unwrap().iter().map(|field| field.as_str().unwrap()).collect();
    let expected = ["version", "agent", "namespace", "function", "epoch", "tick", "decided_at_ms", "expires_at_ms", "allocation"];
    assert_eq!(required, expected.into_iter().collect());
}
