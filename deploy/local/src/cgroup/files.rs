//! Reading and writing the files of a cgroup.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::Path;

use libcgroups::common::{WrappedIoError, get_all_pids, read_cgroup_file, write_cgroup_file};

/// Writes `value` into `file` of the cgroup `folder`.
pub fn write(folder: &Path, file: &str, value: impl Display) -> io::Result<()> {
    write_cgroup_file(folder.join(file), value).map_err(|error| named(&error))
}

/// Reads the single number in `file`; `max` is the largest.
pub fn number(folder: &Path, file: &str) -> io::Result<u64> {
    let text = read(folder, file)?;
    let text = text.trim();
    if text == "max" { Ok(u64::MAX) } else { text.parse().map_err(|_| invalid(folder, file, text)) }
}

/// Reads the whole `file`.
pub fn read(folder: &Path, file: &str) -> io::Result<String> {
    read_cgroup_file(folder.join(file)).map_err(|error| named(&error))
}

/// The number after `key` in text of lines `key number`; zero where there is none.
pub fn value(text: &str, key: &str) -> u64 {
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok());
    found.unwrap_or(0)
}

/// Creates a folder unless it exists.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder).map_err(|error| io::Error::new(error.kind(), format!("cannot create {}: {error}", folder.display())))
}

/// Sends SIGKILL to every process of the cgroup and those below, repeatedly until none is left: a process may fork meanwhile.
pub fn kill_all(folder: &Path) {
    if write(folder, "cgroup.kill", 1).is_ok() {
        return;
    }
    for _ in 0..10 {
        let pids = get_all_pids(folder).unwrap_or_default();
        if pids.is_empty() {
            return;
        }
        for pid in pids {
            // SAFETY: kill takes plain integers.
            unsafe { libc::kill(pid.as_raw(), libc::SIGKILL) };
        }
    }
}

/// Converts the error; keeps the OS error number, or the path in the text where there is none.
fn named(error: &WrappedIoError) -> io::Error {
    let inner = error.inner();
    match inner.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(inner.kind(), error.to_string()),
    }
}

fn invalid(folder: &Path, file: &str, text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} holds `{text}`, not a number", folder.join(file).display()))
}
