//! Configuration of the collector. Owns its form, defaults and checks.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context as _;
use qscale_common::name::Name;
use qscale_common::partition::Partition;
use qscale_common::range::check_span;
use qscale_common::runtime::bus::BusConfig;
use qscale_common::runtime::service::{InstanceName, ServiceConfig};
use qscale_common::runtime::signature::TrustConfig;
use qscale_common::runtime::telemetry::TelemetryConfig;
use qscale_common::time::Span;
use serde::{Deserialize, Serialize};

use crate::source::SourceConfig;

/// Configuration of the service `collector`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CollectorConfig {
    /// Sources by name; a ScalingPolicy may name the one that knows its function. None: the local platform at its default address.
    pub sources: BTreeMap<Name, SourceConfig>,
    /// Time that a tick waits for sources, 1 ms to 10 s; then States are published without those that did not answer.
    #[serde(alias = "patience")]
    pub scrape_timeout: Span,
    /// Interval of additional readings between ticks, 100 ms to 1 h; absent: sources are read at the end of ticks only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scrape_interval: Option<Span>,
    /// Share of the functions that this collector observes.
    pub partition: Partition,
    /// Name of this instance; absent: host and process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceName>,
    /// Keys of which one must have signed a ScalingPolicy.
    pub trust: TrustConfig,
    /// Address of health and metrics; port 0 takes a free port.
    pub health: SocketAddr,
    /// The bus.
    pub nats: BusConfig,
    /// Logs.
    pub telemetry: TelemetryConfig,
}

impl Default for CollectorConfig {
    fn default() -> Self {
        Self {
            sources: BTreeMap::new(),
            scrape_timeout: Span::millis(250),
            scrape_interval: None,
            partition: Partition::default(),
            instance: None,
            trust: TrustConfig::default(),
            health: SocketAddr::from(([127, 0, 0, 1], 8711)),
            nats: BusConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl CollectorConfig {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// Names the key, its value and its range.
    pub fn check(&self) -> anyhow::Result<()> {
        check_span("scrape_timeout", self.scrape_timeout, Span::millis(1), Span::seconds(10))?;
        if let Some(interval) = self.scrape_interval {
            check_span("scrape_interval", interval, Span::millis(100), Span::seconds(3600))?;
        }
        self.partition.check().map_err(anyhow::Error::msg)?;
        self.trust.check()?;
        for (name, source) in &self.sources {
            source.check().with_context(|| format!("sources.{name}"))?;
        }
        Ok(())
    }

    /// The sources to read: the configured ones, or the local platform if there are none.
    #[must_use]
    pub fn effective_sources(&self) -> BTreeMap<Name, SourceConfig> {
        if !self.sources.is_empty() {
            return self.sources.clone();
        }
        let name = Name::new("local").expect("the name of the default source is a DNS label");
        BTreeMap::from([(name, SourceConfig::default())])
    }
}

impl ServiceConfig for CollectorConfig {
    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }

    fn check(&self) -> anyhow::Result<()> {
        self.check()
    }
}

#[cfg(test)]
mod tests {
    use qscale_common::fixtures::name;

    use super::*;
    use crate::source::exposition::ExpositionConfig;

    #[track_caller]
    fn refused(change: impl FnOnce(&mut CollectorConfig), expected: &str) {
        let mut config = CollectorConfig::default();
        change(&mut config);
        let error = format!("{:#}", config.check().expect_err(expected));
        assert!(error.contains(expected), "{error}");
    }

    fn refused_source(change: impl FnOnce(&mut ExpositionConfig), expected: &str) {
        let mut source = ExpositionConfig::default();
        change(&mut source);
        refused(|config| drop(config.sources.insert(name("s"), SourceConfig::Exposition(source))), expected);
    }

    #[test]
    fn a_value_outside_its_range_is_named_with_the_range() {
        refused(|config| config.scrape_timeout = Span::seconds(11), "scrape_timeout = 11s, must be 1ms to 10s");
        refused(|config| config.scrape_interval = Some(Span::millis(1)), "scrape_interval = 1ms");
        refused(|config| config.partition.index = 1, "partition.index = 1, must be below partition.count = 1");
        refused_source(|source| source.url = "ftp://x/metrics".into(), "sources.s: url = `ftp://x/metrics`");
        refused_source(|source| source.url = "/metrics".into(), "url = `/metrics`");
        refused_source(|source| source.url = "http://[".into(), "url = `http://[`");
        refused_source(|source| source.timeout = Span::millis(0), "sources.s: timeout = 0s");
        refused_source(|source| source.max_body_mib = 0, "max_body_mib = 0, must be 1 to 1024");
    }

    #[test]
    fn the_former_name_of_the_scrape_timeout_is_read() {
        let config: CollectorConfig = serde_json::from_str(r#"{ "patience": "3s" }"#).expect("valid");
        assert_eq!(config.scrape_timeout, Span::seconds(3));
    }

    #[test]
    fn without_sources_the_local_platform_is_read() {
        let sources = CollectorConfig::default().effective_sources();
        assert_eq!(sources.keys().map(Name::as_str).collect::<Vec<_>>(), ["local"]);
    }

    #[test]
    fn a_source_without_a_kind_is_an_exposition() {
        let read = |source: &str| serde_json::from_str::<CollectorConfig>(&format!(r#"{{ "sources": {{ "s": {source} }} }}"#));
        let expected = SourceConfig::Exposition(ExpositionConfig { url: "http://x/metrics".into(), ..ExpositionConfig::default() });
        for source in [r#"{ "url": "http://x/metrics" }"#, r#"{ "kind": "exposition", "url": "http://x/metrics" }"#] {
            assert_eq!(read(source).expect("valid").sources[&name("s")], expected);
        }
        assert!(read(r#"{ "kind": "unknown" }"#).is_err());
        assert!(read(r#"{ "ulr": "http://x/metrics" }"#).is_err());
        let config = CollectorConfig { sources: [(name("s"), expected)].into(), ..CollectorConfig::default() };
        let printed = serde_json::to_string(&config).expect("printable");
        assert_eq!(serde_json::from_str::<CollectorConfig>(&printed).expect("valid"), config);
    }
}
