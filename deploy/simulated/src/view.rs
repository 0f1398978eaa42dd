//! A simulated function in the API and the metrics. Owns the mapping from the simulation to the figures of a real platform.

use qscale_common::platform::metrics::{BUCKETS, FunctionView, LAST_BOUND_MS, ReplicaView, RequestResult, ResourceUsage, Series};
use qscale_common::platform::{ActualAllocation, FunctionSpec, FunctionStatus, Protocol, ReplicaState, ReplicaStatus};
use qscale_common::scrape::{LATENCY_BOUNDS_MS, LATENCY_BUCKETS, Parts, RequestCounters};
use qscale_sim::replica::{Phase, SimulatedReplica};

use crate::function::{ObservedReplica, Simulated};

/// Gateway address in the API, where there is none.
const GATEWAY: &str = "none: requests are simulated";

/// Endings of requests, as at the local platform's gateway.
enum End {
    Well,
    TooLate,
    QueueFull,
    /// The replica ended during the request.
    Lost,
}

impl End {
    fn status(&self, protocol: Protocol) -> RequestResult {
        match (protocol, self) {
            (Protocol::Http, End::Well) => RequestResult { http: 200, grpc: None },
            (Protocol::Http, End::TooLate) => RequestResult { http: 504, grpc: None },
            (Protocol::Http, End::QueueFull) => RequestResult { http: 503, grpc: None },
            (Protocol::Http, End::Lost) => RequestResult { http: 502, grpc: None },
            (Protocol::Grpc, End::Well) => RequestResult { http: 200, grpc: Some(0) },
            (Protocol::Grpc, End::TooLate) => RequestResult { http: 200, grpc: Some(4) },
            (Protocol::Grpc, End::QueueFull) => RequestResult { http: 200, grpc: Some(8) },
            (Protocol::Grpc, End::Lost) => RequestResult { http: 200, grpc: Some(14) },
        }
    }
}

impl Simulated {
    /// Status for the API, as of the last advance.
    pub(crate) fn status(&mut self) -> FunctionStatus {
        let counted = self.counted();
        let mut actual = ActualAllocation::default();
        for replica in self.world.replicas() {
            let ObservedReplica { state, startup, .. } = self.seen(replica);
            match state {
                ReplicaState::Ready => actual.ready += 1,
                ReplicaState::Starting | ReplicaState::BackOff => actual.starting += 1,
                ReplicaState::Draining => actual.draining += 1,
            }
            actual.replicas.push(ReplicaStatus {
                id: self.name_of(replica.number),
                pid: None,
                port: None,
                state,
                cpu_millicores: Some(replica.limits.cpu),
                memory_mib: Some(replica.limits.memory),
                in_flight: replica.load,
                restarts: replica.restarts,
                startup_ms: startup.filter(|_| state != ReplicaState::Starting).map(|startup| startup.0 / 1_000_000),
                resize_pending: self.held.clone(),
            });
        }
        FunctionStatus {
            spec: FunctionSpec::clone(&self.spec),
            desired: self.desired,
            actual,
            vertical: true,
            queued: u32::try_from(self.world.queued()).unwrap_or(u32::MAX),
            oom_kills: counted.oom_kills,
            crashes: counted.crashes,
            gateway: GATEWAY.to_owned(),
        }
    }

    /// View for the metrics, as of the last advance.
    pub(crate) fn view(&mut self) -> FunctionView {
        let counted = self.counted();
        let timeout = self.spec.timeout.0;
        // A replica that no node has room for has no measurements.
        let placed = self.world.replicas().filter(|replica| replica.phase != Phase::Pending);
        let replicas = placed.zip(&self.reading.scrape.replicas).map(|(replica, scrape)| {
            let cpu = scrape.cpu.as_ref().and_then(|cpu| cpu.first().copied()).unwrap_or_default();
            let periods = cpu.periods.unwrap_or_default();
            ReplicaView {
                id: self.name_of(replica.number),
                state: self.seen(replica).state,
                usage: Some(ResourceUsage {
                    cpu_seconds: cpu.usage_us as f64 / 1e6,
                    periods: periods.runnable,
                    throttled_periods: periods.throttled,
                    throttled_seconds: replica.held_back().seconds(),
                    working_set: scrape.working_set_bytes.unwrap_or(0),
                    oom_kills: scrape.oom_kills.as_ref().map_or(0, Parts::sum),
                }),
                limited: true,
                cpu: Some(replica.limits.cpu),
                memory: Some(replica.limits.memory),
                started: self.started(replica),
                restarts: replica.restarts,
                in_flight: replica.load,
                requests: self.answered(replica),
            }
        });
        let replicas = replicas.collect();
        let failed = self.reading.scrape.ingress.as_ref().map_or(0, |ingress| ingress.failed.sum());
        let refused = self.totals().refused;
        let late = failed.saturating_sub(refused);
        let protocol = self.spec.protocol;
        let at_gateway = [(End::QueueFull, refused, 0.0), (End::TooLate, late, timeout.as_secs_f64())];
        FunctionView {
            id: self.id.clone(),
            desired: self.desired,
            counted,
            queued: self.world.queued() as u64,
            replicas,
            at_gateway: at_gateway
                .into_iter()
                .filter(|(_, count, _)| *count > 0)
                .map(|(end, count, seconds)| alike(end.status(protocol), count, seconds))
                .collect(),
        }
    }

    /// Requests of a replica: successful ones in their buckets, timed-out ones with the whole timeout. The duration of
    /// requests lost with a process is unknown; all failures of a replica that was restarted count as lost.
    fn answered(&self, replica: &SimulatedReplica) -> Vec<Series> {
        let requests: &RequestCounters = &replica.requests;
        let (protocol, timeout) = (self.spec.protocol, self.spec.timeout.0.as_secs_f64());
        let mut series = Vec::new();
        if requests.completed > 0 {
            let mut counts = [0; BUCKETS];
            counts[..LATENCY_BUCKETS].copy_from_slice(&requests.latency.unwrap_or_default());
            // Requests beyond the contract's last bound took at most the timeout.
            if timeout * 1_000.0 > LAST_BOUND_MS {
                counts.swap(LATENCY_BUCKETS - 1, BUCKETS - 1);
            }
            series.push(Series { ending: End::Well.status(protocol), counts, sum: replica.answered_in.seconds() });
        }
        if requests.failed > 0 {
            let ended = replica.restarts > 0 || matches!(replica.phase, Phase::BackOff { .. });
            let (end, seconds) = if ended { (End::Lost, 0.0) } else { (End::TooLate, timeout) };
            series.push(alike(end.status(protocol), requests.failed, seconds));
        }
        series
    }
}

/// Requests with equal duration.
fn alike(ending: RequestResult, count: u64, seconds: f64) -> Series {
    let millis = seconds * 1_000.0;
    let bucket = LATENCY_BOUNDS_MS.partition_point(|bound| *bound < millis) + usize::from(millis > LAST_BOUND_MS);
    let mut counts = [0; BUCKETS];
    counts[bucket] = count;
    Series { ending, counts, sum: seconds * count as f64 }
}
