//! The Actions of all agents. Owns a connection for each agent, so that a flood of Actions costs its sender only; must not judge an Action.

use qscale_common::contract::{Action, subject};
use qscale_common::name::Name;
use qscale_common::runtime::bus::{Bus, BusConfig, Received, Subscription};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Messages of an agent that its connection holds, as many as a burst for thousands of functions; it drops more than that before they are decoded.
const CAPACITY: usize = 4096;
/// Actions that wait for the core. The agents wait for a place in turn.
const WAITING: usize = 64;

/// Receiver of the Actions of all agents.
#[derive(Debug)]
pub(crate) struct ActionReceiver {
    received: mpsc::Receiver<Received<Action>>,
    /// Whether the agents were listed once.
    listed: watch::Receiver<bool>,
}

impl ActionReceiver {
    /// Follows all agents that have a stream, also later ones, until `token` is cancelled.
    pub(crate) fn follow(bus: &Bus, config: BusConfig, token: CancellationToken) -> Self {
        let (sender, received) = mpsc::channel(WAITING);
        let of_agents = bus.clone();
        let listed = bus.follow_agents(token, move |agent, follower| {
            let (bus, config, sender) = (of_agents.clone(), config.clone(), sender.clone());
            async move {
                let actions = subscribe(&bus, &config, &agent).await?;
                tokio::spawn(follower.run_until_cancelled_owned(pass_on(actions, sender)));
                Ok(())
            }
        });
        Self { received, listed }
    }

    /// Waits until the agents were listed once. Returns whether they were, and not the service stopped.
    pub(crate) async fn listed(&mut self) -> bool {
        self.listed.wait_for(|listed| *listed).await.is_ok()
    }

    /// The next Action.
    pub(crate) async fn next(&mut self) -> Option<Received<Action>> {
        self.received.recv().await
    }
}

/// The Actions of `agent`, over a connection of their own.
async fn subscribe(bus: &Bus, config: &BusConfig, agent: &Name) -> anyhow::Result<Subscription<Action>> {
    let own = bus.on_connection(config, &format!("qscale-actions-{agent}"), CAPACITY).await?;
    let actions = own.subscribe(subject::all_of_agent(agent), None).await?;
    own.flush().await;
    Ok(actions)
}

async fn pass_on(mut actions: Subscription<Action>, sender: mpsc::Sender<Received<Action>>) {
    while let Some(received) = actions.next().await {
        if sender.send(received).await.is_err() {
            return;
        }
    }
}
