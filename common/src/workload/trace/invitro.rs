//! The inputs that InVitro generates for each function: its gaps and durations, in a JSON file.

use std::io::Read;

use serde::Deserialize;

use super::azure2021::select;
use super::{Keep, MAX_ROWS, MAX_SPAN_US, RowTrace, TraceError};

/// The inputs of one function.
#[derive(Deserialize)]
struct GeneratedFile {
    /// Microseconds before each invocation, since the one before or the start.
    #[serde(rename = "IAT")]
    gaps_us: Vec<f64>,
    /// Demand of each invocation.
    #[serde(rename = "RuntimeSpecification")]
    demands: Vec<InvocationDemand>,
}

#[derive(Deserialize)]
struct InvocationDemand {
    /// Milliseconds; a fraction is cut off.
    #[serde(rename = "Runtime")]
    duration_ms: f64,
}

/// Functions and invocations of the inputs that were read so far.
#[derive(Debug, Default)]
pub struct GeneratedInputs {
    functions: Vec<String>,
    /// Start in microseconds, function, duration in milliseconds.
    rows: Vec<(i64, u32, u32)>,
}

impl GeneratedInputs {
    /// Adds the function of the next file, such as `iat0.json`, which is also its name.
    ///
    /// # Errors
    /// If it is not such an input, its gaps are negative, more than a year in total or not as many as its durations, a duration is negative, or the
    /// invocations are too many.
    pub fn add<R: Read>(&mut self, file: &str, reader: R) -> Result<(), TraceError> {
        let error = |line: usize, problem: String| TraceError { file: file.to_owned(), line: line as u64, column: None, problem };
        let inputs: GeneratedFile = serde_json::from_reader(reader).map_err(|cause| {
            error(cause.line(), format!("{cause}; expected InVitro's list `IAT` of gaps and `RuntimeSpecification` of durations"))
        })?;
        let (gaps, demands) = (inputs.gaps_us.len(), inputs.demands.len());
        if gaps != demands {
            return Err(error(0, format!("{gaps} gaps in `IAT`, but {demands} durations in `RuntimeSpecification`")));
        }
        if self.rows.len() + gaps > MAX_ROWS {
            return Err(error(0, format!("more than {MAX_ROWS} invocations; select fewer functions")));
        }
        let number = u32::try_from(self.functions.len()).map_err(|_| error(0, "too many functions".to_owned()))?;
        let mut at = 0.0;
        for (gap, demand) in inputs.gaps_us.into_iter().zip(inputs.demands) {
            at += gap;
            if gap < 0.0 || at > MAX_SPAN_US as f64 {
                return Err(error(0, format!("`IAT` has the gap {gap}, must be at least 0 microseconds, and at most 366 days in total")));
            }
            let duration = demand.duration_ms;
            if !(0.0..=f64::from(u32::MAX)).contains(&duration) {
                return Err(error(0, format!("`Runtime` is {duration}, must be 0 to {} milliseconds", u32::MAX)));
            }
            self.rows.push((at.round() as i64, number, duration as u32));
        }
        self.functions.push(file.to_owned());
        Ok(())
    }

    /// The trace of the functions that were added, limited to the minutes of `keep`.
    ///
    /// # Errors
    /// If no invocation is left.
    pub fn finish(self, keep: Keep) -> Result<RowTrace, TraceError> {
        let file = self.functions.last().cloned().unwrap_or_default();
        let rows = select(self.rows, keep).ok_or_else(|| TraceError {
            file,
            line: 0,
            column: None,
            problem: format!("no invocation is left after leaving out {} minutes", keep.skip_minutes),
        })?;
        Ok(RowTrace { functions: self.functions, rows: rows.into() })
    }
}
