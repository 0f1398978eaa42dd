//! Histories as a table, CSV. Owns the columns and the grid that rows make; must not open files.

use std::collections::BTreeMap;
use std::time::Duration;

use qscale_common::name::{FunctionId, Name};
use qscale_common::time::{Timestamp, millis};
use strum::{EnumCount as _, VariantArray as _};
use thiserror::Error;

use super::{HistoryMetric, WorkloadHistory};
use crate::csv_text::csv_text;

/// Columns before those of the metrics.
const KEYS: [&str; 3] = ["time", "namespace", "workload"];
/// Most workloads of a table.
const MAX_WORKLOADS: usize = 10_000;

/// Why a table cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TableError {
    /// The first line lacks a column, or has an unknown one.
    #[error("line 1: {0}")]
    Header(String),
    /// A value is invalid.
    #[error("line {line}, column {column}: `{value}`, must be {expected}")]
    Value {
        /// Line, from 1.
        line: u64,
        /// Name of the column.
        column: String,
        /// The value.
        value: String,
        /// Valid values.
        expected: &'static str,
    },
    /// The rows do not make a history.
    #[error("{0}")]
    Rows(String),
    /// The text is not CSV.
    #[error("{0}")]
    Syntax(String),
}

type TableRow = (Timestamp, [Option<f64>; HistoryMetric::COUNT]);

/// Histories of the workloads in `text`, in order of their names. Times are begins of steps.
///
/// # Errors
/// Names the line and the column.
pub fn read(text: &str) -> Result<Vec<WorkloadHistory>, TableError> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let syntax = |error: csv::Error| TableError::Syntax(error.to_string());
    let columns = Columns::of(reader.headers().map_err(syntax)?)?;
    let mut workloads: BTreeMap<FunctionId, Vec<TableRow>> = BTreeMap::new();
    for record in reader.records() {
        let record = record.map_err(syntax)?;
        let (workload, row) = columns.row(&record)?;
        workloads.entry(workload).or_default().push(row);
        if workloads.len() > MAX_WORKLOADS {
            return Err(TableError::Rows(format!("it has more than {MAX_WORKLOADS} workloads; split it")));
        }
    }
    if workloads.is_empty() {
        return Err(TableError::Rows("it has no rows".to_owned()));
    }
    let (mut histories, mut steps) = (Vec::new(), 0);
    for (workload, rows) in workloads {
        let history = history(workload, rows)?;
        steps += history.steps.len();
        if steps > WorkloadHistory::MAX_ALL_STEPS {
            let most = WorkloadHistory::MAX_ALL_STEPS;
            return Err(TableError::Rows(format!(
                "its workloads have more than {most} steps together; give fewer workloads, or longer steps"
            )));
        }
        histories.push(history);
    }
    Ok(histories)
}

/// `histories` as a table that [`read`] reads.
#[must_use]
pub fn write(histories: &[WorkloadHistory]) -> String {
    let columns: Vec<&str> = KEYS.into_iter().chain(HistoryMetric::VARIANTS.iter().map(|metric| metric.name())).collect();
    let rows = histories.iter().flat_map(|history| {
        let FunctionId { namespace, name } = &history.workload;
        (0_u32..).zip(&history.steps).map(move |(number, step)| {
            let time = millis(history.step * number) + history.begin.0;
            let values = HistoryMetric::VARIANTS.iter().map(|metric| step.get(*metric).map_or_else(String::new, |value| value.to_string()));
            [format!("{}.{:03}", time / 1000, time % 1000), namespace.to_string(), name.to_string()].into_iter().chain(values).collect()
        })
    });
    csv_text(&columns, rows)
}

/// Places of the columns in a record.
struct Columns {
    time: usize,
    namespace: Option<usize>,
    workload: usize,
    metrics: Vec<(usize, HistoryMetric)>,
}

impl Columns {
    fn of(headers: &csv::StringRecord) -> Result<Self, TableError> {
        let known = || KEYS.into_iter().chain(HistoryMetric::VARIANTS.iter().map(|metric| metric.name())).collect::<Vec<_>>().join(", ");
        let place = |name: &str| headers.iter().position(|header| header == name);
        let needed =
            |name: &str| place(name).ok_or_else(|| TableError::Header(format!("column `{name}` is missing; columns: {}", known())));
        let (time, workload, namespace) = (needed("time")?, needed("workload")?, place("namespace"));
        let mut metrics = Vec::new();
        for (index, header) in headers.iter().enumerate().filter(|(_, header)| !KEYS.contains(header)) {
            let unknown = |_| TableError::Header(format!("column `{header}` is unknown; columns: {}", known()));
            let metric: HistoryMetric = header.parse().map_err(unknown)?;
            if metrics.iter().any(|(_, other)| *other == metric) {
                return Err(TableError::Header(format!("column `{header}` appears twice")));
            }
            metrics.push((index, metric));
        }
        Ok(Self { time, namespace, workload, metrics })
    }

    fn row(&self, record: &csv::StringRecord) -> Result<(FunctionId, TableRow), TableError> {
        let line = record.position().map_or(0, csv::Position::line);
        let cell = |index: usize| record.get(index).unwrap_or_default();
        let refused = |column: &str, value: &str, expected| TableError::Value {
            line,
            column: column.to_owned(),
            value: value.chars().take(100).collect(),
            expected,
        };
        let label = |column: &str, text: &str| {
            Name::new(text).map_err(|_| refused(column, text, "a name of 1 to 63 of a-z, 0-9 and -, as Kubernetes has them"))
        };
        let namespace = self.namespace.map(cell).filter(|text| !text.is_empty()).unwrap_or(FunctionId::DEFAULT_NAMESPACE);
        let workload = FunctionId::new(label("namespace", namespace)?, label("workload", cell(self.workload))?);
        let text = cell(self.time);
        let time = time(text).ok_or_else(|| refused("time", text, "seconds since 1970, or a time such as 2026-01-31T12:00:00Z"))?;
        let mut values = [None; HistoryMetric::COUNT];
        for (index, metric) in &self.metrics {
            let text = cell(*index);
            if text.is_empty() || text.eq_ignore_ascii_case("nan") {
                continue;
            }
            let value = text.parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0);
            values[*metric as usize] = Some(value.ok_or_else(|| refused(metric.name(), text, "a number of at least 0, or empty"))?);
        }
        Ok((workload, (time, values)))
    }
}

fn time(text: &str) -> Option<Timestamp> {
    if let Ok(seconds) = text.parse::<f64>() {
        let within = (0.0..=Timestamp::LAST.0 as f64 / 1000.0).contains(&seconds);
        return within.then(|| Timestamp((seconds * 1000.0).round() as u64));
    }
    let time = humantime::parse_rfc3339_weak(text).ok()?;
    time.duration_since(std::time::UNIX_EPOCH).ok().map(|since| Timestamp(millis(since)))
}

/// The grid of `rows`: a step is the smallest distance between two of them.
fn history(workload: FunctionId, mut rows: Vec<TableRow>) -> Result<WorkloadHistory, TableError> {
    rows.sort_by_key(|row| row.0);
    let distances = rows.windows(2).map(|pair| pair[1].0.0 - pair[0].0.0);
    let Some(step) = distances.min() else {
        return Err(TableError::Rows(format!("{workload} has one row; a history needs at least two")));
    };
    if step == 0 {
        return Err(TableError::Rows(format!("{workload} has two rows of one time; aggregate them to one")));
    }
    let (first, last) = (rows[0].0, rows[rows.len() - 1].0);
    let steps = (last.0 - first.0) / step + 1;
    if steps > WorkloadHistory::MAX_STEPS as u64 {
        let most = WorkloadHistory::MAX_STEPS;
        return Err(TableError::Rows(format!(
            "{workload} has {steps} steps of {step} ms, at most {most} are read; give fewer or longer ones"
        )));
    }
    let mut history = WorkloadHistory::empty(workload, first, Duration::from_millis(step), steps as usize);
    for (time, values) in rows {
        // A time between two steps belongs to the nearer one.
        let place = ((time.0 - first.0 + step / 2) / step).min(steps - 1) as usize;
        for metric in HistoryMetric::VARIANTS {
            if let Some(value) = values[*metric as usize] {
                history.steps[place].set(*metric, value);
            }
        }
    }
    Ok(history)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(text: &str) -> WorkloadHistory {
        read(text).expect("valid").remove(0)
    }

    #[test]
    fn rows_make_a_grid_with_gaps() {
        let text = "workload,time,arrivals_rps,replicas\nfib,1970-01-01T00:03:00Z,30,2\nfib,60,10,1\nfib,120,NaN,\nfib,300,50,3\n";
        let history = read_one(text);
        assert_eq!((history.workload.to_string().as_str(), history.step, history.steps.len()), ("default/fib", Duration::from_secs(60), 5));
        let rates: Vec<_> = history.steps.iter().map(|step| step.get(HistoryMetric::ArrivalsRps)).collect();
        assert_eq!(rates, [Some(10.0), None, Some(30.0), None, Some(50.0)]);
        assert_eq!((history.begin, history.end()), (Timestamp(60_000), Timestamp(360_000)));
        assert_eq!((history.median(HistoryMetric::Replicas), history.requests(0..3)), (Some(2.0), 2400.0));
        assert!(history.missing().any(|metric| metric == HistoryMetric::CpuCores));
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let mut history =
            WorkloadHistory::empty("shop/cart".parse().expect("valid"), Timestamp(1_700_000_000_500), Duration::from_secs(15), 3);
        for (number, step) in history.steps.iter_mut().enumerate() {
            HistoryMetric::VARIANTS.iter().for_each(|metric| step.set(*metric, number as f64 + 1.0 / 3.0));
        }
        assert_eq!(read_one(&write(std::slice::from_ref(&history))), history);
    }

    #[test]
    fn faults_are_named_with_line_and_column() {
        let error = |text: &str| read(text).expect_err("refused").to_string();
        assert!(error("time,arrivals_rps\n").contains("`workload` is missing"));
        assert!(error("time,workload,speed\n").contains("`speed` is unknown"));
        assert!(error("time,workload,replicas,replicas\n").contains("twice"));
        assert!(error("time,workload\n").contains("no rows"));
        assert!(error("time,workload,replicas\n0,f,1\n60,f,-1\n").contains("line 3, column replicas: `-1`, must be a number"));
        assert!(error("time,workload\nyesterday,f\n").contains("line 2, column time: `yesterday`"));
        assert!(error("time,workload\n0,Big\n").contains("column workload: `Big`"));
        assert!(error("time,workload\n0,f\n").contains("one row"));
        assert!(error("time,workload\n0,f\n0,f\n").contains("two rows of one time"));
        assert!(error("time,workload\n0,f\n0.001,f\n1e6,f\n").contains("1000000001 steps"));
        assert!(error("time,workload\n0,f,3\n").contains("line"));
    }
}
