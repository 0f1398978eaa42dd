//! Out-of-distribution scores of the bundled model in training worlds.

use qscale_dqn::policy::OOD_THRESHOLD;
use qscale_dqn::pretrained::pretrained;
use qscale_dqn::reward::TrainingReward;
use qscale_dqn::tasks::{Split, TaskDistribution};
use qscale_dqn::{Dqn, DqnParams};
use qscale_rl::device::cpu;
use qscale_sim::Simulation;
use qscale_train::env::Env;
use qscale_train::world::draw;

/// The score of each tick of `worlds` under the decisions of the bundled model.
fn scores_in_training(worlds: std::ops::Range<u64>) -> Vec<f32> {
    let policy = Dqn::new(pretrained(), DqnParams::default(), &cpu()).expect("it matches");
    let mut scores = Vec::new();
    for number in worlds {
        let world = draw(&TaskDistribution::default(), Split::Training, number);
        let ticks = world.ticks();
        let mut env = Env::new(Simulation::new(world.setup, number, 0), world.violation_cost, Some(policy.actions()));
        for _ in 0..ticks {
            scores.push(policy.ood_score(env.observation()));
            let values = policy.values(env.observation()).expect("the CPU does not fail");
            let wanted = env.candidates().mask().best(&values).and_then(|best| env.candidates().entry(best).ok());
            env.step(wanted, Some(policy.actions()), &TrainingReward::default());
        }
    }
    scores
}

#[test]
fn fewer_than_one_training_tick_in_ten_thousand_is_out_of_distribution() {
    // World numbers beyond those of any training run.
    let scores = scores_in_training(1 << 40..(1 << 40) + 80);
    let far = scores.iter().filter(|score| **score > OOD_THRESHOLD).count();
    assert!(scores.len() > 30_000 && far * 10_000 < scores.len(), "{far} of {}", scores.len());
    let mean = scores.iter().sum::<f32>() / scores.len() as f32;
    assert!((0.7..2.0).contains(&mean), "{mean}");
}
