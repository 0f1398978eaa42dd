//! CSV tables: one row for each run, and one for each estimate. Owns columns and headers; must not round.

use csv::Writer;

use crate::results::{Competitor, CompetitorVariant, Measure, Results};
use crate::statistics::{Comparison, Estimate, Paired, Summary, SummaryLine, SummaryPart};

/// One row for each run: competitor, cell, seed, and every measure with its unit in the header. Shares are 0 to 1;
/// missing values are empty.
#[must_use]
pub fn csv_runs(results: &Results) -> String {
    let mut writer = Writer::from_writer(Vec::new());
    let who = ["competitor", "variant", "policy", "function", "workload", "perturbation", "seed"].map(String::from);
    let measures = Measure::ALL.map(|measure| header(measure, &results.settings.currency));
    write(&mut writer, who.into_iter().chain(measures));
    for group in &results.groups {
        let (Some(competitor), Some(cell)) = (results.competitors.get(group.competitor), results.cells.get(group.cell)) else { continue };
        for (run, seed) in results.settings.seeds.iter().enumerate() {
            let [name, variant, policy] = columns(competitor);
            let place = [name, variant, policy, cell.function.clone(), cell.workload.clone(), cell.perturbation.clone(), seed.to_string()];
            let values = Measure::ALL.map(|measure| text(group.values(measure).get(run).copied().flatten()));
            write(&mut writer, place.into_iter().chain(values));
        }
    }
    finished(writer)
}

/// One row for each estimate: a measure, a difference to the reference (with its tests), the gap closed, and the
/// probability of improvement, for all cells and for every part. Shares are 0 to 1.
#[must_use]
pub fn csv_summary(results: &Results, summary: &Summary) -> String {
    let mut writer = Writer::from_writer(Vec::new());
    write(&mut writer, HEADER.map(String::from).into_iter());
    for part in &summary.parts {
        for line in &part.lines {
            rows(results, summary, part, line).into_iter().for_each(|row| write(&mut writer, row.into_iter()));
        }
    }
    finished(writer)
}

const HEADER: [&str; 20] = [
    "scope",
    "part",
    "competitor",
    "variant",
    "quantity",
    "unit",
    "runs",
    "iqm",
    "iqm_low",
    "iqm_high",
    "mean",
    "mean_low",
    "mean_high",
    "reference",
    "verdict",
    "tested_seeds",
    "sign_flip_p",
    "sign_flip_p_holm",
    "wilcoxon_p",
    "wilcoxon_p_holm",
];

type Row = [String; HEADER.len()];

fn rows(results: &Results, summary: &Summary, part: &SummaryPart, line: &SummaryLine) -> Vec<Row> {
    let currency = &results.settings.currency;
    let [name, variant, _] = columns(&results.competitors[line.competitor]);
    let row = |quantity: String, unit: String| {
        let mut row = Row::default();
        [row[0], row[1], row[2], row[3]] = [part.scope.kind().into(), part.scope.name().into(), name.clone(), variant.clone()];
        (row[4], row[5]) = (quantity, unit);
        row
    };
    let mut rows: Vec<Row> = Vec::new();
    for (measure, estimate) in &line.measures {
        let mut row = row(measure.name().into(), unit(*measure, currency));
        fill(&mut row, estimate);
        rows.push(row);
    }
    if let Some(share) = line.gap_closed {
        let mut row = row("gap_closed".into(), "share".into());
        [row[10], row[11], row[12]] = [share.value, share.interval.low, share.interval.high].map(|value| value.to_string());
        rows.push(row);
    }
    if let Some(against) = &line.against {
        let reference = summary.reference.map(|index| results.competitors[index].label()).unwrap_or_default();
        let Comparison { cost, violations, loss, .. } = against;
        for (measure, paired) in [(Measure::CostPerHour, cost), (Measure::ViolatedShare, violations), (Measure::Loss, loss)] {
            let mut row = row(format!("{}_difference", measure.name()), unit(measure, currency));
            compared(&mut row, paired, &reference, against);
            rows.push(row);
        }
        let mut row = row("probability_of_improvement".into(), "share".into());
        let interval = against.improvement_interval;
        row[6] = loss.difference.runs.to_string();
        [row[10], row[11], row[12]] = [against.improvement, interval.low, interval.high].map(|value| value.to_string());
        row[13] = reference;
        rows.push(row);
    }
    rows
}

fn fill(row: &mut Row, estimate: &Estimate) {
    row[6] = estimate.runs.to_string();
    let (iqm, mean) = (estimate.iqm_interval, estimate.mean_interval);
    let values = [estimate.iqm, iqm.low, iqm.high, estimate.mean, mean.low, mean.high];
    row[7..13].iter_mut().zip(values).for_each(|(field, value)| *field = value.to_string());
}

fn compared(row: &mut Row, paired: &Paired, reference: &str, against: &Comparison) {
    fill(row, &paired.difference);
    [row[13], row[14], row[15]] = [reference.into(), against.comparison.verdict.word().into(), paired.tested.to_string()];
    let tests = [paired.sign_flip_p, paired.sign_flip_holm, paired.wilcoxon_p, paired.wilcoxon_holm];
    row[16..20].iter_mut().zip(tests).for_each(|(field, value)| *field = value.to_string());
}

fn columns(competitor: &Competitor) -> [String; 3] {
    let variant = match competitor.variant {
        CompetitorVariant::Default => "default",
        CompetitorVariant::Tuned => "tuned",
        CompetitorVariant::Bound => "bound",
        CompetitorVariant::KnownRates => "known_rates",
    };
    [competitor.name.clone(), variant.into(), competitor.policy.clone()]
}

/// Name of a measure with its unit.
fn header(measure: Measure, currency: &str) -> String {
    match measure {
        Measure::CostPerHour => format!("cost_per_hour_{}", currency.to_lowercase()),
        _ => measure.name().into(),
    }
}

fn unit(measure: Measure, currency: &str) -> String {
    match measure {
        Measure::CostPerHour => format!("{currency} an hour"),
        measure if measure.is_share() => "share".into(),
        Measure::Requests | Measure::Starts | Measure::ColdStarts | Measure::Prewarmed | Measure::Unused | Measure::Kills => "count".into(),
        measure => measure.unit().into(),
    }
}

fn text(value: Option<f64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn write(writer: &mut Writer<Vec<u8>>, row: impl Iterator<Item = String>) {
    writer.write_record(row).expect("memory takes every row, and all rows are equally long");
}

fn finished(writer: Writer<Vec<u8>>) -> String {
    let bytes = writer.into_inner().expect("memory takes every row");
    String::from_utf8(bytes).expect("every field was text")
}
