//! Files that only this user can read: state folders, credentials, tokens, logs. Owns their modes, and refuses links
//! and files of other users in their place. All functions block.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::files::MAX_STATE;

/// Mode of a folder, and of a file.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Access of users other than the owner.
const OTHERS: u32 = 0o077;
/// File in a state folder that its user locks.
pub(super) const LOCK: &str = "lock";
/// Default name of a state folder.
const STATE_FOLDER: &str = ".qscale";

/// Creates the folder `path`, accessible to this user alone, and returns its absolute path. An existing folder is made
/// private if it is a state folder: empty, named `.qscale`, or with a lock file of this user.
///
/// # Errors
/// If it belongs to another user, is reached by a link of another user, is accessible to others and not a state folder,
/// or cannot be created.
pub fn folder(path: &Path) -> anyhow::Result<PathBuf> {
    // Without a slash at the end, which would follow a link.
    let path: PathBuf = path.components().collect();
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("failed to create {}", parent.display()))?;
    }
    match DirBuilder::new().mode(FOLDER_MODE).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("failed to create {}", path.display()));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(&path).with_context(|| path.display().to_string())?;
    ensure!(
        !found.is_symlink() || found.uid() == user(),
        "{} is a link of user {}; remove it, or choose another folder",
        path.display(),
        found.uid()
    );
    let path = path.canonicalize().with_context(|| path.display().to_string())?;
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(&path);
    let opened = opened.with_context(|| format!("failed to open the folder {}", path.display()))?;
    let found = opened.metadata().with_context(|| path.display().to_string())?;
    check_owner(&path, &found)?;
    if found.mode() & OTHERS != 0 {
        // Another process may have made it private in between, and written to it.
        let is_private = || opened.metadata().is_ok_and(|found| found.mode() & OTHERS == 0);
        ensure!(
            is_state_folder(&path) || is_private(),
            "{} has mode {:03o} and holds other files; choose a folder of its own, or: chmod 700 {}",
            path.display(),
            found.mode() & 0o777,
            path.display()
        );
        let closed = opened.set_permissions(Permissions::from_mode(FOLDER_MODE));
        closed.with_context(|| format!("failed to set the mode of {}", path.display()))?;
    }
    Ok(path)
}

fn is_state_folder(path: &Path) -> bool {
    let locked = || fs::symlink_metadata(path.join(LOCK)).is_ok_and(|found| found.is_file() && found.uid() == user());
    let empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    path.file_name().is_some_and(|name| name == STATE_FOLDER) || locked() || empty()
}

/// Replaces the file `path` atomically and durably: after a crash it has the old or the new content. A missing folder is created.
///
/// # Errors
/// If the folder or the file belongs to another user, a link is in the place of either, or the file cannot be written.
pub fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let folder = prepare_parent(path)?;
    if let Ok(found) = fs::symlink_metadata(path) {
        check_file(path, &found)?;
    }
    let name = path.file_name().with_context(|| format!("{} is not the path of a file", path.display()))?;
    let new = path.with_file_name(format!("{}.new", name.to_string_lossy()));
    let mut file = create(&new)?;
    let written = file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&new, path));
    written.and_then(|()| File::open(folder)?.sync_all()).with_context(|| format!("failed to write {}", path.display()))
}

/// Reads the text `path`; `None` if it does not exist.
///
/// # Errors
/// If it belongs to another user, a link is in its place, it has more than [`MAX_STATE`] bytes, or it cannot be read.
pub fn read(path: &Path) -> anyhow::Result<Option<String>> {
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let mut text = String::new();
    let file = open(path, OpenOptions::new().read(true))?;
    let read = file.take(MAX_STATE + 1).read_to_string(&mut text).with_context(|| format!("failed to read {}", path.display()))?;
    ensure!(read as u64 <= MAX_STATE, "{} has more than {MAX_STATE} bytes", path.display());
    Ok(Some(text))
}

/// Opens the file `path` to append to it. A missing file or folder is created.
///
/// # Errors
/// As [`write`].
pub fn append(path: &Path) -> anyhow::Result<File> {
    prepare_parent(path)?;
    open(path, OpenOptions::new().append(true).create(true))
}

/// Opens the file `path`, emptied, to write to it. A missing file or folder is created.
///
/// # Errors
/// As [`write`].
pub fn create(path: &Path) -> anyhow::Result<File> {
    prepare_parent(path)?;
    let file = open(path, OpenOptions::new().write(true).create(true))?;
    file.set_len(0).with_context(|| format!("failed to empty {}", path.display()))?;
    Ok(file)
}

/// Creates the folder that holds `path` if it is missing, and checks that it belongs to this user.
fn prepare_parent(path: &Path) -> anyhow::Result<&Path> {
    let folder = path.parent().with_context(|| format!("{} is not the path of a file", path.display()))?;
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let found = fs::symlink_metadata(folder).with_context(|| folder.display().to_string())?;
    ensure!(!found.is_symlink(), "{} is a link; remove it, or use the folder that it names", folder.display());
    check_owner(folder, &found)?;
    Ok(folder)
}

/// Opens a file of this user and makes it private.
fn open(path: &Path, options: &mut OpenOptions) -> anyhow::Result<File> {
    // A pipe in its place must not make the process wait.
    let opened = options.mode(FILE_MODE).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = match opened {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => anyhow::bail!("{} is a link; remove it", path.display()),
        opened => opened.with_context(|| format!("failed to open {}", path.display()))?,
    };
    let found = file.metadata().with_context(|| path.display().to_string())?;
    check_file(path, &found)?;
    if found.mode() & OTHERS != 0 {
        let closed = file.set_permissions(Permissions::from_mode(FILE_MODE));
        closed.with_context(|| format!("failed to set the mode of {}", path.display()))?;
    }
    Ok(file)
}

fn check_file(path: &Path, found: &Metadata) -> anyhow::Result<()> {
    ensure!(!found.is_symlink(), "{} is a link; remove it", path.display());
    ensure!(found.is_file(), "{} is not a file; remove it", path.display());
    check_owner(path, found)
}

fn check_owner(path: &Path, found: &Metadata) -> anyhow::Result<()> {
    let (owner, user) = (found.uid(), user());
    ensure!(
        owner == user,
        "{} belongs to user {owner}, this process runs as user {user}; run it as user {owner}, choose another state folder, or: chown -R {user} {}",
        path.display(),
        path.display()
    );
    Ok(())
}

/// Folder for short-lived files of this user, on this machine. It may not exist; [`folder`] creates it.
#[must_use]
pub fn runtime_folder() -> PathBuf {
    let user = user();
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder).join("qscale"),
        None if user == 0 && Path::new("/run").is_dir() => PathBuf::from("/run/qscale"),
        None => std::env::temp_dir().join(format!("qscale-{user}")),
    }
}

/// User as which this process accesses files.
#[must_use]
pub fn user() -> u32 {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("it exists").mode() & 0o777
    }

    #[track_caller]
    fn refused<T>(result: anyhow::Result<T>, expected: &[&str]) {
        let error = format!("{:#}", result.err().expect("refused"));
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
    }

    #[test]
    fn folders_and_files_are_accessible_to_their_user_alone() {
        let temporary = tempfile::tempdir().expect("a folder");
        let state = folder(&temporary.path().join("a/state/")).expect("created");
        for (path, written) in [
            ("one", write(&state.join("one"), b"1")),
            ("sub/two", write(&state.join("sub/two"), b"2")),
            ("log", append(&state.join("log")).map(drop)),
            ("out", create(&state.join("out")).map(drop)),
        ] {
            written.expect("written");
            assert_eq!(mode(&state.join(path)), 0o600, "{path}");
        }
        assert_eq!((mode(&state), mode(&state.join("sub"))), (0o700, 0o700));
        assert_eq!(read(&state.join("one")).expect("read").as_deref(), Some("1"));
        assert_eq!(read(&state.join("none")).expect("absent"), None);
    }

    #[test]
    fn a_folder_and_files_of_an_earlier_version_are_made_private() {
        let temporary = tempfile::tempdir().expect("a folder");
        let state = temporary.path().join(STATE_FOLDER);
        fs::create_dir_all(state.join("logs")).expect("created");
        fs::write(state.join("logs/a.log"), "old ").expect("written");
        fs::set_permissions(&state, Permissions::from_mode(0o755)).expect("opened");
        let state = folder(&state).expect("made private");
        append(&state.join("logs/a.log")).and_then(|mut log| Ok(log.write_all(b"new")?)).expect("appended");
        assert_eq!((mode(&state), mode(&state.join("logs/a.log"))), (0o700, 0o600));
        assert_eq!(fs::read_to_string(state.join("logs/a.log")).expect("read"), "old new");
    }

    #[test]
    fn the_mode_of_a_folder_that_holds_something_else_is_not_changed() {
        let temporary = tempfile::tempdir().expect("a folder");
        fs::set_permissions(temporary.path(), Permissions::from_mode(0o755)).expect("opened");
        folder(temporary.path()).expect("an empty folder becomes a state folder");
        fs::write(temporary.path().join("notes"), "").expect("written");
        fs::set_permissions(temporary.path(), Permissions::from_mode(0o755)).expect("opened");
        refused(folder(temporary.path()), &["mode 755", "chmod 700"]);
        assert_eq!(mode(temporary.path()), 0o755);
    }

    #[test]
    fn a_link_or_a_pipe_in_the_place_of_a_file_is_refused_with_its_path() {
        let temporary = tempfile::tempdir().expect("a folder");
        let (victim, link, pipe) = (temporary.path().join("victim"), temporary.path().join("link"), temporary.path().join("pipe"));
        fs::write(&victim, "kept").expect("written");
        symlink(&victim, &link).expect("linked");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
        for path in [&link, &pipe] {
            let name = path.display().to_string();
            refused(write(path, b"x"), &[&name, "remove it"]);
            refused(append(path), &[&name]);
            refused(create(path), &[&name]);
            refused(read(path), &[&name]);
        }
        symlink(temporary.path(), temporary.path().join("folder")).expect("linked");
        refused(write(&temporary.path().join("folder/file"), b"x"), &["folder is a link"]);
        // The new content is written beside the file first.
        symlink(&victim, temporary.path().join("file.new")).expect("linked");
        refused(write(&temporary.path().join("file"), b"x"), &["file.new is a link"]);
        assert_eq!(fs::read_to_string(&victim).expect("read"), "kept");
    }

    #[test]
    fn folders_files_and_links_of_another_user_are_refused() {
        if user() != 0 {
            eprintln!("skipped: only root can make files of another user");
            return;
        }
        const OTHER: u32 = 65_534;
        let temporary = tempfile::tempdir().expect("a folder");
        let (theirs, ours, link) = (temporary.path().join("theirs"), temporary.path().join("ours"), temporary.path().join("link"));
        for path in [&theirs, &ours] {
            folder(path).expect("created");
        }
        fs::write(ours.join("file"), "").expect("written");
        for path in [&theirs, &ours.join("file")] {
            chown(path, Some(OTHER), None).expect("root may");
        }
        refused(folder(&theirs), &["belongs to user 65534", "chown -R 0"]);
        refused(write(&theirs.join("file"), b""), &["belongs to user 65534"]);
        refused(write(&ours.join("file"), b""), &["belongs to user 65534"]);
        refused(append(&ours.join("file")), &["belongs to user 65534"]);
        refused(read(&ours.join("file")), &["belongs to user 65534"]);
        symlink(&ours, &link).expect("linked");
        folder(&link).expect("a link of this user is followed");
        std::os::unix::fs::lchown(&link, Some(OTHER), None).expect("root may");
        refused(folder(&link), &["link of user 65534"]);
    }
}
