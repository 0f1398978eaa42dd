//! Credentials of agents, with a nats-server configured as by `qscale up`.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use qscale_common::runtime::bus::{Bus, BusConfig};
use qscale_tests::{Folder, Program, TIMEOUT, eventually, nats};
use tokio_util::sync::CancellationToken;

fn qscale(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qscale")).arg("--state-dir").arg(folder).args(arguments).output().expect("the command starts")
}

#[track_caller]
fn text(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    format!("{out}{err}")
}

/// Starts a nats-server with the accounts of `folder`; returns its address.
fn start_server(folder: &Path) -> (Program, String) {
    let configuration = format!(
        "listen: \"127.0.0.1:-1\"\npid_file: {:?}\nports_file_dir: {folder:?}\njetstream {{ store_dir: {:?} }}\ninclude \"accounts.conf\"\n",
        folder.join("nats/nats.pid"),
        folder.join("nats/store"),
    );
    std::fs::write(folder.join("nats/nats.conf"), configuration).expect("written");
    let mut command = Command::new(nats::program());
    command.arg("-c").arg(folder.join("nats/nats.conf"));
    let program = Program::spawn(command, &folder.join("nats.log"));
    let url = eventually("nats-server to listen", || {
        let entries = std::fs::read_dir(folder).expect("there").flatten();
        let ports = entries.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|ending| ending == "ports"))?;
        let ports: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(ports).ok()?).ok()?;
        ports["nats"][0].as_str().map(str::to_owned)
    });
    (program, url)
}

/// The credential that `agent add mine` printed.
fn printed_config(output: &str, url: &str) -> BusConfig {
    let printed = output.lines().find_map(|line| line.strip_prefix("export NATS_URL=")).expect("the address is printed");
    let password = printed.split(':').nth(2).and_then(|rest| rest.split('@').next()).expect("a password is in it");
    BusConfig { url: url.to_owned(), user: "agent-mine".into(), password: password.into(), ..BusConfig::default() }
}

/// Publishes an Action of the agent `mine` and waits for its acknowledgement.
async fn recorded(client: &async_nats::Client) -> Result<(), async_nats::Error> {
    let jetstream = async_nats::jetstream::new(client.clone());
    jetstream.publish("qscale.v1.action.mine.default.f", "{}".into()).await?.await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn credential_is_created_and_removed_while_the_system_runs() {
    let folder = Folder::new("agents");
    let state = folder.path();
    assert!(text(&qscale(state, &["agent", "add", "early"])).contains("qscale up"));
    text(&qscale(state, &["agent", "add", "early"]));
    let kept = std::fs::read_to_string(state.join("changes.json")).expect("the next start records it");
    assert_eq!((kept.matches("agent_added").count(), kept.matches("\"early\"").count()), (1, 1), "{kept}");
    let (_server, url) = start_server(state);
    let addresses =
        serde_json::json!({ "nats": url, "platform": "127.0.0.1:1", "gateway": "127.0.0.1:1", "health": {}, "pid": std::process::id() });
    std::fs::write(state.join("addresses.json"), addresses.to_string()).expect("written");
    let password_file = Some(state.join("credentials/collector"));
    let collector = BusConfig { url: url.clone(), user: "collector".into(), password_file, ..BusConfig::default() };
    let client = collector.connect_once("reads", TIMEOUT).await.expect("the server answers");
    let _listed = Bus::of_client(client, "/qscale/collector/test").answer_reads(&collector, CancellationToken::new());

    let output = text(&qscale(state, &["agent", "add", "mine"]));
    let config = printed_config(&output, &url);
    let client = config.connect_once("test", TIMEOUT).await.expect("the credential is active");
    recorded(&client).await.expect("the agent's Actions are acknowledged as soon as it is added");
    let again = text(&qscale(state, &["agent", "add", "mine"]));
    assert!(again.contains(&config.password), "the credential is unchanged: {again}");

    let removed = Command::new(env!("CARGO_BIN_EXE_qscale")).arg("--state-dir").arg(state).args(["agent", "remove", "early"]).output();
    assert!(text(&removed.expect("starts")).contains("early"));
    text(&qscale(state, &["agent", "remove", "mine"]));
    eventually("the connection of the removed agent to end", || {
        (client.connection_state() == async_nats::connection::State::Disconnected).then_some(())
    });
    let refused = config.connect_once("test", Duration::from_secs(3)).await;
    assert!(refused.is_err(), "the credential was removed");
    let setup = std::fs::read_to_string(state.join("credentials/setup")).expect("the password of the setup user");
    let setup = BusConfig { url: url.clone(), user: "setup".into(), password: setup, ..BusConfig::default() };
    let setup = setup.connect_once("test", TIMEOUT).await.expect("the other credentials stay");
    let stream = async_nats::jetstream::new(setup).get_stream("QSCALE_ACTION_mine").await;
    assert!(stream.is_err(), "its Actions are deleted");
    let output = text(&qscale(state, &["agent", "add", "mine"]));
    let client = printed_config(&output, &url).connect_once("test", TIMEOUT).await.expect("the new credential is active");
    recorded(&client).await.expect("an agent that was removed can be added again");
    text(&qscale(state, &["agent", "remove", "mine"]));
    let changes = text(&qscale(state, &["changes", "--kind", "agent_added,agent_removed"]));
    let made: Vec<_> = changes.lines().filter_map(|line| Some(line.split_once(": ")?.1)).collect();
    let expected = ["agent mine added", "agent early removed", "agent mine removed", "agent mine added", "agent mine removed"];
    assert_eq!(made, expected, "{changes}");
    assert!(!qscale(state, &["agent", "remove", "mine"]).status.success());
    assert!(!qscale(state, &["agent", "add", "Not.A.Label"]).status.success());
}

#[test]
fn concurrent_additions_all_create_a_credential() {
    let folder = Folder::new("agents");
    let names = ["a", "b", "c", "d", "e", "f"];
    let add = |name| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qscale"));
        command.arg("--state-dir").arg(folder.path()).args(["agent", "add", name]).stdout(Stdio::null());
        command.spawn().expect("the command starts")
    };
    for mut command in names.map(add) {
        assert!(command.wait().expect("it ends").success());
    }
    let written = std::fs::read_to_string(folder.path().join("nats/accounts.conf")).expect("written");
    for name in names {
        assert!(written.contains(&format!("agent-{name}")), "{name} is missing");
    }
}
