//! From series to rows. Owns the meaning of labels, and which series of a replica belong to one measurement.

use std::collections::HashMap;

use qscale_common::time::Timestamp;

use super::{DurationUnit, RequestQuery, answer};
use crate::reading::Reading;
use crate::rows::{Rows, SourceSample};
use crate::source::SourceError;
use crate::source::exposition::is_failure;

/// Reads the answers to one query.
#[derive(Debug)]
pub struct PrometheusReader {
    query: RequestQuery,
}

/// Meaning of a series.
enum Counted {
    Requests,
    /// Requests of at most this duration, seconds.
    Bucket(f64),
}

/// A series of a replica.
struct RequestSeries {
    namespace: String,
    function: Option<String>,
    replica: String,
    failed: bool,
    counted: Counted,
    at_ms: i64,
    number: Option<f64>,
}

impl PrometheusReader {
    /// A reader of the answers to `query`.
    #[must_use]
    pub fn new(query: RequestQuery) -> Self {
        Self { query }
    }

    /// Reads an answer with status 200 to a request that was sent at `at`.
    ///
    /// # Errors
    /// If it is not a result of the query.
    pub fn read(&self, body: &[u8], at: Timestamp) -> Result<Reading, SourceError> {
        let (mut found, mut malformed) = (Vec::new(), 0);
        for series in answer::series(body)? {
            // A series without samples, and one of another metric, say nothing.
            let Some((at_ms, number)) = series.newest() else { continue };
            match self.sort(&series, at_ms, number) {
                Ok(series) => found.extend(series),
                Err(()) => malformed += 1,
            }
        }
        // Series of one target have the same time. One that ended, because its process was restarted, is in the window for a while.
        let mut newest: HashMap<(&str, &str), i64> = HashMap::new();
        for series in &found {
            let at_ms = newest.entry((&series.namespace, &series.replica)).or_insert(series.at_ms);
            *at_ms = series.at_ms.max(*at_ms);
        }
        let mut rows = Rows::new(at);
        rows.malformed = malformed;
        for series in found.iter().filter(|series| newest[&(series.namespace.as_str(), series.replica.as_str())] == series.at_ms) {
            let namespace = series.namespace.as_bytes();
            let function = series.function.as_ref().map(|function| rows.function((namespace, function.as_bytes())));
            let place = rows.replica((namespace, series.replica.as_bytes()), function);
            let sample = SourceSample { number: series.number, at_ms: Some(series.at_ms) };
            match series.counted {
                Counted::Requests => rows.add_requests(place, series.failed, sample),
                Counted::Bucket(bound) => rows.add_bucket(place, series.failed, bound, sample),
            }
            rows.samples += 1;
        }
        Ok(rows.into_reading())
    }

    /// The series as one of a replica; `None` if it is of another metric.
    fn sort(&self, series: &answer::Series, at_ms: i64, number: Option<f64>) -> Result<Option<RequestSeries>, ()> {
        let query = &self.query;
        let name = series.label("__name__").unwrap_or_default();
        let counted = if name.ends_with("_count") {
            Counted::Requests
        } else if name.ends_with("_bucket") {
            let bound: f64 = series.label("le").and_then(|bound| bound.parse().ok()).ok_or(())?;
            Counted::Bucket(if query.unit == DurationUnit::Milliseconds { bound / 1000.0 } else { bound })
        } else {
            return Ok(None);
        };
        let (namespace, replica) = series.label(&query.namespace).zip(series.label(&query.replica)).ok_or(())?;
        let function = series.label(&query.function);
        let replica = match function {
            // It is another replica of each workload.
            _ if query.shared => format!("{replica} for {}", function.ok_or(())?),
            _ => replica.to_owned(),
        };
        let status = |label: &str| series.label(label).map(str::as_bytes);
        Ok(Some(RequestSeries {
            namespace: namespace.to_owned(),
            function: function.map(str::to_owned),
            replica,
            failed: is_failure(status(&query.http_status), status(&query.grpc_status)),
            counted,
            at_ms,
            number,
        }))
    }
}

#[cfg(test)]
mod tests;
