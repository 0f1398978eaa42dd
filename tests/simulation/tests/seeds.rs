//! New seeds for half a minute, and every plan that failed before.

use std::path::Path;
use std::time::Duration;

use qscale_common::runtime::clock;
use qscale_simulation::plan::Plan;
use qscale_simulation::promotion;
use qscale_simulation::shrink::shrink;
use qscale_simulation::world::{Report, run};

/// Time for new seeds.
const TIME: Duration = Duration::from_secs(30);

#[track_caller]
fn check(plan: &Plan) -> Report {
    let report = run(plan, false);
    let Some(violation) = report.violation else { return report };
    let plan = serde_json::to_string(&shrink(plan)).expect("a plan is JSON");
    panic!("{violation:?}; `cargo run -p qscale-simulation -- --trace --plan FILE` with this plan shows it:\n{plan}");
}

#[test]
fn plans_that_failed_before_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("failures");
    let files: Vec<_> = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("readable").path()).collect();
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("readable");
        let plan = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        check(&plan);
    }
}

#[test]
fn new_seeds_hold() {
    // Other seeds in every run.
    let first = clock::now().0 * 10;
    let began = clock::instant();
    let mut ticks = 0;
    for seed in first.. {
        if clock::since(began) > TIME {
            break;
        }
        ticks += check(&Plan::of_seed(seed)).ticks;
    }
    assert!(ticks > 0);
}

#[test]
fn two_promoters_never_leave_a_candidate_unwatched() {
    let first = clock::now().0 * 10;
    for seed in (0..3_000).chain(first..first + 3_000) {
        assert_eq!(promotion::run(seed), None, "seed {seed}");
    }
}

#[test]
fn a_plan_decides_the_whole_run() {
    for seed in 0..5 {
        let plan = Plan::of_seed(seed);
        let (one, other) = (run(&plan, true), run(&plan, true));
        assert!(one.ticks > 100 && one.trace == other.trace, "seed {seed}: {} ticks", one.ticks);
    }
}
