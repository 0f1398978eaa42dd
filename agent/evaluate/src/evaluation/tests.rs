use std::collections::BTreeMap;

use qscale_common::document::Format;
use serde_json::json;

use super::jobs::{JobOutcome, NoLedger, StageProgress};
use super::*;
use crate::policy_set::RulePolicies;
use crate::results::{CompetitorVariant, Measure};

/// 150 requests a second of 1.28 ms: one replica of 100m is overloaded, three are two thirds busy, ten are too many.
const SUITE: &str = r#"
name = "small"
seeds = 3
length = "2m"
warm_up = "30s"

[guard]
replicas_up = 100
replicas_down = 100

[tuning]
settings = 4
seeds = 1
[[tuning.cells]]
workloads = ["constant"]
perturbations = ["none"]

[[functions]]
name = "f"
profile = "fibonacci-python"
rate = 150
objective = { percentile = 95, latency = "200ms", failure_share = 0.01 }
start = { replicas = 3, cpu_millicores = 100, memory_mib = 128 }

[[workloads]]
name = "constant"
pattern = "constant:1"

[[workloads]]
name = "noisy"
pattern = "constant:1"
noise = { sigma = 0.4, memory = 0.5, every = "20s" }

[[perturbations]]
name = "none"

[[perturbations]]
name = "payload"
payload = { from = "60s", factor = 2 }

[[competitors]]
policy = "static"
params = { replicas = 1 }
grid = { replicas = [3, 10] }

[[competitors]]
policy = "kpa"
tick = "1s"

[[competitors]]
policy = "clairvoyant"
grid = { headroom = [1.5, 2.0] }

[[competitors]]
policy = "known-rates"
grid = { headroom = [1.5, 2.0] }
"#;

fn evaluation(tune: bool) -> SuiteEvaluation {
    let suite = Suite::parse(SUITE, Format::Toml).expect("a suite");
    SuiteEvaluation::of_patterns(suite, EvaluationRequest { tune, ..EvaluationRequest::default() }).expect("cells")
}

fn run(evaluation: &SuiteEvaluation, threads: usize, ledger: &mut dyn Ledger) -> Result<Results, EvaluateError> {
    let stop = AtomicBool::new(false);
    let options = Options { threads: NonZeroUsize::new(threads).expect("at least one"), stop: &stop, clock: None };
    evaluation.run(&RulePolicies, &options, ledger).map(|(results, _)| results)
}

fn text(results: &Results) -> String {
    serde_json::to_string(results).expect("writes")
}

/// A ledger that stores everything as a file would, and fails after a number of jobs.
struct Book {
    pages: BTreeMap<String, String>,
    left: usize,
    recalled: usize,
}

impl Ledger for Book {
    fn stored(&mut self, key: &str) -> Option<JobOutcome> {
        let outcome = self.pages.get(key).map(|page| serde_json::from_str(page).expect("was written"));
        self.recalled += usize::from(outcome.is_some());
        outcome
    }

    fn record(&mut self, key: &str, outcome: &JobOutcome) -> Result<(), String> {
        self.left = self.left.checked_sub(1).ok_or("the book is full")?;
        self.pages.insert(key.to_owned(), serde_json::to_string(outcome).expect("writes"));
        Ok(())
    }

    fn progress(&mut self, progress: StageProgress) {
        assert!(progress.known <= progress.done && progress.done <= progress.all, "{progress:?}");
    }
}

#[test]
fn results_are_equal_on_any_number_of_threads_and_after_an_interruption() {
    let evaluation = evaluation(true);
    let once = text(&run(&evaluation, 1, &mut NoLedger).expect("runs"));
    assert!(once == text(&run(&evaluation, 3, &mut NoLedger).expect("runs")), "another number of threads, another result");
    let mut book = Book { pages: BTreeMap::new(), left: 9, recalled: 0 };
    let error = run(&evaluation, 2, &mut book).expect_err("the book is full");
    assert!(matches!(error, EvaluateError::Ledger(_)), "{error}");
    let written = book.pages.len();
    book.left = usize::MAX;
    let resumed = run(&evaluation, 2, &mut book).expect("runs");
    assert!(book.recalled >= written.min(9), "{} of {written} were used", book.recalled);
    assert!(once == text(&resumed), "an interruption changed the result");
    assert_eq!(Results::from_json(&once).expect("reads").version, Results::VERSION);
}

#[test]
fn tuning_finds_the_setting_that_is_known_to_be_best() {
    let results = run(&evaluation(true), 2, &mut NoLedger).expect("runs");
    let tuning = &results.tuning[0];
    let tried: Vec<_> = tuning.tried.iter().map(|tried| tried.params["replicas"].clone()).collect();
    assert_eq!(tried, [json!(1), json!(3), json!(10)]);
    assert_eq!((tuning.competitor.as_str(), tuning.function.as_str(), tuning.chosen), ("static", "f", 1), "{tuning:?}");
    assert_eq!(tuning.cells, ["f/constant/none"]);
    let labels: Vec<String> = results.competitors.iter().map(|competitor| competitor.label()).collect();
    assert_eq!(labels, ["static", "static, tuned", "kpa", "clairvoyant", "known-rates"]);
    assert_eq!(results.competitors[3].variant, CompetitorVariant::Bound);
    let loss = |competitor: usize| results.group(competitor, 0).expect("is there").values(Measure::Loss)[0].expect("measured");
    assert!(loss(1) < loss(0), "tuned {} against default {}", loss(1), loss(0));
}

#[test]
fn the_bound_has_the_least_loss_in_every_run_and_beats_known_rates() {
    let results = run(&evaluation(true), 2, &mut NoLedger).expect("runs");
    let losses = |competitor: usize, cell: usize| -> Vec<f64> {
        results.group(competitor, cell).expect("is there").values(Measure::Loss).iter().map(|loss| loss.expect("measured")).collect()
    };
    let mean = |losses: Vec<f64>| losses.iter().sum::<f64>() / losses.len() as f64;
    let [bound, rates] = [CompetitorVariant::Bound, CompetitorVariant::KnownRates]
        .map(|variant| results.competitors.iter().position(|competitor| competitor.variant == variant).expect("is there"));
    for cell in 0..results.cells.len() {
        for competitor in 0..results.competitors.len() {
            let runs = losses(competitor, cell).into_iter().zip(losses(bound, cell));
            assert!(
                runs.clone().all(|(loss, bound)| bound <= loss),
                "cell {cell}, competitor {competitor}: {:?}",
                runs.collect::<Vec<_>>()
            );
        }
        let best = [1, 2].map(|competitor| mean(losses(competitor, cell))).into_iter().fold(f64::INFINITY, f64::min);
        let (planned, forecast) = (mean(losses(bound, cell)), mean(losses(rates, cell)));
        assert!(planned < 0.9 * best, "cell {cell}: {planned} is hardly better than {best} of the best policy");
        assert!(planned < 0.9 * forecast, "cell {cell}: {planned} is hardly better than {forecast} with known rates");
    }
}

#[test]
fn without_passes_the_bound_is_the_best_run() {
    let mut suite = evaluation(false).suite().clone();
    suite.planning.passes = 0;
    let evaluation = SuiteEvaluation::of_patterns(suite, EvaluationRequest::default()).expect("cells");
    let results = run(&evaluation, 2, &mut NoLedger).expect("runs");
    assert_eq!(results.competitors.len(), 4);
    for cell in 0..results.cells.len() {
        let loss = |competitor: usize| results.group(competitor, cell).expect("is there").values(Measure::Loss)[0].expect("measured");
        assert!(loss(2) <= loss(0).min(loss(1)).min(loss(3)));
    }
}

#[test]
fn every_competitor_meets_the_same_requests() {
    let results = run(&evaluation(false), 2, &mut NoLedger).expect("runs");
    assert_eq!((results.cells.len(), results.groups.len()), (4, 16));
    for cell in 0..4 {
        let requests = |competitor: usize| results.group(competitor, cell).expect("is there").values(Measure::Requests).to_vec();
        assert_eq!(requests(0).len(), 3);
        assert_eq!(requests(0), requests(1), "{}", results.cells[cell].name);
        assert_eq!(requests(0), requests(2), "{}", results.cells[cell].name);
        let mut distinct = requests(0);
        distinct.dedup();
        assert_eq!(distinct.len(), 3, "each run is another one");
    }
    let timelines: Vec<_> = results.timelines.iter().map(|timeline| results.cells[timeline.cell].perturbation.as_str()).collect();
    assert_eq!(timelines, ["none"; 8]);
    let latencies = &results.latencies[0];
    let completed: u64 = latencies.buckets.iter().map(|(_, count)| count).sum();
    assert!(completed > 0 && latencies.failed > 0, "an overloaded replica answers some and fails others");
}

#[test]
fn an_invalid_competitor_is_refused_before_any_run() {
    let refused = |from: &str, to: &str| {
        let suite = Suite::parse(&SUITE.replace(from, to), Format::Toml).expect("a suite");
        let evaluation = SuiteEvaluation::of_patterns(suite, EvaluationRequest::default()).expect("cells");
        match run(&evaluation, 1, &mut NoLedger) {
            Err(EvaluateError::Competitor { name, error: CompetitorError::Policy(error) }) => (name, error),
            other => panic!("{other:?}"),
        }
    };
    let (name, error) = refused("policy = \"kpa\"", "policy = \"kap\"");
    assert!(name == "kap" && matches!(&error, PolicyError::Unknown { name, .. } if name == "kap"), "{error:?}");
    for (from, to, competitor, parameter) in [
        ("grid = { replicas = [3, 10] }", "grid = { replica = [3, 10] }", "static", "replica"),
        ("headroom = [1.5, 2.0]", "headroom = [1.5, 0.0]", "clairvoyant", "headroom = 0"),
    ] {
        let (name, error) = refused(from, to);
        let PolicyError::Parameters { policy, reason } = error else { panic!("{error:?}") };
        assert!(name == competitor && policy == competitor && reason.contains(parameter), "{name}: {reason}");
    }
}

#[test]
fn a_stopped_evaluation_gives_no_results() {
    let evaluation = evaluation(false);
    let stop = AtomicBool::new(true);
    let options = Options { threads: NonZeroUsize::MIN, stop: &stop, clock: None };
    assert!(matches!(evaluation.run(&RulePolicies, &options, &mut NoLedger), Err(EvaluateError::Stopped)));
}
