//! Functions of a suite. Owns their description: profile, gateway, objective and bounds.

use std::fmt;
use std::sync::Arc;

use qscale_common::name::Name;
use qscale_common::policy::{Bounds, Objective};
use qscale_common::units::Allocation;
use qscale_common::workload::Rate;
use qscale_sim::{FunctionProfile, Gateway, Nodes, profiles};
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, Serialize};

/// One function of a suite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionEntry {
    /// Its name.
    pub name: Name,
    /// Profile, by name or in full.
    pub profile: Profile,
    /// Requests a second for a workload rate of 1.
    pub rate: Rate,
    /// Gateway limits.
    #[serde(default)]
    pub gateway: Gateway,
    /// Objective.
    #[serde(default)]
    pub objective: Objective,
    /// Bounds of the allocation.
    #[serde(default)]
    pub bounds: Bounds,
    /// Initial allocation.
    pub start: Allocation,
    /// Nodes for this function alone; unlimited if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Nodes>,
}

/// A profile, by name or in full.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile(pub Arc<FunctionProfile>);

impl Serialize for Profile {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Profile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ProfileVisitor;
        impl<'de> serde::de::Visitor<'de> for ProfileVisitor {
            type Value = Profile;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a profile, or a profile")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Profile, E> {
                profiles::by_name(name).map(|profile| Profile(Arc::new(profile))).map_err(E::custom)
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Profile, A::Error> {
                FunctionProfile::deserialize(MapAccessDeserializer::new(map)).map(|profile| Profile(Arc::new(profile)))
            }
        }
        deserializer.deserialize_any(ProfileVisitor)
    }
}
