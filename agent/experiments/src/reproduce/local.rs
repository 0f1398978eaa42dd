//! Runs on this machine: one real function and one agent per competitor, under the same load. Owns the plan of a run and its
//! metrics; start and stop belong to `qscale_up`.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use qscale_common::load::FunctionLoad;
use qscale_common::name::{FunctionId, Name};
use qscale_common::platform::{FunctionSpec, InitialAllocation};
use qscale_common::policy::Mode;
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::Allocation;
use qscale_common::workload::Gaps;
use qscale_evaluate::results::rounded;
use qscale_up::dashboard::{Dashboard, FunctionRecord};
use qscale_up::plan::{Plan, PlannedFunction, function_spec};
use qscale_up::state_dir::StateDir;
use qscale_up::{LoadPlan, RequestForm, ViewOptions};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::experiment::{Experiment, ExperimentKind, NUMBER, StudyLoad};
use super::run::{RunMetric, RunRecord, Stopped, StudySeries};

/// State folder of a run's system, in the folder of the results; deleted before each run.
pub const SYSTEM: &str = "qscale-system";

/// A competitor's agent.
pub struct StudyAgent {
    /// Name of the competitor, its agent and its function.
    pub name: &'static str,
    /// Configuration of the agent.
    pub configuration: Map<String, Value>,
}

/// Runs all of `agents` at the same time under `load`, each on a copy of the function; returns their results in order.
/// The system's state is in `folder`, which is deleted first, so that no agent remembers another run.
///
/// # Errors
/// [`Stopped`] once `token` is cancelled; when the system does not start or nothing is measured.
pub async fn run(
    experiment: Experiment,
    load: &StudyLoad,
    agents: &[StudyAgent],
    seed: u64,
    folder: &Path,
    token: &CancellationToken,
) -> anyhow::Result<Vec<RunRecord>> {
    let _absent = std::fs::remove_dir_all(folder);
    let plan = plan(experiment, load, agents, seed)?;
    let limits = experiment.kind == ExperimentKind::Vertical;
    let look = ViewOptions { draw: false, print: false, require_limits: limits, duration: Some(Span(experiment.length())) };
    let result = qscale_up::run_until_done(&plan, &StateDir::new(folder)?, look, token).await;
    anyhow::ensure!(!token.is_cancelled(), Stopped);
    let result = result?;
    let all = result.load.as_ref();
    let void =
        all.filter(|load| load.void).map(|load| format!("the load generator declares the run void: {}", load.void_reasons.join("; ")));
    let of = |planned: &PlannedFunction| {
        let its = result.load_of(&planned.id).with_context(|| format!("no summary of the load on {}", planned.id))?;
        let mut result = record_of(experiment, planned, &result.dashboard, its)?;
        result.remarks.extend(void.clone());
        Ok(result)
    };
    plan.functions.iter().map(of).collect()
}

fn plan(experiment: Experiment, load: &StudyLoad, agents: &[StudyAgent], seed: u64) -> anyhow::Result<Plan> {
    let spec = function_spec(experiment.function())?;
    let Allocation { replicas, cpu_millicores, memory_mib } = experiment.beginning();
    let allocation = InitialAllocation { replicas, cpu_millicores, memory_mib };
    let mut functions = Vec::new();
    for agent in agents {
        let name = Name::new(agent.name).context("invalid name of a competitor")?;
        let mut policy = experiment.policy();
        let spec = FunctionSpec { namespace: policy.namespace.clone(), name: name.clone(), listen: None, allocation, ..spec.clone() };
        let id = spec.id();
        (policy.name, policy.agent, policy.mode) = (name.clone(), name.clone(), Mode::Active);
        functions.push(PlannedFunction { id, agent: name, spec, policy });
    }
    let load_plan = LoadPlan {
        pattern: load.pattern.clone(),
        gaps: Gaps::Constant,
        request: RequestForm { protocol: "direct:fibonacci".to_owned(), inputs: vec![format!("name={NUMBER}")] },
        duration: Some(Span(experiment.length())),
        seed,
    };
    Ok(Plan {
        agents: agents.iter().zip(&functions).map(|(agent, planned)| (planned.agent.clone(), agent.configuration.clone())).collect(),
        functions,
        load: Some(load_plan),
        load_description: load.pattern.clone(),
        ..Plan::default()
    })
}

/// Result of one competitor: requests as measured by the load generator, allocations from States.
fn record_of(experiment: Experiment, planned: &PlannedFunction, dashboard: &Dashboard, load: &FunctionLoad) -> anyhow::Result<RunRecord> {
    let entry = known(dashboard, &planned.id)?;
    let summary = dashboard.summary(&planned.id, planned.agent.as_str(), None);
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
        RunMetric::P95Ms => p95_ms,
        RunMetric::LateShare => late_share(&entry.latencies, failed, bound_us),
        RunMetric::ThroughputRps => load.succeeded as f64 / experiment.length().as_secs_f64(),
        RunMetric::Replicas => mean.replicas,
        RunMetric::Cores => mean.cores,
        RunMetric::CostPerHour => mean.cores * prices.cpu_core_hour.get() + mean.memory_gib * prices.memory_gib_hour.get(),
        RunMetric::ChangesPerHour => summary.changes as f64 / hours,
    };
    let mut remarks = Vec::new();
    if entry.network_fallbacks > 0 {
        remarks.push(format!(
            "the fallback rule made {} of {} decisions, because the network was not trusted",
            entry.network_fallbacks, summary.actions
        ));
    }
    if summary.fallback_actions > 0 {
        remarks.push(format!("the actuator's fallback made {} decisions, because the agent was silent", summary.fallback_actions));
    }
    if summary.missed_ticks > 0 {
        remarks.push(format!("{} ticks without a State: the machine was overloaded", summary.missed_ticks));
    }
    let figures = RunMetric::ALL.into_iter().map(|each| (each, rounded(figure(each)))).collect();
    Ok(RunRecord { figures, series: time_series(experiment, entry), remarks })
}

fn known<'a>(dashboard: &'a Dashboard, id: &FunctionId) -> anyhow::Result<&'a FunctionRecord> {
    let record = dashboard.functions.get(id).filter(|record| record.state.is_some() && !record.offered.is_empty());
    record.with_context(|| format!("no measurements of {id}; see the logs in {SYSTEM} in the folder of the results"))
}

/// Measurements of each tick since the start of the load.
fn time_series(experiment: Experiment, entry: &FunctionRecord) -> StudySeries {
    // A Load covers the second before it.
    let began = entry.offered.front().map_or(Timestamp(0), |(at, _)| at.minus(Duration::from_secs(1)));
    let ticks = experiment.ticks() as usize;
    let sampled = |series: &VecDeque<(Timestamp, f64)>| sampled(series, began, experiment.tick(), ticks);
    // An allocation lasts until it changes; before the first State it is the initial one.
    let kept = |series: &VecDeque<(Timestamp, f64)>, first: f64| {
        let values = sampled(series).into_iter();
        let kept = values.scan(first, |last, value| {
            *last = value.unwrap_or(*last);
            Some(*last)
        });
        kept.collect()
    };
    let begins: Allocation = experiment.beginning();
    StudySeries {
        offered_rps: kept(&entry.offered, 0.0),
        throughput_rps: kept(&entry.achieved, 0.0),
        latency_ms: sampled(&entry.latency),
        replicas: kept(&entry.replicas, f64::from(begins.replicas.0)),
        cores: kept(&entry.allocated, begins.total_cores()),
    }
}

/// The value of each of `ticks` from `began` on, for values that arrive about once a tick; `None` without a value.
fn sampled(series: &VecDeque<(Timestamp, f64)>, began: Timestamp, tick: Duration, ticks: usize) -> Vec<Option<f64>> {
    let mut values = vec![None; ticks];
    let Some((first, _)) = series.iter().find(|(at, _)| *at > began) else { return values };
    // A value at the end of a tick belongs to that tick. Values arrive at one phase of the tick, plus or minus half a tick.
    let phase = (first.since(began).as_millis() - 1) % tick.as_millis() + 1;
    for (at, value) in series.iter().filter(|(at, _)| at >= first) {
        let index = (at.since(began).as_millis() + tick.as_millis() / 2).saturating_sub(phase) / tick.as_millis();
        if let Some(value_of_tick) = usize::try_from(index).ok().and_then(|index| values.get_mut(index)) {
            *value_of_tick = Some(rounded(*value));
        }
    }
    values
}

/// Share of requests that took longer than `bound_us` or failed. Latencies are assumed to be uniform within a bucket.
fn late_share(latencies: &BTreeMap<u64, u64>, failed: u64, bound_us: f64) -> f64 {
    let (mut from, mut late, mut all) = (0.0, failed as f64, failed as f64);
    for (le_us, count) in latencies {
        let (to, count) = (*le_us as f64, *count as f64);
        // Empty buckets are omitted, so the previous bucket may not be adjacent.
        let from_here = f64::max(from, to / WIDER);
        let within = ((to - bound_us) / (to - from_here).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
        late += within * count;
        all += count;
        from = to;
    }
    if all > 0.0 { late / all } else { 0.0 }
}

/// Ratio of the bounds of adjacent buckets.
const WIDER: f64 = 1.25;

/// Quantile of latency at `share`, microseconds; `None` if it is a failure.
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
    use super::super::experiment::Site;
    use super::*;

    fn series(values: &[(u64, f64)]) -> VecDeque<(Timestamp, f64)> {
        values.iter().map(|(at, value)| (Timestamp(*at), *value)).collect()
    }

    #[test]
    fn failures_are_late_and_buckets_are_uniform() {
        // Half of the answers take 80 to 100 ms, the others 100 to 125 ms; 105 ms divides the latter 1 to 4.
        let latencies = BTreeMap::from([(100_000, 10), (125_000, 10)]);
        assert!((late_share(&latencies, 0, 105_000.0) - 0.4).abs() < 1e-9);
        assert!((late_share(&latencies, 5, 105_000.0) - 13.0 / 25.0).abs() < 1e-9);
        assert_eq!((late_share(&latencies, 0, 1e6), late_share(&BTreeMap::new(), 0, 1.0)), (0.0, 0.0));
        assert!((percentile(&latencies, 0, 0.75).expect("no failure") - 112_500.0).abs() < 1e-6);
        assert_eq!(percentile(&latencies, 5, 0.95), None);
    }

    #[test]
    fn time_series_have_a_value_for_every_tick() {
        let experiment = Experiment { kind: ExperimentKind::Horizontal, site: Site::local(Duration::from_secs(5)) };
        let mut entry = FunctionRecord::default();
        (entry.offered, entry.achieved) = (series(&[(11_000, 5.0), (12_000, 6.0), (14_000, 7.0)]), series(&[(11_000, 5.0), (12_000, 6.0)]));
        (entry.latency, entry.replicas) = (series(&[(9_000, 80.0), (12_500, 90.0)]), series(&[(11_500, 3.0), (12_400, 4.0)]));
        let series = time_series(experiment, &entry);
        assert_eq!(series.offered_rps, [5.0, 6.0, 6.0, 7.0, 7.0]);
        assert_eq!(series.throughput_rps, [5.0, 6.0, 6.0, 6.0, 6.0]);
        assert_eq!(series.latency_ms, [None, None, Some(90.0), None, None]);
        assert_eq!(series.replicas, [1.0, 3.0, 4.0, 4.0, 4.0]);
        assert_eq!(series.cores, [0.05; 5]);
    }

    #[test]
    fn every_competitor_has_its_own_function_and_agent() {
        for kind in [ExperimentKind::Horizontal, ExperimentKind::Vertical] {
            let experiment = Experiment { kind, site: Site::local(Duration::from_secs(60)) };
            let configuration = Map::from_iter([("policy".to_owned(), Value::from("threshold"))]);
            let agents = ["threshold", "tabular-q"].map(|name| StudyAgent { name, configuration: configuration.clone() });
            let plan = plan(experiment, &experiment.loads()[3], &agents, 7).expect("a plan");
            let names: Vec<String> = plan.functions.iter().map(|planned| planned.id.to_string()).collect();
            assert_eq!(names, ["reproduce/threshold", "reproduce/tabular-q"]);
            for planned in &plan.functions {
                assert_eq!((planned.policy.function(), &planned.policy.agent), (planned.id.clone(), &planned.agent));
                assert_eq!(plan.agents[&planned.agent]["policy"], "threshold");
                assert!(planned.policy.bounds.contain(planned.spec.allocation.into()));
            }
            assert!(
                plan.load.is_some_and(|load| load.gaps == Gaps::Constant && load.seed == 7 && load.duration == Some(Span::seconds(60)))
            );
        }
    }
}
