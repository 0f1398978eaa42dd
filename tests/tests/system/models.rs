//! The model store: an agent takes up a version between two States and refuses an invalid one; the version in use changes only by compare-and-set.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use qscale_common::contract::{Action, EventType, Message, Provenance, State, StateId, subject};
use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::author::Author;
use qscale_common::runtime::bus::{Bus, Subscription};
use qscale_common::runtime::http;
use qscale_common::runtime::models::{ModelPointer, ModelStore, PointerError, ReadError};
use qscale_common::runtime::nats_accounts::User;
use qscale_dqn::Actions;
use qscale_dqn::checkpoint::{Checkpoint, NetworkPurpose};
use qscale_dqn::pretrained::pretrained;
use qscale_rl::Weights;
use qscale_tests::{NatsServer, System, TIMEOUT, eventually_async};

type StateKey = (FunctionId, StateId);

/// States and Actions since the beginning of the test.
struct Recorder {
    states: Subscription<State>,
    actions: Subscription<Action>,
    waiting: BTreeSet<StateKey>,
    answered: BTreeMap<StateKey, Provenance>,
}

impl Recorder {
    async fn new(bus: &Bus) -> Self {
        Self {
            // Actions are subscribed to first, so that no answer to a recorded State is missed.
            actions: bus.subscribe(subject::all(EventType::Action), None).await.expect("operators may listen"),
            states: bus.subscribe(subject::all(EventType::State), None).await.expect("operators may listen"),
            waiting: BTreeSet::new(),
            answered: BTreeMap::new(),
        }
    }

    fn read_states(&mut self) {
        while let Some(state) = self.states.try_next() {
            self.waiting.insert((state.message.function(), state.message.state_id()));
        }
    }

    /// Waits for `count` Actions of the model of `fingerprint`.
    async fn wait_for_actions(&mut self, fingerprint: &str, mut count: usize, system: &System) {
        let listening = async {
            while count > 0 {
                let action = self.actions.next().await.expect("connected").message;
                let decided_by = action.provenance.fingerprint().map(ToOwned::to_owned);
                count -= usize::from(decided_by.as_deref() == Some(fingerprint));
                assert_eq!(self.answered.insert((action.function(), action.state_id()), action.provenance), None, "answered twice");
            }
        };
        let received = tokio::time::timeout(TIMEOUT, listening).await;
        assert!(received.is_ok(), "no more Actions of {fingerprint}:\n{}", system.tail());
        self.read_states();
    }

    /// Checks that every recorded State is answered.
    async fn check_all_answered(&mut self, system: &System) {
        self.read_states();
        let listening = async {
            while self.waiting.iter().any(|state| !self.answered.contains_key(state)) {
                let action = self.actions.next().await.expect("connected").message;
                self.answered.insert((action.function(), action.state_id()), action.provenance);
            }
        };
        let received = tokio::time::timeout(TIMEOUT, listening).await;
        let missed: Vec<_> = self.waiting.iter().filter(|state| !self.answered.contains_key(state)).collect();
        assert!(received.is_ok() && self.waiting.len() > 20, "of {} States unanswered: {missed:?}\n{}", self.waiting.len(), system.tail());
    }
}

/// The bundled model with its weights multiplied by `factor`.
fn variant(factor: f32) -> Checkpoint {
    let (header, weights) = (&pretrained().header, &pretrained().weights);
    let (shift, scale) = weights.normalisation();
    let values = weights.values().iter().map(|value| value * factor).collect();
    let weights = Weights::from_parts(weights.architecture().clone(), values, shift.to_vec(), scale.to_vec()).expect("finite");
    let purpose = NetworkPurpose { actions: Actions::new(header.action_set, header.scope), reward: None, note: "from a test".into() };
    Checkpoint::new(weights, None, &header.hyperparameters, 1, &purpose)
}

fn file(system: &System, name: &str, bytes: &[u8]) -> String {
    let path: PathBuf = system.state().join(name);
    std::fs::write(&path, bytes).expect("written");
    path.display().to_string()
}

#[track_caller]
fn succeed(system: &System, arguments: &[&str]) -> String {
    let output = system.qscale(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn fail(system: &System, arguments: &[&str]) -> String {
    let output = system.qscale(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).expect("text")
}

/// Versions of all models, newest first, and whether each is in use.
#[track_caller]
fn list(system: &System) -> Vec<(u64, bool)> {
    let listed: serde_json::Value = serde_json::from_str(&succeed(system, &["model", "list", "--json"])).expect("JSON");
    let row = |row: &serde_json::Value| (row["version"].as_u64().expect("a version"), row["in_use"].as_bool().expect("known"));
    listed.as_array().expect("a list").iter().map(row).collect()
}

/// Waits until the agent has refused `count` models.
async fn agent_refused(system: &System, count: usize) {
    let address = system.addresses()["health"]["agent-dqn"].as_str().expect("an address").to_owned();
    let expected = format!("qscale_agent_models_total{{outcome=\"refused\"}} {count}");
    eventually_async(&expected, async || {
        let (_, reply) = http::get(&address, "/metrics", TIMEOUT).await.ok()?;
        reply.contains(&expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_swapped_refused_and_rolled_back_without_a_missed_tick() {
    let mut system = System::up(&["--backend", "sim", "--functions", "3", "--load", "constant:20"]);
    let bus = system.bus().await;
    let mut recorder = Recorder::new(&bus).await;
    recorder.wait_for_actions(&pretrained().fingerprint(), 3, &system).await;
    assert!(list(&system).is_empty());

    let (first, second) = (variant(1.001), variant(1.002));
    let output = succeed(&system, &["model", "push", "dqn", &file(&system, "first.dqn", &first.to_bytes()), "--use"]);
    assert!(output.contains("dqn@1") && output.contains(&first.fingerprint()), "{output}");
    recorder.wait_for_actions(&first.fingerprint(), 6, &system).await;
    let output = succeed(&system, &["model", "push", "dqn", &file(&system, "second.dqn", &second.to_bytes())]);
    assert!(output.contains("qscale model use dqn@2"), "{output}");
    assert_eq!(list(&system), [(2, false), (1, true)]);
    recorder.wait_for_actions(&first.fingerprint(), 3, &system).await;
    succeed(&system, &["model", "use", "dqn@2"]);
    assert_eq!(list(&system), [(2, true), (1, false)]);
    recorder.wait_for_actions(&second.fingerprint(), 6, &system).await;

    let mut other = variant(1.0);
    other.header.observation = 0;
    let error = fail(&system, &["model", "push", "dqn", &file(&system, "broken.dqn", b"PK")]);
    assert!(error.contains("broken.dqn"), "{error}");
    let error = fail(&system, &["model", "push", "dqn", &file(&system, "other.dqn", &other.to_bytes())]);
    assert!(error.contains("other.dqn") && error.contains("version 0"), "{error}");
    // A version that was written to the store without the command is refused by the agent.
    let (store, dqn) = (ModelStore::open(&bus).await.expect("the store is there"), Name::new("dqn").expect("valid"));
    let author = Author::new(&bus, User::Operator, "test");
    for (refusals, bytes) in [(1, b"PK".to_vec()), (2, other.to_bytes())] {
        let version = store.push(&author, &dqn, &bytes, "?").await.expect("operators may write");
        let error = fail(&system, &["model", "use", &format!("dqn@{version}")]);
        assert!(error.contains(&format!("dqn@{version}")), "{error}");
        let pointer = store.pointer(&dqn).await.expect("known");
        store.put_in_use(&author, &dqn, version, &pointer).await.expect("operators may write");
        agent_refused(&system, refusals).await;
        recorder.wait_for_actions(&second.fingerprint(), 6, &system).await;
    }
    assert_eq!(list(&system), [(4, true), (3, false), (2, false), (1, false)]);

    for back in [3, 2, 1] {
        assert!(succeed(&system, &["model", "rollback", "dqn"]).contains(&format!("dqn@{back}")));
    }
    recorder.wait_for_actions(&first.fingerprint(), 6, &system).await;
    assert!(fail(&system, &["model", "rollback", "dqn"]).contains("dqn@1"));
    recorder.check_all_answered(&system).await;

    let pulled = system.state().join("pulled.dqn").display().to_string();
    succeed(&system, &["model", "pull", "dqn@2", &pulled]);
    assert_eq!(std::fs::read(&pulled).expect("written"), second.to_bytes());
    assert!(fail(&system, &["model", "pull", "dqn", &pulled]).contains(&pulled), "an existing file is not overwritten");
    let shown = succeed(&system, &["model", "show", "dqn"]);
    assert!(shown.contains("dqn@1") && shown.contains(&first.fingerprint()), "{shown}");
    assert!(fail(&system, &["model", "show", "dqn@9"]).contains("dqn@9"));
    assert!(system.stop(), "{}", system.tail());
}

async fn operator(server: &NatsServer) -> Bus {
    let client = server.config("operator").connect_once("test", TIMEOUT).await.expect("the server answers");
    Bus::of_client(client, "/qscale/test/0")
}

/// The store of a real server, as two writers open it, and the author of their changes.
async fn stores(server: &NatsServer) -> (ModelStore, ModelStore, Author) {
    server.provision().await;
    let (one, two) = (operator(server).await, operator(server).await);
    let open = async |bus| ModelStore::open(bus).await.expect("the store is there");
    (open(&one).await, open(&two).await, Author::new(&one, User::Operator, "test"))
}

async fn push(store: &ModelStore, author: &Author, name: &Name, count: u64) {
    for version in 1..=count {
        assert_eq!(store.push(author, name, version.to_string().as_bytes(), "?").await.expect("pushed"), version);
    }
}

/// The version in use, those before it, and whether it is on trial.
async fn in_use(store: &ModelStore, name: &Name) -> (u64, Vec<u64>, bool) {
    let in_use = store.in_use(name).await.expect("known").expect("a version is in use");
    (in_use.version, in_use.before, in_use.on_trial)
}

#[tokio::test]
async fn concurrent_pushes_get_different_versions() {
    let server = NatsServer::start_with_accounts(&[]);
    let (store, _, author) = stores(&server).await;
    let name = Name::new("mine").expect("valid");
    let push = async |text: &'static str| (store.push(&author, &name, text.as_bytes(), text).await.expect("pushed"), text);
    let (a, b, c) = tokio::join!(push("a"), push("b"), push("c"));
    let pushed = BTreeMap::from([a, b, c]);
    assert_eq!(pushed.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    for (version, text) in pushed {
        assert_eq!(store.reader().read(&name, version, 100).await.expect("read"), text.as_bytes());
    }
    let pointer = store.pointer(&name).await.expect("known");
    assert_eq!(pointer, ModelPointer::default());
    assert!(matches!(store.reader().read(&name, 1, 0).await, Err(ReadError::TooLong(1, 0))));
    assert!(matches!(store.put_in_use(&author, &name, 7, &pointer).await, Err(PointerError::NoSuchVersion { version: 7, .. })));
    assert!(matches!(store.roll_back(&author, &name, &pointer).await, Err(PointerError::NoneInUse { .. })));
}

#[tokio::test]
async fn of_two_concurrent_writers_exactly_one_changes_the_version_in_use() {
    let server = NatsServer::start_with_accounts(&[]);
    let (one, two, author) = stores(&server).await;
    let name = Name::new("mine").expect("valid");
    push(&one, &author, &name, 3).await;
    let mut pointer = one.pointer(&name).await.expect("known");
    for _ in 0..20 {
        // The versions other than the one in use, so that both writers have something to write.
        let others: Vec<u64> = (1..=3).filter(|version| pointer.version() != Some(*version)).collect();
        let (first, second) =
            tokio::join!(one.put_in_use(&author, &name, others[0], &pointer), two.put_in_use(&author, &name, others[1], &pointer));
        let (won, lost) = match (first, second) {
            (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
            other => panic!("exactly one may win: {other:?}"),
        };
        let PointerError::Superseded { expected, found, .. } = lost else { panic!("{lost:?}") };
        assert_eq!((expected, found), (pointer.version(), won.version()));
        assert_eq!(one.pointer(&name).await.expect("known"), won);
        pointer = won;
    }
}

#[tokio::test]
async fn a_rollback_of_a_trial_leaves_the_version_that_an_operator_chose() {
    let server = NatsServer::start_with_accounts(&[]);
    let (promoter, operator, author) = stores(&server).await;
    let name = Name::new("mine").expect("valid");
    push(&promoter, &author, &name, 4).await;
    for version in [1, 2] {
        let pointer = operator.pointer(&name).await.expect("known");
        operator.put_in_use(&author, &name, version, &pointer).await.expect("put in use");
    }
    let pointer = promoter.pointer(&name).await.expect("known");
    promoter.start_trial(&author, &name, 3, 2, &pointer).await.expect("put in use");
    assert_eq!(in_use(&operator, &name).await, (3, vec![2, 1], true));

    let on_trial = operator.pointer(&name).await.expect("known");
    operator.put_in_use(&author, &name, 4, &on_trial).await.expect("put in use");
    let lost = promoter.roll_back_trial(&author, &name, 3, 2).await.expect_err("the operator was faster");
    assert!(matches!(lost, PointerError::Superseded { expected: Some(3), found: Some(4), .. }), "{lost:?}");
    let lost = promoter.confirm_trial(&author, &name, 3).await.expect_err("the operator was faster");
    assert!(matches!(lost, PointerError::Superseded { expected: Some(3), found: Some(4), .. }), "{lost:?}");
    assert_eq!(in_use(&operator, &name).await, (4, vec![2, 1], false), "the candidate is not among those to return to");
    let pointer = operator.pointer(&name).await.expect("known");
    operator.roll_back(&author, &name, &pointer).await.expect("rolled back");
    assert_eq!(in_use(&operator, &name).await, (2, vec![1], false));
}

#[tokio::test]
async fn a_trial_ends_with_the_version_before_it_or_is_confirmed() {
    let server = NatsServer::start_with_accounts(&[]);
    let (store, _, author) = stores(&server).await;
    let name = Name::new("mine").expect("valid");
    push(&store, &author, &name, 3).await;
    // No version was in use: the base is the bundled model, pushed as version 1.
    let none = store.pointer(&name).await.expect("known");
    store.start_trial(&author, &name, 2, 1, &none).await.expect("put in use");
    assert_eq!(in_use(&store, &name).await, (2, vec![1], true));
    store.roll_back_trial(&author, &name, 2, 1).await.expect("rolled back");
    assert_eq!(in_use(&store, &name).await, (1, vec![], false));

    let pointer = store.pointer(&name).await.expect("known");
    store.start_trial(&author, &name, 3, 1, &pointer).await.expect("put in use");
    store.confirm_trial(&author, &name, 3).await.expect("confirmed");
    assert_eq!(in_use(&store, &name).await, (3, vec![1], false));
    let stale = store.start_trial(&author, &name, 2, 1, &pointer).await.expect_err("the pointer has changed");
    assert!(matches!(stale, PointerError::Superseded { expected: Some(1), found: Some(3), .. }), "{stale:?}");
}
