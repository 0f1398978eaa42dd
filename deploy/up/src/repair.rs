//! Repair of the nats-server's storage while the system runs. Owns the order of repairs: streams of messages are created again and fill again; lost entries of
//! buckets come from copies, and the bucket of controls gets a freeze of all functions with them, because the newest requests may be missing. A nats-server
//! that does not write any more is restarted once its disk has space.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::kv::{Config, Store};
use async_nats::jetstream::stream::{Info, RawMessageErrorKind};
use futures::future::join_all;
use qscale_common::contract::{Version, subject};
use qscale_common::control::{self, Control};
use qscale_common::runtime::bus::{Bus, BusConfig, StreamFault, entries_condition};
use qscale_common::runtime::{clock, kv, nats_accounts, provision};
use qscale_common::text::{counted, mebibytes};
use qscale_common::time::Timestamp;

use crate::copies::{self, BucketCopies, BucketCopy, PositionComparison, StateFile, StreamPosition, StreamRecord};
use crate::state_dir::{StateDir, conditions};
use crate::storage::{DISK_FULL, free_bytes, streams_folder};

/// Interval at which the streams are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(4);
/// Key that is written to find out whether nats-server writes.
const PROBE: &str = "probe";
/// Failed writes after which nats-server is restarted; one may be slow.
const FAILED_WRITES: u32 = 2;
/// Attempts to read a bucket after which it is replaced; an overloaded server may not answer in time.
const UNREADABLE: u32 = 3;
/// Least interval between two restarts of nats-server, so that one that cannot write at all is not restarted all the time.
const RESTART_INTERVAL: Duration = Duration::from_secs(30);
/// Time after which a service has noticed that a bucket was restored.
const REPORTED_WITHIN: Duration = Duration::from_secs(30);
/// Timeout of a connection and of a request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Problems of the storage, and what was repaired. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct RepairReport(Arc<Mutex<Findings>>);

#[derive(Debug, Default)]
struct Findings {
    problems: Vec<String>,
    events: Vec<String>,
}

impl RepairReport {
    /// Present problems.
    pub fn problems(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).problems.clone()
    }

    /// Takes the new lines for the log: problems that appeared, and repairs.
    pub fn take_events(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).events)
    }

    fn set_problems(&self, problems: Vec<String>) {
        let mut findings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let appeared: Vec<String> = problems.iter().filter(|problem| !findings.problems.contains(problem)).cloned().collect();
        if problems.is_empty() && !findings.problems.is_empty() {
            findings.events.push("the streams are healthy again".into());
        }
        findings.events.extend(appeared.iter().map(|problem| format!("warning: {problem}")));
        findings.problems = problems;
    }

    fn event(&self, event: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).events.push(event);
    }
}

/// The repair of one system.
pub struct Repair {
    state: StateDir,
    /// Folder of the streams.
    streams: PathBuf,
    setup: BusConfig,
    connected: Option<Bus>,
    copies: StateFile<BucketCopies>,
    record: StateFile<StreamRecord>,
    /// Buckets that lack entries which a service has read.
    missed: BTreeSet<String>,
    /// Time at which a bucket was last restored.
    restored: BTreeMap<String, Instant>,
    /// Buckets that could not be read, with the number of attempts since the last one that succeeded.
    unreadable: BTreeMap<String, u32>,
    /// Writes of the probe that failed since the last one that succeeded.
    failed_writes: u32,
    restarted: Option<Instant>,
    report: RepairReport,
}

impl Repair {
    /// The repair of the system in `state`, whose nats-server has its files in `store`; `setup` is the credential that may create streams.
    ///
    /// # Errors
    /// When a file of the state folder cannot be read or set aside: the remedy is to delete it.
    pub fn new(state: StateDir, store: &Path, setup: BusConfig) -> anyhow::Result<Self> {
        const REMEDY: &str = "delete it to go on without what it holds";
        let (copies, mut record) = (copies::bucket_copies(store).context(REMEDY)?, copies::stream_record(&state).context(REMEDY)?);
        let report = RepairReport::default();
        // Nothing is restored from it.
        if let Some(damaged) = record.set_aside().context(REMEDY)? {
            report.event(format!("warning: the record of losses was damaged: {damaged}"));
        }
        Ok(Self {
            state,
            streams: streams_folder(store),
            setup,
            connected: None,
            copies,
            record,
            missed: BTreeSet::new(),
            restored: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            failed_writes: 0,
            restarted: None,
            report,
        })
    }

    /// Problems and repairs, also later ones.
    pub fn report(&self) -> RepairReport {
        self.report.clone()
    }

    /// Forgets the copies, for streams that begin again.
    pub fn forget(&mut self) {
        self.copies.clear();
        self.record.clear();
    }

    /// Sets a damaged copy of the buckets aside if nothing has to be restored from it. Required before missing buckets are created.
    ///
    /// # Errors
    /// When a bucket is gone or cannot be read, or the nats-server does not answer. The remedy is to repair the copy or to delete it.
    pub async fn set_damaged_copies_aside(&mut self) -> anyhow::Result<()> {
        let Some(damage) = self.copies.damage().map(str::to_owned) else { return Ok(()) };
        let bus = self.bus().await?;
        for name in provision::buckets().into_iter().map(|wanted| wanted.bucket).filter(|name| name != subject::LEASE_BUCKET) {
            let needed =
                || format!("bucket {name} has to be restored from a damaged copy: {damage}; delete it to go on without what it holds");
            let found = info_of(&bus, &subject::bucket_stream(&name)).await.with_context(needed)?;
            anyhow::ensure!(found.config.description.as_deref() != Some(provision::RESTORING), needed());
            read(&bus, &name, &found).await.with_context(needed)?;
        }
        if let Some(damaged) = self.copies.set_aside()? {
            self.report.event(format!("warning: the copy of the buckets was damaged: {damaged}"));
        }
        Ok(())
    }

    /// Restores what was lost since the last run, before a service reads the buckets.
    ///
    /// # Errors
    /// When the nats-server does not answer.
    pub async fn restore(&mut self) -> anyhow::Result<()> {
        let bus = self.bus().await?;
        let mut checked = self.check_streams(&bus).await;
        // A damaged bucket is replaced after the last attempt to read it.
        for _ in 1..UNREADABLE as usize * provision::buckets().len() {
            if checked.is_ok() || self.unreadable.values().all(|attempts| *attempts >= UNREADABLE) {
                break;
            }
            checked = self.check_streams(&bus).await;
        }
        checked?;
        self.save()
    }

    /// Checks and repairs until it is aborted.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let problems = self.check().await;
            self.report.set_problems(problems);
        }
    }

    /// Checks everything once; returns the problems.
    async fn check(&mut self) -> Vec<String> {
        let mut problems: Vec<String> = disk_full(&self.state.join("")).into_iter().collect();
        let mut add = |found: anyhow::Result<()>| problems.extend(found.err().map(|error| format!("{error:#}")));
        match self.bus().await {
            Err(error) => add(Err(error)),
            Ok(bus) => {
                add(self.check_faults(&bus).await);
                add(self.check_files(&bus).await);
                // A server that was just restarted answers the next time.
                if !self.restarted_within(CHECK_INTERVAL) {
                    self.find_missed().await;
                    add(self.check_streams(&bus).await);
                    add(self.check_writes(&bus).await);
                }
            }
        }
        // On a full disk the copies stay in memory; that it is full is a problem already.
        let saved = self.save();
        if disk_full(&self.state.join("")).is_none() {
            add(saved);
        }
        problems
    }

    fn restarted_within(&self, time: Duration) -> bool {
        self.restarted.is_some_and(|at| clock::since(at) < time)
    }

    fn save(&mut self) -> anyhow::Result<()> {
        self.copies.save().and(self.record.save())
    }

    async fn bus(&mut self) -> anyhow::Result<Bus> {
        if let Some(bus) = &self.connected {
            return Ok(bus.clone());
        }
        let client = self.setup.connect_once("qscale-up-repair", TIMEOUT).await.context("failed to check the streams")?;
        Ok(self.connected.insert(Bus::of_client(client, "/qscale/up")).clone())
    }

    /// Checks that every stream and bucket is there and has lost nothing.
    async fn check_streams(&mut self, bus: &Bus) -> anyhow::Result<()> {
        self.set_damaged_copies_aside().await?;
        // Controls first: until they are back, an actuator that starts knows no freeze.
        let mut buckets = provision::buckets().to_vec();
        buckets.sort_by_key(|wanted| wanted.bucket != subject::CONTROL_BUCKET);
        for wanted in buckets {
            let name = wanted.bucket.clone();
            self.check_bucket(bus, wanted).await.with_context(|| format!("bucket {name}"))?;
        }
        // An agent that is being added or removed has lost nothing.
        let lock = self.state.lock_credentials().await?;
        let agents = nats_accounts::agents(self.state.known_passwords()?.keys());
        for wanted in provision::streams(&agents) {
            let name = wanted.name.clone();
            match info(bus, &name).await? {
                Some(info) => self.check_position(bus, &name, StreamPosition::of(&info)).await?,
                None => {
                    let created = bus.jetstream().create_stream(wanted).await;
                    let created = created.with_context(|| format!("stream {name} is gone and cannot be created again"))?;
                    let left = left_in(created.cached_info());
                    self.lost(format!("stream {name} was gone; it was created again with {left}"));
                }
            }
        }
        drop(lock);
        if info(bus, &subject::model_stream()).await?.is_none() {
            provision::ensure_models(bus.jetstream()).await?;
            let (name, left) = (subject::MODEL_STORE, left_in(&info_of(bus, &subject::model_stream()).await?));
            self.lost(format!("object store {name} was gone; it was created again with {left}: push lost models again, agents keep theirs until they restart"));
        }
        Ok(())
    }

    async fn check_position(&mut self, bus: &Bus, stream: &str, now: StreamPosition) -> anyhow::Result<()> {
        let lost = match self.record.content.positions.get(stream).map_or(PositionComparison::Intact, |before| before.compare(now)) {
            PositionComparison::Intact => false,
            PositionComparison::Lost => true,
            PositionComparison::Ask(number, at) => written_at(bus, stream, number).await? != Some(at),
        };
        self.record.content.positions.insert(stream.to_owned(), now);
        if lost {
            self.lost(format!("stream {stream} lost messages, because its files were damaged; newer ones are recorded"));
        }
        Ok(())
    }

    async fn check_bucket(&mut self, bus: &Bus, wanted: Config) -> anyhow::Result<()> {
        let (name, stream) = (wanted.bucket.clone(), subject::bucket_stream(&wanted.bucket));
        let Some(info) = info(bus, &stream).await? else {
            return self.restore_bucket(bus, wanted, "was gone").await;
        };
        let found = match read(bus, &name, &info).await {
            Ok(found) => found,
            Err(error) => return self.replace_unreadable(bus, wanted, error).await,
        };
        self.unreadable.remove(&name);
        if name == subject::LEASE_BUCKET {
            // Leaders write it again.
            return Ok(());
        }
        let known = self.copies.content.entry(name.clone()).or_insert_with(|| found.clone());
        let lost = known.lost_in(&found);
        let missed = self.missed.contains(&name);
        if lost.is_empty() && !missed && info.config.description.as_deref() != Some(provision::RESTORING) {
            *known = found;
            return Ok(());
        }
        known.absorb(&found);
        // The copy must not be lost with the bucket.
        self.copies.save()?;
        bus.jetstream().delete_stream(&stream).await.context("failed to delete what is left")?;
        let such_as = lost.first().map_or_else(String::new, |key| format!(", such as {key}"));
        self.restore_bucket(bus, wanted, format!("lost entries{such_as}")).await
    }

    /// Replaces a bucket that cannot be read again and again, if its entries are known.
    async fn replace_unreadable(&mut self, bus: &Bus, wanted: Config, error: anyhow::Error) -> anyhow::Result<()> {
        let attempts = self.unreadable.entry(wanted.bucket.clone()).or_default();
        *attempts += 1;
        let known = wanted.bucket == subject::LEASE_BUCKET || self.copies.content.contains_key(&wanted.bucket);
        if *attempts < UNREADABLE || !known {
            return Err(error);
        }
        self.unreadable.remove(&wanted.bucket);
        bus.jetstream().delete_stream(subject::bucket_stream(&wanted.bucket)).await.context("failed to delete what is left")?;
        self.restore_bucket(bus, wanted, "could not be read").await
    }

    /// Finds the buckets that lack entries which a service has read: they may be newer than the copy. A service may still report what was true before a
    /// bucket was restored.
    async fn find_missed(&mut self) {
        self.missed.clear();
        let Ok(addresses) = self.state.addresses() else { return };
        for conditions in join_all(addresses.health.values().map(|address| conditions(address))).await.into_iter().flatten() {
            let fails = |bucket: &str| conditions.get(&entries_condition(bucket)).is_some_and(|condition| !condition.holds());
            let recent = |bucket: &String| self.restored.get(bucket).is_some_and(|at| clock::since(*at) < REPORTED_WITHIN);
            let buckets = provision::buckets().into_iter().map(|wanted| wanted.bucket);
            self.missed.extend(buckets.filter(|bucket| !recent(bucket) && fails(bucket)));
        }
    }

    /// Creates the bucket `wanted`, which `was` lost, with the entries of the copy.
    async fn restore_bucket(&mut self, bus: &Bus, wanted: Config, was: impl Display) -> anyhow::Result<()> {
        let (name, stream) = (wanted.bucket.clone(), subject::bucket_stream(&wanted.bucket));
        let closed = Config { description: provision::RESTORING.into(), ..wanted.clone() };
        let store = bus.jetstream().create_key_value(closed).await.context("it is gone and cannot be created again")?;
        let mut what = format!("bucket {name} {was}");
        if name == subject::LEASE_BUCKET {
            what.push_str("; leaders write it again");
        } else {
            let restored = self.restore_entries(bus, &name, &stream, &store).await?;
            what.push_str(&format!("; {} restored from a copy", entries(restored)));
        }
        if name == subject::CONTROL_BUCKET {
            what.push_str(", and all functions are frozen, because a newer freeze may be missing: check, then run `qscale unfreeze --all`");
        }
        bus.jetstream().update_key_value(wanted).await.context("failed to open it")?;
        self.restored.insert(name, clock::instant());
        self.lost(what);
        Ok(())
    }

    /// Writes the entries of the copy of the bucket `name` to `store`; returns their number. Controls get a freeze of all functions, which is written first: if
    /// the rest fails, it must not be missing.
    async fn restore_entries(&mut self, bus: &Bus, name: &str, stream: &str, store: &Store) -> anyhow::Result<usize> {
        let mut copy = self.copies.content.get(name).cloned().unwrap_or_default();
        // nats-server may have found entries in the files of the bucket.
        copy.absorb(&read(bus, name, &info_of(bus, stream).await?).await?);
        let freezes = name == subject::CONTROL_BUCKET;
        if freezes {
            store.put(control::ALL, freeze_of_all("qscale up").to_json().into()).await.context("failed to freeze all functions")?;
        }
        let mut restored = 0;
        for (key, value) in copy.values().filter(|(key, _)| !(freezes && *key == control::ALL)) {
            store.put(key, value.to_owned().into()).await.with_context(|| format!("failed to restore {key}"))?;
            restored += 1;
        }
        let found = read(bus, name, &info_of(bus, stream).await?).await?;
        self.copies.content.insert(name.to_owned(), found);
        Ok(restored)
    }

    fn lost(&mut self, what: String) {
        self.report.event(format!("warning: {what}"));
        self.record.content.add(clock::wall(), what);
    }

    /// Checks whether nats-server reports streams that it cannot write or could not recover. The former it does not write until it is restarted.
    async fn check_faults(&mut self, bus: &Bus) -> anyhow::Result<()> {
        let faults = bus.stream_faults().await?;
        let Some(StreamFault { error, .. }) = faults.first() else { return Ok(()) };
        let mut unwritable = false;
        for fault in &faults {
            unwritable |= fault.stream.is_empty() || info(bus, &fault.stream).await?.is_some();
        }
        let more = if faults.len() > 1 { format!(", and {} more", faults.len() - 1) } else { String::new() };
        if unwritable {
            anyhow::bail!(self.restart_server(&format!("{error}{more}")));
        }
        anyhow::bail!("{error}{more}")
    }

    /// Checks that the files of every stream are there. nats-server does not notice that they were deleted, and writes to them until it is restarted.
    async fn check_files(&mut self, bus: &Bus) -> anyhow::Result<()> {
        let agents = nats_accounts::agents(self.state.known_passwords()?.keys());
        let mut deleted = Vec::new();
        for (stream, _) in provision::storage(&agents) {
            let folder = self.streams.join(&stream);
            if !(folder.join("meta.inf").is_file() && folder.join("msgs").is_dir()) && info(bus, &stream).await?.is_some() {
                deleted.push(stream);
            }
        }
        if deleted.is_empty() {
            return Ok(());
        }
        anyhow::bail!(self.restart_server(&format!("the files of {} were deleted", deleted.join(", "))))
    }

    /// Checks by a write whether nats-server writes, for a server that reports only part of its health.
    async fn check_writes(&mut self, bus: &Bus) -> anyhow::Result<()> {
        // Nobody watches this bucket: elsewhere a lost probe would be a lost entry.
        let store = kv::open(bus, subject::LEASE_BUCKET).await?;
        // A deletion marker: readers ignore it, and the bucket keeps one.
        let Err(error) = store.purge(PROBE).await else {
            self.failed_writes = 0;
            return Ok(());
        };
        self.failed_writes += 1;
        anyhow::ensure!(self.failed_writes >= FAILED_WRITES, "nats-server does not write: {error}");
        self.failed_writes = 0;
        anyhow::bail!(self.restart_server(&error.to_string()))
    }

    /// Restarts nats-server if its disk has space and the last restart is long ago. Returns the problem.
    fn restart_server(&mut self, error: &str) -> String {
        let problem = format!("nats-server does not record everything: {error}");
        if self.restarted_within(RESTART_INTERVAL) || disk_full(&self.state.join("")).is_some() {
            return problem;
        }
        let Some(pid) = self.state.nats_server() else { return problem };
        self.restarted = Some(clock::instant());
        // SAFETY: kill takes integers only; the process is the nats-server of this folder.
        if unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) } == 0 {
            self.report.event(format!("warning: restarting nats-server: {error}"));
        }
        problem
    }
}

/// The problem that the disk of `folder` is full, if it is.
fn disk_full(folder: &Path) -> Option<String> {
    free_bytes(folder).filter(|free| *free < DISK_FULL)?;
    Some(format!("disk full: less than {} free in {}; nothing is recorded until you free some", mebibytes(DISK_FULL), folder.display()))
}

/// State of a stream; `None` if it does not exist.
async fn info(bus: &Bus, stream: &str) -> anyhow::Result<Option<Info>> {
    match bus.jetstream().get_stream(stream).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(cause) if cause.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            _ => Err(error).with_context(|| format!("failed to check stream {stream}")),
        },
    }
}

/// Time at which message `number` of a stream was written; `None` if the stream does not have it.
async fn written_at(bus: &Bus, stream: &str, number: u64) -> anyhow::Result<Option<Timestamp>> {
    let found = bus.jetstream().get_stream(stream).await?.get_raw_message(number).await;
    match found {
        Ok(message) => Ok(Some(copies::timestamp(message.time))),
        Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound | RawMessageErrorKind::JetStream(_)) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("failed to read message {number} of stream {stream}")),
    }
}

/// As [`info`], of a stream that must exist.
async fn info_of(bus: &Bus, stream: &str) -> anyhow::Result<Info> {
    info(bus, stream).await?.with_context(|| format!("stream {stream} is gone"))
}

/// Messages that nats-server found in the files of a stream that was created again.
fn left_in(info: &Info) -> String {
    match info.state.messages {
        0 => "none of its messages".into(),
        left => format!("the {} left in its files", counted(left, "message")),
    }
}

async fn read(bus: &Bus, bucket: &str, info: &Info) -> anyhow::Result<BucketCopy> {
    Ok(BucketCopy::of(bucket, info.created, &kv::entries(&kv::open(bus, bucket).await?).await?))
}

fn entries(count: usize) -> String {
    if count == 1 { "1 entry".into() } else { format!("{count} entries") }
}

/// A freeze of all functions: requests that are lost may have been freezes.
pub(crate) fn freeze_of_all(by: &str) -> Control {
    Control {
        version: Version::CURRENT,
        frozen: true,
        restore: None,
        by: by.into(),
        reason: "requests of operators were lost".into(),
        at_ms: clock::now(),
        malformed: false,
    }
}

#[cfg(test)]
mod tests {
    use qscale_common::runtime::private;
    use qscale_tests::{Folder, NatsServer};

    use super::*;

    #[tokio::test]
    async fn a_damaged_copy_is_replaced_unless_something_has_to_be_restored() {
        let (server, folder) = (NatsServer::start_with_accounts(&[]), Folder::new("damaged-copies"));
        let (state, store) = (StateDir::new(folder.path()).expect("a folder"), folder.path().join("nats/store"));
        let setup = async_nats::jetstream::new(server.config("setup").connect_once("test", TIMEOUT).await.expect("it answers"));
        provision::ensure(&setup, &[]).await.expect("created");
        let files = [store.with_extension("buckets.json"), state.join("nats/streams.json")];
        let damage = |content: &[u8]| files.iter().for_each(|file| private::write(file, content).expect("written"));
        let repair = || Repair::new(state.clone(), &store, server.config("setup")).expect("a damaged file is no error");
        for content in [&b""[..], b"{\"qscale_control\":{", b"\xff\xfe"] {
            damage(content);
            let mut repair = repair();
            repair.set_damaged_copies_aside().await.expect("every bucket is there");
            repair.restore().await.expect("nothing is lost");
            let events = repair.report().take_events();
            assert!(events.len() == 2 && events.iter().all(|event| event.contains(".json.damaged")), "{events:?}");
            for file in &files {
                let text = std::fs::read_to_string(file).expect("a new one");
                assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|value| value.is_object()), "{text}");
                assert_eq!(std::fs::read(file.with_extension("json.damaged")).expect("kept"), content);
            }
        }
        setup.delete_stream(subject::bucket_stream(subject::CONTROL_BUCKET)).await.expect("deleted");
        damage(b"{");
        let error = format!("{:#}", repair().set_damaged_copies_aside().await.expect_err("its freezes are in the copy"));
        assert!(error.contains("bucket qscale_control has to be restored") && error.contains("delete it"), "{error}");
        assert_eq!(std::fs::read(&files[0]).expect("kept"), b"{");
    }
}
