//! A socket that records its last write. Owns the definition of the send time: just before the write system call.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Time of the last write since it was last taken; empty if there was none.
pub type LastWrite = Rc<Cell<Option<Instant>>>;

pub struct Stamped {
    stream: TcpStream,
    written: LastWrite,
}

impl Stamped {
    pub fn new(stream: TcpStream) -> (Self, LastWrite) {
        let written = LastWrite::default();
        (Self { stream, written: Rc::clone(&written) }, written)
    }

    fn note(&self, before: Instant, polled: &Poll<io::Result<usize>>) {
        if matches!(polled, Poll::Ready(Ok(written)) if *written > 0) {
            self.written.set(Some(before));
        }
    }
}

/// Time before the write. The write itself is not part of the send lag: on loopback it runs the receiver's half of TCP
/// and wakes the server.
#[expect(clippy::disallowed_methods, reason = "the load generator's edge to real time")]
fn timed<T>(write: impl FnOnce() -> T) -> (Instant, T) {
    (Instant::now(), write())
}

impl AsyncRead for Stamped {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stamped {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let stream = &mut this.stream;
        let (before, polled) = timed(|| Pin::new(stream).poll_write(context, bytes));
        this.note(before, &polled);
        polled
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let stream = &mut this.stream;
        let (before, polled) = timed(|| Pin::new(stream).poll_write_vectored(context, bytes));
        this.note(before, &polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
