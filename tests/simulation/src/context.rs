//! State and means of a simulated process while it handles an input.

use std::time::Duration;

use qscale_common::time::Timestamp;
use rand::rngs::SmallRng;

use crate::checks::Checks;
use crate::protocol::{Millis, ProcessId, ProcessOutput, Request, Timer};

/// State and means of a process while it handles an input.
pub(crate) struct Context<'a> {
    /// The process.
    pub(crate) process: ProcessId,
    /// Time since the start of the simulation, which no process knows; for checks.
    pub(crate) now: Millis,
    /// Time of day of the process, which may be wrong.
    pub(crate) wall: Timestamp,
    /// Time since the start of the process.
    pub(crate) uptime: Duration,
    /// Whether it believes that it is connected to the nats-server.
    pub(crate) connected: bool,
    /// Randomness.
    pub(crate) rng: &'a mut SmallRng,
    /// Its orders.
    pub(crate) out: &'a mut Vec<ProcessOutput>,
    /// The checks, which record its actions.
    pub(crate) checks: &'a mut Checks,
}

impl Context<'_> {
    /// Sends to the nats-server.
    pub(crate) fn send(&mut self, request: Request) {
        self.out.push(ProcessOutput::ToServer(request));
    }

    /// Sets a timer.
    pub(crate) fn after(&mut self, delay: Duration, timer: Timer) {
        self.out.push(ProcessOutput::After(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), timer));
    }
}

/// Time of day at the start of the simulation: 2025-10-09.
pub(crate) const START: Timestamp = Timestamp(1_760_000_000_000);
