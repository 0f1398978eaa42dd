//! Heads of requests and replies at the gateway.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version};
use qscale_common::platform::Protocol;
use qscale_local::head::{check_reply, check_request, outgoing};
use qscale_local::route;

/// Fields that no head on the other side of the gateway may have.
const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "proxy-authorization", "proxy-authenticate", "upgrade", "transfer-encoding"];

/// A head of HTTP/1, its lines without a colon being the first one: the head that is forwarded belongs to one message for every reader.
pub fn gateway(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.next().unwrap_or_default();
    let fields: HeaderMap = lines.filter_map(field).collect();
    match first.strip_prefix(b"HTTP/1.1 ") {
        Some(status) => reply(status, fields),
        None => request(first, fields),
    }
}

fn field(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
    Some((HeaderName::from_bytes(&line[..colon]).ok()?, value))
}

fn request(line: &[u8], fields: HeaderMap) {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), version) = (words.next(), words.next(), words.next()) else { return };
    let version = match version {
        Some(b"HTTP/1.0") => Version::HTTP_10,
        Some(b"HTTP/2") => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    let Ok(request) = Request::builder().method(method).uri(target).version(version).body(()) else { return };
    let (mut parts, ()) = request.into_parts();
    parts.headers = fields;
    if check_request(&parts.method, &parts.uri, parts.version, &parts.headers).is_err() {
        return;
    }
    assert!(!["CONNECT", "TRACE"].contains(&parts.method.as_str()));
    if let Some(key) = route::key(&parts.uri, &parts.headers) {
        assert!(key.contains('/'), "{key}");
    }
    for protocol in [Protocol::Http, Protocol::Grpc] {
        let sent = outgoing(&parts, protocol, ());
        no_hop_by_hop(sent.headers());
        let hosts = sent.headers().get_all(header::HOST).iter().count();
        assert!(sent.headers().get_all(header::TE).iter().all(|value| value == "trailers"));
        match protocol {
            Protocol::Http => {
                assert!(hosts == 1 && sent.uri().authority().is_none() && sent.uri().scheme().is_none(), "{sent:?}");
                assert!(sent.headers().get_all(header::COOKIE).iter().count() <= 1);
                let path = sent.uri().path();
                assert!(path.starts_with('/') || path == "*", "{path}");
            }
            Protocol::Grpc => assert!(hosts == 0 && sent.uri().authority().is_some() && sent.version() == Version::HTTP_2, "{sent:?}"),
        }
    }
}

fn reply(status: &[u8], mut fields: HeaderMap) {
    let Ok(status) = StatusCode::from_bytes(status.get(..3).unwrap_or_default()) else { return };
    let chunked = fields.contains_key(header::TRANSFER_ENCODING);
    if check_reply(status, &mut fields).is_err() {
        return;
    }
    assert!(!status.is_informational());
    no_hop_by_hop(&fields);
    let lengths: Vec<_> = fields.get_all(header::CONTENT_LENGTH).iter().collect();
    let digits = |value: &&HeaderValue| !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit);
    assert!(lengths.len() <= usize::from(!chunked) && lengths.iter().all(digits), "{lengths:?}");
}

fn no_hop_by_hop(fields: &HeaderMap) {
    for name in HOP_BY_HOP {
        assert!(!fields.contains_key(name), "{name} is forwarded");
    }
}
