//! Pacing threads: send requests at their intended times and record the results. Must not determine the content or times of requests.
//!
//! A pacing thread does all work itself: it wakes up at the intended time, writes the request to its connection
//! immediately, and reads replies in between. No request passes through another thread before it is sent, so only the
//! kernel's wake-up delays it. Threads share nothing: each takes every n-th request and has its own connections.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use qscale_common::workload::Arrival;
use slab::Slab;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use crate::pacing::{Alarm, RunClock, SchedulingClass, nanos, raise};
use crate::protocol::{Codec, unframe};
use crate::record::{ConnectionUse, RequestRecord, RequestStatus};

mod connection;
mod exchange;
mod grpc;
mod http1;
mod pool;
mod pump;
mod stamped;

use connection::Connection;
use exchange::{Pending, RawReply, RequestTemplate};
use pool::ConnectionPool;

/// Configuration of the pacing threads, equal for all.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Target of each function, by index.
    pub functions: Vec<RequestTarget>,
    /// Addresses of the targets.
    pub addresses: Vec<SocketAddr>,
    /// Encoding of requests and validation of replies.
    pub codec: Codec,
    /// Whether connections are reused.
    pub reuse: bool,
    /// Connections that each thread opens to each address before the start.
    pub connections: u32,
    /// Timeout of a request, from its intended send time.
    pub timeout: Duration,
    /// Longest wait for replies after the last request.
    pub drain: Duration,
    /// Maximum number of requests in flight per thread.
    pub max_in_flight: usize,
    /// Whether to request real-time scheduling.
    pub real_time: bool,
    /// Number of pacing threads.
    pub threads: u32,
}

/// Target of one function's requests.
#[derive(Debug, Clone)]
pub struct RequestTarget {
    /// Index into [`EngineConfig::addresses`].
    pub address: usize,
    /// `:authority` or `Host` of the requests.
    pub authority: String,
}

/// Progress of a pacing thread, per function.
#[derive(Debug)]
pub struct ThreadCounters {
    due: Box<[AtomicU64]>,
    ended: Box<[AtomicU64]>,
}

impl ThreadCounters {
    /// Counters at zero.
    #[must_use]
    pub fn new(functions: usize) -> Self {
        let zeros = || (0..functions).map(|_| AtomicU64::new(0)).collect();
        Self { due: zeros(), ended: zeros() }
    }

    /// Requests of `function` due so far.
    #[must_use]
    pub fn due(&self, function: usize) -> u64 {
        self.due.get(function).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Requests of `function` in flight.
    #[must_use]
    pub fn in_flight(&self, function: usize) -> u64 {
        // In this order, requests that end between the two reads cannot exceed those due.
        let ended = self.ended.get(function).map_or(0, |count| count.load(Ordering::Relaxed));
        self.due(function).saturating_sub(ended)
    }

    fn count(counters: &[AtomicU64], function: u32) {
        if let Some(counter) = counters.get(function as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Channels of a pacing thread.
pub struct ThreadChannels {
    /// Signals that connections are open; carries the scheduling class.
    pub ready: oneshot::Sender<SchedulingClass>,
    /// Delivers the clock, which starts the run.
    pub start: oneshot::Receiver<RunClock>,
    /// Receives ended requests.
    pub records: SyncSender<Vec<RequestRecord>>,
    /// Progress counters.
    pub counters: Arc<ThreadCounters>,
    /// Ends sending early; requests in flight are drained.
    pub stop: CancellationToken,
    /// Ends the drain early.
    pub abort: CancellationToken,
}

/// Runs pacing thread `index` to its end; blocks the calling thread.
///
/// # Errors
/// When the kernel provides no timer or event queue, or a request cannot be encoded.
pub fn run(config: &Arc<EngineConfig>, index: u32, arrivals: impl Iterator<Item = Arrival>, ends: ThreadChannels) -> anyhow::Result<()> {
    let class = if config.real_time { raise() } else { SchedulingClass::Ordinary };
    // Poll timers and sockets after every few tasks: a long queue of replies must not delay a send.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(8).build()?;
    let local = LocalSet::new();
    let config = Arc::clone(config);
    local.block_on(&runtime, async move {
        let ThreadChannels { ready, start, records, counters, stop, abort } = ends;
        let sender = Rc::new(PacingThread::new(&config, records, counters)?);
        sender.connect_ahead().await;
        // If the run was cancelled, nobody receives this and the clock does not arrive either.
        let _ = ready.send(class);
        let Ok(clock) = start.await else { return Ok(()) };
        sender.clock.set(clock);
        let flusher = tokio::task::spawn_local(Rc::clone(&sender).flush_forever());
        let mine = arrivals.enumerate().skip(index as usize).step_by(config.threads.max(1) as usize);
        sender.pace(mine, &stop).await?;
        sender.drain(&abort).await;
        flusher.abort();
        sender.censor();
        sender.flush();
        Ok(())
    })
}

/// Records per batch.
const BATCH: usize = 256;

/// Longest time before a record is passed on.
const FLUSH_INTERVAL: Duration = Duration::from_millis(50);

/// Maximum number of due requests sent in sequence before replies are read.
const BURST: usize = 32;

struct PacingThread {
    config: Arc<EngineConfig>,
    clock: Cell<RunClock>,
    pools: Vec<ConnectionPool>,
    /// Fixed part of each function's requests.
    templates: Vec<RequestTemplate>,
    live: RefCell<Slab<InFlightRequest>>,
    finished: RefCell<Vec<RequestRecord>>,
    records: SyncSender<Vec<RequestRecord>>,
    counters: Arc<ThreadCounters>,
}

struct InFlightRequest {
    record: RequestRecord,
    arrival: Arrival,
}

impl PacingThread {
    fn new(config: &Arc<EngineConfig>, records: SyncSender<Vec<RequestRecord>>, counters: Arc<ThreadCounters>) -> anyhow::Result<Self> {
        let templates =
            config.functions.iter().map(|function| RequestTemplate::new(&config.codec, &function.authority)).collect::<Result<_, _>>()?;
        let pools = config.addresses.iter().map(|address| ConnectionPool::new(*address, config.codec.is_grpc())).collect();
        Ok(Self {
            config: Arc::clone(config),
            clock: Cell::new(RunClock::starting_in(Duration::ZERO)),
            pools,
            templates,
            live: RefCell::default(),
            finished: RefCell::default(),
            records,
            counters,
        })
    }

    /// Opens the initial connections. A failed one is opened again by the first request that needs it.
    async fn connect_ahead(&self) {
        const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
        if self.config.reuse {
            let opening = self.pools.iter().map(|pool| pool.open_ahead(self.config.connections));
            let _ = tokio::time::timeout(CONNECT_TIMEOUT, futures::future::join_all(opening)).await;
        }
    }

    async fn pace(self: &Rc<Self>, arrivals: impl Iterator<Item = (usize, Arrival)>, stop: &CancellationToken) -> anyhow::Result<()> {
        let alarm = Alarm::new()?;
        let clock = self.clock.get();
        let mut arrivals = arrivals.peekable();
        let mut burst = Vec::with_capacity(BURST);
        while let Some(due_ns) = arrivals.peek().map(|(_, arrival)| nanos(arrival.at)) {
            // Before the start the clock stands at zero, and a request due at zero is not due yet.
            if !clock.until(due_ns).is_zero() {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    waited = alarm.wait_until(&clock, due_ns) => waited?,
                }
            } else if stop.is_cancelled() {
                return Ok(());
            }
            let now = clock.now_ns();
            // Requests that are not sent count, too: a generator that has fallen far behind still reads replies and checks `stop`.
            for _ in 0..BURST {
                let Some((sequence, arrival)) = arrivals.next_if(|(_, arrival)| nanos(arrival.at) <= now) else { break };
                self.issue(sequence as u64, &arrival, &mut burst);
            }
            self.write(&mut burst);
            if arrivals.peek().is_some_and(|(_, arrival)| nanos(arrival.at) <= clock.now_ns()) {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Begins a request over a connection with room, to be sent by the next [`PacingThread::write`]; otherwise over a new connection.
    fn issue(self: &Rc<Self>, sequence: u64, arrival: &Arrival, burst: &mut Vec<StartedRequest>) {
        ThreadCounters::count(&self.counters.due, arrival.function);
        let record = RequestRecord::due(sequence, arrival, nanos(arrival.at));
        let mut live = self.live.borrow_mut();
        if live.len() >= self.config.max_in_flight {
            drop(live);
            self.emit(record);
            return;
        }
        let key = live.insert(InFlightRequest { record, arrival: *arrival });
        drop(live);
        let function = arrival.function as usize;
        let (Some(destination), Some(template)) = (self.config.functions.get(function), self.templates.get(function)) else {
            return self.finish(key, Err(RequestStatus::Unreachable));
        };
        let body = self.config.codec.body(arrival, sequence);
        let pool = &self.pools[destination.address];
        let connection = if self.config.reuse { pool.take() } else { None };
        match connection {
            Some(connection) => match connection.begin(template, body.clone()) {
                Some(answer) => burst.push(StartedRequest { key, connection, answer }),
                None => self.begin_over_new_connection(key, body),
            },
            None => self.begin_over_new_connection(key, body),
        }
    }

    /// Writes the started requests, records their send times and spawns a task to await each reply.
    fn write(self: &Rc<Self>, burst: &mut Vec<StartedRequest>) {
        let clock = self.clock.get();
        // A write sends all requests started on its connection, so later ones in the burst may have been sent with the first.
        let mut last = None;
        for StartedRequest { key, connection, answer } in burst.drain(..) {
            last = connection.push().map(|written| clock.ns_of(written)).or(last);
            let sent = last.unwrap_or_else(|| clock.now_ns());
            if let Some(live) = self.live.borrow_mut().get_mut(key) {
                live.record.sent_ns = Some(sent);
                live.record.over = ConnectionUse::Reused;
            }
            let sender = Rc::clone(self);
            tokio::task::spawn_local(async move {
                let answer = sender.in_time(key, answer).await;
                let answered = answer.is_ok();
                sender.finish(key, answer);
                if answered {
                    connection.release().await;
                }
            });
        }
    }

    /// Opens a connection for the request. Its send time is before connecting, so that the time to connect counts.
    fn begin_over_new_connection(self: &Rc<Self>, key: usize, body: bytes::Bytes) {
        let sender = Rc::clone(self);
        let now = self.clock.get().now_ns();
        if let Some(live) = self.live.borrow_mut().get_mut(key) {
            live.record.sent_ns = Some(now);
            live.record.over = ConnectionUse::New;
        }
        tokio::task::spawn_local(async move {
            match sender.in_time(key, sender.over_new_connection(key, body)).await {
                Ok((answer, connection)) => {
                    sender.finish(key, Ok(answer));
                    if sender.config.reuse {
                        connection.release().await;
                    }
                }
                Err(status) => sender.finish(key, Err(status)),
            }
        });
    }

    async fn over_new_connection(&self, key: usize, body: bytes::Bytes) -> Result<(RawReply, Connection), RequestStatus> {
        // A connection shared by several waiting requests may lack room for all of them; the rest try another.
        const TRIES: usize = 4;
        let function = self.live.borrow().get(key).map_or(0, |live| live.record.function as usize);
        let pool = &self.pools[self.config.functions[function].address];
        for _ in 0..TRIES {
            let connection: Connection = if self.config.reuse { pool.open_shared().await? } else { pool.open().await? };
            if let Some(live) = self.live.borrow_mut().get_mut(key) {
                live.record.connected_ns = Some(self.clock.get().now_ns());
            }
            if let Some(answer) = connection.begin(&self.templates[function], body.clone()) {
                connection.push();
                return Ok((answer.await?, connection));
            }
        }
        Err(RequestStatus::Broken)
    }

    async fn in_time<T>(&self, key: usize, answer: impl Future<Output = Result<T, RequestStatus>>) -> Result<T, RequestStatus> {
        let due = self.live.borrow().get(key).map_or(0, |live| live.record.intended_ns);
        let deadline = self.clock.get().at(due) + self.config.timeout;
        tokio::time::timeout_at(deadline.into(), answer).await.unwrap_or(Err(RequestStatus::Timeout))
    }

    fn finish(&self, key: usize, answer: Result<RawReply, RequestStatus>) {
        let now = self.clock.get().now_ns();
        let mut live = self.live.borrow_mut();
        let Some(InFlightRequest { mut record, arrival }) = live.try_remove(key) else { return };
        drop(live);
        match answer {
            Ok(answer) => self.validate(&mut record, &arrival, &answer, now),
            Err(status) => record.status = status,
        }
        self.emit(record);
    }

    fn validate(&self, record: &mut RequestRecord, arrival: &Arrival, answer: &RawReply, now_ns: u64) {
        record.replied_ns = Some(now_ns);
        record.status = answer.status;
        if answer.status != RequestStatus::Ok {
            return;
        }
        let took_us = now_ns.saturating_sub(record.sent_ns.unwrap_or(record.intended_ns)) / 1_000;
        let message = if self.config.codec.is_grpc() { unframe(&answer.body) } else { Ok(&answer.body[..]) };
        let validated = message.and_then(|message| self.config.codec.validate(message, arrival, record.sequence, took_us));
        record.valid = Some(validated.is_ok());
        match validated {
            Ok(reported) => (record.reported_us, record.reported_kib) = (reported.duration_us, reported.memory_kib),
            Err(invalid) => tracing::debug!(function = record.function, sequence = record.sequence, reason = invalid.0, "invalid reply"),
        }
    }

    fn emit(&self, record: RequestRecord) {
        ThreadCounters::count(&self.counters.ended, record.function);
        let mut finished = self.finished.borrow_mut();
        finished.push(record);
        if finished.len() >= BATCH {
            drop(finished);
            self.flush();
        }
    }

    /// Passes on ended requests. Blocks if the receiver has fallen far behind, which shows as send lag.
    fn flush(&self) {
        let finished = std::mem::take(&mut *self.finished.borrow_mut());
        if !finished.is_empty() {
            // The receiver is gone only if the run was cancelled.
            let _ = self.records.send(finished);
        }
    }

    async fn flush_forever(self: Rc<Self>) {
        loop {
            tokio::time::sleep(FLUSH_INTERVAL).await;
            self.flush();
        }
    }

    async fn drain(&self, abort: &CancellationToken) {
        const POLL_INTERVAL: Duration = Duration::from_millis(2);
        let drained = async {
            while !self.live.borrow().is_empty() {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        tokio::select! {
            () = abort.cancelled() => {}
            _ = tokio::time::timeout(self.config.drain, drained) => {}
        }
    }

    /// Marks requests still in flight as censored.
    fn censor(&self) {
        let left: Vec<InFlightRequest> = self.live.borrow_mut().drain().collect();
        for InFlightRequest { mut record, .. } in left {
            record.status = RequestStatus::Censored;
            self.emit(record);
        }
    }
}

/// A request passed to its connection but not written yet.
struct StartedRequest {
    key: usize,
    connection: Connection,
    answer: Pending,
}
