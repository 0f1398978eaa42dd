//! Protocols: encoding of requests and validation of replies. Must not do I/O.

use std::fmt;
use std::str::FromStr;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use qscale_common::workload::Arrival;
use serde::{Deserialize, Serialize};

use qscale_messages::{FaasReply, FaasRequest, HelloReply, HelloRequest};

mod fibonacci;
mod services;

pub use services::{Inputs, SERVICES, VswarmMethod};

/// Protocol of the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CallProtocol {
    /// `helloworld.Greeter/SayHello`, like vSwarm's invoker.
    #[default]
    Relay,
    /// `faas.Executor/Execute`: each request sets its duration and memory.
    Faas,
    /// Method of a vSwarm function.
    Direct(&'static VswarmMethod),
    /// HTTP/1.1.
    Http,
}

impl fmt::Display for CallProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallProtocol::Relay => f.write_str("relay"),
            CallProtocol::Faas => f.write_str("faas"),
            CallProtocol::Direct(service) => write!(f, "direct:{}", service.name),
            CallProtocol::Http => f.write_str("http"),
        }
    }
}

impl FromStr for CallProtocol {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let services = || SERVICES.iter().map(|service| service.name).collect::<Vec<_>>().join(", ");
        match text {
            "relay" => Ok(CallProtocol::Relay),
            "faas" => Ok(CallProtocol::Faas),
            "http" => Ok(CallProtocol::Http),
            _ => match text.strip_prefix("direct:") {
                Some(name) => VswarmMethod::named(name)
                    .map(CallProtocol::Direct)
                    .ok_or_else(|| format!("unknown service `{name}`: use direct:SERVICE with one of {}", services())),
                None => Err(format!("unknown protocol `{text}`: use relay, faas, http, or direct:SERVICE with one of {}", services())),
            },
        }
    }
}

impl TryFrom<String> for CallProtocol {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<CallProtocol> for String {
    fn from(protocol: CallProtocol) -> String {
        protocol.to_string()
    }
}

/// Configurable part of an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpRequest {
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Body; empty for none.
    pub body: String,
    /// Text that the body of a valid reply contains; empty for any.
    pub expect: String,
}

impl Default for HttpRequest {
    fn default() -> Self {
        Self { method: "GET".to_owned(), path: "/".to_owned(), body: String::new(), expect: String::new() }
    }
}

/// Encodes requests and validates replies of one protocol.
#[derive(Debug, Clone)]
pub struct Codec {
    protocol: CallProtocol,
    inputs: Inputs,
    http: HttpRequest,
    /// Encoded request, if all are equal.
    fixed: Option<Bytes>,
}

/// Resource usage reported in a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReportedUsage {
    /// Duration of the function, microseconds; 0 if not reported.
    pub duration_us: u32,
    /// Memory used, KiB; 0 if not reported.
    pub memory_kib: u32,
}

/// Reason why a reply with a success status is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidReply(pub String);

impl Codec {
    /// Codec of `protocol`: `inputs` (`field=value`) are for `direct`, `http` for HTTP.
    ///
    /// # Errors
    /// When the service does not have a field of `inputs`; the error lists its fields.
    pub fn new(protocol: CallProtocol, inputs: &[String], http: &HttpRequest) -> Result<Self, String> {
        let inputs = match protocol {
            CallProtocol::Direct(service) => Inputs::new(service, inputs)?,
            _ if inputs.is_empty() => Inputs::default(),
            _ => return Err(format!("input = {}: only direct:SERVICE takes inputs, not {protocol}", inputs.join(", "))),
        };
        let mut codec = Self { protocol, inputs, http: http.clone(), fixed: None };
        codec.fixed = match protocol {
            CallProtocol::Relay | CallProtocol::Http => Some(codec.form(0, 0, 0)),
            CallProtocol::Direct(_) if !codec.inputs.vary() => Some(codec.form(0, 0, 0)),
            CallProtocol::Direct(_) | CallProtocol::Faas => None,
        };
        Ok(codec)
    }

    /// Whether it is gRPC.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        self.protocol != CallProtocol::Http
    }

    /// HTTP method.
    #[must_use]
    pub fn method(&self) -> &str {
        if self.is_grpc() { "POST" } else { &self.http.method }
    }

    /// Path of the requests.
    #[must_use]
    pub fn path(&self) -> &str {
        match self.protocol {
            CallProtocol::Relay => qscale_messages::HELLOWORLD_SAY_HELLO,
            CallProtocol::Faas => qscale_messages::FAAS_EXECUTE,
            CallProtocol::Direct(service) => service.path,
            CallProtocol::Http => &self.http.path,
        }
    }

    /// Body of request `sequence`; for gRPC with the five-byte prefix.
    #[must_use]
    pub fn body(&self, arrival: &Arrival, sequence: u64) -> Bytes {
        match &self.fixed {
            Some(fixed) => fixed.clone(),
            None => self.form(arrival.duration_ms, arrival.memory_mib, sequence),
        }
    }

    fn form(&self, duration_ms: u32, memory_mib: u32, sequence: u64) -> Bytes {
        match self.protocol {
            // The relay takes inputs from its own generator; this is the name that vSwarm's invoker sends.
            CallProtocol::Relay => framed(&HelloRequest { name: "Invoke relay".to_owned(), vhive_metadata: Bytes::new() }),
            CallProtocol::Faas => {
                framed(&FaasRequest { message: String::new(), runtime_in_milli_sec: duration_ms, memory_in_mebi_bytes: memory_mib })
            }
            CallProtocol::Direct(_) => frame(&self.inputs.encode(sequence)),
            CallProtocol::Http => Bytes::from(self.http.body.clone()),
        }
    }

    /// Validates the reply to request `sequence`: `body` is the message of a gRPC reply or the body of an HTTP reply, received `took_us`
    /// microseconds after the send.
    ///
    /// # Errors
    /// The reason why it is invalid.
    pub fn validate(&self, body: &[u8], arrival: &Arrival, sequence: u64, took_us: u64) -> Result<ReportedUsage, InvalidReply> {
        match self.protocol {
            CallProtocol::Relay => validate_relay(body),
            CallProtocol::Faas => validate_faas(body, arrival, took_us),
            CallProtocol::Direct(service) => service.validate(body, &self.inputs, sequence),
            CallProtocol::Http => validate_http(body, &self.http.expect),
        }
        .map_err(InvalidReply)
    }
}

fn validate_relay(body: &[u8]) -> Result<ReportedUsage, String> {
    let reply = HelloReply::decode(body).map_err(|error| format!("cannot decode HelloReply: {error}"))?;
    if reply.message.is_empty() {
        return Err("the reply is empty".to_owned());
    }
    if fibonacci::is_reply(&reply.message) {
        fibonacci::validate(&reply.message, None)?;
    }
    Ok(ReportedUsage::default())
}

fn validate_faas(body: &[u8], arrival: &Arrival, took_us: u64) -> Result<ReportedUsage, String> {
    // Both clocks measure the same interval; one millisecond allows for rounding.
    const ROUNDING_US: u64 = 1_000;
    let reply = FaasReply::decode(body).map_err(|error| format!("cannot decode FaasReply: {error}"))?;
    let duration = u64::from(reply.duration_in_micro_sec);
    let asked = u64::from(arrival.duration_ms) * 1_000;
    if duration > took_us + ROUNDING_US {
        return Err(format!("the reported duration, {duration} us, exceeds the time to the reply, {took_us} us"));
    }
    if duration * 2 + ROUNDING_US < asked {
        return Err(format!("the function ran for {duration} us, less than half of the requested {asked} us"));
    }
    Ok(ReportedUsage { duration_us: reply.duration_in_micro_sec, memory_kib: reply.memory_usage_in_kb })
}

fn validate_http(body: &[u8], expect: &str) -> Result<ReportedUsage, String> {
    let contains = |text: &[u8]| expect.is_empty() || text.windows(expect.len()).any(|window| window == expect.as_bytes());
    if contains(body) { Ok(ReportedUsage::default()) } else { Err(format!("the body does not contain `{expect}`")) }
}

/// Encodes a message as the body of a unary call.
pub fn framed(message: &impl Message) -> Bytes {
    frame(&message.encode_to_vec())
}

/// Prepends the gRPC prefix: not compressed, and the length.
fn frame(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(message.len() + FRAME_PREFIX);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.put_slice(message);
    bytes.freeze()
}

/// Length of the prefix of a gRPC message: compression flag and length.
const FRAME_PREFIX: usize = 5;

/// Message in the body of a unary gRPC reply.
///
/// # Errors
/// When the body is truncated, contains more than one message, or is compressed, which no request allows.
pub fn unframe(body: &[u8]) -> Result<&[u8], InvalidReply> {
    let problem = |text: &str| Err(InvalidReply(text.to_owned()));
    let Some((prefix, message)) = body.split_first_chunk::<FRAME_PREFIX>() else {
        return problem("the reply has no message");
    };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    match (prefix[0], message.len()) {
        (0, actual) if actual == length => Ok(message),
        (0, actual) if actual < length => problem("the reply's message is truncated"),
        (0, _) => problem("the reply has more than one message"),
        _ => problem("the reply is compressed, which the request did not allow"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ARRIVAL: Arrival = Arrival { at: Duration::ZERO, function: 0, duration_ms: 100, memory_mib: 64 };

    fn codec(protocol: &str) -> Codec {
        let http = HttpRequest { expect: "needle".to_owned(), ..HttpRequest::default() };
        Codec::new(protocol.parse().expect("a protocol"), &[], &http).expect("no inputs")
    }

    fn says(message: &str) -> Vec<u8> {
        HelloReply { message: message.to_owned() }.encode_to_vec()
    }

    fn ran(duration_us: u32, took_us: u64) -> bool {
        let reply = FaasReply { duration_in_micro_sec: duration_us, ..FaasReply::default() };
        codec("faas").validate(&reply.encode_to_vec(), &ARRIVAL, 0, took_us).is_ok()
    }

    #[test]
    fn protocols_are_read_as_written() {
        for text in ["relay", "faas", "http", "direct:fibonacci", "direct:aes", "direct:auth"] {
            assert_eq!(text.parse::<CallProtocol>().expect("a protocol").to_string(), text);
        }
        assert!("direct:nothing".parse::<CallProtocol>().expect_err("unknown").contains("fibonacci"));
        assert!("grpc".parse::<CallProtocol>().expect_err("unknown").contains("relay, faas, http"));
    }

    #[test]
    fn a_faas_request_says_how_long_and_how_much() {
        let body = codec("faas").body(&ARRIVAL, 0);
        let request = FaasRequest::decode(unframe(&body).expect("one message")).expect("decodes");
        assert_eq!((request.runtime_in_milli_sec, request.memory_in_mebi_bytes), (100, 64));
    }

    #[test]
    fn a_relayed_reply_must_not_be_empty_or_wrong() {
        let validate = |message: &str| codec("relay").validate(&says(message), &ARRIVAL, 0, 0).is_ok();
        assert!(validate("hello"));
        assert!(validate("fn: Fib: y = fib(x) | x: 10 y: 55 | runtime: python"));
        assert!(!validate(""));
        assert!(!validate("fn: Fib: y = fib(x) | x: 10 y: 54 | runtime: python"));
        assert!(!validate("fn: Fib: y = fib(x) | x: NaN y: 0 | runtime: nodejs"));
        assert!(codec("relay").validate(&[0xff; 9], &ARRIVAL, 0, 0).is_err());
    }

    #[test]
    fn a_reported_duration_must_fit_the_request_and_the_reply() {
        assert!(ran(100_000, 101_000));
        assert!(ran(100_500, 100_000));
        assert!(!ran(200_000, 101_000));
        assert!(!ran(10_000, 101_000));
    }

    #[test]
    fn an_http_body_must_contain_what_is_expected() {
        assert!(codec("http").validate(b"a needle here", &ARRIVAL, 0, 0).is_ok());
        assert!(codec("http").validate(b"hay", &ARRIVAL, 0, 0).is_err());
        assert!(codec("http").validate(b"", &ARRIVAL, 0, 0).is_err());
    }

    #[test]
    fn a_unary_reply_is_exactly_one_plain_message() {
        assert_eq!(unframe(&frame(b"abc")), Ok(&b"abc"[..]));
        assert!(unframe(b"").is_err());
        assert!(unframe(&[0, 0, 0, 0, 9, 1]).is_err());
        assert!(unframe(&[1, 0, 0, 0, 0]).is_err());
        assert!(unframe(&[frame(b"a"), frame(b"b")].concat()).is_err());
    }

    #[test]
    fn inputs_belong_to_direct_calls_only() {
        assert!(Codec::new(CallProtocol::Relay, &["name=1".to_owned()], &HttpRequest::default()).is_err());
    }
}
