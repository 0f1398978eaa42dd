//! Fine-tuning and promotion of models. [`experience`], [`finetune`], [`gate`], [`promotion`] and [`settings`] are
//! pure: time and randomness are arguments. [`steps`] is generic over its requests. [`recorded_functions`], [`record`] and [`service`] do the I/O. Only this
//! crate starts, keeps and rolls back trials of candidates.

pub mod config;
pub mod evaluate_candidate;
pub mod experience;
pub mod finetune;
pub mod gate;
mod metrics;
pub mod promotion;
pub mod record;
pub mod recorded_functions;
mod requests;
pub mod service;
pub mod settings;
pub mod steps;
mod worker;

pub use promotion::{Promotion, PromotionDecision, Stage, Trial};
pub use settings::{PromotionRequest, PromotionRules, PromotionSettings, RoundRequest};

#[cfg(test)]
#[path = "../../dqn/src/fixtures.rs"]
mod fixtures;
