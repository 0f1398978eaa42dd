//! Any text from exposition to State: every State is valid, and contains nothing that cannot be true.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use qscale_collector::observer::{Observer, SourceReading};
use qscale_collector::source::exposition::syntax::{ExpositionFormat, ExpositionText};
use qscale_collector::source::exposition::{ExpositionConfig, ExpositionReader, MetricNames};
use qscale_common::contract::{Message, State, TraceParent, parse};
use qscale_common::fixtures::name;
use qscale_common::name::FunctionId;
use qscale_common::partition::Partition;
use qscale_common::platform::metric_names;
use qscale_common::policy::ScalingPolicy;
use qscale_common::time::Timestamp;

const BEGIN: u64 = 1_700_000_000_000;
const TICK: u64 = 5_000;
/// Cores and memory of the node in every exposition.
const CORES: f64 = 4.0;
const NODE_BYTES: f64 = 8e9;

/// States of the function `default/fib` whose source shows `texts`, one a tick.
fn states(texts: &[(Vec<u8>, ExpositionFormat, bool)]) -> Vec<State> {
    let policy = ScalingPolicy::new(FunctionId::new(name("default"), name("fib")));
    let mut observer = Observer::new(Partition::default(), Timestamp(BEGIN));
    observer.set_policies(&BTreeMap::from([(policy.function().tokens(), Arc::new(policy))]), Timestamp(BEGIN));
    let reader = ExpositionReader::new(&ExpositionConfig::default());
    let tick = |(text, number): (&(Vec<u8>, ExpositionFormat, bool), u64)| {
        let now = Timestamp(BEGIN + number * TICK);
        let (body, format, complete) = (&text.0, text.1, text.2);
        let reading = reader.read(ExpositionText { body, format, complete }, now);
        observer.record(&mut [SourceReading { source: name("local"), reading }], now);
        observer.observe(0, now, TraceParent { trace: 1, span: 1 }).expect("it is due").state
    };
    texts.iter().zip(1..).map(tick).collect()
}

#[track_caller]
fn check(state: &State) {
    assert_eq!(state.check(), Ok(()));
    parse::<State>(&state.encode()).expect("a State");
    for window in [&state.windows.tick, &state.windows.short, &state.windows.long] {
        let cpu = window.cpu_millicores.map_or(0.0, |usage| usage.max);
        assert!(cpu <= CORES * 1000.0 + 1.0, "{cpu}m on {CORES} cores");
        let memory = window.memory_mib.map_or(0.0, |usage| usage.max);
        assert!(memory <= NODE_BYTES / f64::from(1 << 20) + 1.0, "{memory} MiB on a node of {NODE_BYTES} bytes");
        assert!(window.rate_rps.unwrap_or(0.0) <= 1e8 && window.completed_rps.unwrap_or(0.0) <= 1e8, "{window:?}");
    }
}

/// The names of the samples that are read, but for those of the node, which every exposition has.
fn samples() -> Vec<String> {
    let names = serde_json::to_value(MetricNames::default()).expect("names are text");
    let names = names.as_object().expect("an object").values().filter_map(|name| name.as_str());
    let suffixes = |name: &str| match name {
        metric_names::NODE_CORES | metric_names::NODE_MEMORY_BYTES => &[][..],
        metric_names::DURATION | metric_names::STARTUP => &["_bucket", "_sum", "_count"],
        _ => &[""],
    };
    names.flat_map(|name| suffixes(name).iter().map(move |suffix| format!("{name}{suffix}"))).collect()
}

/// Numbers as exporters write them.
fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (0u32..100_000).prop_map(|number| number.to_string()),
        2 => (0.0f64..1e6).prop_map(|number| number.to_string()),
        1 => any::<f64>().prop_map(|number| number.to_string()),
        2 => prop::sample::select(vec![
            "NaN", "+Inf", "-Inf", "-1", "-4096", "0", "-0", "1e-320", "1e308", "4294967295", "2147483647", "9223372036854771712", "9223372036854775807",
            "18446744073709551615", "18446744073709547520", "18446744073.709551", "1.7e9", "9999999999999999999999",
        ])
        .prop_map(str::to_owned),
    ]
}

prop_compose! {
    fn line()(
        metric in prop::sample::select(samples()),
        pod in prop::sample::select(vec!["", ",pod=\"fib-1\"", ",pod=\"fib-2\"", ",pod=\"gateway\""]),
        container in prop::sample::select(vec!["", ",container=\"user\"", ",container=\"\"", ",container=\"POD\"", ",container=\"user\",id=\"/b\",name=\"k8s_1\""]),
        status in prop::sample::select(vec!["", ",http_response_status_code=\"200\"", ",http_response_status_code=\"503\""]),
        bound in prop::sample::select(vec!["", ",le=\"0.1\"", ",le=\"1\"", ",le=\"+Inf\"", ",le=\"x\""]),
        number in number(),
        time in prop::sample::select(vec!["", "", "", "", " 1700000001", " 1700000001000", " 1700000001.5", " -1", " 99999999999999999", " x"]),
        end in prop::sample::select(vec!["\n", "\n", "\n", "\r\n", " # {trace_id=\"a\"} 0.5\n", ""]),
    ) -> String {
        format!("{metric}{{namespace=\"default\",function=\"fib\"{pod}{container}{status}{bound}}} {number}{time}{end}")
    }
}

fn text() -> impl Strategy<Value = (Vec<u8>, ExpositionFormat, bool)> {
    let node = format!("machine_cpu_cores {CORES}\nmachine_memory_bytes {NODE_BYTES:e}\n");
    let body = prop::collection::vec(line(), 0..60).prop_map(move |lines| (node.clone() + &lines.concat()).into_bytes());
    (body, prop::sample::select(vec![ExpositionFormat::Prometheus, ExpositionFormat::OpenMetrics]), any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_state_of_any_exposition_is_valid_and_possible(texts in prop::collection::vec(text(), 1..12)) {
        states(&texts).iter().for_each(check);
    }

    #[test]
    fn every_state_of_any_bytes_is_valid(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 1..4)) {
        let texts: Vec<_> = bodies.into_iter().map(|body| (body, ExpositionFormat::Prometheus, true)).collect();
        states(&texts).iter().for_each(check);
    }
}
