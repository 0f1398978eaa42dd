//! Findings: means over seeds with confidence intervals, and significant differences from the rule. Owns the statistics
//! and their wording; pure.

use std::collections::BTreeMap;

use qscale_common::text::number;
use qscale_evaluate::results::rounded;
use qscale_evaluate::statistics::{mean_and_deviation, student_quantile};
use serde::Serialize;

use super::run::{RunMetric, StudyRun};

/// A mean over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Bounds of its 95 % confidence interval (Student's t); `None` with one seed.
    pub interval: Option<(f64, f64)>,
}

impl Mean {
    /// The mean of `values`, which must not be empty.
    pub fn of(values: &[f64]) -> Self {
        let (mean, half) = (centre(values), half(values));
        Self { mean: rounded(mean), interval: half.map(|half| (rounded(mean - half), rounded(mean + half))) }
    }

    /// Half the width of the confidence interval.
    pub fn half(&self) -> Option<f64> {
        self.interval.map(|(low, high)| (high - low) / 2.0)
    }
}

fn centre(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Half the width of Student's 95 % confidence interval of the mean.
fn half(values: &[f64]) -> Option<f64> {
    let freedom = values.len().checked_sub(1).filter(|freedom| *freedom > 0)?;
    let (_, deviation) = mean_and_deviation(values)?;
    Some(student_quantile(freedom) * deviation / (values.len() as f64).sqrt())
}

/// Means of a competitor under a load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SummaryRow {
    /// The load.
    pub load: &'static str,
    /// The competitor.
    pub competitor: &'static str,
    /// Number of seeds.
    pub seeds: usize,
    /// Mean of each metric.
    pub figures: BTreeMap<RunMetric, Mean>,
}

/// A row for each load and competitor, in the order of the runs.
pub fn table(runs: &[StudyRun]) -> Vec<SummaryRow> {
    let mut lines: Vec<SummaryRow> = Vec::new();
    for run in runs {
        if lines.iter().any(|line| (line.load, line.competitor) == (run.load, run.competitor)) {
            continue;
        }
        let own: Vec<&StudyRun> = runs.iter().filter(|other| (other.load, other.competitor) == (run.load, run.competitor)).collect();
        let figures = RunMetric::ALL.map(|figure| (figure, Mean::of(&own.iter().map(|run| run.figures[&figure]).collect::<Vec<_>>())));
        lines.push(SummaryRow { load: run.load, competitor: run.competitor, seeds: own.len(), figures: figures.into() });
    }
    lines
}

/// Difference between a competitor and the baseline in one metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// Significantly and relevantly less.
    Less,
    /// No relevant difference.
    Alike,
    /// Significantly and relevantly more.
    More,
    /// Inconclusive: the interval contains both relevant differences and none.
    Unsure,
}

/// A competitor compared with the baseline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudyComparison {
    /// The load.
    pub load: &'static str,
    /// The competitor.
    pub competitor: &'static str,
    /// The baseline.
    pub against: &'static str,
    /// Difference of the late share.
    pub late: Difference,
    /// Difference of cost.
    pub cost: Difference,
    /// Summary in words.
    pub reading: &'static str,
    /// Late share of the baseline and of the competitor.
    pub late_share: (f64, f64),
    /// Relative difference of cost.
    pub dearer: f64,
}

/// Differences of the late share, and relative differences of cost, that are relevant.
const LATE_MATTERS: f64 = 0.001;
const COST_MATTERS: f64 = 0.01;

/// All competitors compared with the competitor `first` under each load, with at least two seeds of both.
pub fn findings(runs: &[StudyRun], first: &'static str) -> Vec<StudyComparison> {
    let mut found: Vec<StudyComparison> = Vec::new();
    for run in runs.iter().filter(|run| run.competitor != first) {
        if found.iter().any(|finding| (finding.load, finding.competitor) == (run.load, run.competitor)) {
            continue;
        }
        let of = |competitor, figure| {
            let own = runs.iter().filter(move |run| run.competitor == competitor);
            own.filter(|other| other.load == run.load).map(|run| (run.seed, run.figures[&figure])).collect::<BTreeMap<u64, f64>>()
        };
        let pairs = |figure| {
            let (theirs, its) = (of(first, figure), of(run.competitor, figure));
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
        found.push(StudyComparison {
            load: run.load,
            competitor: run.competitor,
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

/// Summaries, from best to worst.
const READINGS: [&str; 10] = [
    "better",
    "late less often but more expensive",
    "late less often, cost inconclusive",
    "cheaper, lateness inconclusive",
    "cheaper but late more often",
    "the same",
    "inconclusive",
    "more expensive, lateness inconclusive",
    "late more often, cost inconclusive",
    "worse",
];

/// Better means: better in one metric and not worse in the other, as in an evaluation.
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

/// One sentence per load, in the order of `findings`.
pub fn sentences(findings: &[StudyComparison]) -> Vec<String> {
    let mut loads: Vec<&'static str> = findings.iter().map(|finding| finding.load).collect();
    loads.dedup();
    let sentence = |load: &'static str| {
        let own: Vec<&StudyComparison> = findings.iter().filter(|finding| finding.load == load).collect();
        let against = own.first().map_or("", |finding| finding.against);
        let group = |reading: &&str| {
            let described = own.iter().filter(|finding| finding.reading == *reading).map(|finding| describe(finding)).collect::<Vec<_>>();
            (!described.is_empty()).then(|| format!("{reading}: {}", described.join(", ")))
        };
        format!("{load}, against {against}: {}.", READINGS.iter().filter_map(group).collect::<Vec<_>>().join("; "))
    };
    loads.into_iter().map(sentence).collect()
}

fn describe(finding: &StudyComparison) -> String {
    let percent = |share: f64| number(share * 100.0);
    let (before, after) = finding.late_share;
    let cost = finding.dearer * 100.0;
    let sign = if cost >= 0.0 { "+" } else { "-" };
    format!(
        "{} (late {} % instead of {} %, cost {sign}{} %)",
        finding.competitor,
        percent(after),
        percent(before),
        number(cost.abs().round())
    )
}

#[cfg(test)]
mod tests {
    use super::super::run::StudySeries;
    use super::*;

    fn run(competitor: &'static str, load: &'static str, seed: u64, late: f64, cost: f64) -> StudyRun {
        let figures = RunMetric::ALL.map(|figure| match figure {
            RunMetric::LateShare => (figure, late),
            RunMetric::CostPerHour => (figure, cost),
            _ => (figure, 1.0),
        });
        StudyRun { competitor, load, seed, figures: figures.into(), series: StudySeries::default(), remarks: Vec::new() }
    }

    #[test]
    fn intervals_use_students_t() {
        // 3 -+ 2.776 x sqrt(2.5 / 5) = 1.037 and 4.963.
        let mean = Mean::of(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        let (low, high) = mean.interval.expect("five values");
        assert!((low - 1.037).abs() < 1e-3 && (high - 4.963).abs() < 1e-3, "{mean:?}");
        assert_eq!(Mean::of(&[7.0]), Mean { mean: 7.0, interval: None });
        assert_eq!(Mean::of(&[2.0; 50]).half(), Some(0.0));
    }

    #[test]
    fn the_table_has_a_row_for_each_load_and_competitor() {
        let runs =
            [run("a", "low", 1, 0.0, 1.0), run("a", "low", 2, 0.0, 3.0), run("a", "high", 1, 0.0, 1.0), run("b", "low", 1, 0.0, 1.0)];
        let lines = table(&runs);
        let named: Vec<_> = lines.iter().map(|line| (line.load, line.competitor, line.seeds)).collect();
        assert_eq!(named, [("low", "a", 2), ("high", "a", 1), ("low", "b", 1)]);
        assert_eq!(lines[0].figures[&RunMetric::CostPerHour].mean, 2.0);
    }

    #[test]
    fn readings_follow_the_differences_of_both_metrics() {
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
        let read: Vec<_> = found.iter().map(|finding| (finding.competitor, finding.reading)).collect();
        let expected = ["good", "dear", "lucky", "rash", "slow", "alike", "moody", "vain", "wild", "bad"];
        assert_eq!(read, expected.into_iter().zip(READINGS).collect::<Vec<_>>());
        let said = sentences(&found);
        assert_eq!(said.len(), 1);
        assert!(
            said[0].contains("good (late 20 % instead of 20 %, cost -50 %)")
                && said[0].contains("bad (late 20 % instead of 20 %, cost +50 %)"),
            "{said:?}"
        );
    }

    #[test]
    fn one_seed_finds_nothing() {
        let runs = [run("rule", "low", 1, 0.5, 1.0), run("good", "low", 1, 0.0, 0.5), run("good", "low", 2, 0.0, 0.5)];
        assert_eq!(findings(&runs, "rule"), []);
        assert!(sentences(&[]).is_empty());
    }
}
