//! Results that no run gave, for looking at reports: of any size, the same for the same arguments.

use std::collections::BTreeMap;

use qscale_evaluate::Measure;
use qscale_evaluate::results::{
    Cell, Competitor, Course, Group, Latencies, Registered, Results, Settings, Timeline, Tried, Tuning, Variant,
};
use serde_json::json;

/// How much there is.
pub struct Size {
    pub rules: usize,
    pub workloads: usize,
    pub perturbations: usize,
    pub seeds: u64,
    pub intervals: usize,
}

const RULES: [&str; 11] =
    ["static", "hpa", "kpa", "vpa", "threshold", "hpa-vpa", "keda", "holt-winters", "keep-alive", "hybrid-histogram", "openfaas"];
const WORKLOADS: [&str; 7] = ["constant", "diurnal", "noisy", "bursty", "step", "ramp", "flash-crowd"];
const PERTURBATIONS: [&str; 6] = ["none", "lag-30s", "lost-scrapes", "slow-starts", "lost-node", "payload"];

/// Violations and cost of a competitor: each rule has a place between much of one and much of the other, tuned ones lie nearer to the origin.
fn place(competitor: usize, cell: usize, seed: u64) -> (f64, f64) {
    let noise = |salt: u64| {
        let x = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add((competitor as u64) << 32 | (cell as u64) << 16 | salt);
        ((x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f64 / (1u64 << 24) as f64
    };
    let along = (competitor / 2 * 7 % 11) as f64 / 11.0;
    let far = if competitor % 2 == 1 { 0.5 } else { 0.8 };
    let hard = 0.3 + cell as f64 % 5.0 / 4.0;
    (
        (far * 0.2 * (1.0 - along).powi(2) * hard + 0.01 * noise(1)).max(0.0),
        far * (0.05 + 0.3 * along) * (0.8 + 0.3 * hard + 0.1 * noise(2)),
    )
}

/// Results of `size`; names are those of `name`, given the plain one.
pub fn results(size: &Size, name: impl Fn(&str) -> String) -> Results {
    let mut competitors: Vec<Competitor> = RULES[..size.rules]
        .iter()
        .flat_map(|rule| [Variant::Default, Variant::Tuned].map(|variant| competitor(&name(rule), rule, variant)))
        .collect();
    competitors.push(competitor(&name("clairvoyant"), "clairvoyant", Variant::Bound));
    let cells: Vec<Cell> = WORKLOADS[..size.workloads]
        .iter()
        .flat_map(|workload| PERTURBATIONS[..size.perturbations].iter().map(|perturbation| cell(&name(workload), &name(perturbation))))
        .collect();
    let pairs: Vec<(usize, usize)> =
        (0..competitors.len()).flat_map(|competitor| (0..cells.len()).map(move |cell| (competitor, cell))).collect();
    Results {
        version: Results::VERSION.into(),
        suite: Registered {
            name: name("made-up"),
            description: name("for looking at reports"),
            document: json!({ "name": name("made-up") }),
        },
        settings: Settings {
            command: name("qscale evaluate made-up"),
            seeds: (1..=size.seeds).collect(),
            validation_seeds: vec![101, 102],
            measured_s: 600.0,
            warm_up_s: 60.0,
            interval_s: 5.0,
            currency: name("EUR"),
            violation_weight: 1.0,
            cost_weight: 0.3,
            quick: false,
            trace: None,
        },
        groups: pairs.iter().map(|&(competitor, cell)| group(competitor, cell, size.seeds, competitor + 1 == competitors.len())).collect(),
        tuning: RULES[..size.rules].iter().map(|rule| tuning(&name(rule), &cells)).collect(),
        timelines: pairs.iter().map(|&(competitor, cell)| timeline(competitor, cell, size.intervals)).collect(),
        latencies: pairs.iter().map(|&(competitor, cell)| latencies(competitor, cell)).collect(),
        competitors,
        cells,
    }
}

fn competitor(name: &str, policy: &str, variant: Variant) -> Competitor {
    let params = BTreeMap::from([("*".to_owned(), json!({ "target": 0.7 }))]);
    Competitor { name: name.into(), variant, policy: policy.into(), model: "1".into(), params, tick_s: 15.0, lag_s: 15.0 }
}

fn cell(workload: &str, perturbation: &str) -> Cell {
    Cell {
        name: format!("fibonacci/{workload}/{perturbation}"),
        function: "fibonacci".into(),
        workload: workload.into(),
        perturbation: perturbation.into(),
        functions: 1,
        latency_ms: Some(200.0),
        percentile: 95.0,
    }
}

fn group(competitor: usize, cell: usize, seeds: u64, bound: bool) -> Group {
    let run = |measure: Measure, seed: u64| {
        let (violated, cost) = if bound { (0.001, 0.03) } else { place(competitor, cell, seed) };
        Some(match measure {
            Measure::ViolatedShare => violated,
            Measure::Severity => violated / 2.0,
            Measure::LateShare => violated / 3.0,
            Measure::CompletedShare => 1.0 - violated / 4.0,
            Measure::CostPerHour => cost,
            Measure::CostShare => cost / 2.0,
            Measure::P50Ms => 20.0,
            Measure::P95Ms => 60.0 + 1000.0 * violated,
            Measure::P99Ms => 90.0 + 3000.0 * violated,
            Measure::Loss => violated / 2.0 + 0.15 * cost,
            Measure::RecoverS if cell.is_multiple_of(2) => return None,
            _ => (competitor * 3 + cell) as f64,
        })
    };
    let column = |measure| (0..seeds).map(|seed| run(measure, seed)).collect();
    Group { competitor, cell, measures: Measure::ALL.into_iter().map(|measure| (measure, column(measure))).collect() }
}

fn tuning(rule: &str, cells: &[Cell]) -> Tuning {
    let tried = |index: usize| {
        let (violated, cost) = (0.15 / (index + 1) as f64, 0.05 + 0.02 * index as f64);
        let measures = [(Measure::ViolatedShare, violated), (Measure::CostPerHour, cost)].into();
        Tried { params: json!({ "target": 0.3 + 0.1 * index as f64, "window_s": 60 }), score: violated + cost, measures }
    };
    Tuning {
        competitor: rule.into(),
        function: "*".into(),
        cells: cells.iter().take(2).map(|cell| cell.name.clone()).collect(),
        tried: (0..12).map(tried).collect(),
        chosen: 3,
    }
}

fn timeline(competitor: usize, cell: usize, intervals: usize) -> Timeline {
    let at = |index: usize| index as f64 * 5.0 + 5.0;
    let rate = |index: usize| 40.0 + 30.0 * (at(index) / 90.0 + cell as f64).sin();
    let column = |of: &dyn Fn(usize) -> f64| (0..intervals).map(of).collect::<Vec<f64>>();
    let course = Course {
        until_s: column(&at),
        rate_rps: column(&rate),
        replicas: column(&|index| (rate(index.saturating_sub(competitor)) / 10.0).ceil()),
        cores: column(&|index| rate(index) / 20.0),
        latency_ms: (0..intervals).map(|index| (index % 17 != 3).then(|| 50.0 + rate(index) + competitor as f64)).collect(),
        waiting: column(&|index| (index % 3) as f64),
        violated: column(&|index| f64::from(u8::from(index % 13 == 0))),
    };
    Timeline { competitor, cell, seed: 1, course }
}

fn latencies(competitor: usize, cell: usize) -> Latencies {
    let bucket =
        |index: i32| (1.3f64.powi(index), (1e5 * (-(f64::from(index) - 12.0 - competitor as f64 / 4.0).powi(2) / 12.0).exp()) as u64);
    Latencies {
        competitor,
        cell,
        buckets: (1..40).map(bucket).filter(|(_, count)| *count > 0).collect(),
        failed: (competitor * 100) as u64,
    }
}
