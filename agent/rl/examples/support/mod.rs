//! CPU time of the process.

/// CPU time that this process used so far, seconds: what others do on the machine does not count.
pub fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that outlives the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "the clock of a process' CPU time is always there");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
