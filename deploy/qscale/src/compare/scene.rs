//! One function as both policies are simulated on it: its world, and what was recorded of it. Owns what is read besides States, and what must be assumed.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use qscale_common::contract::{Message as _, Reward, State};
use qscale_common::name::FunctionId;
use qscale_common::policy::{Mode, ScalingPolicy};
use qscale_common::runtime::bus::Bus;
use qscale_common::time::Timestamp;
use qscale_policies::{History, Policy};
use qscale_sim::{FunctionProfile, Gateway};

use super::judge::{self, Line};
use super::profile;
use super::world::{self, World};
use crate::recorded;
use crate::store;
use crate::system::Locate;

/// Fewer ticks than a minute's worth of the default say nothing.
const FEWEST_TICKS: usize = 12;

/// One function in its world.
pub struct Scene {
    /// The function.
    pub function: FunctionId,
    /// The world that is simulated.
    pub world: World,
    rewards: Vec<Reward>,
    /// What had to be assumed, in sentences.
    pub assumed: Vec<String>,
}

impl Scene {
    /// The scene of `states` from `since` to `until`, before which they warm up policies that remember for `reach`. The agent of the last State is the acting one.
    pub async fn of(
        locate: &Locate,
        bus: &Bus,
        states: &[State],
        reach: Duration,
        (since, until): (Timestamp, Timestamp),
        given: Option<FunctionProfile>,
    ) -> anyhow::Result<Self> {
        let last = states.last().context("a scene needs a State")?;
        let (function, agent) = (last.function(), &last.agent);
        let mut assumed = Vec::new();
        let warm_up = since.minus(reach.min(History::REACH));
        let measured = (states.iter()).filter(|state| state.observed_at_ms >= since && state.tick_length_ms == last.tick_length_ms).count();
        ensure!(
            measured >= FEWEST_TICKS,
            "{measured} States of {function} are kept since {since}, at least {FEWEST_TICKS} are needed; reach further back with --since"
        );
        let others = states.iter().filter(|state| state.observed_at_ms >= since && state.agent != *agent).count();
        if others > 0 {
            assumed.push(format!("{agent} was obeyed all the time; in {others} of the ticks it was another agent"));
        }
        let (policy, remarks) = policy_of(bus, last).await?;
        assumed.extend(remarks);
        let gateway = gateway_of(locate, &function).await;
        if gateway.is_none() {
            assumed.push("the gateway is as the local platform's by default: the platform does not tell".to_owned());
        }
        let profile = match given {
            Some(profile) => profile,
            None => {
                let (profile, guesses) = profile::estimate(states)?;
                assumed.extend(guesses);
                profile
            }
        };
        let (world, remarks) = World::new(states, warm_up, since, policy, profile, gateway.unwrap_or_default())?;
        assumed.extend(remarks);
        let rewards: Vec<Reward> = recorded::all(bus, &function, since).await?;
        let rewards: Vec<Reward> = rewards.into_iter().filter(|reward| reward.measured_at_ms <= until).collect();
        assumed.extend(judge::decided_by_others(&rewards, agent));
        Ok(Self { function, world, rewards, assumed })
    }

    /// The measures of the policy `acting` and of the `other`, under the same `seeds`; `None` where it was stopped.
    pub fn answer(&self, acting: &dyn Policy, other: &dyn Policy, seeds: u64, stop: &AtomicBool) -> anyhow::Result<Option<Vec<Line>>> {
        let mut runs = Vec::new();
        for seed in 0..seeds {
            let lived = |policy: &dyn Policy| self.world.live(policy, seed, stop);
            let (Some(acting), Some(other)) = (lived(acting), lived(other)) else { return Ok(None) };
            runs.push((acting, other));
        }
        judge::lines(&self.world.recorded(&self.rewards), &runs).map(Some)
    }
}

/// What is wanted for the function: guard and weights as they are now, objective, bounds and prices as its last State tells them.
async fn policy_of(bus: &Bus, last: &State) -> anyhow::Result<(ScalingPolicy, Vec<String>)> {
    let function = last.function();
    let mut remarks = Vec::new();
    let mut policy = match store::policies(bus).await?.remove(&function.tokens()) {
        Some(Ok(policy)) => policy,
        _ => {
            remarks.push("the guard is as it is by default: the function has no policy any more".to_owned());
            ScalingPolicy::new(function)
        }
    };
    if policy.mode != Mode::Active || policy.paused {
        let how = if policy.paused { "paused" } else { "not in mode active" };
        remarks
            .push(format!("the policy is {how} now: where decisions were not applied, what was recorded is not the acting policy's doing"));
    }
    world::as_seen(&mut policy, last).map_err(|error| anyhow::anyhow!("the last State: {error}"))?;
    Ok((policy, remarks))
}

/// The gateway before the function, where the platform tells it.
async fn gateway_of(locate: &Locate, function: &FunctionId) -> Option<Gateway> {
    let status = locate.platform().ok()?.get(function).await.ok()?;
    Some(Gateway::from(&status.spec))
}
