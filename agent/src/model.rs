//! Source of the learned policy's model: a file, or the model store, which is watched. Owns reading, checking and
//! refusing models; must not decide. It only offers models: the answering loop swaps them between two States.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use qscale_common::name::Name;
use qscale_common::runtime::files;
use qscale_common::runtime::models::{ModelReader, ReadError};
use qscale_dqn::checkpoint::MAX_BYTES;
use qscale_dqn::tree::policy::TreePolicy;
use qscale_dqn::{Checkpoint, DecisionTree, Dqn, Tabular, registry, tree};
use qscale_rl::device::cpu;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::metrics::AgentMetrics;

/// Delay before a failed read of the store is retried.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Interval at which the version in use is read again, in case a notice of a change was lost.
const RESYNC_INTERVAL: Duration = Duration::from_secs(10);

/// Source of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ModelSource {
    /// A file.
    File(PathBuf),
    /// The version in use of this name in the model store.
    Store(Name),
}

/// Prefix of a model of the store.
const STORE: &str = "store:";

impl TryFrom<String> for ModelSource {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.strip_prefix(STORE) {
            Some(name) => Name::new(name).map(Self::Store).map_err(|error| format!("model = `{text}`: {error}")),
            None if text.is_empty() => Err("model is empty; set the path of a file or store:NAME, or remove it".into()),
            None => Ok(Self::File(text.into())),
        }
    }
}

impl From<ModelSource> for String {
    fn from(source: ModelSource) -> Self {
        match source {
            ModelSource::File(path) => path.display().to_string(),
            ModelSource::Store(name) => format!("{STORE}{name}"),
        }
    }
}

/// The checkpoint in a file.
///
/// # Errors
/// If the file cannot be read or is not a checkpoint.
pub fn load(path: &Path) -> anyhow::Result<Checkpoint> {
    let read = files::open(path, MAX_BYTES as u64).and_then(|file| Ok(Checkpoint::read(file)?));
    read.with_context(|| format!("model = {}", path.display()))
}

/// The table of tabular Q-learning in a file.
///
/// # Errors
/// If the file cannot be read or is not a table.
pub fn table(path: &Path) -> anyhow::Result<Tabular> {
    let bytes = files::read_bytes(path, MAX_BYTES as u64).with_context(|| format!("model = {}", path.display()))?;
    Tabular::from_json(&bytes).map_err(|reason| anyhow!("model = {}: not a table of tabular-q: {reason}", path.display()))
}

/// The decision tree in a file.
///
/// # Errors
/// If the file cannot be read, or is not a decision tree for this program.
pub fn tree(path: &Path) -> anyhow::Result<TreePolicy> {
    let read = files::read_bytes(path, tree::MAX_BYTES as u64).and_then(|bytes| Ok(DecisionTree::parse(&bytes)?));
    read.map(TreePolicy::new).with_context(|| format!("model = {}", path.display()))
}

/// Offer of the store.
#[derive(Clone, Default)]
pub enum ModelOffer {
    /// Unknown yet.
    #[default]
    Pending,
    /// No usable model, with the reason.
    Nothing(String),
    /// A network.
    Model {
        /// Its name in the store.
        name: Name,
        /// Its version.
        version: u64,
        /// The network.
        dqn: Arc<Dqn>,
    },
}

/// Watches the version in use of `name`, and offers it with `params` once it is read and checked. Runs in the
/// background until `token` is cancelled.
pub(crate) fn follow(
    reader: ModelReader,
    name: Name,
    params: Value,
    metrics: AgentMetrics,
    token: CancellationToken,
) -> watch::Receiver<ModelOffer> {
    let (offers, receiver) = watch::channel(ModelOffer::Pending);
    let follower = Follower { reader, name, params, metrics, offers, offered: None, refused: None };
    tokio::spawn(async move {
        tokio::select! {
            () = token.cancelled() => {}
            () = follower.run() => {}
        }
    });
    receiver
}

struct Follower {
    reader: ModelReader,
    name: Name,
    params: Value,
    metrics: AgentMetrics,
    offers: watch::Sender<ModelOffer>,
    /// The version offered last, and the one refused since.
    offered: Option<u64>,
    refused: Option<u64>,
}

/// Why a version is not offered.
enum Unusable {
    /// Never usable.
    Refused(String),
    /// Not readable now.
    Later(anyhow::Error),
}

impl Follower {
    async fn run(mut self) {
        let mut last = String::new();
        while !self.offers.is_closed() {
            if let Err(error) = self.watch().await {
                let error = format!("{error:#}");
                if error != last {
                    warn!(model = %self.name, error, "failed to read the model store; retrying");
                    last = error;
                }
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }

    /// Reads the version in use and watches its changes for a while.
    async fn watch(&mut self) -> anyhow::Result<()> {
        let store = self.reader.clone();
        // The subscription starts first, so that a change in between is seen twice rather than missed.
        let mut changes = store.changes(&self.name).await?;
        self.refresh(&store).await?;
        let end = tokio::time::sleep(RESYNC_INTERVAL);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return Ok(()),
                changed = changes.next() => {
                    changed?;
                    // A refused version that is put in use again is checked again.
                    self.refused = None;
                    self.refresh(&store).await?;
                }
            }
        }
    }

    async fn refresh(&mut self, store: &ModelReader) -> anyhow::Result<()> {
        let Some(version) = store.in_use(&self.name).await?.map(|in_use| in_use.version) else {
            self.offer_nothing(format!("no version of {} is in use in the store", self.name));
            return Ok(());
        };
        if self.offered == Some(version) {
            self.refused = None;
        } else if self.refused != Some(version) {
            self.check(store, version).await?;
        }
        Ok(())
    }

    async fn check(&mut self, store: &ModelReader, version: u64) -> anyhow::Result<()> {
        match self.read(store, version).await {
            Ok(dqn) => {
                self.metrics.model(true);
                (self.offered, self.refused) = (Some(version), None);
                self.offers.send_replace(ModelOffer::Model { name: self.name.clone(), version, dqn: Arc::new(dqn) });
            }
            Err(Unusable::Refused(reason)) => {
                self.metrics.model(false);
                self.refused = Some(version);
                warn!(model = %self.name, version, reason, "refused a model; the previous one stays in use");
                self.offer_nothing(format!("{}@{version} is refused: {reason}", self.name));
            }
            Err(Unusable::Later(error)) => return Err(error),
        }
        Ok(())
    }

    async fn read(&self, store: &ModelReader, version: u64) -> Result<Dqn, Unusable> {
        let bytes = store.read(&self.name, version, MAX_BYTES).await.map_err(|error| match error {
            // A replica of the store may know the pointer before the version.
            ReadError::Unavailable(_) | ReadError::Absent => {
                Unusable::Later(anyhow::Error::new(error).context(format!("model {}@{version}", self.name)))
            }
            ReadError::TooLong(..) | ReadError::Damaged(_) | ReadError::Untrusted(_) => Unusable::Refused(error.to_string()),
        })?;
        let params = self.params.clone();
        // Checking megabytes of weights must not delay answers.
        let checked = tokio::task::spawn_blocking(move || {
            let checkpoint = Checkpoint::from_bytes(&bytes).map_err(|error| error.to_string())?;
            registry::learned(&params, Some(&checkpoint), &cpu()).map_err(|error| error.to_string())
        });
        checked.await.unwrap_or_else(|error| Err(format!("the check failed: {error}"))).map_err(Unusable::Refused)
    }

    /// Offers nothing, if there was no offer yet.
    fn offer_nothing(&self, why: String) {
        self.offers.send_if_modified(|offer| {
            let first = matches!(offer, ModelOffer::Pending);
            if first {
                *offer = ModelOffer::Nothing(why);
            }
            first
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_file_or_a_stored_name_and_survives_a_round_trip() {
        let read = |text: &str| ModelSource::try_from(text.to_owned());
        assert_eq!(read("store:mine"), Ok(ModelSource::Store(Name::new("mine").expect("valid"))));
        assert_eq!(read("models/mine.dqn"), Ok(ModelSource::File("models/mine.dqn".into())));
        for text in ["store:mine", "models/mine.dqn"] {
            assert_eq!(String::from(read(text).expect("valid")), text);
        }
        assert!(read("").expect_err("empty").contains("store:NAME"));
        assert!(read("store:").expect_err("no name").contains("model = `store:`"));
    }

    #[test]
    fn a_file_that_is_no_checkpoint_is_refused_with_its_name() {
        let folder = qscale_tests::Folder::new("model");
        let path = folder.path().join("broken.dqn");
        std::fs::write(&path, b"PK").expect("written");
        let error = format!("{:#}", load(&path).expect_err("broken"));
        assert!(error.contains("broken.dqn") && error.contains("not a checkpoint"), "{error}");
        let error = format!("{:#}", load(Path::new("/dev/zero")).expect_err("endless"));
        assert!(error.contains("67108864"), "{error}");
    }
}
