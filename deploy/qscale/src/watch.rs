//! `qscale watch`: the messages of the bus as lines, live or from the streams. Owns what is read and filtered; changes nothing.

mod lines;
mod replay;

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
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::{clock, shutdown};
use qscale_common::time::{Span, Timestamp};
use serde_json::json;

use self::lines::Lines;
use crate::show::{self, Paint};
use crate::system::Locate;

/// How often is looked whether the connection still stands.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What to follow.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Only these functions, as namespace/name or name
    #[arg(value_name = "FUNCTION")]
    functions: Vec<FunctionId>,
    /// Only these kinds of message, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND")]
    kind: Vec<Kind>,
    /// Only what this agent decided or is judged by, and States of functions that obey it
    #[arg(long, value_name = "NAME")]
    agent: Option<Name>,
    /// Read what was recorded since then, such as 1h or 10m, and end
    #[arg(long, value_name = "DURATION")]
    since: Option<Span>,
    /// After what was recorded, go on with what comes
    #[arg(long)]
    follow: bool,
    /// One JSON object a line: subject, kind, message
    #[arg(long)]
    json: bool,
}

/// A kind of message, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// What was seen of a function
    State,
    /// What a tick was worth
    Reward,
    /// What an agent wants
    Action,
    /// What became of it
    Outcome,
    /// What a load generator offered
    Load,
}

impl From<Kind> for EventType {
    fn from(kind: Kind) -> EventType {
        match kind {
            Kind::State => EventType::State,
            Kind::Reward => EventType::Reward,
            Kind::Action => EventType::Action,
            Kind::Outcome => EventType::Outcome,
            Kind::Load => EventType::Load,
        }
    }
}

/// Shows messages until there are no more, or somebody ends it.
pub async fn run(locate: &Locate, arguments: WatchArgs) -> anyhow::Result<()> {
    let bus = locate.bus().await?;
    let wanted = Wanted::new(&arguments);
    let mut screen = Screen { json: arguments.json, lines: Lines::new(Paint::of_terminal()), wanted };
    let stop = shutdown::token();
    let reading = async {
        match arguments.since {
            Some(since) => replay::run(&bus, &mut screen, clock::now().minus(since.0), arguments.follow).await,
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
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut connected = true;
    hint("following what comes; Ctrl-C ends");
    loop {
        tokio::select! {
            message = messages.next() => {
                let message = message.context("the connection was closed")?;
                screen.show(clock::now(), &message.subject, &message.payload)?;
            }
            _ = look.tick() => {
                let now = bus.client().connection_state() == Connection::Connected;
                if now != connected {
                    show::warn(if now { "connected again; what was said meanwhile is in the streams (--since)" } else { "connection lost; trying again" });
                    connected = now;
                }
            }
        }
    }
}

/// Tells a person at a terminal what goes on; scripts are spared it.
fn hint(text: &str) {
    if std::io::stdout().is_terminal() && std::io::stderr().is_terminal() {
        eprintln!("{text}");
    }
}

/// Which messages are shown.
#[derive(Debug)]
struct Wanted {
    kinds: Vec<EventType>,
    functions: BTreeSet<FunctionId>,
    agent: Option<Name>,
}

impl Wanted {
    fn new(arguments: &WatchArgs) -> Self {
        let chosen = |kind: &EventType| arguments.kind.is_empty() || arguments.kind.iter().any(|asked| EventType::from(*asked) == *kind);
        Self {
            kinds: EventType::ALL.into_iter().filter(chosen).collect(),
            functions: arguments.functions.iter().cloned().collect(),
            agent: arguments.agent.clone(),
        }
    }

    /// The subjects that carry what is wanted of `kind`, and perhaps more.
    fn subjects(&self, kind: EventType) -> Vec<String> {
        match (kind, &self.agent) {
            (EventType::Action, Some(agent)) if self.functions.is_empty() => vec![subject::all_of_agent(agent)],
            (EventType::Action, Some(agent)) => self.functions.iter().map(|function| subject::action(agent, function)).collect(),
            (EventType::Action, None) => vec![subject::all(kind)],
            _ if self.functions.is_empty() => vec![subject::all(kind)],
            _ => self.functions.iter().map(|function| subject::of(kind, function)).collect(),
        }
    }

    /// Whether a message on `subject` may be wanted; only what it says can tell about agents.
    fn takes_subject(&self, subject: &str) -> bool {
        self.functions.is_empty()
            || self.functions.iter().any(|function| subject.strip_suffix(&function.tokens()).is_some_and(|rest| rest.ends_with('.')))
    }

    fn takes(&self, heard: &Heard) -> bool {
        let Some(agent) = &self.agent else { return true };
        match heard {
            Heard::State(state) => state.agent == *agent,
            Heard::Reward(reward) => reward.decided_by.as_ref().is_some_and(|decider| decider.agent == *agent),
            Heard::Action(action) => action.agent == *agent,
            Heard::Outcome(outcome) => outcome.agent == *agent,
            Heard::Load(_) => false,
        }
    }
}

/// A message of any kind.
#[derive(Debug)]
enum Heard {
    State(Box<State>),
    Reward(Box<Reward>),
    Action(Box<Action>),
    Outcome(Box<Outcome>),
    Load(Box<Load>),
}

/// Why a message could not be read.
#[derive(Debug, PartialEq, Eq)]
enum Unreadable {
    /// The subject belongs to no kind of message.
    NoKind,
    /// The payload is no message of its kind.
    Payload(DecodeError),
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoKind => f.write_str("the subject names no kind of message that this version knows"),
            Self::Payload(error) => error.fmt(f),
        }
    }
}

fn read(subject: &str, payload: &[u8]) -> Result<Heard, Unreadable> {
    fn of<M: Message>(subject: &str, payload: &[u8]) -> Result<Box<M>, Unreadable> {
        contract::decode(subject, payload).map(Box::new).map_err(Unreadable::Payload)
    }
    match subject::kind(subject).ok_or(Unreadable::NoKind)? {
        EventType::State => of(subject, payload).map(Heard::State),
        EventType::Reward => of(subject, payload).map(Heard::Reward),
        EventType::Action => of(subject, payload).map(Heard::Action),
        EventType::Outcome => of(subject, payload).map(Heard::Outcome),
        EventType::Load => of(subject, payload).map(Heard::Load),
    }
}

/// Where messages are written.
#[derive(Debug)]
struct Screen {
    json: bool,
    lines: Lines,
    wanted: Wanted,
}

impl Screen {
    /// Shows what came on `subject` at `at`, if it is wanted.
    fn show(&mut self, at: Timestamp, subject: &str, payload: &[u8]) -> anyhow::Result<()> {
        if !self.wanted.takes_subject(subject) {
            return Ok(());
        }
        let heard = read(subject, payload);
        if heard.as_ref().is_ok_and(|heard| !self.wanted.takes(heard)) {
            return Ok(());
        }
        match self.json {
            true => show::line(as_json(subject, payload, heard.err().as_ref())),
            false => show::line(self.lines.line(at, subject, &heard)),
        }
    }
}

/// The message as it came, unknown fields included; an unreadable one says why it is.
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

    fn wanted(functions: &[&str], agent: Option<&str>) -> Wanted {
        Wanted {
            kinds: EventType::ALL.into(),
            functions: functions.iter().map(|text| text.parse().expect("valid")).collect(),
            agent: agent.map(|name| name.parse().expect("valid")),
        }
    }

    #[test]
    fn a_function_is_asked_for_by_its_own_subject() {
        let one = wanted(&["f"], None);
        assert_eq!(one.subjects(EventType::State), ["qscale.v1.state.default.f"]);
        assert!(one.takes_subject("qscale.v1.action.any.default.f"));
        assert!(!one.takes_subject("qscale.v1.action.any.default.ff"));
        assert!(!one.takes_subject("qscale.v1.state.notdefault.f"));
        assert_eq!(wanted(&["f"], Some("mine")).subjects(EventType::Action), ["qscale.v1.action.mine.default.f"]);
        assert_eq!(wanted(&[], Some("mine")).subjects(EventType::Action), ["qscale.v1.action.mine.>"]);
    }

    #[test]
    fn what_cannot_be_read_is_shown_as_it_came() {
        let shown = as_json("qscale.v1.state.default.f", b"not json", read("qscale.v1.state.default.f", b"not json").err().as_ref());
        assert_eq!(shown["message"], "not json");
        assert!(shown["error"].as_str().is_some_and(|error| !error.is_empty()));
        assert_eq!(read("qscale.v1.dream.default.f", b"{}").err(), Some(Unreadable::NoKind));
        assert_eq!(as_json("elsewhere", b"{}", None)["kind"], serde_json::Value::Null);
    }
}
