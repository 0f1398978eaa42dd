//! Search for the allocations that would have been best: the bound of a cell. Owns the moves and their acceptance; must not know a policy.
//!
//! The search starts from the allocations of a run of the best competitor and changes one part of the run after the other: it simulates each change with
//! what follows soon after, and keeps it if the loss falls. The function is simulated as in every run, behind the same guard. So the result is
//! never worse than its start, but it is a local optimum, not a proven one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qscale_common::contract::State;
use qscale_common::time::{TickLength, Timestamp};
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use qscale_policies::{Decision, HoldReason, Memory, Policy};
use qscale_sim::simulation::BEGIN;
use qscale_sim::{Simulation, Totals};
use rand::Rng;

use crate::measure::{Criteria, LossShares};

/// Lengths of the parts that a pass changes as a whole, one after the other, and the time after each over which its effect counts.
const PARTS: [SearchPart; 3] = [SearchPart::seconds(120, 60), SearchPart::seconds(30, 60), SearchPart::seconds(5, 20)];

/// A part of a run that is changed as a whole.
#[derive(Debug, Clone, Copy)]
struct SearchPart {
    length: Duration,
    horizon: Duration,
}

impl SearchPart {
    const fn seconds(length: u64, horizon: u64) -> Self {
        Self { length: Duration::from_secs(length), horizon: Duration::from_secs(horizon) }
    }
}

/// The allocation of each tick of a run, decided in advance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocationPlan {
    tick: TickLength,
    allocations: Vec<Allocation>,
}

impl AllocationPlan {
    /// One of `allocations` for each tick of length `tick`.
    pub(crate) fn new(tick: TickLength, allocations: Vec<Allocation>) -> Self {
        Self { tick, allocations }
    }
}

impl Policy for AllocationPlan {
    fn name(&self) -> &'static str {
        "plan"
    }

    fn model(&self) -> String {
        "plan/1".into()
    }

    fn decide(&self, _: &State, _: &mut Memory, now: Timestamp, _: &mut dyn Rng) -> Decision {
        let tick = now.since(BEGIN).as_nanos() / self.tick.duration().as_nanos();
        match usize::try_from(tick).ok().and_then(|tick| self.allocations.get(tick).or(self.allocations.last())) {
            Some(allocation) => Decision::Want { allocation: *allocation, reason: "planned".into(), choices: Vec::new() },
            None => Decision::hold(HoldReason::NothingToDo, "the plan is empty"),
        }
    }
}

/// A simulation within a run, with its losses.
#[derive(Debug, Clone)]
struct Rollout {
    simulation: Simulation,
    /// Requests in the system when the interval began.
    outstanding: u64,
    /// Number of intervals so far.
    intervals: u32,
    /// Their losses, or those of the last ones.
    losses: Vec<f64>,
}

/// Search for a plan of one function.
pub(crate) struct PlanSearcher<'a> {
    pub criteria: &'a Criteria,
    pub shares: LossShares,
    pub stop: &'a AtomicBool,
}

/// The ticks of a run.
#[derive(Debug, Clone, Copy)]
struct Ticks {
    in_interval: usize,
    /// First tick that a change can improve.
    first: usize,
    all: usize,
}

impl PlanSearcher<'_> {
    /// Improves `plan` in `world`, a simulation at its start, in `passes`. Returns false if it was stopped.
    pub(crate) fn improve(&self, plan: &mut AllocationPlan, world: &Simulation, passes: u32) -> bool {
        let span = self.criteria.measurement();
        let tick = plan.tick.duration();
        let ticks = |time: Duration| (time.as_nanos() / tick.as_nanos().max(1)) as usize;
        let in_interval = ticks(span.interval).max(1);
        // Allocations of the last minute of the warm-up still matter after it.
        let first = (span.warm_up as usize * in_interval).saturating_sub(ticks(Duration::from_secs(60)));
        let run = Ticks { in_interval, first: first - first % in_interval, all: plan.allocations.len() };
        for _ in 0..passes {
            let mut improved = false;
            for part in PARTS {
                match self.pass(plan, world, run, [ticks(part.length), ticks(part.horizon)].map(|ticks| ticks.max(1))) {
                    Some(any) => improved |= any,
                    None => return false,
                }
            }
            if !improved {
                break;
            }
        }
        true
    }

    /// Changes parts of `length` ticks, in order, by their effect up to `horizon` ticks later; returns whether any change was an improvement, `None` if stopped.
    fn pass(&self, plan: &mut AllocationPlan, world: &Simulation, run: Ticks, [length, horizon]: [usize; 2]) -> Option<bool> {
        let bounds = world.setup().policy.bounds;
        let mut base = Rollout::new(world.clone());
        let mut all = base.clone();
        let (mut at, mut improved) = (0, false);
        let mut totals = Totals::default();
        all.advance(self, &plan.allocations, run, &mut totals);
        let (mut losses, least) = (all.losses, self.least_loss(world));
        let mut begin = run.first;
        while begin < run.all {
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            let end = (begin + length).min(run.all);
            // Loss is known at the ends of intervals only.
            let start = begin - begin % run.in_interval;
            let until = (end + horizon).next_multiple_of(run.in_interval).min(run.all);
            let window = start / run.in_interval..until / run.in_interval;
            if losses[window.clone()].iter().all(|loss| *loss <= least) {
                begin = end;
                continue;
            }
            base.advance(self, &plan.allocations[at..start], run, &mut totals);
            base.losses.clear();
            at = start;
            let mut tried = vec![plan.allocations[start..until].to_vec()];
            let mut rollout = base.clone();
            rollout.advance(self, &tried[0], run, &mut totals);
            let (mut best, mut chosen) = (rollout.losses.iter().sum::<f64>(), 0);
            losses[window.clone()].copy_from_slice(&rollout.losses);
            for change in changes(plan, begin, end) {
                let mut changed = plan.allocations[start..until].to_vec();
                changed[begin - start..end - start].iter_mut().for_each(|allocation| *allocation = bounds.clamp(change(*allocation)));
                if tried.contains(&changed) {
                    continue;
                }
                rollout.clone_from(&base);
                rollout.advance(self, &changed, run, &mut totals);
                let loss = rollout.losses.iter().sum::<f64>();
                tried.push(changed);
                if loss < best - 1e-12 {
                    (best, chosen) = (loss, tried.len() - 1);
                    losses[window.clone()].copy_from_slice(&rollout.losses);
                }
            }
            improved |= chosen > 0;
            plan.allocations[start..until].copy_from_slice(&tried[chosen]);
            begin = end;
        }
        Some(improved)
    }

    /// Loss of an interval of `world` that no plan can reduce: that of the smallest allocation.
    fn least_loss(&self, world: &Simulation) -> f64 {
        let policy = &world.setup().policy;
        let smallest = policy.bounds.clamp(Allocation { replicas: Replicas(0), cpu_millicores: Millicores(0), memory_mib: Mebibytes(0) });
        let hours = self.criteria.measurement().interval.as_secs_f64() / 3600.0;
        // Integrals of the allocation have rounding errors.
        self.shares.cost * policy.prices.per_hour(smallest) * hours * (1.0 + 1e-9)
    }
}

impl Rollout {
    fn new(simulation: Simulation) -> Self {
        Self { simulation, outstanding: 0, intervals: 0, losses: Vec::new() }
    }

    /// Advances by the ticks of `allocations`, whole intervals, or up to the end of the run.
    fn advance(&mut self, searcher: &PlanSearcher<'_>, allocations: &[Allocation], run: Ticks, totals: &mut Totals) {
        for interval in allocations.chunks(run.in_interval) {
            interval.iter().for_each(|allocation| self.simulation.step(Some(*allocation)));
            self.simulation.take_interval(totals);
            let result = searcher.criteria.evaluate(totals, self.outstanding > 0);
            self.outstanding = (self.outstanding + totals.arrived).saturating_sub(totals.completed + totals.unanswered());
            let is_measured = self.intervals >= searcher.criteria.measurement().warm_up;
            self.intervals += 1;
            let severity = result.map_or(0.0, |result| result.severity);
            let loss = searcher.shares.severity * severity + searcher.shares.cost * searcher.criteria.cost(totals);
            self.losses.push(if is_measured { loss } else { 0.0 });
        }
    }
}

type Change = Box<dyn Fn(Allocation) -> Allocation>;

/// Changes of the part of `plan` between two ticks.
fn changes(plan: &AllocationPlan, begin: usize, end: usize) -> Vec<Change> {
    let before = begin.checked_sub(1).map(|tick| plan.allocations[tick]);
    let after = plan.allocations.get(end).copied();
    let replicas = |change: i64| -> Change { Box::new(move |from| Allocation { replicas: plus(from.replicas, change), ..from }) };
    let scaled = |factor: f64| -> Change { Box::new(move |from| Allocation { replicas: times(from.replicas, factor), ..from }) };
    let cpu = |factor: f64| -> Change { Box::new(move |from| Allocation { cpu_millicores: sized(from, factor), ..from }) };
    let memory = |factor: f64| -> Change {
        Box::new(move |from| Allocation { memory_mib: Mebibytes((f64::from(from.memory_mib.0) * factor).round() as u32), ..from })
    };
    // Other replicas with the same CPU together.
    let traded = |change: i64| -> Change {
        Box::new(move |from| {
            let replicas = plus(from.replicas, change);
            let factor = f64::from(from.replicas.0) / f64::from(replicas.0.max(1));
            Allocation { replicas, cpu_millicores: sized(from, factor), ..from }
        })
    };
    let copied = [before, after].into_iter().flatten().map(|allocation| Box::new(move |_| allocation) as Change);
    copied
        .chain([replicas(-1), replicas(1), scaled(0.75), scaled(1.33), cpu(0.7), cpu(0.9), cpu(0.97), cpu(1.03), cpu(1.1), cpu(1.4)])
        .chain([traded(-1), traded(1), memory(0.8), memory(0.95), memory(1.25)])
        .collect()
}

fn plus(replicas: Replicas, change: i64) -> Replicas {
    Replicas(u32::try_from((i64::from(replicas.0) + change).max(0)).unwrap_or(u32::MAX))
}

fn times(replicas: Replicas, factor: f64) -> Replicas {
    let scaled = f64::from(replicas.0) * factor;
    Replicas(if factor < 1.0 { scaled.floor() } else { scaled.ceil() } as u32)
}

fn sized(from: Allocation, factor: f64) -> Millicores {
    Millicores((f64::from(from.cpu_millicores.0) * factor).round() as u32)
}

#[cfg(test)]
mod tests;
