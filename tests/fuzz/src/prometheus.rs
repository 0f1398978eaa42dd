//! Answers of a Prometheus server, from bytes to States.

use std::collections::BTreeMap;
use std::sync::Arc;

use qscale_collector::observer::{Observer, SourceReading};
use qscale_collector::source::prometheus::{PRESETS, PrometheusConfig, PrometheusReader};
use qscale_common::contract::TraceParent;
use qscale_common::fixtures::name;
use qscale_common::name::FunctionId;
use qscale_common::partition::Partition;
use qscale_common::policy::ScalingPolicy;
use qscale_common::time::Timestamp;

use crate::exposition::{BEGIN_MS, NEXT_TICK, TICK_MS, check, split};

/// The answers of successive ticks, to each bundled query: each State is valid.
pub fn prometheus(data: &[u8]) {
    let function = FunctionId::new(name("default"), name("f"));
    for (preset, _) in PRESETS {
        let config = PrometheusConfig { preset: preset.to_owned(), ..PrometheusConfig::default() };
        let reader = PrometheusReader::new(config.query().expect("bundled"));
        let policy = Arc::new(ScalingPolicy::new(function.clone()));
        let mut observer = Observer::new(Partition::default(), Timestamp(BEGIN_MS));
        observer.set_policies(&BTreeMap::from([(policy.function().tokens(), policy)]), Timestamp(BEGIN_MS));
        for (body, number) in split(data, NEXT_TICK).into_iter().zip(1..=100) {
            let now = Timestamp(BEGIN_MS + number * TICK_MS);
            if let Ok(reading) = reader.read(body, now) {
                observer.record(&mut [SourceReading { source: name("prometheus"), reading }], now);
            }
            let observation = observer.observe(0, now, TraceParent { trace: 1, span: 1 }).expect("the tick is due");
            check(&observation.state);
        }
    }
}
