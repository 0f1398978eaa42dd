//! Metrics of an agent.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use qscale_common::contract::FallbackKind;
use qscale_common::runtime::telemetry::Label;
use qscale_common::time::Timestamp;
use qscale_policies::HoldReason;
use strum::{IntoStaticStr, VariantArray};

use crate::answer::{Answer, AnswerKind};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    answer: Label<AnswerOutcome>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HoldLabels {
    reason: Label<HoldReason>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FallbackLabels {
    reason: Label<FallbackKind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelOutcomeLabels {
    outcome: Label<ModelOutcome>,
}

/// Answer to a State.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
enum AnswerOutcome {
    /// Another allocation than the current one.
    Change,
    /// The current allocation.
    Hold,
    /// No Action.
    Silent,
    /// None, because the Action would have expired.
    Late,
}

/// Use of a model of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
enum ModelOutcome {
    Loaded,
    Refused,
}

/// Answers by kind, holds by reason, latency of answers, fallbacks, and models by outcome.
#[derive(Debug, Clone)]
pub(crate) struct AgentMetrics {
    answers: Family<AnswerLabels, Counter>,
    holds: Family<HoldLabels, Counter>,
    latency: Histogram,
    fallbacks: Family<FallbackLabels, Counter>,
    models: Family<ModelOutcomeLabels, Counter>,
}

impl AgentMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        // 0.5 ms to 16 s: from a loop on one machine to a State that waited for three ticks.
        let metrics = Self {
            answers: Family::default(),
            holds: Family::default(),
            latency: Histogram::new(exponential_buckets(0.0005, 2.0, 16)),
            fallbacks: Family::default(),
            models: Family::default(),
        };
        registry.register("qscale_agent_answers", "States by answer: change, hold, silent, late", metrics.answers.clone());
        registry.register("qscale_agent_holds", "Decisions that keep the current allocation, by reason", metrics.holds.clone());
        let help = "Time from the observation of a State to the publication of its Action, seconds";
        registry.register("qscale_agent_latency_seconds", help, metrics.latency.clone());
        let help = "Decisions of the fallback instead of the model, by reason";
        registry.register("qscale_agent_fallbacks", help, metrics.fallbacks.clone());
        registry.register("qscale_agent_models", "Models of the store by outcome: loaded, refused", metrics.models.clone());
        for answer in AnswerOutcome::VARIANTS {
            metrics.answers.get_or_create(&AnswerLabels { answer: Label(*answer) }).inc_by(0);
        }
        for reason in HoldReason::VARIANTS {
            metrics.holds.get_or_create(&HoldLabels { reason: Label(*reason) }).inc_by(0);
        }
        for kind in FallbackKind::ALL {
            metrics.fallbacks.get_or_create(&FallbackLabels { reason: Label(*kind) }).inc_by(0);
        }
        for outcome in ModelOutcome::VARIANTS {
            metrics.models.get_or_create(&ModelOutcomeLabels { outcome: Label(*outcome) }).inc_by(0);
        }
        metrics
    }

    pub(crate) fn model(&self, loaded: bool) {
        let outcome = if loaded { ModelOutcome::Loaded } else { ModelOutcome::Refused };
        self.models.get_or_create(&ModelOutcomeLabels { outcome: Label(outcome) }).inc();
    }

    pub(crate) fn count(&self, answer: &Answer, fallback: Option<FallbackKind>) {
        if let Some(fallback) = fallback {
            self.fallbacks.get_or_create(&FallbackLabels { reason: Label(fallback) }).inc();
        }
        let (outcome, held) = match answer {
            Answer::Act(_, AnswerKind::Change) => (AnswerOutcome::Change, None),
            Answer::Act(_, AnswerKind::Hold(why)) => (AnswerOutcome::Hold, Some(*why)),
            Answer::Silent(why) => (AnswerOutcome::Silent, Some(*why)),
            Answer::Late => (AnswerOutcome::Late, None),
        };
        self.answers.get_or_create(&AnswerLabels { answer: Label(outcome) }).inc();
        if let Some(why) = held {
            self.holds.get_or_create(&HoldLabels { reason: Label(why) }).inc();
        }
    }

    pub(crate) fn published(&self, observed: Timestamp, now: Timestamp) {
        self.latency.observe(now.since(observed).as_secs_f64());
    }
}
