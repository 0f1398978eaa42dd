//! What was recorded, explained and decided again: real services over a simulated function, a real nats-server, and the commands that read its streams.

use std::process::Output;

use qscale_common::contract::{Action, subject};
use qscale_common::name::{FunctionId, Name};
use qscale_common::time::Timestamp;
use qscale_dqn::checkpoint::{Checkpoint, Purpose};
use qscale_dqn::pretrained::pretrained;
use qscale_dqn::{Actions, Weights};
use qscale_tests::{Folder, System, eventually_async};
use serde_json::Value;

const FUNCTION: &str = "fibonacci-001";
/// Answers of either agent that are waited for.
const ENOUGH: usize = 60;
/// How many times as strange a network is to find what it sees that it is not trusted at times.
const STRANGER: f32 = 4.0;
/// Exit status of `qscale replay --check` where an answer differs.
const DIFFERENT: i32 = 3;

#[track_caller]
fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

#[track_caller]
fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until all `agents` answered often; returns a tick in the middle of what the last one answered.
async fn recorded(system: &System, agents: &[&str]) -> u64 {
    let bus = system.bus().await;
    let function: FunctionId = FUNCTION.parse().expect("valid");
    let mut ticks = Vec::new();
    for agent in agents {
        let on = subject::action(&Name::new(*agent).expect("valid"), &function);
        ticks = eventually_async("enough answers of every agent", async || {
            let mut ticks = Vec::new();
            bus.recall_on(on.clone(), Timestamp(0), |action: Action| ticks.push(action.tick.0)).await.ok()?;
            (ticks.len() >= ENOUGH).then_some(ticks)
        })
        .await;
    }
    ticks[ENOUGH / 2]
}

fn the_same_policy_answers_the_same(system: &System) {
    for agent in ["dqn", "hpa"] {
        let output = system.qscale(&["replay", FUNCTION, "--since", "1h", "--agent", agent, "--check", "--json"]);
        let found = json(&output);
        let replayed = &found["functions"][0];
        assert!(output.status.success(), "{agent}: {replayed}");
        let compared = replayed["compared"].as_u64().expect("a number");
        assert!(compared >= ENOUGH as u64 / 2 && replayed["same"] == compared, "{agent}: {replayed}");
    }
    // A rule that decides at a pace of its own is found in step, wherever one begins to look.
    let late = system.qscale(&["replay", FUNCTION, "--since", "2m", "--agent", "hpa", "--check", "--json"]);
    assert!(late.status.success(), "{}", json(&late));
    let all = json(&system.qscale(&["replay", "--all", "--check", "--json"]));
    assert_eq!(all["functions"].as_array().map(Vec::len), Some(2), "the function and its copy: {all}");
}

fn another_policy_answers_otherwise(system: &System) {
    let arguments = ["replay", FUNCTION, "--policy", "static:replicas=5", "--check"];
    let told = system.qscale(&arguments);
    assert_eq!(told.status.code(), Some(DIFFERENT), "{}", String::from_utf8_lossy(&told.stderr));
    let shown = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(shown.contains("decided again by static:replicas=5") && shown.contains("RECORDED"), "{shown}");
    let table = text(&system.qscale(&["replay", FUNCTION, "--policy", "static:replicas=5", "--csv"]));
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows[0].starts_with("function,epoch,tick,at,alike,"), "{}", rows[0]);
    assert!(rows.len() > ENOUGH / 2 && rows[1..].iter().all(|row| row.contains(",5,")), "{table}");
}

fn a_decision_is_explained(system: &System, tick: u64) {
    let shown = text(&system.qscale(&["why", FUNCTION]));
    for part in [
        "default/fibonacci-001, tick ",
        "agent dqn (obeyed;",
        "It saw",
        "Of the hours before",
        "The guard",
        "  hpa  would ",
        "  vpa  would ",
    ] {
        assert!(shown.contains(part), "`{part}` is not in:\n{shown}");
    }
    let earlier = json(&system.qscale(&["why", FUNCTION, "--agent", "hpa", "--tick", &tick.to_string(), "--json"]));
    assert_eq!((&earlier["tick"], &earlier["agent"], &earlier["obeyed"]), (&tick.into(), &"hpa".into(), &false.into()));
    // What HPA would have done is what it did: a shadow with the same defaults.
    let (would, did) = (&earlier["others"][0], &earlier["action"]);
    assert_eq!(would["policy"], "hpa");
    if would["before_ms"] == 0 {
        assert_eq!(would["reason"], did["reason"], "{earlier}");
    }
    let nobody = error(&system.qscale(&["why", FUNCTION, "--agent", "kpa"]));
    assert!(nobody.contains("no decision of agent kpa for default/fibonacci-001") && nobody.contains("agent dqn"), "{nobody}");
    assert!(error(&system.qscale(&["why", "nosuch"])).contains("no State of default/nosuch"));
}

fn a_shadow_is_held_against_the_acting_policy(system: &System) {
    let shown = text(&system.qscale(&["compare", FUNCTION, "--seeds", "3"]));
    for part in ["RECORDED", "dqn (acts)", "hpa", "DIFFERENCE", "ticks in violation", "cost, USD an hour", "Assumed, or a guess"] {
        assert!(shown.contains(part), "`{part}` is not in:\n{shown}");
    }
    let arguments = ["compare", FUNCTION, "--policy", "static:replicas=6,cpu_millicores=1000", "--seeds", "3", "--json"];
    let found = json(&system.qscale(&arguments));
    let cost = &found["measures"][1];
    assert_eq!((&cost["measure"], &found["acting"]["agent"]), (&"cost_per_hour".into(), &"dqn".into()));
    assert!(number(&cost["difference"]["low"]) > 0.0, "the largest allocation costs more: {found}");
    assert!(number(&cost["recorded"]) > 0.0 && found["profile"]["source"] == "estimated from recorded States", "{found}");
    let itself = error(&system.qscale(&["compare", FUNCTION, "--shadow", "dqn"]));
    assert!(itself.contains("--shadow dqn: it is the agent that default/fibonacci-001 obeys"), "{itself}");
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("a number instead of {value}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_recorded_is_explained_and_decided_again() {
    let load = ["--load", "diurnal:20..400/2m", "--agent", "dqn", "--versus", "hpa", "--tick", "5s"];
    let arguments = [&["--backend", "sim", "--speed", "40"][..], &load[..]].concat();
    let system = System::up(&arguments);
    let tick = recorded(&system, &["dqn", "hpa"]).await;
    the_same_policy_answers_the_same(&system);
    another_policy_answers_otherwise(&system);
    a_decision_is_explained(&system, tick);
    a_shadow_is_held_against_the_acting_policy(&system);
}

/// The model that comes along, to which all that it sees is so many times as strange.
fn easily_estranged(times: f32) -> Checkpoint {
    let model = pretrained();
    let (shift, scale) = model.weights.normalisation();
    let scale = scale.iter().map(|scale| scale * times).collect();
    let (architecture, values) = (model.weights.architecture().clone(), model.weights.values().to_vec());
    let weights = Weights::from_parts(architecture, values, shift.to_vec(), scale).expect("finite");
    let header = &model.header;
    let purpose = Purpose { actions: Actions::new(header.action_set, header.scope), worth: header.worth, note: String::new() };
    Checkpoint::new(weights, None, &header.hyperparameters, header.seed, &purpose)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_rule_beside_a_network_decided_it_decides_again_to_the_bit() {
    let folder = Folder::new("explain");
    let path = folder.path().join("estranged.dqn");
    std::fs::write(&path, easily_estranged(STRANGER).to_bytes()).expect("written");
    let model = path.display().to_string();
    let system = System::up(&["--backend", "sim", "--speed", "40", "--load", "diurnal:20..400/2m", "--tick", "5s", "--model", &model]);
    recorded(&system, &["dqn"]).await;
    let output = system.qscale(&["replay", FUNCTION, "--since", "1h", "--check", "--json"]);
    let found = json(&output);
    let replayed = &found["functions"][0];
    assert!(output.status.success(), "{replayed}");
    let (compared, beside) = (replayed["compared"].as_u64().expect("a number"), replayed["by_the_rule_beside"].as_u64().expect("a number"));
    assert!(compared >= ENOUGH as u64 / 2 && replayed["same"] == compared && beside > 0, "{replayed}");
    eprintln!("{beside} of {compared} answers were the rule's");
}
