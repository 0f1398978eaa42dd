//! Simulated functions, as the command line asks for them. Owns their names and seeds.

use std::path::Path;

use anyhow::Context;
use qscale_common::name::Name;
use qscale_common::platform::{FunctionSpec, SimulatedFunction, SimulatedTrace};
use qscale_common::runtime::files::read_document;
use qscale_common::runtime::traces::{OpenedTrace, open_trace};
use qscale_common::units::Mebibytes;
use qscale_common::workload::trace::Keep;
use qscale_sim::{FunctionProfile, profiles};

use super::{PlannedFunction, copy_of, planned};
use crate::options::UpOptions;

/// Most functions of one run: their metrics fit into one response.
const MAX_FUNCTIONS: u32 = 2_000;
/// Default number of functions of a trace.
const TRACE_FUNCTIONS: usize = 100;
/// Distance of the seeds of consecutive runs, so that they share no function.
const SEEDS_PER_RUN: u64 = 1_000_000;
/// Suffixes of profile names that name the language.
const LANGUAGES: [&str; 3] = ["-python", "-nodejs", "-go"];

/// The functions with their load, and the load in words.
pub fn functions(arguments: &UpOptions) -> anyhow::Result<(Vec<PlannedFunction>, LoadWords)> {
    let named = arguments.profile.as_deref().unwrap_or("fibonacci-python");
    let (profile, named) = profile(named)?;
    let (load, words, count) = load(arguments)?;
    anyhow::ensure!((1..=MAX_FUNCTIONS).contains(&count), "--functions {count}: must be 1 to {MAX_FUNCTIONS}");
    let base = base_name(&profile.name);
    let digits = count.to_string().len().max(3);
    let memory = Mebibytes(256.max(2 * profile.memory.base_mib.0));
    let mut functions = Vec::new();
    for index in 0..count {
        let seed = arguments.seed.wrapping_mul(SEEDS_PER_RUN).wrapping_add(u64::from(index));
        let trace = load.trace.clone().map(|trace| SimulatedTrace { function: index as usize, ..trace });
        let simulated = SimulatedFunction { profile: named.clone(), seed: Some(seed), trace, ..load.clone() };
        let name = Name::new(format!("{base}-{:0digits$}", index + 1)).context("invalid name of a simulated function")?;
        let mut spec = FunctionSpec::of_simulated(name, simulated);
        spec.allocation.memory_mib = memory;
        functions.push(planned(spec.clone(), &arguments.agent, arguments)?);
        if let Some(versus) = &arguments.versus {
            functions.push(planned(copy_of(&spec)?, versus, arguments)?);
        }
    }
    Ok((functions, words))
}

/// The load in words.
#[derive(Debug)]
pub struct LoadWords {
    /// The pattern, or the path of the trace.
    pub short: String,
    /// The part of the trace that is played; `None` for a pattern.
    pub trace: Option<String>,
}

/// A function with its load, the load in words, and the number of functions.
fn load(arguments: &UpOptions) -> anyhow::Result<(SimulatedFunction, LoadWords, u32)> {
    let Some(path) = &arguments.trace else {
        let simulated = SimulatedFunction { load: arguments.pattern()?, ..SimulatedFunction::default() };
        return Ok((simulated, LoadWords { short: arguments.load.clone(), trace: None }, arguments.functions.unwrap_or(1)));
    };
    let path = path.canonicalize().with_context(|| format!("--trace {}", path.display()))?;
    let OpenedTrace { trace, description } = open_trace(&path, Keep::default(), 0).context("--trace")?;
    let there = trace.functions();
    let count = arguments.functions.map_or(there.min(TRACE_FUNCTIONS), |count| count as usize);
    anyhow::ensure!(count <= there, "--functions {count}: the trace {} has only {there}", path.display());
    let words = LoadWords { short: format!("trace {}", path.display()), trace: Some(description) };
    let simulated = SimulatedFunction { trace: Some(SimulatedTrace::new(path, 0)), ..SimulatedFunction::default() };
    Ok((simulated, words, u32::try_from(count).unwrap_or(u32::MAX)))
}

/// A profile by name or from a file, and its name or absolute path for the platform.
fn profile(named: &str) -> anyhow::Result<(FunctionProfile, String)> {
    let unknown = match profiles::by_name(named) {
        Ok(profile) => return Ok((profile, named.to_owned())),
        Err(unknown) => unknown,
    };
    let path = Path::new(named);
    anyhow::ensure!(path.is_file(), "--profile {named}: no such file, and {unknown}");
    let path = path.canonicalize().with_context(|| format!("--profile {named}"))?;
    let (text, format) = read_document(&path).with_context(|| format!("--profile {named}"))?;
    let profile = FunctionProfile::read(&text, format).with_context(|| format!("--profile {named}"))?;
    let path = path.to_str().with_context(|| format!("--profile {named}: the path is not UTF-8"))?.to_owned();
    Ok((profile, path))
}

/// Base of the names of functions with this profile: its name without the language, as a label.
fn base_name(profile: &str) -> String {
    let bare = LANGUAGES.iter().find_map(|language| profile.strip_suffix(language)).unwrap_or(profile);
    let label: String = bare.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' }).collect();
    let label: String = label.trim_matches('-').chars().take(40).collect();
    if label.is_empty() { "function".to_owned() } else { label.trim_end_matches('-').to_owned() }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        up: UpOptions,
    }

    fn planned(line: &str) -> anyhow::Result<Vec<PlannedFunction>> {
        let arguments = Line::try_parse_from(["up", "--backend", "sim"].into_iter().chain(line.split_whitespace()))?;
        functions(&arguments.up).map(|(functions, _)| functions)
    }

    #[test]
    fn functions_are_numbered_and_have_different_seeds() {
        let functions = planned("--functions 3 --load 5").expect("valid");
        let names: Vec<_> = functions.iter().map(|function| function.id.name.as_str()).collect();
        assert_eq!(names, ["fibonacci-001", "fibonacci-002", "fibonacci-003"]);
        assert_ne!(functions[0].spec.simulated, functions[1].spec.simulated);
        assert!(functions.iter().all(|function| function.policy.function() == function.id));
    }

    #[test]
    fn a_copy_has_the_same_arrivals() {
        let functions = planned("--functions 2 --versus static").expect("valid");
        assert_eq!(functions.len(), 4);
        assert_eq!(functions[1].id.name.as_str(), "fibonacci-001-versus");
        assert_eq!((functions[0].spec.simulated == functions[1].spec.simulated, functions[1].agent.as_str()), (true, "static"));
    }

    #[test]
    fn a_trace_is_described_and_its_functions_are_counted() {
        let folder = qscale_tests::Folder::new("traces");
        let path = folder.path().join("AzureFunctionsInvocationTraceForTwoWeeksJan2021.txt");
        std::fs::write(&path, "app,func,end_timestamp,duration\na,f,10,1\na,g,20,2\na,g,,2\n").expect("written");
        for at in [folder.path(), &path] {
            let line = format!("--trace {}", at.display());
            let arguments = Line::try_parse_from(["up", "--backend", "sim"].into_iter().chain(line.split_whitespace())).expect("valid");
            let (planned, words) = functions(&arguments.up).expect("a trace");
            let trace = words.trace.expect("a trace");
            assert_eq!(planned.len(), 2);
            assert!(trace.contains("2 functions") && trace.contains("left out: 1 invocation without"), "{trace}");
        }
    }

    #[test]
    fn invalid_options_are_refused() {
        let error = |line: &str| format!("{:#}", planned(line).expect_err(line));
        assert!(error("--functions 0").contains("--functions 0"));
        assert!(error("--profile nosuch").contains("--profile nosuch"));
        assert!(error("--trace nosuch").contains("--trace nosuch"));
    }

    #[test]
    fn any_profile_gives_a_valid_name() {
        assert_eq!(base_name("fibonacci-python"), "fibonacci");
        assert_eq!(base_name("My Function!"), "my-function");
        assert_eq!(base_name("--"), "function");
    }
}
