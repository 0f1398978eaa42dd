//! Policies that can compete: rules by name, and the bound that knows the future. Owns their construction for a run; must not decide.

use std::time::Duration;

use qscale_common::time::Span;
use qscale_common::units::Mebibytes;
use qscale_policies::clairvoyant::{Clairvoyant, ClairvoyantParams, Facts, Forecast, IntervalLoad};
use qscale_policies::{Policy, PolicyError, by_name};
use qscale_sim::latency::{HistogramPosition, LatencyHistogram};
use qscale_sim::profile::Demands;
use qscale_sim::rng::{Purpose, stream};
use qscale_sim::simulation::BEGIN;
use qscale_sim::{Nanos, Setup};
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

    /// Whether the policy called `name` is a bound with knowledge of the future, not a competitor.
    fn is_bound(&self, name: &str) -> bool;
}

/// The rules, and the clairvoyant.
#[derive(Debug, Clone, Copy, Default)]
pub struct RulePolicies;

/// Name of the policy that knows the future.
pub const CLAIRVOYANT: &str = "clairvoyant";

impl PolicySet for RulePolicies {
    fn policy(&self, name: &str, params: &Value, context: Option<&RunContext<'_>>) -> Result<Box<dyn Policy>, PolicyError> {
        if name != CLAIRVOYANT {
            return by_name(name, params);
        }
        let refused = |reason: String| PolicyError::Parameters { policy: CLAIRVOYANT.to_owned(), reason };
        let params: ClairvoyantParams = qscale_common::document::from_value(params.clone()).map_err(|error| refused(error.to_string()))?;
        let forecast = context.map_or_else(no_load, true_forecast);
        Ok(Box::new(Clairvoyant::new(&forecast, params).map_err(|error| refused(error.to_string()))?))
    }

    fn is_bound(&self, name: &str) -> bool {
        name == CLAIRVOYANT
    }
}

const SECOND: Span = Span::seconds(1);

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
