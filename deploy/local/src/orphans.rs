//! What a platform that was killed left behind. Owns the mark by which its processes are known, and the record of its cgroups.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cgroup::remove_tree;

/// Environment variable that every function carries; its value is the state folder of the platform that started it.
pub const MARK: &str = "QSCALE_PLATFORM";
/// File in the state folder that names the cgroup folders in use.
const RECORD: &str = "cgroups.json";

/// Remembers `folders`, so that a successor finds them even where its own cgroup is another.
///
/// # Errors
/// When the file cannot be written.
pub fn remember(state_dir: &Path, folders: &[PathBuf]) -> std::io::Result<()> {
    fs::write(state_dir.join(RECORD), serde_json::to_vec(folders)?)
}

/// Kills every process that a predecessor with this state folder left, and removes its cgroups. Says how many processes there were.
#[must_use]
pub fn sweep(state_dir: &Path) -> usize {
    let mut found = 0;
    // Those that fork while they are looked for are found by another look.
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

/// Processes whose environment carries the mark of this state folder. A process that is ending has no environment any more.
fn marked(state_dir: &Path) -> Vec<libc::pid_t> {
    let mark = [MARK.as_bytes(), b"=", state_dir.as_os_str().as_encoded_bytes()].concat();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| carries(*pid, &mark)).collect()
}

fn carries(pid: libc::pid_t, mark: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|entry| entry == mark))
}
