//! A platform in a folder of its own, with clients for its API and its gateway.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use qscale_common::document::Format;
use qscale_common::name::FunctionId;
use qscale_common::platform::{AllocationReply, AllocationRequest, FunctionSpec, FunctionStatus, PlatformAddresses, ReplicaState};
use qscale_common::runtime::platform::{PlatformClient, PlatformError};
use qscale_common::units::Allocation;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Only guards against hanging.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running platform; dropping it stops it.
pub struct Platform {
    child: Child,
    pub client: PlatformClient,
    pub addresses: PlatformAddresses,
    folder: PathBuf,
}

/// A reply as a client sees it.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub trailers: HeaderMap,
    pub body: Bytes,
}

/// A client of the gateway that reuses its connections.
#[derive(Clone)]
pub struct Caller {
    gateway: String,
    client: Client<HttpConnector, Full<Bytes>>,
    grpc: bool,
}

pub fn folder() -> TempDir {
    tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o700)).tempdir().expect("temporary folder")
}

/// Waits until `condition` returns a value.
#[track_caller]
pub fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> impl Future<Output = T> {
    let waiting = async move {
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let what = what.to_owned();
    async move { tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("never: {what}")) }
}

/// A function file for the tests' function, named `f`, with more lines of TOML.
pub fn spec(more: &str) -> FunctionSpec {
    let command = env!("CARGO_BIN_EXE_qscale-test-function");
    let text = format!("name = \"f\"\ncommand = [\"{command}\"]\n{more}");
    FunctionSpec::parse(&text, Format::Toml).expect("a valid function file")
}

pub fn f() -> FunctionId {
    "default/f".parse().expect("valid")
}

pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

impl Platform {
    /// Starts one with its state in `folder`.
    pub async fn start(folder: &Path, options: &[&str]) -> Self {
        Self::start_with(folder, options, |_| ()).await
    }

    /// As [`Platform::start`]; `change` is applied to the command that starts it.
    pub async fn start_with(folder: &Path, options: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).expect("a state folder");
        let addresses_file = folder.join("addresses.json");
        drop(std::fs::remove_file(&addresses_file));
        let mut command = Command::new(env!("CARGO_BIN_EXE_qscale-platform"));
        command.args(["--set", &format!("state_dir={}", folder.display()), "--set", "api=127.0.0.1:0", "--set", "gateway=127.0.0.1:0"]);
        command.args(options.iter().flat_map(|option| ["--set", option]));
        change(&mut command);
        let log = std::fs::File::create(folder.join("log")).expect("log file");
        let child = command.stdin(Stdio::null()).stderr(log).spawn().expect("the platform starts");
        let addresses: PlatformAddresses =
            eventually("the addresses of the platform", || async { serde_json::from_slice(&std::fs::read(&addresses_file).ok()?).ok() })
                .await;
        let client = PlatformClient::new(&addresses.api).expect("an address").with_token_file(folder.join("token"));
        let platform = Self { child, client, addresses, folder: folder.to_path_buf() };
        eventually("the platform is ready", || async { platform.client.is_ready().await.then_some(()) }).await;
        platform
    }

    /// One with a function that has `ready` replicas.
    pub async fn with(folder: &Path, spec: &FunctionSpec, ready: u32) -> Self {
        let platform = Self::start(folder, &[]).await;
        platform.client.add(spec).await.expect("added");
        platform.until_ready(ready).await;
        platform
    }

    pub async fn status(&self) -> FunctionStatus {
        self.client.get(&f()).await.expect("f is there")
    }

    /// Waits for a status.
    pub async fn until(&self, what: &str, condition: impl Fn(&FunctionStatus) -> bool) -> FunctionStatus {
        eventually(what, || async { Some(self.status().await).filter(|status| condition(status)) }).await
    }

    /// Waits until there are `count` replicas, all of them ready.
    pub async fn until_ready(&self, count: u32) -> FunctionStatus {
        let all_ready = |status: &FunctionStatus| {
            status.actual.replicas.len() == count as usize
                && status.actual.replicas.iter().all(|replica| replica.state == ReplicaState::Ready)
        };
        self.until(&format!("{count} ready replicas"), all_ready).await
    }

    pub async fn set(&self, replicas: u32, cpu: u32, memory: u32, lease: Option<u64>) -> Result<AllocationReply, PlatformError> {
        self.client.set_allocation(&f(), &AllocationRequest::new(Allocation::new(replicas, cpu, memory), lease)).await
    }

    /// The sum of all samples of a metric.
    pub async fn metric(&self, name: &str) -> f64 {
        let caller = Caller::new(&self.addresses.api, false);
        let text = caller.request("/metrics", "localhost", b"").await.expect("metrics").body;
        let text = std::str::from_utf8(&text).expect("text");
        let samples = text.lines().filter(|line| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']));
        samples.map(|line| line.rsplit_once(' ').and_then(|(_, value)| value.parse::<f64>().ok()).expect("a number")).sum()
    }

    pub fn http(&self) -> Caller {
        Caller::new(&self.addresses.gateway, false)
    }

    /// Sends these bytes to the gateway and returns the reply until it closes the connection.
    pub async fn raw(&self, bytes: &str) -> String {
        Self::talk(&self.addresses.gateway, bytes).await
    }

    /// Sends a request to the API with these lines after the request line, and returns the reply.
    pub async fn api(&self, request: &str, lines: &[&str], body: &str) -> String {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let length = body.len();
        let bytes = format!("{request} HTTP/1.1\r\nconnection: close\r\ncontent-length: {length}\r\n{lines}\r\n{body}");
        Self::talk(&self.addresses.api, &bytes).await
    }

    /// The header that authorizes requests to the API.
    pub fn authorization(&self) -> String {
        format!("authorization: Bearer {}", std::fs::read_to_string(self.folder.join("token")).expect("a token"))
    }

    async fn talk(address: &str, bytes: &str) -> String {
        let talk = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(bytes.as_bytes()).await?;
            let mut reply = String::new();
            stream.read_to_string(&mut reply).await?;
            Ok::<_, std::io::Error>(reply)
        };
        tokio::time::timeout(DEADLINE, talk).await.expect("the server closes the connection").expect("a reply")
    }

    pub fn grpc(&self) -> Caller {
        Caller::new(&self.addresses.gateway, true)
    }

    /// Folders of the cgroups that hold those of the replicas.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        qscale_common::runtime::leftovers::recorded_cgroups(&self.folder)
    }

    pub async fn pids(&self) -> Vec<u32> {
        self.status().await.actual.replicas.iter().filter_map(|replica| replica.pid).collect()
    }

    /// Process id of the platform.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// CPU time that the platform's own process has used.
    #[allow(dead_code, reason = "the benchmark asks for it, not the tests")]
    pub fn cpu_seconds(&self) -> f64 {
        qscale_tests::process::cpu_time(self.child.id()).as_secs_f64()
    }

    pub fn signal(&self, signal: i32) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a process id");
        // SAFETY: kill takes plain integers, and the child is not waited for yet.
        unsafe { libc::kill(pid, signal) };
    }

    /// Sends a signal and waits for the end.
    pub async fn end(&mut self, signal: i32) {
        self.signal(signal);
        let child = std::cell::RefCell::new(&mut self.child);
        eventually("the platform ends", || async { child.borrow_mut().try_wait().expect("a child") }).await;
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            if std::thread::panicking() {
                eprintln!("--- log of the platform\n{}", self.log());
            }
            // Repeated, because a later signal ends the platform without waiting for requests, and with its cgroups removed.
            while matches!(self.child.try_wait(), Ok(None)) {
                self.signal(libc::SIGTERM);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Caller {
    pub fn new(gateway: &str, grpc: bool) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).http2_only(grpc).build(connector);
        Self { gateway: gateway.to_owned(), client, grpc }
    }

    /// Calls the function `f`.
    pub async fn call(&self, path: &str) -> Reply {
        self.request(path, "f", b"").await.expect("a reply")
    }

    /// Sends a body to `function`.
    pub async fn request(&self, path: &str, function: &str, body: &[u8]) -> Result<Reply, String> {
        let kind = if self.grpc { "application/grpc" } else { "application/octet-stream" };
        let request = Request::post(format!("http://{}{path}", self.gateway)).header("content-type", kind);
        let request = if path == "/metrics" { request.method("GET") } else { request.header("x-qscale-function", function) };
        let request = request.body(Full::from(body.to_vec())).expect("a request");
        let response = self.client.request(request).await.map_err(|error| format!("{error:?}"))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| format!("{error:?}"))?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok(Reply { status: head.status, headers: head.headers, trailers, body: body.to_bytes() })
    }
}

impl Reply {
    /// The gRPC status, of trailers or of a reply of trailers only.
    pub fn grpc_status(&self) -> Option<&str> {
        self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"))?.to_str().ok()
    }

    /// Reason of the gateway's refusal.
    pub fn refusal(&self) -> Option<&str> {
        self.headers.get("x-qscale-refusal")?.to_str().ok()
    }

    /// Whether a replica replied with success.
    pub fn is_fine(&self) -> bool {
        self.status == StatusCode::OK && self.refusal().is_none() && self.grpc_status().is_none_or(|status| status == "0")
    }
}
