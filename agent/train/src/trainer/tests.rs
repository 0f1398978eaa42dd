use qscale_common::contract::State;
use qscale_dqn::Checkpoint;
use qscale_dqn::tabular::{Tabular, TabularParameters};
use qscale_dqn::tasks::FunctionClass;
use qscale_dqn::{ActionSet, Actions, Scope};
use qscale_rl::device::cpu;
use qscale_rl::learner::{Hyperparameters, Learner, RolloutConfig};
use qscale_sim::Simulation;

use super::*;
use crate::agent::DqnAgent;
use crate::config::TrainingConfig;
use crate::run::TrainingRun;
use crate::world::draw;

fn config() -> TrainerConfig {
    let tasks = TaskDistribution { most_rps: 10.0, ..TaskDistribution::default() };
    TrainerConfig { tasks, worlds: 4, seed: 3, ..TrainerConfig::default() }
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
        let config = TrainerConfig { threads: NonZeroUsize::new(threads).expect("at least one"), ..config() };
        let mut trainer = Trainer::new(config, agent_by(rollouts));
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
fn a_checkpoint_continues_the_exploration_schedule() {
    let mut trainer = Trainer::new(config(), agent());
    (0..40).for_each(|_| trainer.tick().expect("the CPU does not fail"));
    let bytes = trainer.agent().checkpoint(None, "").expect("the CPU does not fail").to_bytes();
    let read = Checkpoint::from_bytes(&bytes).expect("it was just written");
    let header = &read.header;
    let learner = Learner::resume(header.hyperparameters.clone(), &read.weights, read.training.as_ref(), header.seed, &cpu());
    let resumed = DqnAgent::with(learner.expect("they belong together"), read.check().expect("it matches"), 0.25);
    let actions = read.check().expect("it matches");
    let world = |number| Env::new(Simulation::new(draw(&config().tasks, Split::Test, number).setup, number, 0), 200.0, Some(&actions));
    let envs: Vec<Env> = (0..30).map(world).collect();
    assert_eq!(resumed.learner().actions_taken(), 160);
    assert_eq!(resumed.actor().act(0, &envs), trainer.agent.actor().act(0, &envs));
}

#[test]
fn a_table_learns_in_the_same_worlds() {
    let mut table = Trainer::new(config(), Tabular::new(TabularParameters { step: 1, ..TabularParameters::default() }, 1));
    (0..30).for_each(|_| table.tick().expect("a table does not fail"));
    let (score, _) = table.take();
    assert!(score.ticks == 120 && score.mean.cost > 0.0, "{score:?}");
    assert!(table.agent().table.iter().flatten().any(|value| *value != 0.0));
}

#[test]
fn too_little_violates_and_too_much_costs() {
    // The first world whose load asks for something: the same ticks with next to nothing, with enough, and with all that is allowed.
    let reward = TrainingReward::default();
    let run = |wanted: fn(&State) -> qscale_common::units::Allocation| {
        let mut score = Score::default();
        for number in 0..20 {
            let mut env = Env::new(Simulation::new(draw(&config().tasks, Split::Test, number).setup, number, 0), 200.0, None);
            for _ in 0..40 {
                let wanted = wanted(env.state());
                score.add(&env.step(Some(wanted), None, &reward));
            }
        }
        score.mean
    };
    let least = run(|state| {
        let bounds = &state.bounds;
        qscale_common::units::Allocation::new(1, bounds.cpu_millicores.min().0, bounds.memory_mib.max().0)
    });
    let most = run(|state| state.bounds.largest());
    assert!(least.violation > 0.1 && most.violation < least.violation / 2.0, "{least:?} {most:?}");
    assert!(most.cost > 2.0 * least.cost, "{least:?} {most:?}");
}

#[test]
fn unavoidable_violations_are_not_part_of_the_reward() {
    let (reward, cost) = (TrainingReward::default(), 500.0);
    let tasks = config().tasks.of(FunctionClass::Sparse);
    let run = |wanted: fn(&State) -> qscale_common::units::Allocation| {
        let (mut violation, mut beyond_cost) = (0.0, 0.0f64);
        for number in 0..30 {
            let mut env = Env::new(Simulation::new(draw(&tasks, Split::Test, number).setup, number, 0), cost, None);
            for _ in 0..200 {
                let wanted = wanted(env.state());
                let tick_s = env.state().tick_length_ms as f64 / 1000.0;
                let tick = env.step(Some(wanted), None, &reward);
                violation += tick.violation;
                beyond_cost += tick.reward + reward.of_usual_cost(cost) * tick_s * tick.cost;
            }
        }
        (violation, beyond_cost)
    };
    let (violation, beyond_cost) = run(|state| state.bounds.largest());
    assert!(violation > 1.0 && beyond_cost.abs() < 1e-9, "{violation} {beyond_cost}");
    let (_, beyond_cost) = run(|state| state.bounds.clamp(qscale_common::units::Allocation::new(0, 1000, 256)));
    assert!(beyond_cost < -1.0, "what is too little is: {beyond_cost}");
}

fn training() -> TrainingConfig {
    let hyperparameters = Hyperparameters { hidden: vec![16], batch: 16, warm_up: 40, capacity: 5000, ..Hyperparameters::plain() };
    let tasks = TaskDistribution { most_rps: 10.0, ..TaskDistribution::default() };
    TrainingConfig {
        ticks: 10_000,
        worlds: 100,
        validations: 4,
        validation_worlds: 3,
        test_worlds: 2,
        replay_ratio: 0.01,
        hyperparameters,
        tasks,
        ..TrainingConfig::default()
    }
}

#[test]
fn a_run_keeps_the_best_of_its_validations_and_resumes() {
    let threads = NonZeroUsize::new(2).expect("at least one");
    let begin = |last: Option<&Checkpoint>| TrainingRun::new(training(), 7, last, &cpu(), threads).expect("a valid configuration");
    let mut whole = begin(None);
    let mut validations = Vec::new();
    let mut cut = None;
    while !whole.is_over() {
        validations.extend(whole.advance().expect("the CPU does not fail"));
        if validations.len() == 2 && cut.is_none() {
            cut = Some(whole.last().expect("the CPU does not fail"));
        }
    }
    assert_eq!(validations.iter().map(|validation| validation.ticks).collect::<Vec<_>>(), [2500, 5000, 7500, 10_000]);
    let best = whole.best().expect("it was validated");
    let most = validations.iter().map(|validation| validation.score.mean.reward).fold(f64::NEG_INFINITY, f64::max);
    assert_eq!(best.score.mean.reward, most);
    assert_eq!(Score::of(&whole.evaluate(best, Split::Validation).expect("the CPU does not fail")), best.score);
    let mut resumed = begin(cut.as_ref());
    assert_eq!(resumed.ticks(), 5000);
    let mut later = Vec::new();
    while !resumed.is_over() {
        later.extend(resumed.advance().expect("the CPU does not fail"));
    }
    assert_eq!(later.iter().map(|validation| validation.ticks).collect::<Vec<_>>(), [7500, 10_000]);
}

#[test]
fn evaluation_does_not_depend_on_the_number_of_threads() {
    let validation = |threads| {
        let run = TrainingRun::new(training(), 7, None, &cpu(), NonZeroUsize::new(threads).expect("at least one")).expect("valid");
        let rule = qscale_policies::by_name("hpa", &serde_json::Value::Null).expect("a rule");
        run.evaluator(Split::Validation).rule(&*rule)
    };
    assert_eq!(validation(1), validation(2));
    assert!(validation(1).iter().all(|score| score.ticks > 20));
}

#[test]
fn a_configuration_out_of_range_is_rejected_with_key_and_value() {
    for (config, expected) in [
        (TrainingConfig { ticks: 5, ..training() }, "ticks = 5"),
        (TrainingConfig { replay_ratio: 0.0, ..training() }, "replay_ratio = 0"),
        (
            TrainingConfig { tasks: TaskDistribution { sparse_share: 2.0, ..TaskDistribution::default() }, ..training() },
            "tasks.sparse_share = 2",
        ),
        (
            TrainingConfig {
                hyperparameters: Hyperparameters {
                    rollouts: Some(RolloutConfig { lambda: 1.5, ..RolloutConfig::default() }),
                    ..Hyperparameters::plain()
                },
                ..training()
            },
            "hyperparameters.rollouts.lambda = 1.5",
        ),
        (TrainingConfig { reward: TrainingReward { scale: 0.0, ..TrainingReward::default() }, ..training() }, "reward.scale = 0"),
        (
            TrainingConfig { hyperparameters: Hyperparameters { batch: 0, ..Hyperparameters::plain() }, ..training() },
            "hyperparameters.batch = 0",
        ),
    ] {
        let error = config.check().expect_err("out of range");
        assert!(error.contains(expected), "{error}");
    }
}
