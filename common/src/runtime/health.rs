//! Liveness, readiness and metrics of a service, over HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// Metrics of a service, shared between its components and the metrics endpoint.
pub type SharedRegistry = Arc<Mutex<Registry>>;

/// State of a condition. In JSON `true`, `false`, or the reason why it does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Condition {
    /// Whether it holds.
    Holds(bool),
    /// It does not hold, for this reason.
    Fails(String),
}

impl Condition {
    /// Whether it holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        *self == Self::Holds(true)
    }
}

/// Named conditions; a service is ready while all hold.
#[derive(Debug, Clone, Default)]
pub struct Health {
    conditions: Arc<Mutex<BTreeMap<String, Condition>>>,
}

impl Health {
    /// No conditions yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether `condition` holds.
    pub fn set(&self, condition: &str, holds: bool) {
        self.replace(condition, Condition::Holds(holds));
    }

    /// Reports that `condition` does not hold because of `reason`.
    pub fn fail(&self, condition: &str, reason: String) {
        self.replace(condition, Condition::Fails(reason));
    }

    fn replace(&self, condition: &str, state: Condition) {
        let mut conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = conditions.get_mut(condition) {
            *current = state;
        } else {
            conditions.insert(condition.to_owned(), state);
        }
    }

    /// Whether every condition holds.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.conditions().values().all(Condition::holds)
    }

    /// All conditions by name.
    #[must_use]
    pub fn conditions(&self) -> BTreeMap<String, Condition> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The routes `/healthz` (liveness), `/readyz` (every condition holds; the body lists them) and `/metrics` (Prometheus text).
pub fn routes(health: Health, metrics: SharedRegistry) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state(health)
        .merge(Router::new().route("/metrics", get(render)).with_state(metrics))
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    let status = if health.ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health.conditions()))
}

async fn render(State(metrics): State<SharedRegistry>) -> impl IntoResponse {
    let mut text = String::new();
    let registry = metrics.lock().unwrap_or_else(PoisonError::into_inner);
    match encode(&mut text, &registry) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], error.to_string()),
    }
}

/// Serves [`routes`] on `address` until `token` is cancelled; returns the bound address, which differs for port 0.
///
/// # Errors
/// If the address cannot be bound.
pub async fn serve(address: SocketAddr, health: Health, metrics: SharedRegistry, token: CancellationToken) -> anyhow::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("health = {address}: cannot listen there; choose another address"))?;
    let bound = listener.local_addr().context("the address of the health endpoint")?;
    let router = routes(health, metrics);
    tokio::spawn(super::http::serve(listener, router, token));
    Ok(bound)
}
