//! Axes and labels of SVG plots. Owns scales, ticks, frames and the places of labels; must not know the data.

use std::fmt::Write;

use super::escape::escape;
use super::number::digits;

/// Mapping of values to positions on an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::report) struct AxisScale {
    pub from: f64,
    pub to: f64,
    pub logarithmic: bool,
}

impl AxisScale {
    /// From zero to slightly above the greatest of `values`.
    pub(in crate::report) fn linear(values: impl Iterator<Item = f64>) -> Self {
        let most = values.fold(0.0, f64::max);
        Self { from: 0.0, to: if most > 0.0 { most * 1.06 } else { 1.0 }, logarithmic: false }
    }

    /// Around zero and `values`, which may be negative.
    pub(in crate::report) fn around(values: impl Iterator<Item = f64> + Clone) -> Self {
        let least = values.clone().fold(0.0, f64::min);
        let most = values.fold(0.0, f64::max);
        let room = (most - least) * 0.06;
        let from = if least < 0.0 { least - room } else { 0.0 };
        Self { from, to: if most > least { most + room } else { from + 1.0 }, logarithmic: false }
    }

    /// Powers of ten around positive `values`.
    pub(in crate::report) fn decades(values: impl Iterator<Item = f64> + Clone) -> Self {
        let (least, most) = (values.clone().fold(f64::INFINITY, f64::min), values.fold(0.0, f64::max));
        let (from, to) = if most > 0.0 { (least.log10().floor(), most.log10().ceil()) } else { (0.0, 1.0) };
        Self { from: 10f64.powf(from), to: 10f64.powf(to.max(from + 1.0)), logarithmic: true }
    }

    /// Position of `value`, 0 to 1.
    pub(in crate::report) fn share(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        share.clamp(0.0, 1.0)
    }

    /// Round values along the axis, about `count` of them.
    pub(in crate::report) fn ticks(&self, count: f64) -> Vec<f64> {
        if self.logarithmic {
            let (from, to) = (self.from.log10().round() as i32, self.to.log10().round() as i32);
            return (from..=to).map(|power| 10f64.powi(power)).collect();
        }
        let rough = (self.to - self.from) / count;
        let unit = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * unit).find(|step| *step >= rough * 0.999).unwrap_or(rough);
        let first = (self.from / step).ceil();
        (0..=20).map(|index| (first + f64::from(index)) * step).take_while(|tick| *tick <= self.to).collect()
    }
}

/// Frame of a plot with its axes and labels.
pub(in crate::report) struct Frame {
    pub width: f64,
    pub height: f64,
    pub x: AxisScale,
    pub y: AxisScale,
    pub x_label: String,
    pub y_label: String,
}

const LEFT: f64 = 52.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 42.0;

impl Frame {
    /// Position of a value on the x axis.
    pub(in crate::report) fn at_x(&self, value: f64) -> f64 {
        LEFT + self.x.share(value) * (self.width - LEFT - RIGHT)
    }

    /// Position of a value on the y axis.
    pub(in crate::report) fn at_y(&self, value: f64) -> f64 {
        self.height - BOTTOM - self.y.share(value) * (self.height - TOP - BOTTOM)
    }

    /// The plot: axes, then `within`. `title` and `described` are for screen readers.
    pub(in crate::report) fn svg(&self, title: &str, described: &str, within: &str) -> String {
        let (width, height) = (self.width, self.height);
        let (right, bottom) = (width - RIGHT, height - BOTTOM);
        let mut out = format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\"><title>{}</title><desc>{}</desc>\n",
            escape(title),
            escape(title),
            escape(described)
        );
        for tick in self.x.ticks(width / 90.0) {
            let x = self.at_x(tick);
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{x:.1} {TOP}V{bottom}\"/><text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                bottom + 15.0,
                label(tick)
            );
        }
        for tick in self.y.ticks(height / 70.0) {
            let y = self.at_y(tick);
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/><text class=\"tick end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                label(tick)
            );
        }
        let (middle, centre) = ((LEFT + right) / 2.0, (TOP + bottom) / 2.0);
        let _ = write!(
            out,
            "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>\n<text class=\"label\" x=\"{middle:.1}\" y=\"{:.1}\">{}</text>\
             <text class=\"label\" transform=\"translate(13 {centre:.1}) rotate(-90)\">{}</text>\n{within}</svg>\n",
            height - 7.0,
            escape(&self.x_label),
            escape(&self.y_label)
        );
        out
    }
}

/// Labels placed clear of marks and of each other, if possible.
pub(in crate::report) struct PlacedLabels {
    taken: Vec<(f64, f64, f64, f64)>,
    right: f64,
    bottom: f64,
    out: String,
}

impl PlacedLabels {
    /// None yet, within `frame`.
    pub(in crate::report) fn within(frame: &Frame) -> Self {
        Self { taken: Vec::new(), right: frame.width, bottom: frame.at_y(frame.y.from), out: String::new() }
    }

    /// Keeps labels away from a mark.
    pub(in crate::report) fn keep_clear(&mut self, x: f64, y: f64) {
        self.taken.push((x - 5.0, y - 5.0, x + 5.0, y + 5.0));
    }

    /// The labels.
    pub(in crate::report) fn svg(&self) -> &str {
        &self.out
    }

    /// Places `text` next to a mark.
    pub(in crate::report) fn add(&mut self, x: f64, y: f64, text: &str, named: bool) {
        let width = text.chars().count() as f64 * if named { 6.8 } else { 6.2 };
        let places = [
            (7.0, 4.0),
            (7.0, -7.0),
            (7.0, 15.0),
            (-7.0 - width, 4.0),
            (-7.0 - width, -7.0),
            (-7.0 - width, 15.0),
            (-width / 2.0, -9.0),
            (-width / 2.0, 18.0),
            (-width / 2.0, -23.0),
            (-width / 2.0, 32.0),
        ];
        let area = |(dx, dy): (f64, f64)| (x + dx, y + dy - 9.0, x + dx + width, y + dy + 2.0);
        let free = |place: &(f64, f64)| {
            let (left, top, right, bottom) = area(*place);
            let clear = |other: &(f64, f64, f64, f64)| other.2 <= left || right <= other.0 || other.3 <= top || bottom <= other.1;
            left >= 0.0 && right <= self.right && bottom <= self.bottom && self.taken.iter().all(clear)
        };
        // Without free space a number is omitted (the mark has a tooltip), a name is not.
        let Some(place) = places.into_iter().find(free).or(named.then_some(places[0])) else { return };
        self.taken.push(area(place));
        let class = if named { "name" } else { "number" };
        let _ = writeln!(self.out, "<text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>", x + place.0, y + place.1, escape(text));
    }
}

fn label(tick: f64) -> String {
    let text = digits(tick, 3);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let scale = |to: f64| AxisScale { from: 0.0, to, logarithmic: false };
        assert_eq!(scale(10.0).ticks(5.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(scale(0.034).ticks(4.0).len(), 4);
        let decades = AxisScale::decades([3.0, 450.0].into_iter());
        assert_eq!((decades.from, decades.to, decades.ticks(5.0)), (1.0, 1000.0, vec![1.0, 10.0, 100.0, 1000.0]));
        assert_eq!([1.0, 10.0, 1000.0, 1e9].map(|value| (decades.share(value) * 3.0).round()), [0.0, 1.0, 3.0, 3.0]);
        assert_eq!([0.02, 5.0, 1000.0, 0.0].map(label), ["0.02", "5", "1000", "0"]);
    }

    #[test]
    fn nothing_to_show_still_has_axes() {
        assert_eq!(AxisScale::linear(std::iter::empty()).to, 1.0);
        assert_eq!(AxisScale::decades(std::iter::empty()).to, 10.0);
    }
}
