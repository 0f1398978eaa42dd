//! The metrics that sources read, and the values that they can have. Owns the one table of ranges; must not know how a
//! metric is called in a source.
//!
//! A value outside its range was not measured: exporters subtract below zero, show "no limit" as the largest number of
//! a type, or divide by zero. Such a value is absent; it is neither zero nor the nearest possible value.

use std::fmt;
use std::ops::RangeInclusive;

use qscale_common::time::Timestamp;
use qscale_common::units::{Mebibytes, Millicores, Replicas};
use strum::IntoStaticStr;

/// Largest values of integer types, which exporters show for "none" and "unlimited". Those of 64 bits are beyond every range.
const SENTINELS: [f64; 2] = [i32::MAX as f64, u32::MAX as f64];
/// Earliest possible time of a sample: 2000-01-01. Times in the wrong unit are earlier.
const EARLIEST: Timestamp = Timestamp(946_684_800_000);
/// Largest counter that a float counts exactly, well below the largest numbers of 64 bits.
const MAX_COUNT: f64 = 1e15;
/// Largest number of events such as restarts.
const MAX_EVENTS: f64 = 1e9;
/// Largest CPU time, seconds: 127 years of one core, and less than half of 2^63 ns, at which a counter in nanoseconds wraps.
const MAX_CPU_SECONDS: f64 = 4e9;
/// Largest memory of a node, bytes: 1 PiB.
const MAX_NODE_BYTES: f64 = (1u64 << 50) as f64;
/// Largest number of cores of a node: the most that Linux supports.
const MAX_NODE_CORES: f64 = 8192.0;

/// Declares the metrics of a subject, each with the range of its values.
macro_rules! metrics {
    ($(#[$subject_doc:meta])* $subject:ident { $($(#[$doc:meta])* $metric:ident = $range:expr,)* }) => {
        $(#[$subject_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, IntoStaticStr)]
        #[strum(serialize_all = "snake_case")]
        pub enum $subject { $($(#[$doc])* $metric,)* }

        impl $subject {
            /// Number of metrics.
            pub const COUNT: usize = [$(Self::$metric,)*].len();

            /// Values that can be true.
            #[must_use]
            pub fn range(self) -> RangeInclusive<f64> {
                match self { $(Self::$metric => $range,)* }
            }
        }
    };
}

metrics! {
    /// Metrics of a replica.
    ReplicaMetric {
        /// CPU time of a container, seconds.
        CpuSeconds = 0.0..=MAX_CPU_SECONDS,
        /// CFS periods of a container.
        CpuPeriods = 0.0..=MAX_COUNT,
        /// CFS periods in which a container was throttled.
        CpuThrottledPeriods = 0.0..=MAX_COUNT,
        /// Working set of a container, bytes. A process has one.
        WorkingSet = 1.0..=Mebibytes::MAX.bytes() as f64,
        /// Kills of a container because it ran out of memory.
        OomEvents = 0.0..=MAX_EVENTS,
        /// Restarts of a container.
        Restarts = 0.0..=MAX_EVENTS,
        /// Start of a container, seconds since 1970.
        StartTime = EARLIEST.0 as f64 / 1000.0..=Timestamp::LAST.0 as f64 / 1000.0,
        /// Requests in flight at a replica.
        InFlight = 0.0..=1e7,
        /// Requests of at most a duration.
        DurationBucket = 0.0..=MAX_COUNT,
        /// Requests of any duration.
        DurationCount = 0.0..=MAX_COUNT,
    }
}

metrics! {
    /// Metrics of a function.
    FunctionMetric {
        /// Requests queued before the replicas.
        Queued = 0.0..=1e9,
        /// Requests that arrived.
        Arrived = 0.0..=MAX_COUNT,
        /// Desired replicas.
        Desired = 0.0..=f64::from(Replicas::MAX.0),
        /// Replicas that take requests.
        Ready = 0.0..=f64::from(Replicas::MAX.0),
        /// Replicas that are starting.
        Pending = 0.0..=f64::from(Replicas::MAX.0),
        /// Desired CPU of each replica, millicores.
        DesiredCpu = 1.0..=f64::from(Millicores::MAX.0),
        /// Desired memory of each replica, bytes.
        DesiredMemory = 1.0..=Mebibytes::MAX.bytes() as f64,
        /// Kills of replicas that ran out of memory, past replicas included.
        OomKills = 0.0..=MAX_EVENTS,
        /// Crashes of replicas, past replicas included.
        Crashes = 0.0..=MAX_EVENTS,
        /// Sum of the start-up times of replicas, seconds.
        StartupSum = 0.0..=MAX_CPU_SECONDS,
        /// Starts of replicas.
        StartupCount = 0.0..=MAX_EVENTS,
    }
}

metrics! {
    /// Metrics of a node.
    NodeMetric {
        /// Cores of a node.
        Cores = 0.001..=MAX_NODE_CORES,
        /// Memory of a node, bytes.
        Memory = 1.0..=MAX_NODE_BYTES,
    }
}

impl FunctionMetric {
    /// Whether every endpoint that shows it describes the whole function, so that several must not be summed.
    #[must_use]
    pub fn describes_whole_function(self) -> bool {
        match self {
            Self::Desired | Self::Ready | Self::Pending | Self::DesiredCpu | Self::DesiredMemory => true,
            Self::Queued | Self::Arrived | Self::OomKills | Self::Crashes | Self::StartupSum | Self::StartupCount => false,
        }
    }
}

impl ReplicaMetric {
    /// Whether it is measured of each container, and not of a replica as a whole.
    #[must_use]
    pub fn is_of_container(self) -> bool {
        match self {
            Self::CpuSeconds
            | Self::CpuPeriods
            | Self::CpuThrottledPeriods
            | Self::WorkingSet
            | Self::OomEvents
            | Self::Restarts
            | Self::StartTime => true,
            Self::InFlight | Self::DurationBucket | Self::DurationCount => false,
        }
    }
}

/// A metric that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// Of a function.
    Function(FunctionMetric),
    /// Of a replica.
    Replica(ReplicaMetric),
    /// Of a node.
    Node(NodeMetric),
}

impl Metric {
    /// Name in metrics of the collector and in logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Function(metric) => metric.into(),
            Self::Replica(metric) => metric.into(),
            Self::Node(metric) => match metric {
                NodeMetric::Cores => "node_cores",
                NodeMetric::Memory => "node_memory",
            },
        }
    }

    /// Values that can be true.
    #[must_use]
    pub fn range(self) -> RangeInclusive<f64> {
        match self {
            Self::Function(metric) => metric.range(),
            Self::Replica(metric) => metric.range(),
            Self::Node(metric) => metric.range(),
        }
    }

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

    #[test]
    fn every_metric_has_a_label_of_its_own() {
        let replica = [ReplicaMetric::CpuSeconds, ReplicaMetric::OomEvents].map(Metric::Replica);
        let function = [FunctionMetric::OomKills, FunctionMetric::DesiredMemory].map(Metric::Function);
        let labels: Vec<_> = replica.into_iter().chain(function).chain([Metric::Node(NodeMetric::Memory)]).map(Metric::label).collect();
        assert_eq!(labels, ["cpu_seconds", "oom_events", "oom_kills", "desired_memory", "node_memory"]);
    }
}
