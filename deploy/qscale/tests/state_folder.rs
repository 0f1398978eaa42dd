//! The state folder: locks of other processes, links and folders of other users.

use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use qscale_common::runtime::private;
use qscale_tests::{CommandResult, Folder, eventually, nats};

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qscale"));
    command.arg("--state-dir").arg(folder).args(arguments).env("NATS_SERVER_BIN", nats::program()).stdin(Stdio::null());
    // A shell ignores SIGINT for commands in its background, and programs inherit that.
    // SAFETY: between fork and exec the closure makes a system call only.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            Ok(())
        });
    }
    command
}

fn run(folder: &Path, arguments: &[&str]) -> CommandResult {
    CommandResult::of(&command(folder, arguments).output().expect("the command starts"))
}

/// A process that holds a lock; it ends when it is dropped.
struct Holder(Child);

impl Holder {
    fn of(path: &Path) -> Self {
        // The lock stays with the program that replaces the shell.
        let script = "exec 9>>\"$0\" && flock 9 && echo locked && exec sleep 1000";
        let mut child = Command::new("sh").args(["-c", script]).arg(path).stdout(Stdio::piped()).spawn().expect("sh");
        let mut locked = [0; 7];
        std::io::Read::read_exact(child.stdout.as_mut().expect("a pipe"), &mut locked).expect("locked");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("ended");
    }
}

/// Waits until the process has `file` open.
fn until_open(process: u32, file: &Path) {
    let wanted = std::fs::metadata(file).expect("it exists");
    eventually("the file to be opened", || {
        let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        let mut found = descriptors.filter_map(|entry| std::fs::metadata(entry.path()).ok());
        found.any(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino())).then_some(())
    });
}

#[test]
fn a_locked_folder_is_reported_with_the_process_that_holds_it() {
    let folder = Folder::new("locked");
    let (credentials, lock) = (folder.path().join("credentials.lock"), folder.path().join("lock"));
    assert!(run(folder.path(), &["agent", "add", "first"]).success().contains("first"));
    let holder = Holder::of(&credentials);
    let name = format!("process {} (sleep 1000)", holder.0.id());
    let error = run(folder.path(), &["agent", "add", "mine"]).failure();
    assert!([&*name, &credentials.display().to_string()].iter().all(|part| error.contains(part)), "{error}");
    drop(holder);
    assert!(run(folder.path(), &["agent", "add", "mine"]).success().contains("mine"));
    let holder = Holder::of(&lock);
    let error = run(folder.path(), &["up", "--for", "1s"]).failure();
    let name = format!("process {} (sleep 1000)", holder.0.id());
    assert!([&*name, "choose another --state-dir"].iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn signals_end_the_wait_for_a_lock() {
    let folder = Folder::new("signals");
    let lock = folder.path().join("credentials.lock");
    assert!(run(folder.path(), &["agent", "add", "first"]).success().contains("first"));
    let _holder = Holder::of(&lock);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut waiting = command(folder.path(), &["agent", "add", "mine"]).stderr(Stdio::null()).spawn().expect("the command starts");
        until_open(waiting.id(), &lock);
        // SAFETY: kill takes integers only, and the child has not been waited for.
        unsafe { libc::kill(waiting.id().cast_signed(), signal) };
        assert_eq!(waiting.wait().expect("ended").signal(), Some(signal));
        let up = command(folder.path(), &["up", "--plain", "--load", "none"]).stderr(Stdio::piped()).spawn().expect("the command starts");
        until_open(up.id(), &lock);
        // SAFETY: as above.
        unsafe { libc::kill(up.id().cast_signed(), signal) };
        let ended = CommandResult::of(&up.wait_with_output().expect("ended")).failure();
        assert!(ended.contains("stopped during start-up"), "{ended}");
    }
}

#[test]
fn a_link_or_a_folder_of_another_user_is_refused_before_anything_is_written() {
    let folder = Folder::new("planted");
    let (state, victim) = (folder.path().join("state"), folder.path().join("victim"));
    std::fs::create_dir(&state).expect("created");
    std::fs::write(&victim, "kept").expect("written");
    for name in ["credentials.json", "credentials.lock", "credentials/agent-mine", "nats/accounts.conf", "credentials"] {
        std::fs::remove_dir_all(&state).and_then(|()| std::fs::create_dir(&state)).expect("empty");
        assert!(run(&state, &["agent", "add", "first"]).success().contains("first"));
        let planted = state.join(name);
        if planted.is_dir() {
            std::fs::remove_dir_all(&planted).expect("removed");
        } else if planted.exists() {
            std::fs::remove_file(&planted).expect("removed");
        }
        symlink(if name == "credentials" { folder.path() } else { &victim }, &planted).expect("linked");
        let error = run(&state, &["agent", "add", "mine"]).failure();
        assert!(error.contains(&format!("{} is a link", planted.display())) && error.contains("remove it"), "{name}: {error}");
    }
    for name in ["lock", "nats/nats.pid"] {
        std::fs::remove_dir_all(&state).and_then(|()| std::fs::create_dir(&state)).expect("empty");
        assert!(run(&state, &["agent", "add", "first"]).success().contains("first"));
        symlink(&victim, state.join(name)).expect("linked");
        let error = run(&state, &["up", "--load", "none", "--for", "1s"]).failure();
        assert!(error.contains(&format!("{} is a link; remove it", state.join(name).display())), "{name}: {error}");
        assert!(!error.contains("in use"), "{name}: {error}");
    }
    assert_eq!(std::fs::read_to_string(&victim).expect("read"), "kept");
    if private::user() != 0 {
        eprintln!("skipped: only root can make a folder of another user");
        return;
    }
    chown(&state, Some(65_534), None).expect("root may");
    for arguments in [&["agent", "add", "mine"][..], &["up", "--for", "1s"]] {
        let error = run(&state, arguments).failure();
        assert!(error.contains(&state.display().to_string()) && error.contains("belongs to user 65534"), "{error}");
    }
}
