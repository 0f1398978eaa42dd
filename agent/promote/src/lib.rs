//! Fine-tuning: a model goes on learning from what was recorded of the functions that it serves, and what comes of it replaces it only through gates. Owns what a
//! recording teaches and what each gate asks for; reads no stream, stores no model and knows no clock: time is an argument.

pub mod experience;
pub mod gates;
pub mod ruling;
pub mod study;

pub use experience::{Experience, Lived, Skipped, Step, learn_from};
pub use gates::{Burn, Due, Gates, Look, Outcome, Rules, Said, Stage, Trial};
pub use ruling::{Compared, Estimate, Margins, Ruling, Shadowed};
pub use study::{MOST_RECORDED, Studied, Study, StudyError};

#[cfg(test)]
#[path = "../../dqn/src/sample.rs"]
mod sample;
