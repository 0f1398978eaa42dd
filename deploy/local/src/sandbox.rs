//! Isolation of functions from the platform and from each other. Owns the choice of their users, their temporary folders, and the restrictions that
//! [`confinement`] puts on a process before it runs the program of a function.

mod confinement;
mod filter;
mod folders;
mod program;

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use qscale_common::platform::{Isolation, IsolationGap};
use qscale_common::runtime::files::{MAX_DOCUMENT, read_text};
use qscale_common::runtime::{leftovers, private};
use tempfile::TempDir;
use tracing::warn;

pub use self::confinement::Confinement;
use self::filter::Filters;
pub use self::program::Executable;

/// First user of replicas that have one each; the port of the replica is added. Neither accounts nor container managers use numbers from
/// 1879048192 to 2147483647 (systemd, "Users, Groups, UIDs and GIDs").
const FIRST_USER: u32 = 2_000_000_000;
/// User of all functions where the kernel does not know those, such as in a container with few users: `nobody`.
const NOBODY: u32 = 65_534;

/// Isolation of the functions of one platform.
#[derive(Debug)]
pub struct Sandbox {
    state_dir: PathBuf,
    users: Users,
    filters: Arc<Filters>,
    /// Folders that functions cannot access.
    hidden: Vec<PathBuf>,
    /// Parent of the temporary folders of replicas.
    temporary: TempDir,
    missing: Vec<IsolationGap>,
}

/// Users as which functions run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Users {
    /// The user of the platform, which is not root and cannot choose another one.
    Platform,
    /// One for all.
    Shared(u32),
    /// One for each replica, so that replicas cannot signal, trace or read each other.
    PerReplica,
}

/// The place of one process: its user, its temporary folder and its restrictions.
#[derive(Debug)]
pub struct ProcessSandbox {
    /// Its user; `None` for the platform's own.
    pub user: Option<u32>,
    /// Its temporary folder, which is also its home.
    pub folder: PathBuf,
    /// Its restrictions.
    pub confinement: Arc<Confinement>,
}

impl Sandbox {
    /// Isolation of a platform with this state folder. `user` is the user of all functions, if one is configured; `hidden` are folders that
    /// functions cannot access, besides the state folder. Blocks.
    ///
    /// # Errors
    /// If the temporary folder cannot be created, or a process cannot be confined.
    pub fn open(state_dir: &Path, user: Option<u32>, hidden: &[PathBuf]) -> anyhow::Result<Self> {
        let users = Users::choose(user);
        let parent = Some(std::env::temp_dir()).filter(|folder| users == Users::Platform || program::is_reachable(folder));
        let parent = parent.unwrap_or_else(|| PathBuf::from("/tmp"));
        let temporary = tempfile::Builder::new().prefix(leftovers::FOLDER_PREFIX).permissions(mode(0o711)).tempdir_in(parent);
        let temporary = temporary.context("failed to create a folder for temporary files of functions")?;
        leftovers::record_folder(state_dir, temporary.path())?;
        let hidden = hidden.iter().map(PathBuf::as_path).chain([state_dir]).filter_map(|folder| folder.canonicalize().ok()).collect();
        let filters = Arc::new(Filters::compile()?);
        let mut sandbox = Self { state_dir: state_dir.to_owned(), users, filters, hidden, temporary, missing: Vec::new() };
        sandbox.missing = sandbox.gaps();
        sandbox.probe().context("functions cannot be isolated")?;
        for gap in &sandbox.missing {
            warn!(remedy = gap.remedy, "isolation of functions: {}", gap.found);
        }
        Ok(sandbox)
    }

    /// A place for the process of `replica` that serves on `port`. Blocks.
    ///
    /// # Errors
    /// If its folder cannot be created.
    pub fn place(&self, replica: &str, port: u16) -> io::Result<ProcessSandbox> {
        let user = self.users.of_port(port);
        let folder = self.temporary.path().join(replica);
        // A former run may have left a folder that could not be removed.
        drop(std::fs::remove_dir_all(&folder));
        std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
        if user.is_some() {
            chown(&folder, user, user)?;
        }
        let confinement = Arc::new(Confinement {
            user,
            has_own_user: self.users == Users::PerReplica,
            filters: Arc::clone(&self.filters),
            ruleset: folders::ruleset(&self.hidden_by_rules(user))?,
        });
        Ok(ProcessSandbox { user, folder, confinement })
    }

    /// Folders to hide from `user` with Landlock, `None` for the platform's own user: those that their modes do not close to it.
    fn hidden_by_rules(&self, user: Option<u32>) -> Vec<&Path> {
        let hidden = self.hidden.iter().map(PathBuf::as_path);
        hidden.filter(|folder| user.is_none_or(|user| !is_closed_to(user, folder))).collect()
    }

    /// Removes the temporary folders of all functions, at the end of the platform. Blocks.
    pub fn remove(&self) {
        if let Err(error) = std::fs::remove_dir_all(self.temporary.path()) {
            warn!(folder = %self.temporary.path().display(), %error, "failed to remove temporary files; removed by the next platform");
        }
    }

    /// Environment variable by which a later platform with the same state folder recognises processes of this one.
    #[must_use]
    pub fn mark(&self) -> (OsString, OsString) {
        (leftovers::MARK.into(), self.state_dir.clone().into_os_string())
    }

    /// Running processes of `replica` in `place`, also those that left its process group. Blocks.
    #[must_use]
    pub fn processes(&self, replica: &str, place: &ProcessSandbox) -> Vec<u32> {
        leftovers::processes_of_replica(&self.state_dir, replica, place.own_user())
    }

    /// Isolation for operators.
    #[must_use]
    pub fn describe(&self) -> Isolation {
        let user = match self.users {
            Users::Platform => format!("user {}, that of the platform", private::user()),
            Users::Shared(user) => format!("user {user}"),
            Users::PerReplica => format!("a user for each replica, {FIRST_USER} and the number of its port"),
        };
        Isolation { user, missing: self.missing.clone() }
    }

    /// Restrictions that this machine does not offer.
    fn gaps(&self) -> Vec<IsolationGap> {
        let mut gaps = Vec::new();
        let mut gap = |found: String, remedy: &str| gaps.push(IsolationGap { found, remedy: remedy.to_owned() });
        match self.users {
            Users::Platform => gap(format!("functions run as the user of the platform, {}", private::user()), "run the platform as root"),
            Users::Shared(user) => gap(
                format!("functions share user {user} and can read temporary files of each other"),
                "leave function_user out; do not use a user namespace",
            ),
            Users::PerReplica => {}
        }
        match folders::version() {
            0 => gap("no Landlock: file modes alone protect the state folder".to_owned(), "boot the kernel with lsm=landlock,..."),
            version if version < folders::SIGNALS => {
                gap(format!("Landlock {version} does not restrict signals"), "use Linux 6.12 or newer")
            }
            _ => {}
        }
        if !filter::is_available() {
            gap("no seccomp filters: functions reach every system call".to_owned(), "use a kernel with CONFIG_SECCOMP_FILTER");
        }
        if private::user() == 0 && !confinement::can_separate_ipc() {
            gap("no IPC namespaces: functions share System V IPC".to_owned(), "grant the platform CAP_SYS_ADMIN");
        }
        gaps
    }

    /// Runs a program that does nothing, to report at the start what would fail for every function.
    fn probe(&self) -> anyhow::Result<()> {
        let place = self.place("probe", 0).context("failed to create a temporary folder")?;
        let mut command = std::process::Command::new("true");
        command.env_clear().stdin(std::process::Stdio::null());
        let confinement = Arc::clone(&place.confinement);
        // SAFETY: between fork and exec the closure makes system calls only; it neither allocates nor takes a lock.
        unsafe { command.pre_exec(move || confinement.enter(None)) };
        let ran = command.status();
        place.remove();
        let user = place.user.map_or_else(String::new, |user| format!(" as user {user}"));
        let status = ran.with_context(|| {
            format!("failed to run a program{user}; grant the platform CAP_SETUID, CAP_SETGID and CAP_CHOWN, or run it without root")
        })?;
        anyhow::ensure!(status.success(), "the program `true` ended with {status}{user}");
        Ok(())
    }
}

impl ProcessSandbox {
    /// Its user, if no other replica has it.
    #[must_use]
    pub fn own_user(&self) -> Option<u32> {
        self.user.filter(|_| self.confinement.has_own_user)
    }

    /// Removes the temporary folder. Blocks.
    pub fn remove(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            warn!(folder = %self.folder.display(), %error, "failed to remove temporary files of a function; removed when the platform stops");
        }
    }
}

impl Users {
    fn choose(configured: Option<u32>) -> Self {
        match configured {
            _ if private::user() != 0 => Self::Platform,
            Some(user) => Self::Shared(user),
            None if is_mapped(FIRST_USER, "/proc/self/uid_map") && is_mapped(FIRST_USER, "/proc/self/gid_map") => Self::PerReplica,
            None => Self::Shared(NOBODY),
        }
    }

    fn of_port(self, port: u16) -> Option<u32> {
        match self {
            Self::Platform => None,
            Self::Shared(user) => Some(user),
            Self::PerReplica => Some(FIRST_USER + u32::from(port)),
        }
    }
}

/// Whether the user namespace of this process has the numbers from `first` on, one for each port. Each line of `map` is the first number inside,
/// the first outside, and their count.
fn is_mapped(first: u32, map: &str) -> bool {
    let text = read_text(Path::new(map), MAX_DOCUMENT).unwrap_or_default();
    let (first, last) = (u64::from(first), u64::from(first) + u64::from(u16::MAX));
    text.lines().any(|line| {
        let numbers: Vec<u64> = line.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
        matches!(numbers[..], [inside, _, count] if inside <= first && last < inside.saturating_add(count))
    })
}

/// Whether the mode of `folder` closes it to the unprivileged user `user`.
fn is_closed_to(user: u32, folder: &Path) -> bool {
    user != 0 && std::fs::metadata(folder).is_ok_and(|found| found.uid() != user && found.mode() & 0o077 == 0)
}

fn mode(bits: u32) -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_those_of_the_namespace() {
        let folder = tempfile::tempdir().expect("a folder");
        let map = |text: &str| {
            let path = folder.path().join("map");
            std::fs::write(&path, text).expect("written");
            is_mapped(FIRST_USER, &path.display().to_string())
        };
        assert!(map("         0          0 4294967295\n"));
        assert!(map("0 100000 65536\n1999999999 5 65537\n"));
        assert!(!map("0 100000 65536\n"));
        assert!(!map("2000000000 5 65535\n"));
        assert!(!map("") && !is_mapped(FIRST_USER, "/no/such/file"));
    }
}
