//! An agent: the real [`Answerer`] behind the model of the bus.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use qscale_agent::answer::{Answer, Answerer};
use qscale_common::contract::State;
use qscale_common::name::Name;
use qscale_dqn::decider::Decider;
use qscale_policies::by_name;

use crate::context::Context;
use crate::protocol::{Delivery, Payload, Request, Timer};
use crate::recorder::Recorder;

/// Timeout of a read of the stream.
const HISTORY_TIMEOUT: Duration = Duration::from_secs(5);

/// An instance of an agent.
pub(crate) struct Agent {
    answerer: Answerer,
    recorder: Recorder,
    /// Whether the memory is rebuilt; until then States wait.
    ready: bool,
    waiting: Vec<Arc<State>>,
    reads: u64,
}

impl Agent {
    /// An instance of the agent `name` with the rule of that name.
    ///
    /// # Panics
    /// If there is no such rule.
    pub(crate) fn new(name: &str, process: usize, cx: &mut Context<'_>) -> Self {
        let rule = by_name(name, &serde_json::Value::Null).expect("a rule with defaults");
        let agent = Name::new(name).expect("rules are named by DNS labels");
        let answerer = Answerer::new(agent, format!("agent-{process}"), EXPIRES_AFTER, Decider::Rule(rule));
        let mut agent =
            Self { ready: answerer.lookback().is_none(), answerer, recorder: Recorder::default(), waiting: Vec::new(), reads: 0 };
        if !agent.ready {
            agent.read_history(cx);
        }
        agent
    }

    fn read_history(&mut self, cx: &mut Context<'_>) {
        self.reads += 1;
        cx.send(Request::History(self.reads));
        cx.after(HISTORY_TIMEOUT, Timer::HistoryTimeout(self.reads));
    }

    /// Processes a delivery.
    pub(crate) fn on_delivery(&mut self, delivery: Delivery, cx: &mut Context<'_>) {
        match delivery {
            Delivery::Message(Payload::State(state)) if self.ready => self.answer(&state, cx),
            Delivery::Message(Payload::State(state)) => {
                // The subscription keeps the newest State of each function.
                self.waiting.retain(|waiting| waiting.function != state.function);
                self.waiting.push(state);
            }
            Delivery::Recorded(number) => self.recorder.on_recorded(number, cx),
            Delivery::History(number, states) if number == self.reads && !self.ready => {
                for state in states {
                    self.answerer.remember(&state, cx.rng);
                }
                self.ready = true;
                for state in std::mem::take(&mut self.waiting) {
                    self.answer(&state, cx);
                }
            }
            _ => {}
        }
    }

    /// Processes a timer.
    pub(crate) fn on_timer(&mut self, timer: &Timer, cx: &mut Context<'_>) {
        match timer {
            Timer::HistoryTimeout(number) if *number == self.reads && !self.ready => self.read_history(cx),
            _ => self.recorder.on_timer(timer, cx),
        }
    }

    fn answer(&mut self, state: &State, cx: &mut Context<'_>) {
        if let Answer::Act(action, _) = self.answerer.answer(state, cx.wall, cx.rng) {
            cx.checks.on_action_decided(&action, state, cx.wall);
            cx.checks.on_answered(cx.process, &action);
            self.recorder.record(Payload::Action(Arc::from(action)), cx);
        }
    }
}

/// Ticks after which an Action expires, as configured by default.
const EXPIRES_AFTER: NonZeroU32 = NonZeroU32::new(2).expect("two is not zero");
