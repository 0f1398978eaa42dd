use qscale_common::contract::{Action, Window};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::checkpoint::Purpose;
use crate::device::cpu;
use crate::{ActionSet, Hyperparameters, Learner, Scope, sample};

fn checkpoint(seed: u64) -> Checkpoint {
    let purpose = Purpose { actions: Actions::new(ActionSet::Headroom, Scope::Joint), worth: None, note: String::new() };
    let hyperparameters = Hyperparameters { hidden: vec![16], ..Hyperparameters::default() };
    let learner = Learner::new(hyperparameters, observation::COUNT, purpose.actions.count(), seed, &cpu()).expect("valid");
    let weights = learner.network().weights().expect("the CPU does not fail");
    Checkpoint::new(weights, None, learner.parameters(), seed, &purpose)
}

fn policy(seed: u64) -> Dqn {
    Dqn::new(&checkpoint(seed), DqnParams::default(), &cpu()).expect("it matches")
}

fn decide(policy: &Dqn, state: &State) -> Decision {
    policy.decide(state, &mut Memory::default(), Timestamp(0), &mut SmallRng::seed_from_u64(0))
}

#[test]
fn decisions_keep_to_the_bounds_and_show_what_else_there_was() {
    for seed in 0..20 {
        for cores in [0.1, 0.7, 3.0, 40.0] {
            let (policy, state) = (policy(seed), sample::busy(cores));
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
fn many_at_once_are_decided_as_one_by_one() {
    let policy = policy(3);
    let states: Vec<State> = (0..40).map(|number| sample::busy(0.1 * f64::from(number))).collect();
    let mut memories = vec![Memory::default(); states.len()];
    let together = policy.decide_all(states.iter().zip(&mut memories)).expect("the CPU does not fail");
    for (state, decision) in states.iter().zip(together) {
        assert_eq!(decide(&policy, state).wanted(), decision.wanted());
    }
}

#[test]
fn a_policy_from_a_file_decides_as_the_network_that_was_saved() {
    let saved = checkpoint(4);
    let read = Checkpoint::from_bytes(&saved.to_bytes()).expect("it was just written");
    let (before, after) = (
        Dqn::new(&saved, DqnParams::default(), &cpu()).expect("it matches"),
        Dqn::new(&read, DqnParams::default(), &cpu()).expect("it matches"),
    );
    assert_eq!(before.model(), after.model());
    assert_ne!(before.model(), policy(5).model());
    for cores in [0.2, 1.0, 5.0] {
        assert_eq!(decide(&before, &sample::busy(cores)), decide(&after, &sample::busy(cores)));
    }
}

#[test]
fn it_holds_where_nothing_is_known() {
    let policy = policy(1);
    let why = |state: &State| match decide(&policy, state) {
        Decision::Hold { why, .. } => Some(why),
        Decision::Want { .. } => None,
    };
    assert_eq!(why(&State { allocation: None, ..sample::busy(1.0) }), Some(HoldReason::NoAllocation));
    let mut state = sample::busy(1.0);
    state.windows.tick = Window::default();
    assert_eq!(why(&state), Some(HoldReason::NoMeasurement));
}

#[test]
fn caution_is_part_of_what_is_seen_and_kept_within_its_range() {
    let state = sample::busy(1.0);
    let told = |caution: f64| {
        let params = DqnParams { caution: Caution::try_from(caution).expect("within its range") };
        let policy = Dqn::new(&checkpoint(2), params, &cpu()).expect("it matches");
        policy.value(&[Sight::take(&state, &mut History::default(), caution)]).expect("the CPU does not fail").remove(0)
    };
    let (bold, usual, careful) = (told(10.0), told(200.0), told(20_000.0));
    assert!(bold.values != usual.values && usual.values != careful.values);
    assert_eq!(serde_json::from_str::<DqnParams>("{\"caution\": 400}").expect("valid").caution.get(), 400.0);
    let error = serde_json::from_str::<DqnParams>("{\"caution\": 3}").expect_err("out of range").to_string();
    assert!(error.contains("caution = 3, must be from 10 to 20000"), "{error}");
}
