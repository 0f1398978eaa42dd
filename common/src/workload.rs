//! Workloads: patterns of load, gaps between requests, and traces of real functions, as iterators of arrivals in time order.
//!
//! Pure: reads no file, socket or clock; the random generator is an argument. The load generator sends the arrivals,
//! the simulator processes them. The sequence depends only on the seed.

mod arrivals;
mod demand;
mod dispersion;
mod gaps;
mod minutes;
mod pattern;
mod rate;
pub mod trace;

pub use arrivals::{Arrival, Arrivals, Merge, Scale, Spread};
pub use demand::{Demand, DurationQuantiles, MemoryQuantiles, NotSorted};
pub use dispersion::Dispersion;
pub use gaps::{Gaps, PatternArrivals};
pub use minutes::{Iat, MinuteArrivals, MinuteCount};
pub use pattern::{Pattern, PatternSyntax};
pub use rate::Rate;

/// Random generator of workloads: small, fast, and equal on every platform and in every version.
pub type WorkloadRng = rand::rngs::Xoshiro256PlusPlus;
