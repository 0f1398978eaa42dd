//! The world that is simulated: the recorded arrivals before a function of the profile, behind its guard. Pure: owns what a tick counts for, recorded or simulated.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qscale_common::contract::{Reward, State};
use qscale_common::policy::{LatencyBound, Objective, Percentile, ScalingPolicy, Share};
use qscale_common::time::{Span, TickLength, Timestamp};
use qscale_common::workload::{Gaps, Pattern, Rate};
use qscale_policies::{Memory, Policy};
use qscale_sim::cell::timestamp;
use qscale_sim::chance::{Purpose, stream};
use qscale_sim::{Cell, FunctionProfile, Gateway, Load, Perturbation, Setup};

/// What a stretch of ticks came to.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Came {
    violated: f64,
    judged: f64,
    cost: f64,
    priced: f64,
}

impl Came {
    /// A tick that `state` closes, and what its allocation cost an hour.
    fn add(&mut self, state: &State, cost_per_hour: Option<f64>) {
        if let Some(violated) = is_violated(state) {
            self.violated += f64::from(u8::from(violated));
            self.judged += 1.0;
        }
        if let Some(cost) = cost_per_hour {
            self.cost += cost;
            self.priced += 1.0;
        }
    }

    /// Share of the judged ticks in which the objective was violated; `None` where none was.
    pub fn violated_share(&self) -> Option<f64> {
        (self.judged > 0.0).then(|| self.violated / self.judged)
    }

    /// Mean cost an hour; `None` where it was not known.
    pub fn cost_per_hour(&self) -> Option<f64> {
        (self.priced > 0.0).then(|| self.cost / self.priced)
    }
}

/// Whether the objective was violated in the tick that `state` closes; `None` where nothing was answered.
pub fn is_violated(state: &State) -> Option<bool> {
    let (window, objective) = (&state.windows.tick, &state.objective);
    let failed = window.failed_share?;
    let late = window.latency.is_some_and(|latency| latency.objective_ms > objective.latency_ms as f64);
    Some(late || failed > objective.failure_share)
}

/// `policy` with the tick, objective, bounds and prices that `state` tells.
pub fn as_seen(policy: &mut ScalingPolicy, state: &State) -> Result<(), String> {
    let objective = state.objective;
    policy.tick = TickLength::new(Duration::from_millis(state.tick_length_ms))?;
    policy.objective = Objective {
        percentile: Percentile::try_from(objective.percentile)?,
        latency: LatencyBound::try_from(Span::millis(objective.latency_ms))?,
        failure_share: Share::try_from(objective.failure_share)?,
    };
    (policy.bounds, policy.prices) = (state.bounds, state.prices.clone());
    Ok(())
}

/// A function, its load, and what was recorded of it.
pub struct World {
    /// What is simulated.
    pub setup: Setup,
    /// Ticks at the beginning that are not measured.
    pub warm_up: usize,
    /// When what is measured began.
    pub since: Timestamp,
    /// When it ended.
    pub until: Timestamp,
    states: Vec<State>,
}

impl World {
    /// The world of `states`, of which those before `since` only warm up and those before `warm_up` are left out; and what must be said of it. Each State is a
    /// tick: what was not seen is left out.
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
            remarks.push(format!("{} States of another tick length are left out", others.len()));
        }
        let missed: u64 = states.windows(2).map(|pair| pair[1].tick.0.saturating_sub(pair[0].tick.0 + 1)).sum();
        if missed > 0 {
            remarks.push(format!("{missed} ticks of which there is no State are left out, as if the next followed at once"));
        }
        let unknown = states.iter().filter(|state| state.windows.tick.rate_rps.is_none()).count();
        if unknown > 0 {
            remarks.push(format!("in {unknown} ticks arrivals were not measured; those of the tick before are taken"));
        }
        remarks.push("requests of a tick arrive at random, at the rate that was recorded of it".to_owned());
        let lag = lag(&states);
        let load = Load::Pattern { pattern: pattern(&states, tick_ms)?, gaps: Gaps::Poisson };
        let allocation = states.iter().find_map(|state| state.allocation).unwrap_or(policy.bounds.largest());
        remarks.push(format!("both begin with {allocation}, of which a policy of replicas alone keeps CPU and memory"));
        let perturbation = Perturbation { metric_lag: lag, ..Perturbation::default() };
        let setup = Setup { profile: Arc::new(profile), gateway, policy, allocation, load, perturbation, nodes: None };
        let warm_up = states.iter().take_while(|state| state.observed_at_ms < since).count();
        let until = states.last().map_or(since, |state| state.observed_at_ms);
        Ok((Self { setup, warm_up, since, until, states }, remarks))
    }

    /// Ticks that are measured.
    pub fn ticks(&self) -> usize {
        self.states.len() - self.warm_up
    }

    /// Length of a tick.
    pub fn tick_ms(&self) -> u64 {
        self.setup.policy.tick.millis()
    }

    /// What costs are told in.
    pub fn currency(&self) -> &str {
        &self.setup.policy.prices.currency
    }

    /// What was recorded, with the costs of `rewards`; where there are none, those of the allocations that States tell.
    pub fn recorded(&self, rewards: &[Reward]) -> Came {
        let mut came = Came::default();
        for state in &self.states[self.warm_up..] {
            let price = |allocation| self.setup.policy.prices.per_hour(allocation);
            came.add(state, state.allocation.map(price).filter(|_| rewards.is_empty()));
        }
        for cost in rewards.iter().filter_map(|reward| reward.cost_per_hour) {
            came.cost += cost;
            came.priced += 1.0;
        }
        came
    }

    /// What `policy` comes to under `seed`; `None` where it is to stop.
    pub fn live(&self, policy: &dyn Policy, seed: u64, stop: &AtomicBool) -> Option<Came> {
        let mut cell = Cell::new(self.setup.clone(), seed, 0);
        let (mut memory, mut rng) = (Memory::default(), stream(seed, 0, Purpose::Policy));
        let mut came = Came::default();
        for tick in 0..self.states.len() {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let decision = policy.decide(cell.state(), &mut memory, timestamp(cell.now()), &mut rng);
            cell.step(decision.wanted());
            if tick >= self.warm_up {
                came.add(cell.state(), cell.reward().cost_per_hour);
            }
        }
        Some(came)
    }
}

/// How old measurements of arrivals mostly were.
fn lag(states: &[State]) -> Span {
    let mut ages: Vec<u64> = states.iter().filter_map(|state| state.age.requests_ms).collect();
    ages.sort_unstable();
    Span::millis(ages.get(ages.len() / 2).copied().unwrap_or(0))
}

/// The recorded rates, each for its tick.
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
    use qscale_common::contract::Latency;
    use qscale_sim::{Distribution, Nanos};

    use super::*;
    use crate::recorded::Decider;
    use crate::recorded::tests::{BEGIN, state};

    static ON: AtomicBool = AtomicBool::new(false);

    fn world(states: &[State], since: Timestamp) -> (World, Vec<String>) {
        let mut policy = ScalingPolicy::new("f".parse().expect("valid"));
        as_seen(&mut policy, &states[0]).expect("valid");
        let profile = FunctionProfile::simple("f", Distribution::constant(Nanos::millis(10)));
        World::new(states, Timestamp(0), since, policy, profile, Gateway::default()).expect("a world")
    }

    #[test]
    fn the_load_is_that_which_was_recorded() {
        let mut states: Vec<State> = [10.0, 10.0, 40.0, 5.0].iter().zip(0..).map(|(rate, tick)| state(tick, *rate)).collect();
        states[3].windows.tick.rate_rps = None;
        let (world, remarks) = world(&states, Timestamp(0));
        let Load::Pattern { pattern, .. } = &world.setup.load else { panic!("a pattern") };
        let rates = [0, 7, 10, 14, 15, 60].map(|second| pattern.rate_at(Duration::from_secs(second)).per_second());
        assert_eq!(rates, [10.0, 10.0, 40.0, 40.0, 40.0, 40.0]);
        assert!(remarks.iter().any(|remark| remark.contains("in 1 ticks arrivals were not measured")), "{remarks:?}");
    }

    #[test]
    fn what_was_not_seen_is_left_out_and_told() {
        let states: Vec<State> = (0..10).chain(30..40).map(|tick| state(tick, 10.0)).collect();
        let (world, remarks) = world(&states, Timestamp(BEGIN + 25_000));
        assert_eq!((world.warm_up, world.ticks()), (5, 15));
        assert!(remarks.iter().any(|remark| remark.contains("20 ticks")), "{remarks:?}");
    }

    #[test]
    fn a_tick_counts_the_same_recorded_or_simulated() {
        let mut one = state(0, 10.0);
        assert_eq!(is_violated(&one), Some(false));
        one.windows.tick.latency = Some(Latency { p50_ms: 1.0, p95_ms: 501.0, p99_ms: 900.0, objective_ms: 501.0 });
        assert_eq!(is_violated(&one), Some(true));
        (one.windows.tick.latency, one.windows.tick.failed_share) = (None, Some(0.02));
        assert_eq!(is_violated(&one), Some(true));
        one.windows.tick.failed_share = None;
        assert_eq!(is_violated(&one), None);
    }

    #[test]
    fn too_little_violates_and_more_costs_more() {
        let states: Vec<State> = (0..60).map(|tick| state(tick, 80.0)).collect();
        let (world, _) = world(&states, Timestamp(BEGIN + 50_000));
        let decider = |text: &str| Decider::named(text, None).expect("valid").decides;
        let live = |text: &str| world.live(decider(text).policy(), 1, &ON).expect("not stopped");
        let (few, many) = (live("static:replicas=1,cpu_millicores=300"), live("static:replicas=4,cpu_millicores=500"));
        assert_eq!((few.violated_share(), many.violated_share()), (Some(1.0), Some(0.0)));
        assert!(many.cost_per_hour() > few.cost_per_hour(), "{few:?} {many:?}");
        assert_eq!(live("hpa"), live("hpa"), "chance comes from the seed");
        assert_eq!(world.live(decider("hpa").policy(), 1, &AtomicBool::new(true)), None);
    }

    #[test]
    fn costs_are_those_of_rewards_where_there_are_any() {
        let states: Vec<State> = (0..20).map(|tick| state(tick, 10.0)).collect();
        let (world, _) = world(&states, Timestamp(0));
        let price = world.setup.policy.prices.per_hour(states[0].allocation.expect("known"));
        let recorded = world.recorded(&[]);
        assert!((recorded.cost_per_hour().expect("known") - price).abs() < 1e-12 && recorded.violated_share() == Some(0.0));
        let text = include_str!("../../../../common/tests/golden/reward.full.json");
        let reward: Reward = serde_json::from_str(text).expect("golden");
        assert_eq!(world.recorded(std::slice::from_ref(&reward)).cost_per_hour(), reward.cost_per_hour);
    }
}
