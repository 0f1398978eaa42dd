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

#[track_caller]
fn refused(from: &str, to: &str, error: &str) {
    assert!(SMALL.contains(from), "{from}");
    let found = read(&SMALL.replace(from, to)).expect_err("refused").to_string();
    assert_eq!(found, error);
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
    refused("warm_up", "warmup", "unknown key `warmup`");
    refused("pattern =", "shape = 1\npattern =", "unknown key `workloads.0.shape`");
    refused("length = \"2m\"", "length = \"100s\"", "field `length`: 1m 40s, must be a multiple of the interval of 15s and at most 30days");
    refused("length = \"2m\"", "length = \"30s\"", "field `length`: 30s, must be longer than the warm-up of 30s");
    refused("length = \"2m\"", "length = \"2m\"\ntick = \"4s\"", "field `tick`: 4s, must go into the interval of 15s without rest");
    refused("replicas = 1,", "replicas = 11,", "field `functions[0].start`: 11 x 500m 128Mi, must lie within the bounds");
    refused(
        "policy = \"static\"",
        "policy = \"a\"\n[[competitors]]\npolicy = \"a\"",
        "field `competitors[1].name`: `a` is there twice; give one of them another name",
    );
    refused(
        "policy = \"static\"",
        "policy = \"static\"\ngrid = { replicas = 3 }",
        "field `competitors[0].grid`: `replicas` = 3, must be a list of the values to try, such as [50, 70]",
    );
    refused(
        "policy = \"static\"",
        "policy = \"static\"\ngrid = { replicas = [1, 2, 3] }\n[tuning]\nsettings = 3",
        "field `competitors[0].grid`: 4 settings with the default, the budget of every rule is 3",
    );
    refused(
        "policy = \"static\"",
        "policy = \"static\"\n[[cells]]\nworkloads = [\"ramp\"]",
        "field `cells[0].workloads`: `ramp`, must be one of constant",
    );
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
