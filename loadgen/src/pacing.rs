//! Precise timing. Owns the clock of a run, the scheduling class of its threads, and waiting with microsecond precision.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;

/// Clock of a run: nanoseconds since its start; zero before the start.
#[derive(Debug, Clone, Copy)]
pub struct RunClock {
    start: Instant,
}

impl RunClock {
    /// Clock of a run that starts in `lead`.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the load generator's edge to real time")]
    pub fn starting_in(lead: Duration) -> Self {
        Self { start: Instant::now() + lead }
    }

    /// Nanoseconds since the start; 0 before it.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the load generator's edge to real time")]
    pub fn now_ns(&self) -> u64 {
        nanos(Instant::now().saturating_duration_since(self.start))
    }

    /// `instant` in nanoseconds since the start; 0 before it.
    #[must_use]
    pub fn ns_of(&self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.start))
    }

    /// Instant `ns` nanoseconds after the start.
    #[must_use]
    pub fn at(&self, ns: u64) -> Instant {
        self.start + Duration::from_nanos(ns)
    }

    /// Time until `ns` nanoseconds after the start; zero if that has passed.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the load generator's edge to real time")]
    pub fn until(&self, ns: u64) -> Duration {
        self.at(ns).saturating_duration_since(Instant::now())
    }
}

/// `duration` in nanoseconds, saturating at 584 years.
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Scheduling class of the pacing threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchedulingClass {
    /// SCHED_DEADLINE: before every other class, for a share of each period.
    Deadline,
    /// SCHED_FIFO with this priority: before every ordinary thread.
    Fifo(i32),
    /// Ordinary, because the kernel refused the real-time classes with this error number.
    Other(i32),
    /// Ordinary, as requested.
    Ordinary,
}

/// Runtime of a pacing thread in each [`PERIOD`]. The kernel grants at most 95% of a processor, so one thread per processor.
const RUNTIME: Duration = Duration::from_micros(900);

/// Scheduling period. Short, so that a thread that has used up its runtime waits only briefly.
const PERIOD: Duration = Duration::from_millis(1);

/// Low among the real-time priorities: below the kernel's interrupt threads.
const PRIORITY: i32 = 10;

impl fmt::Display for SchedulingClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SchedulingClass::Deadline => write!(f, "SCHED_DEADLINE ({RUNTIME:?} per {PERIOD:?}, with reclaiming)"),
            SchedulingClass::Fifo(priority) => write!(f, "SCHED_FIFO priority {priority}"),
            SchedulingClass::Other(error) => write!(f, "SCHED_OTHER (real-time refused: {})", io::Error::from_raw_os_error(*error)),
            SchedulingClass::Ordinary => f.write_str("SCHED_OTHER"),
        }
    }
}

/// Requests a real-time class for the calling thread, without inheritance.
///
/// SCHED_DEADLINE is tried first: since Linux 6.12 starving ordinary threads may run for up to 50 ms before those of
/// SCHED_FIFO, which on a busy machine makes sends tens of milliseconds late.
pub fn raise() -> SchedulingClass {
    // SAFETY: the calls read only the memory they are given, which outlives them; 0 names the calling thread.
    unsafe {
        // Without a real-time class the kernel may otherwise delay wake-ups by up to 50 us.
        libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0);
        let mut attributes: libc::sched_attr = std::mem::zeroed();
        attributes.size = size_of::<libc::sched_attr>() as u32;
        attributes.sched_policy = libc::SCHED_DEADLINE as u32;
        attributes.sched_flags = (libc::SCHED_FLAG_RESET_ON_FORK | libc::SCHED_FLAG_RECLAIM) as u64;
        attributes.sched_runtime = nanos(RUNTIME);
        attributes.sched_deadline = nanos(PERIOD);
        attributes.sched_period = nanos(PERIOD);
        if libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) == 0 {
            return SchedulingClass::Deadline;
        }
        let parameters = libc::sched_param { sched_priority: PRIORITY };
        if libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters) == 0 {
            return SchedulingClass::Fifo(PRIORITY);
        }
    }
    SchedulingClass::Other(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EPERM))
}

/// Wakes a task at an instant, without the millisecond granularity of the runtime's timers.
pub struct Alarm {
    timer: AsyncFd<OwnedFd>,
}

/// Time before the instant that is spent spinning: no task takes less than this.
const SPIN: Duration = Duration::from_micros(8);

/// Lead of the timer for a wait of `left`. Waking up takes some microseconds, and more after a longer sleep, because
/// the processor was given to others or is idle.
fn early(left: Duration) -> Duration {
    const LEAST: Duration = Duration::from_micros(20);
    const MOST: Duration = Duration::from_micros(100);
    (LEAST + left / 5).min(MOST)
}

impl Alarm {
    /// Creates an alarm for tasks of the current runtime.
    ///
    /// # Errors
    /// When the kernel provides no timer.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointers, and the descriptor that it returns belongs to nobody else.
        let timer = unsafe {
            let descriptor = libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC);
            if descriptor < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(descriptor)
        };
        // SAFETY: the descriptor stays open and the same for as long as the registration owns it.
        Ok(Self { timer: unsafe { AsyncFd::register(timer) }? })
    }

    /// Waits until `at_ns` on `clock`. Cancellation safe.
    ///
    /// # Errors
    /// When the timer fails.
    pub async fn wait_until(&self, clock: &RunClock, at_ns: u64) -> io::Result<()> {
        let early = early(clock.until(at_ns));
        loop {
            let left = clock.until(at_ns);
            if left <= early {
                break;
            }
            self.set(left - early)?;
            let mut ready = self.timer.readable().await?;
            self.acknowledge();
            ready.clear_ready();
        }
        // Awake early: replies are read meanwhile, so that the wait does not add to their latency.
        while clock.until(at_ns) > SPIN {
            tokio::task::yield_now().await;
        }
        while clock.until(at_ns) > Duration::ZERO {
            std::hint::spin_loop();
        }
        Ok(())
    }

    fn set(&self, after: Duration) -> io::Result<()> {
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(after.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(after.subsec_nanos() as i32).max(1),
        };
        let setting = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // SAFETY: the descriptor is open, and the setting outlives the call.
        let result = unsafe { libc::timerfd_settime(self.timer.as_raw_fd(), 0, &raw const setting, std::ptr::null_mut()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Reads the expiry from the timer, so that the next one is a new event. There may be none after a cancelled wait.
    fn acknowledge(&self) {
        let mut expiries = 0u64;
        // SAFETY: the buffer is eight bytes, which is what a timer writes.
        unsafe { libc::read(self.timer.as_raw_fd(), (&raw mut expiries).cast(), size_of::<u64>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_stands_at_zero_before_the_start() {
        assert_eq!(RunClock::starting_in(Duration::from_secs(3600)).now_ns(), 0);
        assert!(RunClock::starting_in(Duration::ZERO).until(u64::MAX) > Duration::from_secs(3600));
    }

    #[tokio::test]
    async fn an_alarm_never_rings_early_and_rings_after_a_cancelled_wait() {
        let clock = RunClock::starting_in(Duration::ZERO);
        let alarm = Alarm::new().expect("a timer");
        for _ in 0..20 {
            let dropped = tokio::time::timeout(Duration::from_millis(1), alarm.wait_until(&clock, u64::MAX)).await;
            assert!(dropped.is_err());
            let at = clock.now_ns() + 2_000_000;
            alarm.wait_until(&clock, at).await.expect("waits");
            assert!(clock.now_ns() >= at);
        }
    }
}
