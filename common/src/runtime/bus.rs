//! The bus: typed messages and watched buckets over NATS. Owns delivery; must not interpret messages.

mod agent_reads;
mod bucket;
mod follow_agents;
mod outbox;
mod queue;
mod read_history;
mod recorded_messages;
mod retained;
mod stream_health;
mod subscription;

use std::future::IntoFuture;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream;
use async_nats::jetstream::context::{ContextBuilder, PublishAckFuture, PublishError};
use async_nats::{Client, ConnectOptions, HeaderMap};
use bytes::Bytes;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use tokio::sync::Semaphore;

pub(super) use bucket::read_current;
pub use bucket::{Bucket, entries_condition};
pub use outbox::Outbox;
use queue::Retention;
pub use recorded_messages::{RecordedMessage, RecordedMessages};
pub use retained::RetainedMessage;
pub(super) use retained::Start;
pub use stream_health::StreamFault;
pub use subscription::{Received, Subscription};

use super::clock;
use super::files::{self, MAX_DOCUMENT, read_text};
use super::health::Health;
use super::nats_accounts::{self, User};
use super::telemetry::{Label, RateLimit};
use crate::contract::{Event, EventType, Message, TraceParent};
use crate::name::Name;

/// Maximum recorded messages without acknowledgement. With 100,000 functions and 1 ms per acknowledgement it limits the wait, not the rate.
const UNACKNOWLEDGED: usize = 4096;
/// Time after which an unacknowledged message counts as lost; well within the stream's window for duplicates.
const RECORD_FOR: Duration = Duration::from_secs(60);
/// Capacity of the queue of connection events while a command connects; they come one at a time.
const EVENTS: usize = 16;
/// Minimum interval between two log lines about lost, dropped or malformed messages.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Time to wait until the server has processed what was sent.
const FLUSHED_WITHIN: Duration = Duration::from_secs(2);
/// Timeout of one acknowledgement.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(5);
/// Timeout of a request to the server, including the connection.
pub(super) const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// Address of the bus and credentials: a password, an nkey, or a JWT with its nkey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BusConfig {
    /// Address of the nats-server, or several separated by commas. With the scheme `tls` the connection must be encrypted.
    pub url: String,
    /// User; empty if the server needs none. Its name is also part of the subjects on which it receives replies.
    pub user: String,
    /// Password of the user.
    pub password: String,
    /// File that holds the password; wins over `password`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// File that holds the seed of an nkey (`SU...`); wins over the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nkey_file: Option<PathBuf>,
    /// File with a JWT and the seed of its nkey, as `nsc generate creds` writes it; wins over nkey and password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_file: Option<PathBuf>,
    /// File with the certificates (PEM) of the authorities that may sign the server's certificate; those of the system by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// File with the client's certificate (PEM), for a server that verifies clients. Requires `key_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// File with the private key (PEM) of the client's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// Why a command cannot use a nats-server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// No server answers in time.
    #[error("no nats-server at {url} answers ({reason}); is the system up (qscale up)?")]
    Unreachable {
        /// Address of the server.
        url: String,
        /// Last error of the connection.
        reason: String,
    },
    /// The server does not know the user, or the password is wrong.
    #[error("the nats-server at {url} refuses user `{user}`: authorization violation")]
    Refused {
        /// Address of the server.
        url: String,
        /// The user.
        user: String,
    },
    /// The server is older than [`super::provision::OLDEST_SERVER`].
    #[error("nats-server {found} is too old: {oldest} or newer is required, older ones cannot create the buckets and ignore filters")]
    TooOld {
        /// Version of the server.
        found: String,
        /// Oldest version that is supported.
        oldest: String,
    },
}

impl ConnectError {
    /// `last` is the last event before the timeout.
    fn new(config: &BusConfig, last: Option<async_nats::Event>) -> Self {
        use async_nats::{ClientError, ConnectErrorKind, Event};
        let url = config.url.clone();
        let refused = [ConnectErrorKind::AuthorizationViolation, ConnectErrorKind::Authentication].map(|kind| kind.to_string());
        match last {
            // The event has only the text of the kind.
            Some(Event::ClientError(ClientError::Other(kind))) if refused.contains(&kind) => {
                Self::Refused { url, user: config.user.clone() }
            }
            other => Self::Unreachable { url, reason: other.map_or_else(|| "timeout".to_owned(), |event| event.to_string()) },
        }
    }
}

impl Default for BusConfig {
    fn default() -> Self {
        Self {
            url: "nats://127.0.0.1:4222".into(),
            user: String::new(),
            password: String::new(),
            password_file: None,
            nkey_file: None,
            credentials_file: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
        }
    }
}

impl BusConfig {
    /// Connection options of this user, with unlimited retries.
    fn options(&self) -> anyhow::Result<ConnectOptions> {
        let mut options = ConnectOptions::new()
            .retry_on_initial_connect()
            .request_timeout(Some(REQUEST_WITHIN))
            .connection_timeout(Duration::from_secs(5))
            .reconnect_delay_callback(|attempts| Duration::from_millis((50 << attempts.min(6)).min(2000)));
        if !self.user.is_empty() {
            options = options.custom_inbox_prefix(nats_accounts::inbox_prefix(&self.user));
        }
        options = self.authenticate(options)?;
        if let Some(path) = &self.ca_file {
            readable("ca_file", path)?;
            options = options.add_root_certificates(path.clone()).require_tls(true);
        }
        match (&self.certificate_file, &self.key_file) {
            (Some(certificate), Some(key)) => {
                readable("certificate_file", certificate)?;
                readable("key_file", key)?;
                options = options.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
            }
            (None, None) => {}
            (Some(_), None) => bail!("nats.certificate_file is set, but nats.key_file is not; set both or none"),
            (None, Some(_)) => bail!("nats.key_file is set, but nats.certificate_file is not; set both or none"),
        }
        Ok(options)
    }

    fn authenticate(&self, options: ConnectOptions) -> anyhow::Result<ConnectOptions> {
        if let Some(path) = &self.credentials_file {
            // The client requires the end of the last line.
            let text = secret("credentials_file", path)? + "\n";
            return options
                .credentials(&text)
                .with_context(|| format!("nats.credentials_file = {}: not a credentials file", path.display()));
        }
        if let Some(path) = &self.nkey_file {
            return Ok(options.nkey(secret("nkey_file", path)?));
        }
        if self.user.is_empty() {
            return Ok(options);
        }
        let password = match &self.password_file {
            Some(path) => secret("password_file", path)?,
            None => self.password.clone(),
        };
        Ok(options.user_and_password(self.user.clone(), password))
    }

    /// Connects once, for a command.
    ///
    /// # Errors
    /// [`ConnectError`] if no server replies within `within` or it refuses the user; another error if the settings are invalid.
    pub async fn connect_once(&self, name: &str, within: Duration) -> anyhow::Result<Client> {
        let (event_tx, mut events) = tokio::sync::mpsc::channel(EVENTS);
        let options = self.options()?.name(name).event_callback(move |event| {
            // Nobody reads once the caller has connected or given up, so that a full queue loses nothing.
            let _unread = event_tx.try_send(event);
            async {}
        });
        let client = options.connect(self.urls()).await.with_context(|| format!("nats.url = {}", self.url))?;
        let mut last = None;
        let connected = async {
            while let Some(event) = events.recv().await {
                match event {
                    async_nats::Event::Connected => return true,
                    other => last = Some(other),
                }
            }
            false
        };
        match tokio::time::timeout(within, connected).await {
            Ok(true) => Ok(client),
            _ => Err(ConnectError::new(self, last).into()),
        }
    }

    fn urls(&self) -> Vec<String> {
        self.url.split(',').map(|url| url.trim().to_owned()).collect()
    }
}

/// Content of the file `path` that the key `key` names, without surrounding white space.
fn secret(key: &str, path: &Path) -> anyhow::Result<String> {
    Ok(read_text(path, MAX_DOCUMENT).with_context(|| format!("nats.{key}"))?.trim().to_owned())
}

/// Checks that `path` can be read: the client itself would repeat a failed read for ever.
fn readable(key: &str, path: &Path) -> anyhow::Result<()> {
    files::open(path, MAX_DOCUMENT).map(drop).with_context(|| format!("nats.{key}"))
}

/// Result of the delivery of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
enum Delivery {
    /// Sent without acknowledgement.
    Published,
    /// Not sent.
    Dropped,
    /// Acknowledged by a stream.
    Recorded,
    /// Not acknowledged in time.
    Lost,
    /// Received and decoded.
    Received,
    /// Received, and replaced by a newer message before it was read.
    Superseded,
    /// Received, and dropped because the reader lagged.
    Overrun,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MessageLabels {
    message: Label<EventType>,
    outcome: &'static str,
}

/// Messages by kind and result.
#[derive(Debug, Clone, Default)]
struct MessageCounts(Family<MessageLabels, Counter>);

impl MessageCounts {
    /// Adds `by` messages with a [`Delivery`], or with the error that made them unreadable.
    fn add(&self, message: EventType, outcome: impl Into<&'static str>, by: u64) {
        self.0.get_or_create(&MessageLabels { message: Label(message), outcome: outcome.into() }).inc_by(by);
    }
}

/// A connection to the bus. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bus {
    client: Client,
    jetstream: jetstream::Context,
    source: Arc<str>,
    counts: MessageCounts,
    unacknowledged: Arc<Semaphore>,
    lost_log: Arc<Mutex<RateLimit>>,
    rng: Arc<Mutex<SmallRng>>,
    /// Readiness of the service, for what the bus finds unreadable; commands have none.
    health: Option<Health>,
    /// The agent whose credential this is: it may not use JetStream, and asks a collector for retained messages.
    reads_as: Option<Name>,
}

impl Bus {
    /// Connects `instance` of `service`. Returns at once, even without a server, and retries for ever; the condition `nats` of
    /// `health` reports whether it is connected.
    ///
    /// # Errors
    /// If the address is malformed or the password file cannot be read.
    pub async fn connect(
        service: &str,
        instance: &str,
        config: &BusConfig,
        health: &Health,
        metrics: &mut Registry,
    ) -> anyhow::Result<Self> {
        health.set("nats", false);
        let counts = MessageCounts::default();
        metrics.register("qscale_bus_messages", "Messages of the contract by kind and by what became of them", counts.0.clone());
        let connections = Counter::<u64>::default();
        metrics.register("qscale_bus_connections", "Times that the connection to NATS was made", connections.clone());
        let state = health.clone();
        let options = config.options()?.name(format!("qscale-{service}-{instance}")).event_callback(move |event| {
            let (state, connections) = (state.clone(), connections.clone());
            async move {
                match event {
                    async_nats::Event::Connected => {
                        connections.inc();
                        state.set("nats", true);
                        tracing::info!("connected to NATS");
                    }
                    async_nats::Event::Disconnected | async_nats::Event::Closed => {
                        state.set("nats", false);
                        tracing::warn!("connection to NATS lost; trying again");
                    }
                    other => tracing::debug!(event = %other, "NATS"),
                }
            }
        });
        let client = options.connect(config.urls()).await.with_context(|| format!("nats.url = {}", config.url))?;
        let bus = Self::over(client, format!("/qscale/{service}/{instance}"), counts);
        let reads_as = match User::of_name(&config.user) {
            Ok(User::Agent(agent)) => Some(agent),
            _ => None,
        };
        Ok(Self { health: Some(health.clone()), reads_as, ..bus })
    }

    /// A bus over an existing connection, for commands.
    #[must_use]
    pub fn of_client(client: Client, source: &str) -> Self {
        Self::over(client, source.to_owned(), MessageCounts::default())
    }

    /// This bus, with the credential of `agent`.
    #[must_use]
    pub fn reading_as(self, agent: Name) -> Self {
        Self { reads_as: Some(agent), ..self }
    }

    fn over(client: Client, source: String, counts: MessageCounts) -> Self {
        let jetstream = ContextBuilder::new()
            .timeout(ACKNOWLEDGE_WITHIN)
            .max_ack_inflight(2 * UNACKNOWLEDGED)
            .backpressure_on_inflight(true)
            .build(client.clone());
        Self {
            client,
            jetstream,
            source: source.into(),
            counts,
            unacknowledged: Arc::new(Semaphore::new(UNACKNOWLEDGED)),
            lost_log: Arc::new(Mutex::new(RateLimit::new(LOG_INTERVAL))),
            rng: Arc::new(Mutex::new(seed())),
            health: None,
            reads_as: None,
        }
    }

    /// This bus over another connection with `config`, which holds at most `capacity` messages of each subscription that were not read, and drops more.
    ///
    /// # Errors
    /// If the address is malformed or the password file cannot be read.
    pub async fn on_connection(&self, config: &BusConfig, name: &str, capacity: usize) -> anyhow::Result<Self> {
        let options = config.options()?.name(name).subscription_capacity(capacity);
        let client = options.connect(config.urls()).await.with_context(|| format!("nats.url = {}", config.url))?;
        Ok(Self { reads_as: self.reads_as.clone(), ..Self::over(client, self.source.to_string(), self.counts.clone()) })
    }

    /// Waits until the server has processed what was sent, at most two seconds: without a connection the client sends it later.
    pub async fn flush(&self) {
        let _in_time = tokio::time::timeout(FLUSHED_WITHIN, self.client.flush()).await;
    }

    fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// The connection itself.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// JetStream over the connection.
    #[must_use]
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// A new trace.
    #[must_use]
    pub fn new_trace(&self) -> TraceParent {
        TraceParent::new(&mut *self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The next step of the trace `parent`, or a new trace without a parent.
    #[must_use]
    pub fn child_trace(&self, parent: Option<TraceParent>) -> TraceParent {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        match parent {
            Some(parent) => parent.child(&mut *rng),
            None => TraceParent::new(&mut *rng),
        }
    }

    /// Publishes a State or a Load without acknowledgement. Without a connection it is dropped and counted: it would be stale by the time it is sent,
    /// and a newer one follows.
    pub async fn publish<M: Message>(&self, message: &M, trace: TraceParent) {
        if !self.is_connected() {
            return self.counts.add(M::TYPE, Delivery::Dropped, 1);
        }
        let headers = self.headers(message, trace);
        let sent = self.client.publish_with_headers(message.subject(), headers, message.encode().into());
        let published = tokio::time::timeout(ACKNOWLEDGE_WITHIN, sent).await;
        self.counts.add(M::TYPE, if matches!(published, Ok(Ok(()))) { Delivery::Published } else { Delivery::Dropped }, 1);
    }

    /// Publishes an Action, an Outcome or a Reward, and again under the same id until the stream has acknowledged it or a minute has passed.
    /// Waits only while thousands are unacknowledged.
    pub async fn record<M: Message>(&self, message: &M, trace: TraceParent) {
        let Ok(permit) = Arc::clone(&self.unacknowledged).acquire_owned().await else {
            return self.counts.add(M::TYPE, Delivery::Dropped, 1);
        };
        let (bus, subject, headers, body) = (self.clone(), message.subject(), self.headers(message, trace), Bytes::from(message.encode()));
        // The first attempt is made here rather than in the task, so that messages keep their order.
        let first = self.attempt(&subject, &headers, &body).await;
        tokio::spawn(async move {
            let acknowledged = bus.until_acknowledged(M::TYPE, first, &subject, &headers, &body).await;
            bus.counts.add(M::TYPE, if acknowledged { Delivery::Recorded } else { Delivery::Lost }, 1);
            if !acknowledged {
                let admitted = bus.lost_log.lock().unwrap_or_else(PoisonError::into_inner).admit(clock::instant());
                if let Some(suppressed) = admitted {
                    tracing::warn!(subject, suppressed, "lost a message: no stream acknowledged it within a minute");
                }
            }
            drop(permit);
        });
    }

    async fn attempt(&self, subject: &str, headers: &HeaderMap, body: &Bytes) -> Result<PublishAckFuture, PublishError> {
        self.jetstream.publish_with_headers(subject.to_owned(), headers.clone(), body.clone()).await
    }

    /// Sets the readiness condition of the stream that records messages of type `kind`: whether it acknowledged one, or `error`.
    fn report_recorded(&self, kind: EventType, error: Option<&PublishError>) {
        let Some(health) = &self.health else { return };
        let condition = format!("record of {kind}");
        match error {
            None => health.set(&condition, true),
            Some(error) => health.fail(&condition, error.to_string()),
        }
    }

    async fn until_acknowledged(
        &self,
        kind: EventType,
        first: Result<PublishAckFuture, PublishError>,
        subject: &str,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> bool {
        let began = clock::instant();
        let mut attempt = first;
        let mut pause = Duration::from_millis(50);
        loop {
            let acknowledged = match attempt {
                Ok(acknowledgement) => acknowledgement.into_future().await.map(drop),
                Err(error) => Err(error),
            };
            self.report_recorded(kind, acknowledged.as_ref().err());
            if acknowledged.is_ok() {
                return true;
            }
            if clock::since(began) > RECORD_FOR {
                return false;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
            attempt = self.attempt(subject, headers, body).await;
        }
    }

    /// Waits until all recorded messages are acknowledged and all published ones are sent, or `deadline` has passed.
    pub async fn drain(&self, deadline: Duration) {
        let settled = async {
            // Holding all permits means that no message is unacknowledged.
            let all = self.unacknowledged.acquire_many(UNACKNOWLEDGED as u32).await;
            // Without a connection there is nothing to wait for: States and Loads are not kept for later.
            all.is_ok() && (!self.is_connected() || self.client.flush().await.is_ok())
        };
        if !tokio::time::timeout(deadline, settled).await.unwrap_or(false) {
            tracing::warn!("some messages were not acknowledged before the stop");
        }
    }

    /// Subscribes to messages on `subject`; in `group`, each message reaches one member. If the reader lags by more than 64 MiB, the oldest messages
    /// are dropped.
    ///
    /// # Errors
    /// If the subject is malformed.
    pub async fn subscribe<M: Message + Send + 'static>(&self, subject: String, group: Option<String>) -> anyhow::Result<Subscription<M>> {
        self.subscribe_retaining(subject, group, Retention::All { capacity: subscription::CAPACITY }).await
    }

    /// As [`Bus::subscribe`], for a reader that needs only the newest message of each function: if it lags, older ones are replaced.
    ///
    /// # Errors
    /// If the subject is malformed.
    pub async fn subscribe_latest<M: Message + Send + 'static>(
        &self,
        subject: String,
        group: Option<String>,
    ) -> anyhow::Result<Subscription<M>> {
        self.subscribe_retaining(subject, group, Retention::LatestPerFunction).await
    }

    async fn subscribe_retaining<M: Message + Send + 'static>(
        &self,
        subject: String,
        group: Option<String>,
        retention: Retention,
    ) -> anyhow::Result<Subscription<M>> {
        let subscriber = match group {
            Some(group) => self.client.queue_subscribe(subject.clone(), group).await,
            None => self.client.subscribe(subject.clone()).await,
        };
        let subscriber = subscriber.with_context(|| format!("subscribe to {subject}"))?;
        Ok(Subscription::start(subscriber, retention, self.counts.clone()))
    }

    fn headers<M: Message>(&self, message: &M, trace: TraceParent) -> HeaderMap {
        let event = Event::of(message, &self.source, clock::now(), trace);
        let mut headers = HeaderMap::new();
        for (name, value) in event.headers() {
            headers.insert(name, value);
        }
        headers
    }
}

/// Trace ids must be unique across processes, not secret.
#[expect(clippy::disallowed_methods, reason = "the bus owns the entropy of trace ids")]
fn seed() -> SmallRng {
    SmallRng::from_rng(&mut rand::rng())
}
