//! A scenario on the local platform. Owns when what is done; the load is the load generator's.

use std::collections::BTreeMap;
use std::time::Duration;

use qscale_common::runtime::clock;
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::Allocation;
use qscale_up::LoadPlan;

use super::machine::{MachineCpu, OtherLoad};
use super::scenario::Scenario;
use crate::profile::testbed::{Request, Testbed};

/// Time for replicas that became ready to come to rest.
const REST: Duration = Duration::from_millis(300);

/// What a scenario came to.
#[derive(Debug, Clone)]
pub struct MeasuredRun {
    /// Why it says nothing, where the load generator fell short.
    pub void: Option<String>,
    /// Every request.
    pub sent: Vec<Request>,
    /// What the function was given when, since the start of the load.
    pub changes: Vec<(Duration, Allocation)>,
    /// CPU time of the function, seconds.
    pub cpu_seconds: f64,
    /// What others used meanwhile.
    pub others: OtherLoad,
}

impl MeasuredRun {
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
pub async fn run(testbed: &mut Testbed, scenario: &Scenario, length: Duration, seed: u64) -> anyhow::Result<MeasuredRun> {
    let timeout = testbed.spec().timeout;
    let changed = scenario.timeout.unwrap_or(timeout);
    testbed.place(scenario.allocation, |spec| spec.timeout = changed).await?;
    tokio::time::sleep(REST).await;
    let before = testbed.read().await?.cpu;
    let (machine, began) = (MachineCpu::read(testbed.platform_pid()), clock::instant());
    let mut cpu: BTreeMap<String, f64> = BTreeMap::new();
    let sending =
        testbed.send(&LoadPlan { pattern: scenario.rate.clone(), duration: Some(Span(length)), seed, ..LoadPlan::default() }).await?;
    let mut done: Vec<(Timestamp, Allocation)> = Vec::new();
    let first = clock::instant();
    for (at, allocation) in &scenario.changes {
        tokio::time::sleep(at.saturating_sub(first.elapsed())).await;
        // Counters of replicas that go would be lost.
        cpu.extend(testbed.read().await?.cpu);
        done.push((clock::wall(), *allocation));
        testbed.allocate(*allocation).await?;
    }
    let sent = testbed.finish(sending).await?;
    let seconds = began.elapsed().as_secs_f64();
    cpu.extend(testbed.read().await?.cpu);
    let cpu_seconds = cpu.iter().map(|(replica, used)| used - before.get(replica).copied().unwrap_or(0.0)).sum();
    let others = MachineCpu::read(testbed.platform_pid()).others_since(&machine, cpu_seconds, seconds);
    let changes = done.into_iter().map(|(at, allocation)| (at.since(sent.started), allocation)).collect();
    let rested = testbed.spec().allocation.into();
    testbed.place(rested, |spec| spec.timeout = timeout).await?;
    Ok(MeasuredRun { void: sent.void, sent: sent.requests, changes, cpu_seconds, others })
}
