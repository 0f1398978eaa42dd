//! Limits of a platform per function. Owns the bounds; does not know the caller.

use serde::{Deserialize, Serialize};

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

#[cfg(test)]
mod tests {
    use super::*;

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
