//! The load generator as a service. Owns its configuration and metrics; runs the configured load once.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use qscale_common::contract::Load;
use qscale_common::load::LoadSummary;
use qscale_common::runtime::bus::{Bus, BusConfig};
use qscale_common::runtime::health::{self, Health};
use qscale_common::runtime::telemetry::TelemetryConfig;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::LoadConfig;
use crate::run::{self, Observers, RunProgress};

/// Configuration of `qscale-loadgen serve`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServeConfig {
    /// The load. A pattern without a duration is sent until the service is stopped.
    pub load: LoadConfig,
    /// Address of /healthz, /readyz and /metrics.
    pub listen: SocketAddr,
    /// Bus for Load messages.
    pub nats: BusConfig,
    /// Logs.
    pub telemetry: TelemetryConfig,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            load: LoadConfig::default(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8704)),
            nats: BusConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

/// Capacity of the queue of Load messages: some seconds of a few hundred functions.
const QUEUED_LOADS: usize = 4_096;

/// Starts a task that publishes Load messages until the sender is dropped.
#[must_use]
pub fn publisher(bus: Bus) -> mpsc::Sender<Load> {
    let (sender, mut loads) = mpsc::channel::<Load>(QUEUED_LOADS);
    tokio::spawn(async move {
        while let Some(load) = loads.recv().await {
            bus.publish(&load, bus.new_trace()).await;
        }
    });
    sender
}

/// Runs the load and serves the health endpoint; ends with the load or when `stop` is cancelled. Returns the summary.
///
/// # Errors
/// When the configuration is invalid, the address cannot be bound, or the run fails.
pub async fn serve(config: ServeConfig, stop: CancellationToken) -> anyhow::Result<LoadSummary> {
    let health = Health::new();
    let mut registry = Registry::default();
    let metrics = LoadMetrics::register(&mut registry);
    let instance = format!("{}", std::process::id());
    let bus = Bus::connect("loadgen", &instance, &config.nats, &health, &mut registry).await?;
    let serving = CancellationToken::new();
    let registry = Arc::new(Mutex::new(registry));
    health::serve(config.listen, health.clone(), registry, serving.clone()).await?;
    let observers = Observers {
        progress: Box::new(move |progress| metrics.show(progress)),
        trace: Box::new(|description| tracing::info!("{description}")),
        loads: Some(publisher(bus)),
        default_length: Duration::MAX,
    };
    let (load, abort) = (config.load, CancellationToken::new());
    health.set("load", true);
    let summary = tokio::task::spawn_blocking(move || run::run(&load, observers, &stop, &abort)).await.context("the run panicked")?;
    serving.cancel();
    summary
}

#[derive(Clone, Default)]
struct LoadMetrics {
    offered: Gauge<f64, AtomicU64>,
    achieved: Gauge<f64, AtomicU64>,
    in_flight: Gauge,
    failed: Counter,
    lag: Gauge<f64, AtomicU64>,
}

impl LoadMetrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("qscale_loadgen_offered_rps", "Requests due in the last second", metrics.offered.clone());
        registry.register("qscale_loadgen_achieved_rps", "Successful requests in the last second", metrics.achieved.clone());
        registry.register("qscale_loadgen_in_flight", "Requests in flight", metrics.in_flight.clone());
        registry.register("qscale_loadgen_failed", "Failed requests", metrics.failed.clone());
        registry.register("qscale_loadgen_send_lag_p99_seconds", "99th percentile of the send lag in the last second", metrics.lag.clone());
        metrics
    }

    fn show(&self, progress: &RunProgress) {
        self.offered.set(progress.offered_rps);
        self.achieved.set(progress.achieved_rps);
        self.in_flight.set(i64::try_from(progress.in_flight).unwrap_or(i64::MAX));
        self.failed.inc_by(progress.failed);
        self.lag.set(progress.lag_us.map_or(0.0, |lag| lag.p99 / 1e6));
    }
}
