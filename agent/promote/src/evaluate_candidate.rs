//! Trains a candidate and evaluates it against the model in use: on validation worlds, over recorded arrivals, and on
//! recorded States. Owns the order of these steps; reads and writes nothing. Runs for minutes: callers use a thread
//! that may block.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use qscale_common::name::Name;
use qscale_dqn::checkpoint::{Card, Evaluation};
use qscale_dqn::policy::{DqnParams, LearnedMemory, OOD_THRESHOLD, Valuation, evaluated_violation_cost};
use qscale_dqn::tasks::Split;
use qscale_dqn::{Checkpoint, Dqn, registry};
use qscale_policies::Memory;
use qscale_replay::RecordedScenario;
use qscale_replay::compare::MetricComparison;
use qscale_rl::device::cpu;
use qscale_train::evaluate::{Evaluator, Score};
use serde_json::Value;

use crate::experience::Experience;
use crate::finetune::Finetuned;
use crate::gate::{Compared, Estimates, FunctionEstimate, GateReport, NotSimulated, ShadowDecisions, Thresholds};
use crate::recorded_functions::RecordedFunction;
use crate::settings::PromotionSettings;

/// The functions that a model serves, by whether they can be simulated.
#[derive(Default)]
pub struct Scenarios {
    /// Functions to simulate.
    pub scenarios: Vec<RecordedScenario>,
    /// Functions that cannot be simulated.
    pub failed: Vec<NotSimulated>,
    /// Functions without requests.
    pub idle: Vec<String>,
}

/// Everything that the offline gate depends on.
pub struct OfflineGateInput {
    /// The model.
    pub model: Name,
    /// Settings of the round.
    pub settings: PromotionSettings,
    /// The model in use.
    pub base: Checkpoint,
    /// Its name, for the model card.
    pub base_name: String,
    /// A candidate that was trained elsewhere.
    pub candidate: Option<Checkpoint>,
    /// Recorded experience to train on, by function.
    pub experiences: Vec<Experience>,
    /// Recorded functions to simulate.
    pub scenarios: Scenarios,
}

/// Result of the offline gate.
pub struct OfflineGateResult {
    /// The candidate, with its model card.
    pub candidate: Checkpoint,
    /// Its training; absent if it was trained elsewhere.
    pub training: Option<Finetuned>,
    /// Report of the gate.
    pub report: GateReport,
}

/// The model in use and a candidate as policies.
pub struct ModelPair {
    base: Dqn,
    candidate: Dqn,
}

impl ModelPair {
    /// Both models with the parameters `params`.
    ///
    /// # Errors
    /// If a model does not match this program, or the parameters are invalid.
    pub fn new(base: &Checkpoint, candidate: &Checkpoint, params: &Value) -> anyhow::Result<Self> {
        let policy = |model: &Checkpoint| registry::learned(params, Some(model), &cpu());
        Ok(Self { base: policy(base).context("the model in use")?, candidate: policy(candidate).context("the candidate")? })
    }

    /// Simulates both models over each recorded function with `seeds` seeds; `None` if `stop` was set. A function that
    /// fails is part of the result.
    #[must_use]
    pub fn estimates(&self, scenarios: Scenarios, seeds: u64, stop: &AtomicBool) -> Option<Estimates> {
        let mut estimates = Estimates { simulated: Vec::new(), failed: scenarios.failed, idle: scenarios.idle };
        for scenario in &scenarios.scenarios {
            let function = scenario.function.to_string();
            match scenario.compare(&self.base, &self.candidate, seeds, stop) {
                Ok(Some(comparison)) => {
                    let (violated, cost) = (compared(&comparison.violation), compared(&comparison.cost));
                    estimates.simulated.push(FunctionEstimate { function, ticks: scenario.simulation.ticks(), violated, cost });
                }
                Ok(None) => return None,
                Err(error) => estimates.failed.push(NotSimulated { function, cause: format!("{error:#}") }),
            }
        }
        Some(estimates)
    }

    /// Lets both models decide on the recorded States.
    ///
    /// # Errors
    /// If a network fails.
    pub fn shadow(&self, recorded: &[RecordedFunction]) -> anyhow::Result<ShadowDecisions> {
        let mut shadowed = ShadowDecisions::default();
        for function in recorded {
            let (mut memory, mut memory_of_base) = (Memory::default(), Memory::default());
            for state in &function.states {
                if state.observed_at_ms < function.period.since {
                    memory.of::<LearnedMemory>().history.add(state);
                    memory_of_base.of::<LearnedMemory>().history.add(state);
                    continue;
                }
                let decide = |dqn: &Dqn, memory: &mut Memory| -> anyhow::Result<(Valuation, Option<_>)> {
                    let valued = dqn.value_all(&mut [(state, memory)])?.pop().context("one State has one valuation")?;
                    let wanted = dqn.decision(state, &valued).wanted();
                    Ok((valued, wanted))
                };
                let (valued, wanted) = decide(&self.candidate, &mut memory)?;
                let (_, wanted_by_base) = decide(&self.base, &mut memory_of_base)?;
                shadowed.decisions += 1;
                shadowed.not_finite += usize::from(valued.candidates.mask().allowed().any(|choice| !valued.values[choice].is_finite()));
                shadowed.out_of_distribution += usize::from(valued.ood_score.is_nan() || valued.ood_score > OOD_THRESHOLD);
                shadowed.differ += usize::from(wanted != wanted_by_base);
            }
        }
        Ok(shadowed)
    }
}

fn compared(metric: &MetricComparison) -> Compared {
    let (acting, other, difference) = (metric.acting, metric.other, metric.difference);
    Compared { base: acting.mean, candidate: other.mean, low: difference.low, high: difference.high, error: metric.simulation_error() }
}

impl OfflineGateInput {
    /// Trains the candidate, unless one is given, and evaluates it on validation worlds and over the recorded arrivals;
    /// `None` if `stop` was set.
    ///
    /// # Errors
    /// If training fails, or a model does not match this program.
    pub fn run(self, thresholds: &Thresholds, stop: &AtomicBool) -> anyhow::Result<Option<OfflineGateResult>> {
        let Self { model, settings, base, base_name, candidate, experiences, scenarios } = self;
        let base = &base;
        let stopped = || stop.load(Ordering::Relaxed);
        let (mut candidate, training) = match candidate {
            Some(candidate) => (candidate, None),
            None => match settings.finetune.train(base, &experiences, &cpu(), &stopped)? {
                Some(training) => (training.model.clone(), Some(training)),
                None => return Ok(None),
            },
        };
        let (of_base, of_candidate) = (validate(&settings, base)?, validate(&settings, &candidate)?);
        if let Some(training) = &training {
            let evaluation = |policy: &str, score: &Score| Evaluation {
                policy: policy.to_owned(),
                split: Split::Validation,
                worlds: settings.validation_worlds,
                mean: score.mean,
            };
            candidate.header.card = Some(Card {
                command: settings.command(&model),
                ticks: (training.recorded + training.simulated) as u64,
                tasks: settings.finetune.tasks.clone(),
                evaluations: vec![evaluation("dqn", &of_candidate), evaluation(&format!("dqn, {base_name}"), &of_base)],
                specialist: None,
            });
            candidate.header.note = format!("fine-tuned from {base_name} ({}) on {} recorded ticks", base.fingerprint(), training.recorded);
        }
        let mut report = thresholds.validation(&of_base.mean, &of_candidate.mean);
        if report.passes() {
            let pair = ModelPair::new(base, &candidate, &settings.params)?;
            let Some(estimates) = pair.estimates(scenarios, settings.seeds, stop) else { return Ok(None) };
            report = report.and(thresholds.estimated(&estimates, true));
        }
        if stopped() {
            return Ok(None);
        }
        Ok(Some(OfflineGateResult { candidate, training, report }))
    }
}

/// Mean training reward of `model` on validation worlds.
fn validate(settings: &PromotionSettings, model: &Checkpoint) -> anyhow::Result<Score> {
    let threads = settings.threads.unwrap_or_else(|| std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN));
    let evaluator = Evaluator {
        tasks: settings.finetune.tasks.clone(),
        reward: model.header.reward.unwrap_or_default(),
        violation_cost: evaluated_violation_cost(),
        split: Split::Validation,
        worlds: 0..settings.validation_worlds,
        threads,
    };
    Ok(Score::of(&evaluator.network(&Dqn::new(model, DqnParams::default(), &cpu())?)?))
}
