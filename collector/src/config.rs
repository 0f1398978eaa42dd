//! What the collector is told. Owns the configuration's form, its defaults and its checks.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context as _;
use http::Uri;
use qscale_common::name::Name;
use qscale_common::partition::Partition;
use qscale_common::runtime::bus::BusConfig;
use qscale_common::runtime::service::{ServiceConfig, instance_name};
use qscale_common::runtime::telemetry::TelemetryConfig;
use qscale_common::time::Span;
use serde::{Deserialize, Serialize};

/// Configuration of the service `collector`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CollectorConfig {
    /// Endpoints that are read, by name; a ScalingPolicy may name the one that knows its function. None: the local platform at its usual address.
    pub sources: BTreeMap<Name, SourceConfig>,
    /// How long a tick waits for sources after it began, 1 ms to 10 s; States then go out without those that did not answer.
    pub patience: Span,
    /// Sources are read at the end of every tick, and this often in between, 100 ms or more; absent: not in between.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scrape_interval: Option<Span>,
    /// Which part of all functions this collector observes.
    pub partition: Partition,
    /// Name of this instance; empty: host and process.
    pub instance: String,
    /// Address of health and metrics; port 0 takes any.
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
            patience: Span::millis(250),
            scrape_interval: None,
            partition: Partition::default(),
            instance: String::new(),
            health: SocketAddr::from(([127, 0, 0, 1], 8711)),
            nats: BusConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl CollectorConfig {
    /// The sources, after checking everything that the types cannot.
    ///
    /// # Errors
    /// Names the key, its value and its range.
    pub fn checked_sources(&self) -> anyhow::Result<BTreeMap<Name, SourceConfig>> {
        within("patience", self.patience, Span::millis(1), Span::seconds(10))?;
        if let Some(interval) = self.scrape_interval {
            within("scrape_interval", interval, Span::millis(100), Span::seconds(3600))?;
        }
        self.partition.check().map_err(anyhow::Error::msg)?;
        let mut sources = self.sources.clone();
        if sources.is_empty() {
            sources.insert(Name::new("local").context("the default source")?, SourceConfig::default());
        }
        for (name, source) in &sources {
            source.check().with_context(|| format!("sources.{name}"))?;
        }
        Ok(sources)
    }

    /// The name of this instance.
    #[must_use]
    pub fn instance(&self) -> String {
        if !self.instance.is_empty() {
            return self.instance.clone();
        }
        instance_name()
    }
}

fn within(key: &str, value: Span, least: Span, most: Span) -> anyhow::Result<()> {
    anyhow::ensure!((least..=most).contains(&value), "{key} = {value}, must be {least} to {most}");
    Ok(())
}

/// An endpoint that shows metrics in Prometheus' text format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceConfig {
    /// Where it is: http, with host and path.
    pub url: String,
    /// How long one reading may take, 1 ms to 1 min.
    pub timeout: Span,
    /// Largest body that is read, MiB, 1 to 1024.
    pub max_body_mib: u32,
    /// Containers of a replica that count; none: all but the one that only holds the pod's network.
    pub containers: Vec<String>,
    /// Value of the replica label of requests that ended before they reached a replica.
    pub gateway: String,
    /// What its labels are called.
    pub labels: LabelNames,
    /// What its metrics are called.
    pub metrics: MetricNames,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8701/metrics".into(),
            timeout: Span::seconds(2),
            max_body_mib: 50,
            containers: Vec::new(),
            gateway: "gateway".into(),
            labels: LabelNames::default(),
            metrics: MetricNames::default(),
        }
    }
}

impl SourceConfig {
    /// The address.
    ///
    /// # Errors
    /// When it is no http URL.
    pub fn uri(&self) -> anyhow::Result<Uri> {
        let uri: Uri = self.url.parse().with_context(|| format!("url = `{}`", self.url))?;
        let http = uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty());
        anyhow::ensure!(http, "url = `{}`, must be like http://127.0.0.1:8701/metrics", self.url);
        Ok(uri)
    }

    fn check(&self) -> anyhow::Result<()> {
        self.uri()?;
        within("timeout", self.timeout, Span::millis(1), Span::seconds(60))?;
        anyhow::ensure!((1..=1024).contains(&self.max_body_mib), "max_body_mib = {}, must be 1 to 1024", self.max_body_mib);
        Ok(())
    }
}

macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($(#[$field_doc:meta])* $field:ident = $default:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $type {
            $($(#[$field_doc])* pub $field: String,)*
        }

        impl Default for $type {
            fn default() -> Self {
                Self { $($field: $default.into(),)* }
            }
        }
    };
}

names! {
    /// What the labels of a source are called.
    LabelNames {
        /// Namespace of the function.
        namespace = "namespace",
        /// Name of the workload. Where a sample has none, its replica tells, if another sample says whose it is.
        function = "function",
        /// Name of the replica.
        replica = "pod",
        /// Name of a container within the replica.
        container = "container",
        /// HTTP status of a reply: a number, or a class such as `5xx`.
        http_status = "http_response_status_code",
        /// gRPC status of a reply, a number.
        grpc_status = "rpc_grpc_status_code",
    }
}

names! {
    /// What the metrics of a source are called; an empty name is not read. The defaults are those of Knative's queue-proxy and activator, cAdvisor and
    /// kube-state-metrics, and the local platform's own where those have none.
    MetricNames {
        /// CPU time of a container, seconds.
        cpu_seconds = "container_cpu_usage_seconds_total",
        /// CFS periods of a container.
        cpu_periods = "container_cpu_cfs_periods_total",
        /// CFS periods in which a container was throttled.
        cpu_throttled_periods = "container_cpu_cfs_throttled_periods_total",
        /// Working set of a container, bytes.
        working_set_bytes = "container_memory_working_set_bytes",
        /// Kills for memory in a container.
        oom_events = "container_oom_events_total",
        /// Restarts of a container.
        restarts = "kube_pod_container_status_restarts_total",
        /// Requests in flight at a replica.
        in_flight = "kn_revision_request_concurrency",
        /// Histogram of the time that requests took, seconds.
        duration = "kn_serving_invocation_duration_seconds",
        /// Requests queued before the replicas.
        queued = "kn_serving_queue_depth",
        /// Requests that arrived.
        arrived = "qscale_gateway_requests_total",
        /// Replicas asked for.
        desired = "kn_revision_pods_desired",
        /// Replicas that take requests.
        ready = "kn_revision_pods_count",
        /// Replicas that are starting.
        pending = "kn_revision_pods_pending_count",
        /// CPU that each replica shall have, thousandths of a core.
        desired_cpu_millicores = "qscale_desired_cpu_millicores",
        /// Memory that each replica shall have, bytes.
        desired_memory_bytes = "qscale_desired_memory_bytes",
        /// Kills for memory, replicas that are gone included.
        oom_kills = "qscale_oom_kills_total",
        /// Crashes, replicas that are gone included.
        crashes = "qscale_crashes_total",
        /// Histogram or summary of the time that replicas took to start, seconds.
        startup = "qscale_replica_startup_seconds",
        /// Cores of a node.
        node_cores = "machine_cpu_cores",
        /// Memory of a node, bytes.
        node_memory_bytes = "machine_memory_bytes",
    }
}

impl ServiceConfig for CollectorConfig {
    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(change: impl FnOnce(&mut CollectorConfig), expected: &str) {
        let mut config = CollectorConfig::default();
        config.sources.insert(Name::new("s").expect("a name"), SourceConfig::default());
        change(&mut config);
        let error = format!("{:#}", config.checked_sources().expect_err(expected));
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn what_is_out_of_range_is_named_with_its_value_and_range() {
        let source = |config: &mut CollectorConfig, change: fn(&mut SourceConfig)| config.sources.values_mut().for_each(change);
        refused(|config| config.patience = Span::seconds(11), "patience = 11s, must be 1ms to 10s");
        refused(|config| config.scrape_interval = Some(Span::millis(1)), "scrape_interval = 1ms");
        refused(|config| config.partition.index = 1, "partition.index = 1, must be below partition.count = 1");
        refused(|config| source(config, |source| source.url = "https://x/metrics".into()), "sources.s: url = `https://x/metrics`");
        refused(|config| source(config, |source| source.url = "/metrics".into()), "must be like http://");
        refused(|config| source(config, |source| source.url = "http://[".into()), "url = `http://[`");
        refused(|config| source(config, |source| source.timeout = Span::millis(0)), "sources.s: timeout = 0s");
        refused(|config| source(config, |source| source.max_body_mib = 0), "max_body_mib = 0, must be 1 to 1024");
    }

    #[test]
    fn without_sources_the_local_platform_is_read() {
        let sources = CollectorConfig::default().checked_sources().expect("valid");
        assert_eq!(sources.keys().map(Name::as_str).collect::<Vec<_>>(), ["local"]);
    }
}
