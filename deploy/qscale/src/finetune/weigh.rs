//! What is computed of a candidate: learning it, and living through worlds with it beside the model in use. Pure but for threads: reads and writes nothing.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use qscale_dqn::checkpoint::{Card, Judged};
use qscale_dqn::domain::Part;
use qscale_dqn::policy::{Caution, DqnParams, FAR, Valued};
use qscale_dqn::{Checkpoint, Dqn, registry};
use qscale_policies::{History, Memory};
use qscale_promote::{Compared, Estimate, Experience, Margins, Ruling, Shadowed, Studied, Study};
use qscale_rl::device::cpu;
use qscale_train::judge::{Court, Score};
use serde_json::Value;

use qscale_replay::RecordedScenario;
use qscale_replay::compare::MetricComparison;

use super::served::Recorded;

/// How much is computed, whatever of.
#[derive(Debug, Clone)]
pub struct Effort {
    /// How a candidate is learned.
    pub study: Study,
    /// Validation worlds.
    pub worlds: u64,
    /// Simulated runs of each model over what was recorded.
    pub seeds: u64,
    /// Threads that live through validation worlds.
    pub threads: NonZeroUsize,
    /// What counts as no worse.
    pub margins: Margins,
}

/// What the offline gate is asked.
pub struct Case {
    /// The model in use.
    pub base: Checkpoint,
    /// What it is called.
    pub called: String,
    /// A candidate that came from elsewhere.
    pub given: Option<Checkpoint>,
    /// What was recorded, to learn from.
    pub experiences: Vec<Experience>,
    /// What was recorded, to simulate over.
    pub scenes: Vec<RecordedScenario>,
    /// What the agent's policy is told.
    pub params: Value,
    /// What was typed, for the candidate's card.
    pub command: String,
}

/// What came of the offline gate.
pub struct Offline {
    /// The candidate, with its card.
    pub candidate: Checkpoint,
    /// What it was learned from; absent where it came from elsewhere.
    pub studied: Option<Studied>,
    /// Whether it passes.
    pub ruling: Ruling,
}

/// Both models as an agent that is told `params` decides by them.
pub struct Pair {
    base: Dqn,
    candidate: Dqn,
}

impl Pair {
    /// The model in use, and the candidate.
    pub fn new(base: &Checkpoint, candidate: &Checkpoint, params: &Value) -> anyhow::Result<Self> {
        let made = |model: &Checkpoint| registry::learned(params, Some(model), &cpu());
        Ok(Self { base: made(base).context("the model in use")?, candidate: made(candidate).context("the candidate")? })
    }

    /// What simulating both over each of `scenes` says; `None` where it was stopped. Of a scene in which nothing was answered nothing can be said.
    pub fn estimates(&self, scenes: &[RecordedScenario], seeds: u64, stop: &AtomicBool) -> anyhow::Result<Option<Vec<Estimate>>> {
        let mut estimates = Vec::new();
        for scene in scenes {
            let comparison = match scene.compare(&self.base, &self.candidate, seeds, stop) {
                Ok(Some(comparison)) => comparison,
                Ok(None) => return Ok(None),
                Err(_) => continue,
            };
            let (function, ticks) = (scene.function.to_string(), scene.simulation.ticks());
            let (violated, cost) = (compared(&comparison.violation), compared(&comparison.cost));
            estimates.push(Estimate { function, ticks, violated, cost });
        }
        Ok(Some(estimates))
    }

    /// What both made of the States of `recorded`.
    pub fn shadow(&self, recorded: &[Recorded]) -> anyhow::Result<Shadowed> {
        let mut seen = Shadowed::default();
        for function in recorded {
            let (mut memory, mut memory_of_base) = (Memory::default(), Memory::default());
            for state in &function.states {
                if state.observed_at_ms < function.since {
                    memory.of::<History>().see(state);
                    memory_of_base.of::<History>().see(state);
                    continue;
                }
                let one = |dqn: &Dqn, memory: &mut Memory| -> anyhow::Result<(Valued, Option<_>)> {
                    let valued = dqn.see_all(&mut [(state, memory)])?.pop().context("one State is valued once")?;
                    let wanted = dqn.decision(state, &valued).wanted();
                    Ok((valued, wanted))
                };
                let (valued, wanted) = one(&self.candidate, &mut memory)?;
                let (_, wanted_by_base) = one(&self.base, &mut memory_of_base)?;
                seen.decisions += 1;
                seen.not_finite += usize::from(valued.menu.mask().allowed().any(|choice| !valued.values[choice].is_finite()));
                seen.strange += usize::from(valued.strangeness.is_nan() || valued.strangeness > FAR);
                seen.differ += usize::from(wanted != wanted_by_base);
            }
        }
        Ok(seen)
    }
}

fn compared(metric: &MetricComparison) -> Compared {
    let (acting, other, difference) = (metric.acting, metric.other, metric.difference);
    Compared { base: acting.mean, candidate: other.mean, low: difference.low, high: difference.high, error: metric.simulation_error() }
}

impl Effort {
    /// Learns the candidate of `case`, unless one is given, and holds it against the model in use on validation worlds and over what was recorded; `None` where it
    /// was stopped.
    pub fn offline(&self, case: Case, stop: &AtomicBool) -> anyhow::Result<Option<Offline>> {
        let Case { base, called, given, experiences, scenes, params, command } = case;
        let base = &base;
        let stopped = || stop.load(Ordering::Relaxed);
        let (mut candidate, studied) = match given {
            Some(candidate) => (candidate, None),
            None => match self.study.learn(base, &experiences, &cpu(), &stopped)? {
                Some(studied) => (studied.model.clone(), Some(studied)),
                None => return Ok(None),
            },
        };
        let (of_base, of_candidate) = (self.validation(base)?, self.validation(&candidate)?);
        if let Some(studied) = &studied {
            let steps = studied.recorded + studied.simulated;
            let judged = |policy: &str, score: &Score| Judged {
                policy: policy.to_owned(),
                part: Part::Validation,
                worlds: self.worlds,
                mean: score.mean,
            };
            let judged = vec![judged("dqn", &of_candidate), judged(&format!("dqn, {called}"), &of_base)];
            candidate.header.card =
                Some(Card { command, ticks: steps as u64, domain: self.study.domain.clone(), judged, specialist: None });
            candidate.header.note = format!("fine-tuned from {called} ({}) on {} recorded ticks", base.fingerprint(), studied.recorded);
        }
        let mut ruling = self.margins.validation(&of_base.mean, &of_candidate.mean);
        if ruling.passes() {
            let Some(estimates) = Pair::new(base, &candidate, &params)?.estimates(&scenes, self.seeds, stop)? else { return Ok(None) };
            let estimated = self.margins.estimated(&estimates, true);
            ruling = ruling.and(estimated);
        }
        if stopped() {
            return Ok(None);
        }
        Ok(Some(Offline { candidate, studied, ruling }))
    }

    /// What `model` is worth on validation worlds.
    fn validation(&self, model: &Checkpoint) -> anyhow::Result<Score> {
        let court = Court {
            domain: self.study.domain.clone(),
            worth: model.header.worth.unwrap_or_default(),
            caution: Caution::JUDGED,
            part: Part::Validation,
            worlds: 0..self.worlds,
            threads: self.threads,
        };
        Ok(Score::of(&court.network(&Dqn::new(model, DqnParams::default(), &cpu())?)?))
    }
}
