//! Many functions at once: their totals, and their order by severity, rate or size. Draws nothing.

use std::cmp::Ordering;
use std::fmt;

use qscale_common::name::FunctionId;

use super::dashboard::{Dashboard, FunctionRecord};

/// Sums over functions.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SystemTotals {
    /// Number of functions.
    pub functions: usize,
    /// Those with a measurement.
    pub measured: usize,
    /// Those above their latency bound.
    pub violating: usize,
    /// Offered rate, requests/s.
    pub offered: f64,
    /// Rate of successful answers, requests/s.
    pub achieved: f64,
    /// Failed requests in the last interval.
    pub failed: u64,
    /// Ready replicas.
    pub ready: u32,
    /// Allocated replicas.
    pub replicas: u32,
    /// Cores allocated.
    pub allocated: f64,
    /// Cores used.
    pub used: f64,
}

impl SystemTotals {
    /// The sums over `shown`.
    pub fn of(dashboard: &Dashboard, shown: &[FunctionId]) -> Self {
        let mut totals = Self { functions: shown.len(), ..Self::default() };
        for record in shown.iter().filter_map(|id| dashboard.functions.get(id)) {
            totals.measured += usize::from(record.state.is_some());
            totals.violating += usize::from(severity(record) > 1.0);
            if let Some(load) = &record.load {
                totals.offered += load.offered_rps;
                totals.achieved += load.achieved_rps;
                totals.failed = totals.failed.saturating_add(load.failures.total());
            }
            let Some(state) = &record.state else { continue };
            totals.ready = totals.ready.saturating_add(state.replicas.map_or(0, |replicas| replicas.ready.0));
            if let Some(allocation) = state.allocation {
                totals.replicas = totals.replicas.saturating_add(allocation.replicas.0);
                totals.allocated += allocation.total_cores();
            }
            totals.used += state.cores_used(&state.windows.tick).unwrap_or(0.0);
        }
        totals
    }
}

impl fmt::Display for SystemTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} functions, {} measured, {} above their latency bound; {:.0}/s offered, {:.0}/s answered, {} failed; {} of {} replicas ready; {:.1} cores allocated, {:.1} used",
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

/// Latency over its bound: above 1 the objective is violated. Infinite if requests arrive and none is answered.
pub fn severity(record: &FunctionRecord) -> f64 {
    let starved = record.load.as_ref().is_some_and(|load| load.offered_rps > 0.0 && load.achieved_rps <= 0.0);
    let latency = record.state.as_ref().and_then(|state| {
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
pub enum SortOrder {
    /// Highest latency over its bound first.
    #[default]
    Severity,
    /// Highest offered rate first.
    Rate,
    /// Most replicas first.
    Replicas,
    /// Most allocated cores first.
    Cores,
    /// By name.
    Name,
}

impl SortOrder {
    /// Each with its key and its label.
    pub const ALL: [(char, SortOrder, &'static str); 5] = [
        ('w', SortOrder::Severity, "worst"),
        ('o', SortOrder::Rate, "offered"),
        ('r', SortOrder::Replicas, "replicas"),
        ('c', SortOrder::Cores, "cores"),
        ('n', SortOrder::Name, "name"),
    ];

    /// `shown` in this order; ties by name.
    pub fn sorted(self, dashboard: &Dashboard, shown: &[FunctionId]) -> Vec<FunctionId> {
        let weight = |record: &FunctionRecord| match self {
            SortOrder::Severity => severity(record),
            SortOrder::Rate => record.load.as_ref().map_or(0.0, |load| load.offered_rps),
            SortOrder::Replicas => {
                f64::from(record.state.as_ref().and_then(|state| state.allocation).map_or(0, |allocation| allocation.replicas.0))
            }
            SortOrder::Cores => record.state.as_ref().and_then(|state| state.allocation).map_or(0.0, |allocation| allocation.total_cores()),
            SortOrder::Name => 0.0,
        };
        let mut sorted: Vec<(f64, &FunctionId)> = shown.iter().map(|id| (dashboard.functions.get(id).map_or(-1.0, weight), id)).collect();
        if self == SortOrder::Name {
            sorted.iter_mut().for_each(|(weight, _)| *weight = 0.0);
        }
        sorted.sort_by(|one, other| other.0.partial_cmp(&one.0).unwrap_or(Ordering::Equal).then_with(|| one.1.cmp(other.1)));
        sorted.into_iter().map(|(_, id)| id.clone()).collect()
    }
}

/// `shown` with the worst first.
pub fn worst_first(dashboard: &Dashboard, shown: &[FunctionId]) -> Vec<FunctionId> {
    SortOrder::Severity.sorted(dashboard, shown)
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::{Load, State};
    use qscale_common::units::Allocation;

    use super::*;

    /// A dashboard of functions, each with its latency in milliseconds (the bound is 200), offered rate and replicas.
    fn dashboard(functions: &[(&str, f64, f64, u32)]) -> (Dashboard, Vec<FunctionId>) {
        let state: State = serde_json::from_str(include_str!("../../../common/tests/golden/state.full.json")).expect("the golden State");
        let load: Load = serde_json::from_str(include_str!("../../../common/tests/golden/load.full.json")).expect("the golden Load");
        let mut dashboard = Dashboard::default();
        for (name, latency_ms, offered, replicas) in functions {
            let mut state = state.clone();
            state.function = name.parse().expect("a label");
            state.objective.latency_ms = 200;
            state.windows.tick.latency.as_mut().expect("it was measured").objective_ms = *latency_ms;
            state.allocation = Some(Allocation::new(*replicas, 500, 128));
            dashboard.load(Load {
                namespace: state.namespace.clone(),
                function: state.function.clone(),
                offered_rps: *offered,
                ..load.clone()
            });
            dashboard.state(state);
        }
        let shown = dashboard.functions.keys().cloned().collect();
        (dashboard, shown)
    }

    #[track_caller]
    fn check(order: SortOrder, expected: [&str; 3]) {
        let (dashboard, shown) = dashboard(&[("a", 100.0, 9.0, 1), ("b", 900.0, 1.0, 2), ("c", 300.0, 5.0, 3)]);
        let names: Vec<String> = order.sorted(&dashboard, &shown).into_iter().map(|id| id.name.to_string()).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn functions_are_sorted_in_the_chosen_order() {
        check(SortOrder::Severity, ["b", "c", "a"]);
        check(SortOrder::Rate, ["a", "c", "b"]);
        check(SortOrder::Replicas, ["c", "b", "a"]);
        check(SortOrder::Cores, ["c", "b", "a"]);
        check(SortOrder::Name, ["a", "b", "c"]);
    }

    #[test]
    fn a_function_without_answers_is_worst() {
        let (mut dashboard, shown) = dashboard(&[("a", 100.0, 9.0, 1), ("b", 900.0, 1.0, 2)]);
        dashboard.functions.get_mut(&shown[0]).and_then(|record| record.load.as_mut()).expect("it has load").achieved_rps = 0.0;
        assert_eq!(worst_first(&dashboard, &shown)[0], shown[0]);
    }

    #[test]
    fn totals_are_sums() {
        let (dashboard, mut shown) = dashboard(&[("a", 100.0, 9.0, 1), ("b", 900.0, 1.0, 2)]);
        shown.push("unheard-of".parse().expect("a name"));
        let totals = SystemTotals::of(&dashboard, &shown);
        assert_eq!((totals.functions, totals.measured, totals.violating, totals.replicas), (3, 2, 1, 3));
        assert!((totals.offered - 10.0).abs() < 1e-9 && (totals.allocated - 1.5).abs() < 1e-9, "{totals}");
    }
}
