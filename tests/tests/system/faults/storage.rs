//! The disk of the nats-server is full, and its files are damaged or deleted.

use std::path::{Path, PathBuf};

use qscale_common::contract::{Outcome, subject};
use qscale_common::runtime::kv;
use qscale_common::time::Timestamp;
use qscale_tests::watched::{LOAD, Watched};
use qscale_tests::{System, eventually, eventually_async};

/// Room for the streams, which `qscale up` requires, and little more.
const DISK_MIB: u32 = 2_100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_named_and_everything_recovers_when_it_is_freed() {
    if !super::is_root() {
        return;
    }
    let mut watched = Watched::of(System::up_with(&LOAD, Some(DISK_MIB), |_| ())).await;
    watched.loop_turns(2, "the start").await;
    let disk = watched.system.disk().expect("a disk of its own");
    disk.fill();
    let path = disk.path().display().to_string();
    eventually("qscale up to name the disk", || {
        let text = watched.system.printed();
        text.lines().any(|line| line.contains("disk full") && line.contains(&path)).then_some(())
    });
    for service in ["actuator", "collector"] {
        eventually_async("readiness to name the reason", async || {
            watched.system.readiness(service).await.contains("no space left on device").then_some(())
        })
        .await;
    }
    let doctor = watched.system.qscale(&["doctor"]);
    let found = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(!doctor.status.success() && found.contains("disk full") && found.contains(&path), "{found}");
    assert!(!found.contains("check the collector"), "the collector is not the culprit: {found}");
    let frozen = watched.system.qscale(&["freeze", "fibonacci"]).status.success();
    disk.free();
    eventually("the streams to be written again", || watched.system.printed().contains("the streams are healthy again").then_some(()));
    watched.loop_turns(4, "the disk was freed").await;
    watched.until_frozen(frozen).await;
    if frozen {
        assert!(watched.system.qscale(&["unfreeze", "fibonacci"]).status.success());
        watched.until_frozen(false).await;
    }
    let mut outcomes = 0;
    let bus = watched.system.bus().await;
    let read = bus.read_history(Timestamp(0), |_: Outcome| outcomes += 1).await;
    assert!(read.is_ok() && outcomes > 0, "{read:?}, {outcomes} Outcomes");
    eventually("doctor to be content", || watched.system.qscale(&["doctor"]).status.success().then_some(()));
    watched.stop();
}

/// Files of the nats-server below `folder` whose name ends in `ending`.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found
}

fn truncate(path: &Path) {
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("a file of the server");
    file.set_len(file.metadata().expect("a length").len() / 2).expect("truncated");
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).expect("a file of the server");
    let (from, to) = (bytes.len() / 4, bytes.len() / 2);
    bytes[from..to].iter_mut().for_each(|byte| *byte ^= 0x5a);
    std::fs::write(path, bytes).expect("written");
}

fn remove(path: &Path) {
    std::fs::remove_file(path).expect("removed");
}

fn streams(system: &System) -> PathBuf {
    system.state().join("nats/store/jetstream/QSCALE/streams")
}

struct Damage {
    what: &'static str,
    streams: &'static [&'static str],
    ending: &'static str,
    act: fn(&Path),
}

impl Damage {
    /// Damages the files of a nats-server that is stopped, and ends it.
    fn apply(&self, watched: &Watched) {
        watched.system.signal("nats-server", libc::SIGSTOP);
        for stream in self.streams {
            let found = files(&streams(&watched.system).join(stream), self.ending);
            assert!(!found.is_empty(), "no {} of {stream}", self.ending);
            found.iter().for_each(|path| (self.act)(path));
        }
        watched.system.signal("nats-server", libc::SIGKILL);
    }
}

const BUCKETS: &[&str] = &["KV_qscale_control", "KV_qscale_policies"];

/// The value of `key` of a bucket.
async fn value(watched: &Watched, bucket: &str, key: &str) -> Option<String> {
    let store = kv::open(&watched.system.bus().await, bucket).await.ok()?;
    let value = kv::all(&store).await.ok()?.remove(key)?;
    String::from_utf8(value).ok()
}

/// Waits until the freeze and the policy that [`prepare`] wrote are back, and all functions are frozen with them.
async fn until_restored(watched: &mut Watched, after: &str) {
    eventually_async(&format!("the controls after {after}"), async || {
        let own = value(watched, subject::CONTROL_BUCKET, "default.other").await?;
        let all = value(watched, subject::CONTROL_BUCKET, "all").await?;
        (own.contains("keep") && all.contains("\"frozen\":true")).then_some(())
    })
    .await;
    eventually_async(&format!("the policies after {after}"), async || {
        value(watched, subject::POLICY_BUCKET, "default.fibonacci").await?.contains("\"max\":7").then_some(())
    })
    .await;
    watched.until_frozen(true).await;
    let doctor = watched.system.qscale(&["doctor"]);
    let found = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(found.contains("bucket qscale_control"), "{found}");
    assert!(watched.system.qscale(&["unfreeze", "--all"]).status.success());
    prepare(watched);
    watched.until_frozen(false).await;
    watched.loop_turns(2, after).await;
}

/// Writes a freeze of another function, and a policy that differs from the one that `qscale up` wrote.
fn prepare(watched: &Watched) {
    for arguments in [&["freeze", "other", "--reason", "keep"][..], &["policy", "set", "fibonacci", "bounds.replicas.max=7"]] {
        let output = watched.system.qscale(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // Copied once it was read again.
    let copy = watched.system.state().join("nats/store.buckets.json");
    eventually("a copy of both", || {
        let text = std::fs::read_to_string(&copy).ok()?;
        (text.contains("keep") && text.contains(r#"\"max\":7"#)).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_and_deleted_files_of_buckets_are_restored_and_freeze_all_functions() {
    let mut watched = Watched::new().await;
    watched.loop_turns(2, "the start").await;
    prepare(&watched);
    for damage in [
        Damage { what: "changed bytes", streams: BUCKETS, ending: ".blk", act: flip },
        Damage { what: "half of the messages", streams: BUCKETS, ending: ".blk", act: truncate },
        Damage { what: "no messages", streams: BUCKETS, ending: ".blk", act: remove },
        Damage { what: "a changed configuration", streams: BUCKETS, ending: "meta.inf", act: flip },
    ] {
        damage.apply(&watched);
        until_restored(&mut watched, damage.what).await;
    }
    std::fs::remove_dir_all(streams(&watched.system)).expect("deleted");
    watched.system.signal("nats-server", libc::SIGKILL);
    until_restored(&mut watched, "the loss of the whole store").await;
    // The server goes on with open files.
    std::fs::remove_dir_all(streams(&watched.system)).expect("deleted");
    until_restored(&mut watched, "the loss of the whole store under a running server").await;
    watched.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_messages_of_streams_are_reported_and_recorded_again() {
    let mut watched = Watched::new().await;
    for (act, ending) in [(flip as fn(&Path), ".blk"), (truncate, ".blk"), (remove, "meta.inf")] {
        watched.loop_turns(6, "before damage").await;
        let streams = &["QSCALE_RECORD", "QSCALE_LIVE"];
        Damage { what: ending, streams, ending, act }.apply(&watched);
        watched.loop_turns(3, &format!("damage of {ending}")).await;
    }
    eventually("a report", || watched.system.printed().contains("stream QSCALE_RECORD").then_some(()));
    eventually("doctor to show the loss and nothing wrong any more", || {
        let doctor = watched.system.qscale(&["doctor"]);
        let found = String::from_utf8_lossy(&doctor.stdout).into_owned();
        (doctor.status.success() && found.contains("stream QSCALE_RECORD lost messages")).then_some(())
    });
    watched.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_lost_while_no_system_ran_is_restored_by_the_next_one() {
    let mut watched = Watched::new().await;
    watched.loop_turns(2, "the start").await;
    prepare(&watched);
    let Watched { mut system, .. } = watched;
    system.restart(|state| {
        for path in files(&state.join("nats/store/jetstream/QSCALE/streams/KV_qscale_control"), ".blk") {
            flip(&path);
        }
    });
    let mut watched = Watched::of(system).await;
    watched.until_frozen(true).await;
    assert!(value(&watched, subject::CONTROL_BUCKET, "default.other").await.is_some_and(|own| own.contains("keep")));
    watched.stop();
}
