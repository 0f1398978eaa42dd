//! Routing of requests to functions by authority or header. Pure.

use http::HeaderMap;
use http::header::HOST;
use http::uri::{Authority, Uri};
use qscale_common::name::FunctionId;

/// Header that names the function, `namespace/name` or `name`; takes precedence over the authority.
pub const FUNCTION_HEADER: &str = "x-qscale-function";

/// Key `namespace/name` of the function that a request names; `None` where it names none.
///
/// Without the header, the first label of the authority is the name and the second, if any, the namespace.
#[must_use]
pub fn key(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    if let Some(named) = headers.get(FUNCTION_HEADER) {
        let named = named.to_str().ok()?.trim().to_ascii_lowercase();
        return Some(if named.contains('/') { named } else { format!("{}/{named}", FunctionId::DEFAULT_NAMESPACE) });
    }
    let host = authority(uri, headers)?;
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let host = host.split_once(':').map_or(host, |(host, _port)| host);
    let mut labels = host.split('.');
    let name = labels.next().filter(|label| !label.is_empty())?;
    let namespace = labels.next().filter(|label| !label.is_empty()).unwrap_or(FunctionId::DEFAULT_NAMESPACE);
    let mut key = String::with_capacity(namespace.len() + 1 + name.len());
    key.push_str(namespace);
    key.push('/');
    key.push_str(name);
    // Host names are case-insensitive; names of functions are lower case.
    key.make_ascii_lowercase();
    Some(key)
}

/// Description of what a request names, for an error.
#[must_use]
pub fn named(uri: &Uri, headers: &HeaderMap) -> String {
    match headers.get(FUNCTION_HEADER) {
        Some(named) => format!("{FUNCTION_HEADER} = `{}`", String::from_utf8_lossy(named.as_bytes())),
        None => format!("`{}`", authority(uri, headers).unwrap_or_default()),
    }
}

/// Authority of the request: HTTP/2's pseudo-header or the `Host` header.
#[must_use]
pub fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    uri.authority().map(Authority::as_str).or_else(|| headers.get(HOST)?.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[track_caller]
    fn check(uri: &str, headers: &[(&'static str, &'static str)], expected: Option<&str>) {
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (name.parse().expect("name"), HeaderValue::from_static(value))).collect();
        assert_eq!(key(&uri.parse().expect("uri"), &headers).as_deref(), expected, "{uri}");
    }

    #[test]
    fn the_leading_labels_of_the_authority_name_the_function() {
        check("http://fib.default.example:80/x", &[], Some("default/fib"));
        check("http://fib.prod/x", &[], Some("prod/fib"));
        check("http://fib/x", &[], Some("default/fib"));
        check("http://FIB:8700/x", &[], Some("default/fib"));
        check("/x", &[("host", "fib.prod.svc.cluster.local:8700")], Some("prod/fib"));
        check("/x", &[], None);
        check("/x", &[("host", "")], None);
        check("/x", &[("host", ".prod")], None);
    }

    #[test]
    fn the_header_wins_over_the_authority() {
        check("http://fib.prod/x", &[(FUNCTION_HEADER, "test/aes")], Some("test/aes"));
        check("/x", &[("host", "127.0.0.1:8700"), (FUNCTION_HEADER, "aes")], Some("default/aes"));
        check("/x", &[("host", "127.0.0.1:8700"), (FUNCTION_HEADER, "AES")], Some("default/aes"));
        let headers = HeaderMap::from_iter([(FUNCTION_HEADER.parse().expect("name"), HeaderValue::from_static("ECHO"))]);
        assert_eq!(named(&Uri::from_static("http://fib/x"), &headers), "x-qscale-function = `ECHO`");
        assert_eq!(named(&Uri::from_static("http://fib/x"), &HeaderMap::new()), "`fib`");
    }
}
