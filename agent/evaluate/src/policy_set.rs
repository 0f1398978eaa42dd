//! Policies that can compete: rules by name, and the planners that know the future. Owns their construction for a run; must not decide.

use std::time::Duration;

use qscale_common::time::Span;
use qscale_common::units::Mebibytes;
use qscale_policies::clairvoyant::{Clairvoyant, ClairvoyantParams, Facts, Forecast, IntervalLoad};
use qscale_policies::{Policy, PolicyError, by_name};
use qscale_sim::latency::{HistogramPosition, LatencyHistogram};
use qscale_sim::profile::{Demands, ProfileScale};
use qscale_sim::rng::{Purpose, stream};
use qscale_sim::simulation::BEGIN;
use qscale_sim::{Nanos, Setup, SimulatedLoad};
use serde_json::Value;

/// The run that a policy is made for.
#[derive(Debug, Clone, Copy)]
pub struct RunContext<'a> {
    /// Setup of the simulation.
    pub setup: &'a Setup,
    /// Seed of the run.
    pub seed: u64,
    /// Number of the function's random streams.
    pub index: u64,
    /// Length of the run.
    pub length: Duration,
}

/// Constructs policies by name.
pub trait PolicySet: Sync {
    /// The policy called `name` with `params`, for one run. Only a bound uses `context`.
    ///
    /// # Errors
    /// An unknown name, or parameters that the policy refuses.
    fn policy(&self, name: &str, params: &Value, context: Option<&RunContext<'_>>) -> Result<Box<dyn Policy>, PolicyError>;

    /// Knowledge of the future of the policy called `name`; `None` for a competitor.
    fn knowledge(&self, name: &str) -> Option<FutureKnowledge>;
}

/// Knowledge of the future of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FutureKnowledge {
    /// Every request.
    Requests,
    /// The rate of requests and their mean demand, by second for a pattern and by minute for a trace, but not single requests.
    Rates,
}

/// The rules, and the planners that know the future.
#[derive(Debug, Clone, Copy, Default)]
pub struct RulePolicies;

/// Name of the planner that knows every request.
pub const CLAIRVOYANT: &str = "clairvoyant";
/// Name of the same planner where it knows the rates only.
pub const KNOWN_RATES: &str = "known-rates";

impl PolicySet for RulePolicies {
    fn policy(&self, name: &str, params: &Value, context: Option<&RunContext<'_>>) -> Result<Box<dyn Policy>, PolicyError> {
        let Some(knowledge) = self.knowledge(name) else { return by_name(name, params) };
        let refused = |reason: String| PolicyError::Parameters { policy: name.to_owned(), reason };
        let params: ClairvoyantParams = qscale_common::document::from_value(params.clone()).map_err(|error| refused(error.to_string()))?;
        let forecast = match (context, knowledge) {
            (None, _) => no_load(),
            (Some(context), FutureKnowledge::Requests) => true_forecast(context),
            (Some(context), FutureKnowledge::Rates) => rate_forecast(context),
        };
        Ok(Box::new(Clairvoyant::new(&forecast, params).map_err(|error| refused(error.to_string()))?))
    }

    fn knowledge(&self, name: &str) -> Option<FutureKnowledge> {
        match name {
            CLAIRVOYANT => Some(FutureKnowledge::Requests),
            KNOWN_RATES => Some(FutureKnowledge::Rates),
            _ => None,
        }
    }
}

const SECOND: Span = Span::seconds(1);
/// Requests from which a mean demand is estimated.
const DEMANDS: u32 = 2_000;

/// A forecast without load, enough to check parameters.
fn no_load() -> Forecast {
    let none = Span::millis(0);
    let function = Facts {
        request_cpu: none,
        request_waiting: none,
        startup_cpu: none,
        startup_waiting: none,
        workers: 1,
        parallelism: 1,
        memory_mib: Mebibytes(1),
    };
    Forecast { begin: BEGIN, interval: SECOND, intervals: Vec::new(), function }
}

/// The true arrivals and demands of a run, drawn in advance from the same streams.
fn true_forecast(context: &RunContext<'_>) -> Forecast {
    let RunContext { setup, seed, index, length } = *context;
    let mut source = setup.load.source(stream(seed, index, Purpose::Arrivals));
    let mut rng = stream(seed, index, Purpose::Demands);
    let mut scale = setup.perturbation.scale_at(Nanos::ZERO);
    let mut demands = Demands::new(&setup.profile, scale);
    let mut intervals = vec![IntervalLoad::default(); length.as_secs() as usize + 1];
    let (mut cpu, mut waiting) = (LatencyHistogram::default(), LatencyHistogram::default());
    while let Some((at, demand)) = source.take() {
        let Some(interval) = intervals.get_mut((at.0 / 1_000_000_000) as usize) else { break };
        let scale_now = setup.perturbation.scale_at(at);
        if scale_now != scale {
            (scale, demands) = (scale_now, Demands::new(&setup.profile, scale_now));
        }
        let demand = demand.unwrap_or_else(|| demands.request(&mut rng));
        interval.arrivals += 1.0;
        interval.cpu_seconds += demand.cpu.seconds();
        interval.waiting_seconds += demand.waiting.seconds();
        cpu.add(HistogramPosition::of(demand.cpu));
        waiting.add(HistogramPosition::of(demand.waiting));
    }
    Forecast { begin: BEGIN, interval: SECOND, intervals, function: facts(setup, &cpu, &waiting) }
}

/// The expected arrivals and demands of a run.
fn rate_forecast(context: &RunContext<'_>) -> Forecast {
    let mut forecast = true_forecast(context);
    let setup = context.setup;
    match &setup.load {
        SimulatedLoad::Pattern { .. } | SimulatedLoad::Counts { .. } => {
            let mut known: Vec<(ProfileScale, IntervalLoad)> = Vec::new();
            for (second, interval) in forecast.intervals.iter_mut().enumerate() {
                let middle = Duration::from_secs(second as u64) + Duration::from_millis(500);
                let scale = setup.perturbation.scale_at(middle.into());
                let one = match known.iter().find(|(other, _)| *other == scale) {
                    Some((_, one)) => *one,
                    None => {
                        known.push((scale, mean_demand(setup, scale)));
                        known[known.len() - 1].1
                    }
                };
                let arrivals = setup.load.rate_at(middle).unwrap_or(0.0);
                *interval =
                    IntervalLoad { arrivals, cpu_seconds: arrivals * one.cpu_seconds, waiting_seconds: arrivals * one.waiting_seconds };
            }
        }
        SimulatedLoad::Trace { scale, .. } | SimulatedLoad::Rows { scale, .. } => {
            // A minute of the trace is shorter where the trace is played faster.
            let seconds = (60.0 / scale.time).round().clamp(1.0, 1e6) as usize;
            for minute in forecast.intervals.chunks_mut(seconds) {
                let mean = |of: fn(&IntervalLoad) -> f64| minute.iter().map(of).sum::<f64>() / minute.len() as f64;
                let expected = IntervalLoad {
                    arrivals: mean(|interval| interval.arrivals),
                    cpu_seconds: mean(|interval| interval.cpu_seconds),
                    waiting_seconds: mean(|interval| interval.waiting_seconds),
                };
                minute.fill(expected);
            }
        }
    }
    forecast
}

/// Mean demand of a request of the profile, from [`DEMANDS`] of them.
fn mean_demand(setup: &Setup, scale: ProfileScale) -> IntervalLoad {
    let (demands, mut rng) = (Demands::new(&setup.profile, scale), stream(0, 0, Purpose::Demands));
    let mut sum = IntervalLoad { arrivals: 1.0, ..IntervalLoad::default() };
    for _ in 0..DEMANDS {
        let demand = demands.request(&mut rng);
        sum.cpu_seconds += demand.cpu.seconds() / f64::from(DEMANDS);
        sum.waiting_seconds += demand.waiting.seconds() / f64::from(DEMANDS);
    }
    sum
}

fn facts(setup: &Setup, cpu: &LatencyHistogram, waiting: &LatencyHistogram) -> Facts {
    let (profile, share) = (&setup.profile, setup.policy.objective.percentile.get() / 100.0);
    let usual = |histogram: &LatencyHistogram| Span(histogram.quantile(share, 0).unwrap_or(Nanos::ZERO).into());
    let startup = |mean: Nanos| Span(Duration::from(mean).mul_f64(setup.perturbation.startup));
    let taken = if setup.gateway.concurrency == 0 { profile.workers.max(1) } else { setup.gateway.concurrency };
    let workers = if profile.workers == 0 { setup.gateway.concurrency } else { profile.workers.min(taken) };
    let margin = setup.policy.guard.working_set_margin.get();
    let needed = Mebibytes::from_bytes((profile.memory.working_set(taken) as f64 * margin) as u64);
    Facts {
        request_cpu: usual(cpu),
        request_waiting: usual(waiting),
        startup_cpu: startup(profile.startup.cpu.mean()),
        startup_waiting: startup(profile.startup.waiting.mean()),
        workers,
        parallelism: profile.parallelism.max(1),
        memory_mib: Mebibytes(needed.0 + 1),
    }
}
