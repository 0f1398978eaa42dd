//! One world that is acted on: the simulated function, what was seen of it, and what each tick of it was worth. Owns the step; must not decide.

use qscale_common::contract::State;
use qscale_common::units::Allocation;
use qscale_policies::History;
use qscale_sim::{Simulation, Totals};

use super::worth::{Tick, Worth};
use crate::actions::{Actions, Mask, Menu};
use crate::observation::{COUNT, observe};
use crate::sight::Sight;

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
        let mut tick = worth.judge(&self.cell, &self.totals, self.waited, usual_price, self.caution);
        self.waited = self.cell.function().queued() > 0;
        if let Some((cell, waited)) = &mut self.largest {
            // No choice changes it, so that none is preferred for it; left in, it would be most of what rewards differ by.
            cell.step(Some(cell.setup().policy.bounds.largest()));
            cell.take_interval(&mut self.totals);
            let unavoidable = worth.judge(cell, &self.totals, *waited, usual_price, self.caution).violation;
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

    /// What the network saw before the last tick, and what could be chosen then.
    #[must_use]
    pub fn before(&self) -> (&[f32], Mask) {
        (&self.observation_before, self.mask_before)
    }

    /// What can be chosen.
    #[must_use]
    pub fn menu(&self) -> &Menu {
        &self.menu
    }
}
