//! Profiles by name: vSwarm's functions, and those of the evaluator's suite. Owns the table and its lookup; the type is
//! in [`crate::profile`].
//!
//! The figures are those of vSwarm's profiler, published by `vhive-serverless/invitro` (`tools/mapper/profile.json.gz`,
//! MIT). The table `profiles/vswarm.csv` holds the required part; [`published`] describes its derivation.

mod file;
pub mod published;
mod vswarm;

use thiserror::Error;

use crate::profile::FunctionProfile;

/// Number of similar names in an error.
const NEAREST: usize = 4;

/// A profile that is not from vSwarm's profiler.
type NamedProfile = (&'static str, fn() -> FunctionProfile);

const OWN: [NamedProfile; 2] = [("fibonacci-python", FunctionProfile::fibonacci_python), ("sleeping", vswarm::sleeping)];

/// No profile has this name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no profile is named `{name}`; the nearest names are {}", .nearest.join(", "))]
pub struct UnknownProfile {
    /// The name.
    pub name: String,
    /// The most similar names, best first.
    pub nearest: Vec<&'static str>,
}

/// The names of all profiles.
pub fn names() -> impl Iterator<Item = &'static str> {
    OWN.into_iter().map(|(name, _)| name).chain(vswarm::rows().map(|row| row.name))
}

/// The profile `name`. A variant of vSwarm is also found by the lower bound of its input: `fibonacci-python-100000` means
/// `fibonacci-python-100000-101000`.
///
/// # Errors
/// If there is none, with the nearest names.
pub fn by_name(name: &str) -> Result<FunctionProfile, UnknownProfile> {
    if let Some((_, profile)) = OWN.iter().find(|(own, _)| *own == name) {
        return Ok(profile());
    }
    let alike = |row: &vswarm::VswarmVariant| row.name == name || row.name.strip_prefix(name).is_some_and(is_upper_bound);
    vswarm::rows().find(alike).map(|row| row.profile()).ok_or_else(|| UnknownProfile { name: name.to_owned(), nearest: nearest(name) })
}

/// Whether `rest` is the upper bound in a variant's name.
fn is_upper_bound(rest: &str) -> bool {
    rest.strip_prefix('-').is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

fn nearest(name: &str) -> Vec<&'static str> {
    let mut all: Vec<_> = names().map(|known| (known, strsim::jaro_winkler(name, known))).collect();
    all.sort_by(|one, other| other.1.total_cmp(&one.1));
    all.into_iter().take(NEAREST).map(|(known, _)| known).collect()
}

#[cfg(test)]
mod tests;
