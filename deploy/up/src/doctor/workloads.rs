//! Checks of a running system: services, functions, ScalingPolicies, States, agents, leases, freezes. Owns the thresholds of silent and stale.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use qscale_common::contract::{self, Effect, EventType, Outcome, State, subject};
use qscale_common::control;
use qscale_common::name::FunctionId;
use qscale_common::platform::{FunctionStatus, MAX_LEASE};
use qscale_common::policy::{self, Mode, ScalingPolicy, WorkloadKind};
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::clock;
use qscale_common::runtime::health::Condition;
use qscale_common::runtime::http;
use qscale_common::runtime::kv;
use qscale_common::runtime::lease::Lease;
use qscale_common::runtime::models::{ModelReader, ModelStore};
use qscale_common::runtime::platform::PlatformClient;
use qscale_common::runtime::signature::TrustConfig;
use qscale_common::text;
use qscale_common::time::Timestamp;
use qscale_dqn::checkpoint::MAX_BYTES;

use super::report::{CheckedItem, Report};
use crate::state_dir::{Addresses, StateDir, conditions};

/// Ticks without a State after which the collector counts as silent.
const SILENT_TICKS: u32 = 3;
/// Age after which a lease counts as expired: above its default TTL, within which leaders renew it several times.
const LEASE_DEAD_AFTER: Duration = Duration::from_secs(10);
/// Name of the collector among the services, and longest wait for its metrics.
const COLLECTOR: &str = "collector";
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Beginning of the keys of actuator leases, one per backend.
const ACTUATOR: &str = "actuator";

/// Checks that every service reports ready.
pub async fn services(report: &mut Report, addresses: &Addresses, state: &StateDir) {
    let requests = addresses.health.iter().map(async |(service, address)| (service, address, conditions(address).await));
    for (service, address, conditions) in join_all(requests).await {
        let log = state.log(service);
        let see = format!("see {}; `qscale up` restarts services that exit", log.display());
        let check = format!("service {service}");
        match conditions {
            None => report.fail(check, format!("no reply from {address}"), see),
            Some(conditions) => {
                let failing: Vec<String> = conditions.iter().filter_map(|(name, condition)| failing(name, condition)).collect();
                if failing.is_empty() {
                    report.pass(check, format!("ready at {address}"));
                } else {
                    report.fail(check, format!("not ready: {}", failing.join(", ")), see);
                }
            }
        }
    }
}

/// The condition `name` with its reason, if it does not hold.
fn failing(name: &str, condition: &Condition) -> Option<String> {
    match condition {
        Condition::Holds(true) => None,
        Condition::Holds(false) => Some(name.to_owned()),
        Condition::Fails(reason) => Some(format!("{name} ({reason})")),
    }
}

/// Names of the collector's sources; `None` if it does not answer.
pub async fn sources(addresses: &Addresses) -> Option<BTreeSet<String>> {
    let conditions = conditions(addresses.health.get(COLLECTOR)?).await?;
    Some(conditions.keys().filter_map(|name| name.strip_prefix("source:")).map(str::to_owned).collect())
}

/// Checks that the collector has the source that `policy` names.
fn source(report: &mut Report, policy: &ScalingPolicy, sources: &BTreeSet<String>) {
    let Some(source) = policy.metrics.source.as_ref().filter(|source| !sources.contains(source.as_str())) else { return };
    let known: Vec<&str> = sources.iter().map(String::as_str).collect();
    report.fail(
        CheckedItem::of("source of", &policy.function()),
        format!("the collector has no source {source}, so the function is not measured; it has {}", known.join(", ")),
        "set `metrics.source` of the ScalingPolicy to one of them, or add the source to the collector's configuration",
    );
}

/// Checks that no source of the collector shows values that cannot be true.
pub async fn measurements(report: &mut Report, addresses: &Addresses) {
    const CHECK: &str = "measurements";
    let Some(address) = addresses.health.get(COLLECTOR) else { return };
    // A collector that does not answer is reported with the services.
    let Ok((_, metrics)) = http::get(address, "/metrics", ANSWER_WITHIN).await else { return };
    let dropped = dropped_values(&metrics);
    if dropped.is_empty() {
        report.pass(CHECK, "no value that cannot be true");
    }
    for (source, metrics) in dropped {
        let counts: Vec<String> = metrics.iter().map(|(metric, count)| format!("{count} of {metric}")).collect();
        report.warn(
            format!("{CHECK} of {source}"),
            format!("values that cannot be true were dropped: {}", counts.join(", ")),
            "see the first value of each in the collector's log, and repair what exposes it; a dropped value counts as not measured",
        );
    }
}

/// Numbers of dropped values in the collector's metrics, by source and metric.
fn dropped_values(metrics: &str) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut dropped: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for line in metrics.lines() {
        let Some((labels, count)) = line.strip_prefix("qscale_collector_dropped_values_total{").and_then(|rest| rest.split_once("} "))
        else {
            continue;
        };
        let label = |name: &str| labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'));
        if let (Some(source), Some(metric), Ok(count @ 1..)) = (label("source"), label("metric"), count.trim().parse()) {
            dropped.entry(source.to_owned()).or_default().insert(metric.to_owned(), count);
        }
    }
    dropped
}

/// Checks that the platform answers, can limit CPU and memory, and its functions have replicas.
pub async fn platform(report: &mut Report, client: anyhow::Result<PlatformClient>) -> Option<Vec<FunctionStatus>> {
    const CHECK: &str = "platform";
    let listed = match &client {
        Ok(client) => client.list().await.map(|functions| (functions, client.address())).map_err(|error| format!("{error:#}")),
        Err(error) => Err(format!("{error:#}")),
    };
    let (functions, address) = match listed {
        Ok(listed) => listed,
        Err(error) => {
            report.fail(CHECK, error, "start the system with `qscale up`, or specify its platform with --platform");
            return None;
        }
    };
    report.pass(CHECK, format!("answers at {address}"));
    if functions.iter().any(|function| !function.vertical) {
        let fix = "run as root or in a delegated cgroup (systemd-run --user --scope -p Delegate=yes) so that cgroups are writable";
        report.warn("vertical scaling", "unavailable: only the number of replicas has an effect", fix);
    } else if !functions.is_empty() {
        report.pass("vertical scaling", "available");
    }
    if let Ok(client) = &client {
        isolation(report, client).await;
    }
    for function in &functions {
        replicas(report, function);
    }
    Some(functions)
}

/// Checks the isolation of functions, and the highest fencing token.
async fn isolation(report: &mut Report, client: &PlatformClient) {
    let status = match client.status().await {
        Ok(status) => status,
        Err(error) => return report.fail("platform", format!("{error:#}"), "run platform and command of the same version"),
    };
    if status.highest_lease > MAX_LEASE {
        let found = format!("highest fencing token {}, above that of any actuator: all are refused", status.highest_lease);
        report.fail("fencing token", found, "qscale platform reset-lease");
    }
    let Some(isolation) = status.isolation else { return };
    if isolation.missing.is_empty() {
        report.pass("isolation of functions", format!("complete; {}", isolation.user));
    }
    for gap in isolation.missing {
        report.warn("isolation of functions", gap.found, gap.remedy);
    }
}

fn replicas(report: &mut Report, function: &FunctionStatus) {
    let check = CheckedItem::of("function", &function.id());
    let (ready, desired) = (function.actual.ready, function.desired.replicas.0);
    let failures = format!("{ready} of {desired} replicas ready, {} crashes, {} OOM kills", function.crashes, function.oom_kills);
    match ready {
        0 if desired > 0 => report.fail(check, failures, format!("see `qscale function logs {}`", function.id())),
        _ if function.crashes + function.oom_kills > 0 => {
            report.warn(check, failures, format!("see `qscale function logs {}`", function.id()))
        }
        _ => report.pass(check, format!("{ready} of {desired} replicas ready")),
    }
}

/// Checks that ScalingPolicies are valid and have a function and one of the `sources` and, if the streams are `written` and so show it, fresh States and a
/// deciding agent.
pub async fn policies(
    report: &mut Report,
    bus: &Bus,
    trust: &TrustConfig,
    functions: Option<&[FunctionStatus]>,
    sources: Option<&BTreeSet<String>>,
    written: bool,
) {
    let policies = match kv::policies(bus, trust).await {
        Ok(policies) => policies,
        Err(error) => return report.fail("policies", format!("{error:#}"), "run `qscale up`, which creates the bucket"),
    };
    if policies.is_empty() {
        report.warn("policies", "none, so nothing is scaled", "qscale policy example > policy.yaml; qscale policy apply policy.yaml");
    }
    let known: Option<BTreeSet<FunctionId>> = functions.map(|functions| functions.iter().map(FunctionStatus::id).collect());
    let mut scaled = BTreeSet::new();
    let superseded = policy::superseded(policies.values().filter_map(|policy| policy.as_ref().ok()));
    for (key, policy) in &policies {
        match policy {
            Ok(policy) if let Some(acting) = superseded.get(&policy.function()) => report.fail(
                CheckedItem::of("policy", &policy.function()),
                format!("does not act: policy {acting} scales the same workload, {}", workload(policy)),
                format!("qscale policy delete {}", policy.function()),
            ),
            Ok(policy) => {
                scaled.insert(workload(policy));
                if let Some(sources) = sources {
                    source(report, policy, sources);
                }
                if examine(report, policy, known.as_ref()) && written {
                    decisions(report, bus, policy).await;
                }
            }
            Err(error) => {
                let name = key.replacen('.', "/", 1);
                report.fail(
                    format!("policy {name}"),
                    format!("refused: {error}"),
                    format!("apply it again, or `qscale policy delete {name}`"),
                );
            }
        }
    }
    for function in known.iter().flatten().filter(|function| !scaled.contains(*function)) {
        report.warn(
            CheckedItem::of("function", function),
            "has no ScalingPolicy, so it is not scaled",
            "qscale policy example > policy.yaml; qscale policy apply policy.yaml",
        );
    }
}

/// Checks that agents accept the models in use, if `trust` requires signatures.
pub async fn models(report: &mut Report, bus: &Bus, trust: &TrustConfig) {
    if !trust.is_required() {
        return;
    }
    let models = async { ModelStore::open(bus).await?.all().await };
    let models = match models.await {
        Ok(models) => models,
        Err(error) => return report.fail("models", format!("{error:#}"), "run `qscale up`, which creates the store"),
    };
    let reader = ModelReader::new(bus, trust);
    for (name, in_use) in models.into_iter().filter_map(|(name, model)| Some((name, model.in_use?))) {
        let version = in_use.version;
        let check = format!("model {name}@{version}");
        match reader.read(&name, version, MAX_BYTES).await {
            Ok(_) => report.pass(check, "in use, its signature is trusted"),
            Err(error) => report.fail(
                check,
                format!("in use, but agents refuse it: {error}"),
                format!("qscale model pull {name}@{version} FILE; qscale model push {name} FILE --use"),
            ),
        }
    }
}

fn workload(policy: &ScalingPolicy) -> FunctionId {
    FunctionId::new(policy.namespace.clone(), policy.workload_name().clone())
}

/// Whether the function of `policy` can be scaled.
fn examine(report: &mut Report, policy: &ScalingPolicy, known: Option<&BTreeSet<FunctionId>>) -> bool {
    let function = policy.function();
    let check = CheckedItem::of("policy", &function);
    let workload = workload(policy);
    if policy.workload.kind == WorkloadKind::Local && known.is_some_and(|known| !known.contains(&workload)) {
        report.fail(
            check,
            format!("the platform has no function {workload}"),
            format!("qscale function add FILE, or qscale policy delete {function}"),
        );
        return false;
    }
    match policy.mode {
        _ if policy.paused => report.warn(check, "paused: decisions are not applied", format!("qscale policy set {function} paused=false")),
        Mode::Active => report.pass(check, format!("active, agent {}", policy.agent)),
        Mode::Observe | Mode::Recommend => {
            report.warn(check, "decisions are recorded but not applied", format!("qscale policy set {function} mode=active"));
        }
    }
    true
}

/// Checks for a fresh State, a deciding agent and applied decisions.
async fn decisions(report: &mut Report, bus: &Bus, policy: &ScalingPolicy) {
    let now = clock::now();
    if measured(report, bus, policy, now).await {
        decided(report, bus, policy, now).await;
    }
    applied(report, bus, &policy.function()).await;
}

/// Checks for a fresh State, without which no agent can decide.
async fn measured(report: &mut Report, bus: &Bus, policy: &ScalingPolicy, now: Timestamp) -> bool {
    const FIX: &str = "check the collector: its log, its sources, and that it reaches the platform's metrics";
    let function = policy.function();
    let check = CheckedItem::of("state of", &function);
    let subject = subject::of(EventType::State, &function);
    let message = match bus.last_message(EventType::State, &subject).await {
        Ok(Some(last)) => last,
        Ok(None) => {
            report.fail(check, "never published", FIX);
            return false;
        }
        Err(error) => {
            report.fail(check, format!("{error:#}"), "run `qscale up`, which creates the stream");
            return false;
        }
    };
    let age = now.since(message.at);
    if age > policy.tick.duration() * SILENT_TICKS {
        report.fail(check, format!("the last one is {} old, the tick is {}", text::age(age), text::age(policy.tick.duration())), FIX);
        return false;
    }
    match contract::decode::<State>(&subject, &message.payload) {
        Ok(state) => match state.age.oldest() {
            Some(oldest) if oldest <= policy.max_age() => report.pass(check, format!("{} old", text::age(age))),
            Some(oldest) => {
                report.warn(check, format!("contains a measurement that is {} old; scaling down is refused", text::age(oldest)), FIX)
            }
            None => report.warn(check, "lacks a kind of measurement; scaling down is refused", FIX),
        },
        Err(error) => report.fail(check, format!("unreadable: {error}"), "run collector and command of the same version"),
    }
    true
}

/// Checks that the agent of the ScalingPolicy decides.
async fn decided(report: &mut Report, bus: &Bus, policy: &ScalingPolicy, now: Timestamp) {
    let (function, agent) = (policy.function(), &policy.agent);
    let check = CheckedItem::of(format!("agent {agent} for"), &function);
    let fix =
        format!("start it (`qscale agent add {agent}` creates its credential), or select another: qscale policy set {function} agent=NAME");
    match bus.last_message(EventType::Action, &subject::action(agent, &function)).await {
        Ok(Some(last)) => {
            let age = now.since(last.at);
            let timeout = policy.tick.duration() * policy.fallback.after_ticks.get().saturating_add(1);
            if age <= timeout {
                report.pass(check, format!("decided {} ago", text::age(age)));
            } else {
                report.fail(check, format!("silent for {}; the fallback decides", text::age(age)), fix);
            }
        }
        Ok(None) => report.fail(check, "never decided; the fallback decides", fix),
        Err(error) => report.fail(check, format!("{error:#}"), "run `qscale up`, which creates the stream"),
    }
}

/// Checks that the platform applies decisions.
async fn applied(report: &mut Report, bus: &Bus, function: &FunctionId) {
    let subject = subject::of(EventType::Outcome, function);
    // An unreadable stream is reported elsewhere, and a function without decisions has no Outcome.
    let Ok(Some(message)) = bus.last_message(EventType::Outcome, &subject).await else { return };
    match contract::decode::<Outcome>(&subject, &message.payload) {
        Ok(outcome) if outcome.effect == Effect::Failed => {
            report.fail(
                CheckedItem::of("outcome of", function),
                format!("the last change failed: {}", outcome.reason),
                "see the logs of actuator and platform",
            );
        }
        _ => {}
    }
}

/// Checks leases and freezes.
pub async fn control(report: &mut Report, bus: &Bus) {
    if let Err(error) = lease(report, bus).await {
        report.fail("lease", format!("{error:#}"), "run `qscale up`, which creates the bucket");
    }
    let controls = match kv::controls(bus).await {
        Ok(controls) => controls,
        Err(error) => return report.fail("freezes", format!("{error:#}"), "run `qscale up`, which creates the bucket"),
    };
    let before = report.findings().len();
    for (key, value) in &controls {
        let (what, argument) = match key.as_str() {
            control::ALL => ("all functions".to_owned(), "--all".to_owned()),
            _ => (key.replacen('.', "/", 1), key.replacen('.', "/", 1)),
        };
        let fix = format!("qscale unfreeze {argument}");
        if value.malformed {
            report.fail("freeze", format!("{what}: frozen{}", value.provenance()), fix);
        } else if value.frozen {
            report.warn("freeze", format!("{what}: frozen{}", value.provenance()), fix);
        }
    }
    if report.findings().len() == before {
        report.pass("freezes", "none");
    }
}

async fn lease(report: &mut Report, bus: &Bus) -> anyhow::Result<()> {
    const FIX: &str = "start a service that takes it; `qscale up` runs them all";
    let bucket = kv::open(bus, subject::LEASE_BUCKET).await?;
    let leases = kv::all(&bucket).await?;
    if !leases.keys().any(|key| key.starts_with(ACTUATOR)) {
        report.fail("lease", "never acquired by an actuator, so nothing is applied", FIX);
    }
    for (key, value) in leases {
        let check = format!("lease {key}");
        let holder = serde_json::from_slice::<Lease>(&value).map(|lease| lease.holder).unwrap_or_default();
        let renewed =
            bucket.entry(&key).await?.map(|entry| Timestamp(u64::try_from(entry.created.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)));
        let age = renewed.map_or(Duration::MAX, |renewed| clock::wall().since(renewed));
        match holder.as_str() {
            "" => report.fail(check, "released and not held", FIX),
            _ if age > LEASE_DEAD_AFTER => {
                report.fail(check, format!("held by {holder}, not renewed for {}", text::age(age)), FIX);
            }
            _ => report.pass(check, format!("held by {holder}, renewed {} ago", text::age(age))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_the_collector_does_not_have_is_a_failure() {
        let id = |text| qscale_common::name::Name::new(text).expect("a DNS label");
        let mut policy = ScalingPolicy::new(FunctionId::new(id("default"), id("fib")));
        let sources = BTreeSet::from(["cadvisor".to_owned(), "local".to_owned()]);
        for (named, found) in [
            (None, None),
            (Some("local"), None),
            (Some("typo"), Some("the collector has no source typo, so the function is not measured; it has cadvisor, local")),
        ] {
            policy.metrics.source = named.map(id);
            let mut report = Report::default();
            source(&mut report, &policy, &sources);
            assert_eq!(report.findings().first().map(|finding| finding.found.as_str()), found);
        }
    }

    #[test]
    fn dropped_values_are_found_by_source_and_metric() {
        let metrics = "# TYPE qscale_collector_dropped_values counter\n\
            qscale_collector_dropped_values_total{source=\"local\",metric=\"working_set\"} 12\n\
            qscale_collector_dropped_values_total{metric=\"ready\",source=\"local\"} 3\n\
            qscale_collector_dropped_values_total{source=\"cadvisor\",metric=\"ready\"} 0\n\
            qscale_collector_samples_total{source=\"cadvisor\"} 9\n# EOF\n";
        let expected = BTreeMap::from([("working_set".to_owned(), 12), ("ready".to_owned(), 3)]);
        assert_eq!(dropped_values(metrics), BTreeMap::from([("local".to_owned(), expected)]));
        assert_eq!(dropped_values(""), BTreeMap::new());
    }
}
