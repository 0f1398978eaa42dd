//! A scenario on the local platform. Owns the timing of its allocations; the load generator owns that of its requests.

use std::collections::BTreeMap;
use std::time::Duration;

use qscale_common::runtime::clock;
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::Allocation;
use qscale_up::LoadPlan;

use super::machine::{MachineCpu, OtherLoad};
use super::scenario::Scenario;
use crate::profile::testbed::{Testbed, TimedRequest};

/// Time for replicas to settle after they become ready.
const REST: Duration = Duration::from_millis(300);

/// The result of a scenario.
#[derive(Debug, Clone)]
pub struct MeasuredRun {
    /// Why the result is void, if the load generator could not keep its schedule.
    pub void: Option<String>,
    /// All requests.
    pub sent: Vec<TimedRequest>,
    /// Changes of the allocation, by time since the start of the load.
    pub changes: Vec<(Duration, Allocation)>,
    /// CPU time of the function, seconds.
    pub cpu_seconds: f64,
    /// CPU use of other processes.
    pub others: OtherLoad,
}

impl MeasuredRun {
    /// Number of requests.
    pub fn requests(&self) -> usize {
        self.sent.len()
    }

    /// Latencies of successful requests, ascending.
    pub fn latencies(&self) -> Vec<Duration> {
        let mut latencies: Vec<Duration> = self.sent.iter().filter_map(TimedRequest::latency).collect();
        latencies.sort_unstable();
        latencies
    }
}

/// Runs `scenario` for `length`.
///
/// # Errors
/// When the platform or the load generator fails.
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
        tokio::time::sleep(at.saturating_sub(clock::since(first))).await;
        // Counters of removed replicas would be lost.
        cpu.extend(testbed.read().await?.cpu);
        done.push((clock::wall(), *allocation));
        testbed.allocate(*allocation).await?;
    }
    let sent = testbed.finish(sending).await?;
    let seconds = clock::since(began).as_secs_f64();
    cpu.extend(testbed.read().await?.cpu);
    let cpu_seconds = cpu.iter().map(|(replica, used)| used - before.get(replica).copied().unwrap_or(0.0)).sum();
    let others = MachineCpu::read(testbed.platform_pid()).others_since(&machine, cpu_seconds, seconds);
    let changes = done.into_iter().map(|(at, allocation)| (at.since(sent.started), allocation)).collect();
    let rested = testbed.spec().allocation.into();
    testbed.place(rested, |spec| spec.timeout = timeout).await?;
    Ok(MeasuredRun { void: sent.void, sent: sent.requests, changes, cpu_seconds, others })
}
