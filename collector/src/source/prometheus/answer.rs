//! Series of a range selector, of which only the newest sample is kept. Must not know what a label means.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use http::StatusCode;
use qscale_common::runtime::prometheus::{ReplyError, matrix};
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::MAX_SERIES;
use crate::source::SourceError;

/// One series.
#[derive(Debug, Deserialize)]
pub(super) struct Series {
    #[serde(default)]
    pub(super) metric: BTreeMap<String, String>,
    /// Newest sample; absent for native histograms.
    #[serde(default)]
    values: Newest,
}

/// The newest sample: seconds since 1970 and value, which is absent if it is not a number.
#[derive(Debug, Clone, Copy, Default)]
struct Newest(Option<(f64, Option<f64>)>);

impl Series {
    pub(super) fn label(&self, name: &str) -> Option<&str> {
        self.metric.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Time in milliseconds since 1970 and value of the newest sample.
    pub(super) fn newest(&self) -> Option<(i64, Option<f64>)> {
        self.values.0.map(|(at, number)| ((at * 1000.0).round() as i64, number))
    }
}

impl<'de> Deserialize<'de> for Newest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Samples;

        impl<'de> Visitor<'de> for Samples {
            type Value = Newest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("samples, each a time and a text")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut samples: A) -> Result<Newest, A::Error> {
                let mut newest = Newest::default();
                while let Some((at, text)) = samples.next_element::<(f64, Cow<'de, str>)>()? {
                    if newest.0.is_none_or(|(other, _)| at > other) {
                        newest.0 = Some((at, text.parse().ok()));
                    }
                }
                Ok(newest)
            }
        }

        deserializer.deserialize_seq(Samples)
    }
}

/// The series of an answer with status 200.
pub(super) fn series(body: &[u8]) -> Result<Vec<Series>, SourceError> {
    let found = matrix(StatusCode::OK, body).map_err(|error| match error {
        ReplyError::Refused(message) => SourceError::Query { status: 200, message },
        ReplyError::Foreign(reason) => SourceError::NotPrometheus(reason),
    })?;
    if found.len() > MAX_SERIES { Err(SourceError::TooLarge) } else { Ok(found) }
}

/// The server's message in an answer with another status.
pub(super) fn message(status: StatusCode, body: &[u8]) -> Option<String> {
    match matrix::<IgnoredAny>(status, body) {
        Err(ReplyError::Refused(message)) => Some(message),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_sample_counts_and_an_unreadable_value_is_absent() {
        let body = br#"{"status":"success","data":{"resultType":"matrix","result":[
            {"metric":{"pod":"a","empty":""},"values":[[60.25,"1"],[120.5,"2e1"]]},
            {"metric":{},"values":[[60,"much"]]},{"metric":{},"histograms":[[60,{"count":"1"}]]},{"values":[[1,"NaN"]]}]}}"#;
        let found = series(body).expect("valid");
        assert_eq!((found[0].label("pod"), found[0].label("empty"), found[0].newest()), (Some("a"), None, Some((120_500, Some(20.0)))));
        assert_eq!((found[1].newest(), found[2].newest()), (Some((60_000, None)), None));
        assert!(found[3].newest().is_some_and(|(_, number)| number.is_some_and(f64::is_nan)));
    }

    #[test]
    fn other_answers_are_refused_with_their_reason() {
        let refused = |body: &str| series(body.as_bytes()).expect_err("refused").to_string();
        assert!(refused(r#"{"status":"error","error":"query timed out"}"#).contains("query timed out"));
        assert!(refused(r#"{"status":"success","data":{"resultType":"matrix","result":[{"values":[[1]]}]}}"#).contains("range selector"));
        let busy = StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(message(busy, br#"{"status":"error","error":"parse error"}"#).as_deref(), Some("parse error"));
        assert_eq!(message(busy, b"<html>"), None);
    }
}
