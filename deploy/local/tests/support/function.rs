//! A function with known behaviour, for the tests of the platform: HTTP/1.1 and HTTP/2 on the port in `PORT`.
//!
//! `/sleep?ms=` replies late, `/burn?ms=` uses CPU time, `/hold?mib=` keeps memory, `/crash` ends the process, `/host`
//! replies with the header `Host` and `/headers` with all of them. `/process` describes the process, `/read` and
//! `/create`, followed by a path, try a file, `/signal?pid=` and `/trace?pid=` another process, `/namespace` a new user
//! namespace. Any other path echoes the body, or replies with the process id if it is empty. gRPC requests are echoed
//! with trailers. `START_DELAY_MS` delays the start. With `RAW_REPLY` every connection gets these bytes; with
//! `RESET_REUSED` too, it stays open until the next request, which resets it.

use std::convert::Infallible;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

/// Memory that is kept until the end.
static HELD: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

type Reply = Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    println!("starting");
    tokio::time::sleep(Duration::from_millis(variable("START_DELAY_MS").unwrap_or(0))).await;
    let port = variable("PORT").ok_or("PORT is not set")?;
    let listener = TcpListener::bind(("127.0.0.1", u16::try_from(port)?)).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        let stream = tokio::select! {
            _ = terminate.recv() => return Ok(()),
            accepted = listener.accept() => accepted?.0,
        };
        stream.set_nodelay(true)?;
        if let Ok(reply) = std::env::var("RAW_REPLY") {
            tokio::spawn(reply_raw(stream, reply));
            continue;
        }
        tokio::spawn(async move {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http1().max_headers(1_000);
            drop(
                builder.serve_connection(TokioIo::new(stream), service_fn(async |request| Ok::<_, Infallible>(reply(request).await))).await,
            );
        });
    }
}

/// Replies to the first bytes with `reply`, and closes the connection, with `RESET_REUSED` at the next bytes.
async fn reply_raw(mut stream: TcpStream, reply: String) {
    let mut request = [0; 4096];
    if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
        drop(stream.write_all(reply.as_bytes()).await);
        if std::env::var_os("RESET_REUSED").is_some() {
            // Closed with the rest of the request unread.
            drop(stream.read(&mut [0]).await);
        }
    }
}

async fn reply(request: Request<Incoming>) -> Reply {
    let query = request.uri().query().and_then(|query| query.split_once('=')).and_then(|(_, value)| value.parse::<u64>().ok()).unwrap_or(0);
    match request.uri().path() {
        "/sleep" => tokio::time::sleep(Duration::from_millis(query)).await,
        "/burn" => burn(Duration::from_millis(query)),
        "/hold" => HELD.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(vec![1; usize::try_from(query).unwrap_or(0) << 20]),
        "/crash" => std::process::exit(7),
        "/host" => return text(request.headers().get("host").map_or(Bytes::new(), |host| Bytes::copy_from_slice(host.as_bytes()))),
        "/headers" => return text(headers(request.headers())),
        "/process" => return text(process()),
        // SAFETY: these calls take integers.
        "/signal" => return text(outcome(unsafe { libc::kill(query as i32, libc::SIGTERM) }.into())),
        // SAFETY: as above.
        "/trace" => return text(outcome(unsafe { libc::ptrace(libc::PTRACE_ATTACH, query as i32, 0, 0) })),
        // SAFETY: as above.
        "/namespace" => return text(outcome(unsafe { libc::unshare(libc::CLONE_NEWUSER) }.into())),
        path if path.starts_with("/read/") => return text(result(std::fs::read(&path[5..]))),
        path if path.starts_with("/create/") => return text(result(std::fs::write(&path[7..], "x"))),
        _ => {}
    }
    let grpc = request.headers().get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if grpc {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let mut response = Response::new(Full::new(body).with_trailers(async move { Some(Ok(trailers)) }).boxed());
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        return response;
    }
    let body = if body.is_empty() { Bytes::from(std::process::id().to_string()) } else { body };
    text(body)
}

fn text(body: Bytes) -> Reply {
    Response::new(Full::new(body).boxed())
}

fn headers(headers: &HeaderMap) -> Bytes {
    let lines = headers.iter().map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    lines.collect::<String>().into()
}

/// Status, environment, and open descriptors with their targets, one a line.
fn process() -> Bytes {
    let mut text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (key, value) in std::env::vars() {
        text.push_str(&format!("environment {key}={value}\n"));
    }
    for entry in std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        text.push_str(&format!("descriptor {} {}\n", entry.file_name().display(), target.display()));
    }
    text.into()
}

fn outcome(returned: i64) -> Bytes {
    result(if returned < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) })
}

fn result<T>(result: std::io::Result<T>) -> Bytes {
    match result {
        Ok(_) => "done".into(),
        Err(error) => error.to_string().into(),
    }
}

/// Uses `duration` of CPU time, however long that takes.
fn burn(duration: Duration) {
    let start = cpu_time();
    while cpu_time().saturating_sub(start) < duration {
        std::hint::spin_loop();
    }
}

fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local that outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
