//! Units of allocation. Owns the newtypes that keep replicas, CPU and memory apart; must not know where they are applied.

use std::fmt;
use std::num::ParseIntError;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::range::{OutOfRange, check_number};

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident, $suffix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{}", $suffix), self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = ParseIntError;
            fn from_str(text: &str) -> Result<Self, ParseIntError> {
                text.strip_suffix($suffix).unwrap_or(text).parse().map(Self)
            }
        }

        impl $name {
            /// This amount times `factor`, rounded and saturating; 0 for a factor of NaN.
            #[must_use]
            pub fn scaled(self, factor: f64) -> Self {
                Self((f64::from(self.0) * factor).round() as u32)
            }
        }
    };
}

unit!(
    /// A number of replicas of one function.
    Replicas,
    ""
);
unit!(
    /// CPU of one replica in thousandths of a core: 1000 is one whole core.
    Millicores,
    "m"
);
unit!(
    /// Memory of one replica in MiB (2^20 bytes).
    Mebibytes,
    "Mi"
);

impl Replicas {
    /// Largest number of replicas in a State: several times the pods of the largest clusters.
    pub const MAX: Self = Self(1_000_000);
}

impl Millicores {
    /// Largest CPU of one replica in a State: 1,024 cores.
    pub const MAX: Self = Self(1_024_000);

    /// Whole cores, as a fraction.
    #[must_use]
    pub fn cores(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

impl Mebibytes {
    /// Largest memory of one replica in a State: 64 TiB, the address space of a process on most machines.
    pub const MAX: Self = Self(1 << 26);

    /// The same amount in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.0) << 20
    }

    /// `bytes` in MiB, rounded up.
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Self {
        Self(u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX))
    }

    /// The same amount in GiB, as a fraction.
    #[must_use]
    pub fn gibibytes(self) -> f64 {
        f64::from(self.0) / 1024.0
    }
}

/// Replicas of a function with CPU and memory of each. Absolute, never a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Allocation {
    /// Number of replicas; with 0 the function starts on its next request.
    pub replicas: Replicas,
    /// CPU limit of each replica, thousandths of a core.
    pub cpu_millicores: Millicores,
    /// Memory limit of each replica, MiB.
    pub memory_mib: Mebibytes,
}

impl Allocation {
    /// An allocation of `replicas`, each with `cpu` thousandths of a core and `memory` MiB.
    #[must_use]
    pub fn new(replicas: u32, cpu: u32, memory: u32) -> Self {
        Self { replicas: Replicas(replicas), cpu_millicores: Millicores(cpu), memory_mib: Mebibytes(memory) }
    }

    /// Whether any part is smaller than that of `other`.
    #[must_use]
    pub fn is_lower_than(&self, other: Self) -> bool {
        self.replicas < other.replicas || self.cpu_millicores < other.cpu_millicores || self.memory_mib < other.memory_mib
    }

    /// CPU of all replicas together, in cores.
    #[must_use]
    pub fn total_cores(&self) -> f64 {
        f64::from(self.replicas.0) * self.cpu_millicores.cores()
    }

    /// Memory of all replicas together, in GiB.
    #[must_use]
    pub fn total_gibibytes(&self) -> f64 {
        f64::from(self.replicas.0) * self.memory_mib.gibibytes()
    }
}

impl Allocation {
    /// Checks each part against the largest that can be; `prefix` precedes the field in the error.
    ///
    /// # Errors
    /// Names the first field above its maximum, its value and the range.
    pub fn check(&self, prefix: &str) -> Result<(), OutOfRange> {
        let Self { replicas, cpu_millicores, memory_mib } = *self;
        let within = |field: &str, value: u32, max: u32| check_number(&format!("{prefix}{field}"), value, 0, max);
        within("replicas", replicas.0, Replicas::MAX.0)?;
        within("cpu_millicores", cpu_millicores.0, Millicores::MAX.0)?;
        within("memory_mib", memory_mib.0, Mebibytes::MAX.0)
    }
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {} {}", self.replicas, self.cpu_millicores, self.memory_mib)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_up_to_whole_mebibytes() {
        assert_eq!(Mebibytes::from_bytes(1), Mebibytes(1));
        assert_eq!(Mebibytes::from_bytes(1 << 20), Mebibytes(1));
        assert_eq!(Mebibytes::from_bytes((1 << 20) + 1), Mebibytes(2));
        assert_eq!(Mebibytes::from_bytes(u64::MAX), Mebibytes(u32::MAX));
    }

    #[test]
    fn units_are_read_from_text() {
        assert_eq!("250m".parse(), Ok(Millicores(250)));
        assert_eq!("256Mi".parse(), Ok(Mebibytes(256)));
        assert_eq!("3".parse(), Ok(Replicas(3)));
        assert!("3m".parse::<Mebibytes>().is_err());
    }

    #[test]
    fn scaling_never_wraps() {
        assert_eq!(Millicores(u32::MAX).scaled(2.0), Millicores(u32::MAX));
        assert_eq!(Millicores(100).scaled(-1.0), Millicores(0));
        assert_eq!(Millicores(100).scaled(f64::NAN), Millicores(0));
    }
}
