//! Workers that compute while the network is served. Owns the bounds on running and waiting requests.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::request_error::RequestError;

/// A bounded number of workers with a bounded FIFO queue.
#[derive(Debug, Clone)]
pub struct Workers {
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
    queue: usize,
}

impl Workers {
    /// `workers` concurrent requests, at least one, and `queue` waiting requests.
    #[must_use]
    pub fn new(workers: usize, queue: usize) -> Self {
        let workers = workers.clamp(1, Semaphore::MAX_PERMITS / 2);
        let queue = queue.min(Semaphore::MAX_PERMITS / 2);
        Self { running: Arc::new(Semaphore::new(workers)), admitted: Arc::new(Semaphore::new(workers + queue)), queue }
    }

    /// Runs `work` on a worker thread as soon as one is free. Dropping the future before then removes the request from
    /// the queue; started work runs to its end and holds its worker until then.
    ///
    /// # Errors
    /// When the queue is full, the work fails, or its worker is lost.
    pub async fn run<R, W>(&self, work: W) -> Result<R, RequestError>
    where
        R: Send + 'static,
        W: FnOnce() -> Result<R, RequestError> + Send + 'static,
    {
        let place = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| RequestError::Busy { waiting: self.queue })?;
        let worker = Arc::clone(&self.running).acquire_owned().await.map_err(|_| RequestError::WorkerLost)?;
        let done = tokio::task::spawn_blocking(move || {
            let _held_to_the_end = (place, worker);
            work()
        });
        done.await.unwrap_or(Err(RequestError::WorkerLost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn a_request_beyond_the_queue_is_refused_and_the_rest_is_served() {
        let workers = Workers::new(1, 1);
        let (release, held) = mpsc::channel::<()>();
        let running = tokio::spawn({
            let workers = workers.clone();
            async move { workers.run(move || Ok(held.recv().is_ok())).await }
        });
        let waiting = tokio::spawn({
            let workers = workers.clone();
            async move { workers.run(|| Ok(true)).await }
        });
        while workers.admitted.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(workers.run(|| Ok(())).await, Err(RequestError::Busy { waiting: 1 }));
        release.send(()).expect("the worker waits for it");
        assert_eq!(running.await.expect("no panic"), Ok(true));
        assert_eq!(waiting.await.expect("no panic"), Ok(true));
    }

    #[tokio::test]
    async fn work_that_panics_costs_its_own_reply_only() {
        let workers = Workers::new(1, 1);
        assert_eq!(workers.run(|| -> Result<(), RequestError> { panic!("on purpose") }).await, Err(RequestError::WorkerLost));
        assert_eq!(workers.run(|| Ok(7)).await, Ok(7));
    }
}
