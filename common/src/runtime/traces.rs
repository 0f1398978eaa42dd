//! Opening of traces. Owns which files a trace consists of; their content belongs to [`crate::workload::trace`].

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::workload::trace::{Azure2019, Keep, MinuteTrace, RowTrace, read_azure2019, read_azure2021};

/// Names of the files of a trace: the exact name of InVitro, and the beginning of the published name of Azure Functions 2019.
const INVOCATIONS: [&str; 2] = ["invocations.csv", "invocations_per_function_md"];
const DURATIONS: [&str; 2] = ["durations.csv", "function_durations_percentiles"];
const MEMORY: [&str; 2] = ["memory.csv", "app_memory_percentiles"];

/// A trace of either kind.
#[derive(Debug, Clone)]
pub enum OpenedTrace {
    /// Counts by minute: a folder in the format of InVitro and Azure Functions 2019.
    Minutes(MinuteTrace),
    /// Single invocations: a file in the format of Azure Functions 2021.
    Rows(RowTrace),
}

/// The trace of a folder, or of a file of single invocations, which may be the only .csv file of its folder; functions without memory take
/// `memory_mib`.
///
/// # Errors
/// If a file is missing, or cannot be opened or read; names file, line and column.
pub fn open_trace(path: &Path, keep: Keep, memory_mib: u32) -> anyhow::Result<OpenedTrace> {
    let kind = std::fs::metadata(path).with_context(|| format!("cannot open the trace {}", path.display()))?;
    if kind.is_file() {
        return open_rows(path, keep);
    }
    if find(path, INVOCATIONS)?.is_some() {
        return Ok(OpenedTrace::Minutes(open_azure2019(path, keep, memory_mib)?));
    }
    let files = csv_files(path)?;
    let names: Vec<String> = files.iter().filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned())).collect();
    match files.as_slice() {
        [only] => open_rows(only, keep),
        [] => bail!("{}: no .csv file; {A_TRACE}", path.display()),
        _ => bail!("{}: no invocations.csv among {}; {A_TRACE}", path.display(), names.join(", ")),
    }
}

const A_TRACE: &str = "a trace is a folder with invocations.csv and durations.csv, or one file of single invocations";

/// The trace of a folder with `invocations.csv`, `durations.csv` and, where known, `memory.csv`, or with files of the published names; functions
/// without memory take `memory_mib`.
///
/// # Errors
/// If a file is missing, or cannot be opened or read; names file, line and column.
pub fn open_azure2019(folder: &Path, keep: Keep, memory_mib: u32) -> anyhow::Result<MinuteTrace> {
    let required = |names: [&str; 2]| find(folder, names)?.with_context(|| format!("{}: no {}; {A_TRACE}", folder.display(), names[0]));
    let (invocations, durations) = (required(INVOCATIONS)?, required(DURATIONS)?);
    let memory = find(folder, MEMORY)?;
    let absent = folder.join(MEMORY[0]);
    let files = [&invocations, &durations, memory.as_ref().unwrap_or(&absent)].map(|path| path.display().to_string());
    let trace = Azure2019 {
        invocations: open(&invocations)?,
        durations: open(&durations)?,
        memory: memory.as_deref().map(open).transpose()?,
        memory_mib,
    };
    Ok(read_azure2019(files.each_ref().map(String::as_str), trace, keep)?)
}

/// A file of a trace, to be read in order.
///
/// # Errors
/// If it cannot be opened.
pub fn open(path: &Path) -> anyhow::Result<BufReader<File>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(BufReader::with_capacity(1 << 16, file))
}

fn open_rows(path: &Path, keep: Keep) -> anyhow::Result<OpenedTrace> {
    Ok(OpenedTrace::Rows(read_azure2021(&path.display().to_string(), open(path)?, keep)?))
}

/// The file of a folder that is called `names[0]`, or else the first whose name begins with `names[1]`.
fn find(folder: &Path, names: [&str; 2]) -> anyhow::Result<Option<PathBuf>> {
    let exact = folder.join(names[0]);
    if exact.exists() {
        return Ok(Some(exact));
    }
    let begins = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(names[1]));
    Ok(csv_files(folder)?.into_iter().find(begins))
}

/// The .csv files of a folder, by name.
fn csv_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "csv") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
