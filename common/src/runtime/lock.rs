//! Locks on files and state folders. Owns taking them, and finding the process that holds one.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use thiserror::Error;

use super::{clock, private};

/// Interval between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// Longest command in a message, characters.
const COMMAND_LENGTH: usize = 100;

/// A lock on a file, held until it is dropped or the process ends.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

/// Why a lock was not taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{path} is locked by {holder}")]
    Held {
        /// Path of the file.
        path: String,
        /// Process id and command of the holder.
        holder: String,
    },
    /// The file cannot be opened or locked.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

impl LockError {
    /// This error; one of a held lock after `remedy`.
    #[must_use]
    pub fn with_remedy(self, remedy: String) -> anyhow::Error {
        match self {
            Self::Held { .. } => anyhow::Error::new(self).context(remedy),
            Self::Failed(error) => error,
        }
    }
}

/// Locks the file `path`, which is created if it is missing. Blocks for a moment.
///
/// # Errors
/// [`LockError::Held`] if it is locked.
pub fn take(path: &Path) -> Result<FileLock, LockError> {
    let file = private::append(path).map_err(LockError::Failed)?;
    match file.try_lock() {
        Ok(()) => Ok(FileLock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(LockError::Held { path: path.display().to_string(), holder: holder(&file) }),
        Err(TryLockError::Error(error)) => {
            Err(LockError::Failed(anyhow::Error::new(error).context(format!("failed to lock {}", path.display()))))
        }
    }
}

/// As [`take`]; waits up to `timeout` while another process holds the lock. Dropping the future ends the wait.
///
/// # Errors
/// After `timeout`, names the process that holds the lock.
pub async fn wait(path: &Path, timeout: Duration) -> anyhow::Result<FileLock> {
    let began = clock::instant();
    loop {
        match take(path) {
            Ok(lock) => return Ok(lock),
            Err(LockError::Held { .. }) if clock::since(began) < timeout => tokio::time::sleep(RETRY_INTERVAL).await,
            Err(error) => return Err(error.with_remedy(format!("no lock within {timeout:?}; end that process, or try again"))),
        }
    }
}

/// Process id and command of the process that has locked `file`.
fn holder(file: &File) -> String {
    let Ok(wanted) = file.metadata() else { return "an unknown process".to_owned() };
    // The process that took the lock may have ended and left it to a child; processes that wait for it have the file open, too.
    let took = locks().into_iter().filter(|(inode, _)| *inode == wanted.ino()).map(|(_, pid)| pid).find(|pid| is_open(*pid, &wanted));
    let own = std::process::id();
    let others = || super::leftovers::processes().filter(|pid| *pid != own).find(|pid| is_open(*pid, &wanted));
    match took.or_else(others) {
        Some(pid) if pid == own => "this process".to_owned(),
        Some(pid) => format!("process {pid} ({})", command(pid)),
        None => "a process of another user or container".to_owned(),
    }
}

/// Inode and process of each lock on a whole file, from lines such as `1: FLOCK  ADVISORY  WRITE 905 fe:00:4711 0 EOF`.
fn locks() -> Vec<(u64, u32)> {
    let text = fs::read_to_string("/proc/locks").unwrap_or_default();
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (pid, file) = (words.get(4)?, words.get(5)?);
        (words.get(1) == Some(&"FLOCK")).then_some((file.rsplit(':').next()?.parse().ok()?, pid.parse().ok()?))
    };
    text.lines().filter_map(parse).collect()
}

/// Whether the process has the file open.
fn is_open(pid: u32, wanted: &fs::Metadata) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut found = descriptors.filter_map(|entry| fs::metadata(entry.path()).ok());
    found.any(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
}

fn command(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&line).replace('\0', " ");
    text.trim_end().chars().filter(|letter| !letter.is_control()).take(COMMAND_LENGTH).collect()
}

/// A state folder, held by one process at a time.
#[derive(Debug)]
pub struct LockedFolder {
    path: PathBuf,
    _lock: FileLock,
}

impl LockedFolder {
    /// Makes the folder `path` private, as [`private::folder`] does, and locks it. `key` names the setting in errors.
    ///
    /// # Errors
    /// As [`private::folder`]; if another process holds the lock, names that process.
    pub fn take(key: &str, path: &Path) -> anyhow::Result<Self> {
        let path = private::folder(path).with_context(|| format!("{key} = {}", path.display()))?;
        let in_use = || format!("{key} = {}: in use by another process; stop that one or choose another {key}", path.display());
        let lock = take(&path.join(private::LOCK)).map_err(|error| error.with_remedy(in_use()))?;
        Ok(Self { path, _lock: lock })
    }

    /// Its absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that holds the lock on `path`.
    fn hold(path: &Path) -> Child {
        // The process that takes the lock ends and leaves it to the shell, which becomes another program.
        let mut command = Command::new("sh");
        command.args(["-c", "exec 9>>\"$0\"; flock 9; echo locked; exec sleep 1000"]).arg(path).stdout(Stdio::piped());
        let mut child = command.spawn().expect("sh");
        let mut locked = [0; 7];
        std::io::Read::read_exact(child.stdout.as_mut().expect("a pipe"), &mut locked).expect("locked");
        child
    }

    #[tokio::test]
    async fn the_holder_of_a_lock_is_named_and_the_wait_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let mut child = hold(&path);
        let error = format!("{:#}", wait(&path, Duration::from_millis(100)).await.expect_err("held"));
        let expected = [&*path.display().to_string(), &format!("process {} (sleep 1000)", child.id()), "100ms"];
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
        child.kill().and_then(|()| child.wait()).expect("ended");
        drop(wait(&path, Duration::from_secs(60)).await.expect("released"));
        let held = take(&path).expect("free");
        assert!(take(&path).expect_err("held").to_string().contains("this process"));
        drop(held);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("linked");
        let error = format!("{:#}", wait(&link, Duration::ZERO).await.expect_err("refused"));
        assert!(error.contains("is a link; remove it") && !error.contains("no lock"), "{error}");
    }
}
