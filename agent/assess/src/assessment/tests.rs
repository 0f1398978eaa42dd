use std::time::Duration;

use qscale_common::policy::{Guardrails, Objective};
use qscale_common::time::{Span, TickLength};
use qscale_common::units::{Mebibytes, Millicores};
use serde_json::json;

use super::*;
use crate::blocks::HistoryBlock;
use crate::html::html;
use crate::replay::{ReplicaSize, SimulatedStep};
use crate::report;

static ON: AtomicBool = AtomicBool::new(false);
const STEPS: usize = 480;
const SIZE: ReplicaSize = ReplicaSize { cpu: Millicores(200), memory: Mebibytes(128), request_share: 1.0 };
const TRUTH: CalibratedDemand =
    CalibratedDemand { cpu_s: 0.008, waiting_s: 0.01, sigma: 0.2, startup_s: 2.0, workers: 0, parallelism: 1, memory_mib: 40 };

fn hpa() -> ActingPolicy {
    ActingPolicy { policy: "hpa".to_owned(), params: json!({ "cpu_utilization": 60 }), guard: Guardrails::permissive() }
}

fn options(policies: &[&str]) -> AssessOptions {
    let objective = Objective { latency: Span::millis(150).try_into().expect("valid"), ..Objective::default() };
    AssessOptions {
        acting: ActingPolicies::default(),
        otherwise: hpa(),
        limits: CommonLimits { objective, tick: TickLength::default(), keep_size: false },
        policies: policies.iter().map(|name| (*name).to_owned()).collect(),
        model: None,
        threads: NonZeroUsize::new(2).expect("two"),
    }
}

/// Two hours of quarter minutes of a function with the true demand under `policy`, whose limits are `limits`.
fn run(history: &WorkloadHistory, limits: &ScalingPolicy, policy: &dyn Policy, seed: u64) -> Vec<SimulatedStep> {
    let block = HistoryBlock { begin: 0, warm_up: 0, measured: STEPS };
    let profile = Arc::new(TRUTH.profile("f", DemandFactors::default()));
    let setup = replay::setup(history, &block, SIZE, &profile, limits);
    replay::simulate(history, &block, setup, &[], Driver::Policy(policy), seed, &ON).expect("not stopped")
}

/// The history of such a function under an HPA, with a wave of 10 to 70 requests/s.
fn history(limits: &ScalingPolicy) -> WorkloadHistory {
    let mut history = WorkloadHistory::empty("shop/cart".parse().expect("valid"), Timestamp(0), Duration::from_secs(15), STEPS);
    for (number, step) in history.steps.iter_mut().enumerate() {
        step.set(HistoryMetric::ArrivalsRps, 40.0 - 30.0 * (number as f64 / 15.0).cos());
        step.set(HistoryMetric::Replicas, 1.0);
        step.set(HistoryMetric::CpuLimitMillicores, f64::from(SIZE.cpu.0));
        step.set(HistoryMetric::MemoryLimitMib, f64::from(SIZE.memory.0));
        step.set(HistoryMetric::MemoryMib, 40.0);
        step.set(HistoryMetric::StartupS, 2.0);
        step.set(HistoryMetric::FailedShare, 0.0);
    }
    let rule = registry::by_name("hpa", &hpa().params, None, &cpu()).expect("valid");
    let steps = run(&history, limits, rule.as_ref(), 99);
    for (step, simulated) in history.steps.iter_mut().zip(steps) {
        step.set(HistoryMetric::Replicas, simulated.replicas);
        step.set(HistoryMetric::CpuCores, simulated.cpu_cores.unwrap_or(f64::NAN));
        step.set(HistoryMetric::MedianMs, simulated.median_ms.unwrap_or(f64::NAN));
        step.set(HistoryMetric::ObjectiveMs, simulated.objective_ms.unwrap_or(f64::NAN));
    }
    history
}

fn limits(options: &AssessOptions) -> ScalingPolicy {
    let mut limits = ScalingPolicy::new("shop/cart".parse().expect("valid"));
    limits.objective = options.limits.objective;
    limits.bounds = everything();
    limits.guard = Guardrails::permissive();
    limits
}

#[test]
fn estimates_contain_what_happens_when_another_policy_acts() {
    let options = options(&["dqn", "peak-both", "static"]);
    let history = history(&limits(&options));
    let found = assess(std::slice::from_ref(&history), &options, &ON, |_| ()).expect("valid policies").expect("not stopped");
    let [workload] = found.workloads.as_slice() else { panic!("{:?}", found.skipped) };
    assert!(workload.reproduction.faults.is_empty(), "{:?}", workload.reproduction);
    let names: Vec<&str> = workload.estimates.iter().map(|estimate| estimate.policy.as_str()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    for estimate in &workload.estimates {
        let name = estimate.policy.split(',').next().expect("a name");
        let policy = registry::by_name(name, &estimate.params, None, &cpu()).expect("valid");
        let steps = run(&history, &workload.policy, policy.as_ref(), 7);
        let mut sums = StepSums::default();
        steps[STEPS / 2..].iter().for_each(|step| sums.add_simulated(step));
        let (cost, violated) = (sums.figures().cost_per_hour.expect("simulated"), sums.figures().violated_share.expect("simulated"));
        let within = |range: EstimatedRange, value: f64| range.low <= value && value <= range.high;
        assert!(within(estimate.cost_per_hour, cost), "{name}: {cost}, {:?}", estimate.cost_per_hour);
        assert!(within(estimate.violated_share, violated), "{name}: {violated}, {:?}", estimate.violated_share);
        assert!(estimate.cost_per_hour.high < 2.0 * estimate.cost_per_hour.low, "the interval says something: {estimate:?}");
    }
    let table = report::csv(&found);
    assert_eq!((table.lines().count(), table.lines().nth(1).is_some_and(|line| line.contains("measured"))), (1 + 2 + 3, true));
    let totals = report::totals(&found);
    assert_eq!((totals.len(), totals[0].policies.len(), totals[0].reproduced), (1, 4, 1));
    assert!(
        (totals[0].measured_cost_per_hour.expect("measured") - workload.reproduction.measured.cost_per_hour.expect("measured")).abs()
            < 1e-12
    );
    let page = html(&found, &totals, &[], &["a <b> remark".to_owned()]);
    for estimate in &workload.estimates {
        assert!(page.contains(&format!("<th scope=\"row\">{}</th>", estimate.policy)), "{}", estimate.policy);
    }
    assert_eq!(page.matches("class=\"mark").count(), workload.estimates.len() + 1, "each policy and the acting one");
    assert!(page.contains("a &lt;b&gt; remark") && !page.contains("src=") && !page.contains("href="), "nothing is loaded, names are text");
}

#[test]
fn another_autoscaler_than_the_acting_one_is_not_reproduced() {
    let options = options(&["static"]);
    let mut history = history(&limits(&options));
    for step in &mut history.steps {
        step.set(HistoryMetric::Replicas, 9.0);
    }
    let found = assess(&[history], &options, &ON, |_| ()).expect("valid policies").expect("not stopped");
    let workload = &found.workloads[0];
    assert!(
        workload.reproduction.faults.iter().any(|fault| fault.starts_with("cost under the acting autoscaler")),
        "{:?}",
        workload.reproduction
    );
    assert!(workload.estimates.iter().all(|estimate| estimate.conclusion == AssessConclusion::Inconclusive));
}

#[test]
fn workloads_that_cannot_be_assessed_say_why() {
    let options = options(&["static"]);
    let empty = WorkloadHistory::empty("a".parse().expect("valid"), Timestamp(0), Duration::from_secs(60), 100);
    let mut idle = history(&limits(&options));
    idle.steps.iter_mut().for_each(|step| step.set(HistoryMetric::ArrivalsRps, 0.0));
    let mut short = history(&limits(&options));
    short.steps.truncate(10);
    let mut odd = history(&limits(&options));
    odd.step = Duration::from_secs(7);
    let found = assess(&[empty, idle, short, odd], &options, &ON, |_| ()).expect("valid policies").expect("not stopped");
    let reasons: Vec<&str> = found.skipped.iter().map(|skipped| skipped.reason.as_str()).collect();
    assert_eq!(reasons.len(), 4, "{reasons:?}");
    for (reason, part) in
        reasons.iter().zip(["arrivals_rps is missing", "no requests", "10 of its 10 steps", "no multiple of the control interval"])
    {
        assert!(reason.contains(part), "{reason}");
    }
    assert_eq!(assess(&[history(&limits(&options))], &options, &AtomicBool::new(true), |_| ()).expect("valid policies"), None);
}
