//! Figures of the study: time series under each load, and learning curves. Owns what is drawn; axes and colours belong
//! to `qscale_evaluate::report`.

use qscale_evaluate::report::{Curve, Panel, chart};

use super::experiment::{EPISODE, Experiment, ExperimentKind, Site, StudyLoad};
use super::learn::LearningCurve;
use super::run::{StudyRun, StudySeries};

/// Largest latency drawn, in multiples of the objective, so that values near it remain visible.
const DRAWN: f64 = 4.0;

/// Time series of all competitors under `load`, means over seeds, as SVG; `None` without runs.
pub fn time_series(experiment: Experiment, load: &StudyLoad, competitors: &[&'static str], runs: &[StudyRun]) -> Option<String> {
    let policy = experiment.policy();
    let end_of = |tick: usize| (tick + 1) as f64 * experiment.tick().as_secs_f64();
    let (percentile, bound_ms) = (policy.objective.percentile.get(), policy.objective.latency.get().as_secs_f64() * 1000.0);
    let of = |competitor: &str| {
        runs.iter().filter(|run| run.load == load.name && run.competitor == competitor).map(|run| &run.series).collect::<Vec<_>>()
    };
    let each = |column: &dyn Fn(&StudySeries, usize) -> Option<f64>| {
        let curve = |competitor: &&'static str| {
            let of_runs = of(competitor);
            let points =
                (0..experiment.ticks() as usize).map(|tick| (end_of(tick), mean(of_runs.iter().filter_map(|series| column(series, tick)))));
            Curve { name: (*competitor).to_owned(), points: points.collect() }
        };
        competitors.iter().filter(|competitor| !of(competitor).is_empty()).map(curve).collect::<Vec<_>>()
    };
    let any = runs.iter().find(|run| run.load == load.name)?;
    let offered = any.series.offered_rps.iter().enumerate().map(|(tick, rate)| (end_of(tick), *rate)).collect();
    let objective = Curve { name: "objective".into(), points: vec![(0.0, bound_ms), (end_of(experiment.ticks() as usize - 1), bound_ms)] };
    let mut latency = each(&|series, tick| series.latency_ms.get(tick).copied().flatten().map(|ms| ms.min(DRAWN * bound_ms)));
    latency.push(objective);
    let mut throughput = each(&|series, tick| series.throughput_rps.get(tick).copied());
    throughput.push(Curve { name: "offered".into(), points: offered });
    let allocated = match experiment.kind {
        ExperimentKind::Horizontal => Panel { label: "replicas".into(), curves: each(&|series, tick| series.replicas.get(tick).copied()) },
        ExperimentKind::Vertical => {
            Panel { label: "CPU limit, cores".into(), curves: each(&|series, tick| series.cores.get(tick).copied()) }
        }
    };
    let panels = [
        Panel { label: format!("p{percentile} latency, ms, at most {:.0}", DRAWN * bound_ms), curves: latency },
        Panel { label: "answered a second".into(), curves: throughput },
        allocated,
    ];
    let site = if experiment.site == Site::Simulator { "" } else { ", on this machine" };
    let title = format!("fibonacci {}{site}, load {}: {}", experiment.kind.name(), load.name, load.pattern);
    Some(chart(&title, "seconds", &panels))
}

/// Training reward a tick by episode, and the level of competitors that do not learn here, means over seeds.
pub fn learning(kind: ExperimentKind, competitors: &[&'static str], all: &[LearningCurve]) -> String {
    let curve = |competitor: &&'static str| {
        let own: Vec<&LearningCurve> = all.iter().filter(|learning| learning.competitor == *competitor).collect();
        let earned = |episode: usize| mean(own.iter().filter_map(|learning| learning.reward.get(episode).copied()));
        let episodes = own.iter().map(|learning| learning.reward.len()).max()?;
        let last = all.iter().map(|learning| learning.reward.len()).max().unwrap_or(1);
        // A competitor that does not learn is a constant line.
        let points = match episodes {
            1 => vec![(1.0, earned(0)), (last as f64, earned(0))],
            _ => (0..episodes).map(|episode| (episode as f64 + 1.0, earned(episode))).collect(),
        };
        Some(Curve { name: (*competitor).to_owned(), points })
    };
    let panel = Panel { label: "reward a tick".into(), curves: competitors.iter().filter_map(curve).collect() };
    chart(&format!("fibonacci {}: what agents earn while they learn", kind.name()), &format!("episodes of {EPISODE} ticks"), &[panel])
}

/// Mean of the values; NaN without values, which interrupts a curve.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    sum / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_competitor_that_does_not_learn_is_a_constant_line() {
        let learning_of = |competitor, reward: &[f64]| LearningCurve { competitor, seed: 1, reward: reward.into() };
        let all = [learning_of("rule", &[-1.0]), learning_of("agent", &[-3.0, -2.0, -0.5])];
        let svg = learning(ExperimentKind::Horizontal, &["rule", "agent", "absent"], &all);
        let path = |number: usize| {
            svg.split(&format!("class=\"line k{number}\" d=\""))
                .nth(1)
                .expect("a curve")
                .split('"')
                .next()
                .map(|path| path.matches('L').count())
        };
        assert_eq!((path(0), path(1)), (Some(1), Some(2)));
        assert!(!svg.contains("absent"));
        let experiment = Experiment { kind: ExperimentKind::Vertical, site: Site::Simulator };
        assert_eq!(time_series(experiment, &experiment.loads()[0], &["rule"], &[]), None);
    }
}
