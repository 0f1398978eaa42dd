//! Reading of the messages that a stream retains, in order, for services that rebuild their memory. Owns the choice of
//! the stream; must not interpret messages.

use anyhow::Context as _;
use futures::TryStreamExt as _;

use super::Bus;
use super::retained::Start;
use crate::contract::{EventType, Message, decode, subject};
use crate::name::Name;
use crate::runtime::clock;
use crate::time::Timestamp;

/// Messages of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HistoryCount {
    /// Those that were read.
    pub read: u64,
    /// Those that are damaged, or of a version that this program does not know.
    pub unreadable: u64,
}

impl Bus {
    /// Calls `visit` with every message of kind `M` stored since `since` and before this call; returns their number.
    /// Malformed messages are counted and skipped.
    ///
    /// # Errors
    /// If a stream cannot be read to its end.
    pub async fn read_history<M: Message>(&self, since: Timestamp, visit: impl FnMut(M)) -> anyhow::Result<HistoryCount> {
        self.read_history_on(subject::all(M::TYPE), since, visit).await
    }

    /// As [`Bus::read_history`], on `filter_subject` only. Of the Actions of several agents, those of one agent are
    /// followed by those of the next.
    ///
    /// # Errors
    /// If a stream cannot be read to its end.
    pub async fn read_history_on<M: Message>(
        &self,
        filter_subject: String,
        since: Timestamp,
        mut visit: impl FnMut(M),
    ) -> anyhow::Result<HistoryCount> {
        let mut count = HistoryCount::default();
        for stream in self.streams_of(M::TYPE, &filter_subject).await? {
            self.read_retained(&stream, &filter_subject, Start::At(clock::to_wall(since)), |stored| {
                match decode::<M>(&stored.subject, &stored.payload) {
                    Ok(message) => {
                        visit(message);
                        count.read += 1;
                    }
                    Err(_) => count.unreadable += 1,
                }
                true
            })
            .await?;
        }
        Ok(count)
    }

    /// Names of the streams that retain messages of `kind` on `subject`.
    ///
    /// # Errors
    /// If the server does not list its streams.
    pub(super) async fn streams_of(&self, kind: EventType, subject: &str) -> anyhow::Result<Vec<String>> {
        match (kind, subject::agent_of(subject)) {
            (EventType::State | EventType::Load, _) => Ok(vec![subject::LIVE_STREAM.to_owned()]),
            (EventType::Outcome | EventType::Reward, _) => Ok(vec![subject::RECORD_STREAM.to_owned()]),
            // An agent may read its own Actions only.
            (EventType::Action, _) if self.reads_as.is_some() => {
                let own = self.reads_as.iter().filter(|own| subject::agent_of(subject).is_none_or(|wanted| wanted == **own));
                Ok(own.map(subject::action_stream).collect())
            }
            // An agent without a stream has published nothing.
            (EventType::Action, wanted) => {
                let agents =
                    self.agents_with_stream().await?.into_iter().filter(|agent| wanted.as_ref().is_none_or(|wanted| wanted == agent));
                Ok(agents.map(|agent| subject::action_stream(&agent)).collect())
            }
        }
    }

    /// The agents that have a stream of Actions.
    ///
    /// # Errors
    /// If the server does not list its streams.
    pub async fn agents_with_stream(&self) -> anyhow::Result<Vec<Name>> {
        let names: Vec<String> = self.jetstream().stream_names().try_collect().await.context("failed to list the streams")?;
        Ok(names.iter().filter_map(|name| subject::agent_of_stream(name)).collect())
    }
}
