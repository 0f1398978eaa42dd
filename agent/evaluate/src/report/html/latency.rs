//! Cumulative distributions of latency. Owns the conversion of buckets to curves; must not interpolate beyond them.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::report::escape::escape;
use crate::report::plot::{AxisScale, Frame};
use crate::results::{Latencies, Results};

/// Distribution over all cells, for each of `featured`.
pub(super) fn figure(results: &Results, featured: &[usize]) -> String {
    let curves: Vec<(usize, Vec<(f64, f64)>)> = featured
        .iter()
        .map(|competitor| (*competitor, curve(results.latencies.iter().filter(|found| found.competitor == *competitor))))
        .collect();
    let bounds = || curves.iter().flat_map(|(_, curve)| curve.iter().map(|(bound, _)| *bound)).filter(|bound| *bound > 0.0);
    if bounds().next().is_none() {
        return String::new();
    }
    let frame = Frame {
        width: 900.0,
        height: 380.0,
        x: AxisScale::decades(bounds().collect::<Vec<_>>().into_iter()),
        y: AxisScale { from: 0.0, to: 100.0, logarithmic: false },
        x_label: "latency, ms (logarithmic)".into(),
        y_label: "requests completed within it, %".into(),
    };
    let (mut within, mut legend, mut described) = (String::new(), String::new(), Vec::new());
    for (colour, (competitor, curve)) in curves.iter().enumerate() {
        let label = results.competitors[*competitor].label();
        let path: Vec<String> =
            curve.iter().map(|(bound, share)| format!("{:.1} {:.1}", frame.at_x(*bound), frame.at_y(share * 100.0))).collect();
        if !path.is_empty() {
            let _ = writeln!(within, "<path class=\"line k{colour}\" d=\"M{}\"><title>{}</title></path>", path.join("L"), escape(&label));
        }
        let _ = write!(
            legend,
            "<span><svg class=\"key\" viewBox=\"0 0 28 8\" aria-hidden=\"true\"><path class=\"line k{colour}\" d=\"M0 4H28\"/></svg> {}</span> ",
            escape(&label)
        );
        let half = curve
            .iter()
            .find(|(_, share)| *share >= 0.5)
            .map_or_else(|| "more than measured".into(), |(bound, _)| format!("{bound:.0} ms"));
        described.push(format!("{label}: half within {half}"));
    }
    let svg = frame.svg("Latency, all cells together", &described.join("; "), &within);
    format!(
        "<figure><div class=\"wide plot\">{svg}</div>\n<p class=\"legend\">{legend}</p>\n<figcaption>Share of all requests that succeeded within a time, all cells together. A curve \
         that ends below 100 % leaves out what failed. For one cell, and for others, choose below.</figcaption></figure>\n"
    )
}

/// (upper bound of a bucket in ms, share of all requests completed within it), rising; failures count as never completed.
fn curve<'a>(found: impl Iterator<Item = &'a Latencies> + Clone) -> Vec<(f64, f64)> {
    // Bounds are positive, and the bits of positive numbers are in their order.
    let mut buckets: BTreeMap<u64, u64> = BTreeMap::new();
    found
        .clone()
        .flat_map(|found| &found.buckets)
        .for_each(|(bound, count)| *buckets.entry(bound.max(0.0).to_bits()).or_default() += count);
    let total = buckets.values().sum::<u64>() + found.map(|found| found.failed).sum::<u64>();
    let mut below = 0;
    let mut curve = Vec::with_capacity(buckets.len());
    for (bound, count) in buckets {
        below += count;
        curve.push((f64::from_bits(bound), below as f64 / total as f64));
    }
    curve
}

/// Latency quantiles of all requests; `None` if beyond the completed ones.
pub(super) fn quantiles(found: &Latencies, shares: &[f64]) -> Vec<Option<f64>> {
    let curve = curve(std::iter::once(found));
    shares.iter().map(|share| curve.iter().find(|(_, reached)| reached >= share).map(|(bound, _)| *bound)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_never_answered() {
        let found = Latencies { competitor: 0, cell: 0, buckets: vec![(1.0, 50), (2.0, 30)], failed: 20 };
        assert_eq!(curve([&found, &found].into_iter()), [(1.0, 0.5), (2.0, 0.8)]);
        assert_eq!(quantiles(&found, &[0.1, 0.5, 0.6, 0.9]), [Some(1.0), Some(1.0), Some(2.0), None]);
    }
}
