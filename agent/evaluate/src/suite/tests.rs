use serde_json::json;

use super::*;

const SMALL: &str = r#"
name = "small"
length = "2m"
warm_up = "30s"

[[functions]]
name = "f"
profile = "fibonacci-python"
rate = 10
start = { replicas = 1, cpu_millicores = 500, memory_mib = 128 }

[[workloads]]
name = "constant"
pattern = "constant:1"

[[competitors]]
policy = "static"
"#;

fn read(text: &str) -> Result<Suite, SuiteError> {
    Suite::parse(text, Format::Toml)
}

/// A suite with a replaced part is refused with the path of the field and its value.
#[track_caller]
fn refused(from: &str, to: &str, path: &str, value: &str) {
    assert!(SMALL.contains(from), "{from}");
    match read(&SMALL.replace(from, to)).expect_err("refused") {
        SuiteError::Field { field, reason } => assert!(field == path && reason.contains(value), "{field}: {reason}"),
        SuiteError::Document(DocumentError::UnknownKeys(keys)) => assert_eq!(keys, [path]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn absent_fields_have_defaults() {
    let suite = read(SMALL).expect("a suite");
    assert_eq!((suite.seeds, suite.perturbations.len()), (30, 1));
    assert_eq!(suite.competitors[0].called(), "static");
    assert_eq!(suite.functions[0].profile.0.name, "fibonacci-python");
}

#[test]
fn a_suite_survives_a_round_trip() {
    let suite = read(SMALL).expect("a suite");
    let written = serde_json::to_string(&suite).expect("writes");
    assert_eq!(Suite::parse(&written, Format::Json).expect("reads"), suite);
}

#[test]
fn refuses_invalid_fields_with_place_and_value() {
    refused("warm_up", "warmup", "warmup", "");
    refused("pattern =", "shape = 1\npattern =", "workloads.0.shape", "");
    refused("length = \"2m\"", "length = \"100s\"", "length", "1m 40s");
    refused("length = \"2m\"", "length = \"30s\"", "length", "30s");
    refused("length = \"2m\"", "length = \"2m\"\ntick = \"4s\"", "tick", "4s");
    refused("replicas = 1,", "replicas = 11,", "functions[0].start", "11 x 500m 128Mi");
    let nodes = "nodes = { count = 1000000000, cpu_millicores = 1000, memory_mib = 1000 }\nrate = 10";
    refused("rate = 10", nodes, "functions[0].nodes.count", "1000000000, must be 1 to 100000");
    refused("rate = 10", &nodes.replace("1000000000", "0"), "functions[0].nodes.count", "0, must be");
    refused("rate = 10", &nodes.replace("1000000000,", "2, cpu_overcommit = 1e9,"), "functions[0].nodes.cpu_overcommit", "1000000000");
    let bounds = "rate = 10\nbounds = { replicas = { min = 1, max = 4000000000 } }";
    refused("rate = 10", bounds, "functions[0].bounds.replicas", "4000000000, must be 0 to 1000000");
    refused("policy = \"static\"", "policy = \"a\"\n[[competitors]]\npolicy = \"a\"", "competitors[1].name", "`a`");
    refused("policy = \"static\"", "policy = \"static\"\ngrid = { replicas = 3 }", "competitors[0].grid", "`replicas` = 3");
    let grid = "policy = \"static\"\ngrid = { replicas = [1, 2, 3] }\n[tuning]\nsettings = 3";
    refused("policy = \"static\"", grid, "competitors[0].grid", "4 settings");
    refused("policy = \"static\"", "policy = \"static\"\n[[cells]]\nworkloads = [\"ramp\"]", "cells[0].workloads", "`ramp`");
}

#[test]
fn a_perturbation_has_the_fields_of_the_simulator() {
    let with = |fields: &str| format!("{SMALL}\n[[perturbations]]\nname = \"p\"\n{fields}\n");
    let suite = read(&with("startup = 2\nnoisy_neighbour = { at = \"30s\", lasts = \"30s\", factor = 1.5 }")).expect("a suite");
    let perturbation = suite.perturbation("p").expect("listed").perturbation;
    assert_eq!(perturbation.startup, 2.0);
    assert_eq!(perturbation.noisy_neighbour.map(|noisy| noisy.factor), Some(1.5));
    assert_eq!(perturbation.onsets().collect::<Vec<_>>(), [Span::seconds(30)]);
    for (fields, place) in [("slowness = 2", "slowness"), ("startup = 2000", "startup"), ("metric_lag = \"2h\"", "metric_lag")] {
        let error = read(&with(fields)).expect_err(fields).to_string();
        assert!(error.contains("perturbations") && error.contains(place), "{error}");
    }
    // Fields that are off by default are left out, so that a suite is written as before they existed.
    let written = serde_json::to_string(&Perturbation::default()).expect("writes");
    assert_eq!(written, r#"{"metric_lag":"0s","lost_scrapes":0.0,"startup":1.0,"crashes_per_hour":0.0}"#);
}

#[test]
fn a_grid_is_every_combination_after_the_default() {
    let entry = CompetitorEntry {
        params: json!({"a": 1, "hpa": {"tolerance": 0.1}}),
        grid: json!({"a": [1, 2], "hpa": {"cpu": [50, 70]}}),
        ..CompetitorEntry::plain("x")
    };
    let settings = entry.settings().expect("a grid");
    assert_eq!(settings.len(), 5);
    assert_eq!(settings[0], json!({"a": 1, "hpa": {"tolerance": 0.1}}));
    assert_eq!(settings[1], json!({"a": 1, "hpa": {"cpu": 50, "tolerance": 0.1}}));
    assert_eq!(settings[4], json!({"a": 2, "hpa": {"cpu": 70, "tolerance": 0.1}}));
    let same = CompetitorEntry { params: json!({"a": 1}), grid: json!({"a": [1, 2]}), ..CompetitorEntry::plain("x") };
    assert_eq!(same.settings().expect("a grid"), [json!({"a": 1}), json!({"a": 2})]);
}
