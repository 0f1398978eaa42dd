//! Calibration of the simulator by a history: the demand of a request, the concurrency of a replica, its size. Owns the estimators, the assumptions and
//! how far each figure is uncertain; reads nothing.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use qscale_common::policy::ScalingPolicy;
use qscale_common::text::{latency, number};
use qscale_common::units::{Mebibytes, Millicores};
use qscale_sim::profile::{MemoryProfile, Startup};
use qscale_sim::{Distribution, FunctionProfile, Nanos};
use serde::Serialize;

use crate::blocks::HistoryBlock;
use crate::history::{HistoryMetric, HistoryStep, WorkloadHistory};
use crate::interval::normal_quantile;
use crate::replay::{self, Driver, ReplicaSize};

/// Startup time if none was measured, and the standard deviations of the logarithm of a measured and of an assumed one.
const DEFAULT_STARTUP_S: f64 = 3.0;
const MEASURED_STARTUP_SPREAD: f64 = 0.15;
const ASSUMED_STARTUP_SPREAD: f64 = 0.6;
/// Least standard deviation of the logarithm of CPU time per request and of waiting time.
const LEAST_CPU_SPREAD: f64 = 0.02;
const LEAST_WAITING_SPREAD: f64 = 0.05;
/// Largest one.
const MOST_SPREAD: f64 = 0.7;
/// Groups of consecutive steps of the jackknife.
const GROUPS: usize = 10;
/// Requests of a step from which its latency is compared.
const COMPARED_REQUESTS: u64 = 20;
/// Largest logarithm of a ratio of latencies that counts: in an overload, queues magnify any difference.
const MAX_LOG_RATIO: f64 = 1.1;
/// Blocks on which latency is fitted.
const FITTED_BLOCKS: usize = 3;
/// Another model of concurrency must be closer to the measured latency than the first by this factor.
const CONCURRENCY_FACTOR: f64 = 0.85;
/// Length of a CFS period, seconds: a request that needs less than the quota of one is not slowed down at low load.
const CFS_PERIOD_S: f64 = 0.1;
/// Largest standard deviation of the logarithm of a demand.
const MAX_SIGMA: f64 = 1.5;

/// A simulator calibrated for one workload.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// The demand.
    pub demand: CalibratedDemand,
    /// Size of a replica.
    pub size: ReplicaSize,
    /// Uncertainty of the demand.
    pub spread: DemandSpread,
    /// Assumptions, in sentences.
    pub assumptions: Vec<String>,
}

/// Demand of requests and starts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CalibratedDemand {
    /// Mean CPU time of a request, seconds.
    pub cpu_s: f64,
    /// Time that a request waits for other services, median, seconds.
    pub waiting_s: f64,
    /// Standard deviation of the logarithm of both.
    pub sigma: f64,
    /// Time of a start, seconds.
    pub startup_s: f64,
    /// Requests that a replica serves at once; 0 without limit.
    pub workers: u32,
    /// Cores that a replica can use at once.
    pub parallelism: u32,
    /// Memory in use by a replica, MiB.
    pub memory_mib: u32,
}

/// Standard deviations of the logarithms of the calibrated figures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DemandSpread {
    /// CPU time of a request.
    pub cpu: f64,
    /// Waiting time of a request.
    pub waiting: f64,
    /// Time of a start.
    pub startup: f64,
}

/// Factors on a demand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DemandFactors {
    /// Of the CPU time of a request.
    pub cpu: f64,
    /// Of its waiting time.
    pub waiting: f64,
    /// Of the time of a start.
    pub startup: f64,
}

impl Default for DemandFactors {
    fn default() -> Self {
        Self { cpu: 1.0, waiting: 1.0, startup: 1.0 }
    }
}

impl CalibratedDemand {
    /// The profile of a function with this demand times `factors`.
    #[must_use]
    pub fn profile(&self, name: &str, factors: DemandFactors) -> FunctionProfile {
        let spread = |median_s: f64| {
            let median = Nanos::from_seconds(median_s);
            Distribution::log_normal(median, self.sigma).unwrap_or_else(|_| Distribution::constant(median))
        };
        FunctionProfile {
            name: name.to_owned(),
            source: "calibrated by a history".to_owned(),
            cpu: spread(self.cpu_s * factors.cpu / (self.sigma * self.sigma / 2.0).exp()),
            waiting: if self.waiting_s > 0.0 { spread(self.waiting_s * factors.waiting) } else { Distribution::ZERO },
            startup: Startup {
                cpu: Distribution::ZERO,
                waiting: Distribution::constant(Nanos::from_seconds(self.startup_s * factors.startup)),
            },
            workers: self.workers,
            parallelism: self.parallelism.max(1),
            memory: MemoryProfile { base_mib: Mebibytes(self.memory_mib.max(1)), request_kib: 0 },
        }
    }

    /// The demand in one line.
    #[must_use]
    pub fn describe(&self) -> String {
        let at_once = match self.workers {
            0 => "any number of requests".to_owned(),
            1 => "one request".to_owned(),
            workers => format!("{workers} requests"),
        };
        format!(
            "a request computes {} and waits {} (sigma {:.2}); {at_once} at once on {} core{}; a start takes {}; {} MiB",
            latency(self.cpu_s * 1000.0),
            latency(self.waiting_s * 1000.0),
            self.sigma,
            self.parallelism,
            if self.parallelism == 1 { "" } else { "s" },
            latency(self.startup_s * 1000.0),
            self.memory_mib
        )
    }
}

/// Calibrates by the `blocks` of `history`, whose objective is that of `policy`; `None` if `stop` was set.
///
/// # Errors
/// Metrics without which nothing can be simulated.
pub fn calibrate(
    history: &WorkloadHistory,
    blocks: &[HistoryBlock],
    policy: &ScalingPolicy,
    stop: &AtomicBool,
) -> Result<Option<Calibration>, String> {
    let mut assumptions = Vec::new();
    let steps: Vec<&HistoryStep> = blocks.iter().flat_map(|block| &history.steps[block.steps()]).collect();
    let (cpu_s, cpu_spread) = request_cpu(&steps)?;
    let size = size(history, &mut assumptions);
    let (startup_s, startup_spread) = match history.median(HistoryMetric::StartupS) {
        Some(measured) => (measured, MEASURED_STARTUP_SPREAD),
        None => {
            assumptions.push(format!("a start takes {DEFAULT_STARTUP_S} s: startup_s was not measured"));
            (DEFAULT_STARTUP_S, ASSUMED_STARTUP_SPREAD)
        }
    };
    let memory_mib = history.median(HistoryMetric::MemoryMib).map_or(size.memory.0 / 2, |used| used.ceil() as u32).max(1);
    let floor = LatencyFloor::of(&steps, cpu_s, size, policy.objective.percentile.get() / 100.0);
    let mut demand = CalibratedDemand {
        cpu_s,
        waiting_s: floor.map_or(0.0, |floor| floor.waiting_s),
        sigma: floor.map_or(0.3, |floor| floor.sigma),
        startup_s,
        workers: 0,
        parallelism: cores(history, size),
        memory_mib,
    };
    let mut waiting_spread = LEAST_WAITING_SPREAD;
    if floor.is_none() {
        assumptions.push("requests wait for nothing, and any number is served at once: latency was not measured".to_owned());
    } else {
        let fit = LatencyFit { history, blocks: &blocks[..blocks.len().min(FITTED_BLOCKS)], policy, size, stop };
        let Some((fitted, distance)) = fit.fit(demand, &mut assumptions) else { return Ok(None) };
        demand = fitted;
        waiting_spread = distance.clamp(LEAST_WAITING_SPREAD, MOST_SPREAD);
    }
    let spread = DemandSpread { cpu: cpu_spread, waiting: waiting_spread, startup: startup_spread };
    Ok(Some(Calibration { demand, size, spread, assumptions }))
}

/// Completed requests a second.
fn completed(step: &HistoryStep) -> Option<f64> {
    Some(step.get(HistoryMetric::ArrivalsRps)? * (1.0 - step.get(HistoryMetric::FailedShare).unwrap_or(0.0).min(1.0)))
}

/// CPU time of a request, seconds, idle use included, with the standard deviation of its logarithm: the ratio of the sums over all steps, and its
/// jackknife over groups of consecutive steps (Tukey 1958).
fn request_cpu(steps: &[&HistoryStep]) -> Result<(f64, f64), String> {
    let pairs: Vec<(f64, f64)> = steps.iter().filter_map(|step| Some((step.get(HistoryMetric::CpuCores)?, completed(step)?))).collect();
    let ratio = |pairs: &mut dyn Iterator<Item = &(f64, f64)>| {
        let (cores, rate) = pairs.fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
        (rate > 0.0 && cores > 0.0).then(|| cores / rate)
    };
    let Some(cpu_s) = ratio(&mut pairs.iter()) else {
        return Err("no step of the first half has both arrivals and CPU use, so that CPU time per request is unknown".to_owned());
    };
    let length = pairs.len().div_ceil(GROUPS).max(1);
    let logs: Vec<f64> = (0..pairs.len())
        .step_by(length)
        .filter_map(|begin| {
            let outside = |place: &usize| !(begin..begin + length).contains(place);
            let mut rest = pairs.iter().enumerate().filter(|(place, _)| outside(place)).map(|(_, pair)| pair);
            ratio(&mut rest).map(f64::ln)
        })
        .collect();
    if logs.len() < 2 {
        return Ok((cpu_s, MOST_SPREAD));
    }
    let (count, mean) = (logs.len() as f64, logs.iter().sum::<f64>() / logs.len() as f64);
    let variance = (count - 1.0) / count * logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>();
    Ok((cpu_s, variance.sqrt().clamp(LEAST_CPU_SPREAD, MOST_SPREAD)))
}

/// Size of a replica: its limits, or else its requests and its use.
fn size(history: &WorkloadHistory, assumptions: &mut Vec<String>) -> ReplicaSize {
    let limit = history.median(HistoryMetric::CpuLimitMillicores).filter(|limit| *limit >= 1.0);
    let request = history.median(HistoryMetric::CpuRequestMillicores).filter(|request| *request >= 1.0);
    let used = busiest_millicores(history);
    let millicores = limit.unwrap_or_else(|| {
        let found = request.unwrap_or(0.0).max(used).clamp(100.0, f64::from(Millicores::MAX.0));
        assumptions.push(format!(
            "a replica may use {}m of CPU: it has no limit; its request is {}, the most that was used {used:.0}m",
            found.round(),
            request.map_or_else(|| "unknown".to_owned(), |request| format!("{request:.0}m"))
        ));
        found
    });
    let request_share = request.map_or(1.0, |request| (request / millicores).clamp(0.01, 1.0));
    if request_share < 0.99 {
        assumptions.push(format!(
            "costs are those of the CPU that a replica may use, {millicores:.0}m; its request is {:.0} % of that",
            request_share * 100.0
        ));
    }
    let memory_use = history.largest(HistoryMetric::MemoryMib);
    let memory = history.median(HistoryMetric::MemoryLimitMib).filter(|limit| *limit >= 1.0).or(memory_use.map(|used| 2.0 * used));
    let memory = memory.unwrap_or_else(|| {
        assumptions.push("a replica has 256 MiB of memory: neither its limit nor its use was measured".to_owned());
        256.0
    });
    ReplicaSize {
        cpu: Millicores((millicores.round() as u32).clamp(1, Millicores::MAX.0)),
        memory: Mebibytes((memory.ceil() as u32).clamp(1, Mebibytes::MAX.0)),
        request_share,
    }
}

/// Largest CPU use of a replica in a step, millicores: the mean over the replicas.
fn busiest_millicores(history: &WorkloadHistory) -> f64 {
    let each = |step: &HistoryStep| {
        let replicas = step.get(HistoryMetric::Replicas).filter(|replicas| *replicas >= 0.5)?;
        Some(step.get(HistoryMetric::CpuCores)? / replicas * 1000.0)
    };
    history.steps.iter().filter_map(each).fold(0.0, f64::max)
}

/// Cores that a replica can use at once: as many as it was seen to use, at least one.
fn cores(history: &WorkloadHistory, size: ReplicaSize) -> u32 {
    // A mean over a step may slightly exceed the limit.
    let used = (busiest_millicores(history) / 1000.0 - 0.1).ceil();
    (used as u32).clamp(1, size.cpu.0.div_ceil(1000).max(1))
}

/// Latency without a queue.
#[derive(Debug, Clone, Copy, PartialEq)]
struct LatencyFloor {
    waiting_s: f64,
    sigma: f64,
}

impl LatencyFloor {
    /// From the third of the steps with the lowest latency; `None` if no latency was measured. A low utilization is no sign of an undisturbed step: others
    /// may have used the machine.
    fn of(steps: &[&HistoryStep], cpu_s: f64, size: ReplicaSize, percentile: f64) -> Option<Self> {
        let typical = |step: &HistoryStep| step.get(HistoryMetric::MedianMs).or(step.get(HistoryMetric::MeanMs)).filter(|ms| *ms > 0.0);
        let mut calm: Vec<(f64, &HistoryStep)> = steps.iter().filter_map(|step| Some((typical(step)?, *step))).collect();
        calm.sort_by(|one, other| one.0.total_cmp(&other.0));
        calm.truncate(calm.len().div_ceil(3));
        let median_s = middle(calm.iter().map(|(ms, _)| *ms).collect())? / 1000.0;
        let tail =
            |step: &HistoryStep| Some((step.get(HistoryMetric::ObjectiveMs)? / typical(step)?).ln() / normal_quantile(percentile).max(0.1));
        let sigma = middle(calm.iter().filter_map(|(_, step)| tail(step)).collect()).unwrap_or(0.3).clamp(0.02, MAX_SIGMA);
        let quota = f64::from(size.cpu.0) / 1000.0;
        let computing = if cpu_s > quota * CFS_PERIOD_S { cpu_s / quota.min(1.0) } else { cpu_s };
        Some(Self { waiting_s: (median_s - computing).max(0.0), sigma })
    }
}

fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// A search for the demand whose simulated latencies are nearest to the measured ones, with the recorded allocations.
struct LatencyFit<'a> {
    history: &'a WorkloadHistory,
    blocks: &'a [HistoryBlock],
    policy: &'a ScalingPolicy,
    size: ReplicaSize,
    stop: &'a AtomicBool,
}

impl LatencyFit<'_> {
    /// The best demand with its distance, from `start` on; `None` if it was stopped.
    fn fit(&self, start: CalibratedDemand, assumptions: &mut Vec<String>) -> Option<(CalibratedDemand, f64)> {
        let cores = start.parallelism;
        let mut models = vec![(0, cores), (cores, cores), (1, 1), (0, 1), (4, 1), (2, 1)];
        let mut seen = Vec::new();
        models.retain(|model| {
            !seen.contains(model) && {
                seen.push(*model);
                true
            }
        });
        let mut scored = Vec::new();
        for (workers, parallelism) in models {
            let candidate = CalibratedDemand { workers, parallelism, ..start };
            let distance = self.distance(&candidate)?;
            scored.push((candidate, distance));
        }
        let distances = || scored.iter().map(|(_, distance)| *distance).filter(|distance| distance.is_finite());
        let (Some(least), Some(most)) = (distances().reduce(f64::min), distances().reduce(f64::max)) else {
            assumptions.push(format!(
                "any number of requests is served at once: no step had {COMPARED_REQUESTS} requests, so that latency could not be fitted"
            ));
            return Some((start, MOST_SPREAD));
        };
        if least > most * CONCURRENCY_FACTOR {
            assumptions.push("any number of requests is served at once: latency does not depend on it at the measured load".to_owned());
        }
        let mut best = scored[0];
        for candidate in &scored[1..] {
            if candidate.1 < best.1 * CONCURRENCY_FACTOR || !best.1.is_finite() {
                best = *candidate;
            }
        }
        for _ in 0..2 {
            let base = best.0;
            let spare = base.cpu_s.max(0.001);
            let waits = [0.0, 0.5, 0.8, 1.25, 1.6].map(|factor| base.waiting_s * factor).into_iter().chain([base.waiting_s + 0.3 * spare]);
            let sigmas = [0.4, 0.7, 1.4, 2.0].map(|factor| (base.sigma * factor).clamp(0.02, MAX_SIGMA));
            let candidates = waits.map(|waiting_s| CalibratedDemand { waiting_s, ..base });
            for candidate in candidates.collect::<Vec<_>>() {
                let distance = self.distance(&candidate)?;
                best = if distance < best.1 { (candidate, distance) } else { best };
            }
            let base = best.0;
            for sigma in sigmas {
                let candidate = CalibratedDemand { sigma, ..base };
                let distance = self.distance(&candidate)?;
                best = if distance < best.1 { (candidate, distance) } else { best };
            }
        }
        assumptions.push(format!(
            "{}; fitted to the latencies of the first half with its recorded replicas, from which it is {} % off on average",
            best.0.describe(),
            number((best.1.exp() - 1.0) * 100.0)
        ));
        Some(best)
    }

    /// Mean absolute logarithm of simulated over measured latency, over steps and both percentiles; infinite without any step to compare; `None` if it was stopped.
    fn distance(&self, demand: &CalibratedDemand) -> Option<f64> {
        let profile = Arc::new(demand.profile(self.history.workload.name.as_str(), DemandFactors::default()));
        let (mut sum, mut count) = (0.0, 0_u32);
        for block in self.blocks {
            let setup = replay::setup(self.history, block, self.size, &profile, self.policy);
            let recorded = replay::allocations(self.history, block.steps(), self.size);
            let simulated = replay::simulate(self.history, block, setup, &recorded, Driver::Recorded, 0, self.stop)?;
            for (step, simulated) in self.history.steps[block.measured_steps()].iter().zip(simulated) {
                if simulated.ended < COMPARED_REQUESTS {
                    continue;
                }
                let pairs = [
                    (simulated.median_ms, step.get(HistoryMetric::MedianMs)),
                    (simulated.objective_ms, step.get(HistoryMetric::ObjectiveMs)),
                ];
                for (simulated, measured) in pairs {
                    if let (Some(simulated), Some(measured)) = (simulated, measured.filter(|ms| *ms > 0.0)) {
                        sum += (simulated.max(1e-3) / measured).ln().abs().min(MAX_LOG_RATIO);
                        count += 1;
                    }
                }
            }
        }
        Some(if count == 0 { f64::INFINITY } else { sum / f64::from(count) })
    }
}

#[cfg(test)]
mod tests;
