//! How far the ticks of training worlds lie from what the model that comes along was trained on.

use qscale_dqn::domain::{Domain, Part};
use qscale_dqn::policy::FAR;
use qscale_dqn::pretrained::pretrained;
use qscale_dqn::worth::Worth;
use qscale_dqn::{Dqn, DqnParams};
use qscale_rl::device::cpu;
use qscale_sim::Simulation;
use qscale_train::lane::Lane;
use qscale_train::world::draw;

/// Lives through training worlds as the model that comes along decides there, and tells how strange each tick was.
fn strangeness_in_training(worlds: std::ops::Range<u64>) -> Vec<f32> {
    let policy = Dqn::new(pretrained(), DqnParams::default(), &cpu()).expect("it matches");
    let mut strangeness = Vec::new();
    for number in worlds {
        let world = draw(&Domain::default(), Part::Training, number);
        let ticks = world.ticks();
        let mut lane = Lane::new(Simulation::new(world.setup, number, 0), world.caution, Some(policy.actions()));
        for _ in 0..ticks {
            strangeness.push(policy.strangeness(lane.observation()));
            let values = policy.values(lane.observation()).expect("the CPU does not fail");
            let wanted = lane.menu().mask().best(&values).and_then(|best| lane.menu().entry(best).ok());
            lane.step(wanted, Some(policy.actions()), &Worth::default());
        }
    }
    strangeness
}

#[test]
fn hardly_any_tick_of_a_training_world_is_strange() {
    // Numbers that no training reaches.
    let strangeness = strangeness_in_training(1 << 40..(1 << 40) + 80);
    let far = strangeness.iter().filter(|strangeness| **strangeness > FAR).count();
    assert!(strangeness.len() > 30_000 && far * 10_000 < strangeness.len(), "{far} of {}", strangeness.len());
    let mean = strangeness.iter().sum::<f32>() / strangeness.len() as f32;
    assert!((0.7..2.0).contains(&mean), "{mean} deviations are usual");
}
