//! Contestants on this machine: real functions beside each other under real load, each scaled by an agent of its own, and what came of them. Owns the run and how its
//! figures are told from what services say; starting and stopping belong to `qscale up`.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use qscale_common::load::FunctionLoad;
use qscale_common::name::{FunctionId, Name};
use qscale_common::platform::{FunctionSpec, InitialAllocation};
use qscale_common::policy::Mode;
use qscale_common::runtime::clock::ClockRate;
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::Allocation;
use qscale_evaluate::results::rounded;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::experiment::{Experiment, Judged, NUMBER, Which};
use super::live::{Course, Figure, Lived, Stopped};
use crate::system::StateDir;
use crate::up::board::{Board, Entry};
use crate::up::plan::{LoadPlan, Plan, Planned, function_spec};
use crate::up::{self, Backend, Look};

/// Folder beside the results in which the system of a run keeps its state; emptied before each, so that its name should be nobody else's.
pub const SYSTEM: &str = "qscale-system";

/// A contestant: what it is called, and what its agent is told.
pub struct Agent {
    /// Its name, which its function bears too.
    pub name: &'static str,
    /// What the configuration of its agent says.
    pub told: Map<String, Value>,
}

/// Lets all of `agents` decide at the same time under `load`, each on a copy of the function; what came of each, in their order. The system keeps its state in `folder`,
/// which is emptied before: no agent should remember another run.
pub async fn run(
    experiment: Experiment,
    load: &Judged,
    agents: &[Agent],
    seed: u64,
    folder: &Path,
    token: &CancellationToken,
) -> anyhow::Result<Vec<Lived>> {
    let _absent = std::fs::remove_dir_all(folder);
    let plan = plan(experiment, load, agents, seed, folder)?;
    let limits = experiment.which == Which::Vertical;
    let look = Look { drawn: false, told: false, limits, duration: Some(Span(experiment.length())) };
    let lived = up::live(&plan, look, token).await;
    anyhow::ensure!(!token.is_cancelled(), Stopped);
    let lived = lived?;
    let all = lived.load.as_ref();
    let void =
        all.filter(|load| load.void).map(|load| format!("the load generator declares the run void: {}", load.void_reasons.join("; ")));
    let of = |planned: &Planned| {
        let its = lived.load_of(&planned.id).with_context(|| format!("the load generator tells nothing of {}", planned.id))?;
        let mut lived = lived_by(experiment, planned, &lived.board, its)?;
        lived.remarks.extend(void.clone());
        Ok(lived)
    };
    plan.functions.iter().map(of).collect()
}

fn plan(experiment: Experiment, load: &Judged, agents: &[Agent], seed: u64, folder: &Path) -> anyhow::Result<Plan> {
    let spec = function_spec(experiment.function())?;
    let Allocation { replicas, cpu_millicores, memory_mib } = experiment.beginning();
    let allocation = InitialAllocation { replicas, cpu_millicores, memory_mib };
    let mut functions = Vec::new();
    for agent in agents {
        let name = Name::new(agent.name).context("the name of a contestant")?;
        let mut policy = experiment.policy();
        let spec = FunctionSpec { namespace: policy.namespace.clone(), name: name.clone(), listen: None, allocation, ..spec.clone() };
        let id = spec.id();
        (policy.name, policy.agent, policy.mode) = (name.clone(), name.clone(), Mode::Active);
        functions.push(Planned { id, agent: name, spec, policy });
    }
    let load_plan = LoadPlan {
        pattern: load.pattern.clone(),
        protocol: "direct:fibonacci".to_owned(),
        inputs: vec![format!("name={NUMBER}")],
        duration: Some(Span(experiment.length())),
        seed,
        evenly: true,
    };
    Ok(Plan {
        agents: functions.iter().map(|planned| planned.agent.clone()).collect(),
        told: functions.iter().zip(agents).map(|(planned, agent)| (planned.agent.clone(), agent.told.clone())).collect(),
        functions,
        backend: Backend::Local,
        pace: ClockRate::REAL,
        state: StateDir::new(folder)?,
        load: Some(load_plan),
        load_words: load.pattern.clone(),
    })
}

/// What came of one contestant: its requests as the load generator saw them, and its allocation as States tell it.
fn lived_by(experiment: Experiment, planned: &Planned, board: &Board, load: &FunctionLoad) -> anyhow::Result<Lived> {
    let entry = known(board, &planned.id)?;
    let summary = board.summary(&planned.id, planned.agent.as_str(), None);
    let bound_us = planned.policy.objective.latency.get().as_secs_f64() * 1e6;
    let timeout_ms = planned.spec.timeout.0.as_secs_f64() * 1000.0;
    let hours = experiment.length().as_secs_f64() / 3600.0;
    let failed = load.failed;
    let p95_ms = match load.latency_ms {
        Some(latency) if failed == 0 => latency.p95,
        _ => percentile(&entry.latencies, failed, 0.95).map_or(timeout_ms, |us| us / 1000.0),
    };
    let prices = &planned.policy.prices;
    let mean = &summary.mean_allocation;
    let figure = |figure| match figure {
        Figure::P95Ms => p95_ms,
        Figure::LateShare => late_share(&entry.latencies, failed, bound_us),
        Figure::ThroughputRps => load.succeeded as f64 / experiment.length().as_secs_f64(),
        Figure::Replicas => mean.replicas,
        Figure::Cores => mean.cores,
        Figure::CostPerHour => mean.cores * prices.cpu_core_hour.get() + mean.memory_gib * prices.memory_gib_hour.get(),
        Figure::ChangesPerHour => summary.changes as f64 / hours,
    };
    let mut remarks = Vec::new();
    if entry.beside > 0 {
        remarks.push(format!(
            "{} of {} decisions were those of the rule beside the network, which was not trusted",
            entry.beside, summary.actions
        ));
    }
    if summary.fallback_actions > 0 {
        remarks.push(format!("{} decisions were the actuator's, as the agent was silent", summary.fallback_actions));
    }
    if summary.missed_ticks > 0 {
        remarks.push(format!("{} ticks passed without a State: the machine was too busy", summary.missed_ticks));
    }
    let figures = Figure::ALL.into_iter().map(|each| (each, rounded(figure(each)))).collect();
    Ok(Lived { figures, course: course(experiment, entry), remarks })
}

fn known<'a>(board: &'a Board, id: &FunctionId) -> anyhow::Result<&'a Entry> {
    let entry = board.functions.get(id).filter(|entry| entry.state.is_some() && !entry.offered.is_empty());
    entry.with_context(|| format!("nothing was measured of {id}; the logs of the run are in the folder {SYSTEM} beside the results"))
}

/// What was measured in each tick since the load began.
fn course(experiment: Experiment, entry: &Entry) -> Course {
    // A Load tells of the second before it.
    let began = entry.offered.front().map_or(Timestamp(0), |(at, _)| at.minus(Duration::from_secs(1)));
    let ticks = experiment.ticks() as usize;
    let sampled = |series: &VecDeque<(Timestamp, f64)>| sampled(series, began, experiment.tick(), ticks);
    // What is in force stays so until it changes; before the first State it was what everybody begins with.
    let kept = |series: &VecDeque<(Timestamp, f64)>, first: f64| {
        let values = sampled(series).into_iter();
        let kept = values.scan(first, |last, value| {
            *last = value.unwrap_or(*last);
            Some(*last)
        });
        kept.collect()
    };
    let begins: Allocation = experiment.beginning();
    Course {
        offered_rps: kept(&entry.offered, 0.0),
        throughput_rps: kept(&entry.achieved, 0.0),
        latency_ms: sampled(&entry.latency),
        replicas: kept(&entry.replicas, f64::from(begins.replicas.0)),
        cores: kept(&entry.allocated, begins.total_cores()),
    }
}

/// The value of each of so many ticks from `began` on, where one came about every tick; `None` where none came.
fn sampled(series: &VecDeque<(Timestamp, f64)>, began: Timestamp, tick: Duration, ticks: usize) -> Vec<Option<f64>> {
    let mut values = vec![None; ticks];
    let Some((first, _)) = series.iter().find(|(at, _)| *at > began) else { return values };
    // What was told at the end of a tick is of that tick. Values come at one phase of it, give or take: half a tick earlier and later still counts.
    let phase = (first.since(began).as_millis() - 1) % tick.as_millis() + 1;
    for (at, value) in series.iter().filter(|(at, _)| at >= first) {
        let index = (at.since(began).as_millis() + tick.as_millis() / 2).saturating_sub(phase) / tick.as_millis();
        if let Some(place) = usize::try_from(index).ok().and_then(|index| values.get_mut(index)) {
            *place = Some(rounded(*value));
        }
    }
    values
}

/// The share of all answers that came after `bound_us` or not at all. Within a bucket, which is a quarter wider than the one before, answers are taken as spread evenly.
fn late_share(latencies: &BTreeMap<u64, u64>, failed: u64, bound_us: f64) -> f64 {
    let (mut from, mut late, mut all) = (0.0, failed as f64, failed as f64);
    for (le_us, count) in latencies {
        let (to, count) = (*le_us as f64, *count as f64);
        // Empty buckets are left out, so that a bucket begins no earlier than its own width tells.
        let from_here = f64::max(from, to / WIDER);
        let within = ((to - bound_us) / (to - from_here).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
        late += within * count;
        all += count;
        from = to;
    }
    if all > 0.0 { late / all } else { 0.0 }
}

/// How many times as wide a bucket of latencies is as the one before.
const WIDER: f64 = 1.25;

/// The latency, in microseconds, that so great a share of all answers does not exceed; `None` where that is a failure.
fn percentile(latencies: &BTreeMap<u64, u64>, failed: u64, share: f64) -> Option<f64> {
    let all = latencies.values().sum::<u64>() + failed;
    let mut rest = share * all as f64;
    for (le_us, count) in latencies {
        let (to, count) = (*le_us as f64, *count as f64);
        if rest <= count {
            let from = to / WIDER;
            return Some(from + (to - from) * rest / count.max(f64::MIN_POSITIVE));
        }
        rest -= count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::experiment::Place;
    use super::*;

    fn series(values: &[(u64, f64)]) -> VecDeque<(Timestamp, f64)> {
        values.iter().map(|(at, value)| (Timestamp(*at), *value)).collect()
    }

    #[test]
    fn a_failure_is_late_and_a_bucket_is_spread_evenly() {
        // 80 to 100 ms hold half of the answers, 100 to 125 ms the others; 105 ms divides the latter 1 to 4.
        let latencies = BTreeMap::from([(100_000, 10), (125_000, 10)]);
        assert!((late_share(&latencies, 0, 105_000.0) - 0.4).abs() < 1e-9);
        assert!((late_share(&latencies, 5, 105_000.0) - 13.0 / 25.0).abs() < 1e-9);
        assert_eq!((late_share(&latencies, 0, 1e6), late_share(&BTreeMap::new(), 0, 1.0)), (0.0, 0.0));
        assert!((percentile(&latencies, 0, 0.75).expect("no failure") - 112_500.0).abs() < 1e-6);
        assert_eq!(percentile(&latencies, 5, 0.95), None);
    }

    #[test]
    fn a_course_has_a_value_for_every_tick() {
        let experiment = Experiment { which: Which::Horizontal, place: Place::local(Duration::from_secs(5)) };
        let mut entry = Entry::default();
        (entry.offered, entry.achieved) = (series(&[(11_000, 5.0), (12_000, 6.0), (14_000, 7.0)]), series(&[(11_000, 5.0), (12_000, 6.0)]));
        (entry.latency, entry.replicas) = (series(&[(9_000, 80.0), (12_500, 90.0)]), series(&[(11_500, 3.0), (12_400, 4.0)]));
        let course = course(experiment, &entry);
        assert_eq!(course.offered_rps, [5.0, 6.0, 6.0, 7.0, 7.0]);
        assert_eq!(course.throughput_rps, [5.0, 6.0, 6.0, 6.0, 6.0]);
        assert_eq!(course.latency_ms, [None, None, Some(90.0), None, None]);
        assert_eq!(course.replicas, [1.0, 3.0, 4.0, 4.0, 4.0]);
        assert_eq!(course.cores, [0.05; 5]);
    }

    #[test]
    fn every_contestant_has_a_function_and_an_agent_of_its_own_under_the_same_load() {
        let folder = qscale_tests::Folder::new("reproduce");
        for which in [Which::Horizontal, Which::Vertical] {
            let experiment = Experiment { which, place: Place::local(Duration::from_secs(60)) };
            let told = Map::from_iter([("policy".to_owned(), Value::from("threshold"))]);
            let agents = ["threshold", "tabular-q"].map(|name| Agent { name, told: told.clone() });
            let plan = plan(experiment, &experiment.loads()[3], &agents, 7, folder.path()).expect("a plan");
            let names: Vec<String> = plan.functions.iter().map(|planned| planned.id.to_string()).collect();
            assert_eq!(names, ["reproduce/threshold", "reproduce/tabular-q"]);
            for planned in &plan.functions {
                assert_eq!((planned.policy.function(), &planned.policy.agent), (planned.id.clone(), &planned.agent));
                assert_eq!(plan.told[&planned.agent]["policy"], "threshold");
                assert!(planned.policy.bounds.contain(planned.spec.allocation.into()));
            }
            assert!(plan.load.is_some_and(|load| load.evenly && load.seed == 7 && load.duration == Some(Span::seconds(60))));
        }
    }
}
