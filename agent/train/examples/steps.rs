//! The trainer's loop without learning, for comparison with the Python package: a fixed choice of actions in the worlds of a seed.
//!
//! Prints one JSON object with the number of steps and their duration. With `--digest` it also holds a checksum of all observations, masks and rewards.

use std::num::NonZeroUsize;

use qscale_dqn::Scope;
use qscale_dqn::actions::{ActionSet, Actions};
use qscale_rl::learner::UpdateStats;
use qscale_rl::network::DeviceError;
use qscale_train::agent::{Actor, Agent, EnvAction, EnvStep};
use qscale_train::env::Env;
use qscale_train::{Trainer, TrainerConfig};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// Takes the allowed action of number 7 x tick + function, modulo the number of allowed actions.
#[derive(Clone, Copy)]
struct FixedActor {
    tick: usize,
}

struct FixedAgent {
    actions: Actions,
    actor: FixedActor,
    digest: Option<Sha256>,
}

impl Actor for FixedActor {
    fn act(&self, first: usize, envs: &[Env]) -> Result<Vec<EnvAction>, DeviceError> {
        let action = |(function, env): (usize, &Env)| {
            let mask = env.candidates().mask().0;
            let wanted = (7 * self.tick + first + function) % (mask.count_ones() as usize).max(1);
            let index = (0..u64::BITS as usize).filter(|index| mask >> index & 1 == 1).nth(wanted);
            EnvAction { index, requested: index.and_then(|index| env.candidates().entry(index).ok()) }
        };
        Ok(envs.iter().enumerate().map(action).collect())
    }
}

impl Agent for FixedAgent {
    type Actor = FixedActor;

    fn actions(&self) -> Option<&Actions> {
        Some(&self.actions)
    }

    fn actor(&self) -> FixedActor {
        self.actor
    }

    fn learn(&mut self, _: usize) -> Result<Option<UpdateStats>, DeviceError> {
        self.actor.tick += 1;
        Ok(None)
    }

    fn observe(&mut self, envs: &[Env], steps: &[EnvStep]) {
        let Some(digest) = &mut self.digest else { return };
        for (env, step) in envs.iter().zip(steps) {
            env.observation().iter().for_each(|feature| digest.update(feature.to_le_bytes()));
            digest.update(env.candidates().mask().0.to_le_bytes());
            digest.update(step.reward.unwrap_or(f64::NAN).to_le_bytes());
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| arguments.get(index).and_then(|text| text.parse::<usize>().ok());
    let (Some(seed), Some(functions), Some(ticks), Some(threads)) =
        (number(0), number(1), number(2), number(3).and_then(NonZeroUsize::new))
    else {
        eprintln!("usage: steps SEED FUNCTIONS TICKS THREADS [--digest]");
        std::process::exit(2);
    };
    let digest = arguments.iter().any(|argument| argument == "--digest").then(Sha256::new);
    let agent = FixedAgent { actions: Actions::new(ActionSet::Headroom, Scope::Joint), actor: FixedActor { tick: 0 }, digest };
    let config = TrainerConfig { worlds: functions, threads, seed: seed as u64, ..TrainerConfig::default() };
    let mut trainer = Trainer::new(config, agent);
    let began = std::time::Instant::now();
    for _ in 0..ticks {
        trainer.tick().expect("nothing is computed on a device");
    }
    let seconds = began.elapsed().as_secs_f64();
    let digest = trainer.agent().digest.clone().map(|digest| format!("{:x}", digest.finalize()));
    println!("{}", json!({ "steps": trainer.steps(), "seconds": seconds, "digest": digest }));
}
