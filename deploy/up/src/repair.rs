//! Repair of streams that were deleted or lost while the system runs. Owns what is created again: the streams of messages, which fill again, and the bucket of
//! controls, with a freeze of all functions in place of the lost requests. Buckets whose content cannot be restored are left to the operator. Also
//! restarts a nats-server that does not write any more although its disk has space again.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::{self, ErrorCode};
use qscale_common::contract::subject;
use qscale_common::runtime::author::Author;
use qscale_common::runtime::bus::{Bus, BusConfig};
use qscale_common::runtime::nats_accounts::{self, User};
use qscale_common::runtime::operator::{self, Target};
use qscale_common::runtime::{clock, kv, provision};

use crate::say;
use crate::state_dir::StateDir;
use crate::storage::free_bytes;

/// Interval at which the streams are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Key that is written to find out whether nats-server writes.
const PROBE: &str = "probe";
/// Failed writes after which nats-server is restarted; one may be slow.
const FAILED_WRITES: u32 = 2;
/// Free space of the disk below which nats-server is not restarted, bytes.
const MIN_FREE: u64 = 16 << 20;
/// Timeout of a connection and of a request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Checks the streams until it is aborted, connected with `setup`, the credential that may create them; `operator` writes the freeze.
pub async fn run(state: StateDir, setup: BusConfig, operator: Bus) {
    let mut last = String::new();
    let (mut jetstream, mut failed_writes) = (None, 0);
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        let streams = check(&mut jetstream, &state, &setup, &operator).await;
        if let Err(error) = check_writes(&mut failed_writes, &state, &operator).await.and(streams) {
            let error = format!("{error:#}");
            // Repeated while it lasts; the services report the same.
            if error != last {
                say(format_args!("warning: {error}"));
            }
            last = error;
        } else {
            last.clear();
        }
    }
}

/// Restarts nats-server if it repeatedly does not write although its disk has space: after a full disk it refuses all messages until then. `failed` is
/// the number of its last writes that failed.
async fn check_writes(failed: &mut u32, state: &StateDir, operator: &Bus) -> anyhow::Result<()> {
    let store = kv::open(operator, subject::CONTROL_BUCKET).await?;
    // A deletion marker: readers ignore it, and the bucket keeps one.
    let Err(error) = store.purge(PROBE).await else {
        *failed = 0;
        return Ok(());
    };
    let folder = state.join("");
    let free = free_bytes(&folder).unwrap_or(0);
    let unwritable = "nats-server does not write: nothing is recorded, leaders lose their leases, and functions cannot be frozen";
    anyhow::ensure!(free >= MIN_FREE, "{unwritable}; free some space in {}, which has {} MiB left", folder.display(), free >> 20);
    *failed += 1;
    if *failed < FAILED_WRITES {
        return Err(error).context(unwritable);
    }
    *failed = 0;
    let pid = state.nats_server().context(unwritable)?;
    // SAFETY: kill takes integers only; the process is the nats-server of this folder.
    if unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) } != 0 {
        return Err(std::io::Error::last_os_error()).context(unwritable);
    }
    say(format_args!("warning: {unwritable}; restarting it, because the disk has {} MiB left", free >> 20));
    Ok(())
}

async fn check(connected: &mut Option<jetstream::Context>, state: &StateDir, setup: &BusConfig, operator: &Bus) -> anyhow::Result<()> {
    let jetstream = match connected {
        Some(jetstream) => jetstream,
        None => {
            let client = setup.connect_once("qscale-up-repair", TIMEOUT).await.context("failed to check the streams")?;
            connected.insert(jetstream::new(client))
        }
    };
    let controls = provision::buckets().into_iter().find(|wanted| wanted.bucket == subject::CONTROL_BUCKET);
    if let Some(wanted) = controls
        && is_missing(jetstream, &subject::bucket_stream(&wanted.bucket)).await?
    {
        let name = subject::CONTROL_BUCKET;
        jetstream.create_key_value(wanted).await.with_context(|| format!("bucket {name} is gone and cannot be created again"))?;
        freeze_all(operator).await?;
        say(format_args!(
            "warning: bucket {name} was gone; it was created again and all functions are frozen: check, then run `qscale unfreeze`"
        ));
    }
    let agents = nats_accounts::agents(state.known_passwords()?.keys());
    for wanted in provision::streams(&agents) {
        if is_missing(jetstream, &wanted.name).await? {
            let name = wanted.name.clone();
            jetstream.create_stream(wanted).await.with_context(|| format!("stream {name} is gone and cannot be created again"))?;
            say(format_args!("warning: stream {name} was gone; it was created again, its messages are lost"));
        }
    }
    let buckets = provision::buckets().map(|wanted| (subject::bucket_stream(&wanted.bucket), format!("bucket {}", wanted.bucket)));
    let models = (subject::model_stream(), format!("object store {}", subject::MODEL_STORE));
    let mut missing = Vec::new();
    for (stream, name) in buckets.into_iter().chain([models]) {
        if is_missing(jetstream, &stream).await? {
            missing.push(name);
        }
    }
    anyhow::ensure!(
        missing.is_empty(),
        "gone: {}; the services continue with what they read before. Stop the system and start it again",
        missing.join(", ")
    );
    Ok(())
}

async fn is_missing(jetstream: &jetstream::Context, stream: &str) -> anyhow::Result<bool> {
    match jetstream.get_stream(stream).await {
        Ok(_) => Ok(false),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(cause) if cause.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(true),
            _ => Err(error).with_context(|| format!("failed to check stream {stream}")),
        },
    }
}

/// Freezes all functions: the requests that are lost may have been freezes.
async fn freeze_all(operator: &Bus) -> anyhow::Result<()> {
    let author = Author::new(operator, User::Operator, "qscale up").reporting(|error| say(&format!("warning: {error}")));
    let author = author.because(Some("the requests of operators were lost".to_owned()));
    operator::freeze(&author, &Target::All, clock::now()).await.map(drop).context("failed to freeze all functions")
}
