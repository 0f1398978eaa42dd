//! Replay, explanation and comparison of a recording: real services over a simulated function, a real nats-server, and
//! the commands that read its streams.

use std::process::Output;

use qscale_common::contract::{Action, subject};
use qscale_common::name::{FunctionId, Name};
use qscale_common::time::Timestamp;
use qscale_dqn::Actions;
use qscale_dqn::checkpoint::{Checkpoint, NetworkPurpose};
use qscale_dqn::pretrained::pretrained;
use qscale_rl::Weights;
use qscale_tests::{Folder, System, eventually_async};
use serde_json::Value;

const FUNCTION: &str = "fibonacci-001";
/// Recorded Actions per agent that the test waits for.
const ENOUGH: usize = 60;
/// Factor on the out-of-distribution score that makes the agent fall back at times.
const SCORE_FACTOR: f32 = 4.0;
/// Exit status of `qscale replay --check` if a decision differs.
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

/// Waits for enough Actions of all `agents`; returns a tick in the middle of those of the last one.
async fn recorded(system: &System, agents: &[&str]) -> u64 {
    let bus = system.bus().await;
    let function: FunctionId = FUNCTION.parse().expect("valid");
    let mut ticks = Vec::new();
    for agent in agents {
        let on = subject::action(&Name::new(*agent).expect("valid"), &function);
        ticks = eventually_async("enough Actions of every agent", async || {
            let mut ticks = Vec::new();
            bus.read_history_on(on.clone(), Timestamp(0), |action: Action| ticks.push(action.tick.0)).await.ok()?;
            (ticks.len() >= ENOUGH).then_some(ticks)
        })
        .await;
    }
    ticks[ENOUGH / 2]
}

fn same_policy_repeats_its_decisions(system: &System) {
    for agent in ["dqn", "hpa"] {
        let output = system.qscale(&["replay", FUNCTION, "--since", "1h", "--agent", agent, "--check", "--json"]);
        let found = json(&output);
        let replayed = &found["functions"][0];
        assert!(output.status.success(), "{agent}: {replayed}");
        let compared = replayed["compared"].as_u64().expect("a number");
        assert!(compared >= ENOUGH as u64 / 2 && replayed["same"] == compared, "{agent}: {replayed}");
    }
    // A rule with its own interval is replayed in phase, wherever the period begins.
    let late = system.qscale(&["replay", FUNCTION, "--since", "2m", "--agent", "hpa", "--check", "--json"]);
    assert!(late.status.success(), "{}", json(&late));
    let all = json(&system.qscale(&["replay", "--all", "--check", "--json"]));
    assert_eq!(all["functions"].as_array().map(Vec::len), Some(2), "the function and its copy: {all}");
}

fn another_policy_decides_differently(system: &System) {
    let arguments = ["replay", FUNCTION, "--policy", "static:replicas=5", "--check"];
    let output = system.qscale(&arguments);
    assert_eq!(output.status.code(), Some(DIFFERENT), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("static:replicas=5") && shown.contains("RECORDED"), "{shown}");
    let table = text(&system.qscale(&["replay", FUNCTION, "--policy", "static:replicas=5", "--csv"]));
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows[0].starts_with("function,epoch,tick,time,match,"), "{}", rows[0]);
    assert!(rows.len() > ENOUGH / 2 && rows[1..].iter().all(|row| row.contains(",5,")), "{table}");
}

fn decision_is_explained(system: &System, tick: u64) {
    let shown = text(&system.qscale(&["why", FUNCTION]));
    for heading in ["Observed", "Learned features", "Q-values", "Guard", "Other policies on the same States", "Limitations"] {
        assert!(shown.lines().any(|line| line == heading), "`{heading}` is not in:\n{shown}");
    }
    assert!(["default/fibonacci-001", "dqn", "  hpa ", "  vpa "].iter().all(|name| shown.contains(name)), "{shown}");
    let earlier = json(&system.qscale(&["why", FUNCTION, "--agent", "hpa", "--tick", &tick.to_string(), "--json"]));
    assert_eq!((&earlier["tick"], &earlier["agent"], &earlier["acting"]), (&tick.into(), &"hpa".into(), &false.into()));
    // HPA was recorded as a shadow with the same defaults, so both decisions agree.
    let (alternative, recorded) = (&earlier["alternatives"][0], &earlier["action"]);
    assert_eq!(alternative["policy"], "hpa");
    if alternative["before_ms"] == 0 {
        assert_eq!(alternative["reason"], recorded["reason"], "{earlier}");
    }
    let absent = error(&system.qscale(&["why", FUNCTION, "--agent", "kpa"]));
    assert!(["kpa", "default/fibonacci-001", "dqn"].iter().all(|name| absent.contains(name)), "{absent}");
    assert!(error(&system.qscale(&["why", "nosuch"])).contains("default/nosuch"));
}

fn shadow_is_compared_with_the_acting_policy(system: &System) {
    let shown = text(&system.qscale(&["compare", FUNCTION, "--seeds", "3"]));
    for part in ["RECORDED", "dqn (acting)", "hpa", "DIFFERENCE", "cost, USD/h", "Assumptions"] {
        assert!(shown.contains(part), "`{part}` is not in:\n{shown}");
    }
    let arguments = ["compare", FUNCTION, "--policy", "static:replicas=6,cpu_millicores=1000", "--seeds", "3", "--json"];
    let found = json(&system.qscale(&arguments));
    let cost = &found["metrics"][1];
    assert_eq!((&cost["metric"], &found["acting"]["agent"]), (&"cost_per_hour".into(), &"dqn".into()));
    assert!(number(&cost["difference"]["low"]) > 0.0, "the largest allocation costs more: {found}");
    assert!(number(&cost["recorded"]) > 0.0 && found["profile"]["source"] == "estimated from recorded States", "{found}");
    let itself = error(&system.qscale(&["compare", FUNCTION, "--shadow", "dqn"]));
    assert!(itself.contains("dqn") && itself.contains("default/fibonacci-001"), "{itself}");
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("a number instead of {value}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recording_is_replayed_explained_and_compared() {
    let load = ["--load", "diurnal:20..400/2m", "--agent", "dqn", "--versus", "hpa", "--tick", "5s"];
    let arguments = [&["--backend", "sim", "--speed", "40"][..], &load[..]].concat();
    let system = System::up(&arguments);
    let tick = recorded(&system, &["dqn", "hpa"]).await;
    same_policy_repeats_its_decisions(&system);
    another_policy_decides_differently(&system);
    decision_is_explained(&system, tick);
    shadow_is_compared_with_the_acting_policy(&system);
}

/// The bundled model with its out-of-distribution score multiplied by `factor`.
fn with_higher_score(factor: f32) -> Checkpoint {
    let model = pretrained();
    let (shift, scale) = model.weights.normalisation();
    let scale = scale.iter().map(|scale| scale * factor).collect();
    let (architecture, values) = (model.weights.architecture().clone(), model.weights.values().to_vec());
    let weights = Weights::from_parts(architecture, values, shift.to_vec(), scale).expect("finite");
    let header = &model.header;
    let purpose = NetworkPurpose { actions: Actions::new(header.action_set, header.scope), reward: header.reward, note: String::new() };
    Checkpoint::new(weights, None, &header.hyperparameters, header.seed, &purpose)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fallback_decisions_are_replayed_bit_for_bit() {
    let folder = Folder::new("explain");
    let path = folder.path().join("sensitive.dqn");
    std::fs::write(&path, with_higher_score(SCORE_FACTOR).to_bytes()).expect("written");
    let model = path.display().to_string();
    let system = System::up(&["--backend", "sim", "--speed", "40", "--load", "diurnal:20..400/2m", "--tick", "5s", "--model", &model]);
    recorded(&system, &["dqn"]).await;
    let output = system.qscale(&["replay", FUNCTION, "--since", "1h", "--check", "--json"]);
    let found = json(&output);
    let replayed = &found["functions"][0];
    assert!(output.status.success(), "{replayed}");
    let (compared, fallback) = (replayed["compared"].as_u64().expect("a number"), replayed["fallback"].as_u64().expect("a number"));
    assert!(compared >= ENOUGH as u64 / 2 && replayed["same"] == compared && fallback > 0, "{replayed}");
}
