//! The ways of simulating a replica mean the same, and none loses a request.

use std::sync::Arc;

use proptest::prelude::*;
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::{Allocation, Mebibytes, Millicores};
use qscale_sim::profile::{MemoryProfile, Startup};
use qscale_sim::{Distribution, Function, FunctionProfile, Gateway, Nanos, Nodes, Path, RequestDemand, ScrapeBuffer, Totals};

/// Something that happens to a function.
#[derive(Debug, Clone)]
enum Event {
    Arrive { cpu_us: u64, waiting_us: u64 },
    Allocate(Allocation),
    LoseNode(u32),
    ReturnNode(u32),
    Look,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        40 => (0u64..60_000, prop_oneof![4 => Just(0), 4 => 0u64..60_000, 1 => 0u64..2_000_000]).prop_map(|(cpu_us, waiting_us)| Event::Arrive { cpu_us, waiting_us }),
        2 => (0u32..5, 100u32..2000, 49u32..56).prop_map(|(replicas, cpu, memory)| Event::Allocate(Allocation::new(replicas, cpu, memory))),
        1 => (0u32..2).prop_map(Event::LoseNode),
        1 => (0u32..2).prop_map(Event::ReturnNode),
        4 => Just(Event::Look),
    ]
}

fn simulate(function: &mut Function, events: &[(u64, Event)]) -> Vec<String> {
    let mut now = Nanos::ZERO;
    let mut seen = Vec::new();
    for (gap_us, event) in events {
        now += Nanos(gap_us * 1000);
        match event {
            Event::Arrive { cpu_us, waiting_us } => {
                function.arrive_with(now, RequestDemand { cpu: Nanos(cpu_us * 1000), waiting: Nanos(waiting_us * 1000) });
            }
            Event::Allocate(allocation) => function.allocate(*allocation, now),
            Event::LoseNode(node) => function.lose_node(*node, now),
            Event::ReturnNode(node) => function.return_node(*node, now),
            Event::Look => {
                let mut reading = ScrapeBuffer::default();
                function.scrape(now, Timestamp(now.0 / 1_000_000), &mut reading);
                seen.push(format!("{:?} {:?}", reading.scrape, reading.headroom));
                conserves(function, now);
            }
        }
    }
    conserves(function, now);
    seen.push(format!("{:?}", function.totals(now + Nanos::millis(60_000))));
    conserves(function, now + Nanos::millis(60_000));
    seen
}

/// Every request that arrived ended in one way, or is under way.
fn conserves(function: &mut Function, now: Nanos) {
    let totals = function.totals(now).clone();
    let under_way = function.replicas().map(|replica| u64::from(replica.load)).sum::<u64>() + function.queued() as u64;
    assert_eq!(totals.arrived, totals.completed + totals.failed + totals.refused + totals.timed_out + under_way);
}

fn nodes() -> impl Strategy<Value = Option<Nodes>> {
    let nodes = |(cpu, memory)| Nodes { count: 2, cpu_millicores: Millicores(cpu), memory_mib: Mebibytes(memory), cpu_overcommit: 1.0 };
    prop_oneof![Just(None), (500u32..4000, 100u32..300).prop_map(move |size| Some(nodes(size)))]
}

fn gateway() -> impl Strategy<Value = Gateway> {
    (0u32..4, 0u32..20, 1u64..400).prop_map(|(concurrency, queue, timeout)| Gateway { concurrency, queue, timeout: Span::millis(timeout) })
}

/// Two implementations for several requests at once give the same, but for the rounding of what each request gets to
/// whole nanoseconds.
///
/// An end just when the quota is spent is skipped, because rounding may delay it to the next period: 50 ns more or less
/// CPU for each request then change latency as much in one implementation. Such a delay takes milliseconds, so smaller
/// differences are never skipped.
fn check_that_implementations_agree(
    profile: FunctionProfile,
    limit: Millicores,
    requests: &[(u64, u64, u64)],
) -> Result<(), TestCaseError> {
    let profile = Arc::new(profile);
    let end = Nanos::millis(1_000_000);
    let live_on = |path, more_ns: i64| {
        let gateway = Gateway { concurrency: 0, queue: 0, timeout: Span::seconds(864_000) };
        let mut function = Function::new(profile.clone(), gateway, 1, 0).on_path(path);
        function.warm(Allocation::new(2, limit.0, 128), Nanos::ZERO);
        let mut now = Nanos::ZERO;
        for &(gap_us, cpu_us, waiting_us) in requests {
            now += Nanos(gap_us * 1000);
            function.arrive_with(
                now,
                RequestDemand { cpu: Nanos((cpu_us * 1000).saturating_add_signed(more_ns)), waiting: Nanos(waiting_us * 1000) },
            );
        }
        let mut reading = ScrapeBuffer::default();
        function.scrape(end, Timestamp(1_000_000), &mut reading);
        let cpu: Vec<_> = reading.scrape.replicas.iter().map(|replica| replica.cpu.as_ref().expect("read").usage_us()).collect();
        (function.totals(end).clone(), cpu)
    };
    let (shared, contended) = (live_on(Path::Shared, 0), live_on(Path::Contended, 0));
    prop_assert_eq!((shared.0.completed, shared.0.failed), (contended.0.completed, contended.0.failed));
    let difference = |other: &Totals| shared.0.latency_sum.0.abs_diff(other.latency_sum.0);
    let found = difference(&contended.0);
    if found > 20 * shared.0.completed {
        let delayed = [-50, 50].iter().any(|more_ns| difference(&live_on(Path::Shared, *more_ns).0) > found / 2);
        prop_assume!(found < 1_000_000 || !delayed, "an end just when the quota is spent");
        prop_assert!(false, "{} ns difference over {} requests", found, shared.0.completed);
    }
    prop_assert!(shared.1.iter().zip(&contended.1).all(|(a, b)| a.abs_diff(*b) <= 1), "{:?} {:?}", shared.1, contended.1);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Everything that can be seen, at every look, to the last count: requests, latencies, CPU, throttled periods,
    /// restarts, kills; with crashes, OOM kills, nodes that are full and nodes that are lost.
    #[test]
    fn both_implementations_agree_for_one_request_at_a_time(
        gateway in gateway(),
        nodes in nodes(),
        crashes_per_hour in prop_oneof![Just(0.0), Just(2000.0)],
        events in prop::collection::vec((0u64..40_000, event()), 1..300),
    ) {
        // A working set of 50 MiB and 1 MiB a request: limits of 49 to 55 MiB kill some.
        let startup = Startup { cpu: Distribution::exponential(Nanos::millis(40)), waiting: Distribution::exponential(Nanos::millis(60)) };
        let memory = MemoryProfile { base_mib: Mebibytes(50), request_kib: 1024 };
        let profile = FunctionProfile { startup, memory, ..FunctionProfile::simple("f", Distribution::ZERO) };
        let live_on = |path| {
            let function = Function::new(Arc::new(profile.clone()), gateway, 1, 0);
            let mut function = function.on_nodes(nodes).on_path(path).crashing(crashes_per_hour);
            function.warm(Allocation::new(2, 300, 128), Nanos::ZERO);
            simulate(&mut function, &events)
        };
        let seen = live_on(Path::Sequential);
        prop_assert_eq!(&seen, &live_on(Path::Shared));
        // On a node whose CPU is promised more than once, as long as nobody wants more than there is.
        prop_assert_eq!(&seen, &live_on(Path::Contended));
    }

    #[test]
    fn implementations_agree_without_contention(
        workers in 0u32..4,
        parallelism in 1u32..4,
        limit in 100u32..2000,
        requests in prop::collection::vec((0u64..40_000, 0u64..60_000, prop_oneof![Just(0), 0u64..60_000]), 1..300),
    ) {
        let profile = FunctionProfile { workers, parallelism, ..FunctionProfile::simple("f", Distribution::ZERO) };
        check_that_implementations_agree(profile, Millicores(limit), &requests)?;
    }

    /// On nodes whose CPU is promised three times, with all that can go wrong: every request ends in one way, and a second run is the same.
    #[test]
    fn requests_are_conserved_on_overcommitted_nodes(
        gateway in gateway(),
        cpu in 500u32..2500,
        memory in 100u32..300,
        workers in 0u32..3,
        events in prop::collection::vec((0u64..40_000, event()), 1..300),
    ) {
        let startup = Startup { cpu: Distribution::exponential(Nanos::millis(40)), waiting: Distribution::exponential(Nanos::millis(60)) };
        let memory_of = MemoryProfile { base_mib: Mebibytes(50), request_kib: 1024 };
        let profile = FunctionProfile { startup, workers, parallelism: 2, memory: memory_of, ..FunctionProfile::simple("f", Distribution::ZERO) };
        let nodes = Nodes { count: 2, cpu_millicores: Millicores(cpu), memory_mib: Mebibytes(memory), cpu_overcommit: 3.0 };
        let live_on = || {
            let mut function = Function::new(Arc::new(profile.clone()), gateway, 1, 0).on_nodes(Some(nodes)).crashing(1000.0);
            function.warm(Allocation::new(4, 700, 60), Nanos::ZERO);
            simulate(&mut function, &events)
        };
        prop_assert_eq!(live_on(), live_on());
    }

    /// Four workers with a core each, without limits of quota and of time, are four replicas of one.
    #[test]
    fn workers_that_do_not_share_are_replicas(queue in 0u32..20, arrivals in prop::collection::vec((0u64..40_000, 0u64..60_000), 1..200)) {
        let gateway = |concurrency| Gateway { concurrency, queue, timeout: Span::seconds(1000) };
        let together = FunctionProfile { workers: 4, parallelism: 4, ..FunctionProfile::simple("f", Distribution::ZERO) };
        let mut together = Function::new(Arc::new(together), gateway(4), 1, 0);
        together.warm(Allocation::new(1, 4000, 128), Nanos::ZERO);
        let mut apart = Function::new(Arc::new(FunctionProfile::simple("f", Distribution::ZERO)), gateway(1), 1, 0);
        apart.warm(Allocation::new(4, 1000, 128), Nanos::ZERO);
        let events: Vec<_> = arrivals.into_iter().map(|(gap, cpu_us)| (gap, Event::Arrive { cpu_us, waiting_us: 0 })).collect();
        simulate(&mut together, &events);
        simulate(&mut apart, &events);
        let end = Nanos::millis(120_000);
        let (together, apart) = (together.totals(end), apart.totals(end));
        prop_assert_eq!((together.completed, together.refused), (apart.completed, apart.refused));
        // Ends of shared work are rounded up to whole nanoseconds.
        let difference = together.latency_sum.0.abs_diff(apart.latency_sum.0);
        prop_assert!(difference <= 20 * together.completed, "{} ns difference over {} requests", difference, together.completed);
    }
}
