//! A profile from what was recorded alone. Pure: owns the guesses, and says that they are.

use qscale_common::contract::State;
use qscale_common::units::Mebibytes;
use qscale_sim::profile::{Memory, Startup};
use qscale_sim::{Distribution, FunctionProfile, Nanos};

use crate::show;

/// Where more failed nobody knows what a request computes.
const MOST_FAILED: f64 = 0.1;
/// With so much throttling or so many waiting latency says more about the queue than about the function.
const CALM_THROTTLED: f64 = 0.01;
const CALM_QUEUED: f64 = 0.5;
/// Standard deviations from the median of a normal distribution to its 95th percentile.
const TO_P95: f64 = 1.645;
/// Wider than that no time of requests was seen to be.
const MOST_SIGMA: f64 = 1.5;
/// What a start takes where none was seen.
const USUAL_START: Nanos = Nanos::millis(1000);

/// The profile that `states` suggest, and what in it is a guess.
pub fn estimate(states: &[State]) -> anyhow::Result<(FunctionProfile, Vec<String>)> {
    let Some(cpu) = request_cpu(states) else {
        anyhow::bail!(
            "what a request computes is not known: no tick tells both answers and CPU; measure it with `qscale profile`, and name the file with \
             --profile"
        )
    };
    let mut guesses =
        vec![format!("a request computes {}: the CPU in use over the requests answered, idling included", show::latency(cpu * 1000.0))];
    let (waiting, sigma) = waiting(states, cpu, &mut guesses);
    let startup = startup(states, cpu, &mut guesses);
    let memory = middle(states.iter().filter_map(|state| Some((state.windows.tick.memory_mib?.max, 1.0))).collect());
    let most_cores =
        states.iter().filter_map(|state| state.windows.tick.cpu_millicores).map(|usage| usage.max / 1000.0).fold(0.0, f64::max);
    // A reading over a tick may show a little more than there was.
    let cores = ((most_cores - 0.1).ceil().clamp(1.0, 1024.0)) as u32;
    guesses.push(format!("a replica works on {cores} request{} at once, a core each", if cores == 1 { "" } else { "s" }));
    let median = Nanos::from_seconds(cpu / (sigma * sigma / 2.0).exp());
    let profile = FunctionProfile {
        name: states.last().map_or_else(String::new, |state| state.function.to_string()),
        source: "estimated from recorded States".to_owned(),
        cpu: Distribution::log_normal(median, sigma)?,
        waiting: Distribution::constant(Nanos::from_seconds(waiting)),
        startup,
        workers: cores,
        parallelism: cores,
        memory: memory.map_or_else(Memory::default, |mib| Memory { base_mib: Mebibytes((mib.ceil() as u32).max(1)), request_kib: 0 }),
    };
    Ok((profile, guesses))
}

/// CPU seconds of a request: of the ticks in which no replica started and computed for itself, where there are such.
fn request_cpu(states: &[State]) -> Option<f64> {
    let told = |state: &State| Use::of(state).map(|used| (used.cpu_s / used.answers, used.answers));
    let starting = |state: &State| state.replicas.is_none_or(|counts| counts.pending.0 > 0) || state.changes.horizontal_ticks == Some(0);
    let settled = states.windows(2).filter(|pair| !starting(&pair[0]) && !starting(&pair[1]));
    middle(settled.filter_map(|pair| told(&pair[1])).collect()).or_else(|| middle(states.iter().filter_map(told).collect()))
}

/// What a tick used, and what it answered.
struct Use {
    cpu_s: f64,
    answers: f64,
}

impl Use {
    /// `None` where one of both is not known, or nothing was answered.
    fn of(state: &State) -> Option<Self> {
        let window = &state.windows.tick;
        let failed = window.failed_share.unwrap_or(0.0);
        let seconds = window.covered_ms as f64 / 1000.0;
        let answers = window.completed_rps.filter(|rate| *rate > 0.0 && failed <= MOST_FAILED)? / (1.0 - failed) * seconds;
        let cpu_s = state.cores_used(window)? * seconds;
        (answers > 0.0).then_some(Self { cpu_s, answers })
    }
}

/// What a request waits for others, and how wide its times spread: of ticks in which nothing queued.
fn waiting(states: &[State], cpu: f64, guesses: &mut Vec<String>) -> (f64, f64) {
    let calm = |state: &&State| {
        let window = &state.windows.tick;
        window.queued.unwrap_or(0.0) <= CALM_QUEUED && window.throttled_share.unwrap_or(0.0) <= CALM_THROTTLED
    };
    let times = |state: &State| {
        let latency = state.windows.tick.latency.filter(|latency| latency.p50_ms > 0.0)?;
        let answers = state.windows.tick.completed_rps.unwrap_or(1.0);
        Some(((latency.p50_ms / 1000.0, answers), ((latency.p95_ms / latency.p50_ms).ln() / TO_P95, answers)))
    };
    let (medians, sigmas): (Vec<_>, Vec<_>) = states.iter().filter(calm).filter_map(times).unzip();
    let (Some(median), Some(sigma)) = (middle(medians), middle(sigmas)) else {
        guesses.push("a request waits for nothing, and all compute the same: latency was never seen without a queue".to_owned());
        return (0.0, 0.0);
    };
    let (waiting, sigma) = ((median - cpu).max(0.0), sigma.clamp(0.0, MOST_SIGMA));
    guesses.push(format!(
        "beside computing a request waits {}, and its computing spreads log-normally by {sigma:.2}: as latency was without a queue",
        show::latency(waiting * 1000.0)
    ));
    (waiting, sigma)
}

/// What a start takes: as was seen, of which so much is computing as was used beyond what requests computed, at the CPU that a replica mostly had.
fn startup(states: &[State], request_cpu: f64, guesses: &mut Vec<String>) -> Startup {
    let given = middle(states.iter().filter_map(|state| Some((state.allocation?.cpu_millicores.cores(), 1.0))).collect()).unwrap_or(1.0);
    let Some(whole) = middle(states.iter().filter_map(|state| Some((state.startup_ms? as f64 / 1000.0, 1.0))).collect()) else {
        guesses.push(format!("a start takes {}, for none was seen", show::latency(USUAL_START.seconds() * 1000.0)));
        return Startup { cpu: Distribution::ZERO, waiting: Distribution::constant(USUAL_START) };
    };
    let replicas = states.iter().filter_map(|state| state.allocation).map(|given| given.replicas.0);
    let starts: u32 = replicas.clone().zip(replicas.skip(1)).map(|(before, after)| after.saturating_sub(before)).sum();
    let beyond: f64 = states.iter().filter_map(Use::of).map(|used| used.cpu_s - used.answers * request_cpu).sum();
    let cpu = (beyond / f64::from(starts.max(1))).clamp(0.0, whole * given);
    guesses.push(format!(
        "a start computes {} on a whole core: what was used beyond requests, over {starts} starts; with {:.0}m it takes {}, as was seen",
        show::latency(cpu * 1000.0),
        given * 1000.0,
        show::latency(whole * 1000.0)
    ));
    let constant = |seconds| Distribution::constant(Nanos::from_seconds(seconds));
    Startup { cpu: constant(cpu), waiting: constant((whole - cpu / given.max(0.001)).max(0.0)) }
}

/// The value at half of the weight; `None` of nothing.
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
    use crate::recorded::tests::state;

    /// Ticks of a function whose requests compute 10 ms and take 14.
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
    fn figures_are_those_that_were_recorded() {
        let mut states = states();
        // A tick that queued says nothing of what a request takes.
        states[9].windows.tick.queued = Some(30.0);
        states[9].windows.tick.latency = Some(Latency { p50_ms: 900.0, p95_ms: 1500.0, p99_ms: 2000.0, objective_ms: 1500.0 });
        let (profile, guesses) = estimate(&states).expect("measured");
        let ms = |of: &Distribution| of.mean().seconds() * 1000.0;
        assert!((ms(&profile.cpu) - 10.0).abs() < 0.01 && (ms(&profile.waiting) - 4.0).abs() < 1e-6, "{profile:?}");
        assert_eq!((profile.startup.waiting.mean(), profile.workers, profile.memory.base_mib.0), (Nanos::millis(700), 1, 52));
        assert_eq!(profile.startup.cpu.mean(), Nanos::ZERO, "no replica was added");
        assert!(guesses.iter().any(|guess| guess.contains("idling included")) && guesses.len() == 4, "{guesses:?}");
    }

    #[test]
    fn what_starts_compute_is_not_taken_for_requests() {
        let mut states = states();
        // A third replica comes and goes; while it starts it computes 0.3 s for itself.
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
        // Of the 0.7 s of a start with half a core 0.6 s are computing.
        let (cpu, waiting) = (seconds(&profile.startup.cpu), seconds(&profile.startup.waiting));
        assert!((cpu - 0.3).abs() < 1e-6 && (waiting - 0.1).abs() < 1e-6, "{profile:?}");
    }

    #[test]
    fn what_was_never_seen_is_called_a_guess() {
        let mut states = states();
        for state in &mut states {
            (state.startup_ms, state.windows.tick.latency) = (None, None);
        }
        let (profile, guesses) = estimate(&states).expect("measured");
        assert_eq!((profile.startup.waiting.mean(), profile.waiting.mean()), (USUAL_START, Nanos::ZERO));
        assert!(
            guesses.iter().any(|guess| guess.contains("none was seen")) && guesses.iter().any(|guess| guess.contains("waits for nothing")),
            "{guesses:?}"
        );
    }

    #[test]
    fn without_answers_there_is_no_profile() {
        let mut states = states();
        states.iter_mut().for_each(|state| state.windows.tick.completed_rps = Some(0.0));
        let error = estimate(&states).expect_err("nothing to go by").to_string();
        assert!(error.contains("--profile"), "{error}");
    }
}
