//! A trace in Azure's format of 2019, through functions whose requests start their replicas themselves:
//! `tests/comparison` holds it against other simulators.
//!
//! `trace list DIR RATE` prints every invocation: function, nanosecond of its arrival, nanoseconds that it takes.
//! `trace run DIR RATE KEEP_ALIVE_S STARTUP_S` simulates the same ones and prints one line of JSON. `RATE` multiplies
//! the counts of the trace.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use qscale_common::time::Span;
use qscale_common::workload::trace::{Azure2019, Keep, MinuteTrace, read_azure2019};
use qscale_common::workload::{Arrival, Arrivals, Iat, Scale};
use qscale_sim::profile::Startup;
use qscale_sim::rng::{Purpose, stream};
use qscale_sim::{Distribution, Function, FunctionProfile, Gateway, Nanos, RequestDemand};

const SEED: u64 = 1;
const USAGE: &str = "usage: trace list DIR RATE | trace run DIR RATE KEEP_ALIVE_S STARTUP_S";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["list", dir, rate] => list(&read(dir.as_ref())?, rate.parse()?),
        ["run", dir, rate, keep_alive, startup] => run(&read(dir.as_ref())?, rate.parse()?, keep_alive.parse()?, startup.parse()?),
        _ => Err(USAGE.into()),
    }
}

fn read(dir: &Path) -> Result<MinuteTrace, Box<dyn std::error::Error>> {
    let open = |name: &str| File::open(dir.join(name)).map_err(|error| format!("{}: {error}", dir.join(name).display()));
    let files =
        Azure2019 { invocations: open("invocations.csv")?, durations: open("durations.csv")?, memory: None::<File>, memory_mib: 128 };
    Ok(read_azure2019(["invocations.csv", "durations.csv", "memory.csv"], files, Keep::default())?.0)
}

/// The arrivals of each function, from a generator of its own.
fn arrivals(trace: &MinuteTrace, rate: f64) -> Result<Vec<Arrivals>, String> {
    let scale = Scale::new(1.0, rate)?;
    let one = |(index, function): (u64, _)| {
        let trace = MinuteTrace { functions: vec![function], minutes: trace.minutes };
        Arrivals::minutes(&trace, Iat::Conditioned, scale, Duration::MAX, &mut stream(SEED, index, Purpose::Arrivals))
    };
    Ok((0..).zip(trace.functions.iter().cloned()).map(one).collect())
}

fn list(trace: &MinuteTrace, rate: f64) -> Result<(), Box<dyn std::error::Error>> {
    let all = arrivals(trace, rate)?.into_iter().zip(0u32..);
    let mut all: Vec<Arrival> = all.flat_map(|(arrivals, function)| arrivals.map(move |arrival| Arrival { function, ..arrival })).collect();
    all.sort();
    let mut out = BufWriter::new(std::io::stdout().lock());
    for Arrival { at, function, duration_ms, .. } in all {
        writeln!(out, "{function},{},{}", at.as_nanos(), u64::from(duration_ms) * 1_000_000)?;
    }
    Ok(out.flush()?)
}

fn run(trace: &MinuteTrace, rate: f64, keep_alive: f64, startup: f64) -> Result<(), Box<dyn std::error::Error>> {
    let before = memory_kib("VmRSS:")?;
    let begin = cpu_time()?;
    let startup = Startup { cpu: Distribution::ZERO, waiting: Distribution::constant(Nanos::from_seconds(startup)) };
    let profile = Arc::new(FunctionProfile { startup, ..FunctionProfile::simple("f", Distribution::ZERO) });
    let gateway = Gateway { concurrency: 1, queue: 0, timeout: Span::seconds(864_000) };
    let function = |index| Function::new(Arc::clone(&profile), gateway, SEED, index).on_demand(Nanos::from_seconds(keep_alive));
    let mut functions: Vec<Function> = (0..trace.functions.len() as u64).map(function).collect();
    let mut arrivals: Vec<_> = arrivals(trace, rate)?.into_iter().map(Iterator::peekable).collect();
    // All functions advance by the same minute before the next one, as functions under control do.
    for minute in 1..=u64::from(trace.minutes) {
        let end = Duration::from_secs(60 * minute);
        for (function, arrivals) in functions.iter_mut().zip(&mut arrivals) {
            while let Some(arrival) = arrivals.next_if(|arrival| arrival.at < end) {
                let cpu = Nanos::millis(u64::from(arrival.duration_ms));
                function.arrive_with(arrival.at.into(), RequestDemand { cpu, waiting: Nanos::ZERO });
            }
            function.advance(end.into());
        }
    }
    let held: usize = functions.iter().map(Function::memory_bytes).sum();
    let end = Nanos::from(Duration::from_secs(60 * u64::from(trace.minutes))) + Nanos::LONGEST;
    let (mut completed, mut starts, mut latency) = (0, 0, 0.0);
    for function in &mut functions {
        let totals = function.totals(end);
        completed += totals.completed;
        starts += totals.starts;
        latency += totals.latency_sum.seconds() * 1e3;
    }
    let spent = (cpu_time()? - begin).as_secs_f64();
    let grown = (memory_kib("VmHWM:")?.saturating_sub(before)) * 1024;
    let mean = latency / completed as f64;
    println!(
        r#"{{"invocations": {completed}, "cpu_s": {spent}, "held_bytes": {grown}, "functions_bytes": {held}, "cold_starts": {starts}, "mean_latency_ms": {mean}}}"#
    );
    Ok(())
}

/// CPU time of this process, from Linux' scheduler: its first figure is nanoseconds on a CPU.
fn cpu_time() -> Result<Duration, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string("/proc/self/schedstat")?;
    Ok(Duration::from_nanos(text.split_whitespace().next().ok_or("no figure")?.parse()?))
}

fn memory_kib(field: &str) -> Result<u64, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find(|line| line.starts_with(field)).ok_or("no such field")?;
    Ok(line.split_whitespace().nth(1).ok_or("no figure")?.parse()?)
}
