//! `qscale why`: one decision as a person would explain it. Owns what is read and who else is asked; [`explain`] has the words. Changes nothing.

mod explain;
mod sight;

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use qscale_common::contract::{self, Action, EventType, Moment, Outcome, Reward, Source, State, subject};
use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::clock;
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use qscale_dqn::registry::DQN;
use qscale_policies::{Decision, History, HoldReason};

use self::explain::{Explanation, Other};
use self::sight::Hindsight;
use crate::recorded::{self, Again, Decider};
use crate::show;
use crate::store;
use crate::system::Locate;

/// Who is asked what they would have done: what people run today.
const OTHERS: [&str; 2] = ["hpa", "vpa"];
/// Outcomes are looked through so far back for who answers at all.
const LATELY: Duration = Duration::from_secs(600);

/// Which decision.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale why fibonacci                      the last decision of the agent that is obeyed
  qscale why fibonacci --agent hpa          of a shadow
  qscale why fibonacci --tick 352786156     one of before; `qscale replay fibonacci --csv` lists their ticks
  qscale why fibonacci --json | jq .unknown

What HPA and VPA would have done is decided on the same States, with their defaults, and their memory rebuilt from what the stream still holds. What is not known or
a guess is said at the end.")]
pub struct WhyArgs {
    /// namespace/name, or name
    #[arg(value_name = "FUNCTION")]
    function: FunctionId,
    /// The agent that decided; by default the one that is obeyed
    #[arg(long, value_name = "NAME")]
    agent: Option<Name>,
    /// The tick of the decision; by default the last
    #[arg(long, value_name = "NUMBER")]
    tick: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Explains a decision.
pub async fn run(locate: &Locate, arguments: WhyArgs) -> anyhow::Result<()> {
    let bus = locate.bus().await?;
    let function = &arguments.function;
    let newest = newest_state(&bus, function).await?;
    let agent = arguments.agent.clone().unwrap_or_else(|| newest.agent.clone());
    let action = match arguments.tick {
        None => last_action(&bus, &agent, function).await?,
        Some(tick) => action_of(&bus, &agent, function, Timestamp(tick.saturating_mul(newest.tick_length_ms)), tick).await?,
    };
    let Some(action) = action else { bail!(nothing_decided(&bus, &agent, function, arguments.tick).await?) };
    let explanation = gather(locate, &bus, function, action).await?;
    if arguments.json { show::json(&explanation) } else { show::line(explanation.text(clock::now())) }
}

async fn newest_state(bus: &Bus, function: &FunctionId) -> anyhow::Result<State> {
    let on = subject::of(EventType::State, function);
    let Some((_, stored)) = store::last(bus, subject::LIVE_STREAM, &on).await? else {
        return Err(recorded::nothing_seen(function, Timestamp(0)));
    };
    contract::decode(&on, &stored.payload).with_context(|| format!("the last State of {function}"))
}

async fn last_action(bus: &Bus, agent: &Name, function: &FunctionId) -> anyhow::Result<Option<Action>> {
    let on = subject::action(agent, function);
    let stored = store::last(bus, subject::RECORD_STREAM, &on).await?;
    stored
        .map(|(_, stored)| contract::decode(&on, &stored.payload).with_context(|| format!("the last Action of {agent} for {function}")))
        .transpose()
}

/// The answer of `agent` to the State of `tick`, which began at `begin`; the newest, where collectors of several epochs saw that tick.
async fn action_of(bus: &Bus, agent: &Name, function: &FunctionId, begin: Timestamp, tick: u64) -> anyhow::Result<Option<Action>> {
    let actions = recorded::actions(bus, agent, function, begin).await?;
    Ok(actions.into_iter().rev().find(|(moment, _)| moment.tick.0 == tick).map(|(_, action)| action))
}

/// What to say where there is no such decision: who decides instead.
async fn nothing_decided(bus: &Bus, agent: &Name, function: &FunctionId, tick: Option<u64>) -> anyhow::Result<String> {
    let outcomes: Vec<Outcome> = recorded::all(bus, function, clock::now().minus(LATELY)).await?;
    let mut deciders: Vec<String> = outcomes.iter().map(decider).collect();
    deciders.sort();
    deciders.dedup();
    let which = tick.map_or_else(|| "no decision".to_owned(), |tick| format!("no decision of tick {tick}"));
    let instead = match deciders.as_slice() {
        [] => "nobody decided on it within ten minutes; `qscale doctor` may say why".to_owned(),
        deciders => format!("within ten minutes it was decided on by {}", deciders.join(", ")),
    };
    let ticks = outcomes.iter().filter(|outcome| outcome.agent == *agent).map(|outcome| outcome.tick.0);
    let ticks = ticks.clone().min().zip(ticks.max()).filter(|_| tick.is_some());
    let ticks = ticks.map_or_else(String::new, |(first, last)| format!("; the latest ticks of {agent} are {first} to {last}"));
    Ok(format!("{which} of agent {agent} for {function} is kept: {instead}{ticks}"))
}

fn decider(outcome: &Outcome) -> String {
    match outcome.source {
        Source::Fallback => format!("the fallback rule {}", outcome.agent),
        Source::Operator => "an operator".to_owned(),
        Source::Agent | Source::Shadow => format!("agent {}", outcome.agent),
    }
}

/// Everything that is recorded of the decision, and what others would have done.
async fn gather(locate: &Locate, bus: &Bus, function: &FunctionId, action: Action) -> anyhow::Result<Explanation> {
    let moment = action.moment();
    let deciders = OTHERS.iter().map(|name| Decider::named(name, None)).collect::<anyhow::Result<Vec<_>>>()?;
    let reach = deciders.iter().filter_map(|decider| decider.decides.remembers()).max().unwrap_or_default().max(History::REACH);
    let mut looked = Looked::new(&deciders, moment);
    bus.recall_on(subject::of(EventType::State, function), action.decided_at_ms.minus(reach), |state: State| looked.see(&state)).await?;
    let Looked { state, history, judged, first, .. } = looked;
    let Some(state) = state else {
        bail!(
            "the State of tick {} is no longer kept, so that what {} saw is not known; `qscale watch --kind action --since 1h` shows what it said",
            moment.tick,
            action.agent
        )
    };
    let others = deciders.iter().zip(judged).filter_map(|(decider, judged)| Some(Other::new(decider, &state, judged?, first?)));
    let others: Vec<Other> = others.collect();
    let hindsight = match action.model.split(' ').next() {
        Some(DQN) => Some(Hindsight::new(&state, history.told(), caution(locate, bus, &action).await)),
        _ => None,
    };
    // The Outcome follows at once; the Reward when the next tick has ended. Clocks may differ by a little.
    let from = state.observed_at_ms.minus(Duration::from_millis(state.tick_length_ms));
    let outcomes: Vec<Outcome> = recorded::all(bus, function, from).await?;
    let rewards: Vec<Reward> = recorded::all(bus, function, from).await?;
    let of_it = |outcome: &Outcome| outcome.agent == action.agent && (outcome.epoch, outcome.tick) == (moment.epoch, moment.tick);
    let silent_since = outcomes.iter().find(|outcome| outcome.source == Source::Fallback).map(|outcome| outcome.tick);
    let outcome = outcomes.into_iter().rfind(of_it);
    let reward = rewards.into_iter().find(|reward| (reward.epoch, reward.tick) == (moment.epoch, moment.tick));
    Ok(Explanation { state, action, hindsight, outcome, reward, others, fallback_since: silent_since })
}

/// How cautious the learned policy is told to be; `None` where that is not known, or nothing was told.
async fn caution(locate: &Locate, bus: &Bus, action: &Action) -> Option<f64> {
    let decider = Decider::of_agent(locate, bus, &action.agent, Some(&action.model), None).await.ok()?;
    decider.params.get("caution")?.as_f64()
}

/// A decision of a rule that judged what it saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    at: Timestamp,
    in_force: Option<Allocation>,
    decision: Decision,
}

/// States on the way to the one that was decided on, and who looks at them.
struct Looked<'a> {
    moment: Moment,
    others: Vec<Again<'a>>,
    /// What each of them decided when it last judged anything.
    judged: Vec<Option<Judged>>,
    history: History,
    first: Option<Timestamp>,
    last: Option<Moment>,
    state: Option<State>,
}

impl<'a> Looked<'a> {
    fn new(deciders: &'a [Decider], moment: Moment) -> Self {
        let others: Vec<Again<'a>> = deciders.iter().map(|decider| Again::new(&decider.decides)).collect();
        let judged = others.iter().map(|_| None).collect();
        Self { moment, others, judged, history: History::default(), first: None, last: None, state: None }
    }

    fn see(&mut self, state: &State) {
        let at = state.moment();
        if at > self.moment || self.last.is_some_and(|last| at <= last) {
            return;
        }
        self.last = Some(at);
        self.first.get_or_insert(state.observed_at_ms);
        self.history.see(state);
        for (other, judged) in self.others.iter_mut().zip(&mut self.judged) {
            let decision = other.decide(state, state.observed_at_ms);
            if !matches!(decision, Decision::Hold { why: HoldReason::NotDue, .. }) {
                *judged = Some(Judged { at: state.observed_at_ms, in_force: state.allocation, decision });
            }
        }
        self.state = Some(state.clone()).filter(|_| at == self.moment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorded::tests::state;

    #[test]
    fn what_comes_after_the_decision_has_no_say_in_it() {
        let deciders = [Decider::named("hpa", None).expect("valid")];
        let states: Vec<State> = (0..60).map(|tick| state(tick, if tick < 30 { 10.0 } else { 100.0 })).collect();
        let mut looked = Looked::new(&deciders, states[29].moment());
        states.iter().for_each(|state| looked.see(state));
        assert_eq!(looked.state.as_ref(), Some(&states[29]));
        assert!(looked.history.told().rate_heights.peak_60 < 10.1, "{:?}", looked.history.told());
        let mut alone = Again::new(&deciders[0].decides);
        let decided = states[..30].iter().map(|state| (state.observed_at_ms, alone.decide(state, state.observed_at_ms)));
        let last = decided.filter(|(_, decision)| !matches!(decision, Decision::Hold { why: HoldReason::NotDue, .. })).last();
        let judged = looked.judged[0].clone().expect("it judged within thirty ticks");
        assert_eq!(Some((judged.at, judged.decision)), last);
    }

    #[test]
    fn a_state_that_is_not_there_is_not_made_up() {
        let mut looked = Looked::new(&[], state(5, 1.0).moment());
        [3, 4, 6].into_iter().for_each(|tick| looked.see(&state(tick, 1.0)));
        assert_eq!(looked.state, None);
    }
}
