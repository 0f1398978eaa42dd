//! The environment: one simulated function with its observation, actions and reward. Owns the step; must not decide.

use qscale_common::contract::State;
use qscale_common::slo;
use qscale_common::units::Allocation;
use qscale_dqn::actions::{ActionCandidates, Actions};
use qscale_dqn::context::FeatureContext;
use qscale_dqn::observation::{COUNT, observe};
use qscale_dqn::reward::{StepReward, TrainingReward};
use qscale_dqn::tasks::{Split, TaskDistribution};
use qscale_policies::History;
use qscale_rl::Mask;
use qscale_rl::replay::{StepEnd, Transition};
use qscale_sim::{Nanos, Simulation, Totals};

use crate::world::draw;

/// One simulated function under control.
#[derive(Debug, Clone)]
pub struct Env {
    simulation: Simulation,
    violation_cost: f64,
    history: History,
    observation: Vec<f32>,
    observation_before: Vec<f32>,
    candidates: ActionCandidates,
    mask_before: Mask,
    /// Usual cost per hour, as estimated before the tick.
    usual_price: f64,
    totals: Totals,
    /// Whether requests were queued when the tick began.
    queued: bool,
    /// For a function that may be scaled to zero: the same function under the same requests with the largest
    /// allocation, and whether requests were queued there. Its violations are unavoidable.
    largest: Option<(Simulation, bool)>,
}

impl Env {
    /// The environment of `simulation` at its start. Observations and candidates are computed only with `actions`.
    #[must_use]
    pub fn new(simulation: Simulation, violation_cost: f64, actions: Option<&Actions>) -> Self {
        let largest = (simulation.setup().policy.bounds.replicas.min().0 == 0).then(|| (simulation.clone(), false));
        let mut env = Self {
            largest,
            simulation,
            violation_cost,
            history: History::default(),
            observation: vec![0.0; COUNT],
            observation_before: vec![0.0; COUNT],
            candidates: ActionCandidates::default(),
            mask_before: Mask::default(),
            usual_price: 1.0,
            totals: Totals::default(),
            queued: false,
        };
        env.observe(actions);
        env
    }

    /// The environment of world `number` of `split` at its start, and the world's length in ticks. The violation cost is that of the world unless
    /// `violation_cost` replaces it.
    #[must_use]
    pub fn of_world(
        tasks: &TaskDistribution,
        split: Split,
        number: u64,
        violation_cost: Option<f64>,
        actions: Option<&Actions>,
    ) -> (Self, u32) {
        let world = draw(tasks, split, number);
        // Requests of training and of evaluation come from different streams.
        let stream = u64::from(split != Split::Training);
        let (ticks, violation_cost) = (world.ticks(), violation_cost.unwrap_or(world.violation_cost));
        (Self::new(Simulation::new(world.setup, number, stream), violation_cost, actions), ticks)
    }

    fn observe(&mut self, actions: Option<&Actions>) {
        let context = FeatureContext::update(self.simulation.state(), &mut self.history, self.violation_cost);
        self.usual_price = context.usual_price();
        if let Some(actions) = actions {
            observe(&context, &mut self.observation);
            actions.decode(&context, &mut self.candidates);
        }
    }

    /// Simulates one tick after requesting `allocation` and returns its reward, computed from the true state of the
    /// simulation. For a function that may be scaled to zero, unavoidable violations are excluded.
    pub fn step(&mut self, allocation: Option<Allocation>, actions: Option<&Actions>, reward: &TrainingReward) -> StepReward {
        let usual_price = self.usual_price;
        self.simulation.step(allocation);
        self.simulation.take_interval(&mut self.totals);
        let mut step = measure(reward, &self.simulation, &self.totals, self.queued, usual_price, self.violation_cost);
        self.queued = self.simulation.function().queued() > 0;
        if let Some((simulation, queued)) = &mut self.largest {
            // No action changes these violations; included, they would dominate the variance of the reward.
            simulation.step(Some(simulation.setup().policy.bounds.largest()));
            simulation.take_interval(&mut self.totals);
            let unavoidable = measure(reward, simulation, &self.totals, *queued, usual_price, self.violation_cost).violation;
            *queued = simulation.function().queued() > 0;
            step.reward += reward.of_violations(unavoidable, self.violation_cost);
        }
        std::mem::swap(&mut self.observation, &mut self.observation_before);
        self.mask_before = self.candidates.mask();
        self.observe(actions);
        step
    }

    /// The latest State.
    #[must_use]
    pub fn state(&self) -> &State {
        self.simulation.state()
    }

    /// The latest observation; zeros without actions.
    #[must_use]
    pub fn observation(&self) -> &[f32] {
        &self.observation
    }

    /// The last tick as a transition of the learner, in which `action` was taken.
    #[must_use]
    pub fn transition(&self, action: usize, reward: f64, end: StepEnd) -> Transition<'_> {
        Transition {
            observation: &self.observation_before,
            mask: self.mask_before,
            action: action as u8,
            reward: reward as f32,
            next: &self.observation,
            next_mask: self.candidates.mask(),
            end,
        }
    }

    /// The latest action candidates.
    #[must_use]
    pub fn candidates(&self) -> &ActionCandidates {
        &self.candidates
    }
}

/// The reward of the tick that `simulation` has just simulated, with its `totals`. `queued`: whether requests were queued
/// when it began; `usual_price`: usual cost per hour.
fn measure(
    reward: &TrainingReward,
    simulation: &Simulation,
    totals: &Totals,
    queued: bool,
    usual_price: f64,
    violation_cost: f64,
) -> StepReward {
    let policy = &simulation.setup().policy;
    let tick_s = policy.tick.duration().as_secs_f64();
    let objective = &policy.objective;
    let bound = Nanos::from(objective.latency.get());
    let ended = totals.completed + totals.unanswered();
    let violation = if ended == 0 {
        // No request completed during a tick that is longer than the latency bound.
        let waited = queued && simulation.function().queued() > 0;
        f64::from(u8::from(slo::is_violated_without_replies(waited, policy.tick.duration(), objective.latency.get())))
    } else {
        let late = totals.violations(bound) / ended as f64;
        let failed = totals.unanswered() as f64 / ended as f64;
        slo::graded((late, 1.0 - objective.percentile.get() / 100.0), (failed, objective.failure_share.get()))
    };
    let prices = &policy.prices;
    let spent = (totals.core_seconds * prices.cpu_core_hour.get() + totals.gibibyte_seconds * prices.memory_gib_hour.get()) / 3600.0;
    let cost = spent * 3600.0 / (usual_price * tick_s);
    let terms = &simulation.reward().terms;
    let (reversal, resize) = (terms.reversal.value.unwrap_or(0.0), terms.resize.value.unwrap_or(0.0));
    let kills = (totals.oom_kills + totals.crashes) as f64;
    reward.weigh(StepReward { reward: 0.0, violation, cost, reversal, kills }, resize, tick_s, violation_cost)
}
