//! Recordings of the streams as evidence: read them back, decide on them again, compare policies by simulating the
//! recorded arrivals, explain a decision.
//!
//! [`recording`] reads from the bus; [`replay`], [`compare`] and [`explain`] each pair a reading step with a pure
//! analysis. Nothing here writes to the bus, prints, or changes an allocation.

pub mod compare;
pub mod explain;
#[cfg(test)]
mod fixtures;
pub mod policy;
pub mod recording;
pub mod replay;
pub mod session;

pub use compare::{ComparisonSpec, MetricsComparison, RecordedScenario};
pub use explain::Explanation;
pub use policy::{AgentSettings, ReplayPolicy, SettingsFolder};
pub use recording::{NothingRecorded, Period, RecordedStates};
pub use replay::FunctionReplay;
pub use session::{ReplaySession, ReplayedAnswer};
