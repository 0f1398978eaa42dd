//! Check of the calibrated simulator: the judged half, simulated as it was and under a model of the acting autoscaler, next to the measurements. Owns the
//! compared figures and the limits of a good reproduction; pure.

use qscale_common::policy::{Objective, Prices};
use qscale_common::slo;
use qscale_common::text::number;
use qscale_common::units::Allocation;
use serde::Serialize;

use crate::history::{HistoryMetric, HistoryStep};
use crate::replay::SimulatedStep;

/// Largest relative errors of cost, CPU use and latency, and difference of the shares of violated steps, of a good reproduction.
const MAX_COST_ERROR: f64 = 0.2;
const MAX_CPU_ERROR: f64 = 0.2;
const MAX_LATENCY_ERROR: f64 = 0.5;
const MAX_VIOLATION_DIFFERENCE: f64 = 0.1;

/// Sums over measured or simulated steps.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StepSums {
    cost: WeightedMean,
    cpu: WeightedMean,
    median: WeightedMean,
    objective: WeightedMean,
    violated: WeightedMean,
    replicas: WeightedMean,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct WeightedMean {
    sum: f64,
    weight: f64,
}

impl WeightedMean {
    fn add(&mut self, value: Option<f64>, weight: f64) {
        if let Some(value) = value {
            self.sum += value * weight;
            self.weight += weight;
        }
    }

    fn add_logarithm(&mut self, value: Option<f64>, weight: f64) {
        self.add(value.filter(|value| *value > 0.0).map(f64::ln), weight);
    }

    fn get(self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

impl StepSums {
    /// Adds a measured step with its allocation.
    pub fn add_measured(&mut self, step: &HistoryStep, allocation: Allocation, objective: &Objective, prices: &Prices) {
        // Between whole numbers, the mean number of replicas of the step counts.
        let replicas = step.get(HistoryMetric::Replicas);
        let each = Allocation { replicas: qscale_common::units::Replicas(1), ..allocation };
        let requests = step.get(HistoryMetric::ArrivalsRps).unwrap_or(0.0);
        self.cost.add(replicas.map(|replicas| replicas * prices.per_hour(each)), 1.0);
        self.cpu.add(step.get(HistoryMetric::CpuCores), 1.0);
        self.replicas.add(replicas, 1.0);
        self.median.add_logarithm(step.get(HistoryMetric::MedianMs), requests);
        self.objective.add_logarithm(step.get(HistoryMetric::ObjectiveMs), requests);
        self.violated.add(is_violated(step, objective).map(|violated| f64::from(u8::from(violated))), 1.0);
    }

    /// Adds a simulated step.
    pub fn add_simulated(&mut self, step: &SimulatedStep) {
        let requests = step.ended as f64;
        self.cost.add(Some(step.cost_per_hour), 1.0);
        self.cpu.add(step.cpu_cores, 1.0);
        self.replicas.add(Some(step.replicas), 1.0);
        self.median.add_logarithm(step.median_ms, requests);
        self.objective.add_logarithm(step.objective_ms, requests);
        self.violated.add(step.violated.map(|violated| f64::from(u8::from(violated))), 1.0);
    }

    /// The means.
    #[must_use]
    pub fn figures(&self) -> StepFigures {
        StepFigures {
            cost_per_hour: self.cost.get(),
            cpu_cores: self.cpu.get(),
            replicas: self.replicas.get(),
            median_ms: self.median.get().map(f64::exp),
            objective_ms: self.objective.get().map(f64::exp),
            violated_share: self.violated.get(),
            judged_steps: self.violated.weight as u64,
        }
    }
}

/// Whether the objective was violated in a measured step; `None` if nothing is known of its latency and failures, or it had no requests.
#[must_use]
pub fn is_violated(step: &HistoryStep, objective: &Objective) -> Option<bool> {
    let bound = objective.latency.get().as_secs_f64() * 1000.0;
    let latency = step.get(HistoryMetric::ObjectiveMs)?;
    let failed = step.get(HistoryMetric::FailedShare).unwrap_or(0.0);
    Some(slo::is_violated(latency > bound, failed, objective.failure_share.get()))
}

/// Means over steps; absent where nothing is known.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct StepFigures {
    /// Cost of the allocation, an hour.
    pub cost_per_hour: Option<f64>,
    /// CPU use of all replicas, cores.
    pub cpu_cores: Option<f64>,
    /// Number of replicas.
    pub replicas: Option<f64>,
    /// Median latency, the geometric mean over steps, weighted by requests, milliseconds.
    pub median_ms: Option<f64>,
    /// The percentile that the objective bounds, likewise. In a geometric mean, a few overloaded steps do not outweigh all others.
    pub objective_ms: Option<f64>,
    /// Share of the judged steps in which the objective was violated, 0 to 1.
    pub violated_share: Option<f64>,
    /// Steps with a known latency.
    pub judged_steps: u64,
}

/// The judged half, measured and simulated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reproduction {
    /// Measured.
    pub measured: StepFigures,
    /// Simulated with the recorded allocations: the error of the model of the function.
    pub with_recorded: StepFigures,
    /// Simulated under the model of the acting autoscaler: the error of both models.
    pub with_acting: StepFigures,
    /// Errors above their limits, in sentences; empty for a good reproduction.
    pub faults: Vec<String>,
}

/// Relative error of `simulated`; `None` if either is unknown or the measured value is 0.
#[must_use]
pub fn relative_error(measured: Option<f64>, simulated: Option<f64>) -> Option<f64> {
    let (measured, simulated) = (measured?, simulated?);
    if measured == simulated { Some(0.0) } else { (measured != 0.0).then(|| simulated / measured - 1.0) }
}

impl Reproduction {
    /// Compares the figures.
    #[must_use]
    pub fn new(measured: StepFigures, with_recorded: StepFigures, with_acting: StepFigures) -> Self {
        let mut reproduction = Self { measured, with_recorded, with_acting, faults: Vec::new() };
        reproduction.faults = reproduction.find_faults();
        reproduction
    }

    fn find_faults(&self) -> Vec<String> {
        let Self { measured, with_recorded, with_acting, .. } = self;
        let percent = |share: f64| number(share * 100.0);
        let relative = |what: &str, measured: Option<f64>, simulated: Option<f64>, most: f64| {
            let error = relative_error(measured, simulated)?;
            (error.abs() > most)
                .then(|| format!("{what} is {}{} % off, more than {} %", if error > 0.0 { "+" } else { "" }, percent(error), percent(most)))
        };
        let mut faults: Vec<String> = [
            relative("CPU use with the recorded replicas", measured.cpu_cores, with_recorded.cpu_cores, MAX_CPU_ERROR),
            relative(
                "latency at the objective's percentile with the recorded replicas",
                measured.objective_ms,
                with_recorded.objective_ms,
                MAX_LATENCY_ERROR,
            ),
            relative("cost under the acting autoscaler", measured.cost_per_hour, with_acting.cost_per_hour, MAX_COST_ERROR),
        ]
        .into_iter()
        .flatten()
        .collect();
        match (measured.violated_share, with_acting.violated_share) {
            (Some(measured), Some(simulated)) if (simulated - measured).abs() > MAX_VIOLATION_DIFFERENCE => faults.push(format!(
                "{} % of the steps are violated under the acting autoscaler instead of {} %, more than {} points off",
                percent(simulated),
                percent(measured),
                percent(MAX_VIOLATION_DIFFERENCE)
            )),
            (None, _) => faults.push("violations were not measured, so that simulated ones cannot be checked".to_owned()),
            _ => {}
        }
        faults
    }

    /// Relative error that is added to every cost: the larger one of cost under the acting autoscaler and of CPU use with the recorded replicas.
    #[must_use]
    pub fn cost_error(&self) -> f64 {
        let cost = relative_error(self.measured.cost_per_hour, self.with_acting.cost_per_hour);
        let cpu = relative_error(self.measured.cpu_cores, self.with_recorded.cpu_cores);
        [cost, cpu].into_iter().flatten().map(f64::abs).fold(0.0, f64::max)
    }

    /// Difference that is added to every share of violated steps: the larger one under the acting autoscaler and with the recorded replicas.
    #[must_use]
    pub fn violation_error(&self) -> f64 {
        let difference = |figures: &StepFigures| Some((figures.violated_share? - self.measured.violated_share?).abs());
        [difference(&self.with_acting), difference(&self.with_recorded)].into_iter().flatten().fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(cost: f64, cpu: f64, latency: f64, violated: Option<f64>) -> StepFigures {
        StepFigures {
            cost_per_hour: Some(cost),
            cpu_cores: Some(cpu),
            replicas: Some(1.0),
            median_ms: Some(latency / 2.0),
            objective_ms: Some(latency),
            violated_share: violated,
            judged_steps: 10,
        }
    }

    #[test]
    fn errors_within_the_limits_are_added_to_intervals_and_larger_ones_are_named() {
        let measured = figures(1.0, 2.0, 100.0, Some(0.1));
        let good = Reproduction::new(measured, figures(1.0, 2.2, 140.0, Some(0.15)), figures(1.05, 2.0, 100.0, Some(0.02)));
        assert!(good.faults.is_empty(), "{good:?}");
        assert!((good.cost_error() - 0.1).abs() < 1e-9 && (good.violation_error() - 0.08).abs() < 1e-9);
        let poor = Reproduction::new(measured, figures(1.0, 2.5, 160.0, Some(0.1)), figures(0.7, 2.0, 100.0, Some(0.3)));
        assert_eq!(poor.faults.len(), 4, "{poor:?}");
        assert!(poor.faults[0].contains("+25 % off"), "{poor:?}");
        let unknown = Reproduction::new(StepFigures::default(), measured, measured);
        assert_eq!((unknown.faults.len(), unknown.cost_error()), (1, 0.0));
    }

    #[test]
    fn measured_steps_are_violated_by_latency_or_failures() {
        let objective = Objective::default();
        let step = |latency: f64, failed: f64| {
            let mut step = HistoryStep::default();
            step.set(HistoryMetric::ObjectiveMs, latency);
            step.set(HistoryMetric::FailedShare, failed);
            is_violated(&step, &objective)
        };
        assert_eq!([step(500.0, 0.0), step(501.0, 0.0), step(1.0, 0.02), step(f64::NAN, 0.5)], [Some(false), Some(true), Some(true), None]);
    }
}
