//! Values of metrics that can be true. Owns the checks of a single value; the ranges are in the table of metrics.
//!
//! A value outside its range was not measured: exporters subtract below zero, show "no limit" as the largest number of
//! a type, or divide by zero. Such a value is absent; it is neither zero nor the nearest possible value.

use std::fmt;
use std::ops::RangeInclusive;

use qscale_common::time::Timestamp;

use super::{FunctionMetric, Metric};

/// Largest values of integer types, which exporters show for "none" and "unlimited". Those of 64 bits are beyond every range.
const SENTINELS: [f64; 2] = [i32::MAX as f64, u32::MAX as f64];
/// Earliest possible time of a sample: 2000-01-01. Times in the wrong unit are earlier.
pub(super) const EARLIEST: Timestamp = Timestamp(946_684_800_000);
impl Metric {
    /// Checks that a sample with the value `number`, taken `at_ms` if it says so, can be true.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check(self, number: f64, at_ms: Option<i64>) -> Result<(), Impossible> {
        let range = self.range();
        if !range.contains(&number) {
            return Err(Impossible::Value { number, range });
        }
        let replicas = matches!(self, Self::Function(FunctionMetric::Desired | FunctionMetric::Ready | FunctionMetric::Pending));
        if replicas && number.fract() != 0.0 {
            return Err(Impossible::Fraction { number });
        }
        if SENTINELS.contains(&number) {
            return Err(Impossible::Sentinel { number });
        }
        match at_ms.filter(|at_ms| u64::try_from(*at_ms).is_ok_and(|at_ms| at_ms < EARLIEST.0) || *at_ms < 0) {
            Some(at_ms) => Err(Impossible::Time { at_ms }),
            None => Ok(()),
        }
    }
}

/// Why a measurement cannot be true.
#[derive(Debug, Clone, PartialEq)]
pub enum Impossible {
    /// A value outside its range.
    Value {
        /// The value.
        number: f64,
        /// Values that can be true.
        range: RangeInclusive<f64>,
    },
    /// A number of replicas with a fraction.
    Fraction {
        /// The value.
        number: f64,
    },
    /// The largest value of an integer type.
    Sentinel {
        /// The value.
        number: f64,
    },
    /// A time before 2000.
    Time {
        /// Milliseconds since 1970.
        at_ms: i64,
    },
    /// A counter that fell although its process was not restarted.
    Fall,
    /// A counter that grew by more than it can.
    Growth {
        /// Growth per second: cores, or requests/s.
        per_second: f64,
    },
    /// More memory than the node has.
    BeyondNode {
        /// The value, bytes.
        number: f64,
        /// Memory of the largest node, bytes.
        node: f64,
    },
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value { number, range } => {
                write!(f, "value {}, must be {} to {}", Short(*number), Short(*range.start()), Short(*range.end()))
            }
            Self::Fraction { number } => write!(f, "value {}, must be a whole number", Short(*number)),
            Self::Sentinel { number } => write!(f, "value {number}, the largest of an integer type, stands for none or unlimited"),
            Self::Time { at_ms } => write!(f, "time {at_ms} ms since 1970, must be in 2000 or later"),
            Self::Fall => f.write_str("counter fell without a restart"),
            Self::Growth { per_second } => write!(f, "growth of {} per second, more than is possible", Short(*per_second)),
            Self::BeyondNode { number, node } => write!(f, "value {}, must be at most the node's {}", Short(*number), Short(*node)),
        }
    }
}

/// A number without hundreds of digits.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_finite() && self.0.abs() >= 1e16 { write!(f, "{:e}", self.0) } else { self.0.fmt(f) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NodeMetric, ReplicaMetric};
    use super::*;

    const MEMORY: Metric = Metric::Replica(ReplicaMetric::WorkingSet);
    const CPU: Metric = Metric::Replica(ReplicaMetric::CpuSeconds);
    const READY: Metric = Metric::Function(FunctionMetric::Ready);
    const ARRIVED: Metric = Metric::Function(FunctionMetric::Arrived);

    #[track_caller]
    fn check(metric: Metric, numbers: &[f64], possible: bool) {
        for &number in numbers {
            assert_eq!(metric.check(number, None).is_ok(), possible, "{metric:?} {number}");
        }
    }

    #[test]
    fn no_metric_takes_what_no_exporter_can_have_measured() {
        let wrapped_nanoseconds = (u64::MAX - 1_000_000) as f64 / 1e9;
        for metric in [MEMORY, CPU, READY, ARRIVED, Metric::Node(NodeMetric::Memory), Metric::Replica(ReplicaMetric::InFlight)] {
            check(metric, &[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, -0.5, f64::MAX, 1e300], false);
            check(metric, &[u64::MAX as f64, (u64::MAX - 4096) as f64, i64::MAX as f64, 9_223_372_036_854_771_712.0], false);
            check(metric, &[f64::from(u32::MAX), f64::from(i32::MAX)], false);
        }
        check(CPU, &[wrapped_nanoseconds, i64::MAX as f64 / 1e9], false);
        check(READY, &[1_000_001.0, 1.5, 0.1], false);
        check(MEMORY, &[0.0, 7.1e13], false);
        check(Metric::Function(FunctionMetric::DesiredCpu), &[0.0], false);
    }

    #[test]
    fn what_large_systems_measure_is_taken() {
        check(MEMORY, &[1.0, 4096.0, f64::from(1u32 << 31), 4_294_963_200.0, 1e13], true);
        check(CPU, &[0.0, 1e-9, 1e9], true);
        check(READY, &[0.0, 1_000_000.0], true);
        check(ARRIVED, &[0.0, 5e9, 1e15], true);
        check(ARRIVED, &[-0.0], true);
    }

    #[test]
    fn an_impossible_value_is_named_with_its_range() {
        let text = |metric: Metric, number| metric.check(number, None).expect_err("impossible").to_string();
        assert_eq!(text(READY, f64::INFINITY), "value inf, must be 0 to 1000000");
        assert_eq!(text(MEMORY, -4096.0), "value -4096, must be 1 to 70368744177664");
        assert_eq!(text(READY, 1.5), "value 1.5, must be a whole number");
        assert_eq!(text(MEMORY, 1e300), "value 1e300, must be 1 to 70368744177664");
        assert_eq!(text(MEMORY, f64::from(u32::MAX)), "value 4294967295, the largest of an integer type, stands for none or unlimited");
    }

    #[test]
    fn a_time_before_2000_is_in_the_wrong_unit() {
        let possible = |at_ms| READY.check(1.0, Some(at_ms)).is_ok();
        assert!(possible(1_700_000_000_000) && possible(i64::MAX));
        assert!(!possible(1_700_000_000) && !possible(0) && !possible(-1) && !possible(i64::MIN));
    }
}
