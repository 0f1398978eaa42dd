//! A GPU learns what the CPU learns: `make test-gpu`. Where there is no GPU an adapter that a CPU plays is tried, and where there is none either it says so.
#![cfg(feature = "gpu")]

use std::time::Instant;

use qscale_rl::device::{self, Kind};
use qscale_rl::probe;

#[test]
#[expect(clippy::disallowed_methods, reason = "a measurement of a device reads the clock")]
fn a_gpu_learns_what_the_cpu_learns() {
    let gpu = match device::open(Kind::Gpu) {
        Ok(gpu) => gpu,
        Err(error) => match device::software() {
            Ok(software) => {
                println!("{error}; trying an adapter that a CPU plays");
                software
            }
            Err(other) => return println!("SKIPPED: {error}; {other}"),
        },
    };
    let began = Instant::now();
    let probe = probe::compare(&device::cpu(), &gpu, &|| began.elapsed()).expect("neither fails");
    println!("{probe}");
    assert_eq!(probe.refusal(), None);
}
