//! Simulation of recorded arrivals against a profiled function behind its guard. Owns what a tick contributes to the
//! figures, recorded or simulated; pure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qscale_common::contract::{Reward, State};
use qscale_common::policy::{LatencyBound, Objective, Percentile, ScalingPolicy, Share};
use qscale_common::slo;
use qscale_common::time::{Span, TickLength, Timestamp};
use qscale_common::workload::{Gaps, Pattern, Rate};
use qscale_policies::{Memory, Policy};
use qscale_sim::rng::{Purpose, stream};
use qscale_sim::simulation::timestamp;
use qscale_sim::{FunctionProfile, Gateway, Perturbation, Setup, SimulatedLoad, Simulation};

/// Violations and cost over a number of ticks.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RunMetrics {
    violated: f64,
    judged: f64,
    cost: f64,
    priced: f64,
    changes: f64,
    hours: f64,
}

impl RunMetrics {
    /// Adds the tick that `state` closes, whose allocation cost `cost_per_hour`.
    fn add(&mut self, state: &State, cost_per_hour: Option<f64>) {
        if let Some(violated) = slo::is_violated_in(&state.windows.tick, &state.objective) {
            self.violated += f64::from(u8::from(violated));
            self.judged += 1.0;
        }
        if let Some(cost) = cost_per_hour {
            self.cost += cost;
            self.priced += 1.0;
        }
    }

    /// Share of ticks with completed or failed requests in which the objective was violated; `None` if there are none.
    #[must_use]
    pub fn violated_share(&self) -> Option<f64> {
        (self.judged > 0.0).then(|| self.violated / self.judged)
    }

    /// Changes of the allocation an hour; 0 without ticks.
    #[must_use]
    pub fn changes_per_hour(&self) -> f64 {
        if self.hours > 0.0 { self.changes / self.hours } else { 0.0 }
    }

    /// Mean cost per hour; `None` if unknown.
    #[must_use]
    pub fn cost_per_hour(&self) -> Option<f64> {
        (self.priced > 0.0).then(|| self.cost / self.priced)
    }
}

/// Sets the tick length, objective, bounds and prices of `policy` to those of `state`.
///
/// # Errors
/// Values out of range.
pub fn apply_state(policy: &mut ScalingPolicy, state: &State) -> Result<(), String> {
    let objective = state.objective;
    policy.tick = TickLength::new(Duration::from_millis(state.tick_length_ms))?;
    policy.objective = Objective {
        percentile: Percentile::try_from(objective.percentile)?,
        latency: LatencyBound::try_from(Span::millis(objective.latency_ms))?,
        failure_share: Share::try_from(objective.failure_share)?,
        point: objective.point,
    };
    (policy.bounds, policy.prices) = (state.bounds, state.prices.clone());
    Ok(())
}

/// A function with its recorded arrivals.
pub struct RecordedSimulation {
    /// Setup of the simulated function.
    pub setup: Setup,
    /// Ticks at the beginning that only warm up.
    pub warm_up: usize,
    /// Beginning of the measured ticks.
    pub since: Timestamp,
    /// Their end.
    pub until: Timestamp,
    states: Vec<State>,
}

impl RecordedSimulation {
    /// The simulation of `states` and the assumptions it makes. States before `since` only warm up, those before
    /// `warm_up` are left out. Each State is one tick; ticks without a State are left out.
    ///
    /// # Errors
    /// Arrival rates that no pattern can express.
    pub fn new(
        states: &[State],
        warm_up: Timestamp,
        since: Timestamp,
        policy: ScalingPolicy,
        profile: FunctionProfile,
        gateway: Gateway,
    ) -> anyhow::Result<(Self, Vec<String>)> {
        let tick_ms = policy.tick.millis();
        let mut remarks = Vec::new();
        let within = states.iter().filter(|state| state.observed_at_ms >= warm_up);
        let (states, others): (Vec<State>, Vec<State>) = within.cloned().partition(|state| state.tick_length_ms == tick_ms);
        if !others.is_empty() {
            remarks.push(format!("{} States with another tick length are left out", others.len()));
        }
        let missed: u64 = states.windows(2).map(|pair| pair[1].tick.0.saturating_sub(pair[0].tick.0 + 1)).sum();
        if missed > 0 {
            remarks.push(format!("{missed} ticks without a State are left out; the next State follows immediately"));
        }
        let unknown = states.iter().filter(|state| state.windows.tick.rate_rps.is_none()).count();
        if unknown > 0 {
            remarks.push(format!("in {unknown} ticks arrivals were not measured; those of the previous tick are used"));
        }
        remarks.push("requests arrive as a Poisson process at the recorded rate of each tick".to_owned());
        let lag = lag(&states);
        let load = SimulatedLoad::Pattern { pattern: pattern(&states, tick_ms)?, gaps: Gaps::Poisson };
        let allocation = states.iter().find_map(|state| state.allocation).unwrap_or(policy.bounds.largest());
        remarks.push(format!("both policies start with {allocation}; one that sets only replicas keeps its CPU and memory"));
        let perturbation = Perturbation { metric_lag: lag, ..Perturbation::default() };
        let setup = Setup { profile: Arc::new(profile), gateway, policy, allocation, load, perturbation, nodes: None };
        let warm_up = states.iter().take_while(|state| state.observed_at_ms < since).count();
        let until = states.last().map_or(since, |state| state.observed_at_ms);
        Ok((Self { setup, warm_up, since, until, states }, remarks))
    }

    /// Number of measured ticks.
    #[must_use]
    pub fn ticks(&self) -> usize {
        self.states.len() - self.warm_up
    }

    /// Tick length, milliseconds.
    #[must_use]
    pub fn tick_ms(&self) -> u64 {
        self.setup.policy.tick.millis()
    }

    /// Currency of costs.
    #[must_use]
    pub fn currency(&self) -> &str {
        &self.setup.policy.prices.currency
    }

    /// Recorded violations, with the costs of `rewards`, or else of the allocations in the States.
    #[must_use]
    pub fn recorded(&self, rewards: &[Reward]) -> RunMetrics {
        let mut metrics = RunMetrics::default();
        for state in &self.states[self.warm_up..] {
            let price = |allocation| self.setup.policy.prices.per_hour(allocation);
            metrics.add(state, state.allocation.map(price).filter(|_| rewards.is_empty()));
        }
        for cost in rewards.iter().filter_map(|reward| reward.cost_per_hour) {
            metrics.cost += cost;
            metrics.priced += 1.0;
        }
        metrics
    }

    /// Simulates `policy` under `seed`; `None` if `stop` was set.
    #[must_use]
    pub fn run(&self, policy: &dyn Policy, seed: u64, stop: &AtomicBool) -> Option<RunMetrics> {
        let mut cell = Simulation::new(self.setup.clone(), seed, 0);
        let (mut memory, mut rng) = (Memory::default(), stream(seed, 0, Purpose::Policy));
        let mut metrics = RunMetrics::default();
        for tick in 0..self.states.len() {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let (decision, before) = (policy.decide(cell.state(), &mut memory, timestamp(cell.now()), &mut rng), cell.state().allocation);
            cell.step(decision.wanted());
            if tick >= self.warm_up {
                metrics.add(cell.state(), cell.reward().cost_per_hour);
                metrics.changes += f64::from(u8::from(cell.state().allocation != before));
                metrics.hours += self.tick_ms() as f64 / 3_600_000.0;
            }
        }
        Some(metrics)
    }
}

/// Median age of arrival measurements.
fn lag(states: &[State]) -> Span {
    let mut ages: Vec<u64> = states.iter().filter_map(|state| state.age.requests_ms).collect();
    ages.sort_unstable();
    Span::millis(ages.get(ages.len() / 2).copied().unwrap_or(0))
}

/// Recorded arrival rates as a step pattern, one step per tick.
fn pattern(states: &[State], tick_ms: u64) -> anyhow::Result<Pattern> {
    let (mut steps, mut current) = (String::new(), None);
    for (index, state) in states.iter().enumerate() {
        let rate = state.windows.tick.rate_rps.or(current).unwrap_or(0.0).clamp(0.0, Rate::MAX);
        if current != Some(rate) {
            let at = Span::millis(tick_ms.saturating_mul(index as u64));
            steps += &format!("{}{rate}@{at}", if index == 0 { "" } else { "," });
            current = Some(rate);
        }
    }
    format!("step:{steps}").parse().map_err(|error: String| anyhow::anyhow!("the recorded arrivals: {error}"))
}

#[cfg(test)]
mod tests {
    use qscale_sim::{Distribution, Nanos};

    use super::*;
    use crate::fixtures::{BEGIN, state};
    use crate::policy::ReplayPolicy;

    static ON: AtomicBool = AtomicBool::new(false);

    fn simulation(states: &[State], since: Timestamp) -> (RecordedSimulation, Vec<String>) {
        let mut policy = ScalingPolicy::new("f".parse().expect("valid"));
        apply_state(&mut policy, &states[0]).expect("valid");
        let profile = FunctionProfile::simple("f", Distribution::constant(Nanos::millis(10)));
        RecordedSimulation::new(states, Timestamp(0), since, policy, profile, Gateway::default()).expect("valid")
    }

    #[test]
    fn load_has_the_recorded_rates() {
        let mut states: Vec<State> = [10.0, 10.0, 40.0, 5.0].iter().zip(0..).map(|(rate, tick)| state(tick, *rate)).collect();
        states[3].windows.tick.rate_rps = None;
        let (simulation, remarks) = simulation(&states, Timestamp(0));
        let SimulatedLoad::Pattern { pattern, .. } = &simulation.setup.load else { panic!("a pattern") };
        let rates = [0, 7, 10, 14, 15, 60].map(|second| pattern.rate_at(Duration::from_secs(second)).per_second());
        assert_eq!(rates, [10.0, 10.0, 40.0, 40.0, 40.0, 40.0]);
        assert!(remarks.iter().any(|remark| remark.contains("in 1 ticks")), "{remarks:?}");
    }

    #[test]
    fn unobserved_ticks_are_left_out_and_reported() {
        let states: Vec<State> = (0..10).chain(30..40).map(|tick| state(tick, 10.0)).collect();
        let (simulation, remarks) = simulation(&states, Timestamp(BEGIN + 25_000));
        assert_eq!((simulation.warm_up, simulation.ticks()), (5, 15));
        assert!(remarks.iter().any(|remark| remark.contains("20 ticks")), "{remarks:?}");
    }

    #[test]
    fn tick_counts_once_it_has_requests() {
        let mut one = state(0, 10.0);
        let share = |state: &State| {
            let mut metrics = RunMetrics::default();
            metrics.add(state, None);
            metrics.violated_share()
        };
        assert_eq!(share(&one), Some(0.0));
        one.windows.tick.failed_share = Some(0.02);
        assert_eq!(share(&one), Some(1.0));
        one.windows.tick.failed_share = None;
        assert_eq!(share(&one), None);
    }

    #[test]
    fn fewer_replicas_violate_and_more_cost_more() {
        let states: Vec<State> = (0..60).map(|tick| state(tick, 80.0)).collect();
        let (simulation, _) = simulation(&states, Timestamp(BEGIN + 50_000));
        let decider = |text: &str| ReplayPolicy::named(text, None).expect("valid").decider;
        let run = |text: &str| simulation.run(decider(text).policy(), 1, &ON).expect("not stopped");
        let (few, many) = (run("static:replicas=1,cpu_millicores=300"), run("static:replicas=4,cpu_millicores=500"));
        assert_eq!((few.violated_share(), many.violated_share()), (Some(1.0), Some(0.0)));
        assert!(many.cost_per_hour() > few.cost_per_hour(), "{few:?} {many:?}");
        assert_eq!(run("hpa"), run("hpa"), "the seed determines the run");
        assert!(few.changes_per_hour() <= 360.0 && run("threshold").changes_per_hour() > 0.0, "{few:?}");
        assert_eq!(simulation.run(decider("hpa").policy(), 1, &AtomicBool::new(true)), None);
    }

    #[test]
    fn costs_come_from_rewards_if_there_are_any() {
        let states: Vec<State> = (0..20).map(|tick| state(tick, 10.0)).collect();
        let (simulation, _) = simulation(&states, Timestamp(0));
        let price = simulation.setup.policy.prices.per_hour(states[0].allocation.expect("known"));
        let recorded = simulation.recorded(&[]);
        assert!((recorded.cost_per_hour().expect("known") - price).abs() < 1e-12 && recorded.violated_share() == Some(0.0));
        let text = include_str!("../../../../common/tests/golden/reward.full.json");
        let reward: Reward = serde_json::from_str(text).expect("golden");
        assert_eq!(simulation.recorded(std::slice::from_ref(&reward)).cost_per_hour(), reward.cost_per_hour);
    }
}
