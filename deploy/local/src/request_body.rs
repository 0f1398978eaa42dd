//! Request bodies on their way to a replica. Owns the beginning of a body that is kept for another attempt.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// Bytes of a body kept for another attempt. Most unary gRPC messages are far smaller.
const KEPT_BYTES: usize = 64 << 10;

/// A request body that can be sent again while at most 64 KiB of it were read.
#[derive(Debug, Clone)]
pub struct ReplayableBody(Arc<Mutex<Recording>>);

#[derive(Debug)]
struct Recording {
    rest: Incoming,
    /// Frames read from `rest`, while they are small enough.
    kept: Vec<KeptFrame>,
    bytes: usize,
    overflown: bool,
    ended: bool,
    /// The client aborted it, or it is malformed.
    broken: bool,
}

#[derive(Debug, Clone)]
enum KeptFrame {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// Body of one attempt.
#[derive(Debug)]
pub struct RequestBody {
    recording: Arc<Mutex<Recording>>,
    /// Kept frames already sent in this attempt.
    sent: usize,
    empty: bool,
}

impl ReplayableBody {
    /// Wraps an unread `body`.
    #[must_use]
    pub fn new(body: Incoming) -> Self {
        let ended = body.is_end_stream();
        Self(Arc::new(Mutex::new(Recording { rest: body, kept: Vec::new(), bytes: 0, overflown: false, ended, broken: false })))
    }

    /// Body for an attempt, from the beginning.
    #[must_use]
    pub fn body(&self) -> RequestBody {
        let recording = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let empty = recording.ended && recording.kept.is_empty();
        RequestBody { recording: Arc::clone(&self.0), sent: 0, empty }
    }

    /// Whether the beginning is still kept.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.0.lock().unwrap_or_else(PoisonError::into_inner).overflown
    }

    /// Whether the client aborted the body or sent it malformed.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).broken
    }
}

impl Recording {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let kept = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => KeptFrame::Data(data.clone()),
            (None, Some(trailers)) => KeptFrame::Trailers(trailers.clone()),
            (None, None) => return,
        };
        self.bytes += frame.data_ref().map_or(0, Bytes::len);
        if self.bytes > KEPT_BYTES {
            self.overflown = true;
            self.kept = Vec::new();
        }
        if !self.overflown {
            self.kept.push(kept);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let body = self.get_mut();
        let mut recording = body.recording.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = recording.kept.get(body.sent) {
            body.sent += 1;
            return Poll::Ready(Some(Ok(match kept {
                KeptFrame::Data(data) => Frame::data(data.clone()),
                KeptFrame::Trailers(trailers) => Frame::trailers(trailers.clone()),
            })));
        }
        if recording.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut recording.rest).poll_frame(context));
        recording.ended = frame.is_none() || recording.rest.is_end_stream();
        match &frame {
            Some(Ok(frame)) => {
                recording.keep(frame);
                body.sent = recording.kept.len();
            }
            Some(Err(_)) => recording.broken = true,
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        self.empty || (recording.ended && self.sent >= recording.kept.len())
    }

    fn size_hint(&self) -> SizeHint {
        if self.empty {
            return SizeHint::with_exact(0);
        }
        let recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        if recording.kept.is_empty() && !recording.ended { recording.rest.size_hint() } else { SizeHint::default() }
    }
}
