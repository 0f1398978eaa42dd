//! Reading many peers at once, nodes or pods. Owns the limits, and which peers are waited for: one that does not answer delays no other.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use super::super::SourceError;
use super::KubernetesConfig;

/// Reads of peers, each on a task of its own.
///
/// A peer has one read at a time. What arrives late is a result of the next sweep, and its peer is not waited for until it answers in time again.
pub(super) struct Sweep<T> {
    /// Subject of the reads, for the log.
    subject: &'static str,
    /// Timeout of one read.
    timeout: Duration,
    /// Longest time that a sweep waits.
    patience: Duration,
    /// Reads at the same time, of peers that are waited for, and of the others.
    permits: [Arc<Semaphore>; 2],
    reads: JoinSet<Answer<T>>,
    peers: HashMap<String, Peer>,
    /// Peers that the sweep waits for.
    awaited: usize,
    /// Whether a peer could not be read the last time.
    incomplete: bool,
}

#[derive(Debug, Default)]
struct Peer {
    reading: bool,
    awaited: bool,
    late: bool,
    failed: Option<SourceError>,
}

struct Answer<T> {
    peer: String,
    late: bool,
    result: Result<T, SourceError>,
}

impl<T: Send + 'static> Sweep<T> {
    pub(super) fn new(subject: &'static str, config: &KubernetesConfig) -> Self {
        let permits = || Arc::new(Semaphore::new(config.concurrency as usize));
        Self {
            subject,
            timeout: config.timeout.0 * 3 / 4,
            patience: config.timeout.0 / 4,
            permits: [permits(), permits()],
            reads: JoinSet::new(),
            peers: HashMap::new(),
            awaited: 0,
            incomplete: false,
        }
    }

    /// Reads `peers`, each with its name, and returns what they and late ones answered. Logs when the first of them fails, and when none does any longer.
    pub(super) async fn read<R: Future<Output = Result<T, SourceError>> + Send + 'static>(
        &mut self,
        peers: impl IntoIterator<Item = (String, R)>,
    ) -> Vec<T> {
        let mut before = std::mem::take(&mut self.peers);
        for (name, read) in peers {
            let mut peer = before.remove(&name).unwrap_or_default();
            peer.awaited = !peer.reading && !peer.late;
            if !peer.reading {
                peer.reading = true;
                self.start(name.clone(), usize::from(peer.late), read);
            }
            self.peers.insert(name, peer);
        }
        self.awaited = self.peers.values().filter(|peer| peer.awaited).count();
        let mut answers = Vec::new();
        let mut patience = pin!(sleep(self.patience));
        while self.awaited > 0 {
            tokio::select! {
                Some(read) = self.reads.join_next() => answers.extend(self.end(read)),
                () = &mut patience => break,
            }
        }
        while let Some(read) = self.reads.try_join_next() {
            answers.extend(self.end(read));
        }
        self.report();
        answers
    }

    fn start(&mut self, peer: String, limit: usize, read: impl Future<Output = Result<T, SourceError>> + Send + 'static) {
        let (permits, patience, rest) = (Arc::clone(&self.permits[limit]), self.patience, self.timeout - self.patience);
        self.reads.spawn(async move {
            let _permit = permits.acquire().await;
            let mut read = pin!(read);
            let prompt = timeout(patience, read.as_mut()).await;
            let late = prompt.is_err();
            let result = match prompt {
                Ok(result) => result,
                Err(_) => timeout(rest, read).await.unwrap_or(Err(SourceError::Timeout)),
            };
            Answer { peer, late, result }
        });
    }

    /// The result of a read; `None` if it failed or its peer is gone.
    fn end(&mut self, read: Result<Answer<T>, JoinError>) -> Option<T> {
        let answer = read.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        let peer = self.peers.get_mut(&answer.peer)?;
        self.awaited -= usize::from(std::mem::take(&mut peer.awaited));
        (peer.reading, peer.late) = (false, answer.late);
        match answer.result {
            Ok(read) => {
                peer.failed = None;
                Some(read)
            }
            Err(error) => {
                peer.failed = Some(error);
                None
            }
        }
    }

    fn report(&mut self) {
        let failed = || self.peers.iter().filter_map(|(name, peer)| Some((name, peer.failed.as_ref()?)));
        let first = failed().next();
        match (std::mem::replace(&mut self.incomplete, first.is_some()), first) {
            (false, Some((first, error))) => {
                let (subject, failed, of) = (self.subject, failed().count(), self.peers.len());
                tracing::warn!(subject, failed, of, first, %error, "cannot be read; what depends on it is absent");
            }
            (true, None) => tracing::info!(subject = self.subject, "can be read again"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;
    use qscale_common::time::Span;
    use tokio::sync::watch;

    use super::*;

    type Read = BoxFuture<'static, Result<String, SourceError>>;

    fn sweep() -> Sweep<String> {
        let config = KubernetesConfig { timeout: Span::millis(200), concurrency: 1, ..KubernetesConfig::default() };
        Sweep::new("peers", &config)
    }

    /// Peers that answer at once, and 8 that answer when `open` holds.
    fn peers(open: &watch::Receiver<bool>) -> Vec<(String, Read)> {
        let slow = (0..8).map(|number| {
            let (name, mut open) = (format!("slow-{number}"), open.clone());
            let read = {
                let name = name.clone();
                async move { open.wait_for(|open| *open).await.map(|_| name).map_err(|_| SourceError::Timeout) }
            };
            (name, Box::pin(read) as Read)
        });
        let prompt = ["a", "b"].map(|name| (name.to_owned(), Box::pin(async move { Ok(name.to_owned()) }) as Read));
        slow.chain(prompt).collect()
    }

    /// The answers of a sweep after a pause, in which reads go on.
    async fn next(sweep: &mut Sweep<String>, open: &watch::Receiver<bool>) -> Vec<String> {
        sleep(Duration::from_millis(20)).await;
        timeout(Duration::from_secs(60), sweep.read(peers(open))).await.expect("a sweep ends")
    }

    /// Sweeps until one returns all of `names`.
    async fn until(sweep: &mut Sweep<String>, open: &watch::Receiver<bool>, names: &[&str]) {
        let mut found = Vec::new();
        while !names.iter().all(|name| found.iter().any(|found| found == name)) {
            found = next(sweep, open).await;
        }
    }

    #[tokio::test]
    async fn peers_that_do_not_answer_delay_no_other_and_come_back() {
        let (sender, open) = watch::channel(false);
        let mut sweep = sweep();
        // More of them hang than may be read at the same time.
        until(&mut sweep, &open, &["a", "b"]).await;
        while sweep.peers.values().filter(|peer| peer.failed.is_some()).count() < 8 {
            next(&mut sweep, &open).await;
        }
        assert!(sweep.incomplete);
        until(&mut sweep, &open, &["a", "b"]).await;
        sender.send_replace(true);
        let all = peers(&open).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        until(&mut sweep, &open, &all.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert!(!sweep.incomplete);
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_is_forgotten() {
        let (_sender, open) = watch::channel(false);
        let mut sweep = sweep();
        sweep.read(peers(&open)).await;
        sweep.read(peers(&open).into_iter().skip(8)).await;
        assert_eq!(sweep.peers.len(), 2);
    }
}
