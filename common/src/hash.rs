//! Hashing and mixing that is the same on every machine and in every version. Owns FNV-1a and splitmix64; must not be
//! used where an attacker chooses the input.

/// FNV-1a (Fowler, Noll and Vo) of 64 bits over `values`, which are bytes, or words taken whole: finds accidents, proves nothing.
#[must_use]
pub fn fnv1a<T: Into<u64>>(values: impl IntoIterator<Item = T>) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    values.into_iter().fold(OFFSET, |hash, value| (hash ^ value.into()).wrapping_mul(PRIME))
}

/// One round of splitmix64 (Steele, Lea and Flood, OOPSLA 2014): neighbouring numbers give numbers that have nothing in common.
#[must_use]
pub fn splitmix64(number: u64) -> u64 {
    let mut x = number.wrapping_add(GOLDEN_RATIO);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Seed of the random stream that `parts` name within the run of `seed`: a round of splitmix64 for each.
#[must_use]
pub fn stream_seed(seed: u64, parts: impl IntoIterator<Item = u64>) -> u64 {
    parts.into_iter().fold(splitmix64(seed), |mixed, part| splitmix64(mixed ^ part))
}

/// 2^64 over the golden ratio: its multiples spread evenly.
pub const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_gives_the_values_of_the_reference() {
        // The first three numbers of Vigna's splitmix64.c from state 0.
        assert_eq!(splitmix64(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(splitmix64(GOLDEN_RATIO), 0x6e78_9e6a_a1b9_65f4);
        assert_eq!(splitmix64(GOLDEN_RATIO.wrapping_mul(2)), 0x06c4_5d18_8009_454f);
        assert_eq!(stream_seed(1, [2, 3]), splitmix64(splitmix64(splitmix64(1) ^ 2) ^ 3));
    }

    #[test]
    fn known_values_of_the_reference_are_met() {
        assert_eq!(fnv1a(*b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(*b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(*b"foobar"), 0x8594_4171_f739_67e8);
    }
}
