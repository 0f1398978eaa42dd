//! Holt-Winters exponential smoothing as the predictive HPA uses it from statsmodels: given smoothing factors,
//! heuristic initial values, one step ahead.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Form of a component of the forecast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Additive.
    #[default]
    Additive,
    /// Multiplicative.
    Multiplicative,
}

/// Settings of the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Model {
    /// Smoothing factor of the level, 0 to 1.
    pub alpha: f64,
    /// Smoothing factor of the trend, 0 to 1.
    pub beta: f64,
    /// Smoothing factor of the season, 0 to 1.
    pub gamma: f64,
    /// Observations in a season, at least 2.
    pub periods: usize,
    /// Form of the trend.
    pub trend: Form,
    /// Form of the season.
    pub seasonal: Form,
}

/// Initial values of the recursion.
#[derive(Debug, Clone, PartialEq)]
pub struct Initial {
    /// The level.
    pub level: f64,
    /// The trend.
    pub trend: f64,
    /// The season, one for each of its observations.
    pub season: Vec<f64>,
}

/// Observations used for the initial level and trend.
const LINE: usize = 10;

impl Model {
    /// Least number of observations for a forecast.
    #[must_use]
    pub fn least(&self) -> usize {
        (2 * self.periods).max(self.needed())
    }

    fn needed(&self) -> usize {
        LINE + 2 * (self.periods / 2)
    }

    /// Forecast of the observation after `series`; `None` if it is too short.
    #[must_use]
    pub fn forecast(&self, series: &[f64]) -> Option<f64> {
        let Initial { mut level, mut trend, mut season } = self.initial(series)?;
        for (index, observed) in series.iter().enumerate() {
            let slot = index % self.periods;
            let before = season[slot];
            let expected = combine(self.trend, level, trend);
            let deseasoned = apart(self.seasonal, *observed, before);
            let next = self.alpha * deseasoned + (1.0 - self.alpha) * expected;
            trend = self.beta * apart(self.trend, next, level) + (1.0 - self.beta) * trend;
            season[slot] = self.gamma * apart(self.seasonal, *observed, expected) + (1.0 - self.gamma) * before;
            level = next;
        }
        Some(combine(self.seasonal, combine(self.trend, level, trend), season[series.len() % self.periods]))
    }

    /// Initial values: the season from means around a moving average, level and trend from the line through its first ten points.
    #[must_use]
    pub fn initial(&self, series: &[f64]) -> Option<Initial> {
        if self.periods < 2 || series.len() < self.least() {
            return None;
        }
        let cycles = (series.len() / self.periods).min(5).max(self.needed().div_ceil(self.periods));
        let head = &series[..series.len().min(cycles * self.periods)];
        let average = moving_average(head, self.periods);
        let first = self.periods / 2;
        let season = self.season(head, &average, first);
        let (intercept, slope) = line(&average[..LINE]);
        let trend = match self.trend {
            Form::Additive => slope,
            Form::Multiplicative => 1.0 + slope / intercept,
        };
        Some(Initial { level: intercept, trend, season })
    }

    fn season(&self, head: &[f64], average: &[f64], first: usize) -> Vec<f64> {
        let mut sums = vec![(0.0, 0u32); self.periods];
        for (index, average) in average.iter().enumerate() {
            let sum = &mut sums[(first + index) % self.periods];
            *sum = (sum.0 + apart(self.seasonal, head[first + index], *average), sum.1 + 1);
        }
        let season: Vec<f64> = sums.into_iter().map(|(sum, count)| sum / f64::from(count)).collect();
        let mean = season.iter().sum::<f64>() / season.len() as f64;
        season.into_iter().map(|value| apart(self.seasonal, value, mean)).collect()
    }
}

fn combine(form: Form, one: f64, other: f64) -> f64 {
    match form {
        Form::Additive => one + other,
        Form::Multiplicative => one * other,
    }
}

fn apart(form: Form, whole: f64, part: f64) -> f64 {
    match form {
        Form::Additive => whole - part,
        Form::Multiplicative => whole / part,
    }
}

/// Centred means over `width` points; for an even width the two outermost points count half.
fn moving_average(series: &[f64], width: usize) -> Vec<f64> {
    let mean = |points: &[f64]| {
        let ends = if width.is_multiple_of(2) { (points[0] + points[width]) / 2.0 } else { 0.0 };
        let inner = if width.is_multiple_of(2) { &points[1..width] } else { points };
        (ends + inner.iter().sum::<f64>()) / width as f64
    };
    series.windows(width + 1 - width % 2).map(mean).collect()
}

/// Intercept and slope of the least-squares line through `points` at 1, 2, 3 and so on.
fn line(points: &[f64]) -> (f64, f64) {
    let count = points.len() as f64;
    let (middle, mean) = ((count + 1.0) / 2.0, points.iter().sum::<f64>() / count);
    let around = |index: usize| index as f64 + 1.0 - middle;
    let rise: f64 = points.iter().enumerate().map(|(index, point)| around(index) * (point - mean)).sum();
    let run: f64 = (0..points.len()).map(|index| around(index) * around(index)).sum();
    let slope = rise / run;
    (mean - slope * middle, slope)
}

/// Rounds a forecast up to replicas, tolerating rounding errors.
#[must_use]
pub fn whole(forecast: f64) -> u32 {
    (forecast - 1e-9).ceil().max(0.0) as u32
}

/// Value at `at` seconds of the least-squares line through `(seconds, replicas)`; a single observation is its own forecast.
#[must_use]
pub fn linear(observed: &[(f64, f64)], at: f64) -> Option<f64> {
    let count = observed.len() as f64;
    let mean = |pick: fn(&(f64, f64)) -> f64| observed.iter().map(pick).sum::<f64>() / count;
    let (time, level) = (mean(|point| point.0), mean(|point| point.1));
    let run: f64 = observed.iter().map(|point| (point.0 - time).powi(2)).sum();
    let rise: f64 = observed.iter().map(|point| (point.0 - time) * (point.1 - level)).sum();
    match observed.len() {
        0 => None,
        _ if run == 0.0 => Some(level),
        _ => Some(level + rise / run * (at - time)),
    }
}
