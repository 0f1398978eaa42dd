//! An HTTP/1.1 connection: one request at a time, with control over when it is written.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;

use super::exchange::{Body, Pending, RawReply, RequestTemplate};
use super::pump::Pump;
use super::stamped::{LastWrite, Stamped};
use crate::record::RequestStatus;

pub struct Http1 {
    requests: RefCell<SendRequest<Full<Bytes>>>,
    taken: Cell<bool>,
    pub pump: Rc<Pump>,
}

impl Http1 {
    pub async fn open(stream: Stamped, written: LastWrite) -> Result<Rc<Self>, RequestStatus> {
        let (mut requests, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| RequestStatus::Broken)?;
        let driver = async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        };
        let pump = Pump::start(driver, written);
        requests.ready().await.map_err(|_| RequestStatus::Broken)?;
        Ok(Rc::new(Self { requests: RefCell::new(requests), taken: Cell::new(false), pump }))
    }

    pub fn has_room(&self) -> bool {
        !self.taken.get() && self.requests.borrow().is_ready()
    }

    pub fn begin(connection: &Rc<Self>, template: &RequestTemplate, body: Bytes) -> Option<Pending> {
        if !connection.has_room() {
            return None;
        }
        connection.taken.set(true);
        let (parts, ()) = template.request.clone().into_parts();
        let response = connection.requests.borrow_mut().send_request(http::Request::from_parts(parts, Full::new(body)));
        Some(Box::pin(async move {
            let response = response.await.map_err(|error| broken(&error))?;
            let (parts, mut incoming) = response.into_parts();
            let mut body = Body::default();
            while let Some(frame) = incoming.frame().await {
                if let Ok(chunk) = frame.map_err(|error| broken(&error))?.into_data() {
                    body.push(chunk)?;
                }
            }
            let status = if parts.status.is_success() { RequestStatus::Ok } else { RequestStatus::Http(parts.status.as_u16()) };
            Ok(RawReply { status, body: body.finish() })
        }))
    }

    /// Waits until the connection can take another request. One whose reply was abandoned stays taken and closes.
    pub async fn released(&self) {
        let ready = std::future::poll_fn(|context| self.requests.borrow_mut().poll_ready(context)).await;
        self.taken.set(ready.is_err());
    }
}

fn broken(error: &hyper::Error) -> RequestStatus {
    tracing::debug!(%error, "request broke");
    if error.is_parse() { RequestStatus::Malformed } else { RequestStatus::Broken }
}
