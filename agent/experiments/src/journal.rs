//! Journal of a long experiment: one line per finished job, so that an interruption loses little. Owns the file; must
//! not know what the jobs are.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Name of the journal in the folder of an experiment.
pub const FILE: &str = "journal.jsonl";
/// Largest number of differences in an error.
const MAX_DIFFERENCES: usize = 5;

/// Results of type `T` by job.
pub struct Journal<T> {
    /// Name of the experiment's kind, for errors.
    what: &'static str,
    /// Offset of each job's line.
    places: BTreeMap<String, u64>,
    reader: BufReader<File>,
    writer: BufWriter<File>,
    of: PhantomData<fn() -> T>,
}

impl<T> Drop for Journal<T> {
    /// Releases the lock although a child that is just being started may still have the descriptor.
    fn drop(&mut self) {
        // Every job was flushed when it was stored, and closing the last descriptor releases the lock, too.
        let _ = self.writer.flush();
        let _ = self.writer.get_ref().unlock();
    }
}

#[derive(Serialize)]
struct JournalLine<'a, T> {
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
    /// Opens the journal in `folder` if it is of the same `identity`, or creates one. `what` names the kind of experiment in errors.
    ///
    /// # Errors
    /// When the journal is of another identity, is being written by another process, cannot be read or written, or is
    /// missing although `resume` is set.
    pub fn open(folder: &Path, what: &'static str, identity: &Value, resume: bool, overwrite: bool) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("failed to create the folder {}; use another one with --out", folder.display()))?;
        let path = folder.join(FILE);
        if resume && !path.exists() {
            bail!("nothing to resume: {} does not exist; leave out --resume to start", path.display());
        }
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open.with_context(|| format!("failed to open {} for writing; use another folder with --out", path.display()))?;
        ensure!(file.metadata()?.is_file(), "{} is not a regular file; use another folder with --out", path.display());
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another {what} is using {}; use another folder with --out", folder.display()),
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

    /// Reads the index of the jobs, or writes the first line.
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
            format!("{}:1: not a journal of an {what}; use --overwrite to start over, or another folder with --out", path.display())
        })?;
        let mut differences = Vec::new();
        differ("", &there, identity, &mut differences);
        if !differences.is_empty() {
            let more = differences.len().saturating_sub(MAX_DIFFERENCES);
            let listed = differences.into_iter().take(MAX_DIFFERENCES).collect::<Vec<_>>().join("; ");
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            bail!(
                "{} belongs to a different {}: {listed}{more}. Use another folder with --out, or --overwrite to start over",
                path.display(),
                self.what
            );
        }
        loop {
            let next = end + self.line(&mut line)?;
            // An incomplete line is a job that was interrupted; it runs again.
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

    /// Reads a complete line; returns its length, or 0 at the end.
    fn line(&mut self, line: &mut Vec<u8>) -> anyhow::Result<u64> {
        line.clear();
        let length = self.reader.read_until(b'\n', line)?;
        Ok(if line.ends_with(b"\n") { length as u64 } else { 0 })
    }

    /// Result of a job that was finished before.
    pub fn stored(&mut self, job: &str) -> Option<T> {
        let place = *self.places.get(job)?;
        let mut line = Vec::new();
        self.reader.seek(SeekFrom::Start(place)).ok()?;
        let length = self.line(&mut line).ok()?;
        let read: Read<T> = serde_json::from_slice(&line).ok().filter(|_| length > 0)?;
        (read.job == job).then_some(read.found)
    }

    /// Adds the result of a job.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn record(&mut self, job: &str, found: &T) -> anyhow::Result<()> {
        serde_json::to_writer(&mut self.writer, &JournalLine { job, found }).context("failed to write the journal")?;
        self.writer.write_all(b"\n").context("failed to write the journal")?;
        self.writer.flush().context("failed to write the journal")
    }
}

/// Adds the paths where `there` and `here` differ to `found`, with both values.
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

/// A value in short form.
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
