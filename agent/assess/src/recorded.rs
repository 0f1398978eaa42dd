//! Histories from the recorded stream of Qscale itself. Owns which part of a State becomes which metric; decides nothing.

use std::time::Duration;

use qscale_common::contract::State;
use qscale_common::name::FunctionId;
use qscale_common::runtime::bus::Bus;
use qscale_common::time::Timestamp;
use qscale_replay::Period;
use qscale_replay::recording;

use crate::history::{HistoryMetric, WorkloadHistory};

/// Ticks of a step: those of the middle window of a State, whose percentiles are exact.
const STEP_TICKS: u64 = 12;

/// History of `function` in `period`; `None` if no State is retained.
///
/// # Errors
/// When the stream cannot be read.
pub async fn history(bus: &Bus, function: &FunctionId, period: Period) -> anyhow::Result<Option<WorkloadHistory>> {
    let recorded = recording::states(bus, function, period).await?;
    Ok(of_states(function, &recorded.states))
}

/// The history of `states`, in order: one step for each twelve ticks of the length that the last one has.
#[must_use]
pub fn of_states(function: &FunctionId, states: &[State]) -> Option<WorkloadHistory> {
    let tick = states.last()?.tick_length_ms;
    let step = tick * STEP_TICKS;
    let closes_step = |state: &&State| state.tick_length_ms == tick && state.tick.0.is_multiple_of(STEP_TICKS);
    let closing: Vec<&State> = states.iter().filter(closes_step).collect();
    let (first, last) = (*closing.first()?, *closing.last()?);
    // A tick is numbered by its end: the State of tick n closes the steps before n times its length.
    let number = |state: &State| state.tick.0 / STEP_TICKS;
    let steps = number(last).saturating_sub(number(first)) + 1;
    let begin = Timestamp((number(first).saturating_sub(1)) * step);
    let mut history = WorkloadHistory::empty(function.clone(), begin, Duration::from_millis(step), usize::try_from(steps).ok()?);
    for state in closing {
        if let Some(step) = history.steps.get_mut((number(state) - number(first)) as usize) {
            let window = &state.windows.short;
            let values = [
                (HistoryMetric::ArrivalsRps, window.rate_rps),
                (HistoryMetric::FailedShare, window.failed_share),
                (HistoryMetric::MedianMs, window.latency.map(|latency| latency.p50_ms)),
                (HistoryMetric::ObjectiveMs, window.latency.map(|latency| latency.objective_ms)),
                (HistoryMetric::CpuCores, state.cores_used(window)),
                (HistoryMetric::ThrottledShare, window.throttled_share),
                (HistoryMetric::MemoryMib, window.memory_mib.map(|usage| usage.max)),
                (HistoryMetric::Replicas, window.replicas.or(state.allocation.map(|given| f64::from(given.replicas.0)))),
                (HistoryMetric::CpuLimitMillicores, state.allocation.map(|given| f64::from(given.cpu_millicores.0))),
                (HistoryMetric::MemoryLimitMib, state.allocation.map(|given| f64::from(given.memory_mib.0))),
                (HistoryMetric::StartupS, state.startup_ms.map(|ms| ms as f64 / 1000.0)),
            ];
            values.into_iter().filter_map(|(metric, value)| Some((metric, value?))).for_each(|(metric, value)| step.set(metric, value));
        }
    }
    Some(history)
}

#[cfg(test)]
mod tests {
    use qscale_common::policy::ScalingPolicy;
    use qscale_common::time::Tick;
    use qscale_common::units::Allocation;

    use super::*;

    #[test]
    fn every_twelfth_state_is_a_step() {
        let function: FunctionId = "f".parse().expect("valid");
        let state = |tick: u64| {
            let unmeasured = State::unmeasured(&ScalingPolicy::new(function.clone()));
            let allocation = Some(Allocation::new(2, 500, 256));
            let mut state = State { tick: Tick(tick), tick_length_ms: 5_000, allocation, ..unmeasured };
            state.windows.short.rate_rps = Some(tick as f64);
            state.windows.short.failed_share = None;
            state
        };
        // The State of tick 48 is missing.
        let states: Vec<State> = (20..70).filter(|tick| *tick != 48).map(state).collect();
        let history = of_states(&function, &states).expect("recorded");
        let rates: Vec<_> = history.steps.iter().map(|step| step.get(HistoryMetric::ArrivalsRps)).collect();
        assert_eq!(rates, [Some(24.0), Some(36.0), None, Some(60.0)]);
        assert_eq!((history.step, history.begin, history.end()), (Duration::from_secs(60), Timestamp(60_000), Timestamp(300_000)));
        assert!(history.missing().any(|metric| metric == HistoryMetric::FailedShare));
        let [first, ..] = history.steps.as_slice() else { panic!("steps") };
        assert_eq!((first.get(HistoryMetric::CpuLimitMillicores), first.get(HistoryMetric::Replicas)), (Some(500.0), Some(2.0)));
        assert_eq!(of_states(&function, &states[..2]), None);
    }
}
