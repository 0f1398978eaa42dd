//! A candidate: the model in use, gone on learning from what was recorded and from simulated worlds beside it, so that nothing known is forgotten. Owns the mixture and
//! the step size; judges nothing. The same experience and seed give the same candidate.

use std::borrow::Cow;

use qscale_common::units::Allocation;
use qscale_dqn::actions::Actions;
use qscale_dqn::checkpoint::{Checkpoint, CheckpointError, Purpose};
use qscale_dqn::domain::{Domain, Part};
use qscale_dqn::observation;
use qscale_dqn::worth::Worth;
use qscale_rl::Mask;
use qscale_rl::device::Device;
use qscale_rl::explore::EpsilonSchedule;
use qscale_rl::learner::{Hyperparameters, Learner, LearnerError};
use qscale_rl::network::DeviceError;
use qscale_rl::replay::StepEnd;
use qscale_sim::Simulation;
use qscale_train::lane::Lane;
use qscale_train::world::draw;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::experience::{Experience, Lived, learn_from};

/// How often a transition is learned from in the mean; training learns three times from each.
const PASSES: usize = 6;
/// A recorded step counts for at most so many simulated ones: an hour of one function must not be learned by heart.
const MOST_REPEATS: usize = 8;
/// Recorded steps that are learned from, those of all functions together.
pub const MOST_RECORDED: usize = 200_000;
/// Simulated functions that live at once.
const WORLDS: usize = 32;
/// Share of choices left to chance in simulated worlds: the model in use is known there, and its neighbourhood is what is learned about.
const EXPLORED: f32 = 0.1;

/// How a candidate is learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Study {
    /// Updates, 1 to 1,000,000.
    pub updates: u32,
    /// Step size, above 0 and at most 0.01; a tenth of training's by default. It falls to a twentieth as learning ends.
    pub learning_rate: f32,
    /// Least share of simulated transitions among those that are learned from, 0.1 to 0.95.
    pub simulated: f64,
    /// Transitions that an update learns from, 1 to 65,536.
    pub batch: usize,
    /// Seed of chance.
    pub seed: u64,
    /// What simulated worlds are drawn from.
    pub domain: Domain,
}

impl Default for Study {
    fn default() -> Self {
        Self { updates: 1000, learning_rate: 1e-4, simulated: 0.5, batch: 512, seed: 1, domain: Domain::default() }
    }
}

/// A candidate and what it was learned from.
#[derive(Debug, Clone, PartialEq)]
pub struct Studied {
    /// The candidate, without a card.
    pub model: Checkpoint,
    /// Recorded steps.
    pub recorded: usize,
    /// How often each of them was taken.
    pub repeats: usize,
    /// Simulated ones.
    pub simulated: usize,
    /// Mean size of the errors in the last tenth of the updates.
    pub error: f32,
}

/// Why there is no candidate.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum StudyError {
    /// A setting outside its range.
    #[error("{0}")]
    Invalid(String),
    /// The learner refuses it.
    #[error(transparent)]
    Learner(#[from] LearnerError),
    /// The model in use is for something else.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl Study {
    /// # Errors
    /// Names the first setting that lies outside its range.
    pub fn check(&self) -> Result<(), StudyError> {
        let within = |name: &str, value: f64, least: f64, most: f64| {
            let fits = value >= least && value <= most;
            if fits { Ok(()) } else { Err(StudyError::Invalid(format!("{name} = {value}, must be from {least} to {most}"))) }
        };
        within("updates", f64::from(self.updates), 1.0, 1e6)?;
        within("learning_rate", f64::from(self.learning_rate), 1e-9, 0.01)?;
        within("simulated", self.simulated, 0.1, 0.95)?;
        within("batch", self.batch as f64, 1.0, 65_536.0)?;
        self.domain.check().map_err(StudyError::Invalid)
    }

    /// What comes of `base` after it learned from `experiences`, one a function; `None` where `stopped` says so meanwhile.
    ///
    /// # Errors
    /// When a setting lies outside its range, `base` is for something else than this program, or the device fails.
    pub fn learn(
        &self,
        base: &Checkpoint,
        experiences: &[Experience],
        device: &Device,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Option<Studied>, StudyError> {
        self.check()?;
        let actions = base.check()?;
        let (experiences, special) = decided_by_one(base, experiences);
        let weights = base.specialist.as_ref().filter(|_| special).unwrap_or(&base.weights);
        let mixture = self.mixture(&experiences);
        let mut learner = Learner::resume(self.told(base, mixture.all()), weights, None, self.seed, device)?;
        // A specialist lives through nothing that it never decides on.
        let domain = if special { Domain { sparse: 0.0, ..self.domain.clone() } } else { self.domain.clone() };
        let worth = base.header.worth.unwrap_or_default();
        self.live(&mut learner, (&domain, worth), &actions, experiences.len(), mixture.simulated, stopped)?;
        for (function, experience) in experiences.iter().enumerate() {
            let newest = experience.lived.len().saturating_sub(MOST_RECORDED / experiences.len());
            learn_from(&mut learner, function, &experience.lived[newest..], mixture.repeats);
        }
        let (mut error, mut last) = (0.0, 0);
        for update in 0..self.updates {
            if stopped() {
                return Ok(None);
            }
            let Some(told) = learner.update()? else { break };
            if update >= self.updates - self.updates.div_ceil(10) {
                last += 1;
                error += (told.error - error) / last as f32;
            }
        }
        let purpose = Purpose { actions, worth: base.header.worth, note: String::new() };
        let (weights, state) = (learner.network().weights()?, learner.state()?);
        let learned = Checkpoint::new(weights, Some(state), learner.parameters(), self.seed, &purpose).model(None);
        let model = if special {
            let specialist = Some(learned.weights.clone());
            Checkpoint { weights: base.weights.clone(), ..learned }.with_specialist(specialist).model(None)
        } else {
            learned.with_specialist(base.specialist.clone())
        };
        Ok(Some(Studied { model, recorded: mixture.recorded, repeats: mixture.repeats, simulated: mixture.simulated, error }))
    }

    fn told(&self, base: &Checkpoint, transitions: usize) -> Hyperparameters {
        Hyperparameters {
            // What is seen is normalised as the model in use does it, which its weights hold.
            normalise: false,
            learning_rate: self.learning_rate,
            decay_over: u64::from(self.updates),
            batch: self.batch,
            warm_up: 1,
            capacity: transitions.max(1),
            exploration: EpsilonSchedule { from: EXPLORED, to: EXPLORED, over: 0 },
            // What was recorded was decided by anybody, and is learned from more than once.
            rollouts: None,
            ..base.header.hyperparameters.clone()
        }
    }

    fn mixture(&self, experiences: &[Experience]) -> Mixture {
        let recorded = experiences.iter().map(Experience::steps).sum::<usize>().min(MOST_RECORDED);
        let wanted = (self.updates as usize).saturating_mul(self.batch).div_ceil(PASSES).max(2 * self.batch);
        let share = ((wanted as f64 * (1.0 - self.simulated)) as usize).max(recorded);
        let repeats = (share / recorded.max(1)).clamp(1, MOST_REPEATS);
        let counted = recorded * repeats;
        // Where little was recorded, simulated transitions make up for it.
        let simulated = ((counted as f64 * self.simulated / (1.0 - self.simulated)).ceil() as usize).max(wanted.saturating_sub(counted));
        Mixture { recorded, repeats, simulated }
    }

    /// Has `learner` live through `ticks` ticks of simulated functions, which are its environments from number `first` on.
    fn live(
        &self,
        learner: &mut Learner,
        (domain, worth): (&Domain, Worth),
        actions: &Actions,
        first: usize,
        ticks: usize,
        stopped: &dyn Fn() -> bool,
    ) -> Result<(), DeviceError> {
        let mut drawn = 0;
        let mut world = || {
            // Numbers that no training draws: those begin at multiples of 2 to the 32.
            let number = self.seed.wrapping_mul(1 << 32).wrapping_add(1 << 31).wrapping_add(drawn);
            drawn += 1;
            let world = draw(domain, Part::Training, number);
            let ticks = world.ticks();
            (Lane::new(Simulation::new(world.setup, number, 0), world.caution, Some(actions)), ticks)
        };
        let mut worlds: Vec<(Lane, u32)> = (0..WORLDS.min(ticks)).map(|_| world()).collect();
        let mut left = ticks;
        while left > 0 && !stopped() {
            let seen: Vec<f32> = worlds.iter().flat_map(|(lane, _)| lane.observation().iter().copied()).collect();
            let masks: Vec<Mask> = worlds.iter().map(|(lane, _)| lane.menu().mask()).collect();
            let chosen = learner.select(&seen, &masks)?;
            for (number, ((lane, ticks), choice)) in worlds.iter_mut().zip(chosen).enumerate() {
                let wanted: Option<Allocation> = choice.and_then(|choice| lane.menu().entry(choice).ok());
                let tick = lane.step(wanted, Some(actions), &worth);
                *ticks -= 1;
                let ending = if *ticks == 0 { StepEnd::Truncated } else { StepEnd::Continues };
                match choice {
                    Some(choice) => learner.observe(first + number, &lane.transition(choice, tick.reward, ending)),
                    None => learner.interrupt(first + number),
                }
                if *ticks == 0 {
                    (*lane, *ticks) = world();
                }
            }
            left = left.saturating_sub(worlds.len());
        }
        Ok(())
    }
}

/// How much of each kind is learned from.
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

/// What of `experiences` one network of `base` decided on, the one that decided on more of it, and whether that is the specialist: each learns from its own.
fn decided_by_one<'a>(base: &Checkpoint, experiences: &'a [Experience]) -> (Cow<'a, [Experience]>, bool) {
    let special = |lived: &Lived| matches!(lived, Lived::Step(step) if observation::keeps_one(&step.observation));
    let all = experiences.iter().map(Experience::steps).sum::<usize>();
    let many = experiences.iter().flat_map(|experience| &experience.lived).filter(|lived| special(lived)).count();
    if base.specialist.is_none() {
        return (Cow::Borrowed(experiences), false);
    }
    let chosen = 2 * many > all;
    if many == if chosen { all } else { 0 } {
        return (Cow::Borrowed(experiences), chosen);
    }
    let mut own = experiences.to_vec();
    for lived in own.iter_mut().flat_map(|experience| &mut experience.lived).filter(|lived| special(lived) != chosen) {
        *lived = Lived::Gap;
    }
    (Cow::Owned(own), chosen)
}

#[cfg(test)]
mod tests {
    use qscale_dqn::observation::{COUNT, LEAST_REPLICAS};
    use qscale_dqn::pretrained::pretrained;
    use qscale_dqn::worth::Tick;
    use qscale_rl::device::cpu;

    use super::super::experience::Step;
    use super::*;

    fn study() -> Study {
        let domain = Domain { most_rps: 5.0, ..Domain::default() };
        Study { updates: 3, batch: 16, domain, ..Study::default() }
    }

    fn experience(steps: usize) -> Experience {
        let step = |at: usize| {
            let observation = vec![(at % 7) as f32 / 7.0; COUNT];
            let tick = Tick { reward: -0.1, ..Tick::default() };
            Lived::Step(Box::new(Step {
                next: observation.clone(),
                observation,
                mask: Mask::all(8),
                choice: at % 5,
                tick,
                next_mask: Mask::all(8),
            }))
        };
        Experience { lived: (0..steps).map(step).collect(), ..Experience::default() }
    }

    fn learn(study: &Study, experiences: &[Experience]) -> Studied {
        study.learn(pretrained(), experiences, &cpu(), &|| false).expect("the CPU does not fail").expect("not stopped")
    }

    #[test]
    fn the_same_experience_and_seed_give_the_same_candidate() {
        let (study, lived) = (study(), [experience(20), experience(9)]);
        let one = learn(&study, &lived);
        assert_eq!(one, learn(&study, &lived));
        assert_ne!(one.model.fingerprint(), learn(&Study { seed: 2, ..study.clone() }, &lived).model.fingerprint());
        assert_ne!(one.model.fingerprint(), learn(&study, &lived[..1]).model.fingerprint());
    }

    #[test]
    fn a_candidate_sees_as_the_model_in_use_does_and_moves_little() {
        let base = pretrained();
        let mut sparse = experience(20);
        for lived in &mut sparse.lived {
            let Lived::Step(step) = lived else { continue };
            step.observation[LEAST_REPLICAS] = 0.0;
        }
        // Each network learns from what it decides on, and the other stays as it is.
        for (experience, special) in [(experience(20), true), (sparse, false)] {
            let candidate = learn(&study(), &[experience]).model;
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
    fn little_experience_is_made_up_for_by_simulated_worlds() {
        let mixture = |study: &Study, steps: usize| study.mixture(&[experience(steps)]);
        let study = Study { updates: 60, batch: 100, ..Study::default() };
        // A thousand transitions are wanted, half of them recorded.
        let some = mixture(&study, 250);
        assert_eq!((some.recorded, some.repeats, some.simulated), (250, 2, 500));
        let few = mixture(&study, 10);
        assert_eq!((few.recorded, few.repeats, few.simulated), (10, 8, 920));
        let many = mixture(&study, 3000);
        assert_eq!((many.recorded, many.repeats, many.simulated), (3000, 1, 3000));
        let none = mixture(&study, 0);
        assert_eq!((none.recorded, none.simulated), (0, 1000));
    }

    #[test]
    fn settings_have_ranges_and_learning_can_be_stopped() {
        let error = |study: Study| study.check().expect_err("out of range").to_string();
        assert_eq!(error(Study { simulated: 1.0, ..study() }), "simulated = 1, must be from 0.1 to 0.95");
        assert!(error(Study { learning_rate: f32::NAN, ..study() }).contains("learning_rate = NaN"));
        let stopped = study().learn(pretrained(), &[experience(20)], &cpu(), &|| true);
        assert_eq!(stopped.expect("no error"), None);
    }
}
