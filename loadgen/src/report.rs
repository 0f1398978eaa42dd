//! Statistics and summary of a run. Owns counting records, percentiles, and the criteria that make a run void.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use qscale_common::contract::{Failures, LatencyBucket};
use qscale_common::load::{BUCKET_RATIO, FIRST_BUCKET_US, FunctionLoad, LatencySummary, LoadSummary, SendLag};

use crate::record::{FailureKind, RequestRecord, RequestStatus};

/// Counts and latencies of a set of requests. Its size does not grow with their number.
#[derive(Debug, Clone)]
pub struct RequestStats {
    /// Requests that were due.
    pub due: u64,
    /// Requests sent.
    pub sent: u64,
    /// Successful requests.
    pub succeeded: u64,
    /// Requests still in flight at the end.
    pub censored: u64,
    /// Failed requests by kind.
    pub failures: BTreeMap<FailureKind, u64>,
    /// Latencies of successful requests from their intended send time, microseconds.
    pub latency_us: Histogram<u64>,
    /// Send lags, nanoseconds.
    pub lag_ns: Histogram<u64>,
}

/// Three significant digits: percentiles are exact to 0.1%.
fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are within the range")
}

impl Default for RequestStats {
    fn default() -> Self {
        Self { due: 0, sent: 0, succeeded: 0, censored: 0, failures: BTreeMap::new(), latency_us: histogram(), lag_ns: histogram() }
    }
}

impl RequestStats {
    /// Counts one request.
    pub fn add(&mut self, record: &RequestRecord) {
        self.due += 1;
        self.sent += u64::from(record.sent_ns.is_some());
        self.succeeded += u64::from(record.succeeded());
        self.censored += u64::from(record.status == RequestStatus::Censored);
        if let Some(failure) = record.failure() {
            *self.failures.entry(failure).or_default() += 1;
        }
        // The histogram resizes, so recording cannot fail.
        if let Some(latency) = record.latency_ns() {
            let _ = self.latency_us.record((latency + 500) / 1_000);
        }
        if let Some(lag) = record.lag_ns() {
            let _ = self.lag_ns.record(lag);
        }
    }

    /// Failed requests of all kinds.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Resets all counts, keeping the memory.
    pub fn clear(&mut self) {
        (self.due, self.sent, self.succeeded, self.censored) = (0, 0, 0, 0);
        self.failures.clear();
        self.latency_us.reset();
        self.lag_ns.reset();
    }

    /// Failures in the categories of a Load message.
    #[must_use]
    pub fn failure_counts(&self) -> Failures {
        let mut counts = Failures::default();
        for (failure, count) in &self.failures {
            match failure {
                FailureKind::Status(RequestStatus::Timeout) => counts.timeout += count,
                FailureKind::Status(RequestStatus::Refused | RequestStatus::Unreachable | RequestStatus::Broken) => {
                    counts.connection += count
                }
                FailureKind::Status(RequestStatus::NotSent) => counts.not_sent += count,
                FailureKind::Status(RequestStatus::Malformed) | FailureKind::InvalidReply => counts.invalid += count,
                FailureKind::Status(_) => counts.status += count,
            }
        }
        counts
    }

    /// Latencies as buckets of a Load message: about fifty, each a quarter wider than the one before.
    #[must_use]
    pub fn latency_buckets(&self) -> Vec<LatencyBucket> {
        let buckets = self.latency_us.iter_log(FIRST_BUCKET_US, BUCKET_RATIO).filter(|bucket| bucket.count_since_last_iteration() > 0);
        let mut rising: Vec<LatencyBucket> = Vec::new();
        for bucket in buckets {
            let (le_us, count) = (bucket.value_iterated_to(), bucket.count_since_last_iteration());
            match rising.last_mut() {
                Some(last) if last.le_us >= le_us => last.count += count,
                _ => rising.push(LatencyBucket { le_us, count }),
            }
        }
        rising
    }
}

/// Statistics of a run.
#[derive(Debug)]
pub struct RunTotals {
    /// All requests.
    pub all: RequestStats,
    /// Each function, by index.
    pub functions: Vec<RequestStats>,
    /// All requests since the last [`RunTotals::next_second`].
    pub second: RequestStats,
    /// Each function since then; empty if not requested.
    pub second_of: Vec<RequestStats>,
    /// Intended send time of the last request, nanoseconds since the start.
    pub last_due_ns: u64,
}

impl RunTotals {
    /// Empty statistics; `by_second` enables [`RunTotals::second_of`].
    #[must_use]
    pub fn new(functions: usize, by_second: bool) -> Self {
        Self {
            all: RequestStats::default(),
            functions: vec![RequestStats::default(); functions],
            second: RequestStats::default(),
            second_of: if by_second { vec![RequestStats::default(); functions] } else { Vec::new() },
            last_due_ns: 0,
        }
    }

    /// Counts one request.
    pub fn add(&mut self, record: &RequestRecord) {
        let function = record.function as usize;
        let of_function = self.functions.get_mut(function).into_iter().chain(self.second_of.get_mut(function));
        [&mut self.all, &mut self.second].into_iter().chain(of_function).for_each(|stats| stats.add(record));
        self.last_due_ns = self.last_due_ns.max(record.intended_ns);
    }

    /// Begins a new second.
    pub fn next_second(&mut self) {
        self.second.clear();
        self.second_of.iter_mut().for_each(RequestStats::clear);
    }
}

/// Properties of a run for its summary.
#[derive(Debug, Clone)]
pub struct RunInfo {
    /// Name of the run.
    pub run: String,
    /// Start, microseconds since 1970.
    pub started_unix_us: u64,
    /// Address.
    pub target: String,
    /// Protocol.
    pub protocol: String,
    /// Seed.
    pub seed: u64,
    /// Scheduling class of the pacing threads.
    pub scheduling: String,
    /// Names of the functions.
    pub functions: Vec<String>,
    /// Planned duration of sending; `None` for a whole trace.
    pub planned: Option<Duration>,
    /// Whether it was stopped before its end.
    pub stopped_early: bool,
    /// Actual duration of sending.
    pub sending: Duration,
    /// Bound on the p99 of send lag.
    pub max_lag: Duration,
}

/// Latencies of `stats`; `None` if no request succeeded.
#[must_use]
pub fn latency_of(stats: &RequestStats) -> Option<LatencySummary> {
    let histogram = &stats.latency_us;
    let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
    (!histogram.is_empty()).then(|| LatencySummary {
        mean: Some(rounded(histogram.mean() / 1e3)),
        p50: at(0.5),
        p90: at(0.9),
        p95: at(0.95),
        p99: at(0.99),
        p999: at(0.999),
        max: Some(histogram.max() as f64 / 1e3),
    })
}

/// Send lags of `stats`; `None` if no request was sent.
#[must_use]
pub fn lag_of(stats: &RequestStats) -> Option<SendLag> {
    let histogram = &stats.lag_ns;
    let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
    (!histogram.is_empty()).then(|| SendLag { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: histogram.max() as f64 / 1e3 })
}

/// Share of requests that may be late or not sent before a run is void: beyond it the 99th percentile is meaningless.
const TOLERATED: f64 = 0.01;

/// Reasons why the run is void: the generator, not the functions, failed to keep the schedule.
fn void_reasons(all: &RequestStats, max_lag: Duration) -> Vec<String> {
    let mut reasons = Vec::new();
    let lag = Duration::from_nanos(all.lag_ns.value_at_quantile(1.0 - TOLERATED));
    if lag > max_lag {
        reasons.push(format!("send lag p99 = {lag:.1?} exceeds max-lag = {max_lag:?}: requests were sent late"));
    }
    let not_sent = all.failures.get(&FailureKind::Status(RequestStatus::NotSent)).copied().unwrap_or(0);
    if not_sent as f64 > all.due as f64 * TOLERATED {
        let share = 100.0 * not_sent as f64 / all.due.max(1) as f64;
        reasons.push(format!("{not_sent} requests ({share:.1} %) were not sent because max-in-flight was reached: raise it"));
    }
    reasons
}

/// Summarises a run.
#[must_use]
pub fn summarize(totals: &RunTotals, info: RunInfo) -> LoadSummary {
    let seconds = info.sending.as_secs_f64();
    let line = |function: &str, stats: &RequestStats| FunctionLoad {
        function: function.to_owned(),
        due: stats.due,
        sent: stats.sent,
        succeeded: stats.succeeded,
        failed: stats.failed(),
        censored: stats.censored,
        offered_rps: rate(stats.due, seconds),
        achieved_rps: rate(stats.succeeded, seconds),
        failures: stats.failures.iter().map(|(failure, count)| (failure.to_string(), *count)).collect(),
        latency_ms: latency_of(stats),
    };
    let void_reasons = void_reasons(&totals.all, info.max_lag);
    LoadSummary {
        version: LoadSummary::VERSION,
        void: !void_reasons.is_empty(),
        void_reasons,
        stopped_early: info.stopped_early,
        started_unix_us: info.started_unix_us,
        sending_s: rounded(seconds),
        send_lag_us: lag_of(&totals.all),
        total: line("total", &totals.all),
        functions: info.functions.iter().zip(&totals.functions).map(|(name, stats)| line(name, stats)).collect(),
        run: info.run,
        target: info.target,
        protocol: info.protocol,
        seed: Some(info.seed),
        scheduling: info.scheduling,
    }
}

fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { rounded(count as f64 / seconds) } else { 0.0 }
}

fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Maximum number of functions in the table. A trace may have thousands; `--json` lists all.
const SHOWN: usize = 20;

/// Displays a summary as a table.
pub struct SummaryTable<'a>(pub &'a LoadSummary);

impl fmt::Display for SummaryTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.functions.iter().take(SHOWN).map(|line| line.function.len()).max().unwrap_or(0).max("function".len());
        writeln!(
            f,
            "{:width$}  {:>10} {:>10} {:>9} {:>8} {:>8} {:>9} {:>9} {:>9} {:>9}",
            "function", "offered/s", "good/s", "requests", "failed", "censored", "p50 ms", "p95 ms", "p99 ms", "max ms"
        )?;
        let total = (self.0.functions.len() != 1).then_some(&self.0.total);
        for line in self.0.functions.iter().take(SHOWN).chain(total) {
            write!(
                f,
                "{:width$}  {:>10.1} {:>10.1} {:>9} {:>8} {:>8}",
                line.function, line.offered_rps, line.achieved_rps, line.due, line.failed, line.censored
            )?;
            match &line.latency_ms {
                Some(latency) => {
                    writeln!(f, " {:>9.3} {:>9.3} {:>9.3} {:>9.3}", latency.p50, latency.p95, latency.p99, latency.max.unwrap_or(f64::NAN))?
                }
                None => writeln!(f, " {:>9} {:>9} {:>9} {:>9}", "-", "-", "-", "-")?,
            }
        }
        if self.0.functions.len() > SHOWN {
            writeln!(f, "({} more functions; --json shows them)", self.0.functions.len() - SHOWN)?;
        }
        for (kind, count) in &self.0.total.failures {
            writeln!(f, "failed: {count} {kind}")?;
        }
        if let Some(lag) = &self.0.send_lag_us {
            writeln!(
                f,
                "send lag: p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us, max {:.1} us, under {}",
                lag.p50, lag.p99, lag.p999, lag.max, self.0.scheduling
            )?;
        }
        for reason in &self.0.void_reasons {
            writeln!(f, "VOID: {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use qscale_common::workload::Arrival;

    use super::*;

    fn record(status: RequestStatus, valid: Option<bool>, latency_us: u64, lag_us: u64) -> RequestRecord {
        let arrival = Arrival { at: Duration::ZERO, function: 0, duration_ms: 0, memory_mib: 0 };
        let sent = (status != RequestStatus::NotSent).then_some(lag_us * 1_000);
        let replied = (status == RequestStatus::Ok).then_some(latency_us * 1_000);
        RequestRecord { status, valid, sent_ns: sent, replied_ns: replied, ..RequestRecord::due(0, &arrival, 0) }
    }

    fn good(latency_us: u64) -> RequestRecord {
        record(RequestStatus::Ok, Some(true), latency_us, 10)
    }

    fn summary(records: &[RequestRecord]) -> LoadSummary {
        let mut totals = RunTotals::new(1, false);
        records.iter().for_each(|record| totals.add(record));
        let info = RunInfo {
            run: "r".to_owned(),
            started_unix_us: 0,
            target: String::new(),
            protocol: String::new(),
            seed: 0,
            scheduling: "SCHED_OTHER".to_owned(),
            functions: vec!["f".to_owned()],
            planned: None,
            stopped_early: false,
            sending: Duration::from_secs(10),
            max_lag: Duration::from_millis(5),
        };
        summarize(&totals, info)
    }

    #[test]
    fn summary_is_read_back_from_its_json() {
        for records in [vec![good(1_000), record(RequestStatus::Timeout, None, 9_000_000, 10)], Vec::new()] {
            let summary = summary(&records);
            let json = serde_json::to_string(&summary).expect("writes");
            assert_eq!(serde_json::from_str::<LoadSummary>(&json).expect("reads"), summary);
        }
    }

    #[test]
    fn failures_are_counted_and_never_measured() {
        let records =
            [good(1_000), record(RequestStatus::Timeout, None, 9_000_000, 10), record(RequestStatus::Ok, Some(false), 5_000_000, 10)];
        let summary = summary(&records);
        assert_eq!((summary.total.due, summary.total.succeeded, summary.total.failed), (3, 1, 2));
        let latency = summary.total.latency_ms.expect("one was measured");
        assert_eq!((latency.p50, latency.max), (1.0, Some(1.0)));
        assert_eq!(summary.total.failures.into_iter().collect::<Vec<_>>(), [("invalid_reply".to_owned(), 1), ("timeout".to_owned(), 1)]);
    }

    #[test]
    fn censored_requests_are_counted_separately() {
        let summary = summary(&[good(1_000), record(RequestStatus::Censored, None, 0, 10)]);
        assert_eq!((summary.total.due, summary.total.succeeded, summary.total.failed, summary.total.censored), (2, 1, 0, 1));
    }

    #[test]
    fn percentiles_are_exact_to_a_thousandth() {
        let records: Vec<_> = (1..=100_000).map(good).collect();
        let latency = summary(&records).total.latency_ms.expect("measured");
        assert!((latency.p99 - 99.0).abs() <= 0.1, "{}", latency.p99);
        assert!((latency.p50 - 50.0).abs() <= 0.05, "{}", latency.p50);
    }

    #[test]
    fn a_run_with_late_sends_is_void() {
        let late =
            |late: usize| summary(&[vec![record(RequestStatus::Ok, Some(true), 9_000, 8_000); late], vec![good(1); 1_000 - late]].concat());
        assert!(!late(9).void);
        assert!(late(11).void && late(11).void_reasons[0].contains("send lag p99 = 8.0"), "{:?}", late(11).void_reasons);
    }

    #[test]
    fn a_run_with_unsent_requests_is_void() {
        let summary = summary(&[vec![record(RequestStatus::NotSent, None, 0, 0); 20], vec![good(1); 980]].concat());
        assert!(summary.void && summary.void_reasons[0].contains("20 requests (2.0 %)"));
    }

    #[test]
    fn an_empty_run_has_no_latency_and_is_not_void() {
        let summary = summary(&[]);
        assert!(!summary.void && summary.total.latency_ms.is_none() && summary.send_lag_us.is_none());
        assert!(SummaryTable(&summary).to_string().contains("function"));
    }

    #[test]
    fn buckets_of_a_load_message_rise_and_contain_every_success() {
        let mut stats = RequestStats::default();
        [1, 50, 99, 100, 101, 5_000, 5_001, 90_000_000].into_iter().for_each(|latency| stats.add(&good(latency)));
        let buckets = stats.latency_buckets();
        assert!(buckets.windows(2).all(|pair| pair[0].le_us < pair[1].le_us), "{buckets:?}");
        assert_eq!(buckets.iter().map(|bucket| bucket.count).sum::<u64>(), 8);
    }
}
