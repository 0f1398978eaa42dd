use qscale_common::contract::ReplicaCounts;
use qscale_common::policy::Range;

use super::*;
use crate::fixtures;

const BEGIN: Timestamp = Timestamp(1_700_000_000_000);

/// Requests of 100 ms of CPU, `rates` a second in each second; a replica starts within 5 s, works on any number at once
/// and can use one core.
fn forecast(rates: &[f64]) -> Forecast {
    let coming = |rate: &f64| IntervalLoad { arrivals: *rate, cpu_seconds: rate * 0.1, waiting_seconds: 0.0 };
    let function = Facts {
        request_cpu: Span::millis(100),
        request_waiting: Span::default(),
        startup_cpu: Span::default(),
        startup_waiting: Span::seconds(5),
        workers: 0,
        parallelism: 1,
        memory_mib: Mebibytes(128),
    };
    Forecast { begin: BEGIN, interval: Span::seconds(1), intervals: rates.iter().map(coming).collect(), function }
}

fn exactly() -> ClairvoyantParams {
    ClairvoyantParams { headroom: 1.0, min_saving: 0.0, ..ClairvoyantParams::default() }
}

/// A function with a ready allocation, at a second of the simulated time.
fn at(second: u64, current: Allocation) -> (State, Timestamp) {
    let now = BEGIN.plus(Duration::from_secs(second));
    let mut state = State { allocation: Some(current), observed_at_ms: now, ..fixtures::state() };
    state.bounds.replicas = Range::new(Replicas(0), Replicas(20)).expect("ordered");
    let all = current.replicas;
    state.replicas = Some(ReplicaCounts::all(all));
    (state, now)
}

#[track_caller]
fn wanted(forecast: &Forecast, params: ClairvoyantParams, second: u64, current: Allocation) -> Allocation {
    let (state, now) = at(second, current);
    let policy = Clairvoyant::new(forecast, params).expect("valid");
    policy.decide(&state, &mut Memory::default(), now, &mut fixtures::rng()).wanted().unwrap_or(current)
}

#[test]
fn knows_of_a_burst_a_start_and_a_tick_ahead() {
    let rates = [vec![5.0; 60], vec![50.0; 60]].concat();
    let small = Allocation::new(1, 500, 128);
    // Half a core is asked for until second 60, five cores after it. A start takes 5 s and the next decision comes in 5 s.
    assert_eq!(wanted(&forecast(&rates), exactly(), 45, small), Allocation::new(1, 500, 128));
    assert_eq!(wanted(&forecast(&rates), exactly(), 51, small).replicas, Replicas(5));
    let lead = ClairvoyantParams { lead: Span::seconds(10), ..exactly() };
    assert_eq!(wanted(&forecast(&rates), lead, 41, small).replicas, Replicas(5));
    assert_eq!(wanted(&forecast(&rates), exactly(), 70, Allocation::new(5, 1000, 128)), Allocation::new(5, 1000, 128));
}

#[test]
fn while_replicas_start_those_that_are_ready_get_what_they_need() {
    let rates = [vec![5.0; 60], vec![50.0; 60]].concat();
    // Nine seconds before the burst: five replicas, of which the one that is ready carries half a core.
    assert_eq!(wanted(&forecast(&rates), exactly(), 51, Allocation::new(1, 900, 128)), Allocation::new(5, 500, 128));
}

#[test]
fn goes_to_zero_without_load_and_returns_before_the_next() {
    let rates = [vec![10.0; 10], vec![0.0; 60], vec![10.0; 10]].concat();
    let one = Allocation::new(1, 1000, 128);
    assert_eq!(wanted(&forecast(&rates), exactly(), 10, one).replicas, Replicas(0));
    assert_eq!(wanted(&forecast(&rates), exactly(), 59, Allocation::new(0, 1000, 128)).replicas, Replicas(0));
    assert_eq!(wanted(&forecast(&rates), exactly(), 61, Allocation::new(0, 1000, 128)), one);
    assert_eq!(wanted(&forecast(&rates), exactly(), 100, one).replicas, Replicas(0), "after the last interval nothing comes");
}

#[test]
fn bounds_keep_the_last_replica() {
    let (mut state, now) = at(0, Allocation::new(3, 500, 128));
    state.bounds.replicas = Range::new(Replicas(2), Replicas(4)).expect("ordered");
    let idle = Clairvoyant::new(&forecast(&[]), exactly()).expect("valid");
    assert_eq!(idle.decide(&state, &mut Memory::default(), now, &mut fixtures::rng()).wanted().expect("less").replicas, Replicas(2));
    let busy = Clairvoyant::new(&forecast(&[500.0; 60]), exactly()).expect("valid");
    assert_eq!(busy.decide(&state, &mut Memory::default(), now, &mut fixtures::rng()).wanted(), Some(Allocation::new(4, 1000, 128)));
}

#[test]
fn one_request_alone_keeps_the_objective() {
    // 100 ms of CPU within half of 500 ms: 400m, however little comes.
    assert_eq!(wanted(&forecast(&[0.1; 60]), exactly(), 0, Allocation::new(1, 1000, 128)).cpu_millicores, Millicores(400));
    let all = ClairvoyantParams { service_share: 1.0, ..exactly() };
    assert_eq!(wanted(&forecast(&[0.1; 60]), all, 0, Allocation::new(1, 1000, 128)).cpu_millicores, Millicores(200));
}

#[test]
fn a_waiting_request_occupies_its_worker() {
    // Ten requests a second that wait 200 ms and compute 100 ms keep three workers busy.
    let mut known = forecast(&[10.0; 60]);
    known.function.workers = 1;
    known.function.request_waiting = Span::millis(200);
    known.intervals.iter_mut().for_each(|coming| coming.waiting_seconds = coming.arrivals * 0.2);
    let given = wanted(&known, ClairvoyantParams { service_share: 1.0, ..exactly() }, 0, Allocation::new(3, 1000, 128));
    assert_eq!(given.replicas, Replicas(3));
    assert!(given.cpu_millicores >= Millicores(999), "{given}");
    known.function.workers = 0;
    assert_eq!(wanted(&known, ClairvoyantParams { service_share: 1.0, ..exactly() }, 0, given).replicas, Replicas(1));
}

#[test]
fn headroom_and_window_determine_the_covered_peak() {
    let rates = [vec![5.0; 5], vec![40.0; 1], vec![5.0; 30]].concat();
    let replicas = |params| wanted(&forecast(&rates), params, 0, Allocation::new(1, 1000, 128)).replicas.0;
    assert_eq!(replicas(exactly()), 4);
    assert_eq!(replicas(ClairvoyantParams { headroom: 2.0, ..exactly() }), 8);
    assert_eq!(replicas(ClairvoyantParams { window: Span::seconds(10), ..exactly() }), 1);
}

#[test]
fn skips_changes_with_a_small_saving() {
    let spares =
        |min_saving| wanted(&forecast(&[9.0; 60]), ClairvoyantParams { min_saving, ..exactly() }, 0, Allocation::new(1, 1000, 128));
    assert_eq!(spares(0.0), Allocation::new(1, 900, 128));
    assert_eq!(spares(0.2), Allocation::new(1, 1000, 128));
    let lacks = ClairvoyantParams { min_saving: 1.0, ..exactly() };
    assert_eq!(wanted(&forecast(&[9.0; 60]), lacks, 0, Allocation::new(1, 800, 128)), Allocation::new(1, 900, 128));
}

#[test]
fn keeps_replicas_if_cpu_cannot_grow_fast_enough() {
    let carried = |resize_factor, current| wanted(&forecast(&[9.0; 60]), ClairvoyantParams { resize_factor, ..exactly() }, 0, current);
    assert_eq!(carried(4.0, Allocation::new(4, 250, 128)), Allocation::new(1, 900, 128));
    assert_eq!(carried(2.0, Allocation::new(4, 250, 128)), Allocation::new(2, 450, 128));
}

#[test]
fn scope_keeps_other_resources() {
    let kept = Allocation::new(2, 600, 256);
    let with = |scope| wanted(&forecast(&[30.0; 60]), ClairvoyantParams { scope, ..exactly() }, 0, kept);
    assert_eq!(with(Scope::Horizontal), Allocation::new(5, 600, 256));
    assert_eq!(with(Scope::Vertical), Allocation::new(2, 1000, 128));
}

#[test]
fn a_backlog_is_served_within_a_tick() {
    let (mut state, now) = at(0, Allocation::new(1, 1000, 128));
    let policy = Clairvoyant::new(&forecast(&[10.0; 60]), exactly()).expect("valid");
    assert_eq!(policy.decide(&state, &mut Memory::default(), now, &mut fixtures::rng()).wanted(), None);
    state.windows.tick.queued = Some(100.0);
    let wanted = policy.decide(&state, &mut Memory::default(), now, &mut fixtures::rng()).wanted().expect("more");
    assert_eq!(wanted.replicas, Replicas(3), "a core for what comes and two for ten core-seconds within five");
}

#[test]
fn refuses_invalid_input() {
    let refusal = |forecast: &Forecast, params| Clairvoyant::new(forecast, params).expect_err("must be refused");
    assert!(refusal(&forecast(&[1.0, -1.0]), exactly()).contains("forecast.intervals[1].arrivals = -1"));
    assert!(refusal(&Forecast { interval: Span::default(), ..forecast(&[]) }, exactly()).contains("forecast.interval = 0s"));
    assert!(refusal(&forecast(&[]), ClairvoyantParams { headroom: 0.0, ..exactly() }).contains("headroom = 0"));
}
