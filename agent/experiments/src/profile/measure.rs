//! The measurements of a function. Owns the order and length of the steps; draws no conclusions.

use std::time::Duration;

use anyhow::{Context, ensure};
use qscale_common::document::Format;
use qscale_common::platform::FunctionSpec;
use qscale_common::time::Span;
use qscale_common::units::{Allocation, Replicas};
use qscale_common::workload::Gaps;
use qscale_up::plan::function_spec;
use qscale_up::{LoadPlan, RequestForm};

use super::counters::Counters;
use super::testbed::{LoadResult, Testbed};
use crate::validate::machine::{MachineCpu, OtherLoad};

/// Amount of measuring.
#[derive(Debug, Clone, Copy)]
pub struct ProfileBudget {
    starts: u32,
    /// Time without requests.
    idle: Duration,
    /// Sequential requests, and their largest total time.
    requests: u32,
    requests_within: Duration,
    /// Bursts of each size.
    bursts: u32,
}

impl ProfileBudget {
    /// At most two minutes in total.
    pub const FULL: Self =
        Self { starts: 10, idle: Duration::from_secs(3), requests: 400, requests_within: Duration::from_secs(40), bursts: 12 };
    /// About ten seconds in total.
    pub const QUICK: Self =
        Self { starts: 3, idle: Duration::from_millis(500), requests: 100, requests_within: Duration::from_secs(5), bursts: 4 };
}

/// Sizes of the bursts.
pub const BURSTS: [u32; 2] = [2, 8];

/// Memory limit while measuring, MiB: enough for any serverless function.
const MEMORY_MIB: u32 = 1024;
/// Requests before the measured ones, to open connections and fill caches.
const PILOT: u32 = 8;
/// Gap between sequential requests, in multiples of the latency.
const SPACED: f64 = 2.5;
/// Smallest gap: the counters are read in between.
const LEAST_GAP: Duration = Duration::from_millis(30);

/// Measurements of a function.
#[derive(Debug, Clone, Default)]
pub struct Measurements {
    /// Whether the counters of CPU time are exact.
    pub exact: bool,
    /// Cores of the machine.
    pub cores: u32,
    /// Time and CPU time of each start.
    pub starts: Vec<(Duration, Duration)>,
    /// CPU used without requests, cores.
    pub idle_cores: f64,
    /// Memory without requests, bytes.
    pub idle_memory: f64,
    /// Largest memory during the largest bursts, bytes.
    pub burst_memory: f64,
    /// Latency and CPU time of sequential requests.
    pub requests: Vec<(Duration, Duration)>,
    /// Mean CPU time of sequential requests.
    pub mean_cpu: Duration,
    /// Due time and latency of each request of each burst, by the sizes of [`BURSTS`].
    pub bursts: Vec<Vec<Vec<(Duration, Duration)>>>,
    /// CPU of other processes during the sequential requests.
    pub others: OtherLoad,
    /// Median latency of an empty function, which is the overhead of load generator and gateway.
    pub overhead: Option<Duration>,
}

/// Steps of a measurement, in order.
pub const STEPS: [&str; 6] =
    ["starts", "without requests", "first requests", "requests one by one", "requests at once", "overhead of load generator and gateway"];

/// Measures the function on `testbed`; `begin` is called with the index of each of [`STEPS`].
///
/// # Errors
/// When the platform or the load generator fails, or no request succeeds.
pub async fn measure(testbed: &mut Testbed, budget: ProfileBudget, begin: &dyn Fn(usize)) -> anyhow::Result<Measurements> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
    let generous = |replicas| Allocation::new(replicas, cores * 1000, MEMORY_MIB);
    let mut measured = Measurements { exact: testbed.vertical, cores, ..Measurements::default() };
    begin(0);
    // The concurrency limit of the function file is removed, because the real concurrency is measured.
    testbed.place(generous(0), |spec| spec.concurrency = 0).await?;
    measured.starts = starts(testbed, budget.starts, generous).await?;
    begin(1);
    let before = testbed.read().await?;
    tokio::time::sleep(budget.idle).await;
    let after = testbed.read().await?;
    measured.idle_cores = (after.cpu_seconds() - before.cpu_seconds()) / after.at.since(before.at).as_secs_f64();
    measured.idle_memory = after.most_memory();
    begin(2);
    let latency = pilot(testbed).await?;
    begin(3);
    let gap = latency.mul_f64(SPACED).max(LEAST_GAP);
    one_by_one(testbed, budget, gap, &mut measured).await?;
    begin(4);
    for size in BURSTS {
        let bursts = bursts(testbed, size, budget.bursts, latency, &mut measured.burst_memory).await?;
        measured.bursts.push(bursts);
    }
    begin(5);
    measured.overhead = overhead(testbed, generous(1)).await?;
    Ok(measured)
}

async fn starts(testbed: &mut Testbed, count: u32, generous: impl Fn(u32) -> Allocation) -> anyhow::Result<Vec<(Duration, Duration)>> {
    let mut starts = Vec::new();
    for start in 0..count {
        let before = testbed.read().await?;
        testbed.allocate(generous(1)).await?;
        testbed.until_ready(Replicas(1)).await?;
        let after = testbed.read().await?;
        let took = (after.startup_seconds - before.startup_seconds) / (after.startups - before.startups).max(1.0);
        let took = Duration::from_secs_f64(took.max(0.0));
        starts.push((took, Duration::from_secs_f64(after.cpu_seconds()).min(took)));
        if start + 1 < count {
            testbed.allocate(generous(0)).await?;
            testbed.until_ready(Replicas(0)).await?;
        }
    }
    Ok(starts)
}

/// A load of evenly spaced requests.
fn steady(pattern: String, length: Duration) -> LoadPlan {
    LoadPlan { pattern, gaps: Gaps::Constant, duration: Some(Span(length)), seed: 1, ..LoadPlan::default() }
}

/// Sends a few requests and returns their median latency.
async fn pilot(testbed: &mut Testbed) -> anyhow::Result<Duration> {
    let plan = steady("8".into(), Duration::from_secs(1));
    let sent = testbed.run(&plan).await?;
    let mut latencies: Vec<Duration> = sent.requests.iter().filter_map(super::testbed::TimedRequest::latency).collect();
    ensure!(
        latencies.len() * 2 > sent.requests.len(),
        "only {} of {} requests succeeded, sent as {} with {}; use another --protocol or --input",
        latencies.len(),
        sent.requests.len(),
        testbed.form().protocol,
        if testbed.form().inputs.is_empty() { "no input".to_owned() } else { testbed.form().inputs.join(", ") }
    );
    latencies.sort_unstable();
    Ok(latencies[latencies.len() / 2])
}

async fn one_by_one(testbed: &mut Testbed, budget: ProfileBudget, gap: Duration, measured: &mut Measurements) -> anyhow::Result<()> {
    let fit = (budget.requests_within.as_secs_f64() / gap.as_secs_f64()) as u32;
    let count = budget.requests.min(fit).max(PILOT);
    let rate = format!("{:.6}", 1.0 / gap.as_secs_f64());
    let plan = steady(rate, gap * count);
    let machine = MachineCpu::read(testbed.platform_pid());
    let (sent, samples) = watched(testbed, &plan, (gap / 5).max(Duration::from_millis(4))).await?;
    let answered = sent.requests.iter().filter(|request| request.answered.is_some()).count();
    ensure!(answered > 0, "no request succeeded");
    measured.requests = paired(&sent, &samples, measured.idle_cores);
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return Ok(()) };
    let (used, seconds) = (last.cpu_seconds() - first.cpu_seconds(), last.at.since(first.at).as_secs_f64());
    measured.others = MachineCpu::read(testbed.platform_pid()).others_since(&machine, used, seconds.max(f64::MIN_POSITIVE));
    let cpu = (used - measured.idle_cores * seconds).max(0.0);
    measured.mean_cpu = Duration::from_secs_f64(cpu / answered as f64);
    Ok(())
}

/// Sends a load and reads the counters meanwhile.
async fn watched(testbed: &mut Testbed, plan: &LoadPlan, every: Duration) -> anyhow::Result<(LoadResult, Vec<Counters>)> {
    let mut samples = vec![testbed.read().await?];
    let sending = testbed.send(plan).await?;
    let sent = {
        let finish = testbed.finish(sending);
        tokio::pin!(finish);
        loop {
            tokio::select! {
                biased;
                sent = &mut finish => break sent?,
                () = tokio::time::sleep(every) => samples.push(testbed.read().await?),
            }
        }
    };
    samples.push(testbed.read().await?);
    Ok((sent, samples))
}

/// Latency and CPU time of each request with a reading of the counters of its own before and after it.
fn paired(sent: &LoadResult, samples: &[Counters], idle_cores: f64) -> Vec<(Duration, Duration)> {
    // Resolution of the clocks.
    const MARGIN_MS: u64 = 1;
    let instant = |at: Duration| sent.started.0 + u64::try_from(at.as_millis()).unwrap_or(u64::MAX / 2);
    let mut pairs = Vec::new();
    let mut free_from = 0;
    for (index, request) in sent.requests.iter().enumerate() {
        let Some(answered) = request.answered else {
            free_from = u64::MAX;
            continue;
        };
        let (due, done) = (instant(request.due), instant(answered) + MARGIN_MS + 1);
        let next = sent.requests.get(index + 1).map_or(u64::MAX, |next| instant(next.due));
        let before = samples.iter().rev().find(|sample| sample.at.0 <= due && sample.began.0 >= free_from);
        let after = samples.iter().find(|sample| sample.began.0 >= done && sample.at.0 <= next);
        if let (Some(before), Some(after), Some(latency)) = (before, after, request.latency()) {
            let idle = idle_cores * after.at.since(before.at).as_secs_f64();
            let cpu = (after.cpu_seconds() - before.cpu_seconds() - idle).max(0.0);
            pairs.push((latency, Duration::from_secs_f64(cpu)));
        }
        free_from = done;
    }
    pairs
}

/// `count` bursts of `size` requests: due time since the start of the burst, and latency, of each request.
async fn bursts(
    testbed: &mut Testbed,
    size: u32,
    count: u32,
    latency: Duration,
    memory: &mut f64,
) -> anyhow::Result<Vec<Vec<(Duration, Duration)>>> {
    let gap_ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX / 1000).saturating_mul(u64::from(size) * 3 / 2).max(150);
    // A burst takes a millisecond.
    let steps: Vec<String> =
        (0..u64::from(count)).map(|burst| format!("{}@{}ms,0@{}ms", size * 1000, burst * gap_ms, burst * gap_ms + 1)).collect();
    let plan = steady(format!("step:{}", steps.join(",")), Duration::from_millis(gap_ms * u64::from(count)));
    let (sent, samples) = watched(testbed, &plan, Duration::from_millis(10)).await?;
    *memory = samples.iter().map(Counters::most_memory).fold(*memory, f64::max);
    let mut bursts: Vec<Vec<(Duration, Duration)>> = Vec::new();
    let mut began = None;
    for request in &sent.requests {
        let first = began.is_none_or(|began| request.due > began + Duration::from_millis(gap_ms / 2));
        if first {
            began = Some(request.due);
            bursts.push(Vec::new());
        }
        if let (Some(burst), Some(began), Some(latency)) = (bursts.last_mut(), began, request.latency()) {
            burst.push((request.due - began, latency));
        }
    }
    bursts.retain(|burst| burst.len() == size as usize);
    Ok(bursts)
}

/// Median latency of an empty function; `None` without answers.
async fn overhead(testbed: &mut Testbed, allocation: Allocation) -> anyhow::Result<Option<Duration>> {
    let http = testbed.spec().protocol == qscale_common::platform::Protocol::Http;
    let (spec, form) = if http {
        let text = include_str!("../../../../deploy/functions/fibonacci-http.toml").replace("--value=10000", "--value=0");
        let form = RequestForm { protocol: "http".into(), inputs: Vec::new() };
        (FunctionSpec::parse(&text, Format::Toml).context("fibonacci-http")?, form)
    } else {
        let form = RequestForm { protocol: "direct:fibonacci".into(), inputs: vec!["name=0".into()] };
        (function_spec("fibonacci")?, form)
    };
    testbed.replace(&spec, form, allocation).await?;
    let plan = steady("60".into(), Duration::from_secs(2));
    let sent = testbed.run(&plan).await?;
    let mut latencies: Vec<Duration> =
        sent.requests.iter().skip(PILOT as usize).filter_map(super::testbed::TimedRequest::latency).collect();
    latencies.sort_unstable();
    Ok(latencies.get(latencies.len() / 2).copied())
}

#[cfg(test)]
mod tests {
    use qscale_common::time::Timestamp;

    use super::super::testbed::TimedRequest;
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn sample(at: u64, cpu_ms: f64) -> Counters {
        let cpu = [("f-0".to_owned(), cpu_ms / 1000.0)].into();
        Counters { began: Timestamp(at), at: Timestamp(at), cpu, ..Counters::default() }
    }

    #[test]
    fn a_request_gets_the_cpu_time_between_its_own_readings() {
        let request = |due, answered| TimedRequest { due: ms(due), answered: Some(ms(answered)) };
        let sent = LoadResult { void: None, started: Timestamp(1000), requests: vec![request(0, 10), request(50, 65), request(100, 120)] };
        let samples = [sample(990, 5.0), sample(1020, 12.0), sample(1040, 13.0), sample(1110, 25.0), sample(1130, 33.0)];
        // Without a reading between the second and the third, neither has a CPU time.
        assert_eq!(paired(&sent, &samples, 0.0), [(ms(10), ms(7))]);
        let samples = [sample(990, 5.0), sample(1040, 13.0), sample(1080, 25.0), sample(1130, 33.0)];
        let found = paired(&sent, &samples, 0.02);
        assert_eq!(found.iter().map(|pair| pair.1).collect::<Vec<_>>(), [ms(7), Duration::from_micros(11_200), ms(7)]);
    }
}
