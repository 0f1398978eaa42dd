//! What was seen of a function's load over the last hours, in some 2.6 KB. Owns the course of two measures and what is told from it; must not decide.
//!
//! The measures are the rate of arrivals and the *presence*: how many requests would have to be worked on at once so that those which are there do not wait for
//! long. Of each there are the last 64 ticks, and mean and peak of the last 240 slots. A slot is a minute, or a tick where that is longer, and slots begin at multiples of their length since 1970: whoever
//! saw the same States tells the same, whenever it began to look, once what it did not see has left the rings.

mod gaps;
mod season;

use std::time::Duration;

use qscale_common::contract::State;
use qscale_common::time::Tick;
use serde::{Deserialize, Serialize};

use crate::inputs::{self, MAX_VALUE as MOST, measured};
use gaps::Gaps;
use season::Season;

/// Ticks that are kept one by one.
const TICKS: usize = 64;
/// Slots that are kept: four hours of minutes.
const SLOTS: usize = 240;
/// Shortest slot.
const SLOT_MS: u64 = 60_000;
/// Ticks over which a rate is averaged before it counts as a peak, as far as they are shorter: a few requests more within a second are chance.
const PEAK_MS: u64 = 10_000;
/// Requests that tell a level well enough, longest time that it is told from, and how many deviations no chance makes.
const ENOUGH: f64 = 100.0;
const LEVEL_S: f64 = 30.0;
const UNLIKELY: f64 = 3.0;
/// Ticks of whose CPU time a request the median is taken, and requests that a window must have answered to tell it alone.
const REQUEST_TICKS: usize = 9;
const ENOUGH_ANSWERS: f64 = 20.0;
/// Shortest time within which those that queue are to be worked on, seconds.
const DRAIN_S: f64 = 2.0;
/// What was not measured, in a ring of ticks.
const ABSENT: f32 = -1.0;

/// What was seen of one function's load.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct History {
    tick_ms: u64,
    last: Option<Tick>,
    rate: Track,
    presence: Track,
    /// Most requests that one replica was given at once while others queued, and the slot in which that was seen.
    limit: Option<(f32, u64)>,
    /// CPU seconds of a request as the last ticks told them, the newest last, and the slot of the newest.
    request_seconds: (Vec<f32>, u64),
    /// What the closed slots say, as of this slot; made anew where it is not there.
    #[serde(skip)]
    digest: Option<(u64, Digest)>,
}

/// The course of one measure.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Track {
    ticks: Vec<f32>,
    means: Vec<Level>,
    peaks: Vec<Level>,
    /// Sum and number of the measured ticks of the slot that is open.
    open: (f64, u32),
}

/// A number on a logarithmic scale of 16 bits, to 0.04 %; 0 stands for what was not measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Level(u16);

impl Level {
    /// What is no more than this is 0.
    const LEAST: f64 = 1e-4;
    /// Steps an octave: 1e7 is the most that 16 bits hold.
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

/// What the closed slots say of one measure: peaks over so many slots, and high quantiles of the slots' peaks.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Heights {
    /// Peak of the slot that is open and the last two.
    pub peak_2: f64,
    /// Peak of the slot that is open and the last 5.
    pub peak_5: f64,
    /// Peak of the slot that is open and the last 15.
    pub peak_15: f64,
    /// Peak of the slot that is open and the last 60.
    pub peak_60: f64,
    /// Peak of the slot that is open and the last 240.
    pub peak_240: f64,
    /// What nine in ten of the peaks of the last 60 slots do not exceed.
    pub high_60: f64,
    /// What 97 in 100 of the peaks of the last 240 slots do not exceed.
    pub high_240: f64,
    /// Mean of the last 60 slots.
    pub mean_60: f64,
    /// Mean of the last 240 slots.
    pub mean_240: f64,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Digest {
    rate: Heights,
    presence: Heights,
    season: Season,
    gaps: Gaps,
}

/// The newest of a course: what it is, and where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Trend {
    /// Mean over the last ticks, as many as agree with each other and tell it well, at most half a minute of them.
    pub level: f64,
    /// Length of the ticks that the level is told from, seconds.
    pub span_s: f64,
    /// Change a second, by least squares over about a minute.
    pub slope_a_second: f64,
    /// How many times its error the slope is.
    pub significance: f64,
}

/// What a history tells.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Told {
    /// Where the rate of arrivals stands; requests a second.
    pub rate: Trend,
    /// How high the rate was.
    pub rate_heights: Heights,
    /// Where the presence stands.
    pub presence: Trend,
    /// How high the presence was.
    pub presence_heights: Heights,
    /// Peak rate that the season foretells for this slot and the next, where there is a season.
    pub foretold: Option<f64>,
    /// How much of the course the season explains, 0 to 1.
    pub season_trust: f64,
    /// Slots since the last one with a request, the open one included; 0 where that has one.
    pub idle_slots: u32,
    /// Chance that the slot that is open has a request, 0 to 1, by the gaps that were seen; 1 where it has one.
    pub wake_chance: f64,
    /// Chance that the next slot has one; where the open one has none, given that it stays so.
    pub next_wake_chance: f64,
    /// Share of the last 60 slots that were seen which have a request.
    pub active_60: f64,
    /// Slots of the last 240 that were seen.
    pub seen_240: u32,
    /// Requests that one replica is given at once at most, where that was seen.
    pub limit: Option<f64>,
    /// CPU seconds of a request: the median of what the last ticks told, so that a replica which starts and computes for itself does not count.
    pub request_seconds: Option<f64>,
}

impl History {
    /// How far back a State still matters.
    pub const REACH: Duration = Duration::from_secs(SLOT_MS / 1000 * SLOTS as u64);

    /// Takes in `state`. One that is no newer than the last is passed over.
    pub fn see(&mut self, state: &State) {
        let length = state.tick_length_ms.max(1);
        if self.tick_ms != length || !self.rate.is_whole() || !self.presence.is_whole() {
            *self = Self { tick_ms: length, rate: Track::new(), presence: Track::new(), ..Self::default() };
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
        self.presence.add(state.tick.0, passed, (slot, slot - before.min(slot)), presence(state), 1);
        self.learn_limit(state, slot);
        self.learn_request_seconds(state, slot);
        if self.digest.as_ref().is_none_or(|(at, _)| *at != slot) {
            self.digest = Some((slot, Digest::of(self, slot)));
        }
    }

    /// Takes in what a request computes as `state` tells it, which was just seen.
    fn learn_request_seconds(&mut self, state: &State, slot: u64) {
        let Some(seconds) = request_seconds(state) else { return };
        let (told, at) = &mut self.request_seconds;
        if told.len() >= REQUEST_TICKS {
            told.remove(0);
        }
        told.push(seconds as f32);
        *at = slot;
    }

    fn slot_of(&self, tick: Tick) -> u64 {
        tick.0.saturating_mul(self.tick_ms) / self.tick_ms.max(SLOT_MS)
    }

    /// While requests queue, ready replicas are full.
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

    /// What it tells; nothing before the first State.
    #[must_use]
    pub fn told(&self) -> Told {
        let Some(last) = self.last else { return Told::default() };
        let slot = self.slot_of(last);
        let made;
        let digest = match &self.digest {
            Some((at, digest)) if *at == slot => digest,
            _ => {
                made = Digest::of(self, slot);
                &made
            }
        };
        let active = self.rate.at(slot).1 > Level::ZERO || self.presence.at(slot).1 > Level::ZERO;
        let recent = |(value, at): (f32, u64)| (slot.saturating_sub(at) <= SLOTS as u64).then_some(f64::from(value));
        Told {
            rate: self.rate.trend(last.0, self.tick_ms),
            rate_heights: self.rate.with_open(digest.rate, slot, digest.gaps.seen),
            presence: Trend { level: self.presence.newest(last.0, 2).flatten().fold(0.0, f64::max), ..Trend::default() },
            presence_heights: self.presence.with_open(digest.presence, slot, digest.gaps.seen),
            foretold: digest.season.foretold(),
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

    /// Bytes that it takes, on the heap and off it.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let heap = |track: &Track| track.ticks.capacity() * 4 + (track.means.capacity() + track.peaks.capacity()) * 2;
        size_of::<Self>() + heap(&self.rate) + heap(&self.presence)
    }
}

impl Digest {
    fn of(history: &History, slot: u64) -> Self {
        Self {
            rate: history.rate.heights(slot),
            presence: history.presence.heights(slot),
            season: Season::of(&history.rate, slot),
            gaps: Gaps::of(history, slot),
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

    /// Takes in the value of `tick`, which comes so many ticks and slots after the one before. Of so many ticks the mean counts as a peak.
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

    /// The last `count` ticks that end with `tick`, the newest first; nothing for what was not measured.
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

    fn heights(&self, slot: u64) -> Heights {
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
        Heights { peak_2, peak_5, peak_15, peak_60, peak_240, high_60, high_240, mean_60, mean_240 }
    }

    /// `heights`, told from so many closed slots, with what the open slot adds: of few slots it is one that a quantile would name.
    fn with_open(&self, heights: Heights, slot: u64, seen: u32) -> Heights {
        let open = self.at(slot).1.get().unwrap_or(0.0);
        let raised = |height: f64| height.max(open);
        Heights {
            peak_2: raised(heights.peak_2),
            peak_5: raised(heights.peak_5),
            peak_15: raised(heights.peak_15),
            peak_60: raised(heights.peak_60),
            peak_240: raised(heights.peak_240),
            high_60: if seen < 10 { raised(heights.high_60) } else { heights.high_60 },
            high_240: if seen < 33 { raised(heights.high_240) } else { heights.high_240 },
            ..heights
        }
    }

    fn trend(&self, tick: u64, tick_ms: u64) -> Trend {
        let seconds = tick_ms as f64 / 1000.0;
        let (level, span_s) = self.level(tick, tick_ms);
        let count = (60_000 / tick_ms.max(1)).clamp(6, TICKS as u64) as usize;
        let (slope_a_second, significance) = self.slope(tick, count, seconds);
        Trend { level, span_s, slope_a_second, significance }
    }

    /// Mean over the newest ticks and their length in seconds. Ticks are added, the newest first, until a hundred requests tell it to a tenth or half a minute
    /// is over; one that lies further from the mean than chance makes it, of a Poisson count, ends them, so that a jump counts at once.
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

    /// Slope a second by least squares over the last ticks, and how many times its error it is.
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
        // Of a course without any noise the error is that of a count.
        let variance = (left / (n - 2.0)).max(value / n / seconds / 10.0).max(1e-12);
        (slope, slope / (variance / spread).sqrt())
    }
}

/// Requests that would have to be worked on at once: those that are in flight, and of those that queue as many as are to begin at once so that all of them
/// are done within a tick, or within the objective where that is longer (by Little's law, given how long requests in flight last).
fn presence(state: &State) -> Option<f64> {
    let short = &state.windows.short;
    let ready = inputs::ready_in(state, short)?;
    let here = inputs::in_flight(state)?;
    let queued = measured(state.windows.tick.queued).unwrap_or(0.0);
    let lasts = measured(short.concurrency).zip(measured(short.completed_rps)).filter(|(_, done)| *done > 0.0);
    let drain_s = (state.tick_length_ms.max(state.objective.latency_ms.min(600_000)) as f64 / 1000.0).max(DRAIN_S);
    let part = lasts.map_or(1.0, |(each, done)| (each * ready / done / drain_s).min(1.0));
    Some((here - queued).max(0.0) + queued * part)
}

/// CPU seconds of one request by the newest window that answered enough of them, else by the longest that answered any.
fn request_seconds(state: &State) -> Option<f64> {
    let windows = [&state.windows.tick, &state.windows.short, &state.windows.long];
    let told = windows.map(|window| {
        let answered = inputs::answered_rps(window)?;
        let used = measured(state.cores_used(window))?;
        (answered > 0.0).then(|| (answered * window.covered_ms as f64 / 1000.0, (used / answered).min(MOST)))
    });
    let enough = told.iter().flatten().find(|(answers, _)| *answers >= ENOUGH_ANSWERS);
    enough.or(told.iter().flatten().last()).map(|(_, seconds)| *seconds)
}

/// The median, the lower one of two.
fn median(values: &[f32]) -> Option<f32> {
    let mut sorted = [0.0f32; REQUEST_TICKS];
    let sorted = sorted.get_mut(..values.len()).filter(|sorted| !sorted.is_empty())?;
    sorted.copy_from_slice(values);
    sorted.sort_unstable_by(f32::total_cmp);
    Some(sorted[(values.len() - 1) / 2])
}

/// What `share` of `levels` that were measured do not exceed; 0 where there is none.
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
