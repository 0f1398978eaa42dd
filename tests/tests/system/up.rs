//! `qscale up` with real servers, processes and load.

use std::path::Path;
use std::process::Command;

use qscale_common::runtime::leftovers;
use qscale_tests::process::binary;
use qscale_tests::{Folder, System, eventually, nats, system};
use serde_json::Value;

fn up_for(arguments: &[&str]) -> (Value, Folder) {
    let folder = Folder::new("up");
    let output = Command::new(binary("qscale"))
        .arg("up")
        .arg("--json")
        .args(arguments)
        .env("QSCALE_STATE", folder.path().join("state"))
        .env("NATS_SERVER_BIN", nats::program())
        .output()
        .expect("qscale runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).expect("standard output is text");
    assert_eq!(text.lines().count(), 1, "one object on standard output: {text}");
    (serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}\n{errors}")), folder)
}

#[test]
fn replicas_follow_a_step_of_load_up_and_down() {
    let load = "step:2@0s,40@8s,2@24s";
    let arguments = ["--for", "40s", "--load", load, "--agent", "threshold", "--tick", "1s", "--function", "faas"];
    let (summary, folder) = up_for(&arguments);
    let function = &summary["functions"][0];
    assert_eq!(function["function"], "default/faas");
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("a number instead of {value} in {summary}"));
    assert!(number(&function["max_allocation"]["replicas"]) > number(&function["min_allocation"]["replicas"]), "{summary}");
    assert!(number(&function["changes"]) >= 2.0 && number(&function["actions"]) >= 10.0, "{summary}");
    assert!(number(&function["core_seconds"]) > 0.0);
    assert!(number(&function["load"]["succeeded"]) > 100.0, "{summary}");
    assert_eq!(system::with_argument(&folder.path().display().to_string()), [0; 0], "processes are left");
}

#[test]
fn two_agents_are_compared_under_the_same_arrivals() {
    let arguments = ["--for", "12s", "--load", "20", "--agent", "threshold-both", "--versus", "static", "--tick", "1s"];
    let (summary, _folder) = up_for(&arguments);
    let functions = summary["functions"].as_array().expect("two functions");
    assert_eq!(functions.len(), 2);
    assert_eq!(functions[0]["load"]["sent"], functions[1]["load"]["sent"], "the same arrivals: {summary}");
    assert_eq!(functions[1]["agent"], "static");
    assert_eq!(functions[1]["changes"], 0, "{summary}");
}

#[test]
fn a_load_that_cannot_be_sent_is_an_error() {
    let mut system = System::up(&["--load", "5", "--input", "nosuch=1"]);
    assert!(!eventually("the system to end by itself", || system.ended()), "{}", system.tail());
    assert!(system.tail().contains("nosuch=1"), "{}", system.tail());
}

#[test]
fn ctrl_c_leaves_no_process_and_no_cgroup_behind() {
    let mut system = System::up(&["--load", "10", "--tick", "1s"]);
    let state = system.state().display().to_string();
    let functions = system.functions();
    let replicas: Vec<u32> = functions.iter().flat_map(|function| &function.actual.replicas).filter_map(|replica| replica.pid).collect();
    assert!(!replicas.is_empty(), "{functions:?}");
    let cgroups = leftovers::recorded_cgroups(&system.state().join("platform"));
    assert_eq!(functions.iter().any(|function| function.vertical), cgroups.iter().any(|folder| folder.is_dir()), "{cgroups:?}");
    assert!(system.stop(), "{}", system.tail());
    assert_eq!(system::with_argument(&state), [0; 0], "processes are left:\n{}", system.tail());
    let left: Vec<_> = replicas.into_iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).collect();
    assert_eq!(left, [0; 0], "replicas are left:\n{}", system.tail());
    let left: Vec<_> = cgroups.into_iter().filter(|folder| folder.exists()).collect();
    assert!(left.is_empty(), "cgroups are left: {left:?}\n{}", system.tail());
}

#[test]
fn a_second_system_in_the_same_folder_is_refused() {
    let system = System::up(&["--load", "none"]);
    let second = system.qscale(&["up", "--for", "1s"]);
    assert!(!second.status.success());
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains(&system.state().display().to_string()), "{text}");
}
