//! Cost-violation curves of a recorded function: every setting of every competitor, simulated over the recorded arrivals. Owns the runs; pure.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use anyhow::{Context as _, ensure};
use qscale_dqn::{Checkpoint, registry};
use qscale_evaluate::curve::{CostCurve, CurvePoint, curves_of};
use qscale_evaluate::suite::CompetitorEntry;
use qscale_policies::Policy;
use qscale_rl::device::cpu;

use super::simulation::{RecordedSimulation, RunMetrics};

/// Settings of the runs.
pub struct CurveRuns<'a> {
    /// Competitors, each with one setting, as [`qscale_evaluate::Suite::with_each_setting`] lists them. Planners that know the future are left out: the
    /// requests between two States are not recorded.
    pub competitors: &'a [CompetitorEntry],
    /// Model of the learned policy; `None` for the bundled one.
    pub model: Option<&'a Checkpoint>,
    /// Runs of each setting, at least 1.
    pub seeds: u64,
    /// Threads that simulate; they do not change the results.
    pub threads: NonZeroUsize,
    /// Ends the runs early.
    pub stop: &'a AtomicBool,
}

impl CurveRuns<'_> {
    /// Simulates every setting over the arrivals of `simulation`; `None` if stopped. `progress` is called with the numbers of finished and of all runs.
    ///
    /// # Errors
    /// A parameter that a policy refuses; no run with a request.
    pub fn curves(&self, simulation: &RecordedSimulation, mut progress: impl FnMut(u64, u64)) -> anyhow::Result<Option<Vec<CostCurve>>> {
        let known = |entry: &&CompetitorEntry| registry::names().any(|name| name == entry.policy);
        let competitors: Vec<&CompetitorEntry> = self.competitors.iter().filter(known).collect();
        let policy = |entry: &&CompetitorEntry| {
            registry::by_name(&entry.policy, &entry.params, self.model, &cpu()).with_context(|| format!("competitor {}", entry.called()))
        };
        let policies: Vec<Box<dyn Policy>> = competitors.iter().map(policy).collect::<anyhow::Result<_>>()?;
        let all = policies.len() as u64 * self.seeds;
        let next = AtomicUsize::new(0);
        let (sender, receiver) = mpsc::channel();
        let found = std::thread::scope(|scope| {
            for _ in 0..self.threads.get() {
                let (sender, policies, next) = (sender.clone(), &policies, &next);
                scope.spawn(move || {
                    loop {
                        let run = next.fetch_add(1, Ordering::Relaxed) as u64;
                        if run >= all {
                            return;
                        }
                        let setting = (run / self.seeds) as usize;
                        let Some(metrics) = simulation.run(&*policies[setting], run % self.seeds, self.stop) else { return };
                        if sender.send((run, metrics)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            let mut found: Vec<(u64, RunMetrics)> = Vec::new();
            for run in receiver {
                found.push(run);
                progress(found.len() as u64, all);
            }
            found
        });
        if self.stop.load(Ordering::Relaxed) || found.len() as u64 != all {
            return Ok(None);
        }
        let mut found = found;
        found.sort_by_key(|(run, _)| *run);
        let runs: Vec<RunMetrics> = found.into_iter().map(|(_, metrics)| metrics).collect();
        let points = competitors.iter().zip(runs.chunks(self.seeds as usize));
        let curves = curves_of(points.filter_map(|(entry, runs)| Some((entry.called(), false, point(entry, runs)?))));
        ensure!(
            !curves.is_empty(),
            "no simulated run has a violation or a cost: no request completed or failed; is there any load since --since?"
        );
        Ok(Some(curves))
    }
}

/// Means over `runs`; `None` without a value.
fn point(entry: &CompetitorEntry, runs: &[RunMetrics]) -> Option<CurvePoint> {
    let mean = |of: fn(&RunMetrics) -> Option<f64>| {
        let values: Vec<f64> = runs.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    Some(CurvePoint {
        params: entry.params.clone(),
        violated_share: mean(RunMetrics::violated_share)?,
        cost_per_hour: mean(RunMetrics::cost_per_hour)?,
        actions_per_hour: mean(|run| Some(run.changes_per_hour()))?,
        is_on_curve: false,
        is_on_front: false,
    })
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::State;
    use qscale_common::policy::ScalingPolicy;
    use qscale_common::time::Timestamp;
    use qscale_sim::{Distribution, FunctionProfile, Gateway, Nanos};
    use serde_json::json;

    use super::*;
    use crate::compare::simulation::apply_state;
    use crate::fixtures::{BEGIN, state};

    fn simulation() -> RecordedSimulation {
        let states: Vec<State> = (0..60).map(|tick| state(tick, 80.0)).collect();
        let mut policy = ScalingPolicy::new("f".parse().expect("valid"));
        apply_state(&mut policy, &states[0]).expect("valid");
        let profile = FunctionProfile::simple("f", Distribution::constant(Nanos::millis(10)));
        RecordedSimulation::new(&states, Timestamp(0), Timestamp(BEGIN + 50_000), policy, profile, Gateway::default()).expect("valid").0
    }

    fn settings() -> Vec<CompetitorEntry> {
        let setting = |number: u32, replicas: u32| CompetitorEntry {
            name: Some(format!("static#{number}")),
            params: json!({ "replicas": replicas, "cpu_millicores": 400 }),
            ..CompetitorEntry::plain("static")
        };
        vec![setting(0, 1), setting(1, 2), setting(2, 4), CompetitorEntry::plain("hpa"), CompetitorEntry::plain("clairvoyant")]
    }

    fn runs<'a>(competitors: &'a [CompetitorEntry], threads: usize, stop: &'a AtomicBool) -> CurveRuns<'a> {
        CurveRuns { competitors, model: None, seeds: 2, threads: NonZeroUsize::new(threads).expect("not zero"), stop }
    }

    #[test]
    fn each_setting_is_a_point_of_its_competitor() {
        let (settings, stop, mut seen) = (settings(), AtomicBool::new(false), 0);
        let curves = runs(&settings, 2, &stop).curves(&simulation(), |done, all| seen = seen.max(done * 100 + all)).expect("valid");
        let curves = curves.expect("not stopped");
        let counts: Vec<_> = curves.iter().map(|curve| (curve.name.as_str(), curve.points.len())).collect();
        assert_eq!((counts, seen), (vec![("static", 3), ("hpa", 1)], 808));
        let points = &curves[0].points;
        assert!(points[0].violated_share > points[2].violated_share && points[0].cost_per_hour < points[2].cost_per_hour, "{points:?}");
        assert_eq!(points[1].params["replicas"], 2);
        assert_eq!(runs(&settings, 1, &stop).curves(&simulation(), |_, _| {}).expect("valid"), Some(curves));
    }

    #[test]
    fn a_stop_and_an_invalid_setting_give_no_curves() {
        let settings = settings();
        assert_eq!(runs(&settings, 1, &AtomicBool::new(true)).curves(&simulation(), |_, _| {}).expect("valid"), None);
        let wrong = [CompetitorEntry { params: json!({ "replicas": -1 }), ..CompetitorEntry::plain("static") }];
        let error = runs(&wrong, 1, &AtomicBool::new(false)).curves(&simulation(), |_, _| {}).expect_err("refused");
        assert!(format!("{error:#}").contains("competitor static"), "{error:#}");
    }
}
