//! Bounds of an allocation. Owns inclusive ranges and clamping.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Allocation, Mebibytes, Millicores, Replicas};

/// An inclusive range; the minimum never exceeds the maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "RawRange<T>")]
#[schemars(with = "RawRange<T>", rename = "RangeOf{T}")]
#[serde(bound(deserialize = "T: Deserialize<'de> + Copy + Ord + fmt::Display"))]
pub struct Range<T> {
    min: T,
    max: T,
}

#[derive(Deserialize, JsonSchema)]
#[serde(expecting = "a range with `min` and `max`")]
#[schemars(rename = "RangeOf{T}")]
#[schemars(description = "An inclusive range.")]
struct RawRange<T> {
    /// Minimum.
    min: T,
    /// Maximum.
    max: T,
}

impl<T: Copy + Ord + fmt::Display> Range<T> {
    /// From `min` to `max`.
    ///
    /// # Errors
    /// If `min` is above `max`.
    pub fn new(min: T, max: T) -> Result<Self, String> {
        if min <= max { Ok(Self { min, max }) } else { Err(format!("min = {min}, must be at most max = {max}")) }
    }

    /// Minimum.
    #[must_use]
    pub fn min(&self) -> T {
        self.min
    }

    /// Maximum.
    #[must_use]
    pub fn max(&self) -> T {
        self.max
    }

    /// `value`, clamped to the range.
    #[must_use]
    pub fn clamp(&self, value: T) -> T {
        value.clamp(self.min, self.max)
    }

    /// Whether `value` is within the range.
    #[must_use]
    pub fn contains(&self, value: T) -> bool {
        self.min <= value && value <= self.max
    }
}

impl<T: Copy + Ord + fmt::Display> TryFrom<RawRange<T>> for Range<T> {
    type Error = String;
    fn try_from(raw: RawRange<T>) -> Result<Self, String> {
        Self::new(raw.min, raw.max)
    }
}

/// Bounds of the allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Bounds {
    /// Replicas; a minimum of 0 allows scaling to zero.
    pub replicas: Range<Replicas>,
    /// CPU of one replica, thousandths of a core.
    pub cpu_millicores: Range<Millicores>,
    /// Memory of one replica, MiB.
    pub memory_mib: Range<Mebibytes>,
}

impl Default for Bounds {
    /// 1 to 10 replicas of 100m to one core and 64 MiB to 1 GiB.
    fn default() -> Self {
        Self {
            replicas: Range { min: Replicas(1), max: Replicas(10) },
            cpu_millicores: Range { min: Millicores(100), max: Millicores(1000) },
            memory_mib: Range { min: Mebibytes(64), max: Mebibytes(1024) },
        }
    }
}

impl Bounds {
    /// `wanted`, clamped to the bounds.
    #[must_use]
    pub fn clamp(&self, wanted: Allocation) -> Allocation {
        Allocation {
            replicas: self.replicas.clamp(wanted.replicas),
            cpu_millicores: self.cpu_millicores.clamp(wanted.cpu_millicores),
            memory_mib: self.memory_mib.clamp(wanted.memory_mib),
        }
    }

    /// Whether `allocation` is within the bounds.
    #[must_use]
    pub fn contain(&self, allocation: Allocation) -> bool {
        self.clamp(allocation) == allocation
    }

    /// Largest allowed allocation.
    #[must_use]
    pub fn largest(&self) -> Allocation {
        Allocation { replicas: self.replicas.max, cpu_millicores: self.cpu_millicores.max, memory_mib: self.memory_mib.max }
    }
}
