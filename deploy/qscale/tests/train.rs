//! `qscale train`: the same network after interruptions, a folder with all results, and errors with the invalid value.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use qscale_tests::{CommandResult, Folder, eventually};
use serde_json::Value;

const RECIPE: &str = r#"{
  "ticks": 40000, "worlds": 64, "judgements": 4, "validation_worlds": 4, "test_worlds": 4, "replay_ratio": 0.01,
  "hyperparameters": { "hidden": [16], "batch": 32, "warm_up": 500, "capacity": 20000, "exploration": { "from": 1.0, "to": 0.1, "over": 5000 } },
  "domain": { "most_rps": 10.0 }
}"#;

struct Fixture {
    folder: Folder,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { folder: Folder::new("train") };
        std::fs::write(fixture.path("recipe.json"), RECIPE).expect("a file");
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qscale"));
        command.args(arguments).current_dir(self.folder.path()).env_remove("QSCALE_STATE").stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let CommandResult { code, out, err } = CommandResult::of(&self.command(arguments).output().expect("the command runs"));
        (code, out, err)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

#[test]
fn a_training_writes_its_files_and_is_reproducible() {
    let fixture = Fixture::new();
    let (code, out, err) = fixture.run(&["train", "--recipe", "recipe.json", "--seeds", "2", "--out", "run"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("dqn, seed 1") && out.contains("dqn, seed 2"), "{out}");
    assert!(err.contains("seed 1: 100 %"), "{err}");
    for seed in ["seed-1", "seed-2"] {
        for name in ["recipe.json", "curves.csv", "curves.svg", "last.dqn", "model.dqn", "evaluation.json"] {
            assert!(!fixture.read(&format!("run/{seed}/{name}")).is_empty(), "{seed}/{name}");
        }
        assert_eq!(
            String::from_utf8(fixture.read(&format!("run/{seed}/curves.csv"))).expect("text").lines().count(),
            5,
            "a heading and a line for each judgement"
        );
    }
    let judged: Value = serde_json::from_slice(&fixture.read("run/seed-1/evaluation.json")).expect("JSON");
    assert_eq!(judged["card"]["judged"].as_array().map(Vec::len), Some(4), "{judged}");
    let (code, _, err) = fixture.run(&["train", "--recipe", "recipe.json", "--seed", "2", "--threads", "1", "--out", "again"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(fixture.read("again/model.dqn"), fixture.read("run/seed-2/model.dqn"), "one seed, one network, on any number of threads");
    let join = ["model", "join", "run/seed-1/model.dqn", "run/seed-2/model.dqn", "joined.dqn"];
    let (code, out, err) = fixture.run(&join);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("specialist"), "{out}");
    assert!(fixture.read("joined.dqn").len() > fixture.read("run/seed-1/model.dqn").len() * 3 / 2);
    let joined = fixture.read("joined.dqn");
    let (code, _, err) = fixture.run(&join);
    assert!(code == Some(1) && err.contains("joined.dqn"), "{err}");
    assert_eq!(fixture.read("joined.dqn"), joined, "an existing model is kept");
    let (code, out, err) = fixture.run(&[
        "evaluate",
        "--model",
        "again/model.dqn",
        "--policy",
        "dqn",
        "--policy",
        "hpa",
        "--workload",
        "step",
        "--function",
        "fibonacci",
        "--seeds",
        "2",
        "--json",
    ]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("\"dqn\""), "{out}");
}

#[test]
fn an_interrupted_training_resumes_and_another_one_is_not_overwritten() {
    let fixture = Fixture::new();
    let recipe = RECIPE.replace("\"ticks\": 40000", "\"ticks\": 4000000").replace("\"judgements\": 4", "\"judgements\": 1000");
    std::fs::write(fixture.path("long.json"), recipe).expect("a file");
    let arguments = ["train", "--recipe", "long.json", "--out", "run"];
    let mut child = fixture.command(&arguments).stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("the command runs");
    eventually("a judgement", || fixture.path("run/best.json").exists().then_some(()));
    // SAFETY: a signal to a child of ours that was not waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    let lived = |fixture: &Fixture| -> u64 {
        let rows: Value = serde_json::from_slice(&fixture.read("run/curves.json")).expect("JSON");
        rows.as_array().and_then(|rows| rows.last()).and_then(|row| row["ticks"].as_u64()).expect("a row")
    };
    let before = lived(&fixture);
    let (code, _, err) = fixture.run(&["train", "--recipe", "recipe.json", "--out", "run"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("recipe.json") && err.contains("--overwrite"), "{err}");
    let mut child = fixture.command(&arguments).stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("the command runs");
    eventually("another judgement", || (lived(&fixture) > before).then_some(()));
    // SAFETY: as above.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
}

#[test]
fn invalid_options_are_named() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("wrong.json"), r#"{ "domain": { "sparse": 3 } }"#).expect("a file");
    std::fs::write(fixture.path("none.dqn"), b"hello").expect("a file");
    for (arguments, part) in [
        (&["train", "--recipe", "wrong.json"][..], "tasks.sparse_share = 3"),
        (&["train", "--recipe", "gone.json"], "gone.json"),
        (&["train", "--ticks", "5"], "ticks = 5"),
        (&["train", "--resume", "--out", "nothing"], "nothing/recipe.json"),
        (&["train", "--device", "gpu", "--ticks", "100k"], "--device gpu"),
        (&["train", "--ticks", "12k"], "ticks = 12000, must be at least"),
        (&["ablate", "--ticks", "12k"], "warm_up"),
        (&["evaluate", "--model", "none.dqn", "--policy", "dqn", "--quick"], "`qscale-dqn 1`"),
    ] {
        let (code, _, err) = fixture.run(arguments);
        assert!(code == Some(1) && err.contains(part) && !err.contains("panicked"), "{arguments:?}: {code:?} {err}");
    }
}
