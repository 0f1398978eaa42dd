//! CPU and memory limits.

use std::time::Duration;

use qscale_common::runtime::clock;
use qscale_common::units::{Mebibytes, Millicores};

use crate::harness::{Platform, folder, spec};

/// Whether limits can be set on this machine; prints a note where they cannot.
async fn limits_can_be_set(platform: &Platform) -> bool {
    let vertical = platform.status().await.vertical;
    if !vertical {
        eprintln!("skipped: cgroups are not writable: {}", platform.log());
    }
    vertical
}

#[tokio::test(flavor = "multi_thread")]
async fn cpu_is_limited_and_changed_without_a_restart() {
    let folder = folder();
    let platform = Platform::with(folder.path(), &spec("protocol = \"http\"\nallocation = { cpu_millicores = 800 }"), 1).await;
    if !limits_can_be_set(&platform).await {
        return;
    }
    let before = platform.status().await.actual.replicas[0].clone();
    let reply = platform.set(1, 100, 256, None).await.expect("set");
    assert_eq!(reply.function.actual.replicas[0].cpu_millicores, Some(Millicores(100)));
    assert_eq!(platform.metric("container_spec_cpu_quota").await, 10_000.0);
    let start = clock::instant();
    assert!(platform.http().call("/burn?ms=100").await.is_fine());
    // A tenth of a core gives 10 ms in each 100 ms at most, so 100 ms of CPU take about 1 s; half of that allows for the first period.
    assert!(clock::since(start) >= Duration::from_millis(500));
    assert!(platform.metric("container_cpu_cfs_throttled_periods_total").await > 0.0);
    let after = platform.status().await.actual.replicas[0].clone();
    assert_eq!((after.pid, after.restarts), (before.pid, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_killed_for_memory_is_counted_and_restarted() {
    let folder = folder();
    let platform = Platform::with(folder.path(), &spec("protocol = \"http\"\nallocation = { memory_mib = 48 }"), 1).await;
    if !limits_can_be_set(&platform).await {
        return;
    }
    let started = platform.metric("container_start_time_seconds").await;
    assert_eq!(platform.http().call("/hold?mib=200").await.refusal(), Some("replica-failed"));
    let status = platform.until("it is counted", |status| status.oom_kills == 1).await;
    assert_eq!(status.crashes, 0);
    let status = platform.until_ready(1).await;
    assert_eq!(status.actual.replicas[0].restarts, 1);
    assert_eq!(platform.metric("qscale_oom_kills_total").await, 1.0);
    assert_eq!(platform.metric("kube_pod_container_status_restarts_total").await, 1.0);
    assert!(platform.metric("container_oom_events_total").await >= 1.0);
    assert_eq!(platform.metric("container_start_time_seconds").await, started, "its counters go on");
    assert!(platform.http().call("/").await.is_fine());
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_below_usage_stays_pending_until_it_fits() {
    let folder = folder();
    let platform = Platform::with(folder.path(), &spec("protocol = \"http\""), 1).await;
    if !limits_can_be_set(&platform).await {
        return;
    }
    assert!(platform.http().call("/hold?mib=64").await.is_fine());
    let reply = platform.set(1, 500, 32, None).await.expect("accepted");
    assert_eq!(reply.function.desired.memory_mib, Mebibytes(32));
    assert_eq!(reply.function.actual.replicas[0].memory_mib, Some(Mebibytes(256)));
    assert!(reply.warnings[0].contains("memory_mib = 32Mi"), "{:?}", reply.warnings);
    assert!(reply.function.actual.replicas[0].resize_pending.is_some());
    let reply = platform.set(1, 500, 128, None).await.expect("accepted");
    assert_eq!(reply.function.actual.replicas[0].memory_mib, Some(Mebibytes(128)));
    assert_eq!((reply.function.actual.replicas[0].resize_pending.clone(), reply.warnings), (None, Vec::new()));
    assert!(platform.http().call("/").await.is_fine());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_cgroups_only_replicas_are_scaled() {
    let folder = folder();
    let platform = Platform::start(folder.path(), &["vertical=false"]).await;
    platform.client.add(&spec("protocol = \"http\"")).await.expect("added");
    platform.until_ready(1).await;
    let reply = platform.set(2, 100, 64, None).await.expect("set");
    assert!(!reply.function.vertical);
    assert!(reply.warnings[0].contains("cpu_millicores"), "{:?}", reply.warnings);
    let status = platform.until_ready(2).await;
    assert_eq!(status.actual.replicas[0].cpu_millicores, None);
    assert_eq!(platform.log().matches("vertical = false").count(), 1);
    assert!(platform.http().call("/burn?ms=100").await.is_fine());
    assert!(platform.metric("container_cpu_usage_seconds_total").await >= 0.09);
    assert!(platform.metric("container_memory_working_set_bytes").await > 0.0);
}
