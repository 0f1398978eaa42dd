//! A model goes on learning beside a running system: a round through its gates, a better model that passes them, one that is taken back as the objective burns,
//! and one that somebody else replaces.

use std::process::Output;

use qscale_common::contract::{EventType, State, subject};
use qscale_common::name::Name;
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::models::ModelStore;
use qscale_common::time::Timestamp;
use qscale_dqn::Actions;
use qscale_dqn::checkpoint::{Checkpoint, Purpose};
use qscale_dqn::pretrained::pretrained;
use qscale_promote::{Burn, Gates, Outcome, Rules, Trial};
use qscale_rl::Weights;
use qscale_tests::{System, eventually_async};
use serde_json::Value;

/// Settings that make a round short.
const SHORT: [&str; 15] = [
    "finetune",
    "--once",
    "--json",
    "--since",
    "1h",
    "--updates",
    "20",
    "--validation-worlds",
    "4",
    "--seeds",
    "2",
    "--shadow-for",
    "3m",
    "--watch-for",
    "3m",
];

/// The model that comes along, made to value the choice called `name` above all others.
fn leaning_to(name: &str) -> Checkpoint {
    let (header, weights) = (&pretrained().header, &pretrained().weights);
    let (shift, scale) = weights.normalisation();
    let mut values = weights.values().to_vec();
    let choice = header.actions.iter().position(|action| action == name).expect("a choice of the model");
    // The last numbers are what the head adds to each choice.
    let at = values.len() - header.actions.len() + choice;
    values[at] += 1000.0;
    let weights = Weights::from_parts(weights.architecture().clone(), values, shift.to_vec(), scale.to_vec()).expect("finite");
    let purpose = Purpose { actions: Actions::new(header.action_set, header.scope), worth: header.worth, note: "from a test".into() };
    Checkpoint::new(weights, None, &header.hyperparameters, 1, &purpose)
}

/// A folder's system and what lies in its store.
struct Fixture {
    system: System,
    bus: Bus,
    store: ModelStore,
    dqn: Name,
}

impl Fixture {
    async fn new() -> Self {
        let load = ["--load", "constant:60", "--agent", "dqn", "--tick", "5s"];
        let system = System::up(&[&["--backend", "sim", "--speed", "40"][..], &load[..]].concat());
        let bus = system.bus().await;
        let store = ModelStore::open(&bus).await.expect("it is there");
        Self { system, bus, store, dqn: Name::new("dqn").expect("valid") }
    }

    async fn push(&self, model: &Checkpoint) -> u64 {
        self.store.push(&self.dqn, &model.to_bytes(), &model.fingerprint()).await.expect("operators may write")
    }

    async fn in_use(&self) -> Option<u64> {
        self.store.in_use(&self.dqn).await.expect("known").map(|in_use| in_use.version)
    }

    /// When the newest State was observed.
    async fn newest(&self) -> Timestamp {
        let mut newest = Timestamp(0);
        let visit = |state: State| newest = newest.max(state.observed_at_ms);
        self.bus.read_history_on(subject::all(EventType::State), Timestamp(0), visit).await.expect("readable");
        newest
    }

    /// Waits until `minutes` more were recorded.
    async fn live_through(&self, minutes: u64) {
        let until = Timestamp(self.newest().await.0 + minutes * 60_000);
        eventually_async("more States", async || (self.newest().await > until).then_some(())).await;
    }

    /// The decisions of `qscale finetune` with short settings and `more`.
    #[track_caller]
    fn finetune(&self, more: &[&str]) -> Vec<Value> {
        let output = self.system.qscale(&[&SHORT[..], more].concat());
        let text = text(&output, &self.system);
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    async fn write_down(&self, gates: &Gates) {
        let bucket = self.bus.jetstream().get_key_value(subject::FINETUNE_BUCKET).await.expect("the bucket was made");
        bucket.put("dqn", serde_json::to_vec(gates).expect("writes").into()).await.expect("operators may write");
    }
}

#[track_caller]
fn text(output: &Output, system: &System) -> String {
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), system.tail());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn outcomes(decisions: &[Value]) -> Vec<&str> {
    decisions.iter().map(|decision| decision["outcome"].as_str().expect("a word")).collect()
}

/// Without a budget a round ends at the latest with a recommendation, and the model in use stays.
async fn a_round_says_what_came_of_it(fixture: &Fixture) {
    let mut decisions = fixture.finetune(&[]);
    for _ in 0..10 {
        if outcomes(&decisions) != ["too_little"] {
            break;
        }
        // On a busy machine ticks are missed, of which there is nothing to learn.
        fixture.live_through(5).await;
        decisions = fixture.finetune(&[]);
    }
    let came = outcomes(&decisions);
    let last = *came.last().expect("a decision");
    assert!(["rejected_offline", "rejected_in_shadow", "recommended"].contains(&last), "{decisions:?}");
    assert!(decisions.iter().all(|decision| decision["why"].as_str().is_some_and(|why| !why.is_empty())), "{decisions:?}");
    assert_eq!(fixture.in_use().await, None, "the model that comes along goes on");
    let shown = text(&fixture.system.qscale(&["finetune", "--status"]), &fixture.system);
    assert!(shown.contains("no version of dqn is in use") && shown.contains("BECAUSE") && shown.contains("gate: "), "{shown}");
}

/// What passes every gate is put in use and watched; what it replaced is kept to go back to.
async fn a_better_model_passes_the_gates(fixture: &Fixture) {
    let wasteful = fixture.push(&leaning_to("demand x4")).await;
    fixture.store.put_in_use(&fixture.dqn, wasteful).await.expect("operators may write");
    fixture.live_through(12).await;
    let file = fixture.system.state().join("better.dqn");
    std::fs::write(&file, pretrained().to_bytes()).expect("written");
    let decisions = fixture.finetune(&["--candidate", &file.display().to_string(), "--budget", "1000"]);
    let came = outcomes(&decisions);
    assert!(came.starts_with(&["shadow", "used"]) && came.len() == 3, "{decisions:?}");
    assert!(["kept", "rolled_back"].contains(&came[2]), "{decisions:?}");
    let candidate = decisions[0]["version"].as_u64().expect("it was stored");
    let stays = if came[2] == "kept" { candidate } else { wasteful };
    assert_eq!(fixture.in_use().await, Some(stays), "{decisions:?}");
}

/// A process that comes after another goes on watching, and takes back what burns.
async fn what_burns_is_taken_back_after_a_restart(fixture: &Fixture) {
    let good = fixture.push(pretrained()).await;
    fixture.store.put_in_use(&fixture.dqn, good).await.expect("operators may write");
    let bad = fixture.push(&leaning_to("demand x4")).await;
    let (mut gates, trial) = (Gates::default(), Trial { version: bad, base: Some(good) });
    let before = Burn { violated_minutes: 0.0, judged_minutes: 60.0 };
    let rules = Rules { watch_for: std::time::Duration::from_secs(1800), budget_minutes: Some(1000.0), ..Rules::default() };
    gates.watch(trial, before, "a test says so", fixture.newest().await, &rules);
    fixture.write_down(&gates).await;
    fixture.store.put_in_use(&fixture.dqn, bad).await.expect("operators may write");
    // No model can keep that, so that the one in use burns.
    text(&fixture.system.qscale(&["policy", "set", "fibonacci-001", "objective.latency=1ms"]), &fixture.system);
    let decisions = fixture.finetune(&["--budget", "1000"]);
    assert_eq!(outcomes(&decisions), ["rolled_back"], "{decisions:?}");
    let why = decisions[0]["why"].as_str().expect("words");
    assert!(why.contains("burns faster than before") && why.contains(&format!("dqn@{good} is in use again")), "{why}");
    assert!(decisions[0]["not_before"].as_u64() > decisions[0]["at"].as_u64(), "{decisions:?}");
    assert_eq!(fixture.in_use().await, Some(good));
}

/// What somebody else puts in use is not watched.
async fn another_version_ends_the_watch(fixture: &Fixture) {
    let mut gates = Gates::default();
    let trial = Trial { version: 900, base: Some(800) };
    gates.watch(
        trial,
        Burn::default(),
        "a test says so",
        fixture.newest().await,
        &Rules { budget_minutes: Some(1000.0), ..Rules::default() },
    );
    fixture.write_down(&gates).await;
    let in_use = fixture.in_use().await;
    let decisions = fixture.finetune(&["--budget", "1000"]);
    assert_eq!(outcomes(&decisions), ["foreign"], "{decisions:?}");
    assert_eq!(fixture.in_use().await, in_use);
    let shown = text(&fixture.system.qscale(&["finetune", "--status", "--json"]), &fixture.system);
    let status: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((&status["stage"]["at"], &status["decisions"][1]["version"]), (&"rest".into(), &900.into()));
    let written: Vec<Outcome> =
        serde_json::from_value(status["decisions"].as_array().expect("a list").iter().map(|said| said["outcome"].clone()).collect())
            .expect("outcomes");
    assert_eq!(written, [Outcome::Used, Outcome::Foreign]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_goes_on_learning_and_is_replaced_through_gates_alone() {
    let fixture = Fixture::new().await;
    fixture.live_through(15).await;
    a_round_says_what_came_of_it(&fixture).await;
    a_better_model_passes_the_gates(&fixture).await;
    what_burns_is_taken_back_after_a_restart(&fixture).await;
    another_version_ends_the_watch(&fixture).await;
    let mut system = fixture.system;
    assert!(system.stop(), "{}", system.tail());
}
