//! Azure Functions 2019, as published and as sampled by InVitro: counts per minute, percentiles of durations and memory, joined by hash.

use std::collections::HashMap;
use std::io::Read;

use super::table::{Table, shown};
use super::{Keep, MinuteTrace, TraceError, TraceFunction};
use crate::workload::{Demand, DurationQuantiles, MemoryQuantiles, MinuteCount, NotSorted};

/// The three files of an Azure 2019 trace, open for reading.
pub struct Azure2019<I, D, M> {
    /// `invocations.csv`.
    pub invocations: I,
    /// `durations.csv`.
    pub durations: D,
    /// `memory.csv`, one row per function or app; without it every invocation takes `memory_mib`.
    pub memory: Option<M>,
    /// Memory of every invocation without a memory file, MiB.
    pub memory_mib: u32,
}

const OWNER: &str = "HashOwner";
const APP: &str = "HashApp";
const FUNCTION: &str = "HashFunction";

/// Columns of `durations.csv`, in the order of [`DurationQuantiles::LEVELS`].
const DURATIONS: [&str; 7] = [
    "percentile_Average_0",
    "percentile_Average_1",
    "percentile_Average_25",
    "percentile_Average_50",
    "percentile_Average_75",
    "percentile_Average_99",
    "percentile_Average_100",
];

/// Columns of `memory.csv`, in the order of [`MemoryQuantiles::LEVELS`].
const MEMORY: [&str; 8] = [
    "AverageAllocatedMb_pct1",
    "AverageAllocatedMb_pct5",
    "AverageAllocatedMb_pct25",
    "AverageAllocatedMb_pct50",
    "AverageAllocatedMb_pct75",
    "AverageAllocatedMb_pct95",
    "AverageAllocatedMb_pct99",
    "AverageAllocatedMb_pct100",
];

/// Reads an Azure 2019 trace. `files` names the three files in errors.
///
/// # Errors
/// The first malformed cell, missing column, function named twice, or function without durations or memory.
pub fn read_azure2019<I: Read, D: Read, M: Read>(
    files: [&str; 3],
    trace: Azure2019<I, D, M>,
    keep: Keep,
) -> Result<MinuteTrace, TraceError> {
    let (mut functions, minutes) = read_invocations(Table::open(trace.invocations, files[0])?, keep)?;
    read_durations(Table::open(trace.durations, files[1])?, &mut functions)?;
    let with_memory = trace.memory.is_some();
    if let Some(memory) = trace.memory {
        read_memory(Table::open(memory, files[2])?, &mut functions)?;
    }
    let missing = |file: &str, what: &str, function: &Kept| TraceError {
        file: file.to_owned(),
        line: 0,
        column: None,
        problem: format!(
            "there is no {what} of the function `{}`, which line {} of {} invokes",
            shown(&function.key.function),
            function.line,
            files[0]
        ),
    };
    let functions = functions.into_iter().map(|kept| {
        let duration = kept.duration.ok_or_else(|| missing(files[1], "duration", &kept))?;
        let demand = match kept.memory {
            Some(memory) => Demand::Quantiles { duration, memory },
            None if with_memory => return Err(missing(files[2], "memory", &kept)),
            None => Demand::QuantilesOfDuration { duration, memory_mib: trace.memory_mib },
        };
        Ok(TraceFunction { hash: kept.key.function, counts: kept.counts.into(), demand })
    });
    Ok(MinuteTrace { functions: functions.collect::<Result<_, _>>()?, minutes })
}

/// A function as the three files identify it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    owner: String,
    app: String,
    function: String,
}

struct Kept {
    key: Key,
    line: u64,
    counts: Vec<MinuteCount>,
    duration: Option<DurationQuantiles>,
    memory: Option<MemoryQuantiles>,
}

/// Positions of the identifying columns.
struct KeyColumns([usize; 3]);

impl KeyColumns {
    fn of<R: Read>(table: &Table<R>) -> Result<Self, TraceError> {
        Ok(Self([table.column(OWNER)?, table.column(APP)?, table.column(FUNCTION)?]))
    }

    fn read<R: Read>(&self, table: &Table<R>) -> Result<Key, TraceError> {
        let [owner, app, function] = self.0;
        let key =
            Key { owner: table.text(owner)?.to_owned(), app: table.text(app)?.to_owned(), function: table.text(function)?.to_owned() };
        if key.function.is_empty() {
            return Err(table.at_row(Some(function), "the cell is empty".to_owned()));
        }
        Ok(key)
    }
}

fn read_invocations<R: Read>(mut table: Table<R>, keep: Keep) -> Result<(Vec<Kept>, u32), TraceError> {
    let key = KeyColumns::of(&table)?;
    let minutes = minute_columns(&table)?;
    let first = minutes.iter().map(|(minute, _)| *minute).min().unwrap_or(0).saturating_add(keep.skip_minutes);
    let kept: Vec<(u32, usize)> = minutes
        .iter()
        .filter(|(minute, _)| *minute >= first && *minute - first < keep.minutes)
        .map(|(m, column)| (m - first, *column))
        .collect();
    let Some(length) = kept.iter().map(|(bin, _)| bin + 1).max() else {
        return Err(table.at_header(format!("no minute is left after leaving out {}", keep.skip_minutes)));
    };
    let mut lines: HashMap<Key, u64> = HashMap::new();
    let mut functions = Vec::new();
    while functions.len() < keep.functions && table.advance()? {
        let key = key.read(&table)?;
        if let Some(line) = lines.insert(key.clone(), table.line()) {
            return Err(table.at_row(None, format!("the function `{}` has a row already, line {line}", shown(&key.function))));
        }
        let mut counts = Vec::new();
        for (bin, column) in &kept {
            let count = table.count(*column)?;
            if count > 0 {
                counts.push(MinuteCount { bin: *bin, count });
            }
        }
        counts.shrink_to_fit();
        functions.push(Kept { key, line: table.line(), counts, duration: None, memory: None });
    }
    if functions.is_empty() {
        return Err(table.whole("there is no function in it, only the names of the columns".to_owned()));
    }
    Ok((functions, length))
}

/// Minutes and their columns, in rising order: columns named `17` or `minute_17`.
fn minute_columns<R: Read>(table: &Table<R>) -> Result<Vec<(u32, usize)>, TraceError> {
    let minute = |name: &str| name.strip_prefix("minute_").unwrap_or(name).parse::<u32>().ok();
    let mut minutes: Vec<(u32, usize)> =
        table.header().iter().enumerate().filter_map(|(index, name)| minute(name).map(|minute| (minute, index))).collect();
    minutes.sort_unstable();
    if minutes.is_empty() {
        return Err(table.at_header("there is no column of a minute, named as `1` or `minute_1`".to_owned()));
    }
    if let Some(pair) = minutes.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(table.at_header(format!("minute {} has two columns", pair[0].0)));
    }
    // Bins are counted up to the last minute and must not overflow when they are.
    if let Some((minute, _)) = minutes.iter().find(|(minute, _)| *minute >= u32::MAX / 2) {
        return Err(table.at_header(format!("minute {minute} is too large")));
    }
    Ok(minutes)
}

fn read_durations<R: Read>(mut table: Table<R>, functions: &mut [Kept]) -> Result<(), TraceError> {
    let key = KeyColumns::of(&table)?;
    let columns = columns(&table, DURATIONS)?;
    let index: HashMap<Key, usize> = functions.iter().enumerate().map(|(index, function)| (function.key.clone(), index)).collect();
    while table.advance()? {
        let Some(function) = index.get(&key.read(&table)?) else { continue };
        let quantiles = DurationQuantiles::new(amounts(&table, columns)?).map_err(|error| falling(&table, columns, error))?;
        let function = &mut functions[*function];
        if function.duration.replace(quantiles).is_some() {
            return Err(table.at_row(None, format!("the function `{}` has a row already", shown(&function.key.function))));
        }
    }
    Ok(())
}

/// Memory is given for each function, or for each app and then holds for all its functions.
fn read_memory<R: Read>(mut table: Table<R>, functions: &mut [Kept]) -> Result<(), TraceError> {
    let identity = [table.column(OWNER)?, table.column(APP)?];
    let function = table.optional(FUNCTION)?;
    let columns = columns(&table, MEMORY)?;
    let mut index: HashMap<[String; 3], Vec<usize>> = HashMap::new();
    for (place, kept) in functions.iter().enumerate() {
        let name = if function.is_some() { kept.key.function.clone() } else { String::new() };
        index.entry([kept.key.owner.clone(), kept.key.app.clone(), name]).or_default().push(place);
    }
    while table.advance()? {
        let name = function.map_or(Ok(""), |column| table.text(column))?;
        let row = [table.text(identity[0])?.to_owned(), table.text(identity[1])?.to_owned(), name.to_owned()];
        let Some(places) = index.get(&row) else { continue };
        let quantiles = MemoryQuantiles::new(amounts(&table, columns)?).map_err(|error| falling(&table, columns, error))?;
        for place in places {
            if functions[*place].memory.replace(quantiles).is_some() {
                let what = if function.is_some() { "function" } else { "app" };
                let name = if function.is_some() { &row[2] } else { &row[1] };
                return Err(table.at_row(None, format!("the {what} `{}` has a row already", shown(name))));
            }
        }
    }
    Ok(())
}

fn columns<R: Read, const N: usize>(table: &Table<R>, names: [&str; N]) -> Result<[usize; N], TraceError> {
    let mut columns = [0; N];
    for (column, name) in columns.iter_mut().zip(names) {
        *column = table.column(name)?;
    }
    Ok(columns)
}

fn amounts<R: Read, const N: usize>(table: &Table<R>, columns: [usize; N]) -> Result<[u32; N], TraceError> {
    let mut amounts = [0; N];
    for (amount, column) in amounts.iter_mut().zip(columns) {
        *amount = table.amount(column)?;
    }
    Ok(amounts)
}

fn falling<R: Read, const N: usize>(table: &Table<R>, columns: [usize; N], error: NotSorted) -> TraceError {
    table.at_row(columns.get(error.index).copied(), error.to_string())
}
