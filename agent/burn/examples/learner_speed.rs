//! Speed of learning and inference on one core: gradient updates and decisions per CPU second, by batch size.
//! `RAYON_NUM_THREADS=1 cargo run --release -p qscale-burn --example learner_speed [cpu|flex|gpu]`.
//!
//! CPU time is measured, so that other processes do not count; on a GPU wall-clock time is measured.

mod support;

use std::time::Instant;

use qscale_burn::{flex, probe};
use qscale_rl::learner::{Hyperparameters, Learner};
use qscale_rl::replay::{Sampling, StepEnd, Transition};
use qscale_rl::{Device, Mask, cpu};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use support::cpu_seconds;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 5;
/// Features and actions of the bundled model.
const INPUTS: usize = 85;
const ACTIONS: usize = 20;

struct Subject {
    name: &'static str,
    inputs: usize,
    actions: usize,
    hyperparameters: Hyperparameters,
}

fn subjects() -> [Subject; 3] {
    let plain = Hyperparameters {
        hidden: vec![120, 84],
        dueling: false,
        layer_norm: false,
        sampling: Sampling::Uniform,
        ..Hyperparameters::plain()
    };
    let wide = Hyperparameters { hidden: vec![512, 512], ..Hyperparameters::plain() };
    [
        Subject { name: "4-120-84-2, uniform replay (CleanRL's network)", inputs: 4, actions: 2, hyperparameters: plain },
        Subject {
            name: "ours: two layers of 128, dueling, layer norm",
            inputs: INPUTS,
            actions: ACTIONS,
            hyperparameters: Hyperparameters { hidden: vec![128, 128], ..Hyperparameters::plain() },
        },
        Subject { name: "the same with two layers of 512", inputs: INPUTS, actions: ACTIONS, hyperparameters: wide },
    ]
}

#[expect(clippy::disallowed_methods, reason = "a measurement of a device reads the clock")]
fn now(gpu: bool, begin: Instant) -> f64 {
    if gpu { Instant::now().duration_since(begin).as_secs_f64() } else { cpu_seconds() }
}

#[expect(clippy::disallowed_methods, reason = "a measurement of a device reads the clock")]
fn main() {
    let kind = std::env::args().nth(1).unwrap_or_else(|| "cpu".to_owned());
    let device = match &*kind {
        "cpu" => cpu(),
        "flex" => flex(),
        "gpu" => match qscale_burn::gpu() {
            Ok(device) => device,
            Err(error) => return println!("{error}"),
        },
        other => return println!("device = {other:?}, must be one of cpu, flex, gpu"),
    };
    let gpu = kind == "gpu";
    let begin = Instant::now();
    let (batches, sizes): (&[usize], &[usize]) = if gpu {
        (&[32, 128, 1024, 4096, 16384], &[1, 256, 10_000, 100_000])
    } else {
        (&[32, 128, 1024], &[1, 10, 100, 1000, 10_000, 100_000])
    };
    if gpu {
        match probe::compare(&cpu(), &device, &|| begin.elapsed()) {
            Ok(probe) => println!("{probe}{}", probe.objection().map(|why| format!("; {why}")).unwrap_or_default()),
            Err(error) => return println!("{error}"),
        }
    }
    println!("on {kind}; medians of {ROUNDS} rounds");
    for subject in subjects() {
        println!("{}", subject.name);
        for &batch in batches {
            println!("  batch {batch:6}: {:8.0} updates/s", updates(&subject, batch, &device, gpu, begin));
        }
        for &size in sizes {
            println!("  {size:12}: {:8.0} decisions/s", decisions(&subject, size, &device, gpu, begin));
        }
    }
}

fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

fn updates(subject: &Subject, batch: usize, device: &Device, gpu: bool, begin: Instant) -> f64 {
    let hyperparameters = Hyperparameters { batch, warm_up: 1, capacity: 20_000, ..subject.hyperparameters.clone() };
    let mut learner = Learner::new(hyperparameters, subject.inputs, subject.actions, 1, device).expect("within the ranges");
    let mut rng = SmallRng::seed_from_u64(1);
    let mut seen = vec![0.0; subject.inputs];
    for step in 0..20_000 {
        let before = seen.clone();
        seen.iter_mut().for_each(|value| *value = rng.random_range(-1.0..1.0));
        let reward = rng.random_range(-1.0..0.0);
        let (mask, action, end) = (Mask::all(subject.actions), (step % subject.actions) as u8, StepEnd::Continues);
        learner.observe(0, &Transition { observation: &before, mask, action, reward, next: &seen, next_mask: mask, end });
    }
    let count = (200_000 / batch).clamp(if gpu { 20 } else { 40 }, if gpu { 100 } else { 4000 });
    let mut round = || {
        let start = now(gpu, begin);
        for _ in 0..count {
            learner.update().expect("the device does not fail");
        }
        count as f64 / (now(gpu, begin) - start)
    };
    // The first warms caches and compiles kernels.
    round();
    median((0..ROUNDS).map(|_| round()).collect())
}

fn decisions(subject: &Subject, size: usize, device: &Device, gpu: bool, begin: Instant) -> f64 {
    let learner = Learner::new(subject.hyperparameters.clone(), subject.inputs, subject.actions, 1, device).expect("within the ranges");
    let mut rng = SmallRng::seed_from_u64(1);
    let seen: Vec<f32> = (0..size * subject.inputs).map(|_| rng.random_range(-1.0..1.0)).collect();
    let count = (200_000 / size).clamp(3, if gpu { 200 } else { 20_000 });
    let mut chosen = 0;
    let mut round = || {
        let start = now(gpu, begin);
        for _ in 0..count {
            let values = learner.network().values(&seen).expect("the device does not fail");
            chosen += values.chunks_exact(subject.actions).filter_map(|values| Mask::all(subject.actions).best(values)).sum::<usize>();
        }
        (count * size) as f64 / (now(gpu, begin) - start)
    };
    round();
    let median = median((0..ROUNDS).map(|_| round()).collect());
    std::hint::black_box(chosen);
    median
}
