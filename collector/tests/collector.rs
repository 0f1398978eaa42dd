//! The collector as a service, with a real nats-server and endpoints that a test can change, slow down and stop.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qscale_collector::config::CollectorConfig;
use qscale_collector::service;
use qscale_collector::source::SourceConfig;
use qscale_collector::source::exposition::ExpositionConfig;
use qscale_common::contract::{EventType, Reward, State, subject};
use qscale_common::fixtures::name;
use qscale_common::name::FunctionId;
use qscale_common::policy::ScalingPolicy;
use qscale_common::runtime::bus::{Bus, Subscription};
use qscale_common::runtime::health::Health;
use qscale_common::runtime::http;
use qscale_common::time::{Span, TickLength};
use qscale_tests::{NatsServer, TIMEOUT};
use tokio_util::sync::CancellationToken;

const TICK: Duration = Duration::from_millis(200);

/// An endpoint whose counters grow with every reading.
#[derive(Clone, Default)]
struct Endpoint(Arc<Mutex<Shown>>);

#[derive(Default)]
struct Shown {
    readings: u64,
    requests: u64,
    delay: Duration,
    broken: bool,
    /// Lines after the exposition.
    more: &'static str,
    /// Text in place of the exposition.
    instead: Option<&'static str>,
}

impl Endpoint {
    /// Serves on `address` until `token` is cancelled; returns where.
    async fn serve(&self, address: SocketAddr, token: CancellationToken) -> SocketAddr {
        let listener = loop {
            // The port of an endpoint that was just stopped is free again in a moment.
            match tokio::net::TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let bound = listener.local_addr().expect("it is bound");
        let endpoint = self.clone();
        let router = axum::Router::new().route("/metrics", axum::routing::get(move || endpoint.clone().show()));
        tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(token.cancelled_owned()).await });
        bound
    }

    async fn show(self) -> Result<String, axum::http::StatusCode> {
        let delay = self.change(|shown| shown.delay);
        tokio::time::sleep(delay).await;
        self.change(|shown| {
            shown.readings += 1;
            shown.requests += 10;
            if shown.broken {
                return Err(axum::http::StatusCode::INTERNAL_SERVER_ERROR);
            }
            Ok(shown.instead.map_or_else(|| exposition(shown.requests) + shown.more, str::to_owned))
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Shown) -> T) -> T {
        change(&mut self.0.lock().expect("no test panics while it changes the endpoint"))
    }
}

fn exposition(requests: u64) -> String {
    let function = "namespace=\"default\",function=\"fib\"";
    let replica = format!("{function},pod=\"fib-1\"");
    let duration = "kn_serving_invocation_duration_seconds";
    format!(
        "qscale_gateway_requests_total{{{function}}} {requests}
kn_serving_queue_depth{{{function}}} 2
kn_revision_pods_desired{{{function}}} 1
kn_revision_pods_count{{{function}}} 1
kn_revision_pods_pending_count{{{function}}} 0
qscale_desired_cpu_millicores{{{function}}} 500
qscale_desired_memory_bytes{{{function}}} 268435456
qscale_oom_kills_total{{{function}}} 0
qscale_crashes_total{{{function}}} 0
container_cpu_usage_seconds_total{{{replica}}} {}
container_memory_working_set_bytes{{{replica}}} 67108864
kn_revision_request_concurrency{{{replica}}} 1
{duration}_bucket{{{replica},http_response_status_code=\"200\",le=\"0.1\"}} {requests}
{duration}_bucket{{{replica},http_response_status_code=\"200\",le=\"+Inf\"}} {requests}
{duration}_count{{{replica},http_response_status_code=\"200\"}} {requests}
machine_cpu_cores 2
machine_memory_bytes 4294967296
",
        requests as f64 * 0.001
    )
}

struct Loop {
    server: NatsServer,
    bus: Bus,
    states: Subscription<State>,
    rewards: Subscription<Reward>,
    health: SocketAddr,
    collector: CancellationToken,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Loop {
    /// A collector of `sources` that observes the function `fib`.
    async fn start(sources: &[(&str, SocketAddr)]) -> Self {
        let server = NatsServer::start();
        server.provision().await;
        let mut registry = prometheus_client::registry::Registry::default();
        let bus = Bus::connect("test", "0", &server.config("test"), &Health::new(), &mut registry).await.expect("the address is good");
        let states = bus.subscribe::<State>(subject::all(EventType::State), None).await.expect("a subject");
        let rewards = bus.subscribe::<Reward>(subject::all(EventType::Reward), None).await.expect("a subject");
        bus.client().flush().await.expect("the server answers");

        let mut config = CollectorConfig { nats: server.config("collector"), scrape_timeout: Span(TICK / 2), ..CollectorConfig::default() };
        config.health = free_address();
        let health = config.health;
        for (source, address) in sources {
            let timeout = Span::seconds(10);
            let exposition = ExpositionConfig { url: format!("http://{address}/metrics"), timeout, ..ExpositionConfig::default() };
            config.sources.insert(name(source), SourceConfig::Exposition(exposition));
        }
        let collector = CancellationToken::new();
        let running = tokio::spawn(service::run(config, collector.clone()));
        let this = Self { server, bus, states, rewards, health, collector, running };
        this.put_policy("fib").await;
        this
    }

    async fn put_policy(&self, function: &str) {
        let policy = ScalingPolicy {
            tick: TickLength::new(TICK).expect("within the range"),
            ..ScalingPolicy::new(FunctionId::new(name("default"), name(function)))
        };
        let store = self.bus.jetstream().get_key_value(subject::POLICY_BUCKET).await.expect("the bucket was made");
        store.put(policy.function().tokens(), policy.to_json().into()).await.expect("the bucket takes it");
    }

    async fn state(&mut self) -> State {
        tokio::time::timeout(TIMEOUT, self.states.next()).await.expect("a State comes").expect("the subscription stands").message
    }

    async fn reward(&mut self) -> Reward {
        tokio::time::timeout(TIMEOUT, self.rewards.next()).await.expect("a Reward comes").expect("the subscription stands").message
    }

    /// The first State for which `wanted` holds; every State on the way follows the one before it.
    async fn until(&mut self, what: &str, wanted: impl Fn(&State) -> bool) -> State {
        let mut last: Option<State> = None;
        let mut fruitless = 0;
        loop {
            let state = self.state().await;
            if let Some(last) = &last {
                assert!(state.tick > last.tick || state.epoch > last.epoch, "{} after {}", state.tick, last.tick);
            }
            if wanted(&state) {
                return state;
            }
            fruitless += 1;
            assert!(fruitless < 200, "in 200 States none shows {what}; the last: {state:?}");
            last = Some(state);
        }
    }

    /// Body of the health endpoint at `path`, once it contains `expected`.
    async fn healthy(&self, path: &str, expected: &str) -> String {
        qscale_tests::eventually_async(expected, || async {
            let (_, body) = http::get(&self.health.to_string(), path, TIMEOUT).await.ok()?;
            body.contains(expected).then_some(body)
        })
        .await
    }

    async fn stop(self) {
        self.collector.cancel();
        tokio::time::timeout(TIMEOUT, self.running).await.expect("it stops").expect("it does not panic").expect("it stops well");
        drop(self.server);
    }
}

/// An address that nothing listens on.
fn free_address() -> SocketAddr {
    let reserved = std::net::TcpListener::bind(loopback()).expect("a free port");
    reserved.local_addr().expect("it is bound")
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn measured(state: &State) -> bool {
    state.windows.tick.completed_rps.is_some_and(|rate| rate > 0.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_tick_publishes_a_state_and_the_previous_reward() {
    let endpoint = Endpoint::default();
    let address = endpoint.serve(loopback(), CancellationToken::new()).await;
    let mut running = Loop::start(&[("local", address)]).await;
    let state = running.until("a measured tick", measured).await;
    assert_eq!(state.windows.tick.failed_share, Some(0.0));
    assert_eq!(state.replicas.map(|replicas| (replicas.ready.0, replicas.reporting.0)), Some((1, 1)));
    assert_eq!(state.headroom.map(|headroom| headroom.cpu_millicores.0), Some(1500));
    assert_eq!(state.tick.0, state.observed_at_ms.0 / state.tick_length_ms, "the State closes the tick that it is observed in");
    let reward = loop {
        let reward = running.reward().await;
        if reward.tick.0 >= state.tick.0 {
            break reward;
        }
    };
    assert_eq!(reward.epoch, state.epoch);
    assert_eq!(reward.terms.violation.value, Some(0.0));
    assert!(reward.value.is_some_and(|value| value < 0.0 && value > -0.3), "{reward:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_outage_is_a_gap_that_ends() {
    let endpoint = Endpoint::default();
    let up = CancellationToken::new();
    let address = endpoint.serve(loopback(), up.clone()).await;
    let mut running = Loop::start(&[("local", address)]).await;
    running.until("a measured tick", measured).await;
    endpoint.change(|shown| shown.broken = true);
    let gap = running.until("a tick without measurements", |state| state.windows.tick.covered_ms == 0).await;
    let older = running.until("growing age", |state| state.age.oldest() > gap.age.oldest()).await;
    assert!(older.allocation.is_some(), "the last allocation stays, with its age");
    assert!(older.windows.short.covered_ms > 0);
    // The counter restarts meanwhile.
    endpoint.change(|shown| (shown.broken, shown.requests) = (false, 0));
    let back = running.until("measurements again", measured).await;
    assert!(back.windows.tick.covered_ms > 200, "the first tick after the gap covers it: {}", back.windows.tick.covered_ms);
    assert!(back.windows.tick.rate_rps.is_some_and(|rate| (0.0..1000.0).contains(&rate)), "{:?}", back.windows.tick.rate_rps);
    assert_eq!(back.age.oldest().map(|age| age < TICK), Some(true));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_cannot_be_true_are_absent_and_counted() {
    let endpoint = Endpoint::default();
    // A second replica, whose memory wrapped around and whose CPU time was never counted.
    endpoint.change(|shown| {
        shown.more = "container_memory_working_set_bytes{namespace=\"default\",function=\"fib\",pod=\"fib-2\"} 18446744073709547520\n\
            container_cpu_usage_seconds_total{namespace=\"default\",function=\"fib\",pod=\"fib-2\"} NaN\n";
    });
    let address = endpoint.serve(loopback(), CancellationToken::new()).await;
    let mut running = Loop::start(&[("local", address)]).await;
    let state = running.until("a measured tick", |state| measured(state) && state.windows.tick.memory_mib.is_some()).await;
    assert_eq!(state.windows.tick.memory_mib.map(|usage| usage.max), Some(64.0));
    assert_eq!(state.replicas.map(|replicas| replicas.reporting.0), Some(1));
    let metrics = running.healthy("/metrics", "dropped_values_total{source=\"local\",metric=\"working_set\"}").await;
    assert!(metrics.contains("dropped_values_total{source=\"local\",metric=\"cpu_seconds\"}"), "{metrics}");
    assert!(!metrics.contains("metric=\"queued\""), "{metrics}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_cannot_be_parsed_is_not_ready() {
    let endpoint = Endpoint::default();
    let address = endpoint.serve(loopback(), CancellationToken::new()).await;
    let running = Loop::start(&[("local", address)]).await;
    running.healthy("/readyz", "\"source:local\":true").await;
    endpoint.change(|shown| shown.instead = Some("<html>\n<p>Sign in</p>\n</html>\n"));
    running.healthy("/readyz", "\"source:local\":false").await;
    running.healthy("/metrics", "scrape_failures_total{source=\"local\",reason=\"unreadable\"}").await;
    endpoint.change(|shown| shown.instead = None);
    running.healthy("/readyz", "\"source:local\":true").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_starts_late_is_read() {
    let address = free_address();
    let mut running = Loop::start(&[("local", address)]).await;
    let unmeasured = running.state().await;
    assert_eq!((unmeasured.age.oldest(), unmeasured.allocation), (None, None), "without samples the State has no measurements");
    Endpoint::default().serve(address, CancellationToken::new()).await;
    running.until("a measured tick", measured).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_source_delays_neither_ticks_nor_other_sources() {
    let (slow, fast) = (Endpoint::default(), Endpoint::default());
    slow.change(|shown| shown.delay = TICK * 4);
    let slow_address = slow.serve(loopback(), CancellationToken::new()).await;
    let fast_address = fast.serve(loopback(), CancellationToken::new()).await;
    let mut running = Loop::start(&[("slow", slow_address), ("fast", fast_address)]).await;
    running.until("a measured tick", measured).await;
    let first = running.state().await.tick.0;
    for _ in 0..10 {
        running.state().await;
    }
    let last = running.state().await;
    assert!(last.tick.0 - first < 10 * 4, "ticks wait for the slow source: {} ticks for 12 States", last.tick.0 - first);
    assert!(last.windows.short.completed_rps.is_some());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_continue_after_the_server_was_killed() {
    let endpoint = Endpoint::default();
    let address = endpoint.serve(loopback(), CancellationToken::new()).await;
    let mut running = Loop::start(&[("local", address)]).await;
    let before = running.until("a measured tick", measured).await;
    running.server.kill();
    let read = |endpoint: &Endpoint| endpoint.change(|shown| shown.readings);
    let then = read(&endpoint);
    qscale_tests::eventually_async("readings without a server", || {
        let reached = read(&endpoint) > then + 3;
        async move { reached.then_some(()) }
    })
    .await;
    running.server.restart();
    let after = running.until("a State after the restart", |state| state.tick.0 > before.tick.0 + 3 && measured(state)).await;
    assert_eq!(after.epoch, before.epoch);
    running.stop().await;
}
