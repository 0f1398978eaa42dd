//! The two experiments: function, bounds, evaluation loads and training worlds. Pure; runs nothing.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use qscale_common::policy::{Guardrails, LatencyBound, Percentile, Range, ScalingPolicy};
use qscale_common::time::{Span, TickLength};
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use qscale_common::workload::{Gaps, Pattern};
use qscale_dqn::Scope;
use qscale_sim::profile::{MemoryProfile, Startup};
use qscale_sim::rng::{Purpose, stream};
use qscale_sim::{Distribution, FunctionProfile, Gateway, Nanos, Perturbation, Setup, SimulatedLoad};
use rand::{Rng, RngExt};
use serde::Serialize;
use serde_json::{Value, json};

/// Ticks of an episode, as in the study.
pub const EPISODE: u32 = 24;
/// The study's tick.
const TICK: Duration = Duration::from_secs(5);
/// Ticks of a simulated evaluation run: ten minutes.
const RUN: u32 = 120;
/// Factor by which CPU and rates are smaller on this machine, so that five competitors fit on two cores.
const SMALLER: u32 = 10;
/// Factor by which ticks are shorter on this machine: a run of a minute has half as many as the study's ten minutes.
const FASTER: u32 = 5;
/// Input of a request on this machine: about 1.2 ms of CPU, as in the study.
pub const NUMBER: u32 = 10_000;

/// Which experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExperimentKind {
    /// Replicas change, each of 500m.
    Horizontal,
    /// CPU and memory of one replica change.
    Vertical,
}

/// The place where competitors are evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "where", rename_all = "snake_case")]
pub enum Site {
    /// In the simulator, at the scale of the study.
    Simulator,
    /// On this machine, with real functions: CPU, its steps and thresholds, and rates a tenth as large, ticks a fifth as long.
    Local {
        /// Ticks of a run.
        ticks: u32,
    },
}

/// An experiment at a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experiment {
    /// The experiment.
    pub kind: ExperimentKind,
    /// The site.
    pub site: Site,
}

/// An evaluation load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudyLoad {
    /// Name.
    pub name: &'static str,
    /// Pattern.
    pub pattern: String,
    /// Whether the rate is constant.
    pub fixed: bool,
}

impl ExperimentKind {
    /// Name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Horizontal => "horizontal",
            Self::Vertical => "vertical",
        }
    }

    /// Scope of the policies.
    pub fn scope(self) -> Scope {
        match self {
            Self::Horizontal => Scope::Horizontal,
            Self::Vertical => Scope::Vertical,
        }
    }
}

impl FromStr for ExperimentKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Horizontal, Self::Vertical];
        all.into_iter().find(|kind| kind.name() == text).ok_or_else(|| "must be horizontal or vertical".to_owned())
    }
}

impl Site {
    /// This machine, with runs of this length.
    pub fn local(run: Duration) -> Self {
        Self::Local { ticks: (run.as_millis() / (TICK / FASTER).as_millis()) as u32 }
    }
}

impl Experiment {
    /// Control interval.
    pub fn tick(self) -> Duration {
        match self.site {
            Site::Simulator => TICK,
            Site::Local { .. } => TICK / FASTER,
        }
    }

    /// Ticks of a run.
    pub fn ticks(self) -> u32 {
        match self.site {
            Site::Simulator => RUN,
            Site::Local { ticks } => ticks,
        }
    }

    /// Length of a run.
    pub fn length(self) -> Duration {
        self.tick() * self.ticks()
    }

    /// CPU of the study, scaled to the site.
    fn cpu(self, millicores: u32) -> u32 {
        match self.site {
            Site::Simulator => millicores,
            Site::Local { .. } => millicores / SMALLER,
        }
    }

    /// Step of the study's table, replicas or millicores, scaled to the site.
    pub fn step(self, step: u32) -> u32 {
        match self.kind {
            ExperimentKind::Horizontal => step,
            ExperimentKind::Vertical => self.cpu(step),
        }
    }

    /// Parameters of the study's rule.
    pub fn rule(self) -> Value {
        match self.site {
            Site::Simulator => Value::Null,
            Site::Local { .. } => json!({ "cpu_millicores": self.cpu(250), "cpu_step_millicores": self.cpu(30) }),
        }
    }

    /// Lowest, usual and highest rate, requests/s. One replica with a full core handles about 630 requests/s in the
    /// simulator and 800 on this machine.
    fn rates(self) -> [u32; 3] {
        let rates = match self.kind {
            ExperimentKind::Horizontal => [100, 332, 1000],
            ExperimentKind::Vertical => [100, 332, 500],
        };
        match self.site {
            Site::Simulator => rates,
            Site::Local { .. } => rates.map(|rate| rate / SMALLER),
        }
    }

    /// The evaluation loads.
    pub fn loads(self) -> Vec<StudyLoad> {
        let [low, usual, high] = self.rates();
        let part = |parts: u32, of: u32| Span(self.length() * parts / of).to_string().replace(' ', "");
        let fixed = |name, rate: u32| StudyLoad { name, pattern: format!("constant:{rate}"), fixed: true };
        let changing = |name, pattern: String| StudyLoad { name, pattern, fixed: false };
        vec![
            fixed("low", low),
            fixed("usual", usual),
            fixed("high", high),
            changing(
                "steps",
                format!("step:{low}@0s,{usual}@{},{high}@{},{usual}@{},{low}@{}", part(1, 5), part(2, 5), part(3, 5), part(4, 5)),
            ),
            changing("wave", format!("diurnal:{low}..{high}/{}", part(1, 2))),
        ]
    }

    /// Initial allocation of every evaluation run.
    pub fn beginning(self) -> Allocation {
        match self.kind {
            ExperimentKind::Horizontal => Allocation::new(1, self.cpu(500), 256),
            ExperimentKind::Vertical => Allocation::new(1, self.cpu(250), 256),
        }
    }

    /// The ScalingPolicy with objective and bounds. Its guard does not restrict anything: the study had none.
    pub fn policy(self) -> ScalingPolicy {
        let mut policy = ScalingPolicy::new("reproduce/fibonacci-python".parse().expect("a valid name"));
        policy.tick = TickLength::new(self.tick()).expect("a valid tick");
        policy.objective.percentile = Percentile::try_from(90.0).expect("a percentile");
        // One step of the study's table above the minimum; more processes would only take CPU time.
        let most = if self.site == Site::Simulator { 121 } else { 21 };
        let (latency_ms, replicas, cpu, memory) = match self.kind {
            ExperimentKind::Horizontal => (100, (1, most), (self.cpu(500), self.cpu(500)), (256, 256)),
            ExperimentKind::Vertical => (400, (1, 1), (self.cpu(100), self.cpu(1000)), (100, 1900)),
        };
        policy.objective.latency = LatencyBound::try_from(Span::millis(latency_ms)).expect("a bound within an hour");
        policy.bounds.replicas = Range::new(Replicas(replicas.0), Replicas(replicas.1)).expect("the least is not above the most");
        policy.bounds.cpu_millicores = Range::new(Millicores(cpu.0), Millicores(cpu.1)).expect("the least is not above the most");
        policy.bounds.memory_mib = Range::new(Mebibytes(memory.0), Mebibytes(memory.1)).expect("the least is not above the most");
        policy.guard = Guardrails { max_age: policy.guard.max_age, ..Guardrails::permissive() };
        policy
    }

    /// Profile of the function.
    fn profile(self) -> FunctionProfile {
        if self.site == Site::Simulator {
            return FunctionProfile::fibonacci_python();
        }
        let constant = |time: Duration| Distribution::constant(Nanos(time.as_nanos() as u64));
        FunctionProfile {
            name: self.function().to_owned(),
            source: "what one request and one start of the native function take on a usual machine".to_owned(),
            cpu: constant(Duration::from_micros(1250)),
            startup: Startup { cpu: constant(Duration::from_millis(10)), waiting: constant(Duration::from_millis(50)) },
            memory: MemoryProfile { base_mib: Mebibytes(8), request_kib: 64 },
            ..FunctionProfile::fibonacci_python()
        }
    }

    /// The gateway with the defaults of the local platform, or those of the real function's file.
    fn gateway(self) -> Gateway {
        match self.site {
            Site::Simulator => Gateway::default(),
            Site::Local { .. } => Gateway { concurrency: 1, ..Gateway::default() },
        }
    }

    /// Name of the function.
    pub fn function(self) -> &'static str {
        match self.site {
            Site::Simulator => "fibonacci-python",
            Site::Local { .. } => "fibonacci",
        }
    }

    /// Simulation of a load.
    pub fn setup(self, pattern: &str, allocation: Allocation) -> Setup {
        let pattern: Pattern = pattern.parse().expect("patterns are written here, which a test reads");
        Setup {
            profile: Arc::new(self.profile()),
            gateway: self.gateway(),
            policy: self.policy(),
            allocation,
            // Evenly spaced, as in the study.
            load: SimulatedLoad::Pattern { pattern, gaps: Gaps::Constant },
            perturbation: Perturbation::default(),
            nodes: None,
        }
    }

    /// Training world `number` for `ticks`: the same function under loads of the same kinds with other rates and a
    /// random initial allocation.
    pub fn world(self, number: u64, ticks: u32) -> Setup {
        let mut rng = stream(number, 0, Purpose::Policy);
        let [low, _, high] = self.rates().map(f64::from);
        let rate = |rng: &mut dyn Rng| by_magnitude(rng, low * 0.7, high * 1.2);
        let seconds = self.tick().as_secs_f64() * f64::from(ticks);
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
        let allocation = match self.kind {
            ExperimentKind::Horizontal => {
                let most = f64::from(self.policy().bounds.replicas.max().0).min(30.0);
                Allocation { replicas: Replicas(by_magnitude(&mut rng, 1.0, most) as u32), ..begins }
            }
            ExperimentKind::Vertical => {
                Allocation { cpu_millicores: Millicores(rng.random_range(self.cpu(100)..=self.cpu(1000))), ..begins }
            }
        };
        self.setup(&pattern, allocation)
    }
}

/// A log-uniform random number between `least` and `most`.
fn by_magnitude(rng: &mut dyn Rng, least: f64, most: f64) -> f64 {
    rng.random_range(least.ln()..most.ln()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both experiments at both sites.
    fn all() -> impl Iterator<Item = Experiment> {
        let places = [Site::Simulator, Site::local(Duration::from_secs(60)), Site::local(Duration::from_secs(21))];
        places.into_iter().flat_map(|site| [ExperimentKind::Horizontal, ExperimentKind::Vertical].map(|kind| Experiment { kind, site }))
    }

    #[test]
    fn every_load_is_a_pattern_within_the_capacity_of_the_bounds() {
        for experiment in all() {
            let policy = experiment.policy();
            assert!(policy.bounds.contain(experiment.beginning()));
            // A request computes for 1.28 ms and waits for 0.3 ms, one after the other; on this machine it only computes.
            let cores = policy.bounds.cpu_millicores.max().cores();
            let takes = if experiment.site == Site::Simulator { 0.00128 / cores + 0.0003 } else { 0.00125 / cores };
            let bearable = f64::from(policy.bounds.replicas.max().0) / takes;
            for load in experiment.loads() {
                let pattern: Pattern = load.pattern.parse().expect("a pattern");
                assert!(pattern.peak().per_second() < bearable, "{} {}", experiment.kind.name(), load.name);
                let rates = (0..experiment.ticks()).map(|tick| pattern.rate_at(experiment.tick() * tick).per_second());
                let rates: Vec<f64> = rates.collect();
                assert_eq!(load.fixed, rates.iter().all(|rate| *rate == rates[0]), "{}", load.name);
                experiment.setup(&load.pattern, experiment.beginning());
            }
        }
    }

    #[test]
    fn loads_are_scaled_to_the_length_of_a_run() {
        let loads = |site| Experiment { kind: ExperimentKind::Horizontal, site }.loads();
        assert_eq!(loads(Site::Simulator)[3].pattern, "step:100@0s,332@2m,1000@4m,332@6m,100@8m");
        assert_eq!(loads(Site::Simulator)[4].pattern, "diurnal:100..1000/5m");
        assert_eq!(loads(Site::local(Duration::from_secs(60)))[3].pattern, "step:10@0s,33@12s,100@24s,33@36s,10@48s");
    }

    #[test]
    fn training_worlds_are_distinct_reproducible_and_within_the_bounds() {
        for experiment in all() {
            let mut drawn = Vec::new();
            for number in 0..200 {
                let world = experiment.world(number, experiment.ticks());
                assert!(world.policy.bounds.contain(world.allocation), "{:?}", world.allocation);
                assert_eq!(format!("{world:?}"), format!("{:?}", experiment.world(number, experiment.ticks())));
                drawn.push(format!("{:?}", world.load));
            }
            drawn.sort();
            drawn.dedup();
            assert_eq!(drawn.len(), 200);
        }
    }
}
