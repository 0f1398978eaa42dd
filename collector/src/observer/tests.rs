use std::num::NonZeroU32;
use std::time::Duration;

use qscale_common::contract::{Message, Provenance, Window, parse};
use qscale_common::fixtures::name;
use qscale_common::name::FunctionId;
use qscale_common::scrape::{CpuCounters, IngressReading, PlatformReading, PlatformReplicas, RequestCounters};
use qscale_common::units::{Allocation, Replicas};

use super::*;
use crate::source::exposition::syntax::ExpositionText;
use crate::source::exposition::{ExpositionConfig, ExpositionReader};

const TICK: u64 = 5000;
const TRACE: TraceParent = TraceParent { trace: 1, span: 1 };

fn policies(functions: &[&str]) -> BTreeMap<String, Arc<ScalingPolicy>> {
    functions
        .iter()
        .map(|function| (format!("default.{function}"), Arc::new(ScalingPolicy::new(FunctionId::new(name("default"), name(function))))))
        .collect()
}

fn observer(functions: &[&str], now: u64) -> Observer {
    let mut observer = Observer::new(Partition::default(), Timestamp(now));
    observer.set_policies(&policies(functions), Timestamp(now));
    observer
}

fn scrape(at: u64, completed: u64) -> FunctionScrape {
    let at = Timestamp(at);
    let mut latency = [0; qscale_common::scrape::LATENCY_BUCKETS];
    latency[3] = completed;
    FunctionScrape {
        platform: Some(PlatformReading {
            allocation: Some(Allocation::new(1, 500, 256)),
            replicas: Some(PlatformReplicas { desired: Replicas(1), ready: Replicas(1), pending: Replicas(0) }),
            crashes: Some(0),
            oom_kills: Some(0),
            ..PlatformReading::new(at)
        }),
        ingress: Some(IngressReading { at, arrived: completed.into(), failed: 0.into(), queued: 0.0 }),
        replicas: vec![replica("a", at, Some(RequestCounters { completed, failed: 0, latency: Some(latency) }))],
        node_cores: None,
    }
}

fn replica(replica: &str, at: Timestamp, requests: Option<RequestCounters>) -> Scrape {
    let cpu = requests.map(|requests| CpuCounters { usage_us: requests.completed * 1000, ..CpuCounters::default() }.into());
    Scrape { requests, cpu, ..Scrape::new(replica, at) }
}

fn source_reading(source: &str, functions: &[(&str, FunctionScrape)]) -> SourceReading {
    let functions = functions.iter().map(|(function, scrape)| (format!("default/{function}"), scrape.clone())).collect();
    SourceReading { source: name(source), reading: Reading { functions, ..Reading::default() } }
}

#[test]
fn functions_whose_source_is_not_configured_are_found() {
    let mut policies = policies(&["fib", "other"]);
    Arc::make_mut(policies.get_mut("default.fib").expect("given")).metrics.source = Some(name("typo"));
    let mut observer = Observer::new(Partition::default(), Timestamp(0));
    observer.set_policies(&policies, Timestamp(0));
    let found = observer.without_source(&[name("local"), name("cadvisor")]);
    assert_eq!(found, BTreeSet::from([(FunctionId::new(name("default"), name("fib")), name("typo"))]));
    assert!(observer.without_source(&[name("typo")]).is_empty());
}

/// Observes all that is due at `now`.
fn tick(observer: &mut Observer, now: u64) -> Vec<Observation> {
    let due = observer.due(Timestamp(now));
    due.into_iter().map(|place| observer.observe(place, Timestamp(now), TRACE).expect("it is due")).collect()
}

#[test]
fn every_tick_has_a_state_and_every_tick_but_the_first_rewards_the_one_before() {
    let mut observer = observer(&["fib"], 2 * TICK + 7);
    assert!(tick(&mut observer, 2 * TICK + 4000).is_empty(), "the tick in which a function is first seen is not whole");
    assert_eq!(observer.next_tick(Timestamp(2 * TICK + 7)), Some(Timestamp(3 * TICK)));
    for number in 3..6 {
        let now = number * TICK + 3;
        observer.record(&mut [source_reading("local", &[("fib", scrape(now, number * 100))])], Timestamp(now));
        let observations = tick(&mut observer, now);
        let [Observation { state, reward, missed: 0 }] = &observations[..] else { panic!("one function: {observations:?}") };
        assert_eq!((state.tick, state.observed_at_ms, state.epoch), (Tick(number), Timestamp(now), Epoch(2 * TICK + 7)));
        parse::<State>(&state.encode()).expect("a State");
        match reward {
            None => assert_eq!(number, 3),
            Some((reward, _)) => {
                assert_eq!(reward.tick, Tick(number - 1));
                // 500m and 256 MiB of 10 x 1000m and 1 GiB, and nothing else amiss.
                let cost = (0.5 * 0.04048 + 0.25 * 0.004445) / (10.0 * (0.04048 + 0.004445));
                assert!((reward.value.expect("all was measured") + 0.3 * cost).abs() < 1e-12);
            }
        }
        assert!(tick(&mut observer, now).is_empty(), "a tick is observed once");
    }
}

#[test]
fn a_function_that_no_source_shows_has_a_state_without_measurements() {
    let mut observer = observer(&["fib"], TICK);
    observer.record(&mut [source_reading("local", &[("other", scrape(2 * TICK, 1))])], Timestamp(2 * TICK));
    let observations = tick(&mut observer, 2 * TICK);
    assert_eq!(observations[0].state.age.oldest(), None);
    assert_eq!(observations[0].state.allocation, None);
    let observations = tick(&mut observer, 3 * TICK);
    assert_eq!(observations[0].reward.as_ref().and_then(|(reward, _)| reward.value), None);
}

#[test]
fn missed_ticks_are_counted_and_the_reward_names_the_last_observed_tick() {
    let mut observer = observer(&["fib"], TICK);
    tick(&mut observer, 2 * TICK);
    let observations = tick(&mut observer, 6 * TICK + 1);
    assert_eq!(observations[0].missed, 3);
    assert_eq!(observations[0].reward.as_ref().map(|(reward, _)| reward.tick), Some(Tick(2)));
}

#[test]
fn a_clock_that_is_set_back_never_repeats_a_tick() {
    let mut observer = observer(&["fib"], 1000 * TICK);
    let first = tick(&mut observer, 1001 * TICK)[0].state.state_id();
    // A little: nothing until the clock has caught up.
    assert!(!observer.check_clock(Timestamp(999 * TICK)));
    assert!(tick(&mut observer, 999 * TICK).is_empty() && tick(&mut observer, 1001 * TICK + 1).is_empty());
    let second = tick(&mut observer, 1002 * TICK)[0].state.state_id();
    // Far: another epoch.
    assert!(observer.check_clock(Timestamp(500 * TICK)));
    assert!(!observer.check_clock(Timestamp(500 * TICK)));
    let third = tick(&mut observer, 501 * TICK)[0].state.state_id();
    assert!(first.epoch == second.epoch && first.tick < second.tick);
    assert!(third.epoch > second.epoch, "{third:?}");
}

#[test]
fn readings_of_a_clock_that_was_ahead_for_a_moment_hide_none_of_later_ones() {
    let mut observer = observer(&["fib"], 1000 * TICK);
    tick(&mut observer, 1001 * TICK);
    observer.record(&mut [source_reading("local", &[("fib", scrape(2000 * TICK, 1))])], Timestamp(2000 * TICK));
    assert!(observer.check_clock(Timestamp(1001 * TICK + 1)));
    observer.record(&mut [source_reading("local", &[("fib", scrape(1002 * TICK, 2))])], Timestamp(1002 * TICK));
    assert!(!observer.check_clock(Timestamp(1002 * TICK)));
    assert!(tick(&mut observer, 1002 * TICK)[0].state.allocation.is_some());
}

#[test]
fn a_longer_tick_begins_a_new_epoch_so_that_its_states_follow_those_before() {
    let mut observer = observer(&["fib", "other"], 1000 * TICK);
    let [before, other] = tick(&mut observer, 1001 * TICK).try_into().expect("two functions");
    let mut changed = policies(&["fib", "other"]);
    let longer = TickLength::new(Duration::from_millis(2 * TICK)).expect("in range");
    changed.insert("default.fib".into(), Arc::new(ScalingPolicy { tick: longer, ..(*changed["default.fib"]).clone() }));
    observer.set_policies(&changed, Timestamp(1001 * TICK + 1));
    let later = tick(&mut observer, 1004 * TICK);
    let after = later.iter().find(|observation| observation.state.function == before.state.function).expect("fib");
    assert!(after.state.tick < before.state.tick && after.state.state_id().follows(before.state.state_id()));
    assert!(after.reward.is_none(), "the tick before had another length");
    let kept = later.iter().find(|observation| observation.state.function == other.state.function).expect("other");
    assert_eq!(kept.state.epoch, other.state.epoch);
}

#[test]
fn a_changed_policy_keeps_measurements_unless_its_tick_changed() {
    let mut observer = observer(&["fib", "aes"], TICK);
    observer.record(&mut [source_reading("local", &[("fib", scrape(2 * TICK, 1)), ("aes", scrape(2 * TICK, 1))])], Timestamp(2 * TICK));
    tick(&mut observer, 2 * TICK);
    let mut changed = policies(&["aes", "fib", "new"]);
    let policy = |changed: &mut BTreeMap<String, Arc<ScalingPolicy>>, function: &str, change: fn(&mut ScalingPolicy)| {
        change(Arc::make_mut(changed.get_mut(&format!("default.{function}")).expect("it is there")));
    };
    policy(&mut changed, "fib", |policy| policy.agent = name("other"));
    policy(&mut changed, "aes", |policy| policy.tick = TickLength::new(std::time::Duration::from_secs(1)).expect("within the range"));
    observer.set_policies(&changed, Timestamp(2 * TICK + 1));
    let observations = tick(&mut observer, 3 * TICK);
    let state =
        |function: &str| &observations.iter().find(|observation| observation.state.function == name(function)).expect("observed").state;
    assert_eq!((state("fib").agent.as_str(), state("fib").age.cpu_ms), ("other", Some(TICK)));
    assert_eq!((state("aes").tick, state("aes").age.cpu_ms), (Tick(15), None));
    assert_eq!(state("new").age.cpu_ms, None);
    observer.set_policies(&policies(&[]), Timestamp(3 * TICK));
    assert!(observer.is_empty() && observer.next_tick(Timestamp(0)).is_none());
}

#[test]
fn only_functions_of_this_share_are_observed() {
    let count = NonZeroU32::new(3).expect("not zero");
    let functions: Vec<String> = (0..50).map(|number| format!("f-{number}")).collect();
    let policies = policies(&functions.iter().map(String::as_str).collect::<Vec<_>>());
    let observed = |index| {
        let mut observer = Observer::new(Partition { index, count }, Timestamp(0));
        observer.set_policies(&policies, Timestamp(0));
        observer.len()
    };
    assert_eq!(observed(0) + observed(1) + observed(2), 50);
    assert!((0..3).all(|index| observed(index) > 5));
}

fn outcome(effect: Effect, source: DecisionSource, agent: &str) -> Outcome {
    let function = FunctionId::new(name("default"), name("fib"));
    Outcome {
        version: Default::default(),
        namespace: function.namespace,
        function: function.name,
        epoch: Epoch(1),
        tick: Tick(2),
        source,
        agent: name(agent),
        provenance: Provenance::of_rule("threshold", "3".into()),
        effect,
        requested: Allocation::new(1, 500, 256),
        before: None,
        allowed: None,
        guard: vec![],
        reason: String::new(),
        decided_at_ms: Timestamp(0),
        actuator: String::new(),
        attempts: 1,
    }
}

#[test]
fn a_reward_names_the_decider_of_the_current_allocation() {
    let mut observer = observer(&["fib"], TICK);
    tick(&mut observer, 2 * TICK);
    let mut decided = |outcome: Outcome, now| {
        observer.on_outcome(&outcome);
        tick(&mut observer, now)[0]
            .reward
            .as_ref()
            .and_then(|(reward, _)| reward.decided_by.clone())
            .map(|decider| decider.agent.to_string())
    };
    assert_eq!(decided(outcome(Effect::Refused, DecisionSource::Agent, "dqn"), 3 * TICK), None);
    assert_eq!(decided(outcome(Effect::Applied, DecisionSource::Agent, "dqn"), 4 * TICK).as_deref(), Some("dqn"));
    assert_eq!(decided(outcome(Effect::Recorded, DecisionSource::Shadow, "shadow"), 5 * TICK).as_deref(), Some("dqn"));
    assert_eq!(decided(outcome(Effect::Failed, DecisionSource::Agent, "hpa"), 6 * TICK).as_deref(), Some("dqn"));
    assert_eq!(decided(outcome(Effect::Changed, DecisionSource::Fallback, "threshold"), 7 * TICK).as_deref(), Some("threshold"));
}

#[test]
fn a_function_is_read_from_the_source_that_its_policy_names() {
    let mut observer = Observer::new(Partition::default(), Timestamp(TICK));
    let mut policies = policies(&["fib"]);
    Arc::make_mut(policies.get_mut("default.fib").expect("it is there")).metrics.source = Some(name("two"));
    observer.set_policies(&policies, Timestamp(TICK));
    observer.record(&mut [source_reading("one", &[("fib", scrape(2 * TICK, 1))])], Timestamp(2 * TICK));
    assert_eq!(tick(&mut observer, 2 * TICK)[0].state.allocation, None);
    observer.record(
        &mut [source_reading("one", &[("fib", scrape(3 * TICK, 1))]), source_reading("two", &[("fib", scrape(3 * TICK - 9, 1))])],
        Timestamp(3 * TICK),
    );
    assert_eq!(tick(&mut observer, 3 * TICK)[0].state.age.replicas_ms, Some(9));
}

#[test]
fn measurements_of_two_sources_are_merged() {
    let mut observer = observer(&["fib"], TICK);
    let feed = |observer: &mut Observer, number: u64| {
        let at = number * TICK;
        let requests = FunctionScrape {
            replicas: vec![Scrape { cpu: None, ..scrape(at, number * 50).replicas.remove(0) }],
            ..scrape(at, number * 50)
        };
        let cadvisor = Scrape { requests: None, ..scrape(at - 1000, number * 50).replicas.remove(0) };
        let unowned = vec![("default/a".to_owned(), cadvisor.clone()), ("default/unknown".to_owned(), cadvisor)];
        let mut second = source_reading("cadvisor", &[]);
        second.reading.unowned = unowned;
        observer.record(&mut [second, source_reading("knative", &[("fib", requests)])], Timestamp(at));
        tick(observer, at).remove(0).state
    };
    feed(&mut observer, 2);
    let state = feed(&mut observer, 3);
    assert_eq!(state.windows.tick.completed_rps, Some(10.0));
    assert_eq!(state.windows.tick.cpu_millicores.map(|cpu| cpu.mean), Some(10.0));
    assert_eq!((state.age.requests_ms, state.age.cpu_ms), (Some(0), Some(1000)));
}

#[test]
fn a_late_reading_of_replicas_without_a_workload_counts_for_the_workload_named_last() {
    let mut observer = observer(&["fib"], TICK);
    let named = |number: u64| {
        let mut scrape = scrape(number * TICK, number * 50);
        scrape.replicas[0].cpu = None;
        source_reading("knative", &[("fib", scrape)])
    };
    let unnamed = |number: u64| {
        let mut reading = source_reading("cadvisor", &[]);
        let replica = scrape(number * TICK - 1000, number * 50).replicas.remove(0);
        reading.reading.unowned = vec![("default/a".to_owned(), Scrape { requests: None, ..replica })];
        reading
    };
    for number in 2..4 {
        observer.record(&mut [named(number)], Timestamp(number * TICK));
        observer.record(&mut [unnamed(number)], Timestamp(number * TICK));
        let state = tick(&mut observer, number * TICK).remove(0).state;
        assert_eq!(state.age.cpu_ms, Some(1000));
    }
    let gone = source_reading("knative", &[("fib", FunctionScrape::default())]);
    observer.record(&mut [gone], Timestamp(4 * TICK));
    observer.record(&mut [unnamed(4)], Timestamp(4 * TICK));
    assert_eq!(tick(&mut observer, 4 * TICK).remove(0).state.age.cpu_ms, Some(1000 + TICK), "the replica is no longer named");
}

#[test]
fn a_replica_that_another_source_shows_late_is_not_counted_as_new() {
    let mut observer = observer(&["fib"], TICK);
    let of_replica = |at: u64, replica: &str, completed: u64| {
        let mut scrape = scrape(at, completed);
        scrape.replicas[0].replica = replica.into();
        (scrape.platform, scrape.ingress) = (None, None);
        scrape
    };
    let at = |number: u64| number * TICK;
    observer.record(&mut [source_reading("one", &[("fib", of_replica(at(2), "a", 0))])], Timestamp(at(2)));
    tick(&mut observer, at(2));
    let second = source_reading("two", &[("fib", of_replica(at(3), "b", 1_000_000))]);
    observer.record(&mut [source_reading("one", &[("fib", of_replica(at(3), "a", 50))]), second], Timestamp(at(3)));
    assert_eq!(tick(&mut observer, at(3))[0].state.windows.tick.completed_rps, Some(10.0));
}

#[test]
fn requests_in_flight_that_two_sources_show_count_once() {
    let mut observer = observer(&["fib"], TICK);
    let shown = |at: u64| {
        let mut scrape = scrape(at, 1);
        scrape.replicas[0].in_flight = Some(3.0);
        scrape
    };
    let sources = ["one", "two"].map(|source| source_reading(source, &[("fib", shown(2 * TICK))]));
    observer.record(&mut sources.into_iter().collect::<Vec<_>>(), Timestamp(2 * TICK));
    assert_eq!(tick(&mut observer, 2 * TICK)[0].state.windows.tick.concurrency, Some(3.0));
}

#[test]
fn measurements_beyond_the_node_are_dropped_from_the_reading_that_shows_them() {
    let mut observer = observer(&["fib"], TICK);
    let machine = || {
        let mut reading = source_reading("node", &[]);
        reading.reading.node = NodeLimits { cores: Some(2.0), memory_bytes: Some(4e9) };
        reading
    };
    let metrics = |readings: &[SourceReading]| {
        let dropped =
            readings.iter().flat_map(|reading| reading.reading.dropped.iter().map(|(metric, values)| (metric, values.of.clone())));
        dropped.collect::<Vec<_>>()
    };
    let feed = |observer: &mut Observer, number: u64, usage_us: u64, working_set: u64| {
        let mut shown = scrape(number * TICK, number);
        shown.replicas[0].cpu = Some(CpuCounters { usage_us, ..CpuCounters::default() }.into());
        shown.replicas[0].working_set_bytes = Some(working_set);
        let mut readings = [source_reading("local", &[("fib", shown)]), machine()];
        observer.record(&mut readings, Timestamp(number * TICK));
        let dropped = (metrics(&readings[..1]), metrics(&readings[1..]));
        (dropped, tick(observer, number * TICK).remove(0).state.windows.tick)
    };
    assert_eq!(feed(&mut observer, 2, 0, 1 << 20).0, (vec![], vec![]));
    let ((local, other), window) = feed(&mut observer, 3, 1 << 40, 5_000_000_000);
    assert_eq!((window.cpu_millicores, window.memory_mib), (None, None));
    let expected =
        [ReplicaMetric::CpuSeconds, ReplicaMetric::WorkingSet].map(|metric| (Metric::Replica(metric), "default/fib, replica a".to_owned()));
    assert_eq!((local, other), (expected.to_vec(), vec![]));
    let (dropped, window) = feed(&mut observer, 4, 10_000_000, 1 << 20);
    assert_eq!(dropped, (vec![], vec![]));
    assert_eq!(window.cpu_millicores.map(|cpu| cpu.mean), Some(1000.0), "10 s of CPU time within two ticks");
}

/// Measurements of `default/fib` in each tick of which a source shows one of `texts`, and the warnings.
fn measured(texts: &[String]) -> (Vec<Window>, usize) {
    const BEGIN: u64 = 1_700_000_000_000;
    let mut observer = observer(&["fib"], BEGIN);
    let reader = ExpositionReader::new(&ExpositionConfig::default());
    let mut dropped = 0;
    let tick = |(text, number): (&String, u64)| {
        let now = BEGIN + number * TICK;
        let mut readings =
            [SourceReading { source: name("local"), reading: reader.read(ExpositionText::new(text.as_bytes()), Timestamp(now)) }];
        observer.record(&mut readings, Timestamp(now));
        dropped += readings[0].reading.dropped.iter().count();
        tick(&mut observer, now).remove(0).state.windows.tick
    };
    let windows = texts.iter().zip(1..).map(tick).collect();
    (windows, dropped)
}

fn sample(metric: &str, labels: &str, value: impl std::fmt::Display) -> String {
    format!("{metric}{{namespace=\"default\",function=\"fib\",{labels}}} {value}\n")
}

#[test]
fn a_container_that_restarts_leaves_no_gap_and_no_peak() {
    const CPU: &str = "container_cpu_usage_seconds_total";
    const START: &str = "container_start_time_seconds";
    let of = |name: &str| format!("pod=\"fib-1\",container=\"{name}\"");
    let text = |tick: u32, with_starts: bool| {
        // 10m, and 100m. The second container restarts in the third tick.
        let user = if tick < 3 { 300.0 + 0.5 * f64::from(tick) } else { 0.5 * f64::from(tick - 2) };
        let start = if tick < 3 { 1_699_999_000 } else { 1_700_000_011 };
        let usage = sample(CPU, &of("queue-proxy"), 60.0 + 0.05 * f64::from(tick)) + &sample(CPU, &of("user-container"), user);
        let starts = sample(START, &of("queue-proxy"), 1_699_999_000) + &sample(START, &of("user-container"), start);
        if with_starts { usage + &starts } else { usage }
    };
    for with_starts in [false, true] {
        let texts: Vec<String> = (0..6).map(|tick| text(tick, with_starts)).collect();
        let (windows, dropped) = measured(&texts);
        let cpu: Vec<Option<u32>> = windows.iter().map(|window| window.cpu_millicores.map(|cpu| cpu.mean.round() as u32)).collect();
        assert_eq!((cpu, dropped), (vec![None, Some(110), Some(110), Some(110), Some(110), Some(110)], 0), "start times: {with_starts}");
    }
}

#[test]
fn a_gateway_that_restarts_leaves_no_gap_and_no_peak() {
    let text = |tick: u64| {
        let second = if tick < 3 { 90_000 + 25 * tick } else { 25 * (tick - 2) };
        sample("qscale_gateway_requests_total", "instance=\"a\"", 100_000 + 25 * tick)
            + &sample("qscale_gateway_requests_total", "instance=\"b\"", second)
    };
    let (windows, _) = measured(&(0..5).map(text).collect::<Vec<_>>());
    assert_eq!(windows.iter().map(|window| window.rate_rps).collect::<Vec<_>>(), [None, Some(10.0), Some(10.0), Some(10.0), Some(10.0)]);
}

#[test]
fn a_broken_line_is_a_gap_and_no_peak() {
    const COUNT: &str = "kn_serving_invocation_duration_seconds_count";
    let of = |status: &str| format!("pod=\"fib-1\",http_response_status_code=\"{status}\"");
    let text = |tick: u64| {
        let good = sample(COUNT, &of("200"), 10_000 + 50 * tick);
        let good = if tick == 2 { good.replace("200\"}", "200") } else { good };
        good + &sample(COUNT, &of("404"), 5_000)
    };
    let (windows, dropped) = measured(&(0..5).map(text).collect::<Vec<_>>());
    let completed: Vec<_> = windows.iter().map(|window| window.completed_rps).collect();
    assert_eq!((completed, dropped), (vec![None, Some(10.0), None, Some(10.0), Some(10.0)], 0));
}

#[test]
fn every_kill_of_a_container_that_is_replaced_counts() {
    let text = |tick: u64| {
        let labels = format!("pod=\"fib-1\",container=\"u\",id=\"/k/{}\"", tick / 2);
        let restarts = [5, 0, 1, 2, 3, 3][tick as usize];
        sample("container_oom_events_total", &labels, tick % 2)
            + &sample("kube_pod_container_status_restarts_total", "pod=\"fib-1\",container=\"u\"", restarts)
    };
    let (windows, _) = measured(&(0..6).map(text).collect::<Vec<_>>());
    assert_eq!(windows.iter().map(|window| window.oom_kills).collect::<Vec<_>>(), [0, 1, 0, 1, 0, 1]);
    assert_eq!(windows.iter().map(|window| window.restarts).collect::<Vec<_>>(), [0, 0, 1, 1, 1, 0]);
}

#[test]
fn a_new_container_grows_by_its_new_value() {
    let text = |usage: f64, start: u64| {
        let labels = "pod=\"fib-1\",container=\"u\"";
        sample("container_cpu_usage_seconds_total", labels, usage) + &sample("container_start_time_seconds", labels, start)
    };
    let (windows, _) = measured(&[text(2.0, 1_699_999_000), text(5.0, 1_700_000_006)]);
    assert_eq!(windows[1].cpu_millicores.map(|cpu| cpu.mean), Some(1000.0));
}
