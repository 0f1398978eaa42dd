//! Checks of this machine that need no running system: programs, disk, permissions, leftovers.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use qscale_common::name::Name;
use qscale_common::runtime::provision::OLDEST_SERVER;
use qscale_common::runtime::{leftovers, nats_accounts, private};
use qscale_common::text::mebibytes;
use qscale_dqn::registry::DQN;

use super::report::Report;
use crate::state_dir::{Addresses, StateDir, find_nats_server};
use crate::storage::{DISK_FULL, Storage};

/// Timeout for a program's --version.
const VERSION_WITHIN: Duration = Duration::from_secs(5);
/// Free disk below which nothing fits, bytes.
const NOTHING_FITS: u64 = 128 << 20;

const GET_SERVER: &str = "run `make tools`, put nats-server 2.11 or newer on the PATH, or set NATS_SERVER_BIN";

/// Checks for a nats-server program that is recent enough.
///
/// Without one it fails, unless a `server` is in use already.
pub async fn nats_program(report: &mut Report, server: bool) {
    const CHECK: &str = "nats-server program";
    if let Some(named) = std::env::var_os("NATS_SERVER_BIN").map(PathBuf::from).filter(|named| !named.is_file()) {
        report.warn(CHECK, format!("NATS_SERVER_BIN = {} is not a file", named.display()), "set it to an existing program, or unset it");
    }
    let Some(program) = find_nats_server() else {
        return if server {
            report.warn(CHECK, "not found; `qscale up` cannot be started from here", GET_SERVER);
        } else {
            report.fail(CHECK, "not found", GET_SERVER);
        };
    };
    match version(&program).await {
        Some(version) if version >= OLDEST_SERVER => {
            let (major, minor, patch) = version;
            report.pass(CHECK, format!("{major}.{minor}.{patch} ({})", program.display()));
        }
        Some((major, minor, patch)) => {
            report.fail(CHECK, format!("{} has version {major}.{minor}.{patch}, at least 2.11 is required", program.display()), GET_SERVER);
        }
        None => report.fail(CHECK, format!("{} --version failed", program.display()), GET_SERVER),
    }
}

async fn version(program: &Path) -> Option<(u64, u64, u64)> {
    let command = tokio::process::Command::new(program).arg("--version").kill_on_drop(true).output();
    let output = tokio::time::timeout(VERSION_WITHIN, command).await.ok()?.ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// Parses `nats-server: v2.12.1`.
fn parse_version(text: &str) -> Option<(u64, u64, u64)> {
    let version = text.split_whitespace().last()?.trim_start_matches('v');
    let mut numbers = version.split(['.', '-', '+']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Checks that new streams fit on the disk of the state folder, and that full ones do. `state` is the folder if it exists.
pub fn disk(report: &mut Report, folder: &Path, state: Option<&StateDir>) {
    const CHECK: &str = "disk";
    const FREE_SOME: &str = "free some space, or use another --state-dir";
    let mut agents = nats_accounts::agents(state.and_then(|state| state.known_passwords().ok()).unwrap_or_default().keys());
    if agents.is_empty() {
        agents.extend(Name::new(DQN));
    }
    let storage = Storage::measure(&state.map_or_else(|| folder.to_owned(), StateDir::existing_store), &agents);
    let Some(free) = storage.free else {
        return report.warn(CHECK, format!("failed to read the free space of {}", storage.folder.display()), "check it with df");
    };
    let found = format!("{} free in {}, full streams take {}", mebibytes(free), storage.folder.display(), mebibytes(storage.full));
    if free < DISK_FULL {
        report.fail(CHECK, format!("disk full: {found}"), FREE_SOME);
    } else if let Some(shortage) = storage.shortage() {
        report.fail(CHECK, shortage, FREE_SOME);
    } else if free < NOTHING_FITS {
        report.fail(CHECK, found, FREE_SOME);
    } else if free < storage.full {
        report.warn(CHECK, found, FREE_SOME);
    } else {
        report.pass(CHECK, found);
    }
}

/// Checks that only this user can access the state folder, which holds credentials.
pub fn state_folder(report: &mut Report, folder: &Path) {
    const CHECK: &str = "state folder";
    let Ok(found) = std::fs::metadata(folder) else { return };
    let (shown, mode, user) = (folder.display(), found.mode() & 0o777, private::user());
    if found.uid() != user {
        let fix = format!("run commands as user {}, or choose another --state-dir", found.uid());
        report.warn(CHECK, format!("{shown} belongs to user {}, not to {user}", found.uid()), fix);
    } else if mode & 0o077 != 0 {
        report.warn(CHECK, format!("{shown} has mode {mode:03o}: other users can read it"), format!("chmod 700 {shown}"));
    } else {
        report.pass(CHECK, format!("{shown} is accessible to its user alone"));
    }
}

/// Checks whether the load generator may use the real-time scheduling class.
pub fn real_time(report: &mut Report) {
    const CHECK: &str = "real-time scheduling";
    // The class is set for a thread that ends afterwards.
    let permitted = std::thread::spawn(|| {
        let priority = libc::sched_param { sched_priority: 1 };
        // SAFETY: zero means the calling thread, and the parameter outlives the call.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) == 0 }
    });
    if permitted.join().unwrap_or(false) {
        report.pass(CHECK, "permitted; used by the load generator");
    } else {
        let fix = "for the most accurate pacing run as root, or grant it: ulimit -r 1, CAP_SYS_NICE";
        report.warn(CHECK, "not permitted; the load generator uses the normal class and measures its own lag", fix);
    }
}

/// Checks whether a system runs in the state folder; returns its addresses if it does.
///
/// `folder` is the state folder, which `state` opens if it exists; `elsewhere` means that a server of another machine is used.
pub fn system(report: &mut Report, folder: &Path, state: Option<&StateDir>, elsewhere: bool) -> Option<Addresses> {
    const CHECK: &str = "system";
    let Some(state) = state else {
        not_up(report, folder, elsewhere);
        return None;
    };
    let shown = folder.display();
    let addresses = match state.join("addresses.json").is_file().then(|| state.addresses()) {
        None => {
            not_up(report, folder, elsewhere);
            leftovers(report, state);
            return None;
        }
        Some(Err(error)) => {
            report.fail(CHECK, format!("{error:#}"), format!("stop the system in {shown}, delete the file, and run `qscale up`"));
            return None;
        }
        Some(Ok(addresses)) => addresses,
    };
    if runs(addresses.pid) {
        report.pass(CHECK, format!("running in {shown} (process {}), gateway {}", addresses.pid, addresses.gateway));
        return Some(addresses);
    }
    report.fail(
        CHECK,
        format!("process {} no longer runs but left {shown}/addresses.json", addresses.pid),
        "run `qscale up`, which replaces the file",
    );
    leftovers(report, state);
    None
}

fn not_up(report: &mut Report, folder: &Path, elsewhere: bool) {
    let folder = folder.display();
    if !elsewhere {
        report.warn(
            "system",
            format!("none runs in {folder}; services, streams and policies were not checked"),
            "start one with `qscale up`, or specify one with --nats",
        );
    }
}

/// Whether the process is a qscale process; the number may have been reused.
fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "qscale")
}

/// Checks for leftovers of a killed system: a nats-server, function processes, cgroups.
fn leftovers(report: &mut Report, state: &StateDir) {
    const CHECK: &str = "leftovers";
    let before = report.findings().len();
    if let Some(pid) = state.nats_server() {
        report.warn(CHECK, format!("a nats-server (process {pid}) runs without a system"), format!("kill {pid}"));
    }
    let platform = state.platform_folder();
    let processes = leftovers::marked_processes(&platform);
    if !processes.is_empty() {
        let pids: Vec<String> = processes.iter().map(ToString::to_string).collect();
        report.warn(
            CHECK,
            format!("{} function processes run without a system", pids.len()),
            format!("the next `qscale up` ends them, or: kill {}", pids.join(" ")),
        );
    }
    for cgroup in leftovers::recorded_cgroups(&platform).iter().filter(|cgroup| cgroup.is_dir()) {
        report.warn(CHECK, format!("unused cgroup {}", cgroup.display()), "the next `qscale up` removes it");
    }
    if report.findings().len() == before {
        report.pass(CHECK, "no process or cgroup of an earlier system");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_version_that_the_server_prints() {
        assert_eq!(parse_version("nats-server: v2.12.1\n"), Some((2, 12, 1)));
        assert_eq!(parse_version("nats-server: v2.14.0-RC.1"), Some((2, 14, 0)));
        assert_eq!(parse_version("something else"), None);
        assert_eq!(parse_version(""), None);
    }
}
