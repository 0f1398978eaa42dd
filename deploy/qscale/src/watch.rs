//! `qscale watch`: messages of the bus as lines, live or from the streams. Owns filters; must not change anything.

mod lines;

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::connection::State as Connection;
use clap::{Args, ValueEnum};
use futures::StreamExt;
use futures::stream::select_all;
use qscale_common::contract::{self, Action, DecodeError, EventType, Load, Message, Outcome, Reward, State, subject};
use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::bus::{Bus, RecordedMessage, RecordedMessages};
use qscale_common::runtime::{clock, shutdown};
use qscale_common::time::{Span, Timestamp};
use serde_json::json;

use self::lines::Lines;
use crate::output;
use crate::system::Locate;

/// Interval between checks of the connection.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Which messages are shown.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale watch fibonacci                          everything about one function, live
  qscale watch --kind action,outcome --agent dqn
  qscale watch --since 10m                        what was recorded, then stop
  qscale watch --since 10m --follow --json | jq -c '.message.allocation'")]
pub struct WatchArgs {
    /// Only these functions, as namespace/name or name
    #[arg(value_name = "FUNCTION")]
    functions: Vec<FunctionId>,
    /// Only these kinds of message, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND")]
    kind: Vec<MessageKind>,
    /// Only Actions, Outcomes and Rewards of this agent, and States of functions it acts on
    #[arg(long, value_name = "NAME")]
    agent: Option<Name>,
    /// Show messages recorded in this period, such as 1h or 10m, and exit
    #[arg(long, value_name = "DURATION")]
    since: Option<Span>,
    /// Continue with live messages after the recorded ones
    #[arg(long)]
    follow: bool,
    /// Print one JSON object per line: subject, kind, message
    #[arg(long)]
    json: bool,
}

/// A kind of message on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MessageKind {
    /// Measurements of a function
    State,
    /// Reward of a tick
    Reward,
    /// Decision of an agent
    Action,
    /// Result of a decision
    Outcome,
    /// Load offered by a load generator
    Load,
}

impl From<MessageKind> for EventType {
    fn from(kind: MessageKind) -> EventType {
        match kind {
            MessageKind::State => EventType::State,
            MessageKind::Reward => EventType::Reward,
            MessageKind::Action => EventType::Action,
            MessageKind::Outcome => EventType::Outcome,
            MessageKind::Load => EventType::Load,
        }
    }
}

/// Shows messages until the recording ends or the command is interrupted.
pub async fn run(locate: &Locate, arguments: WatchArgs) -> anyhow::Result<()> {
    let bus = locate.bus().await?;
    let wanted = MessageFilter::new(&arguments);
    let mut screen = Screen { json: arguments.json, lines: Lines::new(), wanted };
    let stop = shutdown::token();
    let reading = async {
        match arguments.since {
            Some(since) => replay(&bus, &mut screen, clock::now().minus(since.0), arguments.follow).await,
            None => live(&bus, &mut screen).await,
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        result = reading => result,
    }
}

async fn live(bus: &Bus, screen: &mut Screen) -> anyhow::Result<()> {
    let mut subscriptions = Vec::new();
    for kind in &screen.wanted.kinds {
        for subject in screen.wanted.subjects(*kind) {
            subscriptions.push(bus.client().subscribe(subject.clone()).await.with_context(|| format!("subscribe to {subject}"))?);
        }
    }
    let mut messages = select_all(subscriptions);
    let mut check = tokio::time::interval(CHECK_INTERVAL);
    let mut connected = true;
    hint("showing live messages; press Ctrl-C to stop");
    loop {
        tokio::select! {
            message = messages.next() => {
                let message = message.context("the connection was closed")?;
                screen.show(clock::now(), &message.subject, &message.payload)?;
            }
            _ = check.tick() => {
                let now = bus.client().connection_state() == Connection::Connected;
                if now != connected {
                    output::warn(if now { "reconnected; messages sent in the meantime are in the streams (--since)" } else { "connection lost; reconnecting" });
                    connected = now;
                }
            }
        }
    }
}

/// Shows messages recorded since `since`, then live ones if `follow` is set.
async fn replay(bus: &Bus, screen: &mut Screen, since: Timestamp, follow: bool) -> anyhow::Result<()> {
    let wanted = &screen.wanted;
    let subjects = wanted.kinds.iter().flat_map(|kind| wanted.subjects(*kind).into_iter().map(|subject| (*kind, subject)));
    let mut recorded = RecordedMessages::open(bus, subjects.collect(), since).await?;
    let mut show = |recorded: &RecordedMessage| screen.show(recorded.at, &recorded.message.subject, &recorded.message.payload);
    recorded.history(&mut show).await?;
    if follow {
        hint("showing live messages; press Ctrl-C to stop");
        recorded.follow(bus, show).await?;
    }
    Ok(())
}

/// Prints a hint if both outputs are terminals.
fn hint(text: &str) {
    if std::io::stdout().is_terminal() && std::io::stderr().is_terminal() {
        output::note(text);
    }
}

/// Which messages are shown.
#[derive(Debug)]
struct MessageFilter {
    kinds: Vec<EventType>,
    functions: BTreeSet<FunctionId>,
    agent: Option<Name>,
}

impl MessageFilter {
    fn new(arguments: &WatchArgs) -> Self {
        let chosen = |kind: &EventType| arguments.kind.is_empty() || arguments.kind.iter().any(|asked| EventType::from(*asked) == *kind);
        Self {
            kinds: EventType::ALL.iter().copied().filter(chosen).collect(),
            functions: arguments.functions.iter().cloned().collect(),
            agent: arguments.agent.clone(),
        }
    }

    /// Subjects that carry the wanted messages of `kind`, possibly among others.
    fn subjects(&self, kind: EventType) -> Vec<String> {
        match (kind, &self.agent) {
            (EventType::Action, Some(agent)) if self.functions.is_empty() => vec![subject::all_of_agent(agent)],
            (EventType::Action, Some(agent)) => self.functions.iter().map(|function| subject::action(agent, function)).collect(),
            (EventType::Action, None) => vec![subject::all(kind)],
            _ if self.functions.is_empty() => vec![subject::all(kind)],
            _ => self.functions.iter().map(|function| subject::of(kind, function)).collect(),
        }
    }

    /// Whether a message on `subject` may be wanted; the agent filter needs its content.
    fn takes_subject(&self, subject: &str) -> bool {
        self.functions.is_empty()
            || self.functions.iter().any(|function| subject.strip_suffix(&function.tokens()).is_some_and(|rest| rest.ends_with('.')))
    }

    fn takes(&self, message: &AnyMessage) -> bool {
        let Some(agent) = &self.agent else { return true };
        match message {
            AnyMessage::State(state) => state.agent == *agent,
            AnyMessage::Reward(reward) => reward.decided_by.as_ref().is_some_and(|decider| decider.agent == *agent),
            AnyMessage::Action(action) => action.agent == *agent,
            AnyMessage::Outcome(outcome) => outcome.agent == *agent,
            AnyMessage::Load(_) => false,
        }
    }
}

/// A message of any kind.
#[derive(Debug)]
enum AnyMessage {
    State(Box<State>),
    Reward(Box<Reward>),
    Action(Box<Action>),
    Outcome(Box<Outcome>),
    Load(Box<Load>),
}

/// Error of an unreadable message.
#[derive(Debug, PartialEq, Eq)]
enum Unreadable {
    /// No kind of message has this subject.
    UnknownKind,
    /// The payload is not a message of its kind.
    Payload(DecodeError),
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownKind => f.write_str("unknown kind of message"),
            Self::Payload(error) => error.fmt(f),
        }
    }
}

fn read(subject: &str, payload: &[u8]) -> Result<AnyMessage, Unreadable> {
    fn of<M: Message>(subject: &str, payload: &[u8]) -> Result<Box<M>, Unreadable> {
        contract::decode(subject, payload).map(Box::new).map_err(Unreadable::Payload)
    }
    match subject::kind(subject).ok_or(Unreadable::UnknownKind)? {
        EventType::State => of(subject, payload).map(AnyMessage::State),
        EventType::Reward => of(subject, payload).map(AnyMessage::Reward),
        EventType::Action => of(subject, payload).map(AnyMessage::Action),
        EventType::Outcome => of(subject, payload).map(AnyMessage::Outcome),
        EventType::Load => of(subject, payload).map(AnyMessage::Load),
    }
}

/// Output of messages.
#[derive(Debug)]
struct Screen {
    json: bool,
    lines: Lines,
    wanted: MessageFilter,
}

impl Screen {
    /// Shows the message that arrived on `subject` at `at`, if it is wanted.
    fn show(&mut self, at: Timestamp, subject: &str, payload: &[u8]) -> anyhow::Result<()> {
        if !self.wanted.takes_subject(subject) {
            return Ok(());
        }
        let message = read(subject, payload);
        if message.as_ref().is_ok_and(|message| !self.wanted.takes(message)) {
            return Ok(());
        }
        match self.json {
            true => output::json_line(&as_json(subject, payload, message.err().as_ref())),
            false => output::line(self.lines.line(at, subject, &message)),
        }
    }
}

/// The message as received, with unknown fields; an unreadable one has an `error`.
fn as_json(subject: &str, payload: &[u8], error: Option<&Unreadable>) -> serde_json::Value {
    let kind = subject::kind(subject).map(EventType::word);
    let message = serde_json::from_slice(payload).unwrap_or_else(|_| json!(String::from_utf8_lossy(payload)));
    let mut object = json!({ "subject": subject, "kind": kind, "message": message });
    if let Some(error) = error {
        object["error"] = json!(error.to_string());
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(functions: &[&str], agent: Option<&str>) -> MessageFilter {
        MessageFilter {
            kinds: EventType::ALL.into(),
            functions: functions.iter().map(|text| text.parse().expect("valid")).collect(),
            agent: agent.map(|name| name.parse().expect("valid")),
        }
    }

    #[test]
    fn functions_are_subscribed_by_their_own_subjects() {
        let one = wanted(&["f"], None);
        assert_eq!(one.subjects(EventType::State), ["qscale.v1.state.default.f"]);
        assert!(one.takes_subject("qscale.v1.action.any.default.f"));
        assert!(!one.takes_subject("qscale.v1.action.any.default.ff"));
        assert!(!one.takes_subject("qscale.v1.state.notdefault.f"));
        assert_eq!(wanted(&["f"], Some("mine")).subjects(EventType::Action), ["qscale.v1.action.mine.default.f"]);
        assert_eq!(wanted(&[], Some("mine")).subjects(EventType::Action), ["qscale.v1.action.mine.>"]);
    }

    #[test]
    fn unreadable_messages_are_shown_as_received() {
        let shown = as_json("qscale.v1.state.default.f", b"not json", read("qscale.v1.state.default.f", b"not json").err().as_ref());
        assert_eq!(shown["message"], "not json");
        assert!(shown["error"].as_str().is_some_and(|error| !error.is_empty()));
        assert_eq!(read("qscale.v1.dream.default.f", b"{}").err(), Some(Unreadable::UnknownKind));
        assert_eq!(as_json("elsewhere", b"{}", None)["kind"], serde_json::Value::Null);
    }
}
