//! Licences and sources of the crates that the workspace links, by the rules of `deny.toml`. `make audit` checks them with cargo deny.

use std::collections::BTreeSet;
use std::process::Command;

use qscale_tests::repository;
use serde::Deserialize;
use spdx::{Expression, LicenseReq, ParseMode};

/// The part of `deny.toml` that is checked here.
#[derive(Deserialize)]
struct Rules {
    licenses: Licenses,
    sources: Sources,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
    exceptions: Vec<Exception>,
}

#[derive(Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Sources {
    #[serde(rename = "allow-registry")]
    registries: BTreeSet<String>,
}

fn rules() -> Rules {
    toml::from_str(&std::fs::read_to_string(repository().join("deny.toml")).expect("deny.toml")).expect("rules of cargo deny")
}

/// Whether `expression` can be met by `allowed` licences alone.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = Expression::parse_mode(expression, ParseMode::LAX).expect("a licence expression");
    expression.evaluate(|required: &LicenseReq| allowed.contains(&required.to_string()))
}

#[test]
fn every_licence_is_allowed() {
    let Licenses { allow, exceptions } = rules().licenses;
    let arguments =
        ["tree", "--locked", "--workspace", "--edges", "normal,build", "--target", "x86_64-unknown-linux-gnu", "--prefix", "none"];
    let output = Command::new(env!("CARGO")).args(arguments).args(["--format", "{p}|{l}|"]).current_dir(repository()).output();
    let output = output.expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    let crates: BTreeSet<(&str, &str)> = text.lines().filter_map(|line| line.split_once('|')).collect();
    assert!(crates.len() > 100, "{} crates", crates.len());
    for (package, licence) in crates {
        let (name, licence) = (package.split(' ').next().unwrap_or_default(), licence.split('|').next().unwrap_or_default());
        let exception = exceptions.iter().find(|exception| exception.name == name);
        assert!(is_allowed(licence, exception.map_or(&allow, |exception| &exception.allow)), "{package} has the licence `{licence}`");
    }
}

#[test]
fn every_crate_comes_from_an_allowed_registry() {
    let allowed: BTreeSet<String> = rules().sources.registries.into_iter().map(|index| format!("registry+{index}")).collect();
    let lock = std::fs::read_to_string(repository().join("Cargo.lock")).expect("the lock file");
    let sources: BTreeSet<String> =
        lock.lines().filter_map(|line| line.strip_prefix("source = ")).map(|source| source.replace('"', "")).collect();
    assert_eq!(sources, allowed);
}

#[test]
fn licence_expressions_are_evaluated() {
    let allowed = BTreeSet::from(["MIT".to_owned(), "BSD-3-Clause".to_owned()]);
    for (expression, expected) in [
        ("MIT OR GPL-3.0", true),
        ("MIT/Apache-2.0", true),
        ("MIT AND GPL-3.0", false),
        ("(Apache-2.0 OR MIT) AND BSD-3-Clause", true),
        ("Apache-2.0 WITH LLVM-exception", false),
        ("GPL-3.0", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}
