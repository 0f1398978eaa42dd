//! A platform that exists only in memory: it keeps allocations and checks fencing tokens.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use qscale_actuator::backend::{BackendError, BackendFuture, PlatformBackend, WorkloadId, WorkloadStatus};
use qscale_common::name::FunctionId;
use qscale_common::policy::WorkloadKind;
use qscale_common::units::Allocation;

/// Allocations by workload. A write under a token lower than the highest one seen is refused.
pub struct MemoryPlatform(Mutex<Kept>);

struct Kept {
    allocations: BTreeMap<FunctionId, Allocation>,
    highest_lease: u64,
}

impl MemoryPlatform {
    /// A platform that runs `functions` with the same allocation.
    pub fn new(functions: impl IntoIterator<Item = FunctionId>, allocation: Allocation) -> Self {
        let allocations = functions.into_iter().map(|function| (function, allocation)).collect();
        Self(Mutex::new(Kept { allocations, highest_lease: 0 }))
    }

    /// Number of `functions` that have `replicas`.
    pub fn having<'a>(&self, functions: impl IntoIterator<Item = &'a FunctionId>, replicas: u32) -> usize {
        let kept = self.kept();
        functions.into_iter().filter(|function| kept.allocations.get(function).is_some_and(|has| has.replicas.0 == replicas)).count()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("no test panics while it holds the lock")
    }

    fn set(&self, workload: &WorkloadId, allocation: Allocation, lease: u64) -> Result<WorkloadStatus, BackendError> {
        let mut kept = self.kept();
        if lease < kept.highest_lease {
            return Err(BackendError::StaleLease { reason: format!("{lease} < {}", kept.highest_lease), highest: kept.highest_lease });
        }
        kept.highest_lease = lease;
        let Some(has) = kept.allocations.get_mut(&workload.name) else { return Err(BackendError::NotFound(workload.name.clone())) };
        *has = allocation;
        Ok(WorkloadStatus { id: workload.clone(), desired: allocation, vertical: true })
    }
}

impl PlatformBackend for MemoryPlatform {
    fn kinds(&self) -> &'static [WorkloadKind] {
        &[WorkloadKind::Local]
    }

    fn list(&self) -> BackendFuture<'_, Vec<WorkloadStatus>> {
        let workload = |(name, desired): (&FunctionId, &Allocation)| WorkloadStatus {
            id: WorkloadId { kind: WorkloadKind::Local, name: name.clone() },
            desired: *desired,
            vertical: true,
        };
        let listed = self.kept().allocations.iter().map(workload).collect();
        Box::pin(std::future::ready(Ok(listed)))
    }

    fn apply<'a>(&'a self, workload: &'a WorkloadId, allocation: Allocation, lease: u64) -> BackendFuture<'a, WorkloadStatus> {
        Box::pin(std::future::ready(self.set(workload, allocation, lease)))
    }
}
