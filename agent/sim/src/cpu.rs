//! CPU of one replica under a quota: Linux CFS bandwidth control, with a quota of CPU time in each period of 100 ms and
//! throttling once it is spent (`Documentation/scheduler/sched-bwc.rst`). Owns the arithmetic of periods; must not know
//! which request computes.
//!
//! Every question is answered in closed form over any number of periods, so throttling adds no events. Deviations from
//! the kernel: quota is used exactly, not in slices of 5 ms a core, and the last, idle period of a busy spell is not
//! counted.

use qscale_common::scrape::{CpuCounters, CpuPeriods};
use qscale_common::units::Millicores;

use crate::nanos::Nanos;

pub mod portion;

/// CPU time for the requests of a replica.
pub trait Processor {
    /// Idles until `until`.
    fn idle(&mut self, until: Nanos);
    /// Computes on `cores` without a pause until `until`, as far as the quota allows. Returns the CPU time, nanoseconds.
    fn run(&mut self, until: Nanos, cores: u32) -> f64;
    /// End of `work` nanoseconds of computing on `cores` without a pause.
    fn end(&self, work: f64, cores: u32) -> Nanos;
}

impl Processor for Cpu {
    #[inline]
    fn idle(&mut self, until: Nanos) {
        Cpu::idle(self, until);
    }

    #[inline]
    fn run(&mut self, until: Nanos, cores: u32) -> f64 {
        Cpu::run(self, until, cores).0 as f64
    }

    #[inline]
    fn end(&self, work: f64, cores: u32) -> Nanos {
        Cpu::end(self, Nanos(work.ceil() as u64), cores)
    }
}

/// Length of a period, the default of the kernel and of Kubernetes.
pub const PERIOD: Nanos = Nanos::millis(100);

/// Least quota that the kernel accepts: 1 ms a period.
const LEAST_QUOTA: u64 = 1_000_000;

/// Quota, its remainder, and usage.
#[derive(Debug, Clone)]
pub struct Cpu {
    /// Quota of a period.
    quota: u64,
    /// Instant up to which usage is accounted.
    at: u64,
    /// End of the period in which `at` lies.
    period_end: u64,
    /// Quota left in it.
    left: u64,
    usage: u64,
    periods: u64,
    throttled: u64,
    /// Throttled time.
    held_back: u64,
    /// Whether this period is counted in both already.
    counted: bool,
    counted_throttled: bool,
}

impl Cpu {
    /// CPU of a replica whose first period begins at `begin`.
    #[must_use]
    pub fn new(begin: Nanos, limit: Millicores) -> Self {
        let quota = quota(limit);
        Self {
            quota,
            at: begin.0,
            period_end: begin.0 + PERIOD.0,
            left: quota,
            usage: 0,
            periods: 0,
            throttled: 0,
            held_back: 0,
            counted: false,
            counted_throttled: false,
        }
    }

    /// Sets the limit from the accounted instant on. The quota of the current period is refilled, as in the kernel.
    pub fn limit(&mut self, limit: Millicores) {
        self.quota = quota(limit);
        self.left = self.quota;
        self.counted_throttled = false;
    }

    /// Instant up to which usage is accounted.
    #[must_use]
    pub fn at(&self) -> Nanos {
        Nanos(self.at)
    }

    /// Idles until `until`.
    #[inline]
    pub fn idle(&mut self, until: Nanos) {
        // None if the period has not ended.
        let passed = (until.0 + PERIOD.0).saturating_sub(self.period_end) / PERIOD.0;
        let same = passed == 0;
        self.period_end += passed * PERIOD.0;
        self.left = if same { self.left } else { self.quota };
        self.counted &= same;
        self.counted_throttled &= same;
        self.at = self.at.max(until.0);
    }

    /// Restarts at `now` after a rest, for a process that ended while it was throttled.
    pub fn resume(&mut self, now: Nanos) {
        if self.at > now.0 {
            let after = (self.period_end - now.0) % PERIOD.0;
            self.period_end = now.0 + if after == 0 { PERIOD.0 } else { after };
            self.at = now.0;
            self.left = self.quota;
            (self.counted, self.counted_throttled) = (false, false);
        } else {
            self.idle(now);
        }
    }

    /// End of `work` on `cores` without a pause, from the accounted instant on.
    #[inline]
    #[must_use]
    pub fn end(&self, work: Nanos, cores: u32) -> Nanos {
        let (work, cores) = (work.0, u64::from(cores));
        let span = divided(work, cores);
        // Which case applies is predictable for a quota, but rarely for an instant within a period.
        if self.suffices(cores) || (work <= self.left && self.at + span <= self.period_end) {
            return Nanos(self.at + span);
        }
        self.end_in_a_later_period(work, cores)
    }

    /// Whether the quota never throttles `cores`, neither in this period nor later.
    #[inline]
    fn suffices(&self, cores: u64) -> bool {
        self.quota >= PERIOD.0 * cores && self.left >= (self.period_end - self.at) * cores
    }

    fn end_in_a_later_period(&self, work: u64, cores: u64) -> Nanos {
        let here = self.left.min((self.period_end - self.at) * cores);
        // The remainder is positive, or the work would end in this period.
        let work = work - here;
        let a_period = self.quota.min(PERIOD.0 * cores);
        let whole = (work - 1) / a_period;
        Nanos(self.period_end + whole * PERIOD.0 + divided(work - whole * a_period, cores))
    }

    /// Computes on `cores` without a pause until `until`, as far as the quota allows. Returns the CPU time.
    #[inline]
    pub fn run(&mut self, until: Nanos, cores: u32) -> Nanos {
        let cores = u64::from(cores);
        let got = if self.suffices(cores) {
            self.run_freely(until.0, cores)
        } else if until.0 <= self.period_end {
            self.run_within(until.0, cores)
        } else {
            self.run_through_periods(until.0, cores)
        };
        self.usage += got;
        Nanos(got)
    }

    /// The case without throttling, free of branches, since the position of an end within its period is unpredictable.
    #[inline]
    fn run_freely(&mut self, until: u64, cores: u64) -> u64 {
        let until = until.max(self.at);
        let got = (until - self.at) * cores;
        let entered = until.saturating_sub(self.period_end).div_ceil(PERIOD.0);
        let same = entered == 0;
        let ran_here = if same { got > 0 } else { self.at < self.period_end };
        self.periods += entered + u64::from(ran_here & !self.counted);
        self.period_end += entered * PERIOD.0;
        let (left, from) = if same { (self.left, self.at) } else { (self.quota, self.period_end - PERIOD.0) };
        self.left = left - (until - from) * cores;
        self.counted = !same | self.counted | (got > 0);
        self.counted_throttled &= same;
        self.at = until;
        got
    }

    fn run_through_periods(&mut self, until: u64, cores: u64) -> u64 {
        let mut got = self.run_within(self.period_end, cores);
        let whole = (until - self.period_end) / PERIOD.0;
        self.roll(1);
        if whole > 0 {
            got += self.run_whole(whole, cores);
        }
        got + self.run_within(until, cores)
    }

    #[inline]
    fn run_within(&mut self, until: u64, cores: u64) -> u64 {
        let asked = until.saturating_sub(self.at) * cores;
        let got = asked.min(self.left);
        self.left -= got;
        self.at = self.at.max(until);
        if got > 0 && !self.counted {
            self.counted = true;
            self.periods += 1;
        }
        if got < asked {
            self.held_back += (asked - got) / cores;
            self.throttled += u64::from(!self.counted_throttled);
            self.counted_throttled = true;
        }
        got
    }

    fn run_whole(&mut self, periods: u64, cores: u64) -> u64 {
        let a_period = self.quota.min(PERIOD.0 * cores);
        self.periods += periods;
        if a_period < PERIOD.0 * cores {
            self.throttled += periods;
            self.held_back += periods * (PERIOD.0 - a_period / cores);
        }
        self.at = self.period_end + (periods - 1) * PERIOD.0;
        self.roll(periods);
        periods * a_period
    }

    /// Begin of the period `periods` after this one.
    #[inline]
    fn roll(&mut self, periods: u64) {
        self.period_end += periods * PERIOD.0;
        self.left = self.quota;
        self.counted = false;
        self.counted_throttled = false;
    }

    /// Throttled time up to the accounted instant.
    #[must_use]
    pub fn held_back(&self) -> Nanos {
        Nanos(self.held_back)
    }

    /// CPU counters up to the accounted instant.
    #[must_use]
    pub fn counters(&self) -> CpuCounters {
        let periods = CpuPeriods { runnable: self.periods, throttled: self.throttled };
        CpuCounters { usage_us: self.usage / 1000, periods: Some(periods), ..CpuCounters::default() }
    }
}

fn quota(limit: Millicores) -> u64 {
    (u64::from(limit.0) * (PERIOD.0 / 1000)).max(LEAST_QUOTA)
}

/// Divides, rounding up; nearly always by one.
#[inline]
fn divided(work: u64, cores: u64) -> u64 {
    if cores == 1 { work } else { work.div_ceil(cores) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Nanos {
        Nanos::millis(ms)
    }

    #[track_caller]
    fn check(limit: u32, start_ms: u64, work_ms: u64, cores: u32, end_ms: u64, periods: u64, throttled: u64) {
        let mut cpu = Cpu::new(Nanos::ZERO, Millicores(limit));
        cpu.idle(ms(start_ms));
        let end = cpu.end(ms(work_ms), cores);
        assert_eq!(end, ms(end_ms));
        assert_eq!(cpu.run(end, cores), ms(work_ms));
        assert_eq!(
            cpu.counters(),
            CpuCounters { usage_us: work_ms * 1000, periods: Some(CpuPeriods { runnable: periods, throttled }), ..CpuCounters::default() }
        );
    }

    #[test]
    fn work_within_the_quota_is_not_held_back() {
        check(250, 0, 25, 1, 25, 1, 0);
        check(1000, 0, 1000, 1, 1000, 10, 0);
        check(2000, 30, 150, 2, 105, 2, 0);
    }

    #[test]
    fn work_beyond_the_quota_waits_for_the_next_period() {
        check(250, 0, 26, 1, 101, 2, 1);
        check(250, 0, 75, 1, 225, 3, 2);
        // 20 ms before the period ends, then 25, 25, and 5.
        check(250, 80, 75, 1, 305, 4, 2);
        // Two cores spend the quota in half the time.
        check(500, 0, 100, 2, 125, 2, 1);
    }

    #[test]
    fn throttled_time_is_the_rest_of_each_period() {
        let mut cpu = Cpu::new(Nanos::ZERO, Millicores(250));
        cpu.run(ms(350), 1);
        // 75 ms in each of three periods, and 25 ms of the fourth.
        assert_eq!(cpu.held_back(), ms(250));
        let mut cpu = Cpu::new(Nanos::ZERO, Millicores(500));
        cpu.run(ms(100), 2);
        assert_eq!(cpu.held_back(), ms(75));
    }

    #[test]
    fn a_new_limit_refills_the_quota() {
        let mut cpu = Cpu::new(Nanos::ZERO, Millicores(100));
        assert_eq!(cpu.run(ms(50), 1), ms(10));
        cpu.limit(Millicores(1000));
        assert_eq!(cpu.run(ms(100), 1), ms(50));
    }

    proptest! {
        #[test]
        fn the_predicted_end_is_exact(
            limit in 1u32..5000,
            earlier in prop::collection::vec((0u64..1 << 28, any::<bool>(), 1u32..5), 0..5),
            work in 1u64..1 << 31,
            cores in 1u32..5,
        ) {
            let mut cpu = Cpu::new(Nanos::ZERO, Millicores(limit));
            let mut at = Nanos::ZERO;
            for (span, idle, cores) in earlier {
                at += Nanos(span);
                if idle {
                    cpu.idle(at);
                } else {
                    cpu.run(at, cores);
                }
            }
            let end = cpu.end(Nanos(work), cores);
            let mut early = cpu.clone();
            let got = cpu.run(end, cores);
            prop_assert!(got.0 >= work && got.0 < work + u64::from(cores), "{got:?} of {work}");
            prop_assert!(early.run(Nanos(end.0 - 1), cores).0 < work);
        }

        #[test]
        fn intermediate_scrapes_change_nothing(limit in 1u32..1500, looks in prop::collection::vec(1u64..1 << 28, 1..20), cores in 1u32..3) {
            let begin = Nanos(12_345);
            let (mut once, mut often) = (Cpu::new(begin, Millicores(limit)), Cpu::new(begin, Millicores(limit)));
            let end = Nanos(begin.0 + looks.iter().sum::<u64>());
            let mut at = begin;
            let got: u64 = looks.iter().map(|look| { at += Nanos(*look); often.run(at, cores).0 }).sum();
            prop_assert_eq!(once.run(end, cores).0, got);
            prop_assert_eq!(once.counters(), often.counters());
        }
    }
}
