//! Version 1 of cgroups: a hierarchy for each controller.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use qscale_common::units::Mebibytes;

use super::files::Mount;
use super::{CgroupVersion, Folders, LimitError, ResourceUsage, files, remove_tree};

/// Creates the folder `name` below the platform's own cgroup in each hierarchy and checks that limits can be written there.
pub fn make_base(mounts: &[Mount], name: &Path) -> Result<Folders, String> {
    let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("cannot read /proc/self/cgroup: {error}"))?;
    let place = |controller| own_folder(mounts, &own, controller).map(|folder| folder.join(name));
    let folders = Folders { version: CgroupVersion::V1, cpu: place("cpu")?, cpuacct: place("cpuacct")?, memory: place("memory")? };
    let made = folders.distinct().into_iter().try_for_each(|folder| files::make_folder(folder)).and_then(|()| try_limits(&folders));
    made.map_err(|error| {
        for folder in folders.distinct() {
            remove_tree(folder);
        }
        error.to_string()
    })?;
    Ok(folders)
}

/// The platform's own cgroup: its children stay under its limits.
fn own_folder(mounts: &[Mount], own: &str, controller: &str) -> Result<PathBuf, String> {
    let mount = mounts.iter().find(|mount| mount.controls(controller));
    let mount = &mount.ok_or_else(|| format!("the {controller} controller is not mounted"))?.point;
    let path = own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|name| name == controller).then_some(path)
    });
    let folder = mount.join(path.unwrap_or("/").trim_start_matches('/'));
    // In a container the mount may show the own cgroup as its root, while the path is relative to the host's root.
    Ok(if folder.is_dir() { folder } else { mount.clone() })
}

fn try_limits(folders: &Folders) -> io::Result<()> {
    let unlimited = files::read(&folders.cpu, "cpu.cfs_quota_us")?;
    files::write(&folders.cpu, "cpu.cfs_quota_us", unlimited.trim())?;
    let limit = files::read(&folders.memory, "memory.limit_in_bytes")?;
    files::write(&folders.memory, "memory.limit_in_bytes", limit.trim())?;
    files::read(&folders.cpuacct, "cpuacct.usage").map(drop)
}

/// Disables swap for functions: a replica that swaps would look small and be slow.
pub fn prepare(memory: &Path) {
    drop(files::write(memory, "memory.swappiness", 0));
}

/// Memory and memory with swap get the same limit. The first may never exceed the second, so the order depends on the direction.
pub fn set_memory(memory: &Path, limit: Mebibytes) -> Result<(), LimitError> {
    const PLAIN: &str = "memory.limit_in_bytes";
    const WITH_SWAP: &str = "memory.memsw.limit_in_bytes";
    let swap_is_accounted = memory.join(WITH_SWAP).exists();
    let before = files::number(memory, PLAIN)?;
    let set = |file: &str| match files::write(memory, file, limit.bytes()) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            let in_use = Mebibytes::from_bytes(files::number(memory, "memory.usage_in_bytes")?);
            Err(LimitError::InUse { wanted: limit, in_use })
        }
        other => other.map_err(LimitError::Io),
    };
    if limit.bytes() > before {
        if swap_is_accounted {
            set(WITH_SWAP)?;
        }
        return set(PLAIN);
    }
    set(PLAIN)?;
    if swap_is_accounted && let Err(error) = set(WITH_SWAP) {
        files::write(memory, PLAIN, before)?;
        return Err(error);
    }
    Ok(())
}

pub fn usage(folders: &Folders) -> io::Result<ResourceUsage> {
    let throttling = files::read(&folders.cpu, "cpu.stat")?;
    let memory = files::read(&folders.memory, "memory.stat")?;
    Ok(ResourceUsage {
        cpu_seconds: files::number(&folders.cpuacct, "cpuacct.usage")? as f64 / 1e9,
        periods: files::value(&throttling, "nr_periods"),
        throttled_periods: files::value(&throttling, "nr_throttled"),
        throttled_seconds: files::value(&throttling, "throttled_time") as f64 / 1e9,
        working_set: files::number(&folders.memory, "memory.usage_in_bytes")?.saturating_sub(files::value(&memory, "total_inactive_file")),
        oom_kills: oom_kills(&folders.memory),
    })
}

pub fn oom_kills(memory: &Path) -> u64 {
    files::read(memory, "memory.oom_control").map_or(0, |text| files::value(&text, "oom_kill"))
}
