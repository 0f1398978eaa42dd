use qscale_common::contract::{ReplicaCounts, Usage};
use qscale_common::policy::Range;
use qscale_common::time::Tick;

use super::super::*;
use crate::fixtures;

/// A function of `replicas`, all ready and reporting `cpu` on average, at the `tick`th tick of 5 s.
fn at(tick: u64, replicas: u32, cpu: Option<f64>) -> State {
    let mut state = State { allocation: Some(Allocation::new(replicas, 500, 256)), tick: Tick(tick), ..fixtures::state() };
    state.observed_at_ms = Timestamp(tick * 5000 + 3);
    state.bounds.replicas = Range::new(Replicas(1), Replicas(100)).expect("ordered");
    state.windows.tick.cpu_millicores = cpu.map(|mean| Usage { mean, max: mean });
    let all = Replicas(replicas);
    state.replicas = Some(ReplicaCounts::all(all));
    state
}

/// Allocations after each tick if every decision is applied at once.
fn run(policy: &Hpa, mut replicas: u32, cpu: impl IntoIterator<Item = Option<f64>>) -> Vec<u32> {
    let mut memory = Memory::default();
    let ticks = cpu.into_iter().zip(200_000_000..).map(|(cpu, tick)| {
        let decision = policy.decide(&at(tick, replicas, cpu), &mut memory, Timestamp(0), &mut fixtures::rng());
        replicas = decision.wanted().map_or(replicas, |wanted| wanted.replicas.0);
        replicas
    });
    ticks.collect()
}

fn changes(replicas: &[u32]) -> Vec<(usize, u32)> {
    let mut last = replicas[0];
    let moved = replicas.iter().enumerate().filter(|(_, now)| std::mem::replace(&mut last, **now) != **now);
    moved.map(|(tick, now)| (tick, *now)).collect()
}

#[test]
fn decides_every_15_seconds_on_what_was_published_before() {
    // 400m of 500m in use, each of 2: 80 % of 80 %. Then 500m: 100 %, so ceil(1.25 x 2) = 3.
    let load = [vec![Some(400.0); 6], vec![Some(500.0); 12]].concat();
    // The first span at 500m ends with tick 8, after which it asks for a quarter more each time.
    assert_eq!(changes(&run(&Hpa::default(), 2, load)), [(9, 3), (12, 4), (15, 5)]);
}

#[test]
fn late_metrics_of_all_replicas_still_count() {
    let mut memory = Memory::default();
    let mut decide = |tick: u64, cpu: Option<f64>| {
        let mut state = at(200_000_000 + tick, 2, cpu);
        state.replicas = state.replicas.map(|counts| ReplicaCounts { reporting: Replicas(0), ..counts });
        Hpa::default().decide(&state, &mut memory, Timestamp(0), &mut fixtures::rng()).wanted()
    };
    let wanted = (0..12).find_map(|tick| decide(tick, Some(500.0)));
    assert_eq!(wanted.map(|allocation| allocation.replicas), Some(Replicas(3)));
    // After a minute of silence there is nothing to serve any more.
    let wanted: Vec<_> = (12..60).map(|tick| decide(tick, None)).collect();
    assert!(wanted[18..].iter().all(Option::is_none), "{wanted:?}");
}

#[test]
fn without_behavior_goes_down_at_once_after_the_stabilization() {
    let load = [vec![Some(400.0); 6], vec![Some(40.0); 90]].concat();
    let replicas = run(&Hpa::default(), 10, load);
    let first = changes(&replicas)[0];
    assert_eq!(first.1, 1);
    // The last recommendation of 10 was at tick 9 at the latest, and counts for 300 s.
    assert!((60..=75).contains(&first.0), "{first:?}");
}

#[test]
fn behavior_limits_the_way_up_to_double_or_four_in_15_seconds() {
    let policy = Hpa { behavior: Some(Behavior::default()), ..Hpa::default() };
    let replicas = run(&policy, 1, vec![Some(1500.0); 30]);
    let steps: Vec<u32> = changes(&replicas).into_iter().map(|(_, replicas)| replicas).collect();
    // At 300 % of 80 % the HPA asks for 3.75 times what there is.
    assert_eq!(steps[..4], [4, 8, 16, 32]);
}

#[test]
fn holds_where_cpu_is_not_measured() {
    assert_eq!(changes(&run(&Hpa::default(), 5, vec![None; 40])), []);
}

#[test]
fn goes_to_the_bounds_without_metrics() {
    let mut state = at(200_000_000, 150, None);
    let mut memory = Memory::default();
    let decide = |state: &State, memory: &mut Memory| Hpa::default().decide(state, memory, Timestamp(0), &mut fixtures::rng());
    assert_eq!(decide(&state, &mut memory).wanted().expect("down").replicas, Replicas(100));
    state.bounds.replicas = Range::new(Replicas(200), Replicas(300)).expect("ordered");
    assert_eq!(decide(&state, &mut Memory::default()).wanted().expect("up").replicas, Replicas(200));
}

#[test]
fn zero_replicas_disable_it() {
    let decision = Hpa::default().decide(&at(200_000_000, 0, None), &mut Memory::default(), Timestamp(0), &mut fixtures::rng());
    assert!(matches!(decision, Decision::Hold { why: HoldReason::NothingToDo, .. }), "{decision:?}");
}

#[test]
fn scales_to_zero_only_if_enabled() {
    let mut memory = Memory::default();
    let policy = Hpa { rate_rps: Some(10.0), scale_to_zero: true, downscale_stabilization: Span::default(), ..Hpa::default() };
    let (mut replicas, mut seen) = (2, Vec::new());
    for tick in 0..40 {
        let mut state = at(200_000_000 + tick, replicas, None);
        state.bounds.replicas = Range::new(Replicas(0), Replicas(10)).expect("ordered");
        state.windows.tick.rate_rps = Some(if (6..20).contains(&tick) { 0.0 } else { 20.0 });
        let decision = policy.decide(&state, &mut memory, Timestamp(0), &mut fixtures::rng());
        replicas = decision.wanted().map_or(replicas, |wanted| wanted.replicas.0);
        seen.push(replicas);
    }
    let steps: Vec<u32> = changes(&seen).into_iter().map(|(_, replicas)| replicas).collect();
    // The load comes back within a span, of which the first reading sees a third.
    assert_eq!(steps, [0, 1, 2]);
}

#[test]
fn a_pending_replica_dampens_the_way_up() {
    let mut state = at(200_000_009, 3, Some(750.0));
    state.replicas = Some(ReplicaCounts {
        desired: Replicas(3),
        ready: Replicas(2),
        pending: Replicas(1),
        reporting: Replicas(2),
        ..ReplicaCounts::default()
    });
    let mut memory = HpaMemory::default();
    memory.meters[0].add(inputs::instant(&state), Duration::from_secs(15), Some(750.0), Span::seconds(15));
    // 150 % of two pods is 100 % of three: ceil(1.25 x 3) = 4 rather than ceil(1.875 x 2) = 4 of ready pods alone.
    let decision = Hpa::default().sync(&state, &mut memory);
    assert_eq!(decision.wanted().expect("up").replicas, Replicas(4));
}

/// Replicas wanted of two by an HPA with `policy`, of which one shows no CPU or no memory.
#[track_caller]
fn with_one_unsampled(policy: &Hpa, without: (u32, u32), cpu: f64, memory: f64) -> Option<u32> {
    let mut memory_of_rule = Memory::default();
    let ticks = (200_000_000..200_000_012).map(|tick| {
        let mut state = at(tick, 2, Some(cpu));
        state.windows.tick.memory_mib = Some(Usage { mean: memory, max: memory });
        let (without_cpu, without_memory) = (Replicas(without.0), Replicas(without.1));
        state.replicas = state.replicas.map(|counts| ReplicaCounts { without_cpu, without_memory, ..counts });
        policy.decide(&state, &mut memory_of_rule, Timestamp(0), &mut fixtures::rng()).wanted().map(|wanted| wanted.replicas.0)
    });
    ticks.collect::<Vec<_>>().into_iter().flatten().next()
}

#[test]
fn a_replica_without_a_sample_of_one_resource_speaks_against_a_change_by_it() {
    let down = Span::default();
    let cpu = Hpa { downscale_stabilization: down, ..Hpa::default() };
    // 120 % of the only one that shows CPU; the other one counts 0 %: 60 % of 80 %, so nothing changes.
    assert_eq!(with_one_unsampled(&cpu, (0, 0), 600.0, 100.0), Some(3));
    assert_eq!(with_one_unsampled(&cpu, (1, 0), 600.0, 100.0), None);
    assert_eq!(with_one_unsampled(&cpu, (0, 1), 600.0, 100.0), Some(3), "its memory is of no interest");
    // 20 % of the only one; the other one counts 100 %: 60 % in all, ceil(0.75 x 2) = 2.
    assert_eq!(with_one_unsampled(&cpu, (0, 0), 100.0, 100.0), Some(1));
    assert_eq!(with_one_unsampled(&cpu, (1, 0), 100.0, 100.0), None);
    let memory = Hpa { memory_utilization: Some(50), downscale_stabilization: down, ..Hpa::default() };
    // 150 % of 50 % of the request of 256 MiB.
    assert_eq!(with_one_unsampled(&memory, (0, 0), 400.0, 192.0), Some(3));
    assert_eq!(with_one_unsampled(&memory, (0, 1), 400.0, 192.0), None);
    assert_eq!(with_one_unsampled(&memory, (1, 0), 400.0, 192.0), Some(3));
}
