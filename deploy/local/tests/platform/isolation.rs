//! Isolation of functions: their user, capabilities, environment, descriptors, folders, signals and system calls.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;

use qscale_common::platform::EventKind;
use qscale_common::runtime::private;

use crate::harness::{Caller, Platform, eventually, f, folder, spec};

async fn ask(platform: &Platform, path: &str) -> String {
    let reply = platform.http().call(path).await;
    assert!(reply.is_fine(), "{path}: {reply:?}");
    String::from_utf8(reply.body.to_vec()).expect("text")
}

fn is_root() -> bool {
    let root = private::user() == 0;
    if !root {
        eprintln!("skipped: the platform can choose the user of functions only as root");
    }
    root
}

/// The words after `key` in the description of a process.
fn field<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("no {key} in {text}"));
    line[key.len()..].split_whitespace().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_has_no_privilege_no_inherited_descriptor_and_a_clean_environment() {
    let folder = folder();
    let platform = Platform::start_with(folder.path(), &[], |command| {
        command.env("QSCALE_NATS_PASSWORD", "secret").env("AWS_SECRET_ACCESS_KEY", "secret").env("TZ", "UTC");
        // A descriptor that a careless parent leaves open.
        qscale_tests::process::leave_open(command, 77);
    });
    let platform = platform.await;
    platform.client.add(&spec("protocol = \"http\"\nenvironment = { OWN = \"value\" }")).await.expect("added");
    platform.until_ready(1).await;
    let text = ask(&platform, "/process").await;
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(&text, set), ["0000000000000000"], "{set}");
    }
    assert_eq!(field(&text, "NoNewPrivs:"), ["1"]);
    if is_root() {
        assert_eq!(field(&text, "CapBnd:"), ["0000000000000000"]);
        let replica = platform.status().await.actual.replicas[0].clone();
        let user = (2_000_000_000 + u32::from(replica.port.expect("a port"))).to_string();
        assert_eq!(field(&text, "Uid:"), [user.as_str(); 4]);
        assert_eq!(field(&text, "Gid:"), [user.as_str(); 4]);
        assert_eq!(field(&text, "Groups:"), [""; 0]);
    }
    assert!(!text.contains("secret"), "{text}");
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("environment ")?.split('=').next()).collect();
    let allowed = ["HOME", "TMPDIR", "PORT", "OWN", "PATH", "LANG", "LANGUAGE", "TZ", "QSCALE_STATE_OF_PLATFORM", "QSCALE_REPLICA"];
    assert!(names.iter().all(|name| allowed.contains(name) || name.starts_with("LC_")), "{names:?}");
    assert!(["OWN", "TZ", "PATH", "HOME", "TMPDIR"].iter().all(|name| names.contains(name)), "{names:?}");
    // Those of the function itself are sockets, its event queue and the folder that it lists.
    let descriptors: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("descriptor ")).collect();
    let own = |target: &str| ["socket:", "anon_inode:", "pipe:", "/proc/"].iter().any(|kind| target.starts_with(kind));
    let left = |descriptor: &&&str| descriptor.split_once(' ').is_some_and(|(number, target)| number != "0" && !own(target));
    assert_eq!(descriptors.iter().filter(left).count(), 0, "{descriptors:?}");
    assert!(descriptors.iter().all(|descriptor| !descriptor.starts_with("77 ")), "{descriptors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_reaches_neither_the_state_folder_nor_other_processes() {
    let folder = folder();
    let state = folder.path().join("state");
    // Open to all users, so that modes do not protect it.
    let hidden = folder.path().join("hidden");
    std::fs::create_dir(&hidden).expect("created");
    let secret = hidden.join("secret");
    std::fs::write(&secret, "secret").expect("written");
    let public = folder.path().join("public");
    std::fs::write(&public, "public").expect("written");
    for path in [folder.path(), &hidden] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("opened");
    }
    let option = format!("hidden_folders=[{:?}]", hidden.display().to_string());
    let platform = Platform::start(&state, &[&option]).await;
    platform.client.add(&spec("protocol = \"http\"\nallocation = { replicas = 2 }")).await.expect("added");
    platform.until_ready(2).await;
    let read = async |path: &Path| ask(&platform, &format!("/read{}", path.display())).await;
    for file in ["token", "state.json", "addresses.json"] {
        assert!(read(&state.join(file)).await.contains("ermission denied"), "{file}");
    }
    let isolation = platform.client.status().await.expect("status").isolation.expect("functions are processes");
    let missing = |what: &str| isolation.missing.iter().any(|gap| gap.found.contains(what));
    if !missing("Landlock") {
        assert!(read(&secret).await.contains("ermission denied"));
        assert!(ask(&platform, &format!("/create{}/new", hidden.display())).await.contains("ermission denied"));
        assert_eq!(read(&public).await, "done");
    }
    if !missing("seccomp") {
        assert!(ask(&platform, "/namespace").await.contains("not permitted"));
        assert!(ask(&platform, &format!("/trace?pid={}", std::process::id())).await.contains("not permitted"));
    }
    if is_root() || !missing("signals") {
        for pid in [platform.id(), std::process::id()] {
            assert!(ask(&platform, &format!("/signal?pid={pid}")).await.contains("not permitted"), "{pid}");
        }
    }
    if is_root() {
        let replicas = platform.status().await.actual.replicas;
        let direct = Caller::new(&format!("127.0.0.1:{}", replicas[0].port.expect("a port")), false);
        let other = replicas[1].pid.expect("a process id");
        for path in [format!("/signal?pid={other}"), format!("/read{}", format_args!("/proc/{other}/environ"))] {
            let answer = direct.call(&path).await.body;
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.contains("not permitted") || answer.contains("ermission denied"), "{path}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_reaches_files_created_later_beside_a_state_folder_that_its_mode_closes() {
    if !is_root() {
        return;
    }
    let folder = folder();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).expect("opened");
    let platform = Platform::with(&folder.path().join("state"), &spec("protocol = \"http\""), 1).await;
    let later = folder.path().join("later");
    std::fs::write(&later, "public").expect("written");
    assert_eq!(ask(&platform, &format!("/read{}", later.display())).await, "done");
    assert_eq!(ask(&platform, &format!("/create{}", folder.path().join("own").display())).await, "done");
    assert!(ask(&platform, &format!("/read{}", folder.path().join("state/token").display())).await.contains("ermission denied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_has_a_temporary_folder_that_is_removed_with_it() {
    let folder = folder();
    let mut platform = Platform::with(folder.path(), &spec("protocol = \"http\""), 1).await;
    let temporary = async |platform: &Platform| {
        let text = ask(platform, "/process").await;
        field(&text, "environment TMPDIR=")[0].to_owned()
    };
    let first = temporary(&platform).await;
    assert_eq!(ask(&platform, &format!("/create{first}/file")).await, "done");
    let found = std::fs::metadata(&first).expect("it exists");
    assert_eq!(found.mode() & 0o777, 0o700);
    assert_eq!(found.uid() != 0, is_root() || private::user() != 0);
    assert_eq!(platform.http().call("/crash").await.status, http::StatusCode::BAD_GATEWAY);
    platform.until("it is counted", |status| status.crashes == 1).await;
    platform.until_ready(1).await;
    let second = temporary(&platform).await;
    assert!(!Path::new(&second).join("file").exists(), "files of the former process are gone");
    platform.client.delete(&f()).await.expect("deleted");
    eventually("the folder is removed", || async { (!Path::new(&second).exists()).then_some(()) }).await;
    platform.client.add(&spec("protocol = \"http\"")).await.expect("added");
    platform.until_ready(1).await;
    let left = temporary(&platform).await;
    platform.end(libc::SIGKILL).await;
    assert!(Path::new(&left).exists());
    let mut platform = Platform::start(folder.path(), &[]).await;
    assert!(!Path::new(&left).exists(), "the next platform removes it");
    platform.until_ready(1).await;
    let last = temporary(&platform).await;
    platform.end(libc::SIGTERM).await;
    let parent = Path::new(&last).parent().expect("the folder of the platform");
    assert!(!parent.exists(), "{} is left", parent.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_not_ready_while_another_user_listens_on_its_port() {
    if !is_root() {
        return;
    }
    let folder = folder();
    let platform = Platform::start(folder.path(), &[]).await;
    let mut slow = spec("protocol = \"http\"");
    slow.environment.insert("START_DELAY_MS".to_owned(), "2000".to_owned());
    platform.client.add(&slow).await.expect("added");
    let started = platform.until("a replica starts", |status| status.actual.replicas.iter().any(|replica| replica.port.is_some())).await;
    let port = started.actual.replicas[0].port.expect("a port");
    let other = std::net::TcpListener::bind(("127.0.0.1", port)).expect("the replica does not listen yet");
    platform.until("the replica fails to listen", |status| status.crashes > 0).await;
    let events = platform.client.events(0).await.expect("events").events;
    assert!(events.iter().all(|event| event.kind != EventKind::ReplicaReady), "{events:?}");
    drop(other);
    platform.until_ready(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_of_all_functions_can_be_chosen() {
    if !is_root() {
        return;
    }
    let folder = folder();
    let platform = Platform::start(folder.path(), &["function_user=65534"]).await;
    platform.client.add(&spec("protocol = \"http\"")).await.expect("added");
    platform.until_ready(1).await;
    assert_eq!(field(&ask(&platform, "/process").await, "Uid:"), ["65534"; 4]);
    let isolation = platform.client.status().await.expect("status").isolation.expect("functions are processes");
    assert!(isolation.missing.iter().any(|gap| gap.found.contains("share user 65534")), "{isolation:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_in_a_folder_that_is_closed_to_its_user_runs() {
    let folder = folder();
    let closed = folder.path().join("closed");
    std::fs::create_dir(&closed).expect("created");
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).expect("closed");
    let (program, script) = (closed.join("program"), closed.join("script"));
    std::fs::copy(&spec("").command[0], &program).expect("copied");
    std::fs::write(&script, format!("#!/bin/sh\nexec {}\n", spec("").command[0])).expect("written");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("executable");
    let state = folder.path().join("state");
    let platform = Platform::start(&state, &[]).await;
    for path in [program, script] {
        let mut spec = spec("protocol = \"http\"");
        spec.command = vec![path.display().to_string()];
        platform.client.add(&spec).await.expect("added");
        platform.until_ready(1).await;
        assert!(platform.http().call("/").await.is_fine());
        platform.client.delete(&f()).await.expect("deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_root_landlock_hides_the_state_folder_and_restricts_signals() {
    const NOBODY: u32 = 65_534;
    let program = Path::new(env!("CARGO_BIN_EXE_qscale-platform"));
    let closed = |folder: &Path| std::fs::metadata(folder).is_ok_and(|found| found.mode() & 0o001 == 0);
    if !is_root() || program.ancestors().skip(1).any(closed) {
        eprintln!("skipped: only root can start a platform as another user, who must reach the program");
        return;
    }
    let folder = folder();
    for path in [folder.path().to_owned(), folder.path().join("state")] {
        std::fs::create_dir_all(&path).expect("created");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).expect("closed");
        std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).expect("root may");
    }
    let state = folder.path().join("state");
    let platform = Platform::start_with(&state, &[], |command| {
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
    });
    let platform = platform.await;
    platform.client.add(&spec("protocol = \"http\"")).await.expect("added");
    platform.until_ready(1).await;
    let text = ask(&platform, "/process").await;
    assert_eq!(field(&text, "Uid:"), ["65534"; 4]);
    assert_eq!((field(&text, "NoNewPrivs:"), field(&text, "CapEff:")), (vec!["1"], vec!["0000000000000000"]));
    let isolation = platform.client.status().await.expect("status").isolation.expect("functions are processes");
    let missing = |what: &str| isolation.missing.iter().any(|gap| gap.found.contains(what));
    assert!(missing("the user of the platform"), "{isolation:?}");
    if missing("Landlock") {
        eprintln!("skipped: this kernel does not have Landlock, or an old version");
        return;
    }
    for file in ["token", "state.json"] {
        assert!(ask(&platform, &format!("/read{}", state.join(file).display())).await.contains("ermission denied"), "{file}");
    }
    assert!(ask(&platform, &format!("/signal?pid={}", platform.id())).await.contains("not permitted"));
    assert!(ask(&platform, &format!("/read{}", format_args!("/proc/{}/environ", platform.id()))).await.contains("ermission denied"));
    assert!(platform.http().call("/").await.is_fine());
}
