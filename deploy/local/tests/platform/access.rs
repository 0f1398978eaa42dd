//! Access to the API: the token, requests that a web page could send, the fencing token, and the state folder.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use qscale_common::platform::{LeaseResetReply, MAX_LEASE};
use qscale_common::runtime::platform::{PlatformClient, PlatformError};

use crate::harness::{Platform, f, folder, spec};

const FUNCTION: &str = r#"{"name": "f", "command": ["true"]}"#;
const JSON: &str = "content-type: application/json";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_the_token_is_refused_on_every_path() {
    let folder = folder();
    let platform = Platform::start(folder.path(), &[]).await;
    let token = folder.path().join("token");
    let right = platform.authorization();
    let twice = [right.as_str(), right.as_str()].join("\r\n");
    let wrong = format!("{right}x");
    let basic = right.replace("Bearer", "Basic");
    let attempts = ["x: y", "authorization: Bearer", "authorization: Bearer 0", &wrong, &basic, &twice];
    let requests = [
        "GET /v1/functions",
        "POST /v1/functions",
        "GET /v1/functions/default/f",
        "DELETE /v1/functions/default/f",
        "PUT /v1/functions/default/f/allocation",
        "GET /v1/functions/default/f/logs",
        "GET /v1/events",
        "GET /v1/events?follow=true",
        "GET /v1/platform",
        "PUT /v1/platform/lease",
        "OPTIONS /v1/functions",
        "GET /",
        "GET /metrics/",
        "GET //metrics",
        "POST /v1/functions?/metrics",
    ];
    for request in requests {
        for attempt in attempts {
            let reply = platform.api(request, &["host: localhost", JSON, attempt], FUNCTION).await;
            assert!(reply.starts_with("HTTP/1.1 401 "), "{request} with {attempt:?}: {reply}");
            let expected = ["www-authenticate: Bearer", &*token.display().to_string(), "--token-file"];
            assert!(expected.iter().all(|part| reply.contains(part)), "{reply}");
        }
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        let reply = platform.api(&format!("GET {path}"), &["host: localhost"], "").await;
        assert!(reply.starts_with("HTTP/1.1 200 "), "{path}: {reply}");
    }
    assert_eq!(platform.client.list().await.expect("the client has the token"), []);
    let reply = platform.api("POST /v1/functions", &["host: localhost", JSON, &right], FUNCTION).await;
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_same_user_finds_the_token_and_every_start_has_a_new_one() {
    let folder = folder();
    let mut platform = Platform::start(folder.path(), &[]).await;
    PlatformClient::new(&platform.addresses.api).expect("an address").list().await.expect("the token is found");
    let before = platform.authorization();
    let absent = platform.client.clone().with_token_file(folder.path().join("none"));
    assert!(matches!(absent.list().await, Err(PlatformError::Token { path, .. }) if path.ends_with("none")));
    platform.end(libc::SIGKILL).await;
    let platform = Platform::start(folder.path(), &[]).await;
    let reply = platform.api("GET /v1/functions", &["host: localhost", &before], "").await;
    assert!(reply.starts_with("HTTP/1.1 401 ") && reply.contains("at each start"), "{reply}");
    platform.client.list().await.expect("the client reads the new token");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_a_web_page_could_send_are_refused() {
    let folder = folder();
    let platform = Platform::start(folder.path(), &[]).await;
    let token = platform.authorization();
    // Without permission of the API a page cannot send the token; the other defences hold even with it.
    for (lines, status) in [
        (vec!["host: localhost", "content-type: text/plain", &token], "415"),
        (vec!["host: localhost", &token], "415"),
        (vec!["host: localhost", "content-type: application/x-www-form-urlencoded", &token], "415"),
        (vec!["host: evil.example:8701", JSON, &token], "403"),
        (vec!["host: 127.0.0.1.evil.example", JSON, &token], "403"),
        (vec!["host: localhost", "origin: http://evil.example", "content-type: text/plain"], "401"),
        (vec!["host: 127.0.0.1", "origin: null", JSON], "401"),
    ] {
        let reply = platform.api("POST /v1/functions", &lines, FUNCTION).await;
        assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{lines:?}: {reply}");
    }
    let preflight = ["host: localhost", "origin: http://evil.example", "access-control-request-method: PUT"];
    let reply = platform.api("OPTIONS /v1/functions", &preflight, "").await;
    assert!(!reply.to_ascii_lowercase().contains("access-control-allow"), "{reply}");
    let metrics = platform.api("GET /metrics", &["host: evil.example"], "").await;
    assert!(metrics.starts_with("HTTP/1.1 403 "), "{metrics}");
    assert_eq!(platform.client.list().await.expect("list"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fencing_token_that_no_actuator_can_hold_is_refused_and_an_operator_can_reset_it() {
    let folder = folder();
    let mut platform = Platform::with(folder.path(), &spec("allocation = { replicas = 0 }"), 0).await;
    platform.set(0, 100, 64, Some(7)).await.expect("an actuator");
    for impossible in [0, MAX_LEASE + 1, 1 << 63, u64::MAX] {
        let refused = platform.set(0, 200, 64, Some(impossible)).await.expect_err("no actuator holds it");
        assert!(refused.to_string().contains(&format!("lease = {impossible}, must be 1 to {MAX_LEASE}")), "{refused}");
    }
    platform.set(0, 100, 64, Some(7)).await.expect("the actuator is not locked out");
    platform.set(0, 100, 64, Some(MAX_LEASE)).await.expect("a mistake that is possible");
    platform.set(0, 100, 64, Some(8)).await.expect_err("locked out");
    assert!(platform.client.reset_lease(u64::MAX).await.expect_err("impossible").to_string().contains("highest = "));
    assert_eq!(platform.client.reset_lease(5).await.expect("reset"), LeaseResetReply { before: MAX_LEASE, after: 5 });
    platform.set(0, 100, 64, Some(4)).await.expect_err("older");
    platform.set(0, 100, 64, Some(8)).await.expect("accepted again");
    assert_eq!(platform.client.reset_lease(0).await.expect("reset"), LeaseResetReply { before: 8, after: 0 });
    platform.end(libc::SIGKILL).await;
    let platform = Platform::start(folder.path(), &[]).await;
    assert_eq!(platform.client.status().await.expect("status").highest_lease, 0, "it is saved");
    assert_eq!(platform.client.get(&f()).await.expect("f").desired.cpu_millicores.0, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_in_the_state_folder_is_private() {
    let folder = folder();
    // As an earlier version left it.
    let state = folder.path().join(".qscale");
    std::fs::create_dir(&state).expect("created");
    std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("opened");
    let platform = Platform::start(&state, &[]).await;
    platform.client.add(&spec("allocation = { replicas = 0 }")).await.expect("added");
    let mode = |path: &std::path::Path| std::fs::symlink_metadata(path).expect("it exists").mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    let files: Vec<_> = std::fs::read_dir(&state).expect("a folder").flatten().map(|entry| entry.path()).collect();
    for name in ["token", "state.json", "addresses.json", "lock"] {
        assert!(files.contains(&state.join(name)), "{files:?}");
    }
    // The log belongs to the test.
    for file in files.iter().filter(|file| !file.ends_with("log")) {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
}

#[test]
fn a_state_folder_that_is_locked_linked_or_foreign_is_refused() {
    let folder = folder();
    let refused = |state: &std::path::Path, expected: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qscale-platform"));
        command.args(["--set", &format!("state_dir={}", state.display()), "--set", "api=127.0.0.1:0", "--set", "gateway=127.0.0.1:0"]);
        let output = command.output().expect("it ends by itself");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && expected.iter().all(|part| text.contains(part)), "{text}");
    };
    let locked = folder.path().join("locked");
    std::fs::create_dir(&locked).expect("created");
    let mut holder = Command::new("flock").arg(locked.join("lock")).args(["sleep", "1000"]).spawn().expect("flock");
    let name = format!("process {} (flock ", holder.id());
    qscale_tests::eventually("the lock", || locked.join("lock").exists().then_some(()));
    refused(&locked, &[&locked.display().to_string(), &name]);
    // Its child ends with the file that it holds open.
    qscale_tests::system::children(holder.id()).into_iter().for_each(kill);
    kill(holder.id());
    holder.wait().expect("ended");

    let planted = folder.path().join("planted");
    std::fs::create_dir(&planted).expect("created");
    let victim = folder.path().join("victim");
    std::fs::write(&victim, "kept").expect("written");
    std::os::unix::fs::symlink(&victim, planted.join("token")).expect("linked");
    refused(&planted, &["mode 755", "chmod 700"]);
    std::fs::set_permissions(&planted, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("closed");
    refused(&planted, &[&planted.join("token").display().to_string(), "is a link; remove it"]);
    assert_eq!(std::fs::read_to_string(&victim).expect("read"), "kept");

    if qscale_common::runtime::private::user() != 0 {
        eprintln!("skipped: only root can make a folder of another user");
        return;
    }
    std::os::unix::fs::chown(&planted, Some(65_534), None).expect("root may");
    refused(&planted, &[&planted.display().to_string(), "belongs to user 65534", "chown"]);
}

fn kill(pid: u32) {
    // SAFETY: kill takes plain integers.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
}
