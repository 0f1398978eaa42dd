//! Assessment of workloads: what the acting autoscaler cost and violated in the judged half of a history, and what others would have. Owns the order of the
//! work and the conclusions; reads nothing and prints nothing.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use qscale_common::name::FunctionId;
use qscale_common::policy::ScalingPolicy;
use qscale_common::time::{Timestamp, millis};
use qscale_dqn::Checkpoint;
use qscale_dqn::registry;
use qscale_evaluate::EvaluateError;
use qscale_evaluate::evaluation::jobs::StageProgress;
use qscale_evaluate::suite::CompetitorEntry;
use qscale_policies::Policy;
use qscale_rl::device::cpu;
use serde::Serialize;
use serde_json::Value;

use crate::acting::{ActingPolicies, ActingPolicy, CommonLimits, RECORDED};
use crate::blocks::{BlockBudget, SplitHistory};
use crate::calibration::{self, CalibratedDemand, Calibration, DemandFactors, DemandSpread};
use crate::competitors::competitors;
use crate::estimate::{PolicyRuns, WorkloadRuns};
use crate::history::{HistoryMetric, WorkloadHistory};
use crate::interval::{EstimatedRange, rule_of_three, sampling_half_width};
use crate::replay::{self, Driver};
use crate::reproduction::{Reproduction, StepSums};

/// Blocks and requests that are simulated of each half; each block of an hour at most.
const TUNING_BUDGET: BlockBudget = BlockBudget { blocks: 5, requests: 1.0e6 };
const JUDGED_BUDGET: BlockBudget = BlockBudget { blocks: 8, requests: 1.5e6 };
/// Seeds of the runs that check the simulator.
const CHECKED_SEEDS: u64 = 2;
/// Increases of the share of violated steps and of the relative cost that are not worse in practice.
const TOLERATED_VIOLATIONS: f64 = 0.005;
const TOLERATED_COST: f64 = 0.02;

/// Everything that determines an assessment besides the histories.
pub struct AssessOptions {
    /// Autoscalers of workloads.
    pub acting: ActingPolicies,
    /// Autoscaler of workloads without one.
    pub otherwise: ActingPolicy,
    /// Limits of all workloads.
    pub limits: CommonLimits,
    /// Policies that are compared; empty for all.
    pub policies: Vec<String>,
    /// Model of the learned policy; `None` for the bundled one.
    pub model: Option<Checkpoint>,
    /// Threads that simulate; they do not change the results.
    pub threads: NonZeroUsize,
}

/// A step of an assessment, for a caller that shows progress.
#[derive(Debug, Clone)]
pub enum AssessStep<'a> {
    /// Calibration of a workload begins.
    Calibrating {
        /// The workload.
        workload: &'a FunctionId,
        /// Its index.
        index: usize,
        /// Number of workloads.
        all: usize,
    },
    /// Runs of its policies.
    Running(StageProgress),
}

/// An estimate of a policy on one workload.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyEstimate {
    /// Name, with `, tuned` for a tuned one.
    pub policy: String,
    /// Its parameters.
    pub params: Value,
    /// Cost an hour.
    pub cost_per_hour: EstimatedRange,
    /// Cost relative to that of the acting autoscaler, both simulated with the same requests: -0.2 is a fifth less.
    pub relative_cost: EstimatedRange,
    /// Share of violated steps, 0 to 1.
    pub violated_share: EstimatedRange,
    /// Changes of the allocation an hour.
    pub changes_per_hour: f64,
    /// Conclusion.
    pub conclusion: AssessConclusion,
    /// Weighted sum of severity and relative cost, by which estimates are ordered.
    pub loss: f64,
}

/// Conclusion about a policy in place of the acting autoscaler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum AssessConclusion {
    /// Cheaper or fewer violations, and not worse in the other.
    Better,
    /// Dearer or more violations, and not better in the other.
    Worse,
    /// Better in one, and worse or by its mean worse in the other.
    Mixed,
    /// The intervals contain no difference, or the simulator does not reproduce the measurements.
    Inconclusive,
}

/// Assessment of one workload.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkloadAssessment {
    /// The workload.
    pub workload: FunctionId,
    /// The acting autoscaler with its parameters.
    pub acting: String,
    /// Begin of the history.
    pub begin: Timestamp,
    /// Its end.
    pub end: Timestamp,
    /// Length of a step, milliseconds.
    pub step_ms: u64,
    /// Simulated steps of the judged half, and how many of its blocks they are.
    pub judged_steps: usize,
    /// Simulated blocks of the judged half.
    pub blocks: usize,
    /// All blocks of the judged half.
    pub available_blocks: usize,
    /// Objective, bounds, prices and tick of every policy.
    pub policy: ScalingPolicy,
    /// The calibrated demand.
    pub demand: CalibratedDemand,
    /// Its uncertainty.
    pub spread: DemandSpread,
    /// Check of the simulator.
    pub reproduction: Reproduction,
    /// Estimate of the acting autoscaler.
    pub acting_estimate: PolicyEstimate,
    /// Estimates of all policies, the best first.
    pub estimates: Vec<PolicyEstimate>,
    /// Assumptions, in sentences.
    pub assumptions: Vec<String>,
}

/// A workload that was not assessed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SkippedWorkload {
    /// The workload.
    pub workload: FunctionId,
    /// The reason, with its remedy.
    pub reason: String,
}

/// Assessments of all workloads.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Assessment {
    /// Those that could be assessed.
    pub workloads: Vec<WorkloadAssessment>,
    /// The others.
    pub skipped: Vec<SkippedWorkload>,
}

enum WorkloadOutcome {
    Assessed(Box<WorkloadAssessment>),
    Skipped(String),
    Stopped,
}

/// Assesses the workloads of `histories`; `None` if `stop` was set.
///
/// # Errors
/// When a policy is unknown or refuses its parameters.
pub fn assess(
    histories: &[WorkloadHistory],
    options: &AssessOptions,
    stop: &AtomicBool,
    mut progress: impl FnMut(AssessStep<'_>),
) -> anyhow::Result<Option<Assessment>> {
    let mut assessment = Assessment::default();
    for (index, history) in histories.iter().enumerate() {
        progress(AssessStep::Calibrating { workload: &history.workload, index, all: histories.len() });
        match assess_one(history, options, stop, &mut progress)? {
            WorkloadOutcome::Assessed(one) => assessment.workloads.push(*one),
            WorkloadOutcome::Skipped(reason) => assessment.skipped.push(SkippedWorkload { workload: history.workload.clone(), reason }),
            WorkloadOutcome::Stopped => return Ok(None),
        }
    }
    Ok(Some(assessment))
}

fn assess_one(
    history: &WorkloadHistory,
    options: &AssessOptions,
    stop: &AtomicBool,
    progress: &mut impl FnMut(AssessStep<'_>),
) -> anyhow::Result<WorkloadOutcome> {
    let missing: Vec<String> = history
        .missing()
        .filter(|metric| metric.is_required())
        .map(|metric| format!("{metric} is missing, so that {}", metric.consequence()))
        .collect();
    if !missing.is_empty() {
        return Ok(WorkloadOutcome::Skipped(missing.join("; ")));
    }
    if history.largest(HistoryMetric::ArrivalsRps).is_none_or(|rate| rate <= 0.0) {
        return Ok(WorkloadOutcome::Skipped("it had no requests".to_owned()));
    }
    let split = match SplitHistory::new(history, TUNING_BUDGET, JUDGED_BUDGET) {
        Ok(split) => split,
        Err(reason) => return Ok(WorkloadOutcome::Skipped(reason)),
    };
    let mut calibrating = ScalingPolicy::new(history.workload.clone());
    calibrating.objective = options.acting.objective(&history.workload, options.limits.objective);
    calibrating.tick = options.limits.tick;
    calibrating.guard = qscale_common::policy::Guardrails::permissive();
    calibrating.bounds = everything();
    let calibration = match calibration::calibrate(history, &split.tuning.blocks, &calibrating, stop) {
        Ok(Some(calibration)) => calibration,
        Ok(None) => return Ok(WorkloadOutcome::Stopped),
        Err(reason) => return Ok(WorkloadOutcome::Skipped(reason)),
    };
    let mut assumptions = calibration.assumptions.clone();
    let (acting, policy) = options.acting.of(history, &options.otherwise, &options.limits, calibration.size, &mut assumptions);
    if acting.policy == RECORDED {
        assumptions.push(
            "the acting autoscaler is simulated by its recorded replicas, whatever the simulated load; name it with --manifest or --acting"
                .to_owned(),
        );
    }
    let work = CalibratedWorkload {
        history,
        options,
        split: &split,
        calibration: &calibration,
        calibrating: &calibrating,
        policy: &policy,
        acting: &acting,
        stop,
    };
    work.assess(assumptions, progress)
}

/// Bounds that change no recorded allocation.
fn everything() -> qscale_common::policy::Bounds {
    use qscale_common::policy::Range;
    use qscale_common::units::{Mebibytes, Millicores, Replicas};
    let ordered = "the least is below the most";
    qscale_common::policy::Bounds {
        replicas: Range::new(Replicas(0), Replicas::MAX).expect(ordered),
        cpu_millicores: Range::new(Millicores(1), Millicores::MAX).expect(ordered),
        memory_mib: Range::new(Mebibytes(1), Mebibytes::MAX).expect(ordered),
    }
}

/// One workload and its calibrated simulator.
struct CalibratedWorkload<'a> {
    history: &'a WorkloadHistory,
    options: &'a AssessOptions,
    split: &'a SplitHistory,
    calibration: &'a Calibration,
    /// As `policy`, without limits.
    calibrating: &'a ScalingPolicy,
    policy: &'a ScalingPolicy,
    acting: &'a ActingPolicy,
    stop: &'a AtomicBool,
}

impl CalibratedWorkload<'_> {
    fn assess(&self, assumptions: Vec<String>, progress: &mut impl FnMut(AssessStep<'_>)) -> anyhow::Result<WorkloadOutcome> {
        let Some((reproduction, half_widths)) = self.reproduce()? else { return Ok(WorkloadOutcome::Stopped) };
        let runs = WorkloadRuns {
            history: self.history,
            split: self.split,
            calibration: self.calibration,
            policy: self.policy,
            model: self.options.model.as_ref(),
            threads: self.options.threads,
            stop: self.stop,
        };
        let acting = CompetitorEntry { params: self.acting.params.clone(), ..CompetitorEntry::plain(&self.acting.policy) };
        let mut show = |shown| progress(AssessStep::Running(shown));
        let acting = match runs.run(vec![acting], self.acting.guard, &mut show) {
            Ok(mut found) => found.remove(0),
            Err(EvaluateError::Stopped) => return Ok(WorkloadOutcome::Stopped),
            Err(EvaluateError::Nothing(reason)) => return Ok(WorkloadOutcome::Skipped(reason)),
            Err(error) => return Err(error.into()),
        };
        let mut entries = competitors(self.calibration, self.policy);
        if !self.options.policies.is_empty() {
            entries.retain(|entry| self.options.policies.contains(&entry.policy));
        }
        let found = match runs.run(entries, self.policy.guard, &mut show) {
            Ok(found) => found,
            Err(EvaluateError::Stopped) => return Ok(WorkloadOutcome::Stopped),
            Err(error) => return Err(error.into()),
        };
        let estimator = Estimator { acting: &acting, reproduction: &reproduction, half_widths };
        let mut estimates: Vec<PolicyEstimate> = found.iter().filter_map(|runs| estimator.estimate(runs)).collect();
        estimates.sort_by(|one, other| one.loss.total_cmp(&other.loss));
        let Some(acting_estimate) = estimator.estimate(&acting) else {
            return Ok(WorkloadOutcome::Skipped("no request was simulated in the judged half".to_owned()));
        };
        let judged = &self.split.judged;
        Ok(WorkloadOutcome::Assessed(Box::new(WorkloadAssessment {
            workload: self.history.workload.clone(),
            acting: title(self.acting),
            begin: self.history.begin,
            end: self.history.end(),
            step_ms: millis(self.history.step),
            judged_steps: judged.blocks.iter().map(|block| block.measured).sum(),
            blocks: judged.blocks.len(),
            available_blocks: judged.available,
            policy: self.policy.clone(),
            demand: self.calibration.demand,
            spread: self.calibration.spread,
            reproduction,
            acting_estimate,
            estimates,
            assumptions,
        })))
    }

    /// The judged half, measured and simulated, with the half-widths of cost and violations that come from blocks that are not simulated.
    fn reproduce(&self) -> anyhow::Result<Option<(Reproduction, HalfWidths)>> {
        let rule: Option<Box<dyn Policy>> = match self.acting.policy.as_str() {
            RECORDED => None,
            name => Some(registry::by_name(name, &self.acting.params, self.options.model.as_ref(), &cpu())?),
        };
        let profile = Arc::new(self.calibration.demand.profile(self.history.workload.name.as_str(), DemandFactors::default()));
        let (mut measured, mut with_recorded, mut with_acting) = (StepSums::default(), StepSums::default(), StepSums::default());
        let (mut costs, mut violations) = (Vec::new(), Vec::new());
        let acting_policy = ScalingPolicy { guard: self.acting.guard, ..self.policy.clone() };
        for block in &self.split.judged.blocks {
            let mut of_block = StepSums::default();
            let allocations = replay::allocations(self.history, block.steps(), self.calibration.size);
            for (place, number) in block.measured_steps().enumerate() {
                let allocation = allocations[block.warm_up + place];
                for sums in [&mut measured, &mut of_block] {
                    sums.add_measured(&self.history.steps[number], allocation, &self.policy.objective, &self.policy.prices);
                }
            }
            costs.extend(of_block.figures().cost_per_hour);
            violations.extend(of_block.figures().violated_share);
            for seed in 0..CHECKED_SEEDS {
                let runs = [
                    (Driver::Recorded, self.calibrating, &mut with_recorded),
                    (rule.as_ref().map_or(Driver::Recorded, |rule| Driver::Policy(rule.as_ref())), &acting_policy, &mut with_acting),
                ];
                for (driver, policy, sums) in runs {
                    // The recorded allocations may be outside the bounds of others.
                    let policy = if matches!(driver, Driver::Recorded) { self.calibrating } else { policy };
                    let mut policy = policy.clone();
                    policy.prices = self.policy.prices.clone();
                    let setup = replay::setup(self.history, block, self.calibration.size, &profile, &policy);
                    let Some(steps) = replay::simulate(self.history, block, setup, &allocations, driver, seed, self.stop) else {
                        return Ok(None);
                    };
                    steps.iter().for_each(|step| sums.add_simulated(step));
                }
            }
        }
        let available = self.split.judged.available;
        let mean = costs.iter().sum::<f64>() / costs.len().max(1) as f64;
        let half_widths = HalfWidths {
            relative_cost: if mean > 0.0 { sampling_half_width(&costs, available) / mean } else { 0.0 },
            violated_share: sampling_half_width(&violations, available),
            judged_steps: self.split.judged.blocks.iter().map(|block| block.measured as u64).sum(),
        };
        Ok(Some((Reproduction::new(measured.figures(), with_recorded.figures(), with_acting.figures()), half_widths)))
    }
}

/// Half-widths of 95 % from blocks that are not simulated.
#[derive(Debug, Clone, Copy)]
struct HalfWidths {
    relative_cost: f64,
    violated_share: f64,
    /// Number of judged steps.
    judged_steps: u64,
}

struct Estimator<'a> {
    acting: &'a PolicyRuns,
    reproduction: &'a Reproduction,
    half_widths: HalfWidths,
}

impl Estimator<'_> {
    /// `None` if the runs have no requests.
    fn estimate(&self, runs: &PolicyRuns) -> Option<PolicyEstimate> {
        let mean = runs.cost_per_hour.iter().sum::<f64>() / runs.cost_per_hour.len().max(1) as f64;
        let (cost_error, violation_error) = (self.reproduction.cost_error(), self.reproduction.violation_error());
        let cost_per_hour =
            EstimatedRange::of(&runs.cost_per_hour, &[mean * cost_error, mean * self.half_widths.relative_cost], 0.0, f64::INFINITY)?;
        let mut violated_share = EstimatedRange::of(&runs.violated_share, &[violation_error, self.half_widths.violated_share], 0.0, 1.0)?;
        violated_share.high = violated_share.high.max(rule_of_three(self.half_widths.judged_steps));
        let ratios: Vec<f64> = runs
            .cost_per_hour
            .iter()
            .zip(&self.acting.cost_per_hour)
            .filter(|(_, acting)| **acting > 0.0)
            .map(|(cost, acting)| cost / acting - 1.0)
            .collect();
        let ratio = ratios.iter().sum::<f64>() / ratios.len().max(1) as f64;
        // What both simulations have wrong alike cancels; the rest is an error of the difference.
        let relative_cost = EstimatedRange::of(&ratios, &[(1.0 + ratio) * cost_error], -1.0, f64::INFINITY)?;
        let mut estimate = PolicyEstimate {
            policy: runs.label.clone(),
            params: runs.params.clone(),
            cost_per_hour,
            relative_cost,
            violated_share,
            changes_per_hour: runs.changes_per_hour,
            conclusion: AssessConclusion::Inconclusive,
            loss: runs.loss,
        };
        estimate.conclusion = self.conclude(&estimate);
        Some(estimate)
    }

    fn conclude(&self, estimate: &PolicyEstimate) -> AssessConclusion {
        let Some(measured) = self.reproduction.measured.violated_share.filter(|_| self.reproduction.faults.is_empty()) else {
            return AssessConclusion::Inconclusive;
        };
        let (cost, violated) = (estimate.relative_cost, estimate.violated_share);
        let better = cost.high < 0.0 || violated.high < measured;
        let worse = cost.low > 0.0 || violated.low > measured + TOLERATED_VIOLATIONS;
        // An estimate that is worse in one figure is no advice, even if its interval is wide.
        let doubtful = cost.mean > TOLERATED_COST || violated.mean > measured + TOLERATED_VIOLATIONS;
        match (better, worse || better && doubtful) {
            (true, true) => AssessConclusion::Mixed,
            (true, false) => AssessConclusion::Better,
            (false, true) => AssessConclusion::Worse,
            (false, false) => AssessConclusion::Inconclusive,
        }
    }
}

fn title(acting: &ActingPolicy) -> String {
    let params: Vec<String> = acting.params.as_object().into_iter().flatten().map(|(name, value)| format!("{name}={value}")).collect();
    if params.is_empty() { acting.policy.clone() } else { format!("{}:{}", acting.policy, params.join(",")) }
}

#[cfg(test)]
mod tests;
