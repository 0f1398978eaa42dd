//! Domains: the functions, loads and troubles that training draws from. Owns the ranges; must not simulate.
//!
//! Ranges are wide and draws are by orders of magnitude, so that a real function looks like one more draw (Tobin et al., IROS 2017). A load is sized by what
//! the function can bear at most, so that most worlds can be controlled and few are hopeless.

use std::sync::Arc;
use std::time::Duration;

use qscale_common::policy::{LatencyBound, Range, ScalingPolicy};
use qscale_common::time::{Span, TickLength};
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use qscale_common::workload::{Gaps, Pattern};
use qscale_sim::profile::{Memory, Startup};
use qscale_sim::{Distribution, FunctionProfile, Gateway, Load, Nanos, Perturbation, Setup, perturbation::Payload};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Which part of the worlds is drawn from: none is drawn in two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// For training.
    Training,
    /// For choosing checkpoints.
    Validation,
    /// For saying how good the chosen one is.
    Test,
}

/// The ranges that worlds are drawn from.
#[derive(Debug, Clone, PartialEq)]
pub struct Domain {
    /// The policy whose objective, bounds and tick are replaced; its prices, weights and guard hold.
    pub policy: ScalingPolicy,
    /// Length of a tick.
    pub tick: Span,
    /// Most requests a second in the mean: what a world costs to simulate.
    pub most_rps: f64,
    /// Share of the worlds in which something goes wrong, 0 to 1.
    pub troubled: f64,
}

impl Default for Domain {
    fn default() -> Self {
        let policy = ScalingPolicy::new("training/function".parse().expect("a valid name"));
        Self { policy, tick: Span::seconds(5), most_rps: 100.0, troubled: 0.5 }
    }
}

impl Domain {
    /// World number `number` of `part`.
    #[must_use]
    pub fn draw(&self, part: Part, number: u64) -> Setup {
        let salt = 0x51ed_270b_u64.wrapping_mul(part as u64 + 1);
        let mut rng = SmallRng::seed_from_u64(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt);
        let rng = &mut rng;
        let profile = profile(rng);
        let policy = self.policy(&profile, rng);
        let (rate, length) = (self.rate(&profile, &policy, rng), policy.tick.duration().as_secs_f64());
        let load = Load::Pattern { pattern: pattern(rate, length, rng), gaps: Gaps::Poisson };
        let most = policy.bounds.replicas.max().0;
        let cpu = policy.bounds.cpu_millicores;
        let allocation = Allocation::new(rng.random_range(1..=most), rng.random_range(cpu.min().0..=cpu.max().0), 256);
        let perturbation = if rng.random_bool(self.troubled) { perturbation(rng) } else { Perturbation::default() };
        Setup { profile: Arc::new(profile), gateway: Gateway::default(), policy, allocation, load, perturbation, nodes: None }
    }

    /// Bounds and an objective that `profile` can meet.
    fn policy(&self, profile: &FunctionProfile, rng: &mut SmallRng) -> ScalingPolicy {
        let mut policy = self.policy.clone();
        policy.tick = TickLength::new(self.tick.0).unwrap_or_default();
        let alone = profile.cpu.mean().seconds() + profile.waiting.mean().seconds();
        let bound = (0.02 + alone * by_magnitude(rng, 2.5, 20.0)).min(600.0);
        if let Ok(bound) = LatencyBound::try_from(Span(Duration::from_millis((bound * 1000.0) as u64))) {
            policy.objective.latency = bound;
        }
        policy.bounds.replicas = Range::new(Replicas(1), Replicas(rng.random_range(3..=30))).unwrap_or(policy.bounds.replicas);
        let (least, most) = ([50, 100, 250][rng.random_range(0..3)], [500, 1000, 1000, 2000][rng.random_range(0..4)]);
        policy.bounds.cpu_millicores = Range::new(Millicores(least), Millicores(most)).unwrap_or(policy.bounds.cpu_millicores);
        policy.bounds.memory_mib = Range::new(Mebibytes(64), Mebibytes(1024)).unwrap_or(policy.bounds.memory_mib);
        policy
    }

    /// A mean rate between almost nothing and six tenths of what the largest allocation bears.
    fn rate(&self, profile: &FunctionProfile, policy: &ScalingPolicy, rng: &mut SmallRng) -> f64 {
        let cores = policy.bounds.cpu_millicores.max().cores();
        let usable = cores.min(f64::from(profile.parallelism));
        let cpu = profile.cpu.mean().seconds().max(1e-4);
        let by_cpu = usable / cpu;
        let by_workers = f64::from(profile.workers) / (cpu / usable.min(1.0) + profile.waiting.mean().seconds());
        let one = if profile.workers == 0 { by_cpu } else { by_cpu.min(by_workers) };
        let most = one * f64::from(policy.bounds.replicas.max().0);
        (most * by_magnitude(rng, 0.03, 0.6)).min(self.most_rps)
    }
}

/// Between `least` and `most`, all magnitudes alike.
fn by_magnitude(rng: &mut SmallRng, least: f64, most: f64) -> f64 {
    rng.random_range(least.ln()..most.ln()).exp()
}

fn profile(rng: &mut SmallRng) -> FunctionProfile {
    let spread = |seconds: f64, sigma: f64| Distribution::log_normal(Nanos::from_seconds(seconds), sigma).unwrap_or(Distribution::ZERO);
    let waits = rng.random_bool(0.4);
    let sigma = rng.random_range(0.05..1.0);
    let cpu = spread(by_magnitude(rng, 0.001, 0.3), sigma);
    let waiting = if waits { spread(by_magnitude(rng, 0.005, 0.5), rng.random_range(0.05..0.6)) } else { Distribution::ZERO };
    let sigma = rng.random_range(0.1..0.6);
    let startup = Startup { cpu: spread(by_magnitude(rng, 0.02, 2.0), sigma), waiting: spread(by_magnitude(rng, 0.05, 5.0), sigma) };
    let workers = [1, 1, 1, 4, 0][rng.random_range(0..5)];
    FunctionProfile {
        name: "drawn".into(),
        source: "drawn for training".into(),
        cpu,
        waiting,
        startup,
        workers,
        parallelism: if workers == 1 { 1 } else { [1, 2, 16][rng.random_range(0..3)] },
        memory: Memory { base_mib: Mebibytes(rng.random_range(20..=150)), request_kib: rng.random_range(16..=1024) },
    }
}

/// A load of some `rate` requests a second in the mean, changing over tens to hundreds of ticks of `tick` seconds.
fn pattern(rate: f64, tick: f64, rng: &mut SmallRng) -> Pattern {
    let ticks = |ticks: f64| format!("{}ms", (ticks * tick * 1000.0) as u64);
    let (low, high) = (rate * by_magnitude(rng, 0.1, 0.8), rate * by_magnitude(rng, 1.3, 3.0));
    let text = match rng.random_range(0..8) {
        0 => format!("constant:{rate}"),
        1 => {
            let second = rng.random_range(40.0..120.0);
            let (at, back) = (ticks(second), ticks(second + rng.random_range(30.0..90.0)));
            format!("step:{low}@0s,{high}@{at},{rate}@{back}")
        }
        2 => format!("ramp:{low}..{high}/{}", ticks(rng.random_range(60.0..240.0))),
        3 => format!("ramp:{high}..{low}/{}", ticks(rng.random_range(60.0..240.0))),
        4 | 5 => format!("diurnal:{low}..{high}/{}", ticks(rng.random_range(60.0..400.0))),
        6 => {
            let period = rng.random_range(20.0..80.0);
            format!("bursty:{low}..{}/{}/{}", high * 1.5, ticks(period), ticks(period * rng.random_range(0.05..0.3)))
        }
        _ => format!("spike:{low}..{}@{}/{}", high * 1.5, ticks(rng.random_range(30.0..150.0)), ticks(rng.random_range(2.0..30.0))),
    };
    text.parse().expect("a form that patterns have, with rates and times within their ranges")
}

fn perturbation(rng: &mut SmallRng) -> Perturbation {
    let mut perturbation = Perturbation::default();
    if rng.random_bool(0.5) {
        perturbation.metric_lag = Span::seconds(rng.random_range(1..=55));
    }
    if rng.random_bool(0.3) {
        perturbation.lost_scrapes = rng.random_range(0.01..0.3);
    }
    if rng.random_bool(0.4) {
        perturbation.startup = rng.random_range(1.0..4.0);
    }
    if rng.random_bool(0.2) {
        perturbation.payload = Some(Payload { from: Span::seconds(rng.random_range(120..900)), factor: by_magnitude(rng, 0.5, 3.0) });
    }
    perturbation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_world_can_be_and_none_is_drawn_twice() {
        let domain = Domain::default();
        let mut worlds = Vec::new();
        for part in [Part::Training, Part::Validation, Part::Test] {
            for number in 0..200 {
                let setup = domain.draw(part, number);
                setup.perturbation.check(None).expect("within its ranges");
                assert!(setup.policy.bounds.cpu_millicores.contains(setup.allocation.cpu_millicores));
                let Load::Pattern { pattern, .. } = &setup.load else { panic!("a pattern") };
                assert!(pattern.peak().per_second() > 0.0 && pattern.peak().per_second() < 6.0 * domain.most_rps, "{pattern:?}");
                worlds.push(format!("{pattern} {:?}", setup.profile));
                assert_eq!(format!("{:?}", domain.draw(part, number)), format!("{setup:?}"));
            }
        }
        worlds.sort();
        worlds.dedup();
        assert_eq!(worlds.len(), 600);
    }
}
