//! The whole system over simulated functions: real services, a real nats-server, and a clock that runs faster.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use qscale_common::contract::{Effect, EventType, GuardRule, Load, Outcome, State, subject};
use qscale_common::document::Format;
use qscale_common::name::FunctionId;
use qscale_common::platform::{FunctionSpec, PlatformAddresses};
use qscale_common::runtime::http;
use qscale_common::runtime::platform::PlatformClient;
use qscale_tests::process::binary;
use qscale_tests::{Folder, Program, System, TIMEOUT, eventually, eventually_async, first, free_port, nats, system};

const FUNCTIONS: usize = 50;

/// Follows States until every function was scaled up and then down, and checks every Outcome.
async fn up_and_down(system: &System) {
    let bus = system.bus().await;
    let mut states = bus.subscribe::<State>(subject::all(EventType::State), None).await.expect("operators may listen");
    let mut outcomes = bus.subscribe::<Outcome>(subject::all(EventType::Outcome), None).await.expect("operators may listen");
    let mut loads = bus.subscribe::<Load>(subject::all(EventType::Load), None).await.expect("operators may listen");
    let mut most: BTreeMap<FunctionId, u32> = BTreeMap::new();
    let mut fell = BTreeSet::new();
    let mut offered = BTreeSet::new();
    let mut applied = 0;
    let follow = async {
        while fell.len() < FUNCTIONS || offered.len() < FUNCTIONS {
            let Some(received) = states.next().await else { return };
            let state = received.message;
            let id = FunctionId::new(state.namespace.clone(), state.function.clone());
            if let Some(allocation) = state.allocation {
                let most = most.entry(id.clone()).or_insert(allocation.replicas.0);
                *most = allocation.replicas.0.max(*most);
                if *most > 1 && allocation.replicas.0 < *most {
                    fell.insert(id);
                }
            }
            while let Some(received) = outcomes.try_next() {
                applied += usize::from(matches!(received.message.effect, Effect::Applied | Effect::Changed));
                within_bounds(&received.message);
            }
            while let Some(received) = loads.try_next() {
                if received.message.offered_rps > 0.0 {
                    offered.insert(received.message.function);
                }
            }
        }
    };
    let came = tokio::time::timeout(TIMEOUT, follow).await;
    assert!(came.is_ok(), "{} functions fell of {}, load of {}:\n{}", fell.len(), most.len(), offered.len(), system.tail());
    assert!(applied >= 2 * FUNCTIONS, "{applied} changes were applied");
}

fn within_bounds(outcome: &Outcome) {
    let Some(allowed) = outcome.allowed.filter(|_| outcome.effect != Effect::Unchanged) else { return };
    let within = (1..=6).contains(&allowed.replicas.0) && (100..=1000).contains(&allowed.cpu_millicores.0);
    assert!(within && (32..=1024).contains(&allowed.memory_mib.0), "{outcome:?}");
}

async fn a_freeze_holds(system: &System) {
    let bus = system.bus().await;
    let mut outcomes = bus.subscribe::<Outcome>(subject::all(EventType::Outcome), None).await.expect("operators may listen");
    assert!(system.qscale(&["freeze", "--all"]).status.success());
    let held = first(&mut outcomes, |outcome| outcome.guard.iter().any(|note| note.rule == GuardRule::Freeze)).await;
    assert!(held.is_some(), "nothing is held:\n{}", system.tail());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_functions_follow_a_step_ten_times_as_fast() {
    let functions = FUNCTIONS.to_string();
    let load = ["--load", "step:20@0s,500@20s,20@50s", "--agent", "threshold", "--tick", "2s"];
    let arguments = [&["--backend", "sim", "--speed", "10", "--functions", &functions][..], &load[..]].concat();
    let mut system = System::up(&arguments);
    up_and_down(&system).await;

    // Commands work the same on a system with a faster clock.
    let doctor = system.qscale(&["doctor"]);
    assert!(doctor.status.success(), "{}\n{}", String::from_utf8_lossy(&doctor.stdout), system.tail());
    let watched = system.qscale(&["watch", "--since", "20s", "--kind", "outcome", "--json"]);
    let text = String::from_utf8_lossy(&watched.stdout);
    assert!(text.lines().count() > 0 && text.contains("fibonacci-001"), "{text}\n{}", String::from_utf8_lossy(&watched.stderr));
    assert!(system.qscale(&["policy", "set", "fibonacci-050", "bounds.replicas.max=2"]).status.success());
    let refused = system.qscale(&["policy", "set", "fibonacci-050", "bounds.cpu_millicores.min=1"]);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && error.contains("bounds.cpu_millicores.min = 1m") && error.contains("10m"), "{error}");
    let limited = system.qscale(&["policy", "set", "fibonacci-050", "bounds.replicas.max=2000"]);
    let warning = String::from_utf8_lossy(&limited.stderr);
    assert!(limited.status.success() && warning.contains("100 is the maximum"), "{warning}");
    a_freeze_holds(&system).await;

    let state = system.state().display().to_string();
    assert!(system.stop(), "{}", system.tail());
    assert_eq!(system::with_argument(&state), [0; 0], "processes are left:\n{}", system.tail());
}

/// Metric families with their types, and the label names of each sample.
fn metrics(text: &str) -> (BTreeSet<String>, BTreeMap<String, BTreeSet<String>>) {
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(ToOwned::to_owned).collect();
    let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for sample in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = sample.split_once(['{', ' ']).expect("a name and a value");
        let of_sample = rest.split_once('}').map_or("", |(labels, _)| labels).split(',').filter_map(|label| label.split_once('='));
        labels.entry(name.to_owned()).or_default().extend(of_sample.map(|(name, _)| name.to_owned()));
    }
    (families, labels)
}

async fn scrape(address: &str) -> String {
    http::get(address, "/metrics", TIMEOUT).await.expect("a reply").1
}

fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_collector_finds_the_same_names_as_on_the_local_platform() {
    let folder = Folder::new("names");
    let state = folder.path().join("platform");
    let local_arguments = ["--set", "api=127.0.0.1:0", "--set", "gateway=127.0.0.1:0", "--set", &format!("state_dir={}", state.display())];
    let _local = Program::start(&binary("qscale-platform"), local_arguments, &folder.path().join("local.log"));
    let addresses = eventually("the local platform", || {
        let text = std::fs::read(state.join("addresses.json")).ok()?;
        serde_json::from_slice::<PlatformAddresses>(&text).ok()
    });
    let simulated = free_address();
    let simulated_state = format!("state_dir={}", folder.path().join("simulated").display());
    let simulated_arguments = ["--set", &format!("api={simulated}"), "--set", &simulated_state];
    let _simulated = Program::start(&binary("qscale-simulated"), simulated_arguments, &folder.path().join("simulated.log"));
    let file = |program: &str| {
        let text = format!("name = \"f\"\nprotocol = \"http\"\n{program}");
        FunctionSpec::parse(&text, Format::Toml).expect("a function file")
    };
    // The local replica starts and never becomes ready, which is enough to appear in the metrics.
    let commands = [(&addresses.api, file("command = [\"sleep\", \"1000\"]")), (&simulated, file("simulated = { load = \"20\" }"))];
    let mut found = Vec::new();
    for (address, spec) in &commands {
        let client = PlatformClient::new(address).expect("an address");
        eventually_async("the platform to take a function", async || client.add(spec).await.ok()).await;
        let text = eventually_async("a replica that was started", async || {
            let text = scrape(address).await;
            text.contains("container_start_time_seconds{").then_some(text)
        })
        .await;
        found.push(metrics(&text));
    }
    let [local, simulated] = &found[..] else { unreachable!("two platforms were scraped") };
    assert_eq!(local.0, simulated.0);
    for (name, labels) in &local.1 {
        assert_eq!(simulated.1.get(name), Some(labels), "labels of {name}");
    }
}

#[test]
fn options_of_the_other_backend_are_refused() {
    let folder = Folder::new("hurried");
    let refused = |arguments: &[&str]| {
        let mut command = Command::new(binary("qscale"));
        command.arg("up").args(arguments).env("QSCALE_STATE", folder.path().join("state")).env("NATS_SERVER_BIN", nats::program());
        let output = command.output().expect("qscale runs");
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = refused(&["--speed", "10"]);
    assert!(text.contains("--speed") && text.contains("--backend local"), "{text}");
    let text = refused(&["--backend", "sim", "--function", "aes"]);
    assert!(text.contains("--function") && text.contains("--backend sim") && text.contains("--profile"), "{text}");
    let text = refused(&["--backend", "sim", "--speed", "5000"]);
    assert!(text.contains("speed = 5000"), "{text}");
}
