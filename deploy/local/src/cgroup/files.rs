//! Reading and writing the files of a cgroup, and finding where hierarchies are mounted.

use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// A mounted hierarchy of cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Mount point.
    pub point: PathBuf,
    /// Whether it is the unified hierarchy of version 2.
    pub unified: bool,
    /// Options of the file system; on version 1 these include its controllers.
    options: String,
}

impl Mount {
    /// Whether it is a hierarchy of version 1 with this controller.
    pub fn controls(&self, controller: &str) -> bool {
        !self.unified && self.options.split(',').any(|option| option == controller)
    }
}

/// The mounted hierarchies.
///
/// # Errors
/// When `/proc/self/mountinfo` cannot be read.
pub fn mounts() -> io::Result<Vec<Mount>> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?.lines().filter_map(mount).collect())
}

/// A line of `mountinfo`: `36 35 98:0 /root /point rw,noatime master:1 - type source options`, see proc(5).
fn mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let unified = match right.next()? {
        "cgroup2" => true,
        "cgroup" => false,
        _ => return None,
    };
    // The kernel writes a space in a path as \040.
    let point = left.split(' ').nth(4)?.replace("\\040", " ").into();
    Some(Mount { point, unified, options: right.nth(1)?.to_owned() })
}

/// Writes `value` into `file` of the cgroup `folder`.
pub fn write(folder: &Path, file: &str, value: impl Display) -> io::Result<()> {
    OpenOptions::new().write(true).open(folder.join(file))?.write_all(value.to_string().as_bytes())
}

/// Reads the single number in `file`; `max` is the largest.
pub fn number(folder: &Path, file: &str) -> io::Result<u64> {
    let text = read(folder, file)?;
    let text = text.trim();
    if text == "max" { Ok(u64::MAX) } else { text.parse().map_err(|_| invalid(folder, file, text)) }
}

/// Reads the whole `file`.
pub fn read(folder: &Path, file: &str) -> io::Result<String> {
    fs::read_to_string(folder.join(file))
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
        let mut pids = Vec::new();
        collect_pids(folder, &mut pids);
        if pids.is_empty() {
            return;
        }
        for pid in pids {
            // SAFETY: kill takes plain integers.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}

/// Adds the processes of the cgroup and those below.
fn collect_pids(folder: &Path, pids: &mut Vec<i32>) {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_pids(&entry.path(), pids);
        }
    }
}

fn invalid(folder: &Path, file: &str, text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} holds `{text}`, not a number", folder.join(file).display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_with_their_controllers() {
        let v1 = mount("33 24 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct").expect("version 1");
        assert_eq!((v1.point.to_str(), v1.unified), (Some("/sys/fs/cgroup/cpu,cpuacct"), false));
        assert!(v1.controls("cpu") && v1.controls("cpuacct") && !v1.controls("memory"));
        let v2 = mount("24 23 0:22 / /my\\040groups rw - cgroup2 cgroup2 rw,nsdelegate").expect("version 2");
        assert_eq!((v2.point.to_str(), v2.unified, v2.controls("nsdelegate")), (Some("/my groups"), true, false));
        assert_eq!(mount("21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"), None);
        assert_eq!(mount(""), None);
    }
}
