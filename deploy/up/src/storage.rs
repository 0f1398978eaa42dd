//! Storage of the streams. Owns the needed and the free space; must not create anything or ask the nats-server.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use qscale_common::name::Name;
use qscale_common::runtime::{nats_accounts, provision};
use qscale_common::text::mebibytes;

/// Free space below which a disk counts as full, bytes: nats-server could not write for long.
pub const DISK_FULL: u64 = 16 << 20;

/// Storage for streams, buckets and the model store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Most that all of them together take, bytes.
    pub full: u64,
    /// Most that those take that do not exist yet, bytes. Existing ones got their storage when they were created.
    pub needed: u64,
    /// Free storage, bytes; `None` if it is unknown.
    pub free: Option<u64>,
    /// Existing folder whose file system holds them.
    pub folder: PathBuf,
}

impl Storage {
    /// Storage in the nats-server's folder `store`, which may be missing, with a stream for each of `agents`.
    pub fn measure(store: &Path, agents: &[Name]) -> Self {
        let streams = streams_folder(store);
        let storage = provision::storage(agents);
        let missing = storage.iter().filter(|(name, _)| !streams.join(name).is_dir());
        let folder = store.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new(".")).to_owned();
        Self {
            full: storage.iter().map(|(_, bytes)| bytes).sum(),
            needed: missing.map(|(_, bytes)| bytes).sum(),
            free: free_bytes(&folder),
            folder,
        }
    }

    /// Needed and free space, if less is free than needed.
    pub fn shortage(&self) -> Option<String> {
        let free = self.free.filter(|free| *free < self.needed)?;
        Some(format!("new streams need {} in {}, {} are free", mebibytes(self.needed), self.folder.display(), mebibytes(free)))
    }

    /// # Errors
    /// If less is free than needed; names both.
    pub fn check(&self) -> anyhow::Result<()> {
        match self.shortage() {
            Some(shortage) => Err(anyhow!("{shortage}; free some space, or choose another --state-dir")),
            None => Ok(()),
        }
    }
}

/// Folder of the services' streams in the nats-server's folder `store`.
pub(crate) fn streams_folder(store: &Path) -> PathBuf {
    store.join("jetstream").join(nats_accounts::SERVICES).join("streams")
}

/// Free space of the disk of `folder` for this user, bytes; `None` if it cannot be read.
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let path = CString::new(folder.as_os_str().as_bytes()).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path is NUL-terminated and outlives the call; statvfs initialises the struct if it returns 0.
    let found = unsafe { (libc::statvfs(path.as_ptr(), found.as_mut_ptr()) == 0).then(|| found.assume_init()) }?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_streams_need_no_storage() {
        let folder = qscale_tests::Folder::new("storage");
        let store = folder.path().join("nats/store");
        let agents = ["dqn", "hpa"].map(|agent| Name::new(agent).expect("valid"));
        let new = Storage::measure(&store, &agents);
        assert!(new.needed == new.full && new.folder == folder.path() && new.free.is_some(), "{new:?}");
        assert!(new.needed > Storage::measure(&store, &agents[..1]).needed);
        for (name, _) in provision::storage(&agents[..1]) {
            std::fs::create_dir_all(store.join("jetstream/QSCALE/streams").join(name)).expect("created");
        }
        assert_eq!(Storage::measure(&store, &agents[..1]).needed, 0);
        let with_another = Storage::measure(&store, &agents);
        assert!((1..new.needed).contains(&with_another.needed), "{with_another:?}");
    }

    #[test]
    fn too_little_storage_is_refused_with_both_amounts() {
        let storage = |needed, free| Storage { full: 100 << 20, needed, free, folder: PathBuf::from("/state") };
        let error = storage(100 << 20, Some(99 << 20)).check().expect_err("refused").to_string();
        assert!(["100 MiB", "99 MiB", "/state", "--state-dir"].iter().all(|part| error.contains(part)), "{error}");
        for enough in [storage(100 << 20, Some(100 << 20)), storage(0, Some(0)), storage(100 << 20, None)] {
            assert!(enough.check().is_ok(), "{enough:?}");
        }
    }

    #[test]
    fn free_space_is_known_for_an_existing_folder() {
        assert!(free_bytes(Path::new("/")).is_some());
        assert_eq!(free_bytes(Path::new("/nowhere/at/all")), None);
    }
}
