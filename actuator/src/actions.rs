//! The Actions of all agents. Owns a connection for each agent, so that a flood of Actions costs its sender only; must not judge an Action.

use std::collections::BTreeMap;
use std::time::Duration;

use qscale_common::contract::{Action, subject};
use qscale_common::name::Name;
use qscale_common::runtime::bus::{Bus, BusConfig, Received};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Interval at which new and removed agents are noticed.
const LIST_INTERVAL: Duration = Duration::from_secs(2);
/// Messages of an agent that its connection holds; it drops more than that before they are decoded.
const CAPACITY: usize = 256;
/// Actions that wait for the core. The agents wait for a place in turn.
const WAITING: usize = 64;

/// Receiver of the Actions of all agents.
#[derive(Debug)]
pub(crate) struct Actions(mpsc::Receiver<Received<Action>>);

impl Actions {
    /// Follows all agents that have a stream, also later ones, until `token` is cancelled.
    pub(crate) fn follow(bus: Bus, config: BusConfig, token: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
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
                            followed.entry(agent.clone()).or_insert_with(|| {
                                let follower = token.child_token();
                                let of_agent = follow(bus.clone(), config.clone(), agent, sender.clone());
                                tokio::spawn(follower.clone().run_until_cancelled_owned(of_agent));
                                follower
                            });
                        }
                    }
                    // Those that are known are followed on.
                    Err(error) => tracing::debug!(error = format!("{error:#}"), "failed to list the agents; trying again"),
                }
                tokio::time::sleep(LIST_INTERVAL).await;
            }
        }));
        Self(receiver)
    }

    /// The next Action.
    pub(crate) async fn next(&mut self) -> Option<Received<Action>> {
        self.0.recv().await
    }
}

/// Passes the Actions of `agent` on.
async fn follow(bus: Bus, config: BusConfig, agent: Name, sender: mpsc::Sender<Received<Action>>) {
    let subscribe = async {
        let own = bus.on_connection(&config, &format!("qscale-actions-{agent}"), CAPACITY).await?;
        own.subscribe::<Action>(subject::all_of_agent(&agent), None).await
    };
    match subscribe.await {
        Ok(mut actions) => {
            while let Some(received) = actions.next().await {
                if sender.send(received).await.is_err() {
                    return;
                }
            }
        }
        Err(error) => tracing::error!(%agent, error = format!("{error:#}"), "failed to subscribe to the Actions of an agent"),
    }
}
