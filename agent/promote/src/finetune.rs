//! Fine-tuning: trains the model in use further on recorded experience mixed with simulated functions, so that nothing
//! is forgotten. Owns the mixture and the learning rate; must not evaluate the result. The same experience and seed
//! give the same candidate.

use std::borrow::Cow;

use qscale_common::units::Allocation;
use qscale_dqn::actions::Actions;
use qscale_dqn::checkpoint::{Checkpoint, CheckpointError, NetworkPurpose};
use qscale_dqn::observation;
use qscale_dqn::reward::TrainingReward;
use qscale_dqn::tasks::{Split, TaskDistribution};
use qscale_rl::Mask;
use qscale_rl::device::Device;
use qscale_rl::explore::EpsilonSchedule;
use qscale_rl::learner::{Hyperparameters, Learner, LearnerError, MAX_CAPACITY};
use qscale_rl::network::DeviceError;
use qscale_rl::replay::StepEnd;
use qscale_train::env::Env;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::experience::{Experience, RecordedTick, fill_replay};

/// Mean number of updates that sample a transition; training from scratch uses three.
const PASSES: usize = 6;
/// Maximum copies of a recorded step: an hour of one function must not be memorised.
const MAX_REPEATS: usize = 8;
/// Maximum recorded steps, all functions together.
pub const MAX_RECORDED: usize = 200_000;
/// Functions simulated at the same time.
const WORLDS: usize = 32;
/// Share of random actions in simulated functions: training explores the neighbourhood of the model in use.
const EXPLORED: f32 = 0.1;

/// Configuration of fine-tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FinetuneConfig {
    /// Updates, 1 to 1,000,000.
    pub updates: u32,
    /// Learning rate, above 0 and at most 0.01; by default a tenth of that of training. It decays to a twentieth.
    pub learning_rate: f32,
    /// Minimum share of simulated transitions in the replay, 0.1 to 0.95.
    pub simulated: f64,
    /// Batch size, 1 to 65,536 transitions.
    pub batch: usize,
    /// Random seed.
    pub seed: u64,
    /// Distribution of the simulated functions.
    #[serde(alias = "domain")]
    pub tasks: TaskDistribution,
}

impl Default for FinetuneConfig {
    fn default() -> Self {
        Self { updates: 1000, learning_rate: 1e-4, simulated: 0.5, batch: 512, seed: 1, tasks: TaskDistribution::default() }
    }
}

/// A candidate and its training.
#[derive(Debug, Clone, PartialEq)]
pub struct Finetuned {
    /// The candidate, without a card.
    pub model: Checkpoint,
    /// Recorded steps.
    pub recorded: usize,
    /// Copies of each of them.
    pub repeats: usize,
    /// Simulated steps.
    pub simulated: usize,
    /// Mean absolute TD error over the last tenth of the updates.
    pub error: f32,
}

/// Why fine-tuning failed.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum FinetuneError {
    /// A setting outside its range.
    #[error("{name} = {value}, must be from {min} to {max}")]
    OutOfRange {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: f64,
        /// Smallest valid value.
        min: f64,
        /// Largest valid value.
        max: f64,
    },
    /// An invalid distribution of simulated functions.
    #[error("{0}")]
    Tasks(String),
    /// The learner refuses a parameter.
    #[error(transparent)]
    Learner(#[from] LearnerError),
    /// The model in use does not match this program.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl FinetuneConfig {
    /// # Errors
    /// Names the first setting that is out of range.
    pub fn check(&self) -> Result<(), FinetuneError> {
        let within = |name: &'static str, value: f64, min: f64, max: f64| {
            if value >= min && value <= max { Ok(()) } else { Err(FinetuneError::OutOfRange { name, value, min, max }) }
        };
        within("updates", f64::from(self.updates), 1.0, 1e6)?;
        within("learning_rate", f64::from(self.learning_rate), 1e-9, 0.01)?;
        within("simulated", self.simulated, 0.1, 0.95)?;
        within("batch", self.batch as f64, 1.0, 65_536.0)?;
        self.tasks.check().map_err(FinetuneError::Tasks)
    }

    /// Trains `base` further on `experiences`, one per function; `None` if `stopped` returned true.
    ///
    /// # Errors
    /// If a setting is out of range, `base` does not match this program, or the device fails.
    pub fn train(
        &self,
        base: &Checkpoint,
        experiences: &[Experience],
        device: &Device,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Option<Finetuned>, FinetuneError> {
        self.check()?;
        let actions = base.check()?;
        let (experiences, special) = largest_part(base, experiences);
        let weights = base.specialist.as_ref().filter(|_| special).unwrap_or(&base.weights);
        let mixture = self.mixture(&experiences);
        let mut learner = Learner::resume(self.hyperparameters(base, mixture.all()), weights, None, self.seed, device)?;
        // A specialist is trained only on functions that it decides for.
        let tasks = if special { TaskDistribution { sparse_share: 0.0, ..self.tasks.clone() } } else { self.tasks.clone() };
        let reward = base.header.reward.unwrap_or_default();
        self.simulate(&mut learner, (&tasks, reward), &actions, experiences.len(), mixture.simulated, stopped)?;
        for (function, experience) in experiences.iter().enumerate() {
            let newest = experience.ticks.len().saturating_sub(MAX_RECORDED / experiences.len());
            fill_replay(&mut learner, function, &experience.ticks[newest..], mixture.repeats);
        }
        let (mut error, mut last) = (0.0, 0);
        for number in 0..self.updates {
            if stopped() {
                return Ok(None);
            }
            let Some(update) = learner.update()? else { break };
            if number >= self.updates - self.updates.div_ceil(10) {
                last += 1;
                error += (update.error - error) / last as f32;
            }
        }
        let purpose = NetworkPurpose { actions, reward: base.header.reward, note: String::new() };
        let (weights, state) = (learner.network().weights()?, learner.state()?);
        let learned = Checkpoint::new(weights, Some(state), learner.parameters(), self.seed, &purpose).model(None);
        let model = if special {
            let specialist = Some(learned.weights.clone());
            Checkpoint { weights: base.weights.clone(), ..learned }.with_specialist(specialist).model(None)
        } else {
            learned.with_specialist(base.specialist.clone())
        };
        Ok(Some(Finetuned { model, recorded: mixture.recorded, repeats: mixture.repeats, simulated: mixture.simulated, error }))
    }

    fn hyperparameters(&self, base: &Checkpoint, transitions: usize) -> Hyperparameters {
        Hyperparameters {
            // The weights hold the normalisation of observations; it must not change.
            normalise: false,
            learning_rate: self.learning_rate,
            decay_over: u64::from(self.updates),
            batch: self.batch,
            warm_up: 1,
            capacity: transitions.max(1),
            exploration: EpsilonSchedule { from: EXPLORED, to: EXPLORED, over: 0 },
            // Recorded steps were decided by other policies and are sampled more than once.
            rollouts: None,
            ..base.header.hyperparameters.clone()
        }
    }

    fn mixture(&self, experiences: &[Experience]) -> Mixture {
        let recorded = experiences.iter().map(Experience::steps).sum::<usize>().min(MAX_RECORDED);
        let wanted = (self.updates as usize).saturating_mul(self.batch).div_ceil(PASSES).max(2 * self.batch).min(MAX_CAPACITY / 2);
        let share = ((wanted as f64 * (1.0 - self.simulated)) as usize).max(recorded);
        let repeats = (share / recorded.max(1)).clamp(1, MAX_REPEATS);
        let counted = recorded * repeats;
        // Simulated transitions make up for a short recording.
        let simulated = ((counted as f64 * self.simulated / (1.0 - self.simulated)).ceil() as usize).max(wanted.saturating_sub(counted));
        Mixture { recorded, repeats, simulated }
    }

    /// Lets `learner` act for `ticks` ticks on simulated functions, its environments from number `first` on.
    fn simulate(
        &self,
        learner: &mut Learner,
        (tasks, reward): (&TaskDistribution, TrainingReward),
        actions: &Actions,
        first: usize,
        ticks: usize,
        stopped: &dyn Fn() -> bool,
    ) -> Result<(), DeviceError> {
        let mut drawn = 0;
        let mut world = || {
            // Disjoint from the numbers of training, which begin at multiples of 2^32.
            let number = self.seed.wrapping_mul(1 << 32).wrapping_add(1 << 31).wrapping_add(drawn);
            drawn += 1;
            Env::of_world(tasks, Split::Training, number, None, Some(actions))
        };
        let mut worlds: Vec<(Env, u32)> = (0..WORLDS.min(ticks)).map(|_| world()).collect();
        let mut left = ticks;
        while left > 0 && !stopped() {
            let seen: Vec<f32> = worlds.iter().flat_map(|(env, _)| env.observation().iter().copied()).collect();
            let masks: Vec<Mask> = worlds.iter().map(|(env, _)| env.candidates().mask()).collect();
            let chosen = learner.select(&seen, &masks)?;
            for (number, ((env, ticks), choice)) in worlds.iter_mut().zip(chosen).enumerate() {
                let wanted: Option<Allocation> = choice.and_then(|choice| env.candidates().entry(choice).ok());
                let tick = env.step(wanted, Some(actions), &reward);
                *ticks -= 1;
                let ending = if *ticks == 0 { StepEnd::Truncated } else { StepEnd::Continues };
                match choice {
                    Some(choice) => learner.observe(first + number, &env.transition(choice, tick.reward, ending)),
                    None => learner.interrupt(first + number),
                }
                if *ticks == 0 {
                    (*env, *ticks) = world();
                }
            }
            left = left.saturating_sub(worlds.len());
        }
        Ok(())
    }
}

/// Number of transitions of each kind.
struct Mixture {
    recorded: usize,
    repeats: usize,
    simulated: usize,
}

impl Mixture {
    fn all(&self) -> usize {
        self.recorded * self.repeats + self.simulated + WORLDS
    }
}

/// The part of `experiences` that one network of `base` decides on, and whether that is the specialist: the network
/// with the larger part is trained.
fn largest_part<'a>(base: &Checkpoint, experiences: &'a [Experience]) -> (Cow<'a, [Experience]>, bool) {
    let special = |tick: &RecordedTick| matches!(tick, RecordedTick::Step(step) if observation::keeps_one(&step.observation));
    let all = experiences.iter().map(Experience::steps).sum::<usize>();
    let many = experiences.iter().flat_map(|experience| &experience.ticks).filter(|tick| special(tick)).count();
    if base.specialist.is_none() {
        return (Cow::Borrowed(experiences), false);
    }
    let chosen = 2 * many > all;
    if many == if chosen { all } else { 0 } {
        return (Cow::Borrowed(experiences), chosen);
    }
    let mut own = experiences.to_vec();
    for tick in own.iter_mut().flat_map(|experience| &mut experience.ticks).filter(|tick| special(tick) != chosen) {
        *tick = RecordedTick::Gap;
    }
    (Cow::Owned(own), chosen)
}

#[cfg(test)]
mod tests {
    use qscale_dqn::observation::{COUNT, LEAST_REPLICAS};
    use qscale_dqn::pretrained::pretrained;
    use qscale_dqn::reward::StepReward;
    use qscale_rl::device::cpu;

    use super::*;
    use crate::experience::RecordedStep;

    fn config() -> FinetuneConfig {
        let tasks = TaskDistribution { most_rps: 5.0, ..TaskDistribution::default() };
        FinetuneConfig { updates: 3, batch: 16, tasks, ..FinetuneConfig::default() }
    }

    #[test]
    fn the_former_name_of_the_tasks_is_read() {
        let tasks = TaskDistribution { most_rps: 5.0, ..TaskDistribution::default() };
        for key in ["tasks", "domain"] {
            let read: FinetuneConfig = serde_json::from_value(serde_json::json!({ key: tasks })).expect("an alias");
            assert_eq!(read.tasks, tasks);
        }
    }

    fn experience(steps: usize) -> Experience {
        let step = |at: usize| {
            let observation = vec![(at % 7) as f32 / 7.0; COUNT];
            let tick = StepReward { reward: -0.1, ..StepReward::default() };
            RecordedTick::Step(Box::new(RecordedStep {
                next: observation.clone(),
                observation,
                mask: Mask::all(8),
                choice: at % 5,
                tick,
                next_mask: Mask::all(8),
            }))
        };
        Experience { ticks: (0..steps).map(step).collect(), ..Experience::default() }
    }

    #[test]
    fn the_largest_number_of_updates_fits_the_replay_buffer() {
        let config = FinetuneConfig { updates: 1_000_000, ..FinetuneConfig::default() };
        config.check().expect("in range");
        for recorded in [1, 1000, MAX_RECORDED] {
            let Mixture { recorded, repeats, simulated } = config.mixture(&[experience(recorded)]);
            config.hyperparameters(pretrained(), recorded * repeats + simulated).check().expect("fits");
        }
    }

    fn learn(config: &FinetuneConfig, experiences: &[Experience]) -> Finetuned {
        config.train(pretrained(), experiences, &cpu(), &|| false).expect("the CPU does not fail").expect("not stopped")
    }

    #[test]
    fn the_same_experience_and_seed_give_the_same_candidate() {
        let (config, experiences) = (config(), [experience(20), experience(9)]);
        let one = learn(&config, &experiences);
        assert_eq!(one, learn(&config, &experiences));
        assert_ne!(one.model.fingerprint(), learn(&FinetuneConfig { seed: 2, ..config.clone() }, &experiences).model.fingerprint());
        assert_ne!(one.model.fingerprint(), learn(&config, &experiences[..1]).model.fingerprint());
    }

    #[test]
    fn a_candidate_keeps_the_normalisation_and_changes_little() {
        let base = pretrained();
        let mut sparse = experience(20);
        for tick in &mut sparse.ticks {
            let RecordedTick::Step(step) = tick else { continue };
            step.observation[LEAST_REPLICAS] = 0.0;
        }
        // Each network is trained on the functions it decides for; the other one stays unchanged.
        for (experience, special) in [(experience(20), true), (sparse, false)] {
            let candidate = learn(&config(), &[experience]).model;
            assert_eq!(Checkpoint::from_bytes(&candidate.to_bytes()), Ok(candidate.clone()));
            assert_eq!(candidate.check().expect("it matches"), base.check().expect("it matches"));
            assert!(candidate.training.is_none() && candidate.fingerprint() != base.fingerprint());
            assert_eq!(candidate.header.updates, 3);
            let networks = |model: &Checkpoint| [model.weights.clone(), model.specialist.clone().expect("it has one")];
            for (at, (now, before)) in networks(&candidate).iter().zip(networks(base)).enumerate() {
                assert_eq!(now.normalisation(), before.normalisation());
                let moved = now.values().iter().zip(before.values()).map(|(now, before)| (now - before).abs());
                let most = moved.fold(0.0, f32::max);
                assert!(most < 1e-3 && (most > 0.0) == ((at == 1) == special), "{at} {special} {most}");
            }
        }
    }

    #[test]
    fn simulated_transitions_make_up_for_little_experience() {
        let mixture = |config: &FinetuneConfig, steps: usize| config.mixture(&[experience(steps)]);
        let config = FinetuneConfig { updates: 60, batch: 100, ..FinetuneConfig::default() };
        // A thousand transitions are wanted, half of them recorded.
        let some = mixture(&config, 250);
        assert_eq!((some.recorded, some.repeats, some.simulated), (250, 2, 500));
        let few = mixture(&config, 10);
        assert_eq!((few.recorded, few.repeats, few.simulated), (10, 8, 920));
        let many = mixture(&config, 3000);
        assert_eq!((many.recorded, many.repeats, many.simulated), (3000, 1, 3000));
        let none = mixture(&config, 0);
        assert_eq!((none.recorded, none.simulated), (0, 1000));
    }

    #[test]
    fn settings_have_ranges_and_training_can_be_stopped() {
        let out_of_range = |config: FinetuneConfig| match config.check() {
            Err(FinetuneError::OutOfRange { name, .. }) => name,
            other => panic!("{other:?}"),
        };
        assert_eq!(out_of_range(FinetuneConfig { simulated: 1.0, ..config() }), "simulated");
        assert_eq!(out_of_range(FinetuneConfig { learning_rate: f32::NAN, ..config() }), "learning_rate");
        let stopped = config().train(pretrained(), &[experience(20)], &cpu(), &|| true);
        assert_eq!(stopped.expect("no error"), None);
    }
}
