//! The wire, pinned: golden files read and written back, and everything that is refused, with what is said of it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fmt::Debug;

use proptest::prelude::*;
use qscale_common::change::{ChangeKind, ChangeRecord, ChangedValue};
use qscale_common::contract::{
    Action, Ages, Changes, Choice, DecidedBy, DecisionSource, DecodeError, Direction, Effect, Epoch, Failures, Fallback, FallbackReason,
    GuardNote, GuardRule, Headroom, HeldPoint, Latency, LatencyBucket, Load, MAX_PAYLOAD, Message, ModelRef, Outcome, Provenance,
    ReplicaCounts, Reward, State, Term, Terms, Usage, Version, Window, Windows, WireObjective, decode, parse,
};
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::{OperatingPoint, ScalingPolicy};
use qscale_common::time::{Tick, Timestamp};
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use serde_json::{Value, json};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn golden(file: &str) -> String {
    let path = format!("{}/tests/golden/{file}.json", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The file reads as `expected`, and `expected` writes what the file says.
#[track_caller]
fn check<M: Message + PartialEq + Debug>(file: &str, expected: &M) {
    let text = golden(file);
    assert_eq!(decode::<M>(&expected.subject(), text.as_bytes()).as_ref(), Ok(expected), "{file} as it is read");
    let written: Value = serde_json::from_slice(&expected.encode()).unwrap();
    assert_eq!(written, serde_json::from_str::<Value>(&text).unwrap(), "{file} as it is written");
}

fn minimal_state() -> State {
    State {
        epoch: Epoch(1_760_000_000_123),
        tick: Tick(352_000_012),
        observed_at_ms: Timestamp(1_760_000_064_990),
        ..State::unmeasured(&ScalingPolicy::new(FunctionId::new(name("default"), name("fibonacci-python"))))
    }
}

fn full_state() -> State {
    let tick = Window {
        covered_ms: 5000,
        rate_rps: Some(331.8),
        rate_slope_rps: Some(-1.25),
        rate_variation: Some(0.0712),
        completed_rps: Some(329.4),
        failed_share: Some(0.0061),
        latency: Some(Latency { p50_ms: 1.6, p95_ms: 7.25, p99_ms: 12.5, objective_ms: 7.25 }),
        replicas: Some(2.0),
        concurrency: Some(1.375),
        queued: Some(0.25),
        cpu_millicores: Some(Usage { mean: 312.5, max: 340.2 }),
        throttled_share: Some(0.125),
        memory_mib: Some(Usage { mean: 41.5, max: 44.0 }),
        starts: Some(2),
        restarts: 1,
        oom_kills: 1,
    };
    let short = Window {
        covered_ms: 60_000,
        rate_rps: Some(330.1),
        cpu_millicores: Some(Usage { mean: 300.0, max: 355.0 }),
        memory_mib: Some(Usage { mean: 41.0, max: 44.0 }),
        ..Window::default()
    };
    State {
        allocation: Some(Allocation::new(3, 500, 256)),
        replicas: Some(ReplicaCounts {
            desired: Replicas(3),
            ready: Replicas(2),
            pending: Replicas(1),
            reporting: Replicas(2),
            ..ReplicaCounts::default()
        }),
        age: Ages { requests_ms: Some(210), cpu_ms: Some(350), memory_ms: Some(350), replicas_ms: Some(90) },
        windows: Windows { tick, short, long: Window { covered_ms: 64_990, rate_rps: Some(328.9), ..Window::default() } },
        changes: Changes { horizontal_ticks: Some(2), vertical_ticks: Some(40), last: Some(Direction::Up) },
        startup_ms: Some(850),
        headroom: Some(Headroom { cpu_millicores: Millicores(6500), memory_mib: Mebibytes(12_288) }),
        ..minimal_state()
    }
}

fn provenance(fallback: Option<FallbackReason>) -> Provenance {
    Provenance {
        policy: "dqn".into(),
        configuration: "dqn headroom joint 0f3a".into(),
        model: Some(ModelRef { name: Some(name("shop")), version: Some(4), fingerprint: "0f3a".into() }),
        fallback: fallback.map(|reason| Fallback { rule: "threshold-both".into(), reason }),
    }
}

fn score() -> FallbackReason {
    FallbackReason::OutOfDistribution { score: Some(4.25), threshold: 3.0 }
}

fn minimal_action() -> Action {
    Action {
        version: Version::CURRENT,
        agent: name("dqn"),
        instance: String::new(),
        provenance: Provenance::default(),
        namespace: name("default"),
        function: name("fibonacci-python"),
        epoch: Epoch(1_760_000_000_123),
        tick: Tick(352_000_012),
        decided_at_ms: Timestamp(1_760_000_064_995),
        expires_at_ms: Timestamp(1_760_000_074_990),
        allocation: Allocation::new(4, 500, 256),
        reason: String::new(),
        choices: Vec::new(),
        point: None,
    }
}

/// The Action of an agent that holds `target`.
fn action_at(target: OperatingPoint) -> Action {
    let point = HeldPoint { target, violation_cost: 31.5, measured: Some(0.0125), measured_hours: 24.0, out_of_reach: true };
    Action { point: Some(point), ..minimal_action() }
}

fn full_action() -> Action {
    let choice = |action: &str, value, masked: Option<&str>| Choice { action: action.into(), value, masked: masked.map(Into::into) };
    Action {
        instance: "node-a-4711".into(),
        provenance: provenance(Some(score())),
        reason: "p95 is expected to pass 500 ms".into(),
        choices: vec![
            choice("up", Some(-0.125), None),
            choice("keep", Some(-0.5), None),
            choice("down", Some(-0.75), Some("at the end of what is allowed")),
            choice("rest", None, None),
        ],
        ..minimal_action()
    }
}

fn minimal_outcome() -> Outcome {
    Outcome {
        version: Version::CURRENT,
        namespace: name("default"),
        function: name("fibonacci-python"),
        epoch: Epoch(1_760_000_000_123),
        tick: Tick(352_000_012),
        source: DecisionSource::Fallback,
        agent: name("threshold"),
        provenance: Provenance::default(),
        effect: Effect::Held,
        requested: Allocation::new(4, 500, 256),
        before: None,
        allowed: None,
        guard: Vec::new(),
        reason: String::new(),
        decided_at_ms: Timestamp(1_760_000_065_001),
        actuator: String::new(),
        attempts: 0,
    }
}

fn full_outcome() -> Outcome {
    let note = |rule, detail: &str| GuardNote { rule, detail: detail.into() };
    Outcome {
        source: DecisionSource::Agent,
        agent: name("dqn"),
        provenance: provenance(Some(FallbackReason::Recovering { states_left: 3 })),
        effect: Effect::Changed,
        requested: Allocation::new(40, 500, 16),
        before: Some(Allocation::new(3, 500, 256)),
        allowed: Some(Allocation::new(7, 500, 128)),
        guard: vec![
            note(GuardRule::Bounds, "replicas 40, at most 10; memory 16Mi, at least 64Mi"),
            note(GuardRule::StepLimit, "3 to 10 replicas, at most 4 more in a step"),
        ],
        reason: "p95 is expected to pass 500 ms".into(),
        actuator: "node-a-4712".into(),
        attempts: 2,
        ..minimal_outcome()
    }
}

fn reward(values: [Option<f64>; 5]) -> Reward {
    let [violation, cost, resize, reversal, kill] = values;
    let term = |value, weight| Term { value, weight };
    Reward {
        version: Version::CURRENT,
        namespace: name("default"),
        function: name("fibonacci-python"),
        epoch: Epoch(1_760_000_000_123),
        tick: Tick(352_000_012),
        measured_at_ms: Timestamp(1_760_000_069_992),
        allocation: None,
        decided_by: None,
        value: None,
        terms: Terms {
            violation: term(violation, 1.0),
            cost: term(cost, 0.5),
            resize: term(resize, 0.1),
            reversal: term(reversal, 0.0),
            kill: term(kill, 2.0),
        },
        completion: None,
        latency_ms: None,
        cost_per_hour: None,
    }
}

fn full_reward() -> Reward {
    Reward {
        allocation: Some(Allocation::new(3, 500, 256)),
        decided_by: Some(DecidedBy {
            source: DecisionSource::Agent,
            agent: name("dqn"),
            provenance: provenance(None),
            tick: Tick(352_000_011),
        }),
        value: Some(-0.3125),
        completion: Some(0.9939),
        latency_ms: Some(7.25),
        cost_per_hour: Some(0.06405),
        ..reward([Some(0.25), Some(0.125), Some(0.0), Some(1.0), Some(0.0)])
    }
}

fn minimal_load() -> Load {
    Load {
        version: Version::CURRENT,
        namespace: name("default"),
        function: name("fibonacci-python"),
        run: "1760000000-4713".into(),
        at_ms: Timestamp(1_760_000_065_000),
        interval_ms: 1000,
        offered_rps: 0.0,
        achieved_rps: 0.0,
        in_flight: 0,
        failures: Failures::default(),
        latency: Vec::new(),
        send_lag_p99_us: None,
    }
}

fn full_load() -> Load {
    let bucket = |le_us, count| LatencyBucket { le_us, count };
    Load {
        offered_rps: 332.5,
        achieved_rps: 329.4,
        in_flight: 3,
        failures: Failures { timeout: 1, status: 1, ..Failures::default() },
        latency: vec![bucket(2000, 301), bucket(5000, 24), bucket(15_000, 4)],
        send_lag_p99_us: Some(61),
        ..minimal_load()
    }
}

#[test]
fn golden_messages_are_read_and_written_back() {
    check("state.full", &full_state());
    check("state.minimal", &minimal_state());
    let unsampled = ReplicaCounts { without_cpu: Replicas(1), without_memory: Replicas(2), ..ReplicaCounts::all(Replicas(3)) };
    check("state.unsampled", &State { replicas: Some(unsampled), ..minimal_state() });
    check("action.full", &full_action());
    check("action.minimal", &minimal_action());
    let share = OperatingPoint::ViolatedShare(0.01.try_into().unwrap());
    check("action.point", &action_at(share));
    check("state.point", &State { objective: WireObjective { point: Some(share), ..minimal_state().objective }, ..minimal_state() });
    check("outcome.full", &full_outcome());
    check("outcome.minimal", &minimal_outcome());
    check("reward.full", &full_reward());
    check("reward.minimal", &reward([None; 5]));
    check("load.full", &full_load());
    check("load.minimal", &minimal_load());
}

#[test]
fn golden_policies_are_read_and_written_back() {
    let defaults = ScalingPolicy::new(FunctionId::new(name("default"), name("fibonacci-python")));
    for file in ["policy.minimal", "policy.defaults"] {
        assert_eq!(ScalingPolicy::from_json(golden(file).as_bytes()).unwrap(), defaults, "{file}");
    }
    let full = golden("policy.full");
    for (file, policy) in [("policy.defaults", defaults), ("policy.full", ScalingPolicy::from_json(full.as_bytes()).unwrap())] {
        let written: Value = serde_json::from_slice(&policy.to_json()).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(&golden(file)).unwrap(), "{file}");
    }
}

#[test]
fn golden_changes_are_read_and_written_back() {
    let changed = |revision, value| Some(ChangedValue { revision: Some(revision), value });
    let full = ChangeRecord {
        version: Version::CURRENT,
        at_ms: Timestamp(1_760_000_064_990),
        by: "ada".into(),
        kind: ChangeKind::ModelUsed,
        target: "dqn".into(),
        before: changed(41, Some(json!({ "version": 1, "on_trial": false }))),
        after: changed(45, Some(json!({ "version": 2, "on_trial": false }))),
        reason: "incident 7".into(),
    };
    let (kind, target) = (ChangeKind::PolicyDeleted, "default/fibonacci-python".to_owned());
    let minimal = ChangeRecord { kind, target, before: changed(41, None), after: None, reason: String::new(), ..full.clone() };
    for (file, record) in [("change.full", full), ("change.minimal", minimal)] {
        assert_eq!(ChangeRecord::from_json(golden(file).as_bytes()).unwrap(), record, "{file}");
        let written: Value = serde_json::from_slice(&record.to_json()).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(&golden(file)).unwrap(), "{file}");
    }
}

#[test]
fn a_newer_minor_version_is_read_and_its_fields_ignored() {
    let state: State = parse(golden("state.newer-minor").as_bytes()).unwrap();
    assert_eq!(state.version, Version { major: 1, minor: 7 });
    assert_eq!(State { version: Version::CURRENT, ..state }, minimal_state());
    let policy = json!({"version": "1.9", "name": "fib", "carbon": {"most": 3}, "guard": {"spend": 1}}).to_string();
    assert!(ScalingPolicy::from_json(policy.as_bytes()).is_ok());
}

#[test]
fn counts_of_a_load_that_no_generator_reaches_are_refused() {
    let mut load: Value = serde_json::from_str(&golden("load.full")).unwrap();
    load["failures"]["timeout"] = json!(u64::MAX);
    let error = parse::<Load>(load.to_string().as_bytes()).unwrap_err().to_string();
    assert!(error.contains("timeout = 18446744073709551615, must be at most 9007199254740992"), "{error}");
}

#[test]
fn values_that_a_newer_minor_version_added_are_read_as_other() {
    let mut outcome: Value = serde_json::from_str(&golden("outcome.full")).unwrap();
    outcome["version"] = json!("1.7");
    (outcome["effect"], outcome["source"]) = (json!("deferred"), json!("schedule"));
    outcome["guard"] = json!([{ "rule": "carbon_budget", "detail": "3 kg" }]);
    let outcome: Outcome = parse(outcome.to_string().as_bytes()).unwrap();
    assert_eq!((outcome.effect, outcome.source, outcome.guard[0].rule), (Effect::Other, DecisionSource::Other, GuardRule::Other));
    let fallback: Fallback = serde_json::from_value(json!({ "rule": "hpa", "reason": { "kind": "model_too_old", "age_s": 3 } })).unwrap();
    assert_eq!(fallback.reason, FallbackReason::Other);
}

#[test]
fn an_unknown_major_version_is_refused_naming_both() {
    let error = parse::<State>(golden("state.major-2").as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "message has version 2.0, this reader knows version 1.x");
    let error = ScalingPolicy::from_json(br#"{"version": "2.0", "name": "fib"}"#).unwrap_err().to_string();
    assert!(error.contains("2.0") && error.contains("1.x"), "{error}");
}

#[test]
fn a_state_stays_small() {
    let state = full_state();
    let all = state.windows.tick.clone();
    let largest = State { windows: Windows { tick: all.clone(), short: all.clone(), long: all }, ..state };
    let (largest, smallest) = (largest.encode().len(), minimal_state().encode().len());
    assert!(largest < 2048, "a State with everything in each window has {largest} bytes");
    assert!(smallest < 1024, "a State with nothing measured has {smallest} bytes");
}

/// Error of the golden State with `value` at `pointer`.
#[track_caller]
fn refusal(pointer: &str, value: Value) -> DecodeError {
    let mut body: Value = serde_json::from_str(&golden("state.full")).unwrap();
    *body.pointer_mut(pointer).unwrap() = value;
    parse::<State>(body.to_string().as_bytes()).unwrap_err()
}

#[test]
fn a_value_of_a_wrong_type_is_refused_with_its_field() {
    let cases = [
        ("/tick", json!("352000012"), "tick"),
        ("/tick", json!(-1), "tick"),
        ("/allocation/replicas", json!(1.5), "allocation.replicas"),
        ("/allocation/replicas", json!(4_294_967_296_u64), "allocation.replicas"),
        ("/windows/tick/rate_rps", json!("fast"), "windows.tick.rate_rps"),
        ("/function", json!("Fib.One"), "function"),
        ("/bounds/replicas", json!({"min": 5, "max": 2}), "bounds.replicas"),
        ("/version", json!(1.0), "version"),
        ("/version", json!("one"), "version"),
        ("/windows", Value::Null, "windows"),
        ("/changes/last", json!("sideways"), "changes.last"),
    ];
    for (pointer, value, expected) in cases {
        let error = refusal(pointer, value);
        assert!(matches!(&error, DecodeError::Malformed { field, .. } if field == expected), "{pointer}: {error:?}");
    }
}

#[test]
fn a_value_outside_its_range_is_refused_with_its_field() {
    let cases = [
        ("/tick_length_ms", json!(0), "tick length = 0s"),
        ("/tick", json!(u64::MAX), "tick = 18446744073709551615, must be before the year 10000"),
        ("/observed_at_ms", json!(253_402_300_800_000_u64), "observed_at_ms = 253402300800000"),
        ("/allocation/replicas", json!(u32::MAX), "allocation.replicas = 4294967295, must be 0 to 1000000"),
        ("/allocation/cpu_millicores", json!(1_024_001), "allocation.cpu_millicores = 1024001"),
        ("/allocation/memory_mib", json!((1 << 26) + 1), "allocation.memory_mib = 67108865"),
        ("/replicas/ready", json!(1_000_001), "replicas.ready = 1000001"),
        ("/replicas/reporting", json!(u32::MAX), "replicas.reporting = 4294967295"),
        ("/objective/percentile", json!(100), "objective.percentile = 100"),
        ("/objective/failure_share", json!(1.5), "objective.failure_share = 1.5"),
        ("/windows/tick/rate_rps", json!(-3), "windows.tick.rate_rps = -3"),
        ("/windows/tick/rate_variation", json!(-3), "windows.tick.rate_variation = -3"),
        ("/windows/tick/latency/p99_ms", json!(-3), "windows.tick.latency.p99_ms = -3"),
        ("/windows/tick/memory_mib/max", json!(-3), "windows.tick.memory_mib = -3"),
        ("/windows/tick/failed_share", json!(2), "windows.tick.failed_share = 2"),
    ];
    for (pointer, value, expected) in cases {
        let error = refusal(pointer, value);
        assert!(matches!(&error, DecodeError::Invalid { reason } if reason.starts_with(expected)), "{pointer}: {error:?}");
    }
}

#[test]
fn a_payload_that_is_not_a_message_is_refused() {
    let refused = |payload: &[u8]| parse::<Action>(payload).unwrap_err();
    for (payload, expected) in [
        ("", "."),
        ("null", "."),
        ("[\"1.0\"]", "."),
        ("{\"version\":", "version"),
        ("{}", "."),
        ("{\"version\": \"1.0\"} {}", "."),
        (&format!("{} x", golden("action.minimal")), "."),
    ] {
        let error = refused(payload.as_bytes());
        assert!(matches!(&error, DecodeError::Malformed { field, .. } if field == expected), "{payload}: {error:?}");
    }
    assert_eq!(refused(b"{\"version\": \"1.0\xff\"}"), DecodeError::NotUtf8 { at: 16 });
    assert_eq!(refused(&[b' '; MAX_PAYLOAD + 1]), DecodeError::Oversized { bytes: MAX_PAYLOAD + 1 });
    let deep = format!("{{\"version\": {}", "[".repeat(60_000));
    assert!(matches!(refused(deep.as_bytes()), DecodeError::Malformed { .. }));
}

#[test]
fn a_body_on_a_subject_that_is_not_its_own_is_refused() {
    let body = golden("action.full");
    for subject in [
        "qscale.v1.action.threshold.default.fibonacci-python",
        "qscale.v1.action.dqn.default.aes",
        "qscale.v1.action.dqn.default.fibonacci-python.x",
        "qscale.v1.action.DQN.default.fibonacci-python",
        "qscale.v1.outcome.default.fibonacci-python",
        "",
    ] {
        assert_eq!(decode::<Action>(subject, body.as_bytes()).unwrap_err().kind(), "subject", "{subject}");
    }
    let error = decode::<Action>(&"x".repeat(100_000), body.as_bytes()).unwrap_err();
    assert!(error.to_string().len() < 1000);
}

#[test]
fn an_action_that_cannot_be_meant_is_refused() {
    let refused = |action: Action| parse::<Action>(&action.encode()).unwrap_err().to_string();
    let action = Action { expires_at_ms: Timestamp(5), decided_at_ms: Timestamp(6), ..full_action() };
    assert_eq!(refused(action), "expires_at_ms = 5, must not lie before decided_at_ms = 6");
    assert_eq!(refused(Action { reason: "x".repeat(1025), ..full_action() }), "reason has 1025 bytes, at most 1024 are allowed");
    let choices = vec![Choice { action: "a".into(), value: None, masked: None }; 257];
    assert_eq!(refused(Action { choices, ..full_action() }), "choices has 257 entries, at most 256 are allowed");
}

#[test]
fn a_load_that_cannot_be_meant_is_refused_and_none_overflows() {
    let refused = |load: Load| parse::<Load>(&load.encode()).unwrap_err().to_string();
    assert_eq!(refused(Load { interval_ms: 0, ..full_load() }), "interval_ms = 0, must be at least 1");
    assert_eq!(refused(Load { run: "r".repeat(129), ..full_load() }), "run has 129 bytes, at most 128 are allowed");
    let buckets = vec![LatencyBucket { le_us: 5, count: 1 }, LatencyBucket { le_us: 5, count: 1 }];
    assert_eq!(refused(Load { latency: buckets, ..full_load() }), "latency: le_us = 5 follows 5, buckets must rise");
    assert_eq!(Failures { timeout: u64::MAX, status: 1, ..Failures::default() }.total(), u64::MAX);
}

proptest! {
    #[test]
    fn no_payload_makes_a_reader_panic(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse::<State>(&payload);
        let _ = parse::<Load>(&payload);
    }

    #[test]
    fn no_damaged_message_makes_a_reader_panic(at in 0usize..1000, byte in any::<u8>()) {
        for (mut body, subject) in [(full_state().encode(), full_state().subject()), (full_action().encode(), full_action().subject())] {
            let index = at % body.len();
            body[index] = byte;
            let _ = decode::<State>(&subject, &body);
            let _ = decode::<Action>(&subject, &body);
        }
    }
}
