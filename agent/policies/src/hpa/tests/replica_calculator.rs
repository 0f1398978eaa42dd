//! The conformance cases of the original's `replica_calculator_test`: initialisation 2 min, readiness delay 10 s, tolerance 0.1.

use super::super::replica_calculator::*;
use super::super::*;

const NOW: Timestamp = Timestamp(1_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);

fn calculator() -> Calculator {
    Calculator {
        tolerance: Tolerance { up: 0.1, down: 0.1 },
        cpu_initialization: 2 * MINUTE,
        initial_readiness_delay: Duration::from_secs(10),
    }
}

/// A pod that has long been ready, requests a core and was just measured.
fn pod(value: i64) -> Pod {
    let started = NOW.minus(60 * MINUTE);
    Pod {
        phase: PodPhase::Running,
        deleted: false,
        started: Some(started),
        ready: Some(Ready { is: true, since: started }),
        request: Some(1000),
        metric: Some(PodMetric { value, at: NOW, window: MINUTE }),
    }
}

fn of(values: &[i64]) -> Vec<Pod> {
    values.iter().map(|value| pod(*value)).collect()
}

fn missing() -> Pod {
    Pod { metric: None, ..pod(0) }
}

/// A pod that never was ready.
fn unready(pod: Pod) -> Pod {
    Pod { ready: Some(Ready { is: false, since: pod.started.expect("started") }), ..pod }
}

/// A pod that started half a minute ago and turned ready just now.
fn hot(pod: Pod) -> Pod {
    let since = NOW.minus(Duration::from_secs(30));
    Pod { started: Some(since), ready: Some(Ready { is: true, since }), ..pod }
}

fn failed(pod: Pod) -> Pod {
    Pod { phase: PodPhase::Failed, metric: None, ..unready(pod) }
}

fn deleted(pod: Pod) -> Pod {
    Pod { deleted: true, metric: None, ..unready(pod) }
}

fn pending(pod: Pod) -> Pod {
    Pod { phase: PodPhase::Pending, metric: None, ..unready(pod) }
}

#[track_caller]
fn cpu(name: &str, current: u32, target: u32, pods: &[Pod], expected: Result<(u32, i64), CalculatorError>) {
    let got = calculator().utilization(current, target, HpaMetricKind::Cpu, pods, NOW);
    assert_eq!(got.map(|proposal| (proposal.replicas, proposal.measured)), expected, "{name}");
}

#[track_caller]
fn average(name: &str, current: u32, target: i64, pods: &[Pod], expected: (u32, i64)) {
    let got = calculator().average(current, target, HpaMetricKind::Other, pods, NOW).expect(name);
    assert_eq!((got.replicas, got.measured), expected, "{name}");
}

#[test]
fn resource_scale() {
    let up = of(&[300, 500, 700]);
    cpu("scale up", 3, 30, &up, Ok((5, 50)));
    cpu("scale up, unready, less scale", 3, 30, &[unready(up[0]), up[1], up[2]], Ok((4, 60)));
    cpu("scale up, hot cpu, less scale", 3, 30, &[hot(up[0]), up[1], up[2]], Ok((4, 60)));
    let up = of(&[400, 500, 700]);
    cpu("scale up, unready, no scale", 3, 30, &[up[0], unready(up[1]), unready(up[2])], Ok((3, 40)));
    cpu("scale up, hot cpu, no scale", 3, 30, &[up[0], unready(hot(up[1])), unready(hot(up[2]))], Ok((3, 40)));
    let up = of(&[500, 700]);
    cpu("scale up, ignores failed pods", 2, 30, &[up[0], up[1], failed(up[0]), failed(up[0])], Ok((4, 60)));
    cpu("scale up, ignores deletion pods", 2, 30, &[up[0], up[1], deleted(up[0]), deleted(up[0])], Ok((4, 60)));

    let down = of(&[100, 300, 500, 250, 250]);
    cpu("scale down", 5, 50, &down, Ok((3, 28)));
    let include = [down[0], down[1], down[2], unready(down[3]), unready(down[4])];
    cpu("scale down, include unready pods", 5, 50, &include, Ok((2, 30)));
    let hot_two = [down[0], down[1], down[2], hot(down[3]), hot(down[4])];
    cpu("scale down, ignore hot cpu pods", 5, 50, &hot_two, Ok((2, 30)));
    let unscheduled = [down[0], pending(down[0]), pending(down[0]), pending(down[0]), pending(down[0])];
    cpu("scale down, exclude unscheduled pods", 5, 50, &unscheduled, Ok((1, 10)));
    let with = |gone: Pod| [down.clone(), vec![gone, gone]].concat();
    cpu("scale down, ignores failed pods", 5, 50, &with(failed(down[0])), Ok((3, 28)));
    cpu("scale down, ignores deletion pods", 5, 50, &with(deleted(down[0])), Ok((3, 28)));
    cpu("during rolling update with max surge", 2, 50, &[pod(100), pod(100), missing()], Ok((2, 10)));
}

#[test]
fn resource_missing_metrics() {
    cpu("missing metrics", 4, 100, &[pod(400), pod(95), missing(), missing()], Ok((3, 24)));
    cpu("no change, equal", 2, 100, &[pod(1000), missing()], Ok((2, 100)));
    cpu("no change, greater", 2, 100, &[pod(1900), missing()], Ok((2, 190)));
    cpu("no change, less", 2, 100, &[pod(600), missing()], Ok((2, 60)));
    cpu("unready, no change", 3, 50, &[unready(pod(100)), pod(450), missing()], Ok((3, 45)));
    cpu("hot cpu, no change", 3, 50, &[hot(pod(100)), pod(450), missing()], Ok((3, 45)));
    cpu("unready, scale up", 3, 50, &[unready(pod(100)), pod(2000), missing()], Ok((4, 200)));
    cpu("hot cpu, scale up", 3, 50, &[hot(unready(pod(100))), pod(2000), missing()], Ok((4, 200)));
    cpu("unready, scale down", 4, 50, &[unready(pod(100)), pod(100), pod(100), missing()], Ok((3, 10)));
}

#[test]
fn resource_superfluous_metrics() {
    // What was measured of pods that are not there counts for nothing; here it never comes in.
    cpu("superfluous metrics", 4, 100, &of(&[4000, 9500, 3000, 7000]), Ok((24, 587)));
}

#[test]
fn resource_errors() {
    cpu("no pods", 1, 100, &[], Err(CalculatorError::NoPods));
    cpu("empty metrics", 4, 100, &[missing(), missing()], Err(CalculatorError::NoMetrics));
    cpu("empty cpu request", 1, 100, &[Pod { request: None, ..pod(200) }], Err(CalculatorError::NoRequest));
    cpu("request of nothing", 1, 100, &[Pod { request: Some(0), ..pod(200) }], Err(CalculatorError::NoMatch));
    cpu("only unready pods", 2, 100, &[unready(pod(200)), unready(pod(200))], Err(CalculatorError::NoReadyMetrics));
}

#[test]
fn resource_tolerance() {
    let with = |values: [i64; 3]| -> Vec<Pod> {
        values.iter().zip([900, 1000, 1100]).map(|(value, request)| Pod { request: Some(request), ..pod(*value) }).collect()
    };
    cpu("within", 3, 100, &with([1010, 1030, 1020]), Ok((3, 102)));
    let check = |name: &str, tolerance, pods: &[Pod], expected| {
        let got = Calculator { tolerance, ..calculator() }.utilization(3, 100, HpaMetricKind::Cpu, pods, NOW).expect(name);
        assert_eq!((got.replicas, got.measured), expected, "{name}");
    };
    check("above the one for up", Tolerance { up: 0.08, down: 0.1 }, &with([1100, 1080, 1090]), (4, 109));
    check("within the one for up", Tolerance { up: 0.1, down: 0.1 }, &with([1100, 1080, 1090]), (3, 109));
    check("below the one for down", Tolerance { up: 0.1, down: 0.05 }, &of(&[930, 940, 950]), (3, 94));
    check("within the one for down", Tolerance { up: 0.0, down: 0.1 }, &of(&[500, 950, 1350]), (3, 93));
}

#[test]
fn resource_computed_tolerance() {
    let requests = [400, 200, 310, 290, 302, 298, 301, 299, 300, 300];
    let pods: Vec<Pod> = requests.iter().map(|request| Pod { request: Some(*request), ..pod(150) }).collect();
    cpu("just beyond", 10, 56, &pods, Ok((9, 50)));
    cpu("just within", 10, 55, &pods, Ok((10, 50)));
}

#[test]
fn pod_metric() {
    average("scale up", 3, 15_000, &of(&[20_000, 10_000, 30_000]), (4, 20_000));
    let up = [pod(50_000), pod(10_000), unready(hot(pod(30_000)))];
    average("scale up, unready and hot cpu, no less scale", 3, 15_000, &up, (6, 30_000));
    let up = [unready(hot(pod(50_000))), pod(15_000), unready(hot(pod(30_000)))];
    average("scale up, unready and hot cpu", 3, 15_000, &up, (7, 31_666));
    average("scale down", 5, 20_000, &of(&[12_000; 5]), (3, 12_000));
    average("tolerance", 3, 20_000, &of(&[20_000, 21_000, 21_000]), (3, 20_666));
    average("one pod", 1, 4400, &of(&[8600]), (2, 8600));
    average("missing, scale down", 4, 10_000, &[pod(1000), pod(1000), missing(), missing()], (3, 1000));
    average("missing, scale up", 2, 10_000, &[pod(19_000), missing()], (2, 19_000));
    assert_eq!(calculator().average(1, 1, HpaMetricKind::Other, &[], NOW), Err(CalculatorError::NoPods));
    assert_eq!(calculator().average(1, 1, HpaMetricKind::Other, &[missing()], NOW), Err(CalculatorError::NoReadyMetrics));
}

#[test]
fn object_and_external_metric() {
    let check = |name: &str, current, usage, target, ready, expected| {
        assert_eq!(calculator().value(current, usage, target, ready).replicas, expected, "{name}");
    };
    check("scale up object", 3, 20_000, 15_000, 3, 4);
    check("object ignores unready pods", 3, 50_000, 10_000, 1, 5);
    check("scale up external", 1, 8600, 4400, 1, 2);
    let one_ready = [unready(pod(0)), pod(0), unready(pod(0))];
    check("external ignores unready pods", 3, 8600, 4400, ready_pods(&one_ready), 2);
    check("scale down object", 5, 12_000, 20_000, 5, 3);
    check("scale down external", 5, 8600, 14_334, 5, 3);
    check("tolerance object", 3, 20_666, 20_000, 3, 3);
    check("tolerance external", 3, 8600, 8888, 3, 3);
    check("scale from zero", 0, 20_000, 5_000, 0, 4);
    check("scale up from zero below the target", 0, 1_000, 5_000, 0, 1);
    check("stay at zero", 0, 0, 5_000, 0, 0);
    check("scale to zero", 5, 0, 5_000, 5, 0);
    check("more than can be counted", 1, i64::MAX, 1, 1, i32::MAX as u32);
}

#[test]
fn object_and_external_metric_per_pod() {
    let check = |name: &str, current, usage, target, expected: (u32, i64)| {
        let got = calculator().average_value(current, usage, target);
        assert_eq!((got.replicas, got.measured), expected, "{name}");
    };
    check("scale up object", 3, 20_000, 5000, (4, 6667));
    check("scale up external", 3, 8600, 2150, (4, 2867));
    check("scale down object", 5, 6000, 2000, (3, 1200));
    check("scale down external", 5, 8600, 2867, (3, 1720));
    check("tolerance object", 4, 20_166, 5000, (4, 5042));
    check("tolerance external", 3, 8600, 2900, (3, 2867));
}

#[test]
fn group_pods() {
    let check = |name: &str, pod: Pod, kind, expected: &str| {
        let groups = calculator().group(&[pod], kind, NOW);
        let class = match (groups.ready, &groups.unready[..], &groups.missing[..], &groups.ignored[..]) {
            (1, [], [], []) => "ready",
            (0, [0], [], []) => "unready",
            (0, [], [0], []) => "missing",
            (0, [], [], [0]) => "ignored",
            _ => "several",
        };
        assert_eq!(class, expected, "{name}");
    };
    let aged = |age: Duration, is: bool, since: Duration, measured: Duration, window: Duration| Pod {
        started: Some(NOW.minus(age)),
        ready: Some(Ready { is, since: NOW.minus(since) }),
        metric: Some(PodMetric { value: 1, at: NOW.minus(measured), window }),
        ..pod(1)
    };
    let (second, zero) = (Duration::from_secs(1), Duration::ZERO);
    check("memory of a pod that succeeded", Pod { phase: PodPhase::Succeeded, ready: None, ..pod(1) }, HpaMetricKind::Other, "ready");
    check("no ready condition", Pod { ready: None, ..pod(1) }, HpaMetricKind::Cpu, "unready");
    check("no start", Pod { started: None, ..pod(1) }, HpaMetricKind::Cpu, "unready");
    check("fresh metrics during initialization", aged(MINUTE, true, 30 * second, zero, 30 * second), HpaMetricKind::Cpu, "ready");
    check("metrics from before it was ready", aged(MINUTE, true, 30 * second, zero, MINUTE), HpaMetricKind::Cpu, "unready");
    check("unready during initialization", aged(MINUTE, false, 30 * second, zero, 30 * second), HpaMetricKind::Cpu, "unready");
    check("unready after initialization, once ready", aged(10 * MINUTE, false, 9 * MINUTE, zero, second), HpaMetricKind::Cpu, "ready");
    check(
        "unready after initialization, never ready",
        aged(10 * MINUTE, false, 10 * MINUTE - second, zero, second),
        HpaMetricKind::Cpu,
        "unready",
    );
    check("memory of a pod that starts", aged(MINUTE, false, 30 * second, zero, MINUTE), HpaMetricKind::Other, "ready");
    check("missing", missing(), HpaMetricKind::Cpu, "missing");
    check("pending", pending(pod(1)), HpaMetricKind::Cpu, "unready");
    check("pending without metrics", Pod { metric: None, ..pending(pod(1)) }, HpaMetricKind::Other, "unready");
    check("failed", failed(pod(1)), HpaMetricKind::Cpu, "ignored");
    check("deleted", deleted(pod(1)), HpaMetricKind::Cpu, "ignored");
    check("deleted while pending", Pod { deleted: true, ..pending(pod(1)) }, HpaMetricKind::Cpu, "ignored");
    assert_eq!(calculator().group(&[], HpaMetricKind::Cpu, NOW), Groups::default());
}

#[test]
fn several_metrics() {
    let ok = |replicas| Ok(Proposal { replicas, measured: 0 });
    let error = Err(CalculatorError::NoMetrics);
    assert_eq!(combine(4, &[ok(3), ok(7), ok(5)]), Ok(7));
    assert_eq!(combine(4, &[ok(3), ok(2)]), Ok(3));
    assert_eq!(combine(4, &[error, ok(6)]), Ok(6), "up with part of the metrics");
    assert_eq!(combine(4, &[error, ok(4)]), Ok(4));
    assert_eq!(combine(4, &[error, ok(3)]), Err(CalculatorError::NoMetrics), "not down with part of the metrics");
    assert_eq!(combine(4, &[error, error]), Err(CalculatorError::NoMetrics));
}
