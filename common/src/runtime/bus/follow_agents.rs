//! Follows the agents that have a credential. Owns when one begins and ends to be followed; must not know what is done for it.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Bus;
use crate::name::Name;

/// Interval at which new and removed agents are noticed.
const LIST_INTERVAL: Duration = Duration::from_secs(1);

impl Bus {
    /// Calls `start` once for each agent that has a stream, also for later ones, until `token` is cancelled; the token that it gets is cancelled when the agent
    /// is removed. A failed start is repeated. The receiver shows whether the agents were listed once.
    pub fn follow_agents<F, S>(&self, token: CancellationToken, start: F) -> watch::Receiver<bool>
    where
        F: Fn(Name, CancellationToken) -> S + Send + Sync + 'static,
        S: Future<Output = anyhow::Result<()>> + Send,
    {
        let (done, listed) = watch::channel(false);
        let bus = self.clone();
        tokio::spawn(token.clone().run_until_cancelled_owned(async move {
            let mut followed: BTreeMap<Name, CancellationToken> = BTreeMap::new();
            loop {
                match bus.agents_with_stream().await {
                    Ok(agents) => {
                        followed.retain(|agent, follower| {
                            let is_left = agents.contains(agent);
                            if !is_left {
                                follower.cancel();
                            }
                            is_left
                        });
                        for agent in agents {
                            if followed.contains_key(&agent) {
                                continue;
                            }
                            let follower = token.child_token();
                            match start(agent.clone(), follower.clone()).await {
                                Ok(()) => drop(followed.insert(agent, follower)),
                                Err(error) => {
                                    tracing::warn!(%agent, error = format!("{error:#}"), "failed to follow an agent; trying again")
                                }
                            }
                        }
                        done.send_replace(true);
                    }
                    // Those that are known are followed on.
                    Err(error) => tracing::debug!(error = format!("{error:#}"), "failed to list the agents; trying again"),
                }
                tokio::time::sleep(LIST_INTERVAL).await;
            }
        }));
        listed
    }
}
