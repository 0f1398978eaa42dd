//! State that survives a restart: functions, desired allocations and the highest lease. Owns the file, which is
//! replaced atomically. Blocks.

use std::path::Path;

use anyhow::Context;
use qscale_common::platform::FunctionSpec;
use qscale_common::runtime::lock::LockedFolder;
use qscale_common::runtime::private;
use qscale_common::units::Allocation;
use serde::{Deserialize, Serialize};

/// Version of the file's format; another is refused.
const VERSION: u32 = 1;
const FILE: &str = "state.json";

/// The state folder, held by one platform at a time.
#[derive(Debug)]
pub struct PlatformStateDir(LockedFolder);

/// Content of the state file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    version: u32,
    /// Highest lease of any write.
    pub highest_lease: u64,
    /// The functions.
    pub functions: Vec<SavedFunction>,
}

/// A function with its desired allocation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedFunction {
    /// Function file.
    pub spec: FunctionSpec,
    /// Desired allocation.
    pub desired: Allocation,
}

impl Saved {
    /// State with these functions and this highest lease.
    #[must_use]
    pub fn new(highest_lease: u64, functions: Vec<SavedFunction>) -> Self {
        Self { version: VERSION, highest_lease, functions }
    }
}

impl PlatformStateDir {
    /// Locks the folder `path`, creating it if necessary.
    ///
    /// # Errors
    /// When it cannot be created, is not private to this user, or another platform uses it.
    pub fn take(path: &Path) -> anyhow::Result<Self> {
        LockedFolder::take("state_dir", path).map(Self)
    }

    /// Absolute path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Loads the saved state; empty for a new folder.
    ///
    /// # Errors
    /// When the file cannot be read or has another version; it is not overwritten then.
    pub fn load(&self) -> anyhow::Result<Saved> {
        let path = self.path().join(FILE);
        let Some(text) = private::read(&path)? else { return Ok(Saved::new(0, Vec::new())) };
        let saved: Saved =
            serde_json::from_str(&text).with_context(|| format!("{} is not a valid state file; repair or remove it", path.display()))?;
        anyhow::ensure!(
            saved.version == VERSION,
            "{} has version {}, this platform reads version {VERSION}",
            path.display(),
            saved.version
        );
        Ok(saved)
    }

    /// Saves `saved`. After a crash the file holds either the old or the new state.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, saved: &Saved) -> anyhow::Result<()> {
        self.replace(FILE, &serde_json::to_vec_pretty(saved)?)
    }

    /// Replaces the file `name` in the folder atomically and durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        private::write(&self.path().join(name), content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qscale_common::document::Format;

    #[test]
    fn saved_state_is_loaded_and_a_folder_is_locked() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let state = PlatformStateDir::take(&folder.path().join("state")).expect("free");
        assert_eq!(state.load().expect("empty").functions, []);
        let spec = FunctionSpec::parse("name = \"f\"\ncommand = [\"x\"]", Format::Toml).expect("valid");
        let saved = Saved::new(7, vec![SavedFunction { spec, desired: Allocation::new(3, 100, 64) }]);
        state.save(&saved).expect("written");
        assert_eq!(state.load().expect("readable"), saved);
        assert!(PlatformStateDir::take(state.path()).expect_err("taken").to_string().contains("in use by another process"));
    }

    #[test]
    fn a_file_of_another_version_is_refused_and_kept() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let state = PlatformStateDir::take(folder.path()).expect("free");
        state.replace(FILE, br#"{"version": 2, "highest_lease": 0, "functions": []}"#).expect("written");
        assert!(state.load().expect_err("newer").to_string().contains("version 2"));
    }
}
