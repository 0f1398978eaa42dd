//! What can be looked at where nothing is up: programs, disk, permissions, leftovers. Owns questions to this machine.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use qscale_common::runtime::provision::OLDEST_SERVER;

use super::report::Report;
use crate::agent;
use crate::system::{Addresses, Locate, StateDir};

/// How long a program may take to say its version.
const VERSION_WITHIN: Duration = Duration::from_secs(5);
/// Free disk below which streams at their limits do not fit, and below which nothing does.
const DISK_SCARCE: u64 = 2 << 30;
const DISK_FULL: u64 = 128 << 20;
/// What marks the processes of a platform; its value is the platform's state folder.
const PLATFORM_MARK: &str = "QSCALE_PLATFORM";

const GET_SERVER: &str = "run `make tools`, put nats-server 2.11 or newer on the PATH, or name one in NATS_SERVER_BIN";

/// Whether there is a nats-server to run, and one that is new enough.
pub async fn nats_program(report: &mut Report, elsewhere: bool) {
    const CHECK: &str = "nats-server program";
    if let Some(named) = std::env::var_os("NATS_SERVER_BIN").map(PathBuf::from).filter(|named| !named.is_file()) {
        report.notice(CHECK, format!("NATS_SERVER_BIN = {} is no file", named.display()), "name an existing program, or unset it");
    }
    let Some(program) = crate::system::find_nats_server() else {
        return if elsewhere {
            report.notice(CHECK, "none on this machine; the server named by --nats is used", GET_SERVER);
        } else {
            report.wrong(CHECK, "none was found", GET_SERVER);
        };
    };
    match version(&program).await {
        Some(version) if version >= OLDEST_SERVER => {
            let (major, minor, patch) = version;
            report.good(CHECK, format!("{major}.{minor}.{patch} ({})", program.display()));
        }
        Some((major, minor, patch)) => {
            report.wrong(
                CHECK,
                format!("{} has version {major}.{minor}.{patch}, older ones than 2.11 cannot make the buckets", program.display()),
                GET_SERVER,
            );
        }
        None => report.wrong(CHECK, format!("{} does not say its version", program.display()), GET_SERVER),
    }
}

async fn version(program: &Path) -> Option<(u64, u64, u64)> {
    let asked = tokio::process::Command::new(program).arg("--version").kill_on_drop(true).output();
    let output = tokio::time::timeout(VERSION_WITHIN, asked).await.ok()?.ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// Reads `nats-server: v2.12.1` and the like.
fn parse_version(text: &str) -> Option<(u64, u64, u64)> {
    let version = text.split_whitespace().last()?.trim_start_matches('v');
    let mut numbers = version.split(['.', '-', '+']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Whether the streams fit.
pub fn disk(report: &mut Report, folder: &Path) {
    const CHECK: &str = "disk";
    let there = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    let Some(free) = free_bytes(there) else {
        return report.notice(CHECK, format!("{} does not say how much is free", there.display()), "look at it with df");
    };
    let found = format!("{:.1} GiB free in {}", free as f64 / f64::from(1 << 30), there.display());
    match free {
        ..DISK_FULL => report.wrong(CHECK, found, "free some space, or choose another --state-dir"),
        DISK_FULL..DISK_SCARCE => {
            report.notice(CHECK, found, "the streams take up to 1.8 GiB when they are full; free some space, or choose another --state-dir")
        }
        _ => report.good(CHECK, found),
    }
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let path = CString::new(folder.as_os_str().as_bytes()).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with NUL and lives through the call, and statvfs fills in the whole struct where it returns 0.
    let found = unsafe { (libc::statvfs(path.as_ptr(), found.as_mut_ptr()) == 0).then(|| found.assume_init()) }?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Whether the load generator may pace in the real-time class.
pub fn real_time(report: &mut Report) {
    const CHECK: &str = "real-time scheduling";
    // The class belongs to a thread of its own, which ends with the question.
    let permitted = std::thread::spawn(|| {
        let priority = libc::sched_param { sched_priority: 1 };
        // SAFETY: zero names the calling thread, and the parameter lives through the call.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) == 0 }
    });
    if permitted.join().unwrap_or(false) {
        report.good(CHECK, "permitted; the load generator paces with it");
    } else {
        let mend = "for the most exact pacing run as root, or grant it: ulimit -r 1, CAP_SYS_NICE";
        report.notice(CHECK, "not permitted; the load generator paces in the normal class and measures its own lag", mend);
    }
}

/// Whether a system is up in the folder; its addresses, if so.
pub fn system(report: &mut Report, locate: &Locate, state: Option<&StateDir>) -> Option<Addresses> {
    const CHECK: &str = "system";
    let folder = locate.state_dir.display();
    let Some(state) = state else {
        not_up(report, locate);
        return None;
    };
    let addresses = match state.join("addresses.json").is_file().then(|| state.addresses()) {
        None => {
            not_up(report, locate);
            leftovers(report, state);
            return None;
        }
        Some(Err(error)) => {
            report.wrong(CHECK, format!("{error:#}"), format!("stop what runs in {folder}, delete the file, and run `qscale up`"));
            return None;
        }
        Some(Ok(addresses)) => addresses,
    };
    if runs(addresses.pid) {
        report.good(CHECK, format!("up in {folder} (process {}), gateway {}", addresses.pid, addresses.gateway));
        return Some(addresses);
    }
    report.wrong(
        CHECK,
        format!("the system of process {} is gone and left {folder}/addresses.json behind", addresses.pid),
        "run `qscale up`, which takes over what was left",
    );
    leftovers(report, state);
    None
}

fn not_up(report: &mut Report, locate: &Locate) {
    let folder = locate.state_dir.display();
    if locate.nats.is_none() {
        report.notice(
            "system",
            format!("none is up in {folder}; services, streams and policies were not looked at"),
            "start one with `qscale up`, or name one with --nats",
        );
    }
}

/// Whether the process is one of ours; a number may belong to somebody else by now.
fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "qscale")
}

/// What a system that was killed may leave: a nats-server, processes of functions, cgroups.
fn leftovers(report: &mut Report, state: &StateDir) {
    const CHECK: &str = "leftovers";
    let before = report.findings().len();
    if let Some(pid) = agent::nats_server(state) {
        report.notice(CHECK, format!("a nats-server (process {pid}) runs though no system is up"), format!("end it: kill {pid}"));
    }
    let platform = state.join("platform");
    let processes = marked(&platform);
    if !processes.is_empty() {
        let pids: Vec<String> = processes.iter().map(ToString::to_string).collect();
        report.notice(
            CHECK,
            format!("{} processes of functions run though no system is up", pids.len()),
            format!("the next `qscale up` ends them, or: kill {}", pids.join(" ")),
        );
    }
    let cgroups: Vec<PathBuf> =
        std::fs::read(platform.join("cgroups.json")).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    for cgroup in cgroups.iter().filter(|cgroup| cgroup.is_dir()) {
        report.notice(CHECK, format!("the cgroup {} is nobody's", cgroup.display()), "the next `qscale up` removes it");
    }
    if report.findings().len() == before {
        report.good(CHECK, "no process and no cgroup of an earlier system");
    }
}

/// Processes that a platform with this state folder started.
fn marked(platform: &Path) -> Vec<u32> {
    let mark = [PLATFORM_MARK.as_bytes(), b"=", platform.as_os_str().as_bytes()].concat();
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let carries = |pid: &u32| {
        std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|variables| variables.split(|byte| *byte == 0).any(|one| one == mark))
    };
    pids.filter(carries).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_server_prints_them() {
        assert_eq!(parse_version("nats-server: v2.12.1\n"), Some((2, 12, 1)));
        assert_eq!(parse_version("nats-server: v2.14.0-RC.1"), Some((2, 14, 0)));
        assert_eq!(parse_version("something else"), None);
        assert_eq!(parse_version(""), None);
    }

    #[test]
    fn free_space_is_known_for_a_folder_that_is_there() {
        assert!(free_bytes(Path::new("/")).is_some());
        assert_eq!(free_bytes(Path::new("/nowhere/at/all")), None);
    }
}
