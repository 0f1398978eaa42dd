//! Loopback ports of replicas. Owns the set of taken ports; asks the kernel whether another program uses one.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

/// Range of ports for replicas.
#[derive(Debug)]
pub struct Ports {
    first: u16,
    last: u16,
    state: Mutex<TakenPorts>,
}

#[derive(Debug)]
struct TakenPorts {
    next: u16,
    taken: BTreeSet<u16>,
}

/// A port reserved for one replica until dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    ports: Arc<Ports>,
}

impl Ports {
    /// Ports `first` to `last`, inclusive. `seed` chooses the first one to try, so that two platforms on a machine seldom collide.
    #[must_use]
    pub fn new(first: u16, last: u16, seed: u32) -> Arc<Self> {
        let span = u32::from(last.saturating_sub(first)) + 1;
        let next = first + u16::try_from(seed.wrapping_mul(97) % span).unwrap_or(0);
        Arc::new(Self { first, last, state: Mutex::new(TakenPorts { next, taken: BTreeSet::new() }) })
    }

    /// Reserves a free port; `None` if all are taken. Ports are tried in sequence, so that a released one is reused late.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Option<Port> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in self.first..=self.last {
            let number = state.next;
            state.next = if number == self.last { self.first } else { number + 1 };
            if !state.taken.contains(&number) && is_free(number) {
                state.taken.insert(number);
                return Some(Port { number, ports: Arc::clone(self) });
            }
        }
        None
    }
}

impl Port {
    /// Port number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.ports.state.lock().unwrap_or_else(PoisonError::into_inner).taken.remove(&self.number);
    }
}

/// Whether all IPv4 and all IPv6 addresses can be bound on `port`: functions may bind any of them.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
        && match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)) {
            Ok(_) => true,
            Err(error) => error.raw_os_error() != Some(libc::EADDRINUSE),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_until_it_comes_back() {
        let ports = Ports::new(19_300, 19_399, 5);
        let taken: Vec<_> = std::iter::from_fn(|| ports.take()).take(100).collect();
        let numbers: BTreeSet<_> = taken.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), taken.len());
        drop(taken);
        assert!(ports.take().is_some());
    }

    #[test]
    fn a_port_of_another_program_is_passed_over() {
        let other = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        assert!(!is_free(other.local_addr().expect("bound").port()));
    }
}
