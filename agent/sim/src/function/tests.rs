use qscale_common::scrape::{CpuPeriods, FunctionScrape, IngressReading, PlatformReading};
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::{Mebibytes, Millicores, Replicas};

use super::*;
use crate::distribution::Distribution;
use crate::profile::{MemoryProfile, Startup};

const SECOND: u64 = 1000;

fn ms(ms: u64) -> Nanos {
    Nanos::millis(ms)
}

/// A function whose requests take 100 ms on one core, and whose replicas take 1 s to start.
fn function(concurrency: u32, queue: u32, timeout_ms: u64) -> Function {
    let startup = Startup { cpu: Distribution::ZERO, waiting: Distribution::constant(ms(SECOND)) };
    let profile = FunctionProfile { startup, ..FunctionProfile::simple("f", Distribution::constant(ms(100))) };
    Function::new(Arc::new(profile), Gateway { concurrency, queue, timeout: Span::millis(timeout_ms) }, 1, 0)
}

fn warm(replicas: u32, concurrency: u32, queue: u32, timeout_ms: u64) -> Function {
    let mut function = function(concurrency, queue, timeout_ms);
    function.warm(Allocation::new(replicas, 1000, 128), Nanos::ZERO);
    function
}

#[track_caller]
fn check(function: &mut Function, at_ms: u64, completed: u64, refused: u64, timed_out: u64) {
    let totals = function.totals(ms(at_ms));
    assert_eq!((totals.completed, totals.refused, totals.timed_out), (completed, refused, timed_out));
}

#[test]
fn a_full_queue_refuses_requests() {
    let mut function = warm(1, 1, 2, 10 * SECOND);
    (0..5).for_each(|_| function.arrive(ms(10)));
    check(&mut function, 10, 0, 2, 0);
    check(&mut function, 110, 1, 2, 0);
    assert_eq!(function.queued(), 1);
    check(&mut function, 310, 3, 2, 0);
}

#[test]
fn a_request_times_out_in_the_queue_and_at_its_replica() {
    let mut function = warm(1, 1, 10, 150);
    (0..3).for_each(|_| function.arrive(ms(0)));
    // The first is done at 100; the second begins then and is given up at 150, its place free for the third, which waited too long as well.
    check(&mut function, 149, 1, 0, 0);
    check(&mut function, 150, 1, 0, 2);
    // What was given up is worked on all the same: one that comes now waits for it.
    function.arrive(ms(150));
    assert_eq!(function.replicas().next().expect("one").load, 1);
    check(&mut function, 299, 1, 0, 2);
    check(&mut function, 300, 2, 0, 2);
}

#[test]
fn a_stopped_replica_finishes_what_it_has() {
    let mut function = warm(2, 1, 10, 10 * SECOND);
    (0..3).for_each(|_| function.arrive(ms(0)));
    function.allocate(Allocation::new(0, 1000, 128), ms(50));
    // A request waits, so the function is woken; a new replica starts next to two draining ones.
    assert_eq!((function.allocation().replicas, function.replicas().count()), (Replicas(1), 3));
    check(&mut function, 100, 2, 0, 0);
    assert_eq!(function.replicas().count(), 1);
    check(&mut function, 50 + SECOND + 100, 3, 0, 0);
}

#[test]
fn replicas_that_are_not_ready_stop_first_then_the_least_loaded() {
    let mut function = warm(2, 10, 0, 10 * SECOND);
    (0..3).for_each(|_| function.arrive(ms(0)));
    function.allocate(Allocation::new(3, 1000, 128), ms(0));
    function.allocate(Allocation::new(1, 1000, 128), ms(1));
    let left: Vec<_> = function.replicas().map(|replica| (replica.number, replica.phase, replica.load)).collect();
    assert_eq!(left, [(0, Phase::Ready, 2), (1, Phase::Draining, 1)]);
}

#[test]
fn a_request_starts_the_function_from_zero() {
    let mut function = function(100, 10, 10 * SECOND);
    function.arrive(ms(500));
    check(&mut function, 500 + SECOND, 0, 0, 0);
    check(&mut function, 500 + SECOND + 100, 1, 0, 0);
    let totals = function.totals(ms(2 * SECOND));
    assert_eq!((totals.wakes, totals.starts, totals.became_ready), (1, 1, 1));
    let mean = totals.latency.quantile(0.5, 0).expect("one").seconds();
    assert!((mean - 1.1).abs() < 0.04, "{mean}");
}

#[test]
fn a_start_that_computes_takes_longer_under_a_quota() {
    let startup = Startup { cpu: Distribution::constant(ms(500)), waiting: Distribution::constant(ms(300)) };
    let profile = Arc::new(FunctionProfile { startup, ..FunctionProfile::simple("f", Distribution::ZERO) });
    let ready_at = |limit| {
        let mut function = Function::new(Arc::clone(&profile), Gateway::default(), 1, 0);
        function.allocate(Allocation::new(1, limit, 128), Nanos::ZERO);
        (0..).find(|at| function.totals(ms(*at)).became_ready == 1).expect("some time")
    };
    assert_eq!(ready_at(1000), 800);
    // Twenty periods of 25 ms, the last of which ends 25 ms into its period.
    assert_eq!(ready_at(250), 300 + 1900 + 25);
}

#[test]
fn a_resize_holds_for_what_is_under_way() {
    let mut function = warm(1, 1, 10, 10 * SECOND);
    function.allocate(Allocation::new(1, 500, 128), Nanos::ZERO);
    function.arrive(Nanos::ZERO);
    // Without it, 50 ms now and 50 ms from 100 ms on.
    function.allocate(Allocation::new(1, 1000, 128), ms(80));
    check(&mut function, 129, 0, 0, 0);
    check(&mut function, 130, 1, 0, 0);
}

#[test]
fn requests_go_to_the_least_loaded_in_turn() {
    let mut function = warm(3, 2, 0, 10 * SECOND);
    let loads = |function: &Function| function.replicas().map(|replica| replica.load).collect::<Vec<_>>();
    (0..4).for_each(|_| function.arrive(ms(0)));
    assert_eq!(loads(&function), [2, 1, 1]);
    (0..3).for_each(|_| function.arrive(ms(0)));
    assert_eq!(loads(&function), [2, 2, 2]);
    check(&mut function, 0, 0, 1, 0);
}

#[test]
fn cost_counts_replicas_as_long_as_they_are_there() {
    let mut function = warm(2, 1, 10, 10 * SECOND);
    function.allocate(Allocation { replicas: Replicas(4), cpu_millicores: Millicores(500), memory_mib: Mebibytes(1024) }, ms(10 * SECOND));
    let totals = function.totals(ms(20 * SECOND));
    assert!((totals.core_seconds - (20.0 + 20.0)).abs() < 1e-9 && (totals.gibibyte_seconds - (2.5 + 40.0)).abs() < 1e-9, "{totals:?}");
}

#[test]
fn a_scrape_counts_up_to_its_instant() {
    let mut function = warm(1, 2, 10, 10 * SECOND);
    let mut reading = ScrapeBuffer::default();
    (0..3).for_each(|_| function.arrive(ms(0)));
    function.scrape(ms(150), Timestamp(1_150), &mut reading);
    let scrape = &reading.scrape;
    let replica = &scrape.replicas[0];
    let requests = replica.requests.expect("read");
    assert_eq!((requests.completed, requests.failed, requests.latency.map(|latency| latency[11])), (1, 0, Some(1)));
    assert_eq!((replica.replica.as_str(), replica.at, replica.in_flight), ("f-00000", Timestamp(1_150), Some(2.0)));
    let cpu = replica.cpu.as_ref().expect("read")[0];
    assert_eq!((cpu.usage_us, cpu.periods), (150_000, Some(CpuPeriods { runnable: 2, throttled: 0 })));
    assert_eq!(
        scrape.ingress.clone().expect("read"),
        IngressReading { at: Timestamp(1_150), arrived: 3.into(), failed: 0.into(), queued: 0.0 }
    );
    let platform = scrape.platform.expect("read");
    assert_eq!((ready_and_pending(&platform), platform.startups), ((1, 0), Some((0, 0))));
}

/// A function whose replicas take 10 MiB and 1 MiB a request, each of which takes 100 ms; four at once.
fn hungry(replicas: u32, memory: u32) -> Function {
    let startup = Startup { cpu: Distribution::ZERO, waiting: Distribution::constant(ms(SECOND)) };
    let memory_of = MemoryProfile { base_mib: Mebibytes(10), request_kib: 1024 };
    let profile = FunctionProfile {
        startup,
        workers: 0,
        parallelism: 4,
        memory: memory_of,
        ..FunctionProfile::simple("f", Distribution::constant(ms(100)))
    };
    let gateway = Gateway { concurrency: 0, queue: 10, timeout: Span::seconds(30) };
    let mut function = Function::new(Arc::new(profile), gateway, 1, 0);
    function.warm(Allocation::new(replicas, 4000, memory), Nanos::ZERO);
    function
}

fn ready_and_pending(platform: &PlatformReading) -> (u32, u32) {
    let replicas = platform.replicas.expect("a simulated platform counts its replicas");
    (replicas.ready.0, replicas.pending.0)
}

fn scraped(function: &mut Function, at_ms: u64) -> FunctionScrape {
    let mut reading = ScrapeBuffer::default();
    function.scrape(ms(at_ms), Timestamp(at_ms), &mut reading);
    reading.scrape
}

#[test]
fn more_requests_than_memory_holds_kill_the_replica_with_all_of_them() {
    let mut function = hungry(1, 13);
    (0..3).for_each(|_| function.arrive(ms(0)));
    assert_eq!(scraped(&mut function, 1).replicas[0].working_set_bytes, Some(13 << 20));
    function.arrive(ms(10));
    let totals = function.totals(ms(10));
    assert_eq!((totals.failed, totals.oom_kills, totals.crashes), (4, 1, 0));
    let scrape = scraped(&mut function, 20);
    let (platform, replica) = (scrape.platform.expect("read"), &scrape.replicas[0]);
    assert_eq!((ready_and_pending(&platform), platform.oom_kills, platform.crashes), ((0, 1), Some(1), Some(0)));
    assert_eq!((replica.oom_kills.clone(), replica.restarts.clone(), replica.working_set_bytes), (Some(1.into()), Some(0.into()), Some(0)));
    assert_eq!(replica.requests.expect("read").failed, 4);
    // 200 ms of back-off and a second to start.
    function.arrive(ms(50));
    assert_eq!(scraped(&mut function, 211).replicas[0].restarts, Some(1.into()));
    check(&mut function, 1309, 0, 0, 0);
    check(&mut function, 1310, 1, 0, 0);
}

#[test]
fn memory_below_the_working_set_kills_at_once_and_again_until_it_is_enough() {
    let mut function = hungry(1, 64);
    function.arrive(ms(0));
    function.allocate(Allocation::new(1, 4000, 11), ms(10));
    assert_eq!(function.totals(ms(10)).oom_kills, 0);
    function.allocate(Allocation::new(1, 4000, 9), ms(20));
    assert_eq!((function.totals(ms(20)).oom_kills, function.totals(ms(20)).failed), (1, 1));
    // Dead at 20, 1220, 2620, 4420: it never becomes ready.
    assert_eq!(function.totals(ms(2619)).oom_kills, 2);
    let totals = function.totals(ms(4500));
    assert_eq!((totals.oom_kills, totals.restarts, totals.became_ready), (4, 3, 0));
    function.allocate(Allocation::new(1, 4000, 10), ms(5000));
    assert_eq!(function.totals(ms(10 * SECOND)).became_ready, 1);
}

#[test]
fn sufficient_memory_kills_no_replica() {
    let mut function = hungry(2, 14);
    for step in 0..1000 {
        (0..8).for_each(|_| function.arrive(ms(step * 100)));
    }
    let totals = function.totals(ms(200 * SECOND));
    assert_eq!((totals.completed, totals.oom_kills), (8000, 0));
}

#[test]
fn a_drained_replica_that_is_killed_does_not_come_back() {
    let mut function = hungry(1, 12).crashing(0.0);
    (0..2).for_each(|_| function.arrive(ms(0)));
    function.allocate(Allocation::new(0, 4000, 12), ms(1));
    function.end(0, ExitCause::Crash, ms(2));
    assert_eq!((function.replicas().count(), function.totals(ms(3)).failed), (0, 2));
}

#[test]
fn crashes_occur_at_their_rate() {
    let mut function = function(1, 10, SECOND).crashing(6.0);
    function.warm(Allocation::new(20, 1000, 128), Nanos::ZERO);
    let hours = 100;
    let totals = function.totals(ms(hours * 3600 * SECOND)).clone();
    // Each of 20 runs six times an hour, less the 1.2 s that it takes to come back: 11,976 are expected, 109 is one standard deviation.
    assert!((11_550..12_400).contains(&totals.crashes), "{}", totals.crashes);
    assert!(totals.restarts.abs_diff(totals.crashes) <= 20 && totals.starts == 0);
    let scrape = scraped(&mut function, hours * 3600 * SECOND);
    assert_eq!(scrape.platform.expect("read").crashes, Some(totals.crashes));
    assert_eq!(scrape.replicas.iter().filter_map(|replica| Some(replica.restarts.as_ref()?.sum())).sum::<u64>(), totals.restarts);
}

fn on_nodes(count: u32, cpu: u32, memory: u32, cpu_overcommit: f64) -> Function {
    let nodes = Nodes { count, cpu_millicores: Millicores(cpu), memory_mib: Mebibytes(memory), cpu_overcommit };
    function(1, 100, 30 * SECOND).on_nodes(Some(nodes))
}

#[track_caller]
fn placed(function: &Function, expected: &[(u32, Option<u32>)]) {
    let places: Vec<_> = function.replicas().map(|replica| (replica.number, replica.node)).collect();
    assert_eq!(places, expected);
}

#[test]
fn replicas_are_placed_on_the_least_allocated_node_or_wait() {
    let mut function = on_nodes(2, 1000, 1000, 1.0);
    function.allocate(Allocation::new(5, 400, 100), ms(0));
    placed(&function, &[(0, Some(0)), (1, Some(1)), (2, Some(0)), (3, Some(1)), (4, None)]);
    let scrape = scraped(&mut function, 1500);
    let platform = scrape.platform.expect("read");
    assert_eq!((ready_and_pending(&platform), scrape.replicas.len()), ((4, 1), 4));
    let totals = function.totals(ms(10 * SECOND));
    assert_eq!((totals.starts, totals.core_seconds), (4, 16.0));
    // The one without a place goes first, and leaves no room; the next gives its room to the one that comes.
    function.allocate(Allocation::new(3, 400, 100), ms(10 * SECOND));
    placed(&function, &[(0, Some(0)), (1, Some(1)), (2, Some(0))]);
    function.allocate(Allocation::new(4, 400, 100), ms(11 * SECOND));
    placed(&function, &[(0, Some(0)), (1, Some(1)), (2, Some(0)), (5, Some(1))]);
}

#[test]
fn a_replica_without_a_place_starts_when_there_is_room() {
    let mut function = on_nodes(1, 1000, 1000, 1.0);
    function.warm(Allocation::new(2, 500, 100), Nanos::ZERO);
    function.allocate(Allocation::new(3, 500, 100), ms(0));
    placed(&function, &[(0, Some(0)), (1, Some(0)), (2, None)]);
    // Smaller ones leave room for a third.
    function.allocate(Allocation::new(3, 300, 100), ms(100));
    placed(&function, &[(0, Some(0)), (1, Some(0)), (2, Some(0))]);
    assert_eq!(function.totals(ms(100 + SECOND)).became_ready, 1);
    // There is room for two to grow, and the third keeps what it has.
    function.allocate(Allocation::new(3, 350, 100), ms(2 * SECOND));
    let cpu = |function: &Function| function.replicas().map(|replica| replica.limits.cpu.0).collect::<Vec<_>>();
    assert_eq!(cpu(&function), [350, 350, 300]);
    // Until another one leaves.
    function.allocate(Allocation::new(2, 350, 100), ms(3 * SECOND));
    function.allocate(Allocation::new(2, 600, 100), ms(4 * SECOND));
    assert_eq!(cpu(&function), [600, 350]);
    function.allocate(Allocation::new(1, 600, 100), ms(5 * SECOND));
    assert_eq!(cpu(&function), [600]);
}

#[test]
fn headroom_is_the_room_next_to_the_requested_allocation() {
    let mut function = on_nodes(2, 1000, 1000, 1.5);
    function.allocate(Allocation::new(5, 400, 100), ms(0));
    let mut reading = ScrapeBuffer::default();
    let mut left = |function: &mut Function| {
        function.scrape(ms(SECOND), Timestamp(1000), &mut reading);
        let headroom = reading.headroom.expect("nodes");
        (headroom.cpu_millicores.0, headroom.memory_mib.0)
    };
    assert_eq!(left(&mut function), (1000, 1500));
    function.lose_node(1, ms(SECOND));
    assert_eq!(left(&mut function), (0, 500));
}

#[test]
fn a_lost_node_takes_its_replicas_and_others_start_elsewhere() {
    let mut function = on_nodes(3, 1000, 1000, 1.0);
    function.warm(Allocation::new(3, 500, 100), Nanos::ZERO);
    (0..3).for_each(|_| function.arrive(ms(10)));
    function.lose_node(0, ms(50));
    placed(&function, &[(3, Some(1)), (1, Some(1)), (2, Some(2))]);
    let totals = function.totals(ms(60)).clone();
    assert_eq!((totals.failed, totals.lost, totals.starts, totals.crashes), (1, 1, 1, 0));
    check(&mut function, 150, 2, 0, 0);
    let scrape = scraped(&mut function, 150);
    assert_eq!(scrape.ingress.expect("read").failed.sum(), 1);
    // Nothing is placed on it until it is back.
    function.allocate(Allocation::new(6, 500, 100), ms(200));
    assert_eq!(function.replicas().filter(|replica| replica.node.is_none()).count(), 2);
    function.return_node(0, ms(300));
    assert_eq!(function.replicas().filter(|replica| replica.node == Some(0)).count(), 2);
}

#[test]
fn requests_are_conserved() {
    let mut function = warm(3, 2, 7, 350);
    let mut now = 0;
    for step in 0..20_000u64 {
        now += (step * 7919) % 60;
        function.arrive(ms(now));
        if step % 97 == 0 {
            function.allocate(Allocation::new((step % 5) as u32, 300 + (step % 11) as u32 * 100, 128), ms(now));
        }
    }
    let totals = function.totals(ms(now + 60 * SECOND)).clone();
    assert_eq!(totals.arrived, totals.completed + totals.refused + totals.timed_out);
    assert!(totals.refused > 0 && totals.timed_out > 0 && totals.completed > 3_000, "{totals:?}");
    assert!(function.replicas().all(|replica| replica.load == 0));
}

#[test]
fn intervals_add_up_and_scrapes_continue_to_count() {
    let live = |function: &mut Function, taken: &mut Totals, sum: &mut Totals, each: u64| {
        for step in 0..1000 {
            function.arrive(ms(step * 30));
            if step % each == each - 1 {
                function.take_interval(ms(step * 30), taken);
                sum.include(taken);
            }
        }
        function.take_interval(ms(40 * SECOND), taken);
        sum.include(taken);
        let mut reading = ScrapeBuffer::default();
        function.scrape(ms(40 * SECOND), Timestamp(40_000), &mut reading);
        reading.scrape
    };
    let [(often, scraped_often), (once, scraped_once)] = [7, 2000].map(|each| {
        let mut sum = Totals::default();
        let scrape = live(&mut warm(2, 1, 5, 300), &mut Totals::default(), &mut sum, each);
        (sum, scrape)
    });
    assert_eq!((often.arrived, often.completed + often.unanswered()), (1000, 1000));
    let cost = |totals: &Totals| (totals.core_seconds.round(), totals.gibibyte_seconds.round());
    assert_eq!(cost(&often), (80.0, 10.0));
    // Sums of floats depend on their order.
    assert!((often.busy_gibibyte_seconds - once.busy_gibibyte_seconds).abs() < 1e-9 && once.busy_gibibyte_seconds > 5.0);
    let sums = |totals: Totals| Totals { core_seconds: 80.0, gibibyte_seconds: 10.0, busy_gibibyte_seconds: 9.0, ..totals };
    assert_eq!(sums(often), sums(once));
    assert_eq!(scraped_often, scraped_once);
    assert!(scraped_once.ingress.expect("read").arrived.sum() == 1000);
}

/// Starts take 1 s, requests 2 s. One replica is ready before its request, one after it, and one is removed without any.
#[test]
fn cold_requests_busy_memory_and_early_starts_are_counted() {
    let startup = Startup { cpu: Distribution::ZERO, waiting: Distribution::constant(ms(SECOND)) };
    let profile = FunctionProfile { startup, ..FunctionProfile::simple("f", Distribution::ZERO) };
    let mut function = Function::new(Arc::new(profile), Gateway::default(), 1, 0);
    let replicas = |count| Allocation::new(count, 1000, 512);
    let request = RequestDemand { cpu: ms(2 * SECOND), waiting: Nanos::ZERO };
    function.allocate(replicas(1), ms(0));
    function.arrive_with(ms(2 * SECOND), request);
    function.allocate(replicas(0), ms(5 * SECOND));
    function.arrive_with(ms(6 * SECOND), request);
    function.allocate(replicas(2), ms(10 * SECOND));
    function.allocate(replicas(1), ms(12 * SECOND));
    let totals = function.totals(ms(13 * SECOND)).clone();
    assert_eq!((totals.completed, totals.cold, totals.prewarmed, totals.unused), (2, 1, 2, 1));
    // 0 to 5 s and 6 to 13 s one replica, 10 to 12 s another one; 2 s of each request.
    assert_eq!((totals.gibibyte_seconds, totals.busy_gibibyte_seconds), (7.0, 2.0));
}
