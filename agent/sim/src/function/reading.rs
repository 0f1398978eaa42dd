//! Measurements of a function: its Scrape at an instant. Owns the form of counters; must not change anything but time.

use std::time::Duration;

use qscale_common::contract::Headroom;
use qscale_common::scrape::{FunctionScrape, IngressReading, PlatformReading, PlatformReplicas, Scrape};
use qscale_common::time::Timestamp;
use qscale_common::units::Replicas;

use super::Function;
use crate::nanos::Nanos;
use crate::replica::Phase;
use crate::totals::Totals;

/// A scrape of a function, with spare memory for more replicas.
#[derive(Debug, Clone, Default)]
pub struct ScrapeBuffer {
    /// The scrape.
    pub scrape: FunctionScrape,
    /// Room left on the nodes; `None` if they are unlimited.
    pub headroom: Option<Headroom>,
    spare: Vec<Scrape>,
}

/// Counters of taken totals, which Scrapes still show.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TakenCounters {
    arrived: u64,
    became_ready: u64,
    crashes: u64,
    oom_kills: u64,
}

impl TakenCounters {
    /// The sum with `totals`.
    fn with(&self, totals: &Totals) -> Self {
        Self {
            arrived: self.arrived + totals.arrived,
            became_ready: self.became_ready + totals.became_ready,
            crashes: self.crashes + totals.crashes,
            oom_kills: self.oom_kills + totals.oom_kills,
        }
    }

    /// Adds `totals` before they are taken.
    pub fn add(&mut self, totals: &Totals) {
        *self = self.with(totals);
    }
}

impl Function {
    /// Reads all measurements at `now`, with timestamp `at`, into `reading`, reusing its memory.
    pub fn scrape(&mut self, now: Nanos, at: Timestamp, reading: &mut ScrapeBuffer) {
        self.advance(now);
        self.read_platform(at, reading);
        let arrived = self.taken.with(&self.totals).arrived;
        reading.scrape.ingress =
            Some(IngressReading { at, arrived: arrived.into(), failed: self.failed_at_gateway.into(), queued: self.queue.len() as f64 });
        // A pending replica has nothing to read.
        reading.resize(self.replicas().filter(|replica| replica.phase != Phase::Pending).count());
        let placed = self.slots.iter_mut().flatten().filter(|replica| replica.phase != Phase::Pending);
        for (replica, scrape) in placed.zip(&mut reading.scrape.replicas) {
            name_of(&self.profile.name, replica.number, &mut scrape.replica);
            let ended = matches!(replica.phase, Phase::BackOff { .. });
            // Every field is named, so that a new one cannot be forgotten.
            *scrape = Scrape {
                replica: std::mem::take(&mut scrape.replica),
                at,
                started: Some(at.minus(Duration::from(now.since(replica.begun)))),
                last_started: None,
                requests: Some(replica.requests),
                in_flight: Some(f64::from(replica.load)),
                cpu: Some(replica.cpu(now).into()),
                working_set_bytes: Some(if ended { 0 } else { self.profile.memory.working_set(replica.load) }),
                restarts: Some(replica.restarts.into()),
                oom_kills: Some(replica.oom_kills.into()),
            };
        }
    }

    /// Reads the platform's own part, which is never late, at the current instant with timestamp `at`.
    pub fn read_platform(&self, at: Timestamp, reading: &mut ScrapeBuffer) {
        let TakenCounters { became_ready, crashes, oom_kills, .. } = self.taken.with(&self.totals);
        let phase = |wanted: fn(Phase) -> bool| Replicas(self.replicas().filter(|replica| wanted(replica.phase)).count() as u32);
        // Values that only other platforms report stay absent.
        let mut platform = PlatformReading::new(at);
        platform.allocation = Some(self.allocation);
        platform.replicas = Some(PlatformReplicas {
            desired: self.allocation.replicas,
            ready: phase(|phase| phase == Phase::Ready),
            pending: phase(|phase| matches!(phase, Phase::Pending | Phase::Starting { .. } | Phase::BackOff { .. })),
        });
        (platform.crashes, platform.oom_kills) = (Some(crashes), Some(oom_kills));
        platform.startups = Some((became_ready, self.startup_time.0 / 1_000_000));
        reading.scrape.platform = Some(platform);
        reading.headroom = self.pool.as_deref().map(|pool| pool.headroom(self.allocation));
    }
}

/// Writes `function-00012`, without `format!`, since it runs for every replica at every scrape.
fn name_of(function: &str, number: u32, name: &mut String) {
    name.clear();
    name.push_str(function);
    name.push('-');
    let digits = number.checked_ilog10().map_or(1, |log| log + 1).max(5);
    (0..digits).rev().for_each(|place| name.push(char::from(b'0' + (number / 10u32.pow(place) % 10) as u8)));
}

impl ScrapeBuffer {
    fn resize(&mut self, replicas: usize) {
        let now = &mut self.scrape.replicas;
        while now.len() > replicas {
            self.spare.extend(now.pop());
        }
        while now.len() < replicas {
            now.push(self.spare.pop().unwrap_or_else(empty));
        }
    }
}

fn empty() -> Scrape {
    Scrape::new("", Timestamp(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_at_least_five_digits() {
        let mut name = String::new();
        for number in [0, 7, 12_345, 123_456, u32::MAX] {
            name_of("f", number, &mut name);
            assert_eq!(name, format!("f-{number:05}"));
        }
    }
}
