//! The highest fencing token of the actuators of a cluster, in an annotation of a Lease object. Owns its reading and its replacement. Changes that wait for a
//! read share the next one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use qscale_common::name::Name;
use tokio::sync::Mutex;

use super::cluster::{Attempt, FIELD_MANAGER};
use crate::backend::BackendError;

/// Name of the Lease object.
const NAME: &str = "qscale-actuator";
/// Annotation that holds the token.
const TOKEN: &str = "qscale.dev/fencing-token";

/// The token of a cluster.
pub(super) struct Fence {
    leases: Api<Lease>,
    /// Checks that were begun.
    begun: AtomicU64,
    last: Mutex<LastRead>,
}

/// The last read of the token.
#[derive(Debug, Default)]
struct LastRead {
    /// Checks that had begun before it.
    serves: u64,
    /// The highest token, after a write if there was one.
    highest: u64,
}

impl Fence {
    pub(super) fn new(client: &Client, namespace: &Name) -> Self {
        let leases = Api::namespaced(client.clone(), namespace.as_str());
        Self { leases, begun: AtomicU64::new(0), last: Mutex::default() }
    }

    /// Checks that no leader has had a higher token than `lease`, and keeps it if it is the highest. The token is read after this was called.
    pub(super) async fn check(&self, lease: u64) -> Result<(), Attempt> {
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let mut last = self.last.lock().await;
        if last.serves >= number && last.highest == lease {
            return Ok(());
        }
        let serves = self.begun.load(Ordering::SeqCst);
        self.read(lease).await?;
        *last = LastRead { serves, highest: lease };
        Ok(())
    }

    async fn read(&self, lease: u64) -> Result<(), Attempt> {
        let kept = self.leases.get_opt(NAME).await?;
        let annotations = kept.as_ref().and_then(|kept| kept.metadata.annotations.clone()).unwrap_or_default();
        let highest = match annotations.get(TOKEN) {
            None => 0,
            Some(text) => text.parse().map_err(|_| {
                let reason = format!("annotation {TOKEN} of Lease {NAME} is `{text}`, must be a number; delete the Lease");
                Attempt::Failed(BackendError::Invalid(reason))
            })?,
        };
        if highest > lease {
            let reason = format!("token {lease}, Lease {NAME} has {highest}");
            return Err(Attempt::Failed(BackendError::StaleLease { reason, highest }));
        }
        if highest == lease {
            return Ok(());
        }
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let annotations = BTreeMap::from_iter(annotations.into_iter().chain([(TOKEN.to_owned(), lease.to_string())]));
        match kept {
            Some(mut kept) => {
                kept.metadata.annotations = Some(annotations);
                self.leases.replace(NAME, &params, &kept).await?;
            }
            None => {
                let metadata = ObjectMeta { name: Some(NAME.to_owned()), annotations: Some(annotations), ..ObjectMeta::default() };
                self.leases.create(&params, &Lease { metadata, spec: None }).await?;
            }
        }
        Ok(())
    }
}
