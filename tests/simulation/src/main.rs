//! Runs the simulation: new seeds for a time, or one seed or plan again.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use qscale_common::runtime::clock;
use qscale_simulation::plan::Plan;
use qscale_simulation::shrink::shrink;
use qscale_simulation::world::{Report, run};
use qscale_simulation::{Violation, promotion};

/// Simulates collector, agents, actuators and platform on a model of the bus, with faults, and promoters on a model of their record; checks every step.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  qscale-simulation --seconds 60\n  qscale-simulation --seed 17 --trace\n  qscale-simulation --plan failures/clock_set_back.json --trace"
)]
struct Args {
    /// Seconds to run new seeds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// First seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Run this seed only.
    #[arg(long, conflicts_with = "plan")]
    seed: Option<u64>,
    /// Run the plan in this file only.
    #[arg(long)]
    plan: Option<PathBuf>,
    /// Print the events of the run.
    #[arg(long)]
    trace: bool,
    /// Print a failing plan as it is.
    #[arg(long)]
    no_shrink: bool,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let plan = match (&args.seed, &args.plan) {
        (Some(seed), _) => Some(Plan::of_seed(*seed)),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            Some(serde_json::from_str(&text).with_context(|| path.display().to_string())?)
        }
        (None, None) => None,
    };
    let failed = match plan {
        Some(plan) => args.seed.and_then(of_promotion).or_else(|| of_loop(plan, args.trace)),
        None => search(&args),
    };
    let plan = match failed {
        None => return Ok(ExitCode::SUCCESS),
        Some(Failed::Promotion(seed, violation)) => {
            print(&format!("seed {seed} of the promoters"), &violation);
            return Ok(ExitCode::FAILURE);
        }
        Some(Failed::Loop(plan)) => plan,
    };
    let plan = if args.no_shrink { plan } else { shrink(&plan) };
    let Report { violation, trace, .. } = run(&plan, args.trace);
    trace.iter().for_each(|line| println!("{line}"));
    println!("{}", serde_json::to_string(&plan)?);
    if let Some(violation) = violation {
        print(&format!("seed {}", plan.seed), &violation);
    }
    Ok(ExitCode::FAILURE)
}

/// A run that breaks a check.
enum Failed {
    /// Of the loop.
    Loop(Plan),
    /// Of two promoters under a seed.
    Promotion(u64, Violation),
}

fn of_loop(plan: Plan, trace: bool) -> Option<Failed> {
    run(&plan, trace).violation.is_some().then_some(Failed::Loop(plan))
}

fn of_promotion(seed: u64) -> Option<Failed> {
    Some(Failed::Promotion(seed, promotion::run(seed)?))
}

fn print(what: &str, violation: &Violation) {
    println!("{what}: violated after {} ms: {}\n  {}", violation.at, violation.check, violation.detail);
}

/// Runs new seeds; returns the first run that fails.
fn search(args: &Args) -> Option<Failed> {
    let began = clock::instant();
    let (next, ticks, stop) = (AtomicU64::new(args.first), AtomicU64::new(0), AtomicBool::new(false));
    let found: Mutex<Option<Failed>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..args.threads.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && clock::since(began) < Duration::from_secs(args.seconds) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let plan = Plan::of_seed(seed);
                    let report = run(&plan, false);
                    ticks.fetch_add(report.ticks, Ordering::Relaxed);
                    let failed = report.violation.is_some().then_some(Failed::Loop(plan)).or_else(|| of_promotion(seed));
                    if let Some(failed) = failed {
                        stop.store(true, Ordering::Relaxed);
                        found.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failed);
                    }
                }
            });
        }
    });
    let (seeds, ticks, seconds) = (next.into_inner() - args.first, ticks.into_inner(), clock::since(began).as_secs_f64());
    println!("{seeds} seeds, {ticks} ticks of functions in {seconds:.0} s: {:.2} million a minute", ticks as f64 / seconds * 60.0 / 1e6);
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}
