//! Counters of published load. Owns the state between two Load messages of a function.

use qscale_common::time::Timestamp;
use qscale_sim::Totals;
use qscale_sim::latency::LatencyHistogram;

/// Counts of a function's load at the last Load message, and the totals of replaced simulations.
#[derive(Debug, Default)]
pub(crate) struct PublishedLoad {
    pub at: Timestamp,
    pub arrived: u64,
    pub completed: u64,
    pub refused: u64,
    pub timed_out: u64,
    pub lost: u64,
    pub buckets: Vec<u64>,
    pub before: ReplacedTotals,
}

/// Totals of simulations that were replaced together with the function file.
#[derive(Debug, Default)]
pub(crate) struct ReplacedTotals {
    pub arrived: u64,
    pub completed: u64,
    pub refused: u64,
    pub timed_out: u64,
    pub lost: u64,
    pub latency: LatencyHistogram,
}

impl PublishedLoad {
    /// Nothing was published before `at`.
    #[must_use]
    pub fn at(at: Timestamp) -> Self {
        Self { at, ..Self::default() }
    }

    /// Adds the totals of a simulation that is replaced by a new one, which counts from zero.
    pub fn carry(&mut self, totals: &Totals) {
        let before = &mut self.before;
        before.arrived += totals.arrived;
        before.completed += totals.completed;
        before.refused += totals.refused;
        before.timed_out += totals.timed_out;
        before.lost += totals.failed;
        before.latency.include(&totals.latency);
        let (at, before) = (self.at, std::mem::take(before));
        *self = Self { at, before, ..Self::default() };
    }
}
