//! System calls that functions do not have: those that change the machine, look into other processes, or reach rarely
//! used parts of the kernel, after the default of container engines. Owns the list and its compilation.

use std::collections::BTreeMap;
use std::io;

use anyhow::Context;
use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};

/// Refused with EPERM.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// Compiled filters.
#[derive(Debug, Default)]
pub struct Filters(Vec<BpfProgram>);

impl Filters {
    /// Compiles the filters; none where the kernel has no filters.
    ///
    /// # Errors
    /// If there are no filters for this processor.
    pub fn compile() -> anyhow::Result<Self> {
        if !is_available() {
            return Ok(Self(Vec::new()));
        }
        let mut refused: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
        refused.insert(libc::SYS_clone, vec![new_user_namespace()?]);
        // The flags of clone3 are in memory, which a filter cannot read. The C library falls back to clone if there is no clone3.
        let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        Ok(Self(vec![compile(refused, libc::EPERM)?, compile(absent, libc::ENOSYS)?]))
    }

    /// Puts the filters on this thread and on the program that it runs later. Makes system calls only.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn install(&self) -> io::Result<()> {
        self.0.iter().try_for_each(|program| seccompiler::apply_filter(program).map_err(|_| io::Error::last_os_error()))
    }
}

fn compile(calls: BTreeMap<i64, Vec<SeccompRule>>, error: i32) -> anyhow::Result<BpfProgram> {
    let architecture = std::env::consts::ARCH.try_into().context("no filters of system calls for this processor")?;
    let action = SeccompAction::Errno(error.unsigned_abs());
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, action, architecture).context("the filter of system calls")?;
    filter.try_into().context("the filter of system calls")
}

/// `clone` with a user namespace, in which a process has every capability.
fn new_user_namespace() -> anyhow::Result<SeccompRule> {
    let flag = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
    let condition = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag);
    SeccompRule::new(vec![condition.context("a condition on flags")?]).context("a rule for clone")
}

/// Whether the kernel has filters.
pub fn is_available() -> bool {
    let action = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the kernel reads one number from a local that outlives the call.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}
