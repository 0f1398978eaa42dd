//! Threads that stay: starting some at every tick would cost time and memory. Owns who does what next; must not know what is done.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use qscale_common::units::Allocation;

use crate::cell::Cell;

/// What is done with every function.
#[derive(Debug, Clone, Copy)]
pub(super) enum Job {
    /// It begins anew as in a run of this seed.
    Reset(u64),
    /// It lives through one tick.
    Step,
}

/// Functions that one thread works on at a time.
#[derive(Debug)]
pub(super) struct Batch {
    number: usize,
    /// The functions.
    pub cells: Vec<Cell>,
    wanted: Vec<Option<Allocation>>,
}

impl Batch {
    /// Batch `number` of all.
    pub fn new(number: usize, cells: Vec<Cell>) -> Self {
        Self { number, wanted: vec![None; cells.len()], cells }
    }

    /// What is wanted for each function in the next tick; nothing for those that are not named.
    pub fn want(&mut self, wanted: &[Option<Allocation>]) {
        self.wanted.fill(None);
        self.wanted[..wanted.len()].copy_from_slice(wanted);
    }

    /// Does `job` with each function.
    pub fn work(&mut self, job: Job) {
        match job {
            Job::Reset(seed) => self.cells.iter_mut().for_each(|cell| cell.reset(seed)),
            Job::Step => self.cells.iter_mut().zip(&self.wanted).for_each(|(cell, wanted)| cell.step(*wanted)),
        }
    }
}

/// Other threads that help.
#[derive(Debug)]
pub(super) struct Crew {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    board: Mutex<Board>,
    /// There is something to do.
    begun: Condvar,
    /// Everything is done.
    done: Condvar,
}

#[derive(Debug)]
struct Board {
    job: Job,
    to_do: Vec<Batch>,
    done: Vec<Batch>,
    /// Batches that someone works on.
    in_hand: usize,
    /// Someone panicked.
    failed: bool,
    over: bool,
}

impl Crew {
    /// So many threads beside the one that asks, for so many batches.
    pub fn new(threads: usize, batches: usize) -> Self {
        let (to_do, done) = (Vec::with_capacity(batches), Vec::with_capacity(batches));
        let board = Board { job: Job::Step, to_do, done, in_hand: 0, failed: false, over: false };
        let shared = Arc::new(Shared { board: Mutex::new(board), begun: Condvar::new(), done: Condvar::new() });
        let threads = (0..threads).map(|_| Arc::clone(&shared)).map(|shared| std::thread::spawn(move || shared.help())).collect();
        Self { shared, threads }
    }

    /// Does `job` with every batch, with this thread's help; they come back in their order.
    ///
    /// # Panics
    /// Where one of them does.
    pub fn work(&mut self, batches: &mut Vec<Batch>, job: Job) {
        let mut board = self.shared.board();
        board.job = job;
        // Taken from the end.
        board.to_do.extend(batches.drain(..).rev());
        self.shared.begun.notify_all();
        let mut board = self.shared.take_part(board);
        while board.in_hand > 0 {
            board = self.shared.done.wait(board).unwrap_or_else(PoisonError::into_inner);
        }
        assert!(!board.failed, "a thread of the environment panicked");
        batches.append(&mut board.done);
        drop(board);
        batches.sort_unstable_by_key(|batch| batch.number);
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.board().over = true;
        self.shared.begun.notify_all();
        for thread in self.threads.drain(..) {
            // One that panicked was told of when it did.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works until there is nothing left to do.
    fn take_part<'a>(&'a self, board: MutexGuard<'a, Board>) -> MutexGuard<'a, Board> {
        let mut board = board;
        while let Some(mut batch) = board.to_do.pop() {
            let job = board.job;
            board.in_hand += 1;
            drop(board);
            let worked = catch_unwind(AssertUnwindSafe(|| batch.work(job)));
            board = self.board();
            board.in_hand -= 1;
            board.failed |= worked.is_err();
            board.done.push(batch);
        }
        board
    }

    /// Works whenever there is something to do, until all is over.
    fn help(&self) {
        let mut board = self.board();
        while !board.over {
            board = self.take_part(board);
            if board.in_hand == 0 {
                self.done.notify_all();
            }
            if !board.over {
                board = self.begun.wait(board).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}
