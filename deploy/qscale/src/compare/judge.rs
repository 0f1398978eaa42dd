//! What the runs say beside what was recorded. Pure: owns the intervals, and when a difference is worth nothing.

use qscale_common::contract::{Reward, Source};
use qscale_common::name::Name;
use qscale_evaluate::statistics::{Bootstrap, Sample};
use serde::Serialize;

use super::world::Came;
use crate::show;

/// 95 % intervals.
const BOOTSTRAP: Bootstrap = Bootstrap { resamples: 2000, confidence: 0.95, seed: 0 };
/// A share of ticks that somebody else decided below it is not told.
const SOME: f64 = 0.01;

/// A mean over seeds with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Ends of its interval.
    pub low: f64,
    /// The upper one.
    pub high: f64,
}

impl Mean {
    fn of(values: Vec<f64>, name: &str) -> anyhow::Result<Self> {
        let sample = Sample::try_from(values)?;
        let estimate = BOOTSTRAP.estimate(&[sample], name).expect("a sample is a stratum");
        Ok(Self { mean: estimate.mean, low: estimate.mean_interval.low, high: estimate.mean_interval.high })
    }
}

/// What a measure says of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruled {
    /// The difference is beyond chance, and beyond the error of the simulation.
    Told,
    /// It may be chance: its interval holds zero.
    Chance,
    /// The simulation errs by more than it.
    WithinError,
    /// How far the simulation errs is not known.
    Unchecked,
}

/// One measure, recorded and simulated.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Its name for programs.
    measure: &'static str,
    /// What was recorded; `None` where it was not.
    pub recorded: Option<f64>,
    /// The acting policy simulated.
    pub acting: Mean,
    /// The other one.
    pub other: Mean,
    /// The other less the acting, seed by seed.
    pub difference: Mean,
}

impl Serialize for Line {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written {
            measure: &'static str,
            recorded: Option<f64>,
            acting: Mean,
            other: Mean,
            difference: Mean,
            error: Option<f64>,
            ruled: Ruled,
        }
        let Self { measure, recorded, acting, other, difference } = self.clone();
        Written { measure, recorded, acting, other, difference, error: self.error(), ruled: self.ruled() }.serialize(serializer)
    }
}

/// Violations and cost of pairs of runs, the acting policy's first.
pub fn lines(recorded: &Came, runs: &[(Came, Came)]) -> anyhow::Result<Vec<Line>> {
    let line = |measure: &'static str, of: fn(&Came) -> Option<f64>| {
        let pairs: Vec<(f64, f64)> = runs.iter().filter_map(|(acting, other)| Some((of(acting)?, of(other)?))).collect();
        anyhow::ensure!(!pairs.is_empty(), "{measure}: nothing was answered in any simulated run; is there any load since --since?");
        let mean = |of: fn(&(f64, f64)) -> f64, name: &str| Mean::of(pairs.iter().map(of).collect(), &format!("{measure} {name}"));
        Ok(Line {
            measure,
            recorded: of(recorded),
            acting: mean(|pair| pair.0, "acting")?,
            other: mean(|pair| pair.1, "other")?,
            difference: mean(|pair| pair.1 - pair.0, "difference")?,
        })
    };
    Ok(vec![line(VIOLATED, Came::violated_share)?, line(COST, Came::cost_per_hour)?])
}

const VIOLATED: &str = "violated_share";
const COST: &str = "cost_per_hour";

impl Line {
    /// How much more the simulation of the acting policy shows than was recorded.
    pub fn error(&self) -> Option<f64> {
        Some(self.acting.mean - self.recorded?)
    }

    /// What it says of the two.
    pub fn ruled(&self) -> Ruled {
        let Mean { mean, low, high } = self.difference;
        match self.error() {
            _ if low <= 0.0 && high >= 0.0 => Ruled::Chance,
            None => Ruled::Unchecked,
            Some(error) if error.abs() >= mean.abs() => Ruled::WithinError,
            Some(_) => Ruled::Told,
        }
    }

    /// What it is, for people.
    pub fn heading(&self, currency: &str) -> String {
        if self.measure == COST { format!("cost, {currency} an hour") } else { "ticks in violation, %".to_owned() }
    }

    /// A value, in the unit of the heading.
    pub fn shown(&self, value: f64) -> String {
        if self.measure == COST { format!("{value:.4}") } else { format!("{:.1}", value * 100.0) }
    }

    fn signed(&self, value: f64) -> String {
        format!("{}{}", if value < 0.0 { "-" } else { "+" }, self.shown(value.abs()))
    }

    /// A mean with its interval.
    pub fn range(&self, mean: &Mean) -> String {
        format!("{} ({} to {})", self.shown(mean.mean), self.shown(mean.low), self.shown(mean.high))
    }

    /// The same with signs.
    pub fn signed_range(&self, mean: &Mean) -> String {
        format!("{} ({} to {})", self.signed(mean.mean), self.signed(mean.low), self.signed(mean.high))
    }

    /// What it says, plainly; `other` is the policy that does not act.
    pub fn sentence(&self, other: &str) -> String {
        let (what, more, less, unit) = match self.measure {
            COST => ("Cost", "cost more", "cost less", ""),
            _ => ("Violations", "violate more", "violate less", " percentage points"),
        };
        let would = if self.difference.mean > 0.0 { more } else { less };
        let difference = format!("{}{unit}", self.shown(self.difference.mean.abs()));
        let error = self.error().map_or_else(String::new, |error| format!("{}{unit}", self.signed(error)));
        match self.ruled() {
            Ruled::Told => {
                format!(
                    "{what}: {other} would {would}, by {difference}. On the acting policy the simulation errs by {error}, which is less."
                )
            }
            Ruled::Chance => format!("{what}: no difference that chance would not make."),
            Ruled::WithinError => format!(
                "{what}: on the acting policy the simulation errs by {error}, which is more than the difference of {difference}: it cannot tell \
                 whether {other} would {would}."
            ),
            Ruled::Unchecked => {
                format!("{what}: simulated, {other} would {would}, by {difference}; nothing was recorded to hold the simulation against.")
            }
        }
    }
}

/// What to say where others than the acting agent decided what was in force.
pub fn decided_by_others(rewards: &[Reward], agent: &Name) -> Option<String> {
    let deciders = rewards.iter().filter_map(|reward| reward.decided_by.as_ref());
    let all = deciders.clone().count() as f64;
    let others = deciders.filter(|decider| decider.agent != *agent || decider.source != Source::Agent).count() as f64;
    let share = others / all.max(1.0);
    (share > SOME).then(|| {
        format!(
            "what was recorded is {agent}'s doing; in {}% of the ticks somebody else had decided what was in force (another agent, the fallback, an operator)",
            show::number(share * 100.0)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(recorded: Option<f64>, acting: &[f64], other: &[f64]) -> Line {
        let difference = acting.iter().zip(other).map(|(acting, other)| other - acting).collect();
        let mean = |values: &[f64], name: &str| Mean::of(values.to_vec(), name).expect("finite");
        Line {
            measure: VIOLATED,
            recorded,
            acting: mean(acting, "acting"),
            other: mean(other, "other"),
            difference: Mean::of(difference, "difference").expect("finite"),
        }
    }

    #[test]
    fn a_difference_counts_where_it_is_beyond_chance_and_error() {
        let (acting, other) = ([0.10, 0.11, 0.12, 0.11], [0.04, 0.05, 0.05, 0.04]);
        let told = line(Some(0.10), &acting, &other);
        assert_eq!(told.ruled(), Ruled::Told);
        assert!(
            told.sentence("hpa").starts_with("Violations: hpa would violate less, by 6.5 percentage points. On"),
            "{}",
            told.sentence("hpa")
        );
        let blurred = line(Some(0.25), &acting, &other);
        assert_eq!(blurred.ruled(), Ruled::WithinError);
        let sentence = blurred.sentence("hpa");
        assert!(
            sentence.contains("errs by -14.0 percentage points") && sentence.contains("more than the difference of 6.5 percentage points"),
            "{sentence}"
        );
        assert_eq!(line(None, &acting, &other).ruled(), Ruled::Unchecked);
        assert_eq!(line(Some(0.1), &acting, &[0.09, 0.12, 0.11, 0.12]).ruled(), Ruled::Chance);
        assert_eq!(line(Some(0.1), &acting, &acting).ruled(), Ruled::Chance, "nothing is no difference");
    }

    #[test]
    fn programs_get_the_error_and_the_ruling() {
        let written = serde_json::to_value(line(Some(0.05), &[0.1, 0.1], &[0.0, 0.0])).expect("writes");
        assert_eq!((&written["error"], &written["ruled"]), (&0.05.into(), &"told".into()));
        assert_eq!(written["difference"]["mean"], -0.1);
    }

    #[test]
    fn who_else_decided_is_told() {
        let text = include_str!("../../../../common/tests/golden/reward.full.json");
        let reward: Reward = serde_json::from_str(text).expect("golden");
        let agent = reward.decided_by.clone().expect("decided").agent;
        let mut other = reward.clone();
        other.decided_by.as_mut().expect("decided").source = Source::Operator;
        let mine = Reward {
            decided_by: reward.decided_by.clone().map(|decider| qscale_common::contract::Decider { source: Source::Agent, ..decider }),
            ..reward
        };
        assert_eq!(decided_by_others(&[mine.clone(), mine.clone()], &agent), None);
        let told = decided_by_others(&[mine, other], &agent).expect("half of it");
        assert!(told.contains("in 50% of the ticks"), "{told}");
    }
}
