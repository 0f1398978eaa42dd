//! A server that does no work, to measure the generator itself; a `faas` request takes its time but no CPU. Owns
//! statistics of arrivals, and stalls on demand.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use prost::Message;
use qscale_common::time::Span;
use qscale_common::workload::Dispersion;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};
use tokio_util::sync::CancellationToken;

use crate::protocol::{framed, unframe};
use qscale_messages::{FAAS_EXECUTE, FaasReply, FaasRequest, HelloReply};

/// Options of the sink.
#[derive(Debug, Clone, Args)]
pub struct SinkArgs {
    /// Address to serve on; port 0 selects a free port, which is printed
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    pub listen: SocketAddr,
    /// Length of a stall, during which nothing is served
    #[arg(long, value_name = "DURATION", requires = "every")]
    pub stall: Option<Span>,
    /// Interval from the start of one stall to the next
    #[arg(long, value_name = "DURATION", requires = "stall")]
    pub every: Option<Span>,
}

/// Statistics of arrivals, as returned by `GET /stats` and printed at the end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// Requests.
    pub requests: u64,
    /// Request rate from the first to the last request, requests/s.
    pub rate: f64,
    /// Index of dispersion of arrivals in windows of 1 ms; 1 for a Poisson process.
    pub dispersion_1ms: Option<f64>,
    /// The same in windows of 10 ms.
    pub dispersion_10ms: Option<f64>,
    /// The same in windows of 100 ms.
    pub dispersion_100ms: Option<f64>,
    /// Start and end of each stall, microseconds since the start of the sink.
    pub stalls_us: Vec<(u64, u64)>,
    /// Start of the sink, nanoseconds on the monotonic clock of the machine.
    pub started_monotonic_ns: u64,
}

struct ArrivalStats {
    start: Instant,
    started_monotonic_ns: u64,
    first: Option<Duration>,
    last: Duration,
    requests: u64,
    dispersion: [Dispersion; 3],
    stalls_us: Vec<(u64, u64)>,
}

/// Maximum number of recorded stalls; the oldest are dropped.
const STALLS: usize = 100_000;

impl ArrivalStats {
    #[expect(clippy::disallowed_methods, reason = "the sink's edge to real time")]
    fn new() -> Self {
        let dispersion = [1, 10, 100].map(|window| Dispersion::new(Duration::from_millis(window)));
        Self {
            start: Instant::now(),
            started_monotonic_ns: monotonic_ns(),
            first: None,
            last: Duration::ZERO,
            requests: 0,
            dispersion,
            stalls_us: Vec::new(),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the sink's edge to real time")]
    fn elapsed(&self) -> Duration {
        Instant::now().duration_since(self.start)
    }

    fn arrived(&mut self) {
        let now = self.elapsed();
        let first = *self.first.get_or_insert(now);
        self.last = now;
        self.requests += 1;
        self.dispersion.iter_mut().for_each(|dispersion| dispersion.observe(now - first));
    }

    fn stats(&self) -> Stats {
        let span = self.first.map_or(0.0, |first| (self.last - first).as_secs_f64());
        let [ms1, ms10, ms100] = self.dispersion.each_ref().map(Dispersion::index);
        Stats {
            requests: self.requests,
            rate: if span > 0.0 { self.requests as f64 / span } else { 0.0 },
            dispersion_1ms: ms1,
            dispersion_10ms: ms10,
            dispersion_100ms: ms100,
            stalls_us: self.stalls_us.clone(),
            started_monotonic_ns: self.started_monotonic_ns,
        }
    }
}

fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to the time that it is given, which outlives it.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Concurrent streams per connection: during a stall the client, not this limit, bounds the requests.
const STREAMS: u32 = 1 << 20;

/// Serves until `stop` on one thread; calls `bound` with the address. Returns the statistics.
///
/// # Errors
/// When the address cannot be bound or the stall is not shorter than its interval.
pub fn serve(args: &SinkArgs, stop: &CancellationToken, bound: impl FnOnce(SocketAddr)) -> anyhow::Result<Stats> {
    if let (Some(stall), Some(every)) = (args.stall, args.every)
        && stall >= every
    {
        anyhow::bail!("stall = {stall}, must be less than every = {every}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
        bound(listener.local_addr()?);
        let seen = Rc::new(RefCell::new(ArrivalStats::new()));
        if let (Some(stall), Some(every)) = (args.stall, args.every) {
            spawn_local(stall_forever(Rc::clone(&seen), stall.0, every.0));
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    let _ = stream.set_nodelay(true);
                    spawn_local(connection(stream, Rc::clone(&seen)));
                }
            }
        }
        let stats = seen.borrow().stats();
        Ok(stats)
    })
}

/// Blocks the only thread, on purpose: requests wait like at a server during garbage collection.
async fn stall_forever(seen: Rc<RefCell<ArrivalStats>>, stall: Duration, every: Duration) {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    interval.tick().await;
    loop {
        interval.tick().await;
        let begin = seen.borrow().elapsed();
        std::thread::sleep(stall);
        let mut seen = seen.borrow_mut();
        let end = seen.elapsed();
        if seen.stalls_us.len() == STALLS {
            seen.stalls_us.remove(0);
        }
        seen.stalls_us.push((begin.as_micros() as u64, end.as_micros() as u64));
    }
}

async fn connection(stream: tokio::net::TcpStream, seen: Rc<RefCell<ArrivalStats>>) {
    let mut builder = auto::Builder::new(LocalExecutor);
    builder.http2().max_concurrent_streams(STREAMS);
    let service = service_fn(move |request| answer(request, Rc::clone(&seen)));
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(error, "connection ended");
    }
}

#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

type Reply = Response<BoxBody<Bytes, std::convert::Infallible>>;

async fn answer(request: Request<Incoming>, seen: Rc<RefCell<ArrivalStats>>) -> anyhow::Result<Reply> {
    if request.method() == Method::GET && request.uri().path() == "/stats" {
        let stats = serde_json::to_vec(&seen.borrow().stats())?;
        return Ok(Response::new(http_body_util::Full::new(stats.into()).boxed()));
    }
    seen.borrow_mut().arrived();
    let is_grpc = request.headers().get(http::header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if !is_grpc {
        return Ok(Response::new(http_body_util::Full::new(Bytes::from_static(b"ok\n")).boxed()));
    }
    let message = if request.uri().path() == FAAS_EXECUTE {
        let body = request.into_body().collect().await?.to_bytes();
        let asked = unframe(&body).ok().and_then(|message| FaasRequest::decode(message).ok()).unwrap_or_default();
        framed(&faas(&asked, &seen).await)
    } else {
        request.into_body().collect().await?;
        framed(&HelloReply { message: "sink".to_owned() })
    };
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(message)), Ok(Frame::trailers(trailers))];
    let body = http_body_util::StreamBody::new(futures::stream::iter(frames));
    Ok(Response::builder().header(http::header::CONTENT_TYPE, "application/grpc").body(body.boxed())?)
}

/// Waits for the requested duration without using CPU.
async fn faas(asked: &FaasRequest, seen: &RefCell<ArrivalStats>) -> FaasReply {
    let begin = seen.borrow().elapsed();
    tokio::time::sleep(Duration::from_millis(asked.runtime_in_milli_sec.into())).await;
    let lasted = seen.borrow().elapsed() - begin;
    FaasReply {
        message: "sink".to_owned(),
        duration_in_micro_sec: u32::try_from(lasted.as_micros()).unwrap_or(u32::MAX),
        memory_usage_in_kb: asked.memory_in_mebi_bytes.saturating_mul(1_024),
    }
}
