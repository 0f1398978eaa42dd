//! True totals of a function, including data that a collector cannot see. Owns the sums of an interval; must not know its length.

use crate::latency::LatencyHistogram;
use crate::nanos::Nanos;

/// Totals of a function over an interval or a whole run. 5.7 KB.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Totals {
    /// Requests that arrived.
    pub arrived: u64,
    /// Sum of their durations if each had a whole core and did not queue.
    pub demand: Nanos,
    /// Requests completed successfully.
    pub completed: u64,
    /// Requests lost with their replica: a crash, an out-of-memory kill, a lost node.
    pub failed: u64,
    /// Requests refused by a full queue.
    pub refused: u64,
    /// Requests that timed out.
    pub timed_out: u64,
    /// Latencies of successful requests.
    pub latency: LatencyHistogram,
    /// Sum of these latencies.
    pub latency_sum: Nanos,
    /// Replicas that were started.
    pub starts: u64,
    /// Replicas that were restarted after a crash or an out-of-memory kill.
    pub restarts: u64,
    /// Starts and restarts that became ready.
    pub became_ready: u64,
    /// Times that a request started the function from zero replicas.
    pub wakes: u64,
    /// Requests that arrived when no replica was ready.
    pub cold: u64,
    /// Starts and restarts that became ready when no request waited.
    pub prewarmed: u64,
    /// Replicas that were removed before they took a request.
    pub unused: u64,
    /// Crashes.
    pub crashes: u64,
    /// Out-of-memory kills.
    pub oom_kills: u64,
    /// Replicas lost with their node.
    pub lost: u64,
    /// Integral of the CPU limits of placed replicas, core-seconds.
    pub core_seconds: f64,
    /// Integral of the memory limits of placed replicas, GiB-seconds.
    pub gibibyte_seconds: f64,
    /// The part of it in which the replica had a request.
    pub busy_gibibyte_seconds: f64,
}

impl Totals {
    /// Failed, refused and timed out requests.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        self.failed + self.refused + self.timed_out
    }

    /// Latency quantile `share` (0 to 1) of the ended requests, where unsuccessful ones count as slower than any;
    /// `None` if that is one of them, or if none ended.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Nanos> {
        self.latency.quantile(share, self.unanswered())
    }

    /// Ended requests that were not successful within `bound`.
    #[must_use]
    pub fn violations(&self, bound: Nanos) -> f64 {
        (self.completed as f64 - self.latency.within(bound)).max(0.0) + self.unanswered() as f64
    }

    /// Adds the totals of another interval.
    pub fn include(&mut self, other: &Totals) {
        self.arrived += other.arrived;
        self.demand = Nanos(self.demand.0.saturating_add(other.demand.0));
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
        self.cold += other.cold;
        self.prewarmed += other.prewarmed;
        self.unused += other.unused;
        self.crashes += other.crashes;
        self.oom_kills += other.oom_kills;
        self.lost += other.lost;
        self.core_seconds += other.core_seconds;
        self.gibibyte_seconds += other.gibibyte_seconds;
        self.busy_gibibyte_seconds += other.busy_gibibyte_seconds;
    }

    /// Resets, reusing memory.
    pub fn clear(&mut self) {
        let Totals {
            arrived,
            demand,
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
            cold,
            prewarmed,
            unused,
            crashes,
            oom_kills,
            lost,
            core_seconds,
            gibibyte_seconds,
            busy_gibibyte_seconds,
        } = self;
        let requests = [arrived, completed, failed, refused, timed_out, cold];
        let replicas = [starts, restarts, became_ready, wakes, prewarmed, unused, crashes, oom_kills, lost];
        for count in requests.into_iter().chain(replicas) {
            *count = 0;
        }
        latency.clear();
        (*demand, *latency_sum) = (Nanos::ZERO, Nanos::ZERO);
        (*core_seconds, *gibibyte_seconds, *busy_gibibyte_seconds) = (0.0, 0.0, 0.0);
    }
}
