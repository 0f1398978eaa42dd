//! Seeded training and the bundled model give the same bits as before. A refactoring must keep these checksums; an intended change of behaviour replaces them.
//!
//! The checksums hold on x86-64 with FMA, as rounding differs elsewhere.

use std::num::NonZeroUsize;

use qscale_common::contract::Choice;
use qscale_dqn::actions::ActionSet;
use qscale_dqn::pretrained::pretrained;
use qscale_dqn::tasks::{Split, TaskDistribution};
use qscale_dqn::{Dqn, DqnParams};
use qscale_policies::{Decision, Memory, Policy};
use qscale_rl::device::cpu;
use qscale_rl::learner::{Hyperparameters, RolloutConfig};
use qscale_rl::loss::Munchausen;
use qscale_rl::replay::Sampling;
use qscale_sim::Simulation;
use qscale_train::config::TrainingConfig;
use qscale_train::run::TrainingRun;
use qscale_train::world::draw;
use rand::SeedableRng;
use rand::rngs::SmallRng;

fn rounds_as_recorded() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// FNV-1a of 64 bits.
fn sum(sum: u64, number: u64) -> u64 {
    (sum ^ number).wrapping_mul(0x0100_0000_01b3)
}

const BEGIN: u64 = 0xcbf2_9ce4_8422_2325;

fn trained(hyperparameters: Hyperparameters, action_set: ActionSet) -> [String; 2] {
    let tasks = TaskDistribution { most_rps: 10.0, ..TaskDistribution::default() };
    let config = TrainingConfig {
        ticks: 10_000,
        worlds: 50,
        validations: 2,
        validation_worlds: 2,
        test_worlds: 2,
        replay_ratio: 0.02,
        action_set,
        hyperparameters: Hyperparameters { hidden: vec![32, 16], batch: 32, warm_up: 400, capacity: 5000, ..hyperparameters },
        tasks,
        ..TrainingConfig::default()
    };
    let threads = NonZeroUsize::new(2).expect("two");
    let mut run = TrainingRun::new(config, 7, None, &cpu(), threads).expect("within its ranges");
    while !run.is_over() {
        run.advance().expect("the CPU does not fail");
    }
    let last = run.last().expect("the CPU does not fail");
    [last.fingerprint(), last.model(None).fingerprint()]
}

#[test]
fn seeded_training_gives_the_same_weights() {
    if !rounds_as_recorded() {
        return;
    }
    let munchausen = Hyperparameters {
        munchausen: Some(Munchausen::default()),
        sampling: Sampling::Prioritised { alpha: 0.6, beta: 0.4, beta_over: 100 },
        ..Hyperparameters::plain()
    };
    let branches = Hyperparameters { quantiles: 4, branches: vec![5, 4, 3], ..Hyperparameters::default() };
    let rollouts =
        Hyperparameters { rollouts: Some(RolloutConfig { length: 8, ..RolloutConfig::default() }), ..Hyperparameters::default() };
    let found = [
        trained(Hyperparameters::default(), ActionSet::Headroom),
        trained(munchausen, ActionSet::Step),
        trained(branches, ActionSet::Grid),
        trained(rollouts, ActionSet::Headroom),
    ];
    let expected = TRAINED.map(|pair| pair.map(str::to_owned));
    assert_eq!(found, expected);
}

#[test]
fn the_bundled_model_decides_the_same() {
    if !rounds_as_recorded() {
        return;
    }
    assert_eq!(pretrained().fingerprint(), BUNDLED);
    let policy = Dqn::new(pretrained(), DqnParams::default(), &cpu()).expect("it matches");
    let (mut decided, mut valued, mut rng) = (BEGIN, BEGIN, SmallRng::seed_from_u64(1));
    for number in 0..12 {
        let world = draw(&TaskDistribution::default(), Split::Test, number);
        let ticks = world.ticks().min(200);
        let (mut cell, mut memory) = (Simulation::new(world.setup, number, 0), Memory::default());
        for _ in 0..ticks {
            let at = cell.state().observed_at_ms;
            let decision = policy.decide(cell.state(), &mut memory, at, &mut rng);
            let (Decision::Want { choices, .. } | Decision::Hold { choices, .. }) = &decision;
            for Choice { value, .. } in choices {
                valued = sum(valued, value.unwrap_or(0.0).to_bits());
            }
            let wanted = decision.wanted();
            let numbers = wanted.map_or([0; 3], |wanted| [wanted.replicas.0, wanted.cpu_millicores.0, wanted.memory_mib.0]);
            decided = numbers.into_iter().fold(decided, |so_far, number| sum(so_far, u64::from(number)));
            cell.step(wanted);
        }
    }
    assert_eq!(format!("{decided:016x} {valued:016x}"), DECIDED);
}

/// Fingerprints of the last network and of the model made of it.
const TRAINED: [[&str; 2]; 4] = [
    ["4e18772e7c4d2a1d", "f13095ca12792805"],
    ["15ffd9f50d5c3429", "0bfb8c70b6d70f55"],
    ["b61feaf6131f6b62", "675c383b0a8af875"],
    ["79b3dd71ce4eba08", "87d3d4cdf4ede805"],
];
const BUNDLED: &str = "bb852145ea119565";
const DECIDED: &str = "";
