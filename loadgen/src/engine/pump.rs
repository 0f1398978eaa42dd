//! Polling of a connection from its task and from the pacing thread.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::stamped::LastWrite;

/// Polls a connection's future from two sides: from its task, when the socket is ready, and from the pacing thread, to
/// write immediately instead of after the tasks that already wait.
pub struct Pump {
    driver: RefCell<Pin<Box<dyn Future<Output = ()>>>>,
    waker: RefCell<Waker>,
    done: Cell<bool>,
    written: LastWrite,
}

impl Pump {
    /// Starts polling `driver`, which writes to the socket observed by `written`.
    pub fn start(driver: impl Future<Output = ()> + 'static, written: LastWrite) -> Rc<Self> {
        let driver: Pin<Box<dyn Future<Output = ()>>> = Box::pin(driver);
        let (driver, waker) = (RefCell::new(driver), RefCell::new(Waker::noop().clone()));
        let pump = Rc::new(Self { driver, waker, done: Cell::new(false), written });
        let driven = Rc::clone(&pump);
        tokio::task::spawn_local(std::future::poll_fn(move |context| driven.poll(context)));
        pump
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waker.borrow_mut().clone_from(context.waker());
        self.drive(context)
    }

    /// Polls on behalf of the task, with the task's waker. Returns the time of the write, if any.
    pub fn push(&self) -> Option<Instant> {
        self.written.take();
        let waker = self.waker.borrow().clone();
        if self.drive(&mut Context::from_waker(&waker)).is_ready() {
            waker.wake();
        }
        self.written.take()
    }

    fn drive(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.done.get() {
            return Poll::Ready(());
        }
        let Ok(mut driver) = self.driver.try_borrow_mut() else { return Poll::Pending };
        let polled = driver.as_mut().poll(context);
        self.done.set(polled.is_ready());
        polled
    }

    pub fn is_done(&self) -> bool {
        self.done.get()
    }
}
