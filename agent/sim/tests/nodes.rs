//! Nodes that promise more CPU than they have: what replicas compute at once slows each of them down, to the nanosecond.

use std::sync::Arc;

use proptest::prelude::*;
use qscale_common::scrape::CpuPeriods;
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::{Allocation, Mebibytes, Millicores};
use qscale_sim::profile::Startup;
use qscale_sim::{Distribution, Function, FunctionProfile, Gateway, Nanos, Nodes, RequestDemand, ScrapeBuffer};

fn ms(ms: u64) -> Nanos {
    Nanos::millis(ms)
}

/// Replicas that serve one request each, on one node with a number of cores.
fn function(cores: u32, replicas: u32, limit: u32) -> Function {
    let nodes = Nodes { count: 1, cpu_millicores: Millicores(1000 * cores), memory_mib: Mebibytes(10_000), cpu_overcommit: 100.0 };
    let startup = Startup { cpu: Distribution::constant(ms(100)), waiting: Distribution::constant(ms(50)) };
    let profile = FunctionProfile { startup, ..FunctionProfile::simple("f", Distribution::ZERO) };
    let gateway = Gateway { concurrency: 1, queue: 100, timeout: Span::seconds(3600) };
    let mut function = Function::new(Arc::new(profile), gateway, 1, 0).on_nodes(Some(nodes));
    function.warm(Allocation::new(replicas, limit, 100), Nanos::ZERO);
    function
}

/// Requests that arrive at an instant and ask for so much CPU, both in milliseconds.
fn arrive(function: &mut Function, requests: &[(u64, u64)]) {
    for &(at, cpu) in requests {
        function.arrive_with(ms(at), RequestDemand { cpu: ms(cpu), waiting: Nanos::ZERO });
    }
}

/// Holds when each of them is done, in order, against `expected` milliseconds.
#[track_caller]
fn check(mut function: Function, requests: &[(u64, u64)], expected: &[u64]) {
    arrive(&mut function, requests);
    let done = |function: &mut Function, at| function.totals(at).completed as usize;
    let mut ends = expected.to_vec();
    ends.dedup();
    for end in ends {
        let before = expected.iter().filter(|other| **other < end).count();
        let by_then = expected.iter().filter(|other| **other <= end).count();
        let early = done(&mut function, Nanos(ms(end).0 - 2));
        assert_eq!((early, done(&mut function, Nanos(ms(end).0 + 2))), (before, by_then), "before and after {end} ms");
    }
}

#[test]
fn two_that_compute_at_once_take_twice_as_long() {
    check(function(1, 2, 1000), &[(0, 100), (0, 100)], &[200, 200]);
    check(function(2, 2, 1000), &[(0, 100), (0, 100)], &[100, 100]);
    // 50 ms alone, then both share; the second is alone again for its last 50.
    check(function(1, 2, 1000), &[(0, 100), (50, 100)], &[150, 200]);
    // Three on two cores: two thirds of a core each until the first is done at 60, having got 40; the others then have a core each.
    check(function(2, 3, 1000), &[(0, 40), (0, 100), (0, 100)], &[60, 120, 120]);
}

#[test]
fn throttled_replicas_leave_cpu_to_others() {
    // A quota of 20 ms a period each, half a core: both have spent it at 40 and wait until 100; 10 ms are left, together until 120.
    check(function(1, 2, 200), &[(0, 30), (0, 30)], &[120, 120]);
    // Until 60 both have half a core. Then one has spent its 30 ms, as has the other.
    check(function(1, 2, 300), &[(0, 30), (0, 40)], &[60, 110]);
    // The second comes when the first has 10 of its 30 ms left: those take it until 40; from then on the second is
    // alone and done 20 ms later.
    check(function(1, 2, 300), &[(0, 100), (20, 30)], &[60, 310]);
}

#[test]
fn a_quota_that_is_just_spent_holds_back_only_who_wants_more() {
    let mut function = function(1, 1, 300);
    let mut reading = ScrapeBuffer::default();
    let mut throttled = |function: &mut Function, at| {
        function.scrape(ms(at), Timestamp(at), &mut reading);
        reading.scrape.replicas[0].cpu.as_ref().and_then(|cpu| cpu[0].periods).expect("read").throttled
    };
    arrive(&mut function, &[(0, 30), (30, 0), (50, 31)]);
    assert_eq!((throttled(&mut function, 30), function.totals(ms(30)).completed), (0, 2));
    // The third wants to compute from 50 on, and gets its 31 ms from 100 and from 200 on.
    assert_eq!((throttled(&mut function, 50), throttled(&mut function, 51)), (0, 1));
    assert_eq!((throttled(&mut function, 130), throttled(&mut function, 131)), (1, 2));
    assert_eq!((function.totals(ms(200)).completed, function.totals(ms(201)).completed), (2, 3));
}

#[test]
fn no_quota_is_spent_where_the_share_is_smaller() {
    // A quarter of a core each is less than half a core: nobody is throttled.
    let mut function = function(1, 4, 500);
    arrive(&mut function, &[(0, 100), (0, 100), (0, 100), (0, 100)]);
    assert_eq!(function.totals(ms(400)).completed, 4);
    let mut reading = ScrapeBuffer::default();
    function.scrape(ms(400), Timestamp(400), &mut reading);
    for replica in &reading.scrape.replicas {
        let cpu = replica.cpu.as_ref().expect("read")[0];
        assert_eq!((cpu.usage_us, cpu.periods), (100_000, Some(CpuPeriods { runnable: 4, throttled: 0 })));
    }
}

#[test]
fn a_start_takes_cpu_from_the_others_and_they_from_it() {
    let mut function = function(1, 1, 1000);
    arrive(&mut function, &[(0, 200)]);
    function.allocate(Allocation::new(2, 1000, 100), ms(0));
    // 50 ms of waiting; then both compute at half speed: the start is done 200 ms later, and the request 50 ms after that.
    let totals = |function: &mut Function, at| (function.totals(ms(at)).became_ready, function.totals(ms(at)).completed);
    assert_eq!(totals(&mut function, 249), (0, 0));
    assert_eq!(totals(&mut function, 250), (1, 0));
    assert_eq!(totals(&mut function, 299), (1, 0));
    assert_eq!(totals(&mut function, 300), (1, 1));
}

#[test]
fn a_replica_that_goes_leaves_its_share() {
    let mut function = function(1, 3, 1000);
    arrive(&mut function, &[(0, 100), (0, 100)]);
    // Draining changes nothing.
    function.allocate(Allocation::new(1, 1000, 100), ms(10));
    assert_eq!((function.totals(ms(199)).completed, function.totals(ms(200)).completed), (0, 2));
    arrive(&mut function, &[(300, 100)]);
    assert_eq!((function.totals(ms(399)).completed, function.totals(ms(400)).completed), (2, 3));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// A node gives what it has, never more, and never less while someone wants it and has a quota.
    #[test]
    fn a_node_is_work_conserving_within_its_capacity(
        cores in 1u32..3,
        limit in prop_oneof![Just(1000u32), 100u32..1000],
        requests in prop::collection::vec((0u64..50, 1u64..200), 1..60),
    ) {
        const REPLICAS: u32 = 6;
        let mut function = function(cores, REPLICAS, limit);
        let (mut at, mut asked) = (0, 0);
        let mut reading = ScrapeBuffer::default();
        for (gap, cpu) in requests {
            at += gap;
            arrive(&mut function, &[(at, cpu)]);
            asked += cpu;
            function.scrape(ms(at), Timestamp(at), &mut reading);
            let used: u64 = reading.scrape.replicas.iter().map(|replica| replica.cpu.as_ref().expect("read").usage_us()).sum();
            prop_assert!(used <= at * u64::from(cores) * 1000 + 1, "{} us by {} ms", used, at);
        }
        // After the last arrival every request is done by when the slowest of them could be: one replica after the
        // other, each on its quota or its sixth.
        let slowest = f64::from(limit.min(1000)).min(1000.0 / f64::from(REPLICAS)) / 1000.0;
        let end = at + (asked as f64 / slowest) as u64 + 1000;
        function.scrape(ms(end), Timestamp(end), &mut reading);
        let used: u64 = reading.scrape.replicas.iter().map(|replica| replica.cpu.as_ref().expect("read").usage_us()).sum();
        prop_assert!(used.abs_diff(asked * 1000) <= u64::from(REPLICAS), "{} us used, {} ms asked", used, asked);
        prop_assert_eq!(function.totals(ms(end)).completed, function.totals(ms(end)).arrived);
    }
}
