//! Checks of the nats-server: connection, JetStream, streams and buckets with their limits. Owns the comparison of found and required configuration.

use std::collections::BTreeSet;

use async_nats::jetstream::stream::Config;
use qscale_common::contract::subject;
use qscale_common::runtime::bus::{Bus, ConnectError};
use qscale_common::runtime::provision;
use qscale_common::text::{self, mebibytes};
use qscale_common::time::Timestamp;

use super::report::Report;
use crate::copies;
use crate::state_dir::StateDir;

const PROVISION: &str = "stop the system and run `qscale up`, which updates streams and buckets without data loss";

/// Checks that the server answered, accepted the credential and is recent enough.
pub fn reach(report: &mut Report, connected: anyhow::Result<Bus>) -> Option<Bus> {
    const CHECK: &str = "NATS";
    match connected {
        Ok(bus) => {
            let server = bus.client().server_info();
            report.pass(CHECK, format!("{} answers, version {}", address(&server.host, server.port), server.version));
            Some(bus)
        }
        Err(error) => {
            let fix = match error.downcast_ref::<ConnectError>() {
                Some(ConnectError::Refused { .. }) => {
                    "the credential was refused: specify user and password in --nats, or restart `qscale up`"
                }
                Some(ConnectError::TooOld { .. }) => "run `make tools`, or install nats-server 2.11 or newer",
                Some(ConnectError::Unreachable { .. }) | None => "start the system with `qscale up`, or specify its server with --nats",
            };
            report.fail(CHECK, format!("{error:#}"), fix);
            None
        }
    }
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Checks that JetStream is enabled and every stream, bucket and store exists with its limits, and is written. Returns whether it is.
pub async fn storage(report: &mut Report, bus: &Bus) -> bool {
    let written = written(report, bus).await;
    streams(report, bus).await;
    written
}

/// Checks that nats-server could recover and can write every stream.
async fn written(report: &mut Report, bus: &Bus) -> bool {
    const CHECK: &str = "streams";
    const FIX: &str = "free some space if its disk is full; `qscale up` then restarts nats-server and restores what it can";
    let faults = match bus.stream_faults().await {
        Ok(faults) => faults,
        Err(error) => {
            report.fail(CHECK, format!("{error:#}"), FIX);
            return false;
        }
    };
    for fault in &faults {
        report.fail(if fault.stream.is_empty() { CHECK.to_owned() } else { format!("stream {}", fault.stream) }, &fault.error, FIX);
    }
    faults.is_empty()
}

/// Warns about losses of streams and buckets since `since`.
pub fn losses(report: &mut Report, state: &StateDir, since: Timestamp) {
    const CHECK: &str = "losses";
    match copies::stream_record(state) {
        Ok(record) => {
            if let Some(damage) = record.damage() {
                report.warn(CHECK, format!("the record is damaged: {damage}"), "restart `qscale up`, which writes a new one");
            }
            for loss in record.content.losses.iter().filter(|loss| loss.at_ms >= since) {
                report.warn(CHECK, format!("{} {}: {}", text::day(loss.at_ms), text::clock(loss.at_ms), loss.what), "check the disk");
            }
        }
        Err(error) => report.fail(CHECK, format!("{error:#}"), "delete the file and restart `qscale up`"),
    }
}

async fn streams(report: &mut Report, bus: &Bus) {
    match bus.jetstream().query_account().await {
        Ok(account) => report.pass("JetStream", format!("enabled, {} used", mebibytes(account.storage))),
        Err(error) => {
            return report.fail(
                "JetStream",
                format!("no reply: {error}"),
                "run nats-server with -js, or let `qscale up` run it; the user must be operator",
            );
        }
    }
    let agents = match bus.agents_with_stream().await {
        Ok(agents) => agents,
        Err(error) => return report.fail("streams", format!("{error:#}"), PROVISION),
    };
    for wanted in provision::streams(&agents) {
        let check = format!("stream {}", wanted.name);
        compare(report, bus, check, &wanted).await;
    }
    for bucket in provision::buckets() {
        let check = format!("bucket {}", bucket.bucket);
        // A bucket is a stream with its limits in these fields.
        let wanted = Config {
            name: subject::bucket_stream(&bucket.bucket),
            max_messages_per_subject: bucket.history,
            max_message_size: bucket.max_value_size,
            max_bytes: bucket.max_bytes,
            ..Default::default()
        };
        compare(report, bus, check, &wanted).await;
    }
    let check = format!("object store {}", subject::MODEL_STORE);
    match bus.jetstream().get_object_store(subject::MODEL_STORE).await {
        Ok(_) => report.pass(check, "exists"),
        Err(error) => report.fail(check, error.to_string(), PROVISION),
    }
}

async fn compare(report: &mut Report, bus: &Bus, check: String, wanted: &Config) {
    match bus.jetstream().get_stream(&wanted.name).await {
        Ok(stream) => {
            let info = stream.cached_info();
            let differences = differences(wanted, &info.config);
            if differences.is_empty() {
                report.pass(
                    check,
                    format!("{}, {} of {}", counted(info.state.messages), mebibytes(info.state.bytes), limit(wanted.max_bytes)),
                );
            } else {
                report.fail(check, differences.join("; "), PROVISION);
            }
        }
        Err(error) => report.fail(check, error.to_string(), PROVISION),
    }
}

/// Fields of `found` that differ from `wanted`; fields with default values in `wanted` are not compared.
fn differences(wanted: &Config, found: &Config) -> Vec<String> {
    let mut differences = Vec::new();
    let mut number = |field: &str, wanted: i64, found: i64| {
        if wanted != 0 && wanted != found {
            differences.push(format!("{field} = {found}, must be {wanted}"));
        }
    };
    number("max_bytes", wanted.max_bytes, found.max_bytes);
    number("max_message_size", wanted.max_message_size.into(), found.max_message_size.into());
    number("max_messages_per_subject", wanted.max_messages_per_subject, found.max_messages_per_subject);
    for (field, wanted, found) in
        [("max_age", wanted.max_age, found.max_age), ("duplicate_window", wanted.duplicate_window, found.duplicate_window)]
    {
        if !wanted.is_zero() && wanted != found {
            differences.push(format!("{field} = {found:?}, must be {wanted:?}"));
        }
    }
    let set = |config: &Config| config.subjects.iter().map(ToString::to_string).collect::<BTreeSet<String>>();
    let (wanted_subjects, found_subjects) = (set(wanted), set(found));
    if !wanted_subjects.is_empty() && wanted_subjects != found_subjects {
        differences.push(format!("subjects = {found_subjects:?}, must be {wanted_subjects:?}"));
    }
    if wanted.no_ack && !found.no_ack {
        differences.push("no_ack = false, must be true".into());
    }
    differences
}

fn counted(messages: u64) -> String {
    text::counted(messages, "message")
}

fn limit(bytes: i64) -> String {
    u64::try_from(bytes).map_or_else(|_| "any".to_owned(), mebibytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_limit_is_reported_with_both_values() {
        let streams = provision::streams(&[qscale_common::name::Name::new("mine").expect("valid")]);
        assert!(streams.iter().all(|stream| differences(stream, stream).is_empty()));
        let live = &streams[0];
        let changed = Config { max_bytes: 1, subjects: vec!["other".into()], no_ack: false, ..live.clone() };
        let text = differences(live, &changed).join("; ");
        for part in ["max_bytes = 1, must be 268435456", "subjects = {\"other\"}", "no_ack = false"] {
            assert!(text.contains(part), "`{part}` in {text}");
        }
    }
}
