//! Profiles by name: vSwarm's functions, and those that the evaluator's suite is made of. Owns the table and what is looked up in it; what a profile
//! means belongs to [`crate::profile`].
//!
//! The figures are vSwarm's own, as its profiler measured them and `vhive-serverless/invitro` publishes them (`tools/mapper/profile.json.gz`, MIT); the
//! table `profiles/vswarm.csv` holds what is needed of them, and [`published`] says how it is made.

mod file;
pub mod published;
mod vswarm;

use thiserror::Error;

use crate::profile::FunctionProfile;

/// Names told where one is not known.
const NEAREST: usize = 4;

/// A profile that vSwarm's profiler does not have.
type Own = (&'static str, fn() -> FunctionProfile);

const OWN: [Own; 2] = [("fibonacci-python", FunctionProfile::fibonacci_python), ("sleeping", vswarm::sleeping)];

/// There is no profile of a name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no profile is named `{name}`; the nearest names are {}", .nearest.join(", "))]
pub struct UnknownProfile {
    /// The name.
    pub name: String,
    /// Names that are like it, the most alike first.
    pub nearest: Vec<&'static str>,
}

/// The names of all profiles.
pub fn names() -> impl Iterator<Item = &'static str> {
    OWN.into_iter().map(|(name, _)| name).chain(vswarm::rows().map(|row| row.name))
}

/// The profile of this name. A variant of vSwarm's is also found by the lower bound of its input alone: `fibonacci-python-100000` is
/// `fibonacci-python-100000-101000`.
///
/// # Errors
/// When there is none; tells the nearest names.
pub fn by_name(name: &str) -> Result<FunctionProfile, UnknownProfile> {
    if let Some((_, profile)) = OWN.iter().find(|(own, _)| *own == name) {
        return Ok(profile());
    }
    let alike = |row: &vswarm::Row| row.name == name || row.name.strip_prefix(name).is_some_and(is_upper_bound);
    vswarm::rows().find(alike).map(|row| row.profile()).ok_or_else(|| UnknownProfile { name: name.to_owned(), nearest: nearest(name) })
}

/// What follows the lower bound in a variant's name.
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
