use super::super::{ComparisonVerdict, DifferenceSign};
use super::*;
use crate::results::{Cell, Competitor, EvaluationSettings, RegisteredSuite};

/// Competitors by name and variant, cells by workload and perturbation, and for every run (competitor, cell, seed) its
/// violations and cost; loss is their sum.
fn results(
    competitors: &[(&str, CompetitorVariant)],
    cells: &[(&str, &str)],
    seeds: u64,
    run: impl Fn(usize, usize, u64) -> Option<(f64, f64)>,
) -> Results {
    let group = |competitor: usize, cell: usize| {
        let column = |of: fn((f64, f64)) -> f64| (0..seeds).map(|seed| run(competitor, cell, seed).map(of)).collect::<Vec<_>>();
        let measures = [
            (Measure::ViolatedShare, column(|(violated, _)| violated)),
            (Measure::CostPerHour, column(|(_, cost)| cost)),
            (Measure::Loss, column(|(violated, cost)| violated + cost)),
        ];
        Group { competitor, cell, measures: measures.into() }
    };
    Results {
        version: Results::VERSION.into(),
        suite: RegisteredSuite { name: "made up".into(), description: String::new(), document: serde_json::Value::Null },
        settings: EvaluationSettings {
            command: String::new(),
            seeds: (0..seeds).collect(),
            validation_seeds: vec![],
            measured_s: 600.0,
            warm_up_s: 60.0,
            interval_s: 5.0,
            currency: "EUR".into(),
            violation_weight: 1.0,
            cost_weight: 1.0,
            quick: false,
            trace: None,
        },
        competitors: competitors.iter().map(|(name, variant)| competitor(name, *variant)).collect(),
        cells: cells.iter().map(|(workload, perturbation)| cell(workload, perturbation)).collect(),
        groups: (0..competitors.len())
            .flat_map(|competitor| (0..cells.len()).map(move |cell| (competitor, cell)))
            .map(|(a, b)| group(a, b))
            .collect(),
        tuning: vec![],
        timelines: vec![],
        latencies: vec![],
    }
}

fn competitor(name: &str, variant: CompetitorVariant) -> Competitor {
    Competitor { name: name.into(), variant, policy: name.into(), model: String::new(), params: BTreeMap::new(), tick_s: 5.0, lag_s: 0.0 }
}

fn cell(workload: &str, perturbation: &str) -> Cell {
    Cell {
        name: format!("echo/{workload}/{perturbation}"),
        function: "echo".into(),
        workload: workload.into(),
        perturbation: perturbation.into(),
        functions: 1,
        latency_ms: Some(100.0),
        percentile: 95.0,
    }
}

const FIELD: [(&str, CompetitorVariant); 5] = [
    ("static", CompetitorVariant::Default),
    ("hpa", CompetitorVariant::Default),
    ("hpa", CompetitorVariant::Tuned),
    ("kpa", CompetitorVariant::Tuned),
    ("clairvoyant", CompetitorVariant::Bound),
];
const CELLS: [(&str, &str); 4] = [("step", "none"), ("step", "lag"), ("ramp", "none"), ("ramp", "lag")];

/// Violations and cost a competitor: static pays much, tuned HPA is best, tuned KPA is cheaper still at more violations.
fn field(competitor: usize, _cell: usize, seed: u64) -> Option<(f64, f64)> {
    let noise = (seed % 5) as f64 / 100.0;
    let (violated, cost) = [(0.02, 2.0), (0.10, 1.2), (0.02, 1.0), (0.30, 0.8), (0.01, 0.5)][competitor];
    Some((violated, cost + noise * competitor as f64))
}

fn options() -> SummaryOptions {
    SummaryOptions { bootstrap: Bootstrap { resamples: 200, confidence: 0.95, seed: 1 }, ..SummaryOptions::default() }
}

#[test]
fn the_best_tuned_rule_is_the_reference_and_static_the_baseline() {
    let summary = summarise(&results(&FIELD, &CELLS, 10, field), &options()).expect("a summary");
    assert_eq!((summary.reference, summary.baseline, summary.bound), (Some(2), Some(0), Some(4)));
    let named = SummaryOptions { reference: Some("kpa, tuned".into()), ..options() };
    assert_eq!(summarise(&results(&FIELD, &CELLS, 10, field), &named).expect("a summary").reference, Some(3));
    let unknown = SummaryOptions { reference: Some("vpa".into()), ..options() };
    let error = summarise(&results(&FIELD[..2], &CELLS, 3, field), &unknown).expect_err("nobody");
    assert_eq!(error.to_string(), "reference `vpa`, competitors are `static`, `hpa`");
}

#[test]
fn without_tuning_the_best_default_is_the_reference() {
    let summary =
        summarise(&results(&[("hpa", CompetitorVariant::Default), ("kpa", CompetitorVariant::Default)], &CELLS, 4, field), &options())
            .expect("a summary");
    assert_eq!((summary.reference, summary.baseline, summary.bound), (Some(1), Some(0), None));
    assert!(summary.parts.iter().flat_map(|part| &part.lines).all(|line| line.gap_closed.is_none()));
}

#[test]
fn verdicts_follow_the_rule() {
    let summary = summarise(&results(&FIELD, &CELLS, 10, field), &options()).expect("a summary");
    let lines = &summary.overall().expect("all cells").lines;
    let judged: Vec<_> = lines.iter().map(|line| line.against.map(|against| against.comparison)).collect();
    let of = |verdict, cost, violations| Some(super::super::Finding { verdict, cost, violations });
    use DifferenceSign::{Less, More, Same};
    assert_eq!(
        judged,
        [
            of(ComparisonVerdict::Worse, More, Same),
            of(ComparisonVerdict::Worse, More, More),
            None,
            of(ComparisonVerdict::Tie, Less, More),
            None
        ]
    );
    assert_eq!(lines.iter().map(|line| line.pareto).collect::<Vec<_>>(), [false, false, true, true, false]);
    let kpa = lines[3].against.expect("compared");
    // Ten seeds, all one way: 2 / 2^10, and the family is three comparisons of three measures.
    assert_eq!((kpa.cost.sign_flip_p, kpa.violations.wilcoxon_p), (0.001_953_125, 0.001_953_125));
    assert_eq!((kpa.cost.sign_flip_holm, kpa.improvement), (0.017_578_12, 0.0));
}

#[test]
fn the_gap_is_between_baseline_and_bound() {
    let flat = |competitor, cell, _| field(competitor, cell, 0);
    let summary = summarise(&results(&FIELD, &CELLS, 4, flat), &options()).expect("a summary");
    let closed: Vec<_> = summary.parts[0].lines.iter().map(|line| line.gap_closed.expect("a gap").value).collect();
    // Losses 2.02, 1.30, 1.02, 1.10, 0.51.
    assert_eq!(
        closed,
        [0.0, crate::results::rounded(0.72 / 1.51), crate::results::rounded(1.0 / 1.51), crate::results::rounded(0.92 / 1.51), 1.0]
    );
}

#[test]
fn every_kind_of_part_that_has_several_is_summarised() {
    let summary = summarise(&results(&FIELD, &CELLS, 3, field), &options()).expect("a summary");
    let names: Vec<_> = summary.parts.iter().map(|part| part.scope.to_string()).collect();
    let cells = CELLS.map(|(workload, perturbation)| format!("cell echo/{workload}/{perturbation}"));
    let others = ["all ", "workload step", "workload ramp", "perturbation none", "perturbation lag"].map(String::from);
    assert_eq!(names, [&others[..], &cells[..]].concat());
    assert_eq!(summary.parts_like(|scope| matches!(scope, SummaryScope::Workload(_))).nth(1).expect("ramp").cells, [2, 3]);
    let single = summarise(&results(&FIELD, &CELLS[..1], 3, field), &options()).expect("a summary");
    assert_eq!(single.parts.len(), 1);
}

#[test]
fn missing_values_are_skipped_on_both_sides() {
    let gaps = |competitor, cell, seed| if competitor == 3 && (cell == 0 || seed == 1) { None } else { field(competitor, cell, seed) };
    let summary = summarise(&results(&FIELD, &CELLS, 5, gaps), &options()).expect("a summary");
    let kpa = &summary.parts[0].lines[3];
    assert_eq!(kpa.measures[&Measure::CostPerHour].runs, 12);
    assert_eq!(kpa.against.expect("compared").cost.difference.runs, 12);
    assert!(!kpa.measures.contains_key(&Measure::P95Ms), "nobody measured it");
}

#[test]
fn empty_results_give_an_empty_summary() {
    let summary = summarise(&results(&[], &[], 0, |_, _, _| None), &options()).expect("a summary");
    assert_eq!((summary.reference, summary.parts.len(), summary.parts[0].lines.len()), (None, 1, 0));
    let unmeasured = summarise(&results(&FIELD, &CELLS, 2, |_, _, _| None), &options()).expect("a summary");
    assert!(unmeasured.parts[0].lines.iter().all(|line| line.measures.is_empty() && line.against.is_none()));
}

#[test]
fn a_summary_is_deterministic_and_survives_a_round_trip() {
    let results = results(&FIELD, &CELLS, 6, field);
    let summary = summarise(&results, &options()).expect("a summary");
    assert_eq!(summarise(&results, &options()).expect("a summary"), summary);
    let text = serde_json::to_string(&summary).expect("writes");
    assert_eq!(serde_json::from_str::<Summary>(&text).expect("reads"), summary);
}

#[test]
fn who_else_competes_changes_no_interval() {
    let all = summarise(&results(&FIELD, &CELLS, 6, field), &options()).expect("a summary");
    let few = summarise(&results(&FIELD[..3], &CELLS, 6, field), &options()).expect("a summary");
    for (one, other) in all.parts[0].lines.iter().zip(&few.parts[0].lines) {
        assert_eq!(one.measures, other.measures);
    }
}
