//! The bytes of an input as a random number generator, so that a fuzzer steers the same generators of structured values that property tests use.

use std::convert::Infallible;

use rand::{RngExt as _, TryRng};

/// The bytes of an input in order, then zeros.
#[derive(Debug)]
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of `data`.
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether all bytes were used.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A number from any part of the range of its type, the ends included.
    pub(crate) fn any_u64(&mut self) -> u64 {
        let number = self.random::<u64>();
        number >> self.random_range(0..64)
    }

    /// As [`Input::any_u64`].
    pub(crate) fn any_u32(&mut self) -> u32 {
        let number = self.random::<u32>();
        number >> self.random_range(0..32)
    }

    /// A value in four of five cases.
    pub(crate) fn maybe<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.random_range(0..5) != 0).then(|| value(self))
    }

    /// One of `values`.
    pub(crate) fn choose<T: Copy, const N: usize>(&mut self, values: [T; N]) -> T {
        values[self.random_range(0..N)]
    }
}

impl TryRng for Input<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, wanted: &mut [u8]) -> Result<(), Infallible> {
        let (taken, rest) = self.0.split_at(wanted.len().min(self.0.len()));
        wanted.fill(0);
        wanted[..taken.len()].copy_from_slice(taken);
        self.0 = rest;
        Ok(())
    }
}
