//! Cells of an evaluation, made from a suite. Owns the setup of each combination of function, workload and perturbation; must not run it.

use std::time::Duration;

use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::{Mode, ScalingPolicy};
use qscale_common::time::{Span, TickLength};
use qscale_common::workload::{Pattern, WorkloadRng};
use qscale_sim::rng::{Purpose, stream};
use qscale_sim::{Setup, SimulatedLoad};
use rand::RngExt;
use rand_distr::StandardNormal;

use crate::results::Cell;
use crate::suite::{FunctionEntry, Noise, PerturbationEntry, Suite, SuiteWorkload};

/// A cell: one or more functions that are measured together.
#[derive(Debug, Clone)]
pub struct EvaluationCell {
    /// Its description in the results.
    pub report: Cell,
    /// Its functions.
    pub functions: Vec<CellFunction>,
    /// Length of its runs.
    pub measurement: MeasurementSpan,
}

/// Length of a run, in intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeasurementSpan {
    /// Length of an interval.
    pub interval: Duration,
    /// Intervals of the warm-up, which are not measured.
    pub warm_up: u32,
    /// Measured intervals after the warm-up.
    pub measured: u32,
}

impl MeasurementSpan {
    /// Length of the measured part, seconds.
    #[must_use]
    pub fn measured_s(&self) -> f64 {
        self.interval.as_secs_f64() * f64::from(self.measured)
    }

    /// Length of the warm-up, seconds.
    #[must_use]
    pub fn warm_up_s(&self) -> f64 {
        self.interval.as_secs_f64() * f64::from(self.warm_up)
    }

    /// Intervals of the run.
    #[must_use]
    pub fn intervals(&self) -> usize {
        self.warm_up as usize + self.measured as usize
    }

    /// Length of the run.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.interval * (self.warm_up + self.measured)
    }
}

/// One function of a cell.
#[derive(Debug, Clone)]
pub struct CellFunction {
    /// Its setup, with the suite's tick and the perturbation's lag only.
    pub setup: Setup,
    /// Number of its streams of random numbers.
    pub index: u64,
    /// Random level around its pattern.
    pub noise: Option<Noise>,
    /// Disturbances from which the time to recover is measured.
    pub disturbed: Vec<Duration>,
}

impl CellFunction {
    /// The setup for a competitor with `tick` and additional metric lag `lag`, in the run of `seed` over `length`.
    #[must_use]
    pub fn setup(&self, tick: TickLength, lag: Span, seed: u64, length: Duration) -> Setup {
        let mut setup = self.setup.clone();
        setup.policy.tick = tick;
        setup.perturbation.metric_lag = Span(setup.perturbation.metric_lag.0 + lag.0);
        if let (Some(noise), SimulatedLoad::Pattern { pattern, .. }) = (self.noise, &mut setup.load) {
            *pattern = wander(pattern, noise, length, stream(seed, self.index | NOISE, Purpose::Arrivals));
        }
        setup
    }

    /// Whether the setup differs between runs.
    #[must_use]
    pub fn varies(&self) -> bool {
        self.noise.is_some()
    }
}

/// Separates the streams of levels from those of functions.
const NOISE: u64 = 1 << 63;

/// `pattern` in steps, multiplied by an autoregressive level.
fn wander(pattern: &Pattern, noise: Noise, length: Duration, mut rng: WorkloadRng) -> Pattern {
    let steps = length.as_nanos().div_ceil(noise.every.0.as_nanos().max(1)) as u32;
    let fresh = (1.0 - noise.memory * noise.memory).sqrt();
    let mut level = rng.sample::<f64, _>(StandardNormal);
    let mut text = String::from("step:");
    for step in 0..steps.max(1) {
        let begin = noise.every.0 * step;
        let rate = pattern.rate_at(begin + noise.every.0 / 2).per_second() * (noise.sigma * level).exp();
        text += &format!("{}{}@{}", if step == 0 { "" } else { "," }, rate.min(qscale_common::workload::Rate::MAX), Span(begin));
        level = noise.memory * level + fresh * rng.sample::<f64, _>(StandardNormal);
    }
    text.parse().expect("steps with rising times and rates within their range make a pattern")
}

impl Suite {
    /// The cells of a suite of patterns, in the order of functions, workloads and perturbations.
    #[must_use]
    pub fn evaluation_cells(&self) -> Vec<EvaluationCell> {
        let mut cells = Vec::new();
        for (f, function) in self.functions.iter().enumerate() {
            for (w, workload) in self.workloads.iter().enumerate() {
                // Equal arrivals for every perturbation.
                let index = (f * self.workloads.len() + w) as u64;
                for perturbation in self.perturbations.iter().filter(|entry| self.is_cell(function, workload, entry)) {
                    cells.push(self.cell(function, workload, perturbation, index));
                }
            }
        }
        cells
    }

    fn is_cell(&self, function: &FunctionEntry, workload: &SuiteWorkload, perturbation: &PerturbationEntry) -> bool {
        let holds = |selection: &crate::suite::Selection| {
            selection.holds(function.name.as_str(), workload.name.as_str(), perturbation.name.as_str())
        };
        self.cells.is_empty() || self.cells.iter().any(holds)
    }

    fn cell(&self, function: &FunctionEntry, workload: &SuiteWorkload, perturbation: &PerturbationEntry, index: u64) -> EvaluationCell {
        let pattern = workload.pattern.scaled(function.rate.per_second()).expect("the suite was checked");
        let setup = Setup {
            profile: function.profile.0.clone(),
            gateway: function.gateway,
            policy: ScalingPolicy { objective: function.objective, bounds: function.bounds, ..self.policy(function.name.clone()) },
            allocation: function.start,
            load: SimulatedLoad::Pattern { pattern, gaps: workload.gaps },
            perturbation: perturbation.perturbation,
            nodes: function.nodes,
        };
        let disturbed = workload.disturbed.iter().copied().chain(perturbation.perturbation.onsets()).map(|at| at.0).collect();
        let cell = Cell {
            name: format!("{}/{}/{}", function.name, workload.name, perturbation.name),
            function: function.name.to_string(),
            workload: workload.name.to_string(),
            perturbation: perturbation.name.to_string(),
            functions: 1,
            latency_ms: Some(function.objective.latency.get().as_secs_f64() * 1000.0),
            percentile: function.objective.percentile.get(),
        };
        EvaluationCell {
            report: cell,
            functions: vec![CellFunction { setup, index, noise: workload.noise, disturbed }],
            measurement: self.measurement(self.warm_up, self.length),
        }
    }

    /// ScalingPolicy of a function called `name`, with the suite's common settings.
    pub(crate) fn policy(&self, name: Name) -> ScalingPolicy {
        let function = FunctionId::new(Name::new(FunctionId::DEFAULT_NAMESPACE).expect("the default namespace is a DNS label"), name);
        let mut policy = ScalingPolicy::new(function);
        policy.mode = Mode::Active;
        policy.tick = self.tick;
        policy.prices = self.prices.clone();
        policy.reward = self.weights;
        policy.guard = self.guard;
        policy
    }

    /// A run of `length` with `warm_up`, in whole intervals.
    pub(crate) fn measurement(&self, warm_up: Span, length: Span) -> MeasurementSpan {
        let interval = self.interval.0;
        let intervals = |span: Duration| u32::try_from(span.as_nanos() / interval.as_nanos().max(1)).unwrap_or(u32::MAX);
        let (warm_up, all) = (intervals(warm_up.0), intervals(length.0));
        MeasurementSpan { interval, warm_up, measured: all.saturating_sub(warm_up) }
    }
}
