//! Profiles as files. Owns the checks beyond their types.

use qscale_common::document::{self, DocumentError, Format};

use crate::profile::FunctionProfile;

impl FunctionProfile {
    /// Reads a profile.
    ///
    /// # Errors
    /// Names the field, its value and its range, or the keys that are unknown.
    pub fn read(text: &str, format: Format) -> Result<Self, DocumentError> {
        let profile: Self = document::parse(text, format)?;
        let field = |field: &str, reason: String| Err(DocumentError::Field { field: field.to_owned(), reason });
        if profile.name.trim().is_empty() {
            return field("name", "is empty".to_owned());
        }
        if profile.parallelism == 0 {
            return field("parallelism", "0 cores, must be at least 1".to_owned());
        }
        Ok(profile)
    }

    /// The profile as TOML, which [`FunctionProfile::read`] reads.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a profile is tables, texts and numbers")
    }

    /// The profile as JSON, which [`FunctionProfile::read`] reads.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a profile is objects, texts and numbers")
    }

    /// The same with another source.
    #[must_use]
    pub fn with_source(self, source: String) -> Self {
        Self { source, ..self }
    }
}
