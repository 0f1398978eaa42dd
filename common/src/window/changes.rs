//! Time and direction of changes of the allocation.

use std::cmp::Ordering;

use crate::contract::{Changes, Direction};
use crate::policy::Prices;
use crate::units::Allocation;

/// Direction of a change from `before` to `after`: by cost, then by cores, then by memory; `None` without a change. Unlike
/// [`Prices::direction`], by which the guard counts reversals, it takes a trade at equal cost and equal totals as no change of direction:
/// trained models have seen reversals counted so.
fn direction(before: Allocation, after: Allocation, prices: &Prices) -> Option<Direction> {
    let size = |allocation: Allocation| [prices.per_hour(allocation), allocation.total_cores(), allocation.total_gibibytes()];
    match size(before).partial_cmp(&size(after))? {
        Ordering::Less => Some(Direction::Up),
        Ordering::Greater => Some(Direction::Down),
        Ordering::Equal => None,
    }
}

/// Change of one tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TickChange {
    pub vertical: bool,
    /// Ticks since the last change in the other direction, if this tick reversed it.
    pub reversed_after: Option<u32>,
}

/// Tracks the allocation from tick to tick.
#[derive(Debug, Clone, Default)]
pub(super) struct Tracker {
    left: Option<Allocation>,
    horizontal_ticks: Option<u32>,
    vertical_ticks: Option<u32>,
    last: Option<(Direction, u32)>,
}

impl Tracker {
    /// Closes a tick, `passed` ticks after the previous one, with the allocation `now`.
    pub fn close(&mut self, now: Option<Allocation>, passed: u32, prices: &Prices) -> TickChange {
        let older = |ticks: &mut u32| *ticks = ticks.saturating_add(passed);
        self.horizontal_ticks.iter_mut().for_each(older);
        self.vertical_ticks.iter_mut().for_each(older);
        self.last.iter_mut().for_each(|(_, ticks)| older(ticks));
        let (Some(before), Some(after)) = (self.left, now) else {
            self.left = now.or(self.left);
            return TickChange::default();
        };
        self.left = now;
        if before.replicas != after.replicas {
            self.horizontal_ticks = Some(0);
        }
        let vertical = (before.cpu_millicores, before.memory_mib) != (after.cpu_millicores, after.memory_mib);
        if vertical {
            self.vertical_ticks = Some(0);
        }
        let reversed_after = direction(before, after, prices).and_then(|direction| {
            let earlier = self.last.replace((direction, 0));
            earlier.filter(|(earlier, _)| *earlier != direction).map(|(_, ticks)| ticks)
        });
        TickChange { vertical, reversed_after }
    }

    /// The changes for a State.
    pub fn changes(&self) -> Changes {
        Changes {
            horizontal_ticks: self.horizontal_ticks,
            vertical_ticks: self.vertical_ticks,
            last: self.last.map(|(direction, _)| direction),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reversal_says_how_long_the_other_direction_lasted() {
        let mut tracker = Tracker::default();
        let prices = Prices::default();
        let mut close = |replicas, cpu, passed| tracker.close(Some(Allocation::new(replicas, cpu, 256)), passed, &prices);
        assert_eq!(close(1, 500, 1), TickChange::default(), "the first allocation is no change");
        assert_eq!(close(2, 500, 1), TickChange::default(), "the first change reverses nothing");
        assert_eq!(close(3, 500, 1), TickChange::default(), "further up is no reversal");
        assert_eq!(close(3, 500, 2), TickChange::default());
        assert_eq!(close(2, 500, 1), TickChange { vertical: false, reversed_after: Some(3) });
        assert_eq!(close(2, 600, 1), TickChange { vertical: true, reversed_after: Some(1) });
        assert_eq!(tracker.changes(), Changes { horizontal_ticks: Some(1), vertical_ticks: Some(0), last: Some(Direction::Up) });
    }

    #[test]
    fn an_allocation_that_was_not_read_is_no_change() {
        let mut tracker = Tracker::default();
        let prices = Prices::default();
        tracker.close(Some(Allocation::new(1, 500, 256)), 1, &prices);
        tracker.close(None, 1, &prices);
        assert_eq!(tracker.changes(), Changes::default());
        tracker.close(Some(Allocation::new(2, 500, 256)), 1, &prices);
        assert_eq!(tracker.changes().horizontal_ticks, Some(0));
    }

    #[test]
    fn a_trade_goes_the_way_of_its_cost() {
        let prices = Prices::default();
        let before = Allocation::new(4, 500, 256);
        assert_eq!(direction(before, Allocation::new(3, 600, 256), &prices), Some(Direction::Down));
        assert_eq!(direction(before, Allocation::new(3, 700, 256), &prices), Some(Direction::Up));
        assert_eq!(direction(before, before, &prices), None);
        assert_eq!(direction(before, Allocation::new(2, 1000, 512), &prices), None, "the same resources");
    }
}
