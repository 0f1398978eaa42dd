use qscale_common::contract::{GuardNote, Latency, Rule, Source, Version};
use qscale_common::name::Name;
use qscale_policies::History;

use super::*;
use crate::recorded::tests::{BEGIN, state};
use crate::recorded::{Again, Said};

const NOW: Timestamp = Timestamp(BEGIN + 60_000);

/// The decision of `policy` on the tenth tick of a steady load.
fn explanation(policy: &str) -> Explanation {
    let decider = Decider::named(policy, None).expect("valid");
    let mut again = Again::new(&decider.decides);
    let (mut history, mut decision) = (History::default(), None);
    for tick in 0..10 {
        history.see(&state(tick, 40.0));
        decision = Some(again.decide(&state(tick, 40.0), NOW));
    }
    let mut state = state(9, 40.0);
    state.windows.tick.latency = Some(Latency { p50_ms: 20.0, p95_ms: 620.0, p99_ms: 900.0, objective_ms: 620.0 });
    let said = Said::of(&state, decision.expect("ten decisions")).expect("an allocation is in force");
    let name = |text: &str| Name::new(text).expect("valid");
    state.agent = name(policy);
    let action = Action {
        version: Version::CURRENT,
        agent: name(policy),
        instance: "host-1".into(),
        model: decider.decides.model(),
        namespace: state.namespace.clone(),
        function: state.function.clone(),
        epoch: state.epoch,
        tick: state.tick,
        decided_at_ms: state.observed_at_ms,
        expires_at_ms: NOW,
        allocation: said.allocation,
        reason: said.reason,
        choices: said.choices,
    };
    let hindsight = (policy == "dqn").then(|| Hindsight::new(&state, history.told(), None));
    let outcome = Outcome {
        version: Version::CURRENT,
        namespace: state.namespace.clone(),
        function: state.function.clone(),
        epoch: state.epoch,
        tick: state.tick,
        source: Source::Agent,
        agent: action.agent.clone(),
        model: action.model.clone(),
        effect: Effect::Changed,
        requested: action.allocation,
        before: state.allocation,
        allowed: Some(Allocation::new(3, 500, 128)),
        guard: vec![GuardNote { rule: Rule::StepLimit, detail: "at most 1 replica more".into() }],
        reason: String::new(),
        decided_at_ms: NOW,
        actuator: String::new(),
        attempts: 1,
    };
    let hpa = Decider::named("hpa", None).expect("valid");
    let kept = Decision::hold(qscale_policies::HoldReason::NothingToDo, "within the tolerance");
    let judged = Judged { at: state.observed_at_ms.minus(Duration::from_secs(10)), in_force: state.allocation, decision: kept };
    let others = vec![Other::new(&hpa, &state, judged, state.observed_at_ms)];
    Explanation { state, action, hindsight, outcome: Some(outcome), reward: None, others, fallback_since: None }
}

#[track_caller]
fn check(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
}

#[test]
fn a_learned_decision_is_told_with_what_it_saw_valued_and_was_allowed() {
    let explained = explanation("dqn");
    let text = explained.text(NOW);
    check(&text, &["default/f, tick", "agent dqn (obeyed; instance host-1, model `dqn headroom", "because `"]);
    check(&text, &["load       40/s over 5s, 40/s over 1m, 40/s over 5m", "p95 620ms against 500ms, which is violated"]);
    check(&text, &["CPU        200m of 500m in a replica, 40%", "in force   2 x 500m 128Mi; 2 of 2 ready, 0 starting"]);
    check(&text, &["peaks      40/s of 5 minutes", "a request computes 10ms", "within this minute 100%"]);
    check(&text, &["The guard\n  changed it, and 3 x 500m 128Mi was applied\n  step_limit: at most 1 replica more"]);
    check(&text, &["hpa  would keep 2 x 500m 128Mi, 10s before, when it last decided: within the tolerance"]);
    let best = explained.action.choices.iter().filter(|choice| choice.masked.is_none()).filter_map(|choice| choice.value);
    let best = best.fold(f64::MIN, f64::max);
    let first = text.split("It valued\n").nth(1).and_then(|rest| rest.lines().next()).expect("a line");
    assert!(first.ends_with(&format!("{best:.3}")), "{first}");
}

#[test]
fn what_is_a_guess_is_called_one() {
    let mut explained = explanation("dqn");
    let text = explained.unknown().join("\n");
    check(
        &text,
        &["learned in simulation", "that it looks back over it saw less than a minute", "no Reward of this tick", "with their defaults"],
    );
    check(&text, &["hpa remembers", "of which 1s are kept", "how long a start takes"]);
    assert!(!text.contains("CPU in use"), "it was measured:\n{text}");
    explained.state.windows.tick.cpu_millicores = None;
    explained.state.age.requests_ms = Some(60_000);
    explained.outcome = None;
    let text = explained.unknown().join("\n");
    check(&text, &["CPU in use", "older than 2 ticks, so that it may have changed since: requests", "no Outcome of this decision"]);
}

#[test]
fn a_rule_values_nothing_and_a_shadow_is_called_one() {
    let mut explained = explanation("threshold");
    explained.state.agent = Name::new("hpa").expect("valid");
    let text = explained.text(NOW);
    check(&text, &["nothing: a rule gives its choices no value; open to it was up, down", "agent threshold (a shadow; hpa is obeyed;"]);
    assert!(!text.contains("Of the hours before") && !text.contains("learned in simulation"), "{text}");
}

#[test]
fn masked_choices_are_named_by_their_reason() {
    let choice = |action: &str, masked: Option<&str>| Choice { action: action.into(), value: Some(1.0), masked: masked.map(Into::into) };
    let choices = [
        choice("a", None),
        choice("b", Some("outside the bounds")),
        choice("c", Some("the same as choice 0")),
        choice("d", Some("outside the bounds")),
        choice("e", Some("outside the scope")),
    ];
    let expected = [
        "not allowed, outside the bounds: b, d",
        "not allowed, outside the scope: e",
        "1 more name an allocation that another choice names",
    ];
    assert_eq!(masked(&choices), expected);
}

#[test]
fn programs_get_everything() {
    let written = serde_json::to_value(explanation("dqn")).expect("writes");
    assert_eq!((&written["function"], &written["obeyed"]), (&"default/f".into(), &true.into()));
    assert_eq!(written["others"][0]["policy"], "hpa");
    assert!(
        written["history"]["peaks_rps"][0].as_f64().is_some_and(|peak| (peak - 40.0).abs() < 0.1)
            && written["action"]["choices"].as_array().is_some_and(|all| all.len() > 5),
        "{written}"
    );
    assert!(written["unknown"].as_array().is_some_and(|all| !all.is_empty()));
}
