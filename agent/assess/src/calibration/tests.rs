use std::time::Duration;

use qscale_common::policy::{Guardrails, Objective};
use qscale_common::time::{TickLength, Timestamp};
use qscale_common::units::Allocation;

use super::*;
use crate::blocks::{BlockBudget, SplitHistory};

static ON: AtomicBool = AtomicBool::new(false);
const ALL: BlockBudget = BlockBudget { blocks: 100, requests: 1e12 };

fn policy() -> ScalingPolicy {
    let mut policy = ScalingPolicy::new("f".parse().expect("valid"));
    policy.guard = Guardrails::permissive();
    policy.objective = Objective::default();
    policy.tick = TickLength::new(Duration::from_secs(5)).expect("valid");
    policy
}

/// Measurements of a simulated function with `truth` as demand: an hour of quarter minutes with a load between 5 and 45 requests/s, on two replicas of half a core.
fn measured(truth: &CalibratedDemand) -> WorkloadHistory {
    let mut history = WorkloadHistory::empty("f".parse().expect("valid"), Timestamp(0), Duration::from_secs(15), 240);
    for (number, step) in history.steps.iter_mut().enumerate() {
        step.set(HistoryMetric::ArrivalsRps, 25.0 - 20.0 * (number as f64 / 20.0).cos());
        step.set(HistoryMetric::Replicas, 2.0);
        step.set(HistoryMetric::CpuLimitMillicores, 500.0);
        step.set(HistoryMetric::MemoryLimitMib, 128.0);
    }
    let block = HistoryBlock { begin: 0, warm_up: 0, measured: 240 };
    let size = ReplicaSize { cpu: Millicores(500), memory: Mebibytes(128), request_share: 1.0 };
    let profile = Arc::new(truth.profile("f", DemandFactors::default()));
    let setup = replay::setup(&history, &block, size, &profile, &policy());
    let recorded = vec![Allocation::new(2, 500, 128); 240];
    let steps = replay::simulate(&history, &block, setup, &recorded, Driver::Recorded, 7, &ON).expect("not stopped");
    for (step, simulated) in history.steps.iter_mut().zip(steps) {
        step.set(HistoryMetric::CpuCores, simulated.cpu_cores.unwrap_or(f64::NAN));
        step.set(HistoryMetric::MedianMs, simulated.median_ms.unwrap_or(f64::NAN));
        step.set(HistoryMetric::ObjectiveMs, simulated.objective_ms.unwrap_or(f64::NAN));
        step.set(HistoryMetric::MemoryMib, 40.0);
    }
    history
}

#[track_caller]
fn check(truth: CalibratedDemand) -> Calibration {
    let history = measured(&truth);
    let split = SplitHistory::new(&history, ALL, ALL).expect("long enough");
    let found = calibrate(&history, &split.tuning.blocks, &policy(), &ON).expect("measured").expect("not stopped");
    let demand = found.demand;
    assert!((demand.cpu_s / truth.cpu_s - 1.0).abs() < 0.05, "{demand:?}");
    assert!(found.spread.cpu < 0.1 && found.spread.waiting < 0.25, "{:?}", found.spread);
    assert_eq!((demand.memory_mib, found.size.memory, found.size.cpu), (40, Mebibytes(128), Millicores(500)));
    found
}

const TRUTH: CalibratedDemand =
    CalibratedDemand { cpu_s: 0.012, waiting_s: 0.0, sigma: 0.3, startup_s: 3.0, workers: 1, parallelism: 1, memory_mib: 40 };

#[test]
fn a_computing_function_is_found_again() {
    let found = check(TRUTH);
    assert!(found.demand.waiting_s < 0.004, "{:?}", found.demand);
    assert!(found.assumptions.iter().any(|assumption| assumption.contains("startup_s was not measured")), "{:?}", found.assumptions);
}

#[test]
fn a_waiting_function_is_found_again() {
    let found = check(CalibratedDemand { waiting_s: 0.08, workers: 0, ..TRUTH });
    assert!((found.demand.waiting_s / 0.08 - 1.0).abs() < 0.15 && found.demand.workers != 1, "{:?}", found.demand);
}

#[test]
fn without_cpu_nothing_is_calibrated_and_without_latency_it_is_assumed() {
    let mut history = measured(&TRUTH);
    for step in &mut history.steps {
        [HistoryMetric::MedianMs, HistoryMetric::ObjectiveMs].into_iter().for_each(|metric| step.set(metric, f64::NAN));
    }
    let split = SplitHistory::new(&history, ALL, ALL).expect("long enough");
    let found = calibrate(&history, &split.tuning.blocks, &policy(), &ON).expect("measured").expect("not stopped");
    assert!(found.assumptions.iter().any(|assumption| assumption.contains("latency was not measured")), "{:?}", found.assumptions);
    history.steps.iter_mut().for_each(|step| step.set(HistoryMetric::CpuCores, f64::NAN));
    assert!(calibrate(&history, &split.tuning.blocks, &policy(), &ON).is_err());
    assert_eq!(calibrate(&measured(&TRUTH), &split.tuning.blocks, &policy(), &AtomicBool::new(true)), Ok(None));
}
