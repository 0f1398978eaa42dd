//! Output files of a run. Owns their columns: Qscale's, vSwarm's and InVitro's. Rows are written as requests end and not kept in memory.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::record::{RequestRecord, RequestStatus};

/// Columns of Qscale's own file. Times are microseconds since the start of the run; a cell is empty if the request did not get that far.
///
/// `function`; intended send time, send time and reply time; status (`ok`, a gRPC status, `http_<code>`, `timeout`,
/// `refused`, `unreachable`, `broken`, `malformed`, `censored`, `not_sent`); connection (`new` or `reused`); whether
/// the reply was valid; sequence number; time at which a new connection was established; requested and reported
/// duration and memory.
pub const COLUMNS: &str = "function,intended_us,sent_us,replied_us,status,connection,valid,sequence,connected_us,\
duration_ms,memory_mib,reported_us,reported_kib";

/// Columns of InVitro's duration file.
pub const INVITRO_COLUMNS: &str = "phase,instance,invocationID,startTime,requestedDuration,grpcConnEstablish,responseTime,\
actualDuration,connectionTimeout,functionTimeout,actualMemoryUsage,memoryAllocationTimeout,timeToSubmitMs,userCodeExecutionMs,\
timeToGetResponseMs";

/// Files to write.
#[derive(Debug, Clone, Default)]
pub struct FileConfig {
    /// Qscale's own format.
    pub csv: Option<PathBuf>,
    /// Folder for vSwarm's format.
    pub vswarm: Option<PathBuf>,
    /// Prefix for InVitro's format.
    pub invitro: Option<PathBuf>,
    /// Names of the functions, by index.
    pub functions: Vec<String>,
    /// Start of the run, microseconds since 1970.
    pub started_unix_us: u64,
    /// Planned duration of sending, part of InVitro's file name in minutes; `None` for a whole trace.
    pub planned: Option<Duration>,
}

/// The open files.
pub struct Files {
    functions: Vec<String>,
    started_unix_us: u64,
    csv: Option<OutputFile>,
    vswarm: Option<OutputFile>,
    invitro: Option<OutputFile>,
}

impl Files {
    /// Creates the files and writes their headers.
    ///
    /// # Errors
    /// When a file cannot be created; the error contains its path.
    pub fn create(wanted: FileConfig) -> anyhow::Result<Self> {
        let minutes = wanted.planned.map_or(0, |planned| planned.as_secs().div_ceil(60));
        let invitro = wanted.invitro.map(|prefix| {
            let mut name = prefix.into_os_string();
            name.push(format!("_duration_{minutes}.csv"));
            PathBuf::from(name)
        });
        Ok(Self {
            functions: wanted.functions,
            started_unix_us: wanted.started_unix_us,
            csv: wanted.csv.map(|path| OutputFile::create(path, COLUMNS)).transpose()?,
            // Renamed at the end, when the achieved rate is known.
            vswarm: wanted.vswarm.map(|folder| OutputFile::create(folder.join("rps_lat.csv.part"), "")).transpose()?,
            invitro: invitro.map(|path| OutputFile::create(path, INVITRO_COLUMNS)).transpose()?,
        })
    }

    /// Writes the rows of one request.
    ///
    /// # Errors
    /// When writing fails, for example because the disk is full.
    pub fn write(&mut self, record: &RequestRecord) -> anyhow::Result<()> {
        let function = self.functions.get(record.function as usize).map_or("", String::as_str);
        if let Some(file) = &mut self.csv {
            file.row(|out| write_row(out, record, function))?;
        }
        if let Some(file) = &mut self.vswarm
            && let (true, Some(sent), Some(replied)) = (record.succeeded(), record.sent_ns, record.replied_ns)
        {
            // As in vSwarm's invoker, latency counts from the send and includes connecting. Unlike there, failures are omitted.
            file.row(|out| writeln!(out, "{}", replied.saturating_sub(sent) / 1_000))?;
        }
        if let Some(file) = &mut self.invitro
            && let Some(sent) = record.sent_ns
        {
            let start = self.started_unix_us + sent / 1_000;
            file.row(|out| write_invitro_row(out, record, function, start, sent))?;
        }
        Ok(())
    }

    /// Flushes buffers to the operating system.
    ///
    /// # Errors
    /// When writing fails.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        [&mut self.csv, &mut self.vswarm, &mut self.invitro].into_iter().flatten().try_for_each(OutputFile::flush)
    }

    /// Completes the files and returns their paths. The name of vSwarm's file contains `achieved_rps`.
    ///
    /// # Errors
    /// When writing or renaming fails.
    pub fn finish(mut self, achieved_rps: f64) -> anyhow::Result<Vec<PathBuf>> {
        self.flush()?;
        if let Some(file) = &mut self.vswarm {
            let path = file.path.with_file_name(format!("rps{achieved_rps:.2}_lat.csv"));
            std::fs::rename(&file.path, &path).with_context(|| format!("cannot rename to {}", path.display()))?;
            file.path = path;
        }
        Ok([self.csv, self.vswarm, self.invitro].into_iter().flatten().map(|file| file.path).collect())
    }
}

struct OutputFile {
    path: PathBuf,
    file: BufWriter<File>,
}

impl OutputFile {
    fn create(path: PathBuf, header: &str) -> anyhow::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| *folder != Path::new("")) {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot create the folder {}", folder.display()))?;
        }
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut output = Self { path, file: BufWriter::with_capacity(1 << 16, file) };
        if !header.is_empty() {
            output.row(|out| writeln!(out, "{header}"))?;
        }
        Ok(output)
    }

    fn row(&mut self, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> anyhow::Result<()> {
        write(&mut self.file).with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.file.flush().with_context(|| format!("cannot write {}", self.path.display()))
    }
}

fn write_row(out: &mut impl Write, record: &RequestRecord, function: &str) -> io::Result<()> {
    write!(out, "{function},{},", record.intended_ns / 1_000)?;
    write_micros(out, record.sent_ns)?;
    write_micros(out, record.replied_ns)?;
    let valid = record.valid.map_or("", |valid| if valid { "true" } else { "false" });
    write!(out, "{},{},{valid},{},", record.status, record.over.word(), record.sequence)?;
    write_micros(out, record.connected_ns)?;
    writeln!(out, "{},{},{},{}", record.duration_ms, record.memory_mib, record.reported_us, record.reported_kib)
}

fn write_micros(out: &mut impl Write, ns: Option<u64>) -> io::Result<()> {
    match ns {
        Some(ns) => write!(out, "{},", ns / 1_000),
        None => out.write_all(b","),
    }
}

/// Writes a row in the format of InVitro's loader: times in microseconds, memory in MiB, `phase` 2 for measured
/// requests. A failure to connect is its connection timeout, and every other failure its function timeout: it knows no
/// others.
fn write_invitro_row(out: &mut impl Write, record: &RequestRecord, function: &str, start: u64, sent_ns: u64) -> io::Result<()> {
    let since_sent = |ns: Option<u64>| ns.map_or(0, |ns| ns.saturating_sub(sent_ns) / 1_000);
    let connection_failed = matches!(record.status, RequestStatus::Refused | RequestStatus::Unreachable);
    writeln!(
        out,
        "2,{function},min{}.inv{},{start},{},{},{},{},{connection_failed},{},{},false,0,0,0",
        record.intended_ns / 60_000_000_000,
        record.sequence,
        u64::from(record.duration_ms) * 1_000,
        since_sent(record.connected_ns),
        since_sent(record.replied_ns),
        record.reported_us,
        !record.succeeded() && !connection_failed,
        record.reported_kib / 1_024,
    )
}

#[cfg(test)]
mod tests {
    use qscale_common::workload::Arrival;

    use super::*;
    use crate::record::ConnectionUse;

    fn record() -> RequestRecord {
        let arrival = Arrival { at: Duration::ZERO, function: 1, duration_ms: 20, memory_mib: 64 };
        RequestRecord {
            sent_ns: Some(61_000_010_000),
            connected_ns: Some(61_000_110_000),
            replied_ns: Some(61_021_010_999),
            status: RequestStatus::Ok,
            over: ConnectionUse::New,
            valid: Some(true),
            reported_us: 20_100,
            reported_kib: 65_536,
            ..RequestRecord::due(7, &arrival, 61_000_000_000)
        }
    }

    fn written(records: &[RequestRecord]) -> [String; 3] {
        let folder = tempfile::tempdir().expect("a folder");
        let wanted = FileConfig {
            csv: Some(folder.path().join("deep/er/out.csv")),
            vswarm: Some(folder.path().to_owned()),
            invitro: Some(folder.path().join("exp")),
            functions: vec!["a".to_owned(), "b".to_owned()],
            started_unix_us: 1_700_000_000_000_000,
            planned: Some(Duration::from_secs(90)),
        };
        let mut files = Files::create(wanted).expect("creates");
        records.iter().for_each(|record| files.write(record).expect("writes"));
        let paths = files.finish(12.345).expect("finishes");
        let names: Vec<_> = paths.iter().map(|path| path.file_name().expect("a name").to_string_lossy().into_owned()).collect();
        assert_eq!(names, ["out.csv", "rps12.35_lat.csv", "exp_duration_2.csv"]);
        [0, 1, 2].map(|index| std::fs::read_to_string(&paths[index]).expect("reads"))
    }

    #[test]
    fn our_file_has_one_row_a_request() {
        let [csv, ..] = written(&[record()]);
        let row = "b,61000000,61000010,61021010,ok,new,true,7,61000110,20,64,20100,65536";
        assert_eq!(csv, format!("{COLUMNS}\n{row}\n"));
    }

    #[test]
    fn cells_of_a_request_that_was_not_sent_are_empty() {
        let arrival = Arrival { at: Duration::ZERO, function: 0, duration_ms: 0, memory_mib: 0 };
        let [csv, vswarm, invitro] = written(&[RequestRecord::due(0, &arrival, 5_000)]);
        assert_eq!(csv, format!("{COLUMNS}\na,5,,,not_sent,,,0,,0,0,0,0\n"));
        assert_eq!((vswarm.as_str(), invitro), ("", format!("{INVITRO_COLUMNS}\n")));
    }

    #[test]
    fn vswarms_file_has_a_latency_a_line_and_no_failures() {
        let [_, vswarm, _] = written(&[record(), RequestRecord { status: RequestStatus::Grpc(14), valid: None, ..record() }]);
        assert_eq!(vswarm, "21000\n");
    }

    #[test]
    fn invitros_file_has_its_columns() {
        let [_, _, invitro] =
            written(&[record(), RequestRecord { status: RequestStatus::Refused, valid: None, replied_ns: None, ..record() }]);
        let good = "2,b,min1.inv7,1700000061000010,20000,100,21000,20100,false,false,64,false,0,0,0";
        let refused = "2,b,min1.inv7,1700000061000010,20000,100,0,20100,true,false,64,false,0,0,0";
        assert_eq!(invitro, format!("{INVITRO_COLUMNS}\n{good}\n{refused}\n"));
    }
}
