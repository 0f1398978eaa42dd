//! What the streams keep of a function, and policies that decide on it anew. Owns what is read, and in which order; shows nothing.

mod decider;

use std::collections::BTreeMap;

use anyhow::ensure;
use clap::Args;
use qscale_common::contract::{Action, EventType, Message, Moment, State, subject};
use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::bus::Bus;
use qscale_common::time::{Span, Timestamp};

pub use decider::{Again, Configured, Decider, STORE, Said};

/// A stretch of what was recorded; its ends are told as `qscale watch` takes them, by how long ago they were.
#[derive(Debug, Clone, Copy, Args)]
pub struct Period {
    /// Begin so long ago, such as 1h or 10m
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    since: Span,
    /// End so long ago; by default now
    #[arg(long, value_name = "DURATION")]
    until: Option<Span>,
}

impl Period {
    /// Its ends, where it is `now`.
    pub fn ends(&self, now: Timestamp) -> anyhow::Result<(Timestamp, Timestamp)> {
        let until = self.until.unwrap_or_default();
        ensure!(
            until < self.since,
            "--until {until} is not after --since {}: both say how long ago, so --until is the shorter",
            self.since
        );
        Ok((now.minus(self.since.0), now.minus(until.0)))
    }
}

/// The States of `function` from `since` to `until`, in their order, each once.
pub async fn states(bus: &Bus, function: &FunctionId, since: Timestamp, until: Timestamp) -> anyhow::Result<Vec<State>> {
    let mut states: Vec<State> = Vec::new();
    let visit = |state: State| {
        let newer = states.last().is_none_or(|last| last.moment() < state.moment());
        if newer && (since..=until).contains(&state.observed_at_ms) {
            states.push(state);
        }
    };
    bus.recall_on(subject::of(EventType::State, function), since, visit).await?;
    Ok(states)
}

/// What `agent` answered to the States of `function` since `since`; the first answer to a State counts.
pub async fn actions(bus: &Bus, agent: &Name, function: &FunctionId, since: Timestamp) -> anyhow::Result<BTreeMap<Moment, Action>> {
    let mut actions = BTreeMap::new();
    let visit = |action: Action| {
        actions.entry(action.moment()).or_insert(action);
    };
    bus.recall_on(subject::action(agent, function), since, visit).await?;
    Ok(actions)
}

/// The model by which the last of `actions` was decided that answers the State of `moment` or an earlier one.
pub fn model_of(actions: &BTreeMap<Moment, Action>, moment: Moment) -> Option<String> {
    actions.range(..=moment).next_back().map(|(_, action)| action.model.clone())
}

/// All messages of a kind about `function` since `since`.
pub async fn all<M: Message>(bus: &Bus, function: &FunctionId, since: Timestamp) -> anyhow::Result<Vec<M>> {
    let mut found = Vec::new();
    bus.recall_on(subject::of(M::TYPE, function), since, |message: M| found.push(message)).await?;
    Ok(found)
}

/// What to say where no State of `function` was found.
pub fn nothing_seen(function: &FunctionId, since: Timestamp) -> anyhow::Error {
    anyhow::anyhow!(
        "no State of {function} is kept since {since}; `qscale policy list` names the functions, --since reaches further back, and \
         `qscale watch --kind state` shows whether the collector sees anything"
    )
}

#[cfg(test)]
pub mod tests {
    use qscale_common::contract::{Epoch, ReplicaCounts, Usage};
    use qscale_common::policy::ScalingPolicy;
    use qscale_common::time::{Tick, TickLength};
    use qscale_common::units::{Allocation, Replicas};
    use qscale_common::window::{Windows, assemble};

    use super::*;

    /// When the States of tests begin.
    pub const BEGIN: u64 = 1_763_880_780_000;

    /// The State of a function that has two replicas, `tick` ticks of five seconds after the beginning; so many requests came a second.
    pub fn state(tick: u64, rate: f64) -> State {
        let at = Timestamp(BEGIN + tick * 5000 + 40);
        let policy = ScalingPolicy::new("f".parse().expect("valid"));
        let moment = Moment { epoch: Epoch(7), tick: Tick::at(at, TickLength::default()) };
        let mut state = assemble(&policy, moment, at, &Windows::new(TickLength::default()), None);
        state.allocation = Some(Allocation::new(2, 500, 128));
        let two = Replicas(2);
        state.replicas = Some(ReplicaCounts { desired: two, ready: two, pending: Replicas(0), reporting: two });
        for window in [&mut state.windows.tick, &mut state.windows.short, &mut state.windows.long] {
            window.covered_ms = 5000;
            (window.rate_rps, window.completed_rps, window.failed_share) = (Some(rate), Some(rate), Some(0.0));
            (window.concurrency, window.queued) = (Some(rate / 100.0), Some(0.0));
            window.cpu_millicores = Some(Usage { mean: rate * 5.0, max: rate * 5.0 });
            window.memory_mib = Some(Usage { mean: 50.0, max: 52.0 });
        }
        state
    }

    #[test]
    fn a_period_ends_after_it_began() {
        let now = Timestamp(10_000_000);
        let period = |since, until| Period { since: Span::seconds(since), until: Some(Span::seconds(until)) };
        assert_eq!(period(60, 10).ends(now).expect("in order"), (Timestamp(9_940_000), Timestamp(9_990_000)));
        let error = period(10, 60).ends(now).expect_err("the wrong way round").to_string();
        assert!(error.contains("--until 1m") && error.contains("--since 10s"), "{error}");
    }
}
