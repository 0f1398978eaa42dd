//! The platforms that functions run on. Owns the interface to a platform, its errors and the choice of one by
//! configuration; must not decide what is applied.
//!
//! A new platform is a module here: its configuration and its [`PlatformBackend`], a variant of [`BackendConfig`], and a
//! [`WorkloadKind`] in the contract.

mod kubernetes;
mod local;

pub use kubernetes::KubernetesBackendConfig;
#[cfg(feature = "kubernetes")]
pub use kubernetes::{KubernetesBackend, PolicyObject};
pub use local::{LocalBackend, LocalBackendConfig};

use std::pin::Pin;
use std::sync::Arc;

use qscale_common::contract::{Outcome, State};
use qscale_common::control::Control;
use qscale_common::document;
use qscale_common::name::FunctionId;
pub use qscale_common::policy::WorkloadId;
use qscale_common::policy::{ScalingPolicy, WorkloadKind};
use qscale_common::runtime::bus::{Bucket, Bus};
use qscale_common::runtime::lease::LeaseHandle;
use qscale_common::time::Span;
use qscale_common::units::Allocation;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use strum::IntoStaticStr;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The platform that an actuator applies allocations to, by `backend`. Without `backend` it is the local platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", tag = "backend", rename_all = "snake_case")]
pub enum BackendConfig {
    /// The platform on this machine.
    Local(LocalBackendConfig),
    /// A Kubernetes cluster. Only programs that are built with the feature `kubernetes` open it.
    Kubernetes(KubernetesBackendConfig),
}

impl Serialize for BackendConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for BackendConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let tagged = document::with_default_tag(deserializer, "backend", "local")?;
        Self::deserialize(tagged).map_err(serde::de::Error::custom)
    }
}

impl Default for BackendConfig {
    fn default() -> Self {
        Self::Local(LocalBackendConfig::default())
    }
}

impl BackendConfig {
    /// Name of the backend, which is part of its lease key.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Local(_) => "local",
            Self::Kubernetes(_) => "kubernetes",
        }
    }

    /// Checks what the types cannot; `lease` is the time after which a leader is replaced.
    ///
    /// # Errors
    /// Names the key, its value and its range.
    pub fn check(&self, lease: Span) -> anyhow::Result<()> {
        match self {
            Self::Local(config) => config.check(),
            Self::Kubernetes(config) => config.check(lease),
        }
    }

    /// Opens the backend. Does not connect.
    ///
    /// # Errors
    /// If an address is malformed.
    pub fn open(&self) -> anyhow::Result<Arc<dyn PlatformBackend>> {
        match self {
            Self::Local(config) => Ok(Arc::new(LocalBackend::open(config)?)),
            Self::Kubernetes(config) => config.open(),
        }
    }
}

/// State of one workload on the platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadStatus {
    /// Its identity.
    pub id: WorkloadId,
    /// Allocation last requested from the platform.
    pub desired: Allocation,
    /// Whether CPU and memory of its replicas can be changed.
    pub vertical: bool,
}

/// Reasons why a platform did not do what was requested.
#[derive(Debug, Clone, PartialEq, Eq, Error, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum BackendError {
    /// The platform does not answer or is not ready; a retry may succeed.
    #[error("{0}")]
    Unavailable(String),
    /// A leader with a newer lease has written since.
    #[error("the platform has seen a newer lease: {reason}")]
    StaleLease {
        /// Reason for people.
        reason: String,
        /// The highest token that the platform has seen, 0 if it does not say. The next lease of this actuator is higher.
        highest: u64,
    },
    /// The platform has no such workload.
    #[error("the platform has no workload {0}")]
    NotFound(FunctionId),
    /// The platform will never accept the request.
    #[error("the platform refuses: {0}")]
    Invalid(String),
}

/// A measurement or a decision of the control loop.
#[derive(Debug)]
pub enum LoopReport {
    /// A State.
    State(Box<State>),
    /// The result of a decision.
    Outcome(Box<Outcome>),
    /// The answer to [`LoopAccess::releases`]: the restored allocation, `None` if there was nothing to restore, or why it failed.
    Released(FunctionId, Result<Option<Allocation>, String>),
}

/// Access of a backend to the control loop that it serves.
#[derive(Debug)]
pub struct LoopAccess {
    /// Name of the actuator.
    pub instance: String,
    /// The bus.
    pub bus: Bus,
    /// Whether this actuator leads.
    pub lease: LeaseHandle,
    /// The ScalingPolicies.
    pub policies: Bucket<ScalingPolicy>,
    /// Freezes and restores.
    pub controls: Bucket<Control>,
    /// States and Outcomes. Those that are not taken in time are lost.
    pub reports: mpsc::Receiver<LoopReport>,
    /// Takes functions whose policy is being deleted and that get their original allocation back. A request may be lost, and may be repeated.
    pub releases: mpsc::Sender<FunctionId>,
    /// Cancelled when the loop ends.
    pub token: CancellationToken,
}

/// The future of a backend call.
pub type BackendFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send + 'a>>;

/// A platform that runs functions.
///
/// # Fencing
/// A leader that was replaced may still have requests in flight. `lease` is the fencing token of the leader that sends
/// a request; tokens grow with every new leader. The platform must refuse a token lower than the highest one it has
/// accepted, for any workload.
///
/// If the platform cannot check the token itself (the Kubernetes API, for example, does not know it), the backend must
/// provide the same guarantee for each workload:
/// - Read the object, then the highest token (an annotation of the object, or of one that all actuators share), and change
///   the allocation by a conditional write that fails if the object is not as it was read. On a conflict read both again.
/// - Return [`BackendError::StaleLease`] if the stored token is higher than `lease`; store `lease` if it is lower.
/// - Bound every request, retries included, to less than a sixth of the lease's TTL: an actuator stops sending that
///   long before another one may take over.
///
/// Without a conditional write, two actuators must not run against the platform.
pub trait PlatformBackend: Send + Sync + 'static {
    /// Kinds of workload that this backend handles. ScalingPolicies of other kinds are left to other actuators.
    fn kinds(&self) -> &'static [WorkloadKind];

    /// Lists all workloads of these kinds.
    fn list(&self) -> BackendFuture<'_, Vec<WorkloadStatus>>;

    /// Sets the allocation of `workload` to an absolute value, so that a repeated request is harmless. Returns the
    /// workload after the change: parts that the platform cannot apply differ from the request, the others are applied.
    /// A request whose reply was lost counts as failed only if the platform does not have the allocation afterwards.
    fn apply<'a>(&'a self, workload: &'a WorkloadId, allocation: Allocation, lease: u64) -> BackendFuture<'a, WorkloadStatus>;

    /// Starts what the platform needs beside the control loop, such as policies that are objects of the platform, and reports about them. The task ends with
    /// the loop. `None` if it needs nothing.
    fn follow(&self, access: LoopAccess) -> Option<JoinHandle<()>> {
        drop(access);
        None
    }
}
