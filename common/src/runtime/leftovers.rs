//! Processes and cgroups that a killed platform leaves. Owns how they are marked and recorded; must not end or remove them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::private;

/// Environment variable set for every replica; its value is the state folder of the platform that started it.
pub const MARK: &str = "QSCALE_STATE_OF_PLATFORM";
/// Environment variable set for every replica; its value is the id of the replica.
pub const REPLICA_MARK: &str = "QSCALE_REPLICA";
/// Beginning of the name of a folder for temporary files of functions.
pub const FOLDER_PREFIX: &str = "qscale-";
/// File in the state folder that names that folder.
const FOLDER_RECORD: &str = "temporary-folder";
/// File in the state folder that names the cgroup folders in use.
const RECORD: &str = "cgroups.json";

/// Processes marked with this state folder of a platform. An ending process has no environment and is not found.
#[must_use]
pub fn marked_processes(state_dir: &Path) -> Vec<u32> {
    let mark = [MARK.as_bytes(), b"=", state_dir.as_os_str().as_encoded_bytes()].concat();
    processes().filter(|pid| carries(*pid, &mark)).collect()
}

/// Processes of `replica` of the platform with this state folder: those marked so, and those of `user`, if no other replica has it. A process keeps its mark
/// and its user when it leaves the session and the process group of the replica, and its user when it clears its environment.
#[must_use]
pub fn processes_of_replica(state_dir: &Path, replica: &str, user: Option<u32>) -> Vec<u32> {
    let marks = [
        [MARK.as_bytes(), b"=", state_dir.as_os_str().as_encoded_bytes()].concat(),
        [REPLICA_MARK.as_bytes(), b"=", replica.as_bytes()].concat(),
    ];
    let is_of_user = |pid: u32| fs::metadata(format!("/proc/{pid}")).is_ok_and(|found| Some(found.uid()) == user);
    processes().filter(|pid| is_of_user(*pid) && !is_zombie(*pid) || marks.iter().all(|mark| carries(*pid, mark))).collect()
}

/// Whether a process has ended and waits for its parent.
fn is_zombie(pid: u32) -> bool {
    // The name may hold parentheses; the state follows the last one.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

/// Ids of all processes.
pub(super) fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn carries(pid: u32, mark: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|entry| entry == mark))
}

/// Records the folder of the temporary files of functions.
///
/// # Errors
/// When the file cannot be written.
pub fn record_folder(state_dir: &Path, folder: &Path) -> anyhow::Result<()> {
    private::write(&state_dir.join(FOLDER_RECORD), folder.as_os_str().as_encoded_bytes())
}

/// The recorded folder of temporary files, if it exists and belongs to this user.
#[must_use]
pub fn recorded_folder(state_dir: &Path) -> Option<PathBuf> {
    let text = private::read(&state_dir.join(FOLDER_RECORD)).ok()??;
    let folder = PathBuf::from(text);
    let named = folder.file_name()?.to_str()?.starts_with(FOLDER_PREFIX);
    let found = fs::symlink_metadata(&folder).ok()?;
    (named && found.is_dir() && found.uid() == private::user()).then_some(folder)
}

/// Records the cgroup `folders`, so that a later platform finds them even if its own cgroup differs.
///
/// # Errors
/// When the file cannot be written.
pub fn record_cgroups(state_dir: &Path, folders: &[PathBuf]) -> anyhow::Result<()> {
    private::write(&state_dir.join(RECORD), &serde_json::to_vec(folders)?)
}

/// The recorded cgroup folders; none if there is no readable record.
#[must_use]
pub fn recorded_cgroups(state_dir: &Path) -> Vec<PathBuf> {
    private::read(&state_dir.join(RECORD)).ok().flatten().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}
