//! The messages of vSwarm and InVitro, written by hand from their protos. Owns their fields and numbers; fields that a reply may lack
//! are empty, as in every proto3 message.

/// What vSwarm's invoker sends to `helloworld.Greeter/SayHello`; `fibonacci.Greeter` and `auth.Greeter` take the same.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HelloRequest {
    /// The relay ignores it; fibonacci reads a number from it.
    #[prost(string, tag = "1")]
    pub name: String,
    /// vHive's workflow and invocation, as JSON; empty where not wanted.
    #[prost(bytes = "bytes", tag = "15")]
    pub vhive_metadata: bytes::Bytes,
}

/// The reply to [`HelloRequest`], and, in the same field, that of most functions behind the relay.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HelloReply {
    /// What the function has to say.
    #[prost(string, tag = "1")]
    pub message: String,
}

/// `faas.Executor/Execute`: InVitro's function, which runs for as long as it is asked to.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FaasRequest {
    /// Free text.
    #[prost(string, tag = "1")]
    pub message: String,
    /// How long to run, milliseconds.
    #[prost(uint32, tag = "2")]
    pub runtime_in_milli_sec: u32,
    /// How much memory to use, MiB.
    #[prost(uint32, tag = "3")]
    pub memory_in_mebi_bytes: u32,
}

/// The reply to [`FaasRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct FaasReply {
    /// Free text; InVitro's functions name their instance in it.
    #[prost(string, tag = "1")]
    pub message: String,
    /// How long it ran, microseconds.
    #[prost(uint32, tag = "2")]
    pub duration_in_micro_sec: u32,
    /// How much memory it used, KiB.
    #[prost(uint32, tag = "3")]
    pub memory_usage_in_kb: u32,
}
