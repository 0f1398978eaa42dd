//! Functions without a scaler: a request that finds no replica with room starts one for itself, and an idle replica is
//! removed after a keep-alive, as in clouds and in the keep-alive literature (Shahrad et al., USENIX ATC 2020). Owns
//! these two rules.

use super::Function;
use crate::nanos::Nanos;
use crate::replica::{Phase, Request};

impl Function {
    /// Lets requests start missing replicas, each kept for `keep_alive` after its last request; only before the
    /// function has replicas. Nothing queues at the gateway or is refused then. A request whose start outlasts the
    /// gateway's timeout counts as timed out when the start is done.
    #[must_use]
    pub fn on_demand(mut self, keep_alive: Nanos) -> Self {
        self.keep_alive = Some(keep_alive.min(Nanos::LONGEST));
        self
    }

    /// Starts a replica for `request`.
    pub(super) fn start_for(&mut self, request: Request, now: Nanos) {
        self.allocation.replicas.0 += 1;
        let slot = self.add(now);
        if let Some(replica) = &mut self.slots[slot] {
            replica.first = Some(request);
        }
        if self.place(slot, now) {
            self.waiting_for_room -= 1;
            self.totals.starts += 1;
            self.begin(slot, now);
        }
    }

    /// Dispatches the request that started the replica of `slot`, which is ready now.
    pub(super) fn give_first(&mut self, slot: usize, now: Nanos) {
        let Some(request) = self.slots[slot].as_mut().and_then(|replica| replica.first.take()) else { return };
        if request.arrived + self.timeout <= now {
            self.totals.timed_out += 1;
            self.failed_at_gateway += 1;
            return;
        }
        self.give(slot, request, now);
    }

    /// Extends the keep-alive of the replica of `slot` to `until`, if it is idle.
    #[inline]
    pub(super) fn keep(&mut self, slot: usize, until: Nanos) {
        if let Some(replica) = &mut self.slots[slot] {
            replica.kept_until = if replica.phase == Phase::Ready && replica.load == 0 { until } else { Nanos::NEVER };
        }
    }

    /// Removes the replica of `slot`, which was idle for the keep-alive.
    pub(super) fn remove_idle(&mut self, slot: usize, now: Nanos) {
        self.allocation.replicas.0 -= 1;
        self.remove(slot, now);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qscale_common::time::Span;

    use super::*;
    use crate::distribution::Distribution;
    use crate::profile::{FunctionProfile, Gateway, RequestDemand, Startup};

    /// Requests of 2 s at the given seconds; starts take 1 s, the keep-alive is 10 s.
    #[track_caller]
    fn check(arrivals: &[u64], starts: u64, left: u32, latency_s: u64) {
        let startup = Startup { cpu: Distribution::ZERO, waiting: Distribution::constant(Nanos::millis(1000)) };
        let profile = FunctionProfile { startup, ..FunctionProfile::simple("f", Distribution::ZERO) };
        let gateway = Gateway { concurrency: 1, queue: 0, timeout: Span::seconds(60) };
        let mut function = Function::new(Arc::new(profile), gateway, 1, 0).on_demand(Nanos::millis(10_000));
        for second in arrivals {
            function.arrive_with(Nanos::millis(second * 1000), RequestDemand { cpu: Nanos::millis(2000), waiting: Nanos::ZERO });
        }
        let totals = function.totals(Nanos::millis(30_000));
        assert_eq!((totals.starts, totals.completed, totals.refused), (starts, arrivals.len() as u64, 0));
        assert_eq!((totals.cold, totals.prewarmed), (starts, 0));
        assert_eq!(totals.latency_sum, Nanos::millis(latency_s * 1000));
        assert_eq!((function.allocation().replicas.0, function.replicas().count()), (left, left as usize));
    }

    #[test]
    fn a_request_that_finds_no_replica_idle_starts_one_and_waits_for_it() {
        check(&[5], 1, 0, 3);
        check(&[5, 6, 7], 3, 0, 9);
        // The second request finds the first replica idle, the third does not.
        check(&[5, 8, 9], 2, 0, 3 + 2 + 3);
    }

    #[test]
    fn an_idle_replica_is_removed_after_its_keep_alive() {
        check(&[0, 12], 1, 0, 5);
        check(&[0, 14], 2, 0, 6);
        check(&[5, 17], 1, 0, 5);
        check(&[21], 1, 1, 3);
    }
}
