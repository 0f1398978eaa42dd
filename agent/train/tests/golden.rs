//! Seeded training gives the same bits as before, and the bundled model the same values. A refactoring must keep these
//! checksums; an intended change of behaviour replaces them.
//!
//! The checksums hold on x86-64 with FMA, as rounding differs elsewhere.

use std::num::NonZeroUsize;

use qscale_dqn::actions::ActionSet;
use qscale_dqn::observation::COUNT;
use qscale_dqn::pretrained::pretrained;
use qscale_dqn::tasks::TaskDistribution;
use qscale_dqn::{Dqn, DqnParams};
use qscale_rl::device::cpu;
use qscale_rl::learner::{Hyperparameters, RolloutConfig};
use qscale_rl::loss::Munchausen;
use qscale_rl::replay::Sampling;
use qscale_train::config::TrainingConfig;
use qscale_train::run::TrainingRun;

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
        eprintln!("skipped: this processor has no fused multiply-add, with which the weights were recorded");
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
fn the_bundled_model_has_the_values_of_an_independent_implementation() {
    assert_eq!(pretrained().fingerprint(), BUNDLED);
    let policy = Dqn::new(pretrained(), DqnParams::default(), &cpu()).expect("it matches");
    for (number, expected) in VALUES {
        let observation: Vec<f32> = (0..COUNT).map(|index| (((index * 37 + number * 11) % 101) as f64 / 50.0 - 1.0) as f32).collect();
        let values = policy.values(&observation).expect("the CPU does not fail");
        assert_eq!(values.len(), expected.len());
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-3 * (1.0 + expected.abs()), "{number}: {value} {expected}");
        }
    }
}

/// Fingerprints of the last network and of the model made of it.
const TRAINED: [[&str; 2]; 4] = [
    ["4e18772e7c4d2a1d", "f13095ca12792805"],
    ["15ffd9f50d5c3429", "0bfb8c70b6d70f55"],
    ["b61feaf6131f6b62", "675c383b0a8af875"],
    ["79b3dd71ce4eba08", "87d3d4cdf4ede805"],
];
const BUNDLED: &str = "bb852145ea119565";
/// Q-values of two observations, computed from the file in 64 bits: the first by the general network, the second by the specialist.
const VALUES: [(usize, [f32; 20]); 2] = [
    (
        2,
        [
            -1.0752, -1.0755, -1.5280, -0.8797, -1.1507, -0.9618, -0.8215, -0.8909, -0.8959, -1.0048, -1.0014, -0.9654, -1.2099, -0.9389,
            -1.4772, -0.9594, -1.8876, -1.3486, -1.2369, -1.3058,
        ],
    ),
    (
        4,
        [
            -16.7728, -25.0277, -30.2295, -29.9190, -29.7812, -27.2127, -23.8068, -22.4185, -20.2303, -18.0268, -17.1924, -16.0218,
            -1.4073, -16.5434, -16.9367, -19.6377, -18.9278, -13.8045, -14.0783, -14.4859,
        ],
    ),
];
