//! The real binary, called by gRPC and HTTP clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::http::uri::PathAndQuery;
use qscale_messages::{
    self as messages, FaasReply, FaasRequest, HealthCheckRequest, HealthCheckResponse, HelloReply, HelloRequest, PlainTextMessage,
    ReturnEncryptionInfo,
};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

/// A function's process; dropping it ends it.
struct Function {
    process: Child,
    address: String,
}

impl Function {
    /// Starts the binary on a free port and waits until it listens.
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qscale-function"));
        command.args(arguments).args(["--port", "0"]).stderr(Stdio::piped());
        let mut process = command.spawn().expect("the binary starts");
        let mut line = String::new();
        let errors = process.stderr.as_mut().expect("piped");
        BufReader::with_capacity(1, errors).read_line(&mut line).expect("a line");
        let address = line.trim().rsplit_once(' ').filter(|_| line.contains("listening on")).expect(&line).1.to_owned();
        Self { process, address }
    }

    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).expect("an address");
        endpoint.timeout(Duration::from_secs(60)).connect().await.expect("it listens")
    }

    /// Sends an HTTP/1.1 request on its own connection; returns status and body.
    fn http(&self, method: &str, target: &str, headers: &str) -> (u16, String) {
        let mut connection = TcpStream::connect(&self.address).expect("it listens");
        connection.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        write!(connection, "{method} {target} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n").expect("sent");
        let mut reply = String::new();
        connection.read_to_string(&mut reply).expect("a reply");
        let status = reply.split(' ').nth(1).and_then(|code| code.parse().ok()).expect(&reply);
        (status, reply.split_once("\r\n\r\n").expect(&reply).1.to_owned())
    }

    fn terminate(&self) {
        // SAFETY: sends a signal to the child, which is not reaped before `self` is dropped.
        assert_eq!(unsafe { libc::kill(self.process.id() as libc::pid_t, libc::SIGTERM) }, 0);
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        let _already_ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

async fn call<Q, R>(channel: &Channel, method: &'static str, request: Q) -> Result<R, Status>
where
    Q: prost::Message + Default + 'static,
    R: prost::Message + Default + 'static,
{
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.expect("a connection");
    let codec = ProstCodec::<Q, R>::default();
    client.unary(tonic::Request::new(request), PathAndQuery::from_static(method), codec).await.map(tonic::Response::into_inner)
}

async fn hello(channel: &Channel, method: &'static str, name: &str) -> Result<String, Status> {
    let request = HelloRequest { name: name.to_owned(), vhive_metadata: Default::default() };
    call(channel, method, request).await.map(|reply: HelloReply| reply.message)
}

async fn execute(channel: &Channel, runtime_in_milli_sec: u32, memory_in_mebi_bytes: u32) -> Result<FaasReply, Status> {
    call(channel, messages::FAAS_EXECUTE, FaasRequest { message: String::new(), runtime_in_milli_sec, memory_in_mebi_bytes }).await
}

#[tokio::test]
async fn fibonacci_replies_and_refuses_invalid_numbers() {
    let function = Function::start(&["fibonacci"]);
    let channel = function.channel().await;
    let reply = hello(&channel, messages::FIBONACCI_SAY_HELLO, "20").await.expect("a reply");
    assert_eq!(reply, "fn: Fib: y = fib(x) | x: 20 y: 6765 | runtime: rust");
    for bad in ["world", "-3", "1000001", "ünïcode\0"] {
        let status = hello(&channel, messages::FIBONACCI_SAY_HELLO, bad).await.expect_err(bad);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(bad), "{status}");
    }
    assert!(hello(&channel, messages::FIBONACCI_SAY_HELLO, "1").await.is_ok(), "it still serves");
}

#[tokio::test]
async fn requests_are_counted_by_status_and_checks_of_health_are_not() {
    let function = Function::start(&["fibonacci"]);
    let channel = function.channel().await;
    for (name, good) in [("1", true), ("2", true), ("world", false)] {
        assert_eq!(hello(&channel, messages::FIBONACCI_SAY_HELLO, name).await.is_ok(), good);
    }
    assert_eq!((function.http("GET", "/?n=3", "").0, function.http("GET", "/healthz", "").0), (200, 200));
    let (status, text) = function.http("GET", "/metrics", "");
    assert_eq!(status, 200);
    for line in [
        "http_server_request_duration_seconds_count{http_response_status_code=\"200\",rpc_grpc_status_code=\"\"} 3",
        "http_server_request_duration_seconds_count{http_response_status_code=\"200\",rpc_grpc_status_code=\"3\"} 1",
        "http_server_active_requests 0",
        "# EOF",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn greeter_ignores_the_name_and_takes_the_generators_input() {
    let function = Function::start(&["fibonacci", "--generator=linear", "--lowerBound=5", "--upperBound=6", "--value=10"]);
    let channel = function.channel().await;
    for expected in ["x: 5 y: 5", "x: 6 y: 8", "x: 5 y: 5"] {
        let reply = hello(&channel, messages::HELLOWORLD_SAY_HELLO, "Invoke relay").await.expect("a reply");
        assert!(reply.contains(expected), "{reply}");
    }
}

#[tokio::test]
async fn aes_encrypts_like_vswarms_go_function() {
    let function = Function::start(&["aes"]);
    let channel = function.channel().await;
    let reply: ReturnEncryptionInfo =
        call(&channel, messages::AES_SHOW_ENCRYPTION, PlainTextMessage { plaintext_message: "world".to_owned() }).await.expect("a reply");
    // openssl enc -aes-128-ctr -K 6368616e676520746869732070617373 -iv 0 over `defaultplaintext`.
    let expected = "fn: AES | plaintext: defaultplaintext | ciphertext: d80e9ec83a6acbef3d909876e79904a9 | runtime: rust";
    assert_eq!(reply.encryption_info, expected);
    assert!(hello(&channel, messages::HELLOWORLD_SAY_HELLO, "").await.expect("a reply").contains("A unique message"));

    let long = PlainTextMessage { plaintext_message: "x".repeat((1 << 20) + 1) };
    let status = call::<_, ReturnEncryptionInfo>(&channel, messages::AES_SHOW_ENCRYPTION, long).await.expect_err("too long");
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn faas_burns_the_cpu_that_the_request_asks_for() {
    let function = Function::start(&["faas"]);
    let channel = function.channel().await;
    let before = cpu_time(&function);
    let reply = execute(&channel, 300, 16).await.expect("a reply");
    assert!(reply.duration_in_micro_sec >= 300_000 && reply.memory_usage_in_kb == 16 << 10, "{reply:?}");
    // The kernel accounts a process in ticks, so that some of the last may be missing.
    assert!(cpu_time(&function) - before >= Duration::from_millis(270));
}

#[tokio::test]
async fn faas_refuses_what_is_beyond_its_bounds() {
    let function = Function::start(&["faas"]);
    let channel = function.channel().await;
    for (runtime, memory) in [(60_001, 0), (u32::MAX, 0), (1, 10_241), (1, u32::MAX)] {
        assert_eq!(execute(&channel, runtime, memory).await.expect_err("beyond").code(), Code::InvalidArgument);
    }
    assert!(execute(&channel, 0, 0).await.is_ok(), "it still serves");
}

#[tokio::test]
async fn requests_beyond_the_queue_are_refused() {
    let function = Function::start(&["faas", "--workers", "1", "--queue", "0", "--wait-share", "1"]);
    let channel = function.channel().await;
    let (first, second) = tokio::join!(execute(&channel, 500, 0), execute(&channel, 500, 0));
    assert!(first.is_ok(), "{first:?}");
    assert_eq!(second.expect_err("no place in the queue").code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_signal_ends_the_process_once_requests_in_flight_are_answered() {
    let mut function = Function::start(&["faas", "--wait-share", "1"]);
    let channel = function.channel().await;
    // The connection carries the three in this order, so that both executions are in flight once health is answered.
    let stop_in_flight = async {
        let request = HealthCheckRequest { service: String::new() };
        let health: HealthCheckResponse = call(&channel, messages::HEALTH_CHECK, request).await.expect("a reply");
        assert_eq!(health.status, HealthCheckResponse::SERVING);
        function.terminate();
    };
    let (first, second, ()) = tokio::join!(execute(&channel, 600, 0), execute(&channel, 600, 0), stop_in_flight);
    assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
    drop(channel);
    assert!(function.process.wait().expect("it ends").success());
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented_and_names_itself() {
    let function = Function::start(&["aes"]);
    let status = hello(&function.channel().await, messages::FIBONACCI_SAY_HELLO, "1").await.expect_err("not its method");
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains(messages::FIBONACCI_SAY_HELLO), "{status}");
}

#[test]
fn the_same_port_answers_http() {
    let function = Function::start(&["fibonacci", "--value", "3"]);
    assert_eq!(function.http("GET", "/healthz", ""), (200, "ok\n".to_owned()));
    assert_eq!(function.http("GET", "/?n=10", ""), (200, "fn: Fib: y = fib(x) | x: 10 y: 55 | runtime: rust\n".to_owned()));
    assert!(function.http("GET", "/", "").1.contains("x: 3 y: 2"));
    let (status, body) = function.http("GET", "/?n=ten", "");
    assert!(status == 400 && body.contains("`ten`"), "{status} {body}");
    assert_eq!(function.http("GET", "/nowhere", "").0, 404);
}

#[test]
fn faas_over_http_takes_its_query_or_invitros_headers() {
    let function = Function::start(&["faas"]);
    for (target, headers) in [("/?runtimeInMilliSec=5&memoryInMebiBytes=2", ""), ("/", "requested_cpu: 5\r\nrequested_memory: 2\r\n")] {
        let (status, body) = function.http("POST", target, headers);
        let reply: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((status, reply["MemoryUsageInKb"].as_u64()), (200, Some(2048)), "{body}");
        assert!(reply["ExecutionTime"].as_u64().is_some_and(|time| time >= 5000), "{body}");
    }
    assert_eq!(function.http("GET", "/?runtimeInMilliSec=60001", "").0, 400);
}

#[test]
fn invalid_options_are_reported_with_their_value() {
    for (arguments, value) in [
        (vec!["fibonacci", "--value", "helloWorld"], "helloWorld"),
        (vec!["aes", "--key", "abc"], "has 3"),
        (vec!["faas", "--wait-share", "2"], "`2`"),
        (vec!["fibonacci", "--addr", "nowhere"], "nowhere"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_qscale-function")).args(&arguments).output().expect("the binary starts");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && errors.contains(value), "{errors}");
    }
}

/// CPU time of the process so far, as the kernel accounts it.
fn cpu_time(function: &Function) -> Duration {
    qscale_tests::process::cpu_time(function.process.id())
}
