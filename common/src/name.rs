//! Names of functions, namespaces and agents. Owns their syntax, so that a subject token never contains a dot or a wildcard.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A DNS-1123 label: 1 to 63 of `a-z`, `0-9` and `-`, beginning and ending with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Not a DNS-1123 label.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{name}` is not a valid name: use 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit")]
pub struct InvalidName {
    /// The text, truncated to 100 characters.
    pub name: String,
}

impl Name {
    /// Maximum length of a name, characters (RFC 1123).
    pub const MAX_LENGTH: usize = 63;

    /// Parses a name.
    ///
    /// # Errors
    /// If `text` is not a DNS-1123 label.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
        let text = text.into();
        let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = text.as_bytes();
        let inner = bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
        if inner && edge(bytes.first()) && edge(bytes.last()) && bytes.len() <= Self::MAX_LENGTH {
            Ok(Self(text))
        } else {
            Err(InvalidName { name: text.chars().take(100).collect() })
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for Name {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

impl JsonSchema for Name {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Name".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A DNS-1123 label.",
            "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
            "minLength": 1,
            "maxLength": Name::MAX_LENGTH
        })
    }
}

/// Identity of a function: namespace and name of its ScalingPolicy, written `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct FunctionId {
    /// Namespace of the function.
    pub namespace: Name,
    /// Name of the function's ScalingPolicy.
    #[serde(rename = "function")]
    pub name: Name,
}

impl FunctionId {
    /// Default namespace.
    pub const DEFAULT_NAMESPACE: &'static str = "default";

    /// The function `name` in `namespace`.
    #[must_use]
    pub fn new(namespace: Name, name: Name) -> Self {
        Self { namespace, name }
    }

    /// The two tokens of a subject or a key: `namespace.name`.
    #[must_use]
    pub fn tokens(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }
}

impl fmt::Display for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl std::str::FromStr for FunctionId {
    type Err = InvalidName;
    /// Parses `namespace/name`, or `name` in the namespace `default`.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (namespace, name) = text.split_once('/').unwrap_or((Self::DEFAULT_NAMESPACE, text));
        Ok(Self { namespace: Name::new(namespace)?, name: Name::new(name)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, valid: bool) {
        assert_eq!(Name::new(text).is_ok(), valid, "{text}");
    }

    #[test]
    fn only_dns_labels_are_names() {
        check("fibonacci-python", true);
        check("a", true);
        check("0", true);
        check(&"a".repeat(63), true);
        for bad in ["", "-a", "a-", "A", "a.b", "a b", "a*", ">", "ä", "a\0", &"a".repeat(64)] {
            check(bad, false);
        }
    }

    #[test]
    fn an_invalid_name_is_quoted_in_the_error() {
        let error = Name::new("Fib.One").expect_err("capital and dot");
        assert!(error.to_string().contains("`Fib.One`"), "{error}");
    }

    #[test]
    fn a_function_without_namespace_is_in_default() {
        assert_eq!("fib".parse::<FunctionId>().expect("valid").to_string(), "default/fib");
        assert_eq!("prod/fib".parse::<FunctionId>().expect("valid").tokens(), "prod.fib");
        assert!("a/b/c".parse::<FunctionId>().is_err());
    }
}
