//! Cost of a request for the pacing thread before it is written, and the delay of an alarm.

use std::time::Duration;

use divan::{Bencher, black_box};
use qscale_common::workload::Arrival;
use qscale_loadgen::pacing::{Alarm, RunClock};
use qscale_loadgen::protocol::{Codec, HttpRequest};
use qscale_loadgen::record::{ConnectionUse, RequestRecord, RequestStatus};
use qscale_loadgen::report::RunTotals;

fn main() {
    divan::main();
}

const ARRIVAL: Arrival = Arrival { at: Duration::ZERO, function: 0, duration_ms: 10, memory_mib: 64 };

#[divan::bench]
fn clock_read(bencher: Bencher) {
    let clock = RunClock::starting_in(Duration::ZERO);
    bencher.bench(|| black_box(clock.now_ns()));
}

/// A wait of 200 us, the gap at 5,000 requests/s; the excess is the delay of the alarm.
#[divan::bench(sample_count = 50)]
fn alarm_after_200_us(bencher: Bencher) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let clock = RunClock::starting_in(Duration::ZERO);
    let alarm = runtime.block_on(async { Alarm::new().expect("a timer") });
    bencher.bench_local(|| runtime.block_on(alarm.wait_until(&clock, clock.now_ns() + 200_000)).expect("waits"));
}

#[divan::bench(args = ["relay", "faas", "direct:fibonacci"])]
fn request_body(bencher: Bencher, protocol: &str) {
    let codec = Codec::new(protocol.parse().expect("known"), &[], &HttpRequest::default()).expect("valid");
    bencher.bench(|| codec.body(black_box(&ARRIVAL), 7));
}

#[divan::bench]
fn record_counted(bencher: Bencher) {
    let mut totals = RunTotals::new(1, true);
    let record = RequestRecord {
        sent_ns: Some(10_000),
        replied_ns: Some(1_000_000),
        status: RequestStatus::Ok,
        over: ConnectionUse::Reused,
        valid: Some(true),
        ..RequestRecord::due(0, &ARRIVAL, 0)
    };
    bencher.bench_local(|| totals.add(black_box(&record)));
}
