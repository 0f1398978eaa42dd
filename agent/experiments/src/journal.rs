//! A journal: what was finished of a long work, a line each, so that an interruption loses next to nothing. Owns the file; knows nothing of what it says.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::Path;

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Its name in the folder of what is done.
pub const FILE: &str = "journal.jsonl";
/// Differences that are told; more say nothing more.
const TOLD: usize = 5;

/// What was finished; each job found a `T`.
pub struct Journal<T> {
    /// What is done, in a word.
    what: &'static str,
    /// Where each job's line begins.
    places: BTreeMap<String, u64>,
    reader: BufReader<File>,
    writer: BufWriter<File>,
    of: PhantomData<fn() -> T>,
}

#[derive(Serialize)]
struct Written<'a, T> {
    job: &'a str,
    found: &'a T,
}

#[derive(Deserialize)]
struct Read<T> {
    job: String,
    found: T,
}

#[derive(Deserialize)]
struct Named {
    job: String,
}

impl<T: Serialize + DeserializeOwned> Journal<T> {
    /// The journal in `folder` of the `what` that is told by `identity`: the one that is there, if it is of the same, or a new one.
    pub fn open(folder: &Path, what: &'static str, identity: &Value, resume: bool, overwrite: bool) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}; name another one with --out", folder.display()))?;
        let path = folder.join(FILE);
        if resume && !path.exists() {
            bail!("there is nothing to resume: {} is not there; leave --resume out to begin", path.display());
        }
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open.with_context(|| format!("cannot write {}; name another folder with --out", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another {what} is writing to {}; name another folder with --out", folder.display()),
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
        if overwrite {
            file.set_len(0)?;
        }
        let (reader, writer) = (BufReader::new(File::open(&path)?), BufWriter::new(file));
        let mut journal = Self { what, places: BTreeMap::new(), reader, writer, of: PhantomData };
        journal.begin(&path, identity)?;
        Ok(journal)
    }

    /// Reads what is there, or writes the first line.
    fn begin(&mut self, path: &Path, identity: &Value) -> anyhow::Result<()> {
        let mut line = Vec::new();
        let mut end = self.line(&mut line)?;
        if end == 0 {
            self.writer.get_mut().set_len(0)?;
            self.writer.seek(SeekFrom::Start(0))?;
            serde_json::to_writer(&mut self.writer, identity)?;
            self.writer.write_all(b"\n")?;
            return Ok(self.writer.flush()?);
        }
        let there: Value = serde_json::from_slice(&line).with_context(|| {
            let what = self.what;
            format!("{}:1 is no journal of an {what}; begin anew with --overwrite, or name another folder with --out", path.display())
        })?;
        let mut differences = Vec::new();
        differ("", &there, identity, &mut differences);
        if !differences.is_empty() {
            let more = differences.len().saturating_sub(TOLD);
            let told = differences.into_iter().take(TOLD).collect::<Vec<_>>().join("; ");
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            bail!(
                "{} is of another {}: {told}{more}. Name another folder with --out, or begin anew with --overwrite",
                path.display(),
                self.what
            );
        }
        loop {
            let next = end + self.line(&mut line)?;
            // What was being written when it was cut off is done again.
            let Ok(Named { job }) = serde_json::from_slice(&line) else { break };
            if next == end {
                break;
            }
            self.places.insert(job, end);
            end = next;
        }
        self.writer.get_mut().set_len(end)?;
        self.writer.seek(SeekFrom::Start(end))?;
        Ok(())
    }

    /// Reads a whole line; gives its length, 0 where there is none.
    fn line(&mut self, line: &mut Vec<u8>) -> anyhow::Result<u64> {
        line.clear();
        let length = self.reader.read_until(b'\n', line)?;
        Ok(if line.ends_with(b"\n") { length as u64 } else { 0 })
    }

    /// What the job found before.
    pub fn recall(&mut self, job: &str) -> Option<T> {
        let place = *self.places.get(job)?;
        let mut line = Vec::new();
        self.reader.seek(SeekFrom::Start(place)).ok()?;
        let length = self.line(&mut line).ok()?;
        let read: Read<T> = serde_json::from_slice(&line).ok().filter(|_| length > 0)?;
        (read.job == job).then_some(read.found)
    }

    /// Writes down what a job found.
    pub fn record(&mut self, job: &str, found: &T) -> anyhow::Result<()> {
        serde_json::to_writer(&mut self.writer, &Written { job, found }).context("cannot write the journal")?;
        self.writer.write_all(b"\n").context("cannot write the journal")?;
        self.writer.flush().context("cannot write the journal")
    }
}

/// Adds to `found` where `there` and `here` differ, with both values.
fn differ(path: &str, there: &Value, here: &Value, found: &mut Vec<String>) {
    let inner = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (there, here) {
        (Value::Object(one), Value::Object(other)) => {
            let keys = one.keys().chain(other.keys().filter(|key| !one.contains_key(*key)));
            keys.for_each(|key| differ(&inner(key), one.get(key).unwrap_or(&Value::Null), other.get(key).unwrap_or(&Value::Null), found));
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            one.iter().zip(other).enumerate().for_each(|(index, (one, other))| differ(&format!("{path}[{index}]"), one, other, found));
        }
        _ if there != here => found.push(format!("{path} is {} there and {} here", shown(there), shown(here))),
        _ => {}
    }
}

/// A value, shortly.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("a list of {}", values.len()),
        Value::Null => "absent".to_owned(),
        value => {
            let text = value.to_string();
            if text.chars().count() <= 60 { text } else { text.chars().take(60).chain("...".chars()).collect() }
        }
    }
}
