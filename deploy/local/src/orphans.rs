//! Cleanup after a platform that was killed. Owns the environment variable that marks its processes, and the record of its cgroups.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cgroup::remove_tree;

/// Environment variable set for every replica; its value is the state folder of the platform that started it.
pub const MARK: &str = "QSCALE_PLATFORM";
/// File in the state folder that names the cgroup folders in use.
const RECORD: &str = "cgroups.json";

/// Records the cgroup `folders`, so that a later platform finds them even if its own cgroup differs.
///
/// # Errors
/// When the file cannot be written.
pub fn remember(state_dir: &Path, folders: &[PathBuf]) -> std::io::Result<()> {
    fs::write(state_dir.join(RECORD), serde_json::to_vec(folders)?)
}

/// Kills every process left by an earlier platform with this state folder and removes its cgroups. Returns the number of processes. Blocks.
#[must_use]
pub fn sweep(state_dir: &Path) -> usize {
    let mut found = 0;
    // Repeated, because processes may fork during the search.
    for _ in 0..100 {
        let pids = marked(state_dir);
        if pids.is_empty() {
            break;
        }
        found = found.max(pids.len());
        for pid in pids {
            // SAFETY: kill takes plain integers.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let recorded: Vec<PathBuf> =
        fs::read(state_dir.join(RECORD)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    for folder in recorded {
        remove_tree(&folder);
    }
    found
}

/// Processes marked with this state folder. An ending process has no environment and is not found.
fn marked(state_dir: &Path) -> Vec<libc::pid_t> {
    let mark = [MARK.as_bytes(), b"=", state_dir.as_os_str().as_encoded_bytes()].concat();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| carries(*pid, &mark)).collect()
}

fn carries(pid: libc::pid_t, mark: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|entry| entry == mark))
}
