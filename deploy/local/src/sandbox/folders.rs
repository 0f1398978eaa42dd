//! Access of functions to folders, with Landlock. Owns the rules that leave everything but the hidden folders, and the version of the kernel's
//! interface.
//!
//! Landlock can only permit. A hidden folder therefore has rules for everything beside it and beside its parents, as found when a replica starts: in
//! those parents themselves a replica can list and read, but not create, and files that are created there later are not accessible to it. Rules keep
//! the files that they name: the space of a deleted one is free only when the replica ends.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use landlock::{ABI, Access, AccessFs, PathBeneath, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope};

/// Version of the interface that restricts signals and abstract sockets.
pub const SIGNALS: i64 = 6;
/// Newest version whose rights are used; the kernel's own may be older.
const NEWEST: ABI = ABI::V6;

/// Version of the interface; 0 where there is none.
pub fn version() -> i64 {
    const VERSION: u32 = 1;
    // SAFETY: without attributes the call only returns the version.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, VERSION) }.max(0)
}

/// Rules that permit everything but access to the folders `hidden`, signals to other processes and their abstract sockets; `None` without
/// Landlock. Blocks.
///
/// # Errors
/// When the kernel refuses a rule.
pub fn ruleset(hidden: &[&Path]) -> io::Result<Option<OwnedFd>> {
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|rules| rules.scope(Scope::Signal | Scope::AbstractUnixSocket))
        .and_then(Ruleset::create)
        .map_err(io::Error::other)?;
    let root = open(Path::new("/"))?;
    if hidden.is_empty() {
        return Ok(rules.add_rule(PathBeneath::new(root, AccessFs::from_all(NEWEST))).map_err(io::Error::other)?.into());
    }
    let rules = rules.add_rule(PathBeneath::new(root, AccessFs::ReadDir)).map_err(io::Error::other)?;
    Ok(permit_beside(rules, Path::new("/"), hidden)?.into())
}

/// Permits everything in `folder` but the folders `hidden`, which are beneath it.
fn permit_beside(mut rules: RulesetCreated, folder: &Path, hidden: &[&Path]) -> io::Result<RulesetCreated> {
    for entry in std::fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        // The target of a link has rules of its own, unless it is hidden.
        if hidden.contains(&path.as_path()) || entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            continue;
        }
        let beneath: Vec<&Path> = hidden.iter().filter(|hidden| hidden.starts_with(&path)).copied().collect();
        if !beneath.is_empty() {
            rules = permit_beside(rules, &path, &beneath)?;
            continue;
        }
        // An entry may be gone by now.
        let Ok(file) = open(&path) else { continue };
        let kind = file.metadata()?.file_type();
        let rights = if kind.is_dir() { AccessFs::from_all(NEWEST) } else { AccessFs::from_file(NEWEST) };
        if !kind.is_symlink() {
            rules = rules.add_rule(PathBeneath::new(file, rights)).map_err(io::Error::other)?;
        }
    }
    Ok(rules)
}

fn open(path: &Path) -> io::Result<std::fs::File> {
    std::fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}
