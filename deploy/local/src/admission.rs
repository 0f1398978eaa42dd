//! Assignment of requests to replicas. Owns the bounded queue of a function and the load of its replicas; must not know HTTP, read a clock
//! or do I/O.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Most memory of the heads of waiting requests, bytes: above 13 KiB for each of the 10,000 that wait by default.
const MAX_HEADS: usize = 128 << 20;

/// Queue and ready replicas of one function. A request that is assigned to a replica receives its `T`.
#[derive(Debug)]
pub struct RequestQueue<T>(Mutex<Inner<T>>);

#[derive(Debug)]
struct Inner<T> {
    places: Vec<Place<T>>,
    waiting: VecDeque<Waiter<T>>,
    concurrency: u32,
    bound: usize,
    next_place: u64,
    next_waiter: u64,
    /// Index at which the search for the least loaded place begins, for round robin among equals.
    turn: usize,
    shut: bool,
    /// Memory left for the heads of waiting requests, bytes.
    heads: Arc<Semaphore>,
}

#[derive(Debug)]
struct Place<T> {
    id: PlaceId,
    target: T,
    load: Arc<AtomicU32>,
}

#[derive(Debug)]
struct Waiter<T> {
    number: u64,
    sender: oneshot::Sender<Permit<T>>,
}

/// Identifies one opening of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaceId(u64);

/// Outcome of admitting a request.
#[derive(Debug)]
pub enum Admitted<T: Clone> {
    /// Assigned to this replica.
    Now(Permit<T>),
    /// Waiting in the queue.
    Queued(Waiting<T>),
    /// The queue is full.
    Full,
    /// The function is being removed.
    Shut,
}

/// Place of a request at a replica; released when dropped.
#[derive(Debug)]
pub struct Permit<T> {
    target: T,
    place: PlaceId,
    load: Arc<AtomicU32>,
    release: Option<Arc<dyn Release>>,
}

/// Place of a request in the queue; released when dropped.
#[derive(Debug)]
pub struct Waiting<T: Clone> {
    admission: Arc<RequestQueue<T>>,
    number: u64,
    receiver: oneshot::Receiver<Permit<T>>,
    _head: OwnedSemaphorePermit,
}

/// Hides the bounds of `T` from [`Permit`], so that its `Drop` needs none.
trait Release: std::fmt::Debug + Send + Sync {
    fn dispatch(self: Arc<Self>);
}

impl<T: Clone + std::fmt::Debug + Send + Sync + 'static> Release for RequestQueue<T> {
    fn dispatch(self: Arc<Self>) {
        self.hand_out();
    }
}

impl<T: Clone + std::fmt::Debug + Send + Sync + 'static> RequestQueue<T> {
    /// No replicas; `concurrency` requests per replica (0: no limit) and at most `bound` waiting requests.
    #[must_use]
    pub fn new(concurrency: u32, bound: u32) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inner {
            places: Vec::new(),
            waiting: VecDeque::new(),
            concurrency,
            bound: bound as usize,
            next_place: 0,
            next_waiter: 0,
            turn: 0,
            shut: false,
            heads: Arc::new(Semaphore::new(MAX_HEADS)),
        })))
    }

    /// Admits a request with a head of `head_bytes` to the least loaded replica with room, or queues it if there is none or others already wait.
    #[must_use]
    pub fn admit(self: &Arc<Self>, head_bytes: usize) -> Admitted<T> {
        let mut inner = self.lock();
        if inner.shut {
            return Admitted::Shut;
        }
        if inner.waiting.is_empty()
            && let Some(permit) = inner.place(self)
        {
            return Admitted::Now(permit);
        }
        if inner.waiting.len() >= inner.bound {
            return Admitted::Full;
        }
        let bytes = u32::try_from(head_bytes).unwrap_or(u32::MAX);
        let Ok(head) = Arc::clone(&inner.heads).try_acquire_many_owned(bytes) else { return Admitted::Full };
        let (sender, receiver) = oneshot::channel();
        let number = inner.next_waiter;
        inner.next_waiter += 1;
        inner.waiting.push_back(Waiter { number, sender });
        Admitted::Queued(Waiting { admission: Arc::clone(self), number, receiver, _head: head })
    }

    /// Adds a replica; `load` counts its requests.
    pub fn open(self: &Arc<Self>, target: T, load: Arc<AtomicU32>) -> PlaceId {
        let mut inner = self.lock();
        let id = PlaceId(inner.next_place);
        inner.next_place += 1;
        inner.places.push(Place { id, target, load });
        drop(inner);
        self.hand_out();
        id
    }

    /// Removes a replica; its requests keep their place. Idempotent.
    pub fn close(&self, id: PlaceId) {
        self.lock().places.retain(|place| place.id != id);
    }

    /// Changes the limits. Waiting requests keep their place in the queue.
    pub fn configure(self: &Arc<Self>, concurrency: u32, bound: u32) {
        let mut inner = self.lock();
        inner.concurrency = concurrency;
        inner.bound = bound as usize;
        drop(inner);
        self.hand_out();
    }

    /// Refuses all further requests and those that wait.
    pub fn shut(&self) {
        let mut inner = self.lock();
        inner.shut = true;
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        drop(waiting);
    }

    /// Number of waiting requests.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Assigns free places to the requests that have waited longest.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let mut inner = self.lock();
            if inner.waiting.is_empty() {
                return;
            }
            let Some(permit) = inner.place(self) else { return };
            let Some(waiter) = inner.waiting.pop_front() else { return };
            drop(inner);
            if let Err(mut permit) = waiter.sender.send(permit) {
                // The request gave up. The next iteration assigns the place, so its release must not start another loop.
                permit.release = None;
            }
        }
    }
}

impl<T> RequestQueue<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone + std::fmt::Debug + Send + Sync + 'static> Inner<T> {
    /// Takes a place at the least loaded replica with room.
    fn place(&mut self, admission: &Arc<RequestQueue<T>>) -> Option<Permit<T>> {
        let loads = self.places.iter().map(|place| place.load.load(Ordering::Relaxed));
        let index = least_loaded(loads, self.concurrency, self.turn)?;
        self.turn = index + 1;
        let place = &self.places[index];
        place.load.fetch_add(1, Ordering::Relaxed);
        let release: Arc<dyn Release> = Arc::<RequestQueue<T>>::clone(admission);
        Some(Permit { target: place.target.clone(), place: place.id, load: Arc::clone(&place.load), release: Some(release) })
    }
}

/// Index of the smallest load below `concurrency` (0: no limit); among equals the first at or after `turn`, cyclically.
fn least_loaded(loads: impl ExactSizeIterator<Item = u32>, concurrency: u32, turn: usize) -> Option<usize> {
    let count = loads.len();
    loads
        .enumerate()
        .filter(|(_, load)| concurrency == 0 || *load < concurrency)
        .min_by_key(|(index, load)| (*load, (index + count - turn % count) % count))
        .map(|(index, _)| index)
}

impl<T> Permit<T> {
    /// Opening of the replica that the place belongs to.
    #[must_use]
    pub fn place(&self) -> PlaceId {
        self.place
    }
}

impl<T> Deref for Permit<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.target
    }
}

impl<T> Drop for Permit<T> {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Release);
        if let Some(release) = self.release.take() {
            release.dispatch();
        }
    }
}

impl<T: Clone> Waiting<T> {
    /// Waits for a place; `None` if the function is removed first.
    pub async fn granted(&mut self) -> Option<Permit<T>> {
        (&mut self.receiver).await.ok()
    }
}

impl<T: Clone> Drop for Waiting<T> {
    fn drop(&mut self) {
        let mut inner = self.admission.lock();
        let found = inner.waiting.binary_search_by_key(&self.number, |waiter| waiter.number);
        let waiter = found.ok().and_then(|index| inner.waiting.remove(index));
        drop(inner);
        drop(waiter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Arc<AtomicU32> {
        Arc::default()
    }

    #[track_caller]
    fn now(admission: &Arc<RequestQueue<char>>) -> Permit<char> {
        match admission.admit(1) {
            Admitted::Now(permit) => permit,
            other => panic!("not admitted: {other:?}"),
        }
    }

    #[track_caller]
    fn queued(admission: &Arc<RequestQueue<char>>) -> Waiting<char> {
        match admission.admit(1) {
            Admitted::Queued(waiting) => waiting,
            other => panic!("not queued: {other:?}"),
        }
    }

    #[test]
    fn the_least_loaded_replica_is_chosen_and_equals_take_turns() {
        assert_eq!(least_loaded([3, 1, 2].into_iter(), 0, 0), Some(1));
        assert_eq!(least_loaded([1, 1, 1].into_iter(), 0, 2), Some(2));
        assert_eq!(least_loaded([1, 1, 1].into_iter(), 0, 3), Some(0));
        assert_eq!(least_loaded([2, 2].into_iter(), 2, 0), None);
        assert_eq!(least_loaded([].into_iter(), 0, 7), None);
        let admission = RequestQueue::new(0, 0);
        admission.open('a', load());
        admission.open('b', load());
        let taken: Vec<_> = (0..4).map(|_| now(&admission)).collect();
        assert_eq!(taken.iter().map(|permit| **permit).collect::<String>(), "abab");
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_first_come_first_served() {
        let admission = RequestQueue::new(1, 2);
        admission.open('a', load());
        let first = now(&admission);
        let (mut second, mut third) = (queued(&admission), queued(&admission));
        assert!(matches!(admission.admit(1), Admitted::Full));
        drop(first);
        let second = second.granted().await.expect("its turn");
        assert_eq!(admission.queued(), 1);
        drop(second);
        assert!(third.granted().await.is_some());
    }

    #[tokio::test]
    async fn the_memory_of_waiting_heads_is_bounded() {
        let admission = RequestQueue::new(1, 10);
        admission.open('a', load());
        let first = now(&admission);
        let large = |share: usize| admission.admit(MAX_HEADS / share);
        let Admitted::Queued(mut second) = large(2) else { panic!("not queued") };
        let third = large(2);
        assert!(matches!(third, Admitted::Queued(_)) && matches!(large(4), Admitted::Full));
        drop(third);
        assert!(matches!(large(4), Admitted::Queued(_)), "a request that gives up leaves its room");
        drop(first);
        let second = second.granted().await.expect("its turn");
        assert!(matches!(large(2), Admitted::Queued(_)));
        drop(second);
        assert!(matches!(admission.admit(usize::MAX), Admitted::Now(_)), "a request that does not wait needs no room");
    }

    #[tokio::test]
    async fn a_request_that_gives_up_leaves_the_queue_and_its_place() {
        let admission = RequestQueue::new(1, 10);
        let busy = load();
        admission.open('a', Arc::clone(&busy));
        let first = now(&admission);
        let (gone, mut third) = (queued(&admission), queued(&admission));
        drop(gone);
        assert_eq!(admission.queued(), 1);
        drop(first);
        drop(third.granted().await.expect("its turn"));
        let (first, granted_and_gone) = (now(&admission), queued(&admission));
        drop(first);
        drop(granted_and_gone);
        assert_eq!(busy.load(Ordering::Relaxed), 0);
        drop(now(&admission));
    }

    #[tokio::test]
    async fn a_closed_replica_gets_no_request_and_an_opened_one_serves_the_queue() {
        let admission = RequestQueue::new(1, 10);
        let place = admission.open('a', load());
        let held = now(&admission);
        admission.close(place);
        let mut waiting = queued(&admission);
        drop(held);
        assert_eq!(admission.queued(), 1);
        admission.open('b', load());
        assert_eq!(*waiting.granted().await.expect("the new replica"), 'b');
    }

    #[tokio::test]
    async fn shutting_refuses_waiting_and_new_requests() {
        let admission = RequestQueue::new(1, 10);
        let mut waiting = queued(&admission);
        admission.shut();
        assert!(waiting.granted().await.is_none());
        assert!(matches!(admission.admit(1), Admitted::Shut));
    }
}
