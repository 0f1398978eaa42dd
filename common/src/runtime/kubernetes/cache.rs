//! The objects of one kind, kept up to date by a watch. Owns the watch and the time up to which the objects are known to be current.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use kube::runtime::reflector::{self, Lookup, Store};
use kube::runtime::watcher;
use kube::{Api, Resource};
use qscale_common::runtime::clock;
use qscale_common::time::Timestamp;
use serde::de::DeserializeOwned;
use tokio_util::task::AbortOnDropHandle;

/// Pause before a watch that ended with an error is started again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Objects of one kind.
pub(super) struct Cache<K: Cached> {
    store: Store<K>,
    watch: Arc<Mutex<Watch>>,
    _task: AbortOnDropHandle<()>,
}

/// State of a watch.
#[derive(Debug, Clone)]
enum Watch {
    /// Nothing was read yet; the last error.
    Starting(Option<String>),
    Current,
    /// It ended at this time, with this error.
    Broken(Timestamp, String),
}

/// An object that can be followed.
pub(super) trait Cached:
    Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Cached for K where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K: Cached> Cache<K> {
    /// Follows the objects of `apis`, as `reduce` leaves them.
    pub(super) fn follow(api: Api<K>, reduce: fn(&mut K)) -> Self {
        let (store, mut writer) = reflector::store();
        let watch = Arc::new(Mutex::new(Watch::Starting(None)));
        let state = Arc::clone(&watch);
        let set = move |next: Watch| *state.lock().unwrap_or_else(PoisonError::into_inner) = next;
        let follow = async move {
            loop {
                let mut events = watcher(api.clone(), watcher::Config::default()).boxed();
                let mut known = false;
                while let Some(event) = events.next().await {
                    match event {
                        Ok(event) => {
                            known |= matches!(event, watcher::Event::InitDone);
                            writer.apply_watcher_event(&reduced(event, reduce));
                            if known {
                                set(Watch::Current);
                            }
                        }
                        Err(error) => {
                            let error = format!("{:#}", anyhow::Error::new(error));
                            set(if known || !writer.as_reader().is_empty() {
                                Watch::Broken(clock::now(), error)
                            } else {
                                Watch::Starting(Some(error))
                            });
                            break;
                        }
                    }
                }
                // A new watch begins with a list, so that it is known whether the objects are current.
                tokio::time::sleep(RETRY_DELAY).await;
            }
        };
        Self { store, watch, _task: AbortOnDropHandle::new(tokio::spawn(follow)) }
    }

    /// The objects, and the time up to which they are current.
    ///
    /// # Errors
    /// If none were read yet, with the reason.
    pub(super) fn objects(&self) -> Result<(Vec<Arc<K>>, Timestamp), String> {
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match watch {
            Watch::Starting(error) => Err(error.unwrap_or_else(|| format!("{} were not listed yet", <K as Resource>::plural(&())))),
            Watch::Current => Ok((self.store.state(), clock::now())),
            Watch::Broken(at, error) => {
                tracing::debug!(kind = %<K as Resource>::plural(&()), error, "a watch is broken");
                Ok((self.store.state(), at))
            }
        }
    }
}

fn reduced<K>(event: watcher::Event<K>, reduce: fn(&mut K)) -> watcher::Event<K> {
    let reduced = |mut object: K| {
        reduce(&mut object);
        object
    };
    match event {
        watcher::Event::Apply(object) => watcher::Event::Apply(reduced(object)),
        watcher::Event::InitApply(object) => watcher::Event::InitApply(reduced(object)),
        other => other,
    }
}
