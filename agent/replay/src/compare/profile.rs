//! A function profile estimated from recorded States. Owns the estimators and the assumptions they make; pure.

use qscale_common::contract::State;
use qscale_common::text::latency;
use qscale_common::units::Mebibytes;
use qscale_sim::profile::{MemoryProfile, Startup};
use qscale_sim::{Distribution, FunctionProfile, Nanos};
use thiserror::Error;

/// Maximum throttled share and queue length of a tick that latency is estimated from; beyond them latency measures the queue.
const MAX_THROTTLED_SHARE: f64 = 0.01;
const MAX_QUEUED: f64 = 0.5;
/// Standard deviations from the median of a normal distribution to its 95th percentile.
const TO_P95: f64 = 1.645;
/// Largest standard deviation of log service time; wider ones were not observed in practice.
const MAX_SIGMA: f64 = 1.5;
/// Startup time if no start was observed.
const DEFAULT_STARTUP: Nanos = Nanos::millis(1000);

/// No State has both completed requests and CPU use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "CPU time per request is unknown: no tick has both completed requests and CPU use; measure it with `qscale profile` and pass --profile FILE"
)]
pub struct NoCpuTime;

/// A profile with the assumptions behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileEstimate {
    /// The profile.
    pub profile: FunctionProfile,
    /// Assumptions, in sentences.
    pub assumptions: Vec<String>,
}

impl ProfileEstimate {
    /// Estimates the profile of the function that published `states`.
    ///
    /// # Errors
    /// [`NoCpuTime`].
    pub fn from_states(states: &[State]) -> anyhow::Result<Self> {
        let (profile, assumptions) = estimate(states)?;
        Ok(Self { profile, assumptions })
    }
}

fn estimate(states: &[State]) -> anyhow::Result<(FunctionProfile, Vec<String>)> {
    let cpu = request_cpu(states).ok_or(NoCpuTime)?;
    let mut assumptions =
        vec![format!("a request uses {} of CPU time: CPU use divided by completed requests, idle use included", latency(cpu * 1000.0))];
    let (waiting, sigma) = waiting(states, cpu, &mut assumptions);
    let startup = startup(states, cpu, &mut assumptions);
    let memory = middle(states.iter().filter_map(|state| Some((state.windows.tick.memory_mib?.max, 1.0))).collect());
    let most_cores =
        states.iter().filter_map(|state| state.windows.tick.cpu_millicores).map(|usage| usage.max / 1000.0).fold(0.0, f64::max);
    // A reading over a tick may slightly exceed the quota.
    let cores = ((most_cores - 0.1).ceil().clamp(1.0, 1024.0)) as u32;
    assumptions.push(format!("a replica processes {cores} request{} concurrently, one core each", if cores == 1 { "" } else { "s" }));
    let median = Nanos::from_seconds(cpu / (sigma * sigma / 2.0).exp());
    let profile = FunctionProfile {
        name: states.last().map_or_else(String::new, |state| state.function.to_string()),
        source: "estimated from recorded States".to_owned(),
        cpu: Distribution::log_normal(median, sigma)?,
        waiting: Distribution::constant(Nanos::from_seconds(waiting)),
        startup,
        workers: cores,
        parallelism: cores,
        memory: memory
            .map_or_else(MemoryProfile::default, |mib| MemoryProfile { base_mib: Mebibytes((mib.ceil() as u32).max(1)), request_kib: 0 }),
    };
    Ok((profile, assumptions))
}

/// CPU time per request, seconds: from ticks without a starting replica if there are any.
fn request_cpu(states: &[State]) -> Option<f64> {
    let measured = |state: &State| CpuUse::of(state).map(|used| (used.cpu_s / used.requests, used.requests));
    let starting = |state: &State| state.replicas.is_none_or(|counts| counts.pending.0 > 0) || state.changes.horizontal_ticks == Some(0);
    let settled = states.windows(2).filter(|pair| !starting(&pair[0]) && !starting(&pair[1]));
    middle(settled.filter_map(|pair| measured(&pair[1])).collect()).or_else(|| middle(states.iter().filter_map(measured).collect()))
}

/// CPU time used and requests completed in a tick.
struct CpuUse {
    cpu_s: f64,
    requests: f64,
}

impl CpuUse {
    /// `None` if either is unknown or no request completed.
    fn of(state: &State) -> Option<Self> {
        let window = &state.windows.tick;
        let seconds = window.covered_ms as f64 / 1000.0;
        let requests = qscale_policies::answered_rps(window)? * seconds;
        let cpu_s = state.cores_used(window)? * seconds;
        (requests > 0.0).then_some(Self { cpu_s, requests })
    }
}

/// Time a request waits for other services, seconds, and the standard deviation of its log service time: from ticks without a queue.
fn waiting(states: &[State], cpu: f64, assumptions: &mut Vec<String>) -> (f64, f64) {
    let calm = |state: &&State| {
        let window = &state.windows.tick;
        window.queued.unwrap_or(0.0) <= MAX_QUEUED && window.throttled_share.unwrap_or(0.0) <= MAX_THROTTLED_SHARE
    };
    let times = |state: &State| {
        let latency = state.windows.tick.latency.filter(|latency| latency.p50_ms > 0.0)?;
        let answers = state.windows.tick.completed_rps.unwrap_or(1.0);
        Some(((latency.p50_ms / 1000.0, answers), ((latency.p95_ms / latency.p50_ms).ln() / TO_P95, answers)))
    };
    let (medians, sigmas): (Vec<_>, Vec<_>) = states.iter().filter(calm).filter_map(times).unzip();
    let (Some(median), Some(sigma)) = (middle(medians), middle(sigmas)) else {
        assumptions.push("requests do not wait and all use the same CPU time: latency without a queue was never observed".to_owned());
        return (0.0, 0.0);
    };
    let (waiting, sigma) = ((median - cpu).max(0.0), sigma.clamp(0.0, MAX_SIGMA));
    assumptions.push(format!(
        "a request waits {} besides its CPU time, which is log-normal with sigma {sigma:.2}: from latency without a queue",
        latency(waiting * 1000.0)
    ));
    (waiting, sigma)
}

/// Startup time: the observed one. Its CPU time is the CPU use not explained by requests, at the CPU that replicas mostly had.
fn startup(states: &[State], request_cpu: f64, assumptions: &mut Vec<String>) -> Startup {
    let given = middle(states.iter().filter_map(|state| Some((state.allocation?.cpu_millicores.cores(), 1.0))).collect()).unwrap_or(1.0);
    let Some(whole) = middle(states.iter().filter_map(|state| Some((state.startup_ms? as f64 / 1000.0, 1.0))).collect()) else {
        assumptions.push(format!("startup takes {}: no start was observed", latency(DEFAULT_STARTUP.seconds() * 1000.0)));
        return Startup { cpu: Distribution::ZERO, waiting: Distribution::constant(DEFAULT_STARTUP) };
    };
    let replicas = states.iter().filter_map(|state| state.allocation).map(|given| given.replicas.0);
    let starts: u32 = replicas.clone().zip(replicas.skip(1)).map(|(before, after)| after.saturating_sub(before)).sum();
    let beyond: f64 = states.iter().filter_map(CpuUse::of).map(|used| used.cpu_s - used.requests * request_cpu).sum();
    let cpu = (beyond / f64::from(starts.max(1))).clamp(0.0, whole * given);
    assumptions.push(format!(
        "startup uses {} of CPU time: the CPU use not explained by requests, over {starts} starts; with {:.0}m it takes the observed {}",
        latency(cpu * 1000.0),
        given * 1000.0,
        latency(whole * 1000.0)
    ));
    let constant = |seconds| Distribution::constant(Nanos::from_seconds(seconds));
    Startup { cpu: constant(cpu), waiting: constant((whole - cpu / given.max(0.001)).max(0.0)) }
}

/// Weighted median; `None` if there are no values.
fn middle(mut weighted: Vec<(f64, f64)>) -> Option<f64> {
    weighted.retain(|(value, weight)| value.is_finite() && *weight > 0.0);
    weighted.sort_by(|one, other| one.0.total_cmp(&other.0));
    let half = weighted.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
    let mut below = 0.0;
    weighted
        .iter()
        .find(|(_, weight)| {
            below += weight;
            below >= half
        })
        .map(|(value, _)| *value)
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::{Latency, Usage};
    use qscale_common::units::{Allocation, Replicas};

    use super::*;
    use crate::fixtures::state;

    /// Ticks of a function whose requests use 10 ms of CPU time and take 14 ms.
    fn states() -> Vec<State> {
        let seen = |tick| {
            let mut state = state(tick, 40.0);
            state.windows.tick.latency = Some(Latency { p50_ms: 14.0, p95_ms: 20.0, p99_ms: 25.0, objective_ms: 20.0 });
            state.startup_ms = Some(700);
            state
        };
        (0..40).map(seen).collect()
    }

    #[test]
    fn estimates_the_recorded_figures() {
        let mut states = states();
        // A tick with a queue does not show service time.
        states[9].windows.tick.queued = Some(30.0);
        states[9].windows.tick.latency = Some(Latency { p50_ms: 900.0, p95_ms: 1500.0, p99_ms: 2000.0, objective_ms: 1500.0 });
        let (profile, assumptions) = estimate(&states).expect("measured");
        let ms = |of: &Distribution| of.mean().seconds() * 1000.0;
        assert!((ms(&profile.cpu) - 10.0).abs() < 0.01 && (ms(&profile.waiting) - 4.0).abs() < 1e-6, "{profile:?}");
        assert_eq!((profile.startup.waiting.mean(), profile.workers, profile.memory.base_mib.0), (Nanos::millis(700), 1, 52));
        assert_eq!(profile.startup.cpu.mean(), Nanos::ZERO, "no replica was added");
        assert_eq!(assumptions.len(), 4, "{assumptions:?}");
    }

    #[test]
    fn startup_cpu_is_not_attributed_to_requests() {
        let mut states = states();
        // A third replica is added and removed; its startup uses 0.3 s of CPU time.
        for tick in (0..40).filter(|tick| tick % 4 == 1) {
            let state = &mut states[tick];
            state.allocation = Some(Allocation::new(3, 500, 128));
            let counts = state.replicas.as_mut().expect("known");
            (counts.pending, counts.reporting, state.changes.horizontal_ticks) = (Replicas(1), Replicas(3), Some(0));
            let used = (40.0 * 0.01 * 5.0 + 0.3) / 5.0 / 3.0 * 1000.0;
            state.windows.tick.cpu_millicores = Some(Usage { mean: used, max: used });
        }
        let (profile, _) = estimate(&states).expect("measured");
        let seconds = |of: &Distribution| of.mean().seconds();
        assert!((seconds(&profile.cpu) - 0.01).abs() < 1e-5, "{profile:?}");
        // Of 0.7 s of startup with half a core, 0.6 s are CPU time.
        let (cpu, waiting) = (seconds(&profile.startup.cpu), seconds(&profile.startup.waiting));
        assert!((cpu - 0.3).abs() < 1e-6 && (waiting - 0.1).abs() < 1e-6, "{profile:?}");
    }

    #[test]
    fn unobserved_figures_are_listed_as_assumptions() {
        let mut states = states();
        for state in &mut states {
            (state.startup_ms, state.windows.tick.latency) = (None, None);
        }
        let (profile, assumptions) = estimate(&states).expect("measured");
        assert_eq!((profile.startup.waiting.mean(), profile.waiting.mean()), (DEFAULT_STARTUP, Nanos::ZERO));
        assert_eq!(assumptions.len(), 4, "CPU time, waiting, startup, concurrency: {assumptions:?}");
    }

    #[test]
    fn no_profile_without_completed_requests() {
        let mut states = states();
        states.iter_mut().for_each(|state| state.windows.tick.completed_rps = Some(0.0));
        assert!(estimate(&states).expect_err("unknown CPU time").is::<NoCpuTime>());
    }
}
