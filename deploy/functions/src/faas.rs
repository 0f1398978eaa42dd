//! The function whose duration and memory are set by each request, like InVitro's. Owns the use of CPU time and memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Query;
use axum::http::HeaderMap;
use axum::routing::get;
use axum::{Json, Router};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::generator::{GeneratorArgs, NumberGenerator};
use crate::request_error::RequestError;
use crate::{grpc, workers::Workers};
use qscale_messages::{self as messages, FaasReply, FaasRequest, HelloReply, HelloRequest};

mod burn;
mod memory;

pub use burn::thread_cpu_time;

/// Longest duration of a request, ms: the bound of the traces' durations.
pub const MAX_RUNTIME_MS: u32 = 60_000;
/// Largest memory of a request, MiB: the bound of the traces' memory.
pub const MAX_MEMORY_MIB: u32 = 10_240;

/// Options of the function.
#[derive(Debug, Clone, Args)]
pub struct FaasArgs {
    /// Clock of the requested duration: CPU time, so that a throttled function takes longer, or wall-clock time.
    #[arg(long, value_enum, default_value_t = Busy::Cpu)]
    pub busy: Busy,
    /// Share of the requested duration spent waiting, as for a disk or another service, instead of computing: 0 to 1.
    #[arg(long, default_value = "0", value_parser = share)]
    pub wait_share: f64,
    /// Memory of a request through `helloworld.Greeter`, MiB.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_MEMORY_MIB)))]
    pub memory: u32,
    /// Duration of a request through `helloworld.Greeter`, ms: 10 unless set by the generator.
    #[command(flatten)]
    pub generator: GeneratorArgs,
}

/// Clock of the requested duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Busy {
    /// CPU time of the worker thread.
    Cpu,
    /// Wall-clock time.
    Wall,
}

/// Duration and memory of a request, within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaasWork {
    runtime: Duration,
    memory_mib: u32,
}

impl FaasWork {
    /// Work of `runtime_ms` with `memory_mib`.
    ///
    /// # Errors
    /// When either exceeds [`MAX_RUNTIME_MS`] or [`MAX_MEMORY_MIB`].
    pub fn new(runtime_ms: u32, memory_mib: u32) -> Result<Self, RequestError> {
        let bound = |field, value: u32, most| {
            if value <= most { Ok(()) } else { Err(RequestError::invalid(field, &value.to_string(), &format!("at most {most}"))) }
        };
        bound("runtimeInMilliSec", runtime_ms, MAX_RUNTIME_MS)?;
        bound("memoryInMebiBytes", memory_mib, MAX_MEMORY_MIB)?;
        Ok(Self { runtime: Duration::from_millis(runtime_ms.into()), memory_mib })
    }
}

/// Routes of the function.
///
/// # Errors
/// When the generator's value or bounds exceed [`MAX_RUNTIME_MS`].
pub fn routes(args: &FaasArgs, workers: &Workers) -> anyhow::Result<Router> {
    let function = Arc::new(FaasFunction::new(args, workers)?);
    let (direct, relayed, page) = (Arc::clone(&function), Arc::clone(&function), function);
    let pages = move |headers: HeaderMap, Query(query): Query<BTreeMap<String, String>>| async move {
        let work = page.asked_over_http(&headers, &query)?;
        let reply = page.execute(work).await?;
        Ok::<_, RequestError>(Json(json!({
            "Status": reply.message,
            "Function": "faas",
            "MachineName": page.host,
            "ExecutionTime": reply.duration_in_micro_sec,
            "MemoryUsageInKb": reply.memory_usage_in_kb,
        })))
    };
    Ok(Router::new()
        .route(
            messages::FAAS_EXECUTE,
            grpc::unary(move |request: FaasRequest| {
                let function = Arc::clone(&direct);
                async move { function.execute(FaasWork::new(request.runtime_in_milli_sec, request.memory_in_mebi_bytes)?).await }
            }),
        )
        .route(
            messages::HELLOWORLD_SAY_HELLO,
            grpc::unary(move |_: HelloRequest| {
                let function = Arc::clone(&relayed);
                async move { Ok(HelloReply { message: function.execute(function.chosen()?).await?.message }) }
            }),
        )
        .route("/", get(pages.clone()).post(pages)))
}

/// The configured function.
struct FaasFunction {
    busy: Busy,
    wait_share: f64,
    relayed_runtime_ms: u32,
    relayed_memory_mib: u32,
    runtimes: NumberGenerator,
    workers: Workers,
    host: String,
}

impl FaasFunction {
    fn new(args: &FaasArgs, workers: &Workers) -> anyhow::Result<Self> {
        let relayed_runtime_ms = number("--value", args.generator.value.as_deref().unwrap_or("10"), MAX_RUNTIME_MS)?;
        Ok(Self {
            busy: args.busy,
            wait_share: args.wait_share,
            relayed_runtime_ms,
            relayed_memory_mib: args.memory,
            runtimes: NumberGenerator::new(&args.generator, MAX_RUNTIME_MS)?,
            workers: workers.clone(),
            host: std::fs::read_to_string("/proc/sys/kernel/hostname")
                .map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned()),
        })
    }

    fn chosen(&self) -> Result<FaasWork, RequestError> {
        FaasWork::new(self.runtimes.next().unwrap_or(self.relayed_runtime_ms), self.relayed_memory_mib)
    }

    /// Work from the query, from the headers of InVitro's HTTP client, or from the generator.
    fn asked_over_http(&self, headers: &HeaderMap, query: &BTreeMap<String, String>) -> Result<FaasWork, RequestError> {
        let asked = |field: &str, header: &str, most: u32| {
            let text = query.get(field).map(String::as_str).or_else(|| headers.get(header).map(|value| value.to_str().unwrap_or("�")));
            text.map(|text| number(field, text, most)).transpose()
        };
        let runtime = asked("runtimeInMilliSec", "requested_cpu", MAX_RUNTIME_MS)?;
        let memory = asked("memoryInMebiBytes", "requested_memory", MAX_MEMORY_MIB)?;
        match (runtime, memory) {
            (None, None) => self.chosen(),
            _ => FaasWork::new(runtime.unwrap_or(0), memory.unwrap_or(0)),
        }
    }

    async fn execute(&self, work: FaasWork) -> Result<FaasReply, RequestError> {
        let (busy, wait_share) = (self.busy, self.wait_share);
        let took = self.workers.run(move || perform(work, busy, wait_share)).await?;
        Ok(FaasReply {
            message: format!("OK - {}", self.host),
            duration_in_micro_sec: u32::try_from(took.as_micros()).unwrap_or(u32::MAX),
            memory_usage_in_kb: work.memory_mib << 10,
        })
    }
}

/// Does the work and returns its wall-clock time.
fn perform(work: FaasWork, busy: Busy, wait_share: f64) -> Result<Duration, RequestError> {
    let wait = work.runtime.mul_f64(wait_share);
    let compute = work.runtime.saturating_sub(wait);
    // Allocating the memory counts towards the requested duration.
    let (started, cpu_before) = (burn::wall_time(), burn::thread_cpu_time());
    let held = memory::Pages::touched(work.memory_mib)?;
    std::thread::sleep(wait);
    match busy {
        Busy::Cpu => burn::until(burn::thread_cpu_time, cpu_before + compute),
        Busy::Wall => burn::until(burn::wall_time, started + work.runtime),
    }
    drop(held);
    Ok(burn::wall_time().saturating_sub(started))
}

fn number(field: &str, text: &str, most: u32) -> Result<u32, RequestError> {
    let number = text.trim().parse().ok().filter(|number| *number <= most);
    number.ok_or_else(|| RequestError::invalid(field, text, &format!("a whole number from 0 to {most}")))
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("`{text}` is not a share from 0 to 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burns_at_least_the_cpu_time_asked_for() {
        let before = thread_cpu_time();
        let took = perform(FaasWork::new(50, 0).expect("in range"), Busy::Cpu, 0.0).expect("no memory asked for");
        let burnt = thread_cpu_time() - before;
        assert!(burnt >= Duration::from_millis(50), "{burnt:?}");
        assert!(took >= Duration::from_millis(50), "{took:?}");
    }

    #[test]
    fn waiting_costs_time_and_no_cpu() {
        let before = thread_cpu_time();
        let took = perform(FaasWork::new(100, 0).expect("in range"), Busy::Cpu, 1.0).expect("no memory asked for");
        assert!(took >= Duration::from_millis(100), "{took:?}");
        assert!(thread_cpu_time() - before < Duration::from_millis(50));
    }

    #[test]
    fn wall_clock_work_takes_the_time_asked_for() {
        let took = perform(FaasWork::new(30, 1).expect("in range"), Busy::Wall, 0.5).expect("1 MiB");
        assert!(took >= Duration::from_millis(30), "{took:?}");
    }

    #[test]
    fn work_beyond_its_bounds_is_refused_with_the_value() {
        assert!(FaasWork::new(MAX_RUNTIME_MS, MAX_MEMORY_MIB).is_ok());
        assert!(FaasWork::new(60_001, 0).expect_err("too long").to_string().contains("60001"));
        assert!(FaasWork::new(0, u32::MAX).expect_err("too much").to_string().contains("4294967295"));
        assert!(share("1.5").is_err() && share("NaN").is_err() && share("-0.1").is_err());
    }
}
