//! CPU of one replica on a node whose CPU more replicas want than there is: a share of a core for each of its own, as the node's scheduler gives it, under
//! the same quota as ever. Owns the arithmetic; must not know who else computes.
//!
//! Between two events every share stays as it is, so that whatever is asked is answered in closed form. A replica that spends its quota, or may compute
//! again, is an event here, since the others get more or less from then on. With whole cores it counts what [`super::Cpu`] counts.

use qscale_common::scrape::CpuCounters;
use qscale_common::units::Millicores;

use super::{PERIOD, Processor, quota};
use crate::nanos::Nanos;

const PERIOD_LENGTH: f64 = PERIOD.0 as f64;

/// Quota, what is left of it, what a core gets, and what was used.
#[derive(Debug, Clone)]
pub struct Portion {
    /// CPU time a period.
    quota: f64,
    /// What each core that computes gets of a core, above 0, at most 1.
    speed: f64,
    /// Up to when use is accounted.
    at: u64,
    /// End of the period in which `at` lies.
    period_end: u64,
    /// CPU time left in it.
    left: f64,
    /// Whether the quota is spent and someone wants more.
    throttled: bool,
    usage: f64,
    periods: u64,
    throttled_periods: u64,
    /// Whether this period is counted among those two already.
    counted: bool,
    counted_throttled: bool,
}

impl Portion {
    /// CPU of a replica that begins at `begin`, which is when its first period begins.
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

    /// Sets another limit, from where use is accounted up to.
    pub fn limit(&mut self, limit: Millicores) {
        self.quota = quota(limit) as f64;
        self.left = self.quota;
        (self.throttled, self.counted_throttled) = (false, false);
    }

    /// Each core that computes gets so much of a core, from where use is accounted up to.
    pub fn set_speed(&mut self, speed: f64) {
        self.speed = speed;
    }

    /// Whether the quota holds it back.
    #[must_use]
    pub fn throttled(&self) -> bool {
        self.throttled
    }

    /// When the quota stops `cores` that compute, or lets them go on.
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

    /// Lives through what [`Portion::turn`] foresaw, up to which use is accounted.
    pub fn turned(&mut self) {
        if self.throttled {
            self.roll(1);
        } else {
            // Whole nanoseconds may leave a fraction of one.
            self.left = 0.0;
            self.throttled = true;
        }
    }

    fn rate(&self, cores: u32) -> f64 {
        self.speed * f64::from(cores)
    }

    /// Someone wants to compute until then and may not.
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
        // No period holds it back before the last one, or it would have turned.
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

    /// What was used up to where it is accounted.
    #[must_use]
    pub fn counters(&self) -> CpuCounters {
        CpuCounters { usage_us: (self.usage / 1000.0) as u64, periods: self.periods, throttled_periods: self.throttled_periods }
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
