//! A scenario on the local platform. Owns when what is done; the load is the load generator's.

use std::collections::BTreeMap;
use std::time::Duration;

use qscale_common::runtime::clock;
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;

use super::machine::{Machine, Others};
use super::scenario::Scenario;
use crate::profile::rig::{LoadPlan, Request, Rig};

/// Time for replicas that became ready to come to rest.
const REST: Duration = Duration::from_millis(300);

/// What a scenario came to.
#[derive(Debug, Clone)]
pub struct Real {
    /// Why it says nothing, where the load generator fell short.
    pub void: Option<String>,
    /// Every request.
    pub sent: Vec<Request>,
    /// What the function was given when, since the start of the load.
    pub changes: Vec<(Duration, Allocation)>,
    /// CPU time of the function, seconds.
    pub cpu_seconds: f64,
    /// What others used meanwhile.
    pub others: Others,
}

impl Real {
    /// Requests that were due.
    pub fn requests(&self) -> usize {
        self.sent.len()
    }

    /// Latencies of those answered well, rising.
    pub fn latencies(&self) -> Vec<Duration> {
        let mut latencies: Vec<Duration> = self.sent.iter().filter_map(Request::latency).collect();
        latencies.sort_unstable();
        latencies
    }
}

/// Runs `scenario` for `length`.
pub async fn run(rig: &mut Rig, scenario: &Scenario, length: Duration, seed: u64) -> anyhow::Result<Real> {
    let timeout = rig.spec().timeout;
    let changed = scenario.timeout.unwrap_or(timeout);
    rig.place(scenario.allocation, |spec| spec.timeout = changed).await?;
    tokio::time::sleep(REST).await;
    let before = rig.read().await?.cpu;
    let (machine, began) = (Machine::read(rig.platform_pid()), clock::instant());
    let mut cpu: BTreeMap<String, f64> = BTreeMap::new();
    let sending = rig.send(&LoadPlan { rate: scenario.rate.clone(), gaps: "poisson", length, seed })?;
    let mut done: Vec<(Timestamp, Allocation)> = Vec::new();
    let first = clock::instant();
    for (at, allocation) in &scenario.changes {
        tokio::time::sleep(at.saturating_sub(clock::since(first))).await;
        // Counters of replicas that go would be lost.
        cpu.extend(rig.read().await?.cpu);
        done.push((clock::wall(), *allocation));
        rig.allocate(*allocation).await?;
    }
    let sent = rig.finish(sending).await?;
    let seconds = clock::since(began).as_secs_f64();
    cpu.extend(rig.read().await?.cpu);
    let cpu_seconds = cpu.iter().map(|(replica, used)| used - before.get(replica).copied().unwrap_or(0.0)).sum();
    let others = Machine::read(rig.platform_pid()).others_since(&machine, cpu_seconds, seconds);
    let changes = done.into_iter().map(|(at, allocation)| (at.since(sent.started), allocation)).collect();
    let rested = rig.spec().allocation.into();
    rig.place(rested, |spec| spec.timeout = timeout).await?;
    Ok(Real { void: sent.void, sent: sent.requests, changes, cpu_seconds, others })
}
