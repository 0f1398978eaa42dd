//! Invariants of the architecture, checked on the dependency graph and the sources.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use qscale_tests::repository;
use qscale_tests::source;
use serde_json::Value;

const SERVICES: [&str; 6] = ["qscale-collector", "qscale-agent", "qscale-actuator", "qscale-loadgen", "qscale-local", "qscale-simulated"];
/// The service in a library crate: its crate, and the modules that only its own program may use.
const SERVICE_OF_LIBRARY: (&str, &str, [&str; 2]) =
    ("qscale-promote", "agent/promote", ["qscale_promote::service", "qscale_promote::config"]);
/// Programs that are not services: the command-line tool, the bundled functions and the tests below.
const PROGRAMS: [&str; 4] = ["qscale", "qscale-functions", SERVICE_TESTS[0], SERVICE_TESTS[1]];
/// Fuzz targets and the simulation of the loop, which alone link the services.
const SERVICE_TESTS: [&str; 2] = ["qscale-fuzz", "qscale-simulation"];
const TOP_LEVEL: [&str; 7] = ["collector", "agent", "actuator", "loadgen", "common", "deploy", "tests"];

/// Crates that do no I/O: time and randomness are arguments.
const PURE: [&str; 7] = ["qscale-common", "qscale-policies", "qscale-sim", "qscale-evaluate", "qscale-rl", "qscale-dqn", "qscale-train"];
/// Crates of which each does I/O.
const IO: [&str; 6] = ["async-nats", "axum", "hyper", "kube", "tokio", "tracing-subscriber"];

/// Names of the crates that `package` links, itself included, with its default features or without them.
fn linked(package: &str, default_features: bool) -> BTreeSet<String> {
    let mut arguments = vec!["tree", "--locked", "--package", package, "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    if !default_features {
        arguments.push("--no-default-features");
    }
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(repository()).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    text.lines().filter_map(|line| line.split_whitespace().next()).map(ToOwned::to_owned).collect()
}

#[track_caller]
fn links_none_of(package: &str, default_features: bool, forbidden: &[&str]) {
    let linked = linked(package, default_features);
    let found: Vec<_> = forbidden.iter().filter(|name| linked.contains(**name)).collect();
    assert!(found.is_empty(), "{package} links {found:?}");
}

fn metadata() -> Value {
    let arguments = ["metadata", "--locked", "--no-deps", "--format-version", "1"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(repository()).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo writes JSON")
}

#[test]
fn pure_crates_link_nothing_that_does_io() {
    for package in PURE {
        links_none_of(package, false, &IO);
    }
}

#[test]
fn inference_depends_on_neither_training_nor_burn() {
    links_none_of("qscale-dqn", true, &["qscale-train", "burn", "burn-tensor", "wgpu"]);
    links_none_of("qscale-rl", true, &["qscale-dqn", "qscale-policies", "qscale-sim", "burn"]);
}

#[test]
fn programs_link_kube_only_with_the_feature_kubernetes() {
    for package in ["qscale", "qscale-actuator", "qscale-collector", "qscale-simulation"] {
        links_none_of(package, true, &["kube", "k8s-openapi"]);
    }
}

#[test]
fn programs_link_burn_only_with_the_feature_gpu() {
    for package in ["qscale", "qscale-agent", "qscale-promote"] {
        links_none_of(package, true, &["burn", "burn-tensor", "wgpu"]);
    }
    assert!(linked("qscale-burn", true).contains("burn"));
}

#[test]
fn no_crate_depends_on_a_service() {
    let is_test = |package: &&Value| SERVICE_TESTS.iter().any(|name| package["name"] == **name);
    for package in metadata()["packages"].as_array().expect("packages").iter().filter(|package| !is_test(package)) {
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let name = dependency["name"].as_str().expect("a name");
            assert!(!SERVICES.contains(&name), "{} depends on the service {name}", package["name"]);
        }
    }
    let (_, folder, modules) = SERVICE_OF_LIBRARY;
    for (path, text) in source::files(&[".rs"]).into_iter().filter(|(path, _)| !path.starts_with(folder) && !path.starts_with("tests")) {
        let used: Vec<_> = modules.iter().filter(|module| text.contains(**module)).collect();
        assert!(used.is_empty(), "{} uses {used:?}", path.display());
    }
}

#[test]
fn every_program_is_a_known_service_or_tool() {
    let known: BTreeSet<&str> = SERVICES.into_iter().chain(PROGRAMS).chain([SERVICE_OF_LIBRARY.0]).collect();
    let metadata = metadata();
    let programs = metadata["packages"].as_array().expect("packages").iter().filter(|package| {
        let targets = package["targets"].as_array().expect("targets");
        targets.iter().any(|target| target["kind"][0] == "bin")
    });
    let programs: BTreeSet<&str> = programs.map(|package| package["name"].as_str().expect("a name")).collect();
    assert_eq!(programs, known);
}

#[test]
fn one_version_of_what_the_services_share() {
    for package in ["tokio", "async-nats", "hyper", "serde", "prost", "tonic"] {
        let lock = std::fs::read_to_string(repository().join("Cargo.lock")).expect("the lock file");
        let copies = lock.matches(&format!("name = \"{package}\"\n")).count();
        assert_eq!(copies, 1, "versions of {package}");
    }
}

#[test]
fn the_top_level_holds_the_seven_folders() {
    let folders: BTreeSet<String> = std::fs::read_dir(repository())
        .expect("the repository")
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && name != "target")
        .collect();
    assert_eq!(folders, TOP_LEVEL.iter().map(ToString::to_string).collect());
}

/// Sources of the product, tests left out.
fn sources() -> impl Iterator<Item = (PathBuf, String)> {
    source::files(&[".rs"]).into_iter().filter(|(path, _)| {
        let within = |name: &str| path.components().any(|part| part.as_os_str() == name);
        within("src") && !path.starts_with("tests") && !path.ends_with("tests.rs")
    })
}

#[test]
fn only_the_contract_spells_a_subject() {
    for (path, text) in sources() {
        if path.starts_with("common/src/contract") {
            continue;
        }
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in product.lines().filter(|line| !line.trim_start().starts_with("//")) {
            assert!(!line.contains("\"qscale.v1"), "{}: {line}", path.display());
        }
    }
}

#[test]
fn only_actuator_platform_and_operator_set_allocations() {
    for (path, text) in sources() {
        let platforms =
            ["deploy/local", "deploy/simulated", "common/src/runtime/platform", "common/src/runtime/platform.rs", "common/src/platform.rs"];
        let operator = ["deploy/qscale/src/function.rs", "deploy/up/src/launch.rs", "agent/experiments/src/profile/testbed.rs"];
        let may = ["actuator"].into_iter().chain(operator).chain(platforms);
        if may.into_iter().any(|folder| path.starts_with(folder)) {
            continue;
        }
        assert!(!text.contains("set_allocation("), "{} sets an allocation", path.display());
    }
}

/// Sources that read files without the limits of `common::runtime::files`: cgroups, the kernel's files, journals of this program, folders to flush.
const UNLIMITED_READS: [&str; 5] = [
    "common/src/runtime/files.rs",
    "common/src/runtime/private.rs",
    "deploy/local/src/cgroup",
    "agent/experiments/src/journal.rs",
    "agent/experiments/src/validate/machine.rs",
];

#[test]
fn files_are_read_within_their_limits() {
    for (path, text) in sources().filter(|(path, _)| !UNLIMITED_READS.iter().any(|exempt| path.starts_with(exempt))) {
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        let reads = |line: &&str| ["fs::read(", "fs::read_to_string(", "File::open("].iter().any(|call| line.contains(call));
        for line in product.lines().filter(reads) {
            assert!(line.contains("\"/proc/"), "{} reads a file without a limit; use common::runtime::files: {line}", path.display());
        }
    }
}

/// First components of absolute paths that may appear: of the operating system, of HTTP APIs, of JSON pointers, and placeholders.
const PATHS: [&str; 27] = [
    "allocation",
    "api",
    "apis",
    "architecture",
    "bin",
    "bounds",
    "changes",
    "dev",
    "etc",
    "hyperparameters",
    "no",
    "nowhere",
    "metrics",
    "objective",
    "path",
    "proc",
    "qscale",
    "replicas",
    "run",
    "srv",
    "sys",
    "tmp",
    "usr",
    "var",
    "v1",
    "windows",
    "x",
];

/// First components of the absolute paths in `text` that have at least two components. Paths with a dot in the first one are gRPC methods.
fn absolute_paths(text: &str) -> Vec<&str> {
    let starts = text.match_indices('/').map(|(start, _)| start);
    let begins_word = |start: &usize| {
        text[..*start].chars().next_back().is_none_or(|letter| letter.is_whitespace() || ['"', '\'', '`', '(', '=', '|'].contains(&letter))
    };
    let first = |start: usize| {
        let (first, rest) = text[start + 1..].split_once('/')?;
        let is_name = first.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-');
        (is_name && !first.is_empty() && rest.starts_with(|letter: char| letter.is_ascii_alphanumeric())).then_some(first)
    };
    starts.filter(begins_word).filter_map(first).collect()
}

#[test]
fn no_file_names_a_path_of_a_particular_machine() {
    for (path, text) in source::files(&[".rs", ".md", ".py", ".sh", ".toml", ".yaml", "Makefile"]) {
        for first in absolute_paths(&text) {
            assert!(PATHS.contains(&first), "{} names a path below /{first}/", path.display());
        }
    }
    assert_eq!(absolute_paths("see \"/tmp/a\" or b/two/c, /three, //four/x and /five.Six/y"), ["tmp"]);
}

#[test]
fn nothing_is_marked_as_unfinished() {
    let marks = [["FIX", "ME"].concat(), ["X", "XX"].concat(), ["TO", "DO"].concat()];
    for (path, text) in source::files(&[".rs", ".md", ".py", ".sh", ".toml", ".yaml"]) {
        for mark in &marks {
            assert!(
                !text.split(|letter: char| !letter.is_ascii_alphanumeric()).any(|word| word == mark),
                "{} contains {mark}",
                path.display()
            );
        }
    }
}
