//! `qscale profile` and `qscale validate` with the real platform, function and load generator, as a person runs them.

use std::path::Path;
use std::process::{Command, Output};

use qscale_common::document::Format;
use qscale_sim::{FunctionProfile, Nanos};
use qscale_tests::Folder;
use serde_json::Value;

fn qscale(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qscale"));
    command.current_dir(folder).env_remove("QSCALE_PLATFORM").args(arguments).output().expect("the command starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether cgroups can be written here; says so where they cannot.
fn limits_can_be_set(output: &Output) -> bool {
    let cannot = stderr(output).contains("cgroups are not writable");
    if cannot {
        eprintln!("skipped: {}", stderr(output));
    }
    !cannot
}

#[test]
fn a_profile_is_measured_written_and_validated() {
    let folder = Folder::new("measuring");
    let measured = qscale(folder.path(), &["profile", "fibonacci", "--quick", "--out", "fibonacci.toml"]);
    assert!(measured.status.success(), "{}", stderr(&measured));
    let text = std::fs::read_to_string(folder.path().join("fibonacci.toml")).expect("written");
    let profile = FunctionProfile::read(&text, Format::Toml).expect("read as it is written");
    assert_eq!(profile.name, "fibonacci");
    assert!(profile.memory.base_mib.0 > 0 && !profile.source.is_empty(), "{text}");
    if !limits_can_be_set(&measured) {
        return;
    }
    assert!(profile.cpu.mean() > Nanos::ZERO && profile.startup.cpu.mean() > Nanos::ZERO, "{text}");

    let arguments = ["validate", "--profile", "fibonacci.toml", "--for", "1s", "--scenario", "light", "--scenario", "zero"];
    let json = qscale(folder.path(), &[arguments.as_slice(), &["--json"]].concat());
    assert!(json.status.success(), "{}", stderr(&json));
    let summary: Value = serde_json::from_slice(&json.stdout).expect("one JSON object");
    let scenarios = summary["scenarios"].as_array().expect("a list");
    assert_eq!(scenarios.iter().map(|scenario| scenario["scenario"].as_str()).collect::<Vec<_>>(), [Some("light"), Some("zero")]);
    for scenario in scenarios {
        assert!(scenario["requests"].as_u64() > Some(0), "{scenario}");
        for world in ["real", "simulated"] {
            for measure in ["p50_ms", "p95_ms", "p99_ms", "completed", "cpu_seconds"] {
                assert!(scenario[world][measure].as_f64() > Some(0.0), "{world} {measure}: {scenario}");
            }
        }
    }
    // Nothing lies within no error at all.
    let arguments = ["validate", "--profile", "fibonacci.toml", "--for", "1s", "--scenario", "light", "--check", "0%"];
    let table = qscale(folder.path(), &arguments);
    assert_eq!(table.status.code(), Some(1), "{}", stderr(&table));
    let out = String::from_utf8_lossy(&table.stdout).into_owned();
    for column in ["SCENARIO", "LIMITS", "REQUESTS", "P50", "P95", "P99", "COMPLETED", "CPU", "OTHERS", "light"] {
        assert!(out.contains(column), "{column} is missing in {out}");
    }
    assert!(stderr(&table).contains("light"), "{}", stderr(&table));
}

#[test]
fn failures_name_the_cause() {
    let folder = Folder::new("measuring");
    let failed = |arguments: &[&str], expected: &str| {
        let output = qscale(folder.path(), arguments);
        assert!(!output.status.success() && stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
        assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    };
    failed(&["profile", "no-such-function"], "no-such-function");
    failed(&["profile", "fibonacci", "--out", "profile.yaml"], "--out");
    failed(&["profile", "--quick", "--command", "false"], "false");
    failed(&["profile", "fibonacci", "--quick", "--input", "name=nine"], "--input");
    failed(&["validate", "--profile", "absent.toml"], "absent.toml");
    failed(&["validate", "--scenario", "none"], "knee-250m");
    failed(&["validate", "--check", "much"], "10%");
    std::fs::write(folder.path().join("wrong.toml"), "name = \"f\"\nparallelism = 0").expect("written");
    failed(&["validate", "--profile", "wrong.toml"], "wrong.toml");
}
