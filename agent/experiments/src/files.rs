//! Files of results.

use std::path::Path;

use anyhow::Context as _;

/// Replaces a file atomically, so that readers never see a partial one.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let part = path.with_extension("part");
    std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, path)).with_context(|| format!("failed to write {}", path.display()))
}
