//! Repair of streams that were deleted or lost while the system runs. Owns what is created again: the streams of messages, which fill again, and the bucket of
//! controls, with a freeze of all functions in place of the lost requests. Buckets whose content cannot be restored are left to the operator.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::{self, ErrorCode};
use qscale_common::contract::{Version, subject};
use qscale_common::control::{self, Control};
use qscale_common::runtime::bus::{Bus, BusConfig};
use qscale_common::runtime::{clock, kv, nats_accounts, provision};

use crate::say;
use crate::state_dir::StateDir;

/// Interval at which the streams are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Timeout of a connection and of a request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Checks the streams until it is aborted, connected with `setup`, the credential that may create them; `operator` writes the freeze.
pub async fn run(state: StateDir, setup: BusConfig, operator: Bus) {
    let mut last = String::new();
    let mut jetstream = None;
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        if let Err(error) = check(&mut jetstream, &state, &setup, &operator).await {
            let error = format!("{error:#}");
            // Repeated while it lasts; the services report the same.
            if error != last {
                say(&format!("warning: {error}"));
            }
            last = error;
        } else {
            last.clear();
        }
    }
}

async fn check(connected: &mut Option<jetstream::Context>, state: &StateDir, setup: &BusConfig, operator: &Bus) -> anyhow::Result<()> {
    let jetstream = match connected {
        Some(jetstream) => jetstream,
        None => {
            let client = setup.connect_once("qscale-up-repair", TIMEOUT).await.context("failed to check the streams")?;
            connected.insert(jetstream::new(client))
        }
    };
    let agents = nats_accounts::agents(state.known_passwords()?.keys());
    for wanted in provision::streams(&agents) {
        if is_missing(jetstream, &wanted.name).await? {
            let name = wanted.name.clone();
            jetstream.create_stream(wanted).await.with_context(|| format!("stream {name} is gone and cannot be created again"))?;
            say(&format!("warning: stream {name} was gone; it was created again, its messages are lost"));
        }
    }
    for wanted in provision::buckets() {
        let name = wanted.bucket.clone();
        if !is_missing(jetstream, &subject::bucket_stream(&name)).await? {
            continue;
        }
        if name != subject::CONTROL_BUCKET {
            anyhow::bail!("bucket {name} is gone; the services continue with what they read before. Stop the system and start it again");
        }
        jetstream.create_key_value(wanted).await.with_context(|| format!("bucket {name} is gone and cannot be created again"))?;
        freeze_all(operator).await?;
        say(&format!(
            "warning: bucket {name} was gone; it was created again and all functions are frozen: check, then run `qscale unfreeze`"
        ));
    }
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
    let freeze = Control {
        version: Version::CURRENT,
        frozen: true,
        restore: None,
        by: "qscale up".into(),
        reason: "the requests of operators were lost".into(),
        at_ms: clock::now(),
        malformed: false,
    };
    let store = kv::open(operator, subject::CONTROL_BUCKET).await?;
    store.put(control::ALL, freeze.to_json().into()).await.context("failed to freeze all functions")?;
    Ok(())
}
