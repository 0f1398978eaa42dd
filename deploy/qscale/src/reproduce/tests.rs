use std::path::Path;
use std::sync::atomic::AtomicBool;

use qscale_dqn::Tabular;
use qscale_dqn::policy::{Dqn, DqnParams};
use qscale_rl::device::cpu;
use qscale_tests::Folder;

use super::contestant::{Contestant, rule};
use super::experiment::{EPISODE, Experiment, Place};
use super::learn::Effort;
use super::live::Figure;
use super::plan::Part;
use super::results::{csv, table};
use super::*;

fn tiny(which: Which) -> Plan {
    let experiment = Experiment { which, place: Place::Simulator };
    Plan { experiment, quick: false, seeds: vec![3, 4], effort: Effort { episodes: 2, worlds: 4 }, loads: vec![1, 3] }
}

/// A desk over `folder`, which may hold what another one kept.
fn desk(plan: &Plan, folder: &Folder) -> Desk {
    let journal = Journal::open(folder.path(), "experiment", &plan.identity().expect("told"), false, false).expect("opened");
    Desk { out: folder.path().to_owned(), journal }
}

fn run(plan: &Plan, threads: usize, folder: &Folder, watch: &Watch<'_>) -> Results {
    let threads = NonZeroUsize::new(threads).expect("not zero");
    plan.results(plan.run(threads, &mut desk(plan, folder), watch).expect("it runs"))
}

fn results(plan: &Plan, threads: usize) -> Results {
    run(plan, threads, &Folder::new("reproduce"), &Watch::new(&AtomicBool::new(false)))
}

fn json(results: &Results) -> String {
    serde_json::to_string(results).expect("it is written")
}

#[test]
fn the_same_seeds_give_the_same_bytes_on_any_number_of_threads() {
    for which in [Which::Horizontal, Which::Vertical] {
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
        let stop = AtomicBool::new(false);
        let ticks = Watch::new(&stop);
        let results = run(&plan, 1, &Folder::new("reproduce"), &ticks);
        let contestants = Contestant::all(which).len();
        assert!(results.complete && ticks.ticks() == plan.ticks(), "{} of {}", ticks.ticks(), plan.ticks());
        assert_eq!((results.table.len(), results.runs.len(), results.learning.len()), (contestants * 2, contestants * 4, contestants * 2));
        assert_eq!(results.findings.len(), (contestants - 1) * 2);
        for run in &results.runs {
            assert!(run.figures[&Figure::CostPerHour] > 0.0 && run.figures[&Figure::ThroughputRps] > 0.0, "{}", run.contestant);
            assert!(run.course.latency_ms.len() == 120 && run.course.throughput_rps.len() == 120);
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
            let svg = figures::courses(plan.experiment, load, &results.contestants, &results.runs).expect("it was run");
            assert!(results.contestants.iter().all(|contestant| svg.contains(contestant)) && !svg.contains("NaN"));
        }
        assert!(table(&results).render(crate::show::Paint::none()).contains(rule(which)));
    }
}

#[test]
fn what_is_finished_is_kept_when_somebody_stops_it_and_gives_the_same_results_with_what_was_left() {
    let plan = tiny(Which::Vertical);
    let (all, folder, stop) = (plan.ticks(), Folder::new("reproduce"), AtomicBool::new(false));
    // Somebody stops it in the middle.
    let watch = Watch::new(&stop);
    let stopped = std::thread::scope(|scope| {
        let work = scope.spawn(|| run(&plan, 1, &folder, &watch));
        while watch.ticks() < all / 2 {
            std::thread::yield_now();
        }
        watch.stop();
        work.join().expect("stopping is no error")
    });
    assert!(!stopped.complete && !stopped.runs.is_empty() && stopped.runs.len() < 16, "{}", stopped.runs.len());
    let go_on = AtomicBool::new(false);
    let rest = Watch::new(&go_on);
    let whole = run(&plan, 1, &folder, &rest);
    assert!(json(&whole) == json(&results(&plan, 1)), "the same to the byte");
    assert_eq!(rest.ticks(), all, "what was kept counts as done");
    // Nothing is left to do.
    go_on.store(true, Ordering::Relaxed);
    assert!(run(&plan, 1, &folder, &Watch::new(&go_on)).complete);
}

#[test]
fn what_is_kept_of_another_experiment_is_neither_taken_nor_lost() {
    let (plan, folder) = (tiny(Which::Vertical), Folder::new("reproduce"));
    drop(desk(&plan, &folder));
    let open = |plan: &Plan, resume, overwrite| {
        let opened = Journal::<Part>::open(folder.path(), "experiment", &plan.identity().expect("told"), resume, overwrite);
        opened.map(|_| ()).map_err(|error| format!("{error:#}"))
    };
    let other = Plan { seeds: vec![3, 4, 5], ..plan.clone() };
    let error = open(&other, false, false).expect_err("of another");
    assert!(error.contains("is of another experiment") && error.contains("settings.seeds") && error.contains("--overwrite"), "{error}");
    open(&plan, true, false).expect("the same");
    open(&other, false, true).expect("begun anew");
    let empty = Folder::new("reproduce");
    let identity = plan.identity().expect("told");
    let error = Journal::<Part>::open(empty.path(), "experiment", &identity, true, false).err().expect("nothing there");
    assert!(format!("{error:#}").contains("there is nothing to resume"), "{error:#}");
}

#[test]
fn what_learns_for_this_machine_leaves_a_model_that_an_agent_can_decide_by() {
    for which in [Which::Horizontal, Which::Vertical] {
        let experiment = Experiment { which, place: Place::local(LOCAL) };
        let plan = Plan { experiment, ..tiny(which) };
        let (folder, stop) = (Folder::new("reproduce"), AtomicBool::new(false));
        let watch = Watch::new(&stop);
        let done = plan.run(NonZeroUsize::MIN, &mut desk(&plan, &folder), &watch).expect("it learns");
        assert_eq!(watch.ticks(), plan.ticks());
        assert!(done.values().all(|part| part.runs.is_empty() && !part.reward.is_empty()));
        for contestant in Contestant::all(which) {
            let told = contestant.told(experiment, 3, folder.path());
            match contestant {
                Contestant::Threshold => assert_eq!(told["params"]["cpu_millicores"], 25),
                Contestant::Pretrained => assert_eq!(told["params"]["scope"], which.name()),
                Contestant::Table { .. } => {
                    let path = told["model"].as_str().expect("a path");
                    let table = Tabular::from_json(&std::fs::read(path).expect("written")).expect("a table");
                    assert!(table.steps == u64::from(2 * EPISODE) && told["policy"] == "tabular-q");
                }
                Contestant::Steps => {
                    let model = crate::train::load(Path::new(told["model"].as_str().expect("a path"))).expect("a checkpoint");
                    Dqn::new(&model, DqnParams::default(), &cpu()).expect("it decides");
                }
            }
        }
    }
}

#[test]
fn the_command_names_what_differs_from_the_default() {
    let plan = |seeds: std::ops::Range<u64>, quick| Plan { seeds: seeds.collect(), quick, ..tiny(Which::Vertical) };
    assert_eq!(plan(1..6, false).command(), "qscale reproduce vertical");
    assert_eq!(plan(7..10, false).command(), "qscale reproduce vertical --seeds 3 --seed 7");
    assert_eq!(plan(1..3, true).command(), "qscale reproduce vertical --quick");
    let local = |length, seeds, quick| {
        let experiment = Experiment { which: Which::Vertical, place: Place::local(length) };
        Plan { experiment, ..plan(seeds, quick) }.command()
    };
    assert_eq!(local(LOCAL, 1..3, false), "qscale reproduce vertical --local");
    assert_eq!(local(Duration::from_secs(90), 1..4, false), "qscale reproduce vertical --local --for 1m30s --seeds 3");
    assert_eq!(local(LOCAL_QUICK, 1..3, true), "qscale reproduce vertical --local --quick");
}
