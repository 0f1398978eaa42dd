//! Requests of a trial over the bus: to the record, to the model store, and for recorded violations. Must not decide in which order they are made.

use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::author::Author;
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::clock;
use qscale_common::runtime::models::{ModelPointer, ModelStore, PointerError};
use qscale_common::runtime::signature::TrustConfig;
use qscale_common::time::Timestamp;
use qscale_dqn::pretrained::pretrained;
use qscale_replay::recording::Period;

use crate::Promotion;
use crate::metrics::PromoterMetrics;
use crate::promotion::ViolationMinutes;
use crate::record::PromotionRecord;
use crate::recorded_functions::{burn, functions_of};
use crate::steps::TrialRequests;

/// Requests of a trial over the bus.
pub(crate) struct BusRequests<'a> {
    pub bus: &'a Bus,
    pub author: &'a Author,
    pub trust: &'a TrustConfig,
    pub metrics: &'a PromoterMetrics,
    pub model: &'a Name,
    pub store: ModelStore,
    pub record: PromotionRecord,
    /// The agent whose decisions are tried.
    pub agent: Name,
    /// Number of decisions that are logged and counted.
    pub decisions: u64,
}

impl TrialRequests for BusRequests<'_> {
    fn model(&self) -> &Name {
        self.model
    }

    fn now(&self) -> Timestamp {
        clock::now()
    }

    fn promotion(&mut self) -> &mut Promotion {
        &mut self.record.promotion
    }

    /// Also logs and counts the decisions that are new.
    async fn write(&mut self) -> anyhow::Result<()> {
        self.record.write().await?;
        for entry in self.record.promotion.log_since(self.decisions) {
            let decision: &str = entry.decision.into();
            tracing::info!(model = %self.model, version = entry.version, decision, reason = entry.reason, "decided");
            self.metrics.decided(self.model, entry.decision);
        }
        self.decisions = self.record.promotion.decisions;
        Ok(())
    }

    async fn pointer(&self) -> Result<ModelPointer, PointerError> {
        self.store.pointer(self.model).await
    }

    async fn push_bundled(&self) -> anyhow::Result<u64> {
        let bundled = pretrained();
        self.store.push(self.author, self.model, &bundled.to_bytes(), &bundled.fingerprint()).await
    }

    async fn start_trial(&self, version: u64, base: u64, expected: &ModelPointer) -> Result<(), PointerError> {
        self.store.start_trial(self.author, self.model, version, base, expected).await?;
        tracing::info!(model = %self.model, version, "candidate in use; watching it");
        Ok(())
    }

    async fn confirm_trial(&self, version: u64) -> Result<(), PointerError> {
        self.store.confirm_trial(self.author, self.model, version).await.map(drop)
    }

    async fn roll_back_trial(&self, version: u64, base: u64) -> Result<(), PointerError> {
        self.store.roll_back_trial(self.author, self.model, version, base).await.map(drop)
    }

    async fn violations(&self, functions: &[FunctionId], period: Period) -> anyhow::Result<ViolationMinutes> {
        let bus = self.bus;
        if !functions.is_empty() {
            return burn(bus, functions, period).await;
        }
        burn(bus, &functions_of(bus, &self.agent, self.trust).await?, period).await
    }
}
