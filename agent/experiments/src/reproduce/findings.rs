//! What runs say of entrants: means over seeds with their intervals, and who is better beyond chance. Pure: owns the arithmetic and the words.

use std::collections::BTreeMap;

use qscale_common::text::number;
use qscale_evaluate::results::rounded;
use serde::Serialize;

use super::results::StudyRun;
use super::run::RunMetric;

/// A mean over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// The ends of its 95 % interval (Student's); absent where there is one seed.
    pub interval: Option<(f64, f64)>,
}

impl Mean {
    /// The mean of `values`, of which there is at least one.
    pub fn of(values: &[f64]) -> Self {
        let (mean, half) = (centre(values), half(values));
        Self { mean: rounded(mean), interval: half.map(|half| (rounded(mean - half), rounded(mean + half))) }
    }

    /// Half the width of the interval.
    pub fn half(&self) -> Option<f64> {
        self.interval.map(|(low, high)| (high - low) / 2.0)
    }
}

fn centre(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Half the width of Student's 95 % interval around the mean.
fn half(values: &[f64]) -> Option<f64> {
    /// The 97.5 % quantile of Student's t for one degree of freedom, for two, and so on; the last one beyond, which is wider than need be.
    const QUANTILES: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101,
        2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
    ];
    let freedom = values.len().checked_sub(1).filter(|freedom| *freedom > 0)?;
    let mean = centre(values);
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / freedom as f64;
    Some(QUANTILES[(freedom - 1).min(QUANTILES.len() - 1)] * (variance / values.len() as f64).sqrt())
}

/// The line of a entrant under a load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SummaryRow {
    /// The load.
    pub load: &'static str,
    /// The entrant.
    #[serde(rename = "contestant")]
    pub entrant: &'static str,
    /// Seeds that it is taken from.
    pub seeds: usize,
    /// Every figure.
    pub figures: BTreeMap<RunMetric, Mean>,
}

/// A line for each load and entrant that was run, in the order of the runs.
pub fn table(runs: &[StudyRun]) -> Vec<SummaryRow> {
    let mut lines: Vec<SummaryRow> = Vec::new();
    for run in runs {
        if lines.iter().any(|line| (line.load, line.entrant) == (run.load, run.entrant)) {
            continue;
        }
        let own: Vec<&StudyRun> = runs.iter().filter(|other| (other.load, other.entrant) == (run.load, run.entrant)).collect();
        let figures = RunMetric::ALL.map(|figure| (figure, Mean::of(&own.iter().map(|run| run.figures[&figure]).collect::<Vec<_>>())));
        lines.push(SummaryRow { load: run.load, entrant: run.entrant, seeds: own.len(), figures: figures.into() });
    }
    lines
}

/// How a entrant differs from the one it is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// It is less, beyond chance, and so much that it matters.
    Less,
    /// Whatever difference there may be does not matter.
    Alike,
    /// It is more, beyond chance, and so much that it matters.
    More,
    /// The interval holds differences that matter, and none.
    Unsure,
}

/// A entrant beside the first one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The load.
    pub load: &'static str,
    /// The entrant.
    #[serde(rename = "contestant")]
    pub entrant: &'static str,
    /// The one it is held against.
    pub against: &'static str,
    /// How it differs in the share that was late.
    pub late: Difference,
    /// How it differs in cost.
    pub cost: Difference,
    /// What a reader may call it.
    pub reading: &'static str,
    /// Share that was late, of the first and of itself.
    pub late_share: (f64, f64),
    /// Its cost over that of the first, less one.
    pub dearer: f64,
}

/// So much of a share, or of a cost, is not worth a word however sure it is.
const LATE_MATTERS: f64 = 0.001;
const COST_MATTERS: f64 = 0.01;

/// Everybody beside the entrant called `first` under each load, where at least two seeds were run of both.
pub fn findings(runs: &[StudyRun], first: &'static str) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for run in runs.iter().filter(|run| run.entrant != first) {
        if found.iter().any(|finding| (finding.load, finding.entrant) == (run.load, run.entrant)) {
            continue;
        }
        let of = |entrant, figure| {
            let own = runs.iter().filter(move |run| run.entrant == entrant);
            own.filter(|other| other.load == run.load).map(|run| (run.seed, run.figures[&figure])).collect::<BTreeMap<u64, f64>>()
        };
        let pairs = |figure| {
            let (theirs, its) = (of(first, figure), of(run.entrant, figure));
            its.into_iter().filter_map(|(seed, its)| theirs.get(&seed).map(|theirs| (*theirs, its))).collect::<Vec<_>>()
        };
        let (late, cost) = (pairs(RunMetric::LateShare), pairs(RunMetric::CostPerHour));
        if late.len() < 2 {
            continue;
        }
        let mean = |pairs: &[(f64, f64)]| {
            (centre(&pairs.iter().map(|pair| pair.0).collect::<Vec<_>>()), centre(&pairs.iter().map(|pair| pair.1).collect::<Vec<_>>()))
        };
        let (late_mean, cost_mean) = (mean(&late), mean(&cost));
        let (late, cost) = (differs(&late, LATE_MATTERS), differs(&cost, COST_MATTERS * cost_mean.0));
        found.push(Finding {
            load: run.load,
            entrant: run.entrant,
            against: first,
            late,
            cost,
            reading: reading(late, cost),
            late_share: (rounded(late_mean.0), rounded(late_mean.1)),
            dearer: rounded(cost_mean.1 / cost_mean.0.max(1e-12) - 1.0),
        });
    }
    found
}

fn differs(pairs: &[(f64, f64)], matters: f64) -> Difference {
    let differences: Vec<f64> = pairs.iter().map(|(first, own)| own - first).collect();
    let (mean, half) = (centre(&differences), half(&differences).unwrap_or(f64::INFINITY));
    if mean.abs() + half <= matters {
        Difference::Alike
    } else if mean.abs() <= half.max(matters) {
        Difference::Unsure
    } else if mean < 0.0 {
        Difference::Less
    } else {
        Difference::More
    }
}

/// What sentences are made of, in their order.
const READINGS: [&str; 10] = [
    "better",
    "late less often but dearer",
    "late less often, cost not told apart",
    "cheaper, lateness not told apart",
    "cheaper but late more often",
    "the same",
    "not told apart",
    "dearer, lateness not told apart",
    "late more often, cost not told apart",
    "worse",
];

/// Better is what gains in one and surely loses in neither, as in an evaluation.
fn reading(late: Difference, cost: Difference) -> &'static str {
    use Difference::{Alike, Less, More, Unsure};
    let place = match (late, cost) {
        (Less, Less | Alike) | (Alike, Less) => 0,
        (Less, More) => 1,
        (Less, Unsure) => 2,
        (Unsure, Less) => 3,
        (More, Less) => 4,
        (Alike, Alike) => 5,
        (Unsure, Alike | Unsure) | (Alike, Unsure) => 6,
        (Unsure, More) => 7,
        (More, Unsure) => 8,
        (More, More | Alike) | (Alike, More) => 9,
    };
    READINGS[place]
}

/// One sentence for each load, in the order of `findings`.
pub fn sentences(findings: &[Finding]) -> Vec<String> {
    let mut loads: Vec<&'static str> = findings.iter().map(|finding| finding.load).collect();
    loads.dedup();
    let sentence = |load: &'static str| {
        let own: Vec<&Finding> = findings.iter().filter(|finding| finding.load == load).collect();
        let against = own.first().map_or("", |finding| finding.against);
        let group = |reading: &&str| {
            let told = own.iter().filter(|finding| finding.reading == *reading).map(|finding| told(finding)).collect::<Vec<_>>();
            (!told.is_empty()).then(|| format!("{reading}: {}", told.join(", ")))
        };
        format!("{load}, against {against}: {}.", READINGS.iter().filter_map(group).collect::<Vec<_>>().join("; "))
    };
    loads.into_iter().map(sentence).collect()
}

fn told(finding: &Finding) -> String {
    let percent = |share: f64| number(share * 100.0);
    let (before, after) = finding.late_share;
    let cost = finding.dearer * 100.0;
    let sign = if cost >= 0.0 { "+" } else { "-" };
    format!("{} (late {} % instead of {} %, cost {sign}{} %)", finding.entrant, percent(after), percent(before), number(cost.abs().round()))
}

#[cfg(test)]
mod tests {
    use super::super::run::TimeSeries;
    use super::*;

    fn run(entrant: &'static str, load: &'static str, seed: u64, late: f64, cost: f64) -> StudyRun {
        let figures = RunMetric::ALL.map(|figure| match figure {
            RunMetric::LateShare => (figure, late),
            RunMetric::CostPerHour => (figure, cost),
            _ => (figure, 1.0),
        });
        StudyRun { entrant, load, seed, figures: figures.into(), course: TimeSeries::default(), remarks: Vec::new() }
    }

    #[test]
    fn an_interval_is_students() {
        // 3 -+ 2.776 x sqrt(2.5 / 5) = 1.037 and 4.963.
        let mean = Mean::of(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        let (low, high) = mean.interval.expect("five values");
        assert!((low - 1.037).abs() < 1e-3 && (high - 4.963).abs() < 1e-3, "{mean:?}");
        assert_eq!(Mean::of(&[7.0]), Mean { mean: 7.0, interval: None });
        assert_eq!(Mean::of(&[2.0; 50]).half(), Some(0.0));
    }

    #[test]
    fn a_line_stands_for_each_load_and_contestant() {
        let runs =
            [run("a", "low", 1, 0.0, 1.0), run("a", "low", 2, 0.0, 3.0), run("a", "high", 1, 0.0, 1.0), run("b", "low", 1, 0.0, 1.0)];
        let lines = table(&runs);
        let named: Vec<_> = lines.iter().map(|line| (line.load, line.entrant, line.seeds)).collect();
        assert_eq!(named, [("low", "a", 2), ("high", "a", 1), ("low", "b", 1)]);
        assert_eq!(lines[0].figures[&RunMetric::CostPerHour].mean, 2.0);
    }

    #[test]
    fn better_is_what_gains_in_one_and_surely_loses_in_neither() {
        let mut runs = Vec::new();
        for seed in 1..=5 {
            let (noise, wide) = (0.0001 * seed as f64, if seed % 2 == 0 { 0.1 } else { -0.1 });
            runs.push(run("rule", "low", seed, 0.2 + noise, 1.0));
            runs.push(run("good", "low", seed, 0.2 - noise / 10.0, 0.5 + noise));
            runs.push(run("dear", "low", seed, 0.001, 2.0));
            runs.push(run("lucky", "low", seed, 0.001, 1.0 + wide));
            runs.push(run("rash", "low", seed, 0.4 + 4.0 * wide, 0.5));
            runs.push(run("slow", "low", seed, 0.4, 0.5));
            runs.push(run("alike", "low", seed, 0.2 + noise, 1.005));
            runs.push(run("moody", "low", seed, 0.2 + wide, 1.005));
            runs.push(run("vain", "low", seed, 0.2 + wide, 1.5));
            runs.push(run("wild", "low", seed, 0.5, 1.0 + wide));
            runs.push(run("bad", "low", seed, 0.2 + noise, 1.5));
        }
        let found = findings(&runs, "rule");
        let read: Vec<_> = found.iter().map(|finding| (finding.entrant, finding.reading)).collect();
        let expected = ["good", "dear", "lucky", "rash", "slow", "alike", "moody", "vain", "wild", "bad"];
        assert_eq!(read, expected.into_iter().zip(READINGS).collect::<Vec<_>>());
        let said = sentences(&found);
        assert_eq!(said.len(), 1);
        assert!(
            said[0].starts_with("low, against rule: better: good (late 20 % instead of 20 %, cost -50 %); late less often but"),
            "{said:?}"
        );
        assert!(said[0].ends_with("worse: bad (late 20 % instead of 20 %, cost +50 %)."), "{said:?}");
    }

    #[test]
    fn one_seed_finds_nothing() {
        let runs = [run("rule", "low", 1, 0.5, 1.0), run("good", "low", 1, 0.0, 0.5), run("good", "low", 2, 0.0, 0.5)];
        assert_eq!(findings(&runs, "rule"), []);
        assert!(sentences(&[]).is_empty());
    }
}
