//! Start, failure, replacement and end of functions, replicas and the platform.

use http::StatusCode;
use qscale_common::platform::{EventKind, PlatformEvent, ReplicaState};
use qscale_common::runtime::platform::PlatformError;
use qscale_common::runtime::private;
use qscale_tests::system;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::harness::{Platform, eventually, f, folder, is_alive, spec};

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_crashes_is_restarted_and_counted() {
    let folder = folder();
    let platform = Platform::with(folder.path(), &spec("protocol = \"http\""), 1).await;
    let id = platform.status().await.actual.replicas[0].id.clone();
    assert_eq!(platform.http().call("/crash").await.status, StatusCode::BAD_GATEWAY);
    platform.until("it is counted", |status| status.crashes == 1).await;
    let status = platform.until_ready(1).await;
    assert_eq!((status.actual.replicas[0].restarts, &status.actual.replicas[0].id), (1, &id));
    assert_eq!(platform.metric("qscale_crashes_total").await, 1.0);
    assert!(platform.http().call("/").await.is_fine());
    let lines = platform.client.logs(&f(), 10).await.expect("logs");
    assert_eq!(lines.iter().filter(|line| line.line == "starting").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_does_not_exist_is_reported_and_retried() {
    let folder = folder();
    let platform = Platform::start(folder.path(), &[]).await;
    let mut spec = spec("");
    spec.command = vec!["/no/such/program".to_owned()];
    platform.client.add(&spec).await.expect("added");
    let failed = eventually("a failed start", || async {
        let events = platform.client.events(0).await.expect("events").events;
        events.into_iter().find(|event| event.kind == EventKind::ReplicaStartFailed)
    });
    assert!(failed.await.message.contains("/no/such/program"));
    let status = platform.until("it waits", |status| status.actual.replicas[0].state == ReplicaState::BackOff).await;
    assert_eq!(status.actual.starting, 1);
    platform.client.delete(&f()).await.expect("deleted");
    assert!(matches!(platform.client.get(&f()).await, Err(PlatformError::NotFound(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allocation_out_of_range_is_refused_with_its_field() {
    let folder = folder();
    let platform = Platform::with(folder.path(), &spec("allocation = { replicas = 0 }"), 0).await;
    let refused = platform.set(101, 100, 64, None).await.expect_err("too many");
    assert!(refused.to_string().contains("replicas = 101"), "{refused}");
    assert!(matches!(refused, PlatformError::Refused { status: 422, error } if error.field.as_deref() == Some("replicas")));
    let mut wrong = spec("");
    wrong.queue = 2_000_000;
    assert!(platform.client.add(&wrong).await.expect_err("too long").to_string().contains("queue = 2000000"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_lease_is_refused_even_after_a_restart() {
    let folder = folder();
    let mut platform = Platform::with(folder.path(), &spec("allocation = { replicas = 0 }"), 0).await;
    platform.set(0, 100, 64, Some(7)).await.expect("the first lease");
    platform.set(0, 100, 64, Some(7)).await.expect("the same again");
    platform.set(0, 200, 64, None).await.expect("an operator");
    let refused = platform.set(0, 100, 64, Some(6)).await.expect_err("older");
    assert!(matches!(&refused, PlatformError::StaleLease(_)));
    assert!(refused.to_string().contains("lease = 6") && refused.to_string().contains('7'), "{refused}");
    platform.end(libc::SIGKILL).await;
    let platform = Platform::start(folder.path(), &[]).await;
    assert!(platform.set(0, 100, 64, Some(6)).await.is_err());
    assert_eq!(platform.status().await.desired.cpu_millicores.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_platform_leaves_no_orphan_and_its_successor_restores_everything() {
    let folder = folder();
    // The shell stays, and its child is one that the kernel does not end with the platform.
    let mut wrapped = spec("");
    wrapped.command = vec!["sh".to_owned(), "-c".to_owned(), format!("{} & wait", wrapped.command[0])];
    let mut platform = Platform::with(folder.path(), &wrapped, 1).await;
    platform.set(3, 300, 128, Some(1)).await.expect("set");
    platform.until_ready(3).await;
    let shells = platform.pids().await;
    let children: Vec<u32> = shells.iter().flat_map(|pid| children(*pid)).collect();
    assert_eq!(children.len(), 3);
    platform.end(libc::SIGKILL).await;
    let platform = Platform::start(folder.path(), &[]).await;
    assert!(shells.iter().chain(&children).all(|pid| !is_alive(*pid)));
    let status = platform.until_ready(3).await;
    assert_eq!((status.desired.replicas.0, status.desired.cpu_millicores.0), (3, 300));
    assert!(platform.grpc().call("/a.B/C").await.is_fine());
    for folder in platform.cgroups() {
        let groups = std::fs::read_dir(&folder).expect("there").flatten().filter(|entry| entry.path().is_dir()).count();
        assert_eq!(groups, 3, "{}", folder.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_cgroups_what_a_replica_started_ends_with_it_even_in_a_session_of_its_own() {
    let folder = folder();
    // A daemon as they are written: two forks, a session of its own, nothing open, and no variable left of those that it got, unless a user of its own identifies it.
    let environment = if private::user() == 0 { "env -i" } else { "" };
    for end in ["stop", "crash"] {
        let marker = format!("{}.5071", 100 + u32::from(end == "stop"));
        let mut daemon = spec("protocol = \"http\"");
        let start = format!("(setsid {environment} sleep {marker} </dev/null >/dev/null 2>&1 &)");
        daemon.command = vec!["sh".to_owned(), "-c".to_owned(), format!("{start}; {start}; exec {}", daemon.command[0])];
        let platform = Platform::start(&folder.path().join(end), &["vertical=false"]).await;
        platform.client.add(&daemon).await.expect("added");
        platform.until_ready(1).await;
        let running = || system::with_argument(&marker).into_iter().filter(|pid| is_alive(*pid) && !is_shell(*pid)).collect::<Vec<u32>>();
        let first = eventually("two daemons", || async { Some(running()).filter(|pids| pids.len() == 2) }).await;
        if end == "stop" {
            platform.set(0, 100, 64, None).await.expect("set");
            eventually("their end", || async { running().is_empty().then_some(()) }).await;
        } else {
            assert_eq!(platform.http().call("/crash").await.status, StatusCode::BAD_GATEWAY);
            platform.until("a restart", |status| status.crashes == 1 && status.actual.ready == 1).await;
            assert!(first.iter().all(|pid| !is_alive(*pid)), "{first:?}");
            assert_eq!(running().len(), 2, "those of the next process");
        }
    }
}

fn is_shell(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "sh")
}

fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("a process");
    text.split_ascii_whitespace().map(|pid| pid.parse().expect("a number")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_leaves_no_process_and_no_cgroup() {
    let folder = folder();
    let mut platform = Platform::with(folder.path(), &spec("protocol = \"http\"\nallocation = { replicas = 3 }"), 3).await;
    let (pids, cgroups) = (platform.pids().await, platform.cgroups());
    let caller = platform.http();
    let in_flight = tokio::spawn(async move { caller.call("/sleep?ms=400").await });
    platform.until("a request in flight", |status| status.actual.replicas.iter().any(|replica| replica.in_flight == 1)).await;
    platform.end(libc::SIGINT).await;
    assert!(in_flight.await.expect("joined").is_fine());
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
    assert!(cgroups.iter().all(|folder| !folder.exists()));
    assert!(platform.log().contains("stopped"));
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_in_quick_succession_count_as_one() {
    let folder = folder();
    let mut platform = Platform::with(folder.path(), &spec("protocol = \"http\""), 1).await;
    let caller = platform.http();
    let in_flight = tokio::spawn(async move { caller.call("/sleep?ms=2500").await });
    platform.until("a request in flight", |status| status.actual.replicas[0].in_flight == 1).await;
    // As from a terminal and from the parent process: the second must not cut requests off.
    platform.signal(libc::SIGINT);
    platform.end(libc::SIGTERM).await;
    assert!(in_flight.await.expect("joined").is_fine());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_does_not_end_is_killed() {
    let folder = folder();
    let platform = Platform::start(folder.path(), &["kill_grace=100ms"]).await;
    let mut stubborn = spec("");
    stubborn.command = vec!["sh".to_owned(), "-c".to_owned(), format!("trap '' TERM; {} & while :; do wait; done", stubborn.command[0])];
    platform.client.add(&stubborn).await.expect("added");
    platform.until_ready(1).await;
    let pids = platform.pids().await;
    platform.client.delete(&f()).await.expect("deleted");
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_file_takes_over_without_losing_a_request() {
    let folder = folder();
    let platform = Platform::with(folder.path(), &spec("protocol = \"http\""), 1).await;
    let before = platform.pids().await;
    platform.client.add(&spec("protocol = \"http\"")).await.expect("the same file");
    assert_eq!(platform.pids().await, before);
    platform.client.add(&spec("protocol = \"http\"\nenvironment = { VERSION = \"2\" }")).await.expect("another file");
    let caller = platform.http();
    eventually("the new replica serves alone", || async {
        assert!(caller.call("/").await.is_fine());
        let pids = platform.pids().await;
        (pids.len() == 1 && pids != before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_followed_as_they_happen() {
    let folder = folder();
    let platform = Platform::start(folder.path(), &[]).await;
    let mut events = TcpStream::connect(&platform.addresses.api).await.expect("connected");
    let request = format!("GET /v1/events?follow=true HTTP/1.0\r\nhost: localhost\r\n{}\r\n\r\n", platform.authorization());
    events.write_all(request.as_bytes()).await.expect("sent");
    let mut lines = BufReader::new(events).lines();
    platform.client.add(&spec("allocation = { replicas = 0 }")).await.expect("added");
    platform.set(1, 300, 64, None).await.expect("set");
    let mut kinds = Vec::new();
    while kinds.last() != Some(&EventKind::ReplicaReady) {
        let line = lines.next_line().await.expect("readable").expect("another event");
        kinds.extend(serde_json::from_str::<PlatformEvent>(&line).map(|event| event.kind));
    }
    let expected = [EventKind::FunctionAdded, EventKind::AllocationSet, EventKind::ReplicaStarted, EventKind::ReplicaReady];
    assert_eq!(kinds, expected);
}
