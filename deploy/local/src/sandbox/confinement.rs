//! Restrictions of a process between fork and exec. Owns their order; makes system calls only, because other threads of
//! the platform may hold locks.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::filter::Filters;

/// Processes and threads of a replica with a user of its own. Far above what servers start, far below what the kernel has for all users.
const PROCESSES: libc::rlim_t = 4_096;
/// First descriptor that is neither standard input nor output.
const FIRST_DESCRIPTOR: libc::c_uint = 3;
/// Descriptors that are closed one by one where the kernel cannot close all at once.
const DESCRIPTORS: libc::c_int = 65_536;
/// Highest number that a capability may get.
const CAPABILITIES: libc::c_ulong = 63;

/// Restrictions of one process.
#[derive(Debug, Default)]
pub struct Confinement {
    /// User and group to change to.
    pub(super) user: Option<u32>,
    /// Whether no other process has that user.
    pub(super) has_own_user: bool,
    pub(super) filters: Arc<Filters>,
    /// Landlock rules.
    pub(super) ruleset: Option<OwnedFd>,
}

impl Confinement {
    /// Confines the calling process. `script` is a descriptor that stays open for the interpreter of a script.
    ///
    /// # Errors
    /// When the kernel refuses a step; the process must not run the program then.
    pub fn enter(&self, script: Option<libc::c_int>) -> io::Result<()> {
        self.limit_resources()?;
        // SAFETY: the calls take integers, and pointers to locals that outlive them.
        unsafe {
            // Fails without CAP_SYS_ADMIN; different users cannot open each other's IPC objects either.
            libc::unshare(libc::CLONE_NEWIPC);
            for capability in 0..=CAPABILITIES {
                // Fails for numbers that the kernel does not know, and without CAP_SETPCAP; then there is nothing to drop.
                libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
            }
            if let Some(user) = self.user {
                check(libc::setgroups(0, std::ptr::null()))?;
                check(libc::setresgid(user, user, user))?;
                check(libc::setresuid(user, user, user))?;
            }
            drop_capabilities()?;
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            if let Some(ruleset) = &self.ruleset {
                check(libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0))?;
            }
            close_on_exec();
            if let Some(script) = script {
                check(libc::fcntl(script, libc::F_SETFD, 0))?;
            }
        }
        self.filters.install()
    }

    fn limit_resources(&self) -> io::Result<()> {
        let limit = |resource, most: libc::rlim_t| {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: the pointers are to a local that outlives the calls.
            unsafe {
                check(libc::getrlimit(resource, &raw mut limit))?;
                limit = libc::rlimit { rlim_cur: limit.rlim_cur.min(most), rlim_max: limit.rlim_max.min(most) };
                check(libc::setrlimit(resource, &raw const limit))
            }
        };
        limit(libc::RLIMIT_CORE, 0)?;
        limit(libc::RLIMIT_RTPRIO, 0)?;
        // This limit counts all processes of the user.
        if self.has_own_user { limit(libc::RLIMIT_NPROC, PROCESSES) } else { Ok(()) }
    }
}

/// Gives up every capability of the calling process, as an unprivileged platform may have some.
fn drop_capabilities() -> io::Result<()> {
    #[repr(C)]
    struct CapabilityHeader {
        version: u32,
        pid: libc::c_int,
    }
    /// `_LINUX_CAPABILITY_VERSION_3`, with two sets of three masks of 32 bits.
    const VERSION: u32 = 0x2008_0522;
    let (header, none) = (CapabilityHeader { version: VERSION, pid: 0 }, [0_u32; 6]);
    // SAFETY: the pointers are to locals of the size that this version has, and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) })
}

/// Closes every descriptor but standard input and output when the program starts. Those of the platform are closed
/// anyway; those that it inherited may not be.
fn close_on_exec() {
    // SAFETY: the calls take integers.
    unsafe {
        if libc::syscall(libc::SYS_close_range, FIRST_DESCRIPTOR, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) != 0 {
            for descriptor in FIRST_DESCRIPTOR.cast_signed()..DESCRIPTORS {
                libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
            }
        }
    }
}

/// Whether processes can get System V IPC of their own. Tries it in a process that ends.
pub fn can_separate_ipc() -> bool {
    let mut command = Command::new("true");
    command.stdin(Stdio::null());
    // SAFETY: the closure makes one system call.
    unsafe { command.pre_exec(|| check(libc::unshare(libc::CLONE_NEWIPC))) };
    command.status().is_ok_and(|status| status.success())
}

/// The error of a system call that returned a negative number.
fn check(result: impl Into<i64>) -> io::Result<()> {
    if result.into() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
