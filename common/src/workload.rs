//! What arrives when: patterns of load, gaps between requests, and traces of real functions, as iterators of arrivals in time order.
//!
//! Pure: it reads no file, socket or clock, and draws from the generator that it is given. The load generator sends what it
//! yields; the simulator lives through it. For one seed the sequence is the same everywhere.

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
pub use pattern::{Form, Pattern};
pub use rate::Rate;

/// The random generator of workloads: small, fast, and the same sequence on every platform and in every version.
pub type WorkloadRng = rand::rngs::Xoshiro256PlusPlus;
