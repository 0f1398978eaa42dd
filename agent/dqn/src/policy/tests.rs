use qscale_common::contract::{Action, Window, Windows};
use qscale_common::units::Allocation;
use qscale_rl::device::cpu;
use qscale_rl::{Hyperparameters, Learner};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::checkpoint::Purpose;
use crate::{ActionSet, Scope, sample};

fn checkpoint(seed: u64) -> Checkpoint {
    checkpoint_of(ActionSet::Headroom, seed)
}

fn checkpoint_of(set: ActionSet, seed: u64) -> Checkpoint {
    let purpose = Purpose { actions: Actions::new(set, Scope::Joint), worth: None, note: String::new() };
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
    let mut cases: Vec<_> = states.iter().zip(&mut memories).collect();
    let together = policy.decide_all(&mut cases, Timestamp(0), &mut SmallRng::seed_from_u64(0));
    assert_eq!(together.len(), states.len());
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
fn a_specialist_decides_for_what_keeps_a_replica_and_nobody_else() {
    let (alone, beside) = (checkpoint(4), checkpoint(5));
    let joined = alone.clone().join(&beside).expect("they are alike");
    assert_eq!(Checkpoint::from_bytes(&joined.to_bytes()), Ok(joined.clone()));
    let fingerprints = [&alone, &beside, &joined].map(Checkpoint::fingerprint);
    assert!(fingerprints[2] != fingerprints[0] && fingerprints[2] != fingerprints[1]);
    let [alone, beside, joined] =
        [&alone, &beside, &joined].map(|model| Dqn::new(model, DqnParams::default(), &cpu()).expect("it matches"));
    let mut states: Vec<State> = (0..9).map(|number| sample::busy(0.3 * f64::from(number))).collect();
    for state in states.iter_mut().step_by(2) {
        let most = state.bounds.replicas.max();
        state.bounds.replicas = qscale_common::policy::Range::new(qscale_common::units::Replicas(0), most).expect("ordered");
    }
    let valued = |policy: &Dqn| {
        let mut histories = vec![History::default(); states.len()];
        let sights: Vec<Sight<'_>> =
            states.iter().zip(&mut histories).map(|(state, history)| Sight::take(state, history, usual_caution(state))).collect();
        policy.value(&sights).expect("the CPU does not fail")
    };
    let (alone, beside, joined) = (valued(&alone), valued(&beside), valued(&joined));
    for (number, joined) in joined.iter().enumerate() {
        let (right, other) = if number % 2 == 0 { (&alone, &beside) } else { (&beside, &alone) };
        assert_eq!(joined, &right[number], "{number}");
        assert_ne!(joined.values, other[number].values, "{number}");
    }
}

#[test]
fn a_specialist_that_does_not_fit_is_refused() {
    let mut upright = checkpoint(5);
    upright.header.scope = Scope::Vertical;
    let error = checkpoint(4).join(&upright).expect_err("other choices").to_string();
    assert!(error.contains("the specialist chooses among other choices"), "{error}");
    let joined = checkpoint(4).join(&checkpoint(5)).expect("they are alike");
    let error = checkpoint(6).join(&joined).expect_err("two networks").to_string();
    assert!(error.contains("the specialist holds two networks itself"), "{error}");
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
        let params = DqnParams { caution: Some(Caution::try_from(caution).expect("within its range")), ..DqnParams::default() };
        let policy = Dqn::new(&checkpoint(2), params, &cpu()).expect("it matches");
        policy.value(&[Sight::take(&state, &mut History::default(), caution)]).expect("the CPU does not fail").remove(0)
    };
    let (bold, usual, careful) = (told(10.0), told(100.0), told(20_000.0));
    assert!(bold.values != usual.values && usual.values != careful.values);
    assert_eq!(serde_json::from_str::<DqnParams>("{\"caution\": 300}").expect("valid").caution.map(Caution::get), Some(300.0));
    let error = serde_json::from_str::<DqnParams>("{\"caution\": 3}").expect_err("out of range").to_string();
    assert!(error.contains("caution = 3, must be from 10 to 20000"), "{error}");
}

#[test]
fn a_network_for_all_scopes_keeps_to_the_one_that_is_asked_for() {
    let narrowed = |checkpoint: &Checkpoint, scope| Dqn::new(checkpoint, DqnParams { scope: Some(scope), ..DqnParams::default() }, &cpu());
    for seed in 0..20 {
        for cores in [0.1, 0.7, 3.0, 40.0] {
            let state = sample::busy(cores);
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
    assert!(error.contains("it was trained for scope vertical, joint is asked for"), "{error}");
    let told: DqnParams = serde_json::from_str("{\"scope\": \"horizontal\"}").expect("valid");
    assert_eq!(narrowed(&checkpoint(1), told.scope.expect("told")).expect("matches").model().split(' ').nth(2), Some("horizontal"));
}

#[test]
fn what_no_training_world_shows_is_strange() {
    let policy = Dqn::new(crate::pretrained::pretrained(), DqnParams::default(), &cpu()).expect("it matches");
    let strangeness = |state: &State| {
        let mut memory = Memory::default();
        policy.see_all(&mut [(state, &mut memory)]).expect("the CPU does not fail")[0].strangeness
    };
    assert!(strangeness(&sample::busy(1.0)) < FAR);
    let mut state = sample::busy(1e9);
    let Windows { tick, short, .. } = &mut state.windows;
    for window in [tick, short] {
        (window.failed_share, window.throttled_share, window.restarts) = (Some(1.0), Some(1.0), 1000);
        (window.queued, window.concurrency) = (Some(1e9), Some(1e9));
    }
    assert!(strangeness(&state) > FAR, "{}", strangeness(&state));
}

#[test]
fn what_promises_little_more_than_the_default_choice_is_no_reason_to_leave_it() {
    let told = |patience: Option<f64>| {
        let patience = patience.map(|patience| Patience::try_from(patience).expect("within its range"));
        Dqn::new(&checkpoint(2), DqnParams { patience, ..DqnParams::default() }, &cpu()).expect("it matches")
    };
    let policy = |patience: f64| told(Some(patience));
    let (mut state, mut menu) = (sample::busy(1.0), Menu::default());
    let mut history = History::default();
    for (tick, rate) in [(100, 400.0), (101, 50.0), (102, 50.0), (103, 50.0)] {
        state.tick = qscale_common::time::Tick(tick);
        (state.windows.tick.rate_rps, state.windows.tick.completed_rps) = (Some(rate), Some(rate));
        history.see(&state);
    }
    let actions = policy(0.0).actions().clone();
    actions.decode(&Sight::new(&state, history.told(), 100.0), &mut menu);
    let usual = actions.default_choice(&menu).expect("it can be taken");
    let (of_peak, kept) = (menu.entry(usual).expect("it can be taken"), menu.entry(0).expect("it can be kept"));
    assert!(of_peak.total_cores() > 1.5 * kept.total_cores(), "{of_peak} {kept}");
    let mut values = vec![-1.0; actions.count()];
    values[0] = -0.99;
    assert_eq!(policy(0.0).pick(&state, &menu, &values, 100.0), Some(0));
    // A fifth of a tick at the usual cost, at a caution of 100: 0.2 / (0.376 x 100^0.75) = 0.017.
    assert_eq!(policy(0.2).pick(&state, &menu, &values, 100.0), Some(usual));
    values[0] = -0.98;
    assert_eq!(policy(0.2).pick(&state, &menu, &values, 100.0), Some(0));
    state.tick_length_ms *= 2;
    assert_eq!(policy(0.2).pick(&state, &menu, &values, 100.0), Some(usual), "a longer tick costs more");
    values[usual] = f32::NAN;
    assert_eq!(policy(100.0).pick(&state, &menu, &values, 100.0), Some(0), "what has no value is no reason");
    assert_eq!(policy(100.0).pick(&state, &Menu::default(), &values, 100.0), None);
    // A fifth of such a tick is worth 0.034, and four are worth 0.67.
    (values[usual], values[0]) = (-1.0, -0.5);
    assert_eq!(told(None).pick(&state, &menu, &values, 100.0), Some(0));
    state.bounds.replicas =
        qscale_common::policy::Range::new(qscale_common::units::Replicas(0), state.bounds.replicas.max()).expect("ordered");
    assert_eq!(told(None).pick(&state, &menu, &values, 100.0), Some(usual), "what may be scaled to zero is left alone more");
}

#[test]
fn a_step_need_not_promise_as_much_as_a_leap() {
    let mut state = sample::busy(1.0);
    let most = state.bounds.replicas.max();
    state.bounds.replicas = qscale_common::policy::Range::new(qscale_common::units::Replicas(0), most).expect("ordered");
    for (set, taken) in [(ActionSet::Step, true), (ActionSet::Headroom, false)] {
        let policy = Dqn::new(&checkpoint_of(set, 2), DqnParams::default(), &cpu()).expect("it matches");
        let mut menu = Menu::default();
        policy.actions().decode(&Sight::take(&state, &mut History::default(), 100.0), &mut menu);
        let usual = policy.actions().default_choice(&menu).expect("it can be taken");
        let other = (0..policy.actions().count()).find(|at| *at != usual && menu.mask().allows(*at)).expect("there are others");
        // Half a tick at the usual cost, at a caution of 100, is worth 0.5 / (0.376 x 100^0.75) = 0.042.
        let mut values = vec![-1.0; policy.actions().count()];
        values[other] = -0.958;
        assert_eq!(policy.pick(&state, &menu, &values, 100.0), Some(if taken { other } else { usual }), "{set}");
    }
}

#[test]
fn a_decision_does_not_depend_on_who_else_is_decided_on() {
    let policy = policy(6);
    let states: Vec<State> = (1..40).map(|number| sample::busy(0.07 * f64::from(number))).collect();
    let sights = |states: &[State]| -> Vec<Vec<f32>> {
        let seen: Vec<Sight<'_>> = states.iter().map(|state| Sight::take(state, &mut History::default(), 70.0)).collect();
        policy.value(&seen).expect("the CPU does not fail").into_iter().map(|valued| valued.values).collect()
    };
    let together = sights(&states);
    for (number, state) in states.iter().enumerate() {
        assert_eq!(sights(std::slice::from_ref(state))[0], together[number], "to the bit");
    }
}

#[test]
fn what_may_be_scaled_to_zero_is_treated_with_more_caution_where_none_is_told() {
    let mut state = sample::busy(1.0);
    assert_eq!(usual_caution(&state), 20.0);
    state.bounds.replicas =
        qscale_common::policy::Range::new(qscale_common::units::Replicas(0), state.bounds.replicas.max()).expect("ordered");
    assert_eq!(usual_caution(&state), 500.0);
}
