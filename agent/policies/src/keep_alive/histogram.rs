//! The hybrid histogram policy: keep-alive and prewarming by the distribution of idle times. Owns the bins and the
//! choice between its three branches.
//!
//! Where public re-implementations differ, this one uses: the population's standard deviation; the end of the tail's
//! bin; times counted from the end of the last execution; no prewarming if the bins are not representative. Idle times
//! beyond the bins are forecast by a first-order autoregression instead of the unpublished ARIMA.

use std::time::Duration;

use super::KeepAliveHistogram;

/// Counts of idle times: one bin a minute for four hours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdleTimes {
    bins: Vec<u32>,
    beyond: u32,
    recent_minutes: Vec<u32>,
}

/// Prewarming and keep-alive times since the end of the last execution. A prewarm of zero keeps the replica until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAliveWindows {
    /// Time at which a replica must be ready again.
    pub prewarm: Duration,
    /// Time until which it stays.
    pub keep_alive: Duration,
}

impl IdleTimes {
    /// Bins, one a minute.
    pub const MINUTES: usize = 240;
    /// Share of idle times beyond the bins from which the forecast is used.
    const BEYOND: f64 = 0.5;
    /// Margin around a forecast.
    const FORECAST_MARGIN: f64 = 0.15;
    /// Idle times that the forecast uses.
    const RECENT: usize = 60;

    /// Records an idle time between two requests.
    pub fn record(&mut self, idle: Duration) {
        let minutes = idle.as_secs() / 60;
        self.bins.resize(Self::MINUTES, 0);
        let count = self.bins.get_mut(usize::try_from(minutes).unwrap_or(usize::MAX)).unwrap_or(&mut self.beyond);
        *count = count.saturating_add(1);
        if self.recent_minutes.len() == Self::RECENT {
            self.recent_minutes.remove(0);
        }
        self.recent_minutes.push(u32::try_from(minutes).unwrap_or(u32::MAX));
    }

    /// Current prewarming and keep-alive times.
    #[must_use]
    pub fn windows(&self, rule: &KeepAliveHistogram) -> KeepAliveWindows {
        let minutes = |minutes: f64| Duration::from_secs_f64(minutes * 60.0);
        let within: f64 = self.bins.iter().map(|count| f64::from(*count)).sum();
        let all = within + f64::from(self.beyond);
        if all > 0.0 && f64::from(self.beyond) / all >= Self::BEYOND {
            let idle = forecast_next(&self.recent_minutes);
            let prewarm = (1.0 - Self::FORECAST_MARGIN) * idle;
            return KeepAliveWindows { prewarm: minutes(prewarm), keep_alive: minutes(prewarm + 2.0 * Self::FORECAST_MARGIN * idle) };
        }
        if within == 0.0 || self.variation() < rule.representative {
            return KeepAliveWindows { prewarm: Duration::ZERO, keep_alive: minutes(Self::MINUTES as f64) };
        }
        let (head, tail) = (self.percentile(rule.head * within), self.percentile(rule.tail * within) + 1);
        KeepAliveWindows { prewarm: minutes((1.0 - rule.margin) * head as f64), keep_alive: minutes((1.0 + rule.margin) * tail as f64) }
    }

    /// Coefficient of variation of the bin counts.
    #[must_use]
    pub fn variation(&self) -> f64 {
        let count = Self::MINUTES as f64;
        let mean = self.bins.iter().map(|bin| f64::from(*bin)).sum::<f64>() / count;
        let variance = self.bins.iter().map(|bin| (f64::from(*bin) - mean).powi(2)).sum::<f64>() / count;
        if mean > 0.0 { variance.sqrt() / mean } else { 0.0 }
    }

    /// First bin up to which `share` of the idle times lie.
    fn percentile(&self, share: f64) -> usize {
        let mut sum = 0.0;
        let reached = self.bins.iter().position(|count| {
            sum += f64::from(*count);
            sum >= share && sum > 0.0
        });
        reached.unwrap_or(Self::MINUTES - 1)
    }
}

/// Forecast of the next idle time, minutes, by first-order autocorrelation and mean.
fn forecast_next(series: &[u32]) -> f64 {
    let values: Vec<f64> = series.iter().map(|minutes| f64::from(*minutes)).collect();
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let around: Vec<f64> = values.iter().map(|value| value - mean).collect();
    let together: f64 = around.windows(2).map(|pair| pair[0] * pair[1]).sum();
    let alone: f64 = around.iter().map(|value| value * value).sum();
    let weight = if alone > 0.0 { (together / alone).clamp(-1.0, 1.0) } else { 0.0 };
    (mean + weight * around.last().copied().unwrap_or(0.0)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(minutes: impl IntoIterator<Item = u64>) -> IdleTimes {
        let mut idle = IdleTimes::default();
        minutes.into_iter().for_each(|minutes| idle.record(Duration::from_secs(minutes * 60 + 30)));
        idle
    }

    #[track_caller]
    fn check(idle: &IdleTimes, prewarm_minutes: f64, keep_alive_minutes: f64) {
        let KeepAliveWindows { prewarm, keep_alive } = idle.windows(&KeepAliveHistogram::default());
        assert!((prewarm.as_secs_f64() - prewarm_minutes * 60.0).abs() < 1e-6, "prewarm {prewarm:?}");
        assert!((keep_alive.as_secs_f64() - keep_alive_minutes * 60.0).abs() < 1e-6, "keep alive {keep_alive:?}");
    }

    #[test]
    fn derived_cases() {
        let regular = of([10; 20]);
        assert!((regular.variation() - 239f64.sqrt()).abs() < 1e-9, "{}", regular.variation());
        check(&regular, 9.0, 12.1);
        check(&IdleTimes::default(), 0.0, 240.0);
        let uniform = of(0..240);
        assert_eq!(uniform.variation(), 0.0);
        check(&uniform, 0.0, 240.0);
        let beyond = of([300, 300, 300, 10, 10]).windows(&KeepAliveHistogram::default());
        let idle = beyond.prewarm.as_secs_f64() / 0.85;
        assert!(idle > 0.0 && (beyond.keep_alive.as_secs_f64() - 1.15 * idle).abs() < 1e-6, "the forecast's branch: {beyond:?}");
        check(&of([300; 5]), 0.85 * 300.0, 1.15 * 300.0);
    }

    #[test]
    fn answers_by_the_configured_policy() {
        let idle = of([vec![10; 19], vec![20]].concat());
        let windows = |rule: KeepAliveHistogram| {
            let KeepAliveWindows { prewarm, keep_alive } = idle.windows(&rule);
            (prewarm.as_secs() / 60, keep_alive.as_secs() / 60)
        };
        let plain = KeepAliveHistogram { margin: 0.0, ..KeepAliveHistogram::default() };
        assert_eq!(windows(plain), (10, 21));
        assert_eq!(windows(KeepAliveHistogram { tail: 0.5, ..plain }), (10, 11));
        assert_eq!(windows(KeepAliveHistogram { margin: 0.5, ..plain }), (5, 31));
        assert_eq!(windows(KeepAliveHistogram { representative: 100.0, ..plain }), (0, 240));
    }

    #[test]
    fn a_forecast_follows_what_goes_up_and_down() {
        let forecast = forecast_next(&[300, 500, 300, 500, 300, 500]);
        assert!(forecast < 350.0, "{forecast}");
        assert_eq!(forecast_next(&[400; 5]), 400.0);
        assert_eq!(forecast_next(&[]), 0.0);
    }
}
