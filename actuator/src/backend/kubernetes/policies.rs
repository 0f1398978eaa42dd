//! ScalingPolicy objects of a cluster: their policies go to the bucket that the services read; what is measured and decided goes to their status and to
//! events. Owns the watch of the objects and what is written about them; must not change workloads. Only the leading actuator writes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::PoisonError;
use std::time::Duration;

use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, FuturesUnordered};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::events::{Event, Recorder, Reporter};
use kube::runtime::watcher;
use kube::{Api, Client, Resource as _};
use qscale_common::contract::{DecisionSource, Message as _, Outcome, State};
use qscale_common::control;
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::{OnDelete, ScalingPolicy, WorkloadKind};
use qscale_common::runtime::author::Author;
use qscale_common::runtime::clock;
use qscale_common::runtime::kubernetes::apis;
use qscale_common::runtime::kv::Edited;
use qscale_common::runtime::lease::LeaderStatus;
use qscale_common::runtime::nats_accounts::User;
use qscale_common::runtime::policies;
use qscale_common::time::Timestamp;

use super::KubernetesBackendConfig;
use super::cluster::{FIELD_MANAGER, SharedView, connect};
use super::finalizer::{self, Release, Step};
use super::knative;
use super::reports::{self, PolicyReport, WrittenReport};
use super::resource::{PolicyObject, PolicyStatus};
use super::status::{self, Facts, Unused};
use crate::backend::{LoopAccess, LoopReport, WorkloadId};

/// Interval at which changes are written.
const STEP: Duration = Duration::from_secs(1);
/// Interval at which a status is written of which only the measurements changed.
const MEASURED_INTERVAL: Duration = Duration::from_secs(60);
/// Shortest interval between two events of one policy with the same reason.
const EVENT_INTERVAL: Duration = Duration::from_secs(10);
/// Reports that are written at the same time, and that are begun in one step: what a default API server serves beside its other clients.
const WRITES: usize = 50;
/// Objects that are looked at in each step even if nothing was learned about them.
const LOOKED_AT: usize = 500;
/// Steps in which all objects are looked at, however many there are.
const MAX_PARTS: usize = 10;
/// Failed writes of policies in one step, after which the others wait for the next one.
const MAX_FAILURES: u32 = 3;
/// Pause before another attempt to connect.
const CONNECT_DELAY: Duration = Duration::from_secs(5);

type Events = BoxStream<'static, (usize, Result<watcher::Event<PolicyObject>, watcher::Error>)>;

/// Follows the objects until the control loop ends.
pub(super) async fn run(config: KubernetesBackendConfig, view: SharedView, mut access: LoopAccess) {
    let token = access.token.clone();
    let Some(client) = token.run_until_cancelled(connected(&config)).await else { return };
    let mut events = watch(&client, &config.namespaces);
    let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: Some(access.instance.clone()) };
    let mut policies = Policies {
        author: Author::new(&access.bus, User::Actuator, FIELD_MANAGER),
        recorder: Recorder::new(client.clone(), reporter),
        client,
        listings: config.namespaces.iter().map(|namespace| Listing::of(Some(namespace.clone()))).collect(),
        entries: BTreeMap::new(),
        view,
        writes: FuturesUnordered::new(),
        step: 0,
        failed: None,
    };
    if policies.listings.is_empty() {
        policies.listings.push(Listing::of(None));
    }
    let mut timer = clock::interval(STEP);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            Some((listing, event)) = events.next() => policies.on_watch(listing, event),
            Some(report) = access.reports.recv() => policies.on_report(report),
            Some(written) = policies.writes.next() => policies.on_written(written),
            _ = timer.tick() => {
                if !matches!(access.lease.status(), LeaderStatus::Leading { .. }) {
                    // Another actuator writes.
                    policies.writes.clear();
                    policies.entries.values_mut().for_each(|entry| (entry.release, entry.writing, entry.changed) = (None, false, true));
                } else if token.run_until_cancelled(policies.write(&access)).await.is_none() {
                    return;
                }
            }
        }
    }
}

async fn connected(config: &KubernetesBackendConfig) -> Client {
    loop {
        match connect(config).await {
            Ok(client) => return client,
            Err(error) => tracing::warn!(error = format!("{error:#}"), "no connection to Kubernetes; trying again"),
        }
        tokio::time::sleep(CONNECT_DELAY).await;
    }
}

fn watch(client: &Client, namespaces: &[Name]) -> stream::SelectAll<Events> {
    let events = |(listing, api)| watcher(api, watcher::Config::default()).default_backoff().map(move |event| (listing, event)).boxed();
    stream::select_all(apis::<PolicyObject>(client, namespaces).into_iter().enumerate().map(events))
}

/// Objects of a namespace, or of all.
struct Listing {
    namespace: Option<Name>,
    /// Objects of the list that is being read.
    seen: BTreeSet<FunctionId>,
    /// Whether a list was read completely.
    complete: bool,
}

impl Listing {
    fn of(namespace: Option<Name>) -> Self {
        Self { namespace, seen: BTreeSet::new(), complete: false }
    }

    fn covers(&self, function: &FunctionId) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == function.namespace)
    }
}

/// One object.
struct PolicyEntry {
    object: PolicyObject,
    /// The policy that is in use: that of the object, or the last valid one of an object that became invalid.
    policy: Option<ScalingPolicy>,
    unused: Option<Unused>,
    state: Option<(State, Timestamp)>,
    decision: Option<Outcome>,
    written: PolicyStatus,
    written_at: Timestamp,
    events: VecDeque<Outcome>,
    /// Restore of the workload before the object is released.
    release: Option<Release>,
    /// Time of the last event by reason.
    reported: HashMap<&'static str, Timestamp>,
    /// Whether something was learned since its status was last compared with what was written.
    changed: bool,
    /// Whether its status or events are being written.
    writing: bool,
}

impl PolicyEntry {
    fn new(object: PolicyObject) -> Self {
        let mut entry = Self {
            written: object.status.clone().unwrap_or_default(),
            object,
            policy: None,
            unused: None,
            state: None,
            decision: None,
            written_at: Timestamp(0),
            events: VecDeque::new(),
            release: None,
            reported: HashMap::new(),
            changed: true,
            writing: false,
        };
        entry.read();
        entry
    }

    fn update(&mut self, object: PolicyObject) {
        let same = object.metadata.generation == self.object.metadata.generation && object.metadata.uid == self.object.metadata.uid;
        if object.metadata.uid != self.object.metadata.uid {
            self.release = None;
        }
        // Another leader may have written it.
        self.written = object.status.clone().unwrap_or_default();
        self.object = object;
        self.changed = true;
        if !same {
            self.read();
        }
    }

    fn read(&mut self) {
        match self.object.policy() {
            Ok(policy) => (self.policy, self.unused) = (Some(policy), None),
            Err(error) => self.unused = Some(Unused::Invalid(error)),
        }
        if self.is_deleted() {
            self.unused = Some(Unused::Deleted);
        }
    }

    /// Whether the oldest Outcome without an event has one now: the last event with its reason was not written a moment ago.
    fn has_event(&self, now: Timestamp) -> bool {
        let Some((_, reason, _)) = self.events.back().and_then(status::event) else { return false };
        let recent = |last: &Timestamp| now.since(*last) < EVENT_INTERVAL && *last <= now;
        !self.reported.get(reason).is_some_and(recent)
    }

    fn take_events(&mut self, now: Timestamp) -> Vec<Event> {
        let mut taken = Vec::new();
        while self.has_event(now)
            && let Some((reason, event)) = self.events.pop_back().as_ref().and_then(reports::event)
        {
            self.reported.insert(reason, now);
            taken.push(event);
        }
        taken
    }

    fn on_delete(&self) -> Option<OnDelete> {
        self.policy.as_ref().map(|policy| policy.on_delete)
    }

    fn is_deleted(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }

    /// The workload that is scaled.
    fn workload(&self) -> Option<WorkloadId> {
        let policy = self.policy.as_ref()?;
        let name = FunctionId::new(policy.namespace.clone(), policy.workload_name().clone());
        Some(WorkloadId { kind: policy.workload.kind, name })
    }

    /// Older objects first.
    fn order(&self) -> (Option<String>, Option<&String>) {
        let created = self.object.metadata.creation_timestamp.as_ref();
        (created.map(|created| created.0.to_string()), self.object.metadata.name.as_ref())
    }
}

/// A report that could be written now.
struct DueReport {
    /// Whether only measurements changed.
    is_measured: bool,
    written_at: Timestamp,
    function: FunctionId,
    status: Option<PolicyStatus>,
    target: Option<ObjectReference>,
}

struct Policies {
    client: Client,
    recorder: Recorder,
    author: Author,
    listings: Vec<Listing>,
    entries: BTreeMap<FunctionId, PolicyEntry>,
    view: SharedView,
    /// Reports that are being written.
    writes: FuturesUnordered<BoxFuture<'static, WrittenReport>>,
    /// Number of steps so far.
    step: usize,
    /// The last error, so that each is logged once.
    failed: Option<String>,
}

impl Policies {
    fn on_watch(&mut self, listing: usize, event: Result<watcher::Event<PolicyObject>, watcher::Error>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => return self.report_failure(format!("failed to watch ScalingPolicy objects: {:#}", anyhow::Error::new(error))),
        };
        match event {
            watcher::Event::Init => self.listings[listing].seen.clear(),
            watcher::Event::InitApply(object) => {
                if let Some(function) = self.apply(object) {
                    self.listings[listing].seen.insert(function);
                }
            }
            watcher::Event::InitDone => {
                let listing = &mut self.listings[listing];
                listing.complete = true;
                self.entries.retain(|function, _| !listing.covers(function) || listing.seen.contains(function));
                self.failed = None;
            }
            watcher::Event::Apply(object) => drop(self.apply(object)),
            watcher::Event::Delete(object) => {
                if let Some(function) = object.function() {
                    self.entries.remove(&function);
                }
            }
        }
    }

    fn apply(&mut self, mut object: PolicyObject) -> Option<FunctionId> {
        let function = object.function()?;
        // A large part of it, and not needed.
        object.metadata.managed_fields = None;
        match self.entries.get_mut(&function) {
            Some(entry) => entry.update(object),
            None => drop(self.entries.insert(function.clone(), PolicyEntry::new(object))),
        }
        Some(function)
    }

    fn on_report(&mut self, report: LoopReport) {
        let function = match &report {
            LoopReport::State(state) => state.function(),
            LoopReport::Outcome(outcome) => outcome.function(),
            LoopReport::Released(function, _) => function.clone(),
        };
        let Some(entry) = self.entries.get_mut(&function) else { return };
        entry.changed = true;
        match report {
            LoopReport::Released(_, result) => {
                if let Some(release) = &mut entry.release {
                    release.result = Some(result);
                }
            }
            LoopReport::State(state) => entry.state = Some((*state, clock::now())),
            LoopReport::Outcome(outcome) if outcome.source == DecisionSource::Shadow => {}
            LoopReport::Outcome(outcome) => {
                if status::event(&outcome).is_some() {
                    // The last ones say most.
                    entry.events.truncate(3);
                    entry.events.push_front((*outcome).clone());
                }
                entry.decision = Some(*outcome);
            }
        }
    }

    fn report_failure(&mut self, error: String) {
        if self.failed.as_ref() != Some(&error) {
            tracing::warn!("{error}");
            self.failed = Some(error);
        }
    }

    /// Writes what has changed since the last step.
    async fn write(&mut self, access: &LoopAccess) {
        self.find_conflicts();
        // Finalizers first: a status that is written makes the last known revision of its object an old one. A failure of one does not prevent the others.
        let finalized = self.finalize(access).await;
        let mirrored = self.mirror(access).await;
        self.report(access);
        if let Err(error) = finalized.and(mirrored) {
            self.report_failure(format!("{error:#}"));
        }
    }

    /// Of several policies for one workload the oldest is used.
    fn find_conflicts(&mut self) {
        let mut oldest: HashMap<WorkloadId, &FunctionId> = HashMap::new();
        for (function, entry) in &self.entries {
            let Some(workload) = entry.workload() else { continue };
            let first = oldest.entry(workload).or_insert(function);
            if entry.order() < self.entries[*first].order() {
                *first = function;
            }
        }
        let mut conflicts = Vec::new();
        for (function, entry) in &self.entries {
            let other = entry.workload().and_then(|workload| oldest.get(&workload).copied()).filter(|other| *other != function);
            conflicts.push(other.map(|other| Unused::Conflict(other.name.to_string())));
        }
        for (entry, conflict) in self.entries.values_mut().zip(conflicts) {
            match conflict {
                _ if entry.is_deleted() => {}
                Some(conflict) => entry.unused = Some(conflict),
                // The object is read again: it may be invalid, too.
                None if matches!(entry.unused, Some(Unused::Conflict(_))) => {
                    entry.unused = None;
                    entry.read();
                }
                None => {}
            }
        }
    }

    /// Makes the mirrored policies of the bucket those of the objects.
    async fn mirror(&mut self, access: &LoopAccess) -> anyhow::Result<()> {
        // Without the bucket nothing is known to differ.
        let Some(bucket) = access.policies.borrow().clone() else { return Ok(()) };
        let (now, mut failures) = (clock::now(), 0);
        for (function, entry) in &mut self.entries {
            // Each failure may have taken a timeout, and the others would fail, too.
            anyhow::ensure!(failures < MAX_FAILURES, "failed to write policies; see the status of the ScalingPolicy objects");
            let unused = matches!(entry.unused, Some(Unused::Conflict(_) | Unused::Deleted));
            // Nothing is changed before the finalizer is there, or a deletion could come before it.
            let waits = finalizer::step(&entry.object.metadata, entry.on_delete(), None, now) == Step::Add;
            let Some(policy) = entry.policy.as_ref().filter(|_| !unused && !waits) else { continue };
            if bucket.get(&function.tokens()).is_some_and(|stored| **stored == *policy) {
                if matches!(entry.unused, Some(Unused::NotWritten(_))) {
                    entry.unused = None;
                }
                continue;
            }
            let author =
                self.author.clone().because(Some(format!("ScalingPolicy object {function}, generation {}", generation(&entry.object))));
            let error = match policies::edit(&author, function, |_| Ok(policy.clone()), now).await {
                Ok(edit) if edit.edited == Edited::Unchanged => Some("written, but not in use yet; objects have no signature".to_owned()),
                Ok(_) => None,
                Err(error) => {
                    failures += 1;
                    Some(format!("{error:#}"))
                }
            };
            if let Some(error) = error
                && !matches!(entry.unused, Some(Unused::Invalid(_)))
            {
                entry.unused = Some(Unused::NotWritten(error));
            }
        }
        if !self.listings.iter().all(|listing| listing.complete) {
            return Ok(());
        }
        for policy in bucket.values().filter(|policy| policy.mirrored && policy.workload.kind != WorkloadKind::Local) {
            let function = policy.function();
            let unused = |entry: &PolicyEntry| matches!(entry.unused, Some(Unused::Conflict(_) | Unused::Deleted));
            let used = self.entries.get(&function).is_some_and(|entry| !unused(entry));
            if !used && self.listings.iter().any(|listing| listing.covers(&function)) {
                let reason = "the ScalingPolicy object was deleted, or another one is for the same workload".to_owned();
                policies::delete(&self.author.clone().because(Some(reason)), &function, now).await?;
            }
        }
        Ok(())
    }

    /// Adds and removes finalizers, and requests the restores before a removal.
    async fn finalize(&mut self, access: &LoopAccess) -> anyhow::Result<()> {
        let now = clock::now();
        let Some(bucket) = access.policies.borrow().clone() else { return Ok(()) };
        let mut failed = None;
        for (function, entry) in &mut self.entries {
            let mut step = finalizer::step(&entry.object.metadata, entry.on_delete(), entry.release.as_ref(), now);
            // Also without an allocation to restore: `qscale restore` leaves the number of replicas fixed.
            if let Step::Release(result) = &mut step
                && let Some(workload) = entry.workload().filter(|workload| workload.kind == WorkloadKind::KnativeService)
                && let Err(error) = knative::release(&self.client, &workload).await
                && result.is_ok()
            {
                *result = Err(format!("its number of replicas stays fixed: {:#}", anyhow::Error::new(error)));
            }
            let written = match &step {
                Step::Nothing => continue,
                // No agent may act anymore, and pods that are created get the size of their template.
                Step::Restore if bucket.contains_key(&function.tokens()) || entry.written.pod_size.is_some() => continue,
                Step::Restore => {
                    entry.release.get_or_insert(Release { since: now, result: None });
                    // A request that finds no room is repeated in the next step.
                    let _full = access.releases.try_send(function.clone());
                    continue;
                }
                Step::Add | Step::Remove | Step::Release(_) => {
                    let patch = finalizer::patch(&entry.object.metadata, step == Step::Add);
                    let api: Api<PolicyObject> = Api::namespaced(self.client.clone(), function.namespace.as_str());
                    api.patch(function.name.as_str(), &PatchParams::default(), &Patch::Merge(patch)).await
                }
            };
            match written {
                Ok(object) => {
                    if let Step::Release(result) = &step {
                        let target = entry.policy.as_ref().map_or_else(|| function.to_string(), status::target);
                        let event = finalizer::event(result, &target);
                        tracing::info!(%function, target, ?result, "policy object deleted");
                        // A namespace that is being deleted takes no events.
                        let _refused = self.recorder.publish(&event, &entry.object.object_ref(&())).await;
                    }
                    entry.update(object);
                }
                // It has changed since it was read, or is gone: the watch shows it.
                Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409) => {}
                Err(error) => {
                    let error = anyhow::Error::new(error).context(format!("failed to write the finalizer of {function}"));
                    if entry.unused.is_none() {
                        entry.unused = Some(Unused::NotWritten(format!("{error:#}")));
                    }
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Starts to write statuses and events: first those whose conditions or allocation changed, then those that were not written for the longest time.
    fn report(&mut self, access: &LoopAccess) {
        let now = clock::now();
        let controls = access.controls.borrow().clone();
        self.step = self.step.wrapping_add(1);
        // What changes by itself, such as the age of measurements, is looked at in every step, or less often of many objects.
        let parts = (self.entries.len() / LOOKED_AT).clamp(1, MAX_PARTS);
        let view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        for (number, (function, entry)) in self.entries.iter_mut().enumerate() {
            if entry.writing || !(entry.changed || number % parts == self.step % parts) {
                continue;
            }
            entry.changed = false;
            let workload = entry.workload();
            let seen = workload.as_ref().and_then(|workload| view.workloads.get(workload));
            let facts = Facts {
                generation: entry.object.metadata.generation,
                policy: match (&entry.unused, &entry.policy) {
                    (Some(unused), _) => Err(unused),
                    (None, Some(policy)) => Ok(policy),
                    (None, None) => continue,
                },
                workload: seen.map(|seen| &seen.status),
                pod_size: seen.and_then(|seen| seen.pod_size.as_ref()),
                platform_read: view.read,
                rival: workload.as_ref().and_then(|workload| view.rivals.get(workload)).map(String::as_str),
                frozen: controls.as_ref().is_none_or(|controls| control::is_frozen(controls, function)),
                pending_resize: seen.and_then(|seen| seen.pending_resize.as_ref()),
                pending_replicas: seen.and_then(|seen| seen.pending_replicas.as_ref()),
                state: entry.state.as_ref().map(|(state, arrived)| (state, *arrived)),
                decision: entry.decision.as_ref(),
            };
            let status = status::status(&facts, &entry.written, now);
            let differs = status::differ(&status, &entry.written);
            let is_old = status != entry.written && now.since(entry.written_at) >= MEASURED_INTERVAL;
            let target = workload.as_ref().zip(seen).map(|(id, seen)| reports::reference(id, seen.uid.clone()));
            if differs || is_old || entry.has_event(now) {
                let status = (differs || is_old).then_some(status);
                due.push(DueReport { is_measured: !differs, written_at: entry.written_at, function: function.clone(), status, target });
            }
        }
        drop(view);
        due.sort_by_key(|report| (report.is_measured, report.written_at));
        let room = WRITES.saturating_sub(self.writes.len());
        for (place, DueReport { function, status, target, .. }) in due.into_iter().enumerate() {
            let Some(entry) = self.entries.get_mut(&function) else { continue };
            if place >= room {
                entry.changed = true;
                continue;
            }
            entry.writing = true;
            let events = entry.take_events(now);
            let about = std::iter::once(entry.object.object_ref(&())).chain(target).collect();
            let report = PolicyReport { function, status, events, about };
            self.writes.push(report.write(self.client.clone(), self.recorder.clone()).boxed());
        }
    }

    /// Remembers what was written.
    fn on_written(&mut self, written: WrittenReport) {
        if let Some(entry) = self.entries.get_mut(&written.function) {
            entry.writing = false;
            entry.changed |= written.result.is_err();
            if let Some(status) = written.status {
                (entry.written, entry.written_at) = (status, clock::now());
            }
        }
        if let Err(error) = written.result {
            self.report_failure(format!("{error:#}"));
        }
    }
}

fn generation(object: &PolicyObject) -> i64 {
    object.metadata.generation.unwrap_or_default()
}
