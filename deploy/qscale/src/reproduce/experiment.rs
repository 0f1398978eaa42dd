//! The two experiments: the function, what may change of it, the loads that it is judged under, and the worlds that agents learn in. Pure; runs nothing.

use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use qscale_common::policy::{LatencyBound, Percentile, Range, ResizeFactor, ScalingPolicy};
use qscale_common::time::{Span, TickLength};
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use qscale_common::workload::{Gaps, Pattern};
use qscale_dqn::actions::Scope;
use qscale_sim::chance::{Purpose, stream};
use qscale_sim::{FunctionProfile, Gateway, Load, Perturbation, Setup};
use rand::{Rng, RngExt};
use serde::Serialize;

/// The study's tick.
pub const TICK: Duration = Duration::from_secs(5);
/// Ticks of an episode, as in the study.
pub const EPISODE: u32 = 24;
/// Ticks of a run that is judged: ten minutes.
pub const RUN: u32 = 120;

/// Which experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// Replicas change, each of 500m
    Horizontal,
    /// CPU and memory of one replica change
    Vertical,
}

/// A load that contestants are judged under.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// What it is called.
    pub name: &'static str,
    /// Its pattern.
    pub pattern: String,
    /// Whether the rate is one all the time.
    pub fixed: bool,
}

impl Which {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Horizontal => "horizontal",
            Self::Vertical => "vertical",
        }
    }

    /// What may change.
    pub fn scope(self) -> Scope {
        match self {
            Self::Horizontal => Scope::Horizontal,
            Self::Vertical => Scope::Vertical,
        }
    }

    /// The least, a usual and the most rate, requests a second. One replica of a whole core answers some 630 of them.
    fn rates(self) -> [u32; 3] {
        match self {
            Self::Horizontal => [100, 332, 1000],
            Self::Vertical => [100, 332, 500],
        }
    }

    /// The loads that are judged.
    pub fn loads(self) -> Vec<Judged> {
        let [low, usual, high] = self.rates();
        let fixed = |name, rate: u32| Judged { name, pattern: format!("constant:{rate}"), fixed: true };
        let changing = |name, pattern: String| Judged { name, pattern, fixed: false };
        vec![
            fixed("low", low),
            fixed("usual", usual),
            fixed("high", high),
            changing("steps", format!("step:{low}@0s,{usual}@2m,{high}@4m,{usual}@6m,{low}@8m")),
            changing("wave", format!("diurnal:{low}..{high}/5m")),
        ]
    }

    /// What every world begins with that is judged.
    pub fn beginning(self) -> Allocation {
        match self {
            Self::Horizontal => Allocation::new(1, 500, 256),
            Self::Vertical => Allocation::new(1, 250, 256),
        }
    }

    /// What is asked of the function, and within which bounds. No guard: the study had none.
    pub fn policy(self) -> ScalingPolicy {
        let mut policy = ScalingPolicy::new("reproduce/fibonacci-python".parse().expect("a valid name"));
        policy.tick = TickLength::new(TICK).expect("a valid tick");
        policy.objective.percentile = Percentile::try_from(90.0).expect("a percentile");
        let (latency_ms, replicas, cpu, memory) = match self {
            Self::Horizontal => (100, (1, 121), (500, 500), (256, 256)),
            Self::Vertical => (400, (1, 1), (100, 1000), (100, 1900)),
        };
        policy.objective.latency = LatencyBound::try_from(Span::millis(latency_ms)).expect("a bound within an hour");
        policy.bounds.replicas = Range::new(Replicas(replicas.0), Replicas(replicas.1)).expect("the least is not above the most");
        policy.bounds.cpu_millicores = Range::new(Millicores(cpu.0), Millicores(cpu.1)).expect("the least is not above the most");
        policy.bounds.memory_mib = Range::new(Mebibytes(memory.0), Mebibytes(memory.1)).expect("the least is not above the most");
        let many = std::num::NonZeroU32::new(100_000).expect("it is not zero");
        policy.guard.replicas_up = many;
        policy.guard.replicas_down = many;
        policy.guard.changes_per_hour = many;
        policy.guard.reversals_per_hour = many.get();
        policy.guard.resize_factor = ResizeFactor::try_from(100.0).expect("a factor within its range");
        policy
    }

    /// The world of a load.
    pub fn setup(self, pattern: &str, allocation: Allocation) -> Setup {
        let pattern: Pattern = pattern.parse().expect("patterns are written here, which a test reads");
        Setup {
            profile: Arc::new(FunctionProfile::fibonacci_python()),
            gateway: Gateway::default(),
            policy: self.policy(),
            allocation,
            // A ticker, as the study's client was.
            load: Load::Pattern { pattern, gaps: Gaps::Constant },
            perturbation: Perturbation::default(),
            nodes: None,
        }
    }

    /// World number `number` of those that agents learn in for so many ticks: the same function under loads of the same kinds at other rates, from any beginning.
    pub fn world(self, number: u64, ticks: u32) -> Setup {
        let mut rng = stream(number, 0, Purpose::Policy);
        let [low, _, high] = self.rates().map(f64::from);
        let rate = |rng: &mut dyn Rng| by_magnitude(rng, low * 0.7, high * 1.2);
        let seconds = TICK.as_secs_f64() * f64::from(ticks);
        let pattern = match rng.random_range(0..4) {
            0 => format!("constant:{}", rate(&mut rng)),
            1 | 2 => {
                let every = seconds / f64::from(rng.random_range(2..=6));
                let step = |at: u32| format!("{}@{}ms", rate(&mut rng), (f64::from(at) * every * 1000.0) as u64);
                format!("step:{}", (0..6).map(step).collect::<Vec<_>>().join(","))
            }
            _ => {
                let (one, other) = (rate(&mut rng), rate(&mut rng));
                let period = seconds * rng.random_range(0.3..1.0);
                format!("diurnal:{}..{}/{}ms", one.min(other), one.max(other), (period * 1000.0) as u64)
            }
        };
        let begins = self.beginning();
        let allocation = match self {
            Self::Horizontal => Allocation { replicas: Replicas(by_magnitude(&mut rng, 1.0, 30.0) as u32), ..begins },
            Self::Vertical => Allocation { cpu_millicores: Millicores(rng.random_range(100..=1000)), ..begins },
        };
        self.setup(&pattern, allocation)
    }
}

/// Between `least` and `most`, all magnitudes alike.
fn by_magnitude(rng: &mut dyn Rng, least: f64, most: f64) -> f64 {
    rng.random_range(least.ln()..most.ln()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Which; 2] = [Which::Horizontal, Which::Vertical];

    #[test]
    fn every_load_is_a_pattern_that_lasts_as_long_as_a_run_and_can_be_borne() {
        let end = TICK * RUN;
        for which in BOTH {
            let policy = which.policy();
            assert!(policy.bounds.contain(which.beginning()));
            // A request computes for 1.28 ms and waits for 0.3 ms, one after the other.
            let cores = policy.bounds.cpu_millicores.max().cores();
            let bearable = f64::from(policy.bounds.replicas.max().0) / (0.00128 / cores + 0.0003);
            for load in which.loads() {
                let pattern: Pattern = load.pattern.parse().expect("a pattern");
                assert!(pattern.peak().per_second() < bearable, "{} {}", which.name(), load.name);
                let rates: Vec<f64> = (0..RUN).map(|tick| pattern.rate_at(end / RUN * tick).per_second()).collect();
                assert_eq!(load.fixed, rates.iter().all(|rate| *rate == rates[0]), "{}", load.name);
                which.setup(&load.pattern, which.beginning());
            }
        }
    }

    #[test]
    fn agents_learn_in_many_worlds_within_the_bounds_and_each_number_is_one_world() {
        for which in BOTH {
            let mut drawn = Vec::new();
            for number in 0..200 {
                let world = which.world(number, RUN);
                assert!(world.policy.bounds.contain(world.allocation), "{:?}", world.allocation);
                assert_eq!(format!("{world:?}"), format!("{:?}", which.world(number, RUN)));
                drawn.push(format!("{:?}", world.load));
            }
            drawn.sort();
            drawn.dedup();
            assert_eq!(drawn.len(), 200);
        }
    }
}
