//! Opening of traces. Owns which files a trace consists of; their content belongs to [`crate::workload::trace`].

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::files::{self, MAX_DOCUMENT};
use crate::text::counted;
use crate::workload::trace::{
    Azure2019, Endpoint, GeneratedInputs, Keep, Omissions, Trace, read_azure2019, read_azure2021, read_endpoints,
};

/// Maximum size of a file of a trace, bytes: three times the largest published one.
const MAX_FILE: u64 = 1 << 30;

/// Names of the files of a trace by minute: the name of InVitro, and the beginning of the published name of Azure Functions 2019.
const PARTS: [(&str, &str); 3] =
    [("invocations", "invocations_per_function"), ("durations", "function_durations_percentiles"), ("memory", "app_memory_percentiles")];
/// Part of the name of a column by which a file of another name is recognised, in small letters. The files of durations have that of the invocations as well.
const COLUMNS: [(usize, &str); 3] = [(MEMORY, "averageallocatedmb_pct"), (DURATIONS, "percentile_average_"), (INVOCATIONS, "hashfunction")];
/// Longest line of column names that is read to recognise a file, bytes: that of a day of minutes has 7,000.
const MAX_HEADER: u64 = 1 << 16;
const INVOCATIONS: usize = 0;
const DURATIONS: usize = 1;
const MEMORY: usize = 2;

/// Most files of a folder that an error lists.
const LISTED: usize = 12;

/// Beginning of the published name of Azure Functions 2021.
const ROWS: &str = "azurefunctionsinvocationtrace";

const A_TRACE: &str = "a trace is a folder with invocations.csv and durations.csv or the published files of Azure Functions 2019, \
                       or one file of single invocations (Azure Functions 2021)";

/// A trace, and a line that says which days and functions were read and what was left out.
#[derive(Debug, Clone)]
pub struct OpenedTrace {
    /// The trace.
    pub trace: Trace,
    /// Path, day, extent and omissions, for the user.
    pub description: String,
}

/// Opens the trace at `path`: a folder or a file of counts by minute (Azure Functions 2019, InVitro), or of single invocations (Azure Functions 2021,
/// the inputs that InVitro generates). Invocations without a memory file take `memory_mib`.
///
/// Of several days in a folder the first with durations is read; the file of another day selects that day.
///
/// # Errors
/// If a file is missing, or cannot be opened or read; names file, line and column.
pub fn open_trace(path: &Path, keep: Keep, memory_mib: u32) -> anyhow::Result<OpenedTrace> {
    let metadata = std::fs::metadata(path).with_context(|| format!("failed to open the trace {}", path.display()))?;
    if metadata.is_dir() {
        return open_folder(path, None, keep, memory_mib);
    }
    let folder = path.parent().map(|folder| if folder == Path::new("") { Path::new(".") } else { folder });
    match (MinuteFile::of(path), folder) {
        (Some(MinuteFile { day, .. }), Some(folder)) => open_folder(folder, Some(day), keep, memory_mib),
        (None, Some(folder)) if part_by_columns(path).is_some() => open_folder(folder, None, keep, memory_mib),
        _ => open_rows(path, keep),
    }
}

/// Reads vSwarm's list of endpoints.
///
/// # Errors
/// If the file cannot be read or is not such a list.
pub fn open_endpoints(path: &Path) -> anyhow::Result<Vec<Endpoint>> {
    Ok(read_endpoints(&path.display().to_string(), &files::read_text(path, MAX_DOCUMENT)?)?)
}

/// Day of a published file; InVitro's files have none.
type Day = Option<u32>;

/// A file of a trace by minute, by its name.
struct MinuteFile {
    day: Day,
    /// Index into [`PARTS`].
    index: usize,
}

impl MinuteFile {
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let stem = name.strip_suffix(".csv")?;
        let index = PARTS.iter().position(|(exact, published)| stem == *exact || stem.starts_with(published))?;
        let day = stem.rsplit_once(".d").and_then(|(_, day)| day.parse().ok());
        Some(Self { day, index })
    }
}

/// Files of one day.
type DayFiles = [Option<PathBuf>; 3];

fn open_folder(folder: &Path, selected: Option<Day>, keep: Keep, memory_mib: u32) -> anyhow::Result<OpenedTrace> {
    let listed = list(folder)?;
    let mut days: BTreeMap<Day, DayFiles> = BTreeMap::new();
    for (part, path) in listed.iter().filter_map(|path| Some((MinuteFile::of(path)?, path))) {
        days.entry(part.day).or_default()[part.index].get_or_insert_with(|| path.clone());
    }
    if days.values().all(|files| files[INVOCATIONS].is_none()) {
        days.insert(None, find_by_columns(folder, &listed)?);
    }
    complete(&mut days);
    let with_invocations = || days.iter().filter(|(_, files)| files[INVOCATIONS].is_some());
    let found = match selected {
        Some(day) => days.get_key_value(&day),
        None => with_invocations().find(|(_, files)| files[DURATIONS].is_some()).or_else(|| with_invocations().next()),
    };
    match found {
        Some((day, files)) => {
            let others: Vec<u32> = with_invocations().filter_map(|(day, _)| *day).filter(|other| Some(*other) != *day).collect();
            open_day(folder, *day, files, &others, keep, memory_mib)
        }
        None => open_single(folder, &listed, keep),
    }
}

/// The files of a trace by minute under other names, by their columns; none if there are no invocations.
fn find_by_columns(folder: &Path, listed: &[PathBuf]) -> anyhow::Result<DayFiles> {
    let mut found = DayFiles::default();
    for path in listed.iter().filter(|path| is_table(path)) {
        let Some(part) = part_by_columns(path) else { continue };
        if let Some(other) = found[part].replace(path.clone()) {
            let (name, _) = PARTS[part];
            bail!(
                "{}: both {} and {} have the columns of {name}.csv; rename the one to use to {name}.csv",
                folder.display(),
                file_name(&other),
                file_name(path)
            );
        }
    }
    Ok(if found[INVOCATIONS].is_some() { found } else { DayFiles::default() })
}

/// Which part of a trace by minute the columns of a table are, as an index into [`PARTS`].
fn part_by_columns(path: &Path) -> Option<usize> {
    let mut header = Vec::new();
    BufReader::new(files::open_text(path, MAX_FILE).ok()?.take(MAX_HEADER)).read_until(b'\n', &mut header).ok()?;
    let header = String::from_utf8_lossy(&header).to_ascii_lowercase();
    COLUMNS.into_iter().find(|(_, column)| header.contains(column)).map(|(part, _)| part)
}

/// Completes days with a file without a day, and files without a day with the only one of a day.
fn complete(days: &mut BTreeMap<Day, DayFiles>) {
    let files: Vec<(Day, DayFiles)> = days.clone().into_iter().collect();
    for (day, parts) in days.iter_mut() {
        for (index, part) in parts.iter_mut().enumerate().filter(|(_, part)| part.is_none()) {
            let mut others =
                files.iter().filter(|(other, _)| other.is_none() != day.is_none()).filter_map(|(_, parts)| parts[index].as_ref());
            if let (Some(only), None) = (others.next(), others.next()) {
                *part = Some(only.clone());
            }
        }
    }
}

fn open_day(folder: &Path, day: Day, files: &DayFiles, others: &[u32], keep: Keep, memory_mib: u32) -> anyhow::Result<OpenedTrace> {
    let required = |part: usize| {
        let (name, published) = PARTS[part];
        let name = day.map_or_else(|| format!("{name}.csv"), |day| format!("{name}.csv or {published}.anon.d{day:02}.csv"));
        files[part].as_deref().with_context(|| format!("{}: no {name}; {A_TRACE}", folder.display()))
    };
    let (invocations, durations, memory) = (required(INVOCATIONS)?, required(DURATIONS)?, files[MEMORY].as_deref());
    let names = [invocations, durations, memory.unwrap_or(folder)].map(|path| path.display().to_string());
    let open = |path: &Path| files::open_text(path, MAX_FILE);
    let files =
        Azure2019 { invocations: open(invocations)?, durations: open(durations)?, memory: memory.map(open).transpose()?, memory_mib };
    let (trace, omissions) = read_azure2019(names.each_ref().map(String::as_str), files, keep)?;
    let mut which = day.map(|day| format!("day {day}")).unwrap_or_default();
    if let (Some(day), false) = (day, others.is_empty()) {
        let mut all: Vec<u32> = others.iter().copied().chain([day]).collect();
        all.sort_unstable();
        let all: Vec<String> = all.iter().map(u32::to_string).collect();
        which += &format!(" of the days {} (to use another one, give its invocations file)", all.join(", "));
    }
    if memory.is_none() {
        which += if which.is_empty() { "without memory" } else { ", without memory" };
    }
    Ok(opened(folder, &which, Trace::Minutes(trace), &omissions))
}

/// The trace of a folder without counts by minute: one file of single invocations, or the inputs that InVitro generated.
fn open_single(folder: &Path, listed: &[PathBuf], keep: Keep) -> anyhow::Result<OpenedTrace> {
    let name = |path: &Path| file_name(path).to_ascii_lowercase();
    if let Some(published) = listed.iter().find(|path| name(path).starts_with(ROWS) && is_table(path)) {
        return open_rows(published, keep);
    }
    let generated: BTreeMap<usize, &Path> = listed.iter().filter_map(|path| Some((generated_number(path)?, path.as_path()))).collect();
    if !generated.is_empty() {
        return open_generated(folder, &generated, keep);
    }
    let csv: Vec<&PathBuf> = listed.iter().filter(|path| name(path).ends_with(".csv")).collect();
    let text: Vec<&PathBuf> = listed.iter().filter(|path| name(path).ends_with(".txt")).collect();
    match (csv.as_slice(), text.as_slice()) {
        ([only], _) | ([], [only]) => open_rows(only, keep),
        ([], []) if listed.is_empty() => bail!("{}: no .csv file; {A_TRACE}", folder.display()),
        _ => {
            let names: Vec<String> = listed.iter().take(LISTED).map(|path| file_name(path)).collect();
            let more = if listed.len() > LISTED { ", ..." } else { "" };
            bail!(
                "{}: no invocations.csv among {}{more}; decompress files that are compressed; {A_TRACE}",
                folder.display(),
                names.join(", ")
            )
        }
    }
}

/// Number of the function whose inputs InVitro generated as this file.
fn generated_number(path: &Path) -> Option<usize> {
    let number = path.file_name()?.to_str()?.strip_prefix("iat")?.strip_suffix(".json")?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())?
}

/// The trace of the inputs of the functions from 0 on.
fn open_generated(folder: &Path, generated: &BTreeMap<usize, &Path>, keep: Keep) -> anyhow::Result<OpenedTrace> {
    let mut inputs = GeneratedInputs::default();
    for ((number, path), expected) in generated.iter().zip(0..keep.functions) {
        if *number != expected {
            bail!(
                "{}: no iat{expected}.json, but {}; generate it, or number the files of the functions to use from 0",
                folder.display(),
                file_name(path)
            );
        }
        inputs.add(&path.display().to_string(), BufReader::new(files::open_text(path, MAX_FILE)?))?;
    }
    Ok(opened(folder, "inputs that InVitro generated", Trace::Rows(inputs.finish(keep)?), &Omissions::default()))
}

fn open_rows(path: &Path, keep: Keep) -> anyhow::Result<OpenedTrace> {
    let (trace, omissions) = read_azure2021(&path.display().to_string(), files::open_text(path, MAX_FILE)?, keep)?;
    Ok(opened(path, "", Trace::Rows(trace), &omissions))
}

fn opened(path: &Path, which: &str, trace: Trace, omissions: &Omissions) -> OpenedTrace {
    let comma = if which.is_empty() { "" } else { ", " };
    let extent = [
        counted(trace.functions() as u64, "function"),
        counted(u64::from(trace.minutes()), "minute"),
        counted(trace.invocations(0, u32::MAX), "invocation"),
    ];
    let mut description = format!("trace {}: {which}{comma}{}", path.display(), extent.join(", "));
    let omissions = omissions.to_string();
    if !omissions.is_empty() {
        description += &format!("; left out: {omissions}");
    }
    OpenedTrace { trace, description }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn is_table(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv") || ending.eq_ignore_ascii_case("txt"))
}

/// The files of a folder, by name.
fn list(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests;
