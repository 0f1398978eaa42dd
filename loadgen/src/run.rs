//! A run from start to summary. Owns the threads, the work of every second, and the observers; the engine owns pacing.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use qscale_common::contract::{Load, Version};
use qscale_common::load::{LatencySummary, LoadSummary, SendLag};
use qscale_common::runtime::clock;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::config::{ConnectionMode, LoadConfig};
use crate::engine::{self, EngineConfig, ThreadChannels, ThreadCounters};
use crate::files::{FileConfig, Files};
use crate::pacing::{RunClock, SchedulingClass, nanos};
use crate::protocol::Codec;
use crate::record::RequestRecord;
use crate::report::{RunInfo, RunTotals, lag_of, latency_of, summarize};
use crate::schedule::Schedule;

/// Inputs of a run besides its configuration: observers and the default duration.
pub struct Observers {
    /// Called every second.
    pub progress: Box<dyn FnMut(&RunProgress) + Send>,
    /// Called once with the part of the trace that was read, if there is a trace.
    pub trace: Box<dyn FnOnce(&str) + Send>,
    /// Receives the Load of each function every second. Dropped when full, because a newer one follows.
    pub loads: Option<mpsc::Sender<Load>>,
    /// Duration of a pattern unless configured.
    pub default_length: Duration,
}

/// Progress of a run in the last second.
#[derive(Debug, Clone)]
pub struct RunProgress {
    /// Time since the start.
    pub elapsed: Duration,
    /// Due requests, requests/s.
    pub offered_rps: f64,
    /// Successful requests, requests/s.
    pub achieved_rps: f64,
    /// Latencies of successful requests.
    pub latency_ms: Option<LatencySummary>,
    /// Failures in this second.
    pub failed: u64,
    /// Failures since the start.
    pub failed_in_all: u64,
    /// Requests in flight.
    pub in_flight: u64,
    /// Send lags in this second.
    pub lag_us: Option<SendLag>,
}

/// Capacity of the channel of record batches: some seconds at the highest rates.
const BATCHES: usize = 1_024;

/// Time from the readiness of all threads to the start.
const LEAD: Duration = Duration::from_millis(20);

const SECOND: Duration = Duration::from_secs(1);

/// Runs the load to its end and summarises it; blocks. `stop` ends sending, `abort` also ends the drain.
///
/// # Errors
/// When the configuration, the trace or an address is invalid, a file cannot be written, or a pacing thread fails.
pub fn run(
    config: &LoadConfig,
    mut observers: Observers,
    stop: &CancellationToken,
    abort: &CancellationToken,
) -> anyhow::Result<LoadSummary> {
    config.check().map_err(anyhow::Error::msg)?;
    let schedule = Schedule::new(config, observers.default_length)?;
    if let Some(description) = &schedule.description {
        std::mem::replace(&mut observers.trace, Box::new(|_| {}))(description);
    }
    let engine_config = Arc::new(engine_config(config, &schedule)?);
    let pacing = PacingThreads::spawn(config, &schedule, &engine_config, stop, abort)?;
    let labels: Vec<String> = schedule.functions.iter().map(|function| function.label.clone()).collect();
    let started_unix_us = wall_clock_us() + LEAD.as_micros() as u64;
    let planned = (schedule.length < Duration::MAX).then_some(schedule.length);
    let files = Files::create(FileConfig {
        csv: config.csv.clone(),
        vswarm: config.vswarm.clone(),
        invitro: config.invitro.clone(),
        functions: labels.clone(),
        started_unix_us,
        planned,
    })?;
    let (clock, records, counters, threads, class) = pacing.start();
    let run = format!("run-{}", started_unix_us / 1_000);
    let mut recorder = Recorder {
        totals: RunTotals::new(labels.len(), observers.loads.is_some()),
        files,
        due: vec![0; schedule.functions.len()],
        last_ns: 0,
    };
    let kept = record_all(&mut recorder, &records, &counters, &clock, &mut observers, (&schedule, &run));
    if kept.is_err() {
        // For example, the disk is full. The threads must not wait for a receiver that is gone.
        stop.cancel();
        abort.cancel();
        drop(records);
    }
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a pacing thread panicked"))??;
    }
    kept?;
    let stopped_early = stop.is_cancelled();
    let last_due = Duration::from_nanos(recorder.totals.last_due_ns);
    let info = RunInfo {
        run,
        started_unix_us,
        target: config.target.clone(),
        protocol: config.protocol.to_string(),
        seed: config.seed,
        scheduling: class.to_string(),
        functions: labels,
        planned,
        stopped_early,
        sending: if stopped_early { last_due } else { planned.unwrap_or(last_due) },
        max_lag: config.max_lag.0,
    };
    let summary = summarize(&recorder.totals, info);
    for path in recorder.files.finish(summary.total.achieved_rps)? {
        tracing::info!(file = %path.display(), "file written");
    }
    Ok(summary)
}

fn engine_config(config: &LoadConfig, schedule: &Schedule) -> anyhow::Result<EngineConfig> {
    Ok(EngineConfig {
        functions: schedule.targets.clone(),
        addresses: schedule.addresses.clone(),
        codec: Codec::new(config.protocol, &config.inputs, &config.http()).map_err(anyhow::Error::msg)?,
        reuse: config.connection == ConnectionMode::Reuse,
        connections: config.connections,
        timeout: config.timeout.0,
        drain: config.drain.0,
        max_in_flight: (config.max_in_flight / config.threads.max(1)).max(1) as usize,
        real_time: !config.no_real_time,
        threads: config.threads,
    })
}

/// Pacing threads, connected and waiting for the clock.
struct PacingThreads {
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
    starts: Vec<oneshot::Sender<RunClock>>,
    counters: Vec<Arc<ThreadCounters>>,
    records: Receiver<Vec<RequestRecord>>,
    class: SchedulingClass,
}

impl PacingThreads {
    fn spawn(
        config: &LoadConfig,
        schedule: &Schedule,
        engine_config: &Arc<EngineConfig>,
        stop: &CancellationToken,
        abort: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let (sender, records) = sync_channel(BATCHES);
        let mut pacing = Self { threads: Vec::new(), starts: Vec::new(), counters: Vec::new(), records, class: SchedulingClass::Ordinary };
        let mut readies = Vec::new();
        for index in 0..config.threads {
            let (ready, is_ready) = oneshot::channel();
            let (start, started) = oneshot::channel();
            let counters = Arc::new(ThreadCounters::new(schedule.functions.len()));
            let ends = ThreadChannels {
                ready,
                start: started,
                records: sender.clone(),
                counters: Arc::clone(&counters),
                stop: stop.clone(),
                abort: abort.clone(),
            };
            let (engine_config, arrivals) = (Arc::clone(engine_config), schedule.arrivals(config));
            let thread = std::thread::Builder::new()
                .name(format!("pacing-{index}"))
                .spawn(move || engine::run(&engine_config, index, arrivals, ends));
            pacing.threads.push(thread.context("failed to start a pacing thread")?);
            pacing.starts.push(start);
            pacing.counters.push(counters);
            readies.push(is_ready);
        }
        for ready in readies {
            match ready.blocking_recv() {
                Ok(class) => pacing.class = class,
                Err(_) => return Err(pacing.failure()),
            }
        }
        Ok(pacing)
    }

    /// Reason why a thread ended before it was ready.
    fn failure(self) -> anyhow::Error {
        drop(self.starts);
        let failures = self.threads.into_iter().filter_map(|thread| thread.join().ok()?.err());
        failures.last().unwrap_or_else(|| anyhow!("a pacing thread ended before the start"))
    }

    #[expect(clippy::type_complexity, reason = "destructured by its only caller")]
    fn start(
        self,
    ) -> (RunClock, Receiver<Vec<RequestRecord>>, Vec<Arc<ThreadCounters>>, Vec<JoinHandle<anyhow::Result<()>>>, SchedulingClass) {
        let clock = RunClock::starting_in(LEAD);
        for start in self.starts {
            // A failed thread is noticed when it is joined.
            let _ = start.send(clock);
        }
        (clock, self.records, self.counters, self.threads, self.class)
    }
}

struct Recorder {
    totals: RunTotals,
    files: Files,
    /// Requests of each function due until the last second.
    due: Vec<u64>,
    last_ns: u64,
}

/// Counts and writes ended requests until all threads end, and reports every second.
fn record_all(
    recorder: &mut Recorder,
    records: &Receiver<Vec<RequestRecord>>,
    counters: &[Arc<ThreadCounters>],
    clock: &RunClock,
    observers: &mut Observers,
    run: (&Schedule, &str),
) -> anyhow::Result<()> {
    let mut next_ns = nanos(SECOND);
    loop {
        match records.recv_timeout(clock.until(next_ns)) {
            Ok(batch) => {
                for record in &batch {
                    recorder.totals.add(record);
                    recorder.files.write(record)?;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            // Reports the rest of the last second.
            Err(RecvTimeoutError::Disconnected) => return recorder.second(clock.now_ns(), counters, observers, run),
        }
        let now_ns = clock.now_ns();
        if now_ns >= next_ns {
            recorder.second(now_ns, counters, observers, run)?;
            next_ns = now_ns - now_ns % nanos(SECOND) + nanos(SECOND);
        }
    }
}

impl Recorder {
    fn second(
        &mut self,
        now_ns: u64,
        counters: &[Arc<ThreadCounters>],
        observers: &mut Observers,
        run: (&Schedule, &str),
    ) -> anyhow::Result<()> {
        let sum = |read: &dyn Fn(&ThreadCounters) -> u64| counters.iter().map(|counters| read(counters)).sum::<u64>();
        let counts: Vec<(u64, u64)> = (0..self.due.len())
            .map(|function| (sum(&|counters| counters.due(function)) - self.due[function], sum(&|counters| counters.in_flight(function))))
            .collect();
        let interval = Duration::from_nanos((now_ns - self.last_ns).max(1));
        let seconds = interval.as_secs_f64();
        let second = &self.totals.second;
        (observers.progress)(&RunProgress {
            elapsed: Duration::from_nanos(now_ns),
            offered_rps: counts.iter().map(|count| count.0).sum::<u64>() as f64 / seconds,
            achieved_rps: second.succeeded as f64 / seconds,
            latency_ms: latency_of(second),
            failed: second.failed(),
            failed_in_all: self.totals.all.failed(),
            in_flight: counts.iter().map(|count| count.1).sum(),
            lag_us: lag_of(second),
        });
        if let Some(loads) = &observers.loads {
            self.publish(loads, interval, &counts, run);
        }
        self.files.flush()?;
        self.totals.next_second();
        self.due.iter_mut().zip(counts).for_each(|(due, count)| *due += count.0);
        self.last_ns = now_ns;
        Ok(())
    }

    fn publish(&self, loads: &mpsc::Sender<Load>, interval: Duration, counts: &[(u64, u64)], (schedule, run): (&Schedule, &str)) {
        let seconds = interval.as_secs_f64();
        for ((function, stats), (due, in_flight)) in schedule.functions.iter().zip(&self.totals.second_of).zip(counts) {
            let Some(id) = &function.id else { continue };
            let load = Load {
                version: Version::CURRENT,
                namespace: id.namespace.clone(),
                function: id.name.clone(),
                run: run.to_owned(),
                at_ms: clock::now(),
                interval_ms: (interval.as_millis() as u64).max(1),
                offered_rps: *due as f64 / seconds,
                achieved_rps: stats.succeeded as f64 / seconds,
                in_flight: *in_flight,
                failures: stats.failure_counts(),
                latency: stats.latency_buckets(),
                send_lag_p99_us: (!stats.lag_ns.is_empty()).then(|| stats.lag_ns.value_at_quantile(0.99) / 1_000),
            };
            if loads.try_send(load).is_err() {
                tracing::debug!(function = %id, "Load dropped: the bus is behind");
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "files contain wall-clock times in microseconds")]
fn wall_clock_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
