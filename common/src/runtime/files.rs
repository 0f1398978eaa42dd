//! Documents in files. Owns the limit of their size; [`crate::document`] parses them.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;

use crate::document::Format;

/// Maximum size of a document, bytes: above that of any profile.
const MAX_BYTES: u64 = 1 << 20;

/// Reads a document, and its format by the extension of its name.
///
/// # Errors
/// If the file cannot be read, is longer than 1 MiB, is not UTF-8, or has another extension.
pub fn read_document(path: &Path) -> anyhow::Result<(String, Format)> {
    let format = Format::of(path)?;
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
    let read = read.with_context(|| format!("failed to read {}", path.display()))?;
    anyhow::ensure!(read as u64 <= MAX_BYTES, "{}: longer than {MAX_BYTES} bytes", path.display());
    Ok((text, format))
}
