//! Which policy, model and fallback made a decision. Owns the part that Actions, Outcomes and Rewards have in common; must not hold prose that a program
//! would have to parse.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumDiscriminants, IntoStaticStr, VariantArray};

use super::rounded;
use crate::name::Name;

/// Policy, model and fallback behind a decision. Every field is optional on the wire.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Provenance {
    /// Name of the policy that the agent runs, such as `dqn` or `hpa`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub policy: String,
    /// Version and parameters of the policy, as one opaque text: policies with equal texts decide alike.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub configuration: String,
    /// The model in use; absent for a policy without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRef>,
    /// The rule that decided in place of the policy; absent where the policy itself decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
}

/// A model: a trained network or table as a stored artefact.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ModelRef {
    /// Name in the model store; absent for a bundled model and for one from a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Version in the model store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Fingerprint of the weights: equal fingerprints are equal models.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
}

/// A decision by the rule that takes over from a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Fallback {
    /// Name of the rule that decided.
    pub rule: String,
    /// Why the model did not decide.
    pub reason: FallbackReason,
}

/// Why a rule decided in place of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, EnumDiscriminants)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[strum_discriminants(
    name(FallbackKind),
    doc = "The kind of a [`FallbackReason`], for counting.",
    derive(Hash, PartialOrd, Ord, IntoStaticStr, VariantArray),
    strum(serialize_all = "snake_case")
)]
pub enum FallbackReason {
    /// The model returned a value that is not finite.
    NonFiniteValue,
    /// Nothing measures the requests of the function, which the model needs.
    RequestsNotMeasured,
    /// The State lies too far from those that the model was trained on.
    OutOfDistribution {
        /// Distance from the training distribution, in standard deviations (root mean square over the features); absent where it is not finite.
        #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
        score: Option<f64>,
        /// Largest score at which the model decides.
        #[serde(serialize_with = "rounded::required")]
        threshold: f64,
    },
    /// The device that computes the model failed.
    DeviceFailed {
        /// The device's error.
        error: String,
    },
    /// An earlier State was not fit for the model, and too few good ones followed.
    Recovering {
        /// Consecutive good States that are needed before the model decides again.
        states_left: u32,
    },
    /// A reason that a later version added.
    #[serde(other)]
    Other,
}

impl FallbackKind {
    /// Every kind.
    pub const ALL: &'static [Self] = Self::VARIANTS;
}

impl FallbackReason {
    /// The kind, for counting.
    #[must_use]
    pub fn kind(&self) -> FallbackKind {
        self.into()
    }
}

impl fmt::Display for FallbackReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NonFiniteValue => f.write_str("the model returned a non-finite value"),
            Self::RequestsNotMeasured => f.write_str("nothing measures the requests of the function"),
            Self::OutOfDistribution { score: Some(score), threshold } => {
                write!(f, "the State is out of distribution (score {score:.2}, threshold {threshold:.2})")
            }
            Self::OutOfDistribution { score: None, .. } => f.write_str("the State is out of distribution (non-finite score)"),
            Self::DeviceFailed { error } => write!(f, "the device failed: {error}"),
            Self::Other => f.write_str("of a reason that this version does not know"),
            Self::Recovering { states_left } => write!(f, "{states_left} more in-distribution States needed"),
        }
    }
}

impl Provenance {
    /// Provenance of a rule: a policy without a model.
    #[must_use]
    pub fn of_rule(policy: &str, configuration: String) -> Self {
        Self { policy: policy.to_owned(), configuration, ..Self::default() }
    }

    /// Fingerprint of the model; `None` where there is no model or it has none.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&str> {
        self.model.as_ref().map(|model| model.fingerprint.as_str()).filter(|fingerprint| !fingerprint.is_empty())
    }

    /// Name of the policy or rule that really decided.
    #[must_use]
    pub fn decided_by(&self) -> &str {
        self.fallback.as_ref().map_or(&self.policy, |fallback| &fallback.rule)
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Each text with its path within a message, for length checks.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let model = self.model.as_ref().map(|model| ("provenance.model.fingerprint", model.fingerprint.as_str()));
        let fallback = self.fallback.as_ref();
        let rule = fallback.map(|fallback| ("provenance.fallback.rule", fallback.rule.as_str()));
        let error = fallback.and_then(|fallback| match &fallback.reason {
            FallbackReason::DeviceFailed { error } => Some(("provenance.fallback.reason.error", error.as_str())),
            _ => None,
        });
        [("provenance.policy", self.policy.as_str()), ("provenance.configuration", self.configuration.as_str())]
            .into_iter()
            .chain(model)
            .chain(rule)
            .chain(error)
    }
}
