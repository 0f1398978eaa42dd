//! Cleanup after a platform that was killed. Owns ending its processes and removing its cgroups.

use std::path::Path;
use std::time::Duration;

use qscale_common::runtime::leftovers;

use crate::cgroup::remove_tree;

/// Kills every process left by an earlier platform with this state folder and removes its cgroups and temporary files. Returns the number of processes. Blocks.
#[must_use]
pub fn sweep(state_dir: &Path) -> usize {
    let mut found = 0;
    // Repeated, because processes may fork during the search.
    for _ in 0..100 {
        let pids = leftovers::marked_processes(state_dir);
        if pids.is_empty() {
            break;
        }
        found = found.max(pids.len());
        for pid in pids {
            // SAFETY: kill takes plain integers.
            unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for folder in leftovers::recorded_cgroups(state_dir) {
        remove_tree(&folder);
    }
    if let Some(folder) = leftovers::recorded_folder(state_dir) {
        // Files that cannot be removed only take space.
        drop(std::fs::remove_dir_all(folder));
    }
    found
}
