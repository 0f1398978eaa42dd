use qscale_common::contract::{Action, Window, Windows};
use qscale_common::units::Allocation;
use qscale_rl::device::cpu;
use qscale_rl::{Hyperparameters, Learner};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::checkpoint::NetworkPurpose;
use crate::{ActionSet, Scope, fixtures};

fn checkpoint(seed: u64) -> Checkpoint {
    checkpoint_of(ActionSet::Headroom, seed)
}

fn checkpoint_of(set: ActionSet, seed: u64) -> Checkpoint {
    let purpose = NetworkPurpose { actions: Actions::new(set, Scope::Joint), reward: None, note: String::new() };
    let hyperparameters = Hyperparameters { hidden: vec![16], ..Hyperparameters::default() };
    let learner = Learner::new(hyperparameters, observation::COUNT, purpose.actions.count(), seed, &cpu()).expect("valid");
    let weights = learner.network().weights().expect("the CPU does not fail");
    Checkpoint::new(weights, None, learner.parameters(), seed, &purpose).model(None)
}

fn policy(seed: u64) -> Dqn {
    Dqn::new(&checkpoint(seed), DqnParams::default(), &cpu()).expect("it matches")
}

fn decide(policy: &Dqn, state: &State) -> Decision {
    policy.decide(state, &mut Memory::default(), Timestamp(0), &mut SmallRng::seed_from_u64(0))
}

#[test]
fn decisions_keep_to_the_bounds_and_list_all_actions() {
    for seed in 0..20 {
        for cores in [0.1, 0.7, 3.0, 40.0] {
            let (policy, state) = (policy(seed), fixtures::busy(cores));
            let (choices, wanted) = match decide(&policy, &state) {
                Decision::Want { allocation, choices, .. } => (choices, Some(allocation)),
                Decision::Hold { choices, .. } => (choices, None),
            };
            assert!(wanted.is_none_or(|wanted| state.bounds.contain(wanted) && Some(wanted) != state.allocation));
            assert!(choices.len() == policy.actions().count() && choices.len() <= Action::MAX_CHOICES);
            assert!(choices.iter().all(|choice| choice.value.is_some()) && choices.iter().any(|choice| choice.masked.is_some()));
        }
    }
}

#[test]
fn a_batch_is_decided_like_single_functions() {
    let policy = policy(3);
    let states: Vec<State> = (0..40).map(|number| fixtures::busy(0.1 * f64::from(number))).collect();
    let mut memories = vec![Memory::default(); states.len()];
    let mut cases: Vec<_> = states.iter().zip(&mut memories).collect();
    let together = policy.decide_all(&mut cases, Timestamp(0), &mut SmallRng::seed_from_u64(0));
    assert_eq!(together.len(), states.len());
    for (state, decision) in states.iter().zip(together) {
        assert_eq!(decide(&policy, state).wanted(), decision.wanted());
    }
}

#[test]
fn a_stored_network_decides_the_same() {
    let saved = checkpoint(4);
    let read = Checkpoint::from_bytes(&saved.to_bytes()).expect("it was just written");
    let (before, after) = (
        Dqn::new(&saved, DqnParams::default(), &cpu()).expect("it matches"),
        Dqn::new(&read, DqnParams::default(), &cpu()).expect("it matches"),
    );
    assert_eq!(before.model(), after.model());
    assert_ne!(before.model(), policy(5).model());
    for cores in [0.2, 1.0, 5.0] {
        assert_eq!(decide(&before, &fixtures::busy(cores)), decide(&after, &fixtures::busy(cores)));
    }
}

#[test]
fn the_specialist_decides_only_for_functions_that_keep_a_replica() {
    let (general, specialist) = (checkpoint(4), checkpoint(5));
    let joined = general.clone().join(&specialist).expect("they are alike");
    assert_eq!(Checkpoint::from_bytes(&joined.to_bytes()), Ok(joined.clone()));
    let fingerprints = [&general, &specialist, &joined].map(Checkpoint::fingerprint);
    assert!(fingerprints[2] != fingerprints[0] && fingerprints[2] != fingerprints[1]);
    let [general, specialist, joined] =
        [&general, &specialist, &joined].map(|model| Dqn::new(model, DqnParams::default(), &cpu()).expect("it matches"));
    let mut states: Vec<State> = (0..9).map(|number| fixtures::busy(0.3 * f64::from(number))).collect();
    for state in states.iter_mut().step_by(2) {
        let most = state.bounds.replicas.max();
        state.bounds.replicas = qscale_common::policy::Range::new(qscale_common::units::Replicas(0), most).expect("ordered");
    }
    let valued = |policy: &Dqn| {
        let mut histories = vec![History::default(); states.len()];
        let sights: Vec<FeatureContext<'_>> = states
            .iter()
            .zip(&mut histories)
            .map(|(state, history)| FeatureContext::update(state, history, default_violation_cost(state)))
            .collect();
        policy.value(&sights).expect("the CPU does not fail")
    };
    let (general, specialist, joined) = (valued(&general), valued(&specialist), valued(&joined));
    for (number, joined) in joined.iter().enumerate() {
        let (right, other) = if number % 2 == 0 { (&general, &specialist) } else { (&specialist, &general) };
        assert_eq!(joined, &right[number], "{number}");
        assert_ne!(joined.values, other[number].values, "{number}");
    }
}

#[test]
fn a_specialist_that_does_not_match_is_rejected() {
    let mut upright = checkpoint(5);
    upright.header.scope = Scope::Vertical;
    let error = checkpoint(4).join(&upright).expect_err("other actions");
    assert!(matches!(error, CheckpointError::Mismatch(_)), "{error}");
    let joined = checkpoint(4).join(&checkpoint(5)).expect("they are alike");
    let error = checkpoint(6).join(&joined).expect_err("two networks");
    assert!(matches!(error, CheckpointError::Mismatch(_)), "{error}");
}

#[test]
fn holds_without_allocation_or_measurements() {
    let policy = policy(1);
    let why = |state: &State| match decide(&policy, state) {
        Decision::Hold { why, .. } => Some(why),
        Decision::Want { .. } => None,
    };
    assert_eq!(why(&State { allocation: None, ..fixtures::busy(1.0) }), Some(HoldReason::NoAllocation));
    let mut state = fixtures::busy(1.0);
    state.windows.tick = Window::default();
    assert_eq!(why(&state), Some(HoldReason::NoMeasurement));
}

#[test]
fn violation_cost_is_an_input_of_the_network_and_has_a_range() {
    let state = fixtures::busy(1.0);
    let valued = |cost: f64| {
        let params = DqnParams { violation_cost: Some(ViolationCost::try_from(cost).expect("within its range")), ..DqnParams::default() };
        let policy = Dqn::new(&checkpoint(2), params, &cpu()).expect("it matches");
        policy.value(&[FeatureContext::update(&state, &mut History::default(), cost)]).expect("the CPU does not fail").remove(0)
    };
    let (low, middle, high) = (valued(10.0), valued(100.0), valued(20_000.0));
    assert!(low.values != middle.values && middle.values != high.values);
    assert_eq!(
        serde_json::from_str::<DqnParams>("{\"violation_cost\": 300}").expect("valid").violation_cost.map(ViolationCost::get),
        Some(300.0)
    );
    let error = serde_json::from_str::<DqnParams>("{\"violation_cost\": 3}").expect_err("out of range").to_string();
    assert!(["violation_cost = 3", "10", "20000"].iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn a_joint_network_keeps_to_the_requested_scope() {
    let narrowed = |checkpoint: &Checkpoint, scope| Dqn::new(checkpoint, DqnParams { scope: Some(scope), ..DqnParams::default() }, &cpu());
    for seed in 0..20 {
        for cores in [0.1, 0.7, 3.0, 40.0] {
            let state = fixtures::busy(cores);
            let current = state.allocation.expect("it is known");
            let wanted = |scope| decide(&narrowed(&checkpoint(seed), scope).expect("a part of all"), &state).wanted().unwrap_or(current);
            let (across, along) = (wanted(Scope::Horizontal), wanted(Scope::Vertical));
            assert_eq!(across, Allocation { replicas: across.replicas, ..current });
            assert_eq!(along.replicas, current.replicas);
        }
    }
    let mut upright = checkpoint(1);
    upright.header.scope = Scope::Vertical;
    let error = narrowed(&upright, Scope::Joint).err().expect("never trained").to_string();
    assert!(error.contains("vertical") && error.contains("joint"), "{error}");
    let params: DqnParams = serde_json::from_str("{\"scope\": \"horizontal\"}").expect("valid");
    assert_eq!(narrowed(&checkpoint(1), params.scope.expect("given")).expect("matches").model().split(' ').nth(2), Some("horizontal"));
}

#[test]
fn a_state_unlike_training_is_out_of_distribution() {
    let policy = Dqn::new(crate::pretrained::pretrained(), DqnParams::default(), &cpu()).expect("it matches");
    let ood_score = |state: &State| {
        let mut memory = Memory::default();
        policy.value_all(&mut [(state, &mut memory)]).expect("the CPU does not fail")[0].ood_score
    };
    assert!(ood_score(&fixtures::busy(1.0)) < OOD_THRESHOLD);
    let mut state = fixtures::busy(1e9);
    let Windows { tick, short, .. } = &mut state.windows;
    for window in [tick, short] {
        (window.failed_share, window.throttled_share, window.restarts) = (Some(1.0), Some(1.0), 1000);
        (window.queued, window.concurrency) = (Some(1e9), Some(1e9));
    }
    assert!(ood_score(&state) > OOD_THRESHOLD, "{}", ood_score(&state));
}

#[test]
fn an_action_within_the_switch_margin_of_the_default_is_not_taken() {
    let policy_with = |margin: Option<f64>| {
        let switch_margin = margin.map(|margin| SwitchMargin::try_from(margin).expect("within its range"));
        Dqn::new(&checkpoint(2), DqnParams { switch_margin, ..DqnParams::default() }, &cpu()).expect("it matches")
    };
    let policy = |margin: f64| policy_with(Some(margin));
    let (mut state, mut candidates) = (fixtures::busy(1.0), ActionCandidates::default());
    let mut history = History::default();
    for (tick, rate) in [(100, 400.0), (101, 50.0), (102, 50.0), (103, 50.0)] {
        state.tick = qscale_common::time::Tick(tick);
        (state.windows.tick.rate_rps, state.windows.tick.completed_rps) = (Some(rate), Some(rate));
        history.add(&state);
    }
    let actions = policy(0.0).actions().clone();
    actions.decode(&FeatureContext::new(&state, history.summary(), 100.0), &mut candidates);
    let usual = actions.default_action(&candidates).expect("it can be taken");
    let (of_peak, kept) = (candidates.entry(usual).expect("it can be taken"), candidates.entry(0).expect("it can be kept"));
    assert!(of_peak.total_cores() > 1.5 * kept.total_cores(), "{of_peak} {kept}");
    let mut values = vec![-1.0; actions.count()];
    values[0] = -0.99;
    assert_eq!(policy(0.0).select(&state, &candidates, &values, 100.0), Some(0));
    // A fifth of a tick at the usual cost, at a violation cost of 100: 0.2 / (0.376 x 100^0.75) = 0.017.
    assert_eq!(policy(0.2).select(&state, &candidates, &values, 100.0), Some(usual));
    values[0] = -0.98;
    assert_eq!(policy(0.2).select(&state, &candidates, &values, 100.0), Some(0));
    state.tick_length_ms *= 2;
    assert_eq!(policy(0.2).select(&state, &candidates, &values, 100.0), Some(usual), "a longer tick costs more");
    values[usual] = f32::NAN;
    assert_eq!(policy(100.0).select(&state, &candidates, &values, 100.0), Some(0), "a value that is not finite is ignored");
    assert_eq!(policy(100.0).select(&state, &ActionCandidates::default(), &values, 100.0), None);
    // A fifth of such a tick is 0.034, four are 0.67.
    (values[usual], values[0]) = (-1.0, -0.5);
    assert_eq!(policy_with(None).select(&state, &candidates, &values, 100.0), Some(0));
    state.bounds.replicas =
        qscale_common::policy::Range::new(qscale_common::units::Replicas(0), state.bounds.replicas.max()).expect("ordered");
    assert_eq!(
        policy_with(None).select(&state, &candidates, &values, 100.0),
        Some(usual),
        "the margin is larger if the function may be scaled to zero"
    );
}

#[test]
fn under_a_steady_load_the_default_action_is_taken() {
    let (mut state, mut history) = (fixtures::busy(1.0), History::default());
    for (set, steady) in [(ActionSet::Headroom, true), (ActionSet::Step, false)] {
        let policy = Dqn::new(&checkpoint_of(set, 2), DqnParams::default(), &cpu()).expect("it matches");
        for tick in 0..200 {
            state.tick = qscale_common::time::Tick(state.tick.0.max(100) + u64::from(tick > 0));
            history.add(&state);
        }
        let mut candidates = ActionCandidates::default();
        policy.actions().decode(&FeatureContext::new(&state, history.summary(), 100.0), &mut candidates);
        assert_eq!(candidates.is_steady(), steady, "{set}");
        let usual = policy.actions().default_action(&candidates).expect("it can be taken");
        let other = (0..policy.actions().count()).find(|at| *at != usual && candidates.mask().allows(*at)).expect("there are others");
        let mut values = vec![-1.0; policy.actions().count()];
        values[other] = 100.0;
        assert_eq!(policy.select(&state, &candidates, &values, 100.0), Some(if steady { usual } else { other }), "{set}");
    }
}

#[test]
fn sets_of_steps_have_the_smaller_switch_margin() {
    let mut state = fixtures::busy(1.0);
    let most = state.bounds.replicas.max();
    state.bounds.replicas = qscale_common::policy::Range::new(qscale_common::units::Replicas(0), most).expect("ordered");
    for (set, taken) in [(ActionSet::Step, true), (ActionSet::Headroom, false)] {
        let policy = Dqn::new(&checkpoint_of(set, 2), DqnParams::default(), &cpu()).expect("it matches");
        let mut candidates = ActionCandidates::default();
        policy.actions().decode(&FeatureContext::update(&state, &mut History::default(), 100.0), &mut candidates);
        let usual = policy.actions().default_action(&candidates).expect("it can be taken");
        let other = (0..policy.actions().count()).find(|at| *at != usual && candidates.mask().allows(*at)).expect("there are others");
        // Half a tick at the usual cost, at a violation cost of 100, is 0.5 / (0.376 x 100^0.75) = 0.042.
        let mut values = vec![-1.0; policy.actions().count()];
        values[other] = -0.958;
        assert_eq!(policy.select(&state, &candidates, &values, 100.0), Some(if taken { other } else { usual }), "{set}");
    }
}

#[test]
fn a_decision_does_not_depend_on_the_batch() {
    let policy = policy(6);
    let states: Vec<State> = (1..40).map(|number| fixtures::busy(0.07 * f64::from(number))).collect();
    let sights = |states: &[State]| -> Vec<Vec<f32>> {
        let seen: Vec<FeatureContext<'_>> =
            states.iter().map(|state| FeatureContext::update(state, &mut History::default(), 70.0)).collect();
        policy.value(&seen).expect("the CPU does not fail").into_iter().map(|valued| valued.values).collect()
    };
    let together = sights(&states);
    for (number, state) in states.iter().enumerate() {
        assert_eq!(sights(std::slice::from_ref(state))[0], together[number], "to the bit");
    }
}

#[test]
fn the_default_violation_cost_is_higher_for_a_function_that_may_be_scaled_to_zero() {
    let mut state = fixtures::busy(1.0);
    assert_eq!(default_violation_cost(&state), 20.0);
    state.bounds.replicas =
        qscale_common::policy::Range::new(qscale_common::units::Replicas(0), state.bounds.replicas.max()).expect("ordered");
    assert_eq!(default_violation_cost(&state), 500.0);
}
