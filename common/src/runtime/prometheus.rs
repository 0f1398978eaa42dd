//! The HTTP API of a Prometheus server: requests, and replies to queries with a matrix as result. Owns their format; the form of a series belongs to the caller.

use std::fmt;

use anyhow::ensure;
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Full;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use thiserror::Error;

use crate::text::clean;

/// Longest text of a server that is shown, characters.
const MAX_SHOWN: usize = 300;

/// The API of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrometheusApi {
    base: String,
}

/// Why a reply has no series.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReplyError {
    /// The server's own message.
    #[error("{0}")]
    Refused(String),
    /// It is not a reply of this API to a query with a matrix as result.
    #[error("{0}")]
    Foreign(String),
}

#[derive(Deserialize)]
struct Envelope<T> {
    status: String,
    data: Option<QueryResult<T>>,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct QueryResult<T> {
    result_type: String,
    result: T,
}

impl PrometheusApi {
    /// That of the server at `url`, `http://host:port` or `https://host:port` with an optional path.
    ///
    /// # Errors
    /// Another scheme, or no host.
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let uri: Option<Uri> = url.parse().ok();
        let is_http = |uri: &Uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty()) && uri.query().is_none()
        };
        ensure!(
            uri.as_ref().is_some_and(is_http),
            "`{url}`, must be like http://127.0.0.1:9090 or https://host; a port of a cluster: kubectl port-forward -n monitoring svc/prometheus 9090"
        );
        Ok(Self { base: url.trim_end_matches('/').to_owned() })
    }

    /// A request to `endpoint`, such as `query_range`, with the fields of `form` and a bearer token.
    ///
    /// # Errors
    /// If the token cannot be sent.
    pub fn request(&self, endpoint: &str, form: &[(&str, &str)], token: Option<&str>) -> Result<Request<Full<Bytes>>, http::Error> {
        let field = |(name, value): &(&str, &str)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
        let form = form.iter().map(field).collect::<Vec<_>>().join("&");
        let mut request = Request::post(format!("{}/api/v1/{endpoint}", self.base))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::USER_AGENT, concat!("qscale/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = token {
            let mut value = http::HeaderValue::try_from(format!("Bearer {token}"))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        request.body(Full::from(form))
    }
}

impl fmt::Display for PrometheusApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

/// The series of a reply with `status`.
///
/// # Errors
/// If there are none, with the reason.
pub fn matrix<S: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<Vec<S>, ReplyError> {
    let foreign = |error: String| ReplyError::Foreign(shown(&error));
    let wrong_type = |kind: &str| foreign(format!("its type is `{kind}`, must be matrix"));
    let envelope: Envelope<Vec<S>> = match serde_json::from_slice(body) {
        Ok(envelope) => envelope,
        // The form of `result` depends on its type, which is reported first.
        Err(error) => match serde_json::from_slice::<Envelope<IgnoredAny>>(body) {
            Ok(Envelope { data: Some(data), .. }) if data.result_type != "matrix" => return Err(wrong_type(&data.result_type)),
            _ => return Err(foreign(error.to_string())),
        },
    };
    if status != StatusCode::OK || envelope.status != "success" {
        return Err(ReplyError::Refused(shown(if envelope.error.is_empty() { &envelope.status } else { &envelope.error })));
    }
    match envelope.data {
        Some(data) if data.result_type == "matrix" => Ok(data.result),
        // An empty vector looks like an empty matrix.
        Some(data) => Err(wrong_type(&data.result_type)),
        None => Err(foreign("field `data` is missing".to_owned())),
    }
}

/// A text of a server, as an error shows it.
#[must_use]
pub fn shown(text: &str) -> String {
    clean(&text.chars().take(MAX_SHOWN).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_read_is_refused_with_its_remedy() {
        for url in ["ftp://x", "127.0.0.1:9090", "http://", "http://x?y=1", ""] {
            let error = PrometheusApi::new(url).expect_err(url).to_string();
            assert!(error.contains(url) && error.contains("must be like http://"), "{error}");
        }
        assert_eq!(PrometheusApi::new("https://host/").expect("valid").to_string(), "https://host");
        let api = PrometheusApi::new("http://host:9090/x/").expect("valid");
        let request = api.request("query", &[("query", "up{a=\"b\"}"), ("limit", "1")], Some("secret")).expect("valid");
        assert_eq!((api.to_string().as_str(), request.uri().path()), ("http://host:9090/x", "/x/api/v1/query"));
        assert_eq!(request.headers()[header::AUTHORIZATION], "Bearer secret");
        assert!(api.request("query", &[], Some("two\nlines")).is_err());
    }

    #[test]
    fn other_replies_are_refused_with_their_reason() {
        let refused = |status: u16, body: &str| {
            matrix::<(f64, String)>(StatusCode::from_u16(status).expect("a status"), body.as_bytes()).expect_err("refused")
        };
        let message = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
        for status in [200, 400] {
            assert_eq!(refused(status, message), ReplyError::Refused("parse error".into()));
        }
        for body in [
            "<html>",
            "",
            "{}",
            r#"{"status":"success"}"#,
            r#"{"status":"success","data":{"resultType":"matrix"}}"#,
            r#"{"status":"success","data":{"resultType":"matrix","result":[["x","1"]]}}"#,
        ] {
            assert!(matches!(refused(200, body), ReplyError::Foreign(reason) if !reason.is_empty()), "{body}");
        }
        for (kind, result) in [("vector", r#"[{"metric":{},"value":[1,"2"]}]"#), ("vector", "[]"), ("scalar", r#"[1,"2"]"#)] {
            let error = refused(200, &format!(r#"{{"status":"success","data":{{"resultType":"{kind}","result":{result}}}}}"#));
            assert_eq!(error, ReplyError::Foreign(format!("its type is `{kind}`, must be matrix")));
        }
    }
}
