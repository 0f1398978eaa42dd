//! Comparison of simulator and platform. Owns the metrics and the error; pure.

use std::str::FromStr;
use std::time::Duration;

use qscale_common::text;
use serde_json::{Value, json};

use super::real::MeasuredRun;
use super::scenario::Scenario;
use super::simulated::SimulatedRun;

/// A share, written as a percentage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percentage(pub f64);

impl FromStr for Percentage {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().trim_end_matches('%').trim_end().parse::<f64>().ok();
        let share = number.filter(|percent| (0.0..=1000.0).contains(percent));
        share.map(|percent| Self(percent / 100.0)).ok_or_else(|| format!("`{text}` is not a percentage from 0% to 1000%, such as 10%"))
    }
}

/// A scenario on the platform and in the simulator.
#[derive(Debug, Clone)]
pub struct ScenarioComparison {
    /// The scenario.
    pub scenario: Scenario,
    /// Its result on the local platform.
    pub real: MeasuredRun,
    /// Its result in the simulator.
    pub simulated: SimulatedRun,
}

/// A metric on the platform and in the simulator; `None` if it is undefined.
#[derive(Debug, Clone, Copy)]
pub struct ComparedMetric {
    name: &'static str,
    real: Option<f64>,
    simulated: Option<f64>,
    shown: fn(f64) -> String,
}

impl ComparedMetric {
    /// Relative error of the simulator.
    pub fn error(&self) -> Option<f64> {
        match (self.real?, self.simulated?) {
            (real, simulated) if real == simulated => Some(0.0),
            (0.0, _) => None,
            (real, simulated) => Some(simulated / real - 1.0),
        }
    }

    /// Measured value, simulated value, error.
    pub fn text(&self) -> String {
        let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), self.shown);
        let error = self.error().map_or_else(|| "-".to_owned(), |error| format!("{:+.0}%", error * 100.0));
        format!("{} {} {error}", shown(self.real), shown(self.simulated))
    }
}

impl ScenarioComparison {
    /// Latency at three percentiles, completion and CPU.
    pub fn measures(&self) -> [ComparedMetric; 5] {
        let latencies = self.real.latencies();
        let percentile = |name, index: usize, share: f64| ComparedMetric {
            name,
            real: at(&latencies, share).map(|latency| latency.as_secs_f64() * 1000.0),
            simulated: Some(self.simulated.latency_ms[index]).filter(|value| value.is_finite()),
            shown: text::latency,
        };
        let requests = self.real.requests();
        [
            percentile("p50_ms", 0, 0.5),
            percentile("p95_ms", 1, 0.95),
            percentile("p99_ms", 2, 0.99),
            ComparedMetric {
                name: "completed",
                real: (requests > 0).then(|| latencies.len() as f64 / requests as f64),
                simulated: Some(self.simulated.completed),
                shown: |share| format!("{}%", text::number(share * 100.0)),
            },
            ComparedMetric {
                name: "cpu_seconds",
                real: Some(self.real.cpu_seconds),
                simulated: Some(self.simulated.cpu_seconds),
                shown: |seconds| format!("{}s", text::number(seconds)),
            },
        ]
    }

    /// All metrics as JSON.
    pub fn to_json(&self) -> Value {
        let of = |value: &dyn Fn(&ComparedMetric) -> Option<f64>| {
            self.measures().iter().map(|measure| (measure.name.to_owned(), json!(value(measure)))).collect::<serde_json::Map<_, _>>()
        };
        json!({
            "scenario": self.scenario.name,
            "allocation": self.scenario.allocation,
            "load": self.scenario.rate,
            "changes": self.real.changes.iter().map(|(at, allocation)| json!({ "seconds": at.as_secs_f64(), "allocation": allocation })).collect::<Vec<_>>(),
            "requests": self.real.requests(),
            "void": self.real.void,
            "real": of(&|measure| measure.real),
            "simulated": of(&|measure| measure.simulated),
            "error": of(&ComparedMetric::error),
            "others_cores": self.real.others.cores,
            "steal_cores": self.real.others.steal,
        })
    }
}

/// The largest error; `None` without any.
pub fn worst(comparisons: &[ScenarioComparison]) -> Option<f64> {
    let errors = comparisons.iter().flat_map(ScenarioComparison::measures).filter_map(|measure| measure.error());
    errors.max_by(|one, other| one.abs().total_cmp(&other.abs()))
}

/// The quantile of latency at `share`, linearly interpolated.
fn at(rising: &[Duration], share: f64) -> Option<Duration> {
    let place = share * rising.len().checked_sub(1)? as f64;
    let (low, high) = (rising[place.floor() as usize], rising[place.ceil() as usize]);
    Some(low + (high - low).mul_f64(place.fract()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_to_the_platform() {
        let measure = |real, simulated| ComparedMetric { name: "p50_ms", real, simulated, shown: text::latency };
        assert_eq!(measure(Some(10.0), Some(11.0)).text(), "10ms 11ms +10%");
        assert_eq!(measure(Some(10.0), Some(5.0)).error(), Some(-0.5));
        assert_eq!(measure(Some(0.0), Some(0.0)).error(), Some(0.0));
        assert_eq!(measure(Some(0.0), Some(1.0)).error(), None);
        assert_eq!(measure(None, Some(1.0)).text(), "- 1ms -");
    }

    #[test]
    fn percentages_are_parsed() {
        assert_eq!("10%".parse(), Ok(Percentage(0.1)));
        assert_eq!(" 5 ".parse(), Ok(Percentage(0.05)));
        for wrong in ["", "%", "ten", "-1%", "NaN", "1e9"] {
            assert!(wrong.parse::<Percentage>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn quantiles_are_interpolated() {
        let ms = |ms: &[u64]| ms.iter().map(|ms| Duration::from_millis(*ms)).collect::<Vec<_>>();
        assert_eq!(at(&ms(&[1, 2, 3]), 0.5), Some(Duration::from_millis(2)));
        assert_eq!(at(&ms(&[0, 10]), 0.95), Some(Duration::from_micros(9_500)));
        assert_eq!(at(&[], 0.5), None);
    }
}
