//! Runs of policies on one workload: cells of an evaluation from its calibrated blocks. Owns the draws of the demand, the cells and the reading of the
//! results; the runs are those of `qscale_evaluate`.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use qscale_common::name::Name;
use qscale_common::policy::{Guardrails, ScalingPolicy};
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::Allocation;
use qscale_dqn::Checkpoint;
use qscale_dqn::registry;
use qscale_evaluate::cell::{CellFunction, EvaluationCell, MeasurementSpan};
use qscale_evaluate::evaluation::jobs::{JobOutcome, Ledger, StageProgress};
use qscale_evaluate::policy_set::{FutureKnowledge, PolicySet, RunContext};
use qscale_evaluate::results::Cell;
use qscale_evaluate::suite::{CompetitorEntry, PerturbationEntry, PlanSearch, Quick, Selection, TuningPlan};
use qscale_evaluate::{EvaluateError, EvaluationRequest, Measure, Options, Results, Suite, SuiteEvaluation};
use qscale_policies::{Decision, HoldReason, Memory, Policy, PolicyError};
use qscale_rl::device::cpu;
use qscale_sim::simulation::BEGIN;
use rand::Rng;
use serde_json::Value;

use crate::acting::RECORDED;
use crate::blocks::{HistoryBlock, HistoryPart, SplitHistory};
use crate::calibration::{Calibration, DemandFactors, DemandSpread};
use crate::history::WorkloadHistory;
use crate::interval::normal_quantile;
use crate::replay;

/// Draws of the demand. The multipliers below are coprime to it, so that each figure has each of its quantiles once.
pub const DRAWS: usize = 8;
const WAITING_ORDER: usize = 3;
const STARTUP_ORDER: usize = 5;
/// Distance of the numbers of blocks of two draws, above that of the blocks.
const DRAW_NUMBERS: u64 = 1 << 12;
/// Time within which an opposite change counts as a reversal.
const REVERSAL_WITHIN: Span = Span::seconds(60);
/// Name of the cell without uncertainty, for tuning.
const CENTRE: &str = "centre";

/// One workload with all that its runs need.
#[derive(Clone, Copy)]
pub struct WorkloadRuns<'a> {
    /// Its history.
    pub history: &'a WorkloadHistory,
    /// Its blocks.
    pub split: &'a SplitHistory,
    /// The calibrated simulator.
    pub calibration: &'a Calibration,
    /// Objective, bounds, prices and tick.
    pub policy: &'a ScalingPolicy,
    /// Model of the learned policy; `None` for the bundled one.
    pub model: Option<&'a Checkpoint>,
    /// Threads that simulate; they do not change the results.
    pub threads: NonZeroUsize,
    /// Set to stop early.
    pub stop: &'a AtomicBool,
}

/// Runs of one policy, one value for each draw of the demand.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyRuns {
    /// Name, with `, tuned` for a tuned one.
    pub label: String,
    /// Its parameters.
    pub params: Value,
    /// Cost an hour.
    pub cost_per_hour: Vec<f64>,
    /// Share of violated steps, 0 to 1.
    pub violated_share: Vec<f64>,
    /// Changes of the allocation an hour.
    pub changes_per_hour: f64,
    /// Weighted sum of severity and relative cost, the mean over the draws.
    pub loss: f64,
}

/// Factors of each draw: stratified quantiles of log-normal distributions.
#[must_use]
pub fn draws(spread: DemandSpread) -> Vec<DemandFactors> {
    let quantile = |place: usize| normal_quantile((place as f64 + 0.5) / DRAWS as f64);
    let factor = |spread: f64, order: usize, place: usize| (spread * quantile((place * order + order / 2) % DRAWS)).exp();
    (0..DRAWS)
        .map(|place| DemandFactors {
            cpu: factor(spread.cpu, 1, place),
            waiting: factor(spread.waiting, WAITING_ORDER, place),
            startup: factor(spread.startup, STARTUP_ORDER, place),
        })
        .collect()
}

impl WorkloadRuns<'_> {
    /// Runs `competitors` under the limits of `guard` on the judged half; tunes those with a grid on the other one. `progress` is called after each run.
    ///
    /// # Errors
    /// When it was stopped, or a competitor cannot be made.
    pub fn run(
        &self,
        competitors: Vec<CompetitorEntry>,
        guard: Guardrails,
        progress: &mut dyn FnMut(StageProgress),
    ) -> Result<Vec<PolicyRuns>, EvaluateError> {
        let tune = competitors.iter().any(|entry| entry.grid.as_object().is_some_and(|grid| !grid.is_empty()));
        let policies = AssessedPolicies { runs: *self };
        let suite = self.suite(competitors, guard)?.with_natural_ticks(&policies);
        let cells = [self.cells(&self.split.judged, guard), self.cells(&self.split.tuning, guard)];
        let request = EvaluationRequest { tune, tuned_alone: true, ..EvaluationRequest::default() };
        let evaluation = SuiteEvaluation::of_cells(suite, cells, request)?;
        let options = Options { threads: self.threads, stop: self.stop, clock: None };
        let (results, _) = evaluation.run(&policies, &options, &mut ProgressLedger(progress))?;
        Ok(read(&results, self.split.judged.blocks.len()))
    }

    fn suite(&self, competitors: Vec<CompetitorEntry>, guard: Guardrails) -> Result<Suite, EvaluateError> {
        let names = std::iter::once(CENTRE.to_owned()).chain((0..DRAWS).map(draw_name));
        let perturbations: Vec<PerturbationEntry> = names
            .map(|text| PerturbationEntry {
                name: name(&text),
                perturbation: qscale_sim::Perturbation::default(),
                cpu_share: None,
                vertical: None,
            })
            .collect();
        let only = |names: Vec<Name>| vec![Selection { perturbations: names, ..Selection::default() }];
        let tick = self.policy.tick;
        if !self.history.step.as_nanos().is_multiple_of(tick.duration().as_nanos()) {
            let (step, tick) = (Span(self.history.step), Span(tick.duration()));
            return Err(EvaluateError::Nothing(format!(
                "steps of {step} are no multiple of the control interval of {tick}; pass another --tick"
            )));
        }
        Ok(Suite {
            name: name("assess"),
            description: String::new(),
            seeds: 1,
            length: Span::default(),
            warm_up: Span::default(),
            interval: Span(self.history.step),
            tick,
            reversal_within: REVERSAL_WITHIN,
            weights: self.policy.reward,
            prices: self.policy.prices.clone(),
            guard,
            functions: Vec::new(),
            workloads: Vec::new(),
            cells: only(perturbations[1..].iter().map(|entry| entry.name.clone()).collect()),
            tuning: TuningPlan { settings: usize::MAX, seeds: 1, cells: only(vec![name(CENTRE)]) },
            perturbations,
            trace: None,
            competitors,
            planning: PlanSearch { passes: 0 },
            // No cell has this name, so that no time series is kept.
            timelines: only(vec![name("none")]),
            quick: Quick::default(),
        })
    }

    /// The cell without uncertainty, then one for each draw.
    fn cells(&self, part: &HistoryPart, guard: Guardrails) -> Vec<EvaluationCell> {
        let factors = std::iter::once(DemandFactors::default()).chain(draws(self.calibration.spread));
        factors.enumerate().map(|(number, factors)| self.cell(part, number, factors, guard)).collect()
    }

    fn cell(&self, part: &HistoryPart, number: usize, factors: DemandFactors, guard: Guardrails) -> EvaluationCell {
        let profile = Arc::new(self.calibration.demand.profile(self.history.workload.name.as_str(), factors));
        let policy = ScalingPolicy { guard, ..self.policy.clone() };
        let function = |(block, place): (&HistoryBlock, u64)| CellFunction {
            setup: replay::setup(self.history, block, self.calibration.size, &profile, &policy),
            index: number as u64 * DRAW_NUMBERS + place,
            noise: None,
            disturbed: Vec::new(),
        };
        let functions: Vec<CellFunction> = part.blocks.iter().zip(0..).map(function).collect();
        let steps = |of: fn(&HistoryBlock) -> usize| part.blocks.first().map_or(0, of) as u32;
        let perturbation = if number == 0 { CENTRE.to_owned() } else { draw_name(number - 1) };
        let workload = self.history.workload.to_string();
        let report = Cell {
            name: format!("{workload}/{perturbation}"),
            function: workload.clone(),
            workload,
            perturbation,
            functions: functions.len(),
            latency_ms: None,
            percentile: policy.objective.percentile.get(),
        };
        let (warm_up, measured) = (steps(|block| block.warm_up), steps(|block| block.measured));
        EvaluationCell { report, functions, measurement: MeasurementSpan { interval: self.history.step, warm_up, measured } }
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("letters, digits and a dash make a DNS label")
}

fn draw_name(number: usize) -> String {
    format!("draw-{number}")
}

/// Values of each competitor by draw. The costs of the blocks of a cell add up as if they ran at once.
fn read(results: &Results, blocks: usize) -> Vec<PolicyRuns> {
    let of = |(number, competitor): (usize, &qscale_evaluate::results::Competitor)| {
        let groups: Vec<_> = results.groups.iter().filter(|group| group.competitor == number).collect();
        let values =
            |measure: Measure| groups.iter().flat_map(|group| group.values(measure)).filter_map(|value| *value).collect::<Vec<f64>>();
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let each = 1.0 / blocks.max(1) as f64;
        PolicyRuns {
            label: competitor.label(),
            params: competitor.params.values().next().cloned().unwrap_or(Value::Null),
            cost_per_hour: values(Measure::CostPerHour).into_iter().map(|cost| cost * each).collect(),
            violated_share: values(Measure::ViolatedShare),
            changes_per_hour: mean(values(Measure::ActionsPerHour)) * each,
            loss: mean(values(Measure::Loss)),
        }
    };
    results.competitors.iter().enumerate().map(of).collect()
}

/// All policies, and the recorded allocations as one.
struct AssessedPolicies<'a> {
    runs: WorkloadRuns<'a>,
}

impl PolicySet for AssessedPolicies<'_> {
    fn policy(&self, name: &str, params: &Value, context: Option<&RunContext<'_>>) -> Result<Box<dyn Policy>, PolicyError> {
        let WorkloadRuns { history, split, calibration, model, .. } = self.runs;
        if name != RECORDED {
            return registry::by_name(name, params, model, &cpu());
        }
        // The recorded allocations are not tuned, so that a block is one of the judged half.
        let block = context.and_then(|context| split.judged.blocks.get((context.index % DRAW_NUMBERS) as usize));
        let allocations = block.map(|block| replay::allocations(history, block.steps(), calibration.size)).unwrap_or_default();
        Ok(Box::new(RecordedAllocations { allocations, step: history.step }))
    }

    fn knowledge(&self, _: &str) -> Option<FutureKnowledge> {
        None
    }
}

/// The allocation of each step of a block.
#[derive(Debug)]
struct RecordedAllocations {
    allocations: Vec<Allocation>,
    step: Duration,
}

impl Policy for RecordedAllocations {
    fn name(&self) -> &'static str {
        RECORDED
    }

    fn model(&self) -> String {
        RECORDED.to_owned()
    }

    fn decide(&self, _: &qscale_common::contract::State, _: &mut Memory, now: Timestamp, _: &mut dyn Rng) -> Decision {
        let number = now.since(BEGIN).as_nanos() / self.step.as_nanos().max(1);
        match self.allocations.get(number as usize) {
            Some(allocation) => Decision::Want { allocation: *allocation, reason: RECORDED.to_owned(), choices: Vec::new() },
            None => Decision::hold(HoldReason::NoAllocation, "nothing was recorded"),
        }
    }
}

struct ProgressLedger<'a>(&'a mut dyn FnMut(StageProgress));

impl Ledger for ProgressLedger<'_> {
    fn stored(&mut self, _: &str) -> Option<JobOutcome> {
        None
    }

    fn record(&mut self, _: &str, _: &JobOutcome) -> Result<(), String> {
        Ok(())
    }

    fn progress(&mut self, progress: StageProgress) {
        (self.0)(progress);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_has_each_quantile_once() {
        let found = draws(DemandSpread { cpu: 0.1, waiting: 0.2, startup: 0.5 });
        for (of, spread) in [(0, 0.1), (1, 0.2), (2, 0.5)] {
            let mut logs: Vec<f64> =
                found.iter().map(|factors| [factors.cpu, factors.waiting, factors.startup][of].ln() / spread).collect();
            logs.sort_by(f64::total_cmp);
            let expected = (0..DRAWS).map(|place| normal_quantile((place as f64 + 0.5) / DRAWS as f64));
            assert!(logs.iter().zip(expected).all(|(log, expected)| (log - expected).abs() < 1e-9), "{logs:?}");
        }
        assert!(found.windows(2).all(|pair| pair[0].cpu < pair[1].cpu) && !found.windows(2).all(|pair| pair[0].startup < pair[1].startup));
    }
}
