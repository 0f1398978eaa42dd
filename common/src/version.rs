//! Version of messages and stored values. Owns its text and which versions are readable.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of a message, `major.minor`. New fields that an old reader may ignore, and new values of an enumeration, which it reads as `other`, increase the
/// minor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    /// Increased by changes that an old reader cannot understand.
    pub major: u16,
    /// Increased when fields or values are added.
    pub minor: u16,
}

impl Version {
    /// Version that this code writes.
    pub const CURRENT: Version = Version { major: 1, minor: 0 };
}

impl Default for Version {
    fn default() -> Self {
        Self::CURRENT
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl std::str::FromStr for Version {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (major, minor) = text.split_once('.')?;
            Some(Version { major: major.parse().ok()?, minor: minor.parse().ok()? })
        };
        parse().ok_or_else(|| format!("version `{text}` is not of the form major.minor"))
    }
}

impl Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let version = deserializer.deserialize_str(VersionText)?;
        if version.major == Version::CURRENT.major { Ok(version) } else { Err(serde::de::Error::custom(unknown_major(version))) }
    }
}

struct VersionText;

impl serde::de::Visitor<'_> for VersionText {
    type Value = Version;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a version in quotes such as \"{}\"", Version::CURRENT)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Version, E> {
        text.parse().map_err(E::custom)
    }
}

impl JsonSchema for Version {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Version".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "Version of the message, major.minor. A reader refuses a major version that it does not know.",
            "pattern": "^[0-9]+\\.[0-9]+$",
            "examples": [Version::CURRENT.to_string()]
        })
    }
}

fn unknown_major(found: Version) -> String {
    format!("message has version {found}, this reader knows version {}.x", Version::CURRENT.major)
}
