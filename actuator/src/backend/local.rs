//! The platform on this machine, over its HTTP API.

use std::time::Duration;

use qscale_common::name::FunctionId;
use qscale_common::platform::{AllocationRequest, FunctionStatus};
use qscale_common::runtime::platform::{PlatformClient, PlatformError};
use qscale_common::units::Allocation;

use super::{Backend, BackendError, Workload};

/// HTTP statuses from here on are the platform's own trouble; below, the request's.
const SERVER_TROUBLE: u16 = 500;

/// The platform on this machine.
#[derive(Debug, Clone)]
pub struct LocalPlatform {
    client: PlatformClient,
    timeout: Duration,
}

impl LocalPlatform {
    /// The platform whose API is at `address`, host and port; a request may take `timeout`.
    ///
    /// # Errors
    /// When `address` is no host and port.
    pub fn new(address: &str, timeout: Duration) -> Result<Self, PlatformError> {
        Ok(Self { client: PlatformClient::new(address)?, timeout })
    }

    async fn within<T>(&self, request: impl Future<Output = Result<T, PlatformError>>) -> Result<T, PlatformError> {
        let late = || PlatformError::Unreachable {
            address: self.client.address().to_owned(),
            reason: format!("no reply within {:?}", self.timeout),
        };
        tokio::time::timeout(self.timeout, request).await.unwrap_or_else(|_| Err(late()))
    }
}

impl From<FunctionStatus> for Workload {
    fn from(status: FunctionStatus) -> Self {
        Self { id: status.id(), desired: status.desired, vertical: status.vertical }
    }
}

fn explain(error: PlatformError, workload: &FunctionId) -> BackendError {
    match error {
        PlatformError::StaleLease(_) => BackendError::StaleLease(error.to_string()),
        PlatformError::NotFound(_) => BackendError::NotFound(workload.clone()),
        PlatformError::Refused { status, .. } if status < SERVER_TROUBLE => BackendError::Invalid(error.to_string()),
        PlatformError::Address(_)
        | PlatformError::Unreachable { .. }
        | PlatformError::Refused { .. }
        | PlatformError::Unexpected { .. } => BackendError::Unavailable(error.to_string()),
    }
}

impl Backend for LocalPlatform {
    async fn list(&self) -> Result<Vec<Workload>, BackendError> {
        let listed = self.within(self.client.list()).await;
        listed
            .map(|functions| functions.into_iter().map(Workload::from).collect())
            .map_err(|error| BackendError::Unavailable(error.to_string()))
    }

    async fn apply(&self, workload: &FunctionId, allocation: Allocation, lease: u64) -> Result<Workload, BackendError> {
        let request = AllocationRequest::new(allocation, Some(lease));
        match self.within(self.client.set_allocation(workload, &request)).await {
            Ok(reply) => {
                for warning in reply.warnings {
                    tracing::info!(%workload, warning, "the platform took the allocation with a reservation");
                }
                Ok(reply.function.into())
            }
            Err(error @ (PlatformError::Unreachable { .. } | PlatformError::Unexpected { .. })) => {
                // The request may have been carried out though its reply was lost.
                match self.within(self.client.get(workload)).await {
                    Ok(status) if status.desired == allocation => Ok(status.into()),
                    Ok(_) | Err(_) => Err(explain(error, workload)),
                }
            }
            Err(error) => Err(explain(error, workload)),
        }
    }
}
