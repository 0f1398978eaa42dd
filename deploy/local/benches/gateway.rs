//! Cost of the gateway: the same calls to a function directly and through the platform, with the platform's CPU time.

#[path = "../tests/platform/harness.rs"]
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
mod harness;

use std::time::Duration;

use harness::{Caller, Platform, folder, spec};
use qscale_common::runtime::clock;

/// Duration of each measurement.
const MEASURED: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() {
    println!("{:<34} {:>10} {:>10} {:>10} {:>22}", "case", "calls/s", "p50 us", "p99 us", "calls/platform CPU s");
    for (protocol, grpc) in [("grpc", true), ("http", false)] {
        let folder = folder();
        let file = spec(&format!("protocol = \"{protocol}\"\nallocation = {{ cpu_millicores = 8000 }}"));
        let platform = Platform::with(folder.path(), &file, 1).await;
        let port = platform.status().await.actual.replicas[0].port.expect("it is ready");
        for workers in [1, 64] {
            let direct = Caller::new(&format!("127.0.0.1:{port}"), grpc);
            measure(&format!("{protocol}, {workers} at once, direct"), direct, workers, None).await;
            let through = Caller::new(&platform.addresses.gateway, grpc);
            measure(&format!("{protocol}, {workers} at once, gateway"), through, workers, Some(&platform)).await;
        }
    }
}

async fn measure(case: &str, caller: Caller, workers: usize, platform: Option<&Platform>) {
    let (start, cpu) = (clock::instant(), platform.map(Platform::cpu_seconds));
    let tasks: Vec<_> = (0..workers).map(|_| tokio::spawn(work(caller.clone()))).collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("joined"));
    }
    let seconds = clock::since(start).as_secs_f64();
    latencies.sort_unstable();
    let percentile = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_micros();
    let (calls, p50, p99) = (latencies.len() as f64, percentile(0.5), percentile(0.99));
    let a_cpu_second =
        platform.zip(cpu).map_or_else(|| "-".to_owned(), |(platform, cpu)| format!("{:.0}", calls / (platform.cpu_seconds() - cpu)));
    println!("{case:<34} {:>10.0} {p50:>10} {p99:>10} {a_cpu_second:>22}", calls / seconds);
}

async fn work(caller: Caller) -> Vec<Duration> {
    let (begin, mut latencies) = (clock::instant(), Vec::new());
    while clock::since(begin) < MEASURED {
        let start = clock::instant();
        let reply = caller.request("/a.B/C", "f", b"hello").await.expect("a reply");
        assert!(reply.is_fine(), "{reply:?}");
        latencies.push(clock::since(start));
    }
    latencies
}
