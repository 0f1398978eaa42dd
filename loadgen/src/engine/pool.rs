//! Connections of one pacing thread to one address. Owns the choice of a connection for a request and the opening of further ones.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared};

use super::connection::Connection;
use crate::record::RequestStatus;

pub struct ConnectionPool {
    address: SocketAddr,
    grpc: bool,
    open: Rc<RefCell<Vec<Connection>>>,
    next: Cell<usize>,
    opening: RefCell<Option<Opening>>,
}

/// A connection being opened, shared by all requests that find no other one.
struct Opening {
    connection: Shared<LocalBoxFuture<'static, Result<Connection, RequestStatus>>>,
    waiting: usize,
}

/// Requests that may wait for one connection: the minimum number of streams recommended for servers (RFC 9113, 6.5.2).
const WAITING: usize = 100;

impl ConnectionPool {
    pub fn new(address: SocketAddr, grpc: bool) -> Self {
        Self { address, grpc, open: Rc::default(), next: Cell::new(0), opening: RefCell::default() }
    }

    pub async fn open_ahead(&self, count: u32) {
        let opening = (0..count).map(|_| Connection::open(self.address, self.grpc));
        for connection in futures::future::join_all(opening).await.into_iter().flatten() {
            self.open.borrow_mut().push(connection);
        }
    }

    /// A connection with room, round robin.
    pub fn take(&self) -> Option<Connection> {
        let mut open = self.open.borrow_mut();
        for _ in 0..open.len() {
            let index = self.next.get() % open.len();
            if open[index].is_closed() {
                open.swap_remove(index);
                if open.is_empty() {
                    break;
                }
                continue;
            }
            self.next.set(index + 1);
            if open[index].has_room() {
                return Some(open[index].clone());
            }
        }
        None
    }

    /// Opens a connection that is not shared.
    pub async fn open(&self) -> Result<Connection, RequestStatus> {
        Connection::open(self.address, self.grpc).await
    }

    /// Opens a connection that is kept. Requests that wait at the same time share it, if the protocol allows.
    pub async fn open_shared(&self) -> Result<Connection, RequestStatus> {
        if !self.grpc {
            let connection = self.open().await?;
            self.open.borrow_mut().push(connection.clone());
            return Ok(connection);
        }
        self.join_opening().await
    }

    fn join_opening(&self) -> Shared<LocalBoxFuture<'static, Result<Connection, RequestStatus>>> {
        let mut opening = self.opening.borrow_mut();
        if let Some(current) = opening.as_mut()
            && current.waiting < WAITING
            && current.connection.peek().is_none()
        {
            current.waiting += 1;
            return current.connection.clone();
        }
        let (address, grpc, open) = (self.address, self.grpc, Rc::clone(&self.open));
        let connection = async move {
            let connection = Connection::open(address, grpc).await?;
            open.borrow_mut().push(connection.clone());
            Ok(connection)
        };
        let connection = connection.boxed_local().shared();
        *opening = Some(Opening { connection: connection.clone(), waiting: 1 });
        connection
    }
}
