//! Formulas of a rate over time, their integrals, and the inversion of those. Owns the numerics; knows no pattern.

/// A span of time on which one formula holds, seconds.
pub(in crate::workload) struct Piece {
    /// Start of the formula.
    pub start: f64,
    /// End; infinite if the formula holds for ever.
    pub end: f64,
    pub curve: RateCurve,
}

impl Piece {
    /// `rate` requests/s from `start` to `end`.
    pub fn flat(start: f64, end: f64, rate: f64) -> Self {
        Self { start, end, curve: RateCurve::Flat(rate) }
    }
}

/// Rate as a formula of time.
pub(in crate::workload) enum RateCurve {
    Flat(f64),
    Line { from: f64, slope: f64 },
    Wave { low: f64, high: f64, period: f64 },
}

impl RateCurve {
    /// Rate at `at` in a piece that starts at `start`.
    pub fn rate(&self, at: f64, start: f64) -> f64 {
        match *self {
            RateCurve::Flat(rate) => rate,
            RateCurve::Line { from, slope } => from + slope * (at - start),
            RateCurve::Wave { low, high, period } => low + (high - low) * (1.0 - (std::f64::consts::TAU * (at / period)).cos()) / 2.0,
        }
    }

    /// The integral of the rate from `from` to `to`.
    pub fn area(&self, from: f64, to: f64, start: f64) -> f64 {
        match *self {
            RateCurve::Flat(0.0) => 0.0,
            RateCurve::Flat(rate) => rate * (to - from),
            RateCurve::Line { .. } => (self.rate(from, start) + self.rate(to, start)) / 2.0 * (to - from),
            // A wave has no end, and its rate is not zero throughout.
            RateCurve::Wave { .. } => f64::INFINITY,
        }
    }

    /// Time at which the integral from `from` reaches `area`, which must be within the piece.
    pub fn invert(&self, from: f64, area: f64, start: f64) -> f64 {
        match *self {
            RateCurve::Flat(rate) => from + area / rate.max(f64::MIN_POSITIVE),
            RateCurve::Line { slope, .. } => {
                let rate = self.rate(from, start);
                let root = (rate * rate + 2.0 * slope * area).max(0.0).sqrt();
                if rate + root > 0.0 { from + 2.0 * area / (rate + root) } else { from }
            }
            RateCurve::Wave { low, high, period } => invert_wave(from, area, low, high, period),
        }
    }
}

/// Bracketed Newton's method on the phase within one period, so that precision does not degrade over time.
fn invert_wave(from: f64, area: f64, low: f64, high: f64, period: f64) -> f64 {
    let omega = std::f64::consts::TAU / period;
    let (mean, swing) = ((low + high) / 2.0, (high - low) / 2.0);
    let whole = (area / (mean * period)).floor();
    let rest = area - whole * mean * period;
    let phase = from % period;
    let integral = |x: f64| mean * x - swing * (omega * x).sin() / omega;
    let target = integral(phase) + rest;
    let (mut lower, mut upper) = (phase, phase + period);
    let mut x = (phase + rest / mean).min(upper);
    for _ in 0..64 {
        let error = integral(x) - target;
        if error > 0.0 {
            upper = x
        } else {
            lower = x
        }
        let slope = mean - swing * (omega * x).cos();
        let newton = x - error / slope;
        let next = if newton > lower && newton < upper { newton } else { (lower + upper) / 2.0 };
        if (next - x).abs() <= period * 1e-13 {
            break;
        }
        x = next;
    }
    from + whole * period + (x - phase)
}
