//! Plots of cost against violations. Owns marks, intervals and the front; must not choose its members.

use std::fmt::Write;

use super::super::number::{range, shown};
use crate::report::escape::escape;
use crate::report::plot::{AxisScale, Frame, PlacedLabels};
use crate::results::{CompetitorVariant, Measure, Results};
use crate::statistics::{Estimate, Summary, SummaryLine, SummaryPart};

const COST: Measure = Measure::CostPerHour;
const VIOLATED: Measure = Measure::ViolatedShare;

/// Hours that the cost on the axis is for, as in the tables.
const HOURS: f64 = 1000.0;

/// The large plot, with names, intervals, tuning settings and a legend.
pub(super) fn figure(results: &Results, summary: &Summary, part: &SummaryPart, title: &str, note: &str) -> String {
    let frame = frame(results, part, 900.0, 460.0);
    let mut within = tried(results, &frame);
    within.push_str(&marks(results, summary, part, &frame, LabelledMarks::Front));
    let svg = frame.svg(title, &format!("{} The table above holds the numbers.", described(results, part)), &within);
    format!(
        "<figure><div class=\"wide plot\">{svg}</div>\n<p class=\"legend\"><span>\u{25cf} tuned</span> <span>\u{25cb} default</span> <span>\u{25c6} bound</span> \
         <span class=\"accent\">\u{25cf} reference</span> <span>- - Pareto front</span> <span class=\"faint\">\u{b7} tried in tuning</span></p>\n\
         <figcaption>{}</figcaption></figure>\n",
        escape(note)
    )
}

/// A small plot of one part, with numbers instead of names.
pub(super) fn panel(results: &Results, summary: &Summary, part: &SummaryPart) -> String {
    let frame = frame(results, part, 320.0, 240.0);
    let svg = frame.svg(
        &format!("Cost against violations, {}", part.scope),
        &described(results, part),
        &marks(results, summary, part, &frame, LabelledMarks::Numbers),
    );
    format!("<figure><figcaption>{}</figcaption>{svg}</figure>\n", escape(part.scope.name()))
}

/// Style of the plot that stands alone; the page has a style sheet of its own.
const STYLE: &str = "svg{font:13px system-ui,sans-serif;background:#fff}text{fill:#1b1f24}.grid{stroke:#d5d9df;stroke-width:.6;fill:none}.axis{stroke:#667;fill:none}\
.tick{fill:#667;font-size:11px;text-anchor:middle}.tick.end{text-anchor:end}.label{fill:#667;text-anchor:middle}.mark{stroke:#0072b2;fill:#0072b2}\
.mark.default circle{fill:#fff}.mark.reference{stroke:#d55e00;fill:#d55e00}.mark.bound{stroke:#1b1f24;fill:#1b1f24}.mark .error{stroke-opacity:.55;fill:none}\
.front{stroke:#667;stroke-dasharray:5 4;fill:none}";

/// Cost against violations of the tuned policies and the bound, as an SVG file; of all policies if none was tuned.
pub(super) fn file(results: &Results, summary: &Summary, part: &SummaryPart) -> String {
    let tuned = |line: &SummaryLine| results.competitors[line.competitor].variant == CompetitorVariant::Tuned;
    let any_tuned = part.lines.iter().any(tuned);
    let mut part = part.clone();
    part.lines.retain(|line| !any_tuned || results.competitors[line.competitor].variant != CompetitorVariant::Default);
    let frame = frame(results, &part, 900.0, 420.0);
    let title = if any_tuned { "Cost against violations of the tuned policies" } else { "Cost against violations" };
    let svg = frame.svg(title, &described(results, &part), &marks(results, summary, &part, &frame, LabelledMarks::All));
    svg.replacen("<svg ", "<svg xmlns=\"http://www.w3.org/2000/svg\" ", 1).replacen("<title>", &format!("<style>{STYLE}</style><title>"), 1)
}

/// Marks that have a name next to them; the others have the number of their policy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LabelledMarks {
    All,
    Front,
    Numbers,
}

fn points(part: &SummaryPart) -> impl Iterator<Item = (&SummaryLine, &Estimate, &Estimate)> + Clone {
    part.lines.iter().filter_map(|line| Some((line, line.measures.get(&COST)?, line.measures.get(&VIOLATED)?)))
}

fn frame(results: &Results, part: &SummaryPart, width: f64, height: f64) -> Frame {
    Frame {
        width,
        height,
        x: AxisScale::linear(points(part).map(|(_, cost, _)| cost.iqm_interval.high * HOURS)),
        y: AxisScale::linear(points(part).map(|(_, _, violated)| violated.iqm_interval.high * 100.0)),
        x_label: format!("cost, {} per {HOURS} hours", results.settings.currency),
        y_label: "violated intervals, %".into(),
    }
}

fn described(results: &Results, part: &SummaryPart) -> String {
    let front: Vec<String> = points(part)
        .filter(|(line, ..)| line.pareto)
        .map(|(line, cost, violated)| {
            format!("{} ({} at {} %)", results.competitors[line.competitor].label(), shown(COST, cost.iqm), shown(VIOLATED, violated.iqm))
        })
        .collect();
    format!("On the Pareto front, cost at violations: {}.", front.join(", "))
}

/// Settings tried in tuning, within the frame.
fn tried(results: &Results, frame: &Frame) -> String {
    let mut out = String::new();
    for tried in results.tuning.iter().flat_map(|tuning| &tuning.tried) {
        if let (Some(&cost), Some(&violated)) = (tried.measures.get(&COST), tried.measures.get(&VIOLATED))
            && cost * HOURS <= frame.x.to
            && violated * 100.0 <= frame.y.to
        {
            let _ = writeln!(
                out,
                "<circle class=\"tried\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2\"/>",
                frame.at_x(cost * HOURS),
                frame.at_y(violated * 100.0)
            );
        }
    }
    out
}

fn marks(results: &Results, summary: &Summary, part: &SummaryPart, frame: &Frame, labelled: LabelledMarks) -> String {
    let place = |cost: f64, violated: f64| (frame.at_x(cost * HOURS), frame.at_y(violated * 100.0));
    let mut out = front(part, &place);
    let mut labels = PlacedLabels::within(frame);
    for (_, cost, violated) in points(part) {
        let (x, y) = place(cost.iqm, violated.iqm);
        labels.keep_clear(x, y);
    }
    for (line, cost, violated) in points(part) {
        let competitor = &results.competitors[line.competitor];
        let reference = summary.reference == Some(line.competitor);
        let (x, y) = place(cost.iqm, violated.iqm);
        let ((left, low), (right, high)) =
            (place(cost.iqm_interval.low, violated.iqm_interval.low), place(cost.iqm_interval.high, violated.iqm_interval.high));
        let class = match (competitor.variant, reference) {
            (_, true) => "mark reference",
            (CompetitorVariant::Default, _) => "mark default",
            (CompetitorVariant::Tuned, _) => "mark tuned",
            (CompetitorVariant::Bound | CompetitorVariant::KnownRates, _) => "mark bound",
        };
        let label = format!(
            "{}: cost {} ({}), violations {} % ({})",
            competitor.label(),
            shown(COST, cost.iqm),
            range(COST, cost.iqm_interval),
            shown(VIOLATED, violated.iqm),
            range(VIOLATED, violated.iqm_interval)
        );
        let shape = if !competitor.variant.competes() {
            format!("<path d=\"M{x:.1} {:.1}l5 5l-5 5l-5 -5z\"/>", y - 5.0)
        } else {
            format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{}\"/>", if labelled == LabelledMarks::Numbers { 3.5 } else { 4.5 })
        };
        let _ = writeln!(
            out,
            "<g class=\"{class}\"><title>{}</title><path class=\"error\" d=\"M{left:.1} {y:.1}H{right:.1}M{x:.1} {low:.1}V{high:.1}\"/>{shape}</g>",
            escape(&label)
        );
        let number = (line.competitor + 1).to_string();
        match labelled {
            LabelledMarks::All => labels.add(x, y, &competitor.name, true),
            LabelledMarks::Front if line.pareto || reference || !competitor.variant.competes() => {
                labels.add(x, y, &format!("{number} {}", competitor.label()), true);
            }
            LabelledMarks::Front | LabelledMarks::Numbers => labels.add(x, y, &number, false),
        }
    }
    out + labels.svg()
}

/// Steps along the front: points above and right of them are dominated.
fn front(part: &SummaryPart, place: &dyn Fn(f64, f64) -> (f64, f64)) -> String {
    let mut corners: Vec<(f64, f64)> =
        points(part).filter(|(line, ..)| line.pareto).map(|(_, cost, violated)| place(cost.iqm, violated.iqm)).collect();
    corners.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let Some(((x, y), others)) = corners.split_first() else { return String::new() };
    let mut path = format!("M{x:.1} {y:.1}");
    others.iter().for_each(|(x, y)| path.push_str(&format!("H{x:.1}V{y:.1}")));
    format!("<path class=\"front\" d=\"{path}\"/>\n")
}
