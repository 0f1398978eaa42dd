//! Many functions under control at once, for training and evaluation. Owns their order; functions know nothing of each other, so the result is the same
//! on any number of threads.

use std::num::NonZeroUsize;

use qscale_common::units::Allocation;

use crate::cell::{Cell, Setup};

mod crew;

use crew::{Batch, Crew, Job};

/// Batches for each thread: functions differ in what they cost, so that one who is done takes what another has not begun.
const BATCHES_A_THREAD: usize = 4;

/// A world of functions.
#[derive(Debug)]
pub struct Environment {
    /// The functions in order, as many in each batch but the last.
    batches: Vec<Batch>,
    a_batch: usize,
    functions: usize,
    /// The other threads; `None` where there is only this one.
    crew: Option<Crew>,
}

impl Environment {
    /// The functions of `setups` in a run of `seed`, on so many threads, this one included.
    #[must_use]
    pub fn new(setups: impl IntoIterator<Item = Setup>, seed: u64, threads: NonZeroUsize) -> Self {
        let mut cells: Vec<Cell> = setups.into_iter().zip(0..).map(|(setup, index)| Cell::new(setup, seed, index)).collect();
        let functions = cells.len();
        let threads = threads.get().min(functions.max(1));
        let wanted_batches = if threads == 1 { 1 } else { threads * BATCHES_A_THREAD };
        let a_batch = functions.div_ceil(wanted_batches).max(1);
        let mut batches = Vec::new();
        while !cells.is_empty() {
            let rest = cells.split_off(a_batch.min(cells.len()));
            batches.push(Batch::new(batches.len(), std::mem::replace(&mut cells, rest)));
        }
        let crew = (threads > 1).then(|| Crew::new(threads - 1, batches.len()));
        Self { batches, a_batch, functions, crew }
    }

    /// Begins anew, as a run of `seed`.
    pub fn reset(&mut self, seed: u64) {
        self.all(Job::Reset(seed));
    }

    /// Lives through one tick, with what is wanted for each function; a function for which nothing is wanted keeps what it has.
    pub fn step(&mut self, wanted: &[Option<Allocation>]) {
        for (number, batch) in self.batches.iter_mut().enumerate() {
            let first = (number * self.a_batch).min(wanted.len());
            let end = (first + self.a_batch).min(wanted.len());
            batch.want(&wanted[first..end]);
        }
        self.all(Job::Step);
    }

    fn all(&mut self, job: Job) {
        match &mut self.crew {
            None => self.batches.iter_mut().for_each(|batch| batch.work(job)),
            Some(crew) => crew.work(&mut self.batches, job),
        }
    }

    /// The functions, in order.
    pub fn cells(&self) -> impl ExactSizeIterator<Item = &Cell> {
        (0..self.functions).map(|index| self.cell(index))
    }

    /// Function number `index`.
    ///
    /// # Panics
    /// Where there are not so many.
    #[must_use]
    pub fn cell(&self, index: usize) -> &Cell {
        &self.batches[index / self.a_batch].cells[index % self.a_batch]
    }

    /// The functions in order, to be acted on one by one.
    pub fn cells_mut(&mut self) -> impl Iterator<Item = &mut Cell> {
        self.batches.iter_mut().flat_map(|batch| batch.cells.iter_mut())
    }
}
