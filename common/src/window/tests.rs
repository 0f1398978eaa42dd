mod falls;

use proptest::prelude::*;

use super::*;
use crate::contract::{Direction, Epoch, Headroom, Message, State, StateId, parse};
use crate::name::{FunctionId, Name};
use crate::policy::ScalingPolicy;
use crate::scrape::{CpuCounters, CpuPeriods, FunctionScrape, IngressReading, PlatformReplicas, RequestCounters, Scrape};
use crate::units::{Mebibytes, Millicores, Replicas};

const SECOND: u64 = 1000;
const TICK: u64 = 5 * SECOND;

/// A reading of replica `name` that answered `completed` requests in 75 to 100 ms each, and used 2 ms of CPU for each.
fn replica(name: &str, at: u64, completed: u64, failed: u64) -> Scrape {
    let mut latency = [0; LATENCY_BUCKETS];
    latency[11] = completed;
    Scrape {
        requests: Some(RequestCounters { completed, failed, latency: Some(latency) }),
        in_flight: Some(2.0),
        cpu: Some(Parts::One(CpuCounters {
            usage_us: completed * 2000,
            periods: Some(CpuPeriods { runnable: at / 100, throttled: at / 400 }),
            ..CpuCounters::default()
        })),
        working_set_bytes: Some(64 << 20),
        ..Scrape::new(name, Timestamp(at))
    }
}

fn ingress(at: u64, arrived: u64, failed: u64) -> IngressReading {
    IngressReading { at: Timestamp(at), arrived: arrived.into(), failed: failed.into(), queued: 3.0 }
}

fn platform(at: u64, replicas: u32) -> PlatformReading {
    PlatformReading {
        allocation: Some(Allocation::new(replicas, 500, 256)),
        replicas: Some(PlatformReplicas { desired: Replicas(replicas), ready: Replicas(replicas), pending: Replicas(0) }),
        crashes: Some(0),
        oom_kills: Some(0),
        ..PlatformReading::new(Timestamp(at))
    }
}

fn replicas_only(replicas: Vec<Scrape>) -> FunctionScrape {
    FunctionScrape { replicas, ..FunctionScrape::default() }
}

/// Windows that are fed at the end of each tick, as the collector does.
struct Feed {
    windows: FunctionWindows,
    tick: u64,
}

impl Feed {
    fn new() -> Self {
        Self { windows: FunctionWindows::new(TickLength::default()), tick: 0 }
    }

    fn now(&self) -> u64 {
        self.tick * TICK
    }

    /// Closes a tick with `scrapes`; each gets the time of the reading.
    fn tick(&mut self, scrapes: &[&dyn Fn(u64) -> FunctionScrape]) -> Window {
        self.tick += 1;
        scrapes.iter().for_each(|scrape| drop(self.windows.record(&scrape(self.now()))));
        assert!(self.windows.close(Tick(self.tick), &Prices::default()));
        self.windows.measured(95.0).tick
    }

    fn replicas(&mut self, replicas: &[(&str, u64, u64)]) -> Window {
        self.tick(&[&|at| replicas_only(replicas.iter().map(|&(name, completed, failed)| replica(name, at, completed, failed)).collect())])
    }
}

#[track_caller]
fn close_to(found: Option<f64>, expected: f64) {
    let found = found.unwrap_or_else(|| panic!("nothing, expected {expected}"));
    assert!((found - expected).abs() < 1e-6 * expected.abs().max(1.0), "{found}, expected {expected}");
}

#[test]
fn the_first_reading_is_where_counting_begins() {
    let mut feed = Feed::new();
    assert_eq!(
        feed.replicas(&[("a", 1_000_000, 5)]),
        Window { concurrency: Some(2.0), memory_mib: Some(Usage { mean: 64.0, max: 64.0 }), ..Window::default() }
    );
}

#[test]
fn without_an_ingress_what_replicas_take_is_what_arrives() {
    let shown = |name, at, completed, in_flight| Scrape { in_flight: Some(in_flight), ..replica(name, at, completed, 0) };
    let mut feed = Feed::new();
    feed.tick(&[&|at| replicas_only(vec![shown("a", at, 100, 2.0)])]);
    let window = feed.tick(&[&|at| replicas_only(vec![shown("a", at, 150, 12.0)])]);
    close_to(window.rate_rps, 12.0);
    close_to(window.completed_rps, 10.0);
    // A restart loses what was in flight; a new replica is only known from its first reading on.
    let window = feed.tick(&[&|at| replicas_only(vec![shown("a", at, 20, 1.0), shown("b", at, 500, 30.0)])]);
    close_to(window.rate_rps, 4.0);
    let window = feed.tick(&[&|at| replicas_only(vec![shown("a", at, 30, f64::NAN), shown("b", at, 525, 5.0)])]);
    close_to(window.rate_rps, 2.0);
    // Without replicas nobody knows; an ingress does.
    let none = |at| FunctionScrape { platform: Some(platform(at, 0)), ..FunctionScrape::default() };
    assert_eq!(feed.tick(&[&none]).rate_rps, None);
    let entry = |at, arrived| FunctionScrape { ingress: Some(ingress(at, arrived, 0)), ..replicas_only(vec![shown("b", at, 1000, 0.0)]) };
    feed.tick(&[&|at| entry(at, 100)]);
    close_to(feed.tick(&[&|at| entry(at, 105)]).rate_rps, 1.0);
}

#[test]
fn a_tick_is_measured_by_hand() {
    let mut feed = Feed::new();
    let scrape = |completed: [u64; 2], failed, arrived, refused| {
        move |at| FunctionScrape {
            platform: Some(platform(at, 2)),
            ingress: Some(ingress(at, arrived, refused)),
            replicas: vec![replica("a", at, completed[0], failed), replica("b", at, completed[1], 0)],
            ..FunctionScrape::default()
        }
    };
    feed.tick(&[&scrape([100, 100], 0, 200, 0)]);
    let window = feed.tick(&[&scrape([150, 130], 10, 300, 10)]);
    assert_eq!(window.covered_ms, TICK);
    close_to(window.rate_rps, 20.0);
    close_to(window.completed_rps, 16.0);
    // 10 failed at a replica and 10 before one, of 100 that were answered.
    close_to(window.failed_share, 0.2);
    // All 80 lie in 75 to 100 ms.
    let latency = window.latency.expect("requests were answered");
    close_to(Some(latency.p50_ms), 87.5);
    close_to(Some(latency.p95_ms), 98.75);
    close_to(Some(latency.objective_ms), 98.75);
    close_to(window.replicas, 2.0);
    close_to(window.concurrency, 2.0);
    close_to(window.queued, 3.0);
    // 80 requests of 2 ms each over 10 replica-seconds; replica a did 50 in 5 s.
    let cpu = window.cpu_millicores.expect("cpu was read");
    close_to(Some(cpu.mean), 16.0);
    close_to(Some(cpu.max), 20.0);
    // 13 of 50 periods of each.
    close_to(window.throttled_share, 0.26);
    assert_eq!((window.rate_slope_rps, window.rate_variation), (None, None), "one tick has no trend");
}

#[test]
fn replicas_that_are_read_just_after_each_other_in_different_ticks_are_not_a_peak() {
    let mut feed = Feed::new();
    let read = |name: &'static str, at: u64, completed| move |_: u64| replicas_only(vec![replica(name, at, completed, 0)]);
    feed.tick(&[&read("a", 990, 0), &read("b", 995, 0)]);
    // Each answers 10 requests/s; the reading of `b` ends 5 ms after that of `a`.
    let first = feed.tick(&[&read("a", 10_990, 100)]);
    let second = feed.tick(&[&read("b", 10_995, 100)]);
    close_to(second.completed_rps, 20.0);
    close_to(second.replicas, 2.0);
    assert!(first.completed_rps.is_some_and(|rate| rate < 20.0) && first.replicas.is_some_and(|replicas| replicas < 2.0), "{first:?}");
    let short = feed.windows.measured(95.0).short;
    close_to(short.completed_rps, 20.0);
    close_to(short.replicas, 2.0);
}

#[test]
fn a_counter_that_fell_counts_from_zero_and_is_never_negative() {
    let mut feed = Feed::new();
    feed.replicas(&[("a", 1000, 10)]);
    let window = feed.replicas(&[("a", 50, 0)]);
    close_to(window.completed_rps, 10.0);
    close_to(window.cpu_millicores.map(|cpu| cpu.mean), 20.0);
    close_to(window.failed_share, 0.0);
    assert_eq!(feed.windows.closed().map(|closed| closed.restarted), Some(2), "requests and CPU were both reset");
}

/// `replica`, which started `ms` before its reading.
fn started(replica: Scrape, ms: u64) -> Scrape {
    Scrape { started: Some(Timestamp(replica.at.0 - ms)), ..replica }
}

#[test]
fn a_replica_that_started_since_the_last_reading_counts_from_zero_and_one_that_vanishes_counts_no_more() {
    let mut feed = Feed::new();
    feed.replicas(&[("a", 1000, 0)]);
    let window = feed.tick(&[&|at| replicas_only(vec![replica("a", at, 1010, 0), started(replica("b", at, 40, 0), TICK - 1)])]);
    close_to(window.completed_rps, 10.0);
    close_to(window.replicas, 2.0);
    close_to(feed.replicas(&[("b", 50, 0)]).completed_rps, 2.0);
    // Its 10 requests took two ticks, those of the other one: 20 in one and a half ticks of two replicas.
    close_to(feed.replicas(&[("b", 60, 0), ("a", 1020, 0)]).completed_rps, 20.0 / 7.5);
}

#[test]
fn a_replica_that_may_be_older_than_the_last_reading_has_no_rate_before_its_second_one() {
    for age in [None, Some(TICK + 1)] {
        let mut feed = Feed::new();
        feed.replicas(&[("a", 1000, 0)]);
        let late = |at| {
            let late = Scrape { restarts: Some(3.into()), ..replica("b", at, 9000, 7) };
            replicas_only(vec![replica("a", at, 1010, 0), age.map_or(late.clone(), |ms| started(late, ms))])
        };
        let window = feed.tick(&[&late]);
        close_to(window.completed_rps, 2.0);
        close_to(window.failed_share, 0.0);
        close_to(window.cpu_millicores.map(|cpu| cpu.max), 4.0);
        assert_eq!((window.replicas, window.restarts), (Some(1.0), 0));
        close_to(feed.replicas(&[("a", 1010, 0), ("b", 9050, 7)]).completed_rps, 10.0);
    }
}

#[test]
fn more_cpu_than_the_node_has_is_dropped_and_reported() {
    let mut feed = Feed::new();
    let scrape = |usage_us| {
        move |at: u64| {
            let cpu = Some(CpuCounters { usage_us, ..CpuCounters::default() }.into());
            FunctionScrape { node_cores: Some(2.0), ..replicas_only(vec![Scrape { cpu, ..replica("a", at, 0, 0) }]) }
        }
    };
    feed.tick(&[&scrape(0)]);
    close_to(feed.tick(&[&scrape(9_000_000)]).cpu_millicores.map(|cpu| cpu.mean), 1800.0);
    feed.tick += 1;
    // 6 cores for 5 s.
    let reported = feed.windows.record(&scrape(39_000_000)(feed.now()));
    assert_eq!(reported, [ImpossibleGrowth { counter: Counter::Cpu, replica: Some(0), per_second: Some(6.0) }]);
    feed.windows.close(Tick(feed.tick), &Prices::default());
    let window = feed.windows.measured(95.0).tick;
    assert_eq!((window.cpu_millicores, window.replicas), (None, None));
    assert_eq!(feed.windows.ages(Timestamp(feed.now())).cpu_ms, Some(TICK));
    let window = feed.tick(&[&scrape(10_000_000)]);
    close_to(window.cpu_millicores.map(|cpu| cpu.max), 100.0);
    assert_eq!(window.covered_ms, 2 * TICK, "the next reading covers the dropped one");
    // A reading that came a little late is not impossible, and does not make more of the node's cores.
    close_to(feed.tick(&[&scrape(20_100_000)]).cpu_millicores.map(|cpu| cpu.max), 2000.0);
}

#[test]
fn more_requests_than_can_be_answered_or_can_arrive_are_dropped_and_reported() {
    let mut feed = Feed::new();
    let both = |requests: u64, arrived| {
        move |at| {
            let replica = Scrape { cpu: None, ..replica("a", at, requests, 0) };
            FunctionScrape { ingress: Some(ingress(at, arrived, 0)), ..replicas_only(vec![replica]) }
        }
    };
    feed.tick(&[&both(0, 0)]);
    feed.tick += 1;
    let reported = feed.windows.record(&both(u64::from(u32::MAX) * 2, u64::MAX)(feed.now()));
    let kinds: Vec<_> = reported.iter().map(|growth| (growth.counter, growth.replica)).collect();
    assert_eq!(kinds, [(Counter::Arrivals, None), (Counter::Requests, Some(0))]);
    feed.windows.close(Tick(feed.tick), &Prices::default());
    let window = feed.windows.measured(95.0).tick;
    assert_eq!((window.rate_rps, window.completed_rps, window.latency), (None, None, None));
    let window = feed.tick(&[&both(100, 100)]);
    close_to(window.rate_rps, 10.0);
    close_to(window.completed_rps, 10.0);
}

#[test]
fn a_counter_of_failures_that_vanishes_is_no_reset_of_the_others() {
    let mut feed = Feed::new();
    feed.tick(&[&|at| FunctionScrape { ingress: Some(ingress(at, 5000, 30)), ..replicas_only(vec![replica("a", at, 1000, 50)]) }]);
    let window =
        feed.tick(&[&|at| FunctionScrape { ingress: Some(ingress(at, 5020, 0)), ..replicas_only(vec![replica("a", at, 1010, 0)]) }]);
    close_to(window.completed_rps, 2.0);
    close_to(window.rate_rps, 4.0);
    assert_eq!(window.failed_share, Some(0.0));
}

#[test]
fn a_counter_that_adds_up_other_parts_starts_again() {
    let mut feed = Feed::new();
    let read = |usage_us, arrived, of| {
        move |at| {
            let cpu = Some(CpuCounters { usage_us, of, ..CpuCounters::default() }.into());
            let ingress = Some(IngressReading { arrived: Parts::One(Count { of, value: arrived }), ..ingress(at, arrived, 0) });
            FunctionScrape { ingress, ..replicas_only(vec![Scrape { cpu, ..replica("a", at, 0, 0) }]) }
        }
    };
    feed.tick(&[&read(1_000_000, 1000, 1)]);
    // Another container and another gateway, which counted before.
    let window = feed.tick(&[&read(2_000_000, 5000, 2)]);
    assert_eq!((window.cpu_millicores, window.rate_rps), (None, None));
    let window = feed.tick(&[&read(2_500_000, 5100, 2)]);
    close_to(window.cpu_millicores.map(|cpu| cpu.mean), 100.0);
    close_to(window.rate_rps, 20.0);
}

/// CPU time of containers, milliseconds, each with the time of its start, seconds.
fn containers(usage: &[(u64, Option<u64>)]) -> Parts<CpuCounters> {
    let one = |((usage_ms, started), of): (&(u64, Option<u64>), u64)| {
        let started = started.map(|seconds| Timestamp(seconds * SECOND));
        CpuCounters { usage_us: usage_ms * 1000, periods: None, of, started }
    };
    usage.iter().zip(1..).map(one).collect()
}

#[test]
fn each_container_grows_for_itself() {
    // CPU of the containers of a replica at the ends of two ticks, 5 and 10 seconds after the epoch, and the mean between them.
    type Containers<'a> = &'a [(u64, Option<u64>)];
    let cases: [(Containers<'_>, Containers<'_>, Option<f64>); 10] = [
        // One of two is reset: its growth is the new value, and the other one grew by 50 ms.
        (&[(60_000, None), (300_000, None)], &[(60_050, None), (500, None)], Some(110.0)),
        (&[(60_000, Some(1)), (300_000, Some(1))], &[(60_050, Some(1)), (500, Some(7))], Some(110.0)),
        (&[(60_000, Some(1)), (300_000, Some(1))], &[(60_050, Some(1)), (500, None)], Some(110.0)),
        // One that is known to be another container is reset even if it shows more.
        (&[(400, Some(1))], &[(3000, Some(6))], Some(600.0)),
        (&[(400, Some(1))], &[(3400, Some(1))], Some(600.0)),
        // Its start was read later than it was; more precisely; or lies ahead, because the clocks differ.
        (&[(300_000, Some(1))], &[(500, Some(4))], Some(100.0)),
        (&[(400, Some(1))], &[(3400, Some(2))], Some(600.0)),
        (&[(400, Some(20))], &[(3400, Some(20))], Some(600.0)),
        // The last reading was one of a container that had just started, and its start is not exact.
        (&[(400, Some(5))], &[(3400, Some(6))], Some(600.0)),
        // The container did not start again, so its counter is wrong.
        (&[(60_000, Some(1)), (300_000, Some(1))], &[(60_050, Some(1)), (500, Some(1))], None),
    ];
    for (before, after, expected) in cases {
        let mut feed = Feed::new();
        let read = |usage| move |at| replicas_only(vec![Scrape { cpu: Some(containers(usage)), ..Scrape::new("a", Timestamp(at)) }]);
        feed.tick(&[&read(before)]);
        let window = feed.tick(&[&read(after)]);
        assert_eq!(window.cpu_millicores.map(|cpu| cpu.mean), expected, "{before:?} to {after:?}");
    }
}

#[test]
fn another_set_of_containers_has_no_rate_before_its_next_reading() {
    let mut feed = Feed::new();
    let read = |usage| move |at| replicas_only(vec![Scrape { cpu: Some(containers(usage)), ..Scrape::new("a", Timestamp(at)) }]);
    let (one, two) = (&[(60_000, None)][..], &[(60_000, None), (300_000, None)][..]);
    for (usage, expected) in [(two, None), (one, None), (one, Some(0.0)), (two, None), (two, Some(0.0)), (&[], None)] {
        assert_eq!(feed.tick(&[&read(usage)]).cpu_millicores.map(|cpu| cpu.mean), expected, "{usage:?}");
    }
}

#[test]
fn each_gateway_grows_for_itself() {
    let mut feed = Feed::new();
    let counts = |values: &[u64]| values.iter().zip(1..).map(|(&value, of)| Count { of, value }).collect::<Parts<_>>();
    let read = |arrived, failed| {
        move |at| FunctionScrape {
            ingress: Some(IngressReading { arrived: counts(arrived), failed: counts(failed), ..ingress(at, 0, 0) }),
            ..replicas_only(vec![replica("a", at, 0, 0)])
        }
    };
    feed.tick(&[&read(&[100_000, 90_000], &[10, 20])]);
    let window = feed.tick(&[&read(&[100_025, 25], &[11, 1])]);
    close_to(window.rate_rps, 10.0);
    close_to(window.failed_share, 1.0);
    assert_eq!(feed.windows.ring.last().get(Field::Failed), 2);
    // A gateway shows failures from the first one on.
    feed.tick(&[&read(&[100_025, 25], &[11])]);
    feed.tick(&[&read(&[100_025, 25], &[11, 3])]);
    assert_eq!(feed.windows.ring.last().get(Field::Failed), 3);
}

#[test]
fn requests_may_belong_to_any_of_several_processes() {
    // Start of the oldest and of the newest process, seconds, and whether the counter was reset.
    for (oldest, newest, reset) in [(1, 1, false), (1, 7, true), (7, 8, true)] {
        let mut feed = Feed::new();
        feed.replicas(&[("a", 1000, 0)]);
        let restarted = |at| {
            let starts = [oldest, newest].map(|seconds| Some(Timestamp(seconds * SECOND)));
            let [started, last_started] = starts;
            replicas_only(vec![Scrape { started, last_started, cpu: None, ..replica("a", at, 50, 0) }])
        };
        assert_eq!(feed.tick(&[&restarted]).completed_rps, reset.then_some(10.0), "{oldest} {newest}");
    }
}

#[test]
fn kills_are_counted_for_each_container_and_after_a_reset_from_zero() {
    let mut feed = Feed::new();
    let counts = |values: &[u64]| values.iter().zip(1..).map(|(&value, of)| Count { of, value }).collect::<Parts<_>>();
    let mut read = |kills: Option<&[u64]>| {
        let oom_kills = kills.map(counts);
        feed.tick(&[&|at| replicas_only(vec![Scrape { oom_kills: oom_kills.clone(), ..replica("a", at, 0, 0) }])]).oom_kills
    };
    // The container is replaced after each kill, and the one beside it is not.
    let cases = [
        (Some(&[4, 7][..]), 0),
        (Some(&[0, 7]), 0),
        (Some(&[1, 7]), 1),
        (Some(&[0, 7]), 0),
        (None, 0),
        (Some(&[2, 7]), 2),
        (Some(&[1, 7]), 1),
        (Some(&[1, 9]), 2),
    ];
    for (kills, expected) in cases {
        assert_eq!(read(kills), expected, "{kills:?}");
    }
}

#[test]
fn an_older_reading_of_kills_is_no_reset() {
    let mut feed = Feed::new();
    let read = |ago: u64, restarts: u64| {
        move |at: u64| replicas_only(vec![Scrape { restarts: Some(restarts.into()), ..Scrape::new("a", Timestamp(at - ago)) }])
    };
    feed.tick(&[&read(0, 3)]);
    assert_eq!(feed.tick(&[&read(0, 5), &read(TICK + 1, 2), &read(0, 5)]).restarts, 2);
}

#[test]
fn more_throttled_periods_than_periods_are_dropped() {
    let mut feed = Feed::new();
    let read = |runnable, throttled| {
        let cpu = CpuCounters { periods: Some(CpuPeriods { runnable, throttled }), ..CpuCounters::default() };
        move |at| replicas_only(vec![Scrape { cpu: Some(cpu.into()), ..replica("a", at, 0, 0) }])
    };
    feed.tick(&[&read(1000, 0)]);
    assert_eq!(feed.tick(&[&read(1001, 400)]).throttled_share, None);
    assert_eq!(feed.tick(&[&read(1051, 425)]).throttled_share, Some(0.5));
    assert_eq!(feed.tick(&[&read(1101, 476)]).throttled_share, Some(1.0), "one of them began before the reading");
}

#[test]
fn latencies_that_are_not_read_for_a_tick_leave_the_requests() {
    let mut feed = Feed::new();
    let without = |at| {
        let mut one = replica("a", at, 150, 2);
        one.requests.as_mut().expect("given").latency = None;
        replicas_only(vec![one])
    };
    feed.replicas(&[("a", 100, 0)]);
    let window = feed.tick(&[&without]);
    assert_eq!((window.completed_rps, window.latency), (Some(10.0), None));
    let window = feed.replicas(&[("a", 200, 2)]);
    assert_eq!((window.completed_rps, window.latency), (Some(10.0), None), "no two readings in a row");
    assert!(feed.replicas(&[("a", 250, 2)]).latency.is_some());
}

#[test]
fn a_counter_that_fell_was_reset_if_its_process_started_since() {
    for (age, restarted) in [(TICK - 1, true), (TICK + 1, false)] {
        let mut feed = Feed::new();
        feed.replicas(&[("a", 100, 0)]);
        let window = feed.tick(&[&|at| replicas_only(vec![started(replica("a", at, 60, 0), age)])]);
        assert_eq!(window.completed_rps, restarted.then_some(12.0), "it started {age} ms ago");
        assert_eq!(feed.windows.closed().map(|closed| closed.restarted), Some(if restarted { 2 } else { 0 }));
        let window = feed.tick(&[&|at| replicas_only(vec![started(replica("a", at, 70, 0), age + TICK)])]);
        assert_eq!(window.completed_rps, restarted.then_some(2.0), "counting starts where two readings agree");
        let window = feed.tick(&[&|at| replicas_only(vec![started(replica("a", at, 80, 0), age + 2 * TICK)])]);
        close_to(window.completed_rps, 2.0);
    }
}

#[test]
fn a_counter_that_falls_a_little_is_dropped_and_reported() {
    let mut feed = Feed::new();
    let read = |usage_us| {
        move |at| {
            replicas_only(vec![Scrape { cpu: Some(CpuCounters { usage_us, ..CpuCounters::default() }.into()), ..replica("a", at, 0, 0) }])
        }
    };
    feed.tick(&[&read(100_000_000)]);
    feed.tick += 1;
    let reported = feed.windows.record(&read(99_900_000)(feed.now()));
    assert_eq!(reported, [ImpossibleGrowth { counter: Counter::Cpu, replica: Some(0), per_second: None }]);
    feed.windows.close(Tick(feed.tick), &Prices::default());
    assert_eq!(feed.windows.measured(95.0).tick.cpu_millicores, None);
    close_to(feed.tick(&[&read(101_000_000)]).cpu_millicores.map(|cpu| cpu.mean), 100.0);
}

#[test]
fn periods_that_are_not_read_for_a_tick_are_no_reset() {
    let mut feed = Feed::new();
    let read = |usage_us, periods| {
        move |at| {
            replicas_only(vec![Scrape {
                cpu: Some(CpuCounters { usage_us, periods, ..CpuCounters::default() }.into()),
                ..replica("a", at, 0, 0)
            }])
        }
    };
    feed.tick(&[&read(90_000_000, Some(CpuPeriods { runnable: 900, throttled: 800 }))]);
    let window = feed.tick(&[&read(90_500_000, None)]);
    close_to(window.cpu_millicores.map(|cpu| cpu.mean), 100.0);
    assert_eq!(window.throttled_share, None);
    let window = feed.tick(&[&read(91_000_000, Some(CpuPeriods { runnable: 1000, throttled: 850 }))]);
    close_to(window.cpu_millicores.map(|cpu| cpu.mean), 100.0);
    assert_eq!(window.throttled_share, None, "no two readings in a row");
    assert_eq!(feed.windows.closed().map(|closed| closed.restarted), Some(0));
}

#[test]
fn a_part_that_the_platform_does_not_say_keeps_its_last_value_and_its_age() {
    let mut feed = Feed::new();
    let nothing = feed.tick(&[&|at| FunctionScrape {
        platform: Some(PlatformReading { allocation: None, ..platform(at, 2) }),
        ..FunctionScrape::default()
    }]);
    assert_eq!(nothing.restarts, 0);
    assert_eq!((feed.windows.allocation(), feed.windows.replicas(Timestamp(feed.now())).map(|counts| counts.ready.0)), (None, Some(2)));
    assert_eq!(feed.windows.ages(Timestamp(feed.now())).replicas_ms, None, "without an allocation this kind was never measured");
    feed.tick(&[&|at| FunctionScrape { platform: Some(platform(at, 3)), ..FunctionScrape::default() }]);
    feed.tick(&[&|at| FunctionScrape {
        platform: Some(PlatformReading { replicas: None, ..platform(at, 4) }),
        ..FunctionScrape::default()
    }]);
    let counts = feed.windows.replicas(Timestamp(feed.now())).expect("read before");
    assert_eq!((counts.ready.0, feed.windows.allocation().map(|allocation| allocation.replicas.0)), (3, Some(4)));
    assert_eq!(feed.windows.ages(Timestamp(feed.now())).replicas_ms, Some(TICK));
}

#[test]
fn a_gap_is_visible_and_its_counts_are_added_once_with_their_time() {
    let mut feed = Feed::new();
    feed.replicas(&[("a", 0, 0)]);
    feed.replicas(&[("a", 100, 0)]);
    for _ in 0..3 {
        let window = feed.tick(&[]);
        assert_eq!(window, Window::default(), "nothing was measured");
    }
    let age = feed.windows.ages(Timestamp(feed.now()));
    assert_eq!((age.requests_ms, age.cpu_ms, age.memory_ms, age.replicas_ms), (Some(3 * TICK), Some(3 * TICK), Some(3 * TICK), None));
    let window = feed.replicas(&[("a", 500, 0)]);
    assert_eq!(window.covered_ms, 4 * TICK);
    close_to(window.completed_rps, 20.0);
    let short = feed.windows.measured(95.0).short;
    assert_eq!(short.covered_ms, 5 * TICK);
    close_to(short.completed_rps, 20.0);
}

#[test]
fn after_a_gap_longer_than_the_longest_window_counting_begins_again() {
    let mut feed = Feed::new();
    feed.replicas(&[("a", 0, 0)]);
    feed.tick += 61;
    assert_eq!(feed.replicas(&[("a", 100_000, 0)]).completed_rps, None);
    close_to(feed.replicas(&[("a", 100_100, 0)]).completed_rps, 20.0);
}

#[test]
fn ticks_that_were_not_closed_in_time_stay_empty() {
    let mut feed = Feed::new();
    for index in 0..20 {
        feed.replicas(&[("a", index * 10, 0)]);
    }
    feed.tick += 11;
    feed.replicas(&[("a", 1000, 0)]);
    let short = feed.windows.measured(95.0).short;
    assert_eq!(short.covered_ms, 12 * TICK, "the gap's time came with the reading that ended it");
    assert!(!feed.windows.close(Tick(feed.tick), &Prices::default()), "a tick is closed once");
    assert!(!feed.windows.close(Tick(3), &Prices::default()), "time does not run backwards");
}

#[test]
fn a_reading_that_is_late_is_passed_over() {
    let mut feed = Feed::new();
    feed.replicas(&[("a", 1000, 0)]);
    let late = replicas_only(vec![replica("a", 2 * SECOND, 400, 0)]);
    let window = feed.tick(&[&|at| replicas_only(vec![replica("a", at, 1100, 0)]), &|_| late.clone()]);
    close_to(window.completed_rps, 20.0);
    assert_eq!(window.covered_ms, TICK);
    assert_eq!(feed.windows.closed().map(|closed| closed.restarted), Some(0));
}

#[test]
fn several_readings_a_tick_add_up() {
    let mut feed = Feed::new();
    feed.replicas(&[("a", 0, 0)]);
    let part =
        |seconds_before: u64, completed| move |at: u64| replicas_only(vec![replica("a", at - seconds_before * SECOND, completed, 0)]);
    let window = feed.tick(&[&part(3, 10), &part(1, 90), &part(0, 100)]);
    close_to(window.completed_rps, 20.0);
    assert_eq!(window.covered_ms, TICK);
    // The busiest two seconds: 80 requests of 2 ms.
    close_to(window.cpu_millicores.map(|cpu| cpu.max), 80.0);
    close_to(window.cpu_millicores.map(|cpu| cpu.mean), 40.0);
}

#[test]
fn a_function_without_replicas_is_measured_and_not_stale() {
    let mut feed = Feed::new();
    let idle = |at| FunctionScrape { platform: Some(platform(at, 0)), ingress: Some(ingress(at, 0, 0)), ..FunctionScrape::default() };
    feed.tick(&[&idle]);
    let window = feed.tick(&[&idle]);
    assert_eq!((window.rate_rps, window.completed_rps, window.failed_share), (Some(0.0), Some(0.0), None));
    assert_eq!((window.cpu_millicores, window.memory_mib, window.latency), (None, None, None));
    assert_eq!(feed.windows.ages(Timestamp(feed.now())).oldest(), Some(std::time::Duration::ZERO));
    // Its first replica is known to be new.
    let started = |at| FunctionScrape {
        platform: Some(platform(at, 1)),
        ingress: Some(ingress(at, 50, 0)),
        replicas: vec![replica("a", at, 50, 0)],
        ..FunctionScrape::default()
    };
    close_to(feed.tick(&[&started]).completed_rps, 10.0);
}

#[test]
fn failures_are_unknown_while_the_entry_is_not_read() {
    let mut feed = Feed::new();
    let both =
        |at| FunctionScrape { ingress: Some(ingress(at, 0, 0)), replicas: vec![replica("a", at, 0, 0)], ..FunctionScrape::default() };
    feed.tick(&[&both]);
    let window = feed.replicas(&[("a", 100, 0)]);
    close_to(window.completed_rps, 20.0);
    assert_eq!((window.rate_rps, window.failed_share), (None, None));
    assert_eq!(feed.windows.closed().map(|closed| closed.answers_read), Some(false));
}

#[test]
fn kills_come_from_the_platform_where_it_counts_them() {
    let mut feed = Feed::new();
    let scrape = |crashes, oom_kills, restarts: Option<u64>| {
        move |at| FunctionScrape {
            platform: Some(PlatformReading { crashes, oom_kills, ..platform(at, 1) }),
            replicas: vec![Scrape { restarts: restarts.map(Parts::from), ..replica("a", at, 0, 0) }],
            ..FunctionScrape::default()
        }
    };
    feed.tick(&[&scrape(Some(7), Some(1), Some(4))]);
    let window = feed.tick(&[&scrape(Some(9), Some(2), Some(7))]);
    assert_eq!((window.restarts, window.oom_kills), (2, 1));
    assert_eq!(feed.windows.closed().and_then(|closed| closed.kills), Some(3));

    let mut feed = Feed::new();
    for (restarts, counted) in [(Some(4), 0), (Some(7), 3), (None, 0), (Some(7), 0), (Some(0), 0), (Some(1), 1), (Some(3), 2), (Some(2), 2)]
    {
        assert_eq!(feed.tick(&[&scrape(None, None, restarts)]).restarts, counted, "a lower value is a reset");
    }
}

#[test]
fn starting_replicas_do_not_make_the_ready_ones_look_idle() {
    let mut feed = Feed::new();
    let scrape = |at| FunctionScrape {
        platform: Some(PlatformReading {
            replicas: Some(PlatformReplicas { desired: Replicas(2), ready: Replicas(1), pending: Replicas(1) }),
            ..platform(at, 2)
        }),
        replicas: vec![replica("a", at, 0, 0), Scrape { in_flight: Some(0.0), ..replica("b", at, 0, 0) }],
        ..FunctionScrape::default()
    };
    close_to(feed.tick(&[&scrape]).concurrency, 2.0);
}

#[test]
fn startup_time_follows_the_newest_starts() {
    let mut feed = Feed::new();
    let scrape = |startups| {
        move |at| FunctionScrape { platform: Some(PlatformReading { startups, ..platform(at, 1) }), ..FunctionScrape::default() }
    };
    feed.tick(&[&scrape(Some((0, 0)))]);
    assert_eq!(feed.windows.startup_ms(), None);
    feed.tick(&[&scrape(Some((2, 1000)))]);
    assert_eq!(feed.windows.startup_ms(), Some(500));
    feed.tick(&[&scrape(Some((3, 1900)))]);
    assert_eq!(feed.windows.startup_ms(), Some(600), "(3 x 500 + 900) / 4");
    feed.tick(&[&scrape(Some((1, 600)))]);
    assert_eq!(feed.windows.startup_ms(), Some(600), "the counters were reset");
}

#[test]
fn replicas_that_report_are_those_read_within_a_tick() {
    let mut feed = Feed::new();
    feed.tick(&[&|at| FunctionScrape {
        platform: Some(platform(at, 2)),
        replicas: vec![replica("a", at, 0, 0), replica("b", at, 0, 0)],
        ..FunctionScrape::default()
    }]);
    let reporting = |feed: &Feed, later: u64| feed.windows.replicas(Timestamp(feed.now() + later)).map(|counts| counts.reporting.0);
    assert_eq!(reporting(&feed, 0), Some(2));
    feed.tick(&[&|at| FunctionScrape {
        platform: Some(platform(at, 2)),
        replicas: vec![replica("a", at, 0, 0)],
        ..FunctionScrape::default()
    }]);
    assert_eq!(reporting(&feed, 3), Some(1));
    assert_eq!(reporting(&feed, TICK + 1), Some(0));
}

#[test]
fn replicas_of_which_cpu_or_memory_is_missing_are_counted() {
    let mut feed = Feed::new();
    feed.tick(&[&|at| FunctionScrape {
        platform: Some(platform(at, 3)),
        replicas: vec![
            replica("a", at, 0, 0),
            Scrape { cpu: None, ..replica("b", at, 0, 0) },
            Scrape { working_set_bytes: None, ..replica("c", at, 0, 0) },
            Scrape { cpu: None, working_set_bytes: None, ..replica("d", at, 0, 0) },
        ],
        ..FunctionScrape::default()
    }]);
    let counts = feed.windows.replicas(Timestamp(feed.now())).expect("read");
    assert_eq!((counts.reporting.0, counts.without_cpu.0, counts.without_memory.0), (3, 1, 1));
}

#[test]
fn a_replica_not_shown_for_long_is_forgotten() {
    let mut feed = Feed::new();
    feed.replicas(&[("a", 10, 0), ("gone", 10, 0)]);
    let with_both = feed.windows.replicas.heap_bytes();
    for _ in 0..12 {
        feed.replicas(&[("a", 10, 0)]);
    }
    assert!(feed.windows.replicas.heap_bytes() < with_both);
}

fn state_id(tick: u64) -> StateId {
    StateId { epoch: Epoch(1_790_000_000_000), tick: Tick(tick) }
}

fn policy() -> ScalingPolicy {
    let name = |text| Name::new(text).expect("a DNS label");
    ScalingPolicy::new(FunctionId::new(name("production"), name("image-classification-python")))
}

/// A State with every optional field and long numbers.
fn full_state() -> State {
    let mut feed = Feed { windows: FunctionWindows::new(TickLength::default()), tick: 358_000_000 };
    for index in 0..80u64 {
        let scrape = |at: u64| {
            let mut one = replica("image-classification-python-7f9c-1", at, index * 1713, index * 37);
            one.requests.as_mut().expect("given").latency = Some(std::array::from_fn(|bucket| index * (bucket as u64 + 7)));
            FunctionScrape {
                platform: Some(PlatformReading {
                    allocation: Some(Allocation::new(3 + (index % 2) as u32, 333 + (index % 3) as u32, 257)),
                    crashes: Some(index),
                    oom_kills: Some(index / 2),
                    startups: Some((index, index * 777)),
                    ..platform(at, 3)
                }),
                ingress: Some(IngressReading { queued: 1234.567, ..ingress(at, index * index * 19, index * 3) }),
                replicas: vec![one, replica("image-classification-python-7f9c-2", at, index * 997, 0)],
                ..FunctionScrape::default()
            }
        };
        feed.tick(&[&scrape]);
    }
    let headroom = Headroom { cpu_millicores: Millicores(123_456), memory_mib: Mebibytes(654_321) };
    assemble(&policy(), state_id(feed.tick), Timestamp(feed.now() + 7), &feed.windows, Some(headroom))
}

#[test]
fn a_full_state_is_within_two_kibibytes_and_reads_back() {
    let state = full_state();
    assert!(state.age.oldest().is_some() && state.windows.long.rate_slope_rps.is_some() && state.startup_ms.is_some());
    assert_eq!(state.changes.last, Some(Direction::Up));
    let body = state.encode();
    println!("a full State takes {} bytes", body.len());
    assert!(body.len() <= 2048, "{} bytes", body.len());
    let read: State = parse(&body).expect("a State");
    assert_eq!(read.encode(), body);
    assert_eq!(
        (read.state_id(), read.allocation, read.windows.long.covered_ms),
        (state.state_id(), state.allocation, state.windows.long.covered_ms)
    );
}

#[test]
fn a_function_that_was_never_read_has_a_state() {
    let mut windows = FunctionWindows::new(TickLength::default());
    windows.close(Tick(7), &Prices::default());
    let state = assemble(&policy(), state_id(7), Timestamp(7 * TICK), &windows, None);
    assert_eq!((state.allocation, state.replicas, state.age.oldest(), state.windows), (None, None, None, WireWindows::default()));
    parse::<State>(&assemble(&policy(), state_id(7), Timestamp(7 * TICK), &windows, None).encode()).expect("a State");
}

#[test]
fn a_busy_function_takes_few_kibibytes() {
    let mut feed = Feed::new();
    for index in 0..200u64 {
        let names = ["fibonacci-python-1", "fibonacci-python-2", "fibonacci-python-3", "fibonacci-python-4"];
        feed.tick(&[&|at| FunctionScrape {
            platform: Some(platform(at, 4)),
            ingress: Some(ingress(at, index * 2000, 0)),
            replicas: names.iter().map(|name| replica(name, at, index * 500, 0)).collect(),
            ..FunctionScrape::default()
        }]);
    }
    println!("a function of four replicas takes {} bytes, {} of them inline", feed.windows.memory_bytes(), size_of::<FunctionWindows>());
    assert!(feed.windows.memory_bytes() < 8 * 1024, "{}", feed.windows.memory_bytes());
}

/// Counters of some containers or gateways.
fn any_counts() -> impl Strategy<Value = Parts<Count>> {
    let counter = prop_oneof![4 => 0u64..100_000, 1 => any::<u64>()];
    prop::collection::btree_map(0u64..3, counter, 1..3).prop_map(|parts| parts.into_iter().map(|(of, value)| Count { of, value }).collect())
}

/// Readings of one replica: anything, most of it plausible.
fn any_reading() -> impl Strategy<Value = (u8, Scrape)> {
    let counter = || prop_oneof![4 => 0u64..100_000, 1 => any::<u64>()];
    let gauge = prop_oneof![0.0f64..100.0, Just(f64::NAN), Just(f64::NEG_INFINITY), Just(f64::INFINITY)];
    let latency = prop::option::of(prop::collection::vec(counter(), LATENCY_BUCKETS));
    let requests = (counter(), counter(), latency).prop_map(|(completed, failed, latency)| {
        let latency = latency.map(|latency| latency.try_into().expect("as many as there are"));
        RequestCounters { completed, failed, latency }
    });
    let periods = (counter(), counter()).prop_map(|(runnable, throttled)| CpuPeriods { runnable, throttled });
    let started = || prop::option::of((0u64..TICK * 100).prop_map(Timestamp));
    let cpu = (counter(), prop::option::of(periods), started());
    let cpu = prop::collection::btree_map(0u64..3, cpu, 0..3).prop_map(|parts| {
        parts.into_iter().map(|(of, (usage_us, periods, started))| CpuCounters { usage_us, periods, of, started }).collect()
    });
    let started = (started(), started());
    let kills = (any_counts(), any_counts());
    (0u8..4, started, prop::option::of(requests), prop::option::of(gauge), prop::option::of(cpu), prop::option::of(counter()), kills)
        .prop_map(|(name, (started, last_started), requests, in_flight, cpu, working_set_bytes, (restarts, oom_kills))| {
            let scrape = Scrape {
                started,
                last_started,
                requests,
                in_flight,
                cpu,
                working_set_bytes,
                restarts: Some(restarts),
                oom_kills: Some(oom_kills),
                ..Scrape::new(format!("r{name}"), Timestamp(0))
            };
            (name, scrape)
        })
}

fn any_scrape() -> impl Strategy<Value = FunctionScrape> {
    let counter = || prop_oneof![4 => 0u64..100_000, 1 => any::<u64>()];
    let ingress = (any_counts(), any_counts(), prop_oneof![0.0f64..1e6, Just(f64::NAN)])
        .prop_map(|(arrived, failed, queued)| IngressReading { at: Timestamp(0), arrived, failed, queued });
    let platform = (0u32..5, 0u32..3, prop::option::of(counter()), prop::option::of((counter(), counter()))).prop_map(
        |(ready, cpu, crashes, startups)| PlatformReading {
            allocation: Some(Allocation::new(ready, cpu, 64)),
            crashes,
            startups,
            ..platform(0, ready)
        },
    );
    // Names differ within one scrape: what one source says of a replica comes in one piece.
    let replicas = prop::collection::btree_map(0u8..4, any_reading(), 0..4)
        .prop_map(|map| map.into_iter().map(|(name, (_, scrape))| Scrape { replica: format!("r{name}"), ..scrape }).collect());
    (prop::option::of(platform), prop::option::of(ingress), replicas).prop_map(|(platform, ingress, replicas)| FunctionScrape {
        platform,
        ingress,
        replicas,
        node_cores: None,
    })
}

fn stamped(mut scrape: FunctionScrape, at: u64) -> FunctionScrape {
    scrape.platform.iter_mut().for_each(|reading| reading.at = Timestamp(at));
    scrape.ingress.iter_mut().for_each(|reading| reading.at = Timestamp(at));
    scrape.replicas.iter_mut().for_each(|reading| reading.at = Timestamp(at));
    scrape
}

/// Scrapes with the times at which they were read, not always in order, and with the number of ticks that end after each.
fn any_history() -> impl Strategy<Value = Vec<(FunctionScrape, u64, u64)>> {
    prop::collection::vec((any_scrape(), 0u64..3 * TICK, prop_oneof![3 => Just(1u64), 1 => 0u64..5]), 1..40)
}

fn replay(history: &[(FunctionScrape, u64, u64)], mut after_each: impl FnMut(&FunctionWindows)) {
    let mut windows = FunctionWindows::new(TickLength::default());
    let mut tick = 10;
    for (scrape, lag, ticks) in history {
        windows.record(&stamped(scrape.clone(), (tick * TICK).saturating_sub(*lag)));
        tick += ticks;
        windows.close(Tick(tick), &Prices::default());
        after_each(&windows);
    }
}

proptest! {
    #[test]
    fn whatever_is_read_the_state_is_valid(history in any_history()) {
        replay(&history, |windows| {
            let state = assemble(&policy(), state_id(1), Timestamp(1 << 41), windows, None);
            state.check().expect("what the contract allows");
            parse::<State>(&state.encode()).expect("only numbers that JSON can represent");
            for window in [&state.windows.tick, &state.windows.short, &state.windows.long] {
                for usage in [window.cpu_millicores, window.memory_mib].into_iter().flatten() {
                    assert!(usage.mean <= usage.max, "{usage:?}");
                }
                assert!(window.rate_slope_rps.unwrap_or(0.0).is_finite() && window.rate_variation.unwrap_or(0.0) >= 0.0);
            }
        });
    }

    #[test]
    fn the_order_of_replicas_is_irrelevant(history in any_history()) {
        let mirrored: Vec<_> = history.iter().cloned().map(|(mut scrape, lag, ticks)| { scrape.replicas.reverse(); (scrape, lag, ticks) }).collect();
        let (mut straight, mut reversed) = (Vec::new(), Vec::new());
        replay(&history, |windows| straight.push((windows.measured(95.0), windows.closed().copied())));
        replay(&mirrored, |windows| reversed.push((windows.measured(95.0), windows.closed().copied())));
        prop_assert_eq!(straight, reversed);
    }

    #[test]
    fn every_request_is_counted_once(steps in prop::collection::vec((0u64..1000, 0u64..100, 0u64..10), 1..60), begin in 0u64..1 << 40) {
        let mut feed = Feed::new();
        feed.replicas(&[("a", begin, begin)]);
        let (mut completed, mut failed) = (0, 0);
        for &(more, less, skipped) in &steps {
            completed += more;
            failed += less;
            for _ in 0..skipped % 3 {
                feed.tick(&[]);
            }
            if feed.tick + 1 > 60 { break; }
            feed.replicas(&[("a", begin + completed, begin + failed)]);
            let sums = feed.windows.ring.long();
            prop_assert_eq!((sums.get(Field::Completed), sums.get(Field::Failed)), (completed, failed));
            prop_assert_eq!(sums.latency().iter().sum::<u64>(), completed);
            prop_assert_eq!(sums.get(Field::AnsweredMs), (feed.tick - 1) * TICK);
        }
    }
}

#[test]
fn starts_are_counted_where_the_source_counts_them() {
    let mut feed = Feed::new();
    let scrape =
        |at, startups| FunctionScrape { platform: Some(PlatformReading { startups, ..platform(at, 1) }), ..FunctionScrape::default() };
    for starts in [4, 4, 7] {
        feed.tick(&[&|at| scrape(at, Some((starts, 1000 * starts)))]);
    }
    let windows = feed.windows.measured(95.0);
    assert_eq!((windows.tick.starts, windows.short.starts), (Some(3), Some(3)));
    feed.tick(&[&|at| scrape(at, None)]);
    assert_eq!(feed.windows.measured(95.0).tick.starts, None);
}

proptest! {
    /// A State that is written over from tick to tick, as a simulator does, is the one that is assembled from nothing, as a collector does.
    #[test]
    fn a_state_that_is_written_over_equals_one_that_is_assembled(
        ticks in prop::collection::vec((0u64..3, prop::option::of((0u32..4, 1u64..200, 0u64..20)), any::<bool>()), 1..30),
    ) {
        let (policy, mut windows) = (policy(), FunctionWindows::new(TickLength::default()));
        let mut written = assemble(&policy, state_id(0), Timestamp(0), &windows, None);
        let (mut tick, mut completed, mut failed) = (1, 0, 0);
        for (skipped, reading, with_headroom) in ticks {
            tick += 1 + skipped;
            let at = tick * TICK + TICK - 1;
            if let Some((replicas, more, lost)) = reading {
                (completed, failed) = (completed + more, failed + lost);
                let one = |number| replica(&format!("r-{number}"), at, completed, failed);
                let platform = PlatformReading { startups: Some((completed, completed * 700)), ..platform(at, replicas) };
                windows.record(&FunctionScrape {
                    platform: Some(platform),
                    ingress: Some(ingress(at, completed + failed, failed)),
                    replicas: (0..replicas).map(one).collect(),
                    ..FunctionScrape::default()
                });
            }
            windows.close(Tick(tick), &policy.prices);
            let headroom = with_headroom.then_some(Headroom { cpu_millicores: Millicores(tick as u32), memory_mib: Mebibytes(7) });
            let (state_id, now) = (state_id(tick), Timestamp(at + 40));
            windows.write_state(&mut written, state_id, now, headroom);
            prop_assert_eq!(&written, &assemble(&policy, state_id, now, &windows, headroom));
        }
    }
}
