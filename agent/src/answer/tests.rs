use qscale_common::contract::{Ages, Changes, Epoch, Message, Usage, Windows, WireObjective, decode};
use qscale_common::policy::{Bounds, Prices};
use qscale_common::time::Tick;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;

const OBSERVED: u64 = 1_700_000_000_000;

fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

fn state(allocation: Option<Allocation>) -> State {
    let mut windows = Windows::default();
    windows.tick.cpu_millicores = Some(Usage { mean: 400.0, max: 400.0 });
    windows.tick.memory_mib = Some(Usage { mean: 50.0, max: 50.0 });
    State {
        version: Version::CURRENT,
        namespace: name("default"),
        function: name("fib"),
        epoch: Epoch(7),
        tick: Tick(OBSERVED / 5000),
        tick_length_ms: 5000,
        observed_at_ms: Timestamp(OBSERVED),
        agent: name("another"),
        allocation,
        replicas: None,
        age: Ages::default(),
        windows,
        changes: Changes::default(),
        startup_ms: None,
        headroom: None,
        objective: WireObjective { percentile: 95.0, latency_ms: 500, failure_share: 0.01 },
        bounds: Bounds::default(),
        prices: Prices::default(),
    }
}

fn answerer(policy: &str) -> Answerer {
    let policy = qscale_policies::by_name(policy, &serde_json::Value::Null).expect("a known policy");
    Answerer::new(name("mine"), "a-1".into(), NonZeroU32::new(2).expect("not zero"), policy)
}

fn answer(policy: &str, state: &State, now: u64) -> Answer {
    answerer(policy).answer(state, Timestamp(now), &mut SmallRng::seed_from_u64(1))
}

#[track_caller]
fn acted(answer: Answer) -> (Action, Verdict) {
    match answer {
        Answer::Act(action, verdict) => (*action, verdict),
        other => panic!("expected an Action, got {other:?}"),
    }
}

#[test]
fn an_action_names_what_it_answers_and_when_it_is_void() {
    let state = state(Some(Allocation::new(2, 500, 128)));
    let (action, verdict) = acted(answer("threshold", &state, OBSERVED + 3));
    assert_eq!(verdict, Verdict::Want);
    assert_eq!(action.allocation, Allocation::new(3, 500, 128));
    assert_eq!((action.moment(), action.function()), (state.moment(), state.function()));
    assert_eq!((action.decided_at_ms, action.expires_at_ms), (Timestamp(OBSERVED + 3), Timestamp(OBSERVED + 10_000)));
    assert_eq!(action.subject(), "qscale.v1.action.mine.default.fib");
    assert_eq!(decode::<Action>(&action.subject(), &action.encode()), Ok(action));
}

#[test]
fn a_hold_keeps_what_is_in_force_and_says_why() {
    let mut unmeasured = state(Some(Allocation::new(2, 500, 128)));
    unmeasured.windows.tick.cpu_millicores = None;
    let (action, verdict) = acted(answer("threshold", &unmeasured, OBSERVED));
    assert_eq!((action.allocation, verdict), (Allocation::new(2, 500, 128), Verdict::Hold(HoldReason::NoMeasurement)));
    assert!(action.reason.contains("CPU"), "{}", action.reason);
}

#[test]
fn is_silent_where_nothing_is_known_to_be_in_force() {
    assert_eq!(answer("threshold", &state(None), OBSERVED), Answer::Silent(HoldReason::NoAllocation));
}

#[test]
fn a_state_is_answered_until_its_answer_would_be_void() {
    let state = state(Some(Allocation::new(2, 500, 128)));
    assert!(matches!(answer("threshold", &state, OBSERVED + 10_000), Answer::Act(..)));
    assert_eq!(answer("threshold", &state, OBSERVED + 10_001), Answer::Late);
}

#[test]
fn a_state_from_a_clock_that_runs_ahead_is_answered() {
    let state = state(Some(Allocation::new(2, 500, 128)));
    let (action, _) = acted(answer("threshold", &state, OBSERVED - 60_000));
    assert_eq!(action.check(), Ok(()));
}

#[test]
fn texts_are_cut_to_what_an_action_may_carry() {
    assert_eq!(cut("ä".repeat(1000)).len(), Action::MAX_TEXT);
    assert_eq!(cut(format!("x{}", "ä".repeat(1000))).len(), Action::MAX_TEXT - 1);
}
