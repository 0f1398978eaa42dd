//! One run from start to summary. Owns the threads, the once-a-second work, and who learns what; the pacing is the engine's.

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
use crate::engine::{self, Ends, Gauges, Plan};
use crate::files::{Files, Wanted};
use crate::pacing::{Class, RunClock, nanos};
use crate::protocol::Dialect;
use crate::record::Record;
use crate::report::{Facts, Totals, lag_of, latency_of, summarize};
use crate::workload::Workload;

/// What a run needs beside its settings: who is told what while it lasts, and how long that is.
pub struct Observers {
    /// Is shown every second.
    pub progress: Box<dyn FnMut(&Progress) + Send>,
    /// Takes the Load of each function every second; what finds it full is dropped, as a newer one follows.
    pub loads: Option<mpsc::Sender<Load>>,
    /// How long a pattern is sent where the settings say nothing.
    pub unless_told: Duration,
}

/// A second of a run.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Since the start.
    pub elapsed: Duration,
    /// Requests due in this second, a second.
    pub offered_rps: f64,
    /// Requests answered well in this second, a second.
    pub achieved_rps: f64,
    /// Latencies of those.
    pub latency_ms: Option<LatencySummary>,
    /// Failures of this second.
    pub failed: u64,
    /// Failures since the start.
    pub failed_in_all: u64,
    /// Requests in flight.
    pub in_flight: u64,
    /// Send lags of this second.
    pub lag_us: Option<SendLag>,
}

/// Batches of records between pacing threads and the counting: some seconds' worth at the highest rates.
const BATCHES: usize = 1_024;

/// From when all threads are ready to the first instant.
const LEAD: Duration = Duration::from_millis(20);

const SECOND: Duration = Duration::from_secs(1);

/// Runs the load to its end and sums it up; blocks. `stop` ends the sending, `abort` the drain as well.
///
/// # Errors
/// What is wrong with the settings, the trace or an address; a file that cannot be written; a thread that cannot pace.
pub fn run(
    config: &LoadConfig,
    mut observers: Observers,
    stop: &CancellationToken,
    abort: &CancellationToken,
) -> anyhow::Result<LoadSummary> {
    config.check().map_err(anyhow::Error::msg)?;
    let workload = Workload::new(config, observers.unless_told)?;
    let plan = Arc::new(plan(config, &workload)?);
    let crew = Crew::hire(config, &workload, &plan, stop, abort)?;
    let labels: Vec<String> = workload.functions.iter().map(|function| function.label.clone()).collect();
    let started_unix_us = wall_clock_us() + LEAD.as_micros() as u64;
    let planned = (workload.length < Duration::MAX).then_some(workload.length);
    let files = Files::create(Wanted {
        csv: config.csv.clone(),
        vswarm: config.vswarm.clone(),
        invitro: config.invitro.clone(),
        functions: labels.clone(),
        started_unix_us,
        planned,
    })?;
    let (clock, records, gauges, threads, class) = crew.start();
    let run = format!("run-{}", started_unix_us / 1_000);
    let mut book =
        Book { totals: Totals::new(labels.len(), observers.loads.is_some()), files, due: vec![0; workload.functions.len()], last_ns: 0 };
    let kept = keep_books(&mut book, &records, &gauges, &clock, &mut observers, (&workload, &run));
    if kept.is_err() {
        // A full disk ends the run; the threads must not wait for a taker that has gone.
        stop.cancel();
        abort.cancel();
        drop(records);
    }
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a pacing thread panicked"))??;
    }
    kept?;
    let stopped_early = stop.is_cancelled();
    let last_due = Duration::from_nanos(book.totals.last_due_ns);
    let facts = Facts {
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
    let summary = summarize(&book.totals, facts);
    for path in book.files.finish(summary.total.achieved_rps)? {
        tracing::info!(file = %path.display(), "written");
    }
    Ok(summary)
}

fn plan(config: &LoadConfig, workload: &Workload) -> anyhow::Result<Plan> {
    Ok(Plan {
        functions: workload.destinations.clone(),
        addresses: workload.addresses.clone(),
        dialect: Dialect::new(config.protocol, &config.inputs, &config.http()).map_err(anyhow::Error::msg)?,
        reuse: config.connection == ConnectionMode::Reuse,
        connections: config.connections,
        timeout: config.timeout.0,
        drain: config.drain.0,
        max_in_flight: (config.max_in_flight / config.threads.max(1)).max(1) as usize,
        real_time: !config.no_real_time,
        threads: config.threads,
    })
}

/// The pacing threads, connected and waiting for the clock.
struct Crew {
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
    starts: Vec<oneshot::Sender<RunClock>>,
    gauges: Vec<Arc<Gauges>>,
    records: Receiver<Vec<Record>>,
    class: Class,
}

impl Crew {
    fn hire(
        config: &LoadConfig,
        workload: &Workload,
        plan: &Arc<Plan>,
        stop: &CancellationToken,
        abort: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let (sender, records) = sync_channel(BATCHES);
        let mut crew = Self { threads: Vec::new(), starts: Vec::new(), gauges: Vec::new(), records, class: Class::Ordinary };
        let mut readies = Vec::new();
        for index in 0..config.threads {
            let (ready, is_ready) = oneshot::channel();
            let (start, started) = oneshot::channel();
            let gauges = Arc::new(Gauges::new(workload.functions.len()));
            let ends = Ends {
                ready,
                start: started,
                records: sender.clone(),
                gauges: Arc::clone(&gauges),
                stop: stop.clone(),
                abort: abort.clone(),
            };
            let (plan, arrivals) = (Arc::clone(plan), workload.arrivals(config));
            let thread =
                std::thread::Builder::new().name(format!("pacing-{index}")).spawn(move || engine::run(&plan, index, arrivals, ends));
            crew.threads.push(thread.context("cannot start a pacing thread")?);
            crew.starts.push(start);
            crew.gauges.push(gauges);
            readies.push(is_ready);
        }
        for ready in readies {
            match ready.blocking_recv() {
                Ok(class) => crew.class = class,
                Err(_) => return Err(crew.failure()),
            }
        }
        Ok(crew)
    }

    /// Why a thread ended before it was ready.
    fn failure(self) -> anyhow::Error {
        drop(self.starts);
        let failures = self.threads.into_iter().filter_map(|thread| thread.join().ok()?.err());
        failures.last().unwrap_or_else(|| anyhow!("a pacing thread ended before the start"))
    }

    #[expect(clippy::type_complexity, reason = "taken apart where it is returned")]
    fn start(self) -> (RunClock, Receiver<Vec<Record>>, Vec<Arc<Gauges>>, Vec<JoinHandle<anyhow::Result<()>>>, Class) {
        let clock = RunClock::starting_in(LEAD);
        for start in self.starts {
            // A thread that has gone shows when it is joined.
            let _ = start.send(clock);
        }
        (clock, self.records, self.gauges, self.threads, self.class)
    }
}

struct Book {
    totals: Totals,
    files: Files,
    /// Requests of each function that were due until the last second.
    due: Vec<u64>,
    last_ns: u64,
}

/// Counts and writes what has ended until all threads have, and does what is to be done every second.
fn keep_books(
    book: &mut Book,
    records: &Receiver<Vec<Record>>,
    gauges: &[Arc<Gauges>],
    clock: &RunClock,
    observers: &mut Observers,
    run: (&Workload, &str),
) -> anyhow::Result<()> {
    let mut next_ns = nanos(SECOND);
    loop {
        match records.recv_timeout(clock.until(next_ns)) {
            Ok(batch) => {
                for record in &batch {
                    book.totals.add(record);
                    book.files.write(record)?;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            // What is left of the last second is told too.
            Err(RecvTimeoutError::Disconnected) => return book.second(clock.now_ns(), gauges, observers, run),
        }
        let now_ns = clock.now_ns();
        if now_ns >= next_ns {
            book.second(now_ns, gauges, observers, run)?;
            next_ns = now_ns - now_ns % nanos(SECOND) + nanos(SECOND);
        }
    }
}

impl Book {
    fn second(&mut self, now_ns: u64, gauges: &[Arc<Gauges>], observers: &mut Observers, run: (&Workload, &str)) -> anyhow::Result<()> {
        let sum = |read: &dyn Fn(&Gauges) -> u64| gauges.iter().map(|gauges| read(gauges)).sum::<u64>();
        let counts: Vec<(u64, u64)> = (0..self.due.len())
            .map(|function| (sum(&|gauges| gauges.due(function)) - self.due[function], sum(&|gauges| gauges.in_flight(function))))
            .collect();
        let interval = Duration::from_nanos((now_ns - self.last_ns).max(1));
        let seconds = interval.as_secs_f64();
        let second = &self.totals.second;
        (observers.progress)(&Progress {
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
            self.tell(loads, interval, &counts, run);
        }
        self.files.flush()?;
        self.totals.next_second();
        self.due.iter_mut().zip(counts).for_each(|(due, count)| *due += count.0);
        self.last_ns = now_ns;
        Ok(())
    }

    fn tell(&self, loads: &mpsc::Sender<Load>, interval: Duration, counts: &[(u64, u64)], (workload, run): (&Workload, &str)) {
        let seconds = interval.as_secs_f64();
        for ((function, tally), (due, in_flight)) in workload.functions.iter().zip(&self.totals.second_of).zip(counts) {
            let Some(id) = &function.id else { continue };
            let load = Load {
                version: Version::CURRENT,
                namespace: id.namespace.clone(),
                function: id.name.clone(),
                run: run.to_owned(),
                at_ms: clock::now(),
                interval_ms: (interval.as_millis() as u64).max(1),
                offered_rps: *due as f64 / seconds,
                achieved_rps: tally.succeeded as f64 / seconds,
                in_flight: *in_flight,
                failures: tally.failures_of_load(),
                latency: tally.buckets_of_load(),
                send_lag_p99_us: (!tally.lag_ns.is_empty()).then(|| tally.lag_ns.value_at_quantile(0.99) / 1_000),
            };
            if loads.try_send(load).is_err() {
                tracing::debug!(function = %id, "load not published: the bus is behind");
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "files name wall-clock times, to the microsecond")]
fn wall_clock_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
