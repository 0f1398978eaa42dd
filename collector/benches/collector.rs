//! Cost of reading an exposition and of observing many functions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use qscale_collector::observer::{Observer, SourceReading};
use qscale_collector::source::exposition::syntax::{ExpositionText, Labels, Samples};
use qscale_collector::source::exposition::{ExpositionConfig, ExpositionReader};
use qscale_common::contract::{Message, TraceParent};
use qscale_common::fixtures::name;
use qscale_common::name::FunctionId;
use qscale_common::partition::Partition;
use qscale_common::policy::ScalingPolicy;
use qscale_common::scrape::LATENCY_BOUNDS_MS;
use qscale_common::time::Timestamp;

fn main() {
    divan::main();
}

/// Exposition of the local platform for `functions` functions with `replicas` replicas each, after `tick` ticks.
fn exposition(functions: usize, replicas: usize, tick: u64) -> String {
    const OF_FUNCTION: [&str; 10] = [
        "qscale_gateway_requests_total",
        "kn_serving_queue_depth",
        "kn_revision_pods_desired",
        "kn_revision_pods_count",
        "kn_revision_pods_pending_count",
        "qscale_desired_cpu_millicores",
        "qscale_desired_memory_bytes",
        "qscale_oom_kills_total",
        "qscale_crashes_total",
        "kn_revision_pods_terminating_count",
    ];
    const OF_REPLICA: [&str; 8] = [
        "container_cpu_usage_seconds_total",
        "container_cpu_cfs_periods_total",
        "container_cpu_cfs_throttled_periods_total",
        "container_memory_working_set_bytes",
        "kn_revision_request_concurrency",
        "kube_pod_container_status_restarts_total",
        "container_spec_memory_limit_bytes",
        "container_start_time_seconds",
    ];
    let mut text = String::new();
    let mut line = |name: &str, labels: &str, value: u64| writeln!(text, "{name}{{{labels}}} {value}").expect("a string takes all");
    for metric in OF_FUNCTION {
        (0..functions).for_each(|function| line(metric, &format!("namespace=\"default\",function=\"f-{function}\""), tick * 100));
    }
    let pods = || (0..functions).flat_map(|function| (0..replicas).map(move |replica| (function, replica)));
    for metric in OF_REPLICA {
        pods().for_each(|(f, r)| {
            line(metric, &format!("namespace=\"default\",function=\"f-{f}\",pod=\"f-{f}-{r}\",container=\"user-container\""), tick * 123)
        });
    }
    for (f, r) in pods() {
        let labels = format!(
            "namespace=\"default\",function=\"f-{f}\",pod=\"f-{f}-{r}\",http_response_status_code=\"200\",rpc_grpc_status_code=\"0\""
        );
        for (index, bound) in LATENCY_BOUNDS_MS.iter().map(|bound| (bound / 1000.0).to_string()).chain(["+Inf".into()]).enumerate() {
            line("kn_serving_invocation_duration_seconds_bucket", &format!("{labels},le=\"{bound}\""), tick * index as u64);
        }
        line("kn_serving_invocation_duration_seconds_count", &labels, tick * 28);
    }
    text
}

/// Syntax alone: every line read whole.
#[divan::bench]
fn parse_lines(bencher: Bencher) {
    let body = exposition(100, 4, 12_345);
    bencher.counter(BytesCount::new(body.len())).counter(ItemsCount::new(body.lines().count())).bench(|| {
        let mut labels = Labels::default();
        Samples::new(ExpositionText::new(black_box(body.as_bytes())))
            .flatten()
            .filter_map(|sample| sample.read(&mut labels).ok())
            .map(|value| value.number)
            .sum::<f64>()
    });
}

/// From bytes to Scrapes.
#[divan::bench(args = [1, 100, 1000])]
fn read_exposition(bencher: Bencher, functions: usize) {
    let body = exposition(functions, 4, 12_345);
    let reader = ExpositionReader::new(&ExpositionConfig::default());
    bencher
        .counter(BytesCount::new(body.len()))
        .counter(ItemsCount::new(functions))
        .bench(|| reader.read(ExpositionText::new(black_box(body.as_bytes())), Timestamp(1)));
}

/// A tick of every function, from readings to the bytes of the States.
#[divan::bench(args = [1, 1000], sample_count = 20)]
fn observe_tick(bencher: Bencher, functions: usize) {
    let policies: BTreeMap<_, _> = (0..functions)
        .map(|function| FunctionId::new(name("default"), name(&format!("f-{function}"))))
        .map(|function| (function.tokens(), Arc::new(ScalingPolicy::new(function))))
        .collect();
    let reader = ExpositionReader::new(&ExpositionConfig::default());
    let mut observer = Observer::new(Partition::default(), Timestamp(0));
    observer.set_policies(&policies, Timestamp(0));
    let mut tick = 0;
    bencher
        .counter(ItemsCount::new(functions))
        .with_inputs(|| {
            tick += 1;
            let now = Timestamp(tick * 5000);
            (
                now,
                [SourceReading {
                    source: name("local"),
                    reading: reader.read(ExpositionText::new(exposition(functions, 4, tick).as_bytes()), now),
                }],
            )
        })
        .bench_local_values(|(now, mut readings)| {
            observer.record(&mut readings, now);
            let trace = TraceParent { trace: 1, span: 1 };
            observer
                .due(now)
                .into_iter()
                .filter_map(|place| observer.observe(place, now, trace))
                .map(|observed| observed.state.encode().len())
                .sum::<usize>()
        });
}
