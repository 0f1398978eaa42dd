//! What the architecture promises, by absence: checked on the dependency graph and on the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use qscale_tests::repository;
use serde_json::Value;

const SERVICES: [&str; 6] = ["qscale-collector", "qscale-agent", "qscale-actuator", "qscale-loadgen", "qscale-local", "qscale-simulated"];
const TOP_LEVEL: [&str; 7] = ["collector", "agent", "actuator", "loadgen", "common", "deploy", "tests"];

/// Names of the crates that `package` links, itself included, with the features given.
fn tree(package: &str) -> BTreeSet<String> {
    let arguments =
        ["tree", "--locked", "--package", package, "--no-default-features", "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(repository()).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    text.lines().filter_map(|line| line.split_whitespace().next()).map(ToOwned::to_owned).collect()
}

fn metadata() -> Value {
    let arguments = ["metadata", "--locked", "--no-deps", "--format-version", "1"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(repository()).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo writes JSON")
}

/// The files that git tracks or would track, by path from the root.
fn files(ending: &str) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![repository()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the repository").flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if name.ends_with(ending) {
                let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
                found.insert(path.strip_prefix(repository()).expect("it lies within").to_owned(), text);
            }
        }
    }
    found
}

#[test]
fn pure_crates_link_nothing_that_does_io() {
    for package in ["qscale-common", "qscale-policies", "qscale-sim", "qscale-evaluate"] {
        let linked = tree(package);
        for forbidden in ["tokio", "async-nats", "kube", "burn", "hyper", "axum", "tracing-subscriber"] {
            assert!(!linked.contains(forbidden), "{package} links {forbidden}");
        }
    }
}

#[test]
fn learning_links_nothing_that_does_io() {
    for package in ["qscale-rl", "qscale-dqn", "qscale-train", "qscale-promote"] {
        let linked = tree(package);
        for forbidden in ["tokio", "async-nats", "kube", "hyper", "axum", "tracing-subscriber", "burn", "wgpu"] {
            assert!(!linked.contains(forbidden), "{package} links {forbidden}");
        }
    }
    for package in ["qscale", "qscale-agent"] {
        assert!(!tree(package).contains("burn"), "{package} links burn without its feature gpu");
    }
    assert!(tree("qscale-burn").contains("burn"));
    assert!(!tree("qscale-dqn").contains("qscale-train"), "inference links training");
}

#[test]
fn no_crate_depends_on_a_service() {
    for package in metadata()["packages"].as_array().expect("packages") {
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let name = dependency["name"].as_str().expect("a name");
            assert!(!SERVICES.contains(&name), "{} depends on the service {name}", package["name"]);
        }
    }
}

#[test]
fn one_version_of_what_the_services_share() {
    for package in ["tokio", "async-nats", "hyper", "serde", "prost", "tonic"] {
        let lock = std::fs::read_to_string(repository().join("Cargo.lock")).expect("the lock file");
        let copies = lock.matches(&format!("name = \"{package}\"\n")).count();
        assert!(copies <= 1, "{copies} versions of {package}");
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
    files(".rs").into_iter().filter(|(path, _)| {
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
            let format_of_text = line.contains("qscale.v1.{");
            assert!(!line.contains("\"qscale.v1") || format_of_text, "{}: {line}", path.display());
        }
    }
}

#[test]
fn only_actuator_platform_and_operator_set_allocations() {
    for (path, text) in sources() {
        let platforms =
            ["deploy/local", "deploy/simulated", "common/src/runtime/platform", "common/src/runtime/platform.rs", "common/src/platform.rs"];
        let operator = ["deploy/qscale/src/function.rs", "deploy/up/src/launch.rs", "agent/experiments/src/profile/rig.rs"];
        let may = ["actuator"].into_iter().chain(operator).chain(platforms);
        if may.into_iter().any(|folder| path.starts_with(folder)) {
            continue;
        }
        assert!(!text.contains("set_allocation("), "{} sets an allocation", path.display());
    }
}

#[test]
fn nothing_in_the_tree_names_a_machine_or_is_unfinished() {
    let unfinished = ["FIX", "XX"].map(|word| format!("{word}{}", if word == "FIX" { "ME" } else { "X" }));
    for ending in [".rs", ".md", ".py", ".sh", ".toml", ".yaml"] {
        for (path, text) in files(ending) {
            if path == Path::new("tests/tests/invariants.rs") {
                continue;
            }
            let machine = ["work", "root", "farm"].map(|folder| format!("/{folder}/"));
            for word in unfinished.iter().chain(&machine) {
                assert!(!text.contains(word), "{} contains {word}", path.display());
            }
        }
    }
}
