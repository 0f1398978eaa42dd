//! Simulated functions, as the command line asks for them. Owns their names, files and seeds; what they run is read by the simulated platform.

use std::path::Path;

use anyhow::Context;
use qscale_common::document::Format;
use qscale_common::name::Name;
use qscale_common::platform::{FunctionSpec, SimulatedFunction, SimulatedTrace};
use qscale_common::runtime::traces;
use qscale_common::units::Mebibytes;
use qscale_common::workload::trace::Keep;
use qscale_sim::{FunctionProfile, profiles};

use super::{Planned, copy_of, planned};
use crate::up::UpArgs;

/// Most functions of one run: what fits into one answer of the platform's metrics.
const MOST: u32 = 2_000;
/// Functions of a trace that are played where nobody says how many.
const OF_A_TRACE: usize = 100;
/// Runs whose seeds are neighbours have no function in common.
const SEEDS_A_RUN: u64 = 1_000_000;
/// Endings of profile names that say only the language.
const LANGUAGES: [&str; 3] = ["-python", "-nodejs", "-go"];

/// The functions, and what load they bring, in words.
pub fn functions(arguments: &UpArgs) -> anyhow::Result<(Vec<Planned>, String)> {
    let named = arguments.profile.as_deref().unwrap_or("fibonacci-python");
    let (profile, named) = profile(named)?;
    let (load, words, count) = load(arguments)?;
    anyhow::ensure!((1..=MOST).contains(&count), "--functions {count}: must be 1 to {MOST}");
    let base = base_name(&profile.name);
    let digits = count.to_string().len().max(3);
    let memory = Mebibytes(256.max(2 * profile.memory.base_mib.0));
    let mut functions = Vec::new();
    for index in 0..count {
        let seed = arguments.seed.wrapping_mul(SEEDS_A_RUN).wrapping_add(u64::from(index));
        let trace = load.trace.clone().map(|trace| SimulatedTrace { function: index as usize, ..trace });
        let simulated = SimulatedFunction { profile: named.clone(), seed: Some(seed), trace, ..load.clone() };
        let name = Name::new(format!("{base}-{:0digits$}", index + 1)).context("the name of a simulated function")?;
        let mut spec = FunctionSpec::of_simulated(name, simulated);
        spec.allocation.memory_mib = memory;
        functions.push(planned(spec.clone(), &arguments.agent, arguments)?);
        if let Some(versus) = &arguments.versus {
            functions.push(planned(copy_of(&spec)?, versus, arguments)?);
        }
    }
    Ok((functions, words))
}

/// A function with the load that is asked for, the same load in words, and how many functions there are.
fn load(arguments: &UpArgs) -> anyhow::Result<(SimulatedFunction, String, u32)> {
    let Some(folder) = &arguments.trace else {
        let simulated = SimulatedFunction { load: arguments.pattern()?, ..SimulatedFunction::default() };
        return Ok((simulated, arguments.load.clone(), arguments.functions.unwrap_or(1)));
    };
    let folder = folder.canonicalize().with_context(|| format!("--trace {}", folder.display()))?;
    let there =
        traces::open_azure2019(&folder, Keep::default(), 0).with_context(|| format!("--trace {}", folder.display()))?.functions.len();
    let count = arguments.functions.map_or(there.min(OF_A_TRACE), |count| count as usize);
    anyhow::ensure!(count <= there, "--functions {count}: the trace {} has {there}", folder.display());
    let words = format!("trace {}", folder.display());
    let simulated = SimulatedFunction { trace: Some(SimulatedTrace::new(folder, 0)), ..SimulatedFunction::default() };
    Ok((simulated, words, u32::try_from(count).unwrap_or(u32::MAX)))
}

/// A profile by name or in a file, and what the platform, which may run elsewhere, is to be told of it.
fn profile(named: &str) -> anyhow::Result<(FunctionProfile, String)> {
    let unknown = match profiles::by_name(named) {
        Ok(profile) => return Ok((profile, named.to_owned())),
        Err(unknown) => unknown,
    };
    let path = Path::new(named);
    anyhow::ensure!(path.is_file(), "--profile {named}: no such file, and {unknown}");
    let path = path.canonicalize().with_context(|| format!("--profile {named}"))?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("--profile {named}"))?;
    let profile =
        Format::of(&path).and_then(|format| FunctionProfile::read(&text, format)).with_context(|| format!("--profile {named}"))?;
    let path = path.to_str().with_context(|| format!("--profile {named}: the path is not UTF-8"))?.to_owned();
    Ok((profile, path))
}

/// What functions of a profile are called: its name without the language, as far as a label may hold it.
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
        up: UpArgs,
    }

    fn planned(line: &str) -> anyhow::Result<Vec<Planned>> {
        let arguments = Line::try_parse_from(["up", "--backend", "sim"].into_iter().chain(line.split_whitespace()))?;
        functions(&arguments.up).map(|(functions, _)| functions)
    }

    #[test]
    fn functions_are_numbered_and_draw_differently() {
        let functions = planned("--functions 3 --load 5").expect("valid");
        let names: Vec<_> = functions.iter().map(|function| function.id.name.as_str()).collect();
        assert_eq!(names, ["fibonacci-001", "fibonacci-002", "fibonacci-003"]);
        assert_ne!(functions[0].spec.simulated, functions[1].spec.simulated);
        assert!(functions.iter().all(|function| function.policy.function() == function.id));
    }

    #[test]
    fn a_copy_meets_the_same_arrivals() {
        let functions = planned("--functions 2 --versus static").expect("valid");
        assert_eq!(functions.len(), 4);
        assert_eq!(functions[1].id.name.as_str(), "fibonacci-001-versus");
        assert_eq!((functions[0].spec.simulated == functions[1].spec.simulated, functions[1].agent.as_str()), (true, "static"));
    }

    #[test]
    fn what_cannot_be_simulated_is_refused() {
        let error = |line: &str| format!("{:#}", planned(line).expect_err(line));
        assert!(error("--functions 0").contains("--functions 0: must be 1 to"));
        assert!(error("--profile nosuch").contains("--profile nosuch: no such file"));
        assert!(error("--trace nosuch").contains("--trace nosuch"));
    }

    #[test]
    fn any_profile_gives_a_name() {
        assert_eq!(base_name("fibonacci-python"), "fibonacci");
        assert_eq!(base_name("My Function!"), "my-function");
        assert_eq!(base_name("--"), "function");
    }
}
