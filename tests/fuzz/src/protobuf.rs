//! Requests to functions, and their replies.

use std::time::Duration;

use qscale_common::workload::Arrival;
use qscale_loadgen::protocol::{CallProtocol, Codec, HttpRequest, unframe};

/// A line with a protocol and its inputs, such as `direct:geo lat=1.5`, then the body of a reply: a request can be read back, and any reply is
/// accepted or refused.
pub fn protobuf(data: &[u8]) {
    let (line, body) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len()));
    let body = body.get(1..).unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else { return };
    let mut words = line.split(' ');
    let Some(protocol) = words.next().and_then(|word| word.parse::<CallProtocol>().ok()) else { return };
    let inputs: Vec<String> = words.map(str::to_owned).collect();
    let Ok(codec) = Codec::new(protocol, &inputs, &HttpRequest::default()) else { return };
    for sequence in [0, 1, u64::MAX] {
        let arrival = Arrival { at: Duration::ZERO, function: 0, duration_ms: 100, memory_mib: 64 };
        let request = codec.body(&arrival, sequence);
        assert!(!codec.is_grpc() || unframe(&request).is_ok(), "a request is one message");
        let message = if codec.is_grpc() { unframe(body) } else { Ok(body) };
        for reply in [Some(body), message.ok()].into_iter().flatten() {
            if let Err(invalid) = codec.validate(reply, &arrival, sequence, 100_000) {
                assert!(!invalid.0.is_empty());
            }
        }
    }
}
