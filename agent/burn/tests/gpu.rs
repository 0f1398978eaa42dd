//! A GPU learns what the CPU learns: `make test-gpu`. Without a GPU a software adapter is used; without that the test says so.
#![cfg(feature = "gpu")]

use std::time::Instant;

use qscale_burn::{gpu, probe, software};
use qscale_rl::cpu;

#[test]
#[expect(clippy::disallowed_methods, reason = "timing a device reads the clock")]
fn a_gpu_learns_what_the_cpu_learns() {
    let gpu = match gpu() {
        Ok(gpu) => gpu,
        Err(error) => match software() {
            Ok(software) => {
                println!("{error}; using a software adapter");
                software
            }
            Err(other) => return println!("SKIPPED: {error}; {other}"),
        },
    };
    let began = Instant::now();
    let probe = probe::compare(&cpu(), &gpu, &|| began.elapsed()).expect("neither fails");
    println!("{probe}");
    assert_eq!(probe.objection(), None);
}
