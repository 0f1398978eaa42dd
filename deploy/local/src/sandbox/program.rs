//! Finding the program of a function. Owns opening one that the user of the function cannot reach.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Permission of users other than the owner and the group to pass a folder, and to run a program.
const PASS: u32 = 0o001;

/// A program to run.
#[derive(Debug)]
pub enum Executable {
    /// By the name or path in the function file.
    Named(OsString),
    /// Opened by the platform, as its folder is closed to the user of the function: a checkout in root's home, for example.
    Opened {
        /// The file.
        file: File,
        /// Whether an interpreter opens it again.
        is_script: bool,
    },
}

impl Executable {
    /// The program `name` as a process with this `PATH` and working directory runs it.
    #[must_use]
    pub fn find(name: &OsStr, path_variable: &OsStr, folder: Option<&Path>) -> Self {
        let found = locate(name, path_variable, folder.unwrap_or(Path::new(".")));
        let opened = found.filter(|path| !is_reachable(path)).and_then(|path| OpenOptions::new().read(true).open(path).ok());
        match opened {
            Some(file) => Self::Opened { is_script: is_script(&file), file },
            None => Self::Named(name.to_owned()),
        }
    }

    /// Path to run.
    #[must_use]
    pub fn path(&self) -> OsString {
        match self {
            Self::Named(name) => name.clone(),
            Self::Opened { file, .. } => format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
        }
    }

    /// Descriptor that an interpreter needs.
    #[must_use]
    pub fn script(&self) -> Option<i32> {
        match self {
            Self::Opened { file, is_script: true } => Some(file.as_raw_fd()),
            _ => None,
        }
    }
}

fn locate(name: &OsStr, path_variable: &OsStr, folder: &Path) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    if name.as_encoded_bytes().contains(&b'/') {
        return Some(folder.join(name)).filter(is_program);
    }
    std::env::split_paths(path_variable).map(|entry| folder.join(entry).join(name)).find(is_program)
}

/// Whether every user can reach `path`, and pass it if it is a folder. The folders of links on the way count, too.
pub fn is_reachable(path: &Path) -> bool {
    let (Ok(named), Ok(real)) = (std::path::absolute(path), path.canonicalize()) else { return false };
    let mut folders = named.ancestors().chain(real.ancestors()).filter(|path| path.is_dir());
    folders.all(|folder| fs::metadata(folder).is_ok_and(|found| found.permissions().mode() & PASS != 0))
}

fn is_script(mut file: &File) -> bool {
    let mut start = [0; 2];
    file.read_exact(&mut start).is_ok() && start == *b"#!"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_in_a_closed_folder_is_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("closed to others");
        let script = folder.path().join("script");
        fs::write(&script, "#!/bin/sh\n").expect("written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("executable");
        let variable = OsString::from(format!("/no/such/folder:{}", folder.path().display()));
        for (name, folder) in [("script", None), ("./script", Some(folder.path())), (&*script.display().to_string(), None)] {
            let program = Executable::find(OsStr::new(name), &variable, folder);
            assert!(matches!(program, Executable::Opened { is_script: true, .. }), "{name}: {program:?}");
        }
        for name in ["sh", "/bin/sh", "/no/such/program", "nothing"] {
            let program = Executable::find(OsStr::new(name), OsStr::new("/usr/bin:/bin"), None);
            assert!(matches!(&program, Executable::Named(named) if named == name), "{program:?}");
        }
    }
}
