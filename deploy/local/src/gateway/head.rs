//! Heads of requests and replies, as RFC 9110, 9112 and 9113 require of an intermediary. Owns the refused ones, and the fields that are changed or
//! not forwarded. Pure.

use http::header::{self, HeaderName};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version};
use qscale_common::platform::Protocol;

use super::reply::GatewayRefusal;
use super::route;
use crate::upstream::MAX_FIELDS;

/// Fields that concern one connection (RFC 9110, 7.6.1), and credentials for a proxy, which functions are not.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

/// Memory of a field in addition to its text, bytes: its entry in a map of fields, with the index.
const FIELD_BYTES: usize = 128;

/// Memory of the head of a request, bytes.
#[must_use]
pub fn memory_bytes(uri: &Uri, headers: &HeaderMap) -> usize {
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    headers.iter().fold(target, |sum, (name, value)| sum + FIELD_BYTES + name.as_str().len() + value.len())
}

/// Checks the head of a request.
///
/// # Errors
/// The refusal, with its reason.
pub fn check_request(method: &Method, uri: &Uri, version: Version, headers: &HeaderMap) -> Result<(), (GatewayRefusal, String)> {
    // A tunnel leads past the function, and TRACE returns fields that a browser hides from pages.
    if [Method::CONNECT, Method::TRACE].contains(method) {
        return Err((GatewayRefusal::NotImplemented, format!("the method {method} is not supported")));
    }
    if headers.len() > MAX_FIELDS {
        return Err((GatewayRefusal::TooManyFields, format!("{} header fields, must be at most {MAX_FIELDS}", headers.len())));
    }
    if has_other_coding(headers) {
        let found = "the only supported transfer coding is one `chunked`".to_owned();
        return Err((GatewayRefusal::NotImplemented, found));
    }
    check_target(method, uri)
        .and_then(|()| check_host(uri, version, headers))
        .and_then(|()| check_function(headers))
        .map_err(|reason| (GatewayRefusal::BadRequest, reason))
}

/// Checks the form of the target: an authority alone is for CONNECT, `*` for OPTIONS (RFC 9112, 3.2).
fn check_target(method: &Method, uri: &Uri) -> Result<(), String> {
    let is_authority = uri.authority().is_some() && uri.scheme().is_none();
    let is_asterisk = uri.path() == "*" && method != Method::OPTIONS;
    if is_authority || is_asterisk { Err(format!("target = `{uri}`, must be a path or an absolute URI")) } else { Ok(()) }
}

/// Checks the authority of a request: RFC 9112, 3.2, and RFC 9113, 8.3.1.
fn check_host(uri: &Uri, version: Version, headers: &HeaderMap) -> Result<(), String> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (host, authority) = (hosts.next(), uri.authority().map(Authority::as_str));
    if hosts.next().is_some() {
        return Err("more than one Host header".to_owned());
    }
    if host.is_none() && version == Version::HTTP_11 {
        return Err("no Host header".to_owned());
    }
    let host = host.map(|host| host.to_str().map_err(|_| "the Host header is not ASCII".to_owned())).transpose()?;
    for name in [host, authority].into_iter().flatten() {
        if !name.is_empty() && (name.contains('@') || name.parse::<Authority>().is_err()) {
            return Err(format!("host = `{name}`, must be a name or an address, and possibly a port"));
        }
    }
    match (host, authority) {
        (Some(host), Some(authority)) if version == Version::HTTP_2 && !host.eq_ignore_ascii_case(authority) => {
            Err(format!("host = `{host}`, must be the authority, `{authority}`"))
        }
        _ => Ok(()),
    }
}

/// Checks the header that names the function.
fn check_function(headers: &HeaderMap) -> Result<(), String> {
    let mut named = headers.get_all(route::FUNCTION_HEADER).iter();
    match (named.next(), named.next()) {
        (Some(_), Some(_)) => Err(format!("more than one header {}", route::FUNCTION_HEADER)),
        _ => Ok(()),
    }
}

/// Whether the media type of a message is gRPC: `application/grpc`, alone or followed by `+` or parameters. gRPC-Web is another protocol, with trailers
/// in the body.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const MEDIA_TYPE: &[u8] = b"application/grpc";
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let (kind, rest) = value.as_bytes().split_at(MEDIA_TYPE.len().min(value.len()));
        kind.eq_ignore_ascii_case(MEDIA_TYPE) && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
    })
}

/// Whether a body has a transfer coding other than one `chunked`, which the HTTP library removes.
fn has_other_coding(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::TRANSFER_ENCODING);
    let codings: Vec<&[u8]> = lines.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii).collect();
    !codings.is_empty() && !matches!(codings[..], [coding] if coding.eq_ignore_ascii_case(b"chunked"))
}

/// Request to a replica: in its protocol, with the client's authority, without hop-by-hop headers. `parts` passed [`check_request`].
#[must_use]
pub fn outgoing<B>(parts: &Parts, protocol: Protocol, body: B) -> Request<B> {
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.headers_mut() = parts.headers.clone();
    let headers = request.headers_mut();
    strip_request(headers);
    let authority = route::authority(&parts.uri, &parts.headers);
    // The path of a target that is only a fragment is empty, and written as `/`.
    let path = parts.uri.path_and_query().and_then(|path| path.as_str().parse().ok()).unwrap_or_else(|| PathAndQuery::from_static("/"));
    match protocol {
        Protocol::Http => {
            // An authority in the request line takes precedence over the header (RFC 9112, 3.2.2).
            let host = authority.and_then(|authority| HeaderValue::from_str(authority).ok());
            headers.insert(header::HOST, host.unwrap_or(HeaderValue::from_static("")));
            join_cookies(headers);
            *request.uri_mut() = Uri::from(path);
        }
        Protocol::Grpc => {
            let authority = authority.and_then(|authority| authority.parse::<Authority>().ok());
            headers.remove(header::HOST);
            let mut uri = http::uri::Parts::default();
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = Some(authority.unwrap_or_else(|| Authority::from_static("localhost")));
            uri.path_and_query = Some(path);
            // A path such as `*` cannot be combined with an authority; it becomes the root.
            *request.uri_mut() = Uri::from_parts(uri).unwrap_or_else(|_| Uri::from_static("http://localhost/"));
            *request.version_mut() = Version::HTTP_2;
        }
    }
    request
}

/// Removes the fields of a request that are not forwarded to a function.
fn strip_request(headers: &mut HeaderMap) {
    let trailers = tokens(headers, &header::TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    strip_hop_by_hop(headers);
    // gRPC needs `te: trailers`, the only value that HTTP/2 allows.
    headers.remove(header::TE);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Joins the cookie fields into which HTTP/2 may split one (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1 {
        let joined = HeaderValue::from_bytes(&cookies.join(&b"; "[..])).expect("values joined by printable characters are a value");
        headers.insert(header::COOKIE, joined);
    }
}

/// Checks the head of a reply, and removes the fields that are not forwarded to the client.
///
/// # Errors
/// Why the reply cannot be forwarded.
pub fn check_reply(status: StatusCode, headers: &mut HeaderMap) -> Result<(), String> {
    // No request to a function asks for another protocol.
    if status.is_informational() {
        return Err(format!("the replica replied with status {}, for which it was not asked", status.as_u16()));
    }
    if headers.len() > MAX_FIELDS {
        return Err(format!("the replica replied with {} header fields, must be at most {MAX_FIELDS}", headers.len()));
    }
    if has_other_coding(headers) {
        return Err("the replica used a transfer coding other than one `chunked`".to_owned());
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // The length of a chunked body is that of its chunks (RFC 9112, 6.3).
        headers.remove(header::CONTENT_LENGTH);
    } else {
        join_lengths(headers)?;
    }
    strip_hop_by_hop(headers);
    headers.remove(header::TE);
    Ok(())
}

/// Replaces repeated lengths by one; different ones would end the reply at different places for different readers.
fn join_lengths(headers: &mut HeaderMap) -> Result<(), String> {
    let lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let mut lengths = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let Some(first) = lengths.next() else { return Ok(()) };
    let digits = !first.is_empty() && first.iter().all(u8::is_ascii_digit);
    if !digits || lengths.any(|other| other != first) {
        return Err("the replica gave several lengths, or one that is not a number".to_owned());
    }
    let length = HeaderValue::from_bytes(first).map_err(|error| error.to_string())?;
    headers.insert(header::CONTENT_LENGTH, length);
    Ok(())
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = tokens(headers, &header::CONNECTION).filter_map(|name| name.parse().ok()).collect();
    for name in listed.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Members of a list in the lines of `field`.
fn tokens<'a>(headers: &'a HeaderMap, field: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(field).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|value| value.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        lines.iter().map(pair).collect()
    }

    #[track_caller]
    fn check(version: Version, uri: &str, lines: &[(&'static str, &'static str)], expected: Option<GatewayRefusal>) {
        let found = check_request(&Method::GET, &uri.parse().expect("a uri"), version, &headers(lines));
        assert_eq!(found.err().map(|(refusal, _)| refusal), expected, "{version:?} {uri} {lines:?}");
    }

    #[test]
    fn only_the_media_type_of_grpc_is_grpc() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpcx", false),
            ("application/g", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))])), expected, "{kind}");
        }
    }

    #[test]
    fn a_request_names_one_function() {
        let mut twice = headers(&[("host", "f"), (route::FUNCTION_HEADER, "f")]);
        twice.append(route::FUNCTION_HEADER, HeaderValue::from_static("g"));
        let found = check_request(&Method::GET, &Uri::from_static("/"), Version::HTTP_11, &twice);
        assert_eq!(found.err().map(|(refusal, _)| refusal), Some(GatewayRefusal::BadRequest));
    }

    #[test]
    fn a_head_has_at_most_a_thousand_fields_in_each_protocol() {
        for (count, expected) in [(MAX_FIELDS, None), (MAX_FIELDS + 1, Some(GatewayRefusal::TooManyFields))] {
            let mut headers = headers(&[("host", "f")]);
            headers.extend(
                (1..count).map(|number| (HeaderName::try_from(format!("x-{number}")).expect("a name"), HeaderValue::from_static(""))),
            );
            for (version, uri) in [(Version::HTTP_11, Uri::from_static("/")), (Version::HTTP_2, Uri::from_static("http://f/"))] {
                let found = check_request(&Method::GET, &uri, version, &headers);
                assert_eq!(found.err().map(|(refusal, _)| refusal), expected, "{version:?}, {count} fields");
            }
            assert_eq!(check_reply(StatusCode::OK, &mut headers.clone()).is_err(), expected.is_some(), "{count} fields");
            assert!(memory_bytes(&Uri::from_static("/"), &headers) > count * FIELD_BYTES);
        }
    }

    #[test]
    fn a_request_has_one_valid_authority() {
        let bad = Some(GatewayRefusal::BadRequest);
        for host in ["f", "f.default:8700", "127.0.0.1:8700", "[::1]:8700", ""] {
            check(Version::HTTP_11, "/", &[("host", host)], None);
        }
        for host in ["a b", "a/b", "user@f", "f:80:80", "f,g", "f?x", "http://f"] {
            let expected = if host == "f,g" { None } else { bad };
            check(Version::HTTP_11, "/", &[("host", host)], expected);
        }
        check(Version::HTTP_11, "/", &[], bad);
        check(Version::HTTP_10, "/", &[], None);
        check(Version::HTTP_10, "/", &[("host", "f"), ("host", "f")], bad);
        check(Version::HTTP_11, "http://f/", &[("host", "other")], None);
        check(Version::HTTP_11, "http://user@f/", &[("host", "f")], bad);
        check(Version::HTTP_2, "http://f/", &[], None);
        for target in ["f", "f:80", "*"] {
            check(Version::HTTP_11, target, &[("host", "f")], bad);
        }
        let options = check_request(&Method::OPTIONS, &Uri::from_static("*"), Version::HTTP_11, &headers(&[("host", "f")]));
        assert_eq!(options, Ok(()));
        check(Version::HTTP_2, "http://f/", &[("host", "F")], None);
        check(Version::HTTP_2, "http://f/", &[("host", "g")], bad);
    }

    #[test]
    fn chunked_is_the_only_coding() {
        let refused = Some(GatewayRefusal::NotImplemented);
        for (codings, expected) in [
            (&["chunked"][..], None),
            (&["Chunked"], None),
            (&["gzip, chunked"], refused),
            (&["gzip", "chunked"], refused),
            (&["chunked", "chunked"], refused),
            (&["chunked, chunked"], refused),
            (&["identity"], refused),
            (&["chunked;q=1"], refused),
            (&[""], refused),
        ] {
            let mut lines = vec![("host", "f")];
            lines.extend(codings.iter().map(|coding| ("transfer-encoding", *coding)));
            check(Version::HTTP_11, "/", &lines, expected);
            let reply = check_reply(StatusCode::OK, &mut headers(&lines[1..]));
            assert_eq!(reply.is_err(), expected.is_some(), "{codings:?}");
        }
    }

    #[test]
    fn fields_of_the_connection_are_not_forwarded() {
        let mut sent = headers(&[
            ("connection", "close, X-Private"),
            ("connection", "keep-alive"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic eA=="),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("te", "gzip;q=0.5"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("x-kept", "1"),
        ]);
        strip_request(&mut sent);
        assert_eq!(sent, headers(&[("te", "trailers"), ("trailer", "x-sum"), ("x-kept", "1")]));
    }

    #[test]
    fn a_forwarded_target_has_a_path() {
        let sent = |target: &str| {
            let (parts, ()) = Request::get(target).header(header::HOST, "f").body(()).expect("a request").into_parts();
            outgoing(&parts, Protocol::Http, ()).uri().to_string()
        };
        for (target, expected) in
            [("http://f#part", "/"), ("http://f", "/"), ("http://f?a", "/?a"), ("/a#part", "/a"), ("*", "*"), ("/a?b", "/a?b")]
        {
            assert_eq!(sent(target), expected, "{target}");
        }
    }

    #[test]
    fn cookies_are_joined() {
        let mut sent = headers(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c=\"3\"")]);
        join_cookies(&mut sent);
        assert_eq!(sent, headers(&[("cookie", "a=1; b=2; c=\"3\""), ("x", "y")]));
        let mut one = headers(&[("cookie", "a=1")]);
        join_cookies(&mut one);
        assert_eq!(one, headers(&[("cookie", "a=1")]));
    }

    #[test]
    fn a_reply_has_one_length() {
        let length = |lines: &[(&'static str, &'static str)]| {
            let mut headers = headers(lines);
            check_reply(StatusCode::OK, &mut headers).map(|()| headers.get(header::CONTENT_LENGTH).cloned())
        };
        let five = Ok(Some(HeaderValue::from_static("5")));
        assert_eq!(length(&[("content-length", "5")]), five);
        assert_eq!(length(&[("content-length", "5"), ("content-length", "5, 5")]), five);
        assert_eq!(length(&[("content-length", "5"), ("transfer-encoding", "chunked")]), Ok(None));
        for bad in ["5, 6", "+5", "", "5x"] {
            assert!(length(&[("content-length", bad)]).is_err(), "{bad}");
        }
        assert!(length(&[("content-length", "5"), ("content-length", "6")]).is_err());
    }

    #[test]
    fn a_protocol_that_was_not_asked_for_is_a_failure() {
        assert!(check_reply(StatusCode::SWITCHING_PROTOCOLS, &mut HeaderMap::new()).is_err());
        assert!(check_reply(StatusCode::NO_CONTENT, &mut HeaderMap::new()).is_ok());
    }
}
