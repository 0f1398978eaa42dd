//! A stub of the local platform's API: it keeps allocations, refuses older leases and can be switched off.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use qscale_common::platform::{ActualAllocation, AllocationReply, AllocationRequest, ApiError, FunctionSpec, FunctionStatus};
use qscale_common::units::{Allocation, Replicas};
use tokio::task::JoinHandle;

/// The platform. Clones share its state.
#[derive(Clone)]
pub struct StubPlatform {
    kept: Arc<Mutex<Kept>>,
    address: SocketAddr,
    server: Arc<Mutex<Option<JoinHandle<()>>>>,
}

struct Kept {
    functions: BTreeMap<String, Allocation>,
    highest: u64,
    /// Every accepted write: lease and allocation.
    writes: Vec<(u64, Allocation)>,
    refused: u64,
}

impl StubPlatform {
    /// A platform that runs the function `fib` with four replicas.
    pub async fn start() -> Self {
        let functions = BTreeMap::from([("fib".to_owned(), Allocation::new(4, 500, 256))]);
        let kept = Arc::new(Mutex::new(Kept { functions, highest: 0, writes: Vec::new(), refused: 0 }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let platform = Self { kept, address, server: Arc::default() };
        platform.serve(listener);
        platform
    }

    fn serve(&self, listener: tokio::net::TcpListener) {
        let router = Router::new()
            .route("/v1/functions", get(list))
            .route("/v1/functions/{namespace}/{name}", get(one))
            .route("/v1/functions/{namespace}/{name}/allocation", put(set))
            .with_state(Arc::clone(&self.kept));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("serving ends with the task only") });
        *self.server.lock().expect("no test panics while it holds the lock") = Some(task);
    }

    /// Stops answering.
    pub fn stop(&self) {
        if let Some(task) = self.server.lock().expect("no test panics while it holds the lock").take() {
            task.abort();
        }
    }

    /// Answers again on the same address.
    pub async fn restart(&self) {
        let listener = loop {
            match tokio::net::TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        };
        self.serve(listener);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        locked(&self.kept)
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn replicas(&self) -> u32 {
        self.kept().functions["fib"].replicas.0
    }

    pub fn writes(&self) -> Vec<(u64, Allocation)> {
        self.kept().writes.clone()
    }

    pub fn highest(&self) -> u64 {
        self.kept().highest
    }

    pub fn refused(&self) -> u64 {
        self.kept().refused
    }

    /// Accepts only leases from `lease` on, as after a write of another leader.
    pub fn raise(&self, lease: u64) {
        self.kept().highest = lease;
    }

    /// Loses the allocation, like a platform that lost its disk.
    pub fn lose(&self, replicas: u32) {
        self.kept().functions.get_mut("fib").expect("it is there").replicas = Replicas(replicas);
    }
}

fn locked(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().expect("no test panics while it holds the lock")
}

type Shared = State<Arc<Mutex<Kept>>>;

fn status(name: &str, desired: Allocation) -> FunctionStatus {
    let spec = FunctionSpec::parse(&format!("name = \"{name}\"\ncommand = [\"true\"]"), qscale_common::document::Format::Toml)
        .expect("a valid file");
    FunctionStatus {
        spec,
        desired,
        actual: ActualAllocation::default(),
        vertical: true,
        queued: 0,
        oom_kills: 0,
        crashes: 0,
        gateway: String::new(),
    }
}

fn failure(code: StatusCode, error: &str) -> Response {
    (code, Json(ApiError { error: error.into(), field: None, highest_lease: None })).into_response()
}

async fn list(State(kept): Shared) -> Json<Vec<FunctionStatus>> {
    Json(locked(&kept).functions.iter().map(|(name, desired)| status(name, *desired)).collect())
}

async fn one(State(kept): Shared, Path((_, name)): Path<(String, String)>) -> Response {
    match locked(&kept).functions.get(&name) {
        Some(desired) => Json(status(&name, *desired)).into_response(),
        None => failure(StatusCode::NOT_FOUND, "no such function"),
    }
}

async fn set(State(kept): Shared, Path((_, name)): Path<(String, String)>, Json(request): Json<AllocationRequest>) -> Response {
    let mut kept = locked(&kept);
    let lease = request.lease.unwrap_or(kept.highest);
    if lease < kept.highest {
        kept.refused += 1;
        return failure(StatusCode::CONFLICT, "the lease is too old");
    }
    let Some(desired) = kept.functions.get_mut(&name) else { return failure(StatusCode::NOT_FOUND, "no such function") };
    desired.replicas = request.replicas;
    desired.cpu_millicores = request.cpu_millicores.unwrap_or(desired.cpu_millicores);
    desired.memory_mib = request.memory_mib.unwrap_or(desired.memory_mib);
    let desired = *desired;
    kept.highest = lease;
    kept.writes.push((lease, desired));
    Json(AllocationReply { function: status(&name, desired), warnings: Vec::new() }).into_response()
}
