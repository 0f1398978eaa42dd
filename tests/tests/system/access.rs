//! Access to the platform of a running system: by the command line of its user, and by nobody without the token.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use qscale_common::runtime::http;
use qscale_tests::process::binary;
use qscale_tests::{CommandResult, System, TIMEOUT};

/// Files and folders below `folder`, itself included.
fn all(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    std::iter::once(folder.to_owned()).chain(entries.flat_map(|entry| all(&entry.path()))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_system_of_a_user_is_private() {
    let system = System::up(&["--load", "none"]);
    let address = system.addresses()["platform"].as_str().expect("an address").to_owned();
    let (status, body) = http::get(&address, "/v1/functions", TIMEOUT).await.expect("a reply");
    assert_eq!(status.as_u16(), 401, "{body}");
    assert!(body.contains(&system.state().join("platform/token").display().to_string()), "{body}");
    for path in all(&system.state()) {
        let Ok(found) = std::fs::symlink_metadata(&path) else { continue };
        // nats-server writes its store with modes of its own, in a folder that is closed.
        if path.strip_prefix(system.state()).is_ok_and(|path| path.starts_with("nats")) && path != system.state().join("nats") {
            continue;
        }
        assert_eq!(found.mode() & 0o077, 0, "{}", path.display());
    }
    let qscale = |arguments: &[&str]| CommandResult::of(&system.qscale(arguments));
    assert!(qscale(&["function", "list"]).success().contains("fibonacci"));
    let shown = qscale(&["platform", "show"]).success();
    assert!(shown.contains("highest fencing token") && shown.contains("functions run as"), "{shown}");
    assert!(qscale(&["doctor", "--json"]).out.contains("isolation of functions"));
    let reset = qscale(&["platform", "reset-lease", "--to", "0"]).success();
    assert!(reset.contains(" before, 0 now"), "{reset}");
    // Only the address: the token is found, or named.
    let elsewhere = |token: &[&str]| {
        let mut command = Command::new(binary("qscale"));
        command.args(["--platform", &address, "function", "list"]).args(token).current_dir("/").env_remove("QSCALE_STATE");
        CommandResult::of(&command.output().expect("qscale runs"))
    };
    assert!(elsewhere(&[]).success().contains("fibonacci"));
    let token = system.state().join("platform/token").display().to_string();
    assert!(elsewhere(&["--token-file", &token]).success().contains("fibonacci"));
    let guessed = system.state().join("guessed");
    std::fs::write(&guessed, "guessed").expect("written");
    let wrong = elsewhere(&["--token-file", &guessed.display().to_string()]).failure();
    assert!(wrong.contains("refused access") && wrong.contains(&token), "{wrong}");
    let absent = elsewhere(&["--token-file", "/no/such/file"]).failure();
    assert!(absent.contains("/no/such/file"), "{absent}");
}
