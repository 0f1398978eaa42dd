//! Requests through the gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use qscale_common::platform::EventKind;

use crate::harness::{Caller, Platform, eventually, folder, spec};

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_queue_are_refused() {
    let folder = folder();
    let platform = Platform::with(folder.path(), &spec("protocol = \"http\"\nconcurrency = 1\nqueue = 1"), 1).await;
    let (first, second, third) = (platform.http(), platform.http(), platform.http());
    let first = tokio::spawn(async move { first.call("/sleep?ms=1500").await });
    platform.until("one request in flight", |status| status.actual.replicas[0].in_flight == 1).await;
    let second = tokio::spawn(async move { second.call("/sleep?ms=0").await });
    platform.until("one request waits", |status| status.queued == 1).await;
    let refused = third.call("/").await;
    assert_eq!((refused.status, refused.refusal()), (StatusCode::SERVICE_UNAVAILABLE, Some("queue-full")));
    let refused = platform.grpc().call("/a.B/C").await;
    assert_eq!((refused.status, refused.grpc_status()), (StatusCode::OK, Some("8")));
    assert!(first.await.expect("joined").is_fine() && second.await.expect("joined").is_fine());
    assert_eq!(platform.metric("qscale_gateway_requests_total").await, 4.0);
    assert_eq!(platform.metric("kn_serving_invocation_duration_seconds_count").await, 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_request_starts_a_function_from_zero() {
    let folder = folder();
    let platform =
        Platform::with(folder.path(), &spec("allocation = { replicas = 0 }\nenvironment = { START_DELAY_MS = \"200\" }"), 0).await;
    let calls: Vec<_> = (0..10)
        .map(|_| {
            tokio::spawn({
                let caller = platform.grpc();
                async move { caller.call("/a.B/C").await }
            })
        })
        .collect();
    for call in calls {
        let reply = call.await.expect("joined");
        assert!(reply.is_fine(), "{reply:?}");
    }
    let status = platform.until_ready(1).await;
    assert_eq!(status.desired.replicas.0, 1);
    assert!(status.actual.replicas[0].startup_ms.is_some_and(|startup| startup >= 200));
    let events = platform.client.events(0).await.expect("events").events;
    assert_eq!(events.iter().filter(|event| event.kind == EventKind::StartedFromZero).count(), 1);
}

/// Calls in a closed loop until `stop`; counts calls and returns the failures.
async fn load(caller: Caller, stop: Arc<AtomicBool>, calls: Arc<AtomicU64>) -> Vec<String> {
    let mut failures = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        calls.fetch_add(1, Ordering::Relaxed);
        match caller.request("/sleep?ms=2", "f", b"payload").await {
            Ok(reply) if reply.is_fine() && reply.body == "payload" => {}
            other => failures.push(format!("{other:?}")),
        }
    }
    failures
}

async fn loses_nothing_while_scaled(protocol: &str, grpc: bool) {
    let folder = folder();
    let platform = Platform::with(folder.path(), &spec(&format!("protocol = \"{protocol}\"\nconcurrency = 4")), 1).await;
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let caller = Caller::new(&platform.addresses.gateway, grpc);
    let workers: Vec<_> = (0..16).map(|_| tokio::spawn(load(caller.clone(), Arc::clone(&stop), Arc::clone(&calls)))).collect();
    for round in [4, 1, 0, 1, 4, 0, 2] {
        let before = calls.load(Ordering::Relaxed);
        platform.set(round, 1_000, 128, None).await.expect("set");
        // Under load, a function scaled to zero is started again immediately.
        platform.until_ready(round.max(1)).await;
        eventually("more requests", || async { (calls.load(Ordering::Relaxed) > before + 200).then_some(()) }).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut failures = Vec::new();
    for worker in workers {
        failures.extend(worker.await.expect("joined"));
    }
    assert!(failures.is_empty(), "{} of {} failed: {}", failures.len(), calls.load(Ordering::Relaxed), failures[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_grpc_request_is_lost_while_replicas_come_and_go() {
    loses_nothing_while_scaled("grpc", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_http_request_is_lost_while_replicas_come_and_go() {
    loses_nothing_while_scaled("http", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_exceeds_its_timeout_is_refused() {
    let folder = folder();
    let platform = Platform::with(folder.path(), &spec("timeout = \"300ms\""), 1).await;
    assert_eq!(platform.grpc().call("/sleep?ms=60000").await.grpc_status(), Some("4"));
    assert_eq!(platform.http().call("/sleep?ms=60000").await.status, StatusCode::GATEWAY_TIMEOUT);
    platform.until("places are free", |status| status.actual.replicas[0].in_flight == 0).await;
    assert!(platform.grpc().call("/a.B/C").await.is_fine());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_disconnects_frees_its_place() {
    let folder = folder();
    let platform = Platform::with(folder.path(), &spec("protocol = \"http\"\nconcurrency = 1\ntimeout = \"10m\""), 1).await;
    for caller in [platform.http(), platform.grpc()] {
        let left = tokio::time::timeout(Duration::from_millis(200), caller.call("/sleep?ms=600000")).await;
        assert!(left.is_err(), "it replied early");
        drop(caller);
        platform.until("the place is free", |status| status.actual.replicas[0].in_flight == 0).await;
    }
    assert!(platform.http().call("/").await.is_fine());
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_trailers_pass_both_ways() {
    let folder = folder();
    let platform = Platform::with(folder.path(), &spec("").clone(), 1).await;
    let body = vec![7; 3 << 20];
    let reply = platform.grpc().request("/a.B/C", "default/f", &body).await.expect("a reply");
    assert!(reply.body == body && reply.trailers["grpc-status"] == "0");
    let unknown = platform.grpc().request("/a.B/C", "other", b"").await.expect("a reply");
    assert_eq!(unknown.grpc_status(), Some("12"));
    assert_eq!(platform.http().request("/", "other", b"").await.expect("a reply").status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_request_is_refused_as_bad() {
    let folder = folder();
    let platform = Platform::with(folder.path(), &spec("protocol = \"http\""), 1).await;
    let requests = [
        "POST / HTTP/1.1\r\nHost: f\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: f\r\nHost: g\r\nConnection: close\r\n\r\n",
    ];
    for request in requests {
        let reply = platform.raw(request).await;
        assert!(reply.starts_with("HTTP/1.1 400 ") && reply.contains("x-qscale-refusal: bad-request"), "{request:?}: {reply:?}");
    }
    assert!(platform.http().call("/").await.is_fine());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_gets_the_authority_of_the_request_line_as_host() {
    let folder = folder();
    let platform = Platform::with(folder.path(), &spec("protocol = \"http\""), 1).await;
    let reply = platform.raw("POST http://f.default:80/host HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n").await;
    assert!(reply.ends_with("\r\n\r\nf.default:80"), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_may_have_a_port_of_its_own() {
    let folder = folder();
    let (first, second) = (qscale_tests::free_port(), qscale_tests::free_port());
    let platform = Platform::with(folder.path(), &spec(&format!("listen = {first}")), 1).await;
    let answers = async |port: u16| {
        let own = Caller::new(&format!("127.0.0.1:{port}"), true);
        own.request("/a.B/C", "any", b"x").await.is_ok_and(|reply| reply.is_fine())
    };
    assert!(answers(first).await);
    for (listen, used, unused) in
        [(Some(second), vec![second], vec![first]), (None, vec![], vec![first, second]), (Some(first), vec![first], vec![second])]
    {
        let keys = listen.map(|port| format!("listen = {port}")).unwrap_or_default();
        platform.client.add(&spec(&keys)).await.expect("replaced");
        for port in used {
            assert!(answers(port).await, "{port} with {keys:?}");
        }
        for port in unused {
            eventually("the port to be released", || async { (!answers(port).await).then_some(()) }).await;
        }
    }
    assert!(platform.grpc().call("/a.B/C").await.is_fine());
}
