//! Opening of traces. Owns the files of a folder; their content belongs to [`crate::workload::trace`].

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::Context as _;

use crate::workload::trace::{Azure2019, Keep, MinuteTrace, read_azure2019};

/// The trace of a folder with `invocations.csv`, `durations.csv` and, where known, `memory.csv`; functions without memory take `memory_mib`.
///
/// # Errors
/// If a file cannot be opened or read; names file, line and column.
pub fn open_azure2019(folder: &Path, keep: Keep, memory_mib: u32) -> anyhow::Result<MinuteTrace> {
    let paths = ["invocations.csv", "durations.csv", "memory.csv"].map(|name| folder.join(name));
    let memory = if paths[2].exists() { Some(open(&paths[2])?) } else { None };
    let files = paths.each_ref().map(|path| path.display().to_string());
    let trace = Azure2019 { invocations: open(&paths[0])?, durations: open(&paths[1])?, memory, memory_mib };
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
