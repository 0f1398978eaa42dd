//! gRPC messages and method paths of the functions, as `deploy/functions/proto` describes them. Owns the wire format and nothing else; the
//! functions and the load generator share it.

/// `helloworld.Greeter/SayHello`, which every vSwarm invoker calls.
pub const HELLOWORLD_SAY_HELLO: &str = "/helloworld.Greeter/SayHello";
/// `fibonacci.Greeter/SayHello`.
pub const FIBONACCI_SAY_HELLO: &str = "/fibonacci.Greeter/SayHello";
/// `aes.Aes/ShowEncryption`.
pub const AES_SHOW_ENCRYPTION: &str = "/aes.Aes/ShowEncryption";
/// `faas.Executor/Execute`.
pub const FAAS_EXECUTE: &str = "/faas.Executor/Execute";
/// `grpc.health.v1.Health/Check`.
pub const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// Request of `helloworld.Greeter` and of `fibonacci.Greeter`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HelloRequest {
    /// Name to greet; for Fibonacci, the index n in decimal digits. vSwarm's relay ignores it.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Workflow and invocation of vHive, as JSON; empty outside vHive. The functions do not read it.
    #[prost(bytes = "bytes", tag = "15")]
    pub vhive_metadata: bytes::Bytes,
}

/// Reply of `helloworld.Greeter` and of `fibonacci.Greeter`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HelloReply {
    /// Result as text.
    #[prost(string, tag = "1")]
    pub message: String,
}

/// Request of `aes.Aes/ShowEncryption`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PlainTextMessage {
    /// Text to encrypt; empty or `world` stands for the default text.
    #[prost(string, tag = "1")]
    pub plaintext_message: String,
}

/// Reply of `aes.Aes/ShowEncryption`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReturnEncryptionInfo {
    /// The text and its encryption, in words.
    #[prost(string, tag = "1")]
    pub encryption_info: String,
}

/// Request of `faas.Executor/Execute`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FaasRequest {
    /// Free text, not read.
    #[prost(string, tag = "1")]
    pub message: String,
    /// Requested duration, ms.
    #[prost(uint32, tag = "2")]
    pub runtime_in_milli_sec: u32,
    /// Requested memory, MiB.
    #[prost(uint32, tag = "3")]
    pub memory_in_mebi_bytes: u32,
}

/// Reply of `faas.Executor/Execute`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FaasReply {
    /// `OK` and the name of the host.
    #[prost(string, tag = "1")]
    pub message: String,
    /// Wall-clock duration, µs, without waiting for a worker.
    #[prost(uint32, tag = "2")]
    pub duration_in_micro_sec: u32,
    /// Memory used, KiB.
    #[prost(uint32, tag = "3")]
    pub memory_usage_in_kb: u32,
}

/// Request of `grpc.health.v1.Health/Check`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HealthCheckRequest {
    /// Service asked about; empty for the server as a whole.
    #[prost(string, tag = "1")]
    pub service: String,
}

/// Reply of `grpc.health.v1.Health/Check`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HealthCheckResponse {
    /// One of the `SERVING` constants.
    #[prost(int32, tag = "1")]
    pub status: i32,
}

impl HealthCheckResponse {
    /// The server takes requests.
    pub const SERVING: i32 = 1;
    /// The server is stopping.
    pub const NOT_SERVING: i32 = 2;
}
