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
pub struct ReplayableBody(Arc<Mutex<RecordedBody>>);

#[derive(Debug)]
struct RecordedBody {
    rest: Incoming,
    kept: KeptBody,
    ended: bool,
    /// The client aborted it, or it is malformed.
    broken: bool,
}

/// Beginning of a body.
#[derive(Debug, Default)]
struct KeptBody {
    /// Copied: a frame of one byte would keep all that was read with it.
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// Nothing is kept, because there is more than [`KEPT_BYTES`].
    overflown: bool,
}

/// Part of a [`KeptBody`] that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct SentPart {
    bytes: usize,
    trailers: bool,
}

/// Body of one attempt.
#[derive(Debug)]
pub struct RequestBody {
    recording: Arc<Mutex<RecordedBody>>,
    /// Kept part already sent in this attempt.
    sent: SentPart,
    empty: bool,
}

impl ReplayableBody {
    /// Wraps an unread `body`.
    #[must_use]
    pub fn new(body: Incoming) -> Self {
        let ended = body.is_end_stream();
        Self(Arc::new(Mutex::new(RecordedBody { rest: body, kept: KeptBody::default(), ended, broken: false })))
    }

    /// Body for an attempt, from the beginning.
    #[must_use]
    pub fn body(&self) -> RequestBody {
        let recording = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let empty = recording.ended && recording.kept.is_empty();
        RequestBody { recording: Arc::clone(&self.0), sent: SentPart::default(), empty }
    }

    /// Whether the beginning is still kept.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.0.lock().unwrap_or_else(PoisonError::into_inner).kept.overflown
    }

    /// Whether the client aborted the body or sent it malformed.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).broken
    }
}

impl KeptBody {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let data = frame.data_ref().map_or(&[][..], |data| data);
        if self.overflown || self.data.len() + data.len() > KEPT_BYTES {
            *self = Self { overflown: true, ..Self::default() };
            return;
        }
        self.data.extend_from_slice(data);
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
    }

    fn is_empty(&self) -> bool {
        self.all() == SentPart::default()
    }

    fn all(&self) -> SentPart {
        SentPart { bytes: self.data.len(), trailers: self.trailers.is_some() }
    }

    /// The frame after `sent`, which then includes it; `None` at the end.
    fn next(&self, sent: &mut SentPart) -> Option<Frame<Bytes>> {
        let data = self.data.get(sent.bytes..).filter(|data| !data.is_empty());
        if let Some(data) = data {
            sent.bytes = self.data.len();
            return Some(Frame::data(Bytes::copy_from_slice(data)));
        }
        let trailers = self.trailers.as_ref().filter(|_| !sent.trailers)?;
        sent.trailers = true;
        Some(Frame::trailers(trailers.clone()))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let body = self.get_mut();
        let mut recording = body.recording.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(frame) = recording.kept.next(&mut body.sent) {
            return Poll::Ready(Some(Ok(frame)));
        }
        if recording.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut recording.rest).poll_frame(context));
        recording.ended = frame.is_none() || recording.rest.is_end_stream();
        match &frame {
            Some(Ok(frame)) => {
                recording.kept.keep(frame);
                body.sent = recording.kept.all();
            }
            Some(Err(_)) => recording.broken = true,
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        self.empty || (recording.ended && self.sent == recording.kept.all())
    }

    fn size_hint(&self) -> SizeHint {
        if self.empty {
            return SizeHint::with_exact(0);
        }
        let recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        if recording.kept.is_empty() && !recording.ended { recording.rest.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_frame_does_not_keep_what_was_read_with_it() {
        let (read, mut kept) = (Bytes::from(vec![7; 512]), KeptBody::default());
        for index in 0..read.len() {
            kept.keep(&Frame::data(read.slice(index..=index)));
        }
        assert_eq!((kept.data.as_slice(), read.is_unique()), (&[7; 512][..], true));
    }

    #[test]
    fn a_kept_body_is_sent_again_from_its_beginning() {
        let mut kept = KeptBody::default();
        assert!(kept.is_empty());
        for data in ["ab", "", "c"] {
            kept.keep(&Frame::data(Bytes::from(data)));
        }
        kept.keep(&Frame::trailers(HeaderMap::new()));
        for _attempt in 0..2 {
            let mut sent = SentPart::default();
            let data = kept.next(&mut sent).and_then(|frame| frame.into_data().ok());
            assert_eq!(data.as_deref(), Some(&b"abc"[..]));
            assert!(kept.next(&mut sent).is_some_and(|frame| frame.is_trailers()));
            assert!(kept.next(&mut sent).is_none() && sent == kept.all());
        }
        kept.keep(&Frame::data(Bytes::from(vec![0; KEPT_BYTES])));
        assert!(kept.overflown && kept.is_empty());
    }
}
