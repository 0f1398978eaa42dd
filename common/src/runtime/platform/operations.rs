//! Changes of a function, common to every platform. Owns the checks, the fencing by lease and the order of steps; a [`Platform`]
//! does the work.
//!
//! Imports [`super::api`] and is imported by it: the API calls these operations, and they return its errors.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::api::{Platform, Refused};
use crate::name::FunctionId;
use crate::platform::{
    AllocationReply, AllocationRequest, EventKind, FunctionSpec, FunctionStatus, LeaseReset, LeaseResetReply, Limits, MAX_LEASE,
    NodeCapacity,
};
use crate::policy::Bounds;
use crate::range::check_number;
use crate::units::Allocation;

/// State that every platform keeps for these operations.
#[derive(Debug)]
pub struct OperationControl {
    limits: Limits,
    /// Allocations that can be applied on this machine, within the limits.
    bounds: Bounds,
    /// Highest lease that a writer has presented.
    highest_lease: Mutex<u64>,
    /// Held while a function is added or deleted, so that these happen one after the other.
    editing: tokio::sync::Mutex<()>,
}

impl OperationControl {
    /// Bounds allocations by `limits` on a machine of this capacity, and refuses leases below `highest_lease`.
    #[must_use]
    pub fn new(limits: Limits, capacity: NodeCapacity, highest_lease: u64) -> Self {
        let bounds = limits.bounds(capacity);
        Self { limits, bounds, highest_lease: Mutex::new(highest_lease), editing: tokio::sync::Mutex::default() }
    }

    /// Allocations that can be applied.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Highest lease that a writer has presented.
    #[must_use]
    pub fn highest_lease(&self) -> u64 {
        *self.lease()
    }

    /// Raises the highest lease to `lease`, as after a restart.
    pub fn raise_lease(&self, lease: u64) {
        let mut highest = self.lease();
        *highest = lease.max(*highest);
    }

    /// Replaces the highest lease; returns the one before.
    fn replace_lease(&self, lease: u64) -> u64 {
        std::mem::replace(&mut *self.lease(), lease)
    }

    /// Runs `write` unless `lease` is below the highest one, both under one lock, so that no older writer comes
    /// between. Returns its result and whether the lease is a new highest one. A write without a lease is an operator's
    /// and always allowed.
    fn fenced<T>(&self, lease: Option<u64>, write: impl FnOnce() -> T) -> Result<(T, bool), Refused> {
        let mut highest = self.lease();
        if let Some(lease) = lease.filter(|lease| *lease < *highest) {
            return Err(Refused::StaleLease { lease, highest: *highest });
        }
        let is_new = lease.is_some_and(|lease| lease > *highest);
        *highest = lease.unwrap_or_default().max(*highest);
        Ok((write(), is_new))
    }

    fn lease(&self) -> MutexGuard<'_, u64> {
        self.highest_lease.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a function, or replaces the file of an existing one; the same file again changes nothing.
///
/// # Errors
/// When the file is out of range, the platform has no room, or the change cannot be saved.
pub async fn add<P: Platform>(platform: &P, spec: FunctionSpec) -> Result<FunctionStatus, Refused> {
    spec.validate()?;
    let control = platform.control();
    control.limits.check(&Allocation::from(spec.allocation), "allocation.")?;
    let _editing = control.editing.lock().await;
    let id = spec.id();
    let function = match platform.find(&id) {
        Some(function) if *platform.spec(&function) == spec => return Ok(platform.status(&function)),
        Some(function) => {
            platform.replace(&function, spec).await?;
            platform.record(&id, EventKind::FunctionReplaced, "file replaced".to_owned());
            function
        }
        None => {
            let (count, most) = (platform.count(), control.limits.functions as usize);
            if count >= most {
                return Err(Refused::Unavailable(format!("functions = {}, must be at most {most}", count + 1)));
            }
            platform.create(spec).await?
        }
    };
    platform.save().await?;
    Ok(platform.status(&function))
}

/// Deletes a function; returns when its replicas are gone.
///
/// # Errors
/// When there is no such function, or the change cannot be saved.
pub async fn delete<P: Platform>(platform: &P, id: &FunctionId) -> Result<(), Refused> {
    let editing = platform.control().editing.lock().await;
    let function = platform.remove(id).ok_or_else(|| Refused::NotFound(id.clone()))?;
    platform.record(id, EventKind::FunctionDeleted, "deleted".to_owned());
    let saved = platform.save().await;
    drop(editing);
    platform.gone(function).await;
    saved
}

/// Sets the desired allocation of a function, unless the lease is older than one that was presented before.
///
/// # Errors
/// When there is no such function, the allocation is out of range, the lease is stale, or the change cannot be saved.
pub async fn set_allocation<P: Platform>(platform: &P, id: &FunctionId, request: &AllocationRequest) -> Result<AllocationReply, Refused> {
    let function = platform.find(id).ok_or_else(|| Refused::NotFound(id.clone()))?;
    let current = platform.desired(&function);
    let wanted = Allocation {
        replicas: request.replicas,
        cpu_millicores: request.cpu_millicores.unwrap_or(current.cpu_millicores),
        memory_mib: request.memory_mib.unwrap_or(current.memory_mib),
    };
    let control = platform.control();
    let desired = if request.clamp { control.bounds.clamp(wanted) } else { wanted };
    control.limits.check(&desired, "")?;
    if let Some(lease) = request.lease {
        check_number("lease", lease, 1, MAX_LEASE)?;
    }
    let set = control.fenced(request.lease, || platform.set_desired(&function, desired));
    let (before, new_lease) = set.inspect_err(|refused| platform.record(id, EventKind::StaleLease, refused.to_string()))?;
    if new_lease || before != desired {
        platform.save().await?;
    }
    platform.settle(&function).await;
    let status = platform.status(&function);
    let clamped = (desired != wanted).then(|| format!("{wanted} became {desired}, within the bounds of the platform"));
    Ok(AllocationReply { warnings: clamped.into_iter().chain(warnings(&status, request)).collect(), function: status })
}

/// Replaces the highest lease by one that an operator chose, so that an actuator whose lease is lower can write again.
///
/// # Errors
/// When the lease is out of range, or the change cannot be saved.
pub async fn reset_lease<P: Platform>(platform: &P, reset: LeaseReset) -> Result<LeaseResetReply, Refused> {
    check_number("highest", reset.highest, 0, MAX_LEASE)?;
    let before = platform.control().replace_lease(reset.highest);
    tracing::warn!(before, after = reset.highest, "an operator reset the highest lease");
    platform.save().await?;
    Ok(LeaseResetReply { before, after: reset.highest })
}

/// Parts of `request` without effect for now, each with its reason.
fn warnings(status: &FunctionStatus, request: &AllocationRequest) -> Vec<String> {
    let vertical = !status.vertical && (request.cpu_millicores.is_some() || request.memory_mib.is_some());
    let without_limits = "cpu_millicores and memory_mib have no effect: limits cannot be set on this machine";
    let pending = |replica: &crate::platform::ReplicaStatus| Some(format!("{}: {}", replica.id, replica.resize_pending.as_ref()?));
    vertical.then(|| without_limits.to_owned()).into_iter().chain(status.actual.replicas.iter().filter_map(pending)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_lease_writes_nothing() {
        let control = OperationControl::new(Limits::default(), NodeCapacity::default(), 5);
        let refused = control.fenced(Some(4), || panic!("written")).expect_err("stale");
        assert!(matches!(refused, Refused::StaleLease { lease: 4, highest: 5 }));
        assert!(matches!(control.fenced(Some(5), || ()), Ok(((), false))));
        assert!(matches!(control.fenced(None, || ()), Ok(((), false))));
        assert!(matches!(control.fenced(Some(7), || ()), Ok(((), true))));
        control.raise_lease(6);
        assert_eq!(control.highest_lease(), 7);
    }
}
