//! Azure Functions 2021: one row an invocation, with the end of it and its duration in seconds.

use std::collections::HashMap;
use std::io::Read;

use super::table::CsvTable;
use super::{Keep, MAX_ROWS, MAX_SPAN_US, MINUTE_US, Omissions, RowTrace, TraceError, TracedInvocation};

/// Reads an Azure 2021 trace: columns `app`, `func`, `end_timestamp` and `duration`, rows in any order. `file` names it in errors.
///
/// An invocation starts at its end less its duration. Where one starts before zero, or all start more than a year after it because their times are dates,
/// the whole trace moves so that the earliest starts at zero. Rows outside `keep` are not kept. Rows without an end or a duration, or with a negative
/// duration, are left out and counted.
///
/// # Errors
/// The first malformed cell, a missing column, a file without invocations, or one with too many or with a span above a year.
pub fn read_azure2021<R: Read>(file: &str, reader: R, keep: Keep) -> Result<(RowTrace, Omissions), TraceError> {
    let mut table = CsvTable::open(reader, file)?;
    let (app, func) = (table.column("app")?, table.column("func")?);
    let (end, duration) = (table.column("end_timestamp")?, table.column("duration")?);
    let mut index: HashMap<(String, String), u32> = HashMap::new();
    let mut functions: Vec<String> = Vec::new();
    let mut rows: Vec<(i64, u32, u32)> = Vec::new();
    let mut omissions = Omissions::default();
    let mut extent = Extent::default();
    while table.advance()? {
        if table.is_missing(end)? || table.is_missing(duration)? {
            omissions.invocations += 1;
            continue;
        }
        let key = (table.text(app)?.to_owned(), table.text(func)?.to_owned());
        let seconds = table.number(end)?;
        let lasted = table.number(duration)?;
        if lasted < 0.0 {
            omissions.add_invalid_invocation(table.at_row(Some(duration), format!("`{lasted}` is negative")));
            continue;
        }
        // A hundred years in microseconds keep far from where an i64 ends, and a u32 of milliseconds holds 49 days.
        const LONGEST: f64 = 100.0 * 366.0 * 86_400.0;
        if seconds.abs() > LONGEST {
            return Err(table.at_row(Some(end), format!("`{seconds}` is more than 100 years; times are in seconds")));
        }
        if lasted * 1e3 > f64::from(u32::MAX) {
            return Err(table.at_row(Some(duration), format!("`{lasted}` is more than 49 days; durations are in seconds")));
        }
        let function = match index.get(&key) {
            Some(function) => *function,
            None if functions.len() >= keep.functions => continue,
            None => {
                let number = u32::try_from(functions.len()).map_err(|_| table.at_row(None, "too many functions".to_owned()))?;
                functions.push(key.1.clone());
                index.insert(key, number);
                number
            }
        };
        if rows.len() == MAX_ROWS {
            return Err(table.at_row(None, format!("more than {MAX_ROWS} invocations; select fewer functions")));
        }
        let start = ((seconds - lasted) * 1e6).round() as i64;
        extent.add(start, table.line());
        rows.push((start, function, (lasted * 1e3).round() as u32));
    }
    if rows.is_empty() {
        let omitted = omissions.to_string();
        let why = if omitted.is_empty() { "only the names of the columns".to_owned() } else { omitted };
        return Err(table.whole(format!("there is no invocation in it, {why}")));
    }
    let rows =
        select(rows, keep).ok_or_else(|| table.whole(format!("no invocation is left after leaving out {} minutes", keep.skip_minutes)))?;
    if let [first, .., last] = rows.as_slice()
        && last.start_us - first.start_us > MAX_SPAN_US
    {
        let ((_, first), (_, last)) = (extent.earliest.unwrap_or_default(), extent.latest.unwrap_or_default());
        let after = keep.skip_minutes.saturating_add(after_longest_gap(&rows));
        let problem = format!(
            "this invocation is the last, and starts more than 366 days after the first, in line {first}; correct or remove the one whose time is in \
             another unit, or leave out the minutes before the longest gap with --skip-minutes {after}"
        );
        return Err(TraceError { line: last, ..table.whole(problem) });
    }
    Ok((RowTrace { functions, rows: rows.into() }, omissions))
}

/// First and last start of an invocation, microseconds, each with its line.
#[derive(Default)]
struct Extent {
    earliest: Option<(i64, u64)>,
    latest: Option<(i64, u64)>,
}

impl Extent {
    fn add(&mut self, start: i64, line: u64) {
        if self.earliest.is_none_or(|(earliest, _)| start < earliest) {
            self.earliest = Some((start, line));
        }
        if self.latest.is_none_or(|(latest, _)| start > latest) {
            self.latest = Some((start, line));
        }
    }
}

/// Minute of the first invocation after the longest gap.
fn after_longest_gap(rows: &[TracedInvocation]) -> u32 {
    rows.windows(2).max_by_key(|pair| pair[1].start_us - pair[0].start_us).map_or(0, |pair| pair[1].minute())
}

/// Longest time before the first invocation of a trace, microseconds. Later times are dates.
const LONGEST_LEAD_US: i64 = MAX_SPAN_US as i64;

/// The invocations (start in microseconds, function, duration in milliseconds) of the minutes to keep, in order of their start, which
/// counts from the beginning of those minutes; `None` if there are none.
pub(super) fn select(rows: Vec<(i64, u32, u32)>, keep: Keep) -> Option<Vec<TracedInvocation>> {
    let minute = MINUTE_US as i64;
    let earliest = rows.iter().map(|row| row.0).min()?;
    let beginning = if earliest > LONGEST_LEAD_US { earliest } else { earliest.min(0) };
    let from = beginning.saturating_add(i64::from(keep.skip_minutes) * minute);
    let until = from.saturating_add(i64::from(keep.minutes).saturating_mul(minute));
    let mut rows: Vec<TracedInvocation> = rows
        .into_iter()
        .filter(|row| (from..until).contains(&row.0))
        .map(|(start, function, duration_ms)| TracedInvocation { start_us: (start - from).unsigned_abs(), function, duration_ms })
        .collect();
    rows.sort_unstable();
    (!rows.is_empty()).then_some(rows)
}
