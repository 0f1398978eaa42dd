//! vSwarm's `endpoints.json`: targets of its invoker.

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

/// Parses the text of `endpoints.json`, ignoring unknown fields. `file` is its name in errors.
///
/// # Errors
/// If it is not a list of endpoints, is empty, or contains an empty host name, one with scheme, port or path, or an endpoint of
/// eventing, whose latency a reply does not show.
pub fn read_endpoints(file: &str, text: &str) -> Result<Vec<Endpoint>, TraceError> {
    let error = |line: u64, problem: String| TraceError { file: file.to_owned(), line, column: None, problem };
    let endpoints: Vec<Endpoint> = serde_json::from_str(text).map_err(|cause| {
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
                format!(
                    "endpoint {} ({name}): `\"eventing\": true` is not supported, as its reply says nothing about its latency; remove the endpoint",
                    index + 1
                ),
            ));
        }
    }
    Ok(endpoints)
}
