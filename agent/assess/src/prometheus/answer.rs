//! Replies of Prometheus's HTTP API. Owns their format; a value that is not a number is absent.

use std::collections::BTreeMap;

use serde::Deserialize;
use thiserror::Error;

/// One series of a range.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RangeSeries {
    /// Its labels.
    pub(super) labels: BTreeMap<String, String>,
    /// Instants, seconds since 1970, with finite values.
    pub(super) points: Vec<(f64, f64)>,
}

/// Why a reply has no series.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum AnswerError {
    /// The server's own message.
    #[error("{0}")]
    Refused(String),
    /// It is not a reply of this API.
    #[error("{0}")]
    Foreign(String),
}

#[derive(Deserialize)]
struct Envelope {
    status: String,
    data: Option<AnswerData>,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnswerData {
    result_type: String,
    #[serde(default)]
    result: Vec<RawSeries>,
}

#[derive(Deserialize)]
struct RawSeries {
    #[serde(default)]
    metric: BTreeMap<String, String>,
    /// Absent for native histograms.
    #[serde(default)]
    values: Vec<(f64, String)>,
}

/// The series of a reply; `ok` says whether its status is 200.
pub(super) fn series(ok: bool, body: &[u8]) -> Result<Vec<RangeSeries>, AnswerError> {
    // The form of `result` depends on its type, which is reported first.
    let envelope: Envelope = serde_json::from_slice(body).map_err(|error| match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(value) if value["data"]["resultType"].as_str().is_some_and(|kind| kind != "matrix") => {
            AnswerError::Foreign(format!("its type is {}, must be matrix", value["data"]["resultType"]))
        }
        _ => AnswerError::Foreign(error.to_string()),
    })?;
    if !ok || envelope.status != "success" {
        return Err(AnswerError::Refused(if envelope.error.is_empty() { envelope.status } else { envelope.error }));
    }
    let Some(data) = envelope.data else { return Err(AnswerError::Foreign("field `data` is missing".to_owned())) };
    if data.result_type != "matrix" {
        return Err(AnswerError::Foreign(format!("its type is {}, must be matrix", data.result_type)));
    }
    Ok(data.result.into_iter().map(of_raw).collect())
}

fn of_raw(raw: RawSeries) -> RangeSeries {
    // "NaN", "+Inf" and "-Inf" are valid values of Prometheus.
    let number =
        |(at, value): (f64, String)| value.parse::<f64>().ok().filter(|value| value.is_finite() && at.is_finite()).map(|value| (at, value));
    RangeSeries { labels: raw.metric, points: raw.values.into_iter().filter_map(number).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_not_finite_are_absent() {
        let body = br#"{"status":"success","data":{"resultType":"matrix","result":[
            {"metric":{"workload":"fib"},"values":[[60,"1.5"],[120,"NaN"],[180,"+Inf"],[240.5,"2e1"],[300,"much"]]},
            {"metric":{},"histograms":[[60,{"count":"1"}]]}]}}"#;
        let found = series(true, body).expect("valid");
        assert_eq!((found[0].labels["workload"].as_str(), found[0].points.as_slice()), ("fib", [(60.0, 1.5), (240.5, 20.0)].as_slice()));
        assert!(found[1].points.is_empty());
    }

    #[test]
    fn other_replies_are_refused_with_their_reason() {
        let refused = |ok, body: &str| series(ok, body.as_bytes()).expect_err("refused");
        assert_eq!(
            refused(false, r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#),
            AnswerError::Refused("parse error".into())
        );
        assert!(matches!(refused(true, "<html>"), AnswerError::Foreign(_)));
        assert!(matches!(refused(true, r#"{"status":"success"}"#), AnswerError::Foreign(_)));
        for body in [
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"2"]}]}}"#,
            r#"{"status":"success","data":{"resultType":"scalar","result":[1,"2"]}}"#,
        ] {
            assert!(refused(true, body).to_string().contains("must be matrix"), "{body}");
        }
        assert!(matches!(
            refused(true, r#"{"status":"success","data":{"resultType":"matrix","result":[{"values":[["x","1"]]}]}}"#),
            AnswerError::Foreign(_)
        ));
    }
}
