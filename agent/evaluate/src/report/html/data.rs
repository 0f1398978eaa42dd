//! Data of the page's script. Owns thinning, which keeps the page small; must not change values in other ways.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::latency;
use crate::results::{Measure, Results};

/// Greatest number of values of all time series; about five bytes each.
const COURSE_NUMBERS: usize = 200_000;
/// Points of a time series: fewer hide details, more are not visible.
const LEAST_POINTS: usize = 30;
const MOST_POINTS: usize = 240;
/// Greatest number of values of single runs; beyond it the page refers to the CSV.
const RUN_NUMBERS: usize = 160_000;
/// Quantiles of a stored distribution.
const SHARES: [f64; 21] =
    [0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0];
const RUN_MEASURES: [Measure; 3] = [Measure::ViolatedShare, Measure::P95Ms, Measure::CostPerHour];

/// The data as JSON, safe inside a script element.
pub(super) fn embedded(results: &Results, featured: &[usize]) -> String {
    let cells: Vec<Value> = results
        .cells
        .iter()
        .map(
            |cell| json!({ "f": cell.function, "w": cell.workload, "p": cell.perturbation, "ms": cell.latency_ms, "pct": cell.percentile }),
        )
        .collect();
    let (time_series, loads) = time_series(results);
    let latencies: BTreeMap<String, Vec<Value>> = results
        .latencies
        .iter()
        .map(|found| {
            (key(found.competitor, found.cell), latency::quantiles(found, &SHARES).into_iter().map(|value| short(value, 3)).collect())
        })
        .collect();
    json(&json!({
        "competitors": results.competitors.iter().map(crate::results::Competitor::label).collect::<Vec<_>>(),
        "cells": cells,
        "featured": featured,
        "seeds": results.settings.seeds,
        "currency": results.settings.currency,
        "warm": results.settings.warm_up_s,
        "loads": loads,
        "courses": time_series,
        "shares": SHARES,
        "latencies": latencies,
        "runs": runs(results),
    }))
}

/// `value` as JSON without characters that are special in HTML.
pub(super) fn json(value: &Value) -> String {
    value
        .to_string()
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

fn key(competitor: usize, cell: usize) -> String {
    format!("{competitor}.{cell}")
}

/// For each group replicas and latency; for each cell times and load, which are equal for all competitors.
fn time_series(results: &Results) -> (BTreeMap<String, Value>, BTreeMap<String, Value>) {
    let points = (COURSE_NUMBERS / (2 * results.timelines.len()).max(1)).clamp(LEAST_POINTS, MOST_POINTS);
    let (mut all, mut loads) = (BTreeMap::new(), BTreeMap::new());
    for timeline in &results.timelines {
        let time_series = &timeline.time_series;
        let some = |values: &[f64]| values.iter().copied().map(Some).collect::<Vec<_>>();
        let thinned = |values: &[Option<f64>], of| thinned(values, points, of);
        all.insert(
            key(timeline.competitor, timeline.cell),
            json!({ "seed": timeline.seed, "n": thinned(&some(&time_series.replicas), mean), "l": thinned(&time_series.latency_ms, greatest) }),
        );
        loads.entry(timeline.cell.to_string()).or_insert_with(
            || json!({ "t": thinned(&some(&time_series.until_s), greatest), "r": thinned(&some(&time_series.rate_rps), mean) }),
        );
    }
    (all, loads)
}

/// Thins `values` to at most `points`, each `of` a chunk of them.
fn thinned(values: &[Option<f64>], points: usize, of: fn(&[f64]) -> f64) -> Vec<Value> {
    let each = values.len().div_ceil(points).max(1);
    let one = |chunk: &[Option<f64>]| {
        let known: Vec<f64> = chunk.iter().flatten().copied().collect();
        short((!known.is_empty()).then(|| of(&known)), 4)
    };
    values.chunks(each).map(one).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn greatest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// For each group a column for each measure; `None` if there are too many values.
fn runs(results: &Results) -> BTreeMap<String, Value> {
    if results.groups.len() * results.settings.seeds.len() * RUN_MEASURES.len() > RUN_NUMBERS {
        return BTreeMap::new();
    }
    let column = |values: &[Option<f64>]| values.iter().map(|value| short(*value, 4)).collect::<Vec<_>>();
    results
        .groups
        .iter()
        .map(|group| (key(group.competitor, group.cell), json!(RUN_MEASURES.map(|measure| column(group.values(measure))))))
        .collect()
}

/// A number to `digits` significant digits, as an integer if it is one.
fn short(value: Option<f64>, digits: usize) -> Value {
    let Some(value) = value.filter(|value| value.is_finite()) else { return Value::Null };
    let rounded: f64 = format!("{value:.*e}", digits - 1).parse().unwrap_or(value);
    if rounded.fract() == 0.0 && rounded.abs() < 1e9 { json!(rounded as i64) } else { json!(rounded) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_cannot_end_its_script() {
        assert_eq!(json(&json!("</script>&")), "\"\\u003c/script\\u003e\\u0026\"");
    }

    #[test]
    fn thinning_keeps_peaks_where_they_matter() {
        let values: Vec<Option<f64>> = (0..10).map(|index| (index != 9).then_some(f64::from(index))).collect();
        assert_eq!(json!(thinned(&values, 5, greatest)), json!([1, 3, 5, 7, 8]));
        assert_eq!(json!(thinned(&values, 5, mean)), json!([0.5, 2.5, 4.5, 6.5, 8]));
        assert_eq!(json!(thinned(&[None, None], 1, mean)), json!([null]));
    }
}
