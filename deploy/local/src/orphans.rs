//! Processes that their platform or replica left. Owns ending them, and removing the cgroups of a platform that was killed.

use std::path::Path;
use std::time::Duration;

use qscale_common::runtime::leftovers;

use crate::cgroup::remove_tree;

/// Kills every process left by an earlier platform with this state folder and removes its cgroups and temporary files. Returns the number of processes. Blocks.
#[must_use]
pub fn sweep(state_dir: &Path) -> usize {
    let found = kill(|| leftovers::marked_processes(state_dir));
    for folder in leftovers::recorded_cgroups(state_dir) {
        remove_tree(&folder);
    }
    if let Some(folder) = leftovers::recorded_folder(state_dir) {
        // Files that cannot be removed only take space.
        drop(std::fs::remove_dir_all(folder));
    }
    found
}

/// Kills the processes that `find` finds until it finds none, because they may fork during the search. Returns their number. Blocks.
pub fn kill(find: impl Fn() -> Vec<u32>) -> usize {
    let mut most = 0;
    for _ in 0..100 {
        let pids = find();
        if pids.is_empty() {
            break;
        }
        most = most.max(pids.len());
        for pid in pids {
            // SAFETY: kill takes plain integers.
            unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    most
}
