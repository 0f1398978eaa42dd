use qscale_common::contract::{DecisionSource, GuardNote, GuardRule, Latency, Outcome, Version};
use qscale_common::name::Name;
use qscale_common::units::Allocation;
use qscale_policies::{Decision, HoldReason};

use super::super::DueDecision;
use super::*;
use crate::fixtures::{BEGIN, action, state};
use crate::policy::ReplayPolicy;
use crate::session::{ReplaySession, ReplayedAnswer};

const NOW: Timestamp = Timestamp(BEGIN + 60_000);

/// The decision of `policy` on the tenth tick of a steady load.
fn explanation(policy: &str) -> Explanation {
    let replayed = ReplayPolicy::named(policy, None).expect("valid");
    let mut session = ReplaySession::new(&replayed.decider);
    let (mut history, mut decision) = (History::default(), None);
    for tick in 0..10 {
        history.add(&state(tick, 40.0));
        decision = Some(session.decide(&state(tick, 40.0), NOW));
    }
    let mut state = state(9, 40.0);
    state.windows.tick.latency = Some(Latency { p50_ms: 20.0, p95_ms: 620.0, p99_ms: 900.0, objective_ms: 620.0 });
    let answer = ReplayedAnswer::of(&state, decision.expect("ten decisions")).expect("the current allocation is known");
    let name = |text: &str| Name::new(text).expect("valid");
    state.agent = name(policy);
    let mut action = action(&replayed.decider, &state, answer, state.observed_at_ms, "host-1");
    action.agent = name(policy);
    let features = (policy == "dqn").then(|| FeatureSnapshot::new(&state, history.summary(), None));
    let outcome = Outcome {
        version: Version::CURRENT,
        namespace: state.namespace.clone(),
        function: state.function.clone(),
        epoch: state.epoch,
        tick: state.tick,
        source: DecisionSource::Agent,
        agent: action.agent.clone(),
        provenance: action.provenance.clone(),
        effect: Effect::Changed,
        requested: action.allocation,
        before: state.allocation,
        allowed: Some(Allocation::new(3, 500, 128)),
        guard: vec![GuardNote { rule: GuardRule::StepLimit, detail: "at most 1 replica more".into() }],
        reason: String::new(),
        decided_at_ms: NOW,
        actuator: String::new(),
        attempts: 1,
    };
    let hpa = ReplayPolicy::named("hpa", None).expect("valid");
    let decision = Decision::hold(HoldReason::NothingToDo, "within the tolerance");
    let due = DueDecision { at: state.observed_at_ms.minus(Duration::from_secs(10)), current: state.allocation, decision };
    let alternatives = vec![Alternative::new(&hpa, &state, due, state.observed_at_ms)];
    Explanation { state, action, features, outcome: Some(outcome), reward: None, alternatives, fallback_since: None }
}

/// The lines below `heading`.
fn section<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    text.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.is_empty()).map(str::trim).collect()
}

#[track_caller]
fn check(line: &str, values: &[&str]) {
    for value in values {
        assert!(line.contains(value), "`{value}` is not in: {line}");
    }
}

#[test]
fn learned_decision_shows_observation_values_and_guard() {
    let explained = explanation("dqn");
    let text = explained.text(NOW);
    check(&text, &["default/f", "host-1", &explained.action.provenance.configuration]);
    let observed = section(&text, "Observed");
    check(observed[0], &["40/s over 5s", "40/s over 1m", "40/s over 5m"]);
    check(observed[1], &["p95 620ms", "500ms", "violated"]);
    check(observed[2], &["200m of 500m", "40%"]);
    check(observed[4], &["2 x 500m 128Mi", "2 of 2 ready"]);
    check(section(&text, "Learned features")[2], &["40/s over 5m"]);
    check(&section(&text, "Guard").join("\n"), &["3 x 500m 128Mi", "step_limit: at most 1 replica more"]);
    check(section(&text, "Other policies on the same States")[0], &["hpa", "2 x 500m 128Mi", "10s", "within the tolerance"]);
    let best = explained.action.choices.iter().filter(|choice| choice.masked.is_none()).filter_map(|choice| choice.value);
    let best = best.fold(f64::MIN, f64::max);
    check(section(&text, "Q-values")[0], &[&format!("{best:.3}")]);
}

#[test]
fn limitations_list_only_unknown_figures() {
    let mut explained = explanation("dqn");
    let before = explained.limitations();
    assert!(!before.iter().any(|line| line.contains("CPU use")), "it was measured: {before:?}");
    explained.state.windows.tick.cpu_millicores = None;
    explained.state.age.requests_ms = Some(60_000);
    let after = explained.limitations();
    check(&after[0], &["CPU use", "startup time"]);
    check(&after[1], &["requests"]);
    assert_eq!(after.len(), before.len() + 1, "the age of requests is new: {after:?}");
}

#[test]
fn rule_has_no_values_and_a_shadow_is_called_one() {
    let mut explained = explanation("threshold");
    explained.state.agent = Name::new("hpa").expect("valid");
    let text = explained.text(NOW);
    check(&text, &["shadow of hpa"]);
    check(section(&text, "Q-values")[0], &["none", "up, down"]);
    assert!(section(&text, "Learned features").is_empty(), "{text}");
}

#[test]
fn masked_actions_are_grouped_by_reason() {
    let choice = |action: &str, masked: Option<&str>| Choice { action: action.into(), value: Some(1.0), masked: masked.map(Into::into) };
    let choices = [
        choice("a", None),
        choice("b", Some("outside the bounds")),
        choice("d", Some("outside the bounds")),
        choice("e", Some("outside the scope")),
    ];
    assert_eq!(masked(&choices), ["masked (outside the bounds): b, d", "masked (outside the scope): e"]);
}

#[test]
fn json_has_every_part() {
    let json = serde_json::to_value(explanation("dqn")).expect("writes");
    assert_eq!((&json["function"], &json["acting"]), (&"default/f".into(), &true.into()));
    assert_eq!(json["alternatives"][0]["policy"], "hpa");
    assert!(json["features"]["peaks_rps"][0].as_f64().is_some_and(|peak| (peak - 40.0).abs() < 0.1), "{json}");
    assert!(json["action"]["choices"].as_array().is_some_and(|all| all.len() > 5), "{json}");
    assert!(json["limitations"].as_array().is_some_and(|all| !all.is_empty()), "{json}");
}
