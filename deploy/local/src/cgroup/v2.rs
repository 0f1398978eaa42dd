//! Version 2 of cgroups: one hierarchy. A group that enables controllers for its children must not hold processes itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use qscale_common::units::Mebibytes;

use super::{CgroupVersion, Folders, LimitError, ResourceUsage, files, remove_tree};

/// Group for processes that would prevent their own group from enabling controllers for its children.
const LEAF: &str = "qscale-host";

/// Creates the folder `name` in the nearest group, from the platform's own upwards, that can enable the CPU and memory
/// controllers for children.
pub fn make_base(mount: &Path, name: &Path) -> Result<Folders, String> {
    let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("cannot read /proc/self/cgroup: {error}"))?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let own = own.strip_suffix(&format!("/{LEAF}")).unwrap_or(if own == LEAF { "" } else { own });
    let mut reason = String::from("no cgroup is above the platform's own");
    for parent in mount.join(own).ancestors().take_while(|folder| folder.starts_with(mount)) {
        match make_below(parent, name, parent == mount) {
            Ok(folder) => return Ok(Folders { version: CgroupVersion::V2, cpu: folder.clone(), cpuacct: folder.clone(), memory: folder }),
            Err(error) => reason = format!("{}: {error}", parent.display()),
        }
    }
    Err(reason)
}

fn make_below(parent: &Path, name: &Path, is_mount: bool) -> io::Result<PathBuf> {
    if let Err(error) = enable_controllers(parent) {
        // In two cases the group's processes are moved into a leaf: when it holds the platform alone, like a service's
        // group, and when it is the root of a container's view, as nested container engines do.
        let is_container_root = is_mount && parent.join("cgroup.type").exists();
        let holds_platform_alone = || files::read(parent, "cgroup.procs").is_ok_and(|pids| pids.trim() == std::process::id().to_string());
        if error.raw_os_error() != Some(libc::EBUSY) || !(is_container_root || holds_platform_alone()) {
            return Err(error);
        }
        move_processes(parent, &parent.join(LEAF))?;
        enable_controllers(parent)?;
    }
    let mut folder = parent.to_path_buf();
    let made = name.components().try_for_each(|component| {
        folder.push(component);
        files::make_folder(&folder)?;
        enable_controllers(&folder)
    });
    if let Err(error) = made {
        remove_tree(&parent.join(name));
        return Err(error);
    }
    Ok(folder)
}

/// Enables the CPU and memory controllers for the groups below `folder`.
fn enable_controllers(folder: &Path) -> io::Result<()> {
    let enabled = files::read(folder, "cgroup.subtree_control")?;
    let missing = ["cpu", "memory"].into_iter().filter(|name| !enabled.split_whitespace().any(|on| on == *name));
    missing.into_iter().try_for_each(|name| files::write(folder, "cgroup.subtree_control", format_args!("+{name}")))
}

fn move_processes(from: &Path, to: &Path) -> io::Result<()> {
    files::make_folder(to)?;
    for pid in files::read(from, "cgroup.procs")?.lines() {
        match files::write(to, "cgroup.procs", pid) {
            // It ended meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Reverts the rearrangement by [`make_base`], unless another platform still uses it.
pub fn leave(base: &Path) {
    let Some(parent) = base.parent().and_then(Path::parent) else { return };
    let leaf = parent.join(LEAF);
    if !leaf.is_dir() || base.parent().is_some_and(Path::exists) {
        return;
    }
    for controller in ["-cpu", "-memory"] {
        drop(files::write(parent, "cgroup.subtree_control", controller));
    }
    if move_processes(&leaf, parent).is_ok() {
        drop(fs::remove_dir(&leaf));
    }
}

/// Disables swap, and makes an OOM kill end the whole replica instead of one process.
pub fn prepare(memory: &Path) {
    drop(files::write(memory, "memory.swap.max", 0));
    drop(files::write(memory, "memory.oom.group", 1));
}

/// Sets the memory limit. Usage is checked first: the kernel would kill processes to get below the new limit.
pub fn set_memory(memory: &Path, limit: Mebibytes) -> Result<(), LimitError> {
    let in_use = working_set(memory)?;
    if limit.bytes() <= in_use {
        return Err(LimitError::InUse { wanted: limit, in_use: Mebibytes::from_bytes(in_use) });
    }
    Ok(files::write(memory, "memory.max", limit.bytes())?)
}

fn working_set(memory: &Path) -> io::Result<u64> {
    let inactive = files::value(&files::read(memory, "memory.stat")?, "inactive_file");
    Ok(files::number(memory, "memory.current")?.saturating_sub(inactive))
}

pub fn usage(folder: &Path) -> io::Result<ResourceUsage> {
    let cpu = files::read(folder, "cpu.stat")?;
    Ok(ResourceUsage {
        cpu_seconds: files::value(&cpu, "usage_usec") as f64 / 1e6,
        periods: files::value(&cpu, "nr_periods"),
        throttled_periods: files::value(&cpu, "nr_throttled"),
        throttled_seconds: files::value(&cpu, "throttled_usec") as f64 / 1e6,
        working_set: working_set(folder)?,
        oom_kills: oom_kills(folder),
    })
}

pub fn oom_kills(folder: &Path) -> u64 {
    files::read(folder, "memory.events").map_or(0, |text| files::value(&text, "oom_kill"))
}
