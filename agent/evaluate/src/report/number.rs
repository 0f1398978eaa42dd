//! Formatting of numbers. Owns digits; must not know the measure, except its unit.

use crate::results::Measure;
use crate::statistics::Interval;

/// Placeholder for a missing number.
pub(super) const NOTHING: &str = "-";

/// `value` to three significant digits, without an exponent: `0.0123`, `1.23`, `12.3`, `1234`.
pub(super) fn short(value: f64) -> String {
    digits(value, 3)
}

/// `value` to `count` significant digits if it is below ten to that power, else an integer; at most six decimal places.
pub(super) fn digits(value: f64, count: i32) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let places = (count - 1 - value.abs().log10().floor() as i32).clamp(0, 6) as usize;
    without_minus_zero(format!("{value:.places$}"))
}

/// `value` with one decimal place below 100, none above: `0.4`, `12.3`, `123`. For percentages in columns.
pub(super) fn tenths(value: f64) -> String {
    without_minus_zero(if value.abs() < 99.95 { format!("{value:.1}") } else { format!("{value:.0}") })
}

/// A p-value; a small one as a bound.
pub(super) fn p_value(p: f64) -> String {
    if p < 0.001 { "<0.001".into() } else { format!("{p:.3}") }
}

/// A value of `measure` as tables show it: shares in percent.
pub(super) fn shown(measure: Measure, value: f64) -> String {
    if measure.is_share() { tenths(value * 100.0) } else { short(value) }
}

/// An interval: `1.2-3.4`, or `-1.2 to 3.4` if an end is negative.
pub(super) fn range(measure: Measure, interval: Interval) -> String {
    let (low, high) = (shown(measure, interval.low), shown(measure, interval.high));
    if low.starts_with('-') || high.starts_with('-') { format!("{low} to {high}") } else { format!("{low}-{high}") }
}

/// Heading of a measure's column, with its unit.
pub(super) fn heading(measure: Measure, currency: &str) -> String {
    match measure {
        Measure::ViolatedShare => "violations %".into(),
        Measure::Severity => "severity %".into(),
        Measure::LateShare => "late %".into(),
        Measure::CompletedShare => "completed %".into(),
        Measure::CostShare => "cost, % of largest".into(),
        Measure::P50Ms => "p50 ms".into(),
        Measure::P95Ms => "p95 ms".into(),
        Measure::P99Ms => "p99 ms".into(),
        Measure::CostPerHour => format!("cost {currency}/h"),
        Measure::ColdStarts => "cold starts".into(),
        Measure::ColdShare => "cold %".into(),
        Measure::Slowdown => "p95 slowdown".into(),
        Measure::IdleGibSeconds => "idle GiB-seconds".into(),
        Measure::ActionsPerHour => "actions/h".into(),
        Measure::ReversalsPerHour => "reversals/h".into(),
        Measure::CoreSeconds => "core-seconds".into(),
        Measure::GibSeconds => "GiB-seconds".into(),
        Measure::RecoverS => "recovery s".into(),
        Measure::Requests | Measure::Starts | Measure::Prewarmed | Measure::Unused | Measure::Kills | Measure::Loss => {
            measure.name().into()
        }
    }
}

fn without_minus_zero(text: String) -> String {
    let zero = text.starts_with('-') && text.bytes().all(|byte| matches!(byte, b'-' | b'0' | b'.'));
    if zero { text[1..].into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_say_enough() {
        let found = [0.0, 0.012_345, 1.0, 1.2345, 12.345, 123.45, 12_345.6, -0.5, 1e-9].map(short);
        assert_eq!(found, ["0", "0.0123", "1.00", "1.23", "12.3", "123", "12346", "-0.500", "0.000000"]);
    }

    #[test]
    fn percentages_have_one_decimal_place() {
        assert_eq!([0.0, -0.01, 0.04, 12.34, 99.94, 99.96, 100.0].map(tenths), ["0.0", "0.0", "0.0", "12.3", "99.9", "100", "100"]);
    }

    #[test]
    fn negative_ends_are_unambiguous() {
        assert_eq!(range(Measure::Severity, Interval { low: 0.012, high: 0.03 }), "1.2-3.0");
        assert_eq!(range(Measure::CostPerHour, Interval { low: -2.0, high: -1.0 }), "-2.00 to -1.00");
    }

    #[test]
    fn tiny_p_is_a_bound() {
        assert_eq!([1.0, 0.05, 0.000_9].map(p_value), ["1.000", "0.050", "<0.001"]);
    }
}
