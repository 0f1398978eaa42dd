//! `qscale reproduce --local`: policies trained in the simulator decide on real functions, and finished runs are not repeated.

use std::path::Path;
use std::process::{Command, Output};

use qscale_tests::process::binary;
use qscale_tests::{Folder, nats, system};
use serde_json::Value;

const COMPETITORS: [&str; 5] = ["threshold", "tabular-q", "tabular-q-1", "dqn-step", "dqn"];
/// Files that are written again without repeating training or runs.
const FILES: [&str; 5] = ["results.csv", "learning.svg", "usual.svg", "steps.svg", "models/dqn-step-2.dqn"];

fn reproduce(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("qscale"));
    command.args(["reproduce", "horizontal", "--local", "--out", "found"]).args(arguments).current_dir(folder);
    command.env("QSCALE_STATE", folder.join("state")).env("NATS_SERVER_BIN", nats::program()).output().expect("qscale runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn trained_policies_decide_on_real_functions_and_results_are_kept() {
    let folder = Folder::new("reproduce");
    let arguments = ["--quick", "--for", "10s"];
    let output = reproduce(folder.path(), &[&arguments[..], &["--json"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let summary: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!((&summary["complete"], &summary["settings"]["site"]["ticks"]), (&true.into(), &10.into()), "{summary}");
    let bytes = std::fs::read(folder.path().join("found/results.json")).expect("written");
    let results: Value = serde_json::from_slice(&bytes).expect("JSON");
    let runs = results["runs"].as_array().expect("a list");
    assert_eq!(runs.len(), COMPETITORS.len() * 2 * 2);
    for run in runs {
        assert!(COMPETITORS.iter().any(|competitor| run["competitor"] == *competitor), "{run}");
        assert!(run["throughput_rps"].as_f64() > Some(0.0) && run["cost_per_hour"].as_f64() > Some(0.0), "{run}");
        assert_eq!(run["series"]["latency_ms"].as_array().map(Vec::len), Some(10), "{run}");
    }
    for name in FILES {
        assert!(std::fs::metadata(folder.path().join("found").join(name)).is_ok_and(|file| file.len() > 0), "{name}");
    }
    assert_eq!(system::with_argument(&folder.path().display().to_string()), [0; 0], "processes are left");

    let again = reproduce(folder.path(), &[&arguments[..], &["--resume"]].concat());
    assert!(again.status.success() && !stderr(&again).contains("run 1 of 4"), "nothing was left to do: {}", stderr(&again));
    assert!(String::from_utf8_lossy(&again.stdout).contains("tabular-q-1"));
    assert!(std::fs::read(folder.path().join("found/results.json")).expect("written") == bytes);
    let other = reproduce(folder.path(), &["--quick", "--for", "20s"]);
    assert!(!other.status.success() && stderr(&other).contains("--overwrite"), "{}", stderr(&other));
    let long = reproduce(folder.path(), &["--for", "1h"]);
    assert!(!long.status.success() && stderr(&long).contains("--for 1h"), "{}", stderr(&long));
}
