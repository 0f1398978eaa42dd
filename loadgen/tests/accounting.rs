//! A run reports what really happened, with servers that stall, hang, refuse, fail and send invalid replies.

use std::convert::Infallible;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use qscale_common::load::LoadSummary;
use qscale_common::time::Span;
use qscale_loadgen::config::{ConnectionMode, LoadConfig};
use qscale_loadgen::run::{Observers, run};
use qscale_loadgen::sink::{self, SinkArgs, Stats};
use tokio_util::sync::CancellationToken;

/// A sink on its own thread.
struct Sink {
    address: SocketAddr,
    stop: CancellationToken,
    thread: JoinHandle<Stats>,
}

impl Sink {
    fn start(stall: Option<(u64, u64)>) -> Self {
        let args = SinkArgs {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            stall: stall.map(|(stall, _)| Span::millis(stall)),
            every: stall.map(|(_, every)| Span::millis(every)),
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (bound, address) = mpsc::channel();
        let serve = move || sink::serve(&args, &stopped, |address| bound.send(address).expect("awaited")).expect("serves");
        let thread = std::thread::spawn(serve);
        Self { address: address.recv().expect("bound"), stop, thread }
    }

    fn stop(self) -> Stats {
        self.stop.cancel();
        self.thread.join().expect("no panic")
    }
}

fn load(address: SocketAddr, rate: &str, millis: u64) -> LoadConfig {
    LoadConfig {
        target: address.to_string(),
        functions: vec!["f".to_owned()],
        rate: rate.parse().expect("a rate"),
        length: Some(Span::millis(millis)),
        // Tests share their machine, so send lag is not checked.
        no_real_time: true,
        max_lag: Span::seconds(60),
        ..LoadConfig::default()
    }
}

fn sent(config: &LoadConfig) -> LoadSummary {
    let observers = Observers { progress: Box::new(|_| {}), trace: Box::new(|_| {}), loads: None, default_length: Duration::ZERO };
    run(config, observers, &CancellationToken::new(), &CancellationToken::new()).expect("runs")
}

fn failures(summary: &LoadSummary) -> Vec<(&str, u64)> {
    summary.total.failures.iter().map(|(kind, count)| (kind.as_str(), *count)).collect()
}

/// Rows of a CSV file as cells, by the names of its columns.
fn rows(path: &Path) -> Vec<std::collections::HashMap<String, String>> {
    let mut reader = csv::Reader::from_path(path).expect("opens");
    reader.deserialize().map(|row| row.expect("a row")).collect()
}

fn micros(row: &std::collections::HashMap<String, String>, column: &str) -> u64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column} = {}", row[column]))
}

#[expect(clippy::disallowed_methods, reason = "relates the two clocks that the outputs use")]
fn unix_us_of_monotonic_zero() -> i128 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to the time that it is given, which outlives it.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    unix.as_micros() as i128 - i128::from(time.tv_sec) * 1_000_000 - i128::from(time.tv_nsec) / 1_000
}

#[test]
fn a_stall_counts_in_full_for_every_request_that_was_due_in_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("requests.csv");
    let sink = Sink::start(Some((200, 1_000)));
    let summary =
        sent(&LoadConfig { csv: Some(path.clone()), gaps: "constant".parse().expect("known"), ..load(sink.address, "500", 5_500) });
    let stats = sink.stop();
    assert!(stats.stalls_us.len() >= 4, "{:?}", stats.stalls_us);

    // The stalls on the clock of the run, shortened by a millisecond at both ends for what relating the clocks may err.
    let to_run = unix_us_of_monotonic_zero() + i128::from(stats.started_monotonic_ns) / 1_000 - i128::from(summary.started_unix_us);
    let stalls: Vec<(i128, i128)> =
        stats.stalls_us.iter().map(|(begin, end)| (i128::from(*begin) + to_run + 1_000, i128::from(*end) + to_run - 1_000)).collect();
    let stalled = |at: i128| stalls.iter().find(|(begin, end)| (*begin..*end).contains(&at)).map(|(_, end)| end - at);

    let mut latencies = Vec::new();
    let mut truths = Vec::new();
    for row in rows(&path) {
        assert_eq!((row["status"].as_str(), row["valid"].as_str()), ("ok", "true"));
        let (intended, replied) = (micros(&row, "intended_us"), micros(&row, "replied_us"));
        let truth = stalled(i128::from(intended)).unwrap_or(0);
        assert!(
            i128::from(replied - intended) >= truth,
            "due at {intended} us, {truth} us before the end of a stall, answered at {replied} us"
        );
        latencies.push(replied - intended);
        truths.push(truth);
    }
    assert_eq!(latencies.len() as u64, summary.total.succeeded);
    latencies.sort_unstable();
    truths.sort_unstable();
    let p99 = latencies.len() * 99 / 100;
    let (exact, truth) = (latencies[p99] as f64 / 1e3, truths[p99] as f64 / 1e3);
    let said = summary.total.latency_ms.expect("answered").p99;
    println!("p99: said {said:.2} ms, of the rows {exact:.2} ms, of the stalls alone {truth:.2} ms");
    assert!(truth > 100.0, "a fifth of the time was stalled: {truth}");
    assert!((said - exact).abs() <= exact * 0.01, "the summary says {said} ms, the rows {exact} ms");
    assert!(said >= truth * 0.99, "{said} ms is less than the stalls alone made");
}

/// A listener that accepts and never answers.
fn silent() -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    (listener.local_addr().expect("bound"), listener)
}

#[test]
fn what_is_in_flight_at_the_end_is_marked_and_neither_success_nor_failure() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("requests.csv");
    let (address, _listener) = silent();
    for protocol in ["relay", "http"] {
        let protocol = protocol.parse().expect("known");
        let summary = sent(&LoadConfig { csv: Some(path.clone()), drain: Span::millis(50), protocol, ..load(address, "100", 200) });
        assert!(summary.total.due > 5);
        assert_eq!((summary.total.censored, summary.total.failed, summary.total.succeeded), (summary.total.due, 0, 0));
        assert!(summary.total.latency_ms.is_none());
        assert!(rows(&path).iter().all(|row| row["status"] == "censored" && row["replied_us"].is_empty()));
    }
}

#[test]
fn a_timeout_is_a_failure_and_not_a_latency() {
    let (address, _listener) = silent();
    let summary = sent(&LoadConfig { timeout: Span::millis(50), ..load(address, "100", 200) });
    assert_eq!(failures(&summary), [("timeout", summary.total.due)]);
    assert!(summary.total.latency_ms.is_none());
}

#[test]
fn a_refused_connection_is_a_failure_of_its_kind() {
    let (address, listener) = silent();
    drop(listener);
    let summary = sent(&load(address, "100", 200));
    assert_eq!(failures(&summary), [("refused", summary.total.due)]);
}

#[test]
fn what_exceeds_the_bound_in_flight_is_not_sent_and_makes_the_run_void() {
    let (address, _listener) = silent();
    let summary = sent(&LoadConfig { max_in_flight: 3, drain: Span::millis(10), ..load(address, "200", 200) });
    assert_eq!((summary.total.sent, summary.total.censored), (3, 3));
    assert_eq!(failures(&summary), [("not_sent", summary.total.due - 3)]);
    assert!(summary.void && summary.void_reasons[0].contains("max-in-flight"), "{:?}", summary.void_reasons);
}

#[test]
fn a_run_later_than_its_bound_is_void() {
    let sink = Sink::start(None);
    // No machine sends within a nanosecond.
    let summary = sent(&LoadConfig { max_lag: Span(Duration::from_nanos(1)), ..load(sink.address, "100", 200) });
    sink.stop();
    assert!(summary.void && summary.void_reasons[0].contains("max-lag = 1ns"), "{:?}", summary.void_reasons);
}

#[test]
fn every_request_is_sent_once_whatever_the_number_of_threads() {
    let sink = Sink::start(None);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("requests.csv");
    let summary = sent(&LoadConfig { csv: Some(path.clone()), threads: 3, ..load(sink.address, "1000", 500) });
    assert_eq!(sink.stop().requests, summary.total.due);
    let mut sequences: Vec<u64> = rows(&path).iter().map(|row| micros(row, "sequence")).collect();
    sequences.sort_unstable();
    assert!(sequences.into_iter().eq(0..summary.total.due));
}

#[test]
fn connections_are_reused_or_one_a_request() {
    let sink = Sink::start(None);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("requests.csv");
    for protocol in ["relay", "http"] {
        for (connection, word) in [(ConnectionMode::Reuse, "reused"), (ConnectionMode::PerRequest, "new")] {
            let protocol = protocol.parse().expect("known");
            let summary = sent(&LoadConfig { csv: Some(path.clone()), connection, protocol, ..load(sink.address, "20", 500) });
            assert_eq!(summary.total.succeeded, summary.total.due, "{:?}", failures(&summary));
            let rows = rows(&path);
            // A request that finds the others busy opens a connection in either mode.
            assert!(rows.iter().filter(|row| row["connection"] == word).count() * 2 > rows.len(), "{protocol} {word}");
        }
    }
    sink.stop();
}

#[test]
fn faas_requests_take_the_time_that_they_ask_for() {
    let sink = Sink::start(None);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("requests.csv");
    let protocol = "faas".parse().expect("known");
    let config = LoadConfig { csv: Some(path.clone()), protocol, duration_ms: 30, memory_mib: 16, ..load(sink.address, "50", 400) };
    let summary = sent(&config);
    sink.stop();
    assert_eq!(summary.total.succeeded, summary.total.due, "{:?}", failures(&summary));
    assert!(rows(&path).iter().all(|row| micros(row, "reported_us") >= 30_000 && micros(row, "reported_kib") == 16_384));
}

#[test]
fn a_request_that_is_due_at_the_start_is_not_sent_before_it() {
    let sink = Sink::start(None);
    let (protocol, gaps) = ("faas".parse().expect("known"), "constant".parse().expect("known"));
    let summary = sent(&LoadConfig { protocol, gaps, duration_ms: 30, ..load(sink.address, "1", 500) });
    sink.stop();
    // Sent early, it would seem to have run for longer than its reply took, which is no good reply.
    assert_eq!((summary.total.due, summary.total.succeeded), (1, 1), "{:?}", failures(&summary));
}

/// A server that gives every request the same answer.
fn answering(respond: impl Fn() -> Response<Full<Bytes>> + Clone + Send + Sync + 'static) -> SocketAddr {
    let (bound, address) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
            bound.send(listener.local_addr().expect("bound")).expect("awaited");
            while let Ok((stream, _)) = listener.accept().await {
                let respond = respond.clone();
                let service = hyper::service::service_fn(move |_: Request<Incoming>| std::future::ready(Ok::<_, Infallible>(respond())));
                tokio::spawn(async move {
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
    });
    address.recv().expect("bound")
}

#[track_caller]
fn fails(protocol: &str, kind: &str, respond: impl Fn() -> Response<Full<Bytes>> + Clone + Send + Sync + 'static) {
    let protocol = protocol.parse().expect("known");
    let summary = sent(&LoadConfig { protocol, expect: "needle".to_owned(), ..load(answering(respond), "50", 200) });
    assert_eq!(failures(&summary), [(kind, summary.total.due)]);
    assert!(summary.total.latency_ms.is_none());
}

fn grpc(status: &'static str, body: &'static [u8]) -> Response<Full<Bytes>> {
    let builder = Response::builder().header("content-type", "application/grpc").header("grpc-status", status);
    builder.body(Full::new(Bytes::from_static(body))).expect("a response")
}

#[test]
fn answers_with_an_error_fail_with_its_word() {
    fails("relay", "unimplemented", || grpc("12", b""));
    fails("direct:aes", "grpc_42", || grpc("42", b""));
    fails("relay", "http_503", || Response::builder().status(503).body(Full::default()).expect("a response"));
    fails("http", "http_404", || Response::builder().status(404).body(Full::default()).expect("a response"));
}

#[test]
fn answers_with_success_that_are_not_right_are_invalid() {
    fails("relay", "invalid_reply", || grpc("0", b""));
    fails("relay", "invalid_reply", || grpc("0", b"\0\0\0\0\x09\x0a\x02cut"));
    fails("direct:fibonacci", "invalid_reply", || grpc("0", b"\0\0\0\0\x04\x0a\x02hi"));
    fails("http", "invalid_reply", || Response::new(Full::new(Bytes::from_static(b"hay"))));
    fails("relay", "malformed", || Response::new(Full::new(Bytes::from_static(b"no gRPC at all"))));
}

#[test]
fn bytes_that_are_no_http_do_no_harm() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || {
                let _ = std::io::Write::write_all(&mut stream, &[0xff; 64]);
                let _ = stream.read(&mut [0; 1024]);
            });
        }
    });
    for protocol in ["relay", "http"] {
        let summary = sent(&LoadConfig { protocol: protocol.parse().expect("known"), drain: Span::seconds(5), ..load(address, "50", 200) });
        assert_eq!(summary.total.failed, summary.total.due, "{protocol}: {:?}", failures(&summary));
    }
}

fn stopped_after_a_second(config: &LoadConfig) -> LoadSummary {
    let stop = CancellationToken::new();
    let stopper = stop.clone();
    let mut seconds = 0;
    let progress = move |_: &_| {
        seconds += 1;
        if seconds == 1 {
            stopper.cancel();
        }
    };
    let observers = Observers { progress: Box::new(progress), trace: Box::new(|_| {}), loads: None, default_length: Duration::MAX };
    run(config, observers, &stop, &CancellationToken::new()).expect("runs")
}

#[test]
fn a_stop_ends_the_sending_and_drains() {
    let sink = Sink::start(None);
    let summary = stopped_after_a_second(&LoadConfig { length: None, ..load(sink.address, "100", 0) });
    sink.stop();
    assert!(summary.stopped_early && summary.total.due > 50);
    assert_eq!(summary.total.succeeded, summary.total.due);
}

#[test]
fn a_stop_ends_a_run_that_has_fallen_behind_its_schedule() {
    let (address, _listener) = silent();
    let behind = LoadConfig { length: None, max_in_flight: 1, drain: Span::millis(10), ..load(address, "10000000", 0) };
    let summary = stopped_after_a_second(&behind);
    assert!(summary.stopped_early && summary.void);
}

#[test]
fn a_load_is_published_each_second_for_each_function() {
    let sink = Sink::start(None);
    let (sender, mut loads) = tokio::sync::mpsc::channel(100);
    let observers = Observers { progress: Box::new(|_| {}), trace: Box::new(|_| {}), loads: Some(sender), default_length: Duration::ZERO };
    let functions = vec!["f".to_owned(), "other/g".to_owned()];
    let config = LoadConfig { functions, ..load(sink.address, "100", 2_500) };
    let summary = run(&config, observers, &CancellationToken::new(), &CancellationToken::new()).expect("runs");
    sink.stop();
    let mut published = Vec::new();
    while let Ok(load) = loads.try_recv() {
        published.push(load);
    }
    assert!(published.len() >= 4, "{published:?}");
    assert!(published.iter().any(|load| load.namespace.as_str() == "other" && load.function.as_str() == "g"));
    assert!(published.iter().all(|load| load.run == summary.run && load.interval_ms > 0));
    let offered: f64 = published.iter().map(|load| load.offered_rps * load.interval_ms as f64 / 1e3).sum();
    assert!(offered > 100.0 && offered <= summary.total.due as f64 + 2.0, "{offered} of {}", summary.total.due);
}

#[test]
fn a_disk_that_cannot_be_written_ends_the_run_with_the_name_of_the_file() {
    let sink = Sink::start(None);
    let observers = Observers { progress: Box::new(|_| {}), trace: Box::new(|_| {}), loads: None, default_length: Duration::ZERO };
    // Far longer than any test may take: the run ends early, or the test hangs.
    let config = LoadConfig { csv: Some("/dev/full".into()), ..load(sink.address, "1000", 3_600_000) };
    let error = run(&config, observers, &CancellationToken::new(), &CancellationToken::new()).expect_err("full");
    sink.stop();
    assert!(format!("{error:#}").contains("/dev/full"), "{error:#}");
}
