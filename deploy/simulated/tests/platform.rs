//! The simulated platform through its API, as a separate process.

use std::path::PathBuf;

use qscale_common::document::Format;
use qscale_common::load::FunctionLoad;
use qscale_common::name::FunctionId;
use qscale_common::platform::{AllocationRequest, EventKind, FunctionSpec, FunctionStatus};
use qscale_common::runtime::platform::{PlatformClient, PlatformError};
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use qscale_tests::{Folder, Program, eventually_async, free_port, process};

/// A running platform, ten times as fast as real time.
struct Platform {
    _program: Program,
    client: PlatformClient,
    address: String,
    folder: Folder,
}

impl Platform {
    async fn start() -> Self {
        let folder = Folder::new("simulated");
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_qscale-simulated"));
        let state = folder.path().join("state");
        command
            .args(["--set", &format!("api={address}"), "--set", &format!("state_dir={}", state.display())])
            .env("QSCALE_CLOCK", format!("10@{}", qscale_common::runtime::clock::wall().0));
        let log: PathBuf = folder.path().join("log");
        let program = Program::spawn(command, &log);
        let client = PlatformClient::new(&address).expect("an address").with_token_file(state.join("token"));
        let up = async || client.list().await.is_ok().then_some(());
        eventually_async(&format!("the platform; {}", process::tail(&log)), up).await;
        Self { _program: program, client, address, folder }
    }

    async fn until(&self, id: &FunctionId, what: &str, holds: impl Fn(&FunctionStatus) -> bool) -> FunctionStatus {
        eventually_async(what, async || self.client.get(id).await.ok().filter(&holds)).await
    }
}

fn spec(name: &str, simulated: &str, more: &str) -> FunctionSpec {
    FunctionSpec::parse(&format!("name = \"{name}\"\n{more}\n[simulated]\n{simulated}"), Format::Toml).expect("a function file")
}

fn wanted(replicas: u32, lease: Option<u64>) -> AllocationRequest {
    AllocationRequest { replicas: Replicas(replicas), cpu_millicores: None, memory_mib: None, lease, clamp: false }
}

#[tokio::test]
async fn a_function_is_added_scaled_and_deleted_as_on_the_local_platform() {
    let platform = Platform::start().await;
    let client = &platform.client;
    let file = spec("fib", "load = \"50\"", "");
    let id = file.id();
    let added = client.add(&file).await.expect("added");
    assert_eq!((added.actual.starting, added.actual.ready, added.vertical), (1, 0, true), "replicas start cold");
    let ready = platform.until(&id, "a ready replica", |status| status.actual.ready == 1).await;
    assert!(ready.actual.replicas[0].startup_ms.is_some_and(|ms| ms > 100), "{ready:?}");
    assert_eq!(client.add(&file).await.expect("the same again").actual.replicas[0].id, ready.actual.replicas[0].id);

    let request = AllocationRequest::new(Allocation::new(3, 250, 128), None);
    let reply = client.set_allocation(&id, &request).await.expect("set");
    assert_eq!(reply.function.desired, Allocation::new(3, 250, 128));
    let scaled = platform.until(&id, "three replicas", |status| status.actual.ready == 3).await;
    assert!(scaled.actual.replicas.iter().all(|replica| replica.cpu_millicores == Some(Millicores(250))));
    let names: std::collections::BTreeSet<_> = scaled.actual.replicas.iter().map(|replica| &replica.id).collect();
    assert_eq!(names.len(), 3);

    client.set_allocation(&id, &wanted(1, None)).await.expect("set");
    platform.until(&id, "one replica", |status| status.actual.replicas.len() == 1).await;
    client.delete(&id).await.expect("deleted");
    assert!(matches!(client.get(&id).await, Err(PlatformError::NotFound(_))));
    assert!(matches!(client.set_allocation(&id, &wanted(1, None)).await, Err(PlatformError::NotFound(_))));
    let kinds: Vec<EventKind> = client.events(0).await.expect("events").events.into_iter().map(|event| event.kind).collect();
    for kind in
        [EventKind::FunctionAdded, EventKind::ReplicaStarted, EventKind::ReplicaReady, EventKind::AllocationSet, EventKind::FunctionDeleted]
    {
        assert!(kinds.contains(&kind), "{kind:?} is not among {kinds:?}");
    }
}

#[tokio::test]
async fn an_older_lease_is_refused_and_changes_nothing() {
    let platform = Platform::start().await;
    let client = &platform.client;
    let file = spec("fib", "", "");
    client.add(&file).await.expect("added");
    client.set_allocation(&file.id(), &wanted(2, Some(7))).await.expect("the first lease");
    let error = client.set_allocation(&file.id(), &wanted(5, Some(6))).await.expect_err("an older one");
    assert!(
        matches!(&error, PlatformError::StaleLease(said) if said.error.contains("lease = 6, must be at least 7") && said.highest_lease == Some(7)),
        "{error}"
    );
    assert_eq!(client.get(&file.id()).await.expect("there").desired.replicas, Replicas(2));
    client.set_allocation(&file.id(), &wanted(3, None)).await.expect("an operator needs no lease");
    client.set_allocation(&file.id(), &wanted(4, Some(7))).await.expect("the newest lease");
}

#[tokio::test]
async fn values_out_of_range_are_refused_like_on_the_local_platform() {
    let platform = Platform::start().await;
    let client = &platform.client;
    let refused = async |file: FunctionSpec| match client.add(&file).await {
        Err(PlatformError::Refused { status: 422, error }) => error.field.unwrap_or_default(),
        other => panic!("{other:?}"),
    };
    let process = FunctionSpec::parse("name = \"f\"\ncommand = [\"python3\"]", Format::Toml).expect("a function file");
    assert_eq!(refused(process).await, "simulated");
    assert_eq!(refused(spec("f", "", "timeout = \"1s\"\nallocation = { replicas = 101 }")).await, "allocation.replicas");
    let file = spec("f", "", "");
    client.add(&file).await.expect("added");
    let too_small = AllocationRequest { cpu_millicores: Some(Millicores(1)), ..wanted(1, None) };
    let bounds = client.bounds().await.expect("reported");
    assert_eq!((bounds.cpu_millicores.min(), bounds.replicas.max()), (Millicores(10), Replicas(100)));
    let clamped = AllocationRequest { clamp: true, replicas: Replicas(3), ..too_small };
    let reply = client.set_allocation(&file.id(), &clamped).await.expect("brought to the bounds");
    assert_eq!((reply.function.desired.replicas, reply.function.desired.cpu_millicores), (Replicas(3), Millicores(10)));
    assert!(reply.warnings.iter().any(|warning| warning.contains("within the bounds of the platform")), "{:?}", reply.warnings);
    let error = client.set_allocation(&file.id(), &too_small).await.expect_err("too small");
    assert!(matches!(&error, PlatformError::Refused { status: 422, error } if error.field.as_deref() == Some("cpu_millicores")), "{error}");
}

#[tokio::test]
async fn a_request_starts_a_function_from_zero() {
    let platform = Platform::start().await;
    let file = spec("fib", "load = \"step:0@0s,20@5s\"", "allocation = { replicas = 0 }");
    let added = platform.client.add(&file).await.expect("added");
    assert_eq!((added.desired.replicas, added.actual.replicas.len()), (Replicas(0), 0));
    let woken = platform.until(&file.id(), "a replica", |status| status.actual.ready == 1).await;
    assert_eq!(woken.desired.replicas, Replicas(1));
    let events = platform.client.events(0).await.expect("events").events;
    assert!(events.iter().any(|event| event.kind == EventKind::StartedFromZero), "{events:?}");
}

#[tokio::test]
async fn a_memory_limit_below_usage_is_deferred() {
    let platform = Platform::start().await;
    let file = spec("fib", "", "");
    platform.client.add(&file).await.expect("added");
    platform.until(&file.id(), "a ready replica", |status| status.actual.ready == 1).await;
    let request = AllocationRequest { memory_mib: Some(Mebibytes(8)), ..wanted(1, None) };
    let reply = platform.client.set_allocation(&file.id(), &request).await.expect("taken in");
    let replica = &reply.function.actual.replicas[0];
    assert_eq!((reply.function.desired.memory_mib, replica.memory_mib), (Mebibytes(8), Some(Mebibytes(256))));
    assert!(reply.warnings.iter().any(|warning| warning.contains("memory_mib = 8,")), "{:?}", reply.warnings);
}

#[tokio::test]
async fn load_is_summarised_like_by_the_load_generator() {
    let platform = Platform::start().await;
    for name in ["one", "two"] {
        platform.client.add(&spec(name, "load = \"100\"\ngaps = \"constant\"\nseed = 3", "")).await.expect("added");
    }
    let summary = eventually_async("requests", async || {
        let summary = platform.client.load_summary().await.expect("a summary");
        (summary.total.succeeded > 500).then_some(summary)
    })
    .await;
    let functions = &summary.functions;
    assert_eq!(functions[0].function, "default/one");
    assert!(!summary.void);
    let counts = |load: &FunctionLoad| [load.due, load.succeeded, load.failed, load.censored];
    let sum = functions.iter().map(counts).fold([0; 4], |sum, counts| std::array::from_fn(|index| sum[index] + counts[index]));
    assert_eq!(counts(&summary.total), sum);
    assert_eq!(sum[0], sum[1] + sum[2] + sum[3]);
    assert!(functions[1].latency_ms.is_some_and(|latency| latency.p50 > 1.0), "{summary:?}");
}

#[tokio::test]
async fn a_request_without_the_token_changes_nothing() {
    let platform = Platform::start().await;
    let wrong = platform.folder.path().join("wrong");
    std::fs::write(&wrong, "guessed").expect("written");
    let stranger = PlatformClient::new(&platform.address).expect("an address").with_token_file(wrong);
    let file = spec("fib", "", "");
    for refused in [
        stranger.add(&file).await.map(drop),
        stranger.list().await.map(drop),
        stranger.begin_load().await,
        stranger.load_summary().await.map(drop),
        stranger.reset_lease(0).await.map(drop),
    ] {
        let error = refused.expect_err("the token is wrong");
        assert!(matches!(&error, PlatformError::Unauthorized(said) if said.error.contains("/token")), "{error}");
    }
    assert!(stranger.metrics().await.is_ok() && stranger.is_ready().await);
    assert_eq!(platform.client.list().await.expect("list"), []);
}
