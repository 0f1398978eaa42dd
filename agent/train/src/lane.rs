//! One world that is acted on: the simulated function, what was seen of it, and what each tick of it was worth. Owns the step; must not decide.

use qscale_common::contract::State;
use qscale_common::slo;
use qscale_common::units::Allocation;
use qscale_dqn::actions::{Actions, Menu};
use qscale_dqn::observation::{COUNT, observe};
use qscale_dqn::sight::Sight;
use qscale_dqn::worth::{Tick, Worth};
use qscale_policies::History;
use qscale_rl::Mask;
use qscale_rl::replay::{StepEnd, Transition};
use qscale_sim::{Nanos, Simulation, Totals};

/// One world that is acted on.
#[derive(Debug, Clone)]
pub struct Lane {
    cell: Simulation,
    caution: f64,
    history: History,
    observation: Vec<f32>,
    observation_before: Vec<f32>,
    menu: Menu,
    mask_before: Mask,
    /// What a usual hour costs, told by what was seen before the tick.
    usual_price: f64,
    totals: Totals,
    /// Requests that were there when the tick began.
    waited: bool,
    /// The same function under the same requests with all that its bounds allow, where it may be scaled to zero, and whether requests queued there: what is
    /// violated there nobody could help.
    largest: Option<(Simulation, bool)>,
}

impl Lane {
    /// The world of `cell` when it begins, where a violated tick costs so much `caution`, as whoever chooses among `actions` sees it.
    #[must_use]
    pub fn new(cell: Simulation, caution: f64, actions: Option<&Actions>) -> Self {
        let largest = (cell.setup().policy.bounds.replicas.min().0 == 0).then(|| (cell.clone(), false));
        let mut lane = Self {
            largest,
            cell,
            caution,
            history: History::default(),
            observation: vec![0.0; COUNT],
            observation_before: vec![0.0; COUNT],
            menu: Menu::default(),
            mask_before: Mask::default(),
            usual_price: 1.0,
            totals: Totals::default(),
            waited: false,
        };
        lane.look(actions);
        lane
    }

    fn look(&mut self, actions: Option<&Actions>) {
        let sight = Sight::take(self.cell.state(), &mut self.history, self.caution);
        self.usual_price = sight.usual_price();
        if let Some(actions) = actions {
            observe(&sight, &mut self.observation);
            actions.decode(&sight, &mut self.menu);
        }
    }

    /// Lives through one tick with what is wanted, and says what really came of it. Of a function that may be scaled to zero the reward leaves out what nobody could help.
    pub fn step(&mut self, wanted: Option<Allocation>, actions: Option<&Actions>, worth: &Worth) -> Tick {
        let usual_price = self.usual_price;
        self.cell.step(wanted);
        self.cell.take_interval(&mut self.totals);
        let mut tick = judge(worth, &self.cell, &self.totals, self.waited, usual_price, self.caution);
        self.waited = self.cell.function().queued() > 0;
        if let Some((cell, waited)) = &mut self.largest {
            // No choice changes it, so that none is preferred for it; left in, it would be most of what rewards differ by.
            cell.step(Some(cell.setup().policy.bounds.largest()));
            cell.take_interval(&mut self.totals);
            let unavoidable = judge(worth, cell, &self.totals, *waited, usual_price, self.caution).violation;
            *waited = cell.function().queued() > 0;
            tick.reward += worth.of_violations(unavoidable, self.caution);
        }
        std::mem::swap(&mut self.observation, &mut self.observation_before);
        self.mask_before = self.menu.mask();
        self.look(actions);
        tick
    }

    /// The State that was seen last.
    #[must_use]
    pub fn state(&self) -> &State {
        self.cell.state()
    }

    /// What the network sees; zeros where nobody asked for it.
    #[must_use]
    pub fn observation(&self) -> &[f32] {
        &self.observation
    }

    /// The last tick as a step of the learner, in which `choice` was made.
    #[must_use]
    pub fn transition(&self, choice: usize, reward: f64, end: StepEnd) -> Transition<'_> {
        Transition {
            observation: &self.observation_before,
            mask: self.mask_before,
            action: choice as u8,
            reward: reward as f32,
            next: &self.observation,
            next_mask: self.menu.mask(),
            end,
        }
    }

    /// What can be chosen.
    #[must_use]
    pub fn menu(&self) -> &Menu {
        &self.menu
    }
}

/// What the tick was worth that `cell` just lived through, with what happened in it. `waited` says whether requests queued when it began, and
/// `usual_price` what the usual load costs an hour; a violated tick costs `caution`, in units of five seconds of the usual cost.
fn judge(worth: &Worth, cell: &Simulation, totals: &Totals, waited: bool, usual_price: f64, caution: f64) -> Tick {
    let policy = &cell.setup().policy;
    let tick_s = policy.tick.duration().as_secs_f64();
    let objective = &policy.objective;
    let bound = Nanos::from(objective.latency.get());
    let ended = totals.completed + totals.unanswered();
    let violation = if ended == 0 {
        // Nothing came back all through a tick that is longer than the bound.
        let waited = waited && cell.function().queued() > 0;
        f64::from(u8::from(slo::is_violated_without_replies(waited, policy.tick.duration(), objective.latency.get())))
    } else {
        let late = totals.violations(bound) / ended as f64;
        let failed = totals.unanswered() as f64 / ended as f64;
        slo::graded((late, 1.0 - objective.percentile.get() / 100.0), (failed, objective.failure_share.get()))
    };
    let prices = &policy.prices;
    let spent = (totals.core_seconds * prices.cpu_core_hour.get() + totals.gibibyte_seconds * prices.memory_gib_hour.get()) / 3600.0;
    let cost = spent * 3600.0 / (usual_price * tick_s);
    let terms = &cell.reward().terms;
    let (reversal, resize) = (terms.reversal.value.unwrap_or(0.0), terms.resize.value.unwrap_or(0.0));
    let kills = (totals.oom_kills + totals.crashes) as f64;
    worth.weigh(Tick { reward: 0.0, violation, cost, reversal, kills }, resize, tick_s, caution)
}
