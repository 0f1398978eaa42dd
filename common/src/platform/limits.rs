//! Limits of a platform per function. Owns the bounds; does not know the caller.

use serde::{Deserialize, Serialize};

use crate::policy::{Bounds, Range};
use crate::range::OutOfRange;
use crate::units::{Allocation, Mebibytes, Millicores, Replicas};

/// Limits per function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Functions on the platform.
    pub functions: u32,
    /// Replicas of one function.
    pub replicas: Replicas,
    /// CPU of one replica.
    pub cpu_millicores: Millicores,
    /// Memory of one replica.
    pub memory_mib: Mebibytes,
}

impl Default for Limits {
    fn default() -> Self {
        Self { functions: 1_000, replicas: Replicas(100), cpu_millicores: Millicores(64_000), memory_mib: Mebibytes(1 << 20) }
    }
}

impl Limits {
    /// Minimum CPU of a replica: the kernel's smallest quota, 1 ms, per period of 100 ms.
    pub const MIN_CPU: Millicores = Millicores(10);
    /// Minimum memory of a replica: below it no process starts.
    pub const MIN_MEMORY: Mebibytes = Mebibytes(4);

    /// Allocations that can be applied on a machine of this capacity.
    #[must_use]
    pub fn bounds(&self, capacity: NodeCapacity) -> Bounds {
        fn range<T: Copy + Ord + std::fmt::Display>(min: T, limit: T, capacity: Option<T>) -> Range<T> {
            let most = capacity.map_or(limit, |capacity| capacity.min(limit));
            Range::new(min, most.max(min)).expect("the maximum is at least the minimum")
        }
        Bounds {
            replicas: range(Replicas(0), self.replicas, None),
            cpu_millicores: range(Self::MIN_CPU, self.cpu_millicores, capacity.cpu_millicores),
            memory_mib: range(Self::MIN_MEMORY, self.memory_mib, capacity.memory_mib),
        }
    }

    /// Checks `allocation` against these limits; `prefix` precedes the field in the error.
    ///
    /// # Errors
    /// Names the first field outside its range, its value and the range.
    pub fn check(&self, allocation: &Allocation, prefix: &str) -> Result<(), OutOfRange> {
        let within = |field: &str, value: u32, min: u32, max: u32| {
            let range = format_args!("{min} to {max}");
            if (min..=max).contains(&value) { Ok(()) } else { Err(OutOfRange::new(&format!("{prefix}{field}"), value, range)) }
        };
        within("replicas", allocation.replicas.0, 0, self.replicas.0)?;
        within("cpu_millicores", allocation.cpu_millicores.0, Self::MIN_CPU.0, self.cpu_millicores.0)?;
        within("memory_mib", allocation.memory_mib.0, Self::MIN_MEMORY.0, self.memory_mib.0)
    }
}

/// Capacity of the machine of a platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeCapacity {
    /// CPU; `None` if unknown.
    pub cpu_millicores: Option<Millicores>,
    /// Memory; `None` if unknown.
    pub memory_mib: Option<Mebibytes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_end_at_the_capacity_of_the_machine() {
        let limits = Limits::default();
        let small = NodeCapacity { cpu_millicores: Some(Millicores(2000)), memory_mib: None };
        let bounds = limits.bounds(small);
        assert_eq!((bounds.cpu_millicores.min(), bounds.cpu_millicores.max()), (Limits::MIN_CPU, Millicores(2000)));
        assert_eq!(bounds.memory_mib.max(), limits.memory_mib);
        let none = NodeCapacity { cpu_millicores: Some(Millicores(0)), memory_mib: None };
        assert_eq!(limits.bounds(none).cpu_millicores.max(), Limits::MIN_CPU);
        assert_eq!(limits.bounds(NodeCapacity::default()).largest(), Allocation::new(100, 64_000, 1 << 20));
    }

    #[test]
    fn an_allocation_outside_its_bounds_is_named() {
        let limits = Limits::default();
        assert_eq!(limits.check(&Allocation::new(0, 10, 4), ""), Ok(()));
        let error = limits.check(&Allocation::new(101, 10, 4), "allocation.").expect_err("too many");
        assert_eq!(error.to_string(), "allocation.replicas = 101, must be 0 to 100");
        assert!(limits.check(&Allocation::new(1, 9, 4), "").is_err());
        assert!(limits.check(&Allocation::new(1, 10, 3), "").is_err());
    }
}
