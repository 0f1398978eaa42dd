//! Control groups: CPU and memory limits of replicas, v1 and v2. Owns their location and file formats; must not start
//! processes, except for the probe in [`Cgroups::detect`]. All functions block: the kernel may make callers wait, so
//! async code calls them on blocking threads.
//!
//! The managers of `libcgroups` do not fit: the one for v1 joins all hierarchies and escapes a limit on the platform
//! itself; the one for v2 enables controllers from the root of the mount, which a delegated subtree may not do, and
//! lowers `memory.max` below the memory in use, which kills. The rest does not justify its 40 dependencies.
//! `cgroups-rs` also enables controllers from the root, and ignores writes that fail.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use qscale_common::platform::metrics::{CPU_PERIOD, ResourceUsage};
use qscale_common::units::{Mebibytes, Millicores};
use thiserror::Error;

mod files;
mod v1;
mod v2;

/// Parent of the replicas' cgroups.
#[derive(Debug)]
pub struct Cgroups {
    base: Folders,
}

/// The cgroup of one replica.
#[derive(Debug)]
pub struct Cgroup {
    folders: Folders,
}

/// Folders of a cgroup in the hierarchy of each controller; all the same on v2.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Folders {
    version: CgroupVersion,
    cpu: PathBuf,
    cpuacct: PathBuf,
    memory: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CgroupVersion {
    V1,
    V2,
}

/// Reason why a limit was not set.
#[derive(Debug, Error)]
pub enum LimitError {
    /// The replica uses more than the new limit.
    #[error("memory_mib = {wanted}, must be above the memory in use, {in_use}")]
    InUse {
        /// Requested limit.
        wanted: Mebibytes,
        /// Memory that cannot be reclaimed.
        in_use: Mebibytes,
    },
    /// A cgroup file could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Cgroups {
    /// Creates `root/instance` below the platform's own cgroup, where CPU and memory limits can be set.
    ///
    /// # Errors
    /// The reason why limits cannot be set on this machine.
    pub fn detect(root: &str, instance: &str) -> Result<Self, String> {
        let name = Path::new(root).join(instance);
        let mounts = files::mounts().map_err(|error| format!("failed to read /proc/self/mountinfo: {error}"))?;
        // In a hybrid set-up the controllers are in the hierarchies of version 1.
        let base = if mounts.iter().any(|mount| mount.controls("memory")) {
            v1::make_base(&mounts, &name)?
        } else {
            let unified = mounts.iter().find(|mount| mount.unified).ok_or("no cgroups are mounted")?;
            v2::make_base(&unified.point, &name)?
        };
        let cgroups = Self { base };
        if let Err(error) = cgroups.try_entering() {
            cgroups.remove();
            return Err(format!("a process cannot enter a group in {}: {error}", cgroups.base.memory.display()));
        }
        Ok(cgroups)
    }

    /// Cgroups in a plain folder, where no limit can be set.
    #[cfg(test)]
    pub(crate) fn in_folder(folder: &Path) -> Self {
        let folder = folder.to_path_buf();
        Self { base: Folders { version: CgroupVersion::V2, cpu: folder.clone(), cpuacct: folder.clone(), memory: folder } }
    }

    /// Moves a process into a new group: permission to create one does not imply permission to enter it.
    fn try_entering(&self) -> io::Result<()> {
        let cgroup = self.create("probe")?;
        let entrances = cgroup.entrances()?;
        let mut command = std::process::Command::new("true");
        // SAFETY: between fork and exec the closure makes system calls only.
        unsafe { command.pre_exec(move || enter(&entrances)) };
        let entered = command.status().map(drop);
        // A remainder is removed together with the parent.
        drop(cgroup.remove());
        entered
    }

    /// Folders to record for the platform that cleans up after a crash of this one.
    #[must_use]
    pub fn folders(&self) -> Vec<PathBuf> {
        self.base.distinct().into_iter().cloned().collect()
    }

    /// Creates the cgroup `name`.
    ///
    /// # Errors
    /// When its folders cannot be created.
    pub fn create(&self, name: &str) -> io::Result<Cgroup> {
        let folders = self.base.join(name);
        for folder in folders.distinct() {
            files::make_folder(folder)?;
        }
        if folders.version == CgroupVersion::V2 {
            v2::prepare(&folders.memory);
        } else {
            v1::prepare(&folders.memory);
        }
        Ok(Cgroup { folders })
    }

    /// Kills all processes in the cgroups and removes them with their parent.
    pub fn remove(&self) {
        for folder in self.base.distinct() {
            remove_tree(folder);
            // Fails while another platform uses the shared parent; the last one removes it.
            if let Some(shared) = folder.parent() {
                drop(fs::remove_dir(shared));
            }
        }
        if self.base.version == CgroupVersion::V2 {
            v2::leave(&self.base.memory);
        }
    }
}

impl Cgroup {
    /// Files to which a process writes `0` to enter the cgroup.
    ///
    /// # Errors
    /// When they cannot be opened for writing.
    pub fn entrances(&self) -> io::Result<Vec<File>> {
        self.folders.distinct().into_iter().map(|folder| OpenOptions::new().write(true).open(folder.join("cgroup.procs"))).collect()
    }

    /// Limits CPU to `limit`, enforced in periods of 100 ms. Takes effect immediately.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn set_cpu(&self, limit: Millicores) -> Result<(), LimitError> {
        // One thousandth of a core is 100 µs of each period of 100 ms.
        let quota = u64::from(limit.0) * 100;
        let period = CPU_PERIOD.as_micros();
        match self.folders.version {
            CgroupVersion::V1 => {
                files::write(&self.folders.cpu, "cpu.cfs_period_us", period)?;
                files::write(&self.folders.cpu, "cpu.cfs_quota_us", quota)?;
            }
            CgroupVersion::V2 => files::write(&self.folders.cpu, "cpu.max", format_args!("{quota} {period}"))?,
        }
        Ok(())
    }

    /// Limits memory to `limit`, swap included.
    ///
    /// # Errors
    /// [`LimitError::InUse`] when more is in use; the limit stays unchanged.
    pub fn set_memory(&self, limit: Mebibytes) -> Result<(), LimitError> {
        match self.folders.version {
            CgroupVersion::V1 => v1::set_memory(&self.folders.memory, limit),
            CgroupVersion::V2 => v2::set_memory(&self.folders.memory, limit),
        }
    }

    /// Resource usage so far.
    ///
    /// # Errors
    /// When a file cannot be read, for example after the cgroup was removed.
    pub fn usage(&self) -> io::Result<ResourceUsage> {
        match self.folders.version {
            CgroupVersion::V1 => v1::usage(&self.folders),
            CgroupVersion::V2 => v2::usage(&self.folders.memory),
        }
    }

    /// Number of OOM kills; 0 where it cannot be read.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        match self.folders.version {
            CgroupVersion::V1 => v1::oom_kills(&self.folders.memory),
            CgroupVersion::V2 => v2::oom_kills(&self.folders.memory),
        }
    }

    /// Kills every process in it.
    pub fn kill(&self) {
        files::kill_all(&self.folders.memory);
    }

    /// Kills every process in it and removes it. Blocks until the processes have left, at most two seconds.
    ///
    /// # Errors
    /// The folders that could not be removed.
    pub fn remove(&self) -> Result<(), String> {
        let left: Vec<_> =
            self.folders.distinct().into_iter().filter(|folder| !remove_tree(folder)).map(|f| f.display().to_string()).collect();
        if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
    }
}

impl Folders {
    fn join(&self, name: impl AsRef<Path>) -> Self {
        let name = name.as_ref();
        Self { version: self.version, cpu: self.cpu.join(name), cpuacct: self.cpuacct.join(name), memory: self.memory.join(name) }
    }

    /// Each folder once.
    fn distinct(&self) -> Vec<&PathBuf> {
        let mut folders = vec![&self.memory, &self.cpu, &self.cpuacct];
        folders.dedup();
        folders
    }
}

/// Moves the calling process into the groups of `entrances`. Makes system calls only, as required between fork and exec.
///
/// # Errors
/// When the kernel refuses one.
pub fn enter(entrances: &[File]) -> io::Result<()> {
    for file in entrances {
        // "0" stands for the process that writes.
        // SAFETY: the descriptor is open, and the buffer holds the one byte.
        if unsafe { libc::write(file.as_raw_fd(), b"0".as_ptr().cast(), 1) } != 1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Kills every process in `folder` and below and removes the tree. Returns whether it is gone. Blocks for at most two seconds per group.
pub fn remove_tree(folder: &Path) -> bool {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    // A killed process leaves its cgroup once the kernel has torn it down, which takes milliseconds, and longer with much memory.
    for _ in 0..400 {
        files::kill_all(folder);
        match fs::remove_dir(folder) {
            Ok(()) => return true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn folders(version: CgroupVersion, folder: &Path) -> Cgroup {
        let folder = folder.to_path_buf();
        Cgroup { folders: Folders { version, cpu: folder.clone(), cpuacct: folder.clone(), memory: folder } }
    }

    fn sample(name: &str, contents: &[(&str, &str)]) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("qscale-cgroup-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("temporary folder");
        for (file, text) in contents {
            fs::write(folder.join(file), text).expect("sample");
        }
        folder
    }

    #[test]
    fn version_1_usage_is_read_from_its_files() {
        let folder = sample(
            "v1",
            &[
                ("cpuacct.usage", "1500000000\n"),
                ("cpu.stat", "nr_periods 10\nnr_throttled 3\nthrottled_time 250000000\n"),
                ("memory.usage_in_bytes", "5000\n"),
                ("memory.stat", "inactive_file 1\ntotal_inactive_file 1000\n"),
                ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
            ],
        );
        let usage = folders(CgroupVersion::V1, &folder).usage().expect("readable");
        let expected =
            ResourceUsage { cpu_seconds: 1.5, periods: 10, throttled_periods: 3, throttled_seconds: 0.25, working_set: 4000, oom_kills: 2 };
        assert_eq!(usage, expected);
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn version_2_usage_and_limits_are_those_of_its_files() {
        let folder = sample(
            "v2",
            &[
                ("cpu.stat", "usage_usec 1500000\nnr_periods 10\nnr_throttled 3\nthrottled_usec 250000\n"),
                ("cpu.max", "max 100000\n"),
                ("memory.current", "10485760\n"),
                ("memory.max", "max\n"),
                ("memory.stat", "anon 5\ninactive_file 1048576\n"),
                ("memory.events", "oom 4\noom_kill 2\n"),
            ],
        );
        let cgroup = folders(CgroupVersion::V2, &folder);
        let usage = cgroup.usage().expect("readable");
        assert_eq!((usage.cpu_seconds, usage.throttled_seconds, usage.working_set, usage.oom_kills), (1.5, 0.25, 9 << 20, 2));
        cgroup.set_cpu(Millicores(250)).expect("written");
        assert_eq!(fs::read_to_string(folder.join("cpu.max")).expect("readable").trim_end_matches('0'), "25000 1");
        assert!(matches!(cgroup.set_memory(Mebibytes(9)), Err(LimitError::InUse { in_use: Mebibytes(9), .. })));
        cgroup.set_memory(Mebibytes(10)).expect("above what is in use");
        fs::remove_dir_all(folder).expect("removed");
    }
}
