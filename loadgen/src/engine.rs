//! Sends requests when they are due and records what becomes of them. Owns the pacing threads; must not decide what is sent.
//!
//! A pacing thread does everything itself: it wakes up at the instant, writes the request to its connection there and then, and reads
//! replies in between. Nothing is handed to another thread before it is sent, so nothing but the kernel's wake-up delays it. Threads
//! share nothing; each takes every n-th request and has connections of its own.

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

use crate::pacing::{Alarm, Class, RunClock, nanos, raise};
use crate::protocol::{Dialect, unframe};
use crate::record::{Over, Record, Status};

mod connection;
mod grpc;
mod http1;
mod pool;
mod stamped;

use connection::{Answer, Connection, Template};
use pool::Pool;

/// What a pacing thread needs to know, the same for all.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where each function is, by index.
    pub functions: Vec<Destination>,
    /// The addresses that destinations point to.
    pub addresses: Vec<SocketAddr>,
    /// How requests look and what good replies are.
    pub dialect: Dialect,
    /// Whether connections are kept for further requests.
    pub reuse: bool,
    /// Connections that each thread opens to each address before the start.
    pub connections: u32,
    /// Longest time from when a request is due to its reply.
    pub timeout: Duration,
    /// Longest wait for replies after the last request.
    pub drain: Duration,
    /// Most requests in flight on one thread.
    pub max_in_flight: usize,
    /// Whether to ask for the real-time class.
    pub real_time: bool,
    /// Threads.
    pub threads: u32,
}

/// Where the requests of one function go.
#[derive(Debug, Clone)]
pub struct Destination {
    /// Index into [`Plan::addresses`].
    pub address: usize,
    /// The `:authority` or `Host` of its requests.
    pub authority: String,
}

/// What a pacing thread shows of itself while it runs, for each function.
#[derive(Debug)]
pub struct Gauges {
    due: Box<[AtomicU64]>,
    ended: Box<[AtomicU64]>,
}

impl Gauges {
    /// Nothing was due yet.
    #[must_use]
    pub fn new(functions: usize) -> Self {
        let zeros = || (0..functions).map(|_| AtomicU64::new(0)).collect();
        Self { due: zeros(), ended: zeros() }
    }

    /// Requests of `function` that were due so far.
    #[must_use]
    pub fn due(&self, function: usize) -> u64 {
        self.due.get(function).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Requests of `function` that were due and have not ended.
    #[must_use]
    pub fn in_flight(&self, function: usize) -> u64 {
        // Read in this order, what ends meanwhile cannot be more than what was due.
        let ended = self.ended.get(function).map_or(0, |count| count.load(Ordering::Relaxed));
        self.due(function).saturating_sub(ended)
    }

    fn count(counters: &[AtomicU64], function: u32) {
        if let Some(counter) = counters.get(function as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One pacing thread's ends of its channels.
pub struct Ends {
    /// Says that connections are made, and how the thread is scheduled.
    pub ready: oneshot::Sender<Class>,
    /// Gives the clock, and with it the start.
    pub start: oneshot::Receiver<RunClock>,
    /// Takes what has ended.
    pub records: SyncSender<Vec<Record>>,
    /// Shows progress.
    pub gauges: Arc<Gauges>,
    /// Ends the run early: nothing more is sent, what is in flight is drained.
    pub stop: CancellationToken,
    /// Ends the drain early.
    pub abort: CancellationToken,
}

/// Runs pacing thread `index` to its end; blocks the calling thread.
///
/// # Errors
/// When the kernel gives no timer or no event queue, or a request cannot be formed.
pub fn run(plan: &Arc<Plan>, index: u32, arrivals: impl Iterator<Item = Arrival>, ends: Ends) -> anyhow::Result<()> {
    let class = if plan.real_time { raise() } else { Class::Ordinary };
    // Look for due instants and replies after every few tasks: a long queue of replies must not hold up a send.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(8).build()?;
    let local = LocalSet::new();
    let plan = Arc::clone(plan);
    local.block_on(&runtime, async move {
        let Ends { ready, start, records, gauges, stop, abort } = ends;
        let sender = Rc::new(Sender::new(&plan, records, gauges)?);
        sender.connect_ahead().await;
        // Nobody waits for the word where the run was given up meanwhile; then the clock never comes either.
        let _ = ready.send(class);
        let Ok(clock) = start.await else { return Ok(()) };
        sender.clock.set(clock);
        let flusher = tokio::task::spawn_local(Rc::clone(&sender).flush_forever());
        let mine = arrivals.enumerate().skip(index as usize).step_by(plan.threads.max(1) as usize);
        sender.pace(mine, &stop).await?;
        sender.drain(&abort).await;
        flusher.abort();
        sender.censor();
        sender.flush();
        Ok(())
    })
}

/// Records gathered before they are handed over.
const BATCH: usize = 256;

/// How long a record waits at most before it is handed over.
const FLUSH_EVERY: Duration = Duration::from_millis(50);

/// Requests sent one after the other, when several are due, before replies are looked at.
const BURST: usize = 32;

struct Sender {
    plan: Arc<Plan>,
    clock: Cell<RunClock>,
    pools: Vec<Pool>,
    /// The unchanging part of each function's requests.
    templates: Vec<Template>,
    live: RefCell<Slab<Live>>,
    finished: RefCell<Vec<Record>>,
    records: SyncSender<Vec<Record>>,
    gauges: Arc<Gauges>,
}

struct Live {
    record: Record,
    arrival: Arrival,
}

impl Sender {
    fn new(plan: &Arc<Plan>, records: SyncSender<Vec<Record>>, gauges: Arc<Gauges>) -> anyhow::Result<Self> {
        let templates =
            plan.functions.iter().map(|function| Template::new(&plan.dialect, &function.authority)).collect::<Result<_, _>>()?;
        let pools = plan.addresses.iter().map(|address| Pool::new(*address, plan.dialect.is_grpc())).collect();
        Ok(Self {
            plan: Arc::clone(plan),
            clock: Cell::new(RunClock::starting_in(Duration::ZERO)),
            pools,
            templates,
            live: RefCell::default(),
            finished: RefCell::default(),
            records,
            gauges,
        })
    }

    /// Opens the connections that are to be there at the start. One that fails is opened again by the first request that needs it.
    async fn connect_ahead(&self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        if self.plan.reuse {
            let opening = self.pools.iter().map(|pool| pool.open_ahead(self.plan.connections));
            let _ = tokio::time::timeout(PATIENCE, futures::future::join_all(opening)).await;
        }
    }

    async fn pace(self: &Rc<Self>, arrivals: impl Iterator<Item = (usize, Arrival)>, stop: &CancellationToken) -> anyhow::Result<()> {
        let alarm = Alarm::new()?;
        let clock = self.clock.get();
        let mut arrivals = arrivals.peekable();
        let mut burst = Vec::with_capacity(BURST);
        while let Some(due_ns) = arrivals.peek().map(|(_, arrival)| nanos(arrival.at)) {
            // The clock stands at zero before the start, when what is due at zero is not due yet.
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
            // Those that are not sent count too: a generator that has fallen far behind still looks at replies, and at `stop`.
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

    /// Begins one request: over a connection that has room, where there is one, in the next [`Sender::write`].
    fn issue(self: &Rc<Self>, sequence: u64, arrival: &Arrival, burst: &mut Vec<Begun>) {
        Gauges::count(&self.gauges.due, arrival.function);
        let record = Record::due(sequence, arrival, nanos(arrival.at));
        let mut live = self.live.borrow_mut();
        if live.len() >= self.plan.max_in_flight {
            drop(live);
            self.emit(record);
            return;
        }
        let key = live.insert(Live { record, arrival: *arrival });
        drop(live);
        let function = arrival.function as usize;
        let (Some(destination), Some(template)) = (self.plan.functions.get(function), self.templates.get(function)) else {
            return self.finish(key, Err(Status::Unreachable));
        };
        let body = self.plan.dialect.body(arrival, sequence);
        let pool = &self.pools[destination.address];
        let connection = if self.plan.reuse { pool.take() } else { None };
        match connection {
            Some(connection) => match connection.begin(template, body.clone()) {
                Some(answer) => burst.push(Begun { key, connection, answer }),
                None => self.begin_over_new_connection(key, body),
            },
            None => self.begin_over_new_connection(key, body),
        }
    }

    /// Writes what was begun, notes when, and leaves each request to a task of its own.
    fn write(self: &Rc<Self>, burst: &mut Vec<Begun>) {
        let clock = self.clock.get();
        // A write takes everything that was begun on its connection, so the requests after the first may have gone with it.
        let mut last = None;
        for Begun { key, connection, answer } in burst.drain(..) {
            last = connection.push().map(|written| clock.ns_of(written)).or(last);
            let sent = last.unwrap_or_else(|| clock.now_ns());
            if let Some(live) = self.live.borrow_mut().get_mut(key) {
                live.record.sent_ns = Some(sent);
                live.record.over = Over::Reused;
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

    /// The wait for the connection belongs to the request, and so does the time that it takes.
    fn begin_over_new_connection(self: &Rc<Self>, key: usize, body: bytes::Bytes) {
        let sender = Rc::clone(self);
        let now = self.clock.get().now_ns();
        if let Some(live) = self.live.borrow_mut().get_mut(key) {
            live.record.sent_ns = Some(now);
            live.record.over = Over::New;
        }
        tokio::task::spawn_local(async move {
            match sender.in_time(key, sender.over_new_connection(key, body)).await {
                Ok((answer, connection)) => {
                    sender.finish(key, Ok(answer));
                    if sender.plan.reuse {
                        connection.release().await;
                    }
                }
                Err(status) => sender.finish(key, Err(status)),
            }
        });
    }

    async fn over_new_connection(&self, key: usize, body: bytes::Bytes) -> Result<(Answer, Connection), Status> {
        // A connection that several waiting requests share may have no room for all of them; those try another.
        const TRIES: usize = 4;
        let function = self.live.borrow().get(key).map_or(0, |live| live.record.function as usize);
        let pool = &self.pools[self.plan.functions[function].address];
        for _ in 0..TRIES {
            let connection: Connection = if self.plan.reuse { pool.open_shared().await? } else { pool.open().await? };
            if let Some(live) = self.live.borrow_mut().get_mut(key) {
                live.record.connected_ns = Some(self.clock.get().now_ns());
            }
            if let Some(answer) = connection.begin(&self.templates[function], body.clone()) {
                connection.push();
                return Ok((answer.await?, connection));
            }
        }
        Err(Status::Broken)
    }

    async fn in_time<T>(&self, key: usize, answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let due = self.live.borrow().get(key).map_or(0, |live| live.record.intended_ns);
        let deadline = self.clock.get().at(due) + self.plan.timeout;
        tokio::time::timeout_at(deadline.into(), answer).await.unwrap_or(Err(Status::Timeout))
    }

    fn finish(&self, key: usize, answer: Result<Answer, Status>) {
        let now = self.clock.get().now_ns();
        let mut live = self.live.borrow_mut();
        let Some(Live { mut record, arrival }) = live.try_remove(key) else { return };
        drop(live);
        match answer {
            Ok(answer) => self.judge(&mut record, &arrival, &answer, now),
            Err(status) => record.status = status,
        }
        self.emit(record);
    }

    fn judge(&self, record: &mut Record, arrival: &Arrival, answer: &Answer, now_ns: u64) {
        record.replied_ns = Some(now_ns);
        record.status = answer.status;
        if answer.status != Status::Ok {
            return;
        }
        let took_us = now_ns.saturating_sub(record.sent_ns.unwrap_or(record.intended_ns)) / 1_000;
        let message = if self.plan.dialect.is_grpc() { unframe(&answer.body) } else { Ok(&answer.body[..]) };
        let judged = message.and_then(|message| self.plan.dialect.judge(message, arrival, record.sequence, took_us));
        record.valid = Some(judged.is_ok());
        match judged {
            Ok(reported) => (record.reported_us, record.reported_kib) = (reported.duration_us, reported.memory_kib),
            Err(invalid) => tracing::debug!(function = record.function, sequence = record.sequence, reason = invalid.0, "invalid reply"),
        }
    }

    fn emit(&self, record: Record) {
        Gauges::count(&self.gauges.ended, record.function);
        let mut finished = self.finished.borrow_mut();
        finished.push(record);
        if finished.len() >= BATCH {
            drop(finished);
            self.flush();
        }
    }

    /// Hands over what has ended. Where whoever takes it has fallen far behind this waits, which then shows as send lag.
    fn flush(&self) {
        let finished = std::mem::take(&mut *self.finished.borrow_mut());
        if !finished.is_empty() {
            // The taker is gone only where the run was given up.
            let _ = self.records.send(finished);
        }
    }

    async fn flush_forever(self: Rc<Self>) {
        loop {
            tokio::time::sleep(FLUSH_EVERY).await;
            self.flush();
        }
    }

    async fn drain(&self, abort: &CancellationToken) {
        const LOOK_EVERY: Duration = Duration::from_millis(2);
        let drained = async {
            while !self.live.borrow().is_empty() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            () = abort.cancelled() => {}
            _ = tokio::time::timeout(self.plan.drain, drained) => {}
        }
    }

    /// Marks what is still in flight as cut off.
    fn censor(&self) {
        let left: Vec<Live> = self.live.borrow_mut().drain().collect();
        for Live { mut record, .. } in left {
            record.status = Status::Censored;
            self.emit(record);
        }
    }
}

/// A request handed to its connection, not written yet.
struct Begun {
    key: usize,
    connection: Connection,
    answer: connection::Pending,
}
