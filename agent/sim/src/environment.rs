//! Many functions under control at once, for training and evaluation. Owns their order and the threads; functions know nothing of each other, so the
//! result is the same on any number of threads.

use std::num::NonZeroUsize;

use qscale_common::units::Allocation;

use crate::cell::{Cell, Setup};

/// A world of functions.
#[derive(Debug, Clone)]
pub struct Environment {
    cells: Vec<Cell>,
    threads: NonZeroUsize,
}

impl Environment {
    /// The functions of `setups` in a run of `seed`, on so many threads.
    #[must_use]
    pub fn new(setups: impl IntoIterator<Item = Setup>, seed: u64, threads: NonZeroUsize) -> Self {
        let cells = setups.into_iter().zip(0..).map(|(setup, index)| Cell::new(setup, seed, index)).collect();
        Self { cells, threads }
    }

    /// Begins anew, as a run of `seed`.
    pub fn reset(&mut self, seed: u64) {
        self.each(|_, cell| cell.reset(seed));
    }

    /// Lives through one tick, with what is wanted for each function; a function for which nothing is wanted keeps what it has.
    pub fn step(&mut self, wanted: &[Option<Allocation>]) {
        self.each(|index, cell| cell.step(wanted.get(index).copied().flatten()));
    }

    /// Does something with every function, on all threads; each is told its number.
    pub fn each(&mut self, act: impl Fn(usize, &mut Cell) + Sync) {
        let chunk = self.cells.len().div_ceil(self.threads.get()).max(1);
        let act = &act;
        let run = move |first: usize, cells: &mut [Cell]| cells.iter_mut().zip(first..).for_each(|(cell, index)| act(index, cell));
        if self.threads.get() == 1 {
            return run(0, &mut self.cells);
        }
        std::thread::scope(|scope| {
            for (number, cells) in self.cells.chunks_mut(chunk).enumerate() {
                scope.spawn(move || run(number * chunk, cells));
            }
        });
    }

    /// The functions.
    #[must_use]
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// The functions, to be acted on one by one.
    pub fn cells_mut(&mut self) -> &mut [Cell] {
        &mut self.cells
    }
}
