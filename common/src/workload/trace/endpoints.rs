//! vSwarm's `endpoints.json`: targets of its invoker.

use std::io::Read;

use serde::Deserialize;

use super::TraceError;

/// A target: host name without scheme or port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Endpoint {
    /// The host name, also the authority of each request.
    pub hostname: String,
    /// Whether latency is measured by an event workflow in a separate store.
    #[serde(default)]
    pub eventing: bool,
}

/// Parses `endpoints.json`, ignoring unknown fields. `file` is its name in errors.
///
/// # Errors
/// If it is not a list of endpoints, is empty, or contains an empty host name, one with scheme, port or path, or an endpoint of
/// eventing, whose latency a reply does not show.
pub fn read_endpoints<R: Read>(file: &str, reader: R) -> Result<Vec<Endpoint>, TraceError> {
    let error = |line: u64, problem: String| TraceError { file: file.to_owned(), line, column: None, problem };
    let mut text = Vec::new();
    reader.take(1 << 30).read_to_end(&mut text).map_err(|cause| error(0, cause.to_string()))?;
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let endpoints: Vec<Endpoint> = serde_json::from_slice(text).map_err(|cause| {
        error(cause.line() as u64, format!("{cause}; expected a list such as [{{\"hostname\":\"fibonacci.default.example.org\"}}]"))
    })?;
    if endpoints.is_empty() {
        return Err(error(0, "the list of endpoints is empty".to_owned()));
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let name = &endpoint.hostname;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if name.is_empty() || !name.chars().all(plain) {
            return Err(error(
                0,
                format!("endpoint {}: hostname `{name}`: write a host name alone, without scheme, port or path", index + 1),
            ));
        }
        if endpoint.eventing {
            return Err(error(
                0,
                format!("endpoint {} ({name}): eventing = true is not supported: its reply says nothing about its latency", index + 1),
            ));
        }
    }
    Ok(endpoints)
}
