//! A platform's HTTP API. Owns parsing and authorizing requests and rendering errors; a [`Platform`] carries them out.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post, put};
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::events::Events;
use super::operations::{self, OperationControl};
use super::token::{ApiToken, Unauthorized};
use crate::document::{self, DocumentError};
use crate::name::{FunctionId, Name};
use crate::platform::{
    ApiError, EventKind, FunctionSpec, FunctionStatus, Isolation, LeaseReset, LeaseResetReply, LogLine, PlatformEvent, PlatformStatus,
};
use crate::policy::Bounds;
use crate::range::OutOfRange;
use crate::runtime::health::Health;
use crate::runtime::http::HEAD_TIMEOUT;
use crate::units::Allocation;

/// Largest body of a request, bytes.
const BODY_BYTES: usize = 1 << 20;
/// Most events in one reply.
const PAGE: usize = 1_000;

/// A program that runs functions. [`operations`] checks requests and calls these methods in order.
pub trait Platform: Send + Sync + 'static {
    /// A function of the platform. It stays usable after it was removed.
    type Function: Send + Sync;

    /// Limits, leases and the lock of changes.
    fn control(&self) -> &OperationControl;

    /// All functions by name. May block for a moment.
    fn list(&self) -> Vec<FunctionStatus>;

    /// Number of functions.
    fn count(&self) -> usize;

    /// One function; `None` where there is none of that name.
    fn find(&self, id: &FunctionId) -> Option<Self::Function>;

    /// The status of a function. May block for a moment.
    fn status(&self, function: &Self::Function) -> FunctionStatus;

    /// The file of a function.
    fn spec(&self, function: &Self::Function) -> Arc<FunctionSpec>;

    /// The desired allocation of a function.
    fn desired(&self, function: &Self::Function) -> Allocation;

    /// Creates a function whose file and allocation were checked and whose name is free, and records that.
    fn create(&self, spec: FunctionSpec) -> impl Future<Output = Result<Self::Function, Refused>> + Send;

    /// Gives a function another file, which was checked.
    fn replace(&self, function: &Self::Function, spec: FunctionSpec) -> impl Future<Output = Result<(), Refused>> + Send;

    /// Removes a function from the list and begins to stop its replicas.
    fn remove(&self, id: &FunctionId) -> Option<Self::Function>;

    /// Returns when a removed function has no replica left.
    fn gone(&self, function: Self::Function) -> impl Future<Output = ()> + Send;

    /// Sets the desired allocation, which was checked, and records the change; returns the one before. Called under the lock of leases.
    fn set_desired(&self, function: &Self::Function, desired: Allocation) -> Allocation;

    /// Returns when the desired allocation was acted on, or after a short while.
    fn settle(&self, function: &Self::Function) -> impl Future<Output = ()> + Send;

    /// Saves functions, allocations and the highest lease, where the platform keeps them.
    fn save(&self) -> impl Future<Output = Result<(), Refused>> + Send;

    /// The last `lines` lines that the replicas of a function wrote.
    fn logs(&self, function: &Self::Function, lines: usize) -> Vec<LogLine>;

    /// Records an event that concerns no single replica.
    fn record(&self, id: &FunctionId, kind: EventKind, message: String);

    /// Isolation of functions that run as processes.
    fn isolation(&self) -> Option<Isolation>;

    /// Recorded events.
    fn events(&self) -> &Events;

    /// All metrics in Prometheus' text format. May block for a moment.
    fn metrics(&self) -> String;
}

/// Why a request to the API was refused.
#[derive(Debug, Error)]
pub enum Refused {
    /// A value is outside its range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The function does not exist.
    #[error("no function {0}; add it first")]
    NotFound(FunctionId),
    /// Another writer has a newer lease.
    #[error("lease = {lease}, must be at least {highest}, the highest that was seen")]
    StaleLease {
        /// Of the request.
        lease: u64,
        /// Ever seen.
        highest: u64,
    },
    /// The request cannot be carried out now.
    #[error("{0}")]
    Unavailable(String),
}

/// State shared by the handlers.
struct Api<P> {
    platform: Arc<P>,
    health: Health,
    stop: CancellationToken,
}

impl<P> Clone for Api<P> {
    fn clone(&self) -> Self {
        Self { platform: Arc::clone(&self.platform), health: self.health.clone(), stop: self.stop.clone() }
    }
}

/// Paths that need no token, as those of other services: they change nothing and show measurements only.
const OPEN_PATHS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Access to an API.
#[derive(Debug)]
pub struct Access {
    /// Token that requests must present, except for health and metrics.
    pub token: ApiToken,
    /// Whether the API is bound to loopback. Requests for another host are refused then: a web page could make a browser send them.
    pub loopback: bool,
}

/// Routes of the API. `more` are additional routes of this platform.
pub fn routes<P: Platform>(platform: Arc<P>, health: Health, stop: CancellationToken, access: Access, more: Router) -> Router {
    Router::new()
        .route("/v1/functions", get(list::<P>).merge(post(add::<P>)))
        .route("/v1/functions/{namespace}/{name}", get(one::<P>).delete(delete::<P>))
        .route("/v1/functions/{namespace}/{name}/allocation", put(set_allocation::<P>))
        .route("/v1/functions/{namespace}/{name}/logs", get(logs::<P>))
        .route("/v1/bounds", get(bounds::<P>))
        .route("/v1/events", get(events::<P>))
        .route("/v1/platform", get(platform_status::<P>))
        .route("/v1/platform/lease", put(reset_lease::<P>))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz::<P>))
        .route("/metrics", get(render_metrics::<P>))
        .fallback(async || Failure::new(StatusCode::NOT_FOUND, "no such path; see /v1/functions, /v1/events, /v1/platform and /metrics"))
        .method_not_allowed_fallback(async || Failure::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method"))
        .with_state(Api { platform, health, stop })
        .merge(more)
        .layer(middleware::from_fn_with_state(Arc::new(access), authorize))
}

/// An error response as JSON.
struct Failure {
    status: StatusCode,
    body: ApiError,
}

impl Failure {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, body: ApiError { error: error.into(), field: None, highest_lease: None } }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let highest_lease = match &refused {
            Refused::StaleLease { highest, .. } => Some(*highest),
            Refused::Range(_) | Refused::NotFound(_) | Refused::Unavailable(_) => None,
        };
        let (status, field) = match &refused {
            Refused::Range(range) => (StatusCode::UNPROCESSABLE_ENTITY, Some(range.field.clone())),
            Refused::NotFound(_) => (StatusCode::NOT_FOUND, None),
            Refused::StaleLease { .. } => (StatusCode::CONFLICT, Some("lease".to_owned())),
            Refused::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, None),
        };
        Self { status, body: ApiError { error: refused.to_string(), field, highest_lease } }
    }
}

impl From<DocumentError> for Failure {
    fn from(error: DocumentError) -> Self {
        let (status, field) = match &error {
            DocumentError::Syntax(_) => (StatusCode::BAD_REQUEST, None),
            DocumentError::Field { field, .. } => (StatusCode::UNPROCESSABLE_ENTITY, Some(field.clone())),
            DocumentError::UnknownKeys(keys) => (StatusCode::UNPROCESSABLE_ENTITY, keys.first().cloned()),
        };
        Self { status, body: ApiError { error: error.to_string(), field, highest_lease: None } }
    }
}

/// Refuses requests for another host, and requests without the token.
async fn authorize(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    if access.loopback && !is_local(&request) {
        return Failure::new(StatusCode::FORBIDDEN, "the API is asked by address or as localhost only").into_response();
    }
    if OPEN_PATHS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    match access.token.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(reason) => unauthorized(reason, &access.token).into_response(),
    }
}

fn is_local(request: &Request) -> bool {
    let host = request.uri().host().map(str::to_owned).or_else(|| {
        let host = request.headers().get(header::HOST)?.to_str().ok()?;
        host.parse::<axum::http::uri::Authority>().ok().map(|authority| authority.host().to_owned())
    });
    host.as_deref().is_none_or(|host| host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok())
}

/// Reply to a request without the token. Names its file, which only the user of the platform can read.
fn unauthorized(reason: Unauthorized, token: &ApiToken) -> impl IntoResponse {
    let found = match reason {
        Unauthorized::Missing => "the request does not have one header `authorization`",
        Unauthorized::Malformed => "the header `authorization` is not `Bearer TOKEN`",
        Unauthorized::Wrong => "the token is not that of this platform, which issues a new one at each start",
    };
    let remedy = format!("send `authorization: Bearer TOKEN` with the content of {}; for `qscale`: --token-file", token.file().display());
    ([(header::WWW_AUTHENTICATE, "Bearer")], Failure::new(StatusCode::UNAUTHORIZED, format!("{found}; {remedy}")))
}

fn id(namespace: &str, name: &str) -> Result<FunctionId, Failure> {
    let label = |text: &str| Name::new(text).map_err(|error| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()));
    Ok(FunctionId::new(label(namespace)?, label(name)?))
}

/// Reads a body with the content type JSON, which a web page cannot send without permission.
async fn read<T: DeserializeOwned>(request: Request) -> Result<T, Failure> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        let error = format!("content-type = `{kind}`, must be application/json");
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
    }
    let body = tokio::time::timeout(HEAD_TIMEOUT, axum::body::to_bytes(request.into_body(), BODY_BYTES)).await;
    let body = body.map_err(|_| Failure::new(StatusCode::REQUEST_TIMEOUT, format!("the body must arrive within {HEAD_TIMEOUT:?}")))?;
    let body = body.map_err(|_| Failure::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body must be at most {BODY_BYTES} bytes")))?;
    let text =
        std::str::from_utf8(&body).map_err(|error| Failure::new(StatusCode::BAD_REQUEST, format!("the body is not UTF-8: {error}")))?;
    Ok(document::parse(text, document::Format::Json)?)
}

async fn list<P: Platform>(State(api): State<Api<P>>) -> Result<Json<Vec<FunctionStatus>>, Failure> {
    let functions = tokio::task::spawn_blocking(move || api.platform.list()).await;
    functions.map(Json).map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

async fn bounds<P: Platform>(State(api): State<Api<P>>) -> Json<Bounds> {
    Json(api.platform.control().bounds())
}

async fn one<P: Platform>(
    State(api): State<Api<P>>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<FunctionStatus>, Failure> {
    let id = id(&namespace, &name)?;
    let function = api.platform.find(&id).ok_or(Refused::NotFound(id))?;
    let status = tokio::task::spawn_blocking(move || api.platform.status(&function)).await;
    status.map(Json).map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

async fn add<P: Platform>(State(api): State<Api<P>>, request: Request) -> Result<Json<FunctionStatus>, Failure> {
    let spec = read(request).await?;
    Ok(Json(unbroken(async move { operations::add(&*api.platform, spec).await }).await?))
}

async fn delete<P: Platform>(State(api): State<Api<P>>, Path((namespace, name)): Path<(String, String)>) -> Result<StatusCode, Failure> {
    let id = id(&namespace, &name)?;
    unbroken(async move { operations::delete(&*api.platform, &id).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn set_allocation<P: Platform>(
    State(api): State<Api<P>>,
    Path((namespace, name)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Failure> {
    let id = id(&namespace, &name)?;
    let allocation = read(request).await?;
    let reply = unbroken(async move { operations::set_allocation(&*api.platform, &id, &allocation).await }).await?;
    Ok(Json(reply).into_response())
}

async fn platform_status<P: Platform>(State(api): State<Api<P>>) -> Json<PlatformStatus> {
    Json(PlatformStatus { highest_lease: api.platform.control().highest_lease(), isolation: api.platform.isolation() })
}

async fn reset_lease<P: Platform>(State(api): State<Api<P>>, request: Request) -> Result<Json<LeaseResetReply>, Failure> {
    let reset: LeaseReset = read(request).await?;
    Ok(Json(unbroken(async move { operations::reset_lease(&*api.platform, reset).await }).await?))
}

/// Completes a change even if the client disconnects.
async fn unbroken<T: Send + 'static>(change: impl Future<Output = Result<T, Refused>> + Send + 'static) -> Result<T, Failure> {
    match tokio::spawn(change).await {
        Ok(changed) => Ok(changed?),
        Err(error) => Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

#[derive(Debug, Deserialize)]
struct LogsQuery {
    lines: Option<usize>,
}

async fn logs<P: Platform>(
    State(api): State<Api<P>>,
    Path((namespace, name)): Path<(String, String)>,
    query: Result<Query<LogsQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Failure> {
    let Query(query) = query.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let id = id(&namespace, &name)?;
    let function = api.platform.find(&id).ok_or(Refused::NotFound(id))?;
    Ok(Json(api.platform.logs(&function, query.lines.unwrap_or(usize::MAX))).into_response())
}

#[derive(Debug, Deserialize)]
struct EventsQuery {
    after: Option<u64>,
    #[serde(default)]
    follow: bool,
}

async fn events<P: Platform>(
    State(api): State<Api<P>>,
    query: Result<Query<EventsQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Failure> {
    let Query(query) = query.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let after = query.after.unwrap_or(0);
    if !query.follow {
        return Ok(Json(api.platform.events().after(after, PAGE)).into_response());
    }
    let newest = api.platform.events().subscribe();
    let lines = stream::unfold((api, newest, after), |(api, mut newest, after)| async move {
        loop {
            let page = api.platform.events().after(after, PAGE);
            if let Some(last) = page.events.last().map(|event| event.seq) {
                return Some((Ok::<_, Infallible>(json_lines(&page.events)), (api, newest, last)));
            }
            tokio::select! {
                () = api.stop.cancelled() => return None,
                changed = newest.changed() => changed.ok()?,
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

fn json_lines(events: &[PlatformEvent]) -> Bytes {
    let mut lines = Vec::new();
    for event in events {
        serde_json::to_writer(&mut lines, event).expect("an event has text keys and writing to memory does not fail");
        lines.push(b'\n');
    }
    lines.into()
}

async fn readyz<P: Platform>(State(api): State<Api<P>>) -> Response {
    let status = if api.health.ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(api.health.conditions())).into_response()
}

async fn render_metrics<P: Platform>(State(api): State<Api<P>>) -> Response {
    match tokio::task::spawn_blocking(move || api.platform.metrics()).await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
