use qscale_common::contract::{Epoch, Message, Usage, decode};
use qscale_common::fixtures;
use qscale_common::time::Tick;
use qscale_dqn::checkpoint::NetworkPurpose;
use qscale_dqn::pretrained::pretrained;
use qscale_dqn::{Checkpoint, DqnParams};
use qscale_rl::Weights;
use qscale_rl::device::cpu;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;

const OBSERVED: u64 = 1_700_000_000_000;

fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

fn state(allocation: Option<Allocation>) -> State {
    let mut state = fixtures::state();
    state.function = name("fib");
    (state.epoch, state.tick, state.observed_at_ms) = (Epoch(7), Tick(OBSERVED / 5000), Timestamp(OBSERVED));
    state.allocation = allocation;
    state.windows.tick.cpu_millicores = Some(Usage { mean: 400.0, max: 400.0 });
    state.windows.tick.memory_mib = Some(Usage { mean: 50.0, max: 50.0 });
    state
}

fn answerer(policy: &str) -> Answerer {
    let config: crate::config::AgentConfig = serde_json::from_value(serde_json::json!({ "policy": policy })).expect("valid");
    Answerer::new(name("mine"), "a-1".into(), NonZeroU32::new(2).expect("not zero"), config.policy().expect("a known policy"))
}

fn answer(policy: &str, state: &State, now: u64) -> Answer {
    answerer(policy).answer(state, Timestamp(now), &mut SmallRng::seed_from_u64(1))
}

#[track_caller]
fn acted(answer: Answer) -> (Action, AnswerKind) {
    match answer {
        Answer::Act(action, verdict) => (*action, verdict),
        other => panic!("expected an Action, got {other:?}"),
    }
}

#[test]
fn an_action_names_its_state_and_its_expiry() {
    let state = state(Some(Allocation::new(2, 500, 128)));
    let (action, verdict) = acted(answer("threshold", &state, OBSERVED + 3));
    assert_eq!(verdict, AnswerKind::Change);
    assert_eq!(action.allocation, Allocation::new(3, 500, 128));
    assert_eq!((action.state_id(), action.function()), (state.state_id(), state.function()));
    assert_eq!((action.decided_at_ms, action.expires_at_ms), (Timestamp(OBSERVED + 3), Timestamp(OBSERVED + 10_000)));
    assert_eq!(action.subject(), "qscale.v1.action.mine.default.fib");
    assert_eq!(decode::<Action>(&action.subject(), &action.encode()), Ok(action));
}

#[test]
fn a_hold_keeps_the_current_allocation_with_its_reason() {
    let mut unmeasured = state(Some(Allocation::new(2, 500, 128)));
    unmeasured.windows.tick.cpu_millicores = None;
    let (action, verdict) = acted(answer("threshold", &unmeasured, OBSERVED));
    assert_eq!((action.allocation, verdict), (Allocation::new(2, 500, 128), AnswerKind::Hold(HoldReason::NoMeasurement)));
    assert!(action.reason.contains("CPU"), "{}", action.reason);
}

#[test]
fn is_silent_without_a_current_allocation() {
    assert_eq!(answer("threshold", &state(None), OBSERVED), Answer::Silent(HoldReason::NoAllocation));
}

#[test]
fn a_state_is_answered_until_its_action_would_expire() {
    let state = state(Some(Allocation::new(2, 500, 128)));
    assert!(matches!(answer("threshold", &state, OBSERVED + 10_000), Answer::Act(..)));
    assert_eq!(answer("threshold", &state, OBSERVED + 10_001), Answer::Late);
}

#[test]
fn a_state_from_the_future_is_answered() {
    let state = state(Some(Allocation::new(2, 500, 128)));
    let (action, _) = acted(answer("threshold", &state, OBSERVED - 60_000));
    assert_eq!(action.check(), Ok(()));
}

#[test]
fn texts_are_cut_to_what_an_action_may_carry() {
    assert_eq!(Action::cut("ä".repeat(1000)).len(), Action::MAX_TEXT);
    assert_eq!(Action::cut(format!("x{}", "ä".repeat(1000))).len(), Action::MAX_TEXT - 1);
}

/// The same function or another one, a tick later each.
fn later(function: &str, tick: u64) -> State {
    let state = state(Some(Allocation::new(2, 500, 128)));
    let (tick, at) = (Tick(state.tick.0 + tick), Timestamp(OBSERVED + 5000 * tick));
    State { function: name(function), tick, observed_at_ms: at, ..state }
}

#[test]
fn a_batch_is_answered_like_single_states() {
    for policy in ["threshold", "holt-winters", "dqn"] {
        let states: Vec<State> =
            [("a", 1), ("b", 1), ("a", 2), ("a", 2), ("c", 1), ("b", 2), ("a", 1)].map(|(name, tick)| later(name, tick)).into();
        let (now, mut rng) = (Timestamp(OBSERVED + 10_000), SmallRng::seed_from_u64(1));
        let (mut together, mut single) = (answerer(policy), answerer(policy));
        let seen: Vec<&State> = states.iter().collect();
        let answers: Vec<Answer> = together.answer_all(&seen, now, &mut rng).into_iter().map(|(answer, _)| answer).collect();
        let one_by_one: Vec<Answer> = states.iter().map(|state| single.answer(state, now, &mut rng)).collect();
        assert_eq!(answers, one_by_one, "{policy}");
        let late = answers.iter().filter(|answer| **answer == Answer::Late).count();
        // A rule without memory cannot know that it has seen a State.
        assert_eq!(late, if policy == "threshold" { 0 } else { 2 }, "{policy}");
    }
}

#[test]
fn a_collector_that_restarts_with_an_earlier_clock_is_answered() {
    for policy in ["holt-winters", "dqn"] {
        let (mut answerer, mut rng, now) = (answerer(policy), SmallRng::seed_from_u64(1), Timestamp(OBSERVED + 10_000));
        acted(answerer.answer(&later("a", 5), now, &mut rng));
        let restarted = State { epoch: Epoch(0), ..later("a", 5) };
        assert!(restarted.state_id() < later("a", 5).state_id());
        acted(answerer.answer(&restarted, now, &mut rng));
        assert_eq!(answerer.answer(&restarted, now, &mut rng), Answer::Late, "{policy}: it was answered");
    }
}

/// The bundled network with negated weights.
fn negated() -> Arc<Dqn> {
    let (model, weights) = (pretrained(), &pretrained().weights);
    let (shift, scale) = weights.normalisation();
    let values = weights.values().iter().map(|value| -value).collect();
    let weights = Weights::from_parts(weights.architecture().clone(), values, shift.to_vec(), scale.to_vec()).expect("finite");
    let purpose = NetworkPurpose { actions: model.check().expect("it matches"), reward: None, note: String::new() };
    let checkpoint = Checkpoint::new(weights, None, &model.header.hyperparameters, 1, &purpose);
    Arc::new(Dqn::new(&checkpoint, DqnParams::default(), &cpu()).expect("it matches"))
}

#[test]
fn a_new_network_keeps_the_memory() {
    let (mut answerer, mut rng) = (answerer("dqn"), SmallRng::seed_from_u64(1));
    let mut answer = |answerer: &mut Answerer, tick| answerer.answer(&later("a", tick), Timestamp(OBSERVED + 10_000), &mut rng);
    let (before, _) = acted(answer(&mut answerer, 1));
    answerer.take_up(negated(), &name("mine"), 7);
    assert_eq!(answer(&mut answerer, 1), Answer::Late, "it is still known that this State was answered");
    let (after, _) = acted(answer(&mut answerer, 2));
    assert_eq!(after.provenance, *answerer.provenance());
    let (before, after) = (before.provenance, after.provenance);
    assert_eq!((before.policy.as_str(), after.policy.as_str()), ("dqn", "dqn"));
    assert_ne!(before.fingerprint(), after.fingerprint());
    assert_eq!(before.model.map(|model| (model.name, model.version)), Some((None, None)), "the bundled model is in no store");
    assert_eq!(after.model.map(|model| (model.name, model.version)), Some((Some(name("mine")), Some(7))));
}

#[test]
fn a_rule_ignores_networks() {
    let mut answerer = answerer("threshold");
    let before = answerer.provenance().clone();
    answerer.take_up(negated(), &name("mine"), 7);
    assert_eq!(*answerer.provenance(), before);
}
