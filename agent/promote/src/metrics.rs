//! Metrics of the service. Owns their names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use qscale_common::name::Name;
use qscale_common::runtime::telemetry::Label;
use qscale_common::time::Timestamp;

use crate::promotion::{Promotion, PromotionDecision, Stage};

/// Metrics of the promoter.
#[derive(Debug, Clone, Default)]
pub(crate) struct PromoterMetrics {
    pub leader: Gauge,
    pub failed_steps: Counter,
    decisions: Family<DecisionLabels, Counter>,
    on_trial: Family<ModelLabels, Gauge>,
    spent_seconds: Family<ModelLabels, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    model: String,
    decision: Label<PromotionDecision>,
}

impl PromoterMetrics {
    /// Registers all metrics.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let promoter = registry.sub_registry_with_prefix("qscale_promoter");
        promoter.register("leader", "Whether this instance holds the lease", metrics.leader.clone());
        promoter.register("failed_steps", "Steps that failed and are tried again", metrics.failed_steps.clone());
        promoter.register("decisions", "Decisions on candidates", metrics.decisions.clone());
        promoter.register("candidate_in_use", "Whether a candidate is in use under watch", metrics.on_trial.clone());
        promoter.register("budget_spent_seconds", "Violation seconds of candidates under watch today (UTC)", metrics.spent_seconds.clone());
        metrics
    }

    /// Counts a decision.
    pub(crate) fn decided(&self, model: &Name, decision: PromotionDecision) {
        self.decisions.get_or_create(&DecisionLabels { model: model.to_string(), decision: Label(decision) }).inc();
    }

    /// Shows the state of a promotion.
    pub(crate) fn set_promotion(&self, model: &Name, promotion: &Promotion, now: Timestamp) {
        let labels = ModelLabels { model: model.to_string() };
        self.on_trial.get_or_create(&labels).set(i64::from(matches!(promotion.stage, Stage::Watch { .. })));
        self.spent_seconds.get_or_create(&labels).set((promotion.spent_today(now) * 60.0) as i64);
    }

    /// Clears what only a leader knows.
    pub(crate) fn clear(&self) {
        self.leader.set(0);
        self.on_trial.clear();
        self.spent_seconds.clear();
    }
}
