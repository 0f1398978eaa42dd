//! The process of the simulated platform. Owns start and stop, the API for load, and publishing Load messages.

use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::clock;
use qscale_common::runtime::health::Health;
use qscale_common::runtime::http;
use qscale_common::runtime::lock::LockedFolder;
use qscale_common::runtime::platform::api::{self, Access};
use qscale_common::runtime::platform::token::ApiToken;
use qscale_common::time::Span;
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::SimulatedConfig;
use crate::platform::SimulatedPlatform;

/// Longest wait for unsent messages when the platform stops.
const DRAIN_WITHIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Runs the platform until `stop` is cancelled.
///
/// # Errors
/// When the configuration is out of range, the state folder is in use or not private, or the address cannot be bound.
pub async fn run(config: SimulatedConfig, stop: CancellationToken) -> anyhow::Result<()> {
    config.validate()?;
    let folder = config.state_dir.clone();
    let state =
        tokio::task::spawn_blocking(move || LockedFolder::take("state_dir", &folder)).await.context("opening the state folder")??;
    let listener =
        TcpListener::bind(config.api).await.with_context(|| format!("api = {}: cannot listen; choose another address", config.api))?;
    let address = listener.local_addr().context("the address of the API")?;
    let access = Access { token: ApiToken::issue(state.path(), address)?, loopback: address.ip().is_loopback() };
    let health = Health::new();
    let platform = Arc::new(SimulatedPlatform::new(config.machine, config.limits, config.load_waits, clock::now()));
    let load = Router::new().route("/v1/load", get(load_summary).post(begin_load)).with_state(Arc::clone(&platform));
    let routes = api::routes(Arc::clone(&platform), health.clone(), stop.clone(), access, load);
    let serving = tokio::spawn(http::serve(listener, routes, stop.clone()));
    let publishing = match &config.nats {
        Some(nats) => {
            // The bus metrics are not exposed: `/metrics` is about functions.
            let bus = Bus::connect("simulated", &std::process::id().to_string(), nats, &health, &mut Registry::default()).await?;
            Some((bus.clone(), tokio::spawn(publish(Arc::clone(&platform), bus, config.load_every, stop.clone()))))
        }
        None => None,
    };
    health.set("serving", true);
    info!(api = %address, clock = %clock::rate(), "simulated platform ready");
    stop.cancelled().await;
    health.set("serving", false);
    if let Some((bus, publishing)) = publishing {
        if let Err(error) = publishing.await {
            warn!(%error, "the task that publishes load failed");
        }
        bus.drain(DRAIN_WITHIN).await;
    }
    if tokio::time::timeout(DRAIN_WITHIN, serving).await.is_err() {
        info!("stopped with an API connection still open");
    }
    info!("stopped");
    Ok(())
}

/// Publishes Load messages periodically.
async fn publish(platform: Arc<SimulatedPlatform>, bus: Bus, every: Span, stop: CancellationToken) {
    let run = format!("simulated-{}", clock::now().0);
    let mut tick = clock::interval(every.0);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let (platform, run) = (Arc::clone(&platform), run.clone());
        let loads = tokio::task::spawn_blocking(move || platform.loads(&run, platform.time())).await;
        match loads {
            Ok(loads) => {
                for load in &loads {
                    bus.publish(load, bus.new_trace()).await;
                }
            }
            Err(error) => warn!(%error, "failed to read load"),
        }
    }
}

async fn load_summary(State(platform): State<Arc<SimulatedPlatform>>) -> Response {
    match tokio::task::spawn_blocking(move || platform.summary(platform.time())).await {
        Ok(summary) => Json(summary).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn begin_load(State(platform): State<Arc<SimulatedPlatform>>) -> StatusCode {
    match tokio::task::spawn_blocking(move || platform.begin_load(platform.time())).await {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_panicked) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
