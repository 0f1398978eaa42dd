//! Texts that people write: policies, function files, configuration. Owns turning one into a value with errors that name the field.

use std::path::Path;

use config::{File, FileFormat};
use serde::de::DeserializeOwned;
use thiserror::Error;

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// TOML.
    Toml,
    /// YAML.
    Yaml,
}

impl Format {
    /// The format that a file's ending tells.
    ///
    /// # Errors
    /// When the ending is none of `.toml`, `.yaml`, `.yml` and `.json`.
    pub fn of(path: &Path) -> Result<Self, DocumentError> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("toml") => Ok(Self::Toml),
            Some("yaml" | "yml") => Ok(Self::Yaml),
            Some("json") => Ok(Self::Json),
            _ => Err(DocumentError::Syntax(format!("`{}`: a file must end in .toml, .yaml, .yml or .json", path.display()))),
        }
    }
}

/// Why a document could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DocumentError {
    /// Not of its format.
    #[error("{0}")]
    Syntax(String),
    /// A field of the wrong type or outside its range, or one that is missing.
    #[error("field `{field}`: {reason}")]
    Field {
        /// Path of the field, `.` for the document as a whole.
        field: String,
        /// Value and range.
        reason: String,
    },
    /// Keys that the document does not have.
    #[error("unknown key{} {}", if .0.len() == 1 { "" } else { "s" }, .0.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", "))]
    UnknownKeys(Vec<String>),
}

/// Reads `text`; a key that `T` does not have is an error.
///
/// # Errors
/// Names the field and what is wrong with it, or the keys that are unknown.
pub fn parse<T: DeserializeOwned>(text: &str, format: Format) -> Result<T, DocumentError> {
    let value = match format {
        Format::Json => serde_json::from_str(text).map_err(|error| DocumentError::Syntax(error.to_string()))?,
        Format::Toml => tree(text, FileFormat::Toml)?,
        Format::Yaml => tree(text, FileFormat::Yaml)?,
    };
    from_value(value)
}

/// Reads JSON `bytes`, ignoring keys that `T` does not have.
///
/// # Errors
/// Names the field and what is wrong with it.
pub fn parse_json_lenient<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DocumentError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut deserializer).map_err(field_error)
}

/// Reads a value that was already taken apart; a key that `T` does not have is an error.
///
/// # Errors
/// Names the field and what is wrong with it, or the keys that are unknown.
pub fn from_value<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, DocumentError> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let result = serde_ignored::deserialize(tracked, |path| unknown.push(path.to_string()));
    let parsed = result.map_err(|error: serde_json::Error| DocumentError::Field { field: track.path().to_string(), reason: error.to_string() })?;
    if unknown.is_empty() { Ok(parsed) } else { Err(DocumentError::UnknownKeys(unknown)) }
}

fn tree(text: &str, format: FileFormat) -> Result<serde_json::Value, DocumentError> {
    let syntax = |error: config::ConfigError| DocumentError::Syntax(error.to_string());
    let built = config::Config::builder().add_source(File::from_str(text, format)).build().map_err(syntax)?;
    built.try_deserialize().map_err(syntax)
}

fn field_error(error: serde_path_to_error::Error<serde_json::Error>) -> DocumentError {
    DocumentError::Field { field: error.path().to_string(), reason: error.into_inner().to_string() }
}
