//! What really happened, where Scrapes show only what a collector can see. Owns the sums of an interval; must not know how long it was.

use crate::latency::Histogram;
use crate::nanos::Nanos;

/// What happened to a function over an interval, or over all its life. 5.7 KB.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Totals {
    /// Requests that arrived.
    pub arrived: u64,
    /// Requests answered well.
    pub completed: u64,
    /// Requests that were lost with their replica: a crash, a kill for memory, a lost node.
    pub failed: u64,
    /// Requests that found the queue full.
    pub refused: u64,
    /// Requests that took longer than the gateway waits.
    pub timed_out: u64,
    /// Latencies of those answered well.
    pub latency: Histogram,
    /// Their sum.
    pub latency_sum: Nanos,
    /// Replicas that were started.
    pub starts: u64,
    /// Those that were started again, after a crash or a kill for memory.
    pub restarts: u64,
    /// Starts and restarts that became ready.
    pub became_ready: u64,
    /// Times that a request started the function from zero.
    pub wakes: u64,
    /// Replicas that ended by themselves, other than for memory.
    pub crashes: u64,
    /// Replicas that were killed for memory.
    pub oom_kills: u64,
    /// Replicas that were lost with their node.
    pub lost: u64,
    /// CPU limits of the replicas that there were, times how long, core-seconds. One that no node has room for costs nothing.
    pub core_seconds: f64,
    /// Memory limits of the replicas that there were, times how long, GiB-seconds.
    pub gibibyte_seconds: f64,
}

impl Totals {
    /// Requests that got no good answer.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        self.failed + self.refused + self.timed_out
    }

    /// The latency below which `share` (0 to 1) of the requests lie that ended, those without a good answer slower than any; `None` where that is one of
    /// them, or where none ended.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Nanos> {
        self.latency.quantile(share, self.unanswered())
    }

    /// Requests of those that ended that were not answered well within `bound`.
    #[must_use]
    pub fn violations(&self, bound: Nanos) -> f64 {
        (self.completed as f64 - self.latency.within(bound)).max(0.0) + self.unanswered() as f64
    }

    /// Adds what happened over another interval.
    pub fn include(&mut self, other: &Totals) {
        self.arrived += other.arrived;
        self.completed += other.completed;
        self.failed += other.failed;
        self.refused += other.refused;
        self.timed_out += other.timed_out;
        self.latency.include(&other.latency);
        self.latency_sum += other.latency_sum;
        self.starts += other.starts;
        self.restarts += other.restarts;
        self.became_ready += other.became_ready;
        self.wakes += other.wakes;
        self.crashes += other.crashes;
        self.oom_kills += other.oom_kills;
        self.lost += other.lost;
        self.core_seconds += other.core_seconds;
        self.gibibyte_seconds += other.gibibyte_seconds;
    }

    /// Begins a new interval in the same memory.
    pub fn clear(&mut self) {
        let Totals {
            arrived,
            completed,
            failed,
            refused,
            timed_out,
            latency,
            latency_sum,
            starts,
            restarts,
            became_ready,
            wakes,
            crashes,
            oom_kills,
            lost,
            core_seconds,
            gibibyte_seconds,
        } = self;
        for count in [arrived, completed, failed, refused, timed_out, starts, restarts, became_ready, wakes, crashes, oom_kills, lost] {
            *count = 0;
        }
        latency.clear();
        *latency_sum = Nanos::ZERO;
        (*core_seconds, *gibibyte_seconds) = (0.0, 0.0);
    }
}
