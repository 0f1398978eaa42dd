//! Static sharing of functions among instances of a service.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::hash::fnv1a;
use crate::name::FunctionId;

/// Part of the functions that an instance serves. Instances with one `count` and every `index` below it share all functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Partition {
    /// Part of this instance, from 0.
    pub index: u32,
    /// Number of parts.
    pub count: NonZeroU32,
}

impl Default for Partition {
    fn default() -> Self {
        Self { index: 0, count: NonZeroU32::MIN }
    }
}

impl Partition {
    /// Whether `function` belongs to this part, by FNV-1a of its name.
    #[must_use]
    pub fn contains(&self, function: &FunctionId) -> bool {
        fnv1a(function.tokens().bytes()) % u64::from(self.count.get()) == u64::from(self.index)
    }

    /// Checks that the part exists.
    ///
    /// # Errors
    /// If the index is not below the count.
    pub fn check(&self) -> Result<(), String> {
        let Self { index, count } = self;
        if *index < count.get() { Ok(()) } else { Err(format!("partition.index = {index}, must be below partition.count = {count}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_share_all_functions_and_overlap_in_none() {
        let count = NonZeroU32::new(7).expect("not zero");
        for number in 0..500 {
            let function: FunctionId = format!("prod/f-{number}").parse().expect("valid");
            let parts = (0..7).filter(|&index| Partition { index, count }.contains(&function)).count();
            assert_eq!(parts, 1, "{function}");
        }
    }

    #[test]
    fn a_function_stays_in_its_part_for_ever() {
        let part = |name: &str| {
            let function = name.parse().expect("valid");
            (0..16).find(|&index| Partition { index, count: NonZeroU32::new(16).expect("not zero") }.contains(&function))
        };
        // FNV-1a 64 of `default.fibonacci`, computed by another implementation, modulo 16.
        assert_eq!(part("default/fibonacci"), Some(FIBONACCI_PART));
    }

    const FIBONACCI_PART: u32 = 4;
}
