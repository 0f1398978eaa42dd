//! A model is fine-tuned on a running system: a round through the gates, a better model that passes them, one that is rolled back because of violations, and one that
//! an operator replaces.

use std::process::Output;

use qscale_common::contract::{EventType, State, subject};
use qscale_common::name::Name;
use qscale_common::runtime::author::Author;
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::models::{ModelPointer, ModelStore};
use qscale_common::runtime::nats_accounts::User;
use qscale_common::runtime::signature::SigningKey;
use qscale_common::time::Timestamp;
use qscale_dqn::Actions;
use qscale_dqn::checkpoint::{Checkpoint, NetworkPurpose};
use qscale_dqn::pretrained::pretrained;
use qscale_promote::promotion::ViolationMinutes;
use qscale_promote::record::PromotionRecord;
use qscale_promote::{Promotion, PromotionDecision, PromotionRules, Trial};
use qscale_rl::Weights;
use qscale_tests::{System, eventually_async};
use serde_json::Value;

/// Arguments of a short round.
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

/// The bundled model, changed to prefer the action called `name` to all others.
fn leaning_to(name: &str) -> Checkpoint {
    let (header, weights) = (&pretrained().header, &pretrained().weights);
    let (shift, scale) = weights.normalisation();
    let mut values = weights.values().to_vec();
    let choice = header.actions.iter().position(|action| action == name).expect("an action of the model");
    // The last values are the biases of the head, one per action.
    let at = values.len() - header.actions.len() + choice;
    values[at] += 1000.0;
    let weights = Weights::from_parts(weights.architecture().clone(), values, shift.to_vec(), scale.to_vec()).expect("finite");
    let purpose =
        NetworkPurpose { actions: Actions::new(header.action_set, header.scope), reward: header.reward, note: "from a test".into() };
    Checkpoint::new(weights, None, &header.hyperparameters, 1, &purpose)
}

/// A system and its model store.
struct Fixture {
    system: System,
    bus: Bus,
    store: ModelStore,
    dqn: Name,
}

impl Fixture {
    async fn new() -> Self {
        // The policy does not ask its network under a steady load.
        let load = ["--load", "diurnal:40..80/2m", "--agent", "dqn", "--tick", "5s", "--require-signatures"];
        let system = System::up(&[&["--backend", "sim", "--speed", "40"][..], &load[..]].concat());
        let bus = system.bus().await;
        let store = ModelStore::open(&bus).await.expect("it is there");
        Self { system, bus, store, dqn: Name::new("dqn").expect("valid") }
    }

    fn author(&self) -> Author {
        let key = SigningKey::read(&self.system.state().join("keys/operator")).expect("made at the start");
        Author::new(&self.bus, User::Operator, "test").signing(Some(key))
    }

    async fn push(&self, model: &Checkpoint) -> u64 {
        self.store.push(&self.author(), &self.dqn, &model.to_bytes(), &model.fingerprint()).await.expect("operators may write")
    }

    async fn put_in_use(&self, version: u64) -> ModelPointer {
        let pointer = self.store.pointer(&self.dqn).await.expect("known");
        self.store.put_in_use(&self.author(), &self.dqn, version, &pointer).await.expect("operators may write")
    }

    async fn in_use(&self) -> Option<u64> {
        self.store.in_use(&self.dqn).await.expect("known").map(|in_use| in_use.version)
    }

    /// Time of the newest State.
    async fn newest(&self) -> Timestamp {
        let mut newest = Timestamp(0);
        let visit = |state: State| newest = newest.max(state.observed_at_ms);
        self.bus.read_history_on(subject::all(EventType::State), Timestamp(0), visit).await.expect("readable");
        newest
    }

    /// Waits until `minutes` more are recorded.
    async fn record_minutes(&self, minutes: u64) {
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

    /// Replaces the record of the promotion by what `change` makes of an empty one.
    async fn write_record(&self, change: impl FnOnce(&mut Promotion)) {
        let mut record = PromotionRecord::read(&self.bus, &self.dqn).await.expect("readable");
        // A round that was requested earlier must not run again.
        record.promotion = Promotion { round: record.promotion.round, ..Promotion::default() };
        change(&mut record.promotion);
        record.write().await.expect("operators may write");
    }
}

#[track_caller]
fn text(output: &Output, system: &System) -> String {
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), system.tail());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn names(decisions: &[Value]) -> Vec<&str> {
    decisions.iter().map(|decision| decision["decision"].as_str().expect("a name")).collect()
}

/// Without a budget a round ends with a recommendation at most, and the model in use stays.
async fn a_round_reports_its_decisions(fixture: &Fixture) {
    let mut decisions = fixture.finetune(&[]);
    for _ in 0..10 {
        if names(&decisions) != ["too_little"] {
            break;
        }
        // On a busy machine ticks are missed, and a missed tick is not a step.
        fixture.record_minutes(5).await;
        decisions = fixture.finetune(&[]);
    }
    let decided = names(&decisions);
    let last = *decided.last().expect("a decision");
    assert!(["rejected_offline", "rejected_in_shadow", "recommended"].contains(&last), "{decisions:?}");
    assert!(decisions.iter().all(|decision| decision["reason"].as_str().is_some_and(|reason| !reason.is_empty())), "{decisions:?}");
    assert_eq!(fixture.in_use().await, None, "the bundled model stays");
    let shown = text(&fixture.system.qscale(&["finetune", "--status"]), &fixture.system);
    assert!(shown.contains("no version of dqn is in use") && shown.contains("REASON") && shown.contains("gate: "), "{shown}");
}

/// A candidate that passes every gate is put in use and watched.
async fn a_better_model_passes_the_gates(fixture: &Fixture) {
    let wasteful = fixture.push(&leaning_to("demand x4")).await;
    fixture.put_in_use(wasteful).await;
    fixture.record_minutes(12).await;
    let file = fixture.system.state().join("better.dqn");
    std::fs::write(&file, pretrained().to_bytes()).expect("written");
    let decisions = fixture.finetune(&["--candidate", &file.display().to_string(), "--budget", "1000"]);
    let decided = names(&decisions);
    assert!(decided.starts_with(&["shadow", "used"]) && decided.len() == 3, "{decisions:?}");
    assert!(["kept", "rolled_back"].contains(&decided[2]), "{decisions:?}");
    let candidate = decisions[0]["version"].as_u64().expect("it was stored");
    let stays = if decided[2] == "kept" { candidate } else { wasteful };
    assert_eq!(fixture.in_use().await, Some(stays), "{decisions:?}");
}

/// A trial that was recorded and not carried out, as after a crash between the two, is carried out; violations roll it back.
async fn violations_roll_a_candidate_back(fixture: &Fixture) {
    let good = fixture.push(pretrained()).await;
    let pointer = fixture.put_in_use(good).await;
    let bad = fixture.push(&leaning_to("demand x4")).await;
    let (trial, now) = (Trial { version: bad, base: Some(good) }, fixture.newest().await);
    let before = ViolationMinutes { violated_minutes: 0.0, judged_minutes: 60.0 };
    let rules = PromotionRules { budget_minutes: Some(1000.0), ..PromotionRules::default() };
    fixture.write_record(|promotion| promotion.watch(trial, pointer.revision, before, "a test", now, &rules)).await;
    // No model can reach that objective.
    text(&fixture.system.qscale(&["policy", "set", "fibonacci-001", "objective.latency=1ms"]), &fixture.system);
    let decisions = fixture.finetune(&["--budget", "1000"]);
    assert_eq!(names(&decisions), ["rolled_back"], "{decisions:?}");
    let reason = decisions[0]["reason"].as_str().expect("text");
    assert!(reason.contains(&format!("dqn@{good}")), "{reason}");
    assert!(decisions[0]["not_before"].as_u64() > decisions[0]["at"].as_u64(), "{decisions:?}");
    assert_eq!(fixture.in_use().await, Some(good));
}

/// A version that an operator puts in use ends the trial.
async fn another_version_ends_the_watch(fixture: &Fixture) {
    let (trial, now) = (Trial { version: 900, base: Some(800) }, fixture.newest().await);
    let rules = PromotionRules { budget_minutes: Some(1000.0), ..PromotionRules::default() };
    fixture
        .write_record(|promotion| {
            promotion.watch(trial, 0, ViolationMinutes::default(), "a test", now, &rules);
            promotion.started(now, &rules);
        })
        .await;
    let in_use = fixture.in_use().await;
    // The promoter may see it before it reads the command's request: the command reports only what is decided from then on.
    fixture.finetune(&["--budget", "1000"]);
    assert_eq!(fixture.in_use().await, in_use);
    let shown = text(&fixture.system.qscale(&["finetune", "--status", "--json"]), &fixture.system);
    let status: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((&status["stage"]["at"], &status["decisions"][1]["version"]), (&"rest".into(), &900.into()));
    let entries = status["decisions"].as_array().expect("a list").iter();
    let written: Vec<PromotionDecision> =
        entries.map(|entry| serde_json::from_value(entry["decision"].clone()).expect("a decision")).collect();
    assert!(written.starts_with(&[PromotionDecision::Used, PromotionDecision::Superseded]), "{written:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_fine_tuned_and_replaced_through_gates_only() {
    let fixture = Fixture::new().await;
    fixture.record_minutes(15).await;
    a_round_reports_its_decisions(&fixture).await;
    a_better_model_passes_the_gates(&fixture).await;
    violations_roll_a_candidate_back(&fixture).await;
    another_version_ends_the_watch(&fixture).await;
    let mut system = fixture.system;
    assert!(system.stop(), "{}", system.tail());
}
