//! Traces from files. Owns which files a trace is, and what is asked for of it; their formats belong to `qscale_common::workload::trace`.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use qscale_common::workload::Scale;
use qscale_common::workload::trace::{Azure2019, Keep, read_azure2019, read_azure2021};
use qscale_evaluate::Suite;
use qscale_evaluate::suite::TraceEntry;
use qscale_evaluate::trace::Trace;

/// Which trace, and how it is played.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Trace of real functions: a folder in the format of InVitro and Azure Functions 2019 (invocations.csv, durations.csv and, where there is one, memory.csv), or a
    /// file in that of Azure Functions 2021
    #[arg(long = "trace", value_name = "DIR|FILE", value_hint = clap::ValueHint::AnyPath)]
    path: Option<PathBuf>,
    /// Number of functions, from the start of the trace
    #[arg(id = "trace-functions", long = "functions", value_name = "NUMBER", requires = "path")]
    functions: Option<usize>,
    /// Shares of the trace's minutes for training, validation and test, in percent
    #[arg(long, value_name = "A/B/C", requires = "path")]
    split: Option<String>,
    /// Seconds of the trace played in one second
    #[arg(long, value_name = "FACTOR", requires = "path")]
    time_scale: Option<f64>,
    /// Invocations for each one recorded
    #[arg(long = "scale", value_name = "FACTOR", requires = "path")]
    rate_scale: Option<f64>,
}

/// Files of a trace, by their names in InVitro and as published.
const INVOCATIONS: [&str; 2] = ["invocations.csv", "invocations_per_function_md"];
const DURATIONS: [&str; 2] = ["durations.csv", "function_durations_percentiles"];
const MEMORY: [&str; 2] = ["memory.csv", "app_memory_percentiles"];

impl TraceArgs {
    /// Whether a trace is asked for.
    pub fn is_given(&self) -> bool {
        self.path.is_some()
    }

    /// Name of the trace in results: the last part of its path, in letters, digits and dashes.
    pub fn name(&self) -> Option<String> {
        let path = self.path.as_ref()?;
        let full = path.canonicalize().unwrap_or_else(|_| path.clone());
        let name = full.file_stem().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        Some(name.chars().map(plain).collect::<String>().trim_matches('-').to_owned())
    }

    /// Changes of a suite what was asked for.
    pub fn apply(&self, entry: &mut TraceEntry) -> anyhow::Result<()> {
        if let Some(split) = &self.split {
            let parts: Result<Vec<u32>, _> = split.split('/').map(str::parse).collect();
            let parts: Option<[u32; 3]> = parts.ok().and_then(|parts| parts.try_into().ok());
            entry.split =
                parts.with_context(|| format!("--split {split}: write three shares in percent that sum to 100, such as 60/20/20"))?;
        }
        entry.functions = self.functions.unwrap_or(entry.functions);
        let scale = Scale::new(self.time_scale.unwrap_or(entry.scale.time), self.rate_scale.unwrap_or(entry.scale.rate));
        entry.scale = scale.map_err(anyhow::Error::msg)?;
        Ok(())
    }

    /// Names every argument that was given.
    pub fn words(&self, add: &mut impl FnMut(&str, &str)) {
        self.path.iter().for_each(|path| add("--trace", &path.display().to_string()));
        self.functions.iter().for_each(|functions| add("--functions", &functions.to_string()));
        self.split.iter().for_each(|split| add("--split", split));
        self.time_scale.iter().for_each(|scale| add("--time-scale", &scale.to_string()));
        self.rate_scale.iter().for_each(|scale| add("--scale", &scale.to_string()));
    }

    /// Reads the trace.
    pub fn read(&self, suite: &Suite) -> anyhow::Result<Trace> {
        let path = self.path.as_deref().context("say which trace with --trace DIR")?;
        let entry = suite.trace.as_ref().context("the suite does not play traces")?;
        let keep = Keep { functions: if entry.functions == 0 { usize::MAX } else { entry.functions }, ..Keep::default() };
        let kind = std::fs::metadata(path).with_context(|| format!("cannot open the trace {}", path.display()))?;
        if kind.is_file() {
            return rows(path, keep);
        }
        let Some(invocations) = find(path, INVOCATIONS)? else { return lone_file(path, keep) };
        let durations = find(path, DURATIONS)?;
        let durations =
            durations.with_context(|| format!("{}: no durations.csv in the folder of {}", path.display(), shown(&invocations)))?;
        let memory = find(path, MEMORY)?;
        let none = path.join(MEMORY[0]);
        let files = [&invocations, &durations, memory.as_ref().unwrap_or(&none)].map(|file| shown(file));
        let trace = Azure2019 {
            invocations: open(&invocations)?,
            durations: open(&durations)?,
            memory: memory.as_deref().map(open).transpose()?,
            memory_mib: entry.memory_mib,
        };
        Ok(Trace::Minutes(read_azure2019(files.each_ref().map(String::as_str), trace, keep)?))
    }
}

/// A folder that holds one file of single invocations.
fn lone_file(folder: &Path, keep: Keep) -> anyhow::Result<Trace> {
    let files = files(folder)?;
    match &files[..] {
        [only] => rows(only, keep),
        _ => {
            let names: Vec<String> = files.iter().filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned())).collect();
            let found = if names.is_empty() { "no .csv at all".to_owned() } else { names.join(", ") };
            bail!(
                "{}: there is no invocations.csv in it, but {found}; a trace is a folder with invocations.csv and durations.csv, or one file of single invocations",
                folder.display()
            )
        }
    }
}

fn rows(path: &Path, keep: Keep) -> anyhow::Result<Trace> {
    Ok(Trace::Rows(read_azure2021(&shown(path), open(path)?, keep)?))
}

/// The file of a folder that is called `names[0]`, or else the first that begins with `names[1]`.
fn find(folder: &Path, names: [&str; 2]) -> anyhow::Result<Option<PathBuf>> {
    let exact = folder.join(names[0]);
    if exact.exists() {
        return Ok(Some(exact));
    }
    let begins = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(names[1]));
    Ok(files(folder)?.into_iter().find(begins))
}

/// The .csv files of a folder, by name.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
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

fn open(path: &Path) -> anyhow::Result<BufReader<File>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(BufReader::with_capacity(1 << 16, file))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
