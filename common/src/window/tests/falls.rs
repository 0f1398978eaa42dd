//! Counters that fall, and readings too close to each other for a rate.

use super::*;

/// Rates of arrivals, completions and CPU (thousandths of a core) at the end of each tick, of counters that show `values`.
fn rates(values: &[u64], allocation: Option<Allocation>) -> Vec<[Option<f64>; 3]> {
    let mut feed = Feed::new();
    let shown = |requests: u64| {
        move |at| FunctionScrape {
            platform: Some(PlatformReading { allocation, ..platform(at, 1) }),
            ingress: Some(ingress(at, requests, 0)),
            ..replicas_only(vec![replica("a", at, requests, 0)])
        }
    };
    let rates = |window: Window| [window.rate_rps, window.completed_rps, window.cpu_millicores.map(|cpu| cpu.max)];
    values.iter().map(|&value| rates(feed.tick(&[&shown(value)]))).collect()
}

#[track_caller]
fn check(values: &[u64], expected: &[Option<f64>]) {
    let expected: Vec<_> = expected.iter().map(|rate| [*rate, *rate, rate.map(|rate| rate * 2.0)]).collect();
    assert_eq!(rates(values, None), expected, "{values:?}");
}

#[test]
fn a_fall_that_no_restart_explains_is_no_growth() {
    // By 15 %; by half; and by all but the growth since, which is eight times the usual one: a sum lost one of its series.
    for after in [85_000, 50_000, 400] {
        check(&[99_950, 100_000, after, after + 50, after + 100], &[None, Some(10.0), None, None, Some(10.0)]);
    }
    check(&[99_950, 100_000, 85_000, 100_100], &[None, Some(10.0), None, Some(10.0)]);
    // Without any growth before.
    check(&[100_000, 100_000, 10_001], &[None, Some(0.0), None]);
}

#[test]
fn a_fall_to_little_more_than_the_usual_growth_is_a_restart() {
    check(&[99_950, 100_000, 40, 90], &[None, Some(10.0), Some(8.0), Some(10.0)]);
    check(&[99_950, 100_000, 200, 250], &[None, Some(10.0), Some(40.0), Some(10.0)]);
    // Idle ticks say nothing of the growth under load.
    check(&[99_950, 100_000, 100_000, 100_000, 40], &[None, Some(10.0), Some(0.0), Some(0.0), Some(8.0)]);
}

#[test]
fn after_a_restart_a_replica_can_use_what_it_is_allocated() {
    // 2.4 s of CPU in a tick, and 0.1 s before.
    let cpu = |allocation| rates(&[99_950, 100_000, 1200], allocation).last().expect("three ticks")[2];
    assert_eq!(cpu(None), None);
    assert_eq!(cpu(Some(Allocation::new(1, 100, 256))), None);
    assert_eq!(cpu(Some(Allocation::new(1, 500, 256))), Some(480.0));
}

#[test]
fn counters_of_events_that_fall_a_little_were_not_reset() {
    for platform_counts in [true, false] {
        let mut feed = Feed::new();
        for (count, grown) in [(1000, 0), (999, 0), (1000, 0), (1001, 1), (500, 0), (499, 0), (500, 0), (502, 2), (3, 3), (2, 2)] {
            let of_platform = Some(count).filter(|_| platform_counts);
            let startups = Some((count, count * 700));
            let shown = |at| FunctionScrape {
                platform: Some(PlatformReading { crashes: of_platform, oom_kills: of_platform, startups, ..platform(at, 1) }),
                ..replicas_only(vec![Scrape { restarts: Some(count.into()), oom_kills: Some(count.into()), ..replica("a", at, 0, 0) }])
            };
            let window = feed.tick(&[&shown]);
            let events = (window.restarts, window.oom_kills, window.starts);
            assert_eq!(events, (grown, grown, Some(grown)), "{count}, counted by the platform: {platform_counts}");
        }
        assert_eq!(feed.windows.startup_ms(), Some(700));
    }
}

#[test]
fn failures_that_fell_with_all_requests_were_reset() {
    // Completed and failed requests, and what was counted of them since the reading before.
    let cases = [
        ([0, 170], [0, 10], Some([0, 10])),
        ([5, 170], [7, 10], Some([7, 10])),
        ([0, 170], [0, 169], Some([0, 0])),
        ([0, 170], [0, 150], Some([0, 0])),
        ([1000, 170], [1010, 10], Some([10, 0])),
        ([5, 170], [3, 10], Some([3, 10])),
        ([500, 170], [499, 171], None),
    ];
    for (before, after, expected) in cases {
        let mut feed = Feed::new();
        feed.replicas(&[("a", before[0], before[1])]);
        let window = feed.tick(&[&|at| replicas_only(vec![Scrape { cpu: None, ..replica("a", at, after[0], after[1]) }])]);
        let counts = feed.windows.ring.last();
        let counted = [Field::Completed, Field::Failed].map(|field| counts.get(field));
        assert_eq!(window.completed_rps.map(|_| counted), expected, "{before:?} to {after:?}");
        assert_eq!(counts.latency().iter().sum::<u64>(), counted[0]);
    }
}

#[test]
fn readings_too_close_to_each_other_have_no_rate() {
    let mut feed = Feed::new();
    let read = |ms_before: u64, requests| {
        move |at: u64| FunctionScrape {
            ingress: Some(ingress(at - ms_before, requests, 0)),
            ..replicas_only(vec![replica("a", at - ms_before, requests, 0)])
        }
    };
    feed.tick(&[&read(0, 1000)]);
    // The last two readings show what happened before them.
    let window = feed.tick(&[&read(2, 1000), &read(1, 1040), &read(0, 1050)]);
    assert_eq!((window.rate_rps, window.completed_rps), (Some(0.0), Some(0.0)));
    assert_eq!(window.cpu_millicores, Some(Usage { mean: 0.0, max: 0.0 }));
    let window = feed.tick(&[&read(0, 1050)]);
    close_to(window.rate_rps, 50_000.0 / 5002.0);
    close_to(window.completed_rps, 50_000.0 / 5002.0);
    assert_eq!(window.cpu_millicores.map(|cpu| cpu.max.round()), Some(20.0));
    // The shortest ticks are measured.
    let mut windows = FunctionWindows::new(TickLength::new(TickLength::MIN).expect("a length"));
    for (tick, at) in [(1, 100), (2, 199)] {
        windows.record(&replicas_only(vec![replica("a", at, at, 0)]));
        windows.close(Tick(tick), &Prices::default());
    }
    close_to(windows.measured(95.0).tick.completed_rps, 1000.0);
}
