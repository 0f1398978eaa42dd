//! Azure Functions 2019, as published and as sampled by InVitro: counts per minute, percentiles of durations and memory, joined by hash.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io::Read;

use super::table::CsvTable;
use super::{Keep, MAX_COUNTS, MAX_MINUTES, MAX_PER_MINUTE, MinuteTrace, Omissions, TraceError, TraceFunction};
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
/// Functions without durations, memory or the invocations of a minute, or with ones that cannot be, are left out and counted; of the rows of one function
/// the first is used.
///
/// # Errors
/// The first malformed cell, a missing column, too many invocations, or no function with invocations, durations and memory.
pub fn read_azure2019<I: Read, D: Read, M: Read>(
    files: [&str; 3],
    trace: Azure2019<I, D, M>,
    keep: Keep,
) -> Result<(MinuteTrace, Omissions), TraceError> {
    let mut omissions = Omissions::default();
    let demands = DemandTables {
        durations: read_durations(CsvTable::open(trace.durations, files[1])?, &mut omissions)?,
        memory: trace.memory.map(|memory| read_memory(CsvTable::open(memory, files[2])?, &mut omissions)).transpose()?,
        memory_mib: trace.memory_mib,
    };
    let trace = read_invocations(CsvTable::open(trace.invocations, files[0])?, &demands, keep, &mut omissions)?;
    Ok((trace, omissions))
}

/// The cells of a row of invocations, durations or memory.
enum MeasuredRow<T> {
    Values(T),
    /// A cell is empty.
    Missing,
    /// A value cannot be.
    Invalid(TraceError),
}

/// Durations and memory of all functions.
struct DemandTables {
    durations: HashMap<FunctionKey, MeasuredRow<DurationQuantiles>>,
    memory: Option<MemoryTable>,
    /// Memory without a memory file, MiB.
    memory_mib: u32,
}

/// Memory of each function, or of each app; it then holds for all functions of the app.
struct MemoryTable {
    of: HashMap<FunctionKey, MeasuredRow<MemoryQuantiles>>,
    by_function: bool,
}

impl DemandTables {
    /// The demand of a function; `None`, and counted, if it cannot be used.
    fn of(&self, key: &FunctionKey, omissions: &mut Omissions) -> Option<Demand> {
        let duration = match self.durations.get(key) {
            Some(MeasuredRow::Values(duration)) => *duration,
            Some(MeasuredRow::Invalid(error)) => {
                omissions.add_invalid(error.clone());
                return None;
            }
            Some(MeasuredRow::Missing) | None => {
                omissions.without_durations += 1;
                return None;
            }
        };
        let Some(MemoryTable { of, by_function }) = &self.memory else {
            return Some(Demand::QuantilesOfDuration { duration, memory_mib: self.memory_mib });
        };
        let of_app = (!by_function).then(|| FunctionKey { function: String::new(), ..key.clone() });
        match of.get(of_app.as_ref().unwrap_or(key)) {
            Some(MeasuredRow::Values(memory)) => Some(Demand::Quantiles { duration, memory: *memory }),
            Some(MeasuredRow::Invalid(error)) => {
                omissions.add_invalid(error.clone());
                None
            }
            Some(MeasuredRow::Missing) | None => {
                omissions.without_memory += 1;
                None
            }
        }
    }
}

/// A function as the three files identify it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct FunctionKey {
    owner: String,
    app: String,
    function: String,
}

/// Positions of the identifying columns.
struct KeyColumns([usize; 3]);

impl KeyColumns {
    fn of<R: Read>(table: &CsvTable<R>) -> Result<Self, TraceError> {
        Ok(Self([table.column(OWNER)?, table.column(APP)?, table.column(FUNCTION)?]))
    }

    fn read<R: Read>(&self, table: &CsvTable<R>) -> Result<FunctionKey, TraceError> {
        let [owner, app, function] = self.0;
        let key = FunctionKey {
            owner: table.text(owner)?.to_owned(),
            app: table.text(app)?.to_owned(),
            function: table.text(function)?.to_owned(),
        };
        if key.function.is_empty() {
            return Err(table.at_row(Some(function), "the cell is empty".to_owned()));
        }
        Ok(key)
    }
}

fn read_invocations<R: Read>(
    mut table: CsvTable<R>,
    demands: &DemandTables,
    keep: Keep,
    omissions: &mut Omissions,
) -> Result<MinuteTrace, TraceError> {
    let key = KeyColumns::of(&table)?;
    let minutes = minute_columns(&table)?;
    let first = minutes.iter().map(|(minute, _)| *minute).min().unwrap_or(0).saturating_add(keep.skip_minutes);
    let kept: Vec<(u32, usize)> = minutes
        .iter()
        .filter(|(minute, _)| *minute >= first && *minute - first < keep.minutes)
        .map(|(m, column)| (m - first, *column))
        .collect();
    let Some(minutes) = kept.iter().map(|(bin, _)| bin + 1).max() else {
        return Err(table.at_header(format!("no minute is left after leaving out {}", keep.skip_minutes)));
    };
    omissions.missing_minutes = u64::from(minutes).saturating_sub(kept.len() as u64);
    let mut seen: HashSet<FunctionKey> = HashSet::new();
    let mut functions = Vec::new();
    let mut total = 0;
    while functions.len() < keep.functions && table.advance()? {
        let key = key.read(&table)?;
        if seen.contains(&key) {
            omissions.repeated_rows += 1;
            continue;
        }
        if let Some(demand) = demands.of(&key, omissions) {
            match read_counts(&table, &kept)? {
                MeasuredRow::Values(counts) => {
                    total += counts.len();
                    functions.push(TraceFunction { hash: key.function.clone(), counts: counts.into(), demand });
                }
                MeasuredRow::Missing => omissions.without_counts += 1,
                MeasuredRow::Invalid(error) => omissions.add_invalid(error),
            }
            if total > MAX_COUNTS {
                return Err(table.at_row(None, format!("more than {MAX_COUNTS} minutes with invocations; select fewer functions")));
            }
        }
        seen.insert(key);
    }
    if functions.is_empty() {
        let why = if seen.is_empty() { "only the names of the columns".to_owned() } else { format!("but {omissions}") };
        return Err(table.whole(format!("there is no function to use in it, {why}")));
    }
    Ok(MinuteTrace { functions, minutes })
}

fn read_counts<R: Read>(table: &CsvTable<R>, kept: &[(u32, usize)]) -> Result<MeasuredRow<Vec<MinuteCount>>, TraceError> {
    let mut counts = Vec::new();
    for (bin, column) in kept {
        let count = match table.count(*column) {
            Ok(count) => count,
            Err(_) if table.is_missing(*column)? => return Ok(MeasuredRow::Missing),
            // Text that is not a number at all is a damaged file, and a number above the limit is one of this program.
            Err(error) if table.number(*column)? > f64::from(MAX_PER_MINUTE) => return Err(error),
            Err(error) => return Ok(MeasuredRow::Invalid(error)),
        };
        if count > MAX_PER_MINUTE {
            return Err(table.at_row(Some(*column), format!("{count} invocations in a minute, at most {MAX_PER_MINUTE} can be played")));
        }
        if count > 0 {
            counts.push(MinuteCount { bin: *bin, count });
        }
    }
    Ok(MeasuredRow::Values(counts))
}

/// Minutes and their columns, in rising order: columns named `17` or `minute_17`, or `17.0` as pandas writes them.
fn minute_columns<R: Read>(table: &CsvTable<R>) -> Result<Vec<(u32, usize)>, TraceError> {
    let minute = |name: &str| {
        let name = name.strip_prefix("minute_").unwrap_or(name);
        name.strip_suffix(".0").unwrap_or(name).parse::<u32>().ok()
    };
    let mut minutes: Vec<(u32, usize)> =
        table.header().iter().enumerate().filter_map(|(index, name)| minute(name).map(|minute| (minute, index))).collect();
    minutes.sort_unstable();
    if minutes.is_empty() {
        return Err(table.at_header("there is no column of a minute, named as `1` or `minute_1`".to_owned()));
    }
    if let Some(pair) = minutes.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(table.at_header(format!("minute {} has two columns", pair[0].0)));
    }
    let first = minutes[0].0;
    if let Some((minute, _)) = minutes.iter().find(|(minute, _)| minute - first >= MAX_MINUTES) {
        return Err(table.at_header(format!("minute {minute} is more than 366 days after minute {first}, the first")));
    }
    Ok(minutes)
}

fn read_durations<R: Read>(
    mut table: CsvTable<R>,
    omissions: &mut Omissions,
) -> Result<HashMap<FunctionKey, MeasuredRow<DurationQuantiles>>, TraceError> {
    let key = KeyColumns::of(&table)?;
    let columns = columns(&table, DURATIONS)?;
    let mut durations = HashMap::new();
    while table.advance()? {
        let measured = measured(&table, columns, DurationQuantiles::new)?;
        first_stands(&mut durations, key.read(&table)?, measured, omissions);
    }
    Ok(durations)
}

fn read_memory<R: Read>(mut table: CsvTable<R>, omissions: &mut Omissions) -> Result<MemoryTable, TraceError> {
    let (owner, app) = (table.column(OWNER)?, table.column(APP)?);
    let function = table.optional(FUNCTION)?;
    let columns = columns(&table, MEMORY)?;
    let mut of = HashMap::new();
    while table.advance()? {
        let function = function.map_or(Ok(""), |column| table.text(column))?.to_owned();
        let key = FunctionKey { owner: table.text(owner)?.to_owned(), app: table.text(app)?.to_owned(), function };
        first_stands(&mut of, key, measured(&table, columns, MemoryQuantiles::new)?, omissions);
    }
    Ok(MemoryTable { of, by_function: function.is_some() })
}

fn first_stands<T>(rows: &mut HashMap<FunctionKey, T>, key: FunctionKey, row: T, omissions: &mut Omissions) {
    match rows.entry(key) {
        Entry::Occupied(_) => omissions.repeated_rows += 1,
        Entry::Vacant(place) => {
            place.insert(row);
        }
    }
}

fn columns<R: Read, const N: usize>(table: &CsvTable<R>, names: [&str; N]) -> Result<[usize; N], TraceError> {
    let mut columns = [0; N];
    for (column, name) in columns.iter_mut().zip(names) {
        *column = table.column(name)?;
    }
    Ok(columns)
}

/// The percentiles in the current row.
fn measured<R: Read, T, const N: usize>(
    table: &CsvTable<R>,
    columns: [usize; N],
    quantiles: fn([u32; N]) -> Result<T, NotSorted>,
) -> Result<MeasuredRow<T>, TraceError> {
    let mut amounts = [0; N];
    for (amount, column) in amounts.iter_mut().zip(columns) {
        if table.is_missing(column)? {
            return Ok(MeasuredRow::Missing);
        }
        // Text that is not a number at all is a damaged file.
        table.number(column)?;
        match table.amount(column) {
            Ok(value) => *amount = value,
            Err(error) => return Ok(MeasuredRow::Invalid(error)),
        }
    }
    Ok(match quantiles(amounts) {
        Ok(values) => MeasuredRow::Values(values),
        Err(falling) => MeasuredRow::Invalid(table.at_row(columns.get(falling.index).copied(), falling.to_string())),
    })
}
