//! The two ways of simulating a replica mean the same.

use std::sync::Arc;

use proptest::prelude::*;
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::Allocation;
use qscale_sim::{Demand, Distribution, Function, FunctionProfile, Gateway, Nanos, Path, Reading};

/// Something that happens to a function.
#[derive(Debug, Clone)]
enum Event {
    Arrive { cpu_us: u64, waiting_us: u64 },
    Allocate(Allocation),
    Look,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => (0u64..60_000, prop_oneof![Just(0), 0u64..60_000]).prop_map(|(cpu_us, waiting_us)| Event::Arrive { cpu_us, waiting_us }),
        1 => (0u32..5, 100u32..2000).prop_map(|(replicas, cpu)| Event::Allocate(Allocation::new(replicas, cpu, 128))),
        2 => Just(Event::Look),
    ]
}

fn function(profile: FunctionProfile, gateway: Gateway, path: Path) -> Function {
    let mut function = Function::new(Arc::new(profile), gateway, 1, 0).on_path(path);
    function.warm(Allocation::new(2, 300, 128), Nanos::ZERO);
    function
}

fn live(function: &mut Function, events: &[(u64, Event)], scale: u32) -> Vec<String> {
    let mut now = Nanos::ZERO;
    let mut seen = Vec::new();
    for (gap_us, event) in events {
        now += Nanos(gap_us * 1000);
        match event {
            Event::Arrive { cpu_us, waiting_us } => {
                function.arrive_with(now, Demand { cpu: Nanos(cpu_us * 1000), waiting: Nanos(waiting_us * 1000) });
            }
            Event::Allocate(allocation) => {
                let replicas = qscale_common::units::Replicas(allocation.replicas.0 * scale);
                function.allocate(Allocation { replicas, ..*allocation }, now);
            }
            Event::Look => {
                let mut reading = Reading::default();
                function.scrape(now, Timestamp(now.0 / 1_000_000), &mut reading);
                seen.push(format!("{:?}", reading.scrape));
            }
        }
    }
    seen.push(format!("{:?}", function.totals(now + Nanos::millis(60_000))));
    seen
}

fn gateway() -> impl Strategy<Value = Gateway> {
    (0u32..4, 0u32..20, 1u64..400).prop_map(|(concurrency, queue, timeout)| Gateway { concurrency, queue, timeout: Span::millis(timeout) })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Everything that can be seen, at every look, to the last count: requests, latencies, CPU, throttled periods.
    #[test]
    fn one_request_at_a_time_is_the_same_on_both(gateway in gateway(), events in prop::collection::vec((0u64..40_000, event()), 1..200)) {
        let profile = FunctionProfile::simple("f", Distribution::ZERO);
        let mut sequential = function(profile.clone(), gateway, Path::Sequential);
        let mut shared = function(profile, gateway, Path::Shared);
        prop_assert_eq!(live(&mut sequential, &events, 1), live(&mut shared, &events, 1));
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
        live(&mut together, &events, 1);
        live(&mut apart, &events, 1);
        let end = Nanos::millis(120_000);
        let (together, apart) = (together.totals(end), apart.totals(end));
        prop_assert_eq!((together.completed, together.refused), (apart.completed, apart.refused));
        // Ends of shared work are rounded up to whole nanoseconds.
        let beside = together.latency_sum.0.abs_diff(apart.latency_sum.0);
        prop_assert!(beside <= 20 * together.completed, "{} ns beside over {} requests", beside, together.completed);
    }
}
