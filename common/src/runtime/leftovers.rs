//! Processes and cgroups that a killed platform leaves. Owns how they are marked and recorded; must not end or remove them.

use std::fs;
use std::path::{Path, PathBuf};

use super::files::{MAX_STATE, read_text};

/// Environment variable set for every replica; its value is the state folder of the platform that started it.
pub const MARK: &str = "QSCALE_STATE_OF_PLATFORM";
/// File in the state folder that names the cgroup folders in use.
const RECORD: &str = "cgroups.json";

/// Processes marked with this state folder of a platform. An ending process has no environment and is not found.
#[must_use]
pub fn marked_processes(state_dir: &Path) -> Vec<u32> {
    let mark = [MARK.as_bytes(), b"=", state_dir.as_os_str().as_encoded_bytes()].concat();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| carries(*pid, &mark)).collect()
}

fn carries(pid: u32, mark: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|entry| entry == mark))
}

/// Records the cgroup `folders`, so that a later platform finds them even if its own cgroup differs.
///
/// # Errors
/// When the file cannot be written.
pub fn record_cgroups(state_dir: &Path, folders: &[PathBuf]) -> std::io::Result<()> {
    fs::write(state_dir.join(RECORD), serde_json::to_vec(folders)?)
}

/// The recorded cgroup folders; none if there is no readable record.
#[must_use]
pub fn recorded_cgroups(state_dir: &Path) -> Vec<PathBuf> {
    read_text(&state_dir.join(RECORD), MAX_STATE).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}
