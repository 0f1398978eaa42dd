//! Messages on their way into a stream, sent until they are acknowledged: the model of `Bus::record`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::context::Context;
use crate::protocol::{Millis, Payload, Request, Timer};

/// Timeout of one acknowledgement.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(5);
/// Time after which a message counts as lost, milliseconds.
const RECORD_FOR: Millis = 60_000;
/// First and longest delay before a message is sent again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Messages without acknowledgement.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    waiting: BTreeMap<u64, Waiting>,
    next: u64,
}

#[derive(Debug)]
struct Waiting {
    payload: Payload,
    since: Millis,
    pause: Duration,
}

impl Recorder {
    /// Sends `payload` until it is acknowledged.
    pub(crate) fn record(&mut self, payload: Payload, cx: &mut Context<'_>) {
        self.next += 1;
        let waiting = Waiting { payload, since: cx.now, pause: RETRY.0 };
        self.waiting.insert(self.next, waiting);
        self.send(self.next, cx);
    }

    fn send(&mut self, number: u64, cx: &mut Context<'_>) {
        let Some(waiting) = self.waiting.get(&number) else { return };
        cx.send(Request::Record(number, waiting.payload.clone()));
        cx.after(ACKNOWLEDGE_WITHIN, Timer::RecordTimeout(number));
    }

    /// The stream has message `number`.
    pub(crate) fn on_recorded(&mut self, number: u64, cx: &mut Context<'_>) {
        if let Some(waiting) = self.waiting.remove(&number) {
            cx.checks.on_acknowledged(&waiting.payload);
        }
    }

    /// Processes a timer of message `number`.
    pub(crate) fn on_timer(&mut self, timer: &Timer, cx: &mut Context<'_>) {
        match *timer {
            Timer::RecordTimeout(number) => {
                let Some(waiting) = self.waiting.get_mut(&number) else { return };
                if cx.now - waiting.since > RECORD_FOR {
                    self.waiting.remove(&number);
                    return;
                }
                cx.after(waiting.pause, Timer::RecordAgain(number));
                waiting.pause = (waiting.pause * 2).min(RETRY.1);
            }
            Timer::RecordAgain(number) => self.send(number, cx),
            _ => {}
        }
    }
}
