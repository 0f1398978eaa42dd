//! Points with intervals on both axes, as inline SVG for a [`super::page`]. Owns marks and labels; must not compute values.

use std::fmt::Write as _;

use super::escape::escape;
use super::plot::{AxisScale, Frame, PlacedLabels};

/// A named point with intervals.
#[derive(Debug, Clone, PartialEq)]
pub struct IntervalPoint {
    /// Its label.
    pub name: String,
    /// Value, lower and upper end on the x axis, at least 0.
    pub x: [f64; 3],
    /// Value, lower and upper end on the y axis, at least 0.
    pub y: [f64; 3],
    /// Whether it is the one that the others are compared with.
    pub reference: bool,
}

/// `points` over axes from zero with these labels. `described` is for screen readers.
#[must_use]
pub fn interval_plot(title: &str, described: &str, labels: (&str, &str), points: &[IntervalPoint]) -> String {
    let frame = Frame {
        width: 900.0,
        height: 380.0,
        x: AxisScale::linear(points.iter().map(|point| point.x[2])),
        y: AxisScale::linear(points.iter().map(|point| point.y[2])),
        x_label: labels.0.to_owned(),
        y_label: labels.1.to_owned(),
    };
    let (mut within, mut names) = (String::new(), PlacedLabels::within(&frame));
    for point in points {
        names.keep_clear(frame.at_x(point.x[0]), frame.at_y(point.y[0]));
    }
    for point in points {
        let ([x, left, right], [y, low, high]) = (point.x.map(|value| frame.at_x(value)), point.y.map(|value| frame.at_y(value)));
        let class = if point.reference { "mark reference" } else { "mark" };
        let _ = writeln!(
            within,
            "<g class=\"{class}\"><title>{}</title><path class=\"error\" d=\"M{left:.1} {y:.1}H{right:.1}M{x:.1} {low:.1}V{high:.1}\"/>\
             <circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"/></g>",
            escape(&point.name)
        );
        names.add(x, y, &point.name, true);
    }
    within.push_str(names.svg());
    frame.svg(title, described, &within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_mark_an_interval_and_its_name_as_text() {
        let point = |name: &str, reference| IntervalPoint { name: name.into(), x: [1.0, 0.5, 2.0], y: [0.1, 0.0, 0.3], reference };
        let svg = interval_plot("title", "described", ("cost", "violations"), &[point("hpa", true), point("<b>", false)]);
        assert_eq!((svg.matches("class=\"error\"").count(), svg.matches("mark reference").count()), (2, 1));
        assert!(svg.contains("&lt;b&gt;") && !svg.contains("<b>"), "{svg}");
    }
}
