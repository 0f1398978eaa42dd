//! Random numbers: a stream for each purpose. Owns seeds; must not know what is drawn.
//!
//! Common random numbers: a stream is selected by the seed of the run, the function and the purpose, and the n-th
//! request (start, scrape) uses the n-th draw whatever a policy does. Two policies with one seed have the same
//! arrivals, demands and starts.

use qscale_common::hash::stream_seed;
use qscale_common::workload::WorkloadRng;
use rand::SeedableRng;

/// Purpose of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Arrivals of requests.
    Arrivals,
    /// Demands of requests.
    Demands,
    /// Demands of starts.
    Starts,
    /// Lost scrapes.
    Scrapes,
    /// Draws of the policy.
    Policy,
    /// Times to a crash.
    Crashes,
}

/// The stream of `purpose` of function number `function` in the run of `seed`.
#[must_use]
pub fn stream(seed: u64, function: u64, purpose: Purpose) -> WorkloadRng {
    WorkloadRng::seed_from_u64(stream_seed(seed, [function, purpose as u64]))
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    const PURPOSES: [Purpose; 6] =
        [Purpose::Arrivals, Purpose::Demands, Purpose::Starts, Purpose::Scrapes, Purpose::Policy, Purpose::Crashes];

    #[test]
    fn streams_are_independent_and_reproducible() {
        let first = |seed, function, purpose| stream(seed, function, purpose).random::<u64>();
        let mut all = Vec::new();
        for seed in 0..4 {
            for function in 0..4 {
                for purpose in PURPOSES {
                    assert_eq!(first(seed, function, purpose), first(seed, function, purpose));
                    all.push(first(seed, function, purpose));
                }
            }
        }
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4 * 4 * PURPOSES.len());
    }
}
