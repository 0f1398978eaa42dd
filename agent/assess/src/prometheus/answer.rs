//! Series of a range. A value that is not a finite number is absent.

use std::collections::BTreeMap;

use http::StatusCode;
use qscale_common::runtime::prometheus::{ReplyError, matrix};
use serde::Deserialize;

/// One series of a range.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RangeSeries {
    /// Its labels.
    pub(super) labels: BTreeMap<String, String>,
    /// Instants, seconds since 1970, with finite values.
    pub(super) points: Vec<(f64, f64)>,
}

#[derive(Deserialize)]
struct RawSeries {
    #[serde(default)]
    metric: BTreeMap<String, String>,
    /// Absent for native histograms.
    #[serde(default)]
    values: Vec<(f64, String)>,
}

/// The series of a reply with `status`.
pub(super) fn series(status: StatusCode, body: &[u8]) -> Result<Vec<RangeSeries>, ReplyError> {
    Ok(matrix(status, body)?.into_iter().map(of_raw).collect())
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
        let found = series(StatusCode::OK, body).expect("valid");
        assert_eq!((found[0].labels["workload"].as_str(), found[0].points.as_slice()), ("fib", [(60.0, 1.5), (240.5, 20.0)].as_slice()));
        assert!(found[1].points.is_empty());
    }
}
