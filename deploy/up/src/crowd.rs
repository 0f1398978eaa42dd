//! Many functions at once: what they come to together, and which of them are worst. Owns the orders in which they can be shown; draws nothing.

use std::cmp::Ordering;
use std::fmt;

use qscale_common::name::FunctionId;

use super::board::{Board, Entry};

/// What functions come to together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Totals {
    /// How many there are.
    pub functions: usize,
    /// Those of which something was measured.
    pub measured: usize,
    /// Those whose latency is above its bound.
    pub violating: usize,
    /// Requests offered a second.
    pub offered: f64,
    /// Requests answered well a second.
    pub achieved: f64,
    /// Requests that failed in the last interval.
    pub failed: u64,
    /// Replicas that are ready.
    pub ready: u32,
    /// Replicas that shall be.
    pub replicas: u32,
    /// Cores allocated.
    pub allocated: f64,
    /// Cores used.
    pub used: f64,
}

impl Totals {
    /// The sums over `shown`.
    pub fn of(board: &Board, shown: &[FunctionId]) -> Self {
        let mut totals = Self { functions: shown.len(), ..Self::default() };
        for entry in shown.iter().filter_map(|id| board.functions.get(id)) {
            totals.measured += usize::from(entry.state.is_some());
            totals.violating += usize::from(severity(entry) > 1.0);
            if let Some(load) = &entry.load {
                totals.offered += load.offered_rps;
                totals.achieved += load.achieved_rps;
                totals.failed += load.failures.total();
            }
            let Some(state) = &entry.state else { continue };
            totals.ready += state.replicas.map_or(0, |replicas| replicas.ready.0);
            if let Some(allocation) = state.allocation {
                totals.replicas += allocation.replicas.0;
                totals.allocated += allocation.total_cores();
            }
            totals.used += state.cores_used(&state.windows.tick).unwrap_or(0.0);
        }
        totals
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} functions, {} measured, {} above their bound; {:.0}/s offered, {:.0}/s answered, {} failed; {} of {} replicas ready; {:.1} cores allocated, {:.1} used",
            self.functions,
            self.measured,
            self.violating,
            self.offered,
            self.achieved,
            self.failed,
            self.ready,
            self.replicas,
            self.allocated,
            self.used
        )
    }
}

/// How far latency is beyond its bound: above 1 it is. A function that answers nothing though it is asked is beyond any.
pub fn severity(entry: &Entry) -> f64 {
    let starved = entry.load.as_ref().is_some_and(|load| load.offered_rps > 0.0 && load.achieved_rps <= 0.0);
    let latency = entry.state.as_ref().and_then(|state| {
        let latency = state.windows.tick.latency?;
        Some(latency.objective_ms / state.objective.latency_ms.max(1) as f64)
    });
    match latency {
        _ if starved => f64::INFINITY,
        Some(latency) => latency,
        None => 0.0,
    }
}

/// An order in which functions are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The farthest beyond its bound first.
    #[default]
    Severity,
    /// The highest rate first.
    Rate,
    /// The most replicas first.
    Replicas,
    /// The most cores first.
    Cores,
    /// By name.
    Name,
}

impl Order {
    /// Each with the key that chooses it, and in a word.
    pub const ALL: [(char, Order, &'static str); 5] = [
        ('w', Order::Severity, "worst"),
        ('o', Order::Rate, "offered"),
        ('r', Order::Replicas, "replicas"),
        ('c', Order::Cores, "cores"),
        ('n', Order::Name, "name"),
    ];

    /// `shown` in this order; equals by name.
    pub fn sorted(self, board: &Board, shown: &[FunctionId]) -> Vec<FunctionId> {
        let weight = |entry: &Entry| match self {
            Order::Severity => severity(entry),
            Order::Rate => entry.load.as_ref().map_or(0.0, |load| load.offered_rps),
            Order::Replicas => {
                f64::from(entry.state.as_ref().and_then(|state| state.allocation).map_or(0, |allocation| allocation.replicas.0))
            }
            Order::Cores => entry.state.as_ref().and_then(|state| state.allocation).map_or(0.0, |allocation| allocation.total_cores()),
            Order::Name => 0.0,
        };
        let mut sorted: Vec<(f64, &FunctionId)> = shown.iter().map(|id| (board.functions.get(id).map_or(-1.0, weight), id)).collect();
        if self == Order::Name {
            sorted.iter_mut().for_each(|(weight, _)| *weight = 0.0);
        }
        sorted.sort_by(|one, other| other.0.partial_cmp(&one.0).unwrap_or(Ordering::Equal).then_with(|| one.1.cmp(other.1)));
        sorted.into_iter().map(|(_, id)| id.clone()).collect()
    }
}

/// `shown` with the worst first.
pub fn worst_first(board: &Board, shown: &[FunctionId]) -> Vec<FunctionId> {
    Order::Severity.sorted(board, shown)
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::{Load, State};
    use qscale_common::units::Allocation;

    use super::*;

    /// A board of functions, each with its latency in milliseconds (the bound is 200), offered rate and replicas.
    fn board(functions: &[(&str, f64, f64, u32)]) -> (Board, Vec<FunctionId>) {
        let state: State = serde_json::from_str(include_str!("../../../common/tests/golden/state.full.json")).expect("the golden State");
        let load: Load = serde_json::from_str(include_str!("../../../common/tests/golden/load.full.json")).expect("the golden Load");
        let mut board = Board::default();
        for (name, latency_ms, offered, replicas) in functions {
            let mut state = state.clone();
            state.function = name.parse().expect("a label");
            state.objective.latency_ms = 200;
            state.windows.tick.latency.as_mut().expect("it was measured").objective_ms = *latency_ms;
            state.allocation = Some(Allocation::new(*replicas, 500, 128));
            board.load(Load {
                namespace: state.namespace.clone(),
                function: state.function.clone(),
                offered_rps: *offered,
                ..load.clone()
            });
            board.state(state);
        }
        let shown = board.functions.keys().cloned().collect();
        (board, shown)
    }

    #[track_caller]
    fn check(order: Order, expected: [&str; 3]) {
        let (board, shown) = board(&[("a", 100.0, 9.0, 1), ("b", 900.0, 1.0, 2), ("c", 300.0, 5.0, 3)]);
        let names: Vec<String> = order.sorted(&board, &shown).into_iter().map(|id| id.name.to_string()).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn functions_are_sorted_by_what_is_asked_for() {
        check(Order::Severity, ["b", "c", "a"]);
        check(Order::Rate, ["a", "c", "b"]);
        check(Order::Replicas, ["c", "b", "a"]);
        check(Order::Cores, ["c", "b", "a"]);
        check(Order::Name, ["a", "b", "c"]);
    }

    #[test]
    fn one_that_answers_nothing_is_worst() {
        let (mut board, shown) = board(&[("a", 100.0, 9.0, 1), ("b", 900.0, 1.0, 2)]);
        board.functions.get_mut(&shown[0]).and_then(|entry| entry.load.as_mut()).expect("it has load").achieved_rps = 0.0;
        assert_eq!(worst_first(&board, &shown)[0], shown[0]);
    }

    #[test]
    fn totals_are_sums() {
        let (board, mut shown) = board(&[("a", 100.0, 9.0, 1), ("b", 900.0, 1.0, 2)]);
        shown.push("unheard-of".parse().expect("a name"));
        let totals = Totals::of(&board, &shown);
        assert_eq!((totals.functions, totals.measured, totals.violating, totals.replicas), (3, 2, 1, 3));
        assert!((totals.offered - 10.0).abs() < 1e-9 && (totals.allocated - 1.5).abs() < 1e-9, "{totals}");
    }
}
