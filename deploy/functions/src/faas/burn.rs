//! Use of CPU time until a clock reaches an end.

use std::hint::black_box;
use std::time::Duration;

/// Rounds between two reads of the clock: some tens of microseconds, so that neither the reads nor the overshoot matter.
const ROUNDS: u32 = 20_000;

/// Computes until `clock` reaches `end`.
pub fn until(clock: impl Fn() -> Duration, end: Duration) {
    let mut value = 0x9e37_79b9_7f4a_7c15_u64;
    while clock() < end {
        for _ in 0..ROUNDS {
            value = black_box(value.wrapping_mul(6_364_136_223_846_793_005).rotate_left(17));
        }
    }
}

/// CPU time used by the calling thread.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Time since the machine started.
pub fn wall_time() -> Duration {
    read(libc::CLOCK_MONOTONIC)
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result. Both clocks exist on every Linux that runs Rust's standard library.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(failed, 0, "clock {clock} is not available");
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
