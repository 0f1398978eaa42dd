//! Counts and sums of one tick, as integers so that running sums never drift, and their compact form in memory.

use crate::scrape::LATENCY_BUCKETS;

/// A sum over ticks. The latency buckets follow the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// Requests that arrived: at the ingress, or at the replicas if no ingress was ever read.
    Arrived,
    /// Milliseconds covered by readings of arrivals.
    ArrivedMs,
    /// Successful requests.
    Completed,
    /// Requests that failed at or before a replica.
    Failed,
    /// Milliseconds covered by readings of completions.
    AnsweredMs,
    /// Milliseconds over which those completions were measured, summed over replicas.
    AnsweredReplicaMs,
    /// CPU time of all replicas, microseconds.
    CpuUs,
    /// Milliseconds over which that CPU time was measured, summed over replicas.
    CpuReplicaMs,
    /// Milliseconds covered by readings of CPU.
    CpuMs,
    /// CFS periods of all replicas.
    Periods,
    /// Those in which a replica was throttled.
    Throttled,
    /// Thousandths of requests in flight, summed over readings.
    InFlightMilli,
    /// Ready replicas in those readings.
    InFlightReplicas,
    /// Thousandths of requests queued, summed over readings.
    QueuedMilli,
    /// Those readings.
    QueuedReadings,
    /// Working set, KiB, summed over readings of replicas.
    MemoryKib,
    /// Those readings.
    MemoryReadings,
    /// Replicas that became ready.
    Starts,
    /// Restarts after a crash.
    Restarts,
    /// OOM kills.
    OomKills,
}

const FIELDS: usize = Field::OomKills as usize + 1;
const ENTRIES: usize = FIELDS + LATENCY_BUCKETS;
const _: () = assert!(ENTRIES <= 64, "one bit of the mask for each entry");

/// Maximum of an entry, far above any real count; 60 ticks of it add up without overflow, and exactly in `f64`.
const MOST: u64 = (1 << 47) - 1;

/// Counts and sums over a tick, or over several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counts([u64; ENTRIES]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; ENTRIES])
    }
}

impl Counts {
    /// The number in `field`.
    pub fn get(&self, field: Field) -> u64 {
        self.0[field as usize]
    }

    /// Adds to one tick's `field`, up to the maximum of an entry.
    pub fn add(&mut self, field: Field, amount: u64) {
        let entry = &mut self.0[field as usize];
        *entry = entry.saturating_add(amount).min(MOST);
    }

    /// Adds a tick's requests of each bucket of latency.
    pub fn add_latency(&mut self, buckets: impl IntoIterator<Item = u64>) {
        for (entry, amount) in self.0[FIELDS..].iter_mut().zip(buckets) {
            *entry = entry.saturating_add(amount).min(MOST);
        }
    }

    /// Requests in each bucket of latency.
    pub fn latency(&self) -> &[u64; LATENCY_BUCKETS] {
        self.0.last_chunk().expect("the buckets are the last entries")
    }

    /// Adds another tick to this sum.
    pub fn include(&mut self, tick: &Counts) {
        for (sum, amount) in self.0.iter_mut().zip(tick.0) {
            *sum += amount;
        }
    }

    /// Appends the compact form: one bit for each entry that is not zero, then those entries, seven bits a byte.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        let mask = self.0.iter().enumerate().fold(0u64, |mask, (index, &entry)| mask | (u64::from(entry != 0) << index));
        push_varint(mask, bytes);
        for &entry in self.0.iter().filter(|&&entry| entry != 0) {
            push_varint(entry, bytes);
        }
    }

    /// Takes an earlier tick, whose compact form begins at `at`, out of this sum; returns where the next one begins.
    pub fn exclude(&mut self, bytes: &[u8], at: usize) -> usize {
        visit(bytes, at, |index, amount| self.0[index] -= amount)
    }

    /// The tick whose compact form begins at `at`.
    pub fn decode(bytes: &[u8], at: usize) -> Self {
        let mut counts = Self::default();
        visit(bytes, at, |index, amount| counts.0[index] = amount);
        counts
    }
}

fn push_varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn read_varint(bytes: &[u8], at: &mut usize) -> u64 {
    let mut value = 0;
    let mut shift = 0;
    loop {
        let byte = bytes[*at];
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
        shift += 7;
    }
}

fn visit(bytes: &[u8], mut at: usize, mut entry: impl FnMut(usize, u64)) -> usize {
    let mut mask = read_varint(bytes, &mut at);
    while mask != 0 {
        let index = mask.trailing_zeros() as usize;
        entry(index, read_varint(bytes, &mut at));
        mask &= mask - 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_compact_form_round_trips(entries in prop::collection::vec(prop_oneof![Just(0), 0..=MOST], ENTRIES), before in 0usize..9) {
            let counts = Counts(entries.try_into().expect("as many as there are"));
            let mut bytes = vec![0xff; before];
            counts.encode(&mut bytes);
            prop_assert_eq!(&Counts::decode(&bytes, before), &counts);
            let mut sum = counts.clone();
            prop_assert_eq!(sum.exclude(&bytes, before), bytes.len());
            prop_assert_eq!(sum, Counts::default());
        }
    }

    #[test]
    fn an_empty_tick_takes_one_byte() {
        let mut bytes = Vec::new();
        Counts::default().encode(&mut bytes);
        assert_eq!(bytes.len(), 1);
    }

    #[test]
    fn garbage_stops_at_the_most_that_an_entry_holds() {
        let mut counts = Counts::default();
        counts.add(Field::CpuUs, u64::MAX);
        counts.add(Field::CpuUs, u64::MAX);
        assert_eq!(counts.get(Field::CpuUs), MOST);
    }
}
