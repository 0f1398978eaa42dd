//! CPU of one replica on an overcommitted node: a share of a core for each of its cores, as the node's scheduler gives
//! it, under the same quota as in [`super`]. Owns the arithmetic; must not know other replicas.
//!
//! Shares are constant between two events, so every question is answered in closed form. Spending the quota and
//! regaining it are events here, since they change the shares of others. With whole cores it counts the same as
//! [`super::Cpu`].

use qscale_common::scrape::{CpuCounters, CpuPeriods};
use qscale_common::units::Millicores;

use super::{PERIOD, Processor, quota};
use crate::nanos::Nanos;

const PERIOD_LENGTH: f64 = PERIOD.0 as f64;

/// Quota, its remainder, share of a core, and usage.
#[derive(Debug, Clone)]
pub struct Portion {
    /// Quota of a period.
    quota: f64,
    /// Share of a core for each computing core, above 0 to 1.
    speed: f64,
    /// Instant up to which usage is accounted.
    at: u64,
    /// End of the period in which `at` lies.
    period_end: u64,
    /// Quota left in it.
    left: f64,
    /// Whether it is throttled: the quota is spent and more is wanted.
    throttled: bool,
    usage: f64,
    periods: u64,
    throttled_periods: u64,
    /// Whether this period is counted in both already.
    counted: bool,
    counted_throttled: bool,
}

impl Portion {
    /// CPU of a replica whose first period begins at `begin`.
    #[must_use]
    pub fn new(begin: Nanos, limit: Millicores) -> Self {
        let quota = quota(limit) as f64;
        Self {
            quota,
            speed: 1.0,
            at: begin.0,
            period_end: begin.0 + PERIOD.0,
            left: quota,
            throttled: false,
            usage: 0.0,
            periods: 0,
            throttled_periods: 0,
            counted: false,
            counted_throttled: false,
        }
    }

    /// Sets the limit from the accounted instant on.
    pub fn limit(&mut self, limit: Millicores) {
        self.quota = quota(limit) as f64;
        self.left = self.quota;
        (self.throttled, self.counted_throttled) = (false, false);
    }

    /// Sets the share of a core for each computing core from the accounted instant on.
    pub fn set_speed(&mut self, speed: f64) {
        self.speed = speed;
    }

    /// Whether it is throttled.
    #[must_use]
    pub fn throttled(&self) -> bool {
        self.throttled
    }

    /// Next instant at which the quota throttles `cores` or releases them.
    #[must_use]
    pub fn turn(&self, cores: u32) -> Nanos {
        if cores == 0 {
            return Nanos::NEVER;
        }
        if self.throttled {
            return Nanos(self.period_end);
        }
        let rate = self.rate(cores);
        let here = (self.left / rate).ceil();
        if here < (self.period_end - self.at) as f64 {
            return Nanos(self.at + here as u64);
        }
        let later = (self.quota / rate).ceil();
        if later < PERIOD_LENGTH { Nanos(self.period_end + later as u64) } else { Nanos::NEVER }
    }

    /// Applies the change that [`Portion::turn`] predicted; usage must be accounted up to it.
    pub fn turned(&mut self) {
        if self.throttled {
            self.roll(1);
        } else {
            // Whole nanoseconds may leave a fraction.
            self.left = 0.0;
            self.throttled = true;
        }
    }

    fn rate(&self, cores: u32) -> f64 {
        self.speed * f64::from(cores)
    }

    /// Throttled until `until`.
    fn wait(&mut self, until: u64) {
        if until > self.at && !self.counted_throttled {
            self.counted_throttled = true;
            self.throttled_periods += 1;
        }
        self.at = self.at.max(until);
    }

    fn run_within(&mut self, until: u64, rate: f64) -> f64 {
        let asked = until.saturating_sub(self.at) as f64 * rate;
        let got = asked.min(self.left);
        self.left -= got;
        self.at = self.at.max(until);
        if got > 0.0 && !self.counted {
            self.counted = true;
            self.periods += 1;
        }
        got
    }

    fn run_through_periods(&mut self, until: u64, rate: f64) -> f64 {
        let mut got = self.run_within(self.period_end, rate);
        // No period before the last one throttles, or a change would have happened.
        let whole = (until - self.period_end) / PERIOD.0;
        self.roll(1);
        if whole > 0 {
            self.periods += whole;
            got += whole as f64 * self.quota.min(PERIOD_LENGTH * rate);
            self.at = self.period_end + (whole - 1) * PERIOD.0;
            self.roll(whole);
        }
        got + self.run_within(until, rate)
    }

    fn roll(&mut self, periods: u64) {
        self.period_end += periods * PERIOD.0;
        self.left = self.quota;
        self.throttled = false;
        (self.counted, self.counted_throttled) = (false, false);
    }

    /// CPU counters up to the accounted instant.
    #[must_use]
    pub fn counters(&self) -> CpuCounters {
        let periods = CpuPeriods { runnable: self.periods, throttled: self.throttled_periods };
        CpuCounters { usage_us: (self.usage / 1000.0) as u64, periods: Some(periods), ..CpuCounters::default() }
    }
}

impl Processor for Portion {
    fn idle(&mut self, until: Nanos) {
        if until.0 >= self.period_end {
            self.roll((until.0 - self.period_end) / PERIOD.0 + 1);
        }
        self.at = self.at.max(until.0);
    }

    fn run(&mut self, until: Nanos, cores: u32) -> f64 {
        let rate = self.rate(cores);
        let got = if self.throttled {
            self.wait(until.0);
            0.0
        } else if until.0 <= self.period_end {
            self.run_within(until.0, rate)
        } else {
            self.run_through_periods(until.0, rate)
        };
        self.usage += got;
        got
    }

    fn end(&self, work: f64, cores: u32) -> Nanos {
        if work <= 0.0 {
            return Nanos(self.at);
        }
        if self.throttled {
            return Nanos::NEVER;
        }
        Nanos(self.at + (work / self.rate(cores)).ceil() as u64)
    }
}
