//! Sampling of worlds: functions, loads and perturbations from a task distribution. Must not simulate.
//!
//! Ranges are wide and sampled logarithmically, so that a real function looks like another sample (Tobin et al., IROS
//! 2017). Loads are sized by the capacity of the function, so that most worlds can be controlled.

use std::sync::Arc;
use std::time::Duration;

use qscale_common::hash::GOLDEN_RATIO;
use qscale_common::policy::ViolationCost;
use qscale_common::policy::{Guardrails, LatencyBound, Percentile, Range, ScalingPolicy};
use qscale_common::time::{Span, TickLength};
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use qscale_common::workload::trace::{MinuteTrace, TraceFunction};
use qscale_common::workload::{Demand, DurationQuantiles, Gaps, Iat, MinuteCount, Pattern, Scale};
use qscale_dqn::tasks::{Split, TaskDistribution};
use qscale_sim::profile::{MemoryProfile, Startup};
use qscale_sim::{Distribution, FunctionProfile, Gateway, Nanos, Perturbation, Setup, SimulatedLoad};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// A sampled world.
#[derive(Debug, Clone)]
pub struct World {
    /// Setup of the simulation.
    pub setup: Setup,
    /// Simulated time.
    pub length: Duration,
    /// Cost of a violated tick ([`ViolationCost`]).
    pub violation_cost: f64,
}

impl World {
    /// Number of ticks.
    #[must_use]
    pub fn ticks(&self) -> u32 {
        (self.length.as_secs_f64() / self.setup.policy.tick.duration().as_secs_f64()).round().clamp(2.0, 1e6) as u32
    }
}

/// Number of the world that a run with `seed` enters after `drawn` others.
#[must_use]
pub fn world_number(seed: u64, drawn: u64) -> u64 {
    seed.wrapping_mul(1 << 32).wrapping_add(drawn)
}

/// World number `number` of `split`.
#[must_use]
pub fn draw(tasks: &TaskDistribution, split: Split, number: u64) -> World {
    let salt = 0x51ed_270b_u64.wrapping_mul(split as u64 + 1);
    let mut rng = SmallRng::seed_from_u64(number.wrapping_mul(GOLDEN_RATIO) ^ salt);
    let rng = &mut rng;
    let is_sparse = rng.random_bool(tasks.sparse_share);
    // Under continuous load a violation rarely costs more than an hour of the usual cost; for sparse functions it may cost hours of it.
    let (least, most) = if is_sparse {
        (50.0, ViolationCost::MOST)
    } else if rng.random_bool(0.85) {
        (ViolationCost::LEAST, 600.0)
    } else {
        (600.0, ViolationCost::MOST)
    };
    let violation_cost = by_magnitude(rng, least, most);
    let (setup, length) = if is_sparse { sparse(tasks, rng) } else { steady(tasks, rng) };
    World { setup, length, violation_cost }
}

/// A function under continuous load, whose replicas may be resized.
fn steady(tasks: &TaskDistribution, rng: &mut SmallRng) -> (Setup, Duration) {
    let length = minutes(by_magnitude(rng, 8.0, 40.0));
    let (profile, alone) = profile(rng);
    let mut policy = base_policy(tasks, rng);
    policy.objective.latency = bound(alone * by_magnitude(rng, 1.4, 30.0) + rng.random_range(0.0..0.1));
    let least = u32::from(rng.random_bool(0.9));
    policy.bounds.replicas = Range::new(Replicas(least), Replicas(rng.random_range(3..=30))).unwrap_or(policy.bounds.replicas);
    let (least, most) = ([25, 50, 100, 250][rng.random_range(0..4)], [500, 1000, 1000, 2000][rng.random_range(0..4)]);
    policy.bounds.cpu_millicores = Range::new(Millicores(least), Millicores(most)).unwrap_or(policy.bounds.cpu_millicores);
    let least = [32, 64, 128][rng.random_range(0..3)];
    policy.bounds.memory_mib = Range::new(Mebibytes(least), Mebibytes(1024)).unwrap_or(policy.bounds.memory_mib);
    let gateway = Gateway { concurrency: [100, 100, 10, 1, 0][rng.random_range(0..5)], ..Gateway::default() };
    let most = capacity(&profile, &policy, gateway).min(tasks.most_rps * 10.0);
    let rate = (most * by_magnitude(rng, 0.004, 0.5)).min(tasks.most_rps);
    // Little is learned from a load beyond the capacity of the largest allocation.
    let ceiling = if rng.random_bool(0.97) { 0.8 * most } else { 1.3 * most };
    let load = SimulatedLoad::Pattern { pattern: pattern(rate, ceiling, length, rng), gaps: Gaps::Poisson };
    let (replicas, cpu) = (policy.bounds.replicas.max().0, policy.bounds.cpu_millicores);
    let allocation = Allocation::new(rng.random_range(1..=replicas), rng.random_range(cpu.min().0..=cpu.max().0), 256);
    let perturbation = if rng.random_bool(tasks.perturbed_share) { Perturbation::draw(rng, length) } else { Perturbation::default() };
    allow_lag(&mut policy, &perturbation);
    let setup = Setup { profile: Arc::new(profile), gateway, policy, allocation, load, perturbation, nodes: None };
    (setup, length)
}

/// A function that is invoked rarely, whose replicas have a fixed size.
fn sparse(tasks: &TaskDistribution, rng: &mut SmallRng) -> (Setup, Duration) {
    let slots = rng.random_range(60..300);
    let mut policy = base_policy(tasks, rng);
    if policy.tick.duration() < Duration::from_secs(5) {
        policy.tick = TickLength::new(Duration::from_secs(5)).unwrap_or_default();
    }
    let usual_s = by_magnitude(rng, 0.005, 15.0);
    let sigma = rng.random_range(0.05..1.2);
    let duration = [-3.0, -2.33, -0.674, 0.0, 0.674, 2.33, 3.0]
        .map(|normal: f64| (usual_s * (sigma * normal).exp() * 1000.0).clamp(1.0, 60_000.0) as u32);
    let memory = rng.random_range(64..=1024);
    let demand = match DurationQuantiles::new(duration) {
        Ok(duration) => Demand::QuantilesOfDuration { duration, memory_mib: memory },
        Err(_) => Demand::Fixed { duration_ms: duration[3], memory_mib: memory },
    };
    let replicas = Range::new(Replicas(0), Replicas([3, 5, 10, 10, 20][rng.random_range(0..5)]));
    policy.bounds.replicas = replicas.unwrap_or(policy.bounds.replicas);
    let cpu = Millicores([500, 1000, 1000, 1000][rng.random_range(0..4)]);
    policy.bounds.cpu_millicores = Range::new(cpu, cpu).unwrap_or(policy.bounds.cpu_millicores);
    policy.bounds.memory_mib = Range::new(Mebibytes(memory), Mebibytes(memory)).unwrap_or(policy.bounds.memory_mib);
    policy.objective.latency = bound(f64::from(duration[5]) / 1000.0 + by_magnitude(rng, 0.3, 2.0));
    let counts = invocations(slots, (usual_s, sigma), policy.bounds.replicas.max().0, rng);
    let function = TraceFunction { hash: "drawn".into(), counts: counts.into(), demand };
    let trace = Arc::new(MinuteTrace { functions: vec![function], minutes: slots });
    let cpu_share = rng.random_range(0.1..0.9);
    let iat = if rng.random_bool(0.7) { Iat::Conditioned } else { Iat::Equidistant };
    let load = SimulatedLoad::Trace { trace, iat, scale: Scale::default(), cpu_share };
    let startup = Startup { cpu: Distribution::ZERO, waiting: log_normal(by_magnitude(rng, 0.2, 3.0), rng.random_range(0.1..1.4)) };
    let profile = FunctionProfile {
        startup,
        memory: MemoryProfile { base_mib: Mebibytes(memory * 4 / 5), request_kib: 0 },
        ..FunctionProfile::simple("drawn", Distribution::ZERO)
    };
    let gateway = Gateway { concurrency: 1, queue: 10_000, timeout: Span::seconds(300) };
    let allocation = Allocation::new(rng.random_range(0..=2), cpu.0, memory);
    let mut perturbation = Perturbation::default();
    if rng.random_bool(tasks.perturbed_share / 3.0) {
        perturbation.metric_lag = Span::seconds(rng.random_range(5..=40));
    }
    allow_lag(&mut policy, &perturbation);
    let setup = Setup { profile: Arc::new(profile), gateway, policy, allocation, load, perturbation, nodes: None };
    (setup, minutes(f64::from(slots)))
}

/// The base of a ScalingPolicy: tick, percentile, and a guard that is strict or permissive.
fn base_policy(tasks: &TaskDistribution, rng: &mut SmallRng) -> ScalingPolicy {
    let mut policy = ScalingPolicy::new("training/function".parse().expect("a valid name"));
    policy.tick =
        tasks.ticks.get(rng.random_range(0..tasks.ticks.len().max(1))).and_then(|tick| TickLength::new(tick.0).ok()).unwrap_or_default();
    if rng.random_bool(0.3) {
        policy.objective.percentile = Percentile::try_from([90.0, 99.0][rng.random_range(0..2)]).unwrap_or(policy.objective.percentile);
    }
    if rng.random_bool(0.6) {
        policy.guard = Guardrails::permissive();
    }
    policy
}

/// Raises the guard's maximum age above the metric lag: otherwise the guard would never allow scaling down.
fn allow_lag(policy: &mut ScalingPolicy, perturbation: &Perturbation) {
    if perturbation.metric_lag.0 > policy.tick.duration() {
        policy.guard.max_age = Some(Span::seconds(3600));
    }
}

fn minutes(minutes: f64) -> Duration {
    Duration::from_secs((minutes * 60.0) as u64)
}

fn bound(seconds: f64) -> LatencyBound {
    let span = Span(Duration::from_millis((seconds.clamp(0.005, 600.0) * 1000.0) as u64));
    LatencyBound::try_from(span).expect("within a millisecond and an hour")
}

/// Capacity of the largest allocation, requests/s.
fn capacity(profile: &FunctionProfile, policy: &ScalingPolicy, gateway: Gateway) -> f64 {
    let cores = policy.bounds.cpu_millicores.max().cores();
    let usable = cores.min(f64::from(profile.parallelism));
    let cpu = profile.cpu.mean().seconds().max(1e-4);
    let at_once = [profile.workers, gateway.concurrency].into_iter().filter(|most| *most > 0).min();
    let by_workers = at_once.map_or(f64::INFINITY, |most| f64::from(most) / (cpu / usable.min(1.0) + profile.waiting.mean().seconds()));
    (usable / cpu).min(by_workers) * f64::from(policy.bounds.replicas.max().0)
}

/// Log-uniform between `least` and `most`.
fn by_magnitude(rng: &mut SmallRng, least: f64, most: f64) -> f64 {
    rng.random_range(least.ln()..most.ln()).exp()
}

fn log_normal(median_s: f64, sigma: f64) -> Distribution {
    Distribution::log_normal(Nanos::from_seconds(median_s), sigma).unwrap_or(Distribution::ZERO)
}

/// A function, and its 95th percentile of latency on an idle core, seconds.
fn profile(rng: &mut SmallRng) -> (FunctionProfile, f64) {
    let waits = rng.random_bool(0.35);
    let (cpu_s, cpu_sigma) = (by_magnitude(rng, 0.0005, 0.4), rng.random_range(0.02..1.0));
    let (wait_s, wait_sigma) = if waits { (by_magnitude(rng, 0.005, 0.5), rng.random_range(0.02..0.6)) } else { (0.0, 0.0) };
    let high = |median: f64, sigma: f64| median * (1.645f64 * sigma).exp();
    let sigma = rng.random_range(0.1..0.6);
    let startup =
        Startup { cpu: log_normal(by_magnitude(rng, 0.02, 2.0), sigma), waiting: log_normal(by_magnitude(rng, 0.05, 5.0), sigma) };
    let workers = [1, 1, 1, 4, 0, 0][rng.random_range(0..6)];
    let profile = FunctionProfile {
        name: "drawn".into(),
        source: "drawn for training".into(),
        cpu: log_normal(cpu_s, cpu_sigma),
        waiting: if waits { log_normal(wait_s, wait_sigma) } else { Distribution::ZERO },
        startup,
        workers,
        parallelism: if workers == 1 { 1 } else { [1, 2, 16][rng.random_range(0..3)] },
        memory: MemoryProfile { base_mib: Mebibytes(rng.random_range(15..=150)), request_kib: rng.random_range(16..=1024) },
    };
    (profile, high(cpu_s, cpu_sigma) + high(wait_s, wait_sigma))
}

/// A load of about `rate` requests/s on average over `length`, and at most `ceiling`.
fn pattern(rate: f64, ceiling: f64, length: Duration, rng: &mut SmallRng) -> Pattern {
    let seconds = length.as_secs_f64();
    let span = |seconds: f64| format!("{}ms", (seconds.max(0.1) * 1000.0) as u64);
    let (low, high) = (rate * by_magnitude(rng, 0.1, 0.9), rate * by_magnitude(rng, 1.2, 8.0));
    let text = match rng.random_range(0..12) {
        0 | 1 => format!("constant:{rate}"),
        2 => {
            // One to three steps.
            let mut text = format!("step:{rate}@0s");
            let mut at = 0.0;
            for _ in 0..rng.random_range(1..=3) {
                at += by_magnitude(rng, 60.0, seconds);
                text += &format!(",{}@{}", rate * by_magnitude(rng, 0.15, 6.0), span(at));
            }
            text
        }
        3 => {
            let (from, to) = if rng.random_bool(0.6) { (low, high) } else { (high, low) };
            format!("ramp:{from}..{to}/{}", span(seconds * rng.random_range(0.3..1.0)))
        }
        4..=6 => format!("diurnal:{low}..{high}/{}", span(by_magnitude(rng, 180.0, 3600.0))),
        7 => {
            let period = by_magnitude(rng, 60.0, 600.0);
            format!("bursty:{low}..{high}/{}/{}", span(period), span(period * by_magnitude(rng, 0.03, 0.3)))
        }
        8 => {
            let at = rng.random_range(0.1..0.9) * seconds;
            format!("spike:{low}..{}@{}/{}", high * 1.2, span(at), span(by_magnitude(rng, 5.0, 300.0)))
        }
        _ => wander(rate, seconds, rng),
    };
    let pattern: Pattern = text.parse().expect("a valid pattern with rates and times in range");
    let peak = pattern.peak().per_second();
    if peak > ceiling { pattern.scaled(ceiling / peak).expect("a smaller rate is a rate") } else { pattern }
}

/// A rate that wanders around `rate`, sometimes with an added wave.
fn wander(rate: f64, seconds: f64, rng: &mut SmallRng) -> String {
    let every = by_magnitude(rng, 5.0, 60.0);
    let (sigma, memory) = (rng.random_range(0.1..0.8), rng.random_range(0.3..0.98));
    let (depth, period) = if rng.random_bool(0.5) { (rng.random_range(0.2..1.5), by_magnitude(rng, 180.0, 2400.0)) } else { (0.0, 1.0) };
    let phase = rng.random_range(0.0..std::f64::consts::TAU);
    let mut text = String::from("step:");
    let mut level = 0.0;
    for step in 0..((seconds / every) as u32).clamp(1, 400) {
        let at = f64::from(step) * every;
        // Approximately normal: the sum of twelve uniform samples.
        let normal = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
        level = memory * level + f64::sqrt(1.0 - memory * memory) * normal;
        let wave = depth * (phase + std::f64::consts::TAU * at / period).sin();
        text += &format!("{}{}@{}ms", if step == 0 { "" } else { "," }, rate * (sigma * level + wave).exp(), (at * 1000.0) as u64);
    }
    text
}

/// Invocations per minute of a function called by a timer, by users, in sessions, or by several of these.
fn invocations(minutes: u32, (usual_s, sigma): (f64, f64), most_replicas: u32, rng: &mut SmallRng) -> Vec<MinuteCount> {
    let mut counts = vec![0.0f64; minutes as usize];
    // At most half the capacity of the replicas on average.
    let capacity = 0.5 * f64::from(most_replicas) * 60.0 / (usual_s * (sigma * sigma / 2.0).exp());
    let sources = if rng.random_bool(0.25) { 2 } else { 1 };
    for _ in 0..sources {
        match rng.random_range(0..6) {
            0 | 1 => {
                let period = [1, 2, 5, 5, 10, 15, 15, 20, 30, 60, 60, 120][rng.random_range(0..12)];
                let (phase, each) = (rng.random_range(0..period), if rng.random_bool(0.75) { 1.0 } else { by_magnitude(rng, 1.0, 20.0) });
                counts.iter_mut().skip(phase).step_by(period).for_each(|count| *count += each);
            }
            2 | 3 => {
                let rate = by_magnitude(rng, 0.004, 20.0);
                let (depth, period) = (if rng.random_bool(0.4) { rng.random_range(0.3..1.0) } else { 0.0 }, by_magnitude(rng, 30.0, 600.0));
                for (minute, count) in counts.iter_mut().enumerate() {
                    *count += poisson(rate * (1.0 + depth * (std::f64::consts::TAU * minute as f64 / period).sin()), rng);
                }
            }
            4 => {
                // Sessions.
                let (on, off, rate) = (by_magnitude(rng, 1.0, 30.0), by_magnitude(rng, 3.0, 120.0), by_magnitude(rng, 0.5, 60.0));
                let mut minute = rng.random_range(0.0..off);
                while minute < f64::from(minutes) {
                    let end = minute + by_magnitude(rng, 0.3, 3.0) * on;
                    for count in counts.iter_mut().take(end as usize + 1).skip(minute as usize) {
                        *count += poisson(rate, rng);
                    }
                    minute = end + 1.0 + by_magnitude(rng, 0.3, 3.0) * off;
                }
            }
            _ => {
                let rate = by_magnitude(rng, 5.0, 300.0);
                let (mut level, sigma, memory) = (0.0, rng.random_range(0.05..0.8), rng.random_range(0.5..0.99));
                for count in &mut counts {
                    let normal = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
                    level = memory * level + f64::sqrt(1.0 - memory * memory) * normal;
                    *count += poisson(rate * (sigma * level).exp(), rng);
                }
            }
        }
    }
    let whole = |(minute, count): (usize, f64)| {
        let count = count.min(capacity).round() as u32;
        (count > 0).then_some(MinuteCount { bin: minute as u32, count })
    };
    counts.into_iter().enumerate().filter_map(whole).collect()
}

/// A Poisson count (Knuth's method up to a mean of 30, a rounded normal above).
fn poisson(mean: f64, rng: &mut SmallRng) -> f64 {
    if mean > 30.0 {
        let normal = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
        return (mean + mean.sqrt() * normal).round().max(0.0);
    }
    let (least, mut product, mut count) = ((-mean.max(0.0)).exp(), rng.random::<f64>(), 0.0);
    while product > least {
        product *= rng.random::<f64>();
        count += 1.0;
    }
    count
}

#[cfg(test)]
mod tests {
    use qscale_dqn::tasks::FunctionClass;

    use super::*;

    #[test]
    fn every_world_is_valid_and_none_is_sampled_twice() {
        let tasks = TaskDistribution::default();
        let (mut worlds, mut sparse) = (Vec::new(), 0);
        for split in [Split::Training, Split::Validation, Split::Test] {
            for number in 0..200 {
                let world = draw(&tasks, split, number);
                let setup = &world.setup;
                setup.perturbation.check(None).expect("in range");
                assert!(setup.policy.bounds.cpu_millicores.contains(setup.allocation.cpu_millicores));
                assert!((20..=3600).contains(&world.ticks()), "{}", world.ticks());
                match &setup.load {
                    SimulatedLoad::Pattern { pattern, .. } => {
                        let peak = pattern.peak().per_second();
                        assert!(peak > 0.0 && peak < 20.0 * tasks.most_rps, "{pattern:?}");
                    }
                    _ => sparse += 1,
                }
                assert!((ViolationCost::LEAST..=ViolationCost::MOST).contains(&world.violation_cost));
                worlds.push(format!("{:?} {:?}", setup.load, setup.profile));
                assert_eq!(format!("{:?}", draw(&tasks, split, number)), format!("{world:?}"));
            }
        }
        worlds.sort();
        worlds.dedup();
        assert_eq!(worlds.len(), 600);
        assert!((150..270).contains(&sparse), "{sparse}");
    }

    #[test]
    fn a_class_samples_only_its_own_functions() {
        for number in 0..100 {
            let steady = draw(&TaskDistribution::default().of(FunctionClass::Steady), Split::Training, number);
            assert!(matches!(steady.setup.load, SimulatedLoad::Pattern { .. }));
            let sparse = draw(&TaskDistribution::default().of(FunctionClass::Sparse), Split::Training, number);
            assert!(matches!(sparse.setup.load, SimulatedLoad::Trace { .. }));
        }
    }
}
