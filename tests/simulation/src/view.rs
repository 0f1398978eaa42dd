//! The messages that an actuator received: the checks evaluate its decisions by these, not by its own state.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use qscale_actuator::store::Record;
use qscale_common::contract::{Message as _, State, StateId};
use qscale_common::control::{self, Control};
use qscale_common::name::FunctionId;
use qscale_common::policy::ScalingPolicy;
use qscale_common::time::{Timestamp, millis};
use qscale_common::units::Allocation;

use crate::protocol::View;

/// States per function whose arrival is remembered.
const ARRIVALS: usize = 16;

/// Messages that one actuator received since its start.
#[derive(Default)]
pub(crate) struct ActuatorView {
    policies: Option<View<ScalingPolicy>>,
    controls: Option<View<Control>>,
    records: Option<View<(FunctionId, Record)>>,
    baselines: BTreeMap<FunctionId, Allocation>,
    states: BTreeMap<FunctionId, Seen>,
}

#[derive(Default)]
struct Seen {
    last: Option<Arc<State>>,
    /// The newest States and the time of day at which they arrived.
    arrivals: VecDeque<(StateId, Timestamp)>,
}

impl ActuatorView {
    /// Whether every bucket was read.
    pub(crate) fn is_complete(&self) -> bool {
        self.policies.is_some() && self.controls.is_some() && self.records.is_some()
    }

    /// The policies.
    ///
    /// # Panics
    /// Before they were read.
    pub(crate) fn policies(&self) -> &View<ScalingPolicy> {
        self.policies.as_ref().expect("read before the start")
    }

    /// The requests of operators.
    ///
    /// # Panics
    /// Before they were read.
    pub(crate) fn controls(&self) -> &View<Control> {
        self.controls.as_ref().expect("read before the start")
    }

    /// The records.
    ///
    /// # Panics
    /// Before they were read.
    pub(crate) fn records(&self) -> &View<(FunctionId, Record)> {
        self.records.as_ref().expect("read before the start")
    }

    /// Policies arrived.
    pub(crate) fn set_policies(&mut self, policies: View<ScalingPolicy>) {
        self.policies = Some(policies);
    }

    /// Requests of operators arrived.
    pub(crate) fn set_controls(&mut self, controls: View<Control>) {
        self.controls = Some(controls);
    }

    /// Records arrived.
    pub(crate) fn set_records(&mut self, records: View<(FunctionId, Record)>) {
        for (function, record) in records.values().map(Arc::as_ref) {
            if let Record::Baseline(baseline) = record {
                self.baselines.insert(function.clone(), baseline.allocation);
            }
        }
        self.records = Some(records);
    }

    /// The baseline of `function` was stored.
    pub(crate) fn set_baseline(&mut self, function: &FunctionId, allocation: Allocation) {
        self.baselines.insert(function.clone(), allocation);
    }

    /// The baseline of `function` was deleted.
    pub(crate) fn remove_baseline(&mut self, function: &FunctionId) {
        self.baselines.remove(function);
    }

    /// A State arrived at `wall`. The actuator ignores one that is older than the last of its epoch; returns whether it is new.
    pub(crate) fn on_state(&mut self, state: &Arc<State>, wall: Timestamp) -> bool {
        let seen = self.states.entry(state.function()).or_default();
        if seen.last.as_ref().is_some_and(|last| !state.state_id().follows(last.state_id())) {
            return false;
        }
        seen.last = Some(Arc::clone(state));
        seen.arrivals.push_front((state.state_id(), wall));
        seen.arrivals.truncate(ARRIVALS);
        true
    }

    /// Policy of `function`.
    pub(crate) fn policy(&self, function: &FunctionId) -> Option<&ScalingPolicy> {
        self.policies.as_ref()?.get(&Control::key(function)).map(Arc::as_ref)
    }

    /// Whether `function` is frozen.
    pub(crate) fn is_frozen(&self, function: &FunctionId) -> bool {
        let frozen = |key: &str| self.controls.as_ref().is_some_and(|controls| controls.get(key).is_some_and(|control| control.frozen));
        frozen(control::ALL) || frozen(&Control::key(function))
    }

    /// The newest restore request for `function`.
    pub(crate) fn restore_request(&self, function: &FunctionId) -> Option<Timestamp> {
        let request = |key: &str| self.controls.as_ref().and_then(|controls| controls.get(key)?.restore);
        request(control::ALL).max(request(&Control::key(function)))
    }

    /// The newest restore request for `function` that is recorded as executed.
    pub(crate) fn restored(&self, function: &FunctionId) -> Option<Timestamp> {
        let record = self.records.as_ref()?.get(&Record::Restored(Timestamp(0)).key(function))?;
        if let (_, Record::Restored(request)) = record.as_ref() { Some(*request) } else { None }
    }

    /// Allocation of `function` before the first change.
    pub(crate) fn baseline(&self, function: &FunctionId) -> Option<Allocation> {
        self.baselines.get(function).copied()
    }

    /// Whether `state_id` was one of the two newest States of `function` at `wall`.
    pub(crate) fn was_recent(&self, function: &FunctionId, state_id: StateId, wall: Timestamp) -> bool {
        let Some(seen) = self.states.get(function) else { return false };
        // A State that waited for its Action arrives in the same millisecond.
        seen.arrivals.iter().filter(|(_, at)| *at <= wall).take(2).any(|(id, _)| *id == state_id)
            || seen.arrivals.iter().any(|(id, at)| *id == state_id && *at >= wall)
    }

    /// Memory below which `function` must not be lowered by its last State, with `margin` above the largest working set; `None` if it must not be lowered at all.
    pub(crate) fn memory_floor(&self, function: &FunctionId, margin: f64) -> Option<f64> {
        let state = self.states.get(function)?.last.as_ref()?;
        let windows = [&state.windows.tick, &state.windows.short, &state.windows.long];
        if windows.iter().any(|window| window.oom_kills > 0) {
            return None;
        }
        windows.iter().filter_map(|window| window.memory_mib).map(|usage| usage.max * margin).max_by(f64::total_cmp)
    }

    /// Age of the oldest measurement of the last State of `function` at `wall`, milliseconds. `running`: whether it has replicas, without which neither
    /// CPU nor memory can be measured. `None` if nothing was measured.
    pub(crate) fn age(&self, function: &FunctionId, running: bool, wall: Timestamp) -> Option<u64> {
        let state = self.states.get(function)?.last.as_ref()?;
        let of_replicas = [state.age.cpu_ms, state.age.memory_ms].into_iter().flatten().filter(|_| running);
        let load = of_replicas.chain(state.age.requests_ms).max()?;
        Some(load.max(state.age.replicas_ms.unwrap_or(0)) + millis(wall.since(state.observed_at_ms)))
    }
}
