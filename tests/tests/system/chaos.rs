//! Every service is killed in turn, under load: the loop recovers by itself, bounds are never broken, and no replica is orphaned.

use std::path::Path;

use async_nats::jetstream;
use qscale_common::contract::subject;
use qscale_common::runtime::bus::BusConfig;
use qscale_common::runtime::http;
use qscale_tests::watched::{SERVICES, Watched};
use qscale_tests::{Program, TIMEOUT, eventually, eventually_async, free_port, process};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loop_recovers_from_the_death_of_any_service() {
    let mut watched = Watched::new().await;
    watched.loop_turns(3, "the start").await;
    for service in SERVICES {
        let pid = eventually(service, || watched.system.pid_of(service));
        // SAFETY: kill takes numbers only; the process is a child of the system that this test started.
        unsafe { libc::kill(pid as i32, libc::SIGKILL) };
        eventually(&format!("a new {service}"), || watched.system.pid_of(service).filter(|new| *new != pid));
        watched.loop_turns(4, &format!("kill -9 of {service}")).await;
        watched.no_orphans(service).await;
    }
    watched.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_streams_are_created_again_and_lost_controls_count_as_a_freeze() {
    let mut watched = Watched::new().await;
    watched.loop_turns(2, "the start").await;
    let password = std::fs::read_to_string(watched.system.state().join("credentials/setup")).expect("the password of the setup user");
    let config = BusConfig { user: "setup".into(), password, password_file: None, ..watched.system.operator() };
    let setup = jetstream::new(config.connect_once("test", TIMEOUT).await.expect("connected"));
    for stream in [subject::LIVE_STREAM, subject::RECORD_STREAM, "QSCALE_ACTION_threshold-both"] {
        setup.delete_stream(stream).await.expect("it was there");
        eventually_async(stream, async || setup.get_stream(stream).await.ok()).await;
        watched.loop_turns(2, stream).await;
    }
    for bucket in [subject::POLICY_BUCKET, subject::CONTROL_BUCKET] {
        setup.delete_key_value(bucket).await.expect("it was there");
    }
    watched.until_frozen(true).await;
    assert!(watched.system.qscale(&["unfreeze", "--all"]).status.success());
    watched.until_frozen(false).await;
    let controls = watched.system.bus().await.jetstream().get_key_value(subject::CONTROL_BUCKET).await.expect("created again");
    controls.put("default.fibonacci", "{".into()).await.expect("operators may write");
    watched.until_frozen(true).await;
    watched.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_server_that_does_not_write_any_more_is_started_again() {
    let mut watched = Watched::new().await;
    watched.loop_turns(2, "the start").await;
    let pid = eventually("nats-server", || watched.system.pid_of("nats-server"));
    // Every write to a file fails, as after a full disk.
    let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel reads a local that outlives the call; the process is a child of the system that this test started.
    assert_eq!(unsafe { libc::prlimit(pid as i32, libc::RLIMIT_FSIZE, &raw const limit, std::ptr::null_mut()) }, 0);
    eventually("a new nats-server", || watched.system.pid_of("nats-server").filter(|new| *new != pid));
    watched.loop_turns(4, "the restart of nats-server").await;
    assert!(watched.system.qscale(&["freeze", "--all"]).status.success(), "{}", watched.system.tail());
    watched.stop();
}

/// Starts `service` without a bus, with the log `log`, and waits until it is alive.
fn start_with_log(service: &str, settings: &[String], log: &Path) -> (Program, String) {
    let health = format!("127.0.0.1:{}", free_port());
    let fixed = [format!("health={health}"), "nats.url=nats://127.0.0.1:9".to_owned()];
    let arguments: Vec<&str> = fixed.iter().chain(settings).flat_map(|setting| ["--set", setting]).collect();
    (Program::start(&process::binary(service), arguments, log), health)
}

#[tokio::test]
async fn a_log_that_cannot_be_written_costs_nothing_else() {
    for (service, settings) in [
        ("qscale-collector", vec![]),
        ("qscale-actuator", vec![]),
        ("qscale-agent", vec!["agent=threshold".to_owned()]),
        ("qscale-promoter", vec![]),
    ] {
        // Every write fails as on a full disk.
        let (mut program, health) = start_with_log(service, &settings, Path::new("/dev/full"));
        for _ in 0..3 {
            let alive = async || http::get(&health, "/healthz", TIMEOUT).await.ok().filter(|(status, _)| status.is_success());
            eventually_async(&format!("{service} to answer"), alive).await;
        }
        assert!(program.ended().is_none(), "{service} runs");
        assert!(program.stop().success(), "{service} stops when asked");
    }
}
