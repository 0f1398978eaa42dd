//! Simulation of a block of a history, with the recorded allocations or under a policy. Owns what a simulated step is compared by.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qscale_common::policy::ScalingPolicy;
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use qscale_evaluate::cell::MeasurementSpan;
use qscale_evaluate::measure::Criteria;
use qscale_policies::{Memory, Policy};
use qscale_sim::rng::{Purpose, stream};
use qscale_sim::simulation::timestamp;
use qscale_sim::{FunctionProfile, Gateway, Perturbation, Setup, Simulation, Totals};

use crate::blocks::{HistoryBlock, load};
use crate::history::{HistoryMetric, WorkloadHistory};

/// CPU and memory of a replica.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReplicaSize {
    /// CPU that a replica may use.
    pub cpu: Millicores,
    /// Memory that a replica may use.
    pub memory: Mebibytes,
    /// CPU request over the CPU that it may use, above 0 to 1.
    pub request_share: f64,
}

/// A step, simulated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SimulatedStep {
    /// Requests that ended.
    pub ended: u64,
    /// Median latency, milliseconds; `None` without successful requests.
    pub median_ms: Option<f64>,
    /// The percentile of latency that the objective bounds, milliseconds.
    pub objective_ms: Option<f64>,
    /// Whether the objective was violated; `None` if no request ended.
    pub violated: Option<bool>,
    /// CPU use of all replicas, cores.
    pub cpu_cores: Option<f64>,
    /// Cost of the allocation, an hour.
    pub cost_per_hour: f64,
    /// Mean number of replicas.
    pub replicas: f64,
}

/// How the allocation of a simulated block is decided.
#[derive(Clone, Copy)]
pub enum Driver<'a> {
    /// As recorded.
    Recorded,
    /// By a policy.
    Policy(&'a dyn Policy),
}

/// The allocations of `steps` as recorded; unknown values are those of the step before, or of `size`.
#[must_use]
pub fn allocations(history: &WorkloadHistory, steps: std::ops::Range<usize>, size: ReplicaSize) -> Vec<Allocation> {
    let first = history.values(HistoryMetric::Replicas).next().unwrap_or(1.0);
    let earlier = history.steps[..steps.start].iter().rev();
    let before = |metric| earlier.clone().find_map(|step| step.get(metric));
    let mut replicas = before(HistoryMetric::Replicas).unwrap_or(first);
    let mut cpu = before(HistoryMetric::CpuLimitMillicores);
    let mut memory = before(HistoryMetric::MemoryLimitMib);
    let allocation = |step: &crate::history::HistoryStep| {
        replicas = step.get(HistoryMetric::Replicas).unwrap_or(replicas);
        cpu = step.get(HistoryMetric::CpuLimitMillicores).or(cpu);
        memory = step.get(HistoryMetric::MemoryLimitMib).or(memory);
        Allocation {
            replicas: Replicas((replicas.round() as u32).min(Replicas::MAX.0)),
            cpu_millicores: cpu.map_or(size.cpu, |value| Millicores((value.round() as u32).clamp(1, Millicores::MAX.0))),
            memory_mib: memory.map_or(size.memory, |value| Mebibytes((value.ceil() as u32).clamp(1, Mebibytes::MAX.0))),
        }
    };
    history.steps[steps].iter().map(allocation).collect()
}

/// Setup of a simulation of `block`, which begins with the recorded allocation.
#[must_use]
pub fn setup(
    history: &WorkloadHistory,
    block: &HistoryBlock,
    size: ReplicaSize,
    profile: &Arc<FunctionProfile>,
    policy: &ScalingPolicy,
) -> Setup {
    let first = allocations(history, block.begin..block.begin + 1, size);
    let (load, _) = load(history, block);
    Setup {
        profile: Arc::clone(profile),
        gateway: Gateway::default(),
        policy: policy.clone(),
        allocation: policy.bounds.clamp(first[0]),
        load,
        perturbation: Perturbation::default(),
        nodes: None,
    }
}

/// Simulates `block`; returns its measured steps, or `None` if `stop` was set.
#[must_use]
pub fn simulate(
    history: &WorkloadHistory,
    block: &HistoryBlock,
    setup: Setup,
    recorded: &[Allocation],
    driver: Driver<'_>,
    seed: u64,
    stop: &AtomicBool,
) -> Option<Vec<SimulatedStep>> {
    let span = MeasurementSpan { interval: history.step, warm_up: block.warm_up as u32, measured: block.measured as u32 };
    let criteria = Criteria::new(&setup, span, Duration::ZERO);
    let percentile = setup.policy.objective.percentile.get() / 100.0;
    let tick = setup.policy.tick.duration();
    let ticks = (history.step.as_nanos() / tick.as_nanos()).max(1) as usize;
    let index = block.begin as u64;
    let (mut memory, mut rng) = (Memory::default(), stream(seed, index, Purpose::Policy));
    let mut simulation = Simulation::new(setup, seed, index);
    let (mut totals, mut steps, mut outstanding) = (Totals::default(), Vec::with_capacity(block.measured), 0_u64);
    for number in 0..block.warm_up + block.measured {
        let (mut cores, mut read, mut replicas) = (0.0, 0_u32, 0.0);
        for _ in 0..ticks {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let wanted = match driver {
                Driver::Recorded => recorded.get(number).copied(),
                Driver::Policy(policy) => policy.decide(simulation.state(), &mut memory, timestamp(simulation.now()), &mut rng).wanted(),
            };
            simulation.step(wanted);
            replicas += f64::from(simulation.function().allocation().replicas.0) / ticks as f64;
            if let Some(used) = simulation.state().cores_used(&simulation.state().windows.tick) {
                cores += used;
                read += 1;
            }
        }
        simulation.take_interval(&mut totals);
        let ended = totals.completed + totals.unanswered();
        let waited = outstanding > 0;
        outstanding = (outstanding + totals.arrived).saturating_sub(ended);
        if number < block.warm_up {
            continue;
        }
        let ms = |share: f64| totals.latency.quantile(share, 0).map(|latency| latency.seconds() * 1000.0);
        steps.push(SimulatedStep {
            ended,
            median_ms: ms(0.5),
            objective_ms: ms(percentile),
            violated: criteria.evaluate(&totals, waited).map(|result| result.violated),
            cpu_cores: (read > 0).then(|| cores / f64::from(read)),
            cost_per_hour: criteria.cost(&totals) * 3600.0 / history.step.as_secs_f64(),
            replicas,
        });
    }
    Some(steps)
}
