//! Loopback addresses of the services of a system. Owns which ports a system uses.
//!
//! The services bind their ports seconds after these were chosen. Ports that the kernel gives to any program meanwhile would be taken by then, so that a
//! service could never start.

use std::net::{SocketAddr, TcpListener};
use std::ops::Range;

use anyhow::Context;
use qscale_common::runtime::lock::{self, FileLock};
use qscale_common::runtime::private;

/// Ports of systems that do not have the usual ones: below those that Linux gives to connections, and below those of replicas.
const FIRST: u16 = 12_000;
const BLOCKS: u16 = 120;
const BLOCK_SIZE: u16 = 64;

/// The ports of one system. No other system of this user chooses them until they are dropped.
pub struct SystemPorts {
    /// Held by the one system that has the usual ports.
    usual: Option<FileLock>,
    /// Where the usual port is not available.
    block: Option<Block>,
}

/// A range of ports of one system, with those that are left.
struct Block {
    ports: Range<u16>,
    _lock: FileLock,
}

impl SystemPorts {
    /// Claims the usual ports if no other system has them.
    pub fn claim() -> Self {
        Self { usual: claim("usual-ports.lock"), block: None }
    }

    /// A free address: with the port `usual` if this system has the usual ports, or with another one.
    ///
    /// # Errors
    /// When no port is free.
    pub fn address(&mut self, usual: u16) -> anyhow::Result<SocketAddr> {
        if let Some(address) = self.usual.as_ref().and_then(|_| free(usual)) {
            return Ok(address);
        }
        if self.block.is_none() {
            self.block = (0..BLOCKS).find_map(Block::claim);
        }
        let own = self.block.as_mut().and_then(|block| block.ports.by_ref().find_map(free));
        own.or_else(|| free(0)).context("no free port on 127.0.0.1")
    }
}

impl Block {
    fn claim(number: u16) -> Option<Self> {
        let first = FIRST + number * BLOCK_SIZE;
        let lock = claim(&format!("ports-{first}.lock"))?;
        Some(Self { ports: first..first + BLOCK_SIZE, _lock: lock })
    }
}

fn claim(name: &str) -> Option<FileLock> {
    let folder = private::folder(&private::runtime_folder()).ok()?;
    lock::take(&folder.join(name)).ok()
}

fn free(port: u16) -> Option<SocketAddr> {
    TcpListener::bind(("127.0.0.1", port)).and_then(|listener| listener.local_addr()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_have_different_ports_and_a_bound_one_is_not_chosen() {
        let mut systems: Vec<_> = (0..8).map(|_| SystemPorts::claim()).collect();
        let mut chosen = std::collections::BTreeSet::new();
        for port in [4222, 8701, 8711, 8713] {
            for system in &mut systems {
                assert!(chosen.insert(system.address(port).expect("free")), "{chosen:?}");
            }
        }
        let next = chosen.last().expect("some").port() + 1;
        let _bound = TcpListener::bind(("127.0.0.1", next));
        assert!(systems.iter_mut().all(|system| system.address(4222).expect("free").port() != next));
    }

    #[test]
    fn more_addresses_than_a_block_has_are_free() {
        let mut ports = SystemPorts { usual: None, block: None };
        for _ in 0..2 * BLOCK_SIZE {
            assert_ne!(ports.address(0).expect("free").port(), 0);
        }
    }
}
