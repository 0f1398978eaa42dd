use super::*;

fn tiny(which: Which) -> Plan {
    Plan { which, quick: false, seeds: vec![3, 4], effort: Effort { episodes: 2, worlds: 4 }, loads: vec![1, 3] }
}

fn results(plan: &Plan, threads: usize) -> Results {
    plan.run(NonZeroUsize::new(threads).expect("not zero"), &Watch::new()).expect("it runs")
}

#[test]
fn the_same_seeds_give_the_same_bytes_on_any_number_of_threads() {
    for which in [Which::Horizontal, Which::Vertical] {
        let json = |results: &Results| serde_json::to_string(results).expect("it is written");
        let plan = tiny(which);
        let (one, three) = (results(&plan, 1), results(&plan, 3));
        assert!(json(&one) == json(&three));
        assert_ne!(one.runs, results(&Plan { seeds: vec![5, 6], ..plan }, 2).runs);
    }
}

#[test]
fn everybody_runs_under_every_load_with_every_seed() {
    for which in [Which::Horizontal, Which::Vertical] {
        let plan = tiny(which);
        let ticks = Watch::new();
        let results = plan.run(NonZeroUsize::MIN, &ticks).expect("it runs");
        let contestants = Contestant::all(which).len();
        assert!(results.complete && ticks.ticks() == plan.ticks(), "{} of {}", ticks.ticks(), plan.ticks());
        assert_eq!((results.table.len(), results.runs.len(), results.learning.len()), (contestants * 2, contestants * 4, contestants * 2));
        assert_eq!(results.findings.len(), (contestants - 1) * 2);
        for run in &results.runs {
            assert!(run.figures[&Figure::CostPerHour] > 0.0 && run.figures[&Figure::ThroughputRps] > 0.0, "{}", run.contestant);
            assert!(run.course.latency_ms.len() == RUN as usize && run.course.throughput_rps.len() == RUN as usize);
            let (replicas, cores) = (run.figures[&Figure::Replicas], run.figures[&Figure::Cores]);
            let kept = match which {
                // Replicas that end are there a little longer than they are wanted.
                Which::Horizontal => (cores / replicas - 0.5).abs() < 0.02,
                Which::Vertical => run.course.replicas.iter().all(|replicas| *replicas == 1.0),
            };
            assert!(kept, "{} changes what the experiment keeps", run.contestant);
        }
        let text = csv(&results.runs);
        assert_eq!(text.lines().count(), 1 + results.runs.len());
        assert!(text.lines().all(|line| line.split(',').count() == 3 + Figure::ALL.len()));
        for load in &results.loads {
            let svg = figures::courses(which, load, &results.contestants, &results.runs).expect("it was run");
            assert!(results.contestants.iter().all(|contestant| svg.contains(contestant)) && !svg.contains("NaN"));
        }
        assert!(table(&results).render(crate::show::Paint::none()).contains(rule(which)));
    }
}

#[test]
fn what_is_finished_is_kept_when_somebody_stops_it() {
    let plan = tiny(Which::Vertical);
    let all = plan.ticks();
    // Somebody stops it in the middle.
    let watch = Arc::new(Watch::new());
    let stopped = std::thread::scope(|scope| {
        let (plan, working) = (&plan, Arc::clone(&watch));
        let work = scope.spawn(move || plan.run(NonZeroUsize::MIN, &working));
        while watch.ticks() < all / 2 {
            std::thread::yield_now();
        }
        watch.stop();
        work.join().expect("no panic").expect("stopping is no error")
    });
    assert!(!stopped.complete && !stopped.runs.is_empty() && stopped.runs.len() < 16, "{}", stopped.runs.len());
}

#[test]
fn the_command_names_what_differs_from_the_default() {
    let plan = |seeds: std::ops::Range<u64>, quick| Plan { seeds: seeds.collect(), quick, ..tiny(Which::Vertical) }.command();
    assert_eq!(plan(1..6, false), "qscale reproduce vertical");
    assert_eq!(plan(7..10, false), "qscale reproduce vertical --seeds 3 --seed 7");
    assert_eq!(plan(1..3, true), "qscale reproduce vertical --quick");
}
