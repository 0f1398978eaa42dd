use proptest::prelude::*;
use qscale_common::contract::{FallbackKind, Usage, Windows};
use qscale_common::fixtures::any_states;
use qscale_common::time::Tick;
use qscale_policies::History;
use qscale_rl::Weights;
use qscale_rl::device::cpu;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::checkpoint::NetworkPurpose;
use crate::context::FeatureContext;
use crate::pretrained::pretrained;
use crate::tree::{self, TreeLeaf, TreeNode};
use crate::{ActionCandidates, ActionSet, Actions, Checkpoint, DecisionTree, DqnParams, Scope, fixtures};

/// A function with 2 replicas of 500m that keeps a core busy, at its tick number `tick`.
fn state(tick: u64) -> State {
    let mut windows = Windows::default();
    let seen = &mut windows.tick;
    (seen.covered_ms, seen.rate_rps, seen.completed_rps) = (5000, Some(100.0), Some(100.0));
    seen.cpu_millicores = Some(Usage { mean: 400.0, max: 400.0 });
    seen.memory_mib = Some(Usage { mean: 50.0, max: 50.0 });
    let mut state = State { tick: Tick(tick), observed_at_ms: Timestamp(5000 * tick + 4999), windows, ..fixtures::state() };
    state.age.requests_ms = Some(0);
    state
}

/// A State unlike any in training: all requests fail, and no latency is known.
fn unlike_training(tick: u64) -> State {
    let mut state = state(tick);
    state.windows.short = state.windows.tick.clone();
    let Windows { tick, short, .. } = &mut state.windows;
    for window in [tick, short] {
        window.cpu_millicores = Some(Usage { mean: 1e12, max: 1e12 });
        window.memory_mib = None;
        (window.failed_share, window.throttled_share, window.restarts) = (Some(1.0), Some(1.0), 1000);
        (window.queued, window.concurrency) = (Some(1e9), Some(1e9));
    }
    state
}

fn learned(model: &Checkpoint, fallback: &str) -> Decider {
    let dqn = Dqn::new(model, DqnParams::default(), &cpu()).expect("it matches");
    Decider::learned(dqn, fallback).expect("a rule")
}

fn decide(decider: &Decider, state: &State, memories: &mut Memories) -> Decided {
    let (now, mut rng) = (state.observed_at_ms, SmallRng::seed_from_u64(1));
    decider.decide_all(&mut [(state, memories)], now, &mut rng).pop().expect("one case has one decision")
}

#[test]
fn the_model_decides_while_states_resemble_training() {
    let (decider, mut memories) = (learned(pretrained(), "threshold-both"), Memories::default());
    for tick in 1..20 {
        let decided = decide(&decider, &state(tick), &mut memories);
        assert_eq!(decided.fallback, None);
    }
}

#[test]
fn a_tree_is_trusted_like_the_network_that_it_imitates() {
    let network = learned(pretrained(), "threshold-both");
    let leaf = TreeNode::Leaf(TreeLeaf { action: 0, samples: 1, equal: 1 });
    let tree = TreePolicy::new(DecisionTree::new(tree::tests::header(), leaf, pretrained()).expect("valid"));
    let fingerprint = tree.fingerprint().to_owned();
    let tree = Decider::learned(tree, "threshold-both").expect("a rule");
    assert_eq!((tree.name(), tree.provenance().fingerprint()), ("tree", Some(fingerprint.as_str())));
    assert_eq!(tree.lookback(), network.lookback());
    let (mut of_tree, mut of_network) = (Memories::default(), Memories::default());
    let mut decided = 0;
    for tick in 1..40 {
        let state = if tick % 11 == 0 { unlike_training(tick) } else { state(tick) };
        let (by_tree, by_network) = (decide(&tree, &state, &mut of_tree), decide(&network, &state, &mut of_network));
        assert_eq!(by_tree.fallback, by_network.fallback, "{tick}");
        decided += usize::from(by_tree.fallback.is_none());
    }
    assert!(decided > 10 && decided < 39, "{decided}");
}

#[test]
fn the_fallback_decides_until_six_good_states_in_a_row() {
    let (decider, mut memories) = (learned(pretrained(), "threshold-both"), Memories::default());
    let mut reasons = Vec::new();
    let good = [true, false, true, true, false, true, true, true, true, true, true, true];
    for (tick, good) in (1..).zip(good) {
        let state = if good { state(tick) } else { unlike_training(tick) };
        let decided = decide(&decider, &state, &mut memories);
        let fallback = decided.fallback;
        assert!(fallback.iter().all(|fallback| fallback.rule == "threshold-both"), "{fallback:?}");
        if let Some(FallbackReason::OutOfDistribution { score, threshold }) = fallback.as_ref().map(|fallback| &fallback.reason) {
            assert_eq!(*threshold, f64::from(OOD_THRESHOLD));
            assert!(score.is_none_or(|score| score > *threshold), "{score:?}");
        }
        reasons.push(fallback.map(|fallback| match fallback.reason {
            FallbackReason::Recovering { states_left } => (FallbackKind::Recovering, states_left),
            other => (other.kind(), 0),
        }));
    }
    let (unlike_training, recovering) = (Some((FallbackKind::OutOfDistribution, 0)), |left| Some((FallbackKind::Recovering, left)));
    let first = [None, unlike_training, recovering(5), recovering(4), unlike_training];
    assert_eq!(reasons, [&first[..], &[5, 4, 3, 2, 1].map(recovering), &[None, None]].concat());
}

#[test]
fn the_fallback_decides_where_nothing_measures_requests() {
    let decider = learned(pretrained(), "threshold-both");
    let unmeasured = |ticks: u64| {
        let mut state = state(1);
        (state.windows.short, state.age.requests_ms) = (state.windows.tick.clone(), None);
        state.windows.short.covered_ms = ticks * state.tick_length_ms;
        state
    };
    let reason = |state: &State| decide(&decider, state, &mut Memories::default()).fallback.map(|fallback| fallback.reason);
    for ticks in [0, 9] {
        let decided = decide(&decider, &unmeasured(ticks), &mut Memories::default());
        assert_eq!(decided.fallback, None, "a source may lag");
        assert!(matches!(decided.decision, Decision::Hold { why: HoldReason::NoMeasurement, .. }), "{decided:?}");
    }
    assert_eq!(reason(&unmeasured(10)), Some(FallbackReason::RequestsNotMeasured));
    let mut measured = unmeasured(10);
    measured.age.requests_ms = Some(0);
    assert_eq!(reason(&measured), None);
}

#[test]
fn a_model_that_returns_a_non_finite_value_is_not_trusted() {
    let model = pretrained();
    let (shift, scale) = model.weights.normalisation();
    let huge = vec![f32::MAX; model.weights.values().len()];
    let weights = Weights::from_parts(model.weights.architecture().clone(), huge, shift.to_vec(), scale.to_vec()).expect("finite");
    let header = &model.header;
    let purpose = NetworkPurpose { actions: Actions::new(header.action_set, header.scope), reward: None, note: String::new() };
    let broken = Checkpoint::new(weights, None, &header.hyperparameters, 1, &purpose);
    let decided = decide(&learned(&broken, "threshold-both"), &state(1), &mut Memories::default());
    assert_eq!(decided.fallback, Some(Fallback { rule: "threshold-both".to_owned(), reason: FallbackReason::NonFiniteValue }));
    let rule = qscale_policies::by_name("threshold-both", &Value::Null).expect("a rule");
    let alone = rule.decide(&state(1), &mut Memory::default(), Timestamp(0), &mut SmallRng::seed_from_u64(1));
    assert_eq!(decided.decision.wanted(), alone.wanted());
}

#[test]
fn a_fallback_with_memory_knows_the_load_when_it_takes_over() {
    let (decider, mut memories) = (learned(pretrained(), "holt-winters"), Memories::default());
    let rule = qscale_policies::by_name("holt-winters", &Value::Null).expect("a rule");
    let (mut alone, mut rng) = (Memory::default(), SmallRng::seed_from_u64(1));
    for tick in 1..30 {
        decide(&decider, &state(tick), &mut memories);
        rule.decide(&state(tick), &mut alone, state(tick).observed_at_ms, &mut rng);
    }
    assert_eq!(memories.fallback, alone);
    decider.remember(&state(30), &mut memories, &mut rng);
    rule.decide(&state(30), &mut alone, state(30).observed_at_ms, &mut rng);
    assert_eq!(memories.fallback, alone);
}

#[test]
fn recalled_states_equal_states_that_were_decided_on() {
    let decider = learned(pretrained(), "threshold-both");
    let (mut seen, mut recalled, mut rng) = (Memories::default(), Memories::default(), SmallRng::seed_from_u64(1));
    for tick in 1..40 {
        decide(&decider, &state(tick), &mut seen);
        decider.remember(&state(tick), &mut recalled, &mut rng);
    }
    assert_eq!(seen.own, recalled.own);
    assert_eq!(decide(&decider, &state(41), &mut seen), decide(&decider, &state(41), &mut recalled));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_valid_state_ends_it_or_makes_it_want_more_than_the_bounds_allow(seed: u64) {
        let states = any_states(seed, 3);
        for set in [ActionSet::Headroom, ActionSet::Step, ActionSet::Grid] {
            for scope in [Scope::Horizontal, Scope::Vertical, Scope::Joint] {
                let actions = Actions::new(set, scope);
                let (mut history, mut candidates) = (History::default(), ActionCandidates::default());
                for state in &states {
                    actions.decode(&FeatureContext::update(state, &mut history, 200.0), &mut candidates);
                    let allocations = (0..actions.count()).filter_map(|index| candidates.entry(index).ok());
                    prop_assert!(allocations.into_iter().all(|allocation| state.bounds.contain(allocation)), "{} {}", set, scope);
                }
            }
        }
        let (decider, mut memories) = (learned(pretrained(), "threshold-both"), Memories::default());
        for state in &states {
            let decided = decide(&decider, state, &mut memories);
            prop_assert!(decided.decision.wanted().is_none_or(|wanted| state.bounds.contain(wanted)), "{:?}", decided);
        }
    }
}
