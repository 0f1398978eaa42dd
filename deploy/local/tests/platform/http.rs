//! Requests and replies that need care in an intermediary: tunnels, codings, cookies, lengths, fields of a connection, slow clients.

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{Platform, f, folder, spec};

/// Sends a request over HTTP/2; returns status, refusal and body.
async fn http2(platform: &Platform, request: Request<Full<bytes::Bytes>>) -> (StatusCode, Option<String>, String) {
    let stream = TcpStream::connect(&platform.addresses.gateway).await.expect("connected");
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let reply = sender.send_request(request).await.expect("a reply");
    let (head, body) = reply.into_parts();
    let refusal = head.headers.get("x-qscale-refusal").map(|value| value.to_str().expect("text").to_owned());
    let body = body.collect().await.expect("a body").to_bytes();
    (head.status, refusal, String::from_utf8(body.to_vec()).expect("text"))
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_and_other_codings_are_refused_with_an_answer() {
    let folder = folder();
    let platform = Platform::with(folder.path(), &spec("protocol = \"http\""), 1).await;
    for request in [
        "CONNECT f:443 HTTP/1.1\r\nHost: f:443\r\n\r\n",
        "CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\nContent-Type: application/grpc\r\n\r\n",
        "TRACE / HTTP/1.1\r\nHost: f\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: f\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: f\r\nTransfer-Encoding: deflate\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: f\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    ] {
        let reply = platform.raw(request).await;
        let refused = reply.starts_with("HTTP/1.1 501 ") && reply.contains("x-qscale-refusal: not-implemented");
        assert!(refused && reply.contains("connection: close"), "{request:?}: {reply:?}");
    }
    for kind in ["text/plain", "application/grpc"] {
        let request = Request::connect("f:443").header("content-type", kind).body(Full::default()).expect("a request");
        let (status, refusal, _) = http2(&platform, request).await;
        assert_eq!((status, refusal.as_deref()), (StatusCode::NOT_IMPLEMENTED, Some("not-implemented")), "{kind}");
    }
    assert!(platform.http().call("/").await.is_fine());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_of_a_request_is_one_valid_name() {
    let folder = folder();
    let platform = Platform::with(folder.path(), &spec("protocol = \"http\""), 1).await;
    for lines in ["", "Host: f\r\nHost: f\r\n", "Host: a b\r\n", "Host: user@f\r\n", "Host: f/x\r\n", "Host: f\u{e9}\r\n"] {
        let reply = platform.raw(&format!("POST / HTTP/1.1\r\n{lines}x-qscale-function: f\r\n\r\n")).await;
        assert!(reply.starts_with("HTTP/1.1 400 "), "{lines:?}: {reply:?}");
    }
    let reply = platform.raw("GET /headers HTTP/1.0\r\nx-qscale-function: f\r\n\r\n").await;
    assert!(reply.contains(" 200 OK\r\n") && reply.contains("\nhost: \n"), "HTTP/1.1 needs the field: {reply:?}");
    let request = Request::get("http://f/").header("host", "g").body(Full::default()).expect("a request");
    assert_eq!(http2(&platform, request).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_receives_one_cookie_field_and_no_field_of_the_connection() {
    let folder = folder();
    let platform = Platform::with(folder.path(), &spec("protocol = \"http\""), 1).await;
    let request = Request::get("http://f/headers").header("cookie", "a=1").header("cookie", "b=2").header("cookie", "c=3");
    let (status, _, headers) = http2(&platform, request.body(Full::default()).expect("a request")).await;
    let cookies: Vec<&str> = headers.lines().filter(|line| line.starts_with("cookie")).collect();
    assert_eq!((status, cookies), (StatusCode::OK, vec!["cookie: a=1; b=2; c=3"]));
    let reply = platform
        .raw(
            "GET /headers HTTP/1.1\r\nHost: f\r\nConnection: close, X-Secret, TE\r\nX-Secret: 1\r\nUpgrade: websocket\r\nTE: gzip\r\n\
             Keep-Alive: 5\r\nProxy-Authorization: Basic eA==\r\nProxy-Connection: close\r\nX-Kept: 1\r\n\r\n",
        )
        .await;
    let (_, body) = reply.split_once("\r\n\r\n").expect("a body");
    let mut names: Vec<&str> = body.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
    names.sort_unstable();
    assert_eq!(names, ["host", "x-kept"], "{reply}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_cannot_be_forwarded_is_a_bad_gateway() {
    let folder = folder();
    let platform = Platform::start(folder.path(), &[]).await;
    for reply in [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\njunk",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nrest",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 60\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    ] {
        let mut spec = spec("protocol = \"http\"");
        spec.environment.insert("RAW_REPLY".to_owned(), reply.to_owned());
        platform.client.add(&spec).await.expect("added");
        platform.until_ready(1).await;
        let sent = platform.raw("GET / HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n").await;
        assert!(sent.starts_with("HTTP/1.1 502 ") && sent.contains("x-qscale-refusal: replica-failed"), "{reply:?}: {sent:?}");
        let body = Request::get("http://f/").body(Full::default()).expect("a request");
        assert_eq!(http2(&platform, body).await.0, StatusCode::BAD_GATEWAY, "{reply:?}");
        platform.client.delete(&f()).await.expect("deleted");
    }
    let mut both = spec("protocol = \"http\"");
    let reply = "HTTP/1.1 200 OK\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\nKeep-Alive: 5\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    both.environment.insert("RAW_REPLY".to_owned(), reply.to_owned());
    platform.client.add(&both).await.expect("added");
    platform.until_ready(1).await;
    let sent = platform.raw("GET / HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n").await;
    assert!(sent.starts_with("HTTP/1.1 200 ") && !sent.contains("60") && !sent.contains("keep-alive"), "{sent:?}");
    assert!(sent.contains("2\r\nok\r\n0\r\n"), "{sent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_with_trailers_is_whole_for_a_client_of_http_1() {
    let folder = folder();
    let platform = Platform::start(folder.path(), &[]).await;
    let mut spec = spec("protocol = \"http\"");
    let reply = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n";
    spec.environment.insert("RAW_REPLY".to_owned(), reply.to_owned());
    platform.client.add(&spec).await.expect("added");
    platform.until_ready(1).await;
    for version in ["1.0", "1.1"] {
        let sent = platform.raw(&format!("GET / HTTP/{version}\r\nHost: f\r\nConnection: close\r\n\r\n")).await;
        assert!(sent.starts_with("HTTP/1.") && sent.contains(" 200 OK\r\n") && sent.contains("ok"), "{version}: {sent:?}");
    }
    let metrics = platform.client.metrics().await.expect("metrics");
    let statuses = |status: &str| metrics.lines().any(|line| line.contains(&format!("http_response_status_code=\"{status}\"")));
    assert!(statuses("200") && !statuses("499"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_idempotent_request_is_repeated_when_a_replica_resets_a_reused_connection() {
    let folder = folder();
    let platform = Platform::start(folder.path(), &[]).await;
    let mut spec = spec("protocol = \"http\"");
    spec.environment.insert("RAW_REPLY".to_owned(), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned());
    spec.environment.insert("RESET_REUSED".to_owned(), "1".to_owned());
    platform.client.add(&spec).await.expect("added");
    platform.until_ready(1).await;
    for (method, status) in [("GET", " 200 "), ("GET", " 200 "), ("GET", " 200 "), ("POST", " 502 ")] {
        let sent = platform.raw(&format!("{method} / HTTP/1.1\r\nHost: f\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")).await;
        assert!(sent.contains(status), "{method}: {sent:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_may_have_many_and_long_fields() {
    let folder = folder();
    let platform = Platform::with(folder.path(), &spec("protocol = \"http\""), 1).await;
    let many: String = (0..120).map(|number| format!("x-field-{number}: {number}\r\n")).collect();
    let reply = platform.raw(&format!("GET /headers HTTP/1.1\r\nHost: f\r\n{many}Connection: close\r\n\r\n")).await;
    assert!(reply.starts_with("HTTP/1.1 200 ") && reply.contains("x-field-119: 119"), "{reply:?}");
    let long = "x".repeat(20_000);
    let request = Request::get("http://f/headers").header("x-long", &long).body(Full::default()).expect("a request");
    let (status, _, body) = http2(&platform, request).await;
    assert!(status == StatusCode::OK && body.contains(&long), "{status}: {} bytes", body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_with_too_many_or_too_long_fields_are_refused_in_each_protocol() {
    let folder = folder();
    let platform = Platform::with(folder.path(), &spec("protocol = \"http\""), 1).await;
    let many: String = (0..1_001).map(|_| "x:\r\n").collect();
    let reply = platform.raw(&format!("GET /headers HTTP/1.1\r\nHost: f\r\n{many}\r\n")).await;
    assert!(reply.starts_with("HTTP/1.1 431 "), "{reply:?}");
    let get = || Request::get("http://f/headers");
    let many = (0..1_001).fold(get(), |request, _| request.header("x", ""));
    let (status, refusal, _) = http2(&platform, many.body(Full::default()).expect("a request")).await;
    assert_eq!((status.as_u16(), refusal.as_deref()), (431, Some("too-many-fields")));
    // HPACK makes a byte of each field but the first.
    for long in [get().header("x", "x".repeat(70_000)), (0..3_000).fold(get(), |request, _| request.header("x", ""))] {
        assert_eq!(http2(&platform, long.body(Full::default()).expect("a request")).await.0.as_u16(), 431);
    }
    assert!(platform.http().call("/").await.is_fine());
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_clients_do_not_delay_the_stop() {
    let folder = folder();
    let mut platform = Platform::start(folder.path(), &[]).await;
    let mut silent = Vec::new();
    for address in [&platform.addresses.api, &platform.addresses.gateway] {
        for start in [&b""[..], b"PRI * HTTP/2", b"P"] {
            let mut stream = TcpStream::connect(address).await.expect("connected");
            stream.write_all(start).await.expect("sent");
            silent.push(stream);
        }
    }
    assert!(platform.client.is_ready().await);
    platform.end(libc::SIGTERM).await;
    let log = platform.log();
    assert!(log.contains("stopped") && !log.contains("stop_timeout exceeded") && !log.contains("still open"), "{log}");
}
