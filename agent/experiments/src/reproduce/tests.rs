use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};

use qscale_dqn::policy::{Dqn, DqnParams};
use qscale_dqn::{Checkpoint, Tabular};
use qscale_rl::device::cpu;
use qscale_tests::Folder;

use super::competitor::StudyCompetitor;
use super::experiment::{EPISODE, Experiment, Site};
use super::files::csv;
use super::learn::TrainingBudget;
use super::plan::JobResult;
use super::run::RunMetric;
use super::*;

fn tiny(kind: ExperimentKind) -> StudyPlan {
    let experiment = Experiment { kind, site: Site::Simulator };
    StudyPlan { experiment, quick: false, seeds: vec![3, 4], budget: TrainingBudget { episodes: 2, worlds: 4 }, loads: vec![1, 3] }
}

/// A store in `folder`, which may hold finished jobs.
fn store(plan: &StudyPlan, folder: &Folder) -> StudyStore {
    let journal = Journal::open(folder.path(), "experiment", &plan.identity().expect("an identity"), false, false).expect("opened");
    StudyStore { out: folder.path().to_owned(), journal }
}

fn run(plan: &StudyPlan, threads: usize, folder: &Folder, counter: &TickCounter<'_>) -> StudyResults {
    let threads = NonZeroUsize::new(threads).expect("not zero");
    plan.results(plan.run(threads, &mut store(plan, folder), counter).expect("it runs"))
}

fn results(plan: &StudyPlan, threads: usize) -> StudyResults {
    run(plan, threads, &Folder::new("reproduce"), &TickCounter::new(&AtomicBool::new(false)))
}

fn json(results: &StudyResults) -> String {
    serde_json::to_string(results).expect("it is written")
}

#[test]
fn the_same_seeds_give_the_same_bytes_on_any_number_of_threads() {
    for kind in [ExperimentKind::Horizontal, ExperimentKind::Vertical] {
        let plan = tiny(kind);
        let (one, three) = (results(&plan, 1), results(&plan, 3));
        assert!(json(&one) == json(&three));
        assert_ne!(one.runs, results(&StudyPlan { seeds: vec![5, 6], ..plan }, 2).runs);
    }
}

#[test]
fn every_competitor_runs_under_every_load_with_every_seed() {
    for kind in [ExperimentKind::Horizontal, ExperimentKind::Vertical] {
        let plan = tiny(kind);
        let stop = AtomicBool::new(false);
        let ticks = TickCounter::new(&stop);
        let results = run(&plan, 1, &Folder::new("reproduce"), &ticks);
        let competitors = StudyCompetitor::all(kind).len();
        assert!(results.complete && ticks.ticks() == plan.ticks(), "{} of {}", ticks.ticks(), plan.ticks());
        assert_eq!((results.table.len(), results.runs.len(), results.learning.len()), (competitors * 2, competitors * 4, competitors * 2));
        assert_eq!(results.findings.len(), (competitors - 1) * 2);
        for run in &results.runs {
            assert!(run.figures[&RunMetric::CostPerHour] > 0.0 && run.figures[&RunMetric::ThroughputRps] > 0.0, "{}", run.competitor);
            assert!(run.series.latency_ms.len() == 120 && run.series.throughput_rps.len() == 120);
            let (replicas, cores) = (run.figures[&RunMetric::Replicas], run.figures[&RunMetric::Cores]);
            let kept = match kind {
                // Terminating replicas exist a little longer than they are allocated.
                ExperimentKind::Horizontal => (cores / replicas - 0.5).abs() < 0.02,
                ExperimentKind::Vertical => run.series.replicas.iter().all(|replicas| *replicas == 1.0),
            };
            assert!(kept, "{} changes what the experiment keeps", run.competitor);
        }
        let text = csv(&results.runs);
        assert_eq!(text.lines().count(), 1 + results.runs.len());
        assert!(text.lines().all(|line| line.split(',').count() == 3 + RunMetric::ALL.len()));
        for load in &results.loads {
            let svg = figures::time_series(plan.experiment, load, &results.competitors, &results.runs).expect("it was run");
            assert!(results.competitors.iter().all(|competitor| svg.contains(competitor)) && !svg.contains("NaN"));
        }
    }
}

#[test]
fn a_stopped_study_resumes_to_the_same_results() {
    let plan = tiny(ExperimentKind::Vertical);
    let (all, folder, stop) = (plan.ticks(), Folder::new("reproduce"), AtomicBool::new(false));
    // Stops it in the middle.
    let counter = TickCounter::new(&stop);
    let stopped = std::thread::scope(|scope| {
        let work = scope.spawn(|| run(&plan, 1, &folder, &counter));
        while counter.ticks() < all / 2 {
            std::thread::yield_now();
        }
        counter.stop();
        work.join().expect("stopping is no error")
    });
    assert!(!stopped.complete && !stopped.runs.is_empty() && stopped.runs.len() < 16, "{}", stopped.runs.len());
    let go_on = AtomicBool::new(false);
    let rest = TickCounter::new(&go_on);
    let whole = run(&plan, 1, &folder, &rest);
    assert!(json(&whole) == json(&results(&plan, 1)), "the same to the byte");
    assert_eq!(rest.ticks(), all, "what was kept counts as done");
    // Nothing is left to do.
    go_on.store(true, Ordering::Relaxed);
    assert!(run(&plan, 1, &folder, &TickCounter::new(&go_on)).complete);
}

#[test]
fn results_of_another_experiment_are_neither_used_nor_lost() {
    let (plan, folder) = (tiny(ExperimentKind::Vertical), Folder::new("reproduce"));
    drop(store(&plan, &folder));
    let open = |plan: &StudyPlan, resume, overwrite| {
        let opened = Journal::<JobResult>::open(folder.path(), "experiment", &plan.identity().expect("an identity"), resume, overwrite);
        opened.map(|_| ()).map_err(|error| format!("{error:#}"))
    };
    let other = StudyPlan { seeds: vec![3, 4, 5], ..plan.clone() };
    let error = open(&other, false, false).expect_err("of another");
    assert!(error.contains("settings.seeds") && error.contains("--overwrite"), "{error}");
    open(&plan, true, false).expect("the same");
    open(&other, false, true).expect("started over");
    let empty = Folder::new("reproduce");
    let identity = plan.identity().expect("an identity");
    let error = Journal::<JobResult>::open(empty.path(), "experiment", &identity, true, false).err().expect("nothing there");
    assert!(format!("{error:#}").contains("--resume"), "{error:#}");
}

#[test]
fn training_for_this_machine_writes_a_model_for_an_agent() {
    for kind in [ExperimentKind::Horizontal, ExperimentKind::Vertical] {
        let experiment = Experiment { kind, site: Site::local(LOCAL) };
        let plan = StudyPlan { experiment, ..tiny(kind) };
        let (folder, stop) = (Folder::new("reproduce"), AtomicBool::new(false));
        let counter = TickCounter::new(&stop);
        let done = plan.run(NonZeroUsize::MIN, &mut store(&plan, &folder), &counter).expect("it learns");
        assert_eq!(counter.ticks(), plan.ticks());
        assert!(done.values().all(|part| part.runs.is_empty() && !part.reward.is_empty()));
        for competitor in StudyCompetitor::all(kind) {
            let configuration = competitor.agent_configuration(experiment, 3, folder.path());
            match competitor {
                StudyCompetitor::Threshold => assert_eq!(configuration["params"]["cpu_millicores"], 25),
                StudyCompetitor::Pretrained => assert_eq!(configuration["params"]["scope"], kind.name()),
                StudyCompetitor::Table { .. } => {
                    let path = configuration["model"].as_str().expect("a path");
                    let table = Tabular::from_json(&std::fs::read(path).expect("written")).expect("a table");
                    assert!(table.steps == u64::from(2 * EPISODE) && configuration["policy"] == "tabular-q");
                }
                StudyCompetitor::Steps => {
                    let model =
                        File::open(configuration["model"].as_str().expect("a path")).and_then(Checkpoint::read).expect("a checkpoint");
                    Dqn::new(&model, DqnParams::default(), &cpu()).expect("it decides");
                }
            }
        }
    }
}

#[test]
fn the_command_names_options_that_differ_from_the_default() {
    let plan = |seeds: std::ops::Range<u64>, quick| StudyPlan { seeds: seeds.collect(), quick, ..tiny(ExperimentKind::Vertical) };
    assert_eq!(plan(1..6, false).command(), "qscale reproduce vertical");
    assert_eq!(plan(7..10, false).command(), "qscale reproduce vertical --seeds 3 --seed 7");
    assert_eq!(plan(1..3, true).command(), "qscale reproduce vertical --quick");
    let local = |length, seeds, quick| {
        let experiment = Experiment { kind: ExperimentKind::Vertical, site: Site::local(length) };
        StudyPlan { experiment, ..plan(seeds, quick) }.command()
    };
    assert_eq!(local(LOCAL, 1..3, false), "qscale reproduce vertical --local");
    assert_eq!(local(Duration::from_secs(90), 1..4, false), "qscale reproduce vertical --local --for 1m30s --seeds 3");
    assert_eq!(local(LOCAL_QUICK, 1..3, true), "qscale reproduce vertical --local --quick");
}
