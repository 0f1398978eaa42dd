//! The loop itself: services, functions, policies, States, agents, the lease, freezes. Owns what counts as silent or stale.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use qscale_common::contract::{self, Effect, EventType, Outcome, State, subject};
use qscale_common::control;
use qscale_common::name::FunctionId;
use qscale_common::platform::FunctionStatus;
use qscale_common::policy::{Mode, ScalingPolicy, WorkloadKind};
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::clock;
use qscale_common::time::Timestamp;
use serde::Deserialize;

use super::report::Report;
use crate::operate;
use crate::show;
use crate::store;
use crate::system::{self, Addresses, Locate, StateDir};

/// After so many ticks without a State, or without an Action where the policy does not say, somebody is silent.
const SILENT_TICKS: u32 = 3;
/// A leader renews its lease every few seconds; after this time nobody leads.
const LEASE_DEAD_AFTER: Duration = Duration::from_secs(60);

/// Whether every service says that it is ready.
pub async fn services(report: &mut Report, addresses: &Addresses, state: &StateDir) {
    let asked = addresses.health.iter().map(async |(service, address)| (service, address, system::conditions(address).await));
    for (service, address, conditions) in join_all(asked).await {
        let log = state.log(service);
        let see = format!("see {}; `qscale up` starts a service that ended again", log.display());
        let check = format!("service {service}");
        match conditions {
            None => report.wrong(check, format!("does not answer at {address}"), see),
            Some(conditions) => {
                let failing: Vec<&str> = conditions.iter().filter(|(_, holds)| !**holds).map(|(name, _)| name.as_str()).collect();
                if failing.is_empty() {
                    report.good(check, format!("ready at {address}"));
                } else {
                    report.wrong(check, format!("not ready: {}", failing.join(", ")), see);
                }
            }
        }
    }
}

/// Whether the platform answers, limits CPU and memory, and its functions have replicas.
pub async fn platform(report: &mut Report, locate: &Locate) -> Option<Vec<FunctionStatus>> {
    const CHECK: &str = "platform";
    let functions = match locate.platform() {
        Ok(platform) => platform.list().await.map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    let functions = match functions {
        Ok(functions) => functions,
        Err(error) => {
            report.wrong(CHECK, format!("{error:#}"), "start the system with `qscale up`, or name its platform with --platform");
            return None;
        }
    };
    report
        .good(CHECK, format!("answers at {}", locate.platform().map_or_else(|_| String::new(), |platform| platform.address().to_owned())));
    if functions.iter().any(|function| !function.vertical) {
        let mend = "run as root or in a delegated cgroup (systemd-run --user --scope -p Delegate=yes), so that cgroups can be written";
        report.notice("vertical scaling", "not available: only the number of replicas has an effect", mend);
    } else if !functions.is_empty() {
        report.good("vertical scaling", "available");
    }
    for function in &functions {
        replicas(report, function);
    }
    Some(functions)
}

fn replicas(report: &mut Report, function: &FunctionStatus) {
    let check = format!("function {}", function.id());
    let (ready, desired) = (function.actual.ready, function.desired.replicas.0);
    let troubles = format!("{ready} of {desired} replicas ready, {} crashes, {} kills for memory", function.crashes, function.oom_kills);
    match ready {
        0 if desired > 0 => report.wrong(check, troubles, format!("see `qscale function logs {}`", function.id())),
        _ if function.crashes + function.oom_kills > 0 => {
            report.notice(check, troubles, format!("see `qscale function logs {}`", function.id()))
        }
        _ => report.good(check, format!("{ready} of {desired} replicas ready")),
    }
}

/// Whether policies can be read, belong to functions, and somebody measures and decides for them.
pub async fn policies(report: &mut Report, bus: &Bus, functions: Option<&[FunctionStatus]>) {
    let policies = match store::policies(bus).await {
        Ok(policies) => policies,
        Err(error) => return report.wrong("policies", format!("{error:#}"), "run `qscale up`, which makes the bucket"),
    };
    if policies.is_empty() {
        report.notice(
            "policies",
            "there are none, so nothing is scaled",
            "write one: qscale policy example > policy.yaml; qscale policy apply policy.yaml",
        );
    }
    let known: Option<BTreeSet<FunctionId>> = functions.map(|functions| functions.iter().map(FunctionStatus::id).collect());
    let mut scaled = BTreeSet::new();
    for (key, policy) in &policies {
        match policy {
            Ok(policy) => {
                scaled.insert(workload(policy));
                examine(report, bus, policy, known.as_ref()).await;
            }
            Err(error) => {
                let name = key.replacen('.', "/", 1);
                report.wrong(
                    format!("policy {name}"),
                    format!("cannot be read: {error}"),
                    format!("apply it anew, or `qscale policy delete {name}`"),
                );
            }
        }
    }
    for function in known.iter().flatten().filter(|function| !scaled.contains(*function)) {
        report.notice(
            format!("function {function}"),
            "has no policy, so nothing scales it",
            "write one: qscale policy example; qscale policy apply FILE",
        );
    }
}

fn workload(policy: &ScalingPolicy) -> FunctionId {
    FunctionId::new(policy.namespace.clone(), policy.workload_name().clone())
}

async fn examine(report: &mut Report, bus: &Bus, policy: &ScalingPolicy, known: Option<&BTreeSet<FunctionId>>) {
    let function = policy.function();
    let check = format!("policy {function}");
    let workload = workload(policy);
    if policy.workload.kind == WorkloadKind::Local && known.is_some_and(|known| !known.contains(&workload)) {
        return report.wrong(
            check,
            format!("the platform has no function {workload}"),
            format!("qscale function add FILE, or qscale policy delete {function}"),
        );
    }
    match policy.mode {
        _ if policy.paused => report.notice(&check, "paused: nothing is changed", format!("qscale policy set {function} paused=false")),
        Mode::Active => report.good(&check, format!("active, obeys {}", policy.agent)),
        Mode::Observe | Mode::Recommend => {
            report.notice(&check, "decisions are recorded and not applied", format!("qscale policy set {function} mode=active"));
        }
    }
    let now = clock::now();
    if measured(report, bus, policy, now).await {
        decided(report, bus, policy, now).await;
    }
    applied(report, bus, &function).await;
}

/// Whether a fresh State is there; without one no agent can answer.
async fn measured(report: &mut Report, bus: &Bus, policy: &ScalingPolicy, now: Timestamp) -> bool {
    const MEND: &str = "see to the collector: its log, its sources, and that it reaches the platform's metrics";
    let function = policy.function();
    let check = format!("state of {function}");
    let subject = subject::of(EventType::State, &function);
    let (at, message) = match store::last(bus, subject::LIVE_STREAM, &subject).await {
        Ok(Some(last)) => last,
        Ok(None) => {
            report.wrong(check, "none was ever published", MEND);
            return false;
        }
        Err(error) => {
            report.wrong(check, format!("{error:#}"), "run `qscale up`, which makes the stream");
            return false;
        }
    };
    let age = now.since(at);
    if age > policy.tick.duration() * SILENT_TICKS {
        report.wrong(check, format!("the last one is {} old, a tick is {}", show::age(age), show::age(policy.tick.duration())), MEND);
        return false;
    }
    match contract::decode::<State>(&subject, &message.payload) {
        Ok(state) => match state.age.oldest() {
            Some(oldest) if oldest <= policy.max_age() => report.good(check, format!("{} old", show::age(age))),
            Some(oldest) => {
                report.notice(check, format!("a measurement in it is {} old; scaling down is refused", show::age(oldest)), MEND)
            }
            None => report.notice(check, "a kind of measurement was never taken; scaling down is refused", MEND),
        },
        Err(error) => report.wrong(check, format!("cannot be read: {error}"), "run collector and command of the same version"),
    }
    true
}

/// Whether the agent that the policy names answers.
async fn decided(report: &mut Report, bus: &Bus, policy: &ScalingPolicy, now: Timestamp) {
    let (function, agent) = (policy.function(), &policy.agent);
    let check = format!("agent {agent} for {function}");
    let mend =
        format!("start it (`qscale agent add {agent}` gives it a credential), or name another: qscale policy set {function} agent=NAME");
    match store::last(bus, subject::RECORD_STREAM, &subject::action(agent, &function)).await {
        Ok(Some((at, _))) => {
            let age = now.since(at);
            let patience = policy.tick.duration() * policy.fallback.after_ticks.get().saturating_add(1);
            if age <= patience {
                report.good(check, format!("answered {} ago", show::age(age)));
            } else {
                report.wrong(check, format!("silent for {}; the fallback acts", show::age(age)), mend);
            }
        }
        Ok(None) => report.wrong(check, "never answered; the fallback acts", mend),
        Err(error) => report.wrong(check, format!("{error:#}"), "run `qscale up`, which makes the stream"),
    }
}

/// Whether the platform takes what is decided.
async fn applied(report: &mut Report, bus: &Bus, function: &FunctionId) {
    let subject = subject::of(EventType::Outcome, function);
    // A stream that cannot be read was reported already, and a function of which nothing was decided has no Outcome.
    let Ok(Some((_, message))) = store::last(bus, subject::RECORD_STREAM, &subject).await else { return };
    match contract::decode::<Outcome>(&subject, &message.payload) {
        Ok(outcome) if outcome.effect == Effect::Failed => {
            report.wrong(
                format!("outcome of {function}"),
                format!("the last change failed: {}", outcome.reason),
                "see the logs of actuator and platform",
            );
        }
        _ => {}
    }
}

/// Who leads, and what is frozen.
pub async fn control(report: &mut Report, bus: &Bus) {
    if let Err(error) = lease(report, bus).await {
        report.wrong("lease", format!("{error:#}"), "run `qscale up`, which makes the bucket");
    }
    let controls = match store::controls(bus).await {
        Ok(controls) => controls,
        Err(error) => return report.wrong("freezes", format!("{error:#}"), "run `qscale up`, which makes the bucket"),
    };
    let before = report.findings().len();
    for (key, value) in &controls {
        let (what, argument) = match key.as_str() {
            control::ALL => ("everything".to_owned(), "--all".to_owned()),
            _ => (key.replacen('.', "/", 1), key.replacen('.', "/", 1)),
        };
        match value {
            Ok(value) if value.frozen => {
                report.notice("freeze", format!("{what} is frozen{}", operate::whence(value)), format!("qscale unfreeze {argument}"))
            }
            Ok(_) => {}
            Err(error) => {
                report.wrong("freeze", format!("what was asked for {what} cannot be read: {error}"), format!("qscale unfreeze {argument}"))
            }
        }
    }
    if report.findings().len() == before {
        report.good("freezes", "none");
    }
}

/// What is read of a lease.
#[derive(Debug, Deserialize)]
struct Lease {
    #[serde(default)]
    holder: String,
}

async fn lease(report: &mut Report, bus: &Bus) -> anyhow::Result<()> {
    const MEND: &str = "start an actuator; `qscale up` runs one";
    let bucket = store::open(bus, subject::LEASE_BUCKET).await?;
    let mut held = false;
    for (key, value) in store::all(&bucket).await? {
        let check = format!("lease {key}");
        let holder = serde_json::from_slice::<Lease>(&value).map(|lease| lease.holder).unwrap_or_default();
        let renewed =
            bucket.entry(&key).await?.map(|entry| Timestamp(u64::try_from(entry.created.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)));
        let age = renewed.map_or(Duration::MAX, |renewed| clock::wall().since(renewed));
        held = true;
        match holder.as_str() {
            "" => report.wrong(check, "nobody holds it: the last holder gave it back", MEND),
            _ if age > LEASE_DEAD_AFTER => {
                report.wrong(check, format!("held by {holder}, which has not renewed it for {}", show::age(age)), MEND)
            }
            _ => report.good(check, format!("held by {holder}, renewed {} ago", show::age(age))),
        }
    }
    if !held {
        report.wrong("lease", "no actuator ever took it, so nothing is applied", MEND);
    }
    Ok(())
}
