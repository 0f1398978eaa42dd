//! Cost-violation curves as a table for the terminal, CSV and an SVG file. Owns their form; must not compute points.

use std::fmt::Write;

use csv::Writer;

use super::chart::STYLE;
use super::escape::escape;
use super::number::{NOTHING, short};
use super::plot::{AxisScale, Frame};
use super::table::{Column, EntryTone, TableEntry, clean, lay_out, wrapped};
use crate::curve::{CostCurve, CurvePoint};

/// Violated intervals, percent, for which the table has the least cost.
const LEVELS: [f64; 6] = [0.1, 0.25, 0.5, 1.0, 2.0, 5.0];
/// Violations up to which the plot reaches: beyond, a policy is of no use.
const MOST_VIOLATED: f64 = 0.05;
/// Share of violated intervals at which competitors are ranked.
const RANKED_AT: f64 = 0.02;
/// Curves with a colour of their own.
const COLOURS: usize = 8;
/// Hours that costs are for, as in the other tables.
const HOURS: f64 = 1000.0;
/// Longest name that is shown in full.
const NAME: usize = 22;

/// For each competitor the least cost of its settings with at most certain violations, in at most `width` columns if possible.
/// Colours are ECMA-48 sequences, only if `colour`: the least of a column.
#[must_use]
pub fn curve_table(curves: &[CostCurve], currency: &str, width: usize, colour: bool) -> String {
    let text = |heading: &str, dispensable: u8, of: &dyn Fn(&CostCurve) -> String| Column {
        heading: heading.to_owned(),
        entries: curves.iter().map(|curve| TableEntry::from(of(curve))).collect(),
        dispensable,
    };
    let on_front = |curve: &CostCurve| curve.points.iter().filter(|point| point.is_on_front).count();
    let mut columns = vec![
        text("competitor", 0, &|curve| clean(&curve.name, NAME)),
        text("settings", 1, &|curve| curve.points.len().to_string()),
        text("on front", 1, &|curve| if curve.is_bound { "bound".to_owned() } else { on_front(curve).to_string() }),
    ];
    for level in LEVELS {
        let cost = |curve: &CostCurve| curve.cheapest_within(level / 100.0).map(|point| point.cost_per_hour * HOURS);
        let least = curves.iter().filter(|curve| !curve.is_bound).filter_map(cost).fold(f64::INFINITY, f64::min);
        let entry = |curve: &CostCurve| {
            let tone = if !curve.is_bound && cost(curve) == Some(least) { EntryTone::Good } else { EntryTone::Plain };
            TableEntry { text: cost(curve).map_or_else(|| NOTHING.to_owned(), short), tone }
        };
        columns.push(Column { heading: format!("{level} %"), entries: curves.iter().map(entry).collect(), dispensable: 0 });
    }
    let about = format!(
        "Least cost, {} for {HOURS} hours, of a setting with at most this share of violated intervals; means over all cells and seeds. On front: settings \
         than which none of any competitor is cheaper at equal or fewer violations.",
        clean(currency, 6)
    );
    lay_out(columns, width, colour) + "\n" + &wrapped(&about, width)
}

/// One row for each setting. Shares are 0 to 1.
#[must_use]
pub fn curve_csv(curves: &[CostCurve], currency: &str) -> String {
    let mut writer = Writer::from_writer(Vec::new());
    let cost = format!("cost_per_hour ({currency})");
    let mut write = |row: [&str; 7]| writer.write_record(row).expect("writing to memory does not fail");
    write(["competitor", "params", "violated_share", &cost, "actions_per_hour", "on_curve", "on_front"]);
    for curve in curves {
        for point in &curve.points {
            let CurvePoint { params, violated_share, cost_per_hour, actions_per_hour, is_on_curve, is_on_front } = point;
            let [violated, cost, actions] = [violated_share, cost_per_hour, actions_per_hour].map(f64::to_string);
            write([&curve.name, &params.to_string(), &violated, &cost, &actions, &is_on_curve.to_string(), &is_on_front.to_string()]);
        }
    }
    String::from_utf8(writer.into_inner().expect("writing to memory does not fail")).expect("CSV of text is text")
}

/// Violations against cost of every setting, with a line through those of each competitor that no other of it dominates, as an SVG file. The competitors
/// with the least cost at [`RANKED_AT`] are coloured. The axis of costs ends at three times the usual one of these.
#[must_use]
pub fn curve_svg(title: &str, curves: &[CostCurve], currency: &str) -> String {
    let visible = |point: &&CurvePoint| point.violated_share <= MOST_VIOLATED;
    let mut ranked: Vec<&CostCurve> = curves.iter().filter(|curve| !curve.is_bound).collect();
    let within = |curve: &CostCurve, share| curve.cheapest_within(share).map_or(f64::INFINITY, |point| point.cost_per_hour * HOURS);
    let rank = |curve: &CostCurve| (within(curve, RANKED_AT), within(curve, MOST_VIOLATED));
    ranked.sort_by(|one, other| rank(one).0.total_cmp(&rank(other).0).then(rank(one).1.total_cmp(&rank(other).1)));
    let (coloured, others) = ranked.split_at(ranked.len().min(COLOURS));
    let shown = || coloured.iter().flat_map(|curve| &curve.points).filter(visible).filter(|point| point.is_on_curve);
    let usual = coloured.get(coloured.len() / 2).map_or(0.0, |curve| within(curve, MOST_VIOLATED));
    let most = shown().map(|point| point.cost_per_hour * HOURS).fold(0.0, f64::max).min(3.0 * usual);
    let frame = Frame {
        width: 860.0,
        height: 460.0,
        x: AxisScale::linear(std::iter::once(most)),
        y: AxisScale::linear(std::iter::once(MOST_VIOLATED * 100.0)),
        x_label: format!("cost, {currency} for {HOURS} hours"),
        y_label: "violated intervals, %".to_owned(),
    };
    let mut plot = String::new();
    for curve in others {
        let _ = write!(plot, "<g opacity=\".3\">{}</g>", drawn(&frame, curve, 6));
    }
    for (colour, curve) in coloured.iter().enumerate() {
        plot.push_str(&drawn(&frame, curve, colour));
    }
    for point in curves.iter().filter(|curve| curve.is_bound).flat_map(|curve| &curve.points).filter(visible) {
        let (x, y) = place(&frame, point);
        let _ = writeln!(plot, "<path d=\"M{x:.1} {:.1}l5 5l-5 5l-5 -5z\"><title>bound</title></path>", y - 5.0);
    }
    for (row, (colour, curve)) in coloured.iter().enumerate().enumerate() {
        let y = 26.0 + 17.0 * row as f64;
        let _ = writeln!(
            plot,
            "<path class=\"line k{colour}\" d=\"M640 {y}h28\"/><text x=\"674\" y=\"{}\">{}</text>",
            y + 4.0,
            escape(&clean(&curve.name, NAME))
        );
    }
    let named = others.iter().map(|curve| curve.name.as_str()).collect::<Vec<_>>().join(", ");
    let about = format!("Grey: {named}. The diamond is the bound.");
    let svg = frame.svg(title, &about, &plot);
    svg.replacen("<svg ", "<svg xmlns=\"http://www.w3.org/2000/svg\" ", 1).replacen("<title>", &format!("<style>{STYLE}</style><title>"), 1)
}

fn place(frame: &Frame, point: &CurvePoint) -> (f64, f64) {
    (frame.at_x(point.cost_per_hour * HOURS), frame.at_y(point.violated_share * 100.0))
}

/// The settings of a competitor as dots, and its curve.
fn drawn(frame: &Frame, curve: &CostCurve, colour: usize) -> String {
    let visible = |point: &&CurvePoint| point.violated_share <= MOST_VIOLATED && point.cost_per_hour * HOURS <= frame.x.to;
    let mut on_curve: Vec<&CurvePoint> = curve.points.iter().filter(visible).filter(|point| point.is_on_curve).collect();
    on_curve.sort_by(|one, other| one.cost_per_hour.total_cmp(&other.cost_per_hour));
    let mut out = String::new();
    let mut path = String::new();
    for point in &on_curve {
        let (x, y) = place(frame, point);
        let _ = write!(path, "{}{x:.1} {y:.1}", if path.is_empty() { 'M' } else { 'L' });
    }
    let _ = writeln!(out, "<path class=\"line k{colour}\" d=\"{path}\"/>");
    for point in curve.points.iter().filter(visible) {
        let (x, y) = place(frame, point);
        let label = format!(
            "{} {}: {} % violated, {}",
            curve.name,
            point.params,
            short(point.violated_share * 100.0),
            short(point.cost_per_hour * HOURS)
        );
        let radius = if point.is_on_curve { 3.0 } else { 1.5 };
        let _ = writeln!(
            out,
            "<circle class=\"k{colour}\" style=\"stroke-dasharray:none;fill:#fff\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"><title>{}</title></circle>",
            escape(&label)
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curve::tests::curves;

    #[test]
    fn the_table_has_the_least_cost_the_csv_every_setting_and_the_plot_a_curve_for_each() {
        let curves = curves();
        let table = curve_table(&curves, "USD", 100, false);
        let row = table.lines().find(|line| line.starts_with("static")).expect("a row");
        let cheapest = curves[0].cheapest_within(0.05).expect("twelve replicas are enough");
        assert!(row.contains(" 13 ") && row.ends_with(&short(cheapest.cost_per_hour * 1000.0)), "{table}");
        let csv = curve_csv(&curves, "USD");
        assert_eq!(csv.lines().count(), 1 + 13 + 1 + 1, "{csv}");
        assert!(csv.contains("static,\"{\"\"replicas\"\":3}\","), "{csv}");
        let svg = curve_svg("A & B", &curves, "USD");
        assert!(svg.contains("A &amp; B") && svg.contains("threshold:cpu_") && svg.contains("bound") && !svg.contains("NaN"), "{svg}");
    }
}
