//! Text expositions, from bytes to States.

use std::collections::BTreeMap;
use std::sync::Arc;

use qscale_collector::observer::{Observer, SourceReading};
use qscale_collector::source::exposition::syntax::{ExpositionFormat, ExpositionText, Labels, Samples};
use qscale_collector::source::exposition::{ExpositionConfig, ExpositionReader};
use qscale_common::contract::{Message as _, State, TraceParent, parse};
use qscale_common::fixtures::name;
use qscale_common::name::FunctionId;
use qscale_common::partition::Partition;
use qscale_common::policy::ScalingPolicy;
use qscale_common::time::Timestamp;

/// Line between the expositions of two ticks.
pub(crate) const NEXT_TICK: &[u8] = b"# next tick\n";
pub(crate) const TICK_MS: u64 = 5_000;
pub(crate) const BEGIN_MS: u64 = 1_700_000_000_000;

/// The expositions of successive ticks: each State is valid, and short lines are read as long ones are.
pub fn exposition(data: &[u8]) {
    let policy = ScalingPolicy::new(FunctionId::new(name("default"), name("f")));
    let mut observer = Observer::new(Partition::default(), Timestamp(BEGIN_MS));
    observer.set_policies(&BTreeMap::from([(policy.function().tokens(), Arc::new(policy))]), Timestamp(BEGIN_MS));
    let reader = ExpositionReader::new(&ExpositionConfig::default());
    for (body, number) in split(data, NEXT_TICK).into_iter().zip(1..=100) {
        let format = if body.trim_ascii_end().ends_with(b"# EOF") { ExpositionFormat::OpenMetrics } else { ExpositionFormat::Prometheus };
        let text = ExpositionText { body, format, complete: body.ends_with(b"\n") };
        compare_lines(text);
        let now = Timestamp(BEGIN_MS + number * TICK_MS);
        let reading = reader.read(text, now);
        observer.record(&mut [SourceReading { source: name("local"), reading }], now);
        let observation = observer.observe(0, now, TraceParent { trace: 1, span: 1 }).expect("the tick is due");
        check(&observation.state);
    }
}

pub(crate) fn check(state: &State) {
    assert_eq!(state.check(), Ok(()));
    parse::<State>(&state.encode()).expect("a valid State can be written");
    for window in [&state.windows.tick, &state.windows.short, &state.windows.long] {
        let rates = [window.rate_rps, window.completed_rps];
        assert!(rates.into_iter().flatten().all(|rate| rate <= 1e8), "{window:?}");
    }
}

/// A line that is read by its last label alone has the same value as when it is read whole.
fn compare_lines(text: ExpositionText<'_>) {
    let (mut labels, mut others) = (Labels::default(), Labels::default());
    let samples: Vec<_> = Samples::new(text).flatten().collect();
    for pair in samples.windows(2) {
        let read = pair[0].read(&mut labels);
        let Some((Ok(_), before)) = Some(read).zip(pair[0].before_last("le", &labels)) else { continue };
        if let Some((bound, value)) = pair[1].read_last(before) {
            let whole = pair[1].read(&mut others).expect("a line that is read by its last label is well-formed");
            assert_eq!(others.get("le"), Some(bound));
            assert_eq!((whole.number.to_bits(), whole.at_ms), (value.number.to_bits(), value.at_ms));
        }
    }
}

pub(crate) fn split<'a>(mut data: &'a [u8], at: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    while let Some(begin) = data.windows(at.len()).position(|window| window == at) {
        parts.push(&data[..begin]);
        data = &data[begin + at.len()..];
    }
    parts.push(data);
    parts
}
