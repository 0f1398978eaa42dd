//! The objects of one kind, kept up to date by a watch. Owns the watch and the time up to which the objects are known to be current; must not write.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::reflector::{self, Lookup, ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio_util::task::AbortOnDropHandle;

use super::apis;
use crate::name::{FunctionId, Name};
use crate::runtime::clock;
use crate::time::Timestamp;

/// Pause before a watch that ended with an error is started again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Seconds after which the server ends a watch, which is then continued. A connection that is lost without notice is noticed 5 s later.
const WATCH_SECONDS: u32 = 30;

/// Objects of one kind.
pub struct Cache<K: Cached> {
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
pub trait Cached: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}

impl<K> Cached for K where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K: Cached> Cache<K> {
    /// Follows the objects of a kind in `namespaces`, or in all if there are none, as `reduce` leaves them. One cache for each namespace.
    pub fn follow_all(client: &Client, namespaces: &[Name], reduce: fn(&mut K)) -> Vec<Self>
    where
        K: Resource<Scope = NamespaceResourceScope>,
    {
        apis(client, namespaces).into_iter().map(|api| Self::follow(api, reduce)).collect()
    }

    /// Follows the objects of `api`, as `reduce` leaves them.
    pub fn follow(api: Api<K>, reduce: fn(&mut K)) -> Self {
        let (store, mut writer) = reflector::store();
        let watch = Arc::new(Mutex::new(Watch::Starting(None)));
        let state = Arc::clone(&watch);
        let set = move |next: Watch| *state.lock().unwrap_or_else(PoisonError::into_inner) = next;
        let follow = async move {
            loop {
                let mut events = watcher(api.clone(), watcher::Config::default().timeout(WATCH_SECONDS)).boxed();
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

    /// Waits until the objects were listed once.
    pub async fn listed(&self) {
        // The writer is part of the task, which lives as long as this cache.
        let _listed = self.store.wait_until_ready().await;
    }

    /// An object, if it is known and its watch is not broken.
    #[must_use]
    pub fn get(&self, id: &FunctionId) -> Option<Arc<K>> {
        let is_current = matches!(*self.watch.lock().unwrap_or_else(PoisonError::into_inner), Watch::Current);
        is_current.then(|| self.store.get(&ObjectRef::new(id.name.as_str()).within(id.namespace.as_str()))).flatten()
    }

    /// The objects.
    ///
    /// # Errors
    /// If none were read yet, or the watch is broken, with the reason.
    pub fn current(&self) -> Result<Vec<Arc<K>>, String> {
        match &*self.watch.lock().unwrap_or_else(PoisonError::into_inner) {
            Watch::Current => Ok(self.store.state()),
            Watch::Starting(Some(error)) | Watch::Broken(_, error) => Err(error.clone()),
            Watch::Starting(None) => Err(not_listed::<K>()),
        }
    }

    /// The objects, and the time up to which they are current.
    ///
    /// # Errors
    /// If none were read yet, with the reason.
    pub fn objects(&self) -> Result<(Vec<Arc<K>>, Timestamp), String> {
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match watch {
            Watch::Starting(error) => Err(error.unwrap_or_else(not_listed::<K>)),
            Watch::Current => Ok((self.store.state(), clock::now())),
            Watch::Broken(at, error) => {
                tracing::debug!(kind = %<K as Resource>::plural(&()), error, "a watch is broken");
                Ok((self.store.state(), at))
            }
        }
    }
}

fn not_listed<K: Cached>() -> String {
    format!("{} were not listed yet", <K as Resource>::plural(&()))
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
