//! Documents that people write: ScalingPolicies, function files, configuration. Owns parsing with errors that name the field.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use serde::de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use thiserror::Error;
use yaml_rust2::{Yaml, YamlLoader};

/// Maximum length of a document, bytes: the limit of one key of the policy bucket.
const MAX_TEXT: usize = 64 * 1024;
/// Maximum nesting of a document. ScalingPolicies have four levels.
const MAX_DEPTH: usize = 64;
/// Maximum number of aliases in a YAML document: too few to exhaust memory by repetition.
const MAX_ALIASES: usize = 8;
/// Maximum number of sections without a value.
const MAX_EMPTY_SECTIONS: usize = 64;
/// Byte order mark. An editor puts one at the beginning of each file, and so of each document of files that are put together.
const MARK: char = '\u{feff}';

/// Format of a document.
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
    /// Format by the extension of a file.
    ///
    /// # Errors
    /// If the extension is not `.toml`, `.yaml`, `.yml` or `.json`.
    pub fn of(path: &Path) -> Result<Self, DocumentError> {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
        match ending.as_deref() {
            Some("toml") => Ok(Self::Toml),
            Some("yaml" | "yml") => Ok(Self::Yaml),
            Some("json") => Ok(Self::Json),
            _ => Err(DocumentError::Syntax(format!("`{}`: a file must end in .toml, .yaml, .yml or .json", path.display()))),
        }
    }
}

/// Why a document was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DocumentError {
    /// Syntax error.
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
    /// Unknown keys.
    #[error("unknown key{} {}", if .0.len() == 1 { "" } else { "s" }, .0.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", "))]
    UnknownKeys(Vec<String>),
}

/// Format of a compressed file or an archive that begins with `head`.
#[must_use]
pub fn compression(head: &[u8]) -> Option<&'static str> {
    match head {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [b'P', b'K', 3, 4, ..] => Some("zip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Some("xz"),
        [b'7', b'z', 0xbc, 0xaf, ..] => Some("7z"),
        [b'R', b'a', b'r', b'!', 0x1a, 7] => Some("rar"),
        _ => None,
    }
}

/// One document of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentSection<'a> {
    /// Its line in the whole text, from 1.
    pub line: usize,
    /// The document.
    pub text: &'a str,
}

/// The documents of a text in order. A YAML text may hold several, which lines that begin with `---` separate; those without content are left out. Any other
/// text is one document, and one without content is an empty one.
#[must_use]
pub fn sections(text: &str, format: Format) -> Vec<DocumentSection<'_>> {
    if format != Format::Yaml {
        return vec![DocumentSection { line: 1, text }];
    }
    let mut sections = Vec::new();
    let (mut start, mut begin, mut offset) = (1, 0, 0);
    for (line, number) in text.split_inclusive('\n').zip(1..) {
        if let Some(marker) = marker(line) {
            sections.push(DocumentSection { line: start, text: &text[begin..offset] });
            (start, begin) = (number, offset + marker);
        }
        offset += line.len();
    }
    sections.push(DocumentSection { line: start, text: &text[begin..] });
    sections.retain(|section| has_content(section.text));
    if sections.is_empty() { vec![DocumentSection { line: 1, text: "" }] } else { sections }
}

/// Length of the marker with which a line begins or ends a YAML document, `---` or `...`; `None` if it does neither.
fn marker(line: &str) -> Option<usize> {
    let rest = line.trim_start_matches(MARK).strip_prefix("---").or_else(|| line.strip_prefix("..."))?;
    let alone = rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']);
    alone.then_some(line.len() - rest.len())
}

/// Whether a YAML document consists of more than comments and directives.
fn has_content(text: &str) -> bool {
    text.lines()
        .map(|line| line.trim_matches(|c: char| c.is_whitespace() || c == MARK))
        .any(|line| !line.is_empty() && !line.starts_with(['#', '%']))
}

/// Parses `text`; keys that `T` does not have are errors. A section without a value, such as one whose keys are all comments, has its defaults.
///
/// # Errors
/// Names the field and the error, or the unknown keys.
pub fn parse<T: DeserializeOwned>(text: &str, format: Format) -> Result<T, DocumentError> {
    if text.len() > MAX_TEXT {
        return Err(DocumentError::Syntax(format!("a document of {} bytes, at most {MAX_TEXT} are read", text.len())));
    }
    let value = parse_value(text, format)?;
    // JSON is parsed again from the text for the places of errors.
    let parsed = if format == Format::Json { read(&mut serde_json::Deserializer::from_str(text)) } else { read(&value) };
    or_default_sections(parsed, value)
}

/// Parses `text`, keys with values, without a type.
///
/// # Errors
/// If it is not such a text, or nests too deep.
pub fn parse_value(text: &str, format: Format) -> Result<Value, DocumentError> {
    let value = match format {
        Format::Json => {
            require_distinct_keys(text)?;
            serde_json::from_str(text).map_err(|error| DocumentError::Syntax(error.to_string()))?
        }
        Format::Toml => parse_toml(text)?,
        Format::Yaml => parse_yaml(text)?,
    };
    require_keys(&value)?;
    Ok(value)
}

/// Parses JSON `bytes`, ignoring unknown keys.
///
/// # Errors
/// Names the field and the error.
pub fn parse_json_lenient<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DocumentError> {
    let syntax = |error: serde_json::Error| DocumentError::Syntax(error.to_string());
    require_keys(&serde_json::from_slice(bytes).map_err(syntax)?)?;
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(bytes)).map_err(field_error)
}

/// Converts a parsed value; keys that `T` does not have are errors. A section without a value has its defaults.
///
/// # Errors
/// Names the field and the error, or the unknown keys.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, DocumentError> {
    require_keys(&value)?;
    or_default_sections(read(&value), value)
}

/// Reads keys with values, of which `tag` says which variant of an enum they describe; without it they describe the variant `default`. For
/// configuration that had one form before it had several.
///
/// # Errors
/// If the value is not keys with values.
pub fn with_default_tag<'de, D: Deserializer<'de>>(deserializer: D, tag: &str, default: &str) -> Result<Value, D::Error> {
    let mut tree = Map::deserialize(deserializer)?;
    tree.entry(tag).or_insert_with(|| default.into());
    Ok(Value::Object(tree))
}

/// Every document is a map; serde would also accept a list of a struct's field values.
fn require_keys(value: &Value) -> Result<(), DocumentError> {
    if value.is_object() { Ok(()) } else { Err(DocumentError::Field { field: ".".into(), reason: "must be keys with values".into() }) }
}

/// A value that is read and forgotten, unless a key of an object in it occurs twice: a [`Value`] would keep the last one.
struct DistinctKeys;

impl<'de> Deserialize<'de> for DistinctKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for DistinctKeys {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self, A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            if keys.contains(&key) {
                return Err(A::Error::custom(format_args!("duplicate field `{key}`")));
            }
            entries.next_value::<Self>()?;
            keys.insert(key);
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self, A::Error> {
        while elements.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

/// Refuses JSON with an object in which a key occurs twice.
fn require_distinct_keys(text: &str) -> Result<(), DocumentError> {
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize::<_, DistinctKeys>(&mut json)
        .map(drop)
        .map_err(|error| if error.inner().is_data() { field_error(error) } else { DocumentError::Syntax(error.into_inner().to_string()) })
}

fn read<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<T, DocumentError> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(deserializer, &mut track);
    let result = serde_ignored::deserialize(tracked, |path| unknown.push(path.to_string()));
    match result {
        Ok(parsed) if unknown.is_empty() => Ok(parsed),
        Ok(_) => Err(DocumentError::UnknownKeys(unknown)),
        // A missing key is often a misspelt one, so the error also lists unknown keys.
        Err(error) if !unknown.is_empty() => Err(DocumentError::Field {
            field: track.path().to_string(),
            reason: format!("{error}; {}", DocumentError::UnknownKeys(unknown)),
        }),
        Err(error) => Err(DocumentError::Field { field: track.path().to_string(), reason: error.to_string() }),
    }
}

/// `parsed`, the result of reading `value`; or, while it is the error that a section has no value, the result of reading it with an empty section.
fn or_default_sections<T: DeserializeOwned>(mut parsed: Result<T, DocumentError>, mut value: Value) -> Result<T, DocumentError> {
    for _ in 0..MAX_EMPTY_SECTIONS {
        let Err(DocumentError::Field { field, .. }) = &parsed else { break };
        let pointer = format!("/{}", field.replace(['.', '['], "/").replace(']', ""));
        let Some(section) = value.pointer_mut(&pointer).filter(|section| section.is_null()) else { break };
        *section = Value::Object(Map::new());
        let again = read(&value);
        if matches!(&again, Err(DocumentError::Field { field: same, .. }) if same == field) {
            break;
        }
        parsed = again;
    }
    parsed
}

fn parse_toml(text: &str) -> Result<Value, DocumentError> {
    refuse_unreadable(text)?;
    let table = text.parse::<toml::Table>().map_err(|error| DocumentError::Syntax(error.to_string()))?;
    toml_value(toml::Value::Table(table), "")
}

/// The value at `path`.
fn toml_value(value: toml::Value, path: &str) -> Result<Value, DocumentError> {
    Ok(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => finite(number, &number.to_string(), path)?,
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Datetime(instant) => instant.to_string().into(),
        toml::Value::Array(elements) => {
            let elements = elements.into_iter().enumerate().map(|(index, element)| toml_value(element, &format!("{path}[{index}]")));
            elements.collect::<Result<_, _>>()?
        }
        toml::Value::Table(table) => {
            let entries = table.into_iter().map(|(key, value)| {
                let value = toml_value(value, &below(path, &key))?;
                Ok((key, value))
            });
            Value::Object(entries.collect::<Result<_, _>>()?)
        }
    })
}

/// The only document with content of a text; keys with values if it has none.
fn parse_yaml(text: &str) -> Result<Value, DocumentError> {
    refuse_aliases(text)?;
    refuse_unreadable(text)?;
    let text = text.trim_start_matches(MARK).replace("\n\u{feff}", "\n");
    let mut documents = YamlLoader::load_from_str(&text).map_err(|error| DocumentError::Syntax(error.to_string()))?;
    documents.retain(|document| !matches!(document, Yaml::Null | Yaml::BadValue));
    match documents.as_slice() {
        [] => Ok(Value::Object(Map::new())),
        [only] => yaml_value(only, ""),
        several => Err(DocumentError::Syntax(format!("{} YAML documents, expected 1; write each into a file of its own", several.len()))),
    }
}

/// The value at `path`.
fn yaml_value(value: &Yaml, path: &str) -> Result<Value, DocumentError> {
    Ok(match value {
        Yaml::String(text) => text.as_str().into(),
        Yaml::Integer(number) => (*number).into(),
        // The parser keeps the text of a number; `.nan` and `.inf` do not parse as Rust's.
        Yaml::Real(number) => finite(number.parse().unwrap_or(f64::NAN), number, path)?,
        Yaml::Boolean(truth) => (*truth).into(),
        Yaml::Array(elements) => {
            let elements = elements.iter().enumerate().map(|(index, element)| yaml_value(element, &format!("{path}[{index}]")));
            elements.collect::<Result<_, _>>()?
        }
        Yaml::Hash(entries) => {
            let mut object = Map::new();
            for (key, value) in entries {
                let key = yaml_key(key, path)?;
                let value = yaml_value(value, &below(path, &key))?;
                if object.contains_key(&key) {
                    return Err(DocumentError::Field { field: below(path, &key), reason: "duplicate key".to_owned() });
                }
                object.insert(key, value);
            }
            Value::Object(object)
        }
        Yaml::Null => Value::Null,
        Yaml::Alias(_) | Yaml::BadValue => {
            return Err(DocumentError::Field { field: path.to_owned(), reason: "its value does not fit its tag or alias".to_owned() });
        }
    })
}

/// A key of the section at `path`, as text.
fn yaml_key(key: &Yaml, path: &str) -> Result<String, DocumentError> {
    match key {
        Yaml::String(key) | Yaml::Real(key) => Ok(key.clone()),
        Yaml::Integer(key) => Ok(key.to_string()),
        Yaml::Boolean(key) => Ok(key.to_string()),
        Yaml::Array(_) | Yaml::Hash(_) | Yaml::Alias(_) | Yaml::Null | Yaml::BadValue => {
            let field = if path.is_empty() { "." } else { path };
            Err(DocumentError::Field { field: field.to_owned(), reason: "each key must be text".to_owned() })
        }
    }
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A number written as `text`; JSON has no others.
fn finite(number: f64, text: &str, path: &str) -> Result<Value, DocumentError> {
    let error = || DocumentError::Field { field: path.to_owned(), reason: format!("{text}, must be a finite number") };
    serde_json::Number::from_f64(number).map(Value::Number).ok_or_else(error)
}

/// Refuses text that the parsers of TOML and YAML would misread.
fn refuse_unreadable(text: &str) -> Result<(), DocumentError> {
    // The YAML parser would take it for the end of the text.
    if let Some(line) = text.lines().position(|line| line.contains('\0')) {
        return Err(DocumentError::Syntax(format!("line {} contains a zero byte", line + 1)));
    }
    refuse_depth(text)
}

/// Refuses nested aliases, a few hundred bytes of which expand to more than the memory of a machine. A star within quotes counts as well: no document
/// comes near the limit.
fn refuse_aliases(text: &str) -> Result<(), DocumentError> {
    let begins = |pair: &[u8]| pair[1] == b'*' && (pair[0].is_ascii_whitespace() || b"[{,:".contains(&pair[0]));
    if text.as_bytes().windows(2).filter(|pair| begins(pair)).count() > MAX_ALIASES {
        return Err(DocumentError::Syntax(format!("a document with more than {MAX_ALIASES} aliases")));
    }
    Ok(())
}

/// Refuses nesting that would exhaust the stack of the TOML and YAML parsers, which have no limit. Brackets within quotes count as well:
/// no document comes near the limit.
fn refuse_depth(text: &str) -> Result<(), DocumentError> {
    let mut open: usize = 0;
    for line in text.lines().map(str::trim_start).filter(|line| !line.starts_with('#')) {
        let indicators = line.bytes().take_while(|byte| b"-? ".contains(byte)).filter(|byte| *byte != b' ').count();
        let dots = line.split([':', '=']).next().unwrap_or_default().matches('.').count();
        let mut deepest = indicators.max(dots);
        for byte in line.bytes() {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open = open.saturating_sub(1),
                _ => {}
            }
            deepest = deepest.max(open);
        }
        if deepest > MAX_DEPTH {
            return Err(DocumentError::Syntax(format!("a document that nests more than {MAX_DEPTH} deep")));
        }
    }
    Ok(())
}

fn field_error(error: serde_path_to_error::Error<serde_json::Error>) -> DocumentError {
    DocumentError::Field { field: error.path().to_string(), reason: error.into_inner().to_string() }
}
