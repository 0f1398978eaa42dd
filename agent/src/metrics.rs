//! Metrics of an agent.

use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use qscale_common::contract::FallbackKind;
use qscale_common::runtime::telemetry::Label;
use qscale_common::time::Timestamp;
use qscale_policies::HoldReason;

use crate::answer::{Answer, AnswerKind};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Answered(&'static str);

impl EncodeLabelSet for Answered {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        ("answer", self.0).encode(encoder.encode_label())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct HoldLabels(HoldReason);

impl EncodeLabelSet for HoldLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        ("reason", self.0.label()).encode(encoder.encode_label())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FallbackLabels {
    reason: Label<FallbackKind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ModelLabels(&'static str);

impl EncodeLabelSet for ModelLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        ("outcome", self.0).encode(encoder.encode_label())
    }
}

/// Answers by kind, holds by reason, latency of answers, fallbacks, and models by outcome.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    answers: Family<Answered, Counter>,
    holds: Family<HoldLabels, Counter>,
    latency: Histogram,
    fallbacks: Family<FallbackLabels, Counter>,
    models: Family<ModelLabels, Counter>,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        // 0.5 ms to 16 s: from a loop on one machine to a State that waited for three ticks.
        let metrics = Self {
            answers: Family::default(),
            holds: Family::default(),
            latency: Histogram::new(exponential_buckets(0.0005, 2.0, 16)),
            fallbacks: Family::default(),
            models: Family::default(),
        };
        registry.register("qscale_agent_answers", "States by answer: want, hold, silent, late", metrics.answers.clone());
        registry.register("qscale_agent_holds", "Decisions that keep the current allocation, by reason", metrics.holds.clone());
        let help = "Time from the observation of a State to the publication of its Action, seconds";
        registry.register("qscale_agent_latency_seconds", help, metrics.latency.clone());
        let help = "Decisions of the fallback instead of the model, by reason";
        registry.register("qscale_agent_fallbacks", help, metrics.fallbacks.clone());
        registry.register("qscale_agent_models", "Models of the store by outcome: loaded, refused", metrics.models.clone());
        for kind in ["want", "hold", "silent", "late"] {
            metrics.answers.get_or_create(&Answered(kind)).inc_by(0);
        }
        for reason in HoldReason::ALL {
            metrics.holds.get_or_create(&HoldLabels(reason)).inc_by(0);
        }
        for kind in FallbackKind::ALL {
            metrics.fallbacks.get_or_create(&FallbackLabels { reason: Label(*kind) }).inc_by(0);
        }
        for outcome in ["loaded", "refused"] {
            metrics.models.get_or_create(&ModelLabels(outcome)).inc_by(0);
        }
        metrics
    }

    pub(crate) fn model(&self, loaded: bool) {
        self.models.get_or_create(&ModelLabels(if loaded { "loaded" } else { "refused" })).inc();
    }

    pub(crate) fn count(&self, answer: &Answer, fallback: Option<FallbackKind>) {
        if let Some(fallback) = fallback {
            self.fallbacks.get_or_create(&FallbackLabels { reason: Label(fallback) }).inc();
        }
        let (kind, held) = match answer {
            Answer::Act(_, AnswerKind::Change) => ("want", None),
            Answer::Act(_, AnswerKind::Hold(why)) => ("hold", Some(*why)),
            Answer::Silent(why) => ("silent", Some(*why)),
            Answer::Late => ("late", None),
        };
        self.answers.get_or_create(&Answered(kind)).inc();
        if let Some(why) = held {
            self.holds.get_or_create(&HoldLabels(why)).inc();
        }
    }

    pub(crate) fn published(&self, observed: Timestamp, now: Timestamp) {
        self.latency.observe(now.since(observed).as_secs_f64());
    }
}
