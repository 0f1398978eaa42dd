use qscale_common::contract::State;
use qscale_dqn::Checkpoint;
use qscale_dqn::actions::{ActionSet, Actions, Scope};
use qscale_dqn::domain::Kind;
use qscale_dqn::tabular::{Tabular, TabularParameters};
use qscale_rl::device::cpu;
use qscale_rl::learner::{Hyperparameters, Learner, RolloutConfig};

use super::*;
use crate::agent::DqnAgent;
use crate::course::Course;
use crate::recipe::Recipe;

fn plan() -> Plan {
    let domain = Domain { most_rps: 10.0, ..Domain::default() };
    Plan { domain, worlds: 4, seed: 3, ..Plan::default() }
}

fn agent() -> DqnAgent {
    agent_by(None)
}

fn agent_by(rollouts: Option<RolloutConfig>) -> DqnAgent {
    let hyperparameters = Hyperparameters { hidden: vec![16], batch: 16, warm_up: 40, rollouts, ..Hyperparameters::plain() };
    DqnAgent::new(hyperparameters, Actions::new(ActionSet::Headroom, Scope::Joint), 0.25, 5, &cpu()).expect("valid")
}

#[test]
fn one_seed_gives_one_network_and_one_score_on_any_number_of_threads() {
    let run = |threads, rollouts| {
        let plan = Plan { threads: NonZeroUsize::new(threads).expect("at least one"), ..plan() };
        let mut trainer = Trainer::new(plan, agent_by(rollouts));
        (0..50).for_each(|_| trainer.tick().expect("the CPU does not fail"));
        let checkpoint = trainer.agent().checkpoint(None, "").expect("the CPU does not fail");
        (trainer.take(), checkpoint)
    };
    for rollouts in [None, Some(RolloutConfig { length: 8, epochs: 4, ..RolloutConfig::default() })] {
        let ((score, loss), checkpoint) = run(1, rollouts);
        assert_eq!(run(3, rollouts), ((score, loss), checkpoint));
        assert!(score.ticks == 200 && score.mean.reward < 0.0 && loss.updates > 20, "{score:?} {loss:?}");
    }
}

#[test]
fn a_checkpoint_in_the_middle_goes_on_exploring_where_it_was() {
    let mut trainer = Trainer::new(plan(), agent());
    (0..40).for_each(|_| trainer.tick().expect("the CPU does not fail"));
    let bytes = trainer.agent().checkpoint(None, "").expect("the CPU does not fail").to_bytes();
    let read = Checkpoint::from_bytes(&bytes).expect("it was just written");
    let header = &read.header;
    let learner = Learner::resume(header.hyperparameters.clone(), &read.weights, read.training.as_ref(), header.seed, &cpu());
    let resumed = DqnAgent::with(learner.expect("they belong together"), read.check().expect("it matches"), 0.25);
    let actions = read.check().expect("it matches");
    let world = |number| Lane::new(Simulation::new(draw(&plan().domain, Part::Test, number).setup, number, 0), 200.0, Some(&actions));
    let lanes: Vec<Lane> = (0..30).map(world).collect();
    assert_eq!(resumed.learner().actions_taken(), 160);
    assert_eq!(resumed.actor().act(0, &lanes), trainer.agent.actor().act(0, &lanes));
}

#[test]
fn a_table_lives_through_the_same_worlds() {
    let mut table = Trainer::new(plan(), Tabular::new(TabularParameters { step: 1, ..TabularParameters::default() }, 1));
    (0..30).for_each(|_| table.tick().expect("a table does not fail"));
    let (score, _) = table.take();
    assert!(score.ticks == 120 && score.mean.cost > 0.0, "{score:?}");
    assert!(table.agent().table.iter().flatten().any(|value| *value != 0.0));
}

#[test]
fn what_is_overloaded_is_worth_less_and_what_is_too_much_costs() {
    // The first world whose load asks for something: the same ticks with next to nothing, with enough, and with all that is allowed.
    let worth = Worth::default();
    let lived = |wanted: fn(&State) -> qscale_common::units::Allocation| {
        let mut score = Score::default();
        for number in 0..20 {
            let mut lane = Lane::new(Simulation::new(draw(&plan().domain, Part::Test, number).setup, number, 0), 200.0, None);
            for _ in 0..40 {
                let wanted = wanted(lane.state());
                score.add(&lane.step(Some(wanted), None, &worth));
            }
        }
        score.mean
    };
    let least = lived(|state| {
        let bounds = &state.bounds;
        qscale_common::units::Allocation::new(1, bounds.cpu_millicores.min().0, bounds.memory_mib.max().0)
    });
    let most = lived(|state| state.bounds.largest());
    assert!(least.violation > 0.1 && most.violation < least.violation / 2.0, "{least:?} {most:?}");
    assert!(most.cost > 2.0 * least.cost, "{least:?} {most:?}");
}

#[test]
fn what_nobody_could_help_is_no_part_of_the_reward() {
    let (worth, caution) = (Worth::default(), 500.0);
    let domain = plan().domain.of(Kind::Sparse);
    let lived = |wanted: fn(&State) -> qscale_common::units::Allocation| {
        let (mut violation, mut beyond_cost) = (0.0, 0.0f64);
        for number in 0..30 {
            let mut lane = Lane::new(Simulation::new(draw(&domain, Part::Test, number).setup, number, 0), caution, None);
            for _ in 0..200 {
                let wanted = wanted(lane.state());
                let tick_s = lane.state().tick_length_ms as f64 / 1000.0;
                let tick = lane.step(Some(wanted), None, &worth);
                violation += tick.violation;
                beyond_cost += tick.reward + worth.of_usual_cost(caution) * tick_s * tick.cost;
            }
        }
        (violation, beyond_cost)
    };
    let (violation, beyond_cost) = lived(|state| state.bounds.largest());
    assert!(violation > 1.0 && beyond_cost.abs() < 1e-9, "{violation} {beyond_cost}");
    let (_, beyond_cost) = lived(|state| state.bounds.clamp(qscale_common::units::Allocation::new(0, 1000, 256)));
    assert!(beyond_cost < -1.0, "what is too little is: {beyond_cost}");
}

fn recipe() -> Recipe {
    let hyperparameters = Hyperparameters { hidden: vec![16], batch: 16, warm_up: 40, capacity: 5000, ..Hyperparameters::plain() };
    let domain = Domain { most_rps: 10.0, ..Domain::default() };
    Recipe {
        ticks: 10_000,
        worlds: 100,
        judgements: 4,
        validation_worlds: 3,
        test_worlds: 2,
        replay_ratio: 0.01,
        hyperparameters,
        domain,
        ..Recipe::default()
    }
}

#[test]
fn a_training_keeps_the_best_of_its_judgements_and_goes_on_where_it_was_cut() {
    let threads = NonZeroUsize::new(2).expect("at least one");
    let begin = |last: Option<&Checkpoint>| Course::new(recipe(), 7, last, &cpu(), threads).expect("a recipe within its ranges");
    let mut whole = begin(None);
    let mut judgements = Vec::new();
    let mut cut = None;
    while !whole.is_over() {
        judgements.extend(whole.advance().expect("the CPU does not fail"));
        if judgements.len() == 2 && cut.is_none() {
            cut = Some(whole.last().expect("the CPU does not fail"));
        }
    }
    assert_eq!(judgements.iter().map(|judged| judged.ticks).collect::<Vec<_>>(), [2500, 5000, 7500, 10_000]);
    let best = whole.best().expect("it was judged");
    let most = judgements.iter().map(|judged| judged.validation.mean.reward).fold(f64::NEG_INFINITY, f64::max);
    assert_eq!(best.score.mean.reward, most);
    assert_eq!(Score::of(&whole.judged(best, Part::Validation).expect("the CPU does not fail")), best.score);
    let mut resumed = begin(cut.as_ref());
    assert_eq!(resumed.ticks(), 5000);
    let mut later = Vec::new();
    while !resumed.is_over() {
        later.extend(resumed.advance().expect("the CPU does not fail"));
    }
    assert_eq!(later.iter().map(|judged| judged.ticks).collect::<Vec<_>>(), [7500, 10_000]);
}

#[test]
fn rules_and_networks_are_judged_in_the_same_worlds_on_any_number_of_threads() {
    let judged = |threads| {
        let course = Course::new(recipe(), 7, None, &cpu(), NonZeroUsize::new(threads).expect("at least one")).expect("valid");
        let rule = qscale_policies::by_name("hpa", &serde_json::Value::Null).expect("a rule");
        course.court(Part::Validation).rule(&*rule)
    };
    assert_eq!(judged(1), judged(2));
    assert!(judged(1).iter().all(|score| score.ticks > 20));
}

#[test]
fn a_recipe_out_of_range_is_refused_with_the_value() {
    for (recipe, told) in [
        (Recipe { ticks: 5, ..recipe() }, "ticks = 5, must be from 10000"),
        (Recipe { replay_ratio: 0.0, ..recipe() }, "replay_ratio = 0"),
        (Recipe { domain: Domain { sparse: 2.0, ..Domain::default() }, ..recipe() }, "domain.sparse = 2"),
        (
            Recipe {
                hyperparameters: Hyperparameters {
                    rollouts: Some(RolloutConfig { lambda: 1.5, ..RolloutConfig::default() }),
                    ..Hyperparameters::plain()
                },
                ..recipe()
            },
            "hyperparameters.rollouts.lambda = 1.5",
        ),
        (Recipe { worth: Worth { scale: 0.0, ..Worth::default() }, ..recipe() }, "worth.scale = 0"),
        (Recipe { hyperparameters: Hyperparameters { batch: 0, ..Hyperparameters::plain() }, ..recipe() }, "hyperparameters.batch = 0"),
    ] {
        let error = recipe.check().expect_err("out of range");
        assert!(error.contains(told), "{error}");
    }
}
