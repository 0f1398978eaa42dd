//! History of a function's load over the last hours, in about 2.6 KB: the source of the learned policy's features. Owns
//! two time series and their statistics; must not decide.
//!
//! The series are the arrival rate and the *concurrency*: the number of requests to serve at once so that none waits
//! long. Each keeps the last 64 ticks, and mean and peak of the last 240 slots. A slot is one minute, or one tick if
//! ticks are longer. Slots start at multiples of their length since 1970, so two instances that saw the same States
//! have the same summary, as soon as older slots have left the rings.
//!
//! It stays with the rules because a policy's memory may hold it, and the explanation of a decision reads it for any policy.

mod gaps;
mod season;

use std::time::Duration;

use qscale_common::contract::State;
use qscale_common::time::Tick;
use serde::{Deserialize, Serialize};

use crate::inputs::{self, MAX_VALUE as MOST, measured};
use gaps::GapStatistics;
use season::Season;

/// Number of single ticks in the ring.
const TICKS: usize = 64;
/// Number of slots in the ring: four hours of minutes.
const SLOTS: usize = 240;
/// Shortest slot, milliseconds.
const SLOT_MS: u64 = 60_000;
/// Span over which a rate is averaged before it counts as a peak, milliseconds: a few more requests within a second are noise.
const PEAK_MS: u64 = 10_000;
/// Estimate of the current level: number of requests that suffices, longest span in seconds, and standard deviations
/// that separate a jump from noise.
const ENOUGH: f64 = 100.0;
const LEVEL_S: f64 = 30.0;
const UNLIKELY: f64 = 3.0;
/// Estimate of the CPU time per request: number of ticks in the median, and responses that make the shortest window sufficient.
const REQUEST_TICKS: usize = 9;
const ENOUGH_ANSWERS: f64 = 20.0;
/// Shortest time in which the queue is to be drained, seconds.
const DRAIN_S: f64 = 2.0;
/// Marks a tick without a measurement in a ring.
const ABSENT: f32 = -1.0;

/// Load history of one function.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct History {
    tick_ms: u64,
    last: Option<Tick>,
    rate: Track,
    #[serde(alias = "presence")]
    concurrency: Track,
    /// Highest concurrency per replica observed while requests queued, and the slot of that observation.
    limit: Option<(f32, u64)>,
    /// CPU seconds per request of the last ticks, the newest last, and the slot of the newest.
    request_seconds: (Vec<f32>, u64),
    /// Statistics of the closed slots, and the slot they were computed in; recomputed if absent.
    #[serde(skip)]
    digest: Option<(u64, Digest)>,
}

/// Time series of one measure.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Track {
    ticks: Vec<f32>,
    means: Vec<Level>,
    peaks: Vec<Level>,
    /// Sum and number of the measured ticks of the current slot.
    open: (f64, u32),
}

/// Number on a logarithmic scale of 16 bits with a relative error of 0.04 %; 0 means not measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Level(u16);

impl Level {
    /// Values up to this are 0.
    const LEAST: f64 = 1e-4;
    /// Steps per octave: 16 bits hold values up to 1e7.
    const STEPS: f64 = 1795.0;
    const ZERO: Self = Self(1);

    fn of(value: f64) -> Self {
        Self((1.0 + (Self::STEPS * (1.0 + value / Self::LEAST).log2()).round()).min(f64::from(u16::MAX)) as u16)
    }

    fn get(self) -> Option<f64> {
        let steps = self.0.checked_sub(1)?;
        Some(((f64::from(steps) / Self::STEPS).exp2() - 1.0) * Self::LEAST)
    }
}

/// Peak statistics of one measure: maxima and high quantiles of the slots' peaks over several horizons, and means.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PeakStats {
    /// Peak of the current slot and the last 2.
    pub peak_2: f64,
    /// Peak of the current slot and the last 5.
    pub peak_5: f64,
    /// Peak of the current slot and the last 15.
    pub peak_15: f64,
    /// Peak of the current slot and the last 60.
    pub peak_60: f64,
    /// Peak of the current slot and the last 240.
    pub peak_240: f64,
    /// 90th percentile of the peaks of the last 60 slots.
    pub high_60: f64,
    /// 97th percentile of the peaks of the last 240 slots.
    pub high_240: f64,
    /// Mean of the last 60 slots.
    pub mean_60: f64,
    /// Mean of the last 240 slots.
    pub mean_240: f64,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Digest {
    rate: PeakStats,
    concurrency: PeakStats,
    season: Season,
    gaps: GapStatistics,
}

/// Current level and slope of a series.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Trend {
    /// Mean of the last ticks that agree with each other, over at most 30 s.
    pub level: f64,
    /// Span of the ticks in the level, seconds.
    pub span_s: f64,
    /// Change per second, by least squares over about a minute.
    pub slope_a_second: f64,
    /// Slope divided by its standard error.
    pub significance: f64,
}

/// Summary of a history: the inputs of the learned policy's features.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct HistorySummary {
    /// Arrival rate, requests/s.
    pub rate: Trend,
    /// Peaks of the arrival rate, requests/s.
    pub rate_peaks: PeakStats,
    /// Concurrency, requests.
    pub concurrency: Trend,
    /// Peaks of the concurrency, requests.
    pub concurrency_peaks: PeakStats,
    /// Seasonal forecast of the peak rate in this slot and the next, requests/s; absent without a season.
    pub seasonal_peak: Option<f64>,
    /// Share of the variation that the season explains, 0 to 1.
    pub season_trust: f64,
    /// Slots since the last one with a request, the current one included; 0 if that has one.
    pub idle_slots: u32,
    /// Probability of a request in the current slot, from the observed gaps; 1 if it has one.
    pub wake_chance: f64,
    /// Probability of a request in the next slot, given that the current one stays as it is.
    pub next_wake_chance: f64,
    /// Share of the observed slots among the last 60 that have a request.
    pub active_60: f64,
    /// Observed slots among the last 240.
    pub seen_240: u32,
    /// Concurrency limit of a replica, requests; absent if never observed.
    pub limit: Option<f64>,
    /// CPU seconds per request: the median of the last ticks, which ignores the CPU time of starting replicas.
    pub request_seconds: Option<f64>,
}

impl History {
    /// Age at which a State no longer matters.
    pub const REACH: Duration = Duration::from_secs(SLOT_MS / 1000 * SLOTS as u64);

    /// Adds `state`; one that is not newer than the last is ignored.
    pub fn add(&mut self, state: &State) {
        let length = state.tick_length_ms.max(1);
        if self.tick_ms != length || !self.rate.is_whole() || !self.concurrency.is_whole() {
            *self = Self { tick_ms: length, rate: Track::new(), concurrency: Track::new(), ..Self::default() };
        }
        if self.last.is_some_and(|last| state.tick <= last) {
            return;
        }
        let passed = self.last.map_or(u64::MAX, |last| state.tick.0 - last.0);
        let before = self.last.map_or(0, |last| self.slot_of(last));
        let slot = self.slot_of(state.tick);
        self.last = Some(state.tick);
        let rate = measured(state.windows.tick.rate_rps);
        let smooth = PEAK_MS.div_ceil(length).clamp(1, 8) as usize;
        self.rate.add(state.tick.0, passed, (slot, slot - before.min(slot)), rate, smooth);
        self.concurrency.add(state.tick.0, passed, (slot, slot - before.min(slot)), concurrency(state), 1);
        self.learn_limit(state, slot);
        self.learn_request_seconds(state, slot);
        if self.digest.as_ref().is_none_or(|(at, _)| *at != slot) {
            self.digest = Some((slot, Digest::of(self, slot)));
        }
    }

    /// Adds the CPU time per request of `state`.
    fn learn_request_seconds(&mut self, state: &State, slot: u64) {
        let Some(seconds) = request_seconds(state) else { return };
        let (recent, at) = &mut self.request_seconds;
        if recent.len() >= REQUEST_TICKS {
            recent.remove(0);
        }
        recent.push(seconds as f32);
        *at = slot;
    }

    fn slot_of(&self, tick: Tick) -> u64 {
        tick.0.saturating_mul(self.tick_ms) / self.tick_ms.max(SLOT_MS)
    }

    /// Adds an observation of the concurrency limit: while requests queue, ready replicas are full.
    fn learn_limit(&mut self, state: &State, slot: u64) {
        let window = &state.windows.tick;
        let queued = measured(window.queued).unwrap_or(0.0);
        let (Some(full), true) = (measured(window.concurrency), queued >= 1.0) else { return };
        let full = full as f32;
        let newer = |(known, at): (f32, u64)| full >= known || slot.saturating_sub(at) > SLOTS as u64;
        if full >= 0.5 && self.limit.is_none_or(newer) {
            self.limit = Some((full, slot));
        }
    }

    /// Summary as of the last State; zeros before the first.
    #[must_use]
    pub fn summary(&self) -> HistorySummary {
        let Some(last) = self.last else { return HistorySummary::default() };
        let slot = self.slot_of(last);
        let made;
        let digest = match &self.digest {
            Some((at, digest)) if *at == slot => digest,
            _ => {
                made = Digest::of(self, slot);
                &made
            }
        };
        let active = self.rate.at(slot).1 > Level::ZERO || self.concurrency.at(slot).1 > Level::ZERO;
        let recent = |(value, at): (f32, u64)| (slot.saturating_sub(at) <= SLOTS as u64).then_some(f64::from(value));
        HistorySummary {
            rate: self.rate.trend(last.0, self.tick_ms),
            rate_peaks: self.rate.with_open(digest.rate, slot, digest.gaps.seen),
            concurrency: Trend { level: self.concurrency.newest(last.0, 2).flatten().fold(0.0, f64::max), ..Trend::default() },
            concurrency_peaks: self.concurrency.with_open(digest.concurrency, slot, digest.gaps.seen),
            seasonal_peak: digest.season.forecast(),
            season_trust: digest.season.trust,
            idle_slots: if active { 0 } else { digest.gaps.idle_slots + 1 },
            wake_chance: if active { 1.0 } else { digest.gaps.wake_chances[0] },
            next_wake_chance: if active { digest.gaps.stay_chance } else { digest.gaps.wake_chances[1] },
            active_60: digest.gaps.active_60,
            seen_240: digest.gaps.seen,
            limit: self.limit.and_then(recent),
            request_seconds: median(&self.request_seconds.0).and_then(|seconds| recent((seconds, self.request_seconds.1))),
        }
    }

    /// Highest arrival rate, requests/s, and highest concurrency, requests, of the current slot and those of the last `span`, at most [`History::REACH`].
    #[must_use]
    pub fn peaks(&self, span: Duration) -> (f64, f64) {
        let Some(last) = self.last else { return (0.0, 0.0) };
        let (slot, length) = (self.slot_of(last), Duration::from_millis(self.tick_ms.max(SLOT_MS)));
        let slots = span.as_nanos().div_ceil(length.as_nanos()).min(SLOTS as u128) as usize;
        let highest = |track: &Track| {
            let peaks = track.closed(slot, slots).chain([track.at(slot)]).map(|(_, peak)| peak);
            peaks.max().and_then(Level::get).unwrap_or(0.0)
        };
        (highest(&self.rate), highest(&self.concurrency))
    }

    /// Memory of this history including its heap, bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let heap = |track: &Track| track.ticks.capacity() * 4 + (track.means.capacity() + track.peaks.capacity()) * 2;
        size_of::<Self>() + heap(&self.rate) + heap(&self.concurrency)
    }
}

impl Digest {
    fn of(history: &History, slot: u64) -> Self {
        Self {
            rate: history.rate.peak_stats(slot),
            concurrency: history.concurrency.peak_stats(slot),
            season: Season::of(&history.rate, slot),
            gaps: GapStatistics::of(history, slot),
        }
    }
}

impl Track {
    fn new() -> Self {
        Self { ticks: vec![ABSENT; TICKS], means: vec![Level::default(); SLOTS], peaks: vec![Level::default(); SLOTS], open: (0.0, 0) }
    }

    fn is_whole(&self) -> bool {
        self.ticks.len() == TICKS && self.means.len() == SLOTS && self.peaks.len() == SLOTS
    }

    /// Adds the value of `tick`, `ticks_passed` ticks and `slots_passed` slots after the previous one. Peaks are maxima
    /// of means over `smooth` ticks.
    fn add(&mut self, tick: u64, ticks_passed: u64, (slot, slots_passed): (u64, u64), value: Option<f64>, smooth: usize) {
        for skipped in 1..ticks_passed.min(TICKS as u64) {
            self.ticks[((tick - skipped.min(tick)) % TICKS as u64) as usize] = ABSENT;
        }
        self.ticks[(tick % TICKS as u64) as usize] = value.map_or(ABSENT, |value| value as f32);
        for begun in 0..slots_passed.min(SLOTS as u64) {
            let place = ((slot - begun.min(slot)) % SLOTS as u64) as usize;
            (self.means[place], self.peaks[place]) = (Level::default(), Level::default());
        }
        if slots_passed > 0 {
            self.open = (0.0, 0);
        }
        if let Some(value) = value {
            let place = (slot % SLOTS as u64) as usize;
            self.open = (self.open.0 + value, self.open.1 + 1);
            self.means[place] = Level::of(self.open.0 / f64::from(self.open.1));
            let (sum, count) = self.newest(tick, smooth).flatten().fold((0.0, 0u32), |(sum, count), value| (sum + value, count + 1));
            self.peaks[place] = self.peaks[place].max(Level::of(sum / f64::from(count.max(1))));
        }
    }

    /// Mean and peak of a slot.
    fn at(&self, slot: u64) -> (Level, Level) {
        let place = (slot % SLOTS as u64) as usize;
        (self.means[place], self.peaks[place])
    }

    /// The last `count` ticks up to `tick`, the newest first; `None` if not measured.
    fn newest(&self, tick: u64, count: usize) -> impl Iterator<Item = Option<f64>> {
        (0..count.min(TICKS) as u64).map(move |back| {
            let value = self.ticks[(tick.wrapping_sub(back) % TICKS as u64) as usize];
            (value >= 0.0).then_some(f64::from(value))
        })
    }

    /// The closed slots before `slot`, the newest first, at most `count` of them.
    fn closed(&self, slot: u64, count: usize) -> impl Iterator<Item = (Level, Level)> {
        (1..=(count.min(SLOTS - 1) as u64).min(slot)).map(move |back| self.at(slot - back))
    }

    fn peak_stats(&self, slot: u64) -> PeakStats {
        let mut peaks: Vec<Level> = self.closed(slot, SLOTS).map(|(_, peak)| peak).collect();
        let highest = |count: usize| peaks.iter().take(count).max().and_then(|peak| peak.get()).unwrap_or(0.0);
        let (peak_2, peak_5, peak_15, peak_60, peak_240) = (highest(2), highest(5), highest(15), highest(60), highest(240));
        let mean = |count: usize| {
            let (sum, seen) =
                self.closed(slot, count).filter_map(|(mean, _)| mean.get()).fold((0.0, 0u32), |(sum, seen), mean| (sum + mean, seen + 1));
            if seen == 0 { 0.0 } else { sum / f64::from(seen) }
        };
        let (mean_60, mean_240) = (mean(60), mean(240));
        let mut last_60: Vec<Level> = peaks.iter().take(60).copied().collect();
        let (high_60, high_240) = (quantile(&mut last_60, 0.9), quantile(&mut peaks, 0.97));
        PeakStats { peak_2, peak_5, peak_15, peak_60, peak_240, high_60, high_240, mean_60, mean_240 }
    }

    /// `closed` with the current slot added. `seen` is the number of observed closed slots: with few of them, the
    /// current one raises the quantiles too.
    fn with_open(&self, closed: PeakStats, slot: u64, seen: u32) -> PeakStats {
        let open = self.at(slot).1.get().unwrap_or(0.0);
        let raised = |peak: f64| peak.max(open);
        PeakStats {
            peak_2: raised(closed.peak_2),
            peak_5: raised(closed.peak_5),
            peak_15: raised(closed.peak_15),
            peak_60: raised(closed.peak_60),
            peak_240: raised(closed.peak_240),
            high_60: if seen < 10 { raised(closed.high_60) } else { closed.high_60 },
            high_240: if seen < 33 { raised(closed.high_240) } else { closed.high_240 },
            ..closed
        }
    }

    fn trend(&self, tick: u64, tick_ms: u64) -> Trend {
        let seconds = tick_ms as f64 / 1000.0;
        let (level, span_s) = self.level(tick, tick_ms);
        let count = (60_000 / tick_ms.max(1)).clamp(6, TICKS as u64) as usize;
        let (slope_a_second, significance) = self.slope(tick, count, seconds);
        Trend { level, span_s, slope_a_second, significance }
    }

    /// Mean of the newest ticks and their span in seconds. Ticks are added, the newest first, up to 100 requests (a
    /// relative error of 0.1) or 30 s. A tick that differs from the mean by more than Poisson noise ends the span, so
    /// that a jump counts at once.
    fn level(&self, tick: u64, tick_ms: u64) -> (f64, f64) {
        let seconds = tick_ms as f64 / 1000.0;
        let (mut requests, mut ticks, mut gone) = (0.0, 0.0, 0.0);
        for value in self.newest(tick, TICKS) {
            gone += 1.0;
            if let Some(value) = value {
                if ticks > 0.0 {
                    let mean: f64 = requests / ticks;
                    let expected = (mean + value * seconds) / 2.0;
                    let deviation = (expected.max(1.0) * (1.0 + 1.0 / ticks)).sqrt();
                    if (value * seconds - mean).abs() > UNLIKELY * deviation {
                        break;
                    }
                }
                requests += value * seconds;
                ticks += 1.0;
            }
            if requests >= ENOUGH || gone * seconds >= LEVEL_S {
                break;
            }
        }
        if ticks == 0.0 { (0.0, seconds) } else { (requests / ticks / seconds, ticks * seconds) }
    }

    /// Slope per second by least squares over the last `count` ticks, and its ratio to its standard error.
    fn slope(&self, tick: u64, count: usize, seconds: f64) -> (f64, f64) {
        let mut sums = [0.0; 5];
        for (back, value) in self.newest(tick, count).enumerate() {
            let (Some(value), time) = (value, -(back as f64) * seconds) else { continue };
            for (sum, term) in sums.iter_mut().zip([1.0, time, value, time * time, time * value]) {
                *sum += term;
            }
        }
        let [n, time, value, time_time, time_value] = sums;
        let spread = time_time - time * time / n;
        if n < 4.0 || spread <= 0.0 {
            return (0.0, 0.0);
        }
        let slope = (time_value - time * value / n) / spread;
        let at_zero = (value - slope * time) / n;
        let left: f64 = (self.newest(tick, count).enumerate())
            .filter_map(|(back, value)| Some((value? - at_zero + slope * back as f64 * seconds).powi(2)))
            .sum();
        // A series without any noise has at least the error of a count.
        let variance = (left / (n - 2.0)).max(value / n / seconds / 10.0).max(1e-12);
        (slope, slope / (variance / spread).sqrt())
    }
}

/// Requests to serve at once: those in flight, and the part of the queue that must start now so that the queue is
/// drained within one tick, or within the objective if that is longer (Little's law, with the duration of the requests
/// in flight).
fn concurrency(state: &State) -> Option<f64> {
    let short = &state.windows.short;
    let ready = inputs::ready_in(state, short)?;
    let here = inputs::in_flight(state)?;
    let queued = measured(state.windows.tick.queued).unwrap_or(0.0);
    let lasts = measured(short.concurrency).zip(measured(short.completed_rps)).filter(|(_, done)| *done > 0.0);
    let drain_s = (state.tick_length_ms.max(state.objective.latency_ms.min(600_000)) as f64 / 1000.0).max(DRAIN_S);
    let part = lasts.map_or(1.0, |(each, done)| (each * ready / done / drain_s).min(1.0));
    Some((here - queued).max(0.0) + queued * part)
}

/// Rate that serves, within a tick, those of the `present` requests, in flight or queued, that cannot be served within half of the objective at `level`
/// requests/s.
#[must_use]
pub fn waiting_rps(state: &State, present: f64, level: f64) -> f64 {
    let (objective_s, tick_s) = (state.objective.latency_ms as f64 / 1000.0, state.tick_length_ms as f64 / 1000.0);
    let in_time = level * objective_s / 2.0 + 1.0;
    (present - in_time).max(0.0) / tick_s.max(DRAIN_S)
}

/// CPU seconds per request, from the shortest window with enough responses, else from the longest with any.
fn request_seconds(state: &State) -> Option<f64> {
    let windows = [&state.windows.tick, &state.windows.short, &state.windows.long];
    let measured_windows = windows.map(|window| {
        let answered = inputs::answered_rps(window)?;
        let used = measured(state.cores_used(window))?;
        (answered > 0.0).then(|| (answered * window.covered_ms as f64 / 1000.0, (used / answered).min(MOST)))
    });
    let enough = measured_windows.iter().flatten().find(|(answers, _)| *answers >= ENOUGH_ANSWERS);
    enough.or(measured_windows.iter().flatten().last()).map(|(_, seconds)| *seconds)
}

/// Median; the lower one of an even number.
fn median(values: &[f32]) -> Option<f32> {
    let mut sorted = [0.0f32; REQUEST_TICKS];
    let sorted = sorted.get_mut(..values.len()).filter(|sorted| !sorted.is_empty())?;
    sorted.copy_from_slice(values);
    sorted.sort_unstable_by(f32::total_cmp);
    Some(sorted[(values.len() - 1) / 2])
}

/// Quantile `share` of the measured `levels`; 0 if there are none.
fn quantile(levels: &mut Vec<Level>, share: f64) -> f64 {
    levels.retain(|level| *level > Level::default());
    if levels.is_empty() {
        return 0.0;
    }
    let place = ((levels.len() as f64 * share).ceil() as usize).clamp(1, levels.len()) - 1;
    levels.select_nth_unstable(place).1.get().unwrap_or(0.0)
}

#[cfg(test)]
mod tests;
