//! Curves as a standalone SVG file: stacked panels with a common x axis. Owns their form; must not compute values.

use std::fmt::Write;

use super::escape::escape;
use super::plot::{AxisScale, Frame};

/// A curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Label in the legend.
    pub name: String,
    /// Points with rising first coordinate; a non-finite one breaks the curve.
    pub points: Vec<(f64, f64)>,
}

/// One panel.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Label of the y axis, with its unit.
    pub label: String,
    /// The curves, at most eight.
    pub curves: Vec<Curve>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 230.0;
const LEGEND: f64 = 22.0;
pub(super) const STYLE: &str = "svg{font:12px system-ui,sans-serif;background:#fff}text{fill:#1b1f24}.grid{stroke:#d5d9df;stroke-width:.6;fill:none}.axis{stroke:#667;fill:none}\
.tick{fill:#667;font-size:11px;text-anchor:middle}.tick.end{text-anchor:end}.label{fill:#667;text-anchor:middle}.line{fill:none;stroke-width:1.8;stroke-linejoin:round}\
.k0{stroke:#0072b2}.k1{stroke:#d55e00;stroke-dasharray:7 3}.k2{stroke:#007a59;stroke-dasharray:2 2}.k3{stroke:#b0508a;stroke-dasharray:9 3 2 3}\
.k4{stroke:#3a93c9;stroke-dasharray:12 3}.k5{stroke:#a86f00;stroke-dasharray:4 4}.k6{stroke:#1b1f24;stroke-dasharray:1 3}.k7{stroke:#7a6a00;stroke-dasharray:5 2 1 2}";

/// `panels` over an axis labelled `x_label`, as an SVG file.
#[must_use]
pub fn chart(title: &str, x_label: &str, panels: &[Panel]) -> String {
    let height = panels.len() as f64 * (HEIGHT + LEGEND) + LEGEND;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\"><title>{0}</title><style>{STYLE}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/><text x=\"52\" y=\"15\" font-weight=\"600\">{0}</text>\n",
        escape(title)
    );
    let finite = |panel: &Panel| {
        panel.curves.iter().flat_map(|curve| curve.points.clone()).filter(|(x, y)| x.is_finite() && y.is_finite()).collect::<Vec<_>>()
    };
    let all: Vec<(f64, f64)> = panels.iter().flat_map(finite).collect();
    let x = AxisScale::linear(all.iter().map(|(x, _)| *x));
    for (row, panel) in panels.iter().enumerate() {
        let top = LEGEND + row as f64 * (HEIGHT + LEGEND);
        let frame = Frame {
            width: WIDTH,
            height: HEIGHT,
            x,
            y: AxisScale::around(finite(panel).iter().map(|(_, y)| *y)),
            x_label: x_label.into(),
            y_label: panel.label.clone(),
        };
        let (mut within, mut place) = (String::new(), 60.0);
        for (colour, curve) in panel.curves.iter().take(8).enumerate() {
            let _ = writeln!(within, "<path class=\"line k{colour}\" d=\"{}\"/>", path(&frame, &curve.points));
        }
        let _ = writeln!(
            out,
            "<svg y=\"{}\" width=\"{WIDTH}\" height=\"{HEIGHT}\"><g>{}</g></svg>",
            top + LEGEND - 6.0,
            frame.svg(&panel.label, "", &within)
        );
        for (colour, curve) in panel.curves.iter().take(8).enumerate() {
            let _ = writeln!(
                out,
                "<path class=\"line k{colour}\" d=\"M{place:.0} {0}h28\"/><text x=\"{1:.0}\" y=\"{2}\">{3}</text>",
                top + 10.0,
                place + 34.0,
                top + 14.0,
                escape(&curve.name)
            );
            place += 60.0 + 7.0 * curve.name.chars().count() as f64;
        }
    }
    out + "</svg>\n"
}

/// Lines between neighbours that are both finite.
fn path(frame: &Frame, points: &[(f64, f64)]) -> String {
    let (mut out, mut broken) = (String::new(), true);
    for (x, y) in points {
        if !(x.is_finite() && y.is_finite()) {
            broken = true;
            continue;
        }
        let _ = write!(out, "{}{:.1} {:.1}", if broken { 'M' } else { 'L' }, frame.at_x(*x), frame.at_y(*y));
        broken = false;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_draws_all_curves_breaks_at_nan_and_escapes_names() {
        let curve = |name: &str, points: &[(f64, f64)]| Curve { name: name.into(), points: points.into() };
        let panel = Panel {
            label: "cost".into(),
            curves: vec![curve("<b>", &[(0.0, -1.0), (1.0, f64::NAN), (2.0, 3.0), (3.0, 2.0)]), curve("level", &[(0.0, 1.0), (3.0, 1.0)])],
        };
        let svg = chart("A & B", "ticks", &[panel.clone(), panel]);
        assert!(svg.contains("A &amp; B") && svg.contains("&lt;b&gt;") && !svg.contains("NaN"), "{svg}");
        assert_eq!(svg.matches("class=\"line k1\"").count(), 4);
        let first = svg.split("class=\"line k0\" d=\"").nth(1).expect("a curve");
        assert_eq!(first.split('"').next().map(|path| path.matches('M').count()), Some(2));
        assert!(chart("", "", &[]).ends_with("</svg>\n"));
    }
}
