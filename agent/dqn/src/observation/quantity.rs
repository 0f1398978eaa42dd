//! Quantities behind the features, for readers of a decision tree: each feature in the unit in which it is measured. Owns the inverses of the scales; must
//! not compute features.

use std::fmt;

use super::{FEATURES, MIDDLE_VIOLATION_COST};

/// Quantity that a feature encodes.
pub struct Quantity {
    /// Name of the feature.
    pub name: &'static str,
    /// Meaning, a noun phrase.
    pub meaning: &'static str,
    unit: &'static str,
    scale: FeatureScale,
}

/// Scale of a feature. A quantity is divided by `unit` before it is scaled.
#[derive(Debug, Clone, Copy)]
enum FeatureScale {
    /// Yes or no.
    Flag,
    /// The quantity itself, divided by `unit`.
    Linear { unit: f64 },
    /// Logarithm, 1 at `most`; odd for negative values.
    Log { unit: f64, most: f64 },
    /// x / (1 + x); odd for negative values.
    Saturating { unit: f64 },
    /// Logarithm of a ratio, 1 at 16.
    Ratio,
    /// Decades of a probability, -1 at 0.01 %.
    Decades,
    /// Logarithm of the violation cost relative to the middle of its range.
    ViolationCost,
}

const PERCENT: FeatureScale = FeatureScale::Linear { unit: 100.0 };

const fn quantity(name: &'static str, meaning: &'static str, unit: &'static str, scale: FeatureScale) -> Quantity {
    Quantity { name, meaning, unit, scale }
}

const fn flag(name: &'static str, meaning: &'static str) -> Quantity {
    quantity(name, meaning, "", FeatureScale::Flag)
}

const fn share(name: &'static str, meaning: &'static str) -> Quantity {
    quantity(name, meaning, " %", PERCENT)
}

const fn ratio(name: &'static str, meaning: &'static str) -> Quantity {
    quantity(name, meaning, "", FeatureScale::Ratio)
}

const fn log(name: &'static str, meaning: &'static str, unit: &'static str, most: f64) -> Quantity {
    quantity(name, meaning, unit, FeatureScale::Log { unit: 1.0, most })
}

const fn saturating(name: &'static str, meaning: &'static str) -> Quantity {
    quantity(name, meaning, "", FeatureScale::Saturating { unit: 1.0 })
}

/// The quantity of each feature, in the order of [`FEATURES`].
pub const QUANTITIES: [Quantity; FEATURES.len()] = [
    log("rate", "arrival rate", " requests/s", 1e5),
    quantity("cores_asked_for", "expected demand", " cores", FeatureScale::Log { unit: 0.1, most: 1e4 }),
    share("cores_asked_for_of_most", "expected demand / largest allocation"),
    ratio("next_over_rate", "expected rate / arrival rate"),
    quantity("slope_of_a_minute", "growth of the rate in a minute", " %", FeatureScale::Saturating { unit: 100.0 }),
    quantity("slope_significance", "growth of the rate / its standard error", "", FeatureScale::Saturating { unit: 4.0 }),
    quantity("slope_short", "growth of the rate in 12 ticks", " %", FeatureScale::Log { unit: 100.0, most: 16.0 }),
    quantity("slope_long", "growth of the rate in 60 ticks", " %", FeatureScale::Log { unit: 100.0, most: 16.0 }),
    saturating("variation_short", "coefficient of variation of the rate in 12 ticks"),
    saturating("variation_long", "coefficient of variation of the rate in 60 ticks"),
    ratio("peak_2_over_next", "peak rate of 2 minutes / expected rate"),
    ratio("peak_5_over_next", "peak rate of 5 minutes / expected rate"),
    ratio("peak_15_over_next", "peak rate of 15 minutes / expected rate"),
    ratio("peak_60_over_next", "peak rate of an hour / expected rate"),
    ratio("peak_240_over_next", "peak rate of 4 hours / expected rate"),
    ratio("usual_over_next", "90th percentile of the rate of an hour / expected rate"),
    ratio("caution_over_hours", "violation cost / 12 for each minute observed"),
    ratio("usual_240_over_next", "97th percentile of the rate of 4 hours / expected rate"),
    ratio("mean_60_over_next", "mean rate of an hour / expected rate"),
    ratio("mean_240_over_next", "mean rate of 4 hours / expected rate"),
    ratio("season_over_next", "seasonal peak rate / expected rate"),
    share("season_trust", "share of the variation that the season explains"),
    log("idle_slots", "time without requests", " min", 240.0),
    share("wake_chance", "probability of a request in this minute"),
    share("next_wake_chance", "probability of a request in the next minute"),
    quantity("wake_chance_log", "greater probability of a request in this or the next minute", " %", FeatureScale::Decades),
    ratio("warm_worth", "expected benefit of a warm replica / its cost"),
    share("active_share", "share of the minutes of an hour with requests"),
    log("slots_seen", "time observed", " min", 240.0),
    ratio("allocated_over_next", "requested CPU / expected demand"),
    ratio("ready_over_next", "CPU of ready replicas / expected demand"),
    ratio("allocated_over_usual", "requested CPU / demand at the 90th percentile of an hour"),
    ratio("allocated_over_hour", "requested CPU / peak demand of an hour"),
    ratio("allocated_over_hours", "requested CPU / peak demand of 4 hours"),
    ratio("replicas_over_full", "replicas / replicas that the present requests fill"),
    ratio("replicas_over_full_usual", "replicas / replicas filled at the 90th percentile of an hour"),
    ratio("replicas_over_full_hour", "replicas / replicas filled at the peak of an hour"),
    ratio("replicas_over_full_hours", "replicas / replicas filled at the peak of 4 hours"),
    flag("knows_full", "concurrency limit of a replica known"),
    ratio("price_over_usual", "price of the allocation / usual cost"),
    log("in_flight_a_replica", "requests in flight per replica", "", 1e3),
    log("queued_a_replica", "queued requests per replica", "", 1e3),
    quantity("objective_over_latency", "latency bound / latency, at most 1", "", FeatureScale::Linear { unit: 1.0 }),
    quantity("objective_over_latency_short", "latency bound / latency of 12 ticks, at most 1", "", FeatureScale::Linear { unit: 1.0 }),
    quantity("objective_over_latency_long", "latency bound / latency of 60 ticks, at most 1", "", FeatureScale::Linear { unit: 1.0 }),
    saturating("median_over_objective", "median latency / latency bound"),
    log("tail_over_median", "99th percentile / median of the latency of 12 ticks", "", 1e3),
    share("failed_share", "failed requests"),
    share("failed_share_short", "failed requests of 12 ticks"),
    quantity("cpu_mean_over_limit", "mean CPU / limit", " %", FeatureScale::Linear { unit: 200.0 }),
    quantity("cpu_max_over_limit", "highest CPU of a replica / limit", " %", FeatureScale::Linear { unit: 200.0 }),
    quantity("cpu_mean_over_limit_short", "mean CPU of 12 ticks / limit", " %", FeatureScale::Linear { unit: 200.0 }),
    share("throttled_share", "throttled CPU periods"),
    share("throttled_share_short", "throttled CPU periods of 12 ticks"),
    share("memory_max_over_limit", "highest memory of a replica / limit"),
    saturating("crashes_short", "restarts and OOM kills of 12 ticks"),
    share("replicas_ready", "ready replicas / upper bound"),
    share("replicas_pending", "starting replicas / upper bound"),
    share("replicas_desired", "requested replicas / upper bound"),
    log("replicas_desired_log", "requested replicas", "", 1e3),
    flag("replicas_none", "no replica requested"),
    share("cpu_limit", "CPU of a replica / upper bound"),
    quantity("cpu_limit_log", "CPU of a replica", " millicores", FeatureScale::Log { unit: 100.0, most: 1e3 }),
    flag("cpu_is_fixed", "CPU of a replica fixed by the bounds"),
    saturating("own_time_over_objective", "CPU time of a request / latency bound"),
    saturating("own_time_at_this_size_over_objective", "CPU time of a request at this CPU limit / latency bound"),
    saturating("startup_over_tick", "startup time / tick"),
    log("startup_log", "startup time", " s", 100.0),
    log("tick_log", "tick", " s", 100.0),
    quantity("since_horizontal_change", "ticks since the replicas changed", "", FeatureScale::Saturating { unit: 12.0 }),
    quantity("since_vertical_change", "ticks since CPU or memory changed", "", FeatureScale::Saturating { unit: 12.0 }),
    quantity(
        "last_change_within_a_minute_of_ticks",
        "direction of the last change, 1 up and -1 down, towards 0 with its age",
        "",
        FeatureScale::Linear { unit: 1.0 },
    ),
    saturating("age", "age of the oldest measurement / tick"),
    log("age_log", "age of the arrivals", " s", 100.0),
    share("node_headroom", "free CPU of the nodes / largest allocation"),
    saturating("objective_over_tick", "latency bound / tick"),
    log("objective_log", "latency bound", " ms", 1e5),
    share("least_replicas", "lower / upper bound of the replicas"),
    log("most_replicas_log", "upper bound of the replicas", "", 1e3),
    quantity("caution", "violation cost", "", FeatureScale::ViolationCost),
    flag("saw_arrivals", "arrivals measured"),
    flag("saw_latency", "latency measured"),
    flag("saw_cpu", "CPU measured"),
    flag("saw_replicas", "replicas measured"),
    flag("saw_demand", "demand known"),
];

impl Quantity {
    /// The quantity at which the feature has `value`, with its unit.
    #[must_use]
    pub fn text(&self, value: f32) -> String {
        if matches!(self.scale, FeatureScale::Flag) {
            return if value > 0.5 { "yes" } else { "no" }.to_owned();
        }
        format!("{}{}", ThreeDigits(self.scale.quantity(f64::from(value))), self.unit)
    }

    /// The condition that the feature is at most `threshold`, or above it, without the quantity's meaning.
    #[must_use]
    pub fn condition(&self, threshold: f32, is_above: bool) -> String {
        match (self.scale, is_above) {
            (FeatureScale::Flag, true) => "yes".to_owned(),
            (FeatureScale::Flag, false) => "no".to_owned(),
            (_, true) => format!("> {}", self.text(threshold)),
            (_, false) => format!("<= {}", self.text(threshold)),
        }
    }
}

impl FeatureScale {
    /// The quantity at which the scale has `value`.
    fn quantity(self, value: f64) -> f64 {
        let odd = |of: fn(f64, f64) -> f64, by: f64| value.signum() * of(value.abs(), by);
        match self {
            Self::Flag => value,
            Self::Linear { unit } => value * unit,
            Self::Log { unit, most } => unit * odd(|value, most| (value * most.ln_1p()).exp_m1(), most),
            Self::Saturating { unit } => unit * odd(|value, _| value / (1.0 - value), 0.0),
            Self::Ratio => 16f64.powf(value),
            Self::Decades => 100.0 * (10f64.powf(4.0 * value) - 1e-4),
            Self::ViolationCost => MIDDLE_VIOLATION_COST * 30f64.powf(value),
        }
    }
}

/// A number with three significant digits.
struct ThreeDigits(f64);

impl fmt::Display for ThreeDigits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value) = *self;
        if value == 0.0 || !value.is_finite() {
            return write!(f, "{}", value.abs());
        }
        let before = value.abs().log10().floor() as i32 + 1;
        let decimals = (3 - before).clamp(0, 9) as usize;
        let text = format!("{value:.decimals$}");
        f.write_str(if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_has_its_quantity() {
        for (feature, quantity) in FEATURES.iter().zip(&QUANTITIES) {
            assert_eq!(feature.name, quantity.name);
            let rises = |scale: FeatureScale| {
                (-9..9).all(|tenth| scale.quantity(f64::from(tenth) / 10.0) < scale.quantity(f64::from(tenth + 1) / 10.0))
            };
            assert!(rises(quantity.scale), "{}", quantity.name);
        }
    }

    #[test]
    fn quantities_are_those_from_which_the_features_are_computed() {
        let text = |name: &str, value: f64| QUANTITIES.iter().find(|quantity| quantity.name == name).expect("known").text(value as f32);
        assert_eq!(text("rate", super::super::log(250.0, 1e5)), "250 requests/s");
        assert_eq!(text("cores_asked_for", super::super::log(3.5 * 10.0, 1e4)), "3.5 cores");
        assert_eq!(text("peak_15_over_next", super::super::ratio(4.0, 2.0).expect("a ratio")), "2");
        assert_eq!(text("slope_significance", super::super::signed(-8.0 / 4.0).expect("finite")), "-8");
        assert_eq!(text("since_vertical_change", super::super::saturating(30.0 / 12.0)), "30");
        assert_eq!(text("cpu_limit_log", super::super::log(500.0 / 100.0, 1e3)), "500 millicores");
        assert_eq!(text("wake_chance_log", (0.25f64 + 1e-4).log10() / 4.0), "25 %");
        assert_eq!(text("caution", (20.0 / MIDDLE_VIOLATION_COST).ln() / 30f64.ln()), "20");
        assert_eq!(text("saw_cpu", 1.0), "yes");
        let share = &QUANTITIES[super::super::LEAST_REPLICAS];
        assert_eq!((share.condition(0.25, true), share.condition(0.25, false)), ("> 25 %".to_owned(), "<= 25 %".to_owned()));
    }
}
